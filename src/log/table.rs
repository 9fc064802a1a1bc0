//! The segments a store has, by id: read by every `get` without a lock, replaced as a whole when one comes or goes.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::id::SegmentId;

use super::segment::Segment;

/// All segments, by id, ascending.
pub(crate) type List = Vec<Arc<Segment>>;

/// The list that counts now.
#[derive(Default)]
pub(crate) struct Table(ArcSwap<List>);

impl Table {
    /// The list as it is now; a reader that holds it keeps removed segments readable.
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<List>> {
        self.0.load()
    }

    /// Adds a segment, or replaces the one of the same id.
    pub(crate) fn put(&self, segment: &Arc<Segment>) {
        self.0.rcu(|list| {
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
        self.0.rcu(|list| {
            let same =
                |s: &Arc<Segment>| if s.id() == segment.id() { Arc::clone(segment) } else { Arc::clone(s) };
            list.iter().map(same).collect::<List>()
        });
    }

    pub(crate) fn remove(&self, ids: &[SegmentId]) {
        self.0.rcu(|list| list.iter().filter(|s| !ids.contains(&s.id())).cloned().collect::<List>());
    }
}

/// Finds a segment in a list.
pub(crate) fn find(list: &List, id: SegmentId) -> Option<&Arc<Segment>> {
    list.binary_search_by_key(&id, |s| s.id()).ok().map(|at| &list[at])
}
