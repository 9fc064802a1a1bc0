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
//! Turns are taken on a worker: counting takes some microseconds, and more only for who has thousands of sessions.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::contract::{Cursor, OwnedPage, OwnedSession, Place as At};
use crate::error::Error;
use crate::events::{Event, Why};
use crate::format::RECORD_HEADER_BYTES;
use crate::id::{OwnerKey, SessionKey};
use crate::index::{Entry, Index, Named, prefix};
use crate::log::Room;
use crate::options::Durability;
use crate::owner::{AtCap, Cap, Label};
use crate::sync::atomic::Ordering;

use super::Engine;
use super::read::key_of;
use super::write::{Halt, Tried};

/// Sessions that one sign-in ends in its turn; where a cap was lowered by more, the others are ended before.
const EVICTED_AT_ONCE: usize = 16;

/// The longest page, so that making one stays a short loop.
const PAGE_SESSIONS_MAX: usize = 1_000;

/// What a sign-in under a cap has to know before its turn, since it is read from records.
pub(super) struct Place {
    cap: Option<(OwnerKey, Cap)>,
    /// Who gives way, as it looked then; and some more.
    first: Vec<SessionKey>,
}

impl Place {
    /// Room in the log that ending them takes.
    pub(super) fn bytes(&self) -> u32 {
        u32::try_from(self.first.len()).unwrap_or(u32::MAX) * RECORD_HEADER_BYTES
    }
}

impl Engine {
    /// Prepares a sign-in: ends sessions, where a cap was lowered, and learns the keys of those that it is to end in its turn.
    pub(super) async fn place(&self, owner: Option<OwnerKey>, cap: Option<Cap>) -> Result<Place, Error> {
        let Some((owner, cap)) = owner.zip(cap) else { return Ok(Place { cap: None, first: Vec::new() }) };
        loop {
            let theirs = self.first_to_go(owner, cap);
            let list = Arc::clone(&self.table.load());
            let over = over(&theirs, cap);
            let mut first = Vec::new();
            if over > 0 && cap.then != AtCap::RejectNew {
                for (_, entry) in theirs.iter().take(over.min(EVICTED_AT_ONCE)) {
                    // One that has moved is found the next time.
                    if let Some(record) = self.record(&list, entry.address).await? {
                        first.push(key_of(&record)?);
                    }
                }
            }
            if over <= EVICTED_AT_ONCE || first.is_empty() {
                return Ok(Place { cap: Some((owner, cap)), first });
            }
            for key in first {
                let evicted =
                    self.staged(RECORD_HEADER_BYTES, |room| self.evict(owner, &key, room).map(Tried::Done));
                evicted.await?;
            }
        }
    }

    /// In the owner's turn: ends as many sessions as it takes for one more. Whether it could, or they are others than those whose keys are known.
    pub(super) fn make_room_for_one(&self, place: &Place, room: &mut Room<'_>) -> Result<bool, Halt> {
        let Some((owner, cap)) = place.cap else { return Ok(true) };
        let theirs = self.first_to_go(owner, cap);
        let over = over(&theirs, cap);
        if over > 0 && cap.then == AtCap::RejectNew {
            return Err(Error::TooManyOfOwner { max: cap.max }.into());
        }
        let key = |(of, _): &Named| place.first.iter().find(|key| prefix(key) == *of);
        let Some(keys) = theirs[..over].iter().map(key).collect::<Option<Vec<_>>>() else { return Ok(false) };
        for key in keys {
            self.evict(owner, key, room)?;
        }
        Ok(true)
    }

    /// An owner's live sessions, those that give way first in front.
    fn first_to_go(&self, owner: OwnerKey, cap: Cap) -> Vec<Named> {
        let mut theirs = self.index.live_of(owner, self.clock.now());
        let created = |entry: &Entry| Timestamp::from_millis(u64::from(entry.created_s) * 1_000);
        let since = |entry: &Entry| match cap.then {
            AtCap::RejectNew => Timestamp::default(),
            AtCap::EvictOldest => created(entry),
            AtCap::EvictIdle => entry.deadlines.seen_at().unwrap_or_else(|| created(entry)),
        };
        theirs.sort_unstable_by_key(|(_, entry)| (since(entry), entry.version));
        theirs
    }

    fn evict(&self, owner: OwnerKey, key: &SessionKey, room: &mut Room<'_>) -> Result<(), Halt> {
        let mut shard = self.index.lock(key);
        let standing = self.index.standing(&shard, key);
        let is_theirs = standing.owner == Some(owner) && standing.live(self.clock.now()).is_some();
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
