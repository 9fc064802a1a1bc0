//! [`MemoryStore`]: the same contract in process memory, for tests and small sites.
//!
//! Not an engine: one lock, ordered maps, no background work; what the process forgets is forgotten. Invariant: `deadlines` holds
//! exactly one entry for each session, at the deadline of that session, and no operation sees one whose deadline is past.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry as Slot};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::{StoreClock, Timestamp};
use crate::contract::{Access, Cursor, KeyPage, OwnedPage, Place, Stats, Stored, When, Whose};
use crate::error::{Error, OpenError};
use crate::events::{Event, Events, Listeners, Why};
use crate::id::{OwnerKey, Seq, SessionId, SessionKey, Version};
use crate::lifetime::{Deadlines, Lifetime};
use crate::options::Options;
use crate::owner::{Binding, Label};
use crate::sync::atomic::AtomicBool;
use crate::sync::{Mutex, MutexGuard, Pending};

use super::{Answer, SessionStore};

mod owners;
mod sweep;

/// The longest page of keys, so that one call does not hold the lock for long.
const PAGE_KEYS_MAX: usize = 1_000;

/// A store in process memory: the contract of [`SessionStore`] with nothing on disk.
///
/// Clones are handles of the same store. Durability means nothing here: each write is acknowledged at once and ends with the process.
/// An expired session is absent at its deadline; its memory is given back by the operations that follow, a few sessions each.
///
/// ```
/// use cloakroom::{Access, Lifetime, MemoryStore, SessionStore};
/// use std::time::Duration;
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// let store = MemoryStore::new();
/// let id = store.create("hello".into(), Lifetime::idle(Duration::from_secs(1800))).await?;
/// let same = store.clone();
/// assert_eq!(same.get(id.key(), Access::Touch).await?.unwrap().payload, "hello");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    clock: StoreClock,
    payload_bytes_max: usize,
    sessions_max: usize,
    anonymous_sessions_max: usize,
    state: Mutex<State>,
    listeners: Listeners,
    /// Somebody sweeps for those who listen.
    swept: AtomicBool,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<SessionKey, Session>,
    /// Earliest first, so that a sweep looks at nothing that lives.
    deadlines: BTreeSet<(Timestamp, SessionKey)>,
    /// Number of the newest write of the whole store: a key that is used again goes on, so an old version never matches.
    newest: Seq,
    closed: bool,
    /// Sessions without an owner.
    anonymous: usize,
    /// Those with one.
    owned: BTreeSet<(OwnerKey, SessionKey)>,
    expired: u64,
    revoked: u64,
    evicted: u64,
    touches: u64,
    touches_logged: u64,
}

#[derive(Clone)]
struct Session {
    payload: Bytes,
    version: Version,
    created_at: Timestamp,
    deadlines: Deadlines,
    owner: Option<OwnerKey>,
    label: Label,
}

impl MemoryStore {
    /// An empty store with default options.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionStore};
    /// assert!(MemoryStore::new().is_empty());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store with the limits and the clock of `options`; those of a log say nothing here.
    ///
    /// # Errors
    ///
    /// [`OpenError::InvalidOption`] where an option is out of its range.
    ///
    /// ```
    /// use cloakroom::{Error, Lifetime, MemoryStore, Options, SessionStore};
    /// use std::time::Duration;
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = MemoryStore::with_options(Options { payload_bytes_max: 4, ..Options::default() })?;
    /// let refused = store.create("hello".into(), Lifetime::idle(Duration::from_secs(60))).await;
    /// assert!(matches!(refused, Err(Error::PayloadTooLarge { len: 5, max: 4 })));
    /// # Ok(()) }
    /// ```
    pub fn with_options(options: Options) -> Result<Self, OpenError> {
        options.check()?;
        Ok(Self::unchecked(options))
    }

