//! Bugs that other stores had and that this design invites, each as a test of this one.
//!
//! Goal: none of them is made again here. Method: each test builds the moment at which the other store went wrong, and checks what its
//! users were owed. Not here is what a test elsewhere shows exactly:
//!
//! | what went wrong for others | where it is shown |
//! |---|---|
//! | emdb took damage in mid-log for its end and silently dropped all that follows | `recovery.rs`, `flipped_bit_below_a_later_watermark_is_refused` and `flipped_bit_anywhere_in_a_sealed_segment_is_refused` |
//! | emdb's iterators returned expired records | `expiry.rs`, `a_walk_meets_the_living_and_never_the_expired` |
//! | in emdb a touch revived an expired key | `expiry.rs`, `an_expired_session_is_absent_to_every_operation` |
//! | fjall 3.1 did not open after a byte of the last batch flipped | `recovery.rs`, `torn_tail_is_cut_kept_aside_and_reported` |
//! | Bitcask dropped a tombstone while an older copy was left | `compaction.rs`, `deleted_session_does_not_come_back_when_its_tombstone_is_dropped` |

mod expiry;
mod identity;
#[cfg(target_os = "linux")]
mod memory;
mod opening;
mod rewriting;
mod writing;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, Clock, Lifetime, LogStore, ManualClock, Options, SessionKey, SessionStore, Stored, Timestamp,
};

use crate::stores::defaults;
use crate::support::life::drive as run;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Lifetime = Lifetime::absolute(Duration::from_secs(86_400));

/// Tells a process that a test started to do its part in this folder.
const FOLDER: &str = "CLOAKROOM_REGRESSION_FOLDER";

/// Small segments, and a clock moved by hand.
fn options() -> (Options, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let options = Options {
        segment_bytes: 64 << 10,
        payload_bytes_max: 4_096,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        ..defaults()
    };
    (options, clock)
}

/// A store without threads.
fn open(disk: &SimDisk, options: &Options) -> LogStore {
    LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()).unwrap()
}

fn key(n: u32) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

/// Writes a session whose payload is of one byte, so that it can be told from others.
fn put(store: &LogStore, n: u32, len: usize, lifetime: Lifetime) {
    run(store, store.upsert(key(n), vec![n.to_le_bytes()[0]; len].into(), lifetime)).unwrap().unwrap();
}

fn read(store: &LogStore, key: SessionKey) -> Option<Stored> {
    run(store, store.get(key, Access::Peek)).unwrap().unwrap()
}

fn there(store: &LogStore, n: u32) -> bool {
    read(store, key(n)).is_some()
}

fn delete(store: &LogStore, n: u32) {
    assert!(run(store, store.delete(key(n))).unwrap().unwrap());
}

fn close(store: &LogStore) {
    run(store, store.close()).unwrap().unwrap();
}

/// Enough background work to end all that there is.
fn settle(store: &LogStore) {
    (0..40).for_each(|_| store.step());
}

/// Starts this program again, to run that test alone on `folder`.
fn in_a_process(test: &str, folder: &Path) -> (Child, impl FnMut() -> String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(FOLDER, folder)
        // Else each thread of the C library's allocator reserves address space of its own.
        .env("MALLOC_ARENA_MAX", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = move || {
        let line = lines.find_map(|line| line.unwrap().strip_prefix(SAYS).map(str::to_owned));
        line.unwrap_or_else(|| "nothing: it ended".into())
    };
    (child, said)
}

/// Begins a line that a started process says to the test; the test harness prints others.
const SAYS: &str = "#says ";

fn say(what: &str) {
    println!("\n{SAYS}{what}");
}
