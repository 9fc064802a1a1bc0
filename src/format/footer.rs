//! The footer: what the records of a sealed segment say but for their labels and payloads, so that an open need not read those.

use crate::clock::Timestamp;
use crate::id::{Seq, SessionKey};
use crate::lifetime::Deadlines;

use super::record::{Kind, instant};
use super::{
    Body, GROUP_HEADER_BYTES, Invalid, Lay, Placed, RecordHeader, SEGMENT_HEADER_BYTES, SEQ_END, Seal, Seed,
    Take, checksum,
};

pub(crate) const FOOTER_HEADER_BYTES: usize = 32;

const MAGIC: &[u8; 8] = b"CLOAKFTR";

const HEAD_BYTES: usize = 20;

/// Bits of a line's first byte that have the kind; above them are the flags.
const KIND_BITS: u32 = 4;

/// Bits that have the length of one of a line's numbers.
const LEN_BITS: u32 = 4;

/// The numbers of a line.
const NUMBERS: usize = 8;

/// A line's bytes before its numbers.
const LINE_BYTES: usize = 39;

/// What a line is the difference from.
#[derive(Clone, Copy, Default)]
struct Last {
    offset: u64,
    seq: u64,
    created_s: u64,
    expires_ms: u64,
}

impl Last {
    fn of(placed: &Placed<'_>) -> Self {
        Self {
            offset: placed.offset.into(),
            seq: placed.header.seq.0,
            created_s: placed.header.created_s.into(),
            expires_ms: placed.header.deadlines.expires_at.as_millis(),
        }
    }
}

/// A footer that is being made. The lines may come in any order; the nearer to each other, the shorter they are.
pub(crate) struct FooterWriter {
    /// Room for the header, then the lines.
    bytes: Vec<u8>,
    front: Vec<u8>,
    last: Last,
}

impl FooterWriter {
    /// Of a segment with so many records, of which a scan says `time` and `next_seq`.
    pub(crate) fn new(time: Timestamp, next_seq: Seq, records: u32) -> Self {
        let mut bytes = vec![0; FOOTER_HEADER_BYTES + HEAD_BYTES];
        Lay::new(&mut bytes[FOOTER_HEADER_BYTES..]).u64(time.as_millis()).u64(next_seq.0).u32(records);
        Self { bytes, front: Vec::new(), last: Last::default() }
    }

    pub(crate) fn push(&mut self, placed: &Placed<'_>) {
        self.front.clear();
        Body { label: &[], payload: &[], ..placed.body }.append_to(&mut self.front);
        let (header, now, last) = (&placed.header, Last::of(placed), self.last);
        let (absolute, expires) = (header.deadlines.absolute_at, header.deadlines.expires_at);
        let never = absolute == Timestamp::MAX;
        let numbers: [u64; NUMBERS] = [
            difference(now.offset, last.offset),
            header.body_len.into(),
            difference(now.seq, last.seq),
            header.deadline_seq.0 - header.seq.0,
            difference(now.created_s, last.created_s),
            difference(now.expires_ms, last.expires_ms),
            if never { 0 } else { absolute.as_millis() - expires.as_millis() + 1 },
            header.deadlines.idle_ms,
        ];
        let lens = numbers.iter().rev().fold(0, |lens, n| lens << LEN_BITS | bytes_of(*n));
        let mut line = [0; LINE_BYTES];
        Lay::new(&mut line)
            .u8(header.kind.number() | header.flags() << KIND_BITS)
            .u8(header.label_len)
            // Of an owner and a rotation, or of a revocation: never near 256.
            .u8(u8::try_from(self.front.len()).unwrap_or(u8::MAX))
            .u32(lens)
            .bytes(header.key.as_bytes());
        self.bytes.extend_from_slice(&line);
        for n in numbers {
            self.bytes.extend_from_slice(&n.to_le_bytes()[..bytes_of(n) as usize]);
        }
        self.bytes.extend_from_slice(&self.front);
        self.last = now;
    }

