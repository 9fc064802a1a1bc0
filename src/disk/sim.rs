//! A disk in memory that forgets, tears and fails on demand.
//!
//! It keeps to the contract of [`disk`](super) and to nothing beyond it: what the contract leaves open, a crash decides by the seed. It
//! models no time, no partitions of one sector, and no damage but that which a test asks for.
//!
//! Each [`SimDisk`], file and lock belongs to one *life* of the machine: from its start to the next power loss or killed process. In a
//! later life every call on it fails, as threads and handles of a dead process do nothing any more. The handle on which
//! [`crash`](SimDisk::crash), [`kill`](SimDisk::kill) or [`restart`](SimDisk::restart) is called goes on to the new life; its older clones do not.
//!
//! Invariant: the same seed and the same sequence of calls give the same bytes.

mod file;
mod handles;
mod names;
mod plan;
mod state;

use std::io;
use std::sync::Arc;

use rand::Rng as _;

use self::handles::{SimFile, SimLock};
use self::names::FileNumber;
use self::plan::Subject;
pub use self::plan::{Call, DirOps, Fault, SECTOR_BYTES};
use self::state::State;
use super::{Disk, DiskFile, LockError};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A simulated disk: a handle of one life of its machine; clones share the disk and the life.
///
/// ```
/// use cloakroom::disk::{Disk, DiskFile, sim::SimDisk};
/// # fn main() -> std::io::Result<()> {
/// let disk = SimDisk::new(42);
/// disk.create_folder()?;
/// let file = disk.create("a", 4)?;
/// disk.sync_folder()?;
/// file.write_at(0, b"coat")?;
/// file.sync()?;
/// let program = disk.clone();
/// disk.crash();
/// assert_eq!(disk.contents("a").unwrap(), b"coat");
/// assert!(file.write_at(0, b"late").is_err());
/// assert!(program.list().is_err());
/// # Ok(()) }
/// ```
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    life: AtomicU64,
}

impl Clone for SimDisk {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), life: AtomicU64::new(self.life()) }
    }
}