    fn unchecked(options: Options) -> Self {
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let shared = Shared {
            clock: StoreClock::start(options.clock, Timestamp::default(), None),
            payload_bytes_max: size(options.payload_bytes_max),
            sessions_max: size(options.sessions_max),
            anonymous_sessions_max: size(options.anonymous_sessions_max),
            state: Mutex::default(),
            listeners: Listeners::default(),
            swept: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The state and the time of this operation. The clock is read under the lock: time then runs in the order of the operations.
    fn enter(&self) -> Result<(MutexGuard<'_, State>, Timestamp), Error> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        let now = self.shared.clock.now();
        self.shared.sweep(&mut state, now);
        Ok((state, now))
    }

    fn write_now(&self, key: SessionKey, payload: Bytes, when: When) -> Result<Option<Version>, Error> {
        self.check_payload(&payload)?;
        if let When::Absent(lifetime) | When::Always(lifetime) | When::VersionWith { lifetime, .. } = &when {
            Deadlines::start(self.shared.clock.now(), lifetime)?;
        }
        let (mut state, now) = self.enter()?;
        let there = state.live(&key, now).map(|s| (s.version, s.created_at, s.deadlines));
        let (owner, label) =
            state.live(&key, now).map_or_else(Default::default, |s| (s.owner, s.label.clone()));
        let (created_at, deadlines) = match (when, there) {
            (When::Present | When::Version(_) | When::VersionWith { .. }, None) => return Ok(None),
            (When::Version(given) | When::VersionWith { version: given, .. }, Some((current, ..)))
                if given != current =>
            {
                return Err(Error::Conflict { current });
            }
            (When::VersionWith { lifetime, loaded, .. }, Some((_, created_at, theirs))) => {
                (created_at, Deadlines::start(now, &lifetime)?.merged(loaded, theirs))
            }
            (When::Present | When::Version(_), Some((_, created_at, deadlines))) => {
                (created_at, deadlines.touched(now).unwrap_or(deadlines))
            }
            (When::Absent(_), Some(_)) => return Err(Error::AlreadyExists),
            (When::Absent(lifetime), None) => (now, Deadlines::start(now, &lifetime)?),
            (When::Always(lifetime), there) => {
                (there.map_or(now, |(_, created_at, _)| created_at), Deadlines::start(now, &lifetime)?)
            }
        };
        if there.is_none() {
            // The expired do not count: where the sweep left some, it first took out enough to make room for one session.
            self.take_ended(&mut state, &key, now);
            self.check_sessions(&state)?;
            let max = self.shared.anonymous_sessions_max;
            if state.anonymous >= max {
                return Err(Error::TooManyAnonymousSessions { max });
            }
        }
        let version = state.next_version();
        let created_at = whole_seconds(created_at);
        state.place(key, Session { payload, version, created_at, deadlines, owner, label });
        if there.is_none() {
            self.shared.listeners.tell(Event::Created { key });
        }
        Ok(Some(version))
    }

    fn take_now(&self, key: SessionKey) -> Result<Option<Stored>, Error> {
        let (mut state, now) = self.enter()?;
        if state.live(&key, now).is_none() {
            return Ok(None);
        }
        let ended = state.remove(&key, now);
        self.shared.listeners.tell(Event::Deleted { key, why: Why::Asked });
        Ok(ended.as_ref().map(Session::stored))
    }

    fn check_payload(&self, payload: &Bytes) -> Result<(), Error> {
        let (len, max) = (payload.len(), self.shared.payload_bytes_max);
        if len > max { Err(Error::PayloadTooLarge { len, max }) } else { Ok(()) }
    }

    fn check_sessions(&self, state: &State) -> Result<(), Error> {
        let max = self.shared.sessions_max;
        if state.sessions.len() >= max { Err(Error::TooManySessions { max }) } else { Ok(()) }
    }

    fn get_now(&self, key: SessionKey, access: Access) -> Result<Option<Stored>, Error> {
        let (mut state, now) = self.enter()?;
        if access == Access::Touch {
            state.touch(key, now);
        }
        Ok(state.live(&key, now).map(Session::stored))
    }

    fn set_lifetime_now(&self, key: SessionKey, lifetime: &Lifetime) -> Result<bool, Error> {
        Deadlines::start(self.shared.clock.now(), lifetime)?;
        let (mut state, now) = self.enter()?;
        let deadlines = Deadlines::start(now, lifetime)?;
        let live = state.live(&key, now).is_some();
        if live {
            state.set_deadlines(key, deadlines);
        }
        Ok(live)
    }

    fn keys_now(&self, cursor: Option<Cursor>, limit: usize) -> Result<KeyPage, Error> {
        let (state, now) = self.enter()?;
        // A cursor that another kind of store gave says nothing here: the walk begins anew, and still meets everybody.
        let from = match cursor {
            Some(Cursor(Place::After(key))) => Bound::Excluded(key),
            Some(Cursor(Place::Slots { .. })) | None => Bound::Unbounded,
        };
        let mut walk = (state.sessions.range((from, Bound::Unbounded)))
            .filter(|(_, session)| session.deadlines.is_live(now))
            .map(|(key, _)| *key);
        let keys: Vec<_> = walk.by_ref().take(limit.clamp(1, PAGE_KEYS_MAX)).collect();
        let next = walk.next().and(keys.last()).map(|last| Cursor(Place::After(*last)));
        Ok(KeyPage { keys, next })
    }
}

/// As a log store keeps it.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.as_millis() / 1_000 * 1_000)
}

impl State {
    /// The session, if it has not reached its deadline.
    fn live(&self, key: &SessionKey, now: Timestamp) -> Option<&Session> {
        self.sessions.get(key).filter(|session| session.deadlines.is_live(now))
    }