    /// The footer of the segment with this seal.
    pub(crate) fn finish(mut self, seed: Seed, seal: Seal) -> Vec<u8> {
        let (header, body) = self.bytes.split_at_mut(FOOTER_HEADER_BYTES);
        Lay::new(header)
            .bytes(MAGIC)
            .u32(u32::try_from(body.len()).unwrap_or(u32::MAX))
            .u32(checksum(0, body))
            .u32(seal.len)
            .u32(seal.crc)
            .u32(0)
            .checksum(seed.at(seal.len));
        self.bytes
    }
}

/// A footer that holds.
pub(crate) struct Footer<'a> {
    /// The latest store time of a group.
    pub(crate) time: Timestamp,
    /// The latest number that a group says is not used before it, and one beyond the last record.
    pub(crate) next_seq: Seq,
    /// How many records there are.
    pub(crate) count: u32,
    lines: &'a [u8],
    segment_len: u32,
}

impl<'a> Footer<'a> {
    /// The length of the footer that begins with these bytes at `at` of a segment, and the seal it is of.
    pub(crate) fn of(bytes: &[u8], seed: Seed, at: u32) -> Result<(usize, Seal), Invalid> {
        let header = bytes.first_chunk::<FOOTER_HEADER_BYTES>().ok_or(Invalid::Short)?;
        let mut take = Take(header);
        if &take.bytes::<8>()? != MAGIC {
            return Err(Invalid::Magic);
        }
        let (len, _body_crc) = (take.u32()?, take.u32()?);
        let (of, zero) = (Seal { len: take.u32()?, crc: take.u32()? }, take.u32()?);
        if take.u32()? != checksum(seed.at(at), &header[..FOOTER_HEADER_BYTES - 4]) {
            return Err(Invalid::Checksum);
        }
        if of.len != at || zero != 0 {
            return Err(Invalid::Field);
        }
        Ok((FOOTER_HEADER_BYTES + len as usize, of))
    }

    /// The length of the footer that stands behind the segment with this seal, which begins with these bytes.
    pub(crate) fn len(bytes: &[u8], seed: Seed, seal: Seal) -> Result<usize, Invalid> {
        match Self::of(bytes, seed, seal.len)? {
            (len, of) if of == seal => Ok(len),
            _ => Err(Invalid::Field),
        }
    }

    /// Where a footer begins among the bytes of a segment, of which it is not known what counts: there the segment was sealed.
    pub(crate) fn find(bytes: &[u8], seed: Seed) -> Option<u32> {
        let begins = |(at, window): (usize, &[u8])| (window == MAGIC).then_some(at);
        let is_one = |at: &u32| Self::of(&bytes[*at as usize..], seed, *at).is_ok();
        let places = bytes.windows(MAGIC.len()).enumerate().filter_map(begins);
        places.filter_map(|at| u32::try_from(at).ok()).find(is_one)
    }

    /// Reads a whole footer, whose checksums hold. Its records are taken apart one by one.
    pub(crate) fn decode(bytes: &'a [u8], seed: Seed, seal: Seal) -> Result<Self, Invalid> {
        if Self::len(bytes, seed, seal)? != bytes.len() {
            return Err(Invalid::Short);
        }
        let (header, body) = bytes.split_at(FOOTER_HEADER_BYTES);
        let mut take = Take(&header[12..]);
        if take.u32()? != checksum(0, body) {
            return Err(Invalid::BodyChecksum);
        }
        let mut take = Take(body);
        let (time_ms, next_seq, count) = (take.u64()?, Seq(take.u64()?), take.u32()?);
        if next_seq.0 > SEQ_END {
            return Err(Invalid::Field);
        }
        Ok(Self { time: instant(time_ms)?, next_seq, count, lines: take.0, segment_len: seal.len })
    }

