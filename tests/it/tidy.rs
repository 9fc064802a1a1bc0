//! The tree is read, and fails on what the style forbids: imports that do not go down, cycles, long files and functions, stubs,
//! ambient time, disk access outside of its seam.
//!
//! Goal: a rule that can be checked is checked here, so that nobody has to remember it. Method: every check is a pure function from text to
//! findings, shown to fail on a bad sample next to it; the one test here that reads the disk runs them all over the tree. It is no lint of
//! style that rustfmt or clippy already judge.

mod imports;
mod paths;
mod rules;

use std::fmt;
use std::io;
use std::path::Path;

/// Folders that hold what was built or downloaded, not what was written.
const FOLDERS_SKIPPED: [&str; 5] = ["target", "corpus", "artifacts", "coverage", "fixtures"];

/// Endings of files that are read as text; `.ci/run` has none.
const ENDINGS: [&str; 9] = [".rs", ".toml", ".md", ".yml", ".sh", ".py", ".html", ".css", "run"];

/// A file of the tree: its path from the root, with `/`, and its text.
#[derive(Clone, Debug)]
struct Source {
    file: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.file.strip_suffix(".rs").is_some()
    }
}

/// Something that breaks a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Finding {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

#[test]
fn tree_keeps_the_rules() {
    let mut tree = Vec::new();
    read_folder(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut tree).unwrap();
    assert!(tree.iter().any(|s| s.file == "src/lib.rs"), "the tree was not found: {} files", tree.len());
    let mut findings = imports::check(&tree);
    findings.extend(tree.iter().flat_map(rules::check));
    findings.sort();
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
}

/// Reads every text file below `folder` that is part of the project; `prefix` is the folder's path from the root.
fn read_folder(folder: &Path, prefix: &str, into: &mut Vec<Source>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() && name != ".git" && !FOLDERS_SKIPPED.contains(&name.as_str()) {
            read_folder(&entry.path(), &format!("{file}/"), into)?;
        } else if kind.is_file() && ENDINGS.iter().any(|ending| name.ends_with(ending)) {
            into.push(Source { text: std::fs::read_to_string(entry.path())?, file });
        }
    }
    Ok(())
}

#[test]
fn finding_names_file_and_line() {
    let finding = Finding { file: "src/a.rs".into(), line: 7, what: "is wrong".into() };
    assert_eq!(finding.to_string(), "src/a.rs:7: is wrong");
}
