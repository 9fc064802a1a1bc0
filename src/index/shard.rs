//! One shard of the index: its sessions, their deadlines and what they keep on disk, changed together. It does not lock itself.
//!
//! **Outlived versions.** Natural expiry writes nothing, so what ends last decides: if a session's deadline was made *earlier*, an older version
//! with a later deadline is still on disk, and would come back at the next open once the newer one has been compacted away. A shard remembers
//! how long such a version would live. When the session ends before that, [`Shard::expire`] does not remove it but hands it to the engine, which
//! writes a tombstone and then removes it.
//!
//! **Owned sessions.** All versions of an owned session that are on disk and that no tombstone hides have the same owner, since a live session gets an
//! owner, another one or none by a record that hides all before it, and so does one that begins with an owner under the key of a session which has
//! ended. One that begins there with none is never revoked: older versions end by themselves, by the revocation that ended them, or by a tombstone, as
//! an outlived version does. A rotation moves a session to a key that was never used. So one revocation ends every version of it, and a session that
//! is revoked needs no tombstone.
//!
//! Invariants:
//! 1. Every session is charged to its segments exactly once, and is in exactly one deadline bucket.
//! 2. `outlived` has a key only while its session is here and ends before that.
//! 3. `owned` has a slot exactly while it says that it is owned.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

use super::Entry;
use super::count::Count;
use super::deadlines::Buckets;
use super::owned::Owned;
use super::revocations::Revocations;
use super::slab::{Prefix, Slab, Slot, prefix};
use super::usage::Usage;
use crate::clock::Timestamp;
use crate::id::{Address, OwnerKey, SegmentId, SessionKey};
use crate::lifetime::Deadlines;

/// How long until a session that needs a tombstone is handed out again, should its tombstone fail.
const TOMBSTONE_RETRY: Duration = Duration::from_secs(1);

/// What one slice of expiry did.
#[derive(Debug, Default)]
pub(crate) struct Expired {
    /// Sessions that ended and are gone.
    pub(crate) removed: usize,
    /// Sessions that ended while an older version on disk lives on, until the time given. They are still here: write a tombstone until then
    /// and remove them, under the lock and only if they are as they were. They come again after a second otherwise.
    pub(crate) outlived: Vec<(SessionKey, Entry, Timestamp)>,
    /// Sessions that ended, where they were to be handed out: they are still here. [`Shard::take`] them, or they come again after a second.
    pub(crate) handed_out: Vec<Named>,
    /// There is more to do at once.
    pub(crate) more: bool,
}

/// A session, and what its key begins with.
pub(crate) type Named = (Prefix, Entry);

/// What one slice of a sweep of the revoked did.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    pub(crate) removed: usize,
    /// Where they were to be handed out: they are still here. [`Shard::take`] them.
    pub(crate) handed_out: Vec<Named>,
    /// Where to go on; 0 is the end.
    pub(crate) left: u32,
}

/// An older version, on disk, of a session that ends before it.
#[derive(Clone, Copy)]
pub(super) struct Outlived {
    /// Whole, since a tombstone needs it and a slot has only the prefix.
    pub(super) key: SessionKey,
    pub(super) until: Timestamp,
}

/// A part of a walk through the sessions of a shard.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// How many sessions were looked at.
    pub(crate) looked_at: usize,
    /// Where to go on; 0 is the end.
    pub(crate) left: u32,
}

/// A part of the sessions. Aligned so that locking one does not slow its neighbours.
#[repr(align(64))]
pub(crate) struct Shard {
    slab: Slab,
    buckets: Buckets,
    usage: Usage,
    outlived: HashMap<Prefix, Outlived>,
    owned: Owned,
    /// The latest time that a caller gave.
    now: Timestamp,
    /// Shared by all shards.
    count: Arc<Count>,
}

impl Shard {
    #[cfg(test)]
    pub(super) fn new(count: Arc<Count>) -> Self {
        let (usage, owned) = (Usage::default(), Owned::default());
        Self::replayed(Slab::default(), usage, HashMap::new(), owned, Timestamp::default(), count)
    }

    /// A shard of sessions that are in no bucket and charged to no segment yet.
    pub(super) fn replayed(
        slab: Slab,
        usage: Usage,
        outlived: HashMap<Prefix, Outlived>,
        owned: Owned,
        now: Timestamp,
        count: Arc<Count>,
    ) -> Self {
        let mut shard = Self { slab, buckets: Buckets::default(), usage, outlived, owned, now, count };
        for number in 0..shard.slab.len() {
            let entry = shard.slab.slot(number).entry();
            shard.usage.charge(&entry);
            shard.count.began(entry.owned);
            shard.buckets.arm(&mut shard.slab, number, now);
        }
        shard
    }

