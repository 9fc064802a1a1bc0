//! A store for tower-sessions' middleware as it is: one body for every version whose trait is the same.
//!
//! It keeps no session itself, and decides nothing: `behind` does. The mark travels in one field of the record, which a `Session` cannot enumerate.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::framework::session::{Id, Record};
use super::framework::session_store::{Error, ExpiredDeletion, Result, SessionStore as TowerSessionStore};
use crate::adapters::behind::{Behind, Fields, Mark, Trouble, encode, left, millis};
use crate::{SessionKey, SessionStore};

/// The name of the field that is the mark.
const MARK: &str = "\0cloakroom";

/// A store for the `SessionManagerLayer`, over any store of this crate. Clones share it.
///
/// Two requests that change different fields of one session both win; of two that change the same field the later save does. A request that was in
/// flight while its session was signed out saves nothing, and is no error. Ids are hashed before they are looked up or stored. Fields are kept as
/// JSON. A handler that calls `Session::save` itself and then removes a field that it had set before that, or sets one back to what was loaded, calls
/// `Session::load` in between. One that starts afresh calls `Session::flush`: `Session::clear` keeps the id that the cookie has, and where no session has that
/// id any more nothing is saved.
///
/// A new id for a session is a delete and a create: the owner it is bound to goes along, unless all fields were cleared as well, but a
/// [`revoke`](SessionStore::revoke) between the two misses the new session. Where the create is refused (a full disk, a limit), or the process ends between the two,
/// the session has ended; a save that is tried again makes it, while this process lasts. Two adapters over one store know nothing of each other's deletes, and then such a session brings only what its own request set: clone one.
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
    behind: Arc<Behind<Value>>,
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
        Self { behind: Arc::new(Behind::new(Arc::new(store))), is_cache: false }
    }

    /// For the front half of a `CachingSessionStore` before another of these, which fills its cache through `save`: here a save of what was loaded fills it
    /// in, and any other save drops it, since only the store behind merges. It cannot keep a request in flight from filling in a session that was
    /// signed out or changed meanwhile, so give it short deadlines; a store of this crate needs no cache before it. Before one that is not of this crate it
    /// drops a session at the first save; a cache that is not of this crate, before one that is, loses fields that are removed or set back. One that
    /// outlives the process besides has its sessions' saves refused after it: empty it at the start.
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

    /// Keeps a record as it is; one that cannot be kept is none, so that the store behind is asked.
    async fn fill(&self, record: &Record) -> Result<()> {
        let payload = encode(&record.data.clone().into_iter().collect());
        if let (Ok(payload), Some(lifetime)) = (payload, left(millis(record.expiry_date)))
            && self.behind.store.upsert(Self::key(&record.id), payload, lifetime).await.is_ok()
        {
            return Ok(());
        }
        self.drop_copy(&record.id).await
    }

    async fn drop_copy(&self, id: &Id) -> Result<()> {
        self.behind.store.delete(Self::key(id)).await.map(drop).map_err(|e| Trouble::Store(e).into())
    }
}

#[async_trait]
impl TowerSessionStore for TowerStore {
    async fn create(&self, record: &mut Record) -> Result<()> {
        if self.is_cache {
            return self.fill(record).await;
        }
        let (mark, mine) = unmarked(record)?;
        let id = &mut record.id;
        // Never the one that it comes with: after `Session::flush` that is the one of the cookie, signed out or planted.
        let key = || {
            *id = Id::default();
            Ok(Self::key(id))
        };
        let (fields, mark) = self.behind.create(mark, mine, millis(record.expiry_date), key).await?;
        record.data = marked(fields, &mark)?;
        Ok(())
    }

    async fn save(&self, record: &Record) -> Result<()> {
        let (base, mine) = unmarked(record)?;
        if self.is_cache {
            // As it was loaded: it is a load that fills the cache. Else only the store behind knows what has become of it.
            let is_loaded =
                base.is_some_and(|base| base.fields == mine && date(base.expires_ms) == record.expiry_date);
            return if is_loaded { self.fill(record).await } else { self.drop_copy(&record.id).await };
        }
        let key = Self::key(&record.id);
        if base.as_ref().is_some_and(|base| !self.behind.is_of(key, base)) {
            return Err(Trouble::Name { name: MARK }.into());
        }
        let saved = self.behind.save(key, base.as_ref(), &mine, millis(record.expiry_date));
        Ok(saved.await?)
    }

    async fn load(&self, id: &Id) -> Result<Option<Record>> {
        let Some((fields, mark)) = self.behind.load(Self::key(id)).await? else { return Ok(None) };
        let expiry_date = date(mark.expires_ms);
        let data = if self.is_cache { fields.into_iter().collect() } else { marked(fields, &mark)? };
        Ok(Some(Record { id: *id, data, expiry_date }))
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        if self.is_cache {
            return self.drop_copy(id).await;
        }
        Ok(self.behind.delete(Self::key(id)).await?)
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

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        let message = trouble.to_string();
        match trouble {
            Trouble::Encode | Trouble::TooDeep | Trouble::Name { .. } => Self::Encode(message),
            Trouble::Decode { .. } => Self::Decode(message),
            Trouble::Store(_) => Self::Backend(message),
        }
    }
}

/// A record's mark, if it has one, and its fields without it.
fn unmarked(record: &Record) -> Result<(Option<Mark<Value>>, Fields<Value>)> {
    let mut fields: Fields<Value> = record.data.clone().into_iter().collect();
    let mark = fields.remove(MARK).map(serde_json::from_value).transpose();
    Ok((mark.map_err(|_| Trouble::Name { name: MARK })?, fields))
}

fn marked<M: FromIterator<(String, Value)>>(fields: Fields<Value>, mark: &Mark<Value>) -> Result<M> {
    let mark = serde_json::to_value(mark).map_err(|_| Trouble::Encode)?;
    Ok(fields.into_iter().chain([(MARK.to_owned(), mark)]).collect())
}

fn date(ms: u64) -> OffsetDateTime {
    let far = PrimitiveDateTime::MAX.assume_utc();
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).map_or(far, |date| date.min(far))
}
