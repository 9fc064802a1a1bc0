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
//! An open sets the reserve aside first, and one that cannot begins in the shortest segment: so there is room for the next open too, which
//! has to write while all that this one has written is still there.
//!
//! The stream keeps no segment ahead of its need: it has one, and the reserve is the second of the two that the bound allows.

use std::io;

use crate::disk::Disk;
use crate::format::segment_name;
use crate::id::SegmentId;
use crate::sync::Mutex;

use super::Engine;

/// Where the reserve is.
#[derive(Clone, Copy, Default, Debug)]
enum State {
    #[default]
    Missing,
    Held(SegmentId),
    /// A compaction uses its space.
    Lent,
}

impl State {
    /// With no bytes it is missing, and nothing is left of it.
    fn set_aside(disk: &dyn Disk, id: SegmentId, bytes: u32) -> io::Result<Self> {
        let name = segment_name(id);
        match disk.remove(&name) {
            // What a crash left under a name that was never listed.
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        if bytes == 0 {
            return Ok(Self::Missing);
        }
        drop(disk.create(&name, bytes.into())?);
        Ok(Self::Held(id))
    }
}

#[derive(Default)]
pub(super) struct Reserve(Mutex<State>);

impl Reserve {
    /// The first one of a store that opens, under an id that no list names; none of no bytes.
    pub(super) fn set_aside(disk: &dyn Disk, id: SegmentId, bytes: u32) -> io::Result<Self> {
        State::set_aside(disk, id, bytes).map(|state| Self(Mutex::new(state)))
    }

    pub(super) fn is(&self, id: SegmentId) -> bool {
        matches!(*self.0.lock(), State::Held(held) if held == id)
    }
}

impl Engine {
    /// Sets the reserve aside, if it is not; fails if that cannot be now.
    pub(super) fn hold_reserve(&self) -> io::Result<()> {
        let mut state = self.reserve.0.lock();
        match *state {
            State::Held(_) => Ok(()),
            State::Lent => Err(io::ErrorKind::StorageFull.into()),
            State::Missing => {
                let (id, bytes) = (self.catalog.take_id(), self.options.segment_bytes);
                *state = State::set_aside(&*self.disk, id, bytes)?;
                Ok(())
            }
        }
    }

    /// Gives its space to a compaction; says whether there was any to give.
    pub(super) fn lend_reserve(&self) -> bool {
        let mut state = self.reserve.0.lock();
        let State::Held(id) = *state else { return false };
        if let Err(e) = self.disk.remove(&segment_name(id)) {
            tracing::warn!(error = %e, segment = %id, "the reserve could not be given up");
            return false;
        }
        *state = State::Lent;
        true
    }

    /// Takes it back from the compaction, which is over.
    pub(super) fn restore_reserve(&self) {
        *self.reserve.0.lock() = State::Missing;
        if let Err(e) = self.hold_reserve() {
            tracing::debug!(error = %e, "the reserve cannot be set aside now; it is tried again");
        }
    }

    /// Removes it for good: the store ends.
    pub(super) fn drop_reserve(&self) {
        let mut state = self.reserve.0.lock();
        if let State::Held(id) = std::mem::take(&mut *state)
            && let Err(e) = self.disk.remove(&segment_name(id))
        {
            tracing::debug!(error = %e, segment = %id, "the reserve stays until the next open");
        }
    }
}