impl SimDisk {
    /// An empty disk whose every choice follows from `seed`.
    ///
    /// ```
    /// use cloakroom::disk::sim::SimDisk;
    /// assert!(SimDisk::new(1).names().is_empty());
    /// ```
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::holding(State::new(seed))
    }

    /// Another disk with the same files, synced and not, whose later choices follow from another seed: to lose one state in many
    /// ways. It has no faults planned, and nobody holds its lock.
    ///
    /// ```
    /// use cloakroom::disk::{Disk, sim::SimDisk};
    /// let disk = SimDisk::new(1);
    /// disk.set_contents("a", b"coat");
    /// let copy = disk.copy(2);
    /// copy.set_contents("a", b"hat");
    /// assert_eq!(disk.contents("a").unwrap(), b"coat");
    /// ```
    #[must_use]
    pub fn copy(&self, seed: u64) -> Self {
        Self::holding(self.state.lock().copy(seed))
    }

    /// Chooses how the folder forgets; at first [`DirOps::Ordered`].
    ///
    /// ```
    /// # use cloakroom::disk::sim::{DirOps, SimDisk};
    /// SimDisk::new(1).dir_ops(DirOps::Any);
    /// ```
    pub fn dir_ops(&self, dir_ops: DirOps) {
        self.state.lock().dir_ops = dir_ops;
    }

    /// Power loss (unless the power is off already), and a new start. Of what was not synced anything may be lost; planned faults are
    /// forgotten.
    ///
    /// ```
    /// use cloakroom::disk::{Disk, sim::SimDisk};
    /// # fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::new(1);
    /// disk.create_folder()?;
    /// let lock = disk.lock();
    /// disk.crash();
    /// assert!(disk.lock().is_ok());
    /// # Ok(()) }
    /// ```
    pub fn crash(&self) {
        self.state.lock().lose_power();
        self.restart();
    }

    /// The process is killed, and a new one starts. What it wrote is all there, but no more synced than before.
    ///
    /// ```
    /// use cloakroom::disk::{Disk, DiskFile, sim::SimDisk};
    /// # fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::new(1);
    /// disk.create_folder()?;
    /// disk.create("a", 0)?.write_at(0, b"coat")?;
    /// disk.kill();
    /// assert_eq!(disk.contents("a").unwrap(), b"coat");
    /// # Ok(()) }
    /// ```
    pub fn kill(&self) {
        self.state.lock().end_life();
        self.restart();
    }

    /// The power is on again after [`crash_at_call`](Self::crash_at_call) struck, and this handle is of the life that now is; else
    /// only the latter. Planned faults are forgotten.
    ///
    /// ```
    /// use cloakroom::disk::{Disk, sim::SimDisk};
    /// # fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::new(1);
    /// disk.create_folder()?;
    /// disk.crash_at_call(1);
    /// assert!(disk.create("a", 1).is_err());
    /// assert!(disk.list().is_err());
    /// disk.restart();
    /// assert!(disk.list().is_ok());
    /// # Ok(()) }
    /// ```
    pub fn restart(&self) {
        let mut state = self.state.lock();
        state.power = true;
        state.plan.clear();
        self.life.store(state.life, Ordering::Relaxed);
    }

    /// If the power is on: `false` from the moment that [`Fault::PowerLoss`] strikes until the restart.
    ///
    /// ```
    /// # use cloakroom::disk::sim::SimDisk;
    /// assert!(SimDisk::new(1).has_power());
    /// ```
    #[must_use]
    pub fn has_power(&self) -> bool {
        self.state.lock().power
    }

    /// Makes the `n`-th call from now fail, reads not counted; 1 is the next.
    ///
    /// ```
    /// use cloakroom::disk::{Disk, sim::{Fault, SimDisk}};
    /// # fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::new(1);
    /// disk.create_folder()?;
    /// disk.fail_call(2, Fault::Eio);
    /// assert!(disk.create("a", 1).is_ok());
    /// assert!(disk.sync_folder().is_err());
    /// # Ok(()) }
    /// ```
    pub fn fail_call(&self, n: u64, fault: Fault) {
        self.state.lock().plan.add(None, n, fault);
    }

    /// Makes the `n`-th call of one kind from now fail; 1 is the next.
    ///
    /// ```
    /// use cloakroom::disk::{Disk, sim::{Call, Fault, SimDisk}};
    /// # fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::new(1);
    /// disk.create_folder()?;
    /// disk.fail_call_of(Call::SyncFolder, 1, Fault::Eio);
    /// assert!(disk.create("a", 1).is_ok());
    /// assert!(disk.sync_folder().is_err());
    /// # Ok(()) }
    /// ```
    pub fn fail_call_of(&self, call: Call, n: u64, fault: Fault) {
        self.state.lock().plan.add(Some(call), n, fault);
    }

    /// Makes the power go in the midst of the `n`-th call from now, reads not counted; 1 is the next.
    ///
    /// ```
    /// # use cloakroom::disk::{Disk, sim::SimDisk};
    /// let disk = SimDisk::new(1);
    /// disk.crash_at_call(1);
    /// assert!(disk.sync_folder().is_err());
    /// assert!(!disk.has_power());
    /// ```
    pub fn crash_at_call(&self, n: u64) {
        self.fail_call(n, Fault::PowerLoss);
    }

    /// From now on, until [`take_forks`](Self::take_forks), keeps beside each call, reads not counted, what power loss in its midst would have
    /// left: a disk for each of these seeds, whose folder forgets in this way. So one run gives every crash of it. A disk that surely holds what
    /// the one before it holds is left out.
    ///
    /// ```
    /// # use cloakroom::disk::{Disk, sim::{DirOps, SimDisk}};
    /// # fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::new(1);
    /// disk.create_folder()?;
    /// disk.fork_at_calls(&[(7, DirOps::Ordered), (8, DirOps::Any)]);
    /// disk.create("a", 1)?;
    /// disk.sync_folder()?;
    /// assert!((2..=4).contains(&disk.take_forks().len()));
    /// # Ok(()) }
    /// ```
    pub fn fork_at_calls(&self, losses: &[(u64, DirOps)]) {
        let mut state = self.state.lock();
        state.losses = losses.to_vec();
        state.forks.clear();
    }

    /// The disks that [`fork_at_calls`](Self::fork_at_calls) asked for, each with the number of its call (the first call ever is 1) and restarted.
    ///
    /// ```
    /// # use cloakroom::disk::{Disk, sim::{DirOps, SimDisk}};
    /// let disk = SimDisk::new(1);
    /// disk.fork_at_calls(&[(7, DirOps::Any)]);
    /// disk.set_contents("a", b"coat");
    /// disk.open("a").unwrap().sync().unwrap();
    /// let calls: Vec<u64> = disk.take_forks().into_iter().map(|(call, _)| call).collect();
    /// assert_eq!(calls, [1], "a sync that had nothing to do changed nothing");
    /// ```
    #[must_use]
    pub fn take_forks(&self) -> Vec<(u64, SimDisk)> {
        let mut state = self.state.lock();
        state.losses.clear();
        let forks = std::mem::take(&mut state.forks);
        forks.into_iter().map(|(call, state)| (call, Self::holding(state))).collect()
    }

    /// Lets all writes together take this many more bytes: the one that goes beyond leaves what fits and fails for lack of space, and so does
    /// every later one; `u64::MAX` is no limit. On some file systems also a write into space set aside can meet a full disk.
    ///
    /// ```
    /// use cloakroom::disk::{Disk, DiskFile, sim::SimDisk};
    /// # fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::new(1);
    /// disk.create_folder()?;
    /// let file = disk.create("a", 4)?;
    /// disk.write_bytes(3);
    /// assert!(file.write_at(0, b"coat").is_err());
    /// assert_eq!(disk.contents("a").unwrap(), b"coa\0");
    /// # Ok(()) }
    /// ```
    pub fn write_bytes(&self, left: u64) {
        self.state.lock().write_bytes = left;
    }

    /// Limits what all files may hold; `u64::MAX` is no limit. Files that are there stay, however long they are.
    ///
    /// ```
    /// use cloakroom::disk::{Disk, sim::SimDisk};
    /// # fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::new(1);
    /// disk.create_folder()?;
    /// disk.space_bytes(1_000);
    /// assert!(disk.create("a", 600).is_ok());
    /// assert!(disk.create("b", 600).is_err());
    /// # Ok(()) }
    /// ```
    pub fn space_bytes(&self, limit: u64) {
        self.state.lock().space_bytes = limit;
    }

    /// Bytes that all files hold: those with a name, and those without one that are still open.
    ///
    /// ```
    /// # use cloakroom::disk::sim::SimDisk;
    /// let disk = SimDisk::new(1);
    /// disk.set_contents("a", b"coat");
    /// assert_eq!(disk.used_bytes(), 4);
    /// ```
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// Calls so far, in all lives, reads not counted: what [`crash_at_call`](Self::crash_at_call) can be given a number of.
    ///
    /// ```
    /// # use cloakroom::disk::{Disk, sim::SimDisk};
    /// let disk = SimDisk::new(1);
    /// let _ = disk.remove("a");
    /// assert_eq!(disk.calls(), 1);
    /// ```
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().plan.calls()
    }

    /// Calls of one kind so far, in all lives.
    ///
    /// ```
    /// # use cloakroom::disk::{Disk, sim::{Call, SimDisk}};
    /// let disk = SimDisk::new(1);
    /// let _ = disk.remove("a");
    /// assert_eq!((disk.calls_of(Call::Remove), disk.calls_of(Call::Read)), (1, 0));
    /// ```
    #[must_use]
    pub fn calls_of(&self, call: Call) -> u64 {
        self.state.lock().plan.calls_of(call)
    }

    /// The last calls, a line each, reads left out: to print when a test fails.
    ///
    /// ```
    /// # use cloakroom::disk::{Disk, sim::SimDisk};
    /// let disk = SimDisk::new(1);
    /// let _ = disk.remove("a");
    /// assert_eq!(disk.trace(), ["1 Remove a"]);
    /// ```
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.state.lock().plan.trace()
    }

    /// The names of all files, sorted; also while the power is off.
    ///
    /// ```
    /// # use cloakroom::disk::sim::SimDisk;
    /// let disk = SimDisk::new(1);
    /// disk.set_contents("b", b"");
    /// disk.set_contents("a", b"");
    /// assert_eq!(disk.names(), ["a", "b"]);
    /// ```
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.state.lock().names.all()
    }

    /// What a file holds now, synced or not.
    ///
    /// ```
    /// # use cloakroom::disk::sim::SimDisk;
    /// assert!(SimDisk::new(1).contents("a").is_none());
    /// ```
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        let file = state.names.find(name).ok()?;
        Some(state.file(file).ok()?.now.to_vec())
    }

    /// Puts a file there that has always held these bytes, in place of any of that name; it is durable, and so is the folder.
    ///
    /// ```
    /// # use cloakroom::disk::sim::SimDisk;
    /// let disk = SimDisk::new(1);
    /// disk.set_contents("a", b"coat");
    /// disk.crash();
    /// assert_eq!(disk.contents("a").unwrap(), b"coat");
    /// ```
    pub fn set_contents(&self, name: &str, bytes: &[u8]) {
        self.state.lock().place(name, bytes);
    }

    /// Turns one bit (0 to 7) of a file's byte, on the device and in memory. What of the file was not synced counts as synced from then on.
    ///
    /// ```
    /// # use cloakroom::disk::sim::SimDisk;
    /// let disk = SimDisk::new(1);
    /// disk.set_contents("a", b"a");
    /// disk.flip_bit("a", 0, 1).unwrap();
    /// assert_eq!(disk.contents("a").unwrap(), b"c");
    /// ```
    ///
    /// # Errors
    ///
    /// `NotFound`; `UnexpectedEof` beyond the end.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = state.names.find(name)?;
        state.file(file)?.flip_bit(offset, bit)
    }

    fn holding(state: State) -> Self {
        let life = AtomicU64::new(state.life);
        Self { state: Arc::new(Mutex::new(state)), life }
    }

    fn life(&self) -> u64 {
        self.life.load(Ordering::Relaxed)
    }

    fn handle(&self, name: &str, life: u64, file: FileNumber) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { state: Arc::clone(&self.state), life, file, name: name.into() })
    }
}