    /// What is known of a session, whether or not it has ended: ask its deadlines.
    pub(crate) fn get(&self, key: &SessionKey) -> Option<Entry> {
        self.slab.find(&prefix(key)).map(|number| self.slab.slot(number).entry())
    }

    /// Whose a session is.
    pub(crate) fn owner(&self, key: &SessionKey) -> Option<OwnerKey> {
        self.slab.find(&prefix(key)).and_then(|number| self.owned.owner(number))
    }

    /// Whether a session is here that was revoked.
    pub(crate) fn is_revoked(&self, key: &SessionKey, revocations: &Revocations) -> bool {
        self.slab.find(&prefix(key)).is_some_and(|number| self.is_slot_revoked(number, revocations))
    }

    fn is_slot_revoked(&self, number: u32, revocations: &Revocations) -> bool {
        let slot = self.slab.slot(number);
        let owner = if slot.is_owned() { self.owned.owner(number) } else { None };
        owner.is_some_and(|owner| revocations.end(&slot.prefix, owner, slot.version()))
    }

    /// Puts a session in the place of what was known of it, if anything. Of an owner there is one exactly if the entry says so.
    pub(crate) fn set(&mut self, key: &SessionKey, entry: Entry, owner: Option<OwnerKey>, now: Timestamp) {
        debug_assert_eq!(entry.owned, owner.is_some());
        self.now = self.now.max(now);
        let prefix = prefix(key);
        self.usage.charge(&entry);
        let Some(number) = self.slab.find(&prefix) else {
            let number = self.slab.push(prefix, &entry);
            self.buckets.arm(&mut self.slab, number, now);
            self.count.began(entry.owned);
            if owner.is_some() {
                self.owned.set(number, owner);
            }
            return;
        };
        let old = self.slab.slot(number).entry();
        self.usage.release(&old);
        self.slab.slot_mut(number).put(&entry);
        self.count.changed(old.owned, entry.owned);
        if old.owned || owner.is_some() {
            self.owned.set(number, owner);
        }
        let (was, is) = (old.deadlines.expires_at, entry.deadlines.expires_at);
        self.note_outlived(key, prefix, was, is);
        // A later deadline needs nothing: the slot is looked at when the old one falls due, and moved on. But one that had passed
        // may have been put off, and one that never came is in no bucket.
        if is < was || was <= now {
            self.buckets.disarm(&mut self.slab, number);
            self.buckets.arm(&mut self.slab, number, now);
        }
    }

    /// Puts a session in the place of one that its own record hides on disk, with all that was before it. It keeps its position, so a walk meets it.
    pub(crate) fn succeed(
        &mut self,
        key: &SessionKey,
        entry: Entry,
        owner: Option<OwnerKey>,
        now: Timestamp,
    ) {
        self.set(key, entry, owner, now);
        self.outlived.remove(&prefix(key));
    }

    /// Removes a session and gives what was known of it. Ask [`hides_until`](Self::hides_until) first.
    pub(crate) fn remove(&mut self, key: &SessionKey) -> Option<Entry> {
        let number = self.slab.find(&prefix(key))?;
        Some(self.remove_slot(number))
    }

    /// The latest deadline of any version of this session that may be on disk: how long a tombstone must hide it.
    /// The beginning of time if it is unknown.
    pub(crate) fn hides_until(&self, key: &SessionKey) -> Timestamp {
        let prefix = prefix(key);
        let Some(number) = self.slab.find(&prefix) else { return Timestamp::default() };
        let outlived = self.outlived.get(&prefix).map_or(Timestamp::default(), |o| o.until);
        self.slab.slot(number).expires_at().max(outlived)
    }

    /// Counts a tombstone, or the tombstone half of a rotation, as live until what it hides has ended.
    pub(crate) fn add_tombstone(&mut self, segment: SegmentId, hides_until: Timestamp, bytes: u32) {
        self.usage.add_tombstone(segment, hides_until, bytes, self.now);
    }

    /// Gives a session other deadlines, whose record lies in `touched_in`. It must be there.
    pub(crate) fn touch(
        &mut self,
        key: &SessionKey,
        deadlines: Deadlines,
        touched_in: SegmentId,
        now: Timestamp,
    ) {
        if let Some(entry) = self.get(key) {
            let owner = if entry.owned { self.owner(key) } else { None };
            self.set(key, Entry { deadlines, touched_in: Some(touched_in), ..entry }, owner, now);
        }
    }

