//! A store for tower-sessions' middleware as it is: one body for every version whose trait is the same.
//!
//! It keeps no session itself. The middleware loads a record, lets a handler change it, and saves it as a whole; what it knows nothing of travels
//! with the record, as one field that its `Session` cannot enumerate:
//!
//! - **The mark.** `load` adds what it loaded and when that ends. `save` takes the mark out, so it never reaches the store, and merges three ways: the mark is
//!   the base, the record is mine, what is stored by now is theirs. The write is conditional on the version, and tried again.
//! - **No mark** means that `clear` was called: everything is replaced.
//! - **Cycling an id** is a delete, then a create with the record that was loaded. A delete that ended a live session remembers its last fields, once; the
//!   create that follows merges into those. If somebody else signed out first, or meanwhile, nothing is remembered, and the new
//!   session gets only what this request itself has set.
//! - **Deadlines.** The record says when it wants to end. Earlier than what was loaded is a wish to end earlier, and wins; a deadline that somebody
//!   else shortened meanwhile stays; else the later of the two counts.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::framework::session::{Id, Record};
use super::framework::session_store::{Error, ExpiredDeletion, Result, SessionStore as TowerSessionStore};
use crate::{Access, Lifetime, OwnerKey, SessionKey, SessionStore, Stored, When, merge};

/// The name of the field that is the mark.
const MARK: &str = "\0cloakroom";

/// A deadline that is this much earlier than the one that was loaded was meant to be, in milliseconds.
const SHORTER_MS: u64 = 1_000;

/// So many sessions are remembered that were deleted and may be created again under another id.
const DEPARTED_MAX: usize = 256;

type Data = BTreeMap<String, Value>;

/// What was loaded, of which session.
#[derive(Serialize, Deserialize)]
struct Mark {
    key: [u8; 32],
    data: Data,
    expires_ms: u64,
}

/// A session that a request deletes, which may create it again.
struct Departed {
    key: SessionKey,
    /// The last of it, once it is deleted.
    last: Option<Last>,
}

#[derive(Default)]
struct Last {
    data: Data,
    owner: Option<OwnerKey>,
}

/// A store for the `SessionManagerLayer`, over any store of this crate. Clones share it.
///
/// Two requests that change different fields of one session both win; of two that change the same field the later save does. A request that was in
/// flight while its session was signed out saves nothing, and is no error. Ids are hashed before they are looked up or stored. Fields are kept as
/// JSON. A handler that calls `Session::save` itself and then removes a field that it had set before that, calls `Session::load` in between.
///
/// ```
/// use cloakroom::MemoryStore;
#[doc = concat!("use cloakroom::", here!(), "::TowerStore;")]
/// let store = TowerStore::new(MemoryStore::new()); // or a LogStore
/// // SessionManagerLayer::new(store)
/// # drop(store);
/// ```
#[derive(Clone)]
pub struct TowerStore {
    store: Arc<dyn SessionStore>,
    departed: Arc<Mutex<VecDeque<Departed>>>,
    is_cache: bool,
}

impl TowerStore {
    /// Keeps sessions in `store`. It stays usable beside: owners can be bound, and signed out everywhere.
    ///
    /// ```
    /// # use cloakroom::MemoryStore;
    #[doc = concat!("# use cloakroom::", here!(), "::TowerStore;")]
    /// let store = MemoryStore::new();
    /// let behind_the_layer = TowerStore::new(store.clone());
    /// # drop(behind_the_layer);
    /// ```
    #[must_use]
    pub fn new(store: impl SessionStore) -> Self {
        Self { store: Arc::new(store), departed: Arc::default(), is_cache: false }
    }

    /// For the front half of a `CachingSessionStore`, which fills its cache through `save`: here a save creates, and replaces the whole. It cannot
    /// keep a request in flight from filling in a session that was signed out meanwhile, so give it short deadlines; a store of this crate needs no
    /// cache before it.
    ///
    /// ```
    /// # use cloakroom::MemoryStore;
    #[doc = concat!("# use cloakroom::", here!(), "::TowerStore;")]
    /// let cache = TowerStore::cache(MemoryStore::new());
    /// # drop(cache);
    /// ```
    #[must_use]
    pub fn cache(store: impl SessionStore) -> Self {
        Self { is_cache: true, ..Self::new(store) }
    }

