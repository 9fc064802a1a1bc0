//! A disk that shows each call to a hook before it is made: the hook may refuse the call, panic, or only look.
//!
//! It keeps nothing and changes nothing else. Unlike the faults of the simulated disk, a hook also sees the calls that open, lock and map, works over
//! a real folder, and can tell one thread of the store from another by its name.

use std::io;
use std::sync::Arc;

use cloakroom::disk::{Disk, DiskFile, LockError, Map};

/// A call of a disk or of one of its files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum At {
    CreateFolder,
    Lock,
    List,
    Create,
    Open,
    Rename,
    Remove,
    SyncFolder,
    Len,
    Read,
    Write,
    Truncate,
    Sync,
    Map,
}

/// All of them but the lock, whose refusal is told in a way of its own.
pub const CALLS: [At; 13] = [
    At::CreateFolder,
    At::List,
    At::Create,
    At::Open,
    At::Rename,
    At::Remove,
    At::SyncFolder,
    At::Len,
    At::Read,
    At::Write,
    At::Truncate,
    At::Sync,
    At::Map,
];

/// What is asked before each call, with the name of the file or nothing.
pub type Hook = Arc<dyn Fn(At, &str) -> io::Result<()> + Send + Sync>;

pub struct Hooked {
    disk: Arc<dyn Disk>,
    hook: Hook,
}

impl Hooked {
    pub fn on(
        disk: impl Disk,
        hook: impl Fn(At, &str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Arc<dyn Disk> {
        Arc::new(Self { disk: Arc::new(disk), hook: Arc::new(hook) })
    }

    fn file(&self, name: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(HookedFile { file, name: name.into(), hook: Arc::clone(&self.hook) })
    }
}

impl Disk for Hooked {
    fn create_folder(&self) -> io::Result<()> {
        (self.hook)(At::CreateFolder, "")?;
        self.disk.create_folder()
    }
    fn lock(&self) -> Result<Box<dyn Send + Sync>, LockError> {
        (self.hook)(At::Lock, "").map_err(LockError::Io)?;
        self.disk.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        (self.hook)(At::List, "")?;
        self.disk.list()
    }
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        (self.hook)(At::Create, name)?;
        Ok(self.file(name, self.disk.create(name, len)?))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        (self.hook)(At::Open, name)?;
        Ok(self.file(name, self.disk.open(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (self.hook)(At::Rename, from)?;
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        (self.hook)(At::Remove, name)?;
        self.disk.remove(name)
    }
    fn sync_folder(&self) -> io::Result<()> {
        (self.hook)(At::SyncFolder, "")?;
        self.disk.sync_folder()
    }
    fn name(&self) -> String {
        self.disk.name()
    }
}

struct HookedFile {
    file: Arc<dyn DiskFile>,
    name: String,
    hook: Hook,
}

impl DiskFile for HookedFile {
    fn len(&self) -> io::Result<u64> {
        (self.hook)(At::Len, &self.name)?;
        self.file.len()
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        (self.hook)(At::Read, &self.name)?;
        self.file.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (self.hook)(At::Write, &self.name)?;
        self.file.write_at(offset, bytes)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        (self.hook)(At::Truncate, &self.name)?;
        self.file.truncate(len)
    }
    fn sync(&self) -> io::Result<()> {
        (self.hook)(At::Sync, &self.name)?;
        self.file.sync()
    }
    fn map(&self) -> io::Result<Option<Map>> {
        (self.hook)(At::Map, &self.name)?;
        self.file.map()
    }
}
