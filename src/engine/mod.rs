//! The only place where log, index and clock meet.
//!
//! | module | does |
//! |---|---|
//! | `open`, `recover` | folder to engine: lock, manifest, replay, torn end |
//! | `survey`, `assess` | what of a damaged folder is certain |
//! | `verify`, `salvage`, `damage` | a report of it, an engine that only reads it, a repair |
//! | `write`, `read` | the operations |
//! | `expire` | sessions whose time has come, and the tombstones that some need |
//! | `owners` | binding a session to its owner, and ending all of an owner's |
//! | `owned` | the sessions of an owner: listed, counted, and not more than they may have |
//! | `compact` | `plan`: which segments; `run`: copy the living, publish, unlink |
//! | `keeper` | segments to come and segments to seal; the threads; the end |
//! | `footers`, `chores` | what spares the next open the reading of whole segments, and the check behind it |
//! | `catalog` | the manifest |
//! | `reserve` | space for compaction when there is no other |
//! | `readers` | threads that wait for the disk, so that no async worker does |
//!
//! # Order of locks
//!
//! An owner's turn, then a shard, then the revocations, then the staging lock of the log. Those of the background alone are a compaction's turn or the
//! segments to seal, then the reserve, then the catalog: these are held over calls of the disk, and nobody who serves an operation takes one. No lock is held
//! over an await.
//!
//! # Why memory and log agree
//!
//! A write stages its record and changes the slot under one hold of the shard's lock. So for each key the order of sequence
//! numbers is the order of the changes in memory, and replaying records by number gives what memory had.

mod assess;
mod catalog;
mod chores;
mod compact;
mod damage;
mod expire;
mod fold;
mod footers;
mod keeper;
mod open;
mod owned;
mod owners;
mod read;
mod readers;
mod recover;
mod reserve;
mod salvage;
mod survey;
mod turns;
mod verify;
mod write;

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::StoreClock;
use crate::contract::Stats;
use crate::disk::Disk;
use crate::error::Error;
use crate::events::Listeners;
use crate::id::SegmentId;
use crate::index::Index;
use crate::log::{Log, Refused, Segment, Table};
use crate::options::Options;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, Signal};

use catalog::Catalog;
use footers::Chore;
use readers::Readers;
use reserve::Reserve;
use turns::Turns;

pub use damage::Damage;
#[cfg(feature = "sim")]
pub use keeper::Work;
pub use open::Recovery;
pub(crate) use open::{Threads, open};
pub use salvage::Salvaged;
pub(crate) use salvage::salvage;
pub use verify::Verification;
pub(crate) use verify::{open_read_only, verify};

/// Counters of an engine, each on its own: they say nothing of one another.
#[derive(Default)]
struct Counters {
    expired: AtomicU64,
    revoked: AtomicU64,
    evicted: AtomicU64,
    touches: AtomicU64,
    touches_logged: AtomicU64,
    compacted_bytes: AtomicU64,
}

/// A store that is open.
pub(crate) struct Engine {
    options: Options,
    disk: Arc<dyn Disk>,
    clock: Arc<StoreClock>,
    index: Index,
    log: Log,
    table: Table,
    catalog: Catalog,
    readers: Readers,
    counters: Counters,
    pub(crate) listeners: Listeners,
    /// Of those who give an owner a session.
    turns: Turns,
    /// Segments that the stream has left and the catalog does not list as sealed yet.
    to_seal: Mutex<Vec<Arc<Segment>>>,
    /// Sealed segments that want a footer, or a check; the last one comes first.
    chores: Mutex<Vec<Chore>>,
    /// Segments that were found damaged while the store is open: they are kept as they are.
    damaged: Mutex<Vec<SegmentId>>,
    /// Segments that compaction could not read: they are left alone until there is nothing else to compact.
    unread: Mutex<Vec<SegmentId>>,
    /// Files that no list names and that could not be removed. Their ids were given, and are not given again in this life.
    left_behind: Mutex<Vec<SegmentId>>,
    /// Sessions ended since the last group said what time it is.
    time_is_due: AtomicBool,
    /// The latest time by which somebody has ended, in milliseconds since 1970.
    ended_by: AtomicU64,
    /// Held while segments are compacted: one run at a time.
    compacting: Mutex<()>,
    /// Space that a compaction gets when there is no other.
    reserve: Reserve,
    /// Wakes compaction.
    compactor: Signal,
    /// Ends a pause of compaction.
    pause: Signal,
    stopping: AtomicBool,
    /// Nothing is written, whoever asks.
    is_read_only: bool,
    /// The lock of the folder, until the end.
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
    /// How it ended, once it has.
    ended: watch::Sender<Option<Result<(), Error>>>,
    recovery: Recovery,
    threads: Threads,
}

