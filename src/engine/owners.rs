//! Whose a session is: moving it to another id or another owner, and ending all of an owner's at once.
//!
//! # Why a revocation ends all of them or none (P1, P2)
//!
//! One record says it all: no older content of this owner counts, but under one key. So after a crash it is there, and ends every one of them,
//! or it is not, and ends none.
//!
//! 1. *No late save slips past it.* It gets its number, and is seen by every write of an owned session from then on, in one step: see
//!    [`Revocations`](crate::index::Revocations). A save with a smaller number is ended with the rest; one that comes later finds nobody.
//! 2. *Nobody reads on.* A read asks the revocations that are under way. The keeper takes the ended sessions out of the index, a few at a time,
//!    and only then forgets the revocation: so a revocation of a million sessions costs its caller one record.
//! 3. *What it ends stays ended.* A revoked session leaves nothing behind that it does not hide itself: every version on disk is of the same owner
//!    or is hidden by a tombstone, since a live session changes owners by a rotation from its key to the same key, which is a put and a tombstone in
//!    one record, and one that begins under the key of a session that was revoked leaves the revocation as it is. The revocation counts as
//!    live until the latest deadline that any owned record was given before it; after that, whatever it hides has expired for any open. Compaction drops what it has ended only once it is on the device, as for every record that ends another.
//! 4. *The one it spares* lives on under the rule itself: at replay that key is left out. If it is rotated, the new record has a later number.

use bytes::Bytes;

use crate::contract::Whose;
use crate::error::Error;
use crate::events::{Event, Why};
use crate::format::{Body, Kind, RECORD_HEADER_BYTES, ROTATE_BYTES, RecordHeader, Rotated};
use crate::id::{OwnerKey, SessionId, SessionKey};
use crate::index::{Entry, Index, Revocation};
use crate::lifetime::{Deadlines, Lifetime};
use crate::log::Refused;
use crate::options::Durability;
use crate::owner::{Binding, Cap};
use crate::sync::atomic::Ordering;

use super::Engine;
use super::write::{Tried, UNSET, began, seconds};

/// Sessions looked at under one hold of a shard's lock: a few microseconds.
const SLICE: u32 = 256;

/// Whose a session is that is written again.
#[derive(Clone, Copy)]
enum Whom<'a> {
    Same,
    Nobody,
    Bound(&'a Binding),
}

impl<'a> Whom<'a> {
    fn owner_and_label(self, found: &Body<'a>) -> (Option<OwnerKey>, &'a [u8]) {
        match self {
            Self::Same => (found.owner, found.label),
            Self::Nobody => (None, &[]),
            Self::Bound(Binding { owner, label, .. }) => {
                (Some(*owner), label.as_ref().map_or(found.label, |label| label.as_str().as_bytes()))
            }
        }
    }

    fn cap(self) -> Option<Cap> {
        if let Self::Bound(binding) = self { binding.cap } else { None }
    }
}

impl Engine {
    /// Moves the session to a fresh id, and to another owner if one is given.
    pub(crate) async fn rotate(
        &self,
        old_key: SessionKey,
        binding: Option<Binding>,
        durability: Durability,
    ) -> Result<Option<SessionId>, Error> {
        let whom = binding.as_ref().map_or(Whom::Same, Whom::Bound);
        let id = SessionId::drawn(|into| self.disk.random(into))?;
        let live = self.renew(old_key, id.key(), whom, durability).await?;
        Ok(live.then_some(id))
    }

    /// Gives the session another owner, or none.
    pub(crate) async fn bind(
        &self,
        key: SessionKey,
        binding: Option<Binding>,
        durability: Durability,
    ) -> Result<bool, Error> {
        let whom = binding.as_ref().map_or(Whom::Nobody, Whom::Bound);
        self.renew(key, key, whom, durability).await
    }

    /// Writes the session's content again, under `key` and for `whom`, and ends all that is older under `old_key`, in one record. The content is
    /// read first, outside of any lock, and the record staged only if it is still the newest.
    async fn renew(
        &self,
        old_key: SessionKey,
        key: SessionKey,
        whom: Whom<'_>,
        durability: Durability,
    ) -> Result<bool, Error> {
        loop {
            let Some((read, record)) = self.content(&old_key).await? else { return Ok(false) };
            let (_, found) = record.parts()?;
            let (owner, label) = whom.owner_and_label(&found);
            let cap = whom.cap().filter(|_| found.owner != owner);
            let mut place = self.place(owner, cap).await?;
            let body =
                |hides_until| Body { owner, label, rotated: Some(Rotated { old_key, hides_until }), ..found };
            let len = RecordHeader::new(Kind::Rotate, key, 0, UNSET, &body(UNSET.expires_at)).len();
            let done = self.staged(len + place.bytes(), |room| {
                let _turn = owner.map(|owner| self.turns.take(owner));
                match self.live(&old_key)? {
                    None => return Ok(Tried::Done(false)),
                    Some((_, entry)) if entry.version != read.version => return Ok(Tried::Again),
                    Some(_) if !self.make_room_for_one(&mut place, room)? => return Ok(Tried::Again),
                    Some(_) => {}
                }
                let mut shards = self.index.lock_two(&old_key, &key);
                let now = self.clock.now();
                let old = shards.of(&old_key);
                let revocations = self.index.revocations();
                let standing =
                    |e: &Entry| e.deadlines.is_live(now) && !old.is_revoked(&old_key, &revocations);
                let Some(entry) = old.get(&old_key).filter(standing) else {
                    return Ok(Tried::Done(false));
                };
                if entry.version != read.version {
                    return Ok(Tried::Again);
                }
                let hides_until = old.hides_until(&old_key);
                let body = body(hides_until);
                let mut header =
                    RecordHeader::new(Kind::Rotate, key, entry.created_s, entry.deadlines, &body);
                if owner.is_some() {
                    revocations.promise(entry.deadlines.expires_at);
                }
                let staged = self.log.stage(&mut header, &body, durability, room)?;
                drop(revocations);
                // A copy makes it a record of its own: that much room it needs.
                old.add_tombstone(staged.address.segment, hides_until, RECORD_HEADER_BYTES);
                if key == old_key {
                    old.succeed(&key, began(&staged, &header), owner, now);
                } else {
                    old.remove(&old_key);
                    shards.of(&key).set(&key, began(&staged, &header), owner, now);
                    self.listeners.tell(Event::Rotated { from: old_key, to: key });
                }
                Ok(Tried::Staged(staged, true))
            });
            if let Some(live) = done.await? {
                return Ok(live);
            }
        }
    }

