//! The slots of one shard, packed, and the table that finds a slot by key. It knows neither time nor disk space.
//!
//! A slot is 64 bytes and its place in the table about 7, so a session costs less than 72 bytes at 1 M and at 10 M sessions. Slots
//! lie in chunks that are taken as the shard grows and given back as it shrinks: nothing large is ever copied.
//!
//! **A slot names its session by the first 12 bytes of the key.** Keys are SHA-256 hashes, so for two of 10 M sessions to agree in
//! those 96 bits is an accident of 6e-16, and to make a name that agrees with somebody else's takes 2^96 tries. Whoever reads a
//! record compares the whole key, so even that would lose a session and disclose none. For the same reason the bytes themselves serve as the hash.
//!
//! Invariants: slots 0 to `len` are in use, in no order; each is in the table once, under its own prefix; no two have the same prefix.

use hashbrown::HashTable;

use super::Entry;
use crate::clock::Timestamp;
use crate::id::{Address, SegmentId, Seq, SessionKey};
use crate::lifetime::{Deadlines, IDLE_MS_EXACT};

/// What a slot keeps of its session's key.
pub(crate) type Prefix = [u8; 12];

/// No slot: the end of a list.
pub(super) const NONE: u32 = u32::MAX;

/// Slots in a chunk: 8 KiB, so that a shard that holds little wastes little.
const CHUNK_SLOTS: u32 = 128;
/// A table is remade with room for this part more than it holds. Small, so that churn at a steady size does not double it.
const SPARE_PARTS: u32 = 16;
/// A table that uses less than one in this many of its places is remade.
const SPARSE_PARTS: usize = 4;
/// Tables up to this size are not worth remaking.
const SMALL_TABLE: usize = 256;

/// A record's length takes the lower 24 bits of its word, flags the others.
const LEN_BITS: u32 = 24;
const LEN_MASK: u32 = (1 << LEN_BITS) - 1;
const EXACT: u32 = 1 << LEN_BITS;
const ROTATED: u32 = 2 << LEN_BITS;
const OWNED: u32 = 4 << LEN_BITS;
const LABELLED: u32 = 8 << LEN_BITS;

/// Marks an idle period in seconds; without it, milliseconds.
const IDLE_IN_SECONDS: u32 = 1 << 31;

const _: () = assert!(size_of::<Slot>() == 64);
const _: () = assert!(IDLE_MS_EXACT == 1 << 31);

/// What a slot keeps of `key`.
pub(crate) fn prefix(key: &SessionKey) -> Prefix {
    let mut prefix = Prefix::default();
    let kept = prefix.len();
    prefix.copy_from_slice(&key.as_bytes()[..kept]);
    prefix
}

fn hash(prefix: &Prefix) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&prefix[..8]);
    u64::from_le_bytes(first)
}

/// One session, packed. What a read needs comes first.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) prefix: Prefix,
    expires_at: [u8; 6],
    absolute_at: [u8; 6],
    segment: u32,
    offset: u32,
    len_and_flags: u32,
    version: [u8; 8],
    idle: u32,
    created_s: u32,
    /// 0 for none.
    touched_in: u32,
    /// The neighbours in the list of its deadline bucket; [`deadlines`](super::deadlines) says what they hold.
    pub(super) prev: u32,
    pub(super) next: u32,
}

impl Slot {
    const EMPTY: Self = Self {
        prefix: [0; 12],
        expires_at: [0; 6],
        absolute_at: [0; 6],
        segment: 0,
        offset: 0,
        len_and_flags: 0,
        version: [0; 8],
        idle: 0,
        created_s: 0,
        touched_in: 0,
        prev: NONE,
        next: NONE,
    };

    /// Makes it the slot of a session, in no list.
    fn begin(&mut self, prefix: Prefix, entry: &Entry) {
        (self.prefix, self.prev, self.next) = (prefix, NONE, NONE);
        self.put(entry);
    }

    /// Replaces everything but the name and the place in a list.
    pub(super) fn put(&mut self, entry: &Entry) {
        let Entry { address, rotated, owned, labelled, version, deadlines, created_s, touched_in } = entry;
        debug_assert!(address.len <= LEN_MASK, "a record of {} bytes does not fit a slot", address.len);
        self.segment = address.segment.0;
        self.offset = address.offset;
        let flag = |on, flag| if on { flag } else { 0 };
        let flags = flag(*rotated, ROTATED)
            | flag(*owned, OWNED)
            | flag(*labelled, LABELLED)
            | flag(deadlines.exact, EXACT);
        self.len_and_flags = (address.len & LEN_MASK) | flags;
        self.version = version.0.to_le_bytes();
        self.expires_at = pack(deadlines.expires_at);
        self.absolute_at = pack(deadlines.absolute_at);
        self.idle = pack_idle(deadlines.idle_ms);
        self.created_s = *created_s;
        self.touched_in = touched_in.map_or(0, |segment| segment.0);
    }

