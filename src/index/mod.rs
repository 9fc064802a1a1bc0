//! What the store knows of each session without reading the disk: where its record lies, when it ends, and how many bytes of each
//! segment are live. In memory only: it does no I/O, reads no clock (the time is given), and takes no decision that is the engine's.
//!
//! Sessions are spread over [`Index::SHARDS`] shards by key, each under a mutex of its own that is held for a microsecond. A shard keeps
//! everything about its sessions, its share of the segments' live bytes included, so no operation but [`Index::len`] touches
//! memory that another shard writes.
//!
//! Invariants: a session is not removed before its deadline unless the engine removes it (P4); the live bytes of a segment are,
//! at every moment that no lock is held, the sum of what sessions and tombstones keep in it (P9); the memory of sessions that ended is given back.

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::id::{Address, OwnerKey, SegmentId, Seq, SessionKey};
use crate::lifetime::Deadlines;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

mod count;
mod deadlines;
mod owned;
mod replay;
mod revocations;
mod shard;
mod slab;
#[cfg(test)]
mod tests;
mod usage;

use count::Count;

pub(crate) use replay::{Content, Gathered, Replay};
pub(crate) use revocations::{Revocation, Revocations};
pub(crate) use shard::{Named, Page, Shard, Swept};
pub(crate) use slab::Prefix;

/// What the index knows of one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// The newest record with content.
    pub(crate) address: Address,
    /// That record is a rotation: [`ROTATE_BYTES`](crate::format::ROTATE_BYTES) of it belong to the old key's tombstone.
    pub(crate) rotated: bool,
    /// It has an owner, whom [`Shard::owner`] names.
    pub(crate) owned: bool,
    /// Its record has a label, which a write takes along.
    pub(crate) labelled: bool,
    /// The number of the content.
    pub(crate) version: Seq,
    /// The newest.
    pub(crate) deadlines: Deadlines,
    /// When the session was created, in whole seconds since 1970: a write keeps it without reading the record before.
    pub(crate) created_s: u32,
    /// The segment of the newest touch record; `None` when the content's record carries the newest deadline.
    pub(crate) touched_in: Option<SegmentId>,
}

/// What a key leads to, found with its shard locked: for an owned session it stays so until this is dropped.
pub(crate) struct Standing<'a> {
    /// Whether or not it has ended.
    pub(crate) found: Option<Entry>,
    pub(crate) owner: Option<OwnerKey>,
    is_revoked: bool,
    /// Held for an owned session, so that a revocation and its number come before or after all that is done now.
    revocations: Option<RwLockReadGuard<'a, Revocations>>,
}

impl Standing<'_> {
    /// The session, if it has neither ended nor been revoked.
    pub(crate) fn live(&self, now: Timestamp) -> Option<Entry> {
        self.found.filter(|entry| entry.deadlines.is_live(now) && !self.is_revoked)
    }

    /// Notes how long a record of this session lasts.
    pub(crate) fn promise(&self, until: Timestamp) {
        if let Some(revocations) = &self.revocations {
            revocations.promise(until);
        }
    }
}

/// The sessions of a store.
pub(crate) struct Index {
    shards: Vec<Mutex<Shard>>,
    /// Locked behind a shard, never before one.
    revocations: RwLock<Revocations>,
    /// Whether there are any: all that a read asks while there are none.
    is_revoking: AtomicBool,
    count: Arc<Count>,
}

impl Index {
    /// Tables double in size. With this many of them they are 64 % full at 1 M sessions and 80 % at 10 M, not just past a doubling.
    /// The models have two, so that threads meet in them.
    pub(crate) const SHARDS: usize = if cfg!(all(test, shuttle)) { 2 } else { 44 };

    #[cfg(test)]
    pub(crate) fn new() -> Self {
        let count = Arc::default();
        let shards = (0..Self::SHARDS).map(|_| Mutex::new(Shard::new(Arc::clone(&count)))).collect();
        Self::of(shards, Revocations::default(), count)
    }