    /// The key under which the session of this id is kept: for [`bind`](SessionStore::bind) and [`revoke`](SessionStore::revoke).
    ///
    /// ```
    /// # use cloakroom::MemoryStore;
    #[doc = concat!("# use cloakroom::", here!(), "::TowerStore;")]
    /// let id = Default::default(); // session.id()
    /// assert_eq!(TowerStore::key(&id), TowerStore::key(&id));
    /// ```
    #[must_use]
    pub fn key(id: &Id) -> SessionKey {
        SessionKey::of(&id.0.to_le_bytes())
    }

    /// Writes a record as it is.
    async fn fill(&self, record: &Record) -> Result<()> {
        let data = record.data.clone().into_iter().collect();
        match left(record.expiry_date) {
            Some(lifetime) => {
                self.store.upsert(Self::key(&record.id), encode(&data)?, lifetime).await.map_err(backend)
            }
            None => self.delete(&record.id).await,
        }
    }

    /// One try to save: `false` if somebody else wrote meanwhile.
    async fn try_save(&self, record: &Record, base: Option<&Mark>, mine: &Data) -> Result<bool> {
        let key = Self::key(&record.id);
        let Some(stored) = self.store.get(key, Access::Peek).await.map_err(backend)? else {
            return Ok(true);
        };
        let theirs = decode(&stored)?;
        let data = base.map_or_else(|| mine.clone(), |base| merge(&base.data, mine, &theirs));
        let (wanted, current) = (millis(record.expiry_date), stored.expires_at.as_millis());
        let end = match base.map(|base| base.expires_ms) {
            Some(loaded) if wanted.saturating_add(SHORTER_MS) < loaded => wanted,
            Some(loaded) if current.saturating_add(SHORTER_MS) < loaded => current,
            Some(_) => wanted.max(current),
            None => wanted,
        };
        if data == theirs && end == current {
            return Ok(true);
        }
        let written = match left(date(end)) {
            None => self.store.delete(key).await.map(|_| None),
            Some(lifetime) => {
                self.store.write(key, encode(&data)?, When::VersionFor(stored.version, lifetime)).await
            }
        };
        match written {
            Err(crate::Error::Conflict { .. }) => Ok(false),
            done => done.map(|_| true).map_err(backend),
        }
    }

    /// What is left of a session that a delete of this adapter ended, once.
    fn take_last(&self, key: SessionKey) -> Option<Last> {
        let mut departed = self.departed.lock();
        let at = departed.iter().position(|session| session.key == key)?;
        departed.remove(at)?.last
    }
}

#[async_trait]
impl TowerSessionStore for TowerStore {
    async fn create(&self, record: &mut Record) -> Result<()> {
        if self.is_cache {
            return self.fill(record).await;
        }
        let (mark, mine) = unmarked(record)?;
        let (data, owner) = match mark {
            None => (mine, None),
            // The id was cycled.
            Some(base) => {
                let theirs = self.take_last(SessionKey::from_bytes(base.key)).unwrap_or_default();
                (merge(&base.data, &mine, &theirs.data), theirs.owner)
            }
        };
        let payload = encode(&data)?;
        // One that has ended already is nothing to keep.
        while let Some(lifetime) = left(record.expiry_date) {
            match self.store.create_as(Self::key(&record.id), payload.clone(), lifetime).await {
                Err(crate::Error::AlreadyExists) => record.id = Id::default(),
                done => {
                    done.map_err(backend)?;
                    break;
                }
            }
        }
        if owner.is_some() {
            self.store.bind(Self::key(&record.id), owner).await.map_err(backend)?;
        }
        mark_as_loaded(record, data, millis(record.expiry_date))
    }

    async fn save(&self, record: &Record) -> Result<()> {
        if self.is_cache {
            return self.fill(record).await;
        }
        let (base, mine) = unmarked(record)?;
        while !self.try_save(record, base.as_ref(), &mine).await? {}
        Ok(())
    }