    /// Lets a session's content lie where compaction copied it, with the deadlines that were `read`; not if it has been written anew
    /// meanwhile. A touch that the copy carries is then no longer needed. One that came later is, also if it brought the same deadlines again:
    /// others may have come between. Then it lies in another segment, or they lie in the same and go with it.
    pub(crate) fn publish(&mut self, key: &SessionKey, read: &Entry, to: Address) -> bool {
        self.replace(key, |_, entry| {
            let touched_in = if entry == *read { None } else { entry.touched_in };
            let same = entry.address == read.address;
            same.then_some(Entry { address: to, rotated: false, touched_in, ..entry })
        })
    }

    /// Lets a session's newest touch lie in the segment that compaction copied it to; not if it was touched or written again.
    pub(crate) fn publish_touch(
        &mut self,
        key: &SessionKey,
        from: SegmentId,
        to: SegmentId,
        carried: Deadlines,
    ) -> bool {
        self.replace(key, |slot, entry| {
            let same = entry.touched_in == Some(from) && slot.holds(&carried);
            same.then_some(Entry { touched_in: Some(to), ..entry })
        })
    }

    /// Looks at no more than `max` sessions whose time may have come: removes those that ended, or hands them out, moves the others on. Also stops
    /// counting tombstones that hide nothing any more.
    pub(crate) fn expire(&mut self, now: Timestamp, max: usize, hand_out: bool) -> Expired {
        self.now = self.now.max(now);
        let mut done = Expired::default();
        for _ in 0..max {
            let Some(number) = self.buckets.due(now) else { break };
            let slot = self.slab.slot(number);
            if slot.expires_at() > now {
                self.buckets.disarm(&mut self.slab, number);
                self.buckets.arm(&mut self.slab, number, now);
                continue;
            }
            match self.outlived.get(&slot.prefix).copied() {
                Some(Outlived { key, until }) if until > now => {
                    done.outlived.push((key, slot.entry(), until));
                    self.buckets.disarm(&mut self.slab, number);
                    self.buckets.put_off(&mut self.slab, number, now.saturating_add(TOMBSTONE_RETRY));
                }
                _ if hand_out => {
                    done.handed_out.push((slot.prefix, slot.entry()));
                    self.buckets.disarm(&mut self.slab, number);
                    self.buckets.put_off(&mut self.slab, number, now.saturating_add(TOMBSTONE_RETRY));
                }
                _ => {
                    self.remove_slot(number);
                    done.removed += 1;
                }
            }
        }
        let tombstones_done = self.usage.release_tombstones(now, max);
        done.more = !tombstones_done || self.buckets.due(now).is_some();
        self.slab.shrink();
        give_back(&mut self.outlived);
        done
    }

    /// At most `limit` sessions below position `left` ([`u32::MAX`] to begin), and the position to go on from; 0 is the end.
    ///
    /// It walks downwards because the place of a session that ends is taken by the last one: a session moves only down, so one that is
    /// there throughout is met at least once.
    pub(super) fn page(&self, left: u32, limit: usize, revocations: Option<&Revocations>) -> Page {
        let (left, after) = self.walk(left, u32::try_from(limit).unwrap_or(u32::MAX));
        let is_revoked = |number: &u32| revocations.is_some_and(|r| self.is_slot_revoked(*number, r));
        let standing = (after..left).rev().filter(|number| !is_revoked(number));
        let entries = standing.map(|number| self.slab.slot(number).entry()).collect();
        Page { entries, looked_at: (left - after) as usize, left: after }
    }

    /// The same of one owner's sessions: it walks by their slots, downwards too.
    pub(super) fn page_of(
        &self,
        owner: OwnerKey,
        left: u32,
        limit: usize,
        revocations: Option<&Revocations>,
    ) -> Page {
        let mut slots: Vec<_> = self.owned.of(owner).filter(|number| *number < left).collect();
        slots.sort_unstable_by(|a, b| b.cmp(a));
        let left = slots.get(limit).map_or(0, |next| next + 1);
        slots.truncate(limit);
        let looked_at = slots.len();
        let standing =
            slots.iter().filter(|number| !revocations.is_some_and(|r| self.is_slot_revoked(**number, r)));
        Page { entries: standing.map(|number| self.slab.slot(*number).entry()).collect(), looked_at, left }
    }