    fn of(shards: Vec<Mutex<Shard>>, revocations: Revocations, count: Arc<Count>) -> Self {
        Self { shards, revocations: RwLock::new(revocations), is_revoking: AtomicBool::new(false), count }
    }

    /// Which shard has a key. By its last bytes: the first ones place it within the shard.
    pub(crate) fn shard_of(key: &SessionKey) -> usize {
        let [.., a, b, c, d] = *key.as_bytes();
        u32::from_le_bytes([a, b, c, d]) as usize % Self::SHARDS
    }

    pub(crate) fn lock(&self, key: &SessionKey) -> MutexGuard<'_, Shard> {
        self.lock_shard(Self::shard_of(key))
    }

    pub(crate) fn lock_shard(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock()
    }

    /// The shards of two keys, which may be one. Always locked in the same order, so that two callers never wait for each other.
    pub(crate) fn lock_two(&self, a: &SessionKey, b: &SessionKey) -> TwoShards<'_> {
        let (a, b) = (Self::shard_of(a), Self::shard_of(b));
        let (low, high) = (a.min(b), a.max(b));
        let low_guard = self.lock_shard(low);
        TwoShards { low, low_guard, high_guard: (low != high).then(|| self.lock_shard(high)) }
    }

    /// A session that was not revoked, for who reads it.
    pub(crate) fn get(&self, key: &SessionKey) -> Option<Entry> {
        let shard = self.lock(key);
        let entry = shard.get(key)?;
        let is_revoked = entry.owned
            && self.is_revoking.load(Ordering::Acquire)
            && shard.is_revoked(key, &self.revocations.read());
        (!is_revoked).then_some(entry)
    }

    /// What a key leads to, for who writes it: `shard` is the key's, and stays locked until the record has its number.
    pub(crate) fn standing(&self, shard: &Shard, key: &SessionKey) -> Standing<'_> {
        let found = shard.get(key);
        let Some(_) = found.filter(|entry| entry.owned) else {
            return Standing { found, owner: None, is_revoked: false, revocations: None };
        };
        let revocations = self.revocations.read();
        let is_revoked = shard.is_revoked(key, &revocations);
        Standing { found, owner: shard.owner(key), is_revoked, revocations: Some(revocations) }
    }

    /// For who gives a session an owner: as [`standing`](Self::standing) is for who keeps it.
    pub(crate) fn revocations(&self) -> RwLockReadGuard<'_, Revocations> {
        self.revocations.read()
    }

    /// For who revokes: nobody writes an owned session until this is dropped.
    pub(crate) fn revoke(&self) -> Revoking<'_> {
        Revoking { revocations: self.revocations.write(), is_revoking: &self.is_revoking }
    }

    /// At most `limit` of a shard's sessions, as [`Shard::page`] walks them, without those that were revoked.
    pub(crate) fn page(&self, shard: &Shard, left: u32, limit: usize) -> Page {
        let is_revoking = self.is_revoking.load(Ordering::Acquire);
        let revocations = is_revoking.then(|| self.revocations.read());
        shard.page(left, limit, revocations.as_deref())
    }

    /// The same of one owner's sessions.
    pub(crate) fn page_of(&self, shard: &Shard, owner: OwnerKey, left: u32, limit: usize) -> Page {
        let is_revoking = self.is_revoking.load(Ordering::Acquire);
        let revocations = is_revoking.then(|| self.revocations.read());
        shard.page_of(owner, left, limit, revocations.as_deref())
    }

    /// An owner's sessions that are live at `now`, and what their keys begin with. One shard is locked at a time, for some microseconds and
    /// longer where the owner has very many.
    pub(crate) fn live_of(&self, owner: OwnerKey, now: Timestamp) -> Vec<Named> {
        let mut live = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let is_revoking = self.is_revoking.load(Ordering::Acquire);
            let revocations = is_revoking.then(|| self.revocations.read());
            let ended = |prefix: &Prefix, entry: &Entry| {
                revocations.as_ref().is_some_and(|r| r.end(prefix, owner, entry.version))
            };
            let all = shard.all_of(owner).filter(|(_, entry)| entry.deadlines.is_live(now));
            live.extend(all.filter(|(prefix, entry)| !ended(prefix, entry)));
        }
        live
    }

    /// The number of the latest revocation that is under way.
    pub(crate) fn revoked_last(&self) -> Option<Seq> {
        if self.is_revoking.load(Ordering::Acquire) { self.revocations.read().newest() } else { None }
    }

    /// Takes revoked sessions out of a shard, or hands them out: looks at no more than `max`, below position `left`.
    pub(crate) fn sweep_revoked(&self, shard: &mut Shard, left: u32, max: u32, hand_out: bool) -> Swept {
        shard.sweep_revoked(left, max, &self.revocations.read(), hand_out)
    }

    /// Revocations up to this number were carried out in every shard.
    pub(crate) fn revoked(&self, upto: Seq) {
        let mut revocations = self.revocations.write();
        revocations.forget(upto);
        self.is_revoking.store(!revocations.is_empty(), Ordering::Release);
    }

    /// How many sessions there are, those that ended and were not yet swept included.
    pub(crate) fn len(&self) -> usize {
        self.count.all()
    }

    /// How many of them are live, behind [`Replay::finish`], which keeps of those that have ended only whom an older version outlives.
    pub(crate) fn live_len(&self, now: Timestamp) -> usize {
        let ended: usize = self.shards.iter().map(|shard| shard.lock().outlived_ended(now)).sum();
        self.len() - ended
    }

    /// How many of them have no owner.
    pub(crate) fn anonymous(&self) -> usize {
        self.count.anonymous()
    }

    /// The live bytes of each segment that has any. One shard is locked at a time, so writes of that moment may be in it or not.
    pub(crate) fn live_bytes(&self) -> HashMap<SegmentId, u64> {
        let mut sum = HashMap::new();
        for shard in &self.shards {
            for (segment, bytes) in shard.lock().usage().live() {
                *sum.entry(segment).or_default() += bytes;
            }
        }
        sum
    }

    /// Drops what is counted of a segment whose file is gone.
    pub(crate) fn forget_segment(&self, segment: SegmentId) {
        for shard in &self.shards {
            shard.lock().forget_segment(segment);
        }
    }

    /// Everything the index has allocated, used or spare.
    pub(crate) fn memory_bytes(&self) -> usize {
        let shards: usize = self.shards.iter().map(|shard| shard.lock().memory_bytes()).sum();
        shards + self.shards.capacity() * size_of::<Mutex<Shard>>()
    }
}

/// Held by who revokes.
pub(crate) struct Revoking<'a> {
    pub(crate) revocations: RwLockWriteGuard<'a, Revocations>,
    is_revoking: &'a AtomicBool,
}

impl Revoking<'_> {
    /// From now on what it ends is gone.
    pub(crate) fn add(&mut self, revocation: Revocation) {
        self.revocations.add(revocation);
        self.is_revoking.store(true, Ordering::Release);
    }
}

/// The shards of two keys, locked.
pub(crate) struct TwoShards<'a> {
    low: usize,
    low_guard: MutexGuard<'a, Shard>,
    /// `None` when both keys are in one shard.
    high_guard: Option<MutexGuard<'a, Shard>>,
}

impl TwoShards<'_> {
    /// The shard of one of the two keys.
    pub(crate) fn of(&mut self, key: &SessionKey) -> &mut Shard {
        match &mut self.high_guard {
            Some(high_guard) if Index::shard_of(key) != self.low => high_guard,
            _ => &mut self.low_guard,
        }
    }
}
