//! [`LogStore`]: the handle of the log-structured engine.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::contract::{Access, Cursor, KeyPage, OwnedPage, Stats, Stored, When, Whose};
use crate::disk::Disk;
use crate::disk::real::RealDisk;
#[cfg(feature = "sim")]
use crate::engine::Work;
use crate::engine::{Engine, Recovery, Threads, open};
use crate::error::OpenError;
use crate::events::Events;
use crate::id::{OwnerKey, SessionId, SessionKey, Version};
use crate::lifetime::Lifetime;
use crate::options::{Durability, Options};
use crate::owner::Binding;
use crate::sync::{Pending, Signal, spawn};

use super::{Answer, SessionStore};

/// How often [`LogStore::open_wait`] asks for the folder's lock.
const LOCK_ROUND: Duration = Duration::from_millis(20);

/// The log-structured store: sessions in memory-mapped log segments, durable as asked for.
///
/// A handle is cheap to clone; all clones are one store. When the last one is dropped the store closes itself in the background, which frees
/// the folder a moment later; [`close`](SessionStore::close) does it in sight and tells of errors. A process that ends before that counts as killed, so
/// await a close at the end of `main`.
///
/// ```
/// use cloakroom::{Access, Lifetime, LogStore, Options, SessionStore};
/// use std::time::Duration;
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let store = LogStore::open(folder.path(), Options::default()).await?;
/// let id = store.create("cart".into(), Lifetime::idle(Duration::from_secs(1800))).await?;
/// store.close().await?;
///
/// let store = LogStore::open(folder.path(), Options::default()).await?;
/// assert_eq!(store.get(id.key(), Access::Touch).await?.unwrap().payload, "cart");
/// # store.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct LogStore {
    handle: Arc<Handle>,
    durability: Durability,
    delete_durability: Durability,
}

/// Ends the store with its last clone.
struct Handle(Arc<Engine>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.begin_close();
    }
}

impl LogStore {
    /// Opens the store in `folder`, which is made if it is not there. A thread of its own reads the log; the caller waits without blocking.
    ///
    /// # Errors
    ///
    /// [`OpenError::Locked`] if another handle has it open, here or in another process; [`OpenError::ForeignFolder`], [`OpenError::Damaged`],
    /// [`OpenError::UnknownFormat`], [`OpenError::InvalidOption`], [`OpenError::Io`].
    ///
    /// ```
    /// # use cloakroom::{LogStore, Options, SessionStore};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// let store = LogStore::open(folder.path().join("sessions"), Options::default()).await?;
    /// # store.close().await?;
    /// # Ok(()) }
    /// ```
    pub async fn open(folder: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        Self::open_wait(folder, options, Duration::ZERO).await
    }

    /// The same, waiting up to `patience` for whoever holds the folder to close it: in a rolling deploy the old process closes and the new one
    /// takes over. Dropped while it waits it takes nothing; dropped while it opens, the store closes itself in the background.
    ///
    /// # Errors
    ///
    /// [`OpenError::Locked`] when the patience is over, and those of [`open`](Self::open).
    ///
    /// ```
    /// # use cloakroom::{LogStore, Options, SessionStore};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// let old = LogStore::open(folder.path(), Options::default()).await?;
    /// drop(old);
    /// let new = LogStore::open_wait(folder.path(), Options::default(), std::time::Duration::from_secs(10)).await?;
    /// # new.close().await?;
    /// # Ok(()) }
    /// ```
    pub async fn open_wait(
        folder: impl AsRef<Path>,
        options: Options,
        patience: Duration,
    ) -> Result<Self, OpenError> {
        let disk = disk_of(folder.as_ref())?;
        Self::open_in_thread(disk, options, patience, Threads::Own).await
    }

    /// Opens a store on a disk of the caller's, such as the simulated one.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    ///
    /// ```
    /// use cloakroom::{LogStore, Options, SessionStore, disk::sim::SimDisk};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let disk = SimDisk::new(1);
    /// let store = LogStore::open_on(std::sync::Arc::new(disk), Options::default()).await?;
    /// # store.close().await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "sim")]
    pub async fn open_on(disk: Arc<dyn Disk>, options: Options) -> Result<Self, OpenError> {
        Self::open_in_thread(disk, options, Duration::ZERO, Threads::Own).await
    }

