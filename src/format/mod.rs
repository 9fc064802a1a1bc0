//! The format on disk, specified once, here: bytes to values and back. Pure: no file is opened on this floor.
//!
//! All numbers are little-endian. Offsets are in bytes.
//!
//! # Segment
//!
//! A file `xxxxxxxx.seg` (its id in hex): a header, then groups back to back, then zeros that were set aside and not used.
//!
//! ```text
//!  0  magic "CLOAKSEG"          8      24  store uuid         16
//!  8  format version, 1         2      40  segment id          4
//! 10  kind: 1 stream, 2 copy    1      44  zero                4
//! 11  zero                      1      48  salt                8
//! 12  compatible features       4      56  zero                4
//! 16  read-only compatible      4      60  checksum of 0..60   4
//! 20  incompatible features     4      64  first group
//! ```
//!
//! A *stream* segment takes groups as they are staged. A *copy* segment is written whole by compaction or recovery and is
//! listed in the manifest only once it is durable.
//!
//! # Group
//!
//! What one write carried. It counts as a whole or not at all, so its records are atomic together.
//!
//! ```text
//!  0  magic "GRP1"              4      20  watermark offset    4
//!  4  flags: 1 last of segment  4      24  next seq before it  8
//!  8  length of its records     4      32  store time, ms      8
//! 12  number of records         4      40  zero                4
//! 16  watermark segment         4      44  checksum of 0..44   4
//!                                      48  records, back to back
//! ```
//!
//! The *watermark* is the place in the stream up to which everything was on the device when the group was built. In a copy segment
//! it is 0, and the next sequence number is the one that the store had got to when the segment was begun.
//!
//! # Footer
//!
//! What may stand behind the length of a sealed segment that the manifest names: what a scan of that length would tell of its records. It is a
//! hint: a store that has none, or one that does not hold, is read whole.
//!
//! ```text
//!  0  magic "CLOAKFTR"          8      20  checksum of it      4
//!  8  length of body            4      24  zero                4
//! 12  checksum of body          4      28  checksum of 0..28   4
//! 16  length of the segment     4      32  body
//! ```
//!
//! The body begins with the latest store time (8), the next sequence number (8) and the number of records (4); then comes a line for each record,
//! in any order:
//!
//! ```text
//!  0  kind, and flags times 16  1       numbers, back to back:
//!  1  length of label           1       1 offset in the segment +    5 created at +
//!  2  length of front           1       2 length of body             6 expires at +
//!  3  lengths of the numbers,           3 sequence number +          7 absolute end: 0 is never, else 1 more
//!     4 bits each, first lowest 4       4 of its deadline: by how      than from expires at
//!  7  key                      32         much more                  8 idle period
//! 39  numbers                           then the front: the body before the label
//!
//! +: the difference d from the line before, from 0 in the first: 2d, or where d is negative -2d - 1
//! ```
//!
//! # Record
//!
//! ```text
//!  0  kind                      1      56  created at, s       8
//!  1  flags                     1      64  expires at, ms      8
//!  2  length of label           1      72  absolute end, ms    8
//!  3  zero                      1      80  idle period, ms     8
//!  4  length of body            4      88  checksum of body    4
//!  8  sequence number           8      92  checksum of 0..92   4
//! 16  number of its deadline    8      96  body
//! 24  key                      32
//! ```
//!
//! The body is, each part only where the kind or a flag says so: owner key (16); the old key of a rotation (32) and how
//! long what it hides may last (8); the key that a revocation spares (32); the label; the payload.
//!
//! | kind | means | number of deadline |
//! |---|---|---|
//! | 1 put | newest content of `key` | own, or a later touch's in a copy |
//! | 2 touch | newest deadlines of `key`, if its content has the touch's sequence number or a later one | own |
//! | 3 delete | no older record of `key` counts; itself not needed after `expires at` | own |
//! | 4 rotate | a put of `key` and a delete of the old key at once | as for put |
//! | 5 revoke | no older content that is owned by the owner `key` counts, but under the key it spares; itself not needed after `expires at` | own |
//!
//! A rotation from a key to the same key gives the session another owner: a put, and a delete of all that is older.
//! The key of a revocation is the owner's, filled up with zeros, or all zeros for everybody who is owned.
//!
//! Flags: 1 exact lifetime (put, rotate, touch), 2 owned (put, rotate), 4 everybody (revoke), 8 spares one (revoke).
//!
//! A time of creation is less than 2^32. An instant that is never is 2^48 - 1; an idle period of 0 is none. Only a put and a rotate have a label or a payload. A label is
//! UTF-8, and goes with an owner; a put, a rotate and compaction keep it.
//!
//! # Checksums
//!
//! CRC-32 as in zlib, continued from a start value: 0 for the segment's header, a record's body and the manifest, [`Seed::at`] of its
//! offset for the header of a group, a record or a footer.
//!
//! # Validity
//!
//! 1. A header is valid if its checksum, magic and every reserved zero hold. Group and record checksums start from the
//!    segment's salt and id and the header's own offset, so stale, misplaced or misdirected bytes never validate.
//! 2. Lengths are believed only in a valid header, and only inside of what holds them; so no allocation exceeds the file.
//! 3. A group is valid if its header is, and if its records, each valid with its body, fill its length exactly in the number given.
//! 4. The body of a record is covered by the record's header, which carries its checksum.
//! 5. Sequence numbers are less than 2^63, and none is 0; instants are at most "never". What a kind of record does not have is zero; the
//!    absolute end of a tombstone or a revocation is its `expires at`.
//! 6. Unknown incompatible features: do not read. Unknown read-only compatible ones: do not write; every open writes, so it refuses both.
//!
//! # Manifest
//!
//! `MANIFEST` is replaced as a whole and lists every segment that counts. Its body is a [`Manifest`] in postcard: fixed bytes as they are,
//! other numbers seven bits a byte, the lowest first, with the top bit where more follow.
//!
//! ```text
//!  0  magic "CLOAKMAN"          8      body:
//!  8  format version, 1         4      store uuid                16 bytes
//! 12  length of body            4      mark, ms                  number
//! 16  checksum of body          4      doubted, ms, or 0         number
//! 20  checksum of 0..20         4      next segment              number
//! 24  body                             next sequence number      number
//!                                      on the device before it:
//!                                      segment x 2^32 + offset   number
//!                                      how many segments         number
//!
//! each segment, by id, ascending:
//!     id; kind: 0 stream, 1 copy; salt; capacity                 numbers
//!     sealed: 0 no, 1 yes                                        1 byte
//!     if it is sealed: length; checksum of so many bytes of it   numbers
//! ```
//!
//! The capacity is what was set aside for the segment when it was made.

