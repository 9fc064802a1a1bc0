//! The sessions of an owner: listed, counted, and never more of them than a sign-in allows.
//!
//! # Why a cap is exact
//!
//! Only who gives an owner a session makes them more: a sign-in, by `bind` or by a create, and a rotation, which has the session twice or not at all
//! for who counts while it moves. Each of them, and whoever asks for the
//! count, holds the owner's *turn* from before it counts until its record is staged. Whatever goes on beside
//! it (expiry, delete, revocation, another owner's sign-in) makes them fewer. So `count < max` holds still when the record is staged, and what every
//! reader sees is at most `max`.
//!
//! # Why a crash does not break it (P1)
//!
//! The sessions that give way are deleted by records that are staged before the one that signs in, in the same turn. After a crash the log ends somewhere: if
//! the sign-in is there, so is every delete before it. If only the deletes are there, the sign-in was never acknowledged, and the owner has fewer sessions
//! than they might. The same holds where the sign-in is refused after the deletes, since the disk filled up between them.
//!
//! # By a time that may be wrong
//!
//! Sessions that only such a time has ended come back if it is withdrawn. A cap that evicts ends them before all others, and holds. One that rejects does not
//! count them, as it counts nobody who expired, so with the right time the owner may have as many more: the exception that P2 has as well.
//!
//! Turns are taken on a worker: counting takes some microseconds, and more only for who has thousands of sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::contract::{Cursor, OwnedPage, OwnedSession, Place as At};
use crate::error::Error;
use crate::events::{Event, Why};
use crate::format::RECORD_HEADER_BYTES;
use crate::id::{OwnerKey, SessionKey};
use crate::index::{Entry, Index, Named, Prefix};
use crate::log::Room;
use crate::options::Durability;
use crate::owner::{AtCap, Cap, Label};
use crate::sync::atomic::Ordering;

use super::Engine;
use super::read::key_of;
use super::write::Halt;

/// Sessions that one sign-in ends in one turn, a millisecond; where a cap was lowered by more, it takes several.
const EVICTED_AT_ONCE: usize = 1_024;

/// The longest page, so that making one stays a short loop.
const PAGE_SESSIONS_MAX: usize = 1_000;

/// What a sign-in under a cap has to know before its turn, since it is read from records.
pub(super) struct Place {
    cap: Option<(OwnerKey, Cap)>,
    /// Who gives way, as it looked then; or some of them. One that was ended is none any more: there is room in the log to end each once.
    first: BTreeMap<Prefix, SessionKey>,
}

impl Place {
    /// Room in the log that ending them takes.
    pub(super) fn bytes(&self) -> u32 {
        u32::try_from(self.first.len()).unwrap_or(u32::MAX) * RECORD_HEADER_BYTES
    }
}

impl Engine {
    /// No more than leaves room for the record that signs in, which takes less than three quarters of all there is.
    fn evicted_at_once(&self) -> usize {
        let bytes = self.options.unwritten_bytes_max.min(self.options.segment_bytes / 2) / 4;
        EVICTED_AT_ONCE.min((bytes / RECORD_HEADER_BYTES) as usize)
    }

    /// Prepares a sign-in: learns the keys of sessions that it is to end in its turn.
    pub(super) async fn place(&self, owner: Option<OwnerKey>, cap: Option<Cap>) -> Result<Place, Error> {
        let Some((owner, cap)) = owner.zip(cap) else {
            return Ok(Place { cap: None, first: BTreeMap::new() });
        };
        let theirs = self.first_to_go(owner, cap);
        let list = Arc::clone(&self.table.load());
        let mut first = BTreeMap::new();
        if cap.then != AtCap::RejectNew {
            for (of, entry) in theirs.iter().take(over(&theirs, cap).min(self.evicted_at_once())) {
                // One that has moved is found the next time.
                if let Some(record) = self.record(&list, entry.address).await? {
                    first.insert(*of, key_of(&record)?);
                }
            }
        }
        Ok(Place { cap: Some((owner, cap)), first })
    }

