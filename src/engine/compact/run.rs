//! Moving what is alive out of some segments, and unlinking them.
//!
//! # What is alive
//!
//! 1. The content a slot points to. Its copy keeps its number, so any later write wins at replay, and carries the slot's deadlines with
//!    the number of the last record staged when they were read, under the shard's lock: every touch up to then is in them,
//!    and every later one has a later number.
//! 2. The touch a slot's deadline came from, if the content lies elsewhere and stays there. Its copy keeps its number.
//! 3. A tombstone, and the tombstone half of a rotation, until the latest deadline of what it hides. After that instant the
//!    hidden records are expired for any open: store time never starts before the mark, and the manifest that drops the
//!    tombstone carries a mark at or after that instant.
//! 4. Revocations.
//!
//! # Why a crash at any call changes nothing (P1, P2)
//!
//! 1. Copies are written and synced under names that no manifest lists, and the folder is synced: orphans after a crash.
//!    The log is synced up to the last record that was staged when the records were judged: what made a record dead may have been
//!    staged and no more, and if power loss took it after the record was dropped, neither would be left.
//! 2. One new manifest lists the copies and not the originals. Before it is durable the originals count, after it the copies do; every
//!    record staged meanwhile is in the stream. Both give the same sessions.
//! 3. The slots are pointed at the copies, each only if it still points at the original: a fresh write wins. This is memory alone.
//! 4. The originals are unlinked. An unlink that power loss undoes leaves a file that no manifest lists.
//!
//! A run that fails before step 2 removes its copies, so that a full disk is not filled further, and has changed nothing.
//!
//! A tombstone and what it hides can both be dropped in one run: neither is listed any more, whichever file survives.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::format::{Body, Kind, Listed, Placed, RECORD_HEADER_BYTES, RecordHeader, segment_name};
use crate::id::{Address, SegmentId};
use crate::log::{CopyWriter, Segment, Trust, copy_bytes, find, scan};
use crate::options::ReadMode;

use super::plan::{Usage, choose};
use crate::engine::Engine;

/// Copies are synced each time this much was written, so that no sync is long.
const SYNC_BYTES: u64 = 8 << 20;

/// Sessions that end within the same of these go into one segment, so that it tends to die whole.
const CLASSES: [Duration; 3] =
    [Duration::from_secs(3_600), Duration::from_secs(24 * 3_600), Duration::from_secs(7 * 24 * 3_600)];

/// A record to be copied.
struct Survivor<'a> {
    header: RecordHeader,
    body: Body<'a>,
    /// Where the slot points, if the record is one that a slot points to.
    from: Address,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Content,
    Touch,
    Tombstone,
    Other,
}

/// Where every survivor went, and the segments that took them, synced.
type Copied = (Vec<Moved>, Vec<Arc<Segment>>);

/// Where a survivor went.
struct Moved {
    header: RecordHeader,
    from: Address,
    to: Address,
    what: What,
}

impl Engine {
    /// Compacts some segments if any need it; says whether it did.
    pub(in crate::engine) fn compact(&self) -> bool {
        let _turn = self.compacting.lock();
        if self.log.poisoned().is_some() || self.clock.is_doubtful() {
            return false;
        }
        let victims = choose(&self.usage(), self.options.segment_bytes.into());
        if victims.is_empty() {
            return false;
        }
        match self.compact_these(&victims) {
            Ok(done) => done,
            Err(e) => {
                tracing::warn!(error = %e, "compaction came to nothing; it is tried again");
                false
            }
        }
    }

    /// The sealed segments that may be compacted.
    fn usage(&self) -> Vec<Usage> {
        let live = self.index.live_bytes();
        let damaged = self.damaged.lock().clone();
        let usage = |listed: &Listed| {
            let id = SegmentId(listed.id);
            let bytes = u64::from(listed.seal?.len);
            Some(Usage { id, bytes, live: live.get(&id).copied().unwrap_or(0) })
        };
        let all =
            self.catalog.read(|manifest| manifest.segments.iter().filter_map(usage).collect::<Vec<_>>());
        all.into_iter().filter(|usage| !damaged.contains(&usage.id)).collect()
    }

    /// Compacts these; says whether it did. Removes the copies it made if they came to nothing.
    fn compact_these(&self, victims: &[SegmentId]) -> io::Result<bool> {
        let mut made = Vec::new();
        let listed = self.copy_and_list(victims, &mut made);
        if !matches!(listed, Ok(false) | Err(_)) || self.log.poisoned().is_some() {
            return listed;
        }
        self.table.remove(&made);
        for id in made {
            if let Err(e) = self.disk.remove(&segment_name(id)) {
                tracing::debug!(error = %e, segment = %id, "an unfinished copy stays until the next open");
            }
        }
        listed
    }

