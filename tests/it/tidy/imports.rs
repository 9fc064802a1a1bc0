//! Imports run strictly downward: which module may name which, and that no two lead to each other.
//!
//! A `mod` line and a `pub use` of something below hand names on and need nothing, so they are no edges; everything else that names a
//! module is, in `use` or in line, in tests too.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::TokenStream;

use super::paths::{self, Named};
use super::{Finding, Source};

/// The ground floor: these may import one another, without a cycle.
const GROUND: [&str; 10] =
    ["clock", "contract", "error", "events", "id", "lifetime", "options", "owner", "sync", "version"];

/// The floors above it: a module, and what it may import besides itself and the ground floor.
const FLOORS: [(&str, &[&str]); 7] = [
    ("disk", &[]),
    ("format", &[]),
    ("log", &["disk", "format"]),
    ("index", &["format"]),
    ("engine", &["disk", "format", "index", "log"]),
    ("store", &["disk", "engine", "format", "index", "log"]),
    ("session", &["disk", "engine", "format", "index", "log", "store"]),
];

/// The top floor: it uses what the crate's root exports, as a user of the crate does, and nothing else.
const TOP: [&str; 2] = ["adapters", "conformance"];

/// Modules, each named by its path from the crate's root; the root itself is the empty path.
type Module = Vec<String>;

/// One module that names another.
struct Edge {
    from: Module,
    to: Module,
    /// The name as it is written, for the message.
    name: String,
    file: String,
    line: usize,
}

/// Everything in the library's imports that breaks the rule.
pub(super) fn check(tree: &[Source]) -> Vec<Finding> {
    let modules: BTreeMap<Module, &Source> =
        tree.iter().filter_map(|s| Some((module(&s.file)?, s))).collect();
    let edges: Vec<Edge> = modules.iter().flat_map(|(from, source)| edges(from, source, &modules)).collect();
    let mut findings: Vec<Finding> = edges.iter().filter_map(forbidden).collect();
    findings.extend(cycles(&edges));
    findings
}

/// The module that a file of the library holds. Programs below `src/bin` are not part of it.
fn module(file: &str) -> Option<Module> {
    let path = file.strip_prefix("src/")?.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let own = !path.starts_with("bin/") && path != "main";
    own.then(|| if path == "lib" { Vec::new() } else { path.split('/').map(String::from).collect() })
}

fn edges(from: &Module, source: &Source, modules: &BTreeMap<Module, &Source>) -> Vec<Edge> {
    // Text that is no Rust is reported by the rules.
    let tokens: TokenStream = source.text.parse().unwrap_or_default();
    let mut edges = Vec::new();
    for named in paths::named(tokens) {
        let Some(full) = resolve(from, &named, modules) else { continue };
        let to = (0..=full.len()).rev().map(|n| full[..n].to_vec()).find(|m| modules.contains_key(m));
        let to = to.unwrap_or_default();
        if to != *from && !(named.reexport && to.starts_with(from)) {
            let name = named.segments.join("::");
            edges.push(Edge { from: from.clone(), to, name, file: source.file.clone(), line: named.line });
        }
    }
    edges
}

/// The path from the crate's root of what is named, or `None` if it is in another crate.
fn resolve(from: &Module, named: &Named, modules: &BTreeMap<Module, &Source>) -> Option<Module> {
    let here: Module = from.iter().chain(&named.inside).cloned().collect();
    let ups = named.segments.iter().take_while(|s| *s == "super").count();
    match named.segments[0].as_str() {
        "crate" => Some(named.segments[1..].to_vec()),
        "self" => Some([&here, &named.segments[1..]].concat()),
        "super" => Some([&here[..here.len().saturating_sub(ups)], &named.segments[ups..]].concat()),
        child => {
            let below: Module = here.iter().cloned().chain([child.to_string()]).collect();
            modules.contains_key(&below).then(|| [&here, &named.segments[..]].concat())
        }
    }
}

fn forbidden(edge: &Edge) -> Option<Finding> {
    let from = edge.from.first()?.as_str();
    let what = match edge.to.first().map(String::as_str) {
        Some(to) if to == from => return None,
        None if TOP.contains(&from) => return None,
        None => format!("`{}` goes through the crate's root: name the module it lives in", edge.name),
        Some(to) if TOP.contains(&from) => {
            format!("`{}` reaches into `{to}`: this floor uses what the root exports", edge.name)
        }
        Some(to) => {
            let Some(below) = below(from) else {
                return Some(finding(
                    edge,
                    format!("module `{from}` has no floor: give it one in the table"),
                ));
            };
            if GROUND.contains(&to) || below.contains(&to) {
                return None;
            }
            format!("`{}`: `{from}` may not import `{to}`, imports go down only", edge.name)
        }
    };
    Some(finding(edge, what))
}

