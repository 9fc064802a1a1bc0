//! Reading a damaged segment: everything in it whose checksums hold, and every place where something else may have stood.
//!
//! [`scan`](super::scan) ends at the first thing that is invalid; this goes on behind it, so it is for bytes that are known to have been
//! whole once. It decides nothing: what a hole may have hidden is for the engine to say, which sees the whole log.
//!
//! # Why it finds its way again
//!
//! 1. A group's header with a checksum that holds tells where the next group begins, whatever its records look like.
//! 2. Behind a group's header that does not hold, its records may: each tells how long it is. Where they end at a group that holds, or at the
//!    end of what counts, nothing but that header was lost.
//! 3. Else the next group is looked for byte by byte. A header's checksum starts from the salt of the segment and its own offset, so what
//!    a payload holds is taken for one with a chance of one in four thousand million, and by nobody who does not know the salt.

use crate::format::{
    Body, GROUP_HEADER_BYTES, GROUP_MAGIC, GroupHeader, Invalid, Placed, RECORD_HEADER_BYTES, RecordHeader,
    SEGMENT_HEADER_BYTES, Seed, SegmentHeader, checksum,
};

/// What stands at a place of a segment.
pub(crate) enum Found<'a> {
    /// A group's header; its records follow.
    Group(GroupHeader),
    Record(Placed<'a>),
    /// A record whose header holds and whose body does not.
    Spoilt {
        offset: u32,
        header: RecordHeader,
    },
    /// A group's header that does not hold; all its records do.
    Headless {
        offset: u32,
        what: Invalid,
    },
    /// Records may be missing here: this many at least.
    Hole {
        offset: u32,
        what: Invalid,
        records: u64,
    },
}

/// Shows all there is in the groups of a segment, `bytes` from its first byte to the end of what counts.
pub(crate) fn walk<'a>(bytes: &'a [u8], header: &SegmentHeader, mut visit: impl FnMut(Found<'a>)) {
    let seed = header.seed();
    let mut at = SEGMENT_HEADER_BYTES as usize;
    while at < bytes.len() {
        match group_at(bytes, seed, at) {
            Ok((group, end)) => {
                visit(Found::Group(group));
                let chain = records(&bytes[..end], seed, at, &mut visit);
                if chain.end != end || chain.records != group.records {
                    visit(Found::Hole {
                        offset: position(chain.end),
                        what: chain.stopped,
                        records: group.records.saturating_sub(chain.records).max(1).into(),
                    });
                }
                at = end;
            }
            Err(what) => {
                let chain = records(bytes, seed, at, &mut visit);
                let offset = position(at);
                if chain.end == bytes.len() || group_at(bytes, seed, chain.end).is_ok() {
                    visit(Found::Headless { offset, what });
                    at = chain.end;
                } else {
                    visit(Found::Hole { offset, what, records: 1 });
                    at = next_group(bytes, seed, chain.end).unwrap_or(bytes.len());
                }
            }
        }
    }
}

/// Every group whose header holds, and where it ends.
pub(crate) fn groups(bytes: &[u8], header: &SegmentHeader) -> impl Iterator<Item = (GroupHeader, u32)> {
    let (seed, mut at) = (header.seed(), SEGMENT_HEADER_BYTES as usize);
    std::iter::from_fn(move || {
        let (group, end) = group_at(bytes, seed, next_group(bytes, seed, at)?).ok()?;
        at = end;
        Some((group, position(end)))
    })
}

/// Where the last group ends whose header holds.
pub(crate) fn last_group(bytes: &[u8], header: &SegmentHeader) -> u32 {
    groups(bytes, header).last().map_or(SEGMENT_HEADER_BYTES, |(_, end)| end)
}

/// Where a row of records ended.
struct Chain {
    end: usize,
    records: u32,
    stopped: Invalid,
}

/// Shows the records that stand back to back behind a group's header at `at`.
fn records<'a>(bytes: &'a [u8], seed: Seed, at: usize, visit: &mut impl FnMut(Found<'a>)) -> Chain {
    let first = at + GROUP_HEADER_BYTES as usize;
    let mut chain = Chain { end: first.min(bytes.len()), records: 0, stopped: Invalid::Short };
    loop {
        let offset = position(chain.end);
        let header = match RecordHeader::decode(&bytes[chain.end..], seed, offset) {
            Ok(header) => header,
            Err(stopped) => return Chain { stopped, ..chain },
        };
        let Some(record) = bytes[chain.end..].get(..header.len() as usize) else { return chain };
        let body = &record[RECORD_HEADER_BYTES as usize..];
        let whole = checksum(0, body) == header.body_crc;
        match Body::decode(&header, body) {
            Ok(body) if whole => visit(Found::Record(Placed { offset, header, body })),
            _ => visit(Found::Spoilt { offset, header }),
        }
        chain.end += record.len();
        chain.records += 1;
    }
}

/// The group that stands at `at` and where it ends, if its header holds and it ends within `bytes`.
fn group_at(bytes: &[u8], seed: Seed, at: usize) -> Result<(GroupHeader, usize), Invalid> {
    let group = GroupHeader::decode(&bytes[at..], seed, position(at))?;
    let end = at + GROUP_HEADER_BYTES as usize + group.len as usize;
    if end <= bytes.len() { Ok((group, end)) } else { Err(Invalid::Short) }
}

fn next_group(bytes: &[u8], seed: Seed, mut at: usize) -> Option<usize> {
    while let Some(found) = bytes.get(at..)?.windows(GROUP_MAGIC.len()).position(|w| w == GROUP_MAGIC) {
        at += found;
        if group_at(bytes, seed, at).is_ok() {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
