//! Which files of a folder count when any of them may be damaged, the manifest included. It reads, and changes nothing.
//!
//! # Which list to go by
//!
//! 1. The manifest, if it is whole and no stream segment is newer than it: the list is *current*.
//! 2. Else the manifest that a newer stream segment proves to be old, or `MANIFEST.copy`, of which nothing tells that it is the newest: a list that
//!    was true once. Every record staged since is in a stream segment that it lists without a seal, or in one with an id that it had not given
//!    yet. So that list and those segments together hold all that ever counted, whatever compactions did since, as long as each of them is here
//!    and whole; what is not, is judged like any other loss (see [`assess`](super::assess)). Beside such a list a newer stream segment in which
//!    anything was written counts, though no group in it holds.
//! 3. A *newer copy segment* of the same store means that the list has changed in a way which is not known: recovery may have moved
//!    records into it and cut them off where they were. It is taken for one that is lost. If it is of a later life, it proves that the list is old; else
//!    it may be what a crash left. A copy of another store with such an id is what a salvage left that did not end, unless the list is of nothing and
//!    no newer stream is in its place: then there was nothing to keep. Any other segment of another store means that this list is not this
//!    folder's: nothing is proven.
//! 4. Without any list nothing is proven. What lies in the folder may be what a compaction left behind, with the tombstones gone.
//!
//! A list that is the same as `MANIFEST.copy` is the newest, since the copy is written first: beside it, files of which nothing can be known are of no
//! meaning.
//!
//! A file that a salvage has moved aside is read under its new name, so that a salvage which a crash cut short can be done again: as long as one that
//! is listed is aside too, it is judged as it was before.

use std::collections::BTreeMap;
use std::io;

use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::format::{FORMAT_VERSION, Invalid, Manifest, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentKind};
use crate::id::{SegmentId, Seq};
use crate::log::end_of_bytes;
use crate::options::SEGMENT_BYTES_MAX;

use super::catalog::{MANIFEST, MANIFEST_BYTES_MAX, MANIFEST_COPY};
use super::damage::{Damages, quarantined};
use super::open::{HEAD_BYTES, is_headless, segment_id};
use super::recover::{SEGMENT_IDS_MAX, holds_groups, is_used_up, tells_of_a_later_list};

/// Bytes that are read at a time where the device cannot read a file whole.
const BLOCK_BYTES: usize = 4 << 10;

/// What is wrong with a file that may be all there is of a store.
const HEADLESS: &str = "its header is damaged, and no manifest lists it";

/// What is wrong with numbers behind which no others could be given.
pub(super) const USED_UP: &str = "its numbers are such as no store gets to";

/// What there is in a folder.
pub(super) struct Survey {
    /// The list to go by; its next id is above that of every file.
    pub(super) manifest: Manifest,
    pub(super) is_current: bool,
    /// There is nothing to go by.
    pub(super) is_lost: bool,
    /// What each segment's file is called.
    pub(super) files: BTreeMap<SegmentId, String>,
    /// Stream segments with groups that the list does not know, by id.
    pub(super) newer: Vec<SegmentHeader>,
    /// Other segments that it does not know, of which it is not known what was moved into them.
    pub(super) doubtful: Vec<SegmentId>,
    pub(super) damages: Damages,
}

/// What a segment file is that the list does not know.
enum Newer {
    /// Nothing was ever written to it, or nothing that counts.
    Nothing,
    Stream(SegmentHeader),
    /// A copy of which another list knew, though not this one, nor what was moved into it.
    Copy,
    Doubtful,
    /// Something was written to it, and its header does not hold, or is that of another name.
    Headless,
    /// The device cannot read its front.
    Unread,
    Foreign,
    /// A copy of another store, beside a list of nothing.
    ForeignCopy,
}

