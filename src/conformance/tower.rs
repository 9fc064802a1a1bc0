//! The same for stores of tower-sessions 0.15, through the `Session` that its middleware hands out.
//!
//! Two of these no store passes that keeps a session as one value and saves it whole: [`lost_update`] and [`resurrection`]; its own `MemoryStore` shows both.

use std::sync::Arc;

use time::{Duration, OffsetDateTime};
use tower_sessions_core::session::{Expiry, Id, Session};
use tower_sessions_core::session_store::SessionStore as TowerSessionStore;

use super::{Check, Checked, TASKS, at_once, yield_now};

/// What a request has: a session of this id.
fn request<S: TowerSessionStore>(store: &Arc<S>, id: Option<Id>) -> Session {
    Session::new(id, Arc::clone(store), None)
}

impl Check {
    async fn signed_in<S: TowerSessionStore>(self, store: &Arc<S>) -> Result<Id, super::Violation> {
        let session = request(store, None);
        self.done(session.insert("user", "ada").await)?;
        self.done(session.save().await)?;
        session.id().ok_or_else(|| super::Violation::new(self.0, "a saved session has no id"))
    }
}

/// All of them, one after another.
///
/// # Errors
///
/// The first [`Violation`](super::Violation).
///
/// ```
/// # use cloakroom::{MemoryStore, conformance, tower_sessions::TowerStore};
/// # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
/// conformance::tower::all(TowerStore::new(MemoryStore::new())).await?;
/// # Ok(()) }
/// ```
pub async fn all<S: TowerSessionStore>(store: S) -> Checked {
    let store = Arc::new(store);
    contract(&store).await?;
    rotation(&store).await?;
    lost_update(&store).await?;
    resurrection(&store).await
}

/// What one request after another sees; deadlines included.
///
/// # Errors
///
/// The first [`Violation`](super::Violation).
///
/// ```
/// # use cloakroom::{MemoryStore, conformance, tower_sessions::TowerStore};
/// # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
/// conformance::tower::contract(&std::sync::Arc::new(TowerStore::new(MemoryStore::new()))).await?;
/// # Ok(()) }
/// ```
pub async fn contract<S: TowerSessionStore>(store: &Arc<S>) -> Checked {
    let check = Check("contract");
    let id = check.signed_in(store).await?;
    let session = request(store, Some(id));
    let user: Option<String> = check.done(session.get("user").await)?;
    check.that(user.as_deref() == Some("ada"), "what was saved is not loaded")?;
    check.done(session.remove::<String>("user").await)?;
    check.done(session.insert("theme", "dark").await)?;
    check.done(session.save().await)?;
    let session = request(store, Some(id));
    check.that(check.done(session.get::<String>("user").await)?.is_none(), "a removed field is there")?;
    session.clear().await;
    check.done(session.save().await)?;
    let session = request(store, Some(id));
    check.that(check.done(session.get::<String>("theme").await)?.is_none(), "a cleared field is there")?;
    let unknown = check.done(store.load(&Id(0)).await)?;
    check.that(unknown.is_none(), "an id that was never given finds a session")?;
    session.set_expiry(Some(Expiry::AtDateTime(OffsetDateTime::now_utc() - Duration::seconds(1))));
    check.done(session.save().await)?;
    check.that(check.done(store.load(&id).await)?.is_none(), "a session is there after its deadline")
}

/// A cycled id: the fields go along, the old id is dead.
///
/// # Errors
///
/// The first [`Violation`](super::Violation).
///
/// ```
/// # use cloakroom::{MemoryStore, conformance, tower_sessions::TowerStore};
/// # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
/// conformance::tower::rotation(&std::sync::Arc::new(TowerStore::new(MemoryStore::new()))).await?;
/// # Ok(()) }
/// ```
pub async fn rotation<S: TowerSessionStore>(store: &Arc<S>) -> Checked {
    let check = Check("rotation");
    let old = check.signed_in(store).await?;
    let session = request(store, Some(old));
    check.done(session.cycle_id().await)?;
    check.done(session.save().await)?;
    check.that(check.done(store.load(&old).await)?.is_none(), "the old id lives on")?;
    let user: Option<String> = check.done(request(store, session.id()).get("user").await)?;
    check.that(user.as_deref() == Some("ada"), "the fields do not go along")?;
    check.done(session.delete().await)
}

/// Requests at once, each of which sets a field of its own: all fields are there in the end.
///
/// # Errors
///
/// The first [`Violation`](super::Violation).
///
/// ```
/// # use cloakroom::{MemoryStore, conformance, tower_sessions::TowerStore};
/// # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
/// conformance::tower::lost_update(&std::sync::Arc::new(TowerStore::new(MemoryStore::new()))).await?;
/// # Ok(()) }
/// ```
pub async fn lost_update<S: TowerSessionStore>(store: &Arc<S>) -> Checked {
    let check = Check("lost_update");
    let id = check.signed_in(store).await?;
    let set = |n: usize| async move {
        let session = request(store, Some(id));
        check.done(session.insert(&n.to_string(), n).await)?;
        yield_now().await;
        check.done(session.save().await)
    };
    for saved in at_once((0..TASKS).map(set)).await {
        saved?;
    }
    let session = request(store, Some(id));
    let mut there = 0;
    for n in 0..TASKS {
        there += usize::from(check.done(session.get::<usize>(&n.to_string()).await)?.is_some());
    }
    check.done(session.delete().await)?;
    check.that(there == TASKS, &format!("{there} of {TASKS} fields are there"))
}

/// A request that was in flight while its session was signed out: its save is no error, and signs nobody in.
///
/// # Errors
///
/// The first [`Violation`](super::Violation).
///
/// ```
/// # use cloakroom::{MemoryStore, conformance, tower_sessions::TowerStore};
/// # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
/// conformance::tower::resurrection(&std::sync::Arc::new(TowerStore::new(MemoryStore::new()))).await?;
/// # Ok(()) }
/// ```
pub async fn resurrection<S: TowerSessionStore>(store: &Arc<S>) -> Checked {
    let check = Check("resurrection");
    let id = check.signed_in(store).await?;
    let late = request(store, Some(id));
    check.done(late.insert("seen", 1).await)?;
    check.done(request(store, Some(id)).flush().await)?;
    check.done(late.save().await)?;
    let there = check.done(store.load(&id).await)?.is_some();
    check.done(store.delete(&id).await)?;
    check.that(!there, "a late save revived a session that was signed out")
}
