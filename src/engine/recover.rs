//! From the listed segments to an index: what counts, what is cut, what is damage.
//!
//! # The stream's end
//!
//! Sealed segments were synced as a whole before the manifest said so: anything invalid in them is damage (P7). Of those with a footer that
//! is taken instead, and the rest is seen later (the head of [`footers`](super::footers) has the argument). The segments that
//! are listed without a seal are the end of the stream. They are read in order; the first place where no valid group stands,
//! in a segment whose last group does not hand over to the next, is the *end*. Let W be the latest watermark of any group before it.
//!
//! - A group header *behind* the end whose watermark is beyond the end proves that what is missing was on the device: damage. So does a manifest that
//!   was written when more was there: each says how much that was.
//! - Else all behind the end was written after the last sync that any surviving byte knows of. Power loss may keep any part of that, so
//!   what follows a hole is cut with it: it is a torn tail, kept aside in a file and reported.
//!
//! # Why the rest above W is written again
//!
//! Valid groups between W and the end may exist in the page cache alone: a killed process left them there, and the sync that
//! would have covered them may have failed or never been called. Syncing the file now proves nothing after such a failure. So
//! their records are copied into a fresh segment, which is synced and listed; the old one is sealed at W. A crash before
//! the new manifest is durable leaves the old list and the old bytes: the next open does the same again, perhaps with less
//! of the unsynced part, which nobody was promised. Nothing is ever appended to an old end.
//!
//! Before the first copy is made, the list says that a life has begun. Should a list of before be put back, the copies tell of that: the old
//! end does not, behind which power loss may have left nothing, or the room that was cut off.

use std::borrow::Cow;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::{
    Listed, Manifest, Placed, SEGMENT_HEADER_BYTES, Seal, SegmentHeader, SegmentKind, segment_name,
};
use crate::id::{Position, SegmentId, Seq};
use crate::index::Replay;
use crate::log::{
    CopyWriter, Scanned, Segment, Trust, claimed_behind, copy_bytes, end_of_bytes, groups, scan,
};
use crate::options::{Options, ReadMode};
use crate::sync::for_each;

use super::catalog::{Catalog, MANIFEST, write_new};
use super::fold::fold;
use super::footers::fold_footer;

/// A store whose numbers got this far is refused, a long life before they overflow: after 2^31 segments, or years of looking for room on a
/// full disk ten times a second.
pub(super) const SEGMENT_IDS_MAX: u32 = 1 << 31;
const SEQ_MAX: u64 = 1 << 62;

/// Numbers skipped at each open: more than can have been staged and lost, so that no number is ever used twice.
pub(super) const SEQ_GAP: u64 = 1 << 32;

/// What the names of files with cut-off bytes begin with.
const TORN: &str = "torn-";

/// What the segments gave.
pub(super) struct Recovered {
    pub(super) replay: Replay,
    /// Every segment that counts, sealed.
    pub(super) sealed: Vec<(Arc<Segment>, Listed)>,
    pub(super) time: Timestamp,
    pub(super) next_seq: Seq,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) torn_bytes: u64,
    /// Threads that may be at work at once.
    pub(super) workers: usize,
}

/// A segment of the stream's end.
struct Tail<'a> {
    segment: &'a Arc<Segment>,
    bytes: Cow<'a, [u8]>,
    scanned: Scanned,
    /// What lies behind this is written again.
    cut: u32,
}

/// Reads everything that the manifest lists. Makes copies of the unsynced end, which no list names yet, synced but for the folder; and one of what
/// it cuts off, unless there is `thrift`.
pub(super) fn recover(
    disk: &dyn Disk,
    options: &Options,
    catalog: &Catalog,
    workers: usize,
    thrift: bool,
) -> Result<Recovered, OpenError> {
    let manifest = catalog.read(Manifest::clone);
    let mut recovered = Recovered {
        // The wall may be far ahead and wrong: a deadline that only it says has passed may yet need a tombstone.
        replay: Replay::new(manifest.mark()),
        sealed: Vec::new(),
        time: manifest.mark(),
        next_seq: Seq(manifest.next_seq),
        records: 0,
        bytes: 0,
        torn_bytes: 0,
        workers,
    };
    let mapped = options.read_mode == ReadMode::Mapped;
    let mut open = Vec::new();
    for listed in &manifest.segments {
        let segment = open_listed(disk, listed, manifest.store, mapped)?;
        let list = if listed.seal.is_some() { &mut recovered.sealed } else { &mut open };
        list.push((segment, *listed));
    }
    let replay = &recovered.replay;
    let scans = for_each(&recovered.sealed, workers, |(segment, listed)| match listed.seal {
        Some(seal) => read_sealed(replay, segment, seal, options.footers_from),
        None => Ok((Scanned::start(), 0)),
    });
    for read in scans {
        let (scanned, bytes) = read?;
        recovered.note(&scanned, bytes);
    }
    recovered.stream(disk, options, catalog, &open, thrift)?;
    Ok(recovered)
}

