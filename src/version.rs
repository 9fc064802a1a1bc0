//! The order of writes: a record's sequence number, and the version of a session that callers compare.
//!
//! Apart from the ids, so that an error can name a version and an id can name an error. Invariant: both only grow.

/// The version of a session's content: what compare-and-swap compares. It grows with each write of the session.
///
/// ```
/// use cloakroom::{Access, Lifetime, MemoryStore, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let id = store.create("1".into(), Lifetime::idle(std::time::Duration::from_secs(60))).await?;
/// let first = store.get(id.key(), Access::Peek).await?.expect("just created").version;
/// let second = store.put(id.key(), "2".into()).await?.expect("still there");
/// assert!(second > first);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version(pub(crate) Seq);

/// A record's sequence number: a total order over all writes of a store, latest wins. It is never used twice; 0 is no record's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Seq(pub(crate) u64);
