//! Owners in process memory: under the one lock, so that every step is at one instant.
//!
//! Invariant: `owned` has exactly the sessions with an owner, whether or not they have ended.

use std::ops::Bound;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::contract::{Cursor, OwnedPage, OwnedSession, Place, Whose};
use crate::error::Error;
use crate::events::{Event, Why};
use crate::id::{OwnerKey, SessionId, SessionKey};
use crate::lifetime::{Deadlines, Lifetime};
use crate::owner::{AtCap, Binding, Label};

use super::{MemoryStore, PAGE_KEYS_MAX, Session, State, whole_seconds};

impl MemoryStore {
    pub(super) fn rotate_now(
        &self,
        key: SessionKey,
        binding: Option<Binding>,
    ) -> Result<Option<SessionId>, Error> {
        // Before the lock is taken, since this is a call to the operating system.
        let id = SessionId::random()?;
        let (mut state, now) = self.enter()?;
        let Some(session) = state.live(&key, now).cloned() else { return Ok(None) };
        let session = match binding {
            Some(binding) => self.bound(&mut state, session, binding, now)?,
            None => session,
        };
        state.remove(&key, now);
        let version = state.next_version();
        state.place(id.key(), Session { version, ..session });
        self.shared.listeners.tell(Event::Rotated { from: key, to: id.key() });
        Ok(Some(id))
    }

    pub(super) fn bind_now(&self, key: SessionKey, binding: Option<Binding>) -> Result<bool, Error> {
        let (mut state, now) = self.enter()?;
        let Some(session) = state.live(&key, now).cloned() else { return Ok(false) };
        let session = match binding {
            Some(binding) => self.bound(&mut state, session, binding, now)?,
            None => Session { owner: None, label: Label::default(), ..session },
        };
        let version = state.next_version();
        state.place(key, Session { version, ..session });
        Ok(true)
    }

    /// The session as its owner's, who has room for it then.
    fn bound(
        &self,
        state: &mut State,
        session: Session,
        binding: Binding,
        now: Timestamp,
    ) -> Result<Session, Error> {
        if session.owner != Some(binding.owner) {
            self.make_room_for_one(state, &binding, now)?;
        }
        let label = binding.label.unwrap_or(session.label);
        Ok(Session { owner: Some(binding.owner), label, ..session })
    }

    pub(super) fn create_owned_now(
        &self,
        key: SessionKey,
        payload: Bytes,
        lifetime: &Lifetime,
        binding: Binding,
    ) -> Result<(), Error> {
        self.check_payload(&payload)?;
        Deadlines::start(self.shared.clock.now(), lifetime)?;
        let (mut state, now) = self.enter()?;
        let deadlines = Deadlines::start(now, lifetime)?;
        if state.live(&key, now).is_some() {
            return Err(Error::AlreadyExists);
        }
        self.take_ended(&mut state, &key, now);
        self.check_sessions(&state)?;
        self.make_room_for_one(&mut state, &binding, now)?;
        let (version, created_at) = (state.next_version(), whole_seconds(now));
        let (owner, label) = (Some(binding.owner), binding.label.unwrap_or_default());
        state.place(key, Session { payload, version, created_at, deadlines, owner, label });
        self.shared.listeners.tell(Event::Created { key });
        Ok(())
    }

    pub(super) fn revoke_now(&self, whose: Whose, except: Option<SessionKey>) -> Result<(), Error> {
        let (mut state, now) = self.enter()?;
        let is_theirs = |owner: OwnerKey| whose.owner().is_none_or(|whose| whose == owner);
        let ended: Vec<_> = (state.owned.iter())
            .filter(|(owner, key)| is_theirs(*owner) && except != Some(*key))
            .map(|(_, key)| *key)
            .collect();
        for key in ended {
            let was_live = state.remove(&key, now).is_some();
            state.revoked += u64::from(was_live);
            let revoked = Event::Deleted { key, why: Why::Revoked };
            self.shared.listeners.tell(if was_live { revoked } else { Event::Expired { key } });
        }
        Ok(())
    }

    pub(super) fn owned_now(
        &self,
        owner: OwnerKey,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<OwnedPage, Error> {
        let (state, now) = self.enter()?;
        let after = match cursor {
            Some(Cursor(Place::After(key))) => Some(key),
            Some(Cursor(Place::Slots { .. })) | None => None,
        };
        let mut walk =
            state.live_of(owner, now).skip_while(|(key, _)| after.is_some_and(|after| **key <= after));
        let sessions: Vec<_> = walk
            .by_ref()
            .take(limit.clamp(1, PAGE_KEYS_MAX))
            .map(|(key, session)| OwnedSession {
                key: *key,
                created_at: session.created_at,
                seen_at: session.deadlines.seen_at(),
                expires_at: session.deadlines.expires_at,
                label: session.label.clone(),
            })
            .collect();
        let next = walk.next().and(sessions.last()).map(|last| Cursor(Place::After(last.key)));
        Ok(OwnedPage { sessions, next })
    }

    /// Ends as many sessions as a cap asks for, if there is one, before its owner gets one more.
    fn make_room_for_one(&self, state: &mut State, binding: &Binding, now: Timestamp) -> Result<(), Error> {
        let Binding { owner, cap: Some(cap), .. } = binding else { return Ok(()) };
        let since = |session: &Session| match cap.then {
            AtCap::RejectNew => Timestamp::default(),
            AtCap::EvictOldest => session.created_at,
            AtCap::EvictIdle => session.deadlines.seen_at().unwrap_or(session.created_at),
        };
        let mut theirs: Vec<_> = (state.live_of(*owner, now))
            .map(|(key, session)| (since(session), session.version, *key))
            .collect();
        let over = (theirs.len() + 1).saturating_sub(cap.max as usize);
        if over > 0 && cap.then == AtCap::RejectNew {
            return Err(Error::TooManyOfOwner { max: cap.max });
        }
        theirs.sort_unstable();
        for (.., key) in &theirs[..over] {
            state.remove(key, now);
            state.evicted += 1;
            self.shared.listeners.tell(Event::Deleted { key: *key, why: Why::Evicted });
        }
        Ok(())
    }
}

impl State {
    /// An owner's live sessions, in the order of their keys.
    pub(super) fn live_of(
        &self,
        owner: OwnerKey,
        now: Timestamp,
    ) -> impl Iterator<Item = (&SessionKey, &Session)> {
        let [first, last] = [0, u8::MAX].map(|byte| (owner, SessionKey::from_bytes([byte; 32])));
        let keys = self.owned.range((Bound::Included(first), Bound::Included(last))).map(|(_, key)| key);
        keys.filter_map(move |key| Some((key, self.live(key, now)?)))
    }
}
