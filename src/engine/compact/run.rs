//! Moving what is alive out of some segments, and unlinking them.
//!
//! # What is alive
//!
//! 1. The content a slot points to. Its copy keeps its number, so any later write wins at replay, and carries the slot's deadlines with
//!    the number of the last record staged when they were read, under the shard's lock: every touch up to then is in them,
//!    and every later one has a later number. A session that was revoked is dead, swept or not.
//! 2. The touch a slot's deadline came from, if the content lies elsewhere and stays there. Its copy keeps its number.
//! 3. A tombstone, and the tombstone half of a rotation, until the latest deadline of what it hides. After that instant the
//!    hidden records are expired for any open: store time never starts before the mark, and the manifest that drops the
//!    tombstone carries a mark at or after that instant.
//! 4. A revocation, until the latest deadline that any owned record had been given when it was written.
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
//!
//! A segment that is damaged or cannot be read stays while anything in it is counted as live: nobody can tell where that lies. Once nothing is, it
//! goes like any other; what is counted comes from the records that were written or from an open that vouched for every one of them.

use std::io;
use std::sync::Arc;

use hashbrown::HashSet;

use crate::clock::Timestamp;
use crate::format::{Body, Kind, Listed, Placed, RecordHeader, segment_name};
use crate::id::{Address, SegmentId};
use crate::index::Entry;
use crate::log::{Segment, Trust, find, scan};
use crate::sync::atomic::Ordering;

use super::copier::{Copier, Moved, Pace, Survivor, What};
use super::plan::{Usage, choose};
use crate::engine::Engine;
use crate::engine::catalog::Unchanged;
use crate::engine::keeper::COMPACTION_ROUND;

