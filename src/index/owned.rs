//! Whose the owned sessions of one shard are, and which of them an owner has. It names a session by its slot.
//!
//! An owned session costs 26 bytes and 2 to 4 for its place among the heads, so less than 32; the others cost nothing but an empty part now and
//! then. The links lie by slot, in parts that cover [`PART_SLOTS`] slots each and are sorted, so what a slot's owner is needs no table.
//! All links whose owners meet in a bucket are one doubly linked list: leaving it is short also where one owner has a million sessions.
//!
//! The buckets are those of *linear hashing* (Litwin, 1980): as sessions come, one bucket after the other is split in two, so no insert ever
//! remakes a table, and nothing is twice the size it needs. An owner's key is a hash, so its bytes place it.
//!
//! Invariants: a link is in the list of its owner's bucket, once; a part is sorted by slot; the last part is not empty.

use super::slab::NONE;
use crate::id::OwnerKey;

/// Slots that one part covers: moving the links of one aside takes a fraction of a microsecond, and an empty one costs 24 bytes.
const PART_SLOTS: u32 = 512;
/// Links to a bucket at most, on average.
const LINKS_PER_BUCKET: usize = 2;
/// A part, or the heads, grow by one of so many parts of what they hold.
const SPARE_PARTS: usize = 32;

const _: () = assert!(size_of::<Link>() == 26);

/// One owned session.
#[derive(Clone, Copy)]
struct Link {
    /// Its slot, counted from the first of the part.
    place: u16,
    owner: OwnerKey,
    /// Slots of its neighbours in the list, or [`NONE`]. As bytes, so that a link is no longer than its fields.
    prev: [u8; 4],
    next: [u8; 4],
}

impl Link {
    fn prev(&self) -> u32 {
        u32::from_le_bytes(self.prev)
    }

    fn next(&self) -> u32 {
        u32::from_le_bytes(self.next)
    }
}

#[derive(Default)]
pub(super) struct Owned {
    parts: Vec<Vec<Link>>,
    /// The first slot of each bucket's list.
    heads: Vec<u32>,
    len: usize,
}

impl Owned {
    /// Whose the session in this slot is.
    pub(super) fn owner(&self, slot: u32) -> Option<OwnerKey> {
        self.link(slot).map(|link| link.owner)
    }

    /// The slots of an owner's sessions, the youngest binding first more or less.
    pub(super) fn of(&self, owner: OwnerKey) -> impl Iterator<Item = u32> {
        let mut slot = if self.heads.is_empty() { NONE } else { self.heads[self.bucket(&owner)] };
        std::iter::from_fn(move || {
            while let Some(link) = self.link(slot) {
                let found = slot;
                slot = link.next();
                if link.owner == owner {
                    return Some(found);
                }
            }
            None
        })
    }

    /// Says whose the session in this slot is from now on.
    pub(super) fn set(&mut self, slot: u32, owner: Option<OwnerKey>) {
        let was = self.owner(slot);
        if was == owner {
            return;
        }
        if was.is_some() {
            self.remove(slot);
        }
        if let Some(owner) = owner {
            self.insert(slot, owner);
        }
    }

    /// The session in slot `from`, if it is owned, is in slot `to` now, where an unowned one or none was.
    pub(super) fn renumber(&mut self, from: u32, to: u32) {
        if let Some(link) = self.take(from) {
            let (part, place) = part_of(to);
            self.lay(part, Link { place, ..link });
            self.meet(&link, to, to);
        }
    }

    fn insert(&mut self, slot: u32, owner: OwnerKey) {
        if self.len >= self.heads.len() * LINKS_PER_BUCKET {
            self.split();
        }
        let (part, place) = part_of(slot);
        self.lay(part, Link { place, owner, prev: NONE.to_le_bytes(), next: NONE.to_le_bytes() });
        self.enlist(slot, owner);
        self.len += 1;
    }

    fn remove(&mut self, slot: u32) {
        let Some(link) = self.take(slot) else { return };
        self.meet(&link, link.prev(), link.next());
        self.len -= 1;
        if self.len < self.heads.len() {
            self.merge();
        }
    }

