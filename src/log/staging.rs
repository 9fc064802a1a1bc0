//! Where records gather until a thread writes them: the open group, the groups behind it, and who waits for which.
//!
//! Plain state under one mutex, held for a copy of a record and no longer. Invariants: sequence numbers are given in the order of
//! the bytes; a record is given a number only when its place is certain, so nothing staged is ever taken back; a group is
//! readable here until its bytes are readable through its segment.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::format::{Body, GROUP_HEADER_BYTES, GroupHeader, Kind, RecordHeader, SEGMENT_HEADER_BYTES};
use crate::id::{Address, Position, Seq};
use crate::options::Durability;

use super::outcome::{Outcome, Refused};
use super::segment::Segment;

/// The writer is woken at this length although nobody waits for the kernel to have the bytes.
const EAGER_BYTES: usize = 256 << 10;

/// Buffered writes are synced after this long; nothing promises it, but it keeps the unsynced end short.
const BUFFERED_SYNC: Duration = Duration::from_secs(1);

/// What the store itself asks for is synced after this long, whatever its writers wait for.
const ASKED_SYNC: Duration = Durability::INTERVAL_DEFAULT;

/// The next segment is asked for when the last part of this one is reached: one of this many parts.
const AHEAD_PARTS: u32 = 4;

/// The last part of a segment is for records that free space, while there is no other segment to go on with: one of this many parts of one of full
/// length. A shorter segment on a disk that is nearly full keeps as much.
const RESERVE_PARTS: u32 = 16;

/// Those who wait for a group.
#[derive(Default)]
pub(crate) struct Waiters {
    pub(crate) written: Vec<oneshot::Sender<Outcome>>,
    pub(crate) synced: Vec<oneshot::Sender<Outcome>>,
    /// The soonest that a member wants the group synced, counted from when it is written.
    pub(crate) sync_within: Option<Duration>,
}

/// Records that will be written by one call.
pub(crate) struct Group {
    pub(crate) segment: Arc<Segment>,
    /// Offset of its header in the segment.
    pub(crate) base: u32,
    /// Header, filled in when the group is taken, and records.
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: u32,
    pub(crate) waiters: Waiters,
    /// Somebody waits for it, or it is long enough.
    pub(crate) urgent: bool,
    /// It ends its segment.
    last: bool,
    /// Number of its first record.
    next_seq: Seq,
}

impl Group {
    /// Asks for it though it may have no records, and for a sync that no interval of a member holds up.
    pub(crate) fn ask(&mut self) {
        self.urgent = true;
        self.waiters.sync_within = sooner(self.waiters.sync_within, Some(ASKED_SYNC));
    }

    fn new(segment: Arc<Segment>, base: u32, next_seq: Seq, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.resize(GROUP_HEADER_BYTES as usize, 0);
        let waiters = Waiters::default();
        Self { segment, base, bytes, records: 0, waiters, urgent: false, last: false, next_seq }
    }

