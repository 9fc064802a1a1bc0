//! All that a simulated disk holds, behind one lock: files, names, the plan of faults, and which life it is in.
//!
//! It hands out no handles. Invariant: nothing is done for a life that has ended, nor while the power is off.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use super::file::Inode;
use super::names::{FileNumber, Names};
use super::plan::Plan;
use super::plan::{Call, DirOps, Fault};

/// The longest file: far beyond a test's, and what a wild length meets before it meets the end of memory.
const FILE_BYTES_MAX: u64 = 4 << 30;

pub(super) struct State {
    rng: Xoshiro256PlusPlus,
    pub(super) folder: bool,
    pub(super) names: Names,
    files: BTreeMap<FileNumber, Inode>,
    /// The number that the next file gets. None is used twice.
    next_file: FileNumber,
    pub(super) plan: Plan,
    pub(super) dir_ops: DirOps,
    pub(super) space_bytes: u64,
    /// Rises when the power goes and when the process is killed.
    pub(super) life: u64,
    pub(super) power: bool,
    pub(super) locked: bool,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            folder: false,
            names: Names::default(),
            files: BTreeMap::new(),
            next_file: 0,
            plan: Plan::default(),
            dir_ops: DirOps::default(),
            space_bytes: u64::MAX,
            life: 0,
            power: true,
            locked: false,
        }
    }

    pub(super) fn copy(&self, seed: u64) -> Self {
        let mut files = self.files.clone();
        for file in files.values_mut() {
            file.handles = 0;
        }
        Self {
            folder: self.folder,
            names: self.names.clone(),
            files,
            next_file: self.next_file,
            dir_ops: self.dir_ops,
            space_bytes: self.space_bytes,
            ..Self::new(seed)
        }
    }

    /// Counts a call and does it. `body` learns how it is to fail, if it is: what it then answers is not heard.
    pub(super) fn call<T>(
        &mut self,
        life: u64,
        call: Call,
        subject: impl FnOnce() -> String,
        body: impl FnOnce(&mut Self, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.living(life)?;
        let fault = self.plan.count(call, subject);
        let answer = body(self, fault);
        match fault {
            None => answer,
            Some(fault) => {
                if fault == Fault::PowerLoss {
                    self.lose_power();
                }
                Err(fault.error())
            }
        }
    }

    /// Fails if a handle of this life can do nothing any more.
    pub(super) fn living(&self, life: u64) -> io::Result<()> {
        if !self.power {
            Err(io::Error::other("the simulated disk has no power"))
        } else if life != self.life {
            Err(io::Error::other("this handle of the simulated disk belongs to a process that has ended"))
        } else {
            Ok(())
        }
    }

    pub(super) fn in_folder(&self) -> io::Result<()> {
        if self.folder { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
    }

    pub(super) fn file(&mut self, file: FileNumber) -> io::Result<&mut Inode> {
        self.files.get_mut(&file).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Makes a file, with one handle open.
    pub(super) fn create(&mut self, name: &str, len: u64) -> io::Result<FileNumber> {
        self.in_folder()?;
        if self.names.find(name).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let bytes = in_memory(len)?;
        if len > self.free_bytes() {
            return Err(Fault::Enospc.error());
        }
        let mut file = Inode::zeros(bytes);
        file.handles = 1;
        let number = self.add(file);
        self.names.create(name, number);
        Ok(number)
    }

    pub(super) fn place(&mut self, name: &str, bytes: &[u8]) {
        self.folder = true;
        // What was not synced before must not undo this later.
        self.names.sync();
        let number = self.add(Inode::durable(bytes));
        self.names.place(name, number);
        self.forget_files();
    }

    fn add(&mut self, file: Inode) -> FileNumber {
        let number = self.next_file;
        self.next_file += 1;
        self.files.insert(number, file);
        number
    }

    pub(super) fn write(
        &mut self,
        number: FileNumber,
        offset: u64,
        bytes: &[u8],
        fault: Option<Fault>,
    ) -> io::Result<()> {
        let end = in_memory(offset.saturating_add(bytes.len() as u64))?;
        let start = end - bytes.len();
        let room = usize::try_from(self.free_bytes()).unwrap_or(usize::MAX);
        let Some(file) = self.files.get_mut(&number) else { return Err(ErrorKind::NotFound.into()) };
        let end_max = file.now.len().saturating_add(room);
        if end > end_max {
            file.write(start, &bytes[..end_max.saturating_sub(start)]);
            return Err(Fault::Enospc.error());
        }
        match fault {
            None => file.write(start, bytes),
            Some(_) => file.write_in_part(start, bytes, &mut self.rng),
        }
        Ok(())
    }

    pub(super) fn sync(&mut self, file: FileNumber, fault: Option<Fault>) -> io::Result<()> {
        let file = self.file(file)?;
        match fault {
            None => file.sync(),
            Some(Fault::Eio | Fault::Enospc) => file.fail_sync(),
            // How far it came, the power loss decides.
            Some(Fault::PowerLoss) => {}
        }
        Ok(())
    }

    pub(super) fn sync_folder(&mut self, fault: Option<Fault>) -> io::Result<()> {
        self.in_folder()?;
        match fault {
            None => self.names.sync(),
            Some(Fault::Eio | Fault::Enospc) => self.names.fail_sync(),
            Some(Fault::PowerLoss) => {}
        }
        self.forget_files();
        Ok(())
    }

    pub(super) fn close(&mut self, life: u64, number: FileNumber) {
        // The handles of a life that has ended were all closed by its end.
        if life == self.life
            && let Some(file) = self.files.get_mut(&number)
        {
            file.handles -= 1;
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let held = |(number, file): &(&FileNumber, &Inode)| file.handles > 0 || self.names.has(**number);
        self.files.iter().filter(held).map(|(_, file)| file.now.len() as u64).sum()
    }

    fn free_bytes(&self) -> u64 {
        match self.space_bytes {
            u64::MAX => u64::MAX,
            limit => limit.saturating_sub(self.used_bytes()),
        }
    }

    pub(super) fn lose_power(&mut self) {
        self.end_life();
        self.power = false;
        self.names.lose(self.dir_ops, &mut self.rng);
        for file in self.files.values_mut() {
            file.lose(&mut self.rng);
        }
        self.forget_files();
    }

    /// Every handle is closed, the lock is free.
    pub(super) fn end_life(&mut self) {
        self.life += 1;
        self.locked = false;
        for file in self.files.values_mut() {
            file.handles = 0;
        }
    }

    /// Lets go of the files that no name or handle can lead to any more, so that memory stays what the disk holds.
    fn forget_files(&mut self) {
        self.files.retain(|number, file| file.handles > 0 || self.names.may_have(*number));
    }
}

fn in_memory(bytes: u64) -> io::Result<usize> {
    if bytes > FILE_BYTES_MAX {
        return Err(ErrorKind::FileTooLarge.into());
    }
    usize::try_from(bytes).map_err(|_| ErrorKind::FileTooLarge.into())
}
