//! The paths that a piece of Rust names, wherever they stand: in `use`, in line, in a macro's arguments.
//!
//! Works on tokens, so comments and strings name nothing, and code inside of macros counts. It knows no types: a path is what is written.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path as it is written, such as `crate::id::SessionKey`; a glob ends in `*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Named {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    /// It stands in a `pub use`: it hands a name on instead of needing it.
    pub(super) reexport: bool,
    /// The modules opened with braces in this file that it stands in.
    pub(super) inside: Vec<String>,
}

/// Every path of two or more segments in `tokens`, with the groups of `use` trees spread out.
pub(super) fn named(tokens: TokenStream) -> Vec<Named> {
    let mut found = Vec::new();
    walk(tokens, &[], false, &mut found);
    found
}

/// The text of the token at `at`, if it is an identifier.
pub(super) fn ident(tokens: &[TokenTree], at: usize) -> Option<String> {
    match tokens.get(at) {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

/// Whether the token at `at` is the punctuation mark `mark`.
pub(super) fn punct(tokens: &[TokenTree], at: usize, mark: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == mark)
}

/// What is inside of the token at `at`, if it is a group with these delimiters.
pub(super) fn group(tokens: &[TokenTree], at: usize, delimiter: Delimiter) -> Option<TokenStream> {
    match tokens.get(at) {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group.stream()),
        _ => None,
    }
}

fn walk(stream: TokenStream, inside: &[String], reexport: bool, found: &mut Vec<Named>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let mut at = 0;
    let mut handed_on = reexport;
    while at < tokens.len() {
        let word = ident(&tokens, at);
        if let (Some("mod"), Some(name), Some(body)) =
            (word.as_deref(), ident(&tokens, at + 1), group(&tokens, at + 2, Delimiter::Brace))
        {
            let deeper: Vec<String> = inside.iter().cloned().chain([name]).collect();
            walk(body, &deeper, false, found);
            at += 3;
        } else if word.as_deref() == Some("pub") {
            // What stands in the parentheses says who may see the item; it is no import.
            at += 1 + usize::from(group(&tokens, at + 1, Delimiter::Parenthesis).is_some());
            handed_on = ident(&tokens, at).as_deref() == Some("use");
        } else if word.is_some() && separator(&tokens, at + 1) {
            let first = found.len();
            at = path(&tokens, at, &[], found);
            for named in &mut found[first..] {
                named.reexport = handed_on;
                named.inside = inside.to_vec();
            }
        } else {
            if let TokenTree::Group(group) = &tokens[at] {
                walk(group.stream(), inside, handed_on, found);
            }
            handed_on &= !punct(&tokens, at, ';');
            at += 1;
        }
    }
}

fn separator(tokens: &[TokenTree], at: usize) -> bool {
    punct(tokens, at, ':') && punct(tokens, at + 1, ':')
}

/// Reads one path that begins at `at` behind `prefix`, and gives where it ends.
fn path(tokens: &[TokenTree], mut at: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.span().start().line);
    while let Some(word) = ident(tokens, at) {
        segments.push(word);
        at += 1;
        if !separator(tokens, at) {
            break;
        }
        at += 2;
        if let Some(tree) = group(tokens, at, Delimiter::Brace) {
            let parts: Vec<TokenTree> = tree.into_iter().collect();
            for part in parts.split(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == ',')) {
                path(part, 0, &segments, found);
            }
            return at + 1;
        }
        if punct(tokens, at, '*') {
            segments.push("*".into());
            at += 1;
            break;
        }
    }
    if segments.len() > 1 && segments.len() > prefix.len() {
        found.push(Named { segments, line, reexport: false, inside: Vec::new() });
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Vec<String> {
        named(text.parse().unwrap()).iter().map(|n| n.segments.join("::")).collect()
    }

    #[test]
    fn use_trees_are_spread_out() {
        assert_eq!(
            written("use crate::{a::B, c::{D, e::*}};\nuse super::*;"),
            ["crate::a::B", "crate::c::D", "crate::c::e::*", "super::*"]
        );
    }

    #[test]
    fn paths_in_line_and_in_macros_are_seen_and_comments_are_not() {
        let text = "// crate::no::A\n/// crate::no::B\nfn f() { g!(x, crate::yes::C(1)); crate::yes::D::<u8>::new() }";
        assert_eq!(written(text)[..2], ["crate::yes::C", "crate::yes::D"]);
        assert_eq!(named(text.parse().unwrap())[0].line, 3);
    }

    #[test]
    fn handing_on_and_nesting_are_told() {
        let found = named("pub(in crate::a) use b::C; use d::E; mod t { use super::F; }".parse().unwrap());
        assert_eq!(found.iter().map(|n| n.reexport).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(found[2].inside, ["t"]);
        assert_eq!(found.len(), 3);
    }
}
