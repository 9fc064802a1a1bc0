//! What every framework's store does behind its own trait: load with a mark, save by merging, delete so that a cycled id can go on.
//!
//! A framework loads the fields of a session, lets a handler change them, and saves them as a whole. What it knows nothing of travels with the fields:
//!
//! - **The mark** says what was loaded, and when that ends. A save merges three ways: the mark is the base, the fields are mine, what is stored by now
//!   is theirs. It is conditional on the version, and tried again.
//! - **No mark** means that the handler cleared the session: everything is replaced.
//! - **Cycling an id** is a delete, then a create with the fields that were loaded. A delete that ended a live session takes the last of it in one step,
//!   with all that others had saved by then, and remembers it until a create that follows has merged into that. If somebody else signed out first, or
//!   meanwhile, nothing is remembered, and the new session gets only what this request itself has set. Of two requests that cycle one id at once, each so
//!   carries only its own. The list is of one adapter and its clones, and bounded; a process that ends between the two leaves neither session. Owner and
//!   label go along, in the record that creates, but where the mark is gone nobody can tell which session it was; a revocation between delete and create
//!   misses the new session. The mark's seal keeps a visitor who may name fields from asking for the last of somebody else's session.
//! - **Deadlines.** An end that is earlier than the one that was loaded was meant to be earlier, and wins; a deadline that somebody else shortened
//!   meanwhile stays; else the later of the two counts. A framework names ends by the wall clock, and what was loaded ends in store time: while the two
//!   differ, a session still lives as long as was asked for, but what is earlier is mistaken by the difference. With the wall clock behind, a save in
//!   flight undoes a shortening of somebody else; with it ahead, a shortening by less than that is none.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::departed::{Departed, Last};
use crate::{Access, Binding, Error, Lifetime, SessionId, SessionKey, SessionStore, When, merge};

/// An end that is this much earlier than the one that was loaded was meant to be, in milliseconds.
const EARLIER_MS: u64 = 1_000;

/// No end is later, in milliseconds since 1970: the last one of the year 9999.
const END_MS_MAX: u64 = 253_402_300_799_999;

/// What JSON is read back to, in levels of arrays and objects.
const LEVELS_MAX: usize = 127;

pub(super) type Fields<V> = BTreeMap<String, V>;

/// What was loaded, of which session.
#[derive(Serialize, Deserialize)]
pub(super) struct Mark<V> {
    key: [u8; 32],
    /// Made from the key and a secret, so that nobody else can make a mark of that key.
    seal: [u8; 32],
    pub(super) fields: Fields<V>,
    /// When that ends, in milliseconds since 1970.
    pub(super) expires_ms: u64,
}

