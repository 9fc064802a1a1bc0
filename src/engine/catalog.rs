//! The manifest on disk and in memory: the list of segments that count, replaced as a whole.
//!
//! # Why a crash at any call leaves a list that opens (P6)
//!
//! 1. `MANIFEST.new` is written and synced under a name that nobody reads: a crash leaves the old list.
//! 2. `MANIFEST.copy` gets the same bytes, synced, for salvage alone; no open reads it, so its own loss costs nothing. A crash here leaves it beside
//!    the old list: it names segments that are all there, and nothing was done upon it yet. One that cannot be written is removed, so none that is
//!    older than the list stays. It tells that a list was durable once: the first list of a life may replace one that a crash takes back, so unless
//!    it names a segment that was sealed, which takes a list that was durable, its copy is made behind step 4.
//!    The list before this one would not do instead: it leaves open what was moved and who was signed out since, so that damage of the list alone
//!    would cost people.
//! 3. The rename is atomic: the old list or the new one, each whole and synced.
//! 4. The folder is synced before [`Catalog::change`] returns, so what the caller does next (take a group, unlink a segment)
//!    is never durable before the list that allows it.
//! 5. Whoever syncs the folder asks the catalog, and so does who changes the list: behind a failure on any thread each of them fails.
//!
//! The new list names only segments whose files and folder entries are synced (the caller's duty), and what it leaves out is
//! unlinked only afterwards: both lists describe a whole store.

use std::io;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::Manifest;
use crate::id::{SegmentId, Seq};
use crate::sync::Mutex;

pub(crate) const MANIFEST: &str = "MANIFEST";
pub(crate) const MANIFEST_NEW: &str = "MANIFEST.new";
/// What a salvage goes by if the manifest is damaged.
pub(crate) const MANIFEST_COPY: &str = "MANIFEST.copy";

/// Of a file that is longer, be it a list of a million segments or damage, no more is read.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// Why the list was not replaced.
pub(crate) enum Unchanged {
    /// The old list counts, on disk and here; it can be tried again.
    Kept(io::Error),
    /// Which list a crash would leave is not known.
    Unknown(io::Error),
}

impl Unchanged {
    pub(crate) fn kind(&self) -> io::ErrorKind {
        let (Self::Kept(e) | Self::Unknown(e)) = self;
        e.kind()
    }
}

impl From<Unchanged> for OpenError {
    /// Whether a folder that could not be synced has what was done in it is not known: that is no lack of room, after which an open is tried again.
    fn from(unchanged: Unchanged) -> Self {
        Self::io("write the manifest")(match unchanged {
            Unchanged::Kept(e) => e,
            Unchanged::Unknown(e) => io::Error::other(e),
        })
    }
}

/// The list that counts.
pub(crate) struct Catalog {
    disk: Arc<dyn Disk>,
    list: Mutex<List>,
}

struct List {
    /// As it is on disk, where it says which ids it had not given yet.
    manifest: Manifest,
    next_segment: u32,
    /// It was replaced in this life, so it is on the device.
    is_durable: bool,
    /// A sync of the folder failed, or the rename of a list.
    is_unknown: bool,
}

impl List {
    /// Syncs the folder, unless that failed before: it may have let go of names then, and say nothing of that now.
    fn sync_folder(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.is_unknown {
            return Err(io::Error::other(
                "an earlier change of the folder failed, and what it has kept is not known",
            ));
        }
        // First, since a call may panic.
        self.is_unknown = true;
        disk.sync_folder()?;
        self.is_unknown = false;
        Ok(())
    }
}

impl Catalog {
    pub(crate) fn new(disk: Arc<dyn Disk>, manifest: Manifest) -> Self {
        let next_segment = manifest.next_segment;
        Self { disk, list: Mutex::new(List { manifest, next_segment, is_durable: false, is_unknown: false }) }
    }

