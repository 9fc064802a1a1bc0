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
        self.keep(&[segment.id()]);
        self.list.rcu(|list| {
            let mut list = List::clone(list);
            match list.binary_search_by_key(&segment.id(), |s| s.id()) {
                Ok(at) => list[at] = Arc::clone(segment),
                Err(at) => list.insert(at, Arc::clone(segment)),
            }
            list
        });
    }

    /// Replaces the segment of the same id, unless it was removed.
    pub(crate) fn replace(&self, segment: &Arc<Segment>) {
        self.keep(&[segment.id()]);
        self.list.rcu(|list| {
            let same =
                |s: &Arc<Segment>| if s.id() == segment.id() { Arc::clone(segment) } else { Arc::clone(s) };
            list.iter().map(same).collect::<List>()
        });
    }

    pub(crate) fn remove(&self, ids: &[SegmentId]) {
        self.keep(ids);
        self.list.rcu(|list| list.iter().filter(|s| !ids.contains(&s.id())).cloned().collect::<List>());
    }

    fn keep(&self, ids: &[SegmentId]) {
        let list = self.list.load();
        self.gone.lock().extend(ids.iter().filter_map(|id| find(&list, *id)).cloned());
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