    /// Everything it has allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.parts.capacity() * size_of::<Vec<Link>>()
            + self.parts.iter().map(|part| part.capacity() * size_of::<Link>()).sum::<usize>()
            + self.heads.capacity() * size_of::<u32>()
    }

    /// The bucket of an owner: by as many low bits of its hash as name all the buckets there are, or one bit less where that one is not split off yet.
    fn bucket(&self, owner: &OwnerKey) -> usize {
        let hash = usize::from_le_bytes(*owner.as_bytes().first_chunk().unwrap_or(&[0; 8]));
        let top = top_bit(self.heads.len());
        let bucket = hash & (2 * top - 1);
        if bucket < self.heads.len() { bucket } else { bucket - top }
    }

    /// Adds a bucket, and moves into it what belongs there: all of it was in one other.
    fn split(&mut self) {
        if self.heads.len() == self.heads.capacity() {
            self.heads.reserve_exact(self.heads.len() / SPARE_PARTS + 1);
        }
        self.heads.push(NONE);
        let new = self.heads.len() - 1;
        if new > 0 {
            self.spread(new - top_bit(new));
        }
    }

    /// Takes the last bucket away; what was in it goes where it was split from.
    fn merge(&mut self) {
        if let Some(slot) = self.heads.pop() {
            give_back(&mut self.heads);
            self.spread_from(slot);
        }
    }

    /// Enlists anew whatever is in this bucket.
    fn spread(&mut self, bucket: usize) {
        let slot = std::mem::replace(&mut self.heads[bucket], NONE);
        self.spread_from(slot);
    }

    fn spread_from(&mut self, mut slot: u32) {
        while let Some(link) = self.link(slot).copied() {
            self.enlist(slot, link.owner);
            slot = link.next();
        }
    }

    /// Puts a link in front of its owner's list.
    fn enlist(&mut self, slot: u32, owner: OwnerKey) {
        let bucket = self.bucket(&owner);
        let next = std::mem::replace(&mut self.heads[bucket], slot);
        self.change(slot, |link| (link.prev, link.next) = (NONE.to_le_bytes(), next.to_le_bytes()));
        self.change(next, |link| link.prev = slot.to_le_bytes());
    }

    /// Tells the neighbours of `link` which slot is in front of the one behind it, and which is behind the one before it.
    fn meet(&mut self, link: &Link, in_front: u32, behind: u32) {
        match link.prev() {
            NONE => {
                let bucket = self.bucket(&link.owner);
                self.heads[bucket] = behind;
            }
            prev => self.change(prev, |prev| prev.next = behind.to_le_bytes()),
        }
        self.change(link.next(), |next| next.prev = in_front.to_le_bytes());
    }

    fn link(&self, slot: u32) -> Option<&Link> {
        let (part, place) = part_of(slot);
        let part = self.parts.get(part)?;
        part.binary_search_by_key(&place, |link| link.place).ok().map(|at| &part[at])
    }

    fn change(&mut self, slot: u32, change: impl FnOnce(&mut Link)) {
        let (part, place) = part_of(slot);
        if let Some(part) = self.parts.get_mut(part)
            && let Ok(at) = part.binary_search_by_key(&place, |link| link.place)
        {
            change(&mut part[at]);
        }
    }

    fn lay(&mut self, part: usize, link: Link) {
        if self.parts.len() <= part {
            self.parts.resize_with(part + 1, Vec::new);
        }
        let part = &mut self.parts[part];
        if let Err(at) = part.binary_search_by_key(&link.place, |link| link.place) {
            if part.len() == part.capacity() {
                part.reserve_exact(part.len() / SPARE_PARTS + 1);
            }
            part.insert(at, link);
        }
    }

    fn take(&mut self, slot: u32) -> Option<Link> {
        let (part, place) = part_of(slot);
        let part = self.parts.get_mut(part)?;
        let at = part.binary_search_by_key(&place, |link| link.place).ok()?;
        let link = part.remove(at);
        give_back(part);
        while self.parts.last().is_some_and(Vec::is_empty) {
            self.parts.pop();
        }
        give_back(&mut self.parts);
        Some(link)
    }
}

/// Gives memory back once less than half of it is used.
fn give_back<T>(spare: &mut Vec<T>) {
    if spare.len() < spare.capacity() / 2 {
        spare.shrink_to_fit();
    }
}

/// The part that has a slot, and its place there.
fn part_of(slot: u32) -> (usize, u16) {
    // Places are below PART_SLOTS.
    ((slot / PART_SLOTS) as usize, (slot % PART_SLOTS) as u16)
}

