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

use crate::id::{Address, SegmentId, Seq, SessionKey};
use crate::lifetime::Deadlines;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

mod deadlines;
mod replay;
mod shard;
mod slab;
#[cfg(test)]
mod tests;
mod usage;

pub(crate) use replay::Replay;
pub(crate) use shard::Shard;

/// What the index knows of one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// The newest record with content.
    pub(crate) address: Address,
    /// That record is a rotation: [`ROTATE_BYTES`](crate::format::ROTATE_BYTES) of it belong to the old key's tombstone.
    pub(crate) rotated: bool,
    /// The number of the content.
    pub(crate) version: Seq,
    /// The newest.
    pub(crate) deadlines: Deadlines,
    /// When the session was created, in whole seconds since 1970: a write keeps it without reading the record before.
    pub(crate) created_s: u32,
    /// The segment of the newest touch record; `None` when the content's record carries the newest deadline.
    pub(crate) touched_in: Option<SegmentId>,
}

/// The sessions of a store.
pub(crate) struct Index {
    shards: Vec<Mutex<Shard>>,
    /// How many sessions there are: read at each create, written at each create and end.
    count: Arc<AtomicUsize>,
}

impl Index {
    /// Tables double in size. With this many of them they are 64 % full at 1 M sessions and 80 % at 10 M, not just past a doubling.
    /// The models have two, so that threads meet in them.
    pub(crate) const SHARDS: usize = if cfg!(all(test, shuttle)) { 2 } else { 44 };

    #[cfg(test)]
    pub(crate) fn new() -> Self {
        let count = Arc::default();
        let shards = (0..Self::SHARDS).map(|_| Mutex::new(Shard::new(Arc::clone(&count)))).collect();
        Self { shards, count }
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

    /// How many sessions there are, those that ended and were not yet swept included.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
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
