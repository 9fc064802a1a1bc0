//! Offline repair: what is proven goes into fresh segments, everything else is moved aside.
//!
//! # Why a crash at any call revives nobody (P8)
//!
//! Until step 4 is durable an open goes by the old list.
//!
//! 1. The proven sessions and the revocations are written into copy segments of a *new store id*, synced with the folder. A crash leaves
//!    files that no list names; they are of another store, so no list that turns up later takes them for its own.
//! 2. `MANIFEST` and `MANIFEST.copy` are copied aside, synced.
//! 3. The segments are renamed: first those of the list, then, with the folder synced in between, those that are newer than a list which is
//!    not current. A crash leaves a folder that is refused, for the damage or for a segment that is missing: not one of the newer segments,
//!    which prove that the list is old, goes while all that it lists is there. Where it lists nothing, one of the stream stays until step 4 is durable,
//!    and is moved then; a crash in between leaves it for the next open to remove. The next salvage reads them under their new names, and comes to
//!    the same end.
//! 4. One manifest names the fresh segments alone, with ids and numbers above all that were seen. From here on the folder opens, and holds what was
//!    proven: no older record of any key is in a file that is listed, so nothing that was dropped comes back.
//! 5. `MANIFEST.copy`, which lists what is not there any more, is removed. A crash before leaves it for the next change of the list to replace; should the
//!    new manifest be lost before that, it lists segments of the store that was, whose damage is judged as it was.
//!
//! No file is removed but that one, of which step 2 kept a copy.

use std::sync::Arc;

use crate::clock::{StoreClock, Timestamp};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::{Body, Kind, Listed, Manifest, Placed, RecordHeader, SEGMENT_HEADER_BYTES, segment_name};
use crate::id::{Address, SegmentId, Seq};
use crate::index::Index;
use crate::log::{CopyWriter, Found, copy_bytes, walk};
use crate::options::Options;

use super::assess::{Assessment, Source, assess};
use super::catalog::{MANIFEST, MANIFEST_BYTES_MAX, MANIFEST_COPY, MANIFEST_NEW, remove_copy, write_new};
use super::damage::{Damage, next_turn, quarantine_name, quarantined};
use super::open::{lock, new_store, refuse_foreign, segment_id};
use super::recover::SEQ_GAP;
use super::survey::read_file;

/// What a salvage found and did.
///
/// ```
/// use cloakroom::{LogStore, Options, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # LogStore::open(folder.path(), Options::default()).await?.close().await?;
/// let done = LogStore::salvage(folder.path(), Options::default()).await?;
/// assert!(done.damage.is_empty() && done.quarantined.is_empty()); // it was whole, so it is as it was
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Salvaged {
    /// Sessions that the store holds now.
    pub sessions_kept: u64,
    /// Sessions of which something was found and too little was certain: they are signed out. Others may have been lost without a trace.
    pub sessions_dropped: u64,
    /// Log records that are missing, at the least.
    pub records_lost: u64,
    /// The names under which files were moved or copied aside. They can be removed once nobody wants to look at them.
    pub quarantined: Vec<String>,
    /// The first thousand places that are damaged.
    pub damage: Vec<Damage>,
    /// How many there are in all.
    pub damaged_places: u64,
}