/// The highest power of two in `n`; 1 for none.
fn top_bit(n: usize) -> usize {
    n.checked_ilog2().map_or(1, |bits| 1 << bits)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn owner(n: u32) -> OwnerKey {
        OwnerKey::of(&n.to_le_bytes())
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// The session of this slot is another's now.
        Set(u32, Option<u32>),
        /// The session of this slot ends, and the last takes its place.
        End(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..1_300_u32, proptest::option::weighted(0.8, 0..60_u32)).prop_map(|(slot, n)| Step::Set(slot, n)),
            1 => (0..1_300_u32).prop_map(Step::End),
        ]
    }

    /// Everybody's sessions, as the links tell them.
    fn check(owned: &Owned, model: &BTreeMap<u32, u32>) {
        for slot in 0..1_300 {
            assert_eq!(owned.owner(slot), model.get(&slot).map(|n| owner(*n)), "slot {slot}");
        }
        for n in 0..60 {
            let mut slots: Vec<_> = owned.of(owner(n)).collect();
            slots.sort_unstable();
            let expected: Vec<_> = model.iter().filter(|(_, of)| **of == n).map(|(slot, _)| *slot).collect();
            assert_eq!(slots, expected, "owner {n}");
        }
        assert_eq!(owned.len, model.len());
        assert!(owned.heads.len() <= owned.len.max(1) && owned.len <= owned.heads.len() * LINKS_PER_BUCKET);
        assert!(owned.parts.last().is_none_or(|part| !part.is_empty()));
    }

    proptest! {
        #[test]
        fn links_tell_every_owner_and_every_owners_sessions(steps in proptest::collection::vec(step(), 1..400)) {
            let (mut owned, mut model) = (Owned::default(), BTreeMap::new());
            let last = 1_299;
            for step in &steps {
                match *step {
                    Step::Set(slot, n) => {
                        owned.set(slot, n.map(owner));
                        model.remove(&slot);
                        model.extend(n.map(|n| (slot, n)));
                    }
                    Step::End(slot) => {
                        owned.set(slot, None);
                        model.remove(&slot);
                        if slot != last {
                            owned.renumber(last, slot);
                            let moved = model.remove(&last);
                            model.extend(moved.map(|n| (slot, n)));
                        }
                    }
                }
            }
            check(&owned, &model);
            for slot in (0..1_300).rev() {
                owned.set(slot, None);
                model.remove(&slot);
            }
            check(&owned, &model);
            prop_assert!(owned.memory_bytes() <= 64, "{}", owned.memory_bytes());
        }
    }

    #[test]
    fn one_owner_of_many_sessions_and_many_owners_of_one_cost_less_than_32_bytes_each() {
        for (name, owners) in [("one owner", 1), ("an owner each", u32::MAX), ("three each", 3)] {
            let mut owned = Owned::default();
            for n in 0..100_000_u32 {
                owned.set(n, Some(owner(if owners == 3 { n / 3 } else { n % owners })));
                if n > 2_000 {
                    // At every size: no table doubles.
                    let each = owned.memory_bytes() / (n as usize + 1);
                    assert!(each < 32, "{name}: {each} bytes for each of {}", n + 1);
                }
            }
        }
    }

    #[test]
    fn few_owned_sessions_among_many_cost_little_more() {
        for share in [2, 10, 50] {
            let mut owned = Owned::default();
            (0..200_000).step_by(share).for_each(|n| owned.set(n, Some(owner(n))));
            let each = owned.memory_bytes().div_ceil(owned.len);
            assert!(each <= 32, "one in {share}: {each}");
        }
    }

    #[test]
    fn links_of_many_owners_are_spread_over_buckets() {
        let mut owned = Owned::default();
        (0..20_000).for_each(|n| owned.set(n, Some(owner(n))));
        let links =
            |head: u32| std::iter::successors(owned.link(head), |link| owned.link(link.next())).count();
        let longest = owned.heads.iter().map(|head| links(*head)).max();
        assert!(longest < Some(32), "{longest:?} links in a bucket");
    }

    #[test]
    fn memory_that_is_counted_is_no_less_than_links_parts_and_heads_take() {
        for step in [1, PART_SLOTS] {
            let mut owned = Owned::default();
            (0..1_000).for_each(|n| owned.set(n * step, Some(owner(n))));
            let parts = owned.parts.len() * size_of::<Vec<Link>>();
            let least = parts + 1_000 * size_of::<Link>() + owned.heads.len() * size_of::<u32>();
            assert!(owned.memory_bytes() >= least, "{} of {least}", owned.memory_bytes());
        }
    }
}
