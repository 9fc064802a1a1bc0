//! Space for compaction on a full disk: a file as long as a segment that holds nothing, and becomes the copy that finds no room.
//!
//! It decides nothing about when. It has the name of a segment that no list names, so after a crash it is an orphan, which the next open removes.
//!
//! # Why a full store can shrink (P9)
//!
//! Space comes back when a segment is unlinked, and one that is partly alive is unlinked when what lives of it was copied. So there must be room for
//! the copy when there is none for anything else:
//!
//! 1. The reserve is as long as a segment and a margin for the manifest that is to list the copy. What lives of one segment is shorter: one of which an
//!    unlink gives more back than the copy took can always be copied.
//! 2. No segment for new records is made before the reserve is there. So writes never eat it, and what a compaction on the reserve
//!    gives back restores it first.
//! 3. The copy is written into the reserve's own file, so at no time is the space free for others to take. That is renamed first, since the id of a copy is
//!    later than all it was copied from (`assess` goes by that). While it is lent nobody makes a segment.
//! 4. The last part of a segment takes deletes alone, so those who want to shrink the store can say so. When that is full and the next segment
//!    cannot be made, any segment with a few dead bytes is compacted, not only those that are half dead, and the next segment may be a
//!    short one: every delete gives back more than it takes, unless its session was smaller than the delete's own record.
//!
//! 5. What is dead may lie in the active segment alone, which is not compacted. Then the reserve gives up the little that a segment of the least
//!    length takes, the stream goes on in that, and the segment it has left is compacted into the rest of the reserve, which is
//!    whole again behind it. This is done where it gives more back than it takes. Until then only the worst segment is compacted: at least as much
//!    of it is dead as of the one that was left, so it fits as well.
//! 6. What is dead as a whole needs no copy, only a list without it: where there is no room for that, the reserve gives up its margin.
//!
//! It has limits: a segment that was written when [`Options::segment_bytes`](crate::Options::segment_bytes) was more may have more alive than the
//! reserve takes, and waits until less is, while others have their turn; between an unlink and the moment that the reserve is whole again another
//! program may take the space; and deletes spread evenly over very many segments may use up their part before any of these has enough dead: 4 KiB, and one of two thousand parts.
//!
//! An open sets the reserve aside first, and one that cannot begins in the shortest segment: so there is room for the next open too, which
//! has to write while all that this one has written is still there.
//!
//! The stream keeps no segment ahead of its need: it has one, and the reserve is the second of the two that the bound allows.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::format::segment_name;
use crate::id::SegmentId;
use crate::log::STREAM_BYTES_MIN;
use crate::sync::Mutex;

use super::catalog::Catalog;

/// The least margin for a manifest: it lists a hundred segments. It is one of [`MARGIN_PARTS`] of a segment if that is more.
const MARGIN_BYTES_MIN: u32 = 8 << 10;

const MARGIN_PARTS: u32 = 64;

/// Where the reserve is.
enum State {
    Missing,
    Held(Held),
    /// A compaction uses its space, of so many bytes.
    Lent(u32),
}

/// A file of no meaning, under a name that no list names.
pub(super) struct Held {
    pub(super) id: SegmentId,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) bytes: u32,
}

pub(super) struct Reserve {
    disk: Arc<dyn Disk>,
    /// Its length when it is whole.
    bytes: u32,
    /// Of that, what no copy takes.
    margin: u32,
    state: Mutex<State>,
}

impl Reserve {
    /// One that is not there yet, for segments of that length.
    pub(super) fn missing(disk: Arc<dyn Disk>, segment_bytes: u32) -> Self {
        let margin = (segment_bytes / MARGIN_PARTS).max(MARGIN_BYTES_MIN);
        Self { disk, bytes: segment_bytes + margin, margin, state: Mutex::new(State::Missing) }
    }

    /// Sets it aside as a whole, if it is not; fails if that cannot be now.
    pub(super) fn hold(&self, catalog: &Catalog) -> io::Result<()> {
        self.hold_in(&mut self.state.lock(), catalog)
    }

    fn hold_in(&self, state: &mut State, catalog: &Catalog) -> io::Result<()> {
        let short = match state {
            State::Held(held) if held.bytes == self.bytes => return Ok(()),
            State::Lent(_) => return Err(io::ErrorKind::StorageFull.into()),
            State::Held(short) => Some(short.id),
            State::Missing => None,
        };
        let made = self.make(catalog, self.bytes)?;
        if let Some(id) = short {
            self.remove_file(id);
        }
        *state = State::Held(made);
        Ok(())
    }

