//! What of a damaged store is certain. It reads every byte that counts, and changes nothing.
//!
//! # Why nobody is logged back in (P8)
//!
//! Records carry numbers of one history. Let *L* be the highest number that a record may have had which is missing here. A session is
//! *proven* if a record with a number above L says what its newest content is, and that content is here: the content itself, a touch of it (which
//! names it), or a copy, whose deadline is numbered by the moment at which compaction found it to be the newest.
//!
//! 1. Whatever happened to a proven session since then (a touch, a shorter lifetime, a delete, a rotation, a later content) has a
//!    later number, so it is above L, so it is here. Its state is the one that it had; one that had ended is ended.
//! 2. A session that is not proven may have been replaced or ended by a record that is missing. It is absent, however good its bytes are.
//!    Both keys of a rotation fall under this, the old one since the rotation may be missing, the new one since its only content may be.
//! 3. A session that is bound to an owner is no different: a revocation ends only contents with smaller numbers than its own. Those that are
//!    here are kept whatever their number.
//!
//! # How L is found
//!
//! 4. A *record whose body is damaged* and whose header holds: a put may have said anything, but of its key alone, so that key ends there. Of a
//!    rotation or a revocation the body names others: L is at least its number.
//! 5. A *hole in a stream segment*: L is below the number that the first group behind it says is not used before it, in this segment or in
//!    a stream segment with a later id. Without one, a sealed segment holds nothing above the number that the manifest carries; an
//!    unsealed one has no bound, and L is infinite.
//! 6. A *hole in a copy segment* hides contents, touches and tombstones in no order. All were in sealed segments, or in the stream of a life that
//!    had ended, when its id was taken: their numbers are below the first of any stream segment with a later id, and not above the one that the
//!    manifest carries.
//! 7. A *missing segment*, or one whose file is another, is a hole as long as it. Its header is not needed: the list has its salt.
//! 8. The *end of the stream* is judged as an open judges it (see [`recover`](super::recover)): where no surviving byte says that more was on the
//!    device, it is a torn end. Else every segment of it is read to its last group, each hole counts, and so does an end that does not hand over
//!    to the next. A segment that is missing behind an end that others prove was never reached: a group is on the device only if all
//!    before it are. A *torn end beside damage* has no bound: on a device that damages, it may be damage as well; nor has one that ends in a
//!    record that is damaged, above the last place that a group says was on the device, though zeros follow.
//! 9. A *list that is not current* (see [`survey`](super::survey)): the segments that are newer go on its stream, and each must begin with the number
//!    at which the one before ended, or else be the first of a life, whose first group says that nothing of another segment was on the device
//!    behind it; else something is missing between them. A newer copy is judged as in 6. Without a list L is infinite.
//!
//! Not covered, as in an open: where nothing else is damaged, what lies behind the last watermark of a stream that was not closed, and behind
//! what the list says was on the device, cannot be told from a torn end, or if it is all zeros from one that was never written.

use crate::clock::Timestamp;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::{
    FORMAT_VERSION, Footer, GROUP_HEADER_BYTES, Invalid, Kind, Listed, Manifest, SEGMENT_HEADER_BYTES, Seal,
    SegmentHeader, SegmentKind, checksum, segment_name,
};
use crate::id::{Position, SegmentId, Seq};
use crate::index::{Index, Replay};
use crate::log::{Found, Scanned, Trust, claimed_behind, end_of_bytes, last_group, scan, walk};
use crate::options::SEGMENT_BYTES_MAX;

use super::catalog::MANIFEST;
use super::damage::quarantined;
use super::fold::fold;
use super::recover::is_used_up;
use super::survey::{Survey, USED_UP, read_file, survey};

/// A segment with records that count.
pub(super) struct Source {
    pub(super) header: SegmentHeader,
    /// The name of its file now.
    pub(super) file: String,
    /// Where what counts of it ends.
    pub(super) end: u32,
}