/// What an open comes to.
struct Opened {
    options: Options,
    disk: Arc<dyn Disk>,
    clock: Arc<StoreClock>,
    index: Index,
    log: Log,
    table: Table,
    catalog: Catalog,
    reserve: Reserve,
    chores: Vec<Chore>,
    /// `None` while who opens it holds it.
    lock: Option<Box<dyn Send + Sync>>,
    recovery: Recovery,
    threads: Threads,
}

impl Opened {
    fn engine(self, is_read_only: bool) -> Engine {
        let Self {
            options,
            disk,
            clock,
            index,
            log,
            table,
            catalog,
            reserve,
            chores,
            lock,
            recovery,
            threads,
        } = self;
        Engine {
            options,
            disk,
            clock,
            index,
            log,
            table,
            catalog,
            readers: Readers::new(threads == Threads::Own),
            counters: Counters::default(),
            listeners: Listeners::default(),
            turns: Turns::default(),
            to_seal: Mutex::default(),
            chores: Mutex::new(chores),
            damaged: Mutex::default(),
            unread: Mutex::default(),
            left_behind: Mutex::default(),
            time_is_due: AtomicBool::new(false),
            ended_by: AtomicU64::new(0),
            compacting: Mutex::new(()),
            reserve,
            compactor: Signal::default(),
            pause: Signal::default(),
            stopping: AtomicBool::new(false),
            is_read_only,
            lock: Mutex::new(lock),
            ended: watch::Sender::new(None),
            recovery,
            threads,
        }
    }
}

impl Engine {
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn recovery(&self) -> Recovery {
        self.recovery
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn stats(&self) -> Stats {
        let (records, record_bytes) = self.log.staged();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let live = self.index.live_bytes();
        let list = self.table.load();
        let mut stats = Stats {
            sessions: self.index.len() as u64,
            expired: count(&self.counters.expired),
            revoked: count(&self.counters.revoked),
            evicted: count(&self.counters.evicted),
            touches: count(&self.counters.touches),
            touches_logged: count(&self.counters.touches_logged),
            records,
            record_bytes,
            groups: count(&self.log.groups),
            syncs: count(&self.log.syncs),
            compacted_bytes: count(&self.counters.compacted_bytes),
            segments: list.len() as u64,
            damaged_segments: self.damaged.lock().len() as u64,
            index_bytes: self.index.memory_bytes() as u64,
            ..Stats::default()
        };
        stats.log_bytes = list.iter().map(|s| s.disk_bytes()).sum();
        stats.live_bytes = list.iter().filter_map(|s| live.get(&s.id())).sum();
        stats
    }

    fn found_damaged(&self, id: SegmentId) {
        let mut damaged = self.damaged.lock();
        if !damaged.contains(&id) {
            damaged.push(id);
        }
    }

    /// A write to the list of segments failed.
    fn catalog_failed(&self, failed: catalog::Unchanged) {
        match failed {
            catalog::Unchanged::Kept(e) => {
                tracing::warn!(error = %e, "the manifest could not be replaced; it is tried again");
            }
            catalog::Unchanged::Unknown(e) => {
                self.log.poison(&format!("replacing the manifest failed: {e}"), Vec::new());
            }
        }
    }

    /// Keeps as many sealed segments mapped as the options allow, the newest first.
    fn balance_warmth(&self) {
        let mut left = self.options.warm_bytes_max;
        let list = Arc::clone(&self.table.load());
        // A segment that may still be written to stays as it is: a copy of it would not know how far it is written.
        let sealed: Vec<_> =
            self.catalog.read(|m| m.segments.iter().filter(|s| s.seal.is_some()).map(|s| s.id).collect());
        let is_sealed = |s: &&Arc<Segment>| sealed.binary_search(&s.id().0).is_ok();
        for segment in list.iter().rev().filter(|s| s.is_mapped()).filter(is_sealed) {
            let bytes = u64::from(segment.written());
            if bytes <= left {
                left -= bytes;
            } else {
                self.table.replace(&Arc::new(segment.unmapped()));
            }
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            // Every caller that can wait does; who cannot is told what a full disk would tell.
            Refused::Wait => Self::DiskFull,
            Refused::NoSegment(e) if e.kind() == std::io::ErrorKind::StorageFull => Self::DiskFull,
            Refused::NoSegment(source) => Self::Io { action: "make the next log segment".into(), source },
            Refused::Closed => Self::Closed,
            Refused::Poisoned(cause) => Self::Poisoned { cause },
        }
    }
}
