//! The sessions that a request ended and may create again under another id, with the last of each.
//!
//! Not a store: it is lost with the process, and then a new session has only what its own request set. Invariants: what is remembered is had by one new
//! session, and stays until that is made, so that a create which was refused may be tried again; who ends a session that somebody else has
//! ended already makes it forgotten; sessions and bytes are bounded, and the oldest go first.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::{Binding, SessionKey};

/// So many sessions are remembered.
const SESSIONS_MAX: usize = 4_096;
/// And so many bytes of them.
const BYTES_MAX: usize = 16 << 20;

/// The last of a session.
#[derive(Clone)]
pub(super) struct Last {
    pub(super) payload: Bytes,
    pub(super) binding: Option<Binding>,
    /// When it would have ended, in milliseconds since 1970.
    pub(super) expires_ms: u64,
}

#[derive(Default)]
pub(super) struct Departed {
    /// With the number of its end, and the last of it once it has ended.
    sessions: HashMap<SessionKey, (u64, Option<Last>)>,
    /// From the oldest on; some are forgotten already, or ended again.
    order: VecDeque<(u64, SessionKey)>,
    ends: u64,
    bytes: usize,
}

impl Departed {
    /// A request is about to end the session. If another is, or was before, neither has its last: one of them may sign somebody out.
    pub(super) fn begin(&mut self, key: SessionKey) {
        if self.sessions.contains_key(&key) {
            return self.forget(key);
        }
        self.ends += 1;
        self.sessions.insert(key, (self.ends, None));
        self.order.push_back((self.ends, key));
        self.shrink();
    }

    /// That request has ended it.
    pub(super) fn finish(&mut self, key: SessionKey, last: Last) {
        let Some((_, noted)) = self.sessions.get_mut(&key) else { return };
        self.bytes += last.payload.len();
        self.bytes -= noted.replace(last).map_or(0, |last| last.payload.len());
        self.shrink();
    }

    /// Somebody else has ended it, or nobody; or it goes on.
    pub(super) fn forget(&mut self, key: SessionKey) {
        let last = self.sessions.remove(&key).and_then(|(_, last)| last);
        self.bytes -= last.map_or(0, |last| last.payload.len());
    }

    pub(super) fn last(&self, key: SessionKey) -> Option<Last> {
        self.sessions.get(&key)?.1.clone()
    }

    fn shrink(&mut self) {
        while self.order.len() > SESSIONS_MAX || self.bytes > BYTES_MAX {
            let Some((end, key)) = self.order.pop_front() else { return };
            if self.sessions.get(&key).is_some_and(|(latest, _)| *latest == end) {
                self.forget(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> SessionKey {
        SessionKey::of(&n.to_le_bytes())
    }

    fn last(bytes: usize) -> Last {
        Last { payload: vec![0; bytes].into(), binding: None, expires_ms: 0 }
    }

    #[test]
    fn what_is_remembered_stays_until_it_goes_on_and_an_end_that_another_makes_forgets_it() {
        let mut departed = Departed::default();
        for ends_again in [false, true] {
            departed.begin(key(1));
            departed.finish(key(1), last(5));
            if ends_again {
                departed.begin(key(1));
            }
            for _ in ["refused", "tried again"] {
                let last = departed.last(key(1));
                assert_eq!(last.map(|last| last.payload.len()), (!ends_again).then_some(5));
            }
            departed.forget(key(1));
            assert!(departed.last(key(1)).is_none());
            departed.finish(key(1), last(5));
            assert!(departed.last(key(1)).is_none() && departed.bytes == 0);
        }
    }

    #[test]
    fn of_two_who_end_a_session_at_once_neither_has_its_last() {
        let mut departed = Departed::default();
        departed.begin(key(1));
        departed.begin(key(1));
        departed.finish(key(1), last(5));
        assert!(departed.last(key(1)).is_none());
    }

    #[test]
    fn sessions_and_bytes_are_bounded_and_the_newest_stay() {
        for (ends, bytes) in [(10 * SESSIONS_MAX, 10), (64, 1 << 20), (3, BYTES_MAX + 1)] {
            let mut departed = Departed::default();
            for n in 0..ends {
                departed.begin(key(n));
                departed.finish(key(n), last(bytes));
                assert!(departed.bytes <= BYTES_MAX);
                assert!(
                    departed.sessions.len() <= departed.order.len() && departed.order.len() <= SESSIONS_MAX
                );
            }
            assert_eq!(departed.last(key(ends - 1)).is_some(), bytes <= BYTES_MAX);
            assert!(departed.last(key(0)).is_none());
            let held: usize =
                departed.sessions.values().flat_map(|(_, last)| last).map(|l| l.payload.len()).sum();
            assert_eq!(departed.bytes, held);
        }
    }
}