/// What was found.
pub(super) struct Assessment {
    pub(super) survey: Survey,
    pub(super) sources: Vec<Source>,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) torn_bytes: u64,
    /// Records that are certainly missing.
    pub(super) records_lost: u64,
    pub(super) time: Timestamp,
    /// Above every number that was seen.
    pub(super) next_seq: Seq,
    replay: Replay,
    /// L.
    lost: Seq,
    /// The first number of each stream segment that has a group.
    firsts: Vec<(SegmentId, Seq)>,
    /// Segments with a hole that nothing in them bounds, and the greatest number that they may hold.
    holes: Vec<(SegmentId, Option<Seq>)>,
}

/// What is certain of the sessions.
pub(super) struct Proven {
    pub(super) index: Index,
    /// Sessions of which something is here and too little is certain.
    pub(super) dropped: u64,
}

/// What was read of one segment.
#[derive(Default)]
struct Walked {
    /// It ends in a hole.
    is_open: bool,
    /// Its last group hands over to the next segment.
    last: bool,
    /// The number of its first group, and whether the stream had got there from another segment.
    first: Option<Seq>,
    goes_on: bool,
    /// The one that follows its last record.
    next: Seq,
}

/// A segment of the stream's end.
struct Tail {
    header: SegmentHeader,
    file: String,
    bytes: Vec<u8>,
    /// Nothing is wrong with its file as such.
    is_whole: bool,
    scanned: Scanned,
}

impl Tail {
    /// Whether nothing was ever written behind `end`, though the file is damaged: a group that is on the device begins with its header. Of
    /// another file, or one whose front was wiped out, zeros say nothing; nor right behind a header whose own end may be of what was wiped out.
    fn is_blank(&self, end: u32) -> bool {
        let last = SEGMENT_HEADER_BYTES as usize - 1;
        let is_wiped = self.header.encode()[last] == 0 || self.bytes.get(last) == Some(&0);
        if end == SEGMENT_HEADER_BYTES && is_wiped {
            return false;
        }
        let behind = self.bytes.get(end as usize..).and_then(|rest| rest.get(..GROUP_HEADER_BYTES as usize));
        self.header.is_of(&self.bytes) && behind.is_some_and(|behind| behind.iter().all(|byte| *byte == 0))
    }
}

pub(super) fn assess(disk: &dyn Disk) -> Result<Assessment, OpenError> {
    let names = disk.list().map_err(OpenError::io(format!("list the folder {}", disk.name())))?;
    let survey = survey(disk, &names)?;
    let manifest = survey.manifest.clone();
    let mut assessment = Assessment {
        sources: Vec::new(),
        records: 0,
        bytes: 0,
        torn_bytes: 0,
        records_lost: 0,
        time: manifest.mark(),
        next_seq: Seq(manifest.next_seq),
        replay: Replay::new(manifest.mark()),
        lost: Seq(if survey.is_lost { u64::MAX } else { 0 }),
        firsts: Vec::new(),
        holes: survey.doubtful.iter().filter(|_| !survey.is_current).map(|id| (*id, None)).collect(),
        survey,
    };
    for listed in &manifest.segments {
        if let Some(seal) = listed.seal {
            assessment.sealed(disk, &manifest, listed, seal)?;
        }
    }
    assessment.stream(disk, &manifest)?;
    if is_used_up(0, assessment.next_seq) {
        // Nobody is proven by such a number, so the next are given from the first on.
        assessment.damage(MANIFEST, 0, USED_UP);
        (assessment.lost, assessment.next_seq) = (Seq(u64::MAX), Seq(1));
    }
    assessment.bound();
    Ok(assessment)
}

/// What the header of a listed segment must be.
fn header_of(manifest: &Manifest, listed: &Listed) -> SegmentHeader {
    let Listed { id, kind, salt, .. } = *listed;
    SegmentHeader { kind, store: manifest.store, id: SegmentId(id), salt }
}

impl Assessment {
    /// Whether an open finds nothing to refuse.
    pub(super) fn is_sound(&self) -> bool {
        self.survey.damages.count == 0
    }

    /// The sessions that are proven, by the time that it is `now`.
    pub(super) fn prove(self, now: Timestamp) -> Proven {
        let mut replay = self.replay;
        let dropped = replay.drop_up_to(self.lost, now);
        Proven { index: replay.finish(now, 1), dropped }
    }