fn below(module: &str) -> Option<&'static [&'static str]> {
    if GROUND.contains(&module) {
        return Some(&[]);
    }
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, below)| *below)
}

/// The edges that lie on a cycle: whose target leads back to where they start.
fn cycles(edges: &[Edge]) -> Vec<Finding> {
    let mut next: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for edge in edges {
        next.entry(&edge.from).or_default().insert(&edge.to);
    }
    let leads_to = |start: &Module, goal: &Module| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(module) = open.pop() {
            if module == goal {
                return true;
            }
            if seen.insert(module) {
                open.extend(next.get(module).into_iter().flatten());
            }
        }
        false
    };
    edges
        .iter()
        .filter(|edge| leads_to(&edge.to, &edge.from))
        .map(|e| finding(e, format!("`{}` is on a cycle: it leads back to `{}`", e.name, e.from.join("::"))))
        .collect()
}

fn finding(edge: &Edge, what: String) -> Finding {
    Finding { file: edge.file.clone(), line: edge.line, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let tree: Vec<Source> =
            files.iter().map(|(file, text)| Source { file: (*file).into(), text: (*text).into() }).collect();
        check(&tree).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn imports_that_go_down_pass() {
        let tree = [
            ("src/lib.rs", "mod disk; mod id; mod index; pub use id::Id;"),
            ("src/id.rs", "pub struct Id;"),
            ("src/disk/mod.rs", "pub mod real; pub use real::Real; trait Disk {}"),
            ("src/disk/real.rs", "use super::Disk;\nuse crate::id::Id;"),
            ("src/index/mod.rs", "use crate::id::Id; mod tests { use super::*; use super::Id; }"),
        ];
        assert_eq!(found(&tree), Vec::<String>::new());
    }

    #[test]
    fn upward_and_sideways_imports_are_found_also_in_line_and_by_super() {
        let tree = [
            ("src/lib.rs", "mod disk;"),
            ("src/disk.rs", "fn f() { crate::format::g() }"),
            ("src/format.rs", "\nuse crate::{store::S, id::Id};"),
            ("src/id.rs", ""),
            ("src/log/mod.rs", ""),
            ("src/index/slab.rs", "use super::super::log::Writer;"),
            ("src/store.rs", "use crate::log::Writer;"),
        ];
        assert_eq!(
            found(&tree),
            [
                "src/disk.rs:1: `crate::format::g`: `disk` may not import `format`, imports go down only",
                "src/format.rs:2: `crate::store::S`: `format` may not import `store`, imports go down only",
                "src/index/slab.rs:1: `super::super::log::Writer`: `index` may not import `log`, imports go down only",
            ]
        );
    }

    #[test]
    fn root_is_for_adapters_and_every_module_has_a_floor() {
        let tree = [
            ("src/lib.rs", ""),
            ("src/id.rs", "use crate::Id;"),
            ("src/adapters/web.rs", "use crate::Id;\nuse crate::id::Id;"),
            ("src/attic.rs", "use crate::id::Id;"),
        ];
        assert_eq!(
            found(&tree),
            [
                "src/adapters/web.rs:2: `crate::id::Id` reaches into `id`: this floor uses what the root exports",
                "src/attic.rs:1: module `attic` has no floor: give it one in the table",
                "src/id.rs:1: `crate::Id` goes through the crate's root: name the module it lives in",
            ]
        );
    }

    #[test]
    fn cycles_are_found_on_the_ground_floor_and_inside_of_a_module() {
        let tree = [
            ("src/lib.rs", ""),
            ("src/id.rs", "use crate::error::E;"),
            ("src/error.rs", "use crate::id::Id;"),
            ("src/log/mod.rs", "mod scan;\nuse scan::Scan;"),
            ("src/log/scan.rs", "use super::Writer;"),
        ];
        assert_eq!(
            found(&tree),
            [
                "src/error.rs:1: `crate::id::Id` is on a cycle: it leads back to `error`",
                "src/id.rs:1: `crate::error::E` is on a cycle: it leads back to `id`",
                "src/log/mod.rs:2: `scan::Scan` is on a cycle: it leads back to `log`",
                "src/log/scan.rs:1: `super::Writer` is on a cycle: it leads back to `log::scan`",
            ]
        );
    }
}
