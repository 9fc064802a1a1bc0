//! Space for compaction on a full disk: a file as long as a segment that holds nothing, and is given up when a copy finds no room.
//!
//! It decides nothing about when. It has the name of a segment that no list names, so after a crash it is an orphan, which the next open removes.
//!
//! # Why a full store can shrink (P9)
//!
//! Space comes back when a segment is unlinked, and one that is partly alive is unlinked when what lives of it was copied. So there must be room for
//! the copy when there is none for anything else:
//!
//! 1. The reserve is as long as a segment, and what lives of one segment is shorter: one of which an unlink gives more back than the copy took can
//!    always be copied.
//! 2. No segment for new records is made before the reserve is there. So writes never eat it, and what a compaction on the reserve
//!    gives back restores it first.
//! 3. While it is lent nobody else makes a file of the store but the compaction that it is lent to.
//! 4. The last part of a segment takes deletes alone, so those who want to shrink the store can say so. When that is full and the next segment
//!    cannot be made, any segment with a few dead bytes is compacted, not only those that are half dead, and the next segment may be a
//!    short one: every delete gives back more than it takes, unless its session was smaller than the delete's own record.
//!
//! It has limits: a segment of rotations takes up to a third more as a copy, each becoming a put and a tombstone, and may not fit; what lies in the
//! active segment is not compacted; and deletes spread evenly over very many segments may use up their part before any of these has enough dead.
//!
//! An open sets the reserve aside first, and one that cannot begins in the shortest segment: so there is room for the next open too, which
//! has to write while all that this one has written is still there.
//!
//! The stream keeps no segment ahead of its need: it has one, and the reserve is the second of the two that the bound allows.

use std::io;
use std::sync::Arc;

use crate::disk::Disk;
use crate::format::segment_name;
use crate::id::SegmentId;
use crate::sync::Mutex;

/// Where the reserve is.
enum State {
    Missing,
    Held(SegmentId),
    /// A compaction uses its space.
    Lent,
}

pub(super) struct Reserve {
    disk: Arc<dyn Disk>,
    bytes: u32,
    state: Mutex<State>,
}

impl Reserve {
    /// One that is not there yet.
    pub(super) fn missing(disk: Arc<dyn Disk>, bytes: u32) -> Self {
        Self { disk, bytes, state: Mutex::new(State::Missing) }
    }

    /// Sets it aside, if it is not, under an id that no list names; fails if that cannot be now.
    pub(super) fn hold(&self, id: impl FnOnce() -> SegmentId) -> io::Result<()> {
        let mut state = self.state.lock();
        match *state {
            State::Held(_) => Ok(()),
            State::Lent => Err(io::ErrorKind::StorageFull.into()),
            State::Missing => {
                let id = id();
                let name = segment_name(id);
                match self.disk.remove(&name) {
                    // What a crash left under a name that was never listed.
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
                drop(self.disk.create(&name, self.bytes.into())?);
                *state = State::Held(id);
                Ok(())
            }
        }
    }

    pub(super) fn is(&self, id: SegmentId) -> bool {
        matches!(*self.state.lock(), State::Held(held) if held == id)
    }

    /// Gives its space to a compaction; says whether there was any to give.
    pub(super) fn lend(&self) -> bool {
        self.give_up(State::Lent)
    }

    /// Takes it back from the compaction, which is over.
    pub(super) fn restore(&self, id: impl FnOnce() -> SegmentId) {
        *self.state.lock() = State::Missing;
        if let Err(e) = self.hold(id) {
            tracing::debug!(error = %e, "the reserve cannot be set aside now; it is tried again");
        }
    }

    /// Removes it: the store ends, or has no room for it yet.
    pub(super) fn remove(&self) {
        self.give_up(State::Missing);
    }

    fn give_up(&self, for_what: State) -> bool {
        let mut state = self.state.lock();
        let State::Held(id) = *state else { return false };
        if let Err(e) = self.disk.remove(&segment_name(id)) {
            tracing::warn!(error = %e, segment = %id, "the reserve could not be given up");
            return false;
        }
        *state = for_what;
        true
    }
}