pub(super) fn survey(disk: &dyn Disk, names: &[String]) -> Result<Survey, OpenError> {
    let (mut survey, is_used_up) = begin(disk, names)?;
    let next = SegmentId(survey.manifest.next_segment);
    let (mut is_foreign, mut is_unknown, mut is_old) = (false, false, false);
    let (mut has_stream, mut has_foreign_copy) = (false, false);
    // What a salvage has moved aside counts only beside what made it do so.
    let is_aside = |id: u32| survey.files.get(&SegmentId(id)).is_some_and(|name| quarantined(name).is_some());
    let is_cut_short = survey.manifest.segments.iter().any(|listed| is_aside(listed.id));
    let counts = |name: &str| is_cut_short || quarantined(name).is_none();
    if survey.manifest.segments.is_empty() {
        is_foreign = beside_nothing(disk, &mut survey, next)?;
    }
    for (id, name) in survey.files.range(next..) {
        match classify(disk, name, *id, &survey.manifest, survey.is_current)? {
            Newer::Nothing => {}
            Newer::Stream(header) => {
                has_stream |= quarantined(name).is_none();
                survey.newer.push(header);
            }
            Newer::Doubtful => survey.doubtful.push(*id),
            Newer::Copy => {
                is_old |= counts(name);
                survey.doubtful.push(*id);
            }
            Newer::Headless => {
                if counts(name) {
                    survey.damages.add(name, 0, HEADLESS);
                    is_unknown = true;
                    survey.is_lost |= survey.manifest.segments.is_empty();
                }
                survey.doubtful.push(*id);
            }
            Newer::Unread => {
                survey.damages.add(name, 0, "the device cannot read it");
                is_unknown = true;
                survey.doubtful.push(*id);
            }
            // Moved aside by the salvage of a store that was here before this one.
            Newer::Foreign if !counts(name) && !survey.manifest.segments.is_empty() => {}
            Newer::Foreign => is_foreign = true,
            Newer::ForeignCopy => has_foreign_copy |= quarantined(name).is_none(),
        }
    }
    // What a salvage keeps beside a list of nothing is in the stream, of which it leaves one until it has ended.
    is_foreign |= has_foreign_copy && !has_stream;
    survey.is_lost |= is_foreign;
    if survey.is_current && (is_foreign || is_old || !survey.newer.is_empty()) {
        survey.is_current = false;
        survey.damages.add(MANIFEST, 0, "a segment that holds groups is newer than it, or of another store");
    }
    if is_unknown && survey.is_current {
        survey.is_current = is_newest(disk, names, &survey.manifest)?;
    }
    // No store gets as far as an id above: such a file has its name from elsewhere.
    let last = survey.files.range(..SegmentId(SEGMENT_IDS_MAX / 2)).next_back().map_or(0, |(id, _)| id.0);
    if is_used_up {
        (survey.manifest.next_segment, survey.manifest.next_seq) = (1, 1);
    }
    survey.manifest.next_segment = survey.manifest.next_segment.max(last + 1);
    Ok(survey)
}

/// What the lists alone say, and whether their numbers are used up.
fn begin(disk: &dyn Disk, names: &[String]) -> Result<(Survey, bool), OpenError> {
    let mut damages = Damages::default();
    let (manifest, is_current) = choose(disk, names, &mut damages)?;
    let is_used_up = manifest.as_ref().is_some_and(|m| is_used_up(m.next_segment, Seq(m.next_seq)));
    if is_used_up {
        damages.add(MANIFEST, 0, USED_UP);
    }
    let survey = Survey {
        is_current: is_current && !is_used_up,
        is_lost: is_used_up || manifest.is_none() && !is_current,
        files: files(names),
        newer: Vec::new(),
        doubtful: Vec::new(),
        damages,
        manifest: manifest.unwrap_or_else(|| Manifest::empty([0; 16])),
    };
    Ok((survey, is_used_up))
}

