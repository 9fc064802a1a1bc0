//! System calls that fail in a real process: `strace` lets them, and what was acknowledged is there afterwards.
//!
//! Goal: to refute what the other tests show of a disk behind a trait, for the calls that the real disk makes. Method: this program runs itself under
//! `strace`, works in a folder, and says what was acknowledged; the parent opens the folder without. Where there is no `strace`, or it may not
//! trace, that is said.

/// What is recorded of the calls that succeed.
mod order;
mod threads;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use cloakroom::{Durability, Error, LogStore, OpenError, Options, ReadMode, SessionStore};

use crate::stores::defaults;
use crate::support::acked::{Acked, in_time};
use crate::support::budget;

/// Tells a process under `strace` which folder is its own.
const FOLDER: &str = "CLOAKROOM_STRACE_FOLDER";
const NOBODY: &str = "#told nobody";
const TEST: &str = "failures::strace::failing_system_calls_lose_nothing_that_was_acknowledged";

fn options() -> Options {
    Options { segment_bytes: 64 << 10, payload_bytes_max: 4_096, ..defaults() }
}

/// Who hears of a call that fails.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    Somebody,
    /// Whether it is made at all depends on how far the background gets, or nothing depends on it.
    Perhaps,
    /// What interrupts a call or cannot set space aside ends in nothing.
    Nobody,
}

/// Which calls fail, how, and who hears of it. Of architectures that have another form of a call alone, that one is meant.
const INJECTED: [(&str, &str, Told); 22] = [
    ("?mkdir,?mkdirat", "EIO", Told::Somebody),
    ("openat", "EMFILE", Told::Somebody),
    ("openat", "EIO", Told::Somebody),
    ("flock", "ENOLCK", Told::Somebody),
    ("flock", "EIO", Told::Somebody),
    ("getdents64", "EIO", Told::Somebody),
    ("mmap", "ENOMEM", Told::Somebody),
    ("fdatasync", "EIO", Told::Somebody),
    ("fsync", "EIO", Told::Somebody),
    ("pwrite64", "EIO", Told::Somebody),
    ("pwrite64", "ENOSPC", Told::Somebody),
    ("fallocate", "ENOSPC", Told::Perhaps),
    ("fallocate", "EIO", Told::Somebody),
    ("?rename,?renameat,?renameat2", "EIO", Told::Somebody),
    ("?unlink,?unlinkat", "EIO", Told::Somebody),
    ("ftruncate", "EIO", Told::Perhaps),
    ("pread64", "EIO", Told::Perhaps),
    ("fallocate", "EOPNOTSUPP", Told::Nobody),
    ("fallocate", "ENOSYS", Told::Nobody),
    ("pwrite64", "EINTR", Told::Nobody),
    ("fdatasync", "EINTR", Told::Nobody),
    ("fsync", "EINTR", Told::Nobody),
];

/// Calls that other parts of a process make as well: they fail for the store's folder and for what is in it alone.
const EVERYBODYS: [&str; 5] = ["openat", "flock", "getdents64", "mmap", "pread64"];

/// The files of a store of this test's size.
fn files() -> impl Iterator<Item = String> {
    let segments = (1..=9).map(|id| format!("{id:08x}.seg"));
    ["LOCK", "MANIFEST", "MANIFEST.new", "MANIFEST.copy"].into_iter().map(str::to_owned).chain(segments)
}

async fn work(folder: &Path) {
    let store = match in_time("open", LogStore::open(folder, options())).await {
        Ok(store) => store.at(Durability::Sync),
        Err(e) => {
            assert!(matches!(e, OpenError::Io { .. }), "{e:?}");
            return println!("\n#refused {e}");
        }
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
    let told: Vec<_> = acked.errors.into_iter().chain(read).chain(closed.err()).collect();
    for error in &told {
        let is_documented = matches!(
            error,
            Error::Io { .. } | Error::Poisoned { .. } | Error::DurabilityUnknown { .. } | Error::DiskFull
        );
        assert!(is_documented, "{error:?}");
    }
    println!("\n#told {}", told.first().map_or_else(|| "nobody".into(), |e| format!("{e:?}")));
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
    for (calls, error, told) in INJECTED {
        let mut heard = Vec::new();
        // The first calls are those of the first open of all.
        for at in [1, 2].into_iter().chain((1..=budget(2).min(20)).map(|n| n * 3)) {
            // From then on, where nobody is to notice; strace counts for each thread.
            let when = if told == Told::Nobody { format!("{at}+2") } else { at.to_string() };
            let inject = format!("inject={calls}:error={error}:when={when}");
            let ended = life(calls, &inject).await;
            assert!(told != Told::Nobody || ended == NOBODY, "{inject}: {ended}");
            heard.push(ended);
        }
        let is_made = calls != "mmap" || options().read_mode == ReadMode::Mapped;
        let somebody = heard.iter().any(|ended| ended != NOBODY);
        assert!(somebody || !is_made || told != Told::Somebody, "{calls}: nobody heard of an {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_that_knows_no_locks_is_done_without_and_one_that_fails_is_not() {
    if let Err(why) = is_there() {
        println!("skipped: {why}");
        return;
    }
    // The first lock is the folder's, the second that of the file in it.
    for (error, at, opens) in
        [("ENOLCK", 1, true), ("EBADF", 1, true), ("EIO", 1, false), ("ENOLCK", 2, false), ("EIO", 2, false)]
    {
        let inject = format!("inject=flock:error={error}:when={at}");
        let ended = life("flock", &inject).await;
        assert!(if opens { ended == NOBODY } else { ended.starts_with("#refused ") }, "{inject}: {ended}");
    }
}

/// One life in which a call fails, and the next; gives who was told.
async fn life(calls: &str, inject: &str) -> String {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().canonicalize().unwrap().join("store");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", inject]);
    if EVERYBODYS.contains(&calls) {
        strace.arg("-P").arg(&folder);
        for file in files() {
            strace.arg("-P").arg(folder.join(file));
        }
    }
    let output = strace
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(FOLDER, &folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{inject}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    let ended = said.lines().find(|line| line.starts_with("#told ") || line.starts_with("#refused "));
    let ended = ended.unwrap_or_else(|| panic!("{inject}: {said}"));
    let known: BTreeMap<u32, bool> = said
        .lines()
        .filter_map(|line| line.strip_prefix("#known ")?.split_once(' '))
        .map(|(n, there)| (n.parse().unwrap(), there.parse().unwrap()))
        .collect();
    let store = in_time("open", LogStore::open(&folder, options())).await;
    let store = store.unwrap_or_else(|e| panic!("{inject}: {e}"));
    let acked = Acked { known, errors: Vec::new() };
    assert!(acked.check(&store, inject).await.is_empty(), "{inject}");
    in_time("close", store.close()).await.unwrap();
    ended.to_owned()
}