    pub(crate) fn end(&self) -> u32 {
        // A group lies within a segment, whose offsets fit.
        self.base + u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn end_position(&self) -> Position {
        Position { segment: self.segment.id(), offset: self.end() }
    }

    fn is_wanted(&self) -> bool {
        self.records > 0 || self.urgent || self.last
    }

    fn record(&self, address: Address) -> Option<Vec<u8>> {
        if self.segment.id() != address.segment || address.offset < self.base {
            return None;
        }
        let at = (address.offset - self.base) as usize;
        Some(self.bytes.get(at..at + address.len as usize)?.to_vec())
    }

    /// Fills in the header.
    pub(crate) fn close(&mut self, watermark: Position, time: Timestamp) {
        let header = GroupHeader {
            last: self.last,
            len: self.end() - self.base - GROUP_HEADER_BYTES,
            records: self.records,
            watermark,
            next_seq: self.next_seq,
            time,
        };
        let bytes = header.encode(self.segment.seed(), self.base);
        self.bytes[..GROUP_HEADER_BYTES as usize].copy_from_slice(&bytes);
    }
}

/// Whether records are taken.
pub(crate) enum State {
    Open,
    Closed,
    Poisoned(Arc<str>),
}

/// A record that was staged.
pub(crate) struct Staged {
    pub(crate) seq: Seq,
    pub(crate) address: Address,
    /// Gets the outcome, where one was asked for.
    pub(crate) outcome: Option<oneshot::Receiver<Outcome>>,
}

pub(crate) struct Staging {
    pub(crate) state: State,
    next_seq: Seq,
    /// What is left to records that free space.
    reserve_bytes: u32,
    /// Takes records.
    pub(crate) open: Group,
    /// Take none any more: they end segments.
    pub(crate) ended: VecDeque<Group>,
    /// Being written.
    pub(crate) in_flight: Option<Arc<Group>>,
    /// The next segment, listed and empty, for the moment until the stream goes on in it.
    pub(crate) spare: Option<Arc<Segment>>,
    /// Why there is none, if it could not be made, and when that was tried; writes that need it are refused instead of waiting.
    pub(crate) no_spare: Option<(Arc<std::io::Error>, Timestamp)>,
    /// The least length of a segment that somebody waits for, if anybody does.
    pub(crate) wanted: Option<u32>,
    /// Segments that the stream has left, to be sealed.
    pub(crate) left: Vec<Arc<Segment>>,
    /// Where the last group with records ends that was taken for writing.
    pub(crate) data_end: Position,
    /// The watermark of the last group that was taken.
    pub(crate) watermark: Position,
    /// A buffer for the next group.
    pub(crate) free_buffer: Vec<u8>,
    pub(crate) records: u64,
    pub(crate) record_bytes: u64,
}

impl Staging {
    pub(crate) fn new(active: Arc<Segment>, next_seq: Seq, segment_bytes: u32) -> Self {
        let start = Position { segment: active.id(), offset: active.written() };
        Self {
            state: State::Open,
            next_seq,
            reserve_bytes: segment_bytes / RESERVE_PARTS,
            open: Group::new(active, start.offset, next_seq, Vec::new()),
            ended: VecDeque::new(),
            in_flight: None,
            spare: None,
            no_spare: None,
            wanted: None,
            left: Vec::new(),
            data_end: start,
            watermark: start,
            free_buffer: Vec::new(),
            records: 0,
            record_bytes: 0,
        }
    }

    /// The number of the last record that was staged, or a lower bound for the next if there was none.
    pub(crate) fn last_seq(&self) -> Seq {
        Seq(self.next_seq.0 - 1)
    }

    /// Whether there is anything for the writer to write.
    pub(crate) fn has_work(&self) -> bool {
        matches!(self.state, State::Open | State::Closed) && (!self.ended.is_empty() || self.open.is_wanted())
    }

    /// Whether there are records that no group was taken with yet.
    pub(crate) fn has_records(&self) -> bool {
        !self.ended.is_empty() || self.open.records > 0
    }

    /// Whether every record that was staged reached the kernel.
    pub(crate) fn is_written(&self) -> bool {
        !self.has_records() && self.in_flight.is_none()
    }

    /// Whether nothing is to be written, a group that was asked for without records neither.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_written() && !self.open.urgent
    }

    /// Whether records are taken, or why not.
    pub(crate) fn check_open(&self) -> Result<(), Refused> {
        match &self.state {
            State::Open => Ok(()),
            State::Closed => Err(Refused::Closed),
            State::Poisoned(cause) => Err(Refused::Poisoned(Arc::clone(cause))),
        }
    }

    pub(crate) fn is_urgent(&self) -> bool {
        !self.ended.is_empty() || self.open.urgent || !matches!(self.state, State::Open)
    }

    /// Gives the record its numbers and its place.
    pub(crate) fn push(
        &mut self,
        header: &mut RecordHeader,
        body: &Body<'_>,
        durability: Durability,
    ) -> Result<Staged, Refused> {
        self.check_open()?;
        if !self.fits(header) {
            let reserve = if frees(header) { 0 } else { self.reserve_bytes };
            self.turn(2 * (header.len() + reserve))?;
        }
        let seq = self.next_seq;
        header.deadline_seq = seq;
        // A touch is numbered by the content that it touches.
        if header.kind != Kind::Touch {
            header.seq = seq;
        }
        let address = Address { segment: self.open.segment.id(), offset: self.open.end(), len: header.len() };
        let group = &mut self.open;
        group.bytes.extend_from_slice(&header.encode(group.segment.seed(), address.offset));
        body.append_to(&mut group.bytes);
        group.records += 1;
        let is_waited_for = durability != Durability::Buffered || !group.waiters.synced.is_empty();
        group.urgent |= is_waited_for || group.bytes.len() >= EAGER_BYTES;
        let outcome = group.waiters.add(durability);
        self.next_seq = Seq(seq.0 + 1);
        self.records += 1;
        self.record_bytes += u64::from(address.len);
        Ok(Staged { seq, address, outcome })
    }

