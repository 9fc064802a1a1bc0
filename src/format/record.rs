//! The record: its fixed header and the parts of its body.

use bytes::BufMut;

use crate::clock::Timestamp;
use crate::id::{OWNER_BYTES, OwnerKey, SegmentId, Seq, SessionKey};
use crate::lifetime::Deadlines;

use super::{Invalid, Lay, SEQ_END, Seed, Take, checksum};

/// Length of a record's header: all of a touch, and of a tombstone.
pub(crate) const RECORD_HEADER_BYTES: u32 = 96;

/// What a rotate record carries for its old key, beyond what a put would: that key, and how long what it hides may last.
pub(crate) const ROTATE_BYTES: u32 = 40;

/// The longest record: lengths take 24 bits of an index slot.
pub(crate) const RECORD_BYTES_MAX: u32 = (1 << 24) - 1;

const SPARED_BYTES: usize = 32;

/// The same as [`OWNER_BYTES`], as lengths of records are counted.
pub(crate) const OWNER_LEN: u32 = 16;
const _: () = assert!(OWNER_LEN as usize == OWNER_BYTES);

const FLAG_EXACT: u8 = 1;
const FLAG_OWNED: u8 = 2;
const FLAG_ALL: u8 = 4;
const FLAG_SPARES: u8 = 8;
const FLAGS: u8 = FLAG_EXACT | FLAG_OWNED | FLAG_ALL | FLAG_SPARES;

/// What a record means; the module's head has the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Put,
    Touch,
    Delete,
    Rotate,
    Revoke,
}

impl Kind {
    /// Whether its record has a payload, and may have a label and an owner.
    pub(super) const fn has_content(self) -> bool {
        matches!(self, Self::Put | Self::Rotate)
    }

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Put => 1,
            Self::Touch => 2,
            Self::Delete => 3,
            Self::Rotate => 4,
            Self::Revoke => 5,
        }
    }

    pub(super) const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Put),
            2 => Some(Self::Touch),
            3 => Some(Self::Delete),
            4 => Some(Self::Rotate),
            5 => Some(Self::Revoke),
            _ => None,
        }
    }
}

/// The fixed part of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) owned: bool,
    /// A revocation of every owner.
    pub(crate) all: bool,
    /// A revocation that spares one session.
    pub(crate) spares: bool,
    pub(crate) label_len: u8,
    pub(crate) body_len: u32,
    pub(crate) seq: Seq,
    pub(crate) deadline_seq: Seq,
    pub(crate) key: SessionKey,
    /// Whole seconds since 1970, since an index slot has room for no more.
    pub(crate) created_s: u32,
    /// Of a delete: `expires_at` alone, the latest deadline of what it hides.
    pub(crate) deadlines: Deadlines,
    pub(crate) body_crc: u32,
}

impl RecordHeader {
    /// Length of the record, header and body.
    pub(crate) const fn len(&self) -> u32 {
        RECORD_HEADER_BYTES + self.body_len
    }

    /// A header of `kind` for `key`, whose numbers are given when it is staged.
    pub(crate) fn new(
        kind: Kind,
        key: SessionKey,
        created_s: u32,
        deadlines: Deadlines,
        body: &Body<'_>,
    ) -> Self {
        Self {
            kind,
            owned: body.owner.is_some(),
            all: false,
            spares: body.spared.is_some(),
            label_len: body.label_len(),
            body_len: body.len(),
            seq: Seq(0),
            deadline_seq: Seq(0),
            key,
            created_s,
            deadlines,
            body_crc: body.crc(),
        }
    }

    /// A tombstone: no record of `key` that is older counts, the last of which ends at `hides_until`.
    pub(crate) fn delete(key: SessionKey, hides_until: Timestamp) -> Self {
        let deadlines =
            Deadlines { idle_ms: 0, absolute_at: hides_until, expires_at: hides_until, exact: false };
        Self::new(Kind::Delete, key, 0, deadlines, &Body::default())
    }

    /// New deadlines for the content of `key` that has this number, and for what replaces it without a deadline of its own: for nothing older.
    pub(crate) fn touch(key: SessionKey, content: Seq, deadlines: Deadlines) -> Self {
        Self { seq: content, ..Self::new(Kind::Touch, key, 0, deadlines, &Body::default()) }
    }

    /// A revocation of one owner's sessions, or of everybody's; no record that it ends lasts beyond `hides_until`.
    pub(crate) fn revoke(owner: Option<OwnerKey>, hides_until: Timestamp, body: &Body<'_>) -> Self {
        let deadlines =
            Deadlines { idle_ms: 0, absolute_at: hides_until, expires_at: hides_until, exact: false };
        let header = Self::new(Kind::Revoke, revoked_key(owner), 0, deadlines, body);
        Self { all: owner.is_none(), ..header }
    }

    /// Whom a revocation revokes: one owner, or everybody.
    pub(crate) fn revoked(&self) -> Option<OwnerKey> {
        let front = self.key.as_bytes().first_chunk().copied().unwrap_or_default();
        (!self.all).then_some(OwnerKey::from_bytes(front))
    }