    pub(crate) fn store(&self) -> [u8; 16] {
        self.list.lock().manifest.store
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&Manifest) -> T) -> T {
        look(&self.list.lock().manifest)
    }

    /// An id for a segment that is to be listed. An id that a crash forgets was never listed, and is given again.
    pub(crate) fn take_id(&self) -> SegmentId {
        let mut list = self.list.lock();
        let id = SegmentId(list.next_segment);
        list.next_segment += 1;
        id
    }

    /// Takes back an id that came to nothing, if it was the last: on a full disk there are many tries. Not if the list on disk counts it as given
    /// already, since that list may be what is left one day, and would take a segment of that id for one that is not needed.
    pub(crate) fn give_back(&self, id: SegmentId) {
        let mut list = self.list.lock();
        if list.next_segment == id.0 + 1 && list.manifest.next_segment <= id.0 {
            list.next_segment = id.0;
        }
    }

    /// Whether an id was given in this life or an earlier one, so that no segment to come gets it.
    pub(crate) fn was_given(&self, id: SegmentId) -> bool {
        id.0 < self.list.lock().next_segment
    }

    /// Makes the names in the folder durable. All who need that ask here: one failure ends it for each of them, whichever thread it
    /// met, since what another is about to list may be among what was let go.
    pub(crate) fn sync_folder(&self) -> io::Result<()> {
        self.list.lock().sync_folder(&*self.disk)
    }

    /// Replaces the list, durably. `time` and `next_seq` go with it.
    pub(crate) fn change(
        &self,
        time: Timestamp,
        next_seq: Seq,
        change: impl FnOnce(&mut Manifest),
    ) -> Result<(), Unchanged> {
        let mut list = self.list.lock();
        if list.is_unknown {
            return Err(Unchanged::Unknown(io::Error::other("an earlier change of the folder failed")));
        }
        let mut next = list.manifest.clone();
        next.next_segment = list.next_segment;
        next.mark_ms = next.mark_ms.max(time.as_millis());
        next.next_seq = next.next_seq.max(next_seq.0);
        change(&mut next);
        next.segments.sort_unstable_by_key(|listed| listed.id);
        let has_copy = list.is_durable || next.segments.iter().any(|listed| listed.seal.is_some());
        write(&*self.disk, &next, has_copy)?;
        list.is_unknown = true;
        self.disk.rename(MANIFEST_NEW, MANIFEST).map_err(Unchanged::Unknown)?;
        list.is_unknown = false;
        list.sync_folder(&*self.disk).map_err(Unchanged::Unknown)?;
        if !has_copy {
            write_copy(&*self.disk, &next.encode());
        }
        list.manifest = next;
        list.is_durable = true;
        Ok(())
    }
}

/// Writes the list under its other names.
fn write(disk: &dyn Disk, next: &Manifest, has_copy: bool) -> Result<(), Unchanged> {
    let bytes = next.encode();
    let written = match write_new(disk, MANIFEST_NEW, &bytes, true) {
        // The copy gives its room to the list, so that a store on a full disk can still let go of segments.
        Err(e) if e.kind() == io::ErrorKind::StorageFull && disk.remove(MANIFEST_COPY).is_ok() => {
            write_new(disk, MANIFEST_NEW, &bytes, true)
        }
        written => written,
    };
    written.map_err(Unchanged::Kept)?;
    if has_copy {
        write_copy(disk, &bytes);
    } else {
        remove_copy(disk);
    }
    Ok(())
}

fn write_copy(disk: &dyn Disk, bytes: &[u8]) {
    if let Err(e) = write_new(disk, MANIFEST_COPY, bytes, true) {
        tracing::debug!(error = %e, "the list has no copy");
        remove_copy(disk);
    }
}

/// Removes a copy that is not of the list which counts.
pub(crate) fn remove_copy(disk: &dyn Disk) {
    if let Err(e) = disk.remove(MANIFEST_COPY)
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(error = %e, "the copy of an older manifest stays until the next change of the list");
    }
}

/// Writes a file anew under a name that may hold an old one.
pub(crate) fn write_new(disk: &dyn Disk, name: &str, bytes: &[u8], sync: bool) -> io::Result<()> {
    match disk.remove(name) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let file = disk.create(name, bytes.len() as u64)?;
    file.write_at(0, bytes)?;
    if sync { file.sync() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::real::RealDisk;
    use crate::disk::sim::{Call, Fault, SimDisk};

    fn changed(catalog: &Catalog) -> Result<(), Unchanged> {
        catalog.change(Timestamp::default(), Seq(1), |_| {})
    }

    #[test]
    fn id_that_a_list_on_disk_counts_as_given_is_not_given_again() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::new(folder.path()));
        let catalog = Catalog::new(disk, Manifest::empty([1; 16]));
        let change = || assert!(changed(&catalog).is_ok());
        change();
        let first = catalog.take_id();
        catalog.give_back(first);
        assert_eq!(catalog.take_id(), first, "no list knows of it");
        change();
        catalog.give_back(first);
        assert!(catalog.take_id() > first, "the list on disk says that it was given");
    }

    #[test]
    fn copy_gives_its_room_to_the_list_on_a_full_disk_and_for_no_other_failure() {
        let disk = SimDisk::new(1);
        disk.create_folder().unwrap();
        let catalog = Catalog::new(Arc::new(disk.clone()), Manifest::empty([1; 16]));
        assert!(changed(&catalog).is_ok() && changed(&catalog).is_ok());
        disk.fail_call_of(Call::Create, 1, Fault::Eio);
        assert!(matches!(changed(&catalog), Err(Unchanged::Kept(_))));
        assert_eq!(disk.contents(MANIFEST_COPY), disk.contents(MANIFEST));
        disk.space_bytes(disk.used_bytes());
        assert!(changed(&catalog).is_ok(), "there was room for a list and a copy, and now for two lists");
        assert_eq!(disk.contents(MANIFEST_COPY), None, "that of an older list is not left");
        disk.space_bytes(u64::MAX);
        assert!(changed(&catalog).is_ok());
        assert_eq!(disk.contents(MANIFEST_COPY), disk.contents(MANIFEST));
    }
}
