//! How many sessions there are, and how many of them have an owner: read at each create, written at each create, end and change of owner.
//!
//! Not exact at one instant for who holds no lock: it is for limits. Invariant: while no shard is locked, it is what the shards hold.

use crate::sync::atomic::{AtomicUsize, Ordering};

#[derive(Default)]
pub(super) struct Count {
    all: AtomicUsize,
    owned: AtomicUsize,
}

impl Count {
    pub(super) fn began(&self, owned: bool) {
        self.all.fetch_add(1, Ordering::Relaxed);
        self.owned.fetch_add(usize::from(owned), Ordering::Relaxed);
    }

    pub(super) fn ended(&self, owned: bool) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        self.owned.fetch_sub(usize::from(owned), Ordering::Relaxed);
    }

    pub(super) fn changed(&self, was_owned: bool, is_owned: bool) {
        if was_owned != is_owned {
            self.owned.fetch_add(usize::from(is_owned), Ordering::Relaxed);
            self.owned.fetch_sub(usize::from(was_owned), Ordering::Relaxed);
        }
    }

    pub(super) fn all(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    pub(super) fn anonymous(&self) -> usize {
        self.all().saturating_sub(self.owned.load(Ordering::Relaxed))
    }
}