    /// Gives a put whose body is a payload alone an owner and a label. The checksums are combined; the payload is not read again.
    pub(crate) fn own(&mut self, owner: OwnerKey, label: &[u8]) {
        let front = Body { owner: Some(owner), label, ..Body::default() };
        let mut body = crc32fast::Hasher::new();
        front.parts(|part| body.update(part));
        body.combine(&crc32fast::Hasher::new_with_initial_len(self.body_crc, self.body_len.into()));
        self.body_crc = body.finalize();
        self.body_len += front.len();
        self.label_len = front.label_len();
        self.owned = true;
    }

    pub(crate) fn encode(&self, seed: Seed, offset: u32) -> [u8; RECORD_HEADER_BYTES as usize] {
        let mut bytes = [0; RECORD_HEADER_BYTES as usize];
        Lay::new(&mut bytes)
            .u8(self.kind.number())
            .u8(self.flags())
            .u8(self.label_len)
            .u8(0)
            .u32(self.body_len)
            .u64(self.seq.0)
            .u64(self.deadline_seq.0)
            .bytes(self.key.as_bytes())
            .u64(self.created_s.into())
            .u64(self.deadlines.expires_at.as_millis())
            .u64(self.deadlines.absolute_at.as_millis())
            .u64(self.deadlines.idle_ms)
            .u32(self.body_crc)
            .checksum(seed.at(offset));
        bytes
    }

    /// Reads the header that stands at `offset` of the segment, at the front of `bytes`.
    pub(crate) fn decode(bytes: &[u8], seed: Seed, offset: u32) -> Result<Self, Invalid> {
        let bytes = bytes.first_chunk::<{ RECORD_HEADER_BYTES as usize }>().ok_or(Invalid::Short)?;
        let mut take = Take(bytes);
        let (kind, flags, label_len, zero) = (take.u8()?, take.u8()?, take.u8()?, take.u8()?);
        let (body_len, seq, deadline_seq) = (take.u32()?, Seq(take.u64()?), Seq(take.u64()?));
        let key = SessionKey::from_bytes(take.bytes()?);
        let (created_s, expires_ms, absolute_ms, idle_ms) =
            (take.u64()?, take.u64()?, take.u64()?, take.u64()?);
        let (body_crc, crc) = (take.u32()?, take.u32()?);
        if crc != checksum(seed.at(offset), &bytes[..92]) {
            return Err(Invalid::Checksum);
        }
        let kind = Kind::of(kind).ok_or(Invalid::Field)?;
        let created_s = u32::try_from(created_s).map_err(|_| Invalid::Field)?;
        let deadlines = Deadlines {
            idle_ms,
            absolute_at: instant(absolute_ms)?,
            expires_at: instant(expires_ms)?,
            exact: false,
        };
        let mut header = Self {
            kind,
            owned: false,
            all: false,
            spares: false,
            label_len,
            body_len,
            seq,
            deadline_seq,
            key,
            created_s,
            deadlines,
            body_crc,
        };
        header.set_flags(flags);
        let is_whole = flags & !FLAGS == 0 && zero == 0 && header.is_sound();
        if is_whole { Ok(header) } else { Err(Invalid::Field) }
    }

    /// Whether its fields are such as a store writes.
    pub(super) fn is_sound(&self) -> bool {
        let Self { kind, deadlines, label_len, seq, deadline_seq, .. } = self;
        self.flags() & !flags_of(*kind) == 0
            && (*label_len == 0 || kind.has_content())
            && self.body_len <= RECORD_BYTES_MAX - RECORD_HEADER_BYTES
            && deadlines.expires_at <= deadlines.absolute_at
            && deadlines.idle_is_whole()
            && seq.0 != 0
            && deadline_seq >= seq
            && deadline_seq.0 < SEQ_END
            && unused_is_unset(*kind, self.created_s, deadlines)
            && (*kind != Kind::Revoke || names_whom(self.all, &self.key))
    }

    pub(super) fn set_flags(&mut self, flags: u8) {
        let has = |flag| flags & flag != 0;
        (self.owned, self.all, self.spares) = (has(FLAG_OWNED), has(FLAG_ALL), has(FLAG_SPARES));
        self.deadlines.exact = has(FLAG_EXACT);
    }

    pub(super) fn flags(&self) -> u8 {
        let flag = |on, flag| if on { flag } else { 0 };
        flag(self.deadlines.exact, FLAG_EXACT)
            | flag(self.owned, FLAG_OWNED)
            | flag(self.all, FLAG_ALL)
            | flag(self.spares, FLAG_SPARES)
    }
}

/// What stands in a revocation's header for a key: the owner's, filled up with zeros.
fn revoked_key(owner: Option<OwnerKey>) -> SessionKey {
    let mut key = [0; 32];
    if let Some(owner) = owner {
        key[..OWNER_BYTES].copy_from_slice(owner.as_bytes());
    }
    SessionKey::from_bytes(key)
}