    /// Opens a store without threads: nothing reaches the disk but in [`step`](Self::step), so a simulation of one seed runs one way.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    ///
    /// ```
    /// use cloakroom::{LogStore, Options, disk::sim::SimDisk};
    /// let store = LogStore::open_by_hand(std::sync::Arc::new(SimDisk::new(1)), Options::default())?;
    /// store.step();
    /// # Ok::<(), cloakroom::OpenError>(())
    /// ```
    #[cfg(feature = "sim")]
    #[expect(clippy::needless_pass_by_value, reason = "like `open_on`")]
    pub fn open_by_hand(disk: Arc<dyn Disk>, options: Options) -> Result<Self, OpenError> {
        open(&disk, &options, Threads::None).map(Self::new)
    }

    /// Does all the background work there is, for a store without threads.
    ///
    /// ```
    /// # use cloakroom::{LogStore, Options, disk::sim::SimDisk};
    /// # let store = LogStore::open_by_hand(std::sync::Arc::new(SimDisk::new(1)), Options::default())?;
    /// store.step();
    /// # Ok::<(), cloakroom::OpenError>(())
    /// ```
    #[cfg(feature = "sim")]
    pub fn step(&self) {
        self.engine().step();
    }

    /// Does one part of the background work, for a store without threads.
    ///
    /// ```
    /// # use cloakroom::{LogStore, Options, Work, disk::sim::SimDisk};
    /// # let store = LogStore::open_by_hand(std::sync::Arc::new(SimDisk::new(1)), Options::default())?;
    /// store.work(Work::Sync);
    /// # Ok::<(), cloakroom::OpenError>(())
    /// ```
    #[cfg(feature = "sim")]
    pub fn work(&self, work: Work) {
        self.engine().work(work);
    }

    async fn open_in_thread(
        disk: Arc<dyn Disk>,
        options: Options,
        patience: Duration,
        threads: Threads,
    ) -> Result<Self, OpenError> {
        let open = move |is_given_up: &dyn Fn() -> bool| {
            open_patiently(&disk, &options, patience, threads, is_given_up)
        };
        in_thread(move |is_given_up| open(is_given_up).map(Self::new)).await
    }

    pub(super) fn new(engine: Arc<Engine>) -> Self {
        let (durability, delete_durability) =
            (engine.options().durability, engine.options().delete_durability);
        Self { handle: Arc::new(Handle(engine)), durability, delete_durability }
    }

    /// A handle of the same store whose every write, deletes and touches included, waits for `durability`. An interval below 1 ms or above an
    /// hour is taken as that.
    ///
    /// ```
    /// # use cloakroom::{Durability, Lifetime, LogStore, Options, SessionStore};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = LogStore::open(folder.path(), Options::default()).await?;
    /// let hour = Lifetime::idle(std::time::Duration::from_secs(3600));
    /// let id = store.at(Durability::Sync).create("paid".into(), hour).await?; // survives a power cut from here on
    /// # store.close().await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn at(&self, durability: Durability) -> Self {
        let durability = durability.in_range();
        Self { handle: Arc::clone(&self.handle), durability, delete_durability: durability }
    }

    /// What opening found.
    ///
    /// ```
    /// # use cloakroom::{LogStore, Options, SessionStore};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = LogStore::open(folder.path(), Options::default()).await?;
    /// println!("{:?}", store.recovery());
    /// # store.close().await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.engine().recovery()
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.handle.0
    }
}

/// The folder of this path.
pub(super) fn disk_of(folder: &Path) -> Result<Arc<dyn Disk>, OpenError> {
    // An empty path, say from a variable that is not set, would put a store's files into the current folder.
    if folder.as_os_str().is_empty() {
        let unnamed =
            std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is empty: name a folder");
        return Err(OpenError::io("open a store")(unnamed));
    }
    Ok(Arc::new(RealDisk::new(folder)))
}

/// Does work that waits for the disk on a thread of its own; it can ask whether nobody waits for it any more.
pub(super) async fn in_thread<T: Send + 'static>(
    work: impl FnOnce(&dyn Fn() -> bool) -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    let (answer, opened) = oneshot::channel();
    let started = spawn("open", move || {
        // A caller that does not wait any more drops the store with the answer, which closes it.
        let done = work(&|| answer.is_closed());
        let _ = answer.send(done);
    });
    started.map_err(OpenError::io("start a thread to open the store"))?;
    let ended = |_| std::io::Error::other("the thread that opened the store ended");
    opened.await.map_err(ended).map_err(OpenError::io("open the store"))?
}

