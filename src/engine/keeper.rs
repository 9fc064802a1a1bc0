//! What goes on behind the operations: segments to come, segments to seal, expiry, compaction; the threads that do it; the end.
//!
//! Every step is a plain function that any thread may call; the threads only decide when. A failure of a step is told by the log's poison or
//! by a warning, and the next round tries again: no thread ends because a step failed.
//!
//! # The order in which a segment comes to be
//!
//! File with its space and header, synced; folder synced; manifest with the segment, durable; only then may the stream write to
//! it. A crash in between leaves a file that no list names: an orphan, removed by the next open.
//!
//! # The order in which one is sealed
//!
//! Every byte synced (the durable position is in a later segment); then length and checksum go into the manifest. A crash in
//! between leaves it listed without a seal, and recovery reads it as part of the stream. Its unused end is cut off then; a footer
//! may be put there later.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::format::{SEGMENT_HEADER_BYTES, SegmentKind, segment_name};
use crate::log::{STREAM_BYTES_MIN, Segment};
use crate::options::ReadMode;
use crate::sync::atomic::Ordering;
use crate::sync::spawn;

use super::catalog::Unchanged;
use super::{Engine, Threads};

/// How often the keeper looks around when nothing wakes it: expiry is late in memory by little more, but for what sweeps take, never in what a read answers.
const ROUND: Duration = Duration::from_millis(100);

/// How often compaction looks for work when nothing wakes it.
pub(super) const COMPACTION_ROUND: Duration = Duration::from_millis(500);

/// Threads for cold reads: more than one, so that one slow read does not stop all.
const READERS: usize = 2;

/// A part of the background work, as one of a store's threads does it; a simulation chooses their order.
///
/// ```
/// use cloakroom::{LogStore, Options, Work, disk::sim::SimDisk};
/// let store = LogStore::open_by_hand(std::sync::Arc::new(SimDisk::new(1)), Options::default())?;
/// Work::ALL.into_iter().for_each(|work| store.work(work)); // a step
/// # Ok::<(), cloakroom::OpenError>(())
/// ```
#[cfg(feature = "sim")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Segments to come and to seal; expiry.
    Keep,
    /// One run of compaction.
    Compact,
    /// All that is staged goes to the kernel.
    Write,
    /// All that is written goes to the device.
    Sync,
}

#[cfg(feature = "sim")]
impl Work {
    /// In the order of a step.
    ///
    /// ```
    /// assert_eq!(cloakroom::Work::ALL.len(), 4);
    /// ```
    pub const ALL: [Self; 4] = [Self::Keep, Self::Compact, Self::Write, Self::Sync];
}

impl Engine {
    /// Starts the threads, each of which keeps the engine until its end.
    pub(super) fn run(engine: &Arc<Self>) -> io::Result<()> {
        if engine.threads == Threads::None {
            return Ok(());
        }
        let started = Self::start_threads(engine);
        if started.is_err() {
            engine.stop_threads();
        }
        started
    }

    fn start_threads(engine: &Arc<Self>) -> io::Result<()> {
        let start = |name, life: fn(&Self)| {
            let engine = Arc::clone(engine);
            spawn(name, move || engine.live_through(life).unwrap_or_default())
        };
        let mut threads = vec![
            start("writer", |engine| engine.log.run_writer())?,
            start("syncer", |engine| engine.log.run_syncer())?,
            start("compactor", Self::run_compactor)?,
        ];
        for _ in 0..READERS {
            threads.push(start("reader", |engine| engine.readers.run())?);
        }
        let keeper = Arc::clone(engine);
        spawn("keeper", move || {
            keeper.live_through(Self::run_keeper);
            while !keeper.stopping.load(Ordering::Acquire) {
                keeper.log.turned.wait(ROUND);
            }
            for thread in threads {
                // A thread that panicked has said so already; the end goes on without it.
                let _ = thread.join();
            }
            keeper.finish();
        })?;
        Ok(())
    }

