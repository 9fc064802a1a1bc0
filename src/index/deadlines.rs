//! When to look at which slot: a heap of coarse buckets of time, each a list of slots. It removes no session; it says which one to look at.
//! The heap is an ordered map, since besides the earliest bucket it has to give the one of a given instant, and to lose one that empties.
//!
//! A bucket is due at one instant and heads a doubly linked list that runs through the slots, so a slot leaves its bucket at once when
//! its session ends, and a touch costs nothing: the slot stays where it is, and is moved on when its bucket falls due. A deadline far
//! away is put into a bucket that falls due early by at most a thirty-second of the distance, so there are some 32 to 64 buckets for
//! each doubling of the distance, however many sessions there are; from there it moves to ever finer ones. The finest are
//! [`FINEST_MS`] wide and fall due *after* the deadline, so what is looked at there has ended.
//!
//! Invariants:
//! 1. A slot is in one bucket, or in none if its deadline is [`Timestamp::MAX`].
//! 2. Its bucket falls due less than [`FINEST_MS`] after the deadline, unless it was put off on purpose.
//! 3. No bucket is empty, and no two fall due at the same instant.
//! 4. `prev` of the first slot in a list is the number of its bucket with [`BUCKET`] set; a slot in no bucket has [`NONE`] there.

use std::collections::BTreeMap;

use super::slab::{NONE, Slab};
use crate::clock::Timestamp;

/// Marks a `prev` that is the number of a bucket.
const BUCKET: u32 = 1 << 31;

/// The width of the finest buckets, in milliseconds: how late the end of a session is noticed (a read notices it at once).
pub(super) const FINEST_MS: u64 = 128;

/// A bucket is at most this part of the distance wide.
const PARTS: u64 = 32;

/// The width in milliseconds of buckets at this distance: a power of two, so that those of different ages coincide.
pub(super) fn width_ms(remaining_ms: u64) -> u64 {
    1 << (remaining_ms / PARTS).max(FINEST_MS).ilog2()
}

/// When to look at a session that ends at `deadline`.
fn due_ms(deadline: Timestamp, now: Timestamp) -> u64 {
    let deadline_ms = deadline.as_millis();
    let width = width_ms(deadline_ms.saturating_sub(now.as_millis()));
    if width == FINEST_MS { deadline_ms.next_multiple_of(width) } else { deadline_ms & !(width - 1) }
}

struct Bucket {
    due_ms: u64,
    first: u32,
}

#[derive(Default)]
pub(super) struct Buckets {
    /// By number; those in `free` are not in use.
    all: Vec<Bucket>,
    free: Vec<u32>,
    /// Bucket numbers by due time.
    by_due: BTreeMap<u64, u32>,
}

impl Buckets {
    /// Puts a slot that is in no bucket into the one for its deadline.
    pub(super) fn arm(&mut self, slab: &mut Slab, number: u32, now: Timestamp) {
        let deadline = slab.slot(number).expires_at();
        if deadline != Timestamp::MAX {
            self.link(slab, number, due_ms(deadline, now));
        }
    }

    /// Puts a slot that is in no bucket into the first one from `at` on, whatever its deadline.
    pub(super) fn put_off(&mut self, slab: &mut Slab, number: u32, at: Timestamp) {
        self.link(slab, number, at.as_millis().next_multiple_of(FINEST_MS));
    }

    /// Takes a slot out of its bucket, if it is in one.
    pub(super) fn disarm(&mut self, slab: &mut Slab, number: u32) {
        let slot = slab.slot_mut(number);
        let (prev, next) = (slot.prev, slot.next);
        (slot.prev, slot.next) = (NONE, NONE);
        if prev == NONE {
            return;
        }
        if next != NONE {
            slab.slot_mut(next).prev = prev;
        }
        if prev & BUCKET == 0 {
            slab.slot_mut(prev).next = next;
        } else if next == NONE {
            let bucket = prev & !BUCKET;
            self.by_due.remove(&self.all[bucket as usize].due_ms);
            self.free.push(bucket);
        } else {
            self.all[(prev & !BUCKET) as usize].first = next;
        }
    }