    fn damage(&mut self, file: &str, offset: u32, what: &str) {
        self.survey.damages.add(file, offset, what);
    }

    /// What is there of a segment, at most `limit` bytes; nothing if there is no file. And whether that is as it should be.
    fn read(
        &mut self,
        disk: &dyn Disk,
        header: &SegmentHeader,
        limit: u32,
    ) -> Result<(String, Vec<u8>, bool), OpenError> {
        let name = segment_name(header.id);
        let Some(file) = self.survey.files.get(&header.id).cloned() else {
            self.damage(&name, 0, "the manifest lists it, and it is not there");
            return Ok((name, Vec::new(), false));
        };
        if quarantined(&file).is_some() {
            self.damage(&name, 0, "a salvage moved it aside, and did not end");
        }
        let before = self.survey.damages.count;
        let opened = disk.open(&file).map_err(OpenError::io(format!("open {file}")))?;
        let unread = |at| self.survey.damages.add(&file, position(at), "the device cannot read it");
        let bytes =
            read_file(&*opened, limit.into(), unread).map_err(OpenError::io(format!("read {file}")))?;
        match SegmentHeader::decode(&bytes) {
            Ok(found) if found == *header => {}
            Err(Invalid::Unknown(found)) => {
                return Err(OpenError::UnknownFormat { file, found, known: FORMAT_VERSION.into() });
            }
            Ok(_) => self.damage(&file, 0, "it is another segment than the one that is listed"),
            Err(invalid) => self.damage(&file, 0, &format!("of the segment's header, {}", invalid.what())),
        }
        Ok((file, bytes, self.survey.damages.count == before))
    }

    fn sealed(
        &mut self,
        disk: &dyn Disk,
        manifest: &Manifest,
        listed: &Listed,
        seal: Seal,
    ) -> Result<(), OpenError> {
        let header = header_of(manifest, listed);
        let (file, bytes, is_whole) = self.read(disk, &header, seal.len)?;
        let before = self.survey.damages.count;
        let walked = self.walk(&header, &file, &bytes);
        let is_short = position(bytes.len()) < seal.len;
        if is_short && !bytes.is_empty() {
            self.damage(&file, position(bytes.len()), "it is shorter than the manifest says");
        }
        // Every part of it has a checksum that holds, and the whole has none: which part is wrong is not known.
        let is_wrong = is_whole && self.survey.damages.count == before && checksum(0, &bytes) != seal.crc;
        if is_wrong {
            self.damage(&file, 0, "its checksum is not what the manifest says");
        }
        if walked.is_open || is_short || is_wrong {
            self.holes.push((header.id, Some(Seq(manifest.next_seq))));
        }
        self.sources.push(Source { header, file, end: position(bytes.len()) });
        Ok(())
    }

    /// Folds in all that holds of a segment's groups, `bytes` from its first byte to the end of what counts.
    fn walk(&mut self, header: &SegmentHeader, file: &str, bytes: &[u8]) -> Walked {
        let mut walked = Walked::default();
        let is_stream = header.kind == SegmentKind::Stream;
        let mut gathered = self.replay.gather();
        walk(bytes, header, |found| match found {
            Found::Group(group) => {
                if is_stream {
                    if walked.first.is_none() {
                        walked.first = Some(group.next_seq);
                        walked.goes_on = group.watermark.segment < header.id;
                    }
                    if std::mem::take(&mut walked.is_open) {
                        self.lost = self.lost.max(Seq(group.next_seq.0.saturating_sub(1)));
                    }
                }
                walked.last = group.last;
                walked.next = walked.next.max(group.next_seq);
                self.time = self.time.max(group.time);
            }
            Found::Record(placed) => {
                walked.next = walked.next.max(Seq(placed.header.deadline_seq.0.saturating_add(1)));
                self.records += 1;
                fold(&mut gathered, &placed, header.id, None);
            }
            Found::Spoilt { offset, header: record } => {
                walked.next = walked.next.max(Seq(record.deadline_seq.0.saturating_add(1)));
                self.records_lost += 1;
                self.survey.damages.add(file, offset, "in a record, the body's checksum does not match");
                if record.kind == Kind::Put {
                    let ended = Seq(record.seq.0.saturating_add(1));
                    self.replay.tombstone(&record.key, ended, header.id, Timestamp::default(), 0);
                } else {
                    self.lost = self.lost.max(record.seq);
                }
            }
            Found::Headless { offset, what } => {
                self.survey.damages.add(file, offset, format!("of a group's header, {}", what.what()));
            }
            Found::Hole { offset, what, records } => {
                walked.is_open = true;
                self.records_lost += records;
                self.survey.damages.add(file, offset, format!("in a group, {}", what.what()));
            }
        });
        drop(gathered);
        self.next_seq = self.next_seq.max(walked.next);
        self.bytes += bytes.len() as u64;
        if let Some(first) = walked.first {
            self.firsts.push((header.id, first));
        }
        walked
    }

