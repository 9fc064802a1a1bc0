//! Our stores pass every check; the one that comes with tower-sessions fails two, which is kept here as the difference.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::conformance::{self, Violation};
use cloakroom::tower_sessions::TowerStore;
use cloakroom::{Durability, LogStore, MemoryStore, Options, SessionStore};

async fn passes(store: impl SessionStore + Clone) {
    conformance::all(&store, tokio::time::sleep).await.unwrap();
    conformance::tower::all(TowerStore::new(store.clone())).await.unwrap();
    assert!(store.keys(None, 10).await.unwrap().keys.is_empty(), "the checks leave sessions behind");
}

#[tokio::test]
async fn memory_store_passes() {
    passes(MemoryStore::new()).await;
}

#[tokio::test]
async fn log_store_passes_at_every_durability() {
    for durability in [Durability::Sync, Durability::Interval(Duration::from_millis(5)), Durability::Buffered]
    {
        let folder = tempfile::tempdir().unwrap();
        let store = LogStore::open(folder.path(), Options::default()).await.unwrap();
        passes(store.at(durability)).await;
    }
}

#[tokio::test]
async fn store_that_comes_with_tower_sessions_loses_updates_and_revives_who_signed_out() {
    let store = Arc::new(tower_sessions::MemoryStore::default());
    conformance::tower::contract(&store).await.unwrap();
    conformance::tower::rotation(&store).await.unwrap();
    let lost = conformance::tower::lost_update(&store).await;
    assert_eq!(lost, Err(Violation::new("lost_update", "1 of 16 fields are there")));
    let revived = conformance::tower::resurrection(&store).await;
    let what = "a late save revived a session that was signed out";
    assert_eq!(revived, Err(Violation::new("resurrection", what)));
}

/// A check that no store fails checks nothing: this one forgets what it was told to be careful about.
#[tokio::test]
async fn cache_mode_fails_where_a_store_must_not() {
    let store = Arc::new(TowerStore::cache(MemoryStore::new()));
    assert!(conformance::tower::lost_update(&store).await.is_err());
}
