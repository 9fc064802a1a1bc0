//! Sessions whose time has come, out of process memory: a few with each operation, and by a thread while somebody listens.
//!
//! Nothing depends on when this runs but what is told: an operation compares the deadline itself.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::events::{Event, Events};
use crate::id::SessionKey;
use crate::sync::atomic::Ordering;
use crate::sync::{Signal, spawn};

use super::{MemoryStore, Shared, State};

/// Expired sessions that one operation takes out of memory. An operation adds at most one session, so more than one suffices for
/// memory to follow the living; few enough that none of them holds the lock for long.
const SWEPT_PER_OPERATION_MAX: usize = 16;
/// How often the expired are looked for while somebody listens.
const SWEEP_ROUND: Duration = Duration::from_millis(200);

impl MemoryStore {
    pub(super) fn events_now(&self) -> Events {
        let events = self.shared.listeners.listen();
        if !self.shared.swept.swap(true, Ordering::AcqRel) {
            let shared = Arc::downgrade(&self.shared);
            if let Err(e) = spawn("sweeper", move || Shared::run_sweeper(&shared)) {
                self.shared.swept.store(false, Ordering::Release);
                tracing::warn!(error = %e, "expired sessions are told of when the store is used, since no thread could be started");
            }
        }
        events
    }

    /// Takes a session out that ended and that no sweep has met.
    pub(super) fn take_ended(&self, state: &mut State, key: &SessionKey, now: Timestamp) {
        if state.sessions.contains_key(key) {
            state.remove(key, now);
            self.shared.listeners.tell(Event::Expired { key: *key });
        }
    }
}

impl Shared {
    /// Takes some of those out of memory whose time has come; says whether there may be more.
    pub(super) fn sweep(&self, state: &mut State, now: Timestamp) -> bool {
        for _ in 0..SWEPT_PER_OPERATION_MAX {
            match state.deadlines.first() {
                Some(&(expires_at, key)) if expires_at <= now => {
                    state.remove(&key, now);
                    self.listeners.tell(Event::Expired { key });
                }
                _ => return false,
            }
        }
        true
    }

    /// Ends sessions for those who listen, whether or not anybody uses the store; until nobody listens any more.
    fn run_sweeper(shared: &Weak<Self>) {
        let pause = Signal::default();
        while let Some(shared) = shared.upgrade() {
            while shared.sweep(&mut shared.state.lock(), shared.clock.now()) {}
            if !shared.listeners.are_any() {
                shared.swept.swap(false, Ordering::AcqRel);
                // Who came in between has left it to this thread.
                if !shared.listeners.are_any() || shared.swept.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
            drop(shared);
            pause.wait(SWEEP_ROUND);
        }
    }
}
