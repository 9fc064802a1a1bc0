//! The segment header, and the seed that binds a checksum to its place.

use crate::id::SegmentId;

use super::{FORMAT_VERSION, Invalid, Lay, Take, checksum};

pub(crate) const SEGMENT_HEADER_BYTES: u32 = 64;

pub(crate) const SEGMENT_MAGIC: &[u8; 8] = b"CLOAKSEG";
/// Feature bits this version knows: none yet.
const INCOMPATIBLE_KNOWN: u32 = 0;
const READ_ONLY_KNOWN: u32 = 0;

/// How a segment came to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum SegmentKind {
    /// It takes groups as they are staged.
    Stream,
    /// It was written whole, from records that were elsewhere.
    Copy,
}

/// What a segment says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub(crate) kind: SegmentKind,
    pub(crate) store: [u8; 16],
    pub(crate) id: SegmentId,
    pub(crate) salt: u64,
}

/// What the checksums of one segment start from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seed(u64);

impl Seed {
    /// The start for a header at `offset`: the high half of a 64-bit mix (the finalizer of `SplitMix64`).
    pub(crate) const fn at(self, offset: u32) -> u32 {
        let mut z = self.0 ^ (offset as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z >> 32) as u32
    }
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        Lay::new(&mut bytes)
            .bytes(SEGMENT_MAGIC)
            .u16(FORMAT_VERSION)
            .u8(match self.kind {
                SegmentKind::Stream => 1,
                SegmentKind::Copy => 2,
            })
            .u8(0)
            .u32(0)
            .u32(READ_ONLY_KNOWN)
            .u32(INCOMPATIBLE_KNOWN)
            .bytes(&self.store)
            .u32(self.id.0)
            .u32(0)
            .u64(self.salt)
            .u32(0)
            .checksum(0);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let bytes = bytes.first_chunk::<{ SEGMENT_HEADER_BYTES as usize }>().ok_or(Invalid::Short)?;
        let mut take = Take(bytes);
        if &take.bytes::<8>()? != SEGMENT_MAGIC {
            return Err(Invalid::Magic);
        }
        let version = take.u16()?;
        let (kind, zero) = (take.u8()?, take.u8()?);
        let (_compatible, read_only, incompatible) = (take.u32()?, take.u32()?, take.u32()?);
        let (store, id, zero_too, salt) = (take.bytes()?, SegmentId(take.u32()?), take.u32()?, take.u64()?);
        let (zero_last, crc) = (take.u32()?, take.u32()?);
        if crc != checksum(0, &bytes[..60]) {
            return Err(Invalid::Checksum);
        }
        if version != FORMAT_VERSION {
            return Err(Invalid::Unknown(version.into()));
        }
        if incompatible & !INCOMPATIBLE_KNOWN != 0 || read_only & !READ_ONLY_KNOWN != 0 {
            return Err(Invalid::Unknown(incompatible | read_only));
        }
        let kind = match kind {
            1 => SegmentKind::Stream,
            2 => SegmentKind::Copy,
            _ => return Err(Invalid::Field),
        };
        if zero != 0 || zero_too != 0 || zero_last != 0 || id.0 == 0 {
            return Err(Invalid::Field);
        }
        Ok(Self { kind, store, id, salt })
    }

    /// Whether a file that begins with these bytes is this segment's, damaged or not: its salt, which no other has, stands where it should.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        bytes.get(48..56) == Some(&self.salt.to_le_bytes()[..])
    }

    pub(crate) const fn seed(&self) -> Seed {
        Seed(self.salt ^ (self.id.0 as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }
}
