//! The nouns of the store's contract: what goes in and what comes out, shared by the trait, the engine and every back end.
//!
//! Plain data; no behaviour lives here.

use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::id::{OwnerKey, SessionKey, Version};
use crate::lifetime::{Lifetime, Terms};
use crate::owner::Label;

/// A session as it is stored.
///
/// ```
/// use cloakroom::{Access, Lifetime, MemoryStore, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// let store = MemoryStore::new();
/// let id = store.create("cart".into(), Lifetime::absolute(std::time::Duration::from_secs(60))).await?;
/// let stored = store.get(id.key(), Access::Peek).await?.expect("it was just created");
/// assert_eq!(stored.payload, "cart");
/// assert!(stored.expires_at > stored.created_at.saturating_add(std::time::Duration::from_secs(59)));
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stored {
    /// What was put, byte for byte.
    pub payload: Bytes,
    /// What [`put_if`](crate::SessionStore::put_if) compares.
    pub version: Version,
    /// When the session was created, in store time and whole seconds; a rotation keeps it.
    pub created_at: Timestamp,
    /// The first instant at which it is gone, unless a touch or a write moves it.
    pub expires_at: Timestamp,
    /// The instant that nothing moves it beyond; `None` without an absolute lifetime.
    pub absolute_at: Option<Timestamp>,
    /// The idle period that a touch starts anew; `None` without an idle lifetime.
    pub idle: Option<Duration>,
    /// The owner it is [bound](crate::SessionStore::bind) to.
    pub owner: Option<OwnerKey>,
    /// The label it was bound with; empty if it has none.
    pub label: Label,
}

impl Stored {
    /// The lifetime it is under, to be compared with what it is under later.
    ///
    /// ```
    /// # use cloakroom::{Access, Lifetime, MemoryStore, SessionStore};
    /// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// # let store = MemoryStore::new();
    /// let id = store.create("x".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await?;
    /// let before = store.get(id.key(), Access::Touch).await?.unwrap();
    /// store.put(id.key(), "y".into()).await?; // no write but an explicit one changes a lifetime
    /// assert_eq!(store.get(id.key(), Access::Peek).await?.unwrap().terms(), before.terms());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn terms(&self) -> Terms {
        let idle_ms = self.idle.map_or(0, |idle| Timestamp::default().saturating_add(idle).as_millis());
        Terms { idle_ms, absolute_at: self.absolute_at.unwrap_or(Timestamp::MAX) }
    }
}

/// Whether reading a session counts as using it.
///
/// ```
/// # use cloakroom::{Access, MemoryStore, SessionKey, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// assert!(MemoryStore::new().get(SessionKey::of(b"nobody"), Access::Touch).await?.is_none());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Only look: the deadline stays.
    Peek,
    /// The session is in use: its idle period starts anew. What nearly every request does.
    Touch,
}

/// On what condition a [`write`](crate::SessionStore::write) happens.
///
/// ```
/// # use cloakroom::{Lifetime, MemoryStore, SessionKey, SessionStore, When};
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// let (store, key) = (MemoryStore::new(), SessionKey::of(b"user/42"));
/// assert!(store.write(key, "x".into(), When::Present).await?.is_none());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// The session is live; it keeps its lifetime, and its idle period starts anew.
    Present,
    /// The session is live and at this version; else [`Error::Conflict`](crate::Error::Conflict), or nothing if it is gone.
    Version(Version),
    /// The same, and it begins this lifetime. If it is not under the [`Terms`] it was loaded under any more, since somebody else gave it
    /// another lifetime, each part ends when the earlier of the two does: a shortening wins over who did not know of it.
    VersionWith {
        /// The version the session must be at.
        version: Version,
        /// What it begins.
        lifetime: Lifetime,
        /// What the caller knew.
        loaded: Terms,
    },
    /// No live session has the key, else [`Error::AlreadyExists`](crate::Error::AlreadyExists); it begins this lifetime.
    Absent(Lifetime),
    /// Always: a new session, or a new payload *and* lifetime for the one that is there.
    Always(Lifetime),
}

/// Whose sessions a [`revoke`](crate::SessionStore::revoke) ends.
///
/// ```
/// # use cloakroom::{MemoryStore, OwnerKey, SessionStore, Whose};
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// MemoryStore::new().revoke(Whose::Owner(OwnerKey::of(b"user/42")), None).await?; // signed out everywhere
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// Every session that is bound to this owner.
    Owner(OwnerKey),
    /// Every session that is bound to any owner. Those of visitors who never signed in stay.
    Everybody,
}

impl Whose {
    /// The owner, if it is one.
    pub(crate) fn owner(self) -> Option<OwnerKey> {
        match self {
            Self::Owner(owner) => Some(owner),
            Self::Everybody => None,
        }
    }
}

