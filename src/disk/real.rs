//! The file system: a folder of files through `std::fs`, positional reads and writes, and shared memory maps.
//!
//! The only module that names `std::fs` and `memmap2`, and the only one with `unsafe`. It knows nothing but the folder that it has locked,
//! and repeats what a signal has interrupted: what the operating system answers else is the answer. Unix only: positional reads
//! and writes, file modes and folder syncs have no portable form.
//!
//! Invariants: two holders never have one folder, since the lock is on the folder itself, and on a file in it that is never removed; and once the
//! lock is taken every call is made in the folder that it was taken in, or fails: a store whose folder was moved must not write into the one that
//! took its place.
#![expect(clippy::disallowed_methods, reason = "this is the seam that the lint points to")]

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{self, Path, PathBuf};
use std::sync::Arc;

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{Disk, DiskFile, LOCK_NAME, LockError, Map, Mapped};
use crate::sync::Mutex;

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Bytes of zeros written at a time where the file system cannot set space aside.
const ZEROS_BYTES: usize = 64 << 10;

/// The longest text of a process id, and a line end.
const PID_BYTES_MAX: u64 = 16;

/// A folder of the file system.
///
/// ```
/// use cloakroom::disk::{Disk, DiskFile, real::RealDisk};
/// # fn main() -> std::io::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// let disk = RealDisk::new(folder.path().join("store"));
/// disk.create_folder()?;
/// let file = disk.create("a", 4_096)?;
/// file.write_at(10, b"coat")?;
/// file.sync()?;
/// disk.sync_folder()?;
/// assert_eq!(disk.list()?, ["a"]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RealDisk {
    folder: PathBuf,
    /// The folder in which the lock was taken. It stays open: a sync must not fail for want of a descriptor.
    locked_in: Arc<Mutex<Option<Arc<File>>>>,
}

impl RealDisk {
    /// The folder of this path, which is taken from where the process is now if it is relative. Nothing is touched yet.
    ///
    /// ```
    /// use cloakroom::disk::{Disk, real::RealDisk};
    /// assert_eq!(RealDisk::new("/srv/sessions").name(), "/srv/sessions");
    /// ```
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        // A server may go to another folder once it has opened its store.
        let folder = path::absolute(&folder).unwrap_or(folder);
        Self { folder, locked_in: Arc::default() }
    }

    /// The path of a file, if the folder is still the one that was locked.
    fn path(&self, name: &str) -> io::Result<PathBuf> {
        debug_assert!(!name.contains('/') && name != LOCK_NAME, "{name} is no name for a file of a store");
        self.still_here()?;
        Ok(self.folder.join(name))
    }

    fn still_here(&self) -> io::Result<()> {
        let Some(locked) = self.locked_in() else { return Ok(()) };
        let (here, locked) = (fs::metadata(&self.folder)?, locked.metadata()?);
        if (here.dev(), here.ino()) == (locked.dev(), locked.ino()) {
            return Ok(());
        }
        Err(io::Error::new(ErrorKind::NotFound, "the folder was moved, and another is in its place"))
    }

    fn locked_in(&self) -> Option<Arc<File>> {
        self.locked_in.lock().clone()
    }
}

