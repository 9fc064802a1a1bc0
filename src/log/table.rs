//! The segments a store has, by id: read by every `get` without a lock, replaced as a whole when one comes or goes.
//!
//! A segment that has gone may be the last thing its file's bytes hang on, and to let go of those takes the kernel time. A reader may be the last
//! that holds it, on a worker that must not wait: so the table holds it too, until [`Table::bury`] finds that nobody else does (P10).

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::id::SegmentId;
use crate::sync::Mutex;

use super::segment::Segment;

/// All segments, by id, ascending.
pub(crate) type List = Vec<Arc<Segment>>;

/// The list that counts now, and what has gone from it and may still be read.
#[derive(Default)]
pub(crate) struct Table {
    list: ArcSwap<List>,
    gone: Mutex<List>,
}

impl Table {
    /// The list as it is now; a reader that holds it keeps removed segments readable.
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<List>> {
        self.list.load()
    }

    /// Adds a segment, or replaces the one of the same id.
    pub(crate) fn put(&self, segment: &Arc<Segment>) {
        self.change(|list| match list.binary_search_by_key(&segment.id(), |s| s.id()) {
            Ok(at) => list[at] = Arc::clone(segment),
            Err(at) => list.insert(at, Arc::clone(segment)),
        });
    }

    /// Replaces the segment of the same id, unless it was removed.
    pub(crate) fn replace(&self, segment: &Arc<Segment>) {
        self.change(|list| {
            if let Ok(at) = list.binary_search_by_key(&segment.id(), |s| s.id()) {
                list[at] = Arc::clone(segment);
            }
        });
    }

    pub(crate) fn remove(&self, ids: &[SegmentId]) {
        self.change(|list| list.retain(|s| !ids.contains(&s.id())));
    }

    /// Changes the list, and keeps what goes from it: under one lock, so that each that goes is kept once.
    fn change(&self, by: impl FnOnce(&mut List)) {
        let mut gone = self.gone.lock();
        let before = self.list.load_full();
        let mut list = List::clone(&before);
        by(&mut list);
        let stays = |s: &Arc<Segment>| find(&list, s.id()).is_some_and(|now| Arc::ptr_eq(now, s));
        gone.extend(before.iter().filter(|s| !stays(s)).cloned());
        self.list.store(Arc::new(list));
    }

    /// Lets go of what has gone and nobody reads any more; on a thread that may wait.
    pub(crate) fn bury(&self) {
        let gone = std::mem::take(&mut *self.gone.lock());
        // Who is not in the list finds no new readers, so the count does not rise from one.
        let (held, dead): (List, List) = gone.into_iter().partition(|s| Arc::strong_count(s) > 1);
        self.gone.lock().extend(held);
        drop(dead);
    }
}

/// Finds a segment in a list.
pub(crate) fn find(list: &List, id: SegmentId) -> Option<&Arc<Segment>> {
    list.binary_search_by_key(&id, |s| s.id()).ok().map(|at| &list[at])
}