    async fn load(&self, id: &Id) -> Result<Option<Record>> {
        let Some(stored) = self.store.get(Self::key(id), Access::Touch).await.map_err(backend)? else {
            return Ok(None);
        };
        let (data, expires_ms) = (decode(&stored)?, stored.expires_at.as_millis());
        let (id, expiry_date) = (*id, date(expires_ms));
        let mut record = Record { id, data: data.clone().into_iter().collect(), expiry_date };
        if !self.is_cache {
            mark_as_loaded(&mut record, data, expires_ms)?;
        }
        Ok(Some(record))
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        let key = Self::key(id);
        if self.is_cache {
            return self.store.delete(key).await.map(drop).map_err(backend);
        }
        {
            let mut departed = self.departed.lock();
            departed.truncate(DEPARTED_MAX - 1);
            departed.push_front(Departed { key, last: None });
        }
        // Under an id that nobody learns nothing changes any more: what is read there is the last of the session.
        let Some(parked) = self.store.rotate(key).await.map_err(backend)? else {
            // Somebody else deleted it, and may be about to create it again: of two who sign out and cycle at once, the one who signs out wins.
            self.departed.lock().retain(|session| session.key != key);
            return Ok(());
        };
        let stored = self.store.get(parked.key(), Access::Peek).await.map_err(backend)?;
        self.store.delete(parked.key()).await.map_err(backend)?;
        if let Some(stored) = stored {
            let last = Last { data: decode(&stored)?, owner: stored.owner };
            if let Some(session) = self.departed.lock().iter_mut().find(|session| session.key == key) {
                session.last = Some(last);
            }
        }
        Ok(())
    }
}

/// Sessions that have ended are gone by themselves: no read finds them, and compaction gives their space back.
#[async_trait]
impl ExpiredDeletion for TowerStore {
    async fn delete_expired(&self) -> Result<()> {
        Ok(())
    }
}

impl fmt::Debug for TowerStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerStore").field("is_cache", &self.is_cache).finish_non_exhaustive()
    }
}

/// A record's mark, if it has one, and its fields without it.
fn unmarked(record: &Record) -> Result<(Option<Mark>, Data)> {
    let mut data: Data = record.data.clone().into_iter().collect();
    let mark = data.remove(MARK).map(serde_json::from_value).transpose();
    Ok((mark.map_err(|e| Error::Encode(format!("the field {MARK:?} is the store's own: {e}")))?, data))
}

fn mark_as_loaded(record: &mut Record, data: Data, expires_ms: u64) -> Result<()> {
    record.data = data.clone().into_iter().collect();
    let mark = Mark { key: *TowerStore::key(&record.id).as_bytes(), data, expires_ms };
    let mark = serde_json::to_value(&mark).map_err(|e| Error::Encode(e.to_string()))?;
    record.data.insert(MARK.into(), mark);
    Ok(())
}

fn encode(data: &Data) -> Result<Bytes> {
    serde_json::to_vec(data).map(Bytes::from).map_err(|e| Error::Encode(e.to_string()))
}

fn decode(stored: &Stored) -> Result<Data> {
    // Where in the payload is enough to say: the message of the parser may quote what it found.
    serde_json::from_slice(&stored.payload).map_err(|e| {
        Error::Decode(format!("the payload is no session of this adapter, from byte {}", e.column()))
    })
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn backend(error: crate::Error) -> Error {
    Error::Backend(error.to_string())
}

/// How long until then; `None` if it has passed.
fn left(end: OffsetDateTime) -> Option<Lifetime> {
    let left = std::time::Duration::try_from(end - OffsetDateTime::now_utc()).ok()?;
    (!left.is_zero()).then(|| Lifetime::absolute(left))
}

/// In milliseconds since 1970, rounded up.
fn millis(date: OffsetDateTime) -> u64 {
    u64::try_from((date.unix_timestamp_nanos() + 999_999) / 1_000_000).unwrap_or_default()
}

fn date(ms: u64) -> OffsetDateTime {
    let far = PrimitiveDateTime::MAX.assume_utc();
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).map_or(far, |date| date.min(far))
}
