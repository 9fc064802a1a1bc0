//! Finds the route tests that tower-sessions has for its own stores, in the copy of its source that Cargo compiles, and includes them in ours.

#![expect(clippy::disallowed_methods, reason = "it writes what Cargo is to compile")]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let cargo = std::env::var("CARGO").expect("Cargo says what it is");
    let listed = Command::new(cargo).args(["metadata", "--format-version", "1", "--locked"]).output();
    let listed = listed.expect("Cargo can be asked for the packages");
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("Cargo answers with JSON");
    let out = std::env::var("OUT_DIR").expect("Cargo says where the output goes");
    for (version, file) in [("0.15.", "upstream_0_15.rs"), ("0.14.", "upstream_0_14.rs")] {
        let packages = listed["packages"].as_array().expect("there are packages");
        let is_it = |p: &&serde_json::Value| {
            p["name"] == "tower-sessions" && p["version"].as_str().is_some_and(|v| v.starts_with(version))
        };
        let manifest =
            packages.iter().find(is_it).expect("tower-sessions is among them")["manifest_path"].as_str();
        let tests =
            Path::new(manifest.expect("it has a manifest")).with_file_name("tests").join("common/mod.rs");
        let include = format!("#[macro_use]\n#[path = {tests:?}]\nmod common;\n");
        std::fs::write(Path::new(&out).join(file), include).expect("the output can be written");
    }
}