fn open_patiently(
    disk: &Arc<dyn Disk>,
    options: &Options,
    patience: Duration,
    threads: Threads,
    is_given_up: &dyn Fn() -> bool,
) -> Result<Arc<Engine>, OpenError> {
    let pause = Signal::default();
    let mut waited = Duration::ZERO;
    loop {
        match open(disk, options, threads) {
            Err(locked @ OpenError::Locked { .. }) if waited < patience => {
                pause.wait(LOCK_ROUND);
                waited += LOCK_ROUND;
                if is_given_up() {
                    // It must not take the folder from those who still wait.
                    return Err(locked);
                }
            }
            opened => return opened,
        }
    }
}

impl SessionStore for LogStore {
    fn write(&self, key: SessionKey, payload: Bytes, when: When) -> Answer<'_, Option<Version>> {
        Pending::new(self.engine().write(key, payload, when, self.durability))
    }

    fn get(&self, key: SessionKey, access: Access) -> Answer<'_, Option<Stored>> {
        match self.engine().get_now(&key, access) {
            Some(answer) => Pending::ready(answer),
            None => Pending::new(self.engine().get(key, access, self.durability)),
        }
    }

    fn touch(&self, key: SessionKey) -> Answer<'_, bool> {
        match self.engine().touch_now(&key) {
            Some(live) => Pending::ready(live),
            None => Pending::new(self.engine().touch(key, self.durability)),
        }
    }

    fn set_lifetime(&self, key: SessionKey, lifetime: Lifetime) -> Answer<'_, bool> {
        Pending::new(self.engine().set_lifetime(key, lifetime, self.durability))
    }

    fn delete(&self, key: SessionKey) -> Answer<'_, bool> {
        Pending::new(self.engine().delete(key, self.delete_durability))
    }

    fn take(&self, key: SessionKey) -> Answer<'_, Option<Stored>> {
        Pending::new(self.engine().take(key, self.delete_durability))
    }

    fn rotate(&self, key: SessionKey) -> Answer<'_, Option<SessionId>> {
        Pending::new(self.engine().rotate(key, None, self.delete_durability))
    }

    fn sign_in(&self, key: SessionKey, binding: Binding) -> Answer<'_, Option<SessionId>> {
        Pending::new(self.engine().rotate(key, Some(binding), self.delete_durability))
    }

    fn create_owned_as(
        &self,
        key: SessionKey,
        payload: Bytes,
        lifetime: Lifetime,
        binding: Binding,
    ) -> Answer<'_, ()> {
        Pending::new(self.engine().create_owned(key, payload, lifetime, binding, self.durability))
    }

    fn bind_as(&self, key: SessionKey, binding: Option<Binding>) -> Answer<'_, bool> {
        Pending::new(self.engine().bind(key, binding, self.delete_durability))
    }

    fn owned(&self, owner: OwnerKey, cursor: Option<Cursor>, limit: usize) -> Answer<'_, OwnedPage> {
        Pending::new(self.engine().owned(owner, cursor, limit))
    }

    fn owned_count(&self, owner: OwnerKey) -> Answer<'_, usize> {
        Pending::ready(self.engine().owned_count(owner))
    }

    fn revoke(&self, whose: Whose, except: Option<SessionKey>) -> Answer<'_, ()> {
        Pending::new(self.engine().revoke(whose, except, self.delete_durability))
    }

    fn keys(&self, cursor: Option<Cursor>, limit: usize) -> Answer<'_, KeyPage> {
        Pending::new(self.engine().keys(cursor, limit))
    }

    fn events(&self) -> Events {
        self.engine().listeners.listen()
    }

    fn len(&self) -> usize {
        self.engine().len()
    }

    fn stats(&self) -> Stats {
        self.engine().stats()
    }

    fn flush(&self) -> Answer<'_, ()> {
        Pending::new(self.engine().flush())
    }

    fn close(&self) -> Answer<'_, ()> {
        self.engine().begin_close();
        Pending::new(self.engine().closed())
    }
}

impl fmt::Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore").field("options", self.engine().options()).finish_non_exhaustive()
    }
}