    pub(super) fn entry(&self) -> Entry {
        Entry {
            address: Address {
                segment: SegmentId(self.segment),
                offset: self.offset,
                len: self.len_and_flags & LEN_MASK,
            },
            rotated: self.len_and_flags & ROTATED != 0,
            owned: self.is_owned(),
            labelled: self.len_and_flags & LABELLED != 0,
            version: Seq(u64::from_le_bytes(self.version)),
            deadlines: Deadlines {
                idle_ms: unpack_idle(self.idle),
                absolute_at: unpack(self.absolute_at),
                expires_at: unpack(self.expires_at),
                exact: self.len_and_flags & EXACT != 0,
            },
            created_s: self.created_s,
            touched_in: (self.touched_in != 0).then_some(SegmentId(self.touched_in)),
        }
    }

    pub(super) fn expires_at(&self) -> Timestamp {
        unpack(self.expires_at)
    }

    pub(super) fn is_owned(&self) -> bool {
        self.len_and_flags & OWNED != 0
    }

    pub(super) fn version(&self) -> Seq {
        Seq(u64::from_le_bytes(self.version))
    }

    /// Whether these are the deadlines it holds. Compared as packed, so that an idle period too long to be kept exactly is no difference.
    pub(super) fn holds(&self, deadlines: &Deadlines) -> bool {
        self.expires_at == pack(deadlines.expires_at)
            && self.absolute_at == pack(deadlines.absolute_at)
            && self.idle == pack_idle(deadlines.idle_ms)
            && (self.len_and_flags & EXACT != 0) == deadlines.exact
    }
}

fn pack(at: Timestamp) -> [u8; 6] {
    let mut packed = [0; 6];
    packed.copy_from_slice(&at.as_millis().to_le_bytes()[..6]);
    packed
}

fn unpack(packed: [u8; 6]) -> Timestamp {
    let mut ms = [0; 8];
    ms[..6].copy_from_slice(&packed);
    Timestamp::from_millis(u64::from_le_bytes(ms))
}

/// Below 24 days milliseconds, above seconds, at most 68 years.
fn pack_idle(idle_ms: u64) -> u32 {
    match u32::try_from(idle_ms) {
        Ok(ms) if idle_ms < IDLE_MS_EXACT => ms,
        _ => {
            let seconds = u32::try_from(idle_ms.div_ceil(1_000)).unwrap_or(u32::MAX);
            IDLE_IN_SECONDS | seconds.min(IDLE_IN_SECONDS - 1)
        }
    }
}

fn unpack_idle(idle: u32) -> u64 {
    if idle & IDLE_IN_SECONDS == 0 { u64::from(idle) } else { u64::from(idle & !IDLE_IN_SECONDS) * 1_000 }
}

type Chunks = Vec<Box<[Slot; CHUNK_SLOTS as usize]>>;

/// The slots, and the table of their numbers.
#[derive(Default)]
pub(super) struct Slab {
    chunks: Chunks,
    len: u32,
    table: HashTable<u32>,
}

fn at(chunks: &Chunks, number: u32) -> &Slot {
    &chunks[(number / CHUNK_SLOTS) as usize][(number % CHUNK_SLOTS) as usize]
}

impl Slab {
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn slot(&self, number: u32) -> &Slot {
        at(&self.chunks, number)
    }

    pub(super) fn slot_mut(&mut self, number: u32) -> &mut Slot {
        &mut self.chunks[(number / CHUNK_SLOTS) as usize][(number % CHUNK_SLOTS) as usize]
    }

    pub(super) fn find(&self, prefix: &Prefix) -> Option<u32> {
        self.table.find(hash(prefix), |&number| self.slot(number).prefix == *prefix).copied()
    }

    /// Adds a slot, whose prefix must be new, as the last; gives its number. It is made where it stays: a copy of what was just written in
    /// parts waits for all writes before it, which at 10 M sessions go to memory (a third of an open's time was this).
    pub(super) fn push(&mut self, prefix: Prefix, entry: &Entry) -> u32 {
        let number = self.len;
        if self.table.len() == self.table.capacity() {
            self.remake_table();
        }
        if number.is_multiple_of(CHUNK_SLOTS) {
            self.chunks.push(Box::new([Slot::EMPTY; CHUNK_SLOTS as usize]));
        }
        self.len += 1;
        self.slot_mut(number).begin(prefix, entry);
        let Self { chunks, table, .. } = self;
        table.insert_unique(hash(&prefix), number, |&number| hash(&at(chunks, number).prefix));
        number
    }