    /// Does everything but clean up; the segments it makes are added to `made`.
    fn copy_and_list(&self, victims: &[SegmentId], made: &mut Vec<SegmentId>) -> io::Result<bool> {
        let list = Arc::clone(&self.table.load());
        let segments: Option<Vec<_>> = victims.iter().map(|id| find(&list, *id)).collect();
        let segments = segments.ok_or_else(|| io::Error::other("a listed segment is not in the table"))?;
        let read = segments.iter().map(|s| s.whole(s.written())).collect::<io::Result<Vec<_>>>()?;
        let mut survivors = Vec::new();
        for (segment, bytes) in segments.iter().zip(&read) {
            let Some(found) = self.survivors(segment, bytes) else {
                self.damaged.lock().push(segment.id());
                return Ok(false);
            };
            survivors.extend(found);
        }
        let Some((moved, copies)) = self.copy(survivors, made)? else { return Ok(false) };
        self.log.settle().map_err(|cause| io::Error::other(cause.to_string()))?;
        if !copies.is_empty()
            && let Err(e) = self.disk.sync_folder()
        {
            // A later call may say `Ok` with the names gone, so there is none.
            self.log.poison(&format!("syncing the folder failed: {e}"), Vec::new());
            return Ok(false);
        }
        for copy in &copies {
            self.counters.compacted_bytes.fetch_add(copy.written().into(), Ordering::Relaxed);
            copy.warm_up();
            self.table.put(copy);
        }
        if !self.list_copies(victims, &copies) {
            return Ok(false);
        }
        for moved in &moved {
            self.publish(moved);
        }
        self.unlink(victims);
        Ok(true)
    }

