//! The two ways to look at a store without changing it: a report of its damage, and an engine that serves what is proven.
//!
//! Invariant: no file is written, renamed or removed but the lock's, which is the disk's own. The lock is taken all the same: whoever writes
//! meanwhile would make damage of what is being read.

use std::sync::Arc;

use crate::clock::StoreClock;
use crate::disk::{Disk, NoFile};
use crate::error::OpenError;
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentKind};
use crate::id::SegmentId;
use crate::log::{Log, Segment, Table};
use crate::options::Options;

use super::assess::assess;
use super::catalog::Catalog;
use super::damage::Damage;
use super::open::{Recovery, Threads, lock, refuse_foreign};
use super::reserve::Reserve;
use super::{Engine, Opened};

/// What there is in a store's folder.
///
/// ```
/// use cloakroom::{LogStore, Options, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # LogStore::open(folder.path(), Options::default()).await?.close().await?;
/// let found = LogStore::verify(folder.path(), Options::default()).await?;
/// assert!(found.is_sound());
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Verification {
    /// Segments that count.
    pub segments: u64,
    /// Log records whose checksums hold.
    pub records: u64,
    /// Bytes of log that were read.
    pub bytes: u64,
    /// Live sessions that are proven: those that a salvage would keep, or an open find.
    pub sessions: u64,
    /// Live sessions of which something is there and too little is certain: a salvage would drop them.
    pub sessions_in_doubt: u64,
    /// Bytes of an unfinished end, which is no damage: the next open cuts it off.
    pub torn_bytes: u64,
    /// Log records that are missing, at the least.
    pub records_lost: u64,
    /// The first thousand places that are damaged.
    pub damage: Vec<Damage>,
    /// How many there are in all.
    pub damaged_places: u64,
}

impl Verification {
    /// Whether nothing is damaged: the store opens. What a crash has torn off its end is no damage, so look at
    /// [`torn_bytes`](Self::torn_bytes) too.
    ///
    /// ```
    /// # use cloakroom::{LogStore, Options};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// assert!(LogStore::verify(folder.path(), Options::default()).await?.is_sound());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged_places == 0
    }
}

/// Reads all that counts on `disk`. It waits for the disk.
pub(crate) fn verify(disk: &dyn Disk, options: &Options) -> Result<Verification, OpenError> {
    options.check()?;
    refuse_foreign(disk)?;
    let _lock = lock(disk)?;
    let mut found = assess(disk)?;
    let clock = StoreClock::start(Arc::clone(&options.clock), found.time, found.survey.manifest.doubted());
    let mut verification = Verification {
        segments: found.sources.len() as u64,
        records: found.records,
        bytes: found.bytes,
        torn_bytes: found.torn_bytes,
        records_lost: found.records_lost,
        damaged_places: found.survey.damages.count,
        damage: std::mem::take(&mut found.survey.damages.places),
        ..Verification::default()
    };
    let proven = found.prove(clock.mark());
    verification.sessions = proven.index.live_len(clock.mark()) as u64;
    verification.sessions_in_doubt = proven.dropped;
    Ok(verification)
}

/// Opens what is proven on `disk`, to be read. It waits for the disk.
pub(crate) fn open_read_only(
    disk: &Arc<dyn Disk>,
    options: Options,
    threads: Threads,
) -> Result<Arc<Engine>, OpenError> {
    options.check()?;
    let started = options.clock.uptime();
    refuse_foreign(&**disk)?;
    let lock = lock(&**disk)?;
    let found = assess(&**disk)?;
    let manifest = found.survey.manifest.clone();
    let clock = Arc::new(StoreClock::start(Arc::clone(&options.clock), found.time, manifest.doubted()));
    let table = Table::default();
    for source in found.sources.iter().filter(|source| source.end > SEGMENT_HEADER_BYTES) {
        let file = disk.open(&source.file).map_err(OpenError::io(format!("open {}", source.file)))?;
        // Through the file and not a map: where a device cannot read, a map would end the process.
        table.put(&Arc::new(Segment::to_read(source.header, file, source.end)));
    }
    let header =
        SegmentHeader { kind: SegmentKind::Stream, store: manifest.store, id: SegmentId(u32::MAX), salt: 0 };
    let nowhere = Arc::new(Segment::to_read(header, Arc::new(NoFile), SEGMENT_HEADER_BYTES));
    let room = options.unwritten_bytes_max;
    let log = Log::new(Arc::clone(&clock), nowhere, found.next_seq, options.segment_bytes, room);
    let mut recovery = Recovery {
        records: found.records,
        bytes: found.bytes,
        torn_bytes: found.torn_bytes,
        ..Recovery::default()
    };
    let proven = found.prove(clock.mark());
    recovery.sessions = proven.index.live_len(clock.mark()) as u64;
    recovery.sessions_in_doubt = proven.dropped;
    recovery.took = options.clock.uptime().saturating_sub(started);
    let catalog = Catalog::new(Arc::clone(disk), manifest);
    let (disk, reserve) = (Arc::clone(disk), Reserve::missing(Arc::clone(disk), 0));
    let (index, chores, lock) = (proven.index, Vec::new(), Some(lock));
    let opened =
        Opened { options, disk, clock, index, log, table, catalog, reserve, chores, lock, recovery, threads };
    let engine = Arc::new(opened.engine(true));
    Engine::run(&engine).map_err(OpenError::io("start the threads of the store"))?;
    Ok(engine)
}
