//! The rules that one file alone can break: sizes, stubs, seams, names, leftovers of a machine.
//!
//! What a compiler sees is judged on tokens, so a string or a comment that speaks of a thing breaks nothing; what only a reader sees
//! (lines, marks in comments, paths) is judged on the text.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::paths::{group, ident, named, punct};
use super::{Finding, Source};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// The one file that touches the file system, and may be unsafe for its maps.
const REAL_DISK: &str = "src/disk/real.rs";
/// The one file that reads the system's time.
const CLOCK: &str = "src/clock.rs";
/// The one file that says which locks and atomics there are, so that the models can have others.
const SYNC: &str = "src/sync.rs";
/// A package of its own, whose peers ask for `unsafe` in their own interface.
const PEERS: &str = "benches/peers/";

/// Names that say nothing about what a module holds.
const EMPTY_NAMES: [&str; 9] =
    ["common", "helper", "helpers", "inner", "manager", "managers", "misc", "util", "utils"];

/// Marks of unfinished work; put together here so that this file does not carry them.
const MARKS: [&str; 2] = [concat!("FIX", "ME"), concat!("XX", "X")];

/// Where machines keep what is theirs: a path that begins so is true on one machine only.
const MACHINE_FOLDERS: [&str; 5] = ["Users", "farm", "home", "root", "work"];

/// Everything in one file that breaks a rule.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut found = machine_paths(&source.text);
    if source.is_rust() {
        found.extend(shape(&source.text));
        found.extend(module_name(&source.file));
        match source.text.parse::<TokenStream>() {
            Ok(tokens) => {
                found.extend(seams(&source.file, &tokens));
                walk(&source.file, tokens, &mut found);
            }
            Err(error) => found.push((error.span().start().line, format!("is no Rust: {error}"))),
        }
    }
    let finding = |(line, what)| Finding { file: source.file.clone(), line, what };
    found.into_iter().map(finding).collect()
}

/// A line, and what is wrong there.
type Found = (usize, String);

/// What the text alone shows: how it opens, how long it is, marks of unfinished work.
fn shape(text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push((
            1,
            "opens without `//!`: say what the file is, what it is not, what it keeps true".into(),
        ));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        found.push((lines, format!("has {lines} lines, over {FILE_LINES_MAX}: split it by noun")));
    }
    for (number, line) in (1..).zip(text.lines()) {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        if words.any(|word| MARKS.contains(&word)) {
            found.push((number, "carries a mark of unfinished work".into()));
        }
    }
    found
}

fn machine_paths(text: &str) -> Vec<Found> {
    let named = |line: &str| {
        MACHINE_FOLDERS.iter().any(|folder| {
            let path = format!("/{folder}/");
            // Behind a letter or a dot it is a part of some other path, or of an address.
            line.match_indices(&path)
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}~".contains(c)))
        })
    };
    let lines = (1..).zip(text.lines()).filter(|(_, line)| named(line));
    lines.map(|(number, _)| (number, "names a path of one machine".into())).collect()
}

fn module_name(file: &str) -> Option<Found> {
    let mut parts = file.trim_end_matches(".rs").split('/');
    let part = parts.find(|part| empty_name(part))?;
    Some((1, format!("`{part}` names no thing: call the module what it holds")))
}

fn empty_name(name: &str) -> bool {
    EMPTY_NAMES.contains(&name) || name.ends_with("_v2") || name.starts_with("common_")
}

/// Paths that only the file behind a seam may name.
fn seams(file: &str, tokens: &TokenStream) -> Vec<Found> {
    if !file.starts_with("src/") {
        return Vec::new();
    }
    let outside = |named: &super::paths::Named| {
        let path: Vec<&str> = named.segments.iter().map(String::as_str).collect();
        let disk = matches!(path[..], ["std" | "tokio" | "rustix", "fs", ..] | ["memmap2", ..]);
        let time = path.contains(&"SystemTime") || path.windows(2).any(|pair| pair == ["Instant", "now"]);
        let lock = matches!(
            path[..],
            ["parking_lot" | "shuttle", ..]
                | ["std", "sync", "atomic" | "Condvar" | "Mutex" | "RwLock", ..]
                | ["std", "thread", "Builder" | "scope" | "spawn", ..]
        );
        // The adapters are no part of the store that the models run.
        let is_modelled =
            !file.starts_with(SYNC.trim_end_matches(".rs")) && !file.starts_with("src/adapters/");
        let what = match () {
            () if lock && is_modelled => {
                format!("is a lock, an atomic or a thread that no model sees: take it from `{SYNC}`")
            }
            () if disk && file != REAL_DISK => format!("touches the file system outside of `{REAL_DISK}`"),
            () if time && file != CLOCK => format!("reads the system's time outside of `{CLOCK}`"),
            () => return None,
        };
        Some((named.line, format!("`{}` {what}", path.join("::"))))
    };
    named(tokens.clone()).iter().filter_map(outside).collect()
}