    /// Shows the records, without labels, payloads and the checksums of their bodies, up to the first that cannot be one.
    pub(crate) fn visit(&self, mut visit: impl FnMut(&Placed<'a>)) -> Result<(), Invalid> {
        let (mut rest, mut last) = (Take(self.lines), Last::default());
        for _ in 0..self.count {
            let (kind_and_flags, label_len, front_len, lens) =
                (rest.u8()?, rest.u8()?, rest.u8()?, rest.u32()?);
            let key = SessionKey::from_bytes(rest.bytes()?);
            let mut numbers = [0; NUMBERS];
            for (at, n) in (0..).zip(&mut numbers) {
                let len = lens >> (LEN_BITS * at) & ((1 << LEN_BITS) - 1);
                *n = rest.number(len)?;
                // A footer has one form.
                if bytes_of(*n) != len {
                    return Err(Invalid::Field);
                }
            }
            let [offset, body_len, seq, deadline_seq, created_s, expires, absolute, idle_ms] = numbers;
            last = Last {
                offset: beyond(last.offset, offset),
                seq: beyond(last.seq, seq),
                created_s: beyond(last.created_s, created_s),
                expires_ms: beyond(last.expires_ms, expires),
            };
            let absolute_at = match absolute.checked_sub(1) {
                None => Timestamp::MAX,
                Some(more) => {
                    let at = instant(last.expires_ms.checked_add(more).ok_or(Invalid::Field)?)?;
                    Some(at).filter(|at| *at != Timestamp::MAX).ok_or(Invalid::Field)?
                }
            };
            let mut header = RecordHeader {
                kind: Kind::of(kind_and_flags & ((1 << KIND_BITS) - 1)).ok_or(Invalid::Field)?,
                owned: false,
                all: false,
                spares: false,
                label_len: 0,
                body_len: front_len.into(),
                seq: Seq(last.seq),
                deadline_seq: Seq(last.seq.checked_add(deadline_seq).ok_or(Invalid::Field)?),
                key,
                created_s: narrow(last.created_s)?,
                deadlines: Deadlines {
                    idle_ms,
                    absolute_at,
                    expires_at: instant(last.expires_ms)?,
                    exact: false,
                },
                body_crc: 0,
            };
            header.set_flags(kind_and_flags >> KIND_BITS);
            let body = Body::decode(&header, rest.slice(front_len.into())?)?;
            (header.label_len, header.body_len) = (label_len, narrow(body_len)?);
            let placed = Placed { offset: narrow(last.offset)?, header, body };
            if !self.is_sound(&placed, front_len.into()) {
                return Err(Invalid::Field);
            }
            visit(&placed);
        }
        if rest.0.is_empty() { Ok(()) } else { Err(Invalid::Field) }
    }

    /// Whether a record may be in the segment, `front` bytes of whose body are before the label.
    fn is_sound(&self, placed: &Placed<'_>, front: u32) -> bool {
        let Placed { offset, header, body } = placed;
        let has_room = match header.body_len.checked_sub(front) {
            Some(0) => header.label_len == 0,
            Some(rest) => header.kind.has_content() && rest >= header.label_len.into(),
            None => false,
        };
        let first = SEGMENT_HEADER_BYTES + GROUP_HEADER_BYTES;
        header.is_sound()
            && body.payload.is_empty()
            && has_room
            && *offset >= first
            && self.segment_len.checked_sub(*offset).is_some_and(|left| header.len() <= left)
    }
}

/// How many bytes a number takes without its leading zeros.
fn bytes_of(n: u64) -> u32 {
    (u64::BITS - n.leading_zeros()).div_ceil(8)
}

/// From `b` to `a`, around the end of the numbers if need be: the sign is the lowest bit, so that what is near is short.
fn difference(a: u64, b: u64) -> u64 {
    let n = a.wrapping_sub(b);
    n << 1 ^ 0_u64.wrapping_sub(n >> 63)
}

/// What [`difference`] leads to from `b`.
fn beyond(b: u64, n: u64) -> u64 {
    b.wrapping_add(n >> 1 ^ 0_u64.wrapping_sub(n & 1))
}

fn narrow(n: u64) -> Result<u32, Invalid> {
    n.try_into().map_err(|_| Invalid::Field)
}
