//! System calls that fail in a real process: `strace` lets them, and what was acknowledged is there afterwards.
//!
//! Goal: to refute what the other tests show of a disk behind a trait, for the calls that the real disk makes. Method: this program runs itself under
//! `strace`, works in a folder, and says what was acknowledged; the parent opens the folder without. Where there is no `strace`, or it may not
//! trace, that is said.

/// What is recorded of the calls that succeed.
mod order;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use cloakroom::{Durability, LogStore, Options, SessionStore};

use crate::stores::defaults;
use crate::support::acked::{Acked, in_time};
use crate::support::budget;

/// Tells a process under `strace` which folder is its own.
const FOLDER: &str = "CLOAKROOM_STRACE_FOLDER";
const TEST: &str = "failures::strace::failing_system_calls_lose_nothing_that_was_acknowledged";

fn options() -> Options {
    Options { segment_bytes: 64 << 10, payload_bytes_max: 4_096, ..defaults() }
}

/// Calls, how they fail, and whether anybody may be told: what interrupts a call or cannot set space aside ends in nothing.
const INJECTED: [(&str, &str, bool); 14] = [
    ("fdatasync", "error=EIO", true),
    ("fsync", "error=EIO", true),
    ("pwrite64", "error=EIO", true),
    ("pwrite64", "error=ENOSPC", true),
    ("fallocate", "error=ENOSPC", true),
    ("fallocate", "error=EIO", true),
    ("rename", "error=EIO", true),
    ("unlink", "error=EIO", true),
    ("ftruncate", "error=EIO", true),
    ("pread64", "error=EIO", true),
    ("fallocate", "error=EOPNOTSUPP", false),
    ("fallocate", "error=ENOSYS", false),
    ("pwrite64", "error=EINTR", false),
    ("fdatasync", "error=EINTR", false),
];

async fn work(folder: &Path) {
    let store = match in_time("open", LogStore::open(folder, options())).await {
        Ok(store) => store.at(Durability::Sync),
        Err(e) => return println!("\n#refused {e}"),
    };
    let mut acked = Acked::default();
    for part in 0..4 {
        acked.work(&store, part * 40..part * 40 + 40).await;
    }
    let read = acked.check(&store, "under strace").await;
    let closed = in_time("close", store.close()).await;
    for (n, there) in &acked.known {
        println!("\n#known {n} {there}");
    }
    let told = acked.errors.into_iter().chain(read).chain(closed.err()).next();
    println!("\n#told {}", told.map_or_else(|| "nobody".into(), |e| format!("{e:?}")));
}

fn is_there() -> Result<(), String> {
    let traced = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output();
    let traced = traced.map_err(|e| format!("no strace: {e}"))?;
    if traced.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&traced.stderr).into()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_system_calls_lose_nothing_that_was_acknowledged() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return work(Path::new(&folder)).await;
    }
    if let Err(why) = is_there() {
        println!("skipped: {why}");
        return;
    }
    let mut told = 0;
    for (call, how, is_told) in INJECTED {
        for at in (1..=budget(2).min(20)).map(|n| n * 3) {
            // From then on, where nobody is to notice; strace counts for each thread.
            let when = if is_told { at.to_string() } else { format!("{at}+2") };
            let inject = format!("inject={call}:{how}:when={when}");
            let folder = tempfile::tempdir().unwrap();
            let output = Command::new("strace")
                .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", TEST, "--nocapture"])
                .env(FOLDER, folder.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{inject}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
            let ended = said.lines().find(|line| line.starts_with("#told ") || line.starts_with("#refused "));
            let ended = ended.unwrap_or_else(|| panic!("{inject}: {said}"));
            assert!(is_told || ended == "#told nobody", "{inject}: {ended}");
            told += u32::from(ended != "#told nobody");
            let known: BTreeMap<u32, bool> = said
                .lines()
                .filter_map(|line| line.strip_prefix("#known ")?.split_once(' '))
                .map(|(n, there)| (n.parse().unwrap(), there.parse().unwrap()))
                .collect();
            let store = in_time("open", LogStore::open(folder.path(), options())).await;
            let store = store.unwrap_or_else(|e| panic!("{inject}: {e}"));
            let acked = Acked { known, errors: Vec::new() };
            assert!(acked.check(&store, &inject).await.is_empty(), "{inject}");
            in_time("close", store.close()).await.unwrap();
        }
    }
    assert!(told > 5, "hardly a call failed that mattered: {told}");
}
