//! The manifest: which segments count, and what is known of them.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{Position, SegmentId};

use super::{FORMAT_VERSION, Invalid, Lay, SEGMENT_HEADER_BYTES, SEQ_END, SegmentKind, Take, checksum};

pub(crate) const MANIFEST_MAGIC: &[u8; 8] = b"CLOAKMAN";
const HEADER_BYTES: usize = 24;

/// A store's list of segments, with what must outlive each of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Names the store; segments of another never mix with its own.
    pub(crate) store: [u8; 16],
    /// Store time never starts before this, in milliseconds since 1970.
    pub(crate) mark_ms: u64,
    /// What the wall clock showed when a start was doubtful, in milliseconds since 1970; 0 if the last start was not.
    pub(crate) doubted_ms: u64,
    /// No segment had this id yet, nor a later one.
    pub(crate) next_segment: u32,
    /// No record that a sealed segment holds has a later number.
    pub(crate) next_seq: u64,
    /// Everything of the stream before this [`Position`] was on the device when the list was written: what a group's watermark says, in another place.
    pub(crate) durable: u64,
    /// By id, ascending.
    pub(crate) segments: Vec<Listed>,
}

/// One segment of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) id: u32,
    pub(crate) kind: SegmentKind,
    pub(crate) salt: u64,
    /// Bytes that were set aside for it; its file is not shorter until it is sealed.
    pub(crate) capacity: u32,
    /// `None` while the stream may write to it.
    pub(crate) seal: Option<Seal>,
}

/// What a segment that takes no more groups holds; all of it was synced before this was written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Seal {
    /// Length that counts, header included, in bytes.
    pub(crate) len: u32,
    /// CRC-32 of those bytes.
    pub(crate) crc: u32,
}

impl Listed {
    fn is_sound(&self) -> bool {
        // A copy may be longer than what was set aside for it.
        self.capacity.min(self.seal.map_or(u32::MAX, |seal| seal.len)) >= SEGMENT_HEADER_BYTES
    }
}

impl Manifest {
    /// The list of a store in which nothing was written yet.
    pub(crate) fn empty(store: [u8; 16]) -> Self {
        Self {
            store,
            mark_ms: 0,
            doubted_ms: 0,
            next_segment: 1,
            next_seq: 1,
            durable: 0,
            segments: Vec::new(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // Serializing plain numbers into a growing vector cannot fail; an empty body would be refused by `decode`.
        let body = postcard::to_stdvec(self).unwrap_or_default();
        let mut bytes = vec![0; HEADER_BYTES];
        Lay::new(&mut bytes)
            .bytes(MANIFEST_MAGIC)
            .u32(FORMAT_VERSION.into())
            .u32(u32::try_from(body.len()).unwrap_or(u32::MAX))
            .u32(checksum(0, &body))
            .checksum(0);
        bytes.extend_from_slice(&body);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(Invalid::Short)?;
        let mut take = Take(header);
        if &take.bytes::<8>()? != MANIFEST_MAGIC {
            return Err(Invalid::Magic);
        }
        let (version, len, body_crc, crc) = (take.u32()?, take.u32()?, take.u32()?, take.u32()?);
        if crc != checksum(0, &header[..20]) {
            return Err(Invalid::Checksum);
        }
        if version != u32::from(FORMAT_VERSION) {
            return Err(Invalid::Unknown(version));
        }
        let body = &bytes[HEADER_BYTES..];
        if body.len() != len as usize {
            return Err(Invalid::Short);
        }
        if checksum(0, body) != body_crc {
            return Err(Invalid::BodyChecksum);
        }
        let manifest: Self = postcard::from_bytes(body).map_err(|_| Invalid::Field)?;
        // Postcard passes over what follows, and reads a number that is written longer than it need be: a manifest has one form.
        if manifest.is_sound() && manifest.encode() == bytes { Ok(manifest) } else { Err(Invalid::Field) }
    }

    /// Whether its numbers are such as a store writes.
    fn is_sound(&self) -> bool {
        let is_instant = |ms| Timestamp::from_millis(ms).as_millis() == ms;
        let ascending = self.segments.windows(2).all(|pair| pair[0].id < pair[1].id);
        let below = self.segments.last().is_none_or(|last| last.id < self.next_segment);
        let some = self.segments.first().is_none_or(|first| first.id > 0);
        is_instant(self.mark_ms)
            && is_instant(self.doubted_ms)
            && self.next_segment > 0
            && (1..=SEQ_END).contains(&self.next_seq)
            && self.durable().segment.0 < self.next_segment
            && (ascending && below && some)
            && self.segments.iter().all(Listed::is_sound)
    }

    pub(crate) fn mark(&self) -> Timestamp {
        Timestamp::from_millis(self.mark_ms)
    }

    pub(crate) fn durable(&self) -> Position {
        Position::unpack(self.durable)
    }

    /// When a start was doubtful, if the last one was.
    pub(crate) fn doubted(&self) -> Option<Timestamp> {
        (self.doubted_ms != 0).then(|| Timestamp::from_millis(self.doubted_ms))
    }

    /// The next free segment id, which is taken by this call.
    pub(crate) fn take_id(&mut self) -> SegmentId {
        let id = SegmentId(self.next_segment);
        self.next_segment += 1;
        id
    }

    pub(crate) fn find(&mut self, id: SegmentId) -> Option<&mut Listed> {
        self.segments.iter_mut().find(|listed| listed.id == id.0)
    }
}
