//! The stream: records are staged by any thread, written by one, synced by another. The head of [`log`](super) has the argument.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot};

use crate::clock::{Deadline, StoreClock, Timestamp};
use crate::format::{Body, GROUP_HEADER_BYTES, RecordHeader};
use crate::id::{Address, Position, Seq};
use crate::options::Durability;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, Signal};

use super::outcome::{Outcome, Refused};
use super::room::Room;
use super::segment::Segment;
use super::staging::{Group, Staged, Staging, State, Waiters};

/// How long records that nobody waits for may gather before they are written.
const GATHER: Duration = Duration::from_millis(10);

/// A segment that could not be made is not tried again before this, though a sweep asks between all its slices.
const SPARE_RETRY: Duration = Duration::from_millis(100);

/// What is written and not yet synced.
#[derive(Default)]
struct Unsynced {
    segments: Vec<Arc<Segment>>,
    upto: Option<Position>,
    waiters: Vec<oneshot::Sender<Outcome>>,
    /// When the soonest interval of a member is over.
    due: Option<Deadline>,
}

/// The stream of groups that is being written.
pub(crate) struct Log {
    clock: Arc<StoreClock>,
    staging: Mutex<Staging>,
    /// Wakes the writer; with `staging`.
    work: Condvar,
    /// Held by whoever writes a group: one after another; whether a write has failed, or is under way.
    writing: Mutex<bool>,
    unsynced: Mutex<Unsynced>,
    /// Wakes the syncer; with `unsynced`.
    sync_work: Condvar,
    /// Held by whoever syncs; whether a sync has failed, or is under way.
    syncing: Mutex<bool>,
    /// The position up to which everything is synced: segment in the high half, offset in the low.
    durable: AtomicU64,
    /// The time of the last group, in milliseconds since 1970; 0 before there is one.
    time: AtomicU64,
    /// Bytes that may still be staged before some are written.
    room: Semaphore,
    /// Tells those who wait for the next segment.
    space: Notify,
    /// Tells the keeper that the stream went on to another segment.
    pub(crate) turned: Signal,
    stopping: AtomicBool,
    pub(crate) groups: AtomicU64,
    pub(crate) syncs: AtomicU64,
}

impl Log {
    /// The stream goes on in `active`, which is empty and listed.
    pub(crate) fn new(
        clock: Arc<StoreClock>,
        active: Arc<Segment>,
        next_seq: Seq,
        segment_bytes: u32,
        room_bytes: u32,
    ) -> Self {
        let start = Position { segment: active.id(), offset: active.written() };
        Self {
            clock,
            staging: Mutex::new(Staging::new(active, next_seq, segment_bytes)),
            work: Condvar::new(),
            writing: Mutex::new(false),
            unsynced: Mutex::default(),
            sync_work: Condvar::new(),
            syncing: Mutex::new(false),
            durable: AtomicU64::new(start.pack()),
            time: AtomicU64::new(0),
            room: Semaphore::new(room_bytes as usize),
            space: Notify::new(),
            turned: Signal::default(),
            stopping: AtomicBool::new(false),
            groups: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        }
    }

