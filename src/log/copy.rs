//! Writing a copy segment: whole, off to the side, and of no meaning until the manifest lists it.
//!
//! Used by compaction for what is alive, and by recovery for what was found above the watermark.

use std::io;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::disk::Disk;
use crate::format::{Body, GROUP_HEADER_BYTES, GroupHeader, RecordHeader, SEGMENT_HEADER_BYTES, SegmentKind};
use crate::id::{Address, Position, SegmentId, Seq};

use super::segment::Segment;

/// Groups of a copy segment are written at this length: enough for one system call to carry hundreds of records.
const GROUP_BYTES: usize = 256 << 10;

/// The bytes that `records` records of `bytes` bytes in all take in a copy segment, at most.
pub(crate) fn copy_bytes(bytes: u64) -> u64 {
    let header = u64::from(GROUP_HEADER_BYTES);
    let groups = bytes / (GROUP_BYTES as u64 - header) + 1;
    u64::from(SEGMENT_HEADER_BYTES) + bytes + groups * header
}

/// A copy segment that is being written.
pub(crate) struct CopyWriter {
    segment: Arc<Segment>,
    time: Timestamp,
    /// The store had got there when it began: that tells whose life it is of.
    next_seq: Seq,
    /// The group that gathers, with room for its header.
    group: Vec<u8>,
    records: u32,
}

impl CopyWriter {
    /// Makes the file, with space set aside for `capacity` bytes.
    pub(crate) fn create(
        disk: &dyn Disk,
        id: SegmentId,
        store: [u8; 16],
        capacity: u32,
        mapped: bool,
        (time, next_seq): (Timestamp, Seq),
    ) -> io::Result<Self> {
        let segment = Segment::create(disk, id, SegmentKind::Copy, store, capacity, mapped)?;
        Ok(Self::begin(segment, (time, next_seq)))
    }

    /// Begins in a copy segment that holds nothing yet.
    pub(crate) fn begin(segment: Arc<Segment>, (time, next_seq): (Timestamp, Seq)) -> Self {
        Self { segment, time, next_seq, group: vec![0; GROUP_HEADER_BYTES as usize], records: 0 }
    }

    pub(crate) fn has_room(&self, len: u32) -> bool {
        self.end().saturating_add(len) <= self.segment.capacity()
    }

    /// Adds a record that has its numbers; gives its address and how many bytes went to the disk by it.
    pub(crate) fn push(&mut self, header: &RecordHeader, body: &Body<'_>) -> io::Result<(Address, usize)> {
        let offset = self.end();
        self.group.extend_from_slice(&header.encode(self.segment.seed(), offset));
        body.append_to(&mut self.group);
        self.records += 1;
        let written = if self.group.len() >= GROUP_BYTES { self.write()? } else { 0 };
        Ok((Address { segment: self.segment.id(), offset, len: header.len() }, written))
    }

    /// Makes what was written so far durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.segment.sync()
    }

    /// Writes the rest, gives unused space back and syncs: the segment may be listed once its folder is synced.
    pub(crate) fn finish(mut self) -> io::Result<Arc<Segment>> {
        self.write()?;
        self.segment.trim()?;
        self.segment.sync()?;
        Ok(self.segment)
    }

    fn end(&self) -> u32 {
        self.segment.written() + u32::try_from(self.group.len()).unwrap_or(u32::MAX)
    }

    fn write(&mut self) -> io::Result<usize> {
        if self.records == 0 {
            return Ok(0);
        }
        let header = GroupHeader {
            last: false,
            len: u32::try_from(self.group.len()).unwrap_or(u32::MAX) - GROUP_HEADER_BYTES,
            records: self.records,
            watermark: Position { segment: SegmentId(0), offset: 0 },
            next_seq: self.next_seq,
            time: self.time,
        };
        let bytes = header.encode(self.segment.seed(), self.segment.written());
        self.group[..GROUP_HEADER_BYTES as usize].copy_from_slice(&bytes);
        self.segment.append(&self.group)?;
        let written = self.group.len();
        self.group.truncate(GROUP_HEADER_BYTES as usize);
        self.records = 0;
        Ok(written)
    }
}