/// Looks at the segments below `next` beside a list of nothing, which fits every folder; says whether one is of another store.
fn beside_nothing(disk: &dyn Disk, survey: &mut Survey, next: SegmentId) -> Result<bool, OpenError> {
    let mut is_foreign = false;
    for (_, name) in survey.files.range(..next).filter(|(_, name)| quarantined(name).is_none()) {
        match passed_over(disk, name, &survey.manifest)? {
            Newer::Foreign => is_foreign = true,
            Newer::Headless => {
                survey.damages.add(name, 0, HEADLESS);
                survey.is_lost = true;
            }
            // It tells no more than these apart.
            _ => {}
        }
    }
    Ok(is_foreign)
}

/// The list to go by, and whether it is current unless a segment proves the contrary: so is that of a store which is still to be made.
fn choose(
    disk: &dyn Disk,
    names: &[String],
    damages: &mut Damages,
) -> Result<(Option<Manifest>, bool), OpenError> {
    let has_copy = names.iter().any(|name| name == MANIFEST_COPY);
    let what = match read_list(disk, names, MANIFEST)? {
        Some(Ok(manifest)) => return Ok((Some(manifest), true)),
        None if !has_copy => return Ok((None, true)),
        None => "it is not there, though its copy is",
        Some(Err(invalid)) => invalid.what(),
    };
    damages.add(MANIFEST, 0, what);
    Ok((read_list(disk, names, MANIFEST_COPY)?.and_then(Result::ok), false))
}