    /// A session that begins with an owner. All that may be on disk under its key is hidden, in the same record, as where a session gets another owner.
    pub(crate) async fn create_owned(
        &self,
        key: SessionKey,
        payload: Bytes,
        lifetime: Lifetime,
        binding: Binding,
        durability: Durability,
    ) -> Result<(), Error> {
        self.check_payload(&payload)?;
        Deadlines::start(self.clock.now(), &lifetime)?;
        let Binding { owner, label, cap } = binding;
        let label = label.unwrap_or_default();
        let body = |rotated| {
            let (label, payload) = (label.as_str().as_bytes(), &payload[..]);
            Body { owner: Some(owner), rotated, label, payload, ..Body::default() }
        };
        let fresh = RecordHeader::new(Kind::Put, key, 0, UNSET, &body(None));
        loop {
            let mut place = self.place(Some(owner), cap).await?;
            let done = self.staged(fresh.len() + ROTATE_BYTES + place.bytes(), |room| {
                let _turn = self.turns.take(owner);
                if self.live(&key)?.is_some() {
                    return Err(Error::AlreadyExists.into());
                }
                let found = self.index.lock(&key).get(&key);
                self.check_sessions(found)?;
                if !self.make_room_for_one(&mut place, room)? {
                    return Ok(Tried::Again);
                }
                let mut shard = self.index.lock(&key);
                let now = self.clock.now();
                let found = shard.get(&key);
                let revocations = self.index.revocations();
                if found.is_some_and(|e| e.deadlines.is_live(now)) && !shard.is_revoked(&key, &revocations) {
                    return Err(Error::AlreadyExists.into());
                }
                let deadlines = Deadlines::start(now, &lifetime)?;
                let hides_until = shard.hides_until(&key);
                let rotated = found.map(|_| Rotated { old_key: key, hides_until });
                let mut header = RecordHeader { created_s: seconds(now), deadlines, ..fresh };
                if rotated.is_some() {
                    header =
                        RecordHeader::new(Kind::Rotate, key, header.created_s, deadlines, &body(rotated));
                }
                revocations.promise(deadlines.expires_at);
                let staged = self.log.stage(&mut header, &body(rotated), durability, room)?;
                drop(revocations);
                self.tell_of_new(&key, found, now);
                if rotated.is_some() {
                    shard.add_tombstone(staged.address.segment, hides_until, RECORD_HEADER_BYTES);
                }
                shard.succeed(&key, began(&staged, &header), Some(owner), now);
                Ok(Tried::Staged(staged, ()))
            });
            if done.await?.is_some() {
                return Ok(());
            }
        }
    }

    /// Ends every session of one owner, or of all owners, but for the one that is spared.
    pub(crate) async fn revoke(
        &self,
        whose: Whose,
        spared: Option<SessionKey>,
        durability: Durability,
    ) -> Result<(), Error> {
        let (owner, body) = (whose.owner(), Body { spared, ..Body::default() });
        let header = RecordHeader::revoke(owner, UNSET.expires_at, &body);
        let done = self.staged(header.len(), |room| {
            let mut shard = self.index.lock(&header.key);
            let mut revoking = self.index.revoke();
            if !revoking.revocations.has_room() {
                // The sweep makes some, while the store takes records.
                self.log.check_open()?;
                return Err(Refused::Wait.into());
            }
            let hides_until = revoking.revocations.hides_until();
            let mut header = RecordHeader::revoke(owner, hides_until, &body);
            let staged = self.log.stage(&mut header, &body, durability, room)?;
            revoking.add(Revocation { owner, seq: staged.seq, spared });
            drop(revoking);
            shard.add_tombstone(staged.address.segment, hides_until, header.len());
            Ok(Tried::Staged(staged, ()))
        });
        done.await.map(Option::unwrap_or_default)
    }

    /// Takes the sessions out of the index that were revoked. It looks at all there are, so `between` is what must not wait for so long; where the
    /// store ends, what is left is left: nobody who was revoked is found, and the next open knows of it.
    pub(super) fn sweep_revoked(&self, between: impl Fn()) {
        let Some(upto) = self.index.revoked_last() else { return };
        let mut removed = 0;
        for shard in 0..Index::SHARDS {
            let mut left = u32::MAX;
            while left > 0 {
                if self.stopping.load(Ordering::Acquire) {
                    return;
                }
                between();
                let mut locked = self.index.lock_shard(shard);
                let keys_wanted = self.listeners.are_any();
                let swept = self.index.sweep_revoked(&mut locked, left, SLICE, keys_wanted);
                let told = self.tell_of_ended(shard, locked, &swept.handed_out, |key| Event::Deleted {
                    key,
                    why: Why::Revoked,
                });
                (removed, left) = (removed + swept.removed as u64 + told, swept.left);
            }
        }
        self.index.revoked(upto);
        self.counters.revoked.fetch_add(removed, Ordering::Relaxed);
        self.log.wake_refused();
    }
}
