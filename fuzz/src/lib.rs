//! What the targets share: a measure of memory, a store without threads that is asked by hand, and a whole store to be damaged.
//!
//! No target is in here. Everything that a target does follows from its input, but for keys, salts and ids that are the system's random numbers.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Lifetime, LogStore, ManualClock, OpenError, Options, OwnerKey, SessionId, SessionKey, SessionStore,
    Timestamp, Whose,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Rounds of background work after which an answer must be there.
const STEPS_MAX: usize = 100;

const HOUR: Lifetime = Lifetime::idle(Duration::from_secs(3_600));

/// Runs `work`, and fails if at any moment it held more than `per_byte` times `len` and `fixed` bytes. A vector that grows counts twice
/// while it is moved.
#[track_caller]
pub fn bounded<T>(len: usize, per_byte: usize, fixed: usize, work: impl FnOnce() -> T) -> T {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let done = work();
    let taken = MEMORY.peak_usage().saturating_sub(before);
    let allowed = len * per_byte + fixed;
    assert!(taken <= allowed, "{len} bytes took {taken} of memory, over {allowed}");
    done
}

/// The answer of an operation, after as much background work as it needs.
#[track_caller]
pub fn ask<T>(store: &LogStore, answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    for _ in 0..STEPS_MAX {
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => store.step(),
        }
    }
    panic!("no answer after {STEPS_MAX} rounds of background work");
}

/// Small segments, and a clock that stands still.
pub fn options() -> Options {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000_000)));
    Options {
        segment_bytes: 64 << 10,
        footers_from: 0,
        payload_bytes_max: 4 << 10,
        unwritten_bytes_max: 64 << 10,
        clock,
        ..Options::default()
    }
}

/// Opens a store by a handle of its own, which dies with the power.
pub fn open(disk: &SimDisk, options: Options) -> Result<LogStore, OpenError> {
    LogStore::open_by_hand(Arc::new(disk.clone()), options)
}

/// All that the files of a disk hold, in bytes.
pub fn bytes_of(disk: &SimDisk) -> usize {
    disk.names().iter().filter_map(|name| disk.contents(name)).map(|bytes| bytes.len()).sum()
}

/// A disk with a whole store.
pub struct Whole {
    pub disk: SimDisk,
    /// What each key must read as.
    pub sessions: Vec<(SessionKey, Option<Vec<u8>>)>,
}

impl Whole {
    /// Of so many sessions, of which every third was deleted, every fifth rotated away; some had their lives shortened, some have
    /// owners, one of whom was revoked. It was closed, or
    /// its power was lost behind a flush and a mark.
    pub fn new(sessions: u32, closed: bool) -> Self {
        let disk = SimDisk::new(1);
        let store = open(&disk, options()).expect("it is new");
        let mut known = Vec::new();
        for n in 0..sessions {
            let (key, payload) = (SessionKey::of(&n.to_le_bytes()), n.to_le_bytes().repeat(300));
            ask(&store, store.create_as(key, payload.clone().into(), HOUR)).expect("there is room");
            if n % 7 == 0 {
                let shorter = Lifetime::absolute(Duration::from_secs(600));
                ask(&store, store.set_lifetime(key, shorter)).expect("it is there");
            }
            if n % 4 == 1 {
                let owner = OwnerKey::of(if n % 8 == 1 { b"stays" } else { b"signs out everywhere" });
                ask(&store, store.bind(key, Some(owner))).expect("it is there");
            }
            let mut ends = n % 3 == 0;
            if ends {
                ask(&store, store.delete(key)).expect("it is there");
            } else if n % 5 == 0 {
                let id: Option<SessionId> = ask(&store, store.rotate(key)).expect("it is there");
                known.push((id.expect("it is live").key(), (n % 8 != 5).then(|| payload.clone())));
                ends = true;
            }
            known.push((key, (!ends && n % 8 != 5).then_some(payload)));
        }
        let owner = OwnerKey::of(b"signs out everywhere");
        ask(&store, store.revoke(Whose::Owner(owner), None)).expect("there is room");
        // Behind it stands more than one block, or a single damage could take the revocation and the mark that tells of it.
        let (key, payload) = (SessionKey::of(b"last"), vec![7; 1_200]);
        ask(&store, store.create_as(key, payload.clone().into(), HOUR)).expect("there is room");
        known.push((key, Some(payload)));
        ask(&store, store.flush()).expect("the disk is whole");
        (0..5).for_each(|_| store.step());
        if closed {
            ask(&store, store.close()).expect("the disk is whole");
        } else {
            disk.crash();
        }
        Self { disk, sessions: known }
    }
}
