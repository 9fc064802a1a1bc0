//! [`Session`]: the dictionary a web handler works with.
//!
//! A session knows what it loaded (the base) and what it has now (mine); a save merges the difference into what is stored by then. It is
//! no cache and holds no store: each call that needs one is given it. Invariants: a session that was stored once is only ever updated, so a
//! late save revives nobody (P2); and what another request saved to a field that this one left alone is kept (P3).

#[cfg(feature = "cookie")]
mod cookie;
mod envelope;
mod error;
mod field;
mod limits;
mod merge;
mod save;

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::contract::Access;
use crate::id::SessionId;
use crate::lifetime::{Lifetime, Terms};
use crate::store::SessionStore;

use field::{Field, Fields, is_valid_name};

#[cfg(feature = "cookie")]
pub use cookie::{InvalidCookieName, SessionCookie};
pub use error::{FieldError, SessionError};
pub use field::RawField;
pub use limits::{FIELD_NAME_BYTES_MAX, FIELDS_MAX};
pub use merge::merge;
pub use save::Saved;

/// A session as a dictionary of typed fields.
///
/// It is created just in time: one that is [`new`](Self::new) costs nothing and has no id until a [`save`](Self::save) finds something in it.
/// One that was [loaded](Self::load) is saved only if it changed, by merging field by field with what other requests saved
/// meanwhile, and only if it still is there: a logout wins over every request in flight.
///
/// Values are anything serde knows, kept as JSON. A struct that a deploy changed decodes by serde's rules, so give new fields a
/// `#[serde(default)]`; what does not fit is a [`FieldError`] with the name of the field.
///
/// ```
/// use cloakroom::{Lifetime, MemoryStore, Saved, Session, SessionStore};
/// use std::time::Duration;
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let mut session = Session::new(Lifetime::idle(Duration::from_secs(30 * 60)));
/// session.insert("cart", &["coat", "hat"])?;
/// assert_eq!(session.save(&store).await?, Saved::Created);
/// let cookie_value = session.id().expect("it was saved").to_text();
///
/// // The next request.
/// let mut session = Session::load(&store, &cookie_value.parse()?).await?.expect("it is live");
/// assert_eq!(session.get::<Vec<String>>("cart")?.unwrap(), ["coat", "hat"]);
/// session.insert("user", &42)?;
/// session.rotate(&store).await?; // Somebody signed in: the id from before is worth nothing now.
/// assert_eq!(session.save(&store).await?, Saved::Updated);
/// # Ok(()) }
/// ```
pub struct Session {
    origin: Origin,
    /// What was loaded, or last saved.
    base: Fields,
    mine: Fields,
    /// Since the base, everything was removed, also what others add meanwhile.
    cleared: bool,
    /// The lifetime it was loaded under; `None` where the next save is the first to see it.
    terms: Option<Terms>,
    /// The lifetime that the next save gives it.
    lifetime: Option<Lifetime>,
}

/// Whether there is something to update.
enum Origin {
    New(Lifetime),
    Stored(SessionId),
}

impl Session {
    /// An empty session that is not stored. Once something is saved, `lifetime` begins.
    ///
    /// ```
    /// # use cloakroom::{Lifetime, Session};
    /// let session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// assert!(session.is_empty() && session.id().is_none());
    /// ```
    #[must_use]
    pub fn new(lifetime: Lifetime) -> Self {
        Self {
            origin: Origin::New(lifetime),
            base: Fields::new(),
            mine: Fields::new(),
            cleared: false,
            terms: None,
            lifetime: None,
        }
    }

    /// The session with this id, if it is live; it counts as used, unless the store takes no writes now: then its deadline stays. Nothing is known of an id that this store did not issue: it is
    /// `None`, and never adopted.
    ///
    /// # Errors
    ///
    /// [`SessionError::Store`]; [`SessionError::Malformed`] and [`SessionError::UnknownEnvelope`] where the payload is no session.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, Session, SessionId};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// assert!(Session::load(&MemoryStore::new(), &SessionId::random()?).await?.is_none());
    /// # Ok(()) }
    /// ```
    pub async fn load(store: &dyn SessionStore, id: &SessionId) -> Result<Option<Self>, SessionError> {
        // A full disk, or one that failed, must not keep those away who are signed in.
        let read = match store.get(id.key(), Access::Touch).await {
            Err(_) => store.get(id.key(), Access::Peek).await,
            read => read,
        };
        let Some(stored) = read? else { return Ok(None) };
        let base = envelope::decode(&stored.payload)?;
        let (origin, terms) = (Origin::Stored(id.clone()), Some(stored.terms()));
        Ok(Some(Self { origin, mine: base.clone(), base, cleared: false, terms, lifetime: None }))
    }