    /// Removes a slot. The last one takes its number; says whether there was one to do so.
    pub(super) fn swap_remove(&mut self, number: u32) -> bool {
        let last = self.len - 1;
        self.unlist(hash(&self.slot(number).prefix), number);
        if number != last {
            let moved = *self.slot(last);
            *self.slot_mut(number) = moved;
            if let Some(listed) = self.table.find_mut(hash(&moved.prefix), |&n| n == last) {
                *listed = number;
            }
        }
        self.len = last;
        if last.is_multiple_of(CHUNK_SLOTS) {
            self.chunks.pop();
        }
        number != last
    }

    fn unlist(&mut self, hash: u64, number: u32) {
        if let Ok(listed) = self.table.find_entry(hash, |&n| n == number) {
            listed.remove();
        }
    }

    /// Gives memory back after most sessions have gone. The work is bounded by the few that remain.
    pub(super) fn shrink(&mut self) {
        let capacity = self.table.capacity();
        if capacity > SMALL_TABLE && self.table.len() < capacity / SPARSE_PARTS {
            self.remake_table();
            self.chunks.shrink_to_fit();
        }
    }

    /// Makes the table anew for what it holds and a little more. In the order of the slots, which the processor can foresee: letting the
    /// table grow by itself reads them at random, which at 10 M sessions takes several times as long under the shard's lock.
    fn remake_table(&mut self) {
        let room = self.len + self.len / SPARE_PARTS + 1;
        // The old table goes first, so that the two are never held at once.
        self.table = HashTable::new();
        self.table = HashTable::with_capacity(room as usize);
        for number in 0..self.len {
            let hashed = hash(&at(&self.chunks, number).prefix);
            let chunks = &self.chunks;
            self.table.insert_unique(hashed, number, |&n| hash(&at(chunks, n).prefix));
        }
    }

    /// Everything it has allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.len() * size_of::<[Slot; CHUNK_SLOTS as usize]>()
            + self.chunks.capacity() * size_of::<Box<[Slot; CHUNK_SLOTS as usize]>>()
            + self.table.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::lifetime::Lifetime;

    fn key(number: u32) -> SessionKey {
        SessionKey::of(&number.to_le_bytes())
    }

    fn entry(lifetime: &Lifetime) -> Entry {
        Entry {
            address: Address { segment: SegmentId(u32::MAX), offset: 7, len: LEN_MASK },
            rotated: true,
            owned: false,
            labelled: false,
            version: Seq(u64::MAX - 1),
            deadlines: Deadlines::start(Timestamp::from_millis(1_700_000_000_123), lifetime).unwrap(),
            created_s: 5,
            touched_in: Some(SegmentId(3)),
        }
    }

    #[test]
    fn slot_gives_back_what_was_put_into_it() {
        let day = Duration::from_secs(24 * 60 * 60);
        let ms = Duration::from_millis;
        for lifetime in [
            Lifetime::idle(ms(1)),
            Lifetime::idle(ms(IDLE_MS_EXACT - 1)).exact(),
            Lifetime::idle(ms(IDLE_MS_EXACT)),
            Lifetime::idle(ms(IDLE_MS_EXACT + 1)).and_absolute(400 * day),
            Lifetime::absolute(ms(1_234_567)),
        ] {
            for (rotated, touched_in) in [(true, None), (false, Some(SegmentId(9)))] {
                let entry =
                    Entry { rotated, owned: !rotated, labelled: rotated, touched_in, ..entry(&lifetime) };
                let mut slot = Slot::EMPTY;
                slot.begin(prefix(&key(1)), &entry);
                assert_eq!(slot.entry(), entry);
                assert!(slot.holds(&entry.deadlines));
            }
        }
    }

    #[test]
    fn every_slot_is_found_while_others_come_and_go_and_memory_is_given_back() {
        let mut slab = Slab::default();
        let empty_bytes = slab.memory_bytes();
        let entry = entry(&Lifetime::idle(Duration::from_secs(60)));
        for number in 0..5_000 {
            slab.push(prefix(&key(number)), &entry);
        }
        let full_bytes = slab.memory_bytes();
        for number in (0..5_000).filter(|n| n % 100 != 0) {
            let found = slab.find(&prefix(&key(number))).unwrap();
            slab.swap_remove(found);
            assert_eq!(slab.find(&prefix(&key(number))), None);
        }
        slab.shrink();
        assert_eq!(slab.len(), 50);
        for number in (0..5_000).step_by(100) {
            let found = slab.find(&prefix(&key(number))).unwrap();
            assert_eq!(slab.slot(found).prefix, prefix(&key(number)));
        }
        assert!(slab.memory_bytes() < full_bytes / 15, "{} of {full_bytes}", slab.memory_bytes());
        while slab.len() > 0 {
            slab.swap_remove(0);
        }
        assert!(slab.memory_bytes() < empty_bytes + 1_024);
    }