    /// Waits until `bytes` more may be staged; they are given back when they are written, or when the permit is dropped.
    pub(crate) async fn room(&self, bytes: u32) -> Result<Room<'_>, Refused> {
        let permit = self.room.acquire_many(bytes).await;
        permit.map(|p| Room(Some(p))).map_err(|_| self.check_open().err().unwrap_or(Refused::Closed))
    }

    /// The same without waiting.
    pub(crate) fn room_now(&self, bytes: u32) -> Option<Room<'_>> {
        self.room.try_acquire_many(bytes).ok().map(|permit| Room(Some(permit)))
    }

    /// Ready when a segment has come since it was made; make it before trying.
    pub(crate) fn space(&self) -> tokio::sync::futures::Notified<'_> {
        self.space.notified()
    }

    /// Stages a record that `room` was got for, and uses as much of it up; a refused one leaves it for another try.
    pub(crate) fn stage(
        &self,
        header: &mut RecordHeader,
        body: &Body<'_>,
        durability: Durability,
        room: &mut Room<'_>,
    ) -> Result<Staged, Refused> {
        let mut staging = self.staging.lock();
        let (was_empty, was_urgent) = (!staging.has_work(), staging.is_urgent());
        let needed = staging.needs_spare().is_some();
        let staged = staging.push(header, body, durability)?;
        room.use_up(header.len());
        let wake = was_empty || (!was_urgent && staging.is_urgent());
        let turned = !needed && staging.needs_spare().is_some();
        drop(staging);
        if wake {
            self.work.notify_one();
        }
        if turned {
            self.turned.raise();
        }
        Ok(staged)
    }

    /// The number of the last record that was staged.
    pub(crate) fn last_seq(&self) -> Seq {
        self.staging.lock().last_seq()
    }

    /// A record that is staged and perhaps not written.
    pub(crate) fn find(&self, address: Address) -> Option<Vec<u8>> {
        self.staging.lock().find(address)
    }

    /// Records staged so far, and their bytes.
    pub(crate) fn staged(&self) -> (u64, u64) {
        let staging = self.staging.lock();
        (staging.records, staging.record_bytes)
    }

    /// The segment that takes groups.
    pub(crate) fn active(&self) -> Arc<Segment> {
        Arc::clone(&self.staging.lock().open.segment)
    }

    /// Everything before this is on the device.
    pub(crate) fn durable(&self) -> Position {
        Position::unpack(self.durable.load(Ordering::Acquire))
    }

    /// Writes one group, if there is any; says whether there was.
    pub(crate) fn write_next(&self) -> bool {
        let mut failed = self.writing.lock();
        if *failed {
            return false;
        }
        let Some((group, mut waiters)) = self.take() else { return false };
        // Until it has returned: behind a write that panics nothing is written either.
        *failed = true;
        let done = group.segment.append(&group.bytes);
        if let Err(e) = done {
            self.poison(&format!("writing segment {} failed: {e}", group.segment.id()), waiters.written);
            self.fail(waiters.synced);
            return false;
        }
        *failed = false;
        self.groups.fetch_add(1, Ordering::Relaxed);
        let bytes = group.bytes.len();
        self.written(&group, std::mem::take(&mut waiters.synced), waiters.sync_within);
        let mut staging = self.staging.lock();
        staging.in_flight = None;
        if let Some(group) = Arc::into_inner(group) {
            staging.free_buffer = group.bytes;
        }
        if staging.is_settled() {
            // Who waits for all that is staged has no group of its own to wait for.
            let waiting = std::mem::take(&mut staging.open.waiters.synced);
            self.join_sync(staging.data_end, waiting);
        }
        drop(staging);
        let records = bytes - GROUP_HEADER_BYTES as usize;
        self.room.add_permits(records);
        for waiter in waiters.written {
            // Who does not wait any more needs no answer.
            let _ = waiter.send(Ok(()));
        }
        if self.poisoned().is_some() {
            // Poisoned meanwhile: nobody may be left to sync for those who were just added.
            let untold = std::mem::take(&mut self.unsynced.lock().waiters);
            self.fail(untold);
        }
        true
    }

    /// Takes the next group, closed, and leaves it readable.
    fn take(&self) -> Option<(Arc<Group>, Waiters)> {
        let mut staging = self.staging.lock();
        let mut group = staging.take()?;
        // Read after the group was taken: the watermark may be behind, never ahead.
        let watermark = self.durable();
        let time = self.clock.mark();
        self.time.fetch_max(time.as_millis(), Ordering::AcqRel);
        group.close(watermark, time);
        staging.watermark = watermark;
        let waiters = std::mem::take(&mut group.waiters);
        let group = Arc::new(group);
        staging.in_flight = Some(Arc::clone(&group));
        Some((group, waiters))
    }

    fn written(&self, group: &Group, synced: Vec<oneshot::Sender<Outcome>>, within: Option<Duration>) {
        let due = within.map(Deadline::after);
        let mut unsynced = self.unsynced.lock();
        let sooner = unsynced.due.is_none_or(|old| due.is_some_and(|new| new < old));
        let wake = unsynced.upto.is_none() || sooner || !synced.is_empty();
        if unsynced.segments.last().is_none_or(|last| last.id() != group.segment.id()) {
            unsynced.segments.push(Arc::clone(&group.segment));
        }
        unsynced.upto = Some(group.end_position());
        unsynced.waiters.extend(synced);
        if sooner {
            unsynced.due = due;
        }
        drop(unsynced);
        if wake {
            self.sync_work.notify_one();
        }
    }

    /// The time that was written down last, though it may not be on the device yet.
    pub(crate) fn time(&self) -> Timestamp {
        Timestamp::from_millis(self.time.load(Ordering::Acquire))
    }

    /// Syncs all that is written, if there is anything; says whether there was.
    pub(crate) fn sync_next(&self) -> bool {
        let mut failed = self.syncing.lock();
        let unsynced = std::mem::take(&mut *self.unsynced.lock());
        let Some(upto) = unsynced.upto else { return false };
        if *failed {
            // What was under way then lies behind a hole, whatever another sync would say.
            self.fail(unsynced.waiters);
            return false;
        }
        *failed = true;
        for segment in &unsynced.segments {
            if let Err(e) = segment.sync() {
                self.poison(&format!("syncing segment {} failed: {e}", segment.id()), unsynced.waiters);
                return false;
            }
            self.syncs.fetch_add(1, Ordering::Relaxed);
        }
        *failed = false;
        self.durable.fetch_max(upto.pack(), Ordering::AcqRel);
        for waiter in unsynced.waiters {
            let _ = waiter.send(Ok(()));
        }
        true
    }

    /// Writes and syncs all that is staged now, here and at once.
    pub(crate) fn settle(&self) -> Outcome {
        let end = self.staging.lock().records_end();
        while self.durable() < end {
            if let Some(cause) = self.poisoned() {
                return Err(cause);
            }
            self.write_next();
            self.sync_next();
        }
        Ok(())
    }

    /// Asks for a group without records, if the last one does not say that all records before it are durable.
    pub(crate) fn mark(&self) {
        let durable = self.durable();
        let mut staging = self.staging.lock();
        let behind = staging.watermark < staging.data_end && staging.data_end <= durable;
        if behind && staging.is_written() && staging.fits_mark() && staging.check_open().is_ok() {
            staging.open.ask();
            drop(staging);
            self.work.notify_one();
        }
    }

    /// Asks for a group that says what time it is, with records or without; like a record it is refused where there is no room for one.
    pub(crate) fn mark_time(&self) -> Result<(), Refused> {
        let mut staging = self.staging.lock();
        staging.check_open()?;
        if !staging.fits_mark() {
            staging.turn(2 * GROUP_HEADER_BYTES)?;
        }
        staging.open.ask();
        drop(staging);
        self.work.notify_one();
        Ok(())
    }

    /// A waiter for everything staged so far to be durable.
    pub(crate) fn barrier(&self) -> Result<oneshot::Receiver<Outcome>, Refused> {
        let (tell, outcome) = oneshot::channel();
        let mut staging = self.staging.lock();
        staging.check_open()?;
        if staging.is_settled() {
            self.join_sync(staging.data_end, vec![tell]);
        } else {
            staging.open.waiters.synced.push(tell);
            staging.open.urgent |= staging.open.records > 0;
            self.work.notify_one();
        }
        Ok(outcome)
    }

    /// Lets some wait for what is written already, up to `upto`: for the sync that goes on, the next one, or none.
    fn join_sync(&self, upto: Position, waiters: Vec<oneshot::Sender<Outcome>>) {
        if waiters.is_empty() {
            return;
        }
        let mut unsynced = self.unsynced.lock();
        unsynced.upto = unsynced.upto.max(Some(upto));
        unsynced.waiters.extend(waiters);
        drop(unsynced);
        self.sync_work.notify_one();
    }

    /// Gives the stream the segment to go on with: listed, empty, durable. It does so at once, so that no disk space lies idle between two.
    pub(crate) fn give_spare(&self, spare: Arc<Segment>) {
        let mut staging = self.staging.lock();
        staging.spare = Some(spare);
        staging.no_spare = None;
        // In a store that has ended meanwhile it stays a spare, and is removed.
        let turned = matches!(staging.state, State::Open) && staging.turn(0).is_ok();
        // The one it has left is not sealed before something in this one is durable.
        if turned {
            staging.open.ask();
        }
        drop(staging);
        if turned {
            self.work.notify_one();
        }
        self.space.notify_waiters();
    }

    /// There cannot be a spare now: who needs one is refused until there is.
    pub(crate) fn no_spare(&self, why: std::io::Error) {
        let tried = self.clock.now();
        self.staging.lock().no_spare = Some((Arc::new(why), tried));
        self.space.notify_waiters();
    }

    /// Lets those try again who were told to wait.
    pub(crate) fn wake_refused(&self) {
        self.space.notify_waiters();
    }

    /// If the stream needs another segment: how long that must at least be.
    pub(crate) fn needs_spare(&self) -> Option<u32> {
        self.staging.lock().needs_spare()
    }

    /// Whether the next segment is needed, and it is time to try to make it.
    pub(crate) fn is_spare_due(&self) -> bool {
        let staging = self.staging.lock();
        let failed_now = |(_, tried): &(_, Timestamp)| self.clock.now() < tried.saturating_add(SPARE_RETRY);
        staging.needs_spare().is_some() && !staging.no_spare.as_ref().is_some_and(failed_now)
    }

    /// Whether the next segment is needed and the disk has no room for it.
    pub(crate) fn is_pressed(&self) -> bool {
        let staging = self.staging.lock();
        let no_spare = staging.no_spare.as_ref();
        staging.needs_spare().is_some()
            && no_spare.is_some_and(|(e, _)| e.kind() == std::io::ErrorKind::StorageFull)
    }

    pub(crate) fn take_spare(&self) -> Option<Arc<Segment>> {
        self.staging.lock().spare.take()
    }

    /// Segments the stream has left whose every byte is durable: they can be sealed. They are given once.
    pub(crate) fn take_left(&self) -> Vec<Arc<Segment>> {
        let durable = self.durable();
        let mut staging = self.staging.lock();
        let (done, waiting) =
            std::mem::take(&mut staging.left).into_iter().partition(|s| s.id() < durable.segment);
        staging.left = waiting;
        done
    }

    /// Takes no more records; what is staged is still written by [`write_next`](Self::write_next).
    pub(crate) fn close(&self) {
        let mut staging = self.staging.lock();
        if matches!(staging.state, State::Open) {
            staging.state = State::Closed;
        }
        drop(staging);
        self.room.close();
        self.space.notify_waiters();
    }

    pub(crate) fn poisoned(&self) -> Option<Arc<str>> {
        match &self.staging.lock().state {
            State::Poisoned(cause) => Some(Arc::clone(cause)),
            _ => None,
        }
    }

    /// Refuses writes from now on.
    pub(crate) fn poison(&self, cause: &str, told: Vec<oneshot::Sender<Outcome>>) {
        tracing::error!(cause, "the store takes no more writes");
        let mut staging = self.staging.lock();
        if !matches!(staging.state, State::Poisoned(_)) {
            staging.state = State::Poisoned(cause.into());
        }
        let mut waiters = staging.drain_waiters();
        drop(staging);
        waiters.extend(told);
        waiters.append(&mut self.unsynced.lock().waiters);
        self.room.close();
        self.space.notify_waiters();
        self.fail(waiters);
    }

    fn fail(&self, waiters: Vec<oneshot::Sender<Outcome>>) {
        let cause = self.poisoned().unwrap_or_else(|| "the store ended".into());
        for waiter in waiters {
            let _ = waiter.send(Err(Arc::clone(&cause)));
        }
    }

    /// Whether records are taken, or why not.
    pub(crate) fn check_open(&self) -> Result<(), Refused> {
        self.staging.lock().check_open()
    }

    /// The writer thread's life: ends when told to stop.
    pub(crate) fn run_writer(&self) {
        let mut gathered = false;
        loop {
            let mut staging = self.staging.lock();
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            if !staging.has_work() {
                self.work.wait(&mut staging);
                gathered = false;
            } else if !staging.is_urgent() && !gathered {
                gathered = self.work.wait_for(&mut staging, GATHER).timed_out();
            } else {
                drop(staging);
                self.write_next();
                gathered = false;
            }
        }
    }

    /// The syncer thread's life: it syncs when a member of a group waits for it, or when the soonest interval is over.
    pub(crate) fn run_syncer(&self) {
        loop {
            let mut unsynced = self.unsynced.lock();
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            let waited_for = !unsynced.waiters.is_empty();
            match (unsynced.upto, unsynced.due) {
                (None, _) => self.sync_work.wait(&mut unsynced),
                (Some(_), Some(due)) if !waited_for && !due.is_over() => {
                    due.wait(&self.sync_work, &mut unsynced);
                }
                (Some(_), _) => {
                    drop(unsynced);
                    self.sync_next();
                }
            }
        }
    }

    /// Ends both threads' lives.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let staging = self.staging.lock();
        self.work.notify_all();
        drop(staging);
        let unsynced = self.unsynced.lock();
        self.sync_work.notify_all();
        drop(unsynced);
    }
}