    /// Whether the record goes into the active segment, with room behind it for the group that ends the segment.
    fn fits(&self, header: &RecordHeader) -> bool {
        let capacity = self.open.segment.capacity();
        let reserve = if frees(header) || self.spare.is_some() { 0 } else { self.reserve_bytes };
        let end = u64::from(self.open.end()) + u64::from(header.len());
        end + u64::from(GROUP_HEADER_BYTES) + u64::from(reserve) <= u64::from(capacity)
    }

    /// Whether a group without records goes into the active segment, with room behind it for the group that ends the segment.
    pub(crate) fn fits_mark(&self) -> bool {
        let end = u64::from(self.open.end()) + u64::from(GROUP_HEADER_BYTES);
        end <= u64::from(self.open.segment.capacity())
    }

    /// If it is time for another segment: how long that must at least be to be of use.
    pub(crate) fn needs_spare(&self) -> Option<u32> {
        let capacity = self.open.segment.capacity();
        let ends = self.open.end() >= capacity - capacity / AHEAD_PARTS;
        let wanted = self.wanted.or(ends.then_some(2 * self.reserve_bytes));
        wanted.filter(|_| self.spare.is_none() && matches!(self.state, State::Open))
    }

    /// Goes on in the spare segment, which is of use here from so many bytes on.
    pub(crate) fn turn(&mut self, least: u32) -> Result<(), Refused> {
        let Some(spare) = self.spare.take() else {
            self.wanted = Some(self.wanted.map_or(least, |wanted| wanted.min(least)));
            let no_spare = self.no_spare.as_ref().map(|(why, _)| Arc::clone(why));
            return Err(no_spare.map_or(Refused::Wait, Refused::NoSegment));
        };
        let buffer = std::mem::take(&mut self.free_buffer);
        let next = Group::new(spare, SEGMENT_HEADER_BYTES, self.next_seq, buffer);
        let mut ended = std::mem::replace(&mut self.open, next);
        ended.last = true;
        self.wanted = None;
        self.left.push(Arc::clone(&ended.segment));
        self.ended.push_back(ended);
        Ok(())
    }

    /// The next group to write, if any is wanted.
    pub(crate) fn take(&mut self) -> Option<Group> {
        if !self.has_work() {
            return None;
        }
        let group = self.ended.pop_front().unwrap_or_else(|| {
            let (segment, end) = (Arc::clone(&self.open.segment), self.open.end());
            let buffer = std::mem::take(&mut self.free_buffer);
            std::mem::replace(&mut self.open, Group::new(segment, end, self.next_seq, buffer))
        });
        if group.records > 0 {
            self.data_end = group.end_position();
        }
        Some(group)
    }

    /// Where the last record ends that was staged, or the last group of a segment behind it.
    pub(crate) fn records_end(&self) -> Position {
        match self.ended.back() {
            _ if self.open.records > 0 => self.open.end_position(),
            Some(ended) => ended.end_position(),
            None => self.data_end,
        }
    }

    /// A record that may not be readable through its segment yet.
    pub(crate) fn find(&self, address: Address) -> Option<Vec<u8>> {
        let groups = self.in_flight.as_deref().into_iter().chain(&self.ended).chain([&self.open]);
        groups.into_iter().find_map(|group| group.record(address))
    }

    /// Everybody who waits for a group that was not taken yet.
    pub(crate) fn drain_waiters(&mut self) -> Vec<oneshot::Sender<Outcome>> {
        let groups = self.ended.iter_mut().chain([&mut self.open]);
        groups.flat_map(|g| g.waiters.written.drain(..).chain(g.waiters.synced.drain(..))).collect()
    }
}

/// Whether a record lets go of others.
fn frees(header: &RecordHeader) -> bool {
    matches!(header.kind, Kind::Delete | Kind::Rotate | Kind::Revoke)
}

impl Waiters {
    fn add(&mut self, durability: Durability) -> Option<oneshot::Receiver<Outcome>> {
        let (queue, within) = match durability {
            Durability::Sync => (Some(&mut self.synced), None),
            Durability::Interval(within) => (Some(&mut self.written), Some(within)),
            Durability::Buffered => (None, Some(BUFFERED_SYNC)),
        };
        self.sync_within = sooner(self.sync_within, within);
        queue.map(|queue| {
            let (tell, outcome) = oneshot::channel();
            queue.push(tell);
            outcome
        })
    }
}

/// The sooner of two delays, either of which may not be set.
fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