    /// Mends the list around a slot that has just been given another number.
    pub(super) fn renumbered(&mut self, slab: &mut Slab, number: u32) {
        let slot = slab.slot(number);
        let (prev, next) = (slot.prev, slot.next);
        if prev == NONE {
            return;
        }
        if next != NONE {
            slab.slot_mut(next).prev = number;
        }
        if prev & BUCKET == 0 {
            slab.slot_mut(prev).next = number;
        } else {
            self.all[(prev & !BUCKET) as usize].first = number;
        }
    }

    /// A slot to look at by `now`, if there is one.
    pub(super) fn due(&self, now: Timestamp) -> Option<u32> {
        let (due_ms, bucket) = self.by_due.first_key_value()?;
        (*due_ms <= now.as_millis()).then(|| self.all[*bucket as usize].first)
    }

    /// What it has allocated; for the tree, which does not say, twice what its entries take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.all.capacity() * size_of::<Bucket>()
            + self.free.capacity() * size_of::<u32>()
            + 2 * self.by_due.len() * size_of::<(u64, u32)>()
    }

    fn link(&mut self, slab: &mut Slab, number: u32, due_ms: u64) {
        let Self { all, free, by_due } = self;
        let mut next = NONE;
        let bucket =
            *by_due.entry(due_ms).and_modify(|b| next = all[*b as usize].first).or_insert_with(|| {
                free.pop().unwrap_or_else(|| {
                    all.push(Bucket { due_ms, first: NONE });
                    u32::try_from(all.len() - 1).unwrap_or(NONE)
                })
            });
        all[bucket as usize] = Bucket { due_ms, first: number };
        let slot = slab.slot_mut(number);
        (slot.prev, slot.next) = (BUCKET | bucket, next);
        if next != NONE {
            slab.slot_mut(next).prev = number;
        }
    }

    /// Checks the invariants 1, 3 and 4 and gives the due time of each slot's bucket.
    #[cfg(test)]
    pub(super) fn check(&self, slab: &Slab) -> hashbrown::HashMap<u32, u64> {
        let mut due = hashbrown::HashMap::new();
        for (&due_ms, &bucket) in &self.by_due {
            assert_eq!(self.all[bucket as usize].due_ms, due_ms);
            let (mut number, mut prev) = (self.all[bucket as usize].first, BUCKET | bucket);
            assert_ne!(number, NONE, "bucket {bucket} is empty");
            while number != NONE {
                assert_eq!(slab.slot(number).prev, prev);
                assert_eq!(due.insert(number, due_ms), None, "slot {number} is in two places");
                (prev, number) = (number, slab.slot(number).next);
            }
        }
        for number in 0..slab.len() {
            let armed = slab.slot(number).prev != NONE;
            assert_eq!(armed, due.contains_key(&number));
            assert!(armed || slab.slot(number).expires_at() == Timestamp::MAX);
        }
        assert_eq!(due.keys().filter(|n| **n >= slab.len()).count(), 0);
        assert_eq!(self.by_due.len() + self.free.len(), self.all.len());
        due
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn bucket_is_due_early_by_a_part_of_the_distance_or_late_by_less_than_the_finest_width() {
        for remaining in (0..40).flat_map(|n| [1 << n, (1 << n) + 77, (1 << n) * 3 / 2]) {
            let deadline = NOW + remaining;
            let due = due_ms(Timestamp::from_millis(deadline), Timestamp::from_millis(NOW));
            assert!(due > NOW, "a slot would be looked at again at once: {remaining}");
            assert!(due < deadline + FINEST_MS, "late: {remaining}");
            assert!(due + (remaining / PARTS) >= deadline, "early: {remaining}");
        }
    }

    #[test]
    fn deadlines_spread_over_a_year_share_few_buckets() {
        let due = |ms| due_ms(Timestamp::from_millis(NOW + ms), Timestamp::from_millis(NOW));
        let buckets: hashbrown::HashSet<u64> = (0..1_000_000_u64).map(|n| due(n * 31_557)).collect();
        assert!(buckets.len() < 64 * 20, "{}", buckets.len());
    }
}