/// Repairs the store on `disk`, if it is damaged. It reads and writes the disk, so it is called on a thread that may wait.
pub(crate) fn salvage(disk: &dyn Disk, options: &Options) -> Result<Salvaged, OpenError> {
    options.check()?;
    refuse_foreign(disk)?;
    let _lock = lock(disk)?;
    let mut found = assess(disk)?;
    let clock = StoreClock::start(Arc::clone(&options.clock), found.time, found.survey.manifest.doubted());
    let now = clock.mark();
    let mut done = Salvaged {
        records_lost: found.records_lost,
        damage: std::mem::take(&mut found.survey.damages.places),
        damaged_places: found.survey.damages.count,
        ..Salvaged::default()
    };
    if found.is_sound() {
        done.sessions_kept = found.prove(now).index.live_len(now) as u64;
        return Ok(done);
    }
    let Assessment { next_seq, ref survey, .. } = found;
    let (old, fresh_from) = (survey.manifest.clone(), survey.manifest.next_segment);
    let manifest = Manifest {
        store: new_store(disk)?,
        mark_ms: now.as_millis(),
        doubted_ms: clock.doubted_since().as_millis(),
        next_segment: fresh_from,
        next_seq: next_seq.0.saturating_add(SEQ_GAP),
        durable: 0,
        segments: Vec::new(),
    };
    let sources = std::mem::take(&mut found.sources);
    let proven = found.prove(now);
    done.sessions_dropped = proven.dropped;
    let last_seq = Seq(next_seq.0.saturating_sub(1));
    let mut rewrite =
        Rewrite { disk, options, index: &proven.index, last_seq, now, manifest, copy: None, kept: 0 };
    if let Err(e) = rewrite.all(&sources) {
        for id in fresh_from..rewrite.manifest.next_segment {
            // Of no meaning, and in the way of nothing but the room it takes; the failure says more.
            let _ = disk.remove(&segment_name(SegmentId(id)));
        }
        return Err(e);
    }
    done.sessions_kept = rewrite.kept;
    let manifest = rewrite.manifest;
    // Of a list of nothing no segment is missed, so one that is newer stays until the list is replaced.
    let newer =
        sources.iter().filter(|source| old.segments.is_empty() && quarantined(&source.file).is_none());
    let witness = newer.max_by_key(|source| source.end).map(|source| &source.file);
    let fresh = fresh_from..manifest.next_segment;
    let mut names = list(disk)?;
    let turn = next_turn(&names);
    names.retain(|name| Some(name) != witness && segment_id(name).is_none_or(|id| !fresh.contains(&id.0)));
    done.quarantined = quarantine(disk, &old, turn, &names)?;
    replace(disk, &manifest)?;
    if let Some(name) = witness {
        done.quarantined.extend(move_aside(disk, turn, [name].into_iter())?);
    }
    Ok(done)
}

/// What is proven, on its way into fresh segments.
struct Rewrite<'a> {
    disk: &'a dyn Disk,
    options: &'a Options,
    index: &'a Index,
    /// The greatest number that was seen: every deadline in the index is known up to it.
    last_seq: Seq,
    now: Timestamp,
    manifest: Manifest,
    copy: Option<CopyWriter>,
    kept: u64,
}

impl Rewrite<'_> {
    /// Writes all that is proven, durably.
    fn all(&mut self, sources: &[Source]) -> Result<(), OpenError> {
        let mut bytes: u64 = self.index.live_bytes().values().sum();
        // A listed segment that is not there has nothing that counts.
        for source in sources.iter().filter(|source| source.end > SEGMENT_HEADER_BYTES) {
            let read = |e| OpenError::io(format!("read {}", source.file))(e);
            let file = self.disk.open(&source.file).map_err(read)?;
            let segment = read_file(&*file, source.end.into(), |_| {}).map_err(read)?;
            let mut failed = Ok(());
            walk(&segment, &source.header, |found| {
                if let Found::Record(placed) = found
                    && failed.is_ok()
                    && let Some((header, body)) = self.judge(source.header.id, &placed)
                {
                    failed = self.push(&header, &body, &mut bytes);
                }
            });
            failed?;
        }
        self.finish_copy()?;
        self.disk.sync_folder().map_err(write_failed)
    }

    /// The record as it is kept, if it is.
    fn judge<'b>(&self, segment: SegmentId, placed: &Placed<'b>) -> Option<(RecordHeader, Body<'b>)> {
        let Placed { offset, header, body } = *placed;
        match header.kind {
            Kind::Put | Kind::Rotate => {
                let address = Address { segment, offset, len: header.len() };
                let entry = self.index.lock(&header.key).get(&header.key)?;
                let deadlines = entry.deadlines;
                if entry.address != address || !deadlines.is_live(self.now) {
                    return None;
                }
                let body = Body { rotated: None, ..body };
                let put = RecordHeader::new(Kind::Put, header.key, header.created_s, deadlines, &body);
                Some((RecordHeader { seq: header.seq, deadline_seq: self.last_seq, ..put }, body))
            }
            Kind::Revoke if header.seq <= self.last_seq => Some((header, body)),
            // No older record is kept that they could end, and the newest deadlines go with the content.
            Kind::Revoke | Kind::Touch | Kind::Delete => None,
        }
    }

    fn push(&mut self, header: &RecordHeader, body: &Body<'_>, left: &mut u64) -> Result<(), OpenError> {
        if self.copy.as_ref().is_none_or(|copy| !copy.has_room(header.len())) {
            self.finish_copy()?;
            let capacity = copy_bytes(*left).min(self.options.segment_bytes.into());
            let capacity = capacity.max(copy_bytes(header.len().into()));
            let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
            let (id, store) = (self.manifest.take_id(), self.manifest.store);
            let began = (self.now, Seq(self.manifest.next_seq));
            let copy = CopyWriter::create(self.disk, id, store, capacity, false, began);
            self.copy = Some(copy.map_err(write_failed)?);
        }
        if let Some(copy) = &mut self.copy {
            copy.push(header, body).map_err(write_failed)?;
        }
        *left = left.saturating_sub(header.len().into());
        self.kept += u64::from(header.kind == Kind::Put);
        Ok(())
    }

    fn finish_copy(&mut self) -> Result<(), OpenError> {
        let Some(copy) = self.copy.take() else { return Ok(()) };
        let segment = copy.finish().map_err(write_failed)?;
        let listed: Listed = segment.listed(Some(segment.seal()));
        self.manifest.segments.push(listed);
        Ok(())
    }
}

