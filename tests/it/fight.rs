//! Processes and handles that fight for one folder: never two writers, and the next one finds exactly what the last one wrote.
//!
//! Goal: to refute P12. Method: a session counts generations; whoever has the folder reads it, writes the next and says so. Two writers, or one
//! that does not see what the last one wrote, would write one generation twice. Some processes are killed. Who wins when is not replayed.

#![expect(
    clippy::disallowed_methods,
    reason = "it does to the lock file what others than the store do to it"
)]

use std::collections::BTreeSet;
use std::fs::{copy as copy_file, remove_file, rename};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use cloakroom::{Access, Durability, Lifetime, LogStore, OpenError, Options, SessionKey, SessionStore};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::stores::defaults;
use crate::support::acked::in_time;
use crate::support::{Replay, budget, seeds};

/// Tells a process that it is one of those who fight, and for which folder.
const FOLDER: &str = "CLOAKROOM_FIGHT_FOLDER";
const TEST: &str = "fight::processes_and_handles_that_fight_for_a_folder_write_one_after_another";

const DAY: Lifetime = Lifetime::idle(Duration::from_secs(24 * 3_600));
/// A turn takes milliseconds: only who never gets one waits so long.
const PATIENCE: Duration = Duration::from_secs(60);
const PROCESSES: usize = 3;
const HANDLES: usize = 2;

fn options() -> Options {
    Options { segment_bytes: 64 << 10, payload_bytes_max: 4_096, ..defaults() }
}

/// Takes the folder, counts one generation, and gives the folder back; gives the generation that it wrote.
async fn turn(folder: &Path) -> u64 {
    let key = SessionKey::of(b"generation");
    let store = in_time("a turn", LogStore::open_wait(folder, options(), PATIENCE)).await.unwrap();
    let store = store.at(Durability::Sync);
    let last = in_time("get", store.get(key, Access::Peek)).await.unwrap();
    let last = last.map_or(0, |stored| u64::from_le_bytes(stored.payload[..].try_into().unwrap()));
    // Some bytes for segments to turn and compaction to do.
    for n in 0..4_u64 {
        let other = SessionKey::of(&n.to_le_bytes());
        in_time("upsert", store.upsert(other, vec![7; 3_000].into(), DAY)).await.unwrap();
    }
    let next = last + 1;
    in_time("upsert", store.upsert(key, next.to_le_bytes().to_vec().into(), DAY)).await.unwrap();
    if next % 3 == 0 {
        // It closes itself in the background.
        drop(store);
    } else {
        in_time("close", store.close()).await.unwrap();
    }
    next
}

/// A process that fights until it is killed.
async fn fight(folder: &Path) {
    loop {
        // Said before anybody else may have the folder's next turn counted: the parent sorts it out by number.
        println!("\n#wrote {}", turn(folder).await);
    }
}