impl Disk for RealDisk {
    fn create_folder(&self) -> io::Result<()> {
        make_folder(&self.folder)
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>, LockError> {
        let lock = FolderLock::take(&self.folder)?;
        *self.locked_in.lock() = Some(Arc::clone(&lock.folder));
        Ok(Box::new(lock))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            // A link to a file is opened like one, so it is one.
            let is_file = kind.is_file() || kind.is_symlink() && entry.path().is_file();
            if is_file && entry.file_name() != LOCK_NAME {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path(name)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(&path);
        let file = file.map_err(no_room)?;
        if let Err(error) = allocate(&file, len) {
            // The failure that led here says more than one of tidying up after it.
            let _ = fs::remove_file(&path);
            return Err(no_room(error));
        }
        Ok(Arc::new(RealFile { file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(name)?)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from)?, self.path(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name)?)
    }

    fn sync_folder(&self) -> io::Result<()> {
        match self.locked_in() {
            Some(folder) => folder.sync_all(),
            None => sync_folder(&self.folder),
        }
    }

    fn name(&self) -> String {
        self.folder.display().to_string()
    }
}

/// The lock of a folder, held until it is dropped.
///
/// The file alone would not do: whoever removes or replaces it makes room for a second holder. The folder alone would not do either: there are
/// file systems that lock no folders, and it has no place for the holder's pid.
struct FolderLock {
    folder: Arc<File>,
    file: File,
}

impl FolderLock {
    /// The file is looked for in the folder that is open, so that both locks are in one folder, whatever becomes of its path.
    fn take(path: &Path) -> Result<Self, LockError> {
        let folder = File::open(path).map_err(LockError::Io)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::io::retry_on_intr(|| {
            rustix::fs::openat(&folder, LOCK_NAME, flags, Mode::from_raw_mode(FILE_MODE))
        });
        let mut file = File::from(file.map_err(|error| LockError::Io(error.into()))?);
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(read_pid(&mut file))),
            Err(TryLockError::Error(error)) if !locks_no_folders(&error) => return Err(LockError::Io(error)),
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        // From here on the drop lets go of both.
        let mut lock = Self { folder: Arc::new(folder), file };
        match lock.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(read_pid(&mut lock.file))),
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        // The pid serves a message only, and a full disk must not keep a store from opening: a failure leaves the file empty.
        let pid = format!("{}\n", std::process::id());
        let _ = lock.file.set_len(0).and_then(|()| lock.file.write_all_at(pid.as_bytes(), 0));
        Ok(lock)
    }
}

impl Drop for FolderLock {
    /// A close is not enough: a process that another thread has just forked has the descriptors too, until it runs its program.
    fn drop(&mut self) {
        // The folder is the last to go: who finds it free finds the file free.
        for locked in [&self.file, &*self.folder] {
            if let Err(error) = locked.unlock() {
                tracing::debug!(%error, "a lock is left for the close to give up");
            }
        }
    }
}

/// Whether a failed lock says that the file system has none for folders, as some of a network do.
fn locks_no_folders(error: &io::Error) -> bool {
    let without = [
        Errno::BADF,
        Errno::INVAL,
        Errno::ISDIR,
        Errno::NOLCK,
        Errno::NOSYS,
        Errno::NOTSUP,
        Errno::OPNOTSUPP,
    ];
    error.kind() == ErrorKind::Unsupported
        || Errno::from_io_error(error).is_some_and(|errno| without.contains(&errno))
}

struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if len < self.len()? { self.file.set_len(len) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn map(&self) -> io::Result<Option<Map>> {
        let bytes = usize::try_from(self.len()?).map_err(|_| ErrorKind::FileTooLarge)?;
        match MmapOptions::new().len(bytes).map_raw_read_only(&self.file) {
            Ok(map) => Ok(Some(Arc::new(FileMap(map)))),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A shared, read-only map. It is no slice as a whole, since bytes that are not written yet may still change.
struct FileMap(MmapRaw);

impl Mapped for FileMap {
    #[expect(
        unsafe_code,
        reason = "a slice of a map is only as safe as the file below it; the argument is at the block"
    )]
    fn bytes(&self, offset: usize, len: usize) -> Option<&[u8]> {
        if offset.checked_add(len)? > self.0.len() {
            return None;
        }
        // SAFETY: the range lies within the map, which lives as long as `self`. The bytes do not change while the slice lives: the caller asks, as
        // `Mapped::bytes` demands, only for bytes whose write has returned and that a log never writes again nor cuts off;
        // other processes are kept out by the modes and the lock of the folder.
        Some(unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(offset), len) })
    }

    fn fault_in(&self, len: usize) {
        // Older kernels do not know the advice; then the first reads fault the pages in.
        if let Err(error) = self.0.advise_range(Advice::PopulateRead, 0, len.min(self.0.len())) {
            tracing::debug!(%error, "a map was not faulted in ahead of its use");
        }
    }
}

/// Makes a folder and what it stands in, from the top down, each synced into its parent before the next is made.
///
/// So only the lowest folder that is there already can be one whose parent an earlier process did not live to sync: that is
/// done here too. Where it may not be (the parent is not ours to read), the folder is not our making either.
fn make_folder(folder: &Path) -> io::Result<()> {
    let parent = match folder.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    if folder.is_dir() {
        return match sync_folder(parent) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            answer => answer,
        };
    }
    if parent != Path::new(".") {
        make_folder(parent)?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        // Another process may make it at the same moment; which of them opens the store, the lock decides.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
        answer => answer?,
    }
    sync_folder(parent)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The process that wrote itself into a lock file.
fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.lines().next()?.parse().ok()
}

/// Sets space aside for `len` zero bytes of an empty file.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    match rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len)) {
        // The file system has no such call, or a sandbox does not know it.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, len),
        answer => Ok(answer?),
    }
}

fn write_zeros(file: &File, len: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut offset = 0;
    while offset < len {
        let bytes = usize::try_from(len - offset).map_or(ZEROS_BYTES, |left| left.min(ZEROS_BYTES));
        file.write_all_at(&zeros[..bytes], offset)?;
        offset += bytes as u64;
    }
    Ok(())
}

/// An exhausted quota is a full disk to those who ask for space.
fn no_room(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::QuotaExceeded => io::Error::new(ErrorKind::StorageFull, error),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_written_to_the_length_asked_for_where_space_cannot_be_set_aside() {
        let file = tempfile::tempfile().unwrap();
        let len = ZEROS_BYTES as u64 * 2 + 7;
        write_zeros(&file, len).unwrap();
        assert_eq!(file.metadata().unwrap().len(), len);
    }

    #[test]
    fn relative_path_names_one_folder_wherever_the_process_goes_later() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(RealDisk::new("sessions").name(), here.join("sessions").display().to_string());
    }

    #[test]
    fn lock_is_given_up_although_its_descriptors_are_open_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        // As a process has them that was forked and runs no program yet.
        let copies = [lock.file.try_clone().unwrap(), lock.folder.try_clone().unwrap()];
        assert!(matches!(FolderLock::take(folder.path()), Err(LockError::Held(Some(_)))));
        drop(lock);
        assert!(FolderLock::take(folder.path()).is_ok());
        drop(copies);
    }

    #[test]
    fn file_system_that_locks_no_folders_is_told_from_one_that_fails() {
        for errno in [Errno::BADF, Errno::NOLCK, Errno::OPNOTSUPP] {
            assert!(locks_no_folders(&errno.into()), "{errno}");
        }
        for errno in [Errno::IO, Errno::INTR, Errno::NOMEM] {
            assert!(!locks_no_folders(&errno.into()), "{errno}");
        }
    }

    #[test]
    fn an_exhausted_quota_counts_as_a_full_disk() {
        assert_eq!(no_room(Errno::DQUOT.into()).kind(), ErrorKind::StorageFull);
        assert_eq!(no_room(Errno::NOSPC.into()).kind(), ErrorKind::StorageFull);
        assert_eq!(no_room(Errno::IO.into()).raw_os_error(), Some(Errno::IO.raw_os_error()));
    }

    #[test]
    fn folder_is_made_with_its_parents_for_the_owner_alone_and_making_it_again_is_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let top = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(top.path().join("a/b"));
        disk.create_folder().unwrap();
        disk.create_folder().unwrap();
        for folder in ["a", "a/b"] {
            let mode = top.path().join(folder).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, FOLDER_MODE);
        }
        disk.create("f", 1).unwrap();
        let mode = top.path().join("a/b/f").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, FILE_MODE);
    }

    #[test]
    fn space_of_a_created_file_is_really_set_aside() {
        use std::os::unix::fs::MetadataExt;
        let top = tempfile::tempdir().unwrap();
        RealDisk::new(top.path()).create("f", 1 << 20).unwrap();
        assert!(top.path().join("f").metadata().unwrap().blocks() * 512 >= 1 << 20);
    }

    #[test]
    fn map_shows_later_writes_and_outlives_the_name() {
        let top = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(top.path());
        let file = disk.create("f", 8_192).unwrap();
        let map = file.map().unwrap().unwrap();
        file.write_at(5_000, b"coat").unwrap();
        disk.remove("f").unwrap();
        assert_eq!(map.bytes(5_000, 4), Some(&b"coat"[..]));
        assert_eq!(map.bytes(8_190, 3), None);
        assert_eq!(disk.create("e", 0).unwrap().map().unwrap().unwrap().bytes(0, 1), None);
    }
}