    /// Lives a thread's life; one that panics ends the writing, since what it was about to do is not known, and no waiter waits for ever.
    fn live_through<T>(&self, life: impl FnOnce(&Self) -> T) -> Option<T> {
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| life(self))).ok();
        if lived.is_none() {
            self.log.poison("a thread of the store panicked", Vec::new());
        }
        lived
    }

    fn run_keeper(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            self.keep();
            self.log.turned.wait(ROUND);
        }
    }

    fn run_compactor(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            let mut more = true;
            while more && !self.stopping.load(Ordering::Acquire) {
                // By turns: the checks behind an open take as long as reading all there is.
                let did = self.next_chore();
                more = self.compact() || did;
            }
            self.compactor.wait(COMPACTION_ROUND);
        }
    }

    /// Lets compaction rest, but not on a thread of a caller.
    pub(super) fn pause_compaction(&self, for_long: Duration) {
        if self.threads == Threads::Own {
            self.pause.wait(for_long);
        }
    }

    /// One round of the keeper.
    fn keep(&self) {
        self.table.bury();
        if self.is_read_only || self.log.poisoned().is_some() {
            return;
        }
        self.provide();
        self.sweep_revoked(|| self.provide_if_needed());
        // By a time that may be wrong nobody is ended for good: reads leave them out, and that is all.
        if !self.clock.is_doubtful() {
            self.expire();
        }
        if self.time_is_due.swap(false, Ordering::Relaxed) && self.log.mark_time().is_err() {
            self.time_is_due.store(true, Ordering::Relaxed);
        }
        self.log.mark();
    }

    /// Many may end at once, and writes need the next segment meanwhile.
    pub(super) fn provide_if_needed(&self) {
        if self.log.is_spare_due() {
            self.provide();
        }
    }

    /// Seals what the stream has left, and makes the segment it will need next.
    pub(super) fn provide(&self) {
        let mut to_seal = self.to_seal.lock();
        to_seal.extend(self.log.take_left());
        let reserve = self.reserve.hold(&self.catalog);
        let spare = self.log.needs_spare().and_then(|least| self.make_spare(reserve, least));
        if to_seal.is_empty() && spare.is_none() {
            return;
        }
        let changed = self.catalog.change(self.clock.mark(), self.log.last_seq(), |manifest| {
            manifest.durable = self.log.durable().pack();
            for segment in &*to_seal {
                if let Some(listed) = manifest.find(segment.id()) {
                    listed.seal = Some(segment.seal());
                }
            }
            manifest.segments.extend(spare.iter().map(|s| s.listed(None)));
        });
        match changed {
            Ok(()) => {
                for sealed in &*to_seal {
                    // A record that did not fit left room behind: over many segments that is more than the disk may be used for.
                    if let Err(e) = sealed.trim() {
                        tracing::debug!(error = %e, segment = %sealed.id(), "the unused end of a segment stays until the next open");
                    }
                    sealed.warm_up();
                }
                self.want_footers(to_seal.drain(..));
                if let Some(spare) = spare {
                    self.table.put(&spare);
                    self.log.give_spare(spare);
                }
                self.balance_warmth();
                self.compactor.raise();
            }
            Err(failed) => {
                if let Some(spare) = spare {
                    if matches!(failed, Unchanged::Kept(_)) {
                        // It was never listed; if it cannot be removed now, the next open does it.
                        drop(self.disk.remove(&segment_name(spare.id())));
                    }
                    self.log.no_spare(io::Error::new(failed.kind(), "the manifest could not be replaced"));
                }
                self.catalog_failed(failed);
            }
        }
    }

    /// A segment with its space, durable and not listed yet, of `least` bytes or more.
    fn make_spare(&self, reserve: io::Result<()>, least: u32) -> Option<Arc<Segment>> {
        let (store, mapped) = (self.catalog.store(), self.options.read_mode == ReadMode::Mapped);
        let (id, folder) = (self.catalog.take_id(), &*self.disk);
        // The reserve comes first: what it was lent for must be possible again before there is more to compact.
        let made = reserve.and_then(|()| {
            Segment::create_stream(folder, id, store, self.options.segment_bytes, least, mapped)
        });
        let is_full = |e: &io::Error| e.kind() == io::ErrorKind::StorageFull;
        let made = match made {
            Err(e) if is_full(&e) && self.only_active_is_worth_it() && self.reserve.spare_some() => {
                Segment::create(folder, id, SegmentKind::Stream, store, STREAM_BYTES_MIN, mapped)
            }
            made => made,
        };
        match made {
            Ok(spare) => match self.catalog.sync_folder() {
                Ok(()) => return Some(spare),
                Err(e) => self.log.poison(&format!("syncing the folder failed: {e}"), Vec::new()),
            },
            Err(e) => {
                self.catalog.give_back(id);
                tracing::warn!(error = %e, "the next log segment could not be made; it is tried again");
                self.log.no_spare(e);
                self.compactor.raise();
            }
        }
        None
    }

    /// All the work there is, done by the caller: for a store without threads. What is staged is written last, since threads may
    /// compact while records wait to be written, and a simulation should meet the worst that they can do.
    #[cfg(feature = "sim")]
    pub(crate) fn step(&self) {
        for work in Work::ALL {
            self.work(work);
        }
    }

    #[cfg(feature = "sim")]
    pub(crate) fn work(&self, work: Work) {
        match work {
            Work::Keep => self.keep(),
            Work::Compact => drop((self.next_chore(), self.compact())),
            Work::Write => while self.log.write_next() {},
            Work::Sync => drop(self.log.sync_next()),
        }
    }

    /// Takes no more operations and ends the threads; the last one finishes. Returns at once.
    pub(crate) fn begin_close(&self) {
        self.log.close();
        self.stop_threads();
        if self.threads == Threads::None {
            self.finish();
        }
    }

    fn stop_threads(&self) {
        self.stopping.store(true, Ordering::Release);
        self.log.stop();
        self.readers.stop();
        self.compactor.raise();
        self.pause.raise();
        self.log.turned.raise();
    }

    /// Waits until a close that has begun is over.
    pub(crate) async fn closed(&self) -> Result<(), Error> {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Ok(())),
            Err(_) => Err(Error::Closed),
        }
    }

    /// Writes and syncs what is staged, seals the last segment, and frees the folder. Once; and whoever waits for it is told, whatever happens.
    fn finish(&self) {
        let Some(lock) = self.lock.lock().take() else { return };
        let unknown = || Err(Error::DurabilityUnknown { cause: "a thread of the store panicked".into() });
        let end = self.live_through(Self::write_the_rest).unwrap_or_else(unknown);
        drop(lock);
        self.listeners.close();
        self.ended.send_replace(Some(end));
    }

    fn write_the_rest(&self) -> Result<(), Error> {
        while self.log.write_next() {}
        self.log.sync_next();
        if let Some(cause) = self.log.poisoned() {
            return Err(Error::DurabilityUnknown { cause });
        }
        if !self.is_read_only {
            self.seal_all();
        }
        Ok(())
    }

    /// Lists everything as sealed: the next open has nothing to write again.
    fn seal_all(&self) {
        self.reserve.remove();
        let spare = self.log.take_spare();
        let active = self.log.active();
        let mut left = std::mem::take(&mut *self.to_seal.lock());
        left.extend(self.log.take_left());
        let empty = active.written() <= SEGMENT_HEADER_BYTES;
        if !empty {
            left.push(Arc::clone(&active));
        }
        let unused: Vec<_> = spare.iter().chain(empty.then_some(&active)).map(|s| s.id()).collect();
        let changed = self.catalog.change(self.clock.mark(), self.log.last_seq(), |manifest| {
            manifest.durable = self.log.durable().pack();
            for segment in &left {
                if let Some(listed) = manifest.find(segment.id()) {
                    listed.seal = Some(segment.seal());
                }
            }
            manifest.segments.retain(|listed| !unused.iter().any(|id| id.0 == listed.id));
        });
        if let Err(failed) = changed {
            // Everything is synced; the next open reads the segment as the stream's end.
            self.catalog_failed(failed);
            return;
        }
        for id in unused {
            if let Err(e) = self.disk.remove(&segment_name(id)) {
                tracing::debug!(error = %e, segment = %id, "an empty segment stays until the next open");
            }
        }
        if !empty && let Err(e) = active.trim() {
            tracing::debug!(error = %e, "the unused end of the last segment stays until the next open");
        }
        self.want_footers(left);
        self.put_footers();
    }
}