/// What the tokens show at any depth.
fn walk(file: &str, stream: TokenStream, found: &mut Vec<Found>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let line = token.span().start().line;
        let mut report = |what: String| found.push((line, what));
        match token {
            TokenTree::Ident(word) => match word.to_string().as_str() {
                "unsafe" if file != REAL_DISK && !file.starts_with(PEERS) => {
                    report(format!("`unsafe` outside of `{REAL_DISK}`"));
                }
                "mod" => {
                    let name = ident(&tokens, at + 1).filter(|name| empty_name(name));
                    if let Some(n) = name {
                        report(format!("module `{n}` names no thing"));
                    }
                }
                "fn" => function(&tokens, at).into_iter().for_each(&mut report),
                name => stub(&tokens, at, name).into_iter().for_each(&mut report),
            },
            TokenTree::Group(inside) => {
                let attribute = at > 0 && (punct(&tokens, at - 1, '#') || punct(&tokens, at - 1, '!'));
                if attribute && inside.delimiter() == Delimiter::Bracket && allows(inside.stream()) {
                    report("`allow` hides a lint for ever: use `expect` with a reason".into());
                }
                walk(file, inside.stream(), found);
            }
            _ => {}
        }
    }
}

/// A macro that stands for code which is not there.
fn stub(tokens: &[TokenTree], at: usize, name: &str) -> Option<String> {
    if !punct(tokens, at + 1, '!') {
        return None;
    }
    let silent = group(tokens, at + 2, Delimiter::Parenthesis).is_some_and(|g| g.is_empty());
    match name {
        "todo" | "unimplemented" | "dbg" => Some(format!("`{name}!` is a stub or a leftover")),
        "unreachable" if silent => Some("`unreachable!()` without a reason why".into()),
        _ => None,
    }
}

/// A function that is too long, from its `fn` to its closing brace.
fn function(tokens: &[TokenTree], at: usize) -> Option<String> {
    // A type such as `fn(u8)` has no name.
    let name = ident(tokens, at + 1)?;
    let semicolon = (at..tokens.len()).find(|i| punct(tokens, *i, ';')).unwrap_or(tokens.len());
    let body = (at..semicolon).find(|i| group(tokens, *i, Delimiter::Brace).is_some())?;
    let lines = tokens[body].span().end().line + 1 - tokens[at].span().start().line;
    (lines > FUNCTION_LINES_MAX)
        .then(|| format!("function `{name}` has {lines} lines, over {FUNCTION_LINES_MAX}"))
}