    /// The segments that are listed without a seal, and those that are newer than the list.
    fn tails(&mut self, disk: &dyn Disk, manifest: &Manifest) -> Result<Vec<Tail>, OpenError> {
        let open = manifest.segments.iter().filter(|listed| listed.seal.is_none());
        let open: Vec<_> = open.map(|listed| (header_of(manifest, listed), listed.capacity)).collect();
        let newer = std::mem::take(&mut self.survey.newer);
        let mut tails = Vec::new();
        for (header, capacity) in open.into_iter().chain(newer.into_iter().map(|header| (header, 0))) {
            // One that was sealed since may have grown by a footer.
            let limit = if self.survey.is_current { capacity } else { 2 * SEGMENT_BYTES_MAX };
            let (file, mut bytes, mut is_whole) = self.read(disk, &header, limit)?;
            // The current list knows of a seal before there is a footer.
            if !self.survey.is_current
                && let Some(end) = Footer::find(&bytes, header.seed())
            {
                bytes.truncate(end as usize);
            }
            // A list that is not current may not know that it was sealed, and the rest given back.
            if is_whole && self.survey.is_current && position(bytes.len()) < capacity {
                self.damage(&file, position(bytes.len()), "it is shorter than what was set aside for it");
                is_whole = false;
            }
            let scanned = scan(&bytes, &header, Trust::Nothing, |_| {});
            tails.push(Tail { header, file, bytes, is_whole, scanned });
        }
        Ok(tails)
    }

