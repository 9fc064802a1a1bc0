//! The one seam between the store and what keeps its bytes: a flat folder of files.
//!
//! A store says everything it needs of a disk in these two traits; [`real`] answers with the file system, `sim` with memory that
//! forgets, tears and fails on demand. Both pass the same contract tests.
//!
//! What a caller may rely on, and no more:
//!
//! 1. Bytes written are seen by every later read at once, but survive power loss only after [`DiskFile::sync`] on that file
//!    returned `Ok`. After a failed sync nothing is known of the bytes written since the last good one, nor whether the next process reads them.
//! 2. A file created, renamed or removed is seen at once, but survives power loss only after [`Disk::sync_folder`] returned `Ok`.
//! 3. A write changes no byte outside of its range, also when power is lost in its midst; within its range, power loss may
//!    leave any mixture of old and new 512-byte sectors.
//! 4. [`Disk::rename`] is atomic for its new name: power loss leaves the file there, or what was there before. Until the folder is synced the
//!    file may have its old name as well.

use std::io;
use std::sync::Arc;

use rand::TryRng as _;
use rand::rngs::SysRng;

pub mod real;
#[cfg(feature = "sim")]
pub mod sim;

/// The file that carries a folder's lock, next to the folder itself: the disk's own, never listed and never removed.
const LOCK_NAME: &str = "LOCK";

/// A folder of files, named without paths.
pub trait Disk: Send + Sync + 'static {
    /// Makes the folder if it is not there (0700), with its parents, durably.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    fn create_folder(&self) -> io::Result<()>;

    /// Takes the folder's lock, which is held until the answer is dropped or the process ends, however it ends.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] at once when another handle has it, in this process or another.
    fn lock(&self) -> Result<Box<dyn Send + Sync>, LockError>;

    /// The names of all regular files in the folder but the lock's own, in no order; empty if there is no folder. A name that is
    /// not Unicode is shown as nearly as can be: such a file is not a store's.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a new file (0600) with `len` zero bytes, for which the disk has really set space aside.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`; `StorageFull` when there is no room, and then no file is left behind.
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file that is there, for reading and writing.
    ///
    /// # Errors
    ///
    /// `NotFound`, or whatever the operating system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, replacing the file that had it.
    ///
    /// # Errors
    ///
    /// `NotFound`, or whatever the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Open handles and maps of the file go on working.
    ///
    /// # Errors
    ///
    /// `NotFound`, or whatever the operating system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every create, rename and remove so far survive power loss. As with [`DiskFile::sync`]: never again after it failed.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    fn sync_folder(&self) -> io::Result<()>;

    /// Fills with random bytes, for salts and ids: the operating system's. A simulated disk gives its seed's, so that a run can be repeated.
    ///
    /// # Errors
    ///
    /// When the operating system has none.
    fn random(&self, into: &mut [u8]) -> io::Result<()> {
        SysRng.try_fill_bytes(into).map_err(io::Error::other)
    }

    /// The folder, for messages.
    fn name(&self) -> String;
}

/// An open file.
#[cfg_attr(
    feature = "sim",
    expect(
        clippy::len_without_is_empty,
        reason = "a file is no container; nobody asks if a segment is empty"
    )
)]
pub trait DiskFile: Send + Sync + 'static {
    /// Its length in bytes.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Reads exactly `into.len()` bytes at `offset`.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` beyond the end, or whatever the operating system says.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file if need be.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says; then any part of the range may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file to `len` bytes and gives the rest of its space back. It never grows it.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes every write and truncate so far survive power loss. Never call it again after it failed: it may say `Ok` with the data gone.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    fn sync(&self) -> io::Result<()>;

    /// The file as memory, kept in step with later writes; `None` where this disk cannot.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    fn map(&self) -> io::Result<Option<Map>>;
}

/// Stands for a file where there is none: empty, and nothing can be written to it.
pub(crate) struct NoFile;

impl DiskFile for NoFile {
    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn read_at(&self, _offset: u64, _into: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn truncate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self) -> io::Result<Option<Map>> {
        Ok(None)
    }
}

/// A file as memory; it lives on when the file is removed.
pub type Map = Arc<dyn Mapped>;

/// A file as memory.
pub trait Mapped: Send + Sync + 'static {
    /// `len` bytes at `offset`, or `None` beyond what was mapped.
    ///
    /// The caller asks only for bytes whose write has returned, which are never written again, and which the file keeps: reading beyond the end of
    /// a file that was cut kills the process.
    fn bytes(&self, offset: usize, len: usize) -> Option<&[u8]>;

    /// Reads the first `len` bytes in ahead of their use, as far as the system will; this may wait for the disk.
    fn fault_in(&self, len: usize);
}

/// Why a lock was not given.
#[derive(Debug)]
pub enum LockError {
    /// Another handle holds it; the process that does, if it could be told.
    Held(Option<u32>),
    /// The operating system refused.
    Io(io::Error),
}