/// Whether an attribute has `allow(..)` in it, under a `cfg_attr` too.
fn allows(attribute: TokenStream) -> bool {
    let tokens: Vec<TokenTree> = attribute.into_iter().collect();
    (0..tokens.len()).any(|at| match group(&tokens, at, Delimiter::Parenthesis) {
        Some(inside) => {
            let name = at.checked_sub(1).and_then(|before| ident(&tokens, before));
            name.as_deref() == Some("allow") || (name.as_deref() == Some("cfg_attr") && allows(inside))
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a file with this name and text, each with its line; the text is given an opening.
    fn found(file: &str, text: &str) -> Vec<String> {
        let source = Source { file: file.into(), text: format!("//! A sample.\n{text}") };
        let rest = |f: &Finding| f.to_string().split_once(':').unwrap().1.to_string();
        check(&source).iter().map(rest).collect()
    }

    #[track_caller]
    fn assert_one(file: &str, text: &str, expected: &str) {
        let found = found(file, text);
        assert!(found.len() == 1 && found[0].contains(expected), "{text:?} gave {found:?}");
    }

    #[test]
    fn clean_file_passes() {
        let text = "// todo!() in words\nfn f() -> &'static str { \"unsafe { std::fs::read() }\" }\n";
        assert_eq!(found("src/index/mod.rs", text), Vec::<String>::new());
    }

    #[test]
    fn stubs_are_found_in_any_depth() {
        for (text, expected) in [
            ("fn f() { todo!() }", "2: `todo!`"),
            ("fn f() { if x { unimplemented!(\"later\") } }", "2: `unimplemented!`"),
            ("\nfn f() { g!(dbg!(x)) }", "3: `dbg!`"),
            ("fn f() { unreachable!() }", "2: `unreachable!()`"),
            (concat!("// FIX", "ME: later"), "2: carries a mark"),
            (concat!("// XX", "X"), "2: carries a mark"),
        ] {
            assert_one("tests/it/a.rs", text, expected);
        }
        assert!(found("src/a.rs", "fn f() { unreachable!(\"the caller checked\") }").is_empty());
    }

    #[test]
    fn file_system_and_maps_are_behind_the_disk() {
        let text = "use std::{io, fs::File};";
        assert_one("src/engine/mod.rs", text, "2: `std::fs::File` touches the file system");
        assert_one("src/log/mod.rs", "fn f() { memmap2::Mmap::map(x) }", "2: `memmap2::Mmap::map`");
        assert!(found(REAL_DISK, text).is_empty());
        assert!(found("tests/it/a.rs", text).is_empty());
    }

    #[test]
    fn system_time_is_behind_the_clock() {
        assert_one("src/engine/mod.rs", "use std::time::{Duration, SystemTime};", "reads the system's time");
        assert_one("src/engine/mod.rs", "fn f() { Instant::now(); }", "`Instant::now` reads");
        assert!(found(CLOCK, "fn f() { SystemTime::now(); }").is_empty());
        assert!(found("benches/store.rs", "fn f() { Instant::now(); }").is_empty());
    }

    #[test]
    fn locks_atomics_and_threads_are_behind_the_seam() {
        assert_one("src/log/mod.rs", "use parking_lot::Mutex;", "2: `parking_lot::Mutex` is a lock");
        assert_one("src/log/mod.rs", "use std::sync::{Arc, atomic::AtomicU32};", "AtomicU32` is a lock");
        assert_one("src/log/mod.rs", "fn f() { std::thread::spawn(g); }", "`std::thread::spawn` is a lock");
        assert!(found(SYNC, "use std::sync::atomic;").is_empty());
        assert!(found("src/a.rs", "fn f() { std::thread::available_parallelism(); }").is_empty());
    }

    #[test]
    fn unsafe_stays_in_the_real_disk() {
        let text = "fn f() { unsafe { g() } }";
        assert_one("src/index/slab.rs", text, "2: `unsafe` outside");
        assert_one("tests/it/a.rs", text, "2: `unsafe` outside");
        assert!(found(REAL_DISK, text).is_empty());
    }

    #[test]
    fn allow_is_found_in_every_form() {
        for text in ["#[allow(x)]\nfn f() {}", "#![allow(x)]", "#[cfg_attr(test, allow(x))]\nfn f() {}"] {
            assert_one("src/a.rs", text, "2: `allow` hides");
        }
        assert!(found("src/a.rs", "#[expect(x, reason = \"allow(x)\")]\nfn f() {}").is_empty());
    }

    #[test]
    fn names_that_say_nothing_are_found() {
        assert_one("src/index/utils.rs", "", "`utils` names no thing");
        assert_one("tests/common/mod.rs", "", "`common` names no thing");
        assert_one("src/log_v2.rs", "", "`log_v2` names no thing");
        assert_one("src/log.rs", "mod inner { }", "2: module `inner` names no thing");
    }

    #[test]
    fn long_files_and_functions_are_found_at_the_limit() {
        let file = |lines: usize| "//\n".repeat(lines - 1);
        assert_one("src/a.rs", &file(501), "has 501 lines");
        assert!(found("src/a.rs", &file(500)).is_empty());
        let function = |lines: usize| format!("fn f<T>(g: fn(u8)) where T: A {{{}}}", "\n".repeat(lines - 1));
        assert_one("src/a.rs", &function(71), "2: function `f` has 71 lines");
        assert_one("src/a.rs", &format!("impl A {{ {} }}", function(71)), "2: function `f` has 71 lines");
        assert!(found("src/a.rs", &function(70)).is_empty());
        assert!(found("src/a.rs", &format!("trait A {{ fn f(); }} mod a {{ {} }}", file(80))).is_empty());
    }

    #[test]
    fn opening_is_asked_for() {
        let source = Source { file: "fuzz/a.rs".into(), text: "use a::B;\n//! late".into() };
        assert!(check(&source)[0].to_string().starts_with("fuzz/a.rs:1: opens without"));
    }

    #[test]
    fn paths_of_a_machine_are_found_in_any_file() {
        let path = ["", "home", "me", "cloakroom"].join("/");
        assert_one("README.md", &format!("cd {path}"), "2: names a path");
        assert_one("src/a.rs", &format!("// see ({path})"), "2: names a path");
        assert!(found("README.md", "https://example.org/home/x and ./home/x and src/home/a").is_empty());
    }

    #[test]
    fn text_that_is_no_rust_is_told() {
        assert_one("src/a.rs", "fn f() { ( }", "is no Rust");
    }
}