    /// Takes the session out, and gives it if it was live.
    fn remove(&mut self, key: &SessionKey, now: Timestamp) -> Option<Session> {
        let session = self.sessions.remove(key)?;
        self.unlist(key, &session);
        let live = session.deadlines.is_live(now);
        self.expired += u64::from(!live);
        live.then_some(session)
    }

    fn place(&mut self, key: SessionKey, session: Session) {
        if let Some(older) = self.sessions.remove(&key) {
            self.unlist(&key, &older);
        }
        self.deadlines.insert((session.deadlines.expires_at, key));
        self.anonymous += usize::from(session.owner.is_none());
        self.owned.extend(session.owner.map(|owner| (owner, key)));
        self.sessions.insert(key, session);
    }

    /// Drops what is known of a session beside itself.
    fn unlist(&mut self, key: &SessionKey, session: &Session) {
        self.deadlines.remove(&(session.deadlines.expires_at, *key));
        match session.owner {
            Some(owner) => drop(self.owned.remove(&(owner, *key))),
            None => self.anonymous -= 1,
        }
    }

    fn set_deadlines(&mut self, key: SessionKey, deadlines: Deadlines) {
        if let Slot::Occupied(mut slot) = self.sessions.entry(key) {
            self.deadlines.remove(&(slot.get().deadlines.expires_at, key));
            self.deadlines.insert((deadlines.expires_at, key));
            slot.get_mut().deadlines = deadlines;
        }
    }

    fn touch(&mut self, key: SessionKey, now: Timestamp) -> bool {
        let Some(deadlines) = self.live(&key, now).map(|session| session.deadlines) else { return false };
        self.touches += 1;
        if let Some(moved) = deadlines.touched(now) {
            self.touches_logged += 1;
            self.set_deadlines(key, moved);
        }
        true
    }

    fn next_version(&mut self) -> Version {
        self.newest = Seq(self.newest.0 + 1);
        Version(self.newest)
    }

