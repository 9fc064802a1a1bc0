//! A store for actix-session's middleware as it is.
//!
//! It keeps no session itself, and decides nothing: `behind` does. The middleware shows a handler every entry, and saves without saying what was loaded:
//! so the mark is an entry as well, [`MARK`], and documented.

use std::fmt;
use std::sync::Arc;

use ::actix_session::storage::{
    LoadError, SaveError, SessionKey as Token, SessionStore as ActixSessionStore, UpdateError,
};
use time::{Duration, OffsetDateTime};

use super::behind::{Behind, Fields, Mark, Trouble, millis};
use crate::{SessionId, SessionKey, SessionStore};

/// The name of the entry in which the store keeps, for as long as a request lasts, what the request loaded. Handlers leave it alone; `Session::clear`
/// drops it, which means that everything is replaced. It is never stored.
///
/// ```
/// use cloakroom::actix_session::MARK;
/// let entries = [("cart", "[]"), (MARK, "{}")]; // session.entries()
/// assert_eq!(entries.iter().filter(|(name, _)| *name != MARK).count(), 1);
/// ```
pub const MARK: &str = "cloakroom.loaded";

type State = std::collections::HashMap<String, String>;

/// A store for the `SessionMiddleware`, over any store of this crate. Clones share it.
///
/// Two requests that change different entries of one session both win; of two that change the same entry the later save does. A request that was in
/// flight while its session was purged saves nothing, and is no error. A session ends one `session_ttl` after its last save; with
/// `TtlExtensionPolicy::OnEveryRequest` after the last request. An id is of 256 bits, and hashed before it is looked up.
///
/// A new id for a session is a delete and a create: the owner it is bound to goes along, unless all fields were cleared as well, but a
/// [`revoke`](SessionStore::revoke) between the two misses the new session. Where the create is refused (a full disk, a limit), or the process ends between the two,
/// the session has ended; a save that is tried again makes it, while this process lasts. Two adapters over one store know nothing of each other's deletes, and then such a session brings only what its own request set: clone one.
///
/// ```
/// use cloakroom::{MemoryStore, actix_session::ActixStore};
/// let store = ActixStore::new(MemoryStore::new()); // or a LogStore
/// // SessionMiddleware::new(store, secret_key)
/// # drop(store);
/// ```
#[derive(Clone)]
pub struct ActixStore(Arc<Behind<String>>);

impl ActixStore {
    /// Keeps sessions in `store`. It stays usable beside: owners can be bound, and signed out everywhere.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, actix_session::ActixStore};
    /// let store = MemoryStore::new();
    /// let behind_the_middleware = ActixStore::new(store.clone());
    /// # drop(behind_the_middleware);
    /// ```
    #[must_use]
    pub fn new(store: impl SessionStore) -> Self {
        Self(Arc::new(Behind::new(Arc::new(store))))
    }

    /// The mark, if there is one, and the entries without it. An entry of that name that was not made here would let a visitor undo what others save.
    fn unmarked(&self, mut state: State) -> Result<(Option<Mark<String>>, Fields<String>), Trouble> {
        let mark = match state.remove(MARK) {
            None => None,
            Some(text) => {
                let mark = serde_json::from_str(&text).ok().filter(|mark| self.0.is_own(mark));
                Some(mark.ok_or(Trouble::Name { name: MARK })?)
            }
        };
        Ok((mark, state.into_iter().collect()))
    }
}

impl ActixSessionStore for ActixStore {
    async fn load(&self, token: &Token) -> Result<Option<State>, LoadError> {
        let Some(key) = key(token) else { return Ok(None) };
        // Not as `Deserialization`: the middleware would go on with an empty session, and save that over what cannot be read.
        let loaded = self.0.load(key).await.map_err(|trouble| LoadError::Other(trouble.into()))?;
        let Some((fields, mark)) = loaded else { return Ok(None) };
        let mark = serde_json::to_string(&mark).map_err(|e| LoadError::Other(e.into()))?;
        Ok(Some(fields.into_iter().chain([(MARK.to_owned(), mark)]).collect()))
    }

    async fn save(&self, state: State, ttl: &Duration) -> Result<Token, SaveError> {
        let (mark, mine) =
            self.unmarked(state).map_err(|trouble| SaveError::Serialization(trouble.into()))?;
        let mut token = String::new();
        let key = || {
            let id = SessionId::random()?;
            token = id.to_text();
            Ok(id.key())
        };
        self.0.create(mark, mine, end_ms(ttl), key).await.map_err(|trouble| match trouble {
            Trouble::Encode | Trouble::TooDeep | Trouble::Name { .. } => {
                SaveError::Serialization(trouble.into())
            }
            Trouble::Decode { .. } | Trouble::Store(_) => SaveError::Other(trouble.into()),
        })?;
        token.try_into().map_err(|e| SaveError::Other(anyhow::Error::new(e)))
    }

    async fn update(&self, token: Token, state: State, ttl: &Duration) -> Result<Token, UpdateError> {
        let Some(key) = key(&token) else { return Ok(token) };
        let (base, mine) =
            self.unmarked(state).map_err(|trouble| UpdateError::Serialization(trouble.into()))?;
        if base.as_ref().is_some_and(|base| !self.0.is_of(key, base)) {
            return Err(UpdateError::Serialization(Trouble::Name { name: MARK }.into()));
        }
        self.0.save(key, base.as_ref(), &mine, end_ms(ttl)).await.map_err(|trouble| match trouble {
            Trouble::Encode | Trouble::TooDeep | Trouble::Name { .. } => {
                UpdateError::Serialization(trouble.into())
            }
            Trouble::Decode { .. } | Trouble::Store(_) => UpdateError::Other(trouble.into()),
        })?;
        Ok(token)
    }

    async fn update_ttl(&self, token: &Token, ttl: &Duration) -> Result<(), anyhow::Error> {
        let Some(key) = key(token) else { return Ok(()) };
        // A save that changes no field.
        if let Some((fields, mark)) = self.0.load(key).await? {
            self.0.save(key, Some(&mark), &fields, end_ms(ttl)).await?;
        }
        Ok(())
    }

    async fn delete(&self, token: &Token) -> Result<(), anyhow::Error> {
        let Some(key) = key(token) else { return Ok(()) };
        Ok(self.0.delete(key).await?)
    }
}

impl fmt::Debug for ActixStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActixStore").finish_non_exhaustive()
    }
}

/// Where the session of a token is, if it is one that this store may have issued.
fn key(token: &Token) -> Option<SessionKey> {
    Some(token.as_ref().parse::<SessionId>().ok()?.key())
}

fn end_ms(ttl: &Duration) -> u64 {
    millis(OffsetDateTime::now_utc().saturating_add(*ttl))
}
