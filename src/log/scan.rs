//! Reading a segment from front to back: which groups are valid, and what they say of the rest of the log.
//!
//! Decides nothing: whether an end is torn or damaged is for recovery, which sees the whole stream.

use crate::clock::Timestamp;
use crate::format::{
    GROUP_HEADER_BYTES, GROUP_MAGIC, GroupHeader, Invalid, Placed, Records, SEGMENT_HEADER_BYTES,
    SegmentHeader,
};
use crate::id::{Position, SegmentId, Seq};

/// What a scan found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scanned {
    /// Where the last valid group ends; groups are valid from the front up to here.
    pub(crate) end: u32,
    /// The last valid group said that the stream goes on in another segment.
    pub(crate) last: bool,
    /// The latest watermark of a valid group.
    pub(crate) watermark: Position,
    /// The latest store time of a valid group.
    pub(crate) time: Timestamp,
    /// The latest number a valid group says is not used before it, and one beyond the last record.
    pub(crate) next_seq: Seq,
    pub(crate) records: u64,
    /// Why what follows `end` is no valid group; `None` if nothing follows.
    pub(crate) stopped: Option<Invalid>,
}

impl Scanned {
    /// Of a segment without groups.
    pub(crate) fn start() -> Self {
        Self {
            end: SEGMENT_HEADER_BYTES,
            last: false,
            watermark: Position { segment: SegmentId(0), offset: 0 },
            time: Timestamp::default(),
            next_seq: Seq(0),
            records: 0,
            stopped: None,
        }
    }
}

/// What is known of the bytes before they are scanned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trust {
    /// Nothing: a group is shown once all of it was checked.
    Nothing,
    /// A checksum of the whole holds: what is invalid now was written so, and ends the scan where it stands.
    Whole,
}

impl Trust {
    pub(crate) fn of(whole_checked: bool) -> Self {
        if whole_checked { Self::Whole } else { Self::Nothing }
    }
}

/// Walks the groups of a whole segment, `bytes` from its first byte, and shows each record of each valid group.
pub(crate) fn scan<'a>(
    bytes: &'a [u8],
    header: &SegmentHeader,
    trust: Trust,
    mut visit: impl FnMut(&Placed<'a>),
) -> Scanned {
    let mut scanned = Scanned::start();
    while !scanned.last && (scanned.end as usize) < bytes.len() {
        let mut next_seq = scanned.next_seq;
        let shown = group(bytes, header, scanned.end, trust).and_then(|(group, records)| {
            records.visit(false, |placed| {
                next_seq = next_seq.max(Seq(placed.header.deadline_seq.0 + 1));
                visit(placed);
            })?;
            Ok(group)
        });
        match shown {
            Ok(group) => {
                scanned.end += GROUP_HEADER_BYTES + group.len;
                scanned.last = group.last;
                scanned.watermark = scanned.watermark.max(group.watermark);
                scanned.time = scanned.time.max(group.time);
                scanned.next_seq = next_seq.max(group.next_seq);
                scanned.records += u64::from(group.records);
            }
            Err(invalid) => {
                scanned.stopped = Some(invalid);
                return scanned;
            }
        }
    }
    scanned
}

/// The group at `offset`; without trust it is checked as a whole first, bodies included.
fn group<'a>(
    bytes: &'a [u8],
    header: &SegmentHeader,
    offset: u32,
    trust: Trust,
) -> Result<(GroupHeader, Records<'a>), Invalid> {
    let seed = header.seed();
    let group = GroupHeader::decode(&bytes[offset as usize..], seed, offset)?;
    let first = offset + GROUP_HEADER_BYTES;
    let body = bytes.get(first as usize..).and_then(|b| b.get(..group.len as usize)).ok_or(Invalid::Short)?;
    let records = Records::new(&group, body, seed, first);
    if trust == Trust::Nothing {
        records.visit(true, |_| {})?;
    }
    Ok((group, records))
}

/// The latest watermark of any group behind the stream's end: at `end` of the first of these segments, `bytes` from their first byte on.
pub(crate) fn claimed_behind<'a>(
    segments: impl IntoIterator<Item = (&'a [u8], &'a SegmentHeader)>,
    end: u32,
) -> Option<Position> {
    let behind = |(at, (bytes, header)): (usize, (&[u8], &SegmentHeader))| {
        later_watermark(bytes, header, if at == 0 { end } else { SEGMENT_HEADER_BYTES })
    };
    segments.into_iter().enumerate().filter_map(behind).max()
}

/// The latest watermark of any group header, at any offset from `from` on: what follows a hole may tell that the hole is damage.
fn later_watermark(bytes: &[u8], header: &SegmentHeader, from: u32) -> Option<Position> {
    let seed = header.seed();
    let mut latest = None;
    let mut at = from as usize;
    // No header begins in the zeros at the end, which may be nearly all there is.
    let end = end_of_bytes(bytes, from)? as usize;
    while let Some(rest) = bytes.get(at..end)
        && let Some(found) = rest.windows(GROUP_MAGIC.len()).position(|window| window == GROUP_MAGIC)
    {
        at += found;
        let offset = u32::try_from(at).unwrap_or(u32::MAX);
        if let Ok(group) = GroupHeader::decode(&bytes[at..], seed, offset) {
            latest = latest.max(Some(group.watermark));
        }
        at += 1;
    }
    latest
}

/// What the end of a segment is compared with, in long pieces and then in short ones.
const ZEROS: [u8; 4_096] = [0; 4_096];

/// Where the bytes that are not zero end, from `from` on; `None` if there are none.
pub(crate) fn end_of_bytes(bytes: &[u8], from: u32) -> Option<u32> {
    let mut tail = bytes.get(from as usize..)?;
    for piece in [&ZEROS[..], &ZEROS[..64]] {
        while let Some(front) = tail.strip_suffix(piece) {
            tail = front;
        }
    }
    let last = tail.iter().rposition(|byte| *byte != 0)?;
    u32::try_from(from as usize + last + 1).ok()
}
