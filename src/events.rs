//! What happens to sessions, told as it happens to whoever listens: bounded, live, and never in the way of what it tells of.
//!
//! Not a log: nothing is told of what happened before somebody listened or while the store was closed. Invariant: the events of one key are told in the
//! order in which they happened, since each is told while that key's shard is locked.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::id::SessionKey;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Events that wait for a slow listener; of what is more, the oldest are dropped and counted.
const WAITING_MAX: usize = 4_096;

/// Something that happened to a session.
///
/// ```
/// use cloakroom::{Event, Lifetime, MemoryStore, SessionStore, Why};
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let mut events = store.events();
/// let id = store.create("x".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await?;
/// store.delete(id.key()).await?;
/// assert_eq!(events.next().await, Some(Ok(Event::Created { key: id.key() })));
/// assert_eq!(events.next().await, Some(Ok(Event::Deleted { key: id.key(), why: Why::Asked })));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// It began: by a create, or an upsert where there was none.
    Created {
        /// The session.
        key: SessionKey,
    },
    /// It moved to another id.
    Rotated {
        /// Where it was.
        from: SessionKey,
        /// Where it is.
        to: SessionKey,
    },
    /// Somebody ended it.
    Deleted {
        /// The session.
        key: SessionKey,
        /// How.
        why: Why,
    },
    /// Its time came. Told within a second of the deadline, or as soon as a sweep of others lets it, but not by a store that takes no writes, and an
    /// hour later where the start was far ahead of the time last written down.
    Expired {
        /// The session.
        key: SessionKey,
    },
}

/// Why a session was [deleted](Event::Deleted).
///
/// ```
/// # use cloakroom::{MemoryStore, SessionStore, Why};
/// assert_ne!(Why::Asked, Why::Revoked);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Why {
    /// By [`delete`](crate::SessionStore::delete).
    Asked,
    /// By [`revoke`](crate::SessionStore::revoke). Told when the session leaves memory, a fraction of a second later for each hundred thousand sessions, or as fast as the device reads their keys;
    /// not by a store that takes no writes any more.
    Revoked,
    /// Its owner signed in elsewhere and may have no more sessions ([`AtCap`](crate::AtCap)).
    Evicted,
}

/// So many events were dropped, the oldest first, since the listener was too slow.
///
/// ```
/// assert_eq!(cloakroom::Missed(3).to_string(), "3 events were dropped, since the listener was too slow");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} events were dropped, since the listener was too slow")]
pub struct Missed(pub u64);

/// A live stream of [`Event`]s, from [`SessionStore::events`](crate::SessionStore::events).
///
/// At most 4,096 events wait for it; it never holds up the store. While anybody listens, the store reads the record of each session that expires or is
/// revoked, for its key.
///
/// ```
/// use cloakroom::{Event, Lifetime, MemoryStore, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// let store = MemoryStore::new();
/// let mut events = store.events();
/// # store.create("x".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await?;
/// # store.close().await?;
/// while let Some(told) = events.next().await {
///     match told {
///         Ok(Event::Expired { key }) => println!("{key} timed out"),
///         Ok(event) => println!("{event:?}"),
///         Err(missed) => println!("{missed}"),
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// The next event, or how many were dropped before it; `None` once the store is closed and all was told. Dropping the future loses nothing.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionStore};
    /// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
    /// let store = MemoryStore::new();
    /// let mut events = store.events();
    /// store.close().await?;
    /// assert_eq!(events.next().await, None);
    /// # Ok(()) }
    /// ```
    pub async fn next(&mut self) -> Option<Result<Event, Missed>> {
        match self.0.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(RecvError::Lagged(missed)) => Some(Err(Missed(missed))),
            Err(RecvError::Closed) => None,
        }
    }
}

/// Those who listen to a store.
#[derive(Default)]
pub(crate) struct Listeners {
    /// Made for the first, and dropped when nobody is left: a store to which nobody listens has no buffer.
    sender: Mutex<Option<broadcast::Sender<Event>>>,
    /// Whether there may be any: all that an operation asks.
    any: AtomicBool,
    closed: AtomicBool,
}

impl Listeners {
    pub(crate) fn listen(&self) -> Events {
        let mut sender = self.sender.lock();
        if self.closed.load(Ordering::Relaxed) {
            return Events(broadcast::channel(1).1);
        }
        let sender = sender.get_or_insert_with(|| broadcast::Sender::new(WAITING_MAX));
        self.any.store(true, Ordering::Relaxed);
        Events(sender.subscribe())
    }

    pub(crate) fn are_any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    pub(crate) fn tell(&self, event: Event) {
        if !self.are_any() {
            return;
        }
        let mut sender = self.sender.lock();
        // It fails when nobody listens any more.
        if sender.as_ref().is_none_or(|sender| sender.send(event).is_err()) {
            *sender = None;
            self.any.store(false, Ordering::Relaxed);
        }
    }

    /// Nothing happens any more.
    pub(crate) fn close(&self) {
        let mut sender = self.sender.lock();
        self.closed.store(true, Ordering::Relaxed);
        self.any.store(false, Ordering::Relaxed);
        *sender = None;
    }
}