impl Disk for SimDisk {
    fn create_folder(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.living(self.life())?;
        state.folder = true;
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>, LockError> {
        let (mut state, life) = (self.state.lock(), self.life());
        state.living(life).and_then(|()| state.in_folder()).map_err(LockError::Io)?;
        if state.locked {
            return Err(LockError::Held(Some(std::process::id())));
        }
        state.locked = true;
        Ok(Box::new(SimLock { state: Arc::clone(&self.state), life }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        state.living(self.life())?;
        Ok(state.names.all())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let (mut state, life) = (self.state.lock(), self.life());
        let subject = || Subject::Sized(name.into(), len);
        let file = state.call(life, Call::Create, subject, |state, fault| {
            Fault::refuse(fault)?;
            state.create(name, len)
        })?;
        Ok(self.handle(name, life, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let (mut state, life) = (self.state.lock(), self.life());
        let file = state.call(
            life,
            Call::Open,
            || Subject::Name(name.into()),
            |state, fault| {
                Fault::refuse(fault)?;
                let file = state.names.find(name)?;
                state.file(file)?.handles += 1;
                Ok(file)
            },
        )?;
        Ok(self.handle(name, life, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let subject = || Subject::Names(from.into(), to.into());
        self.state.lock().call(self.life(), Call::Rename, subject, |state, fault| {
            Fault::refuse(fault)?;
            state.names.rename(from, to)
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state.lock().call(
            self.life(),
            Call::Remove,
            || Subject::Name(name.into()),
            |state, fault| {
                Fault::refuse(fault)?;
                state.names.remove(name)
            },
        )
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.state.lock().call(self.life(), Call::SyncFolder, || Subject::Nothing, State::sync_folder)
    }

    fn random(&self, into: &mut [u8]) -> io::Result<()> {
        self.state.lock().random.fill_bytes(into);
        Ok(())
    }

    fn name(&self) -> String {
        "simulated disk".to_owned()
    }
}
