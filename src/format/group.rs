//! The group header, and the walk over a group's records.

use crate::clock::Timestamp;
use crate::id::{Position, SegmentId, Seq};

use super::record::{Body, RECORD_HEADER_BYTES, RecordHeader};
use super::{Invalid, Lay, SEQ_END, Seed, Take, checksum};

pub(crate) const GROUP_HEADER_BYTES: u32 = 48;

pub(crate) const GROUP_MAGIC: [u8; 4] = *b"GRP1";

const FLAG_LAST: u32 = 1;

/// What a group says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GroupHeader {
    /// No group follows in this segment: the stream goes on in the next.
    pub(crate) last: bool,
    /// Length of its records, in bytes.
    pub(crate) len: u32,
    pub(crate) records: u32,
    /// Everything before this place was on the device when the group was built.
    pub(crate) watermark: Position,
    /// No record that was staged before this group has this number or a later one.
    pub(crate) next_seq: Seq,
    /// Store time when it was built: the mark that keeps a restarted store's time from going back.
    pub(crate) time: Timestamp,
}

impl GroupHeader {
    pub(crate) fn encode(&self, seed: Seed, offset: u32) -> [u8; GROUP_HEADER_BYTES as usize] {
        let mut bytes = [0; GROUP_HEADER_BYTES as usize];
        Lay::new(&mut bytes)
            .bytes(&GROUP_MAGIC)
            .u32(if self.last { FLAG_LAST } else { 0 })
            .u32(self.len)
            .u32(self.records)
            .u32(self.watermark.segment.0)
            .u32(self.watermark.offset)
            .u64(self.next_seq.0)
            .u64(self.time.as_millis())
            .u32(0)
            .checksum(seed.at(offset));
        bytes
    }

    /// Reads the header that stands at `offset` of the segment, at the front of `bytes`.
    pub(crate) fn decode(bytes: &[u8], seed: Seed, offset: u32) -> Result<Self, Invalid> {
        let bytes = bytes.first_chunk::<{ GROUP_HEADER_BYTES as usize }>().ok_or(Invalid::Short)?;
        let mut take = Take(bytes);
        if take.bytes::<4>()? != GROUP_MAGIC {
            return Err(Invalid::Magic);
        }
        let (flags, len, records) = (take.u32()?, take.u32()?, take.u32()?);
        let watermark = Position { segment: SegmentId(take.u32()?), offset: take.u32()? };
        let (next_seq, time_ms, zero, crc) = (Seq(take.u64()?), take.u64()?, take.u32()?, take.u32()?);
        if crc != checksum(seed.at(offset), &bytes[..44]) {
            return Err(Invalid::Checksum);
        }
        let time = Timestamp::from_millis(time_ms);
        let least = u64::from(records) * u64::from(RECORD_HEADER_BYTES);
        let fits = least <= u64::from(len) && (records == 0) == (len == 0);
        let known = flags & !FLAG_LAST == 0 && next_seq.0 <= SEQ_END && time.as_millis() == time_ms;
        if !known || zero != 0 || !fits {
            return Err(Invalid::Field);
        }
        Ok(Self { last: flags & FLAG_LAST != 0, len, records, watermark, next_seq, time })
    }
}

/// The records of a group, of which none was looked at yet.
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    seed: Seed,
    /// Of the first one, in the segment.
    offset: u32,
    count: u32,
}

/// A record in its place.
pub(crate) struct Placed<'a> {
    pub(crate) offset: u32,
    pub(crate) header: RecordHeader,
    pub(crate) body: Body<'a>,
}

impl<'a> Records<'a> {
    /// The records in `bytes`, which begin at `offset` of the segment.
    pub(crate) fn new(group: &GroupHeader, bytes: &'a [u8], seed: Seed, offset: u32) -> Self {
        Self { bytes, seed, offset, count: group.records }
    }

    /// Shows the records one by one, up to the first that is invalid. `check_bodies` is for bytes whose checksum nobody checked yet.
    pub(crate) fn visit(
        &self,
        check_bodies: bool,
        mut visit: impl FnMut(&Placed<'a>),
    ) -> Result<(), Invalid> {
        let (mut rest, mut offset) = (self.bytes, self.offset);
        for _ in 0..self.count {
            let header = RecordHeader::decode(rest, self.seed, offset)?;
            let (record, behind) = rest.split_at_checked(header.len() as usize).ok_or(Invalid::Short)?;
            let body = &record[RECORD_HEADER_BYTES as usize..];
            if check_bodies && checksum(0, body) != header.body_crc {
                return Err(Invalid::BodyChecksum);
            }
            let body = Body::decode(&header, body)?;
            visit(&Placed { offset, header, body });
            rest = behind;
            offset += header.len();
        }
        if rest.is_empty() { Ok(()) } else { Err(Invalid::Field) }
    }
}
