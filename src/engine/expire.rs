//! Sessions whose time has come: out of the index, in slices, with a tombstone where an older version on disk would outlive them.
//!
//! Nothing depends on when this runs: a read compares the deadline itself (P5). A session that simply ends writes nothing,
//! since every record of it ends no later; one whose lifetime was shortened leaves a record with a later deadline behind, which the
//! next open would revive, so its tombstone is staged before it leaves the index.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::events::Event;
use crate::format::RECORD_HEADER_BYTES;
use crate::id::SessionKey;
use crate::index::{Index, Named, Shard};
use crate::options::Durability;
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;

use super::Engine;

/// Sessions looked at under one hold of a shard's lock: some ten microseconds.
const SLICE: usize = 256;

impl Engine {
    /// Takes everything out that is due; says how many sessions ended.
    pub(super) fn expire(&self) -> u64 {
        let ended = (0..Index::SHARDS).map(|shard| self.expire_shard(shard)).sum();
        if ended > 0 {
            self.counters.expired.fetch_add(ended, Ordering::Relaxed);
            self.time_is_due.store(true, Ordering::Relaxed);
        }
        ended
    }

    fn expire_shard(&self, number: usize) -> u64 {
        let mut ended = 0;
        loop {
            if self.stopping.load(Ordering::Acquire) {
                return ended;
            }
            self.provide_if_needed();
            let mut shard = self.index.lock_shard(number);
            let now = self.clock.now();
            let expired = shard.expire(now, SLICE, self.listeners.are_any());
            if expired.removed > 0 || !expired.handed_out.is_empty() {
                self.ended_by(now);
            }
            ended += expired.removed as u64;
            for (key, ..) in expired.outlived {
                // Without room now the session stays, expired, and its turn comes again.
                let Some(mut room) = self.log.room_now(RECORD_HEADER_BYTES) else { continue };
                if self.end(&mut shard, &key, Durability::Buffered, &mut room).is_ok() {
                    self.listeners.tell(Event::Expired { key });
                    ended += 1;
                }
            }
            ended += self.tell_of_ended(number, shard, &expired.handed_out, |key| Event::Expired { key });
            if !expired.more {
                return ended;
            }
        }
    }

    /// Somebody has ended by this time: until it is written down, a crash beside a wall clock that is behind may bring them back.
    pub(super) fn ended_by(&self, time: Timestamp) {
        self.ended_by.fetch_max(time.as_millis(), Ordering::AcqRel);
    }

    /// Takes sessions that ended out of a shard, which handed them out, and tells of each; says how many. Their keys are read while no lock is held, so
    /// that no worker waits for the disk; one that was written anew meanwhile was told of by who did so.
    pub(super) fn tell_of_ended(
        &self,
        number: usize,
        shard: MutexGuard<'_, Shard>,
        ended: &[Named],
        event: impl Fn(SessionKey) -> Event,
    ) -> u64 {
        if ended.is_empty() {
            return 0;
        }
        // While the shard is locked nothing it points to goes from the list; what is held stays readable.
        let list = Arc::clone(&self.table.load());
        drop(shard);
        let keys: Vec<_> = ended.iter().map(|(_, entry)| self.key_now(&list, entry.address)).collect();
        let mut shard = self.index.lock_shard(number);
        let mut taken = 0;
        for (named, key) in ended.iter().zip(keys) {
            if !shard.take(named) {
                continue;
            }
            taken += 1;
            match key {
                Ok(key) => self.listeners.tell(event(key)),
                Err(e) => {
                    tracing::warn!(error = %e, "a session ended whose record cannot be read, so nobody is told which");
                }
            }
        }
        taken
    }
}
