//! What stands behind sealed segments so that the next open need not read them whole, and what that open makes up for later.
//!
//! # A footer is a hint
//!
//! It says of a sealed segment what a scan of it would say, and its checksum starts from the seal (length and checksum of the whole) that the
//! manifest names. So one that holds is of exactly these bytes, whatever a crash, a cut or another life left behind them, and an open that folds it in
//! gets the index that a scan would have given. (As far as a CRC tells: a group's header that somebody forged with its own checksum leaves that of the
//! whole as it was. The footer then says what was there before.) One that is not there, is torn, cannot be read or does not hold is passed over and the segment is read.
//!
//! So nothing waits for it, and no promise does. It is written once the manifest says that its segment is sealed; it is never synced; a crash in its midst
//! leaves a part that does not hold. When the write fails it is cut off again, and that is all: the bytes before it were synced,
//! and a write changes none outside of its range.
//!
//! # What an open by footers has not seen
//!
//! The bodies of such segments. Each is checked when it is read, as ever, so damage is never served (P7): a `get` that meets it says `Corrupt`, and
//! compaction leaves the segment alone. So that damage is told, met or not, each segment is read once behind the open and
//! held against its seal; until then it is read through the file, since its map may not be in memory. Where that is too late, an open can be made to
//! read everything ([`Options::footers_from`](crate::Options)), as it does with segments that are too short for a footer to save anything.
//!
//! # What it costs
//!
//! An eighth of the bytes of a segment with sessions of 350 B, written once more; so it is written for a segment that is likely to stay: one that was
//! sealed a minute ago and is still two thirds alive. (With a footer for each segment at once, bytes written rose from 1.58 to 1.84 times what was
//! accepted under uniform churn, and from 1.12 to 1.51 where sessions only expire.) A close writes those that are missing, for a second at most.
//!
//! A footer is never longer than a third of its segment, and compaction cuts it off when the segment takes twice what lives of it with the footer: so the
//! bound on disk use (P9) is kept with footers as without, and nothing is copied because of one. None is written on a disk that has no room for the next segment or for
//! the reserve, and none into the room that the reserve had, which the next open needs. Those that are there when the stream finds no room are given up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::format::{Footer, FooterWriter, Placed, Seal};
use crate::index::{Index, Replay};
use crate::log::{Scanned, Segment, Trust, scan};

use super::fold::fold;

/// A footer may take one of this many parts of its segment.
const FOOTER_PARTS: usize = 3;

/// From where one segment's footer begins to where the next one's does, in shards.
const SHARDS_APART: usize = 19;

/// What is still to be done for a sealed segment.
pub(super) struct Chore {
    pub(super) segment: Arc<Segment>,
    pub(super) seal: Seal,
    /// When its footer is due, on the clock that never steps. `None` if it has one that the open went by: then it wants a check.
    pub(super) footer_due: Option<Duration>,
}

impl Chore {
    /// Writes the footer, if there is to be one and it can be written.
    pub(super) fn put_footer(&self) {
        let Self { segment, seal, .. } = self;
        let done = footer(segment, *seal).and_then(|footer| match footer {
            Some(footer) => segment.put_footer(&footer),
            None => Ok(()),
        });
        if let Err(e) = done {
            tracing::debug!(error = %e, segment = %segment.id(), "a segment has no footer; the next open reads it whole");
        }
    }
}

/// Folds in what the footer of a segment says; `None` if it has none that can be read and holds. Says how many bytes it took.
pub(super) fn fold_footer(replay: &Replay, segment: &Segment, seal: Seal) -> Option<(Scanned, u64)> {
    let unread = |e| tracing::warn!(error = %e, segment = %segment.id(), "a footer could not be read");
    let bytes = segment.read_footer(seal).map_err(unread).ok()??;
    let footer = Footer::decode(&bytes, segment.seed(), seal).ok()?;
    // What was folded in before a line that cannot be one is in the segment as well, and may come twice.
    let mut gathered = replay.gather();
    footer.visit(|placed| fold(&mut gathered, placed, segment.id(), None)).ok()?;
    segment.keep_footer(seal, bytes.len());
    let scanned = Scanned {
        time: footer.time,
        next_seq: footer.next_seq,
        records: footer.count.into(),
        ..Scanned::start()
    };
    Some((scanned, bytes.len() as u64))
}

/// The footer for a sealed segment; `None` if it is damaged, or if a footer saves too little.
fn footer(segment: &Segment, seal: Seal) -> io::Result<Option<Vec<u8>>> {
    let bytes = segment.whole(seal.len)?;
    // By shard: an open works on one shard's table for a while, most of which a processor's cache holds then. Threads that read segments side by side
    // begin far from each other, so that they do not wait for the same shards.
    let mut shards: Vec<Vec<_>> = (0..Index::SHARDS).map(|_| Vec::new()).collect();
    let scanned = scan(&bytes, segment.header(), Trust::Whole, |placed| {
        shards[Index::shard_of(&placed.header.key)].push(Placed { ..*placed });
    });
    if scanned.end != seal.len {
        return Ok(None);
    }
    let records = u32::try_from(scanned.records).map_err(io::Error::other)?;
    let mut writer = FooterWriter::new(scanned.time, scanned.next_seq, records);
    let first = segment.id().0 as usize * SHARDS_APART % Index::SHARDS;
    shards.rotate_right(first);
    shards.iter().flatten().for_each(|placed| writer.push(placed));
    let footer = writer.finish(segment.seed(), seal);
    Ok((footer.len() * FOOTER_PARTS <= bytes.len()).then_some(footer))
}
