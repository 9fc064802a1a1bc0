//! What a program holds of a simulated disk: open files, and the lock.
//!
//! They keep nothing themselves. Invariant: dropping one that outlived its life changes nothing in the next.

use std::io;
use std::sync::Arc;

use super::names::FileNumber;
use super::plan::{Call, Fault, Subject};
use super::state::State;
use crate::disk::{DiskFile, Map};
use crate::sync::Mutex;

pub(super) struct SimLock {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) life: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.life == self.life {
            state.locked = false;
        }
    }
}

pub(super) struct SimFile {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) life: u64,
    pub(super) file: FileNumber,
    /// The name it was opened by, for the trace.
    pub(super) name: Arc<str>,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.living(self.life)?;
        Ok(state.file(self.file)?.now.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.state.lock().call(
            self.life,
            Call::Read,
            || Subject::Nothing,
            |state, fault| {
                Fault::refuse(fault)?;
                state.file(self.file)?.read(offset, into)
            },
        )
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let subject = || Subject::Range(Arc::clone(&self.name), offset, bytes.len());
        self.state.lock().call(self.life, Call::Write, subject, |state, fault| {
            state.write(self.file, offset, bytes, fault)
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let subject = || Subject::Cut(Arc::clone(&self.name), len);
        self.state.lock().call(self.life, Call::Truncate, subject, |state, fault| {
            Fault::refuse(fault)?;
            // A length beyond memory is beyond the file, too.
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            state.file(self.file)?.truncate(len);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let subject = || Subject::Name(Arc::clone(&self.name));
        self.state.lock().call(self.life, Call::Sync, subject, |state, fault| state.sync(self.file, fault))
    }

    fn map(&self) -> io::Result<Option<Map>> {
        self.state.lock().living(self.life)?;
        Ok(None)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.state.lock().close(self.life, self.file);
    }
}
