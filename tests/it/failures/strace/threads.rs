//! Threads that a process cannot have: a store opens without the help of more, or says what it lacks.
//!
//! Method: this program runs itself under `strace`, which refuses each of its threads the n-th thread that it starts.

use std::path::Path;
use std::process::Command;

use cloakroom::{Access, LogStore, SessionStore};

use super::{is_there, options};
use crate::support::acked::{HOUR, in_time, key, payload};

/// Tells a process under `strace` which folder is its own.
const FOLDER: &str = "CLOAKROOM_THREADS_FOLDER";
const TEST: &str = "failures::strace::threads::thread_that_cannot_be_started_leaves_a_store_that_opens";

/// Enough for segments that can be read side by side.
const SESSIONS: u32 = 120;

async fn all_are_there(folder: &Path) {
    let store = in_time("open", LogStore::open(folder, options())).await.unwrap();
    for n in 0..SESSIONS {
        assert!(store.get(key(n), Access::Peek).await.unwrap().is_some(), "{n}");
    }
    in_time("close", store.close()).await.unwrap();
}

#[tokio::test]
async fn thread_that_cannot_be_started_leaves_a_store_that_opens() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let opened = in_time("open", LogStore::open(&folder, options())).await;
        println!("\n#{}", opened.as_ref().map_or_else(ToString::to_string, |_| "opened".into()));
        if let Ok(store) = opened {
            in_time("close", store.close()).await.unwrap();
        }
        return;
    }
    if let Err(why) = is_there() {
        println!("skipped: {why}");
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("store");
    let store = LogStore::open(&folder, options()).await.unwrap();
    for n in 0..SESSIONS {
        store.create_as(key(n), payload(n, 2_000).into(), HOUR).await.unwrap();
    }
    store.close().await.unwrap();
    let mut said = Vec::new();
    // The first of the whole program's is the thread of this test, and the first of that one opens the store.
    for at in 2..=8 {
        let inject = format!("inject=?clone,?clone3:error=EAGAIN:when={at}");
        let output = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=?clone,?clone3", "-e", &inject])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture"])
            .env(FOLDER, &folder)
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && !err.contains("panicked"), "{inject}: {out}\n{err}");
        let answer = out.lines().find_map(|line| line.strip_prefix('#'));
        said.push(answer.unwrap_or_else(|| panic!("{inject}: {out}")).to_owned());
        all_are_there(&folder).await;
    }
    let refused: Vec<_> = said.iter().filter(|answer| *answer != "opened").collect();
    assert!(!refused.is_empty() && refused.len() < said.len(), "{said:?}");
    assert!(refused.iter().all(|answer| answer.contains("thread")), "{refused:?}");
}