    /// Sessions past their deadline that no sweep has met yet.
    fn due(&self, now: Timestamp) -> usize {
        self.deadlines.iter().take_while(|(expires_at, _)| *expires_at <= now).count()
    }
}

impl Session {
    fn stored(&self) -> Stored {
        let absolute_at = self.deadlines.absolute_at;
        Stored {
            payload: self.payload.clone(),
            version: self.version,
            created_at: self.created_at,
            expires_at: self.deadlines.expires_at,
            absolute_at: (absolute_at != Timestamp::MAX).then_some(absolute_at),
            idle: self.deadlines.idle(),
            owner: self.owner,
            label: self.label.clone(),
        }
    }
}

impl SessionStore for MemoryStore {
    fn write(&self, key: SessionKey, payload: Bytes, when: When) -> Answer<'_, Option<Version>> {
        Pending::ready(self.write_now(key, payload, when))
    }

    fn get(&self, key: SessionKey, access: Access) -> Answer<'_, Option<Stored>> {
        Pending::ready(self.get_now(key, access))
    }

    fn touch(&self, key: SessionKey) -> Answer<'_, bool> {
        Pending::ready(self.enter().map(|(mut state, now)| state.touch(key, now)))
    }

    fn set_lifetime(&self, key: SessionKey, lifetime: Lifetime) -> Answer<'_, bool> {
        Pending::ready(self.set_lifetime_now(key, &lifetime))
    }

    fn delete(&self, key: SessionKey) -> Answer<'_, bool> {
        Pending::ready(self.take_now(key).map(|ended| ended.is_some()))
    }

    fn take(&self, key: SessionKey) -> Answer<'_, Option<Stored>> {
        Pending::ready(self.take_now(key))
    }

    fn rotate(&self, key: SessionKey) -> Answer<'_, Option<SessionId>> {
        Pending::ready(self.rotate_now(key, None))
    }

    fn sign_in(&self, key: SessionKey, binding: Binding) -> Answer<'_, Option<SessionId>> {
        Pending::ready(self.rotate_now(key, Some(binding)))
    }

    fn bind_as(&self, key: SessionKey, binding: Option<Binding>) -> Answer<'_, bool> {
        Pending::ready(self.bind_now(key, binding))
    }

    fn create_owned_as(
        &self,
        key: SessionKey,
        payload: Bytes,
        lifetime: Lifetime,
        binding: Binding,
    ) -> Answer<'_, ()> {
        Pending::ready(self.create_owned_now(key, payload, &lifetime, binding))
    }

    fn owned(&self, owner: OwnerKey, cursor: Option<Cursor>, limit: usize) -> Answer<'_, OwnedPage> {
        Pending::ready(self.owned_now(owner, cursor, limit))
    }

    fn owned_count(&self, owner: OwnerKey) -> Answer<'_, usize> {
        Pending::ready(self.enter().map(|(state, now)| state.live_of(owner, now).count()))
    }

    fn revoke(&self, whose: Whose, except: Option<SessionKey>) -> Answer<'_, ()> {
        Pending::ready(self.revoke_now(whose, except))
    }

    fn keys(&self, cursor: Option<Cursor>, limit: usize) -> Answer<'_, KeyPage> {
        Pending::ready(self.keys_now(cursor, limit))
    }

    fn events(&self) -> Events {
        self.events_now()
    }

    fn len(&self) -> usize {
        self.enter().map_or(0, |(state, now)| state.sessions.len() - state.due(now))
    }

    fn stats(&self) -> Stats {
        let state = self.shared.state.lock();
        let due = state.due(self.shared.clock.now());
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Stats {
            sessions: count(state.sessions.len() - due),
            expired: state.expired + count(due),
            revoked: state.revoked,
            evicted: state.evicted,
            touches: state.touches,
            touches_logged: state.touches_logged,
            ..Stats::default()
        }
    }

    fn flush(&self) -> Answer<'_, ()> {
        Pending::ready(self.enter().map(|_| ()))
    }

    fn close(&self) -> Answer<'_, ()> {
        let ended = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            state.deadlines.clear();
            state.owned.clear();
            std::mem::take(&mut state.sessions)
        };
        self.shared.listeners.close();
        // Freed with the lock released, so that nobody who still asks waits for it.
        drop(ended);
        Pending::ready(Ok(()))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::unchecked(Options::default())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("sessions", &self.len()).finish_non_exhaustive()
    }
}