/// Where a walk through all keys stands; it comes with a [`KeyPage`].
///
/// ```
/// # use cloakroom::{MemoryStore, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// assert!(MemoryStore::new().keys(None, 100).await?.next.is_none());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor(pub(crate) Place);

/// How each back end orders its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In this shard of the index, this many slots are still to visit.
    Slots { shard: u32, left: u32 },
    /// In key order, behind this key.
    After(SessionKey),
}

/// A page of keys, and where the next begins.
///
/// ```
/// use cloakroom::{MemoryStore, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// let store = MemoryStore::new();
/// let mut cursor = None;
/// loop {
///     let page = store.keys(cursor, 1_000).await?;
///     for key in page.keys { println!("{key}"); }
///     cursor = page.next;
///     if cursor.is_none() { break }
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct KeyPage {
    /// Keys of sessions that were live when the page was made.
    pub keys: Vec<SessionKey>,
    /// `None` after the last page.
    pub next: Option<Cursor>,
}

/// A session of an owner, for a page that shows people where they are signed in.
///
/// ```
/// use cloakroom::{Binding, Label, Lifetime, MemoryStore, OwnerKey, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// let (store, ann) = (MemoryStore::new(), OwnerKey::of(b"ann"));
/// let hour = Lifetime::idle(std::time::Duration::from_secs(3600));
/// let id = store.create_owned("".into(), hour, Binding::to(ann).labelled(Label::new("phone")?)).await?;
/// let sessions = store.owned(ann, None, 100).await?.sessions;
/// assert_eq!((sessions[0].key, sessions[0].label.as_str()), (id.key(), "phone"));
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OwnedSession {
    /// What ends it: [`delete`](crate::SessionStore::delete). It is no secret that signs anybody in.
    pub key: SessionKey,
    /// When it was created, in store time and whole seconds; a rotation keeps it.
    pub created_at: Timestamp,
    /// When it was last in use, to the grain of a touch ([`Lifetime`](crate::Lifetime)), and no later than it really was; where the absolute end is
    /// nearer than the idle one, an idle period before that end. `None` without an idle lifetime, where nothing notes it.
    pub seen_at: Option<Timestamp>,
    /// The first instant at which it is gone, unless a touch or a write moves it.
    pub expires_at: Timestamp,
    /// Empty if it has none.
    pub label: Label,
}

/// A page of an owner's sessions, and where the next begins.
///
/// ```
/// # use cloakroom::{MemoryStore, OwnerKey, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// let page = MemoryStore::new().owned(OwnerKey::of(b"ann"), None, 100).await?;
/// assert!(page.sessions.is_empty() && page.next.is_none());
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OwnedPage {
    /// Sessions that were live when the page was made, in no order.
    pub sessions: Vec<OwnedSession>,
    /// `None` after the last page.
    pub next: Option<Cursor>,
}

/// Figures of a store, all counted since it opened unless they say what is there now. A [`MemoryStore`](crate::MemoryStore) has no log:
/// those figures are zero.
///
/// ```
/// # use cloakroom::{MemoryStore, SessionStore};
/// assert_eq!(MemoryStore::new().stats().sessions, 0);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Sessions there now, as [`len`](crate::SessionStore::len) counts them.
    pub sessions: u64,
    /// Sessions that reached their deadline.
    pub expired: u64,
    /// Sessions that a revocation ended, once they are out of memory.
    pub revoked: u64,
    /// Sessions ended since their owner signed in elsewhere and may have no more ([`AtCap`](crate::AtCap)).
    pub evicted: u64,
    /// Touches asked for on a live session.
    pub touches: u64,
    /// Those that needed a log record; the others were covered by the grain.
    pub touches_logged: u64,
    /// Records written, touches included, compaction not.
    pub records: u64,
    /// Bytes of those records.
    pub record_bytes: u64,
    /// Groups written, each with one system call.
    pub groups: u64,
    /// Syncs of log segments.
    pub syncs: u64,
    /// Bytes copied by compaction.
    pub compacted_bytes: u64,
    /// Segments there now.
    pub segments: u64,
    /// Of them, those that compaction or the check behind the open found damaged, or that the check could not read; an
    /// [`Error::Corrupt`](crate::Error::Corrupt) to a read is not counted. What is damaged in them cannot be read, and they are not compacted, but removed
    /// once nothing in them is alive.
    /// [`LogStore::verify`](crate::LogStore::verify) tells the places, once the store is closed.
    pub damaged_segments: u64,
    /// Bytes of log there now, footers included, without the space set aside for what comes.
    pub log_bytes: u64,
    /// Those whose loss would change what the next open finds.
    pub live_bytes: u64,
    /// Bytes of memory that the index takes now.
    pub index_bytes: u64,
}