mod footer;
mod group;
mod manifest;
#[cfg(feature = "sim")]
pub mod probe;
mod record;
mod segment;

pub(crate) use footer::{FOOTER_HEADER_BYTES, Footer, FooterWriter};
pub(crate) use group::{GROUP_HEADER_BYTES, GROUP_MAGIC, GroupHeader, Placed, Records};
pub(crate) use manifest::{Listed, MANIFEST_MAGIC, Manifest, Seal};
pub(crate) use record::{
    Body, Kind, OWNER_LEN, RECORD_HEADER_BYTES, ROTATE_BYTES, RecordHeader, Rotated, segment_name,
};
pub(crate) use segment::{SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, Seed, SegmentHeader, SegmentKind};

/// The version of the format that this crate writes, and the newest it reads.
pub(crate) const FORMAT_VERSION: u16 = 1;

/// The first sequence number that no record has: so far from the end of its type that nothing computed from a valid one overflows.
pub(crate) const SEQ_END: u64 = 1 << 63;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("it ends too early")]
    Short,
    #[error("the magic is not there")]
    Magic,
    #[error("the checksum does not match")]
    Checksum,
    #[error("a field is out of its range")]
    Field,
    #[error("the body's checksum does not match")]
    BodyChecksum,
    #[error("it has format or features {0}, which this version does not know")]
    Unknown(u32),
}

impl Invalid {
    /// The same as a fixed sentence, for errors that carry no allocation.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Short => "it ends too early",
            Self::Magic => "the magic is not there",
            Self::Checksum => "the checksum does not match",
            Self::Field => "a field is out of its range",
            Self::BodyChecksum => "the body's checksum does not match",
            Self::Unknown(_) => "it has a format this version does not know",
        }
    }
}

/// Takes numbers off the front of a header whose length was checked by its type.
pub(crate) struct Take<'a>(pub(crate) &'a [u8]);

impl<'a> Take<'a> {
    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Invalid::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn slice(&mut self, len: usize) -> Result<&'a [u8], Invalid> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Invalid::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Invalid> {
        self.bytes::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Invalid> {
        self.bytes().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Invalid> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Invalid> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// A number of `len` bytes.
    pub(crate) fn number(&mut self, len: u32) -> Result<u64, Invalid> {
        // Eight bytes at once where there are as many: it costs no call.
        if let (Some(eight), 1..8) = (self.0.first_chunk(), len) {
            self.0 = &self.0[len as usize..];
            return Ok(u64::from_le_bytes(*eight) & ((1 << (8 * len)) - 1));
        }
        let mut bytes = [0; 8];
        bytes.get_mut(..len as usize).ok_or(Invalid::Field)?.copy_from_slice(self.slice(len as usize)?);
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Puts numbers into a header of fixed length, one behind the other.
pub(crate) struct Lay<'a> {
    into: &'a mut [u8],
    at: usize,
}

impl<'a> Lay<'a> {
    pub(crate) fn new(into: &'a mut [u8]) -> Self {
        Self { into, at: 0 }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.into[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    pub(crate) fn u8(&mut self, n: u8) -> &mut Self {
        self.bytes(&[n])
    }

    pub(crate) fn u16(&mut self, n: u16) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, n: u32) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, n: u64) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }

    /// Closes the header with the checksum of all before it.
    pub(crate) fn checksum(&mut self, start: u32) {
        let crc = checksum(start, &self.into[..self.at]);
        self.u32(crc);
    }
}

/// CRC-32 of `bytes`, started from `start`: two different starts never give the same checksum for the same bytes.
pub(crate) fn checksum(start: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(start);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests;