/// Whether a list is the same as its copy, which is written before it: beside an older list alone the copy is another.
fn is_newest(disk: &dyn Disk, names: &[String], manifest: &Manifest) -> Result<bool, OpenError> {
    match read_list(disk, names, MANIFEST_COPY) {
        Ok(copy) => Ok(copy.and_then(Result::ok).is_some_and(|copy| copy == *manifest)),
        Err(OpenError::UnknownFormat { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// A manifest, if there is a file of that name.
fn read_list(
    disk: &dyn Disk,
    names: &[String],
    name: &str,
) -> Result<Option<Result<Manifest, Invalid>>, OpenError> {
    if !names.iter().any(|found| found == name) {
        return Ok(None);
    }
    let file = disk.open(name).map_err(OpenError::io(format!("open {name}")))?;
    let bytes = read_file(&*file, MANIFEST_BYTES_MAX, |_| {});
    let bytes = bytes.map_err(OpenError::io(format!("read {name}")))?;
    match Manifest::decode(&bytes) {
        Err(Invalid::Unknown(found)) => {
            Err(OpenError::UnknownFormat { file: name.into(), found, known: FORMAT_VERSION.into() })
        }
        decoded => Ok(Some(decoded)),
    }
}

/// What each segment's file is called: its own name, or else the newest under which it was moved aside.
fn files(names: &[String]) -> BTreeMap<SegmentId, String> {
    let mut files = BTreeMap::<SegmentId, String>::new();
    let mut aside: Vec<_> = names.iter().filter(|name| quarantined(name).is_some()).collect();
    aside.sort_unstable();
    for name in aside {
        if let Some(id) = quarantined(name).and_then(segment_id) {
            files.insert(id, name.clone());
        }
    }
    files.extend(names.iter().filter_map(|name| Some((segment_id(name)?, name.clone()))));
    files
}

/// What a segment is that an empty list does not know, though it counts its id as given.
fn passed_over(disk: &dyn Disk, name: &str, manifest: &Manifest) -> Result<Newer, OpenError> {
    let file = disk.open(name).map_err(OpenError::io(format!("open {name}")))?;
    let front = read_file(&*file, SEGMENT_HEADER_BYTES.into(), |_| {});
    let front = front.map_err(OpenError::io(format!("read {name}")))?;
    match SegmentHeader::decode(&front) {
        Ok(header) if header.store != manifest.store => Ok(Newer::Foreign),
        Err(Invalid::Unknown(found)) => {
            Err(OpenError::UnknownFormat { file: name.into(), found, known: FORMAT_VERSION.into() })
        }
        Err(_) if is_written(&*file, name, HEAD_BYTES)? => Ok(Newer::Headless),
        _ => Ok(Newer::Nothing),
    }
}

/// Whether something was written behind a header that does not hold.
fn is_written(file: &dyn DiskFile, name: &str, limit: u64) -> Result<bool, OpenError> {
    let front = read_file(file, limit, |_| {}).map_err(OpenError::io(format!("read {name}")))?;
    Ok(is_headless(&front))
}

fn classify(
    disk: &dyn Disk,
    name: &str,
    id: SegmentId,
    manifest: &Manifest,
    is_current: bool,
) -> Result<Newer, OpenError> {
    let file = disk.open(name).map_err(OpenError::io(format!("open {name}")))?;
    let mut is_unread = false;
    let front = read_file(&*file, SEGMENT_HEADER_BYTES.into(), |_| is_unread = true);
    let front = front.map_err(OpenError::io(format!("read {name}")))?;
    if is_unread {
        return Ok(Newer::Unread);
    }
    let read = || {
        let bytes = read_file(&*file, SEGMENT_BYTES_MAX.into(), |_| {});
        bytes.map_err(OpenError::io(format!("read {name}")))
    };
    let header = match SegmentHeader::decode(&front) {
        Ok(header) if header.id == id => header,
        Err(Invalid::Unknown(found)) => {
            return Err(OpenError::UnknownFormat { file: name.into(), found, known: FORMAT_VERSION.into() });
        }
        Ok(header) => {
            // It may be the copy of one that is known; a list of nothing knows none.
            let is_new = header.id.0 >= manifest.next_segment;
            let is_lost = is_new && tells_of_a_later_list(&read()?, &header, manifest);
            return Ok(if is_lost || manifest.segments.is_empty() {
                Newer::Headless
            } else {
                Newer::Doubtful
            });
        }
        // An open looks at no more; beside a list that is damaged no part of a file need be as it was.
        Err(_) => {
            let limit = if is_current { HEAD_BYTES } else { SEGMENT_BYTES_MAX.into() };
            let is_written = is_written(&*file, name, limit)?;
            return Ok(if is_written { Newer::Headless } else { Newer::Nothing });
        }
    };
    let is_ours = header.store == manifest.store;
    let is_new = manifest.next_segment == 1;
    let bytes = read()?;
    // Beside a list that is damaged, what is no group may be one that was damaged as well.
    let is_torn = !is_current && end_of_bytes(&bytes, SEGMENT_HEADER_BYTES).is_some();
    let is_left_over = header.kind == SegmentKind::Copy && !is_ours && !is_new;
    if is_left_over && !manifest.segments.is_empty() || !is_torn && !holds_groups(&bytes, &header) {
        return Ok(Newer::Nothing);
    }
    Ok(match header.kind {
        _ if is_left_over => Newer::ForeignCopy,
        _ if !is_ours => Newer::Foreign,
        SegmentKind::Stream => Newer::Stream(header),
        SegmentKind::Copy if tells_of_a_later_list(&bytes, &header, manifest) => Newer::Copy,
        SegmentKind::Copy => Newer::Doubtful,
    })
}

/// What a file holds, up to `limit`; where the device cannot read, bytes that are nothing, and `unread` is told. A damaged file may be of any length:
/// no more is allocated than it is long, and than the limit.
pub(super) fn read_file(
    file: &dyn DiskFile,
    limit: u64,
    mut unread: impl FnMut(usize),
) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.len()?.min(limit)).map_err(io::Error::other)?];
    if file.read_at(0, &mut bytes).is_ok() {
        return Ok(bytes);
    }
    let mut at = 0;
    for block in bytes.chunks_mut(BLOCK_BYTES) {
        if file.read_at(at as u64, block).is_err() {
            // No header and no zeros that were set aside: what is not known is not nothing.
            block.fill(u8::MAX);
            unread(at);
        }
        at += block.len();
    }
    Ok(bytes)
}
