//! All that a simulated disk holds, behind one lock: files, names, the plan of faults, and which life it is in.
//!
//! It hands out no handles. Invariant: nothing is done for a life that has ended, nor while the power is off.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng};

use super::file::Inode;
use super::names::{FileNumber, Name, Names};
use super::plan::{Call, DirOps, Fault, Plan, Subject};

/// The longest file: far beyond a test's, and what a wild length meets before it meets the end of memory.
const FILE_BYTES_MAX: u64 = 4 << 30;

pub(super) struct State {
    /// Decides what is lost.
    rng: Xoshiro256PlusPlus,
    /// What programs get, who must not change what is lost by asking for more.
    pub(super) random: Xoshiro256PlusPlus,
    pub(super) folder: bool,
    pub(super) names: Names,
    files: BTreeMap<FileNumber, Inode>,
    /// The number that the next file gets. None is used twice.
    next_file: FileNumber,
    pub(super) plan: Plan,
    pub(super) dir_ops: DirOps,
    pub(super) space_bytes: u64,
    /// What writes may still take.
    pub(super) write_bytes: u64,
    /// The power losses to try beside each call.
    pub(super) losses: Vec<(u64, DirOps)>,
    /// What they left, each with the number of its call.
    pub(super) forks: Vec<(u64, State)>,
    /// Rises when the power goes and when the process is killed.
    pub(super) life: u64,
    pub(super) power: bool,
    pub(super) locked: bool,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            random: Xoshiro256PlusPlus::seed_from_u64(!seed),
            folder: false,
            names: Names::default(),
            files: BTreeMap::new(),
            next_file: 0,
            plan: Plan::default(),
            dir_ops: DirOps::default(),
            space_bytes: u64::MAX,
            write_bytes: u64::MAX,
            losses: Vec::new(),
            forks: Vec::new(),
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
            // Never again what was given before.
            random: Xoshiro256PlusPlus::seed_from_u64(self.random.clone().random::<u64>() ^ seed),
            ..Self::new(seed)
        }
    }

    /// Whether both hold the same after power loss, as far as that shows without reading.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (mine, others) = (self.names.durable(), other.names.durable());
        let same =
            |((name, file), (other_name, other_file)): ((&Name, &FileNumber), (&Name, &FileNumber))| {
                let files = self.files.get(file).zip(other.files.get(other_file));
                name == other_name && files.is_some_and(|(a, b)| a.is_same(b))
            };
        mine.len() == others.len() && mine.iter().zip(others).all(same)
    }

    /// Counts a call and does it. `body` learns how it is to fail, if it is: what it then answers is not heard.
    pub(super) fn call<T>(
        &mut self,
        life: u64,
        call: Call,
        subject: impl FnOnce() -> Subject,
        mut body: impl FnMut(&mut Self, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.living(life)?;
        let fault = self.plan.count(call, subject);
        if call != Call::Read && !self.losses.is_empty() {
            self.fork(&mut body);
        }
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

    /// Does a call on copies, on which the power goes meanwhile.
    fn fork<T>(&mut self, mut body: impl FnMut(&mut Self, Option<Fault>) -> io::Result<T>) {
        let call = self.plan.calls();
        for (seed, dir_ops) in std::mem::take(&mut self.losses) {
            let mut fork = self.copy(seed);
            fork.dir_ops = dir_ops;
            // What it answers nobody lives to hear.
            let _ = body(&mut fork, Some(Fault::PowerLoss));
            fork.lose_power();
            fork.power = true;
            let is_new = |(_, last): &(u64, Self)| !fork.is_same(last);
            if self.forks.last().is_none_or(is_new) {
                self.forks.push((call, fork));
            }
            self.losses.push((seed, dir_ops));
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
        let left = usize::try_from(self.write_bytes).unwrap_or(usize::MAX);
        let Some(file) = self.files.get_mut(&number) else { return Err(ErrorKind::NotFound.into()) };
        let end_max = file.now.len().saturating_add(room).min(start.saturating_add(left));
        if self.write_bytes != u64::MAX {
            self.write_bytes = self.write_bytes.saturating_sub(bytes.len() as u64);
        }
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
        let Some(file) = self.files.get_mut(&file) else { return Err(ErrorKind::NotFound.into()) };
        match fault {
            None => file.sync(),
            Some(Fault::Eio | Fault::Enospc) => file.fail_sync(&mut self.rng),
            // How far it came, the power loss decides.
            Some(Fault::PowerLoss) => {}
        }
        Ok(())
    }

    pub(super) fn sync_folder(&mut self, fault: Option<Fault>) -> io::Result<()> {
        self.in_folder()?;
        match fault {
            None => self.names.sync(),
            Some(Fault::Eio | Fault::Enospc) => self.names.fail_sync(self.dir_ops, &mut self.rng),
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

    /// Every handle is closed, the lock is free; memory that nothing holds dirty may be put to another use.
    pub(super) fn end_life(&mut self) {
        self.life += 1;
        self.locked = false;
        for file in self.files.values_mut() {
            file.handles = 0;
            file.evict(&mut self.rng);
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