/// Why something could not be done; no message quotes a value.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("a session could not be written as JSON")]
    Encode,
    #[error(
        "a session's fields are nested too deep to be read again: {LEVELS_MAX} levels are the most, the session's own among them"
    )]
    TooDeep,
    #[error(
        "a field {name:?} was set, and that name is the store's own: keep visitors from naming fields as they like"
    )]
    Name { name: &'static str },
    #[error("the payload, from byte {at}, is no session of this adapter: give it a store of its own")]
    Decode { at: usize },
    #[error(transparent)]
    Store(#[from] Error),
}

/// A store of sessions with fields of one kind.
pub(super) struct Behind<V> {
    pub(super) store: Arc<dyn SessionStore>,
    departed: Mutex<Departed>,
    /// Nothing is sealed without one.
    secret: Option<SessionId>,
    values: PhantomData<fn() -> V>,
}

impl<V: Serialize + DeserializeOwned + PartialEq + Clone> Behind<V> {
    pub(super) fn new(store: Arc<dyn SessionStore>) -> Self {
        Self { store, departed: Mutex::default(), secret: SessionId::random().ok(), values: PhantomData }
    }

    /// The fields, and the mark that is to travel with them.
    pub(super) async fn load(&self, key: SessionKey) -> Result<Option<(Fields<V>, Mark<V>)>, Trouble> {
        // A full disk, or one that failed, must not keep those away who are signed in, where the site gives an idle lifetime itself.
        let read = match self.store.get(key, Access::Touch).await {
            Err(_) => self.store.get(key, Access::Peek).await,
            read => read,
        };
        let Some(stored) = read? else { return Ok(None) };
        let fields: Fields<V> = decode(&stored.payload)?;
        let mark = self.mark(key, fields.clone(), stored.expires_at.as_millis());
        Ok(Some((fields, mark)))
    }

    fn mark(&self, key: SessionKey, fields: Fields<V>, expires_ms: u64) -> Mark<V> {
        let seal = *self.seal(key.as_bytes()).unwrap_or(key).as_bytes();
        Mark { key: *key.as_bytes(), seal, fields, expires_ms }
    }

    fn seal(&self, key: &[u8; 32]) -> Option<SessionKey> {
        Some(SessionKey::of(&[self.secret.as_ref()?.to_text().as_bytes(), key].concat()))
    }

    /// Whether the mark was made here, of the session of this key.
    pub(super) fn is_of(&self, key: SessionKey, mark: &Mark<V>) -> bool {
        self.is_own(mark) && mark.key == *key.as_bytes()
    }

    /// Whether the mark was made here.
    pub(super) fn is_own(&self, mark: &Mark<V>) -> bool {
        self.seal(&mark.key).is_some_and(|seal| *seal.as_bytes() == mark.seal)
    }

    /// Makes a session under the first key of `keys` that is free: gives its fields, and the mark that is to travel with them.
    pub(super) async fn create(
        &self,
        mark: Option<Mark<V>>,
        mine: Fields<V>,
        end_ms: u64,
        mut key: impl FnMut() -> Result<SessionKey, Error>,
    ) -> Result<(Fields<V>, Mark<V>), Trouble> {
        let cycled =
            mark.as_ref().filter(|base| self.is_own(base)).map(|base| SessionKey::from_bytes(base.key));
        let last = cycled.and_then(|key| self.departed.lock().last(key));
        let (fields, binding, end_ms) = match (mark, last) {
            (None, _) => (mine, None, end_ms),
            (Some(base), None) => (merge(&base.fields, &mine, &Fields::new()), None, end_ms),
            (Some(base), Some(last)) => {
                let end_ms = end_of(end_ms, last.expires_ms, Some(base.expires_ms));
                (merge(&base.fields, &mine, &decode(&last.payload)?), last.binding, end_ms)
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
        // Not before: a create that was refused may be tried again.
        if let Some(cycled) = cycled {
            self.departed.lock().forget(cycled);
        }
        let mark = self.mark(key, fields.clone(), end_ms);
        Ok((fields, mark))
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
                // Who wanted something finds it done by another, who may still wait for the device.
                let is_as_loaded = base.is_some_and(|base| base.fields == *mine && base.expires_ms == end_ms);
                return if is_as_loaded { Ok(()) } else { Ok(self.store.flush().await?) };
            }
            let (version, loaded) = (stored.version, stored.terms());
            let when = if end_ms == current_ms {
                When::Version(version)
            } else {
                let Some(lifetime) = left(end_ms) else { return self.delete(key).await };
                When::VersionWith { version, lifetime, loaded }
            };
            match self.store.write(key, encode(&fields)?, when).await {
                Err(Error::Conflict { .. }) => {}
                done => return Ok(done.map(drop)?),
            }
        }
        Ok(())
    }

    /// Ends a session, and remembers the last of it for a request that goes on under another id.
    pub(super) async fn delete(&self, key: SessionKey) -> Result<(), Trouble> {
        // Ids that are nobody's must not push out who departs.
        if !matches!(self.store.get(key, Access::Peek).await, Ok(None)) {
            self.departed.lock().begin(key);
        }
        // One step, so that a request which is dropped here leaves no half of it, and also where nobody is there: that may not be on the device yet.
        let ended = match self.store.take(key).await {
            // One that cannot be read is ended as well.
            Err(Error::Corrupt { .. } | Error::Io { .. }) => self.store.delete(key).await.map(|_| None),
            ended => ended,
        };
        match ended {
            Ok(Some(stored)) => {
                let binding = stored.owner.map(|owner| Binding::to(owner).labelled(stored.label));
                let expires_ms = stored.expires_at.as_millis();
                self.departed.lock().finish(key, Last { payload: stored.payload, binding, expires_ms });
                Ok(())
            }
            // Somebody else deleted it, and may be about to create it again: of one who signs out and one who cycles, the one who signs out wins.
            ended => {
                self.departed.lock().forget(key);
                Ok(ended.map(drop)?)
            }
        }
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

/// Milliseconds since 1970, rounded up, and no more than a session can last.
pub(super) fn millis(date: OffsetDateTime) -> u64 {
    u64::try_from((date.unix_timestamp_nanos() + 999_999) / 1_000_000).unwrap_or_default().min(END_MS_MAX)
}

pub(super) fn encode<V: Serialize + DeserializeOwned>(fields: &Fields<V>) -> Result<Bytes, Trouble> {
    let payload = serde_json::to_vec(fields).map(Bytes::from).map_err(|_| Trouble::Encode)?;
    let may_be_deep = payload.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() > LEVELS_MAX;
    if may_be_deep && decode::<V>(&payload).is_err() {
        return Err(Trouble::TooDeep);
    }
    Ok(payload)
}

fn decode<V: DeserializeOwned>(payload: &Bytes) -> Result<Fields<V>, Trouble> {
    serde_json::from_slice(payload).map_err(|e| Trouble::Decode { at: e.column() })
}
