//! Which calls of a simulated disk fail, and what calls there were.
//!
//! It decides and counts; what a fault does to the bytes is done elsewhere. Invariant: the same plan and the same calls give the same
//! faults.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

/// How many of the last calls are remembered for printing.
const TRACE_CALLS_MAX: usize = 4_096;

/// What the device writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Which of the creates, renames and removes that were not synced survive power loss.
///
/// ```
/// use cloakroom::disk::sim::{DirOps, SimDisk};
/// let disk = SimDisk::new(7);
/// disk.dir_ops(DirOps::Any);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DirOps {
    /// The first few: a file system with a journal.
    #[default]
    Ordered,
    /// Any of them, as long as what they act on is there, and a file that was renamed perhaps under both names: the worst that POSIX allows.
    Any,
}

/// A call that can be made to fail.
///
/// ```
/// use cloakroom::disk::sim::{Call, Fault, SimDisk};
/// use cloakroom::disk::{Disk, DiskFile};
/// # fn main() -> std::io::Result<()> {
/// let disk = SimDisk::new(1);
/// disk.create_folder()?;
/// let file = disk.create("a", 1)?;
/// disk.fail_call_of(Call::Read, 2, Fault::Eio);
/// assert!(file.read_at(0, &mut [0]).is_ok());
/// assert!(file.read_at(0, &mut [0]).is_err());
/// assert!(file.read_at(0, &mut [0]).is_ok());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Call {
    /// [`Disk::create`](crate::disk::Disk::create)
    Create,
    /// [`Disk::open`](crate::disk::Disk::open)
    Open,
    /// [`Disk::rename`](crate::disk::Disk::rename)
    Rename,
    /// [`Disk::remove`](crate::disk::Disk::remove)
    Remove,
    /// [`Disk::sync_folder`](crate::disk::Disk::sync_folder)
    SyncFolder,
    /// [`DiskFile::write_at`](crate::disk::DiskFile::write_at)
    Write,
    /// [`DiskFile::truncate`](crate::disk::DiskFile::truncate)
    Truncate,
    /// [`DiskFile::sync`](crate::disk::DiskFile::sync)
    Sync,
    /// [`DiskFile::read_at`](crate::disk::DiskFile::read_at): counted apart, since how often a store reads is no part of what
    /// it writes.
    Read,
}

/// How a call fails.
///
/// A write that fails has written any of its sectors, or none. A sync that fails has brought any part to the device and dropped the rest: that is
/// still seen, though the next process may not see it any more, and the next sync says `Ok` without it. Any other call that fails has
/// done nothing.
///
/// ```
/// use cloakroom::disk::sim::{Fault, SimDisk};
/// use cloakroom::disk::Disk;
/// # fn main() -> std::io::Result<()> {
/// let disk = SimDisk::new(1);
/// disk.create_folder()?;
/// disk.fail_call(1, Fault::Enospc);
/// assert_eq!(disk.create("a", 1).err().unwrap().kind(), std::io::ErrorKind::StorageFull);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The device failed.
    Eio,
    /// There is no space left.
    Enospc,
    /// The power goes in the midst of the call, and every later call fails until [`SimDisk::restart`](super::SimDisk::restart).
    PowerLoss,
}

impl Fault {
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Eio | Self::PowerLoss => Errno::IO.into(),
            Self::Enospc => Errno::NOSPC.into(),
        }
    }

    /// Fails for the faults of a call that does nothing when it fails.
    pub(super) fn refuse(fault: Option<Self>) -> io::Result<()> {
        match fault {
            Some(fault @ (Self::Eio | Self::Enospc)) => Err(fault.error()),
            Some(Self::PowerLoss) | None => Ok(()),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Plan {
    planned: Vec<Planned>,
    /// By kind of call.
    calls: [u64; Call::Read as usize + 1],
    trace: VecDeque<Traced>,
}

#[derive(Clone)]
struct Planned {
    /// `None` for all but reads.
    call: Option<Call>,
    /// Calls until it strikes.
    calls_left: u64,
    fault: Fault,
}

#[derive(Clone)]
struct Traced {
    number: u64,
    call: Call,
    subject: Subject,
    fault: Option<Fault>,
}

/// What a call was about; put into words only when it is printed.
#[derive(Clone)]
pub(super) enum Subject {
    Nothing,
    Name(Arc<str>),
    /// A name and a length.
    Sized(Arc<str>, u64),
    /// A name, an offset and a length.
    Range(Arc<str>, u64, usize),
    /// An old name and a new one.
    Names(Arc<str>, Arc<str>),
    /// A name and the length that is left.
    Cut(Arc<str>, u64),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Name(name) => write!(f, "{name}"),
            Self::Sized(name, len) => write!(f, "{name} of {len}"),
            Self::Range(name, offset, len) => write!(f, "{name} {offset}+{len}"),
            Self::Names(from, to) => write!(f, "{from} to {to}"),
            Self::Cut(name, len) => write!(f, "{name} to {len}"),
        }
    }
}

impl Plan {
    pub(super) fn add(&mut self, call: Option<Call>, n: u64, fault: Fault) {
        self.planned.push(Planned { call, calls_left: n.max(1), fault });
    }

    pub(super) fn clear(&mut self) {
        self.planned.clear();
    }

    /// All calls but reads.
    pub(super) fn calls(&self) -> u64 {
        self.calls.iter().sum::<u64>() - self.calls_of(Call::Read)
    }

    pub(super) fn calls_of(&self, call: Call) -> u64 {
        self.calls[call as usize]
    }

    /// Counts a call, and says if it shall fail: the first fault planned for it does, should there be more.
    pub(super) fn count(&mut self, call: Call, subject: impl FnOnce() -> Subject) -> Option<Fault> {
        self.calls[call as usize] += 1;
        for planned in &mut self.planned {
            if planned.call.map_or(call != Call::Read, |of| of == call) {
                planned.calls_left -= 1;
            }
        }
        let fault = self.planned.iter().find(|planned| planned.calls_left == 0).map(|planned| planned.fault);
        self.planned.retain(|planned| planned.calls_left > 0);
        if call != Call::Read {
            if self.trace.len() == TRACE_CALLS_MAX {
                self.trace.pop_front();
            }
            self.trace.push_back(Traced { number: self.calls(), call, subject: subject(), fault });
        }
        fault
    }

    pub(super) fn trace(&self) -> Vec<String> {
        let line = |t: &Traced| {
            let fault = t.fault.map_or(String::new(), |fault| format!(" -> {fault:?}"));
            format!("{} {:?} {}{fault}", t.number, t.call, t.subject)
        };
        self.trace.iter().map(line).collect()
    }
}
