//! Whose turn it is to give an owner a session: [`owned`](super::owned) says what that is for.

use crate::id::OwnerKey;
use crate::sync::{Mutex, MutexGuard};

/// Owners share a turn with one in so many others.
const TURNS: usize = 64;

/// Whose turn it is to give an owner a session.
pub(super) struct Turns(Vec<Mutex<()>>);

impl Default for Turns {
    fn default() -> Self {
        Self((0..TURNS).map(|_| Mutex::new(())).collect())
    }
}

impl Turns {
    pub(super) fn take(&self, owner: OwnerKey) -> MutexGuard<'_, ()> {
        let [first, ..] = *owner.as_bytes();
        self.0[usize::from(first) % TURNS].lock()
    }
}