    /// The session with this id if there is one and it is live, else a new one: how most requests begin.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load).
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, Session, SessionId};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (store, cookie_value) = (MemoryStore::new(), Some("what the browser sent"));
    /// let id = cookie_value.and_then(|text| text.parse().ok());
    /// let lifetime = Lifetime::idle(std::time::Duration::from_secs(1800));
    /// let session = Session::load_or_new(&store, id.as_ref(), lifetime).await?;
    /// # assert!(session.id().is_none());
    /// # Ok(()) }
    /// ```
    pub async fn load_or_new(
        store: &dyn SessionStore,
        id: Option<&SessionId>,
        lifetime: Lifetime,
    ) -> Result<Self, SessionError> {
        let loaded = match id {
            Some(id) => Self::load(store, id).await?,
            None => None,
        };
        Ok(loaded.unwrap_or_else(|| Self::new(lifetime)))
    }

    /// The id, once the session is stored.
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, Session};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// session.insert("n", &1)?;
    /// assert!(session.id().is_none());
    /// session.save(&MemoryStore::new()).await?;
    /// assert!(session.id().is_some());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn id(&self) -> Option<&SessionId> {
        match &self.origin {
            Origin::New(_) => None,
            Origin::Stored(id) => Some(id),
        }
    }

    /// The value of a field, or `None` if there is no such field.
    ///
    /// # Errors
    ///
    /// [`FieldError::Decode`] if it is no `T`, [`FieldError::UnknownCodec`].
    ///
    /// ```
    /// # use cloakroom::{FieldError, Lifetime, Session};
    /// # let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// session.insert("theme", "dark")?;
    /// assert_eq!(session.get::<String>("theme")?.as_deref(), Some("dark"));
    /// assert_eq!(session.get::<String>("language")?, None);
    /// # Ok::<(), FieldError>(())
    /// ```
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, FieldError> {
        self.mine.get(name).map(|field| field.decode(name)).transpose()
    }

    /// Sets a field. Setting it to the same JSON as before is no change. JSON has no NaN: a float that is none comes back as an error.
    ///
    /// # Errors
    ///
    /// [`FieldError::InvalidName`], [`FieldError::TooManyFields`], [`FieldError::Encode`].
    ///
    /// ```
    /// # use cloakroom::{FIELD_NAME_BYTES_MAX, FieldError, Lifetime, Session};
    /// # let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// session.insert("cart", &vec![1, 2, 3])?;
    /// let long = "x".repeat(FIELD_NAME_BYTES_MAX + 1);
    /// assert!(matches!(session.insert(&long, &1), Err(FieldError::InvalidName { len: 257 })));
    /// # Ok::<(), FieldError>(())
    /// ```
    pub fn insert<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), FieldError> {
        if !is_valid_name(name) {
            return Err(FieldError::InvalidName { len: name.len() });
        }
        if self.mine.len() >= FIELDS_MAX && !self.contains(name) {
            return Err(FieldError::TooManyFields);
        }
        self.mine.insert(name.into(), Field::encode(name, value)?);
        Ok(())
    }

    /// Removes a field; says whether it was there.
    ///
    /// ```
    /// # use cloakroom::{FieldError, Lifetime, Session};
    /// # let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// session.insert("flash", "saved")?;
    /// assert!(session.remove("flash"));
    /// assert!(!session.remove("flash"));
    /// # Ok::<(), FieldError>(())
    /// ```
    pub fn remove(&mut self, name: &str) -> bool {
        self.mine.remove(name).is_some()
    }

    /// Removes every field, also those that another request adds before this one is saved.
    ///
    /// ```
    /// # use cloakroom::{FieldError, Lifetime, Session};
    /// # let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// session.insert("cart", &[1])?;
    /// session.clear();
    /// assert!(session.is_empty());
    /// # Ok::<(), FieldError>(())
    /// ```
    pub fn clear(&mut self) {
        self.mine.clear();
        self.cleared = true;
    }

    /// Gives the session another lifetime, longer or shorter, which begins when it is saved: "remember me", or a short one for who pays.
    ///
    /// A save that was given none leaves the lifetime as it finds it, so a slow request never shortens or lengthens what another one set. Where
    /// two set one without knowing of each other, each part of it ends when the earlier of the two does: a shortening is not undone by a request in
    /// flight. To overrule it, load the session again. An object that has just created its session, or saved a lifetime, knows no more of what others set
    /// than what is there at its next save.
    ///
    /// ```
    /// # use cloakroom::{Access, Lifetime, MemoryStore, Session, SessionStore};
    /// # use std::time::Duration;
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = MemoryStore::new();
    /// # let mut session = Session::new(Lifetime::idle(Duration::from_secs(1800)));
    /// session.insert("user", &42)?;
    /// session.save(&store).await?;
    /// session.set_lifetime(Lifetime::idle(Duration::from_secs(60)));
    /// session.save(&store).await?;
    /// let stored = store.get(session.id().unwrap().key(), Access::Peek).await?.unwrap();
    /// assert_eq!(stored.idle, Some(Duration::from_secs(60)));
    /// # Ok(()) }
    /// ```
    pub fn set_lifetime(&mut self, lifetime: Lifetime) {
        match &mut self.origin {
            Origin::New(begins) => *begins = lifetime,
            Origin::Stored(_) => self.lifetime = Some(lifetime),
        }
    }

    /// Whether there is a field of this name.
    ///
    /// ```
    /// # use cloakroom::{Lifetime, Session};
    /// let session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// assert!(!session.contains("cart"));
    /// ```
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.mine.contains_key(name)
    }

    /// The names of the fields, in order.
    ///
    /// ```
    /// # use cloakroom::{FieldError, Lifetime, Session};
    /// # let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// session.insert("b", &1)?;
    /// session.insert("a", &2)?;
    /// assert_eq!(session.keys().collect::<Vec<_>>(), ["a", "b"]);
    /// # Ok::<(), FieldError>(())
    /// ```
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.mine.keys().map(String::as_str)
    }

    /// The fields, in order of their names; each value is decoded when it is asked for.
    ///
    /// ```
    /// # use cloakroom::{FieldError, Lifetime, Session};
    /// # let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// session.insert("a", &1)?;
    /// session.insert("b", &2)?;
    /// let sum: u32 = session.iter().map(|(_, value)| value.decode::<u32>()).sum::<Result<_, _>>()?;
    /// assert_eq!(sum, 3);
    /// # Ok::<(), FieldError>(())
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (&str, RawField<'_>)> {
        self.mine.iter().map(|(name, field)| (name.as_str(), RawField { name, field }))
    }

    /// How many fields there are.
    ///
    /// ```
    /// # use cloakroom::{Lifetime, Session};
    /// assert_eq!(Session::new(Lifetime::idle(std::time::Duration::from_secs(1800))).len(), 0);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.mine.len()
    }

    /// Whether there is no field.
    ///
    /// ```
    /// # use cloakroom::{Lifetime, Session};
    /// assert!(Session::new(Lifetime::idle(std::time::Duration::from_secs(1800))).is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mine.is_empty()
    }

    /// Whether a [`save`](Self::save) has something to do: a field is not as it was loaded or last saved, or it is given another lifetime.
    ///
    /// ```
    /// # use cloakroom::{FieldError, Lifetime, Session};
    /// # let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// session.insert("n", &1)?;
    /// assert!(session.is_changed());
    /// session.remove("n");
    /// assert!(!session.is_changed());
    /// # Ok::<(), FieldError>(())
    /// ```
    #[must_use]
    pub fn is_changed(&self) -> bool {
        match self.origin {
            Origin::New(_) => !self.mine.is_empty(),
            Origin::Stored(_) => self.cleared || self.mine != self.base || self.lifetime.is_some(),
        }
    }

    /// Gives the session a fresh id; the old one is dead at once. Do this when somebody signs in or out. Says whether it did: a session
    /// that is not stored yet has no id to change, and one that is gone stays so (its save gives [`Saved::Gone`]).
    ///
    /// What was changed and not saved stays so. A request in flight that still has the old id saves nothing.
    ///
    /// # Errors
    ///
    /// [`SessionError::Store`].
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, Session};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = MemoryStore::new();
    /// # let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// session.insert("user", &42)?;
    /// session.save(&store).await?;
    /// let old = session.id().cloned().unwrap();
    /// assert!(session.rotate(&store).await?);
    /// assert!(Session::load(&store, &old).await?.is_none());
    /// # Ok(()) }
    /// ```
    pub async fn rotate(&mut self, store: &dyn SessionStore) -> Result<bool, SessionError> {
        let Origin::Stored(old) = &self.origin else { return Ok(false) };
        let Some(new) = store.rotate(old.key()).await? else { return Ok(false) };
        self.origin = Origin::Stored(new);
        Ok(true)
    }

    /// Ends the session for good, also for requests in flight: a logout. Says whether it was stored and live.
    ///
    /// # Errors
    ///
    /// [`SessionError::Store`].
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, Session};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// assert!(!session.delete(&MemoryStore::new()).await?);
    /// # Ok(()) }
    /// ```
    pub async fn delete(self, store: &dyn SessionStore) -> Result<bool, SessionError> {
        match self.origin {
            Origin::New(_) => Ok(false),
            Origin::Stored(id) => Ok(store.delete(id.key()).await?),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("fields", &self.keys().collect::<Vec<_>>())
            .field("stored", &self.id().is_some())
            .field("changed", &self.is_changed())
            .finish_non_exhaustive()
    }
}