    #[test]
    fn slot_holds_no_deadlines_but_its_own() {
        let at = Timestamp::from_millis;
        let own = Deadlines { idle_ms: 60_000, absolute_at: at(9_000), expires_at: at(7_000), exact: true };
        let entry = Entry { deadlines: own, ..entry(&Lifetime::idle(Duration::from_secs(60))) };
        let mut slot = Slot::EMPTY;
        slot.begin(prefix(&key(1)), &entry);
        assert!(slot.holds(&own));
        for other in [
            Deadlines { idle_ms: 60_001, ..own },
            Deadlines { absolute_at: at(9_001), ..own },
            Deadlines { expires_at: at(7_001), ..own },
            Deadlines { exact: false, ..own },
        ] {
            assert!(!slot.holds(&other), "{other:?}");
        }
    }

    #[test]
    fn long_idle_period_is_kept_in_seconds_that_are_no_shorter() {
        let kept = |idle_ms| unpack_idle(pack_idle(idle_ms));
        let seconds_max = (1_u64 << 31) - 1;
        for (idle_ms, expected) in [
            (0, 0),
            (IDLE_MS_EXACT - 1, IDLE_MS_EXACT - 1),
            (IDLE_MS_EXACT, (IDLE_MS_EXACT / 1_000 + 1) * 1_000),
            (3_000_000_000, 3_000_000_000),
            (3_000_000_001, 3_000_001_000),
            (seconds_max * 1_000, seconds_max * 1_000),
            (seconds_max * 1_000 + 1, seconds_max * 1_000),
            (u64::MAX, seconds_max * 1_000),
        ] {
            assert_eq!(kept(idle_ms), expected, "{idle_ms}");
        }
    }

    #[test]
    fn table_is_remade_with_a_little_room_once_it_is_full_and_once_less_than_a_quarter_is_used() {
        let entry = entry(&Lifetime::idle(Duration::from_secs(60)));
        let mut slab = Slab::default();
        for number in 0..3_000 {
            let was = slab.table.capacity();
            slab.push(prefix(&key(number)), &entry);
            let (len, capacity) = (slab.table.len(), slab.table.capacity());
            // A table has room for seven eighths of a power of two.
            let room = (number + number / 16 + 1) as usize;
            assert!(capacity == was || was == len - 1, "{number}: remade before it was full");
            assert!(capacity < room * 2 || capacity < 8, "{number}: room for {capacity}");
        }
        let (mut remade, mut full) = (Vec::new(), slab.table.num_buckets());
        while slab.len() > 10 {
            slab.swap_remove(0);
            let (len, capacity) = (slab.table.len(), slab.table.capacity());
            slab.shrink();
            let is_remade = slab.table.num_buckets() < full;
            full = slab.table.num_buckets();
            assert_eq!(is_remade, len < capacity / 4 && capacity > 256, "{len} of {capacity}");
            if is_remade {
                assert!(slab.chunks.capacity() <= len / 128 + 1, "{} chunks", slab.chunks.capacity());
                remade.push(full);
            }
        }
        assert_eq!(remade, [1_024, 256]);
    }

    #[test]
    fn small_table_is_left_as_it_is() {
        let entry = entry(&Lifetime::idle(Duration::from_secs(60)));
        let mut slab = Slab::default();
        for number in 0..200 {
            slab.push(prefix(&key(number)), &entry);
        }
        let full = slab.table.num_buckets();
        while slab.len() > 1 {
            slab.swap_remove(0);
            slab.shrink();
        }
        assert_eq!(slab.table.num_buckets(), full);
        assert_eq!(slab.find(&slab.slot(0).prefix), Some(0));
    }

    #[test]
    fn memory_that_is_counted_is_that_of_chunks_their_list_and_the_table() {
        let mut slab = Slab::default();
        for number in 0..1_000 {
            slab.push(prefix(&key(number)), &entry(&Lifetime::idle(Duration::from_secs(60))));
        }
        let list = slab.chunks.capacity() * size_of::<usize>();
        assert_eq!(slab.memory_bytes(), 1_024 * 64 + list + slab.table.allocation_size());
    }
}