fn write_failed(e: std::io::Error) -> OpenError {
    OpenError::io("write the sessions that are proven")(e)
}

fn list(disk: &dyn Disk) -> Result<Vec<String>, OpenError> {
    disk.list().map_err(OpenError::io(format!("list the folder {}", disk.name())))
}

/// Moves aside what is a segment of those `names`, and copies the lists; gives the new names.
fn quarantine(
    disk: &dyn Disk,
    old: &Manifest,
    turn: u32,
    names: &[String],
) -> Result<Vec<String>, OpenError> {
    let failed = |name: &str| OpenError::io(format!("copy {name} aside"));
    let mut aside = Vec::new();
    for name in [MANIFEST, MANIFEST_COPY] {
        if names.iter().any(|found| found == name) {
            let file = disk.open(name).map_err(failed(name))?;
            let bytes = read_file(&*file, MANIFEST_BYTES_MAX, |_| {}).map_err(failed(name))?;
            aside.push(quarantine_name(turn, name));
            write_new(disk, &quarantine_name(turn, name), &bytes, true).map_err(failed(name))?;
        }
    }
    let is_listed = |id: SegmentId| old.segments.iter().any(|listed| listed.id == id.0);
    let segments = names.iter().filter_map(|name| Some((segment_id(name)?, name)));
    let (listed, others): (Vec<_>, Vec<_>) = segments.partition(|(id, _)| is_listed(*id));
    for part in [listed, others] {
        aside.extend(move_aside(disk, turn, part.into_iter().map(|(_, name)| name))?);
    }
    Ok(aside)
}

/// Moves files aside, durably; gives their new names.
fn move_aside<'a>(
    disk: &dyn Disk,
    turn: u32,
    names: impl Iterator<Item = &'a String>,
) -> Result<Vec<String>, OpenError> {
    let moved = names.map(|name| {
        let to = quarantine_name(turn, name);
        disk.rename(name, &to).map_err(OpenError::io(format!("move {name} aside")))?;
        Ok(to)
    });
    let moved = moved.collect::<Result<_, OpenError>>()?;
    disk.sync_folder().map_err(OpenError::io("sync the folder"))?;
    Ok(moved)
}

/// Makes the new manifest the one that counts.
fn replace(disk: &dyn Disk, manifest: &Manifest) -> Result<(), OpenError> {
    let failed = |e| OpenError::io("write the manifest")(e);
    write_new(disk, MANIFEST_NEW, &manifest.encode(), true).map_err(failed)?;
    disk.rename(MANIFEST_NEW, MANIFEST).map_err(failed)?;
    disk.sync_folder().map_err(failed)?;
    remove_copy(disk);
    Ok(())
}
