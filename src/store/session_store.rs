//! [`SessionStore`]: the one API of every store. What can be said by other operations is provided here, once.

use bytes::Bytes;

use crate::contract::{Access, Cursor, KeyPage, OwnedPage, Stats, Stored, When, Whose};
use crate::error::Error;
use crate::events::Events;
use crate::id::{OwnerKey, SessionId, SessionKey, Version};
use crate::lifetime::Lifetime;
use crate::owner::Binding;
use crate::sync::Pending;

use super::{Answer, Change};

/// A store of sessions: one API, whatever keeps them.
///
/// The trait works as `dyn SessionStore`. Sessions are named by [`SessionKey`]; for a cookie's [`SessionId`] that is
/// [`id.key()`](SessionId::key). What is past its deadline, deleted or rotated away is absent to every call here at that instant.
///
/// Reads see a write from the moment it is staged; the *acknowledgement* waits for the durability asked for. Dropping a future
/// before it is ready leaves its write done or undone as a whole.
///
/// ```
/// use cloakroom::{Access, Lifetime, MemoryStore, SessionStore};
/// use std::{sync::Arc, time::Duration};
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// let store: Arc<dyn SessionStore> = Arc::new(MemoryStore::new());
/// let id = store.create("hello".into(), Lifetime::idle(Duration::from_secs(1800))).await?;
/// assert_eq!(store.get(id.key(), Access::Touch).await?.unwrap().payload, "hello");
/// assert!(store.delete(id.key()).await?);
/// assert!(store.get(id.key(), Access::Touch).await?.is_none());
/// # Ok(()) }
/// ```
pub trait SessionStore: Send + Sync + 'static {
    /// Writes a payload under `key`, on a condition; gives the new version, or `None` where the condition wants a live session and there is
    /// none. A refused condition writes nothing. [`put`](Self::put), [`put_if`](Self::put_if), [`upsert`](Self::upsert), [`create_as`](Self::create_as) are this.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] and [`Error::AlreadyExists`] as [`When`] says; [`Error::PayloadTooLarge`], [`Error::InvalidLifetime`],
    /// [`Error::TooManySessions`], [`Error::TooManyAnonymousSessions`]; [`Error::DiskFull`], or [`Error::Io`] where the next segment cannot be made for another reason; [`Error::Poisoned`], [`Error::DurabilityUnknown`], [`Error::ReadOnly`], [`Error::Closed`]; those of a read where the session has a label.
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, SessionKey, SessionStore, When}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> { let store = MemoryStore::new();
    /// let day = Lifetime::absolute(std::time::Duration::from_secs(86_400));
    /// assert!(store.write(SessionKey::of(b"k"), "v".into(), When::Always(day)).await?.is_some());
    /// # Ok(()) }
    /// ```
    fn write(&self, key: SessionKey, payload: Bytes, when: When) -> Answer<'_, Option<Version>>;

    /// The session, if it is live. With [`Access::Touch`] its idle period starts anew, which costs a log record only now and then
    /// ([`Lifetime`]). A warm session costs some 0.2 µs from the processor's cache and about 1 µs from
    /// main memory.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] where the bytes do not match their checksum; [`Error::Io`], [`Error::Closed`]; for a touch also those of a write: [`Access::Peek`] goes on.
    ///
    /// ```
    /// # use cloakroom::{Access, MemoryStore, SessionKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// assert!(MemoryStore::new().get(SessionKey::of(b"k"), Access::Peek).await?.is_none());
    /// # Ok(()) }
    /// ```
    fn get(&self, key: SessionKey, access: Access) -> Answer<'_, Option<Stored>>;

    /// Starts the idle period anew without reading the payload; says whether the session is live.
    ///
    /// # Errors
    ///
    /// Those of a write.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// assert!(!MemoryStore::new().touch(SessionKey::of(b"k")).await?);
    /// # Ok(()) }
    /// ```
    fn touch(&self, key: SessionKey) -> Answer<'_, bool>;

    /// Gives a live session another lifetime, beginning now: longer or shorter. Says whether it was live.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidLifetime`], and those of a write.
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, SessionKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// let minute = Lifetime::absolute(std::time::Duration::from_secs(60));
    /// assert!(!MemoryStore::new().set_lifetime(SessionKey::of(b"k"), minute).await?);
    /// # Ok(()) }
    /// ```
    fn set_lifetime(&self, key: SessionKey, lifetime: Lifetime) -> Answer<'_, bool>;

    /// Deletes the session; says whether it was live. Once acknowledged it is gone for good, also for a request in flight that
    /// saves later.
    ///
    /// # Errors
    ///
    /// Those of a write. A full disk stops it only when the room that is kept for deletes is used up, a sixteenth of a segment; then
    /// [`Error::DiskFull`] until compaction has made more.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// assert!(!MemoryStore::new().delete(SessionKey::of(b"k")).await?);
    /// # Ok(()) }
    /// ```
    fn delete(&self, key: SessionKey) -> Answer<'_, bool>;

    /// [`delete`](Self::delete) that gives the last of the session, with all that was acknowledged before; `None` if it was not live. Dropped before it
    /// is ready it may have happened all the same. The stores here do it in one step; by default it is a read and a delete, which miss what is written between.
    ///
    /// # Errors
    ///
    /// Those of a read, and those of `delete`, which also ends what cannot be read.
    ///
    /// ```
    /// # use cloakroom::{Access, Lifetime, MemoryStore, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> { let store = MemoryStore::new();
    /// let id = store.create("x".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await?;
    /// assert_eq!(store.take(id.key()).await?.unwrap().payload, "x");
    /// assert!(store.get(id.key(), Access::Peek).await?.is_none());
    /// # Ok(()) }
    /// ```
    fn take(&self, key: SessionKey) -> Answer<'_, Option<Stored>> {
        Pending::new(async move {
            let last = self.get(key, Access::Peek).await?;
            Ok(if self.delete(key).await? { last } else { None })
        })
    }

    /// Moves the session to a fresh id, which it gives; the old key is dead at once, in the same log record. Do this when somebody signs in.
    /// `None` if the session was not live. Dropped before it is ready it may have happened all the same, and the id that it would have given is lost.
    ///
    /// Whatever else happens to the session at the same time, it happens before the rotation or after it, and the old key is dead behind it:
    ///
    /// | beside it | if that came first | if the rotation came first |
    /// |---|---|---|
    /// | save, [`put`](Self::put), [`put_if`](Self::put_if) | moves along | writes nothing, `None`: the new id is another secret |
    /// | [`touch`](Self::touch), [`set_lifetime`](Self::set_lifetime) | the deadline moves along | `false`, the deadline stays |
    /// | [`delete`](Self::delete) | `None`, nothing is moved | `false`: the session lives on under the new id, and ends by that or by [`revoke`](Self::revoke) |
    /// | `rotate` | `None`: one of two moves the session | the other gets `None`, and there is one session |
    /// | `revoke` | `None`, nothing is moved | the session is ended under the new id too; `except` spares only the key it names |
    /// | [`bind`](Self::bind) | the owner moves along | `false`, the owner stays |
    /// | [`sign_in`](Self::sign_in) | as two rotations: `None` | the other gets `None` |
    ///
    /// # Errors
    ///
    /// Those of a read and of a write; [`Error::Randomness`].
    ///
    /// ```
    /// # use cloakroom::{Access, Lifetime, MemoryStore, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> { let store = MemoryStore::new();
    /// let old = store.create("x".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await?;
    /// let new = store.rotate(old.key()).await?.expect("it is live");
    /// assert!(store.get(old.key(), Access::Peek).await?.is_none());
    /// assert_eq!(store.get(new.key(), Access::Peek).await?.unwrap().payload, "x");
    /// # Ok(()) }
    /// ```
    fn rotate(&self, key: SessionKey) -> Answer<'_, Option<SessionId>>;

    /// Says whose the session is, with what label and under what cap ([`Binding`]), or with `None` that it is nobody's. Says whether it was live. Payload, lifetime and key stay; the version changes. It waits for the durability of a delete, so that a later
    /// revocation does not miss a session whose binding a power cut took. [`put`](Self::put), [`rotate`](Self::rotate) and
    /// [`upsert`](Self::upsert) of a live session keep owner and label.
    ///
    /// Sessions that give way to this one are ended before it is bound: if it fails or is dropped then, or a power cut comes between, they may be
    /// gone although this one was not bound. The cap costs some ten microseconds, and more where somebody has thousands of sessions.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyOfOwner`]; those of a read and of a write.
    ///
    /// ```
    /// # use cloakroom::{AtCap, Binding, Label, Lifetime, MemoryStore, OwnerKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> { let store = MemoryStore::new();
    /// let ann = Binding::to(OwnerKey::of(b"ann")).labelled(Label::cut("Firefox")).at_most(1, AtCap::EvictIdle);
    /// let visitor = store.create("x".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await?;
    /// assert!(store.bind_as(visitor.key(), Some(ann)).await?);
    /// # Ok(()) }
    /// ```
    fn bind_as(&self, key: SessionKey, binding: Option<Binding>) -> Answer<'_, bool>;

    /// [`rotate`](Self::rotate) and [`bind_as`](Self::bind_as) in one record: a visitor's session goes on as their owner's, under a fresh id, which it
    /// gives; `None` if it was not live. This is what a sign-in is.
    ///
    /// # Errors
    ///
    /// Those of the two.
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, OwnerKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> { let (store, ann) = (MemoryStore::new(), OwnerKey::of(b"ann"));
    /// let visitor = store.create("cart".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await?;
    /// let id = store.sign_in(visitor.key(), ann.into()).await?.expect("it is live");
    /// assert_eq!(store.owned(ann, None, 10).await?.sessions[0].key, id.key());
    /// # Ok(()) }
    /// ```
    fn sign_in(&self, key: SessionKey, binding: Binding) -> Answer<'_, Option<SessionId>>;

    /// A new session that has an owner from the start, under the key of an id that a framework made. No limit of anonymous sessions holds it up.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] if a live session has the key; [`Error::TooManyOfOwner`]; those of [`write`](Self::write). Of sessions that give way
    /// the same is true as for [`bind_as`](Self::bind_as).
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, OwnerKey, SessionKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> { let (store, ann) = (MemoryStore::new(), OwnerKey::of(b"ann"));
    /// let minute = Lifetime::idle(std::time::Duration::from_secs(60));
    /// store.create_owned_as(SessionKey::of(b"the framework's id"), "x".into(), minute, ann.into()).await?;
    /// assert_eq!(store.owned_count(ann).await?, 1);
    /// # Ok(()) }
    /// ```
    fn create_owned_as(
        &self,
        key: SessionKey,
        payload: Bytes,
        lifetime: Lifetime,
        binding: Binding,
    ) -> Answer<'_, ()>;

    /// An owner's live sessions, at most `limit` (1 to 1,000; more is taken as that) from where `cursor` says, `None` for the start. One that is
    /// theirs under one key through the whole walk is met; one may be met twice if others end meanwhile. A page may be short, or empty, with more behind it.
    ///
    /// Each is read from its record, for the key and the label: a microsecond each, or a read of the disk.
    ///
    /// # Errors
    ///
    /// Those of a read.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, OwnerKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// assert!(MemoryStore::new().owned(OwnerKey::of(b"ann"), None, 100).await?.sessions.is_empty());
    /// # Ok(()) }
    /// ```
    fn owned(&self, owner: OwnerKey, cursor: Option<Cursor>, limit: usize) -> Answer<'_, OwnedPage>;

    /// How many live sessions an owner has. Costs some microseconds, and more where there are thousands; reads no record.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, OwnerKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// assert_eq!(MemoryStore::new().owned_count(OwnerKey::of(b"ann")).await?, 0);
    /// # Ok(()) }
    /// ```
    fn owned_count(&self, owner: OwnerKey) -> Answer<'_, usize>;

    /// [`bind_as`](Self::bind_as) without label or cap: a label that is there stays.
    ///
    /// # Errors
    ///
    /// Those of a read and of a write.
    ///
    /// ```
    /// # use cloakroom::{Access, Lifetime, MemoryStore, OwnerKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> { let store = MemoryStore::new();
    /// let id = store.create("x".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await?;
    /// assert!(store.bind(id.key(), Some(OwnerKey::of(b"user/42"))).await?);
    /// # Ok(()) }
    /// ```
    fn bind(&self, key: SessionKey, owner: Option<OwnerKey>) -> Answer<'_, bool> {
        self.bind_as(key, owner.map(Binding::to))
    }

    /// Signs somebody, or everybody, out: ends every session that was bound before this call's record, but for the one under `except`. One small
    /// record, however many sessions: after a crash all of them are gone, or none. A request in flight that saves later revives nobody.
    ///
    /// # Errors
    ///
    /// Those of a write. A full disk stops it when it would stop a [`delete`](Self::delete).
    ///
    /// ```
    /// # use cloakroom::{Access, Lifetime, MemoryStore, OwnerKey, SessionStore, Whose}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> { let store = MemoryStore::new();
    /// # let lifetime = Lifetime::idle(std::time::Duration::from_secs(60));
    /// let owner = OwnerKey::of(b"user/42");
    /// let here = store.create_owned("x".into(), lifetime, owner.into()).await?;
    /// let elsewhere = store.create_owned("y".into(), lifetime, owner.into()).await?;
    /// store.revoke(Whose::Owner(owner), Some(here.key())).await?; // everywhere but here
    /// assert!(store.get(here.key(), Access::Peek).await?.is_some());
    /// assert!(store.get(elsewhere.key(), Access::Peek).await?.is_none());
    /// # Ok(()) }
    /// ```
    fn revoke(&self, whose: Whose, except: Option<SessionKey>) -> Answer<'_, ()>;

    /// Keys of live sessions, at most `limit` (1 to 1,000; more is taken as that) from where `cursor` says, `None` for the start. A session
    /// that lives under one key through the whole walk is met; one may be met twice if others end meanwhile. A page may be short, or empty, with more behind it.
    ///
    /// # Errors
    ///
    /// Those of a read.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// assert!(MemoryStore::new().keys(None, 100).await?.keys.is_empty());
    /// # Ok(()) }
    /// ```
    fn keys(&self, cursor: Option<Cursor>, limit: usize) -> Answer<'_, KeyPage>;

    /// How many sessions there are, those counted that expired within the last second; and those not yet swept while the clock is doubted, or writes are refused.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionStore};
    /// assert_eq!(MemoryStore::new().len(), 0);
    /// ```
    fn len(&self) -> usize;

    /// Whether [`len`](Self::len) is zero.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionStore};
    /// assert!(MemoryStore::new().is_empty());
    /// ```
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What happens to sessions from now on, told as it happens. It costs nothing while nobody listens.
    ///
    /// ```
    /// # use cloakroom::{Event, Lifetime, MemoryStore, SessionStore}; #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = MemoryStore::new();
    /// let mut events = store.events();
    /// let id = store.create("x".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await?;
    /// assert_eq!(events.next().await, Some(Ok(Event::Created { key: id.key() })));
    /// # Ok(()) }
    /// ```
    fn events(&self) -> Events;

    /// Figures of the store. Cheap enough for a metrics scrape, not for every request.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionStore};
    /// assert_eq!(MemoryStore::new().stats().expired, 0);
    /// ```
    fn stats(&self) -> Stats;

    /// A barrier: when it is ready, every write acknowledged before survives power loss.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`], [`Error::DurabilityUnknown`], [`Error::Closed`].
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// MemoryStore::new().flush().await?;
    /// # Ok(()) }
    /// ```
    fn flush(&self) -> Answer<'_, ()>;

    /// Writes and syncs everything, ends the background work and frees the folder, for all handles of the store. Later operations get
    /// [`Error::Closed`]; closing again is fine. It begins with the call and goes on if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::DurabilityUnknown`] where the last writes may not have reached the disk.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// MemoryStore::new().close().await?;
    /// # Ok(()) }
    /// ```
    fn close(&self) -> Answer<'_, ()>;

    /// A new session under a fresh id, which it gives.
    ///
    /// # Errors
    ///
    /// [`Error::Randomness`], and those of [`write`](Self::write).
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// let lifetime = Lifetime::idle(std::time::Duration::from_secs(1800));
    /// let id = MemoryStore::new().create("hello".into(), lifetime).await?;
    /// # Ok(()) }
    /// ```
    fn create(&self, payload: Bytes, lifetime: Lifetime) -> Answer<'_, SessionId> {
        Pending::new(async move {
            let id = SessionId::random()?;
            self.create_as(id.key(), payload, lifetime).await?;
            Ok(id)
        })
    }

    /// A new session under a fresh id, which it gives, with an owner from the start: for who signs in without having been a visitor.
    ///
    /// # Errors
    ///
    /// [`Error::Randomness`], and those of [`create_owned_as`](Self::create_owned_as).
    ///
    /// ```
    /// # use cloakroom::{Access, Binding, Label, Lifetime, MemoryStore, OwnerKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> { let (store, minute) = (MemoryStore::new(), Lifetime::idle(std::time::Duration::from_secs(60)));
    /// let ann = Binding::to(OwnerKey::of(b"ann")).labelled(Label::cut("phone"));
    /// let id = store.create_owned("x".into(), minute, ann).await?;
    /// assert_eq!(store.get(id.key(), Access::Peek).await?.unwrap().label.as_str(), "phone");
    /// # Ok(()) }
    /// ```
    fn create_owned(&self, payload: Bytes, lifetime: Lifetime, binding: Binding) -> Answer<'_, SessionId> {
        Pending::new(async move {
            let id = SessionId::random()?;
            self.create_owned_as(id.key(), payload, lifetime, binding).await?;
            Ok(id)
        })
    }

    /// A new session under the key of an id that a framework made.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] if a live session has the key, and those of [`write`](Self::write).
    ///
    /// ```
    /// # use cloakroom::{Error, Lifetime, MemoryStore, SessionKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// let (store, key) = (MemoryStore::new(), SessionKey::of(b"the framework's id"));
    /// let lifetime = Lifetime::idle(std::time::Duration::from_secs(1800));
    /// store.create_as(key, "a".into(), lifetime).await?;
    /// assert!(matches!(store.create_as(key, "b".into(), lifetime).await, Err(Error::AlreadyExists)));
    /// # Ok(()) }
    /// ```
    fn create_as(&self, key: SessionKey, payload: Bytes, lifetime: Lifetime) -> Answer<'_, ()> {
        let written = self.write(key, payload, When::Absent(lifetime));
        Pending::new(async move { written.await.map(|_| ()) })
    }

    /// Replaces the payload of a live session and starts its idle period anew; `None` if it is gone, and then nothing is written:
    /// a late save revives nobody.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write).
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionKey, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// assert!(MemoryStore::new().put(SessionKey::of(b"gone"), "x".into()).await?.is_none());
    /// # Ok(()) }
    /// ```
    fn put(&self, key: SessionKey, payload: Bytes) -> Answer<'_, Option<Version>> {
        self.write(key, payload, When::Present)
    }

    /// [`put`](Self::put), if the session is still at `version`.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if it is at another, and those of [`write`](Self::write).
    ///
    /// ```
    /// # use cloakroom::{Access, Error, Lifetime, MemoryStore, SessionStore}; #[tokio::main] async fn main() -> Result<(), cloakroom::Error> { let store = MemoryStore::new();
    /// # let id = store.create("x".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await?;
    /// let read = store.get(id.key(), Access::Peek).await?.unwrap();
    /// store.put(id.key(), "somebody else".into()).await?;
    /// assert!(matches!(store.put_if(id.key(), "mine".into(), read.version).await, Err(Error::Conflict { .. })));
    /// # Ok(()) }
    /// ```
    fn put_if(&self, key: SessionKey, payload: Bytes, version: Version) -> Answer<'_, Option<Version>> {
        self.write(key, payload, When::Version(version))
    }

    /// Puts payload and lifetime whether or not there was a session: plain key-value use.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write).
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, SessionKey, SessionStore};
    /// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// let hour = Lifetime::absolute(std::time::Duration::from_secs(3600));
    /// MemoryStore::new().upsert(SessionKey::of(b"rate/192.0.2.1"), "1".into(), hour).await?;
    /// # Ok(()) }
    /// ```
    fn upsert(&self, key: SessionKey, payload: Bytes, lifetime: Lifetime) -> Answer<'_, ()> {
        let written = self.write(key, payload, When::Always(lifetime));
        Pending::new(async move { written.await.map(|_| ()) })
    }

    /// Reads, lets `change` decide, and writes if nobody else did meanwhile; else again, so `change` may run more than once.
    /// Gives the new version, or `None` if the session is gone or `change` gave nothing.
    ///
    /// # Errors
    ///
    /// Those of a read and of [`write`](Self::write), but no conflict.
    ///
    /// ```
    /// # use cloakroom::{Access, Lifetime, MemoryStore, SessionStore};
    /// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> { let store = MemoryStore::new();
    /// # let id = store.create("a".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await?;
    /// store.update(id.key(), &mut |s| Some([&s.payload[..], b"b"].concat().into())).await?;
    /// assert_eq!(store.get(id.key(), Access::Peek).await?.unwrap().payload, "ab");
    /// # Ok(()) }
    /// ```
    fn update<'a>(&'a self, key: SessionKey, change: Change<'a>) -> Answer<'a, Option<Version>> {
        Pending::new(async move {
            while let Some(stored) = self.get(key, Access::Peek).await? {
                let Some(payload) = change(&stored) else { return Ok(None) };
                match self.put_if(key, payload, stored.version).await {
                    Err(Error::Conflict { .. }) => {}
                    done => return done,
                }
            }
            Ok(None)
        })
    }
}
