//! The names of a simulated folder: as programs see them, and as they would be after power loss.
//!
//! It knows numbers of files, never their bytes. Invariant: whatever part of the unsynced operations survives, each name leads to a
//! file that once had it, and a name that a rename replaces always leads to a file.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::plan::DirOps;

/// The number of a file, which stays when its name changes.
pub(super) type FileNumber = u64;

pub(super) type Name = Arc<str>;

#[derive(Clone, Default)]
pub(super) struct Names {
    now: BTreeMap<Name, FileNumber>,
    durable: BTreeMap<Name, FileNumber>,
    unsynced: Vec<NameOp>,
}

#[derive(Clone)]
enum NameOp {
    Create { name: Name, file: FileNumber },
    Rename { from: Name, to: Name, file: FileNumber },
    Remove { name: Name, file: FileNumber },
}

impl NameOp {
    /// Does it, unless what it acts on is not there, because an operation that it built on was lost.
    fn apply(&self, names: &mut BTreeMap<Name, FileNumber>) {
        match self {
            Self::Create { name, file } => {
                names.insert(name.clone(), *file);
            }
            Self::Rename { from, to, file } if names.get(from) == Some(file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Self::Remove { name, file } if names.get(name) == Some(file) => {
                names.remove(name);
            }
            Self::Rename { .. } | Self::Remove { .. } => {}
        }
    }
}

impl Names {
    pub(super) fn find(&self, name: &str) -> io::Result<FileNumber> {
        self.now.get(name).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.now.keys().map(ToString::to_string).collect()
    }

    /// If the file has a name.
    pub(super) fn has(&self, file: FileNumber) -> bool {
        self.now.values().any(|f| *f == file)
    }

    /// If the file has a name, or power loss could give it one.
    pub(super) fn may_have(&self, file: FileNumber) -> bool {
        let created = |op: &NameOp| matches!(op, NameOp::Create { file: f, .. } if *f == file);
        self.has(file) || self.durable.values().any(|f| *f == file) || self.unsynced.iter().any(created)
    }

    /// What is named, after power loss.
    pub(super) fn durable(&self) -> &BTreeMap<Name, FileNumber> {
        &self.durable
    }

    pub(super) fn create(&mut self, name: &str, file: FileNumber) {
        self.perform(NameOp::Create { name: name.into(), file });
    }

    /// Gives a file a name that it has always had.
    pub(super) fn place(&mut self, name: &str, file: FileNumber) {
        self.now.insert(name.into(), file);
        self.durable.insert(name.into(), file);
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let file = self.find(from)?;
        if from != to {
            self.perform(NameOp::Rename { from: from.into(), to: to.into(), file });
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        let file = self.find(name)?;
        self.perform(NameOp::Remove { name: name.into(), file });
        Ok(())
    }

    fn perform(&mut self, op: NameOp) {
        op.apply(&mut self.now);
        self.unsynced.push(op);
    }

    pub(super) fn sync(&mut self) {
        for op in self.unsynced.drain(..) {
            op.apply(&mut self.durable);
        }
    }

    /// As for a file: some operations reach the device, all are seen, and the next sync says `Ok` without the others.
    pub(super) fn fail_sync(&mut self, mode: DirOps, rng: &mut Xoshiro256PlusPlus) {
        self.keep_some(mode, rng);
    }

    /// Power loss.
    pub(super) fn lose(&mut self, mode: DirOps, rng: &mut Xoshiro256PlusPlus) {
        self.keep_some(mode, rng);
        self.now.clone_from(&self.durable);
    }

    fn keep_some(&mut self, mode: DirOps, rng: &mut Xoshiro256PlusPlus) {
        let ops = std::mem::take(&mut self.unsynced);
        let kept = rng.random_range(0..=ops.len());
        for (i, op) in ops.iter().enumerate() {
            let survives = match mode {
                DirOps::Ordered => i < kept,
                DirOps::Any => rng.random_bool(0.5),
            };
            if !survives {
                continue;
            }
            op.apply(&mut self.durable);
            // Without a journal the new name may have been written, and the old one not erased yet.
            if let NameOp::Rename { from, to, file } = op
                && mode == DirOps::Any
                && self.durable.get(to) == Some(file)
                && rng.random_bool(0.25)
            {
                self.durable.insert(from.clone(), *file);
            }
        }
    }
}
