//! What can be done about a damaged [`LogStore`]: look at all of it, read what is certain, repair it.
//!
//! Thin: the engine decides. Invariant: none of these makes a folder, and only a salvage changes a file.

use std::path::Path;
#[cfg(feature = "sim")]
use std::sync::Arc;

#[cfg(feature = "sim")]
use crate::disk::Disk;
use crate::engine::{Salvaged, Threads, Verification, open_read_only, salvage, verify};
use crate::error::OpenError;
use crate::options::Options;

use super::LogStore;
use super::log_store::{disk_of, in_thread};

impl LogStore {
    /// Reads everything that counts in a store's folder and checks it, and changes nothing. Damage is reported rather than stopping at the first.
    /// Dropped, it goes on to its end, and holds the folder until then.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open) but [`OpenError::Damaged`]; [`OpenError::Io`] if there is no folder, or its lock file cannot be made.
    ///
    /// ```
    /// # use cloakroom::{LogStore, Options, SessionStore};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # LogStore::open(folder.path(), Options::default()).await?.close().await?;
    /// let found = LogStore::verify(folder.path(), Options::default()).await?;
    /// println!("{} sessions, {} damaged places", found.sessions, found.damaged_places);
    /// # Ok(()) }
    /// ```
    pub async fn verify(folder: impl AsRef<Path>, options: Options) -> Result<Verification, OpenError> {
        let disk = disk_of(folder.as_ref())?;
        in_thread(move |_| verify(&*disk, &options)).await
    }

    /// Repairs a damaged store: what is certain is written anew, every other session is dropped, so that **nobody is logged back in by a
    /// repair**. All files that held it before are kept, under names that begin with `quarantine-`, so it takes as much room again.
    /// A store that is whole is left as it is. Afterwards [`open`](Self::open) succeeds. Dropped, it goes on to its end, and holds the folder until then.
    ///
    /// # Errors
    ///
    /// Those of [`verify`](Self::verify). After one the folder is still damaged, and can be salvaged again.
    ///
    /// ```
    /// # use cloakroom::{LogStore, Options, SessionStore};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # LogStore::open(folder.path(), Options::default()).await?.close().await?;
    /// let done = LogStore::salvage(folder.path(), Options::default()).await?;
    /// println!("{} sessions kept, {} signed out", done.sessions_kept, done.sessions_dropped);
    /// # Ok(()) }
    /// ```
    pub async fn salvage(folder: impl AsRef<Path>, options: Options) -> Result<Salvaged, OpenError> {
        let disk = disk_of(folder.as_ref())?;
        in_thread(move |_| salvage(&*disk, &options)).await
    }

    /// Opens a store, damaged or not, to be read: it serves what is certain, as [`salvage`](Self::salvage) would keep it, and changes no file.
    /// [`recovery`](Self::recovery) says how many sessions are absent because they are not. A session past its deadline is absent,
    /// and stays counted in [`len`](crate::SessionStore::len), since nothing is removed.
    ///
    /// Every write gets [`Error::ReadOnly`](crate::Error::ReadOnly), and so does a read with [`Access::Touch`](crate::Access::Touch) when the
    /// session's deadline has to move for it: read with [`Access::Peek`](crate::Access::Peek). The folder's lock is taken, so it must be possible to
    /// write a lock file there: another process that wrote meanwhile would make nonsense of what is read. For a folder that cannot be
    /// written to, make a copy.
    ///
    /// # Errors
    ///
    /// Those of [`verify`](Self::verify).
    ///
    /// ```
    /// # use cloakroom::{Error, Lifetime, LogStore, Options, SessionStore};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # LogStore::open(folder.path(), Options::default()).await?.close().await?;
    /// let store = LogStore::open_read_only(folder.path(), Options::default()).await?;
    /// let refused = store.create("x".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await;
    /// assert!(matches!(refused, Err(Error::ReadOnly)));
    /// # store.close().await?;
    /// # Ok(()) }
    /// ```
    pub async fn open_read_only(folder: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let disk = disk_of(folder.as_ref())?;
        in_thread(move |_| open_read_only(&disk, options, Threads::Own).map(Self::new)).await
    }

    /// [`verify`](Self::verify) on a disk of the caller's, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`verify`](Self::verify).
    ///
    /// ```
    /// use cloakroom::{LogStore, Options, disk::sim::SimDisk};
    /// let disk = std::sync::Arc::new(SimDisk::new(1));
    /// LogStore::open_by_hand(disk.clone(), Options::default())?;
    /// assert!(LogStore::verify_on(disk, Options::default())?.is_sound());
    /// # Ok::<(), cloakroom::OpenError>(())
    /// ```
    #[cfg(feature = "sim")]
    #[expect(clippy::needless_pass_by_value, reason = "like `open_on`")]
    pub fn verify_on(disk: Arc<dyn Disk>, options: Options) -> Result<Verification, OpenError> {
        verify(&*disk, &options)
    }

    /// [`salvage`](Self::salvage) on a disk of the caller's, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`verify`](Self::verify).
    ///
    /// ```
    /// use cloakroom::{LogStore, Options, disk::sim::SimDisk};
    /// let disk = std::sync::Arc::new(SimDisk::new(1));
    /// LogStore::open_by_hand(disk.clone(), Options::default())?;
    /// assert!(LogStore::salvage_on(disk, Options::default())?.damage.is_empty());
    /// # Ok::<(), cloakroom::OpenError>(())
    /// ```
    #[cfg(feature = "sim")]
    #[expect(clippy::needless_pass_by_value, reason = "like `open_on`")]
    pub fn salvage_on(disk: Arc<dyn Disk>, options: Options) -> Result<Salvaged, OpenError> {
        salvage(&*disk, &options)
    }

    /// [`open_read_only`](Self::open_read_only) on a disk of the caller's, without threads.
    ///
    /// # Errors
    ///
    /// Those of [`verify`](Self::verify).
    ///
    /// ```
    /// use cloakroom::{LogStore, Options, SessionStore, disk::sim::SimDisk};
    /// let disk = std::sync::Arc::new(SimDisk::new(1));
    /// LogStore::open_by_hand(disk.clone(), Options::default())?;
    /// assert!(LogStore::open_read_only_by_hand(disk, Options::default())?.is_empty());
    /// # Ok::<(), cloakroom::OpenError>(())
    /// ```
    #[cfg(feature = "sim")]
    #[expect(clippy::needless_pass_by_value, reason = "like `open_on`")]
    pub fn open_read_only_by_hand(disk: Arc<dyn Disk>, options: Options) -> Result<Self, OpenError> {
        open_read_only(&disk, options, Threads::None).map(Self::new)
    }
}
