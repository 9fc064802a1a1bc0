//! What every framework's store does behind its own trait: load with a mark, save by merging, delete so that a cycled id can go on.
//!
//! A framework loads the fields of a session, lets a handler change them, and saves them as a whole. What it knows nothing of travels with the fields:
//!
//! - **The mark** says what was loaded, and when that ends. A save merges three ways: the mark is the base, the fields are mine, what is stored by now
//!   is theirs. It is conditional on the version, and tried again.
//! - **No mark** means that the handler cleared the session: everything is replaced.
//! - **Cycling an id** is a delete, then a create with the fields that were loaded. A delete that ended a live session remembers the last of it, once; the
//!   create that follows merges into that. If somebody else signed out first, or meanwhile, nothing is remembered, and the new
//!   session gets only what this request itself has set. Of two requests that cycle one id at once, each so carries only its own.
//!   The list is of one adapter and its clones. Owner and label go along, in the record that creates; a revocation between delete and create
//!   misses the new session.
//! - **Deadlines.** An end that is earlier than the one that was loaded was meant to be earlier, and wins; a deadline that somebody else shortened
//!   meanwhile stays; else the later of the two counts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{Access, Binding, Error, Lifetime, SessionKey, SessionStore, When, merge};

/// An end that is this much earlier than the one that was loaded was meant to be, in milliseconds.
const EARLIER_MS: u64 = 1_000;

/// So many sessions are remembered that were deleted and may be created again under another id.
const DEPARTED_MAX: usize = 256;

pub(super) type Fields<V> = BTreeMap<String, V>;

/// What was loaded, of which session.
#[derive(Serialize, Deserialize)]
pub(super) struct Mark<V> {
    key: [u8; 32],
    fields: Fields<V>,
    /// When that ends, in milliseconds since 1970.
    pub(super) expires_ms: u64,
}

/// A session that a request deletes, which may create it again; and the last of it, once it is deleted.
struct Departed<V> {
    key: SessionKey,
    last: Option<(Fields<V>, Option<Binding>)>,
}

/// Why something could not be done; no message quotes a value.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("a session could not be written as JSON")]
    Encode,
    #[error("the payload, from byte {at}, is no session of this adapter: give it a store of its own")]
    Decode { at: usize },
    #[error(transparent)]
    Store(#[from] Error),
}

/// A store of sessions with fields of one kind.
pub(super) struct Behind<V> {
    pub(super) store: Arc<dyn SessionStore>,
    departed: Mutex<VecDeque<Departed<V>>>,
}

impl<V: Serialize + DeserializeOwned + PartialEq + Clone> Behind<V> {
    pub(super) fn new(store: Arc<dyn SessionStore>) -> Self {
        Self { store, departed: Mutex::default() }
    }

    /// The fields, and the mark that is to travel with them.
    pub(super) async fn load(&self, key: SessionKey) -> Result<Option<(Fields<V>, Mark<V>)>, Trouble> {
        let Some(stored) = self.store.get(key, Access::Touch).await? else { return Ok(None) };
        let fields: Fields<V> = decode(&stored.payload)?;
        let mark =
            Mark { key: *key.as_bytes(), fields: fields.clone(), expires_ms: stored.expires_at.as_millis() };
        Ok(Some((fields, mark)))
    }

    /// Makes a session under the first key of `keys` that is free: gives its fields, and the mark that is to travel with them.
    pub(super) async fn create(
        &self,
        mark: Option<Mark<V>>,
        mine: Fields<V>,
        end_ms: u64,
        mut key: impl FnMut() -> Result<SessionKey, Error>,
    ) -> Result<(Fields<V>, Mark<V>), Trouble> {
        let (fields, binding) = match mark {
            None => (mine, None),
            Some(base) => {
                let last = self.take_last(SessionKey::from_bytes(base.key));
                let (theirs, binding) = last.unwrap_or_default();
                (merge(&base.fields, &mine, &theirs), binding)
            }
        };
        let payload = encode(&fields)?;
        let key = loop {
            let key = key()?;
            // One that has ended already is nothing to keep.
            let Some(lifetime) = left(end_ms) else { break key };
            let created = match &binding {
                Some(binding) => {
                    self.store.create_owned_as(key, payload.clone(), lifetime, binding.clone()).await
                }
                None => self.store.create_as(key, payload.clone(), lifetime).await,
            };
            match created {
                Err(Error::AlreadyExists) => {}
                done => {
                    done?;
                    break key;
                }
            }
        };
        Ok((fields.clone(), Mark { key: *key.as_bytes(), fields, expires_ms: end_ms }))
    }