    fn make(&self, catalog: &Catalog, bytes: u32) -> io::Result<Held> {
        let id = catalog.take_id();
        let name = segment_name(id);
        let made = match self.disk.remove(&name) {
            // What a crash left under a name that was never listed was there, or nothing.
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => self.disk.create(&name, bytes.into()),
        };
        let file = made.inspect_err(|_| catalog.give_back(id))?;
        Ok(Held { id, file, bytes })
    }

    pub(super) fn is(&self, id: SegmentId) -> bool {
        matches!(&*self.state.lock(), State::Held(held) if held.id == id)
    }

    /// Whether nothing of it is missing, lent or given up.
    pub(super) fn is_whole(&self) -> bool {
        matches!(&*self.state.lock(), State::Held(held) if held.bytes == self.bytes)
    }

    /// Whether there is any to lend.
    pub(super) fn is_held(&self) -> bool {
        matches!(*self.state.lock(), State::Held(_))
    }

    /// Whether it has given some of its room to the stream.
    pub(super) fn is_short(&self) -> bool {
        matches!(&*self.state.lock(), State::Held(held) if held.bytes < self.bytes)
    }

    /// Bytes of a segment that must be dead for [`spare_some`](Self::spare_some).
    pub(super) fn spared_bytes(&self) -> u32 {
        STREAM_BYTES_MIN + self.margin
    }

    /// Gives the file to a copy, under an id of now; that may get so many bytes long.
    pub(super) fn lend(&self, catalog: &Catalog) -> io::Result<Option<Held>> {
        let mut state = self.state.lock();
        let State::Held(held) = &*state else { return Ok(None) };
        let id = catalog.take_id();
        let renamed = self.disk.rename(&segment_name(held.id), &segment_name(id));
        renamed.inspect_err(|_| catalog.give_back(id))?;
        let lent = Held { id, file: Arc::clone(&held.file), bytes: held.bytes - self.margin };
        *state = State::Lent(held.bytes);
        Ok(Some(lent))
    }

    /// Gives its margin to a list that frees segments of which nothing is to be copied.
    pub(super) fn spare_margin(&self) {
        let mut state = self.state.lock();
        if let State::Held(held) = &mut *state
            && held.bytes == self.bytes
            && held.file.truncate((self.bytes - self.margin).into()).is_ok()
        {
            held.bytes -= self.margin;
        }
    }

    /// Gives the room for a segment of the least length, and for the list of it, to the stream, unless it has before; says whether it has.
    pub(super) fn spare_some(&self) -> bool {
        let mut state = self.state.lock();
        let State::Held(held) = &mut *state else { return false };
        let left = self.bytes - self.spared_bytes();
        if let Err(e) = held.file.truncate(left.into()) {
            tracing::warn!(error = %e, segment = %held.id, "the reserve could not be cut");
            return false;
        }
        held.bytes = left;
        true
    }

    /// The compaction is over, so it is set aside again.
    pub(super) fn restore(&self, catalog: &Catalog) {
        let mut state = self.state.lock();
        let lent = match *state {
            State::Lent(bytes) => Some(bytes),
            State::Missing | State::Held(_) => None,
        };
        if lent.is_some() {
            *state = State::Missing;
        }
        let mut held = self.hold_in(&mut state, catalog);
        if let (Err(_), Some(bytes)) = (&held, lent) {
            // A run that came to nothing has given back what it was lent, and that may have been less than the whole.
            held = self.make(catalog, bytes).map(|made| *state = State::Held(made));
        }
        if let Err(e) = held {
            tracing::debug!(error = %e, "the reserve cannot be set aside now; it is tried again");
        }
    }

    /// Removes it: the store ends, or has no room for it yet.
    pub(super) fn remove(&self) {
        let mut state = self.state.lock();
        if let State::Held(held) = &*state {
            self.remove_file(held.id);
            *state = State::Missing;
        }
    }

    fn remove_file(&self, id: SegmentId) {
        if let Err(e) = self.disk.remove(&segment_name(id)) {
            tracing::warn!(error = %e, segment = %id, "the reserve could not be given up; the next open removes it");
        }
    }
}