    /// Folds the end of the stream in.
    fn stream(&mut self, disk: &dyn Disk, manifest: &Manifest) -> Result<(), OpenError> {
        let tails = self.tails(disk, manifest)?;
        let Some(reached) = tails.iter().position(|t| !t.scanned.last).or(tails.len().checked_sub(1)) else {
            return Ok(());
        };
        let end = Position { segment: tails[reached].header.id, offset: tails[reached].scanned.end };
        let behind = tails[reached..].iter().map(|tail| (&*tail.bytes, &tail.header));
        let told = claimed_behind(behind, end.offset).filter(|claimed| *claimed > end);
        let claimed = told.max(Some(manifest.durable()).filter(|claimed| *claimed > end));
        let ends: Vec<u32> = if claimed.is_some() {
            let last = tails.iter().map(|tail| last_group(&tail.bytes, &tail.header)).collect::<Vec<_>>();
            let reached = last.iter().rposition(|end| *end > SEGMENT_HEADER_BYTES).unwrap_or(reached);
            last[..=reached].to_vec()
        } else {
            tails[..=reached].iter().map(|tail| tail.scanned.end).collect()
        };
        // Behind what only the list tells of, no group says what there was.
        if claimed.is_some() && is_spoilt_from(&tails, &ends, told.unwrap_or(end)) {
            self.lost = Seq(u64::MAX);
        }
        let last = ends.len() - 1;
        let read_to = Position { segment: tails[last].header.id, offset: ends[last] };
        if claimed.is_some_and(|claimed| claimed > read_to) {
            self.damage(&tails[last].file, read_to.offset, "it ends here, and more of it was on the device");
            self.holes.push((read_to.segment, None));
        }
        if !self.survey.is_current {
            // A list of which nothing tells that it is the newest may name what was not to be: who has its id may have gone on.
            let others = tails[ends.len()..].iter().filter(|tail| !tail.is_whole);
            self.holes.extend(others.map(|tail| (tail.header.id, None)));
        }
        self.count_torn(&tails[last..], ends[last]);
        let mut handed_over: Option<(SegmentId, Seq)> = None;
        let listed = manifest.segments.iter().filter(|listed| listed.seal.is_none()).count();
        for (at, tail) in tails.iter().enumerate().take(ends.len()) {
            let counts = &tail.bytes[..tail.bytes.len().min(ends[at] as usize)];
            let walked = self.walk(&tail.header, &tail.file, counts);
            if handed_over.is_none() && walked.goes_on && at >= listed {
                self.damage(&tail.file, 0, "a segment is missing before it");
                self.holes.push((SegmentId(tail.header.id.0.saturating_sub(1)), None));
            }
            if let (Some((from, next)), Some(first)) = (handed_over, walked.first) {
                if !self.survey.is_current && first != next {
                    self.damage(&tail.file, 0, "a segment is missing before it");
                    self.holes.push((from, None));
                }
                handed_over = None;
            }
            let goes_on = at + 1 < ends.len();
            let is_cut = if walked.last {
                // A list that counts names what it goes on in, where nothing may have been written yet.
                !goes_on && (!self.survey.is_current || at + 1 == tails.len())
            } else {
                goes_on || !(tail.is_whole || tail.is_blank(ends[at]))
            };
            if is_cut && tail.is_whole {
                self.damage(&tail.file, ends[at], "the log goes on behind it, and its end is not there");
            }
            if walked.is_open || is_cut {
                self.holes.push((tail.header.id, None));
            }
            if walked.last {
                handed_over = Some((tail.header.id, walked.next));
            }
            let (header, file) = (tail.header, tail.file.clone());
            self.sources.push(Source { header, file, end: position(counts.len()) });
        }
        Ok(())
    }

    /// Counts what lies behind the stream's end. A file that is not the segment's own says nothing of it.
    fn count_torn(&mut self, tails: &[Tail], end: u32) {
        for (at, tail) in tails.iter().enumerate().filter(|(at, t)| *at == 0 || t.header.is_of(&t.bytes)) {
            let from = if at == 0 { end } else { SEGMENT_HEADER_BYTES };
            self.torn_bytes += end_of_bytes(&tail.bytes, from).map_or(0, |end| u64::from(end - from));
        }
    }

    /// Raises L over what the holes may hide.
    fn bound(&mut self) {
        for (id, cap) in &self.holes {
            let later =
                self.firsts.iter().filter(|(segment, _)| segment > id).min_by_key(|(segment, _)| *segment);
            let below = later.map(|(_, first)| Seq(first.0.saturating_sub(1)));
            let bound = below.into_iter().chain(*cap).min().unwrap_or(Seq(u64::MAX));
            self.lost = self.lost.max(bound);
        }
        if self.torn_bytes > 0 && !self.is_sound() {
            self.lost = Seq(u64::MAX);
        }
    }
}

/// Whether something is missing above the last place that was said to be on the device: that may be a torn end, and what was behind it gone too.
fn is_spoilt_from(tails: &[Tail], ends: &[u32], claimed: Position) -> bool {
    let above = tails.iter().zip(ends).filter(|(tail, _)| tail.header.id >= claimed.segment);
    above.into_iter().any(|(tail, end)| {
        let from = if tail.header.id == claimed.segment { claimed.offset } else { SEGMENT_HEADER_BYTES };
        let mut is_spoilt = false;
        walk(&tail.bytes[..tail.bytes.len().min(*end as usize)], &tail.header, |found| {
            is_spoilt |=
                matches!(found, Found::Spoilt { offset, .. } | Found::Hole { offset, .. } if offset >= from);
        });
        is_spoilt
    })
}

fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
