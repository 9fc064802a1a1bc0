//! A store in a process that is killed: what the process said was acknowledged is there, in a real folder, life after life.
//!
//! Goal: to refute P1 and P2 where the simulated disk cannot reach: threads, the kernel, maps, the lock of a dead process. Method: this program starts
//! itself as a child, which writes to the folder and prints a line for each acknowledged operation; at a random moment it is killed, and
//! the parent opens the folder and compares it with the lines. Sessions that had an operation begun and not acknowledged may be in
//! either state.
//!
//! `CLOAKROOM_SEED` replays the moments and the operations (not how threads interleave); `CLOAKROOM_KILLS` sets how often it is killed, and
//! `CLOAKROOM_LOSSES` how often the [`power`] goes.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect ends there")]

mod child;
#[cfg(target_os = "linux")]
mod power;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cloakroom::{Access, LogStore, SessionStore};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// Tells the child which folder is its own; without it this program is the test.
const FOLDER: &str = "CLOAKROOM_CRASH_FOLDER";
/// Tells the child which life this is.
const LIFE: &str = "CLOAKROOM_CRASH_LIFE";

const SEED: &str = "CLOAKROOM_SEED";
const SEED_OWN: u64 = 7;

const KILLS: u64 = 50;

/// How a test ends that a child hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of a session: the number in its payload, 0 if it is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Known {
    acknowledged: u64,
    /// Begun after that, and perhaps done.
    begun: Option<u64>,
}

fn number(name: &str, own: u64) -> u64 {
    std::env::var(name).map_or(own, |text| text.parse().unwrap())
}

#[test]
fn killed_process_leaves_what_it_said_was_acknowledged() {
    if let Ok(folder) = std::env::var(FOLDER) {
        return child::run(&folder, number(LIFE, 0), number(SEED, SEED_OWN), false);
    }
    let seed = number(SEED, SEED_OWN);
    println!("{SEED}={seed}");
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut known = BTreeMap::new();
    let mut acknowledged = 0;
    for life in 0..number("CLOAKROOM_KILLS", KILLS) {
        // Some are killed while they open the store, most while they write.
        let (lines, delay) = (rng.random_range(0..2_000), Duration::from_micros(rng.random_range(0..3_000)));
        acknowledged += one_life(folder.path(), life, lines, delay, &mut known);
        check(folder.path(), &mut known, life % 3 == 0);
    }
    assert!(acknowledged > 1_000, "the children did next to nothing: {acknowledged}");
}

/// Starts a child, kills it when it has said so many lines and a little later, and takes down what it said; gives the number of operations
/// that were acknowledged.
fn one_life(
    folder: &Path,
    life: u64,
    lines: usize,
    delay: Duration,
    known: &mut BTreeMap<u64, Known>,
) -> usize {
    let mut child = start("killed_process_leaves_what_it_said_was_acknowledged", folder, life);
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = 0;
    for line in said.by_ref().take(lines) {
        acknowledged += usize::from(note(&line.unwrap(), known));
    }
    kill_after(&mut child, delay);
    // What was in the pipe was said before the end. A last line that was cut has no newline, but its end is the end of a word.
    for line in said.map_while(Result::ok) {
        acknowledged += usize::from(note(&line, known));
    }
    acknowledged
}

/// The child of a test, whose words are to be read.
fn start(test: &str, folder: &Path, life: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .envs([(FOLDER, folder.as_os_str()), (LIFE, life.to_string().as_ref())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn kill_after(child: &mut Child, delay: Duration) {
    let (_stop, stopped) = std::sync::mpsc::channel::<()>();
    // A wait that nobody ends: the test is about what happens at any moment.
    let _ = stopped.recv_timeout(delay);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the child ended by itself: {status}");
}

/// Takes down a line of a child: `b KEY NUMBER;` begins an operation, `a KEY NUMBER;` acknowledges it. Says if it was the latter.
fn note(line: &str, known: &mut BTreeMap<u64, Known>) -> bool {
    // A line of the test's own frame, or one that was cut.
    let Some((word, numbers)) = line.strip_suffix(';').and_then(|line| line.split_once(' ')) else {
        return false;
    };
    let Some((key, number)) = numbers.split_once(' ') else { return false };
    let (Ok(key), Ok(number)) = (key.parse(), number.parse()) else { return false };
    let entry: &mut Known = known.entry(key).or_default();
    match word {
        "b" => entry.begun = Some(number),
        "a" => *entry = Known { acknowledged: number, begun: None },
        _ => return false,
    }
    word == "a"
}

/// Opens the folder and compares each session; from then on what was found is what is known. A close every now and then makes other
/// beginnings for the next life.
fn check(folder: &Path, known: &mut BTreeMap<u64, Known>, close: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let opened = LogStore::open_wait(folder, child::options(), PATIENCE);
        let store = tokio::time::timeout(PATIENCE, opened).await.unwrap().unwrap();
        // A kill may cut the write that it meets at the end of a page: a torn tail, of which nothing was acknowledged.
        let torn = store.recovery().torn_bytes;
        assert!(torn <= u64::from(child::options().segment_bytes), "{torn} bytes were torn");
        for (key, known) in known {
            let found = store.get(child::key(*key), Access::Peek).await.unwrap();
            let found = found.map_or(0, |stored| child::number_in(&stored.payload));
            let allowed = found == known.acknowledged || known.begun == Some(found);
            assert!(allowed, "session {key} is at {found}, and should be at {known:?}");
            *known = Known { acknowledged: found, begun: None };
        }
        if close {
            store.close().await.unwrap();
        }
    });
}