fn open_listed(
    disk: &dyn Disk,
    listed: &Listed,
    store: [u8; 16],
    mapped: bool,
) -> Result<Arc<Segment>, OpenError> {
    let file = segment_name(SegmentId(listed.id));
    let damaged = |what: String| OpenError::damaged(&file, 0, what);
    match Segment::open(disk, listed, store, mapped) {
        Ok(Ok(segment)) => Ok(segment),
        Ok(Err(crate::format::Invalid::Unknown(found))) => {
            Err(OpenError::UnknownFormat { file, found, known: crate::format::FORMAT_VERSION.into() })
        }
        Ok(Err(crate::format::Invalid::Short)) => {
            Err(damaged("it is shorter than what was set aside for it".into()))
        }
        Ok(Err(invalid)) => Err(damaged(format!("of the segment's header, {}", invalid.what()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(damaged("the manifest lists it, and it is not there".into()))
        }
        Err(e) => Err(OpenError::io(format!("open {file}"))(e)),
    }
}

/// Folds a sealed segment in, which must be whole, or its footer; says how many bytes it read.
fn read_sealed(
    replay: &Replay,
    segment: &Segment,
    seal: Seal,
    footers_from: u32,
) -> Result<(Scanned, u64), OpenError> {
    let name = segment_name(segment.id());
    let damaged = |offset: u32, what: &str| OpenError::damaged(&name, offset, what);
    if segment.written() < seal.len {
        return Err(damaged(segment.written(), "it is shorter than the manifest says"));
    }
    if seal.len >= footers_from
        && let Some(by_footer) = fold_footer(replay, segment, seal)
    {
        return Ok(by_footer);
    }
    segment.warm_up();
    let bytes = segment.whole(seal.len).map_err(OpenError::io(format!("read {name}")))?;
    // The checksum of the whole covers the bodies; they are checked one by one only to name the place that is damaged.
    let whole = segment.cut(&bytes) == seal;
    let mut gathered = replay.gather();
    let fold = |placed: &Placed<'_>| fold(&mut gathered, placed, segment.id(), None);
    let scanned = scan(&bytes, segment.header(), Trust::of(whole), fold);
    if let Some(invalid) = scanned.stopped {
        return Err(damaged(scanned.end, &format!("in a group, {}", invalid.what())));
    }
    if !whole || scanned.end != seal.len {
        return Err(damaged(scanned.end, "its checksum is not what the manifest says"));
    }
    Ok((scanned, seal.len.into()))
}

impl Recovered {
    fn note(&mut self, scanned: &Scanned, bytes: u64) {
        self.time = self.time.max(scanned.time);
        self.next_seq = self.next_seq.max(scanned.next_seq);
        self.records += scanned.records;
        self.bytes += bytes;
    }

    /// Folds the unsealed end of the stream in.
    fn stream(
        &mut self,
        disk: &dyn Disk,
        options: &Options,
        catalog: &Catalog,
        open: &[(Arc<Segment>, Listed)],
        thrift: bool,
    ) -> Result<(), OpenError> {
        let mut tails = Vec::new();
        for (segment, _) in open {
            let read = OpenError::io(format!("read {}", segment_name(segment.id())));
            let bytes = segment.whole(segment.written()).map_err(read)?;
            let scanned = scan(&bytes, segment.header(), Trust::Nothing, |_| {});
            tails.push(Tail { segment, bytes, cut: scanned.end, scanned });
        }
        let Some(reached) = tails.iter().position(|tail| !tail.scanned.last).or(tails.len().checked_sub(1))
        else {
            return Ok(());
        };
        check_end(&tails, reached, catalog.read(Manifest::durable))?;
        for tail in &tails[..=reached] {
            self.note(&tail.scanned, tail.scanned.end.into());
        }
        refuse_used_up(catalog.read(|manifest| manifest.next_segment), self.next_seq)?;
        self.keep_torn((!thrift).then_some(disk), &tails, reached);
        let start = Position { segment: tails[0].segment.id(), offset: SEGMENT_HEADER_BYTES };
        let kept = &mut tails[..=reached];
        let watermark = kept.iter().map(|tail| tail.scanned.watermark).fold(start, Ord::max);
        for tail in &mut *kept {
            tail.cut = cut_at(tail, watermark);
        }
        self.below(kept, open);
        self.above(disk, options, catalog, kept)
    }

    /// Folds in what lies below the watermark, where it lies.
    fn below(&mut self, kept: &[Tail<'_>], open: &[(Arc<Segment>, Listed)]) {
        for (tail, (_, listed)) in kept.iter().zip(open) {
            let len = tail.cut;
            if len <= SEGMENT_HEADER_BYTES {
                continue;
            }
            let (id, mut gathered) = (tail.segment.id(), self.replay.gather());
            scan(&tail.bytes[..len as usize], tail.segment.header(), Trust::Whole, |placed| {
                fold(&mut gathered, placed, id, None);
            });
            let seal = tail.segment.cut(&tail.bytes[..len as usize]);
            self.sealed.push((Arc::clone(tail.segment), Listed { seal: Some(seal), ..*listed }));
        }
    }

    /// Writes again what lies above the watermark, and folds it in where it lies then.
    fn above(
        &mut self,
        disk: &dyn Disk,
        options: &Options,
        catalog: &Catalog,
        kept: &[Tail<'_>],
    ) -> Result<(), OpenError> {
        let write = |e| OpenError::io("write the unsynced end of the log again")(e);
        let bytes = kept.iter().map(|tail| u64::from(tail.scanned.end - tail.cut)).sum();
        let capacity = u32::try_from(copy_bytes(bytes)).unwrap_or(u32::MAX).min(options.segment_bytes);
        let mapped = options.read_mode == ReadMode::Mapped;
        let (mut copies, mut gathered): (Vec<CopyWriter>, _) = (Vec::new(), self.replay.gather());
        for tail in kept {
            let from = tail.cut;
            let mut records = Vec::new();
            scan(&tail.bytes[..tail.scanned.end as usize], tail.segment.header(), Trust::Whole, |placed| {
                if placed.offset >= from {
                    records.push(Placed { ..*placed });
                }
            });
            for placed in records {
                if copies.last().is_none_or(|copy| !copy.has_room(placed.header.len())) {
                    if copies.is_empty() {
                        begin_life(catalog, &mut self.next_seq)?;
                    }
                    let (id, store) = (catalog.take_id(), catalog.store());
                    let copy =
                        CopyWriter::create(disk, id, store, capacity, mapped, (self.time, self.next_seq));
                    copies.push(copy.map_err(write)?);
                }
                if let Some(copy) = copies.last_mut() {
                    let (address, _) = copy.push(&placed.header, &placed.body).map_err(write)?;
                    fold(&mut gathered, &placed, address.segment, Some(address));
                }
            }
        }
        drop(gathered);
        for copy in copies {
            let segment = copy.finish().map_err(write)?;
            let listed = segment.listed(Some(segment.seal()));
            self.sealed.push((segment, listed));
        }
        Ok(())
    }

    /// Counts what is cut off, and keeps a copy of it on the disk that is given, if there is room for one.
    fn keep_torn(&mut self, disk: Option<&dyn Disk>, tails: &[Tail<'_>], reached: usize) {
        for (at, tail) in tails.iter().enumerate().skip(reached) {
            let from = if at == reached { tail.scanned.end } else { SEGMENT_HEADER_BYTES };
            let Some(end) = end_of_bytes(&tail.bytes, from) else { continue };
            let torn = &tail.bytes[from as usize..end as usize];
            let name = torn_name(tail.segment.id(), from);
            self.torn_bytes += torn.len() as u64;
            tracing::warn!(segment = %tail.segment.id(), offset = from, bytes = torn.len(), "a torn tail was cut off");
            if let Some(disk) = disk
                && let Err(e) = write_new(disk, &name, torn, true)
            {
                tracing::warn!(error = %e, file = name, "no copy of it could be kept");
            }
        }
    }
}

/// Has the list say that a life begins, so that a copy made behind that tells of every list before it.
fn begin_life(catalog: &Catalog, next_seq: &mut Seq) -> Result<(), OpenError> {
    *next_seq = Seq(next_seq.0 + SEQ_GAP);
    Ok(catalog.change(catalog.read(Manifest::mark), *next_seq, |_| {})?)
}

/// The name under which cut-off bytes are kept.
fn torn_name(id: SegmentId, offset: u32) -> String {
    format!("{TORN}{id}-{offset:08x}.bin")
}

/// Whether a file has such a name.
pub(super) fn is_torn(name: &str) -> bool {
    let parts = name.strip_prefix(TORN).and_then(|rest| rest.strip_suffix(".bin")?.split_once('-'));
    parts.is_some_and(|(id, offset)| {
        [id, offset].iter().all(|hex| hex.len() == 8 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    })
}

/// How much of a segment lies below the watermark. A store writes one that ends with a group; where it does not, it is of somebody else's making, and
/// the group that it ends in is written again.
fn cut_at(tail: &Tail<'_>, watermark: Position) -> u32 {
    match tail.segment.id().cmp(&watermark.segment) {
        std::cmp::Ordering::Less => tail.scanned.end,
        std::cmp::Ordering::Equal => {
            let below = watermark.offset.clamp(SEGMENT_HEADER_BYTES, tail.scanned.end);
            scan(&tail.bytes[..below as usize], tail.segment.header(), Trust::Whole, |_| {}).end
        }
        std::cmp::Ordering::Greater => SEGMENT_HEADER_BYTES,
    }
}

/// Refuses an end that surviving bytes prove to be damage.
fn check_end(tails: &[Tail<'_>], reached: usize, listed: Position) -> Result<(), OpenError> {
    let end = &tails[reached];
    let position = Position { segment: end.segment.id(), offset: end.scanned.end };
    if end.scanned.last {
        // The segment that the stream goes on in is listed before that is written.
        let what = "the log goes on behind it, and the manifest lists no segment that it goes on in";
        return Err(OpenError::damaged(segment_name(position.segment), position.offset, what));
    }
    let behind = tails[reached..].iter().map(|tail| (&*tail.bytes, tail.segment.header()));
    match claimed_behind(behind, end.scanned.end).max(Some(listed)) {
        Some(claimed) if claimed > position => Err(OpenError::damaged(
            segment_name(position.segment),
            position.offset,
            format!(
                "no valid group stands here ({}), and a later one, or the manifest, says that all up to segment {} offset {} was on the device",
                end.scanned.stopped.map_or("it ends", crate::format::Invalid::what),
                claimed.segment,
                claimed.offset
            ),
        )),
        _ => Ok(()),
    }
}

/// Whether the next numbers of a store might overflow while it is open: no store gets so far.
pub(super) fn is_used_up(next_segment: u32, next_seq: Seq) -> bool {
    next_segment > SEGMENT_IDS_MAX || next_seq.0 > SEQ_MAX
}

pub(super) fn refuse_used_up(next_segment: u32, next_seq: Seq) -> Result<(), OpenError> {
    if !is_used_up(next_segment, next_seq) {
        return Ok(());
    }
    let next = format!("segment {next_segment} or record {}", next_seq.0);
    Err(OpenError::damaged(MANIFEST, 0, format!("{next} would be next, and no store gets so far")))
}

/// Whether a group's header stands in a file, wherever and whatever became of the group.
pub(super) fn holds_groups(bytes: &[u8], header: &SegmentHeader) -> bool {
    groups(bytes, header).next().is_some()
}

/// Whether a file whose id this list had not given tells that a later one was lost, or that this one is another store's.
///
/// 1. A segment of the stream takes no group before it is listed.
/// 2. A copy that no list names is what a crash left of a compaction, or of an open that wrote an end of the stream again. Both are made behind a list
///    of their own life, which is durable by then. Every life skips [`SEQ_GAP`] numbers, more than there are between one list of a life and the next;
///    so a copy that says that the store had got as far behind this list is of a later life, and the list of that was durable. Neither the removal of
///    an older one that a crash takes back nor a failed sync of the folder changes what it says.
/// 3. Where there was no list at all no copy was ever made.
/// 4. A copy of another store is what a salvage left that did not end. Beside a list of nothing there is nothing to keep.
pub(super) fn tells_of_a_later_list(bytes: &[u8], header: &SegmentHeader, list: &Manifest) -> bool {
    let is_others = header.store != list.store;
    if header.kind == SegmentKind::Stream || list.next_segment == 1 || is_others && list.segments.is_empty() {
        return holds_groups(bytes, header);
    }
    let later_life = list.next_seq.saturating_add(SEQ_GAP);
    !is_others && groups(bytes, header).any(|(group, _)| group.next_seq.0 >= later_life)
}