    /// What is alive of a segment; `None` if it is damaged, and then it stays as it is.
    fn survivors<'a>(&self, segment: &Segment, bytes: &'a [u8]) -> Option<Vec<Survivor<'a>>> {
        let mut survivors = Vec::new();
        let now = self.clock.now();
        let scanned = scan(bytes, segment.header(), Trust::Nothing, |placed| {
            self.judge(segment.id(), placed, now, &mut survivors);
        });
        if scanned.end == segment.written() {
            return Some(survivors);
        }
        tracing::error!(segment = %segment.id(), offset = scanned.end, "a segment is damaged; compaction leaves it alone");
        None
    }

    fn judge<'a>(
        &self,
        id: SegmentId,
        placed: &Placed<'a>,
        now: Timestamp,
        survivors: &mut Vec<Survivor<'a>>,
    ) {
        let Placed { offset, header, body } = *placed;
        let from = Address { segment: id, offset, len: header.len() };
        if let Some(rotated) = body.rotated
            && rotated.hides_until > now
        {
            let mut header = RecordHeader::delete(rotated.old_key, rotated.hides_until);
            (header.seq, header.deadline_seq) = (placed.header.seq, placed.header.seq);
            survivors.push(Survivor { header, body: Body::default(), from, what: What::Tombstone });
        }
        match header.kind {
            Kind::Put | Kind::Rotate => {
                let shard = self.index.lock(&header.key);
                let Some(entry) = shard.get(&header.key).filter(|entry| entry.address == from) else {
                    return;
                };
                let deadline_seq = self.log.last_seq();
                drop(shard);
                let body = Body { rotated: None, ..body };
                let deadlines = entry.deadlines;
                let put = RecordHeader::new(Kind::Put, header.key, header.created_s, deadlines, &body);
                let header = RecordHeader { seq: header.seq, deadline_seq, ..put };
                survivors.push(Survivor { header, body, from, what: What::Content });
            }
            Kind::Touch => {
                let entry = self.index.lock(&header.key).get(&header.key);
                let newest =
                    |e: &crate::index::Entry| e.touched_in == Some(id) && e.deadlines == header.deadlines;
                if entry.as_ref().is_some_and(newest) {
                    survivors.push(Survivor { header, body, from, what: What::Touch });
                }
            }
            Kind::Delete if header.deadlines.expires_at > now => {
                survivors.push(Survivor { header, body, from, what: What::Tombstone });
            }
            Kind::Delete => {}
            Kind::Revoke => survivors.push(Survivor { header, body, from, what: What::Other }),
        }
    }

    /// Writes the copies, slowly enough to leave the disk to others; `None` if the store is to end.
    fn copy(&self, survivors: Vec<Survivor<'_>>, made: &mut Vec<SegmentId>) -> io::Result<Option<Copied>> {
        let now = self.clock.now();
        let mut classes: [Vec<Survivor<'_>>; CLASSES.len() + 1] = Default::default();
        for survivor in survivors {
            let left = survivor.header.deadlines.expires_at.saturating_since(now);
            let class = CLASSES.iter().position(|end| left <= *end).unwrap_or(CLASSES.len());
            classes[class].push(survivor);
        }
        let (mut moved, mut copies) = (Vec::new(), Vec::new());
        for class in classes.into_iter().filter(|class| !class.is_empty()) {
            let bytes: u64 = class.iter().map(|s| u64::from(s.header.len())).sum();
            let mut left = bytes;
            let mut writer: Option<CopyWriter> = None;
            let mut unsynced = 0;
            for Survivor { header, body, from, what } in class {
                if writer.as_ref().is_none_or(|w| !w.has_room(header.len())) {
                    if let Some(full) = writer.take() {
                        copies.push(full.finish()?);
                    }
                    writer = Some(self.new_copy(left, made)?);
                }
                let Some(writer) = writer.as_mut() else { continue };
                let (to, written) = writer.push(&header, &body)?;
                moved.push(Moved { header, from, to, what });
                left -= u64::from(header.len());
                unsynced += written as u64;
                if unsynced >= SYNC_BYTES {
                    writer.sync()?;
                    unsynced = 0;
                }
                if written > 0 && self.pause(written as u64) {
                    return Ok(None);
                }
            }
            if let Some(writer) = writer {
                copies.push(writer.finish()?);
            }
        }
        Ok(Some((moved, copies)))
    }

    fn new_copy(&self, bytes: u64, made: &mut Vec<SegmentId>) -> io::Result<CopyWriter> {
        let capacity = u32::try_from(copy_bytes(bytes)).unwrap_or(u32::MAX).min(self.options.segment_bytes);
        let mapped = self.options.read_mode == ReadMode::Mapped;
        let (id, store) = (self.catalog.take_id(), self.catalog.store());
        made.push(id);
        CopyWriter::create(&*self.disk, id, store, capacity, mapped, self.clock.mark())
    }

    /// Waits as long as `bytes` may take; says whether the store is to end.
    fn pause(&self, bytes: u64) -> bool {
        if self.threads == crate::engine::Threads::Own {
            let nanos =
                u128::from(bytes) * 1_000_000_000 / u128::from(self.options.compaction_bytes_per_second);
            self.compactor.wait(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        }
        self.stopping.load(Ordering::Acquire)
    }

    /// Points a slot at the copy, if nothing newer happened.
    fn publish(&self, moved: &Moved) {
        let Moved { header, from, to, what } = moved;
        let mut shard = self.index.lock(&header.key);
        match what {
            What::Content => drop(shard.publish(&header.key, *from, *to, header.deadlines)),
            What::Touch => {
                shard.publish_touch(&header.key, from.segment, to.segment, header.deadlines);
            }
            What::Tombstone => {
                shard.add_tombstone(to.segment, header.deadlines.expires_at, RECORD_HEADER_BYTES);
            }
            What::Other => {}
        }
    }

    /// Lists the copies in place of the originals; says whether it did.
    fn list_copies(&self, victims: &[SegmentId], copies: &[Arc<Segment>]) -> bool {
        let listed = copies.iter().map(|copy| {
            let header = copy.header();
            Listed { id: header.id.0, kind: header.kind, salt: header.salt, seal: Some(copy.seal()) }
        });
        let changed = self.catalog.change(self.clock.mark(), self.log.last_seq(), |manifest| {
            manifest.segments.retain(|listed| !victims.iter().any(|id| id.0 == listed.id));
            manifest.segments.extend(listed);
        });
        changed.map_err(|failed| self.catalog_failed(failed)).is_ok()
    }

    fn unlink(&self, victims: &[SegmentId]) {
        self.table.remove(victims);
        for id in victims {
            self.index.forget_segment(*id);
            if let Err(e) = self.disk.remove(&segment_name(*id)) {
                tracing::warn!(error = %e, segment = %id, "a dead segment could not be removed; the next open does it");
            }
        }
        self.balance_warmth();
    }
}
