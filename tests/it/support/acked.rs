//! Work of every kind on a store that may fail at any moment, and what of it was acknowledged.
//!
//! Sessions are numbered; the payload of one is made of its number. What an operation that failed has done is not known, so its session is not
//! looked at any more. Invariant: every wait has a bound, which is generous and says only that something hangs.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use cloakroom::{Access, Error, Lifetime, SessionKey, SessionStore};

pub const HOUR: Lifetime = Lifetime::idle(Duration::from_secs(3_600));

/// Long enough for any machine: only a hang is longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of a future that nobody may wait for in vain.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("it hangs: {what}"))
}

pub fn key(n: u32) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

pub fn payload(n: u32, len: usize) -> Vec<u8> {
    n.to_le_bytes().iter().copied().cycle().take(len).collect()
}

/// What is known of each session: if it is there.
#[derive(Default)]
pub struct Acked {
    pub known: BTreeMap<u32, bool>,
    pub errors: Vec<Error>,
}

impl Acked {
    /// Takes down an answer; gives it if it is one.
    fn note<T: Debug>(&mut self, n: u32, done: Result<T, Error>, there: impl Fn(&T) -> bool) {
        match done {
            Ok(answer) => drop(self.known.insert(n, there(&answer))),
            Err(error) => {
                self.known.remove(&n);
                self.errors.push(error);
            }
        }
    }

    pub async fn create(&mut self, store: &impl SessionStore, n: u32, len: usize) {
        let created = in_time("create", store.upsert(key(n), payload(n, len).into(), HOUR)).await;
        self.note(n, created, |()| true);
    }

    pub async fn delete(&mut self, store: &impl SessionStore, n: u32) {
        // An answer without a delete says nothing of how durable an earlier one is.
        let deleted = in_time("delete", store.delete(key(n))).await;
        self.note(n, deleted, |_| false);
    }

    /// Creates sessions of `range`, deletes two of three, and does some of everything else to the third.
    pub async fn work(&mut self, store: &impl SessionStore, range: std::ops::Range<u32>) {
        for n in range {
            self.create(store, n, 3_000).await;
            if n >= 3 && n % 3 != 0 {
                self.delete(store, n - 3).await;
            } else if n >= 6 {
                let touched = in_time("touch", store.touch(key(n - 6))).await;
                let moved = in_time("set_lifetime", store.set_lifetime(key(n - 6), HOUR)).await;
                let put = in_time("put", store.put(key(n - 6), payload(n - 6, 2_000).into())).await;
                for error in [touched.err(), moved.err(), put.err()].into_iter().flatten() {
                    // Another payload of the same number or none: the session is as it was.
                    self.errors.push(error);
                }
            }
            if n % 7 == 0 {
                self.errors.extend(in_time("flush", store.flush()).await.err());
                self.errors.extend(in_time("keys", store.keys(None, 100)).await.err());
            }
        }
    }

    /// Reads all that is known; gives the errors that reads met.
    pub async fn check(&self, store: &impl SessionStore, when: &str) -> Vec<Error> {
        let mut errors = Vec::new();
        for (n, there) in &self.known {
            match in_time("get", store.get(key(*n), Access::Peek)).await {
                Ok(found) => {
                    assert_eq!(found.is_some(), *there, "{when}: session {n}");
                    let whole = found.is_none_or(|s| s.payload == payload(*n, s.payload.len()));
                    assert!(whole, "{when}: session {n} is torn");
                }
                Err(error) => errors.push(error),
            }
        }
        errors
    }
}