impl Engine {
    /// Compacts some segments if any need it; says whether it did.
    pub(in crate::engine) fn compact(&self) -> bool {
        let _turn = self.compacting.lock();
        if self.is_read_only || self.log.poisoned().is_some() {
            return false;
        }
        let left_behind = std::mem::take(&mut *self.left_behind.lock());
        for id in left_behind {
            self.remove_file(id);
        }
        let pressed = self.log.is_pressed() || self.reserve.is_short();
        if self.give_up_footers(pressed) && pressed {
            self.log.turned.raise();
            return true;
        }
        let victims = choose(&self.usage(), self.options.segment_bytes.into(), pressed);
        if victims.is_empty() {
            self.unread.lock().clear();
            return false;
        }
        let mut done = self.compact_these(&victims, false);
        if let Err(e) = &done
            && e.kind() == io::ErrorKind::StorageFull
            && self.reserve.is_held()
        {
            done = self.compact_these(&victims, true);
            self.reserve.restore(&self.catalog);
            if done.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::StorageFull) {
                // Segments were longer once, and more of one may be alive than the reserve takes. Others have their turn.
                self.unread.lock().extend(&victims);
            }
        }
        match done {
            Ok(done) => {
                if done {
                    self.log.turned.raise();
                }
                done
            }
            Err(e) => {
                tracing::warn!(error = %e, "compaction came to nothing; it is tried again");
                self.pause_compaction(COMPACTION_ROUND);
                false
            }
        }
    }

    /// Whether the stream had better leave the active segment, since the dead bytes of that alone would make room.
    pub(in crate::engine) fn only_active_is_worth_it(&self) -> bool {
        let active = self.log.active();
        let live = self.index.live_bytes().get(&active.id()).copied().unwrap_or(0);
        let live = live + u64::from(self.reserve.spared_bytes());
        let usage = Usage { id: active.id(), bytes: active.written().into(), live };
        usage.is_worth_it() && choose(&self.usage(), self.options.segment_bytes.into(), true).is_empty()
    }

    /// The sealed segments that may be compacted.
    fn usage(&self) -> Vec<Usage> {
        let live = self.index.live_bytes();
        let left_alone = [self.damaged.lock().clone(), self.unread.lock().clone()].concat();
        let usage = |listed: &Listed| {
            let id = SegmentId(listed.id);
            let bytes = u64::from(listed.seal?.len);
            Some(Usage { id, bytes, live: live.get(&id).copied().unwrap_or(0) })
        };
        let all =
            self.catalog.read(|manifest| manifest.segments.iter().filter_map(usage).collect::<Vec<_>>());
        all.into_iter().filter(|usage| usage.live == 0 || !left_alone.contains(&usage.id)).collect()
    }

    /// Compacts these; says whether it did. Removes the copies it made if they came to nothing.
    fn compact_these(&self, victims: &[SegmentId], on_reserve: bool) -> io::Result<bool> {
        let mut made = Vec::new();
        let listed = self.copy_and_list(victims, on_reserve, &mut made);
        if matches!(listed, Ok(false) | Err(_)) && self.log.poisoned().is_none() {
            self.table.remove(&made);
            for id in made {
                self.remove_file(id);
            }
        }
        self.table.bury();
        listed
    }

    /// Does everything but clean up; the segments it makes are added to `made`.
    fn copy_and_list(
        &self,
        victims: &[SegmentId],
        on_reserve: bool,
        made: &mut Vec<SegmentId>,
    ) -> io::Result<bool> {
        let list = Arc::clone(&self.table.load());
        let segments: Option<Vec<_>> = victims.iter().map(|id| find(&list, *id)).collect();
        let segments = segments.ok_or_else(|| io::Error::other("a listed segment is not in the table"))?;
        let live = self.index.live_bytes();
        let mut later = victims.iter().filter_map(|id| live.get(id)).sum::<u64>();
        let mut writer = Copier::new(self, on_reserve, made);
        for segment in segments {
            if self.stopping.load(Ordering::Acquire) {
                return Ok(false);
            }
            let alive = live.get(&segment.id()).copied().unwrap_or(0);
            later = later.saturating_sub(alive);
            // One after another, since a cold one takes as much memory as it is long.
            let bytes = match segment.whole(segment.written()) {
                Err(_) if alive == 0 => continue,
                read => read.inspect_err(|_| self.unread.lock().push(segment.id()))?,
            };
            let Some(found) = self.copy_living(segment, &bytes, victims, later, &mut writer) else {
                if alive == 0 {
                    continue;
                }
                tracing::error!(segment = %segment.id(), "a segment is damaged; compaction leaves it alone");
                self.found_damaged(segment.id());
                return Ok(false);
            };
            if found? == Pace::Stop {
                return Ok(false);
            }
        }
        let (moved, copies) = writer.finish()?;
        self.log.settle().map_err(|cause| io::Error::other(cause.to_string()))?;
        if !copies.is_empty()
            && let Err(e) = self.catalog.sync_folder()
        {
            // A later call may say `Ok` with the names gone, so there is none.
            self.log.poison(&format!("syncing the folder failed: {e}"), Vec::new());
            return Ok(false);
        }
        if on_reserve && copies.is_empty() {
            self.reserve.spare_margin();
        }
        for copy in &copies {
            self.counters.compacted_bytes.fetch_add(copy.written().into(), Ordering::Relaxed);
            copy.warm_up();
            self.table.put(copy);
        }
        if !self.list_copies(victims, &copies)? {
            return Ok(false);
        }
        for moved in &moved {
            self.publish(moved);
        }
        self.unlink(victims);
        if !on_reserve {
            self.want_footers(copies);
        }
        Ok(true)
    }

    /// Copies what is alive of a segment, behind which about `later` bytes are to come; `None` if it is damaged, and then it stays as it is.
    fn copy_living(
        &self,
        segment: &Segment,
        bytes: &[u8],
        victims: &[SegmentId],
        later: u64,
        copier: &mut Copier<'_>,
    ) -> Option<io::Result<Pace>> {
        let mut survivors = Vec::new();
        // Where the time is doubted, what has ended by that alone lives on.
        let now = self.clock.mark();
        let scanned = scan(bytes, segment.header(), Trust::Nothing, |placed| {
            self.judge(segment.id(), placed, now, victims, &mut survivors);
        });
        if scanned.end != segment.written() {
            return None;
        }
        keep_newest_touches(&mut survivors);
        // Of this one it is known, and it may be more than what is counted as live: half of a rotation becomes a record of its own.
        copier.expect(&survivors, later);
        for survivor in survivors {
            match copier.push(&survivor) {
                Ok(Pace::Go) => {}
                stop => return Some(stop),
            }
        }
        Some(Ok(Pace::Go))
    }

    fn judge<'a>(
        &self,
        id: SegmentId,
        placed: &Placed<'a>,
        now: Timestamp,
        victims: &[SegmentId],
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
                // A copy says that its content was the newest at this moment: not of one that was revoked and is not swept yet.
                let revocations = self.index.revocations();
                let standing = |e: &Entry| e.address == from && !shard.is_revoked(&header.key, &revocations);
                let Some(entry) = shard.get(&header.key).filter(standing) else { return };
                let deadline_seq = self.log.last_seq();
                drop(revocations);
                drop(shard);
                let body = Body { rotated: None, ..body };
                let deadlines = entry.deadlines;
                let put = RecordHeader::new(Kind::Put, header.key, header.created_s, deadlines, &body);
                let header = RecordHeader { seq: header.seq, deadline_seq, ..put };
                survivors.push(Survivor { header, body, from, what: What::Content(entry) });
            }
            Kind::Touch => {
                let entry = self.index.lock(&header.key).get(&header.key);
                // If the content moves as well, its copy carries these deadlines.
                let newest = |e: &Entry| {
                    e.touched_in == Some(id)
                        && e.deadlines == header.deadlines
                        && !victims.contains(&e.address.segment)
                };
                if entry.as_ref().is_some_and(newest) {
                    survivors.push(Survivor { header, body, from, what: What::Touch });
                }
            }
            Kind::Delete | Kind::Revoke if header.deadlines.expires_at > now => {
                survivors.push(Survivor { header, body, from, what: What::Tombstone });
            }
            Kind::Delete | Kind::Revoke => {}
        }
    }

    /// Points a slot at the copy, if nothing newer happened.
    fn publish(&self, moved: &Moved) {
        let Moved { header, from, to, what } = moved;
        let mut shard = self.index.lock(&header.key);
        match what {
            What::Content(read) => drop(shard.publish(&header.key, read, *to)),
            What::Touch => {
                shard.publish_touch(&header.key, from.segment, to.segment, header.deadlines);
            }
            What::Tombstone => {
                shard.add_tombstone(to.segment, header.deadlines.expires_at, header.len());
            }
        }
    }

    /// Lists the copies in place of the originals; says whether it did.
    fn list_copies(&self, victims: &[SegmentId], copies: &[Arc<Segment>]) -> io::Result<bool> {
        let listed = copies.iter().map(|copy| copy.listed(Some(copy.seal())));
        let changed = self.catalog.change(self.clock.mark(), self.log.last_seq(), |manifest| {
            manifest.durable = self.log.durable().pack();
            manifest.segments.retain(|listed| !victims.iter().any(|id| id.0 == listed.id));
            manifest.segments.extend(listed);
        });
        match changed {
            Ok(()) => Ok(true),
            Err(Unchanged::Kept(e)) => Err(e),
            Err(unknown) => {
                self.catalog_failed(unknown);
                Ok(false)
            }
        }
    }

    fn unlink(&self, victims: &[SegmentId]) {
        // Of a session that was revoked there is no copy, and its key is told from its record.
        if self.listeners.are_any() {
            self.sweep_revoked(|| {});
        }
        self.table.remove(victims);
        // Who holds a segment holds its space.
        self.chores.lock().retain(|chore| !victims.contains(&chore.segment.id()));
        self.damaged.lock().retain(|id| !victims.contains(id));
        for id in victims {
            self.index.forget_segment(*id);
            self.remove_file(*id);
        }
        self.balance_warmth();
    }

    /// Removes the file of a segment that no list names; if that fails, it is tried again before the next compaction.
    pub(in crate::engine) fn remove_file(&self, id: SegmentId) {
        match self.disk.remove(&segment_name(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(error = %e, segment = %id, "a segment that is not needed could not be removed; it is tried again");
                self.left_behind.lock().push(id);
            }
            _ => {}
        }
    }
}

/// A session counts one touch as alive. Of several with the same deadlines only the last is copied: the others would be dead in the copy, which
/// would be copied for them again and again, and an older one alone would not stand above all that it was newer than.
fn keep_newest_touches(survivors: &mut Vec<Survivor<'_>>) {
    let mut seen = HashSet::new();
    survivors.reverse();
    survivors.retain(|survivor| !matches!(survivor.what, What::Touch) || seen.insert(survivor.header.key));
    survivors.reverse();
}
