//! The stores under test: each test of the contract runs on a [`MemoryStore`] and on a [`LogStore`], with a clock moved by hand.
//!
//! Invariant: a test ends with a clean close, so that what it left behind could be written down.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::{Clock, LogStore, ManualClock, MemoryStore, Options, ReadMode, SessionStore, Timestamp};

/// The limits of the stores under test: small, so that tests reach them.
pub const PAYLOAD_BYTES_MAX: u32 = 4_096;
pub const SESSIONS_MAX: u32 = 500;

/// A store, and the clock it goes by.
pub struct Tested {
    pub store: Arc<dyn SessionStore>,
    clock: Arc<ManualClock>,
}

impl Tested {
    /// Lets time pass.
    pub fn pass(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Lets time pass until it is `instant`.
    pub fn pass_until(&self, instant: Timestamp) {
        self.clock.advance(instant.saturating_since(self.clock.wall()));
    }

    /// Sets the wall clock as an administrator does.
    pub fn set_wall(&self, wall: Timestamp) {
        self.clock.set_wall(wall);
    }

    pub fn now(&self) -> Timestamp {
        self.clock.wall()
    }
}

/// How the stores in real folders read: mapped, or as `CLOAKROOM_READ_MODE` (`mapped` or `pread`) says, so that every test runs both ways.
pub fn read_mode() -> ReadMode {
    match std::env::var("CLOAKROOM_READ_MODE").as_deref() {
        Ok("pread") => ReadMode::Pread,
        Ok("mapped") | Err(_) => ReadMode::Mapped,
        Ok(other) => panic!("CLOAKROOM_READ_MODE is neither mapped nor pread: {other}"),
    }
}

/// The default options, with that read mode.
pub fn defaults() -> Options {
    Options { read_mode: read_mode(), ..Options::default() }
}

fn options() -> (Options, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let options = Options {
        segment_bytes: 1 << 20,
        payload_bytes_max: PAYLOAD_BYTES_MAX,
        sessions_max: SESSIONS_MAX,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        ..defaults()
    };
    (options, clock)
}

/// Runs a test on a store in memory.
pub async fn on_memory(test: impl AsyncFnOnce(&Tested)) {
    let (options, clock) = options();
    let store = Arc::new(MemoryStore::with_options(options).unwrap());
    let tested = Tested { store, clock };
    test(&tested).await;
    tested.store.close().await.unwrap();
}

/// Runs a test on a store in a folder of its own.
pub async fn on_log(test: impl AsyncFnOnce(&Tested)) {
    let folder = tempfile::tempdir().unwrap();
    let (options, clock) = options();
    let store = Arc::new(LogStore::open(folder.path(), options).await.unwrap());
    let tested = Tested { store, clock };
    test(&tested).await;
    tested.store.close().await.unwrap();
}

/// Waits for what a background thread does in real time; a store without one has done it already.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let mut beat = tokio::time::interval(Duration::from_millis(5));
    let watch = async {
        while !holds() {
            beat.tick().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), watch).await.is_ok(), "never came true: {what}");
}

/// Makes each of these tests one for every kind of store.
macro_rules! for_every_store {
    ($($test:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::stores::on_memory(super::$test).await;
            })+
        }
        mod log {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::stores::on_log(super::$test).await;
            })+
        }
    };
}
pub(crate) use for_every_store;
