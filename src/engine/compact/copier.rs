//! Writing what compaction keeps, by expiry class and slowly enough to leave the disk to others.
//!
//! Decides nothing about what lives. What it writes means nothing until a manifest lists it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::engine::reserve::Held;
use crate::format::{Body, RecordHeader, SegmentKind};
use crate::id::{Address, SegmentId, Seq};
use crate::index::Entry;
use crate::log::{CopyWriter, Segment, copy_bytes};
use crate::options::ReadMode;
use crate::sync::atomic::Ordering;

/// Copies are synced each time this much was written, so that no sync is long.
const SYNC_BYTES: u64 = 8 << 20;

/// Sessions that end within the same of these go into one segment, so that it tends to die whole.
const CLASSES: [Duration; 3] =
    [Duration::from_secs(3_600), Duration::from_secs(24 * 3_600), Duration::from_secs(7 * 24 * 3_600)];

/// A record to be copied.
pub(super) struct Survivor<'a> {
    pub(super) header: RecordHeader,
    pub(super) body: Body<'a>,
    /// Where it stands.
    pub(super) from: Address,
    pub(super) what: What,
}

/// What a record is to the index.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// What the index knew of its session when it was read.
    Content(Entry),
    Touch,
    /// A tombstone or a revocation.
    Tombstone,
}

/// Where a survivor went.
pub(super) struct Moved {
    pub(super) header: RecordHeader,
    pub(super) from: Address,
    pub(super) to: Address,
    pub(super) what: What,
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Go,
    /// The store is to end.
    Stop,
}

/// The copies of one run.
pub(super) struct Copier<'a> {
    engine: &'a Engine,
    /// When it began: what class a record is of does not change on the way.
    began: Timestamp,
    /// What is still to come of each class, about.
    expected: [u64; CLASSES.len() + 1],
    /// All go into one segment, which is the reserve.
    on_reserve: bool,
    classes: [Option<CopyWriter>; CLASSES.len() + 1],
    /// Every segment that was begun, for who cleans up.
    made: &'a mut Vec<SegmentId>,
    full: Vec<Arc<Segment>>,
    moved: Vec<Moved>,
    unsynced: u64,
}

impl<'a> Copier<'a> {
    pub(super) fn new(engine: &'a Engine, on_reserve: bool, made: &'a mut Vec<SegmentId>) -> Self {
        let (full, moved) = (Vec::new(), Vec::new());
        Self {
            engine,
            began: engine.clock.now(),
            expected: Default::default(),
            on_reserve,
            classes: Default::default(),
            made,
            full,
            moved,
            unsynced: 0,
        }
    }

    /// Says what is to come of one segment, and about how many bytes later: a segment is begun with room for what its class has of both. Of what comes
    /// later each class is taken to have the same part as of this, so that where they are mixed no more is set aside in all than is to come.
    pub(super) fn expect(&mut self, survivors: &[Survivor<'_>], later: u64) {
        let mut here = [0; CLASSES.len() + 1];
        for survivor in survivors {
            here[self.class(&survivor.header)] += u64::from(survivor.header.len());
        }
        let all = here.iter().sum::<u64>().max(1);
        let share = |bytes: u64| u128::from(later) * u128::from(bytes) / u128::from(all);
        self.expected =
            here.map(|bytes| bytes.saturating_add(u64::try_from(share(bytes)).unwrap_or(u64::MAX)));
    }

    fn class(&self, header: &RecordHeader) -> usize {
        let left = header.deadlines.expires_at.saturating_since(self.began);
        CLASSES.iter().position(|end| left <= *end && !self.on_reserve).unwrap_or(CLASSES.len())
    }

    pub(super) fn push(&mut self, survivor: &Survivor<'_>) -> io::Result<Pace> {
        let Survivor { header, body, from, what } = *survivor;
        let class = self.class(&header);
        let mut writer = match self.classes[class].take() {
            Some(writer) if writer.has_room(header.len()) => writer,
            Some(full) => {
                self.full.push(full.finish()?);
                self.begin(class, header.len())?
            }
            None => self.begin(class, header.len())?,
        };
        let (to, written) = writer.push(&header, &body)?;
        self.expected[class] = self.expected[class].saturating_sub(header.len().into());
        self.moved.push(Moved { header, from, to, what });
        self.unsynced += written as u64;
        if self.unsynced >= SYNC_BYTES {
            writer.sync()?;
            self.unsynced = 0;
        }
        self.classes[class] = Some(writer);
        Ok(if written > 0 { self.pause(written as u64) } else { Pace::Go })
    }

    /// Where everything went, and the segments that took it, synced but for the folder.
    pub(super) fn finish(mut self) -> io::Result<(Vec<Moved>, Vec<Arc<Segment>>)> {
        for writer in self.classes.into_iter().flatten() {
            self.full.push(writer.finish()?);
        }
        Ok((self.moved, self.full))
    }

    /// Begins a segment with room for a record of `len` bytes and what else is expected of its class.
    fn begin(&mut self, class: usize, len: u32) -> io::Result<CopyWriter> {
        let Engine { disk, options, catalog, clock, reserve, .. } = self.engine;
        let bytes = copy_bytes(self.expected[class].max(len.into()));
        let capacity = u32::try_from(bytes).unwrap_or(u32::MAX).min(options.segment_bytes);
        let (store, mapped) = (catalog.store(), options.read_mode == ReadMode::Mapped);
        let began = (clock.mark(), Seq(self.engine.log.last_seq().0 + 1));
        if self.on_reserve
            && let Some(Held { id, file, bytes }) = reserve.lend(catalog)?
        {
            self.made.push(id);
            let segment = Segment::create_in(&**disk, file, id, SegmentKind::Copy, store, bytes, mapped)?;
            return Ok(CopyWriter::begin(segment, began));
        }
        let id = catalog.take_id();
        self.made.push(id);
        CopyWriter::create(&**disk, id, store, capacity, mapped, began)
    }

    /// Waits as long as `bytes` may take.
    fn pause(&self, bytes: u64) -> Pace {
        let engine = self.engine;
        let per_second = u128::from(engine.options.compaction_bytes_per_second);
        let nanos = u128::from(bytes) * 1_000_000_000 / per_second;
        engine.pause_compaction(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        if engine.stopping.load(Ordering::Acquire) { Pace::Stop } else { Pace::Go }
    }
}