fn start(folder: &Path, said: Sender<u64>) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    tokio::task::spawn_blocking(move || {
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("#wrote ") {
                // A line that the kill cut short is no number, or a smaller one that was said before: lines are written whole.
                let _ = said.send(number.parse().unwrap());
            }
        }
    });
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_and_handles_that_fight_for_a_folder_write_one_after_another() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return fight(Path::new(&folder)).await;
    }
    for seed in seeds([1]) {
        let _replay = Replay("fight".into(), seed);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let (said, hear) = channel();
        let mut children: Vec<_> = (0..PROCESSES).map(|_| start(folder.path(), said.clone())).collect();
        let turns = budget(15);
        let handles: Vec<_> = (0..HANDLES)
            .map(|_| {
                let (folder, said) = (folder.path().to_owned(), said.clone());
                tokio::spawn(async move {
                    for _ in 0..turns {
                        said.send(turn(&folder).await).unwrap();
                    }
                })
            })
            .collect();
        let (mut written, mut kills) = (BTreeSet::new(), 0);
        let mut hear_one = |wait| {
            if let Ok(number) = hear.recv_timeout(wait) {
                assert!(written.insert(number), "generation {number} was written twice");
            }
            written.len()
        };
        while handles.iter().any(|handle| !handle.is_finished()) {
            let heard = hear_one(Duration::from_millis(5));
            if heard > kills * 8 && rng.random_bool(0.2) {
                kills += 1;
                let victim = &mut children[rng.random_range(0..PROCESSES)];
                victim.kill().unwrap();
                assert_eq!(victim.wait().unwrap().code(), None, "it ended by itself");
                *victim = start(folder.path(), said.clone());
            }
        }
        for child in &mut children {
            child.kill().unwrap();
            assert_eq!(child.wait().unwrap().code(), None, "it ended by itself");
        }
        for handle in handles {
            handle.await.unwrap();
        }
        let last = turn(folder.path()).await;
        drop(said);
        while let Ok(number) = hear.recv() {
            assert!(written.insert(number), "generation {number} was written twice");
        }
        let highest = written.last().copied().unwrap_or(0);
        assert!(last > highest, "generation {highest} was acknowledged, and the next is {last}");
        // Who was killed may have written one that it had no time to say.
        let unsaid = last - 1 - written.len() as u64;
        assert!(unsaid <= (kills + PROCESSES) as u64, "{unsaid} were never said, {kills} kills");
        assert!(
            kills > 0 && written.len() as u64 > HANDLES as u64 * turns,
            "{kills} kills, {}",
            written.len()
        );
    }
}

/// Tells a process that it is to hold a folder, and which.
const HELD: &str = "CLOAKROOM_FIGHT_HELD";

/// A process that has opened a store in a folder, and holds it until it is killed.
fn hold(folder: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fight::refused_open_names_the_process_that_holds_the_folder", "--nocapture"])
        .env(HELD, folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "#holds"));
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_open_names_the_process_that_holds_the_folder() {
    if let Some(folder) = std::env::var_os(HELD) {
        let _store = LogStore::open(Path::new(&folder), options()).await.unwrap();
        println!("\n#holds");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = hold(folder.path());
    for patience in [Duration::ZERO, Duration::from_millis(30)] {
        let refused = in_time("open", LogStore::open_wait(folder.path(), options(), patience)).await;
        match refused {
            Err(OpenError::Locked { pid, folder: named }) => {
                assert_eq!((pid, named.as_str()), (Some(child.id()), folder.path().to_str().unwrap()));
            }
            other => panic!("{other:?}"),
        }
    }
    // A killed process holds nothing.
    child.kill().unwrap();
    child.wait().unwrap();
    let store = in_time("open", LogStore::open(folder.path(), options())).await.unwrap();
    in_time("close", store.close()).await.unwrap();
}

type Deed = (&'static str, fn(&Path));

/// What a cleaner of old files, or a hand, does to the lock file of a store that is open.
const DEEDS: [Deed; 2] = [
    ("removed", |lock| remove_file(lock).unwrap()),
    ("replaced", |lock| {
        let copy = lock.with_extension("copy");
        copy_file(lock, &copy).unwrap();
        rename(copy, lock).unwrap();
    }),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_whose_lock_file_is_removed_or_replaced_is_still_held() {
    for (deed, perform) in DEEDS {
        let folder = tempfile::tempdir().unwrap();
        let refused = async |holder: &str| {
            perform(&folder.path().join("LOCK"));
            // Twice: the first may have made a lock file of its own.
            for _ in 0..2 {
                let second = in_time("open", LogStore::open(folder.path(), options())).await;
                assert!(matches!(second, Err(OpenError::Locked { .. })), "{deed}, {holder}: {second:?}");
            }
        };
        let store = in_time("open", LogStore::open(folder.path(), options())).await.unwrap();
        refused("by a handle").await;
        in_time("close", store.close()).await.unwrap();
        let mut child = hold(folder.path());
        refused("by a process").await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(turn(folder.path()).await > 0, "it stays locked");
    }
}