    /// In the owner's turn: ends as many sessions as it takes for one more. Whether it could, or there are others
    /// among them than those whose keys are known; of very many it ends those.
    pub(super) fn make_room_for_one(&self, place: &mut Place, room: &mut Room<'_>) -> Result<bool, Halt> {
        let Some((owner, cap)) = place.cap else { return Ok(true) };
        let theirs = self.first_to_go(owner, cap);
        let over = over(&theirs, cap);
        if over > 0 && cap.then == AtCap::RejectNew {
            return Err(Error::TooManyOfOwner { max: cap.max }.into());
        }
        let all = theirs[..over].iter().all(|(of, _)| place.first.contains_key(of));
        if !all && over <= self.evicted_at_once() {
            return Ok(false);
        }
        for (of, _) in &theirs[..over] {
            if let Some(key) = place.first.get(of) {
                self.evict(owner, key, room)?;
                place.first.remove(of);
            }
        }
        Ok(all)
    }

    /// An owner's live sessions, those that give way first in front. By a time that may be wrong, those that it alone has ended are among them: they
    /// would be back beside the new one with the right time. Nobody is refused for their sake.
    fn first_to_go(&self, owner: OwnerKey, cap: Cap) -> Vec<Named> {
        let now = self.clock.now();
        let mut theirs =
            self.index.live_of(owner, if cap.then == AtCap::RejectNew { now } else { self.sure(now) });
        let created = |entry: &Entry| Timestamp::from_millis(u64::from(entry.created_s) * 1_000);
        let since = |entry: &Entry| match cap.then {
            AtCap::RejectNew => Timestamp::default(),
            AtCap::EvictOldest => created(entry),
            AtCap::EvictIdle => entry.deadlines.seen_at().unwrap_or_else(|| created(entry)),
        };
        theirs.sort_unstable_by_key(|(_, entry)| (entry.deadlines.is_live(now), since(entry), entry.version));
        theirs
    }

    /// The time that is sure to have come.
    fn sure(&self, now: Timestamp) -> Timestamp {
        self.clock.mark().min(now)
    }

    fn evict(&self, owner: OwnerKey, key: &SessionKey, room: &mut Room<'_>) -> Result<(), Halt> {
        let mut shard = self.index.lock(key);
        let standing = self.index.standing(&shard, key);
        let is_theirs = standing.owner == Some(owner) && standing.live(self.sure(self.clock.now())).is_some();
        drop(standing);
        if is_theirs {
            // Whoever waits for the sign-in waits for this, which is before it in the log.
            self.end(&mut shard, key, Durability::Buffered, room)?;
            self.listeners.tell(Event::Deleted { key: *key, why: Why::Evicted });
            self.counters.evicted.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(crate) fn owned_count(&self, owner: OwnerKey) -> Result<usize, Error> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        // Shards are counted one after the other: without a turn a rotation could move a session in front of the count, and it would be there twice.
        let _turn = self.turns.take(owner);
        Ok(self.index.live_of(owner, self.clock.now()).len())
    }

    pub(crate) async fn owned(
        &self,
        owner: OwnerKey,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<OwnedPage, Error> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        let limit = limit.clamp(1, PAGE_SESSIONS_MAX);
        let (mut shard, mut left) = match cursor.map(|cursor| cursor.0) {
            Some(At::Slots { shard, left }) => (shard, left),
            _ => (0, u32::MAX),
        };
        let (mut sessions, mut looked_at) = (Vec::new(), 0);
        while (shard as usize) < Index::SHARDS && looked_at < limit {
            let now = self.clock.now();
            let (list, page) = {
                let locked = self.index.lock_shard(shard as usize);
                // While the shard is locked nothing it points to goes from the list; what is held stays readable.
                (Arc::clone(&self.table.load()), self.index.page_of(&locked, owner, left, limit - looked_at))
            };
            looked_at += page.looked_at;
            for entry in page.entries.iter().filter(|entry| entry.deadlines.is_live(now)) {
                if let Some(record) = self.record(&list, entry.address).await? {
                    let (header, body) = record.parts()?;
                    sessions.push(OwnedSession {
                        key: header.key,
                        created_at: Timestamp::from_millis(u64::from(entry.created_s) * 1_000),
                        seen_at: entry.deadlines.seen_at(),
                        expires_at: entry.deadlines.expires_at,
                        label: Label::of_record(body.label),
                    });
                }
            }
            (shard, left) = if page.left == 0 { (shard + 1, u32::MAX) } else { (shard, page.left) };
        }
        let more = (shard as usize) < Index::SHARDS;
        Ok(OwnedPage { sessions, next: more.then_some(Cursor(At::Slots { shard, left })) })
    }
}

/// How many of them are too many for one more.
fn over(theirs: &[Named], cap: Cap) -> usize {
    (theirs.len() + 1).saturating_sub(cap.max as usize)
}