    /// Merges into what is stored by now, if the session still is there.
    pub(super) async fn save(
        &self,
        key: SessionKey,
        base: Option<&Mark<V>>,
        mine: &Fields<V>,
        end_ms: u64,
    ) -> Result<(), Trouble> {
        while let Some(stored) = self.store.get(key, Access::Peek).await? {
            let (theirs, current_ms) = (decode(&stored.payload)?, stored.expires_at.as_millis());
            let fields = base.map_or_else(|| mine.clone(), |base| merge(&base.fields, mine, &theirs));
            let end_ms = end_of(end_ms, current_ms, base.map(|base| base.expires_ms));
            if fields == theirs && end_ms == current_ms {
                return Ok(());
            }
            let Some(lifetime) = left(end_ms) else { return self.delete(key).await };
            let (version, loaded) = (stored.version, stored.terms());
            let when = When::VersionWith { version, lifetime, loaded };
            match self.store.write(key, encode(&fields)?, when).await {
                Err(Error::Conflict { .. }) => {}
                done => return Ok(done.map(drop)?),
            }
        }
        Ok(())
    }

    /// Ends a session, and remembers the last of it for a request that goes on under another id.
    pub(super) async fn delete(&self, key: SessionKey) -> Result<(), Trouble> {
        self.begin_delete(key);
        // Under an id that nobody learns nothing changes any more: what is read there is the last of the session.
        let Some(parked) = self.store.rotate(key).await? else {
            // Somebody else deleted it, and may be about to create it again: of one who signs out and one who cycles, the one who signs out wins.
            self.departed.lock().retain(|session| session.key != key);
            return Ok(());
        };
        let stored = self.store.get(parked.key(), Access::Peek).await?;
        self.store.delete(parked.key()).await?;
        if let Some(stored) = stored
            && let Some(session) = self.departed.lock().iter_mut().find(|session| session.key == key)
        {
            let binding = stored.owner.map(|owner| Binding::to(owner).labelled(stored.label));
            session.last = decode(&stored.payload).ok().map(|fields| (fields, binding));
        }
        Ok(())
    }

    fn begin_delete(&self, key: SessionKey) {
        let mut departed = self.departed.lock();
        departed.truncate(DEPARTED_MAX - 1);
        departed.push_front(Departed { key, last: None });
    }

    fn take_last(&self, key: SessionKey) -> Option<(Fields<V>, Option<Binding>)> {
        let mut departed = self.departed.lock();
        let at = departed.iter().position(|session| session.key == key)?;
        departed.remove(at)?.last
    }
}

/// When a session ends, given the end that is wanted, the one it has by now, and the one that was loaded.
fn end_of(wanted_ms: u64, current_ms: u64, loaded_ms: Option<u64>) -> u64 {
    let is_earlier = |than: u64, ms: u64| ms.saturating_add(EARLIER_MS) < than;
    match loaded_ms {
        Some(loaded) if is_earlier(loaded, wanted_ms) => wanted_ms,
        Some(loaded) if is_earlier(loaded, current_ms) => current_ms,
        Some(_) => wanted_ms.max(current_ms),
        None => wanted_ms,
    }
}

/// How long until then; `None` if it has passed.
pub(super) fn left(end_ms: u64) -> Option<Lifetime> {
    let left = Duration::from_millis(end_ms.saturating_sub(now_ms()));
    (!left.is_zero()).then(|| Lifetime::absolute(left))
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    millis(OffsetDateTime::now_utc())
}

/// Milliseconds since 1970, rounded up.
pub(super) fn millis(date: OffsetDateTime) -> u64 {
    u64::try_from((date.unix_timestamp_nanos() + 999_999) / 1_000_000).unwrap_or_default()
}

pub(super) fn encode<V: Serialize>(fields: &Fields<V>) -> Result<Bytes, Trouble> {
    serde_json::to_vec(fields).map(Bytes::from).map_err(|_| Trouble::Encode)
}

fn decode<V: DeserializeOwned>(payload: &Bytes) -> Result<Fields<V>, Trouble> {
    serde_json::from_slice(payload).map_err(|e| Trouble::Decode { at: e.column() })
}