/// Whether a revocation's key is one that [`revoked_key`] makes.
fn names_whom(all: bool, key: &SessionKey) -> bool {
    let owner = key.as_bytes().first_chunk().copied().map(OwnerKey::from_bytes);
    *key == revoked_key(owner.filter(|_| !all))
}

/// The flags that a kind may have.
const fn flags_of(kind: Kind) -> u8 {
    match kind {
        Kind::Put | Kind::Rotate => FLAG_EXACT | FLAG_OWNED,
        Kind::Touch => FLAG_EXACT,
        Kind::Delete => 0,
        Kind::Revoke => FLAG_ALL | FLAG_SPARES,
    }
}

/// The time that these milliseconds name.
pub(super) fn instant(ms: u64) -> Result<Timestamp, Invalid> {
    Some(Timestamp::from_millis(ms)).filter(|t| t.as_millis() == ms).ok_or(Invalid::Field)
}

/// Whether the parts of a header that its kind has no use for are as they are written.
fn unused_is_unset(kind: Kind, created_s: u32, deadlines: &Deadlines) -> bool {
    let ends_once = deadlines.idle_ms == 0 && deadlines.expires_at == deadlines.absolute_at;
    match kind {
        Kind::Put | Kind::Rotate => true,
        Kind::Touch => created_s == 0,
        Kind::Delete | Kind::Revoke => created_s == 0 && ends_once,
    }
}

/// The tombstone half of a rotation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rotated {
    pub(crate) old_key: SessionKey,
    /// The latest deadline of what the old key's tombstone hides.
    pub(crate) hides_until: Timestamp,
}

/// The parts of a record's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Body<'a> {
    pub(crate) owner: Option<OwnerKey>,
    pub(crate) rotated: Option<Rotated>,
    pub(crate) spared: Option<SessionKey>,
    /// At most 255 bytes; what is longer is cut where the label is taken from the caller.
    pub(crate) label: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Body<'a> {
    fn label_len(&self) -> u8 {
        u8::try_from(self.label.len()).unwrap_or(u8::MAX)
    }

    /// Its length in bytes. A body over the longest record is refused by the payload limit long before.
    pub(crate) fn len(&self) -> u32 {
        let parts = self.owner.map_or(0, |_| OWNER_BYTES)
            + self.rotated.map_or(0, |_| ROTATE_BYTES as usize)
            + self.spared.map_or(0, |_| SPARED_BYTES)
            + usize::from(self.label_len())
            + self.payload.len();
        u32::try_from(parts).unwrap_or(u32::MAX)
    }

    fn parts(&self, mut part: impl FnMut(&[u8])) {
        if let Some(owner) = &self.owner {
            part(owner.as_bytes());
        }
        if let Some(rotated) = &self.rotated {
            part(rotated.old_key.as_bytes());
            part(&rotated.hides_until.as_millis().to_le_bytes());
        }
        if let Some(spared) = &self.spared {
            part(spared.as_bytes());
        }
        part(&self.label[..usize::from(self.label_len())]);
        part(self.payload);
    }

    pub(crate) fn crc(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        self.parts(|part| hasher.update(part));
        hasher.finalize()
    }

    pub(crate) fn append_to(&self, bytes: &mut Vec<u8>) {
        self.parts(|part| bytes.put_slice(part));
    }

    /// Takes a body apart whose checksum holds.
    pub(crate) fn decode(header: &RecordHeader, bytes: &'a [u8]) -> Result<Self, Invalid> {
        let mut take = Take(bytes);
        let key = |take: &mut Take<'a>| take.bytes().map(SessionKey::from_bytes);
        let mut body = Self::default();
        if header.owned {
            body.owner = Some(OwnerKey::from_bytes(take.bytes()?));
        }
        if header.kind == Kind::Rotate {
            let old_key = key(&mut take)?;
            body.rotated = Some(Rotated { old_key, hides_until: instant(take.u64()?)? });
        }
        if header.spares {
            body.spared = Some(key(&mut take)?);
        }
        body.label = take.slice(header.label_len.into())?;
        body.payload = take.0;
        let is_bare = body.payload.is_empty();
        if header.kind.has_content() || is_bare { Ok(body) } else { Err(Invalid::Field) }
    }

    /// Checks and takes apart a whole record as it was read for an address; `offset` is where it stands.
    pub(crate) fn read(record: &'a [u8], seed: Seed, offset: u32) -> Result<(RecordHeader, Self), Invalid> {
        let header = RecordHeader::decode(record, seed, offset)?;
        let body = &record[RECORD_HEADER_BYTES as usize..];
        if body.len() != header.body_len as usize {
            return Err(Invalid::Field);
        }
        if checksum(0, body) != header.body_crc {
            return Err(Invalid::BodyChecksum);
        }
        Ok((header, Self::decode(&header, body)?))
    }
}

/// The file name of a segment.
pub(crate) fn segment_name(id: SegmentId) -> String {
    format!("{id}.seg")
}