    /// An owner's sessions, whether or not they have ended, and what their keys begin with.
    pub(super) fn all_of(&self, owner: OwnerKey) -> impl Iterator<Item = Named> {
        self.owned.of(owner).map(|number| self.slab.slot(number)).map(|slot| (slot.prefix, slot.entry()))
    }

    /// Removes a session that was handed out, unless it was written anew meanwhile.
    pub(crate) fn take(&mut self, (prefix, entry): &Named) -> bool {
        let number =
            self.slab.find(prefix).filter(|number| self.slab.slot(*number).version() == entry.version);
        number.map(|number| self.remove_slot(number)).is_some()
    }

    /// Removes the revoked among at most `max` sessions below position `left`, or hands them out. It walks as [`page`](Self::page) does:
    /// what takes the place of a session that goes was looked at before.
    pub(super) fn sweep_revoked(
        &mut self,
        left: u32,
        max: u32,
        revocations: &Revocations,
        hand_out: bool,
    ) -> Swept {
        let (left, after) = self.walk(left, max);
        let mut done = Swept { left: after, ..Swept::default() };
        for number in (after..left).rev() {
            if self.is_slot_revoked(number, revocations) {
                if hand_out {
                    let slot = self.slab.slot(number);
                    done.handed_out.push((slot.prefix, slot.entry()));
                } else {
                    self.remove_slot(number);
                    done.removed += 1;
                }
            }
        }
        self.slab.shrink();
        done
    }

    /// The positions of a part of a walk, from and to.
    fn walk(&self, left: u32, max: u32) -> (u32, u32) {
        let left = left.min(self.slab.len());
        (left, left.saturating_sub(max))
    }

    pub(super) fn usage(&self) -> &Usage {
        &self.usage
    }

    pub(super) fn forget_segment(&mut self, segment: SegmentId) {
        self.usage.forget(segment);
    }

    /// Everything it has allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.slab.memory_bytes()
            + self.buckets.memory_bytes()
            + self.usage.memory_bytes()
            + self.outlived.allocation_size()
            + self.owned.memory_bytes()
    }

    /// How many sessions ended by `now` and are still here because an older version outlives them.
    pub(super) fn outlived_ended(&self, now: Timestamp) -> usize {
        let ended = |prefix| self.slab.find(prefix).is_some_and(|n| self.slab.slot(n).expires_at() <= now);
        self.outlived.keys().filter(|prefix| ended(prefix)).count()
    }

    fn note_outlived(&mut self, key: &SessionKey, prefix: Prefix, was: Timestamp, is: Timestamp) {
        let older = self.outlived.get(&prefix).map_or(was, |o| o.until.max(was));
        if older > is && older > self.now {
            self.outlived.insert(prefix, Outlived { key: *key, until: older });
        } else if !self.outlived.is_empty() {
            self.outlived.remove(&prefix);
        }
    }

    /// Changes what is known of a session without moving its deadline.
    fn replace(&mut self, key: &SessionKey, change: impl FnOnce(&Slot, Entry) -> Option<Entry>) -> bool {
        let Some(number) = self.slab.find(&prefix(key)) else { return false };
        let slot = self.slab.slot_mut(number);
        let old = slot.entry();
        let Some(new) = change(slot, old) else { return false };
        slot.put(&new);
        self.usage.release(&old);
        self.usage.charge(&new);
        true
    }

    fn remove_slot(&mut self, number: u32) -> Entry {
        let slot = *self.slab.slot(number);
        self.buckets.disarm(&mut self.slab, number);
        if slot.is_owned() {
            self.owned.set(number, None);
        }
        if self.slab.swap_remove(number) {
            self.buckets.renumbered(&mut self.slab, number);
            if self.slab.slot(number).is_owned() {
                self.owned.renumber(self.slab.len(), number);
            }
        }
        let entry = slot.entry();
        self.usage.release(&entry);
        if !self.outlived.is_empty() {
            self.outlived.remove(&slot.prefix);
        }
        self.count.ended(slot.is_owned());
        entry
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> (&Slab, &Buckets) {
        (&self.slab, &self.buckets)
    }

    #[cfg(test)]
    pub(super) fn outlived_count(&self) -> usize {
        self.outlived.len()
    }
}

/// Gives memory back after most of a table has gone.
fn give_back(table: &mut HashMap<Prefix, Outlived>) {
    if table.capacity() > 64 && table.len() < table.capacity() / 4 {
        table.shrink_to_fit();
    }
}
