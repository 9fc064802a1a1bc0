//! Visitors without an owner have a limit of their own, so that a flood of them crowds out nobody who is signed in.
//!
//! Goal: to fill a store with visitors until somebody who is signed in is refused, or to make the count of them wrong. Method: every way in which a session
//! gets or loses its owner or ends, with the limit met before and after each. Exactness with many writers at once is not promised.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, Clock, Durability, Error, Lifetime, LogStore, ManualClock, MemoryStore, OpenError, Options,
    OwnerKey, SessionId, SessionKey, SessionStore, Timestamp, Whose,
};

use crate::stores::{defaults, eventually};

const MAX: u32 = 10;
const LIFETIME: Lifetime = Lifetime::idle(Duration::from_secs(60)).exact();

fn options(clock: &Arc<ManualClock>) -> Options {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Options {
        anonymous_sessions_max: MAX,
        sessions_max: 200,
        segment_bytes: 1 << 20,
        payload_bytes_max: 4_096,
        clock,
        ..defaults()
    }
}

async fn create(store: &dyn SessionStore) -> Result<SessionId, Error> {
    store.create("visitor".into(), LIFETIME).await
}

/// Visitors come until one is refused; gives those who came in.
async fn flood(store: &dyn SessionStore) -> Vec<SessionId> {
    let mut visitors = Vec::new();
    loop {
        match create(store).await {
            Ok(id) => visitors.push(id),
            Err(Error::TooManyAnonymousSessions { max }) => {
                assert_eq!(max, MAX as usize);
                return visitors;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

async fn refuse_a_flood(store: &dyn SessionStore, clock: &ManualClock) {
    let owner = OwnerKey::of(b"user/42");
    let visitors = flood(store).await;
    assert_eq!(visitors.len(), MAX as usize);
    for key in [SessionKey::of(b"a"), SessionKey::of(b"b")] {
        let refused = store.upsert(key, "x".into(), LIFETIME).await;
        assert!(matches!(refused, Err(Error::TooManyAnonymousSessions { .. })), "{refused:?}");
    }
    // Who is in stays in, saves, moves, and signs in, which makes room for one.
    for visitor in &visitors {
        assert!(store.put(visitor.key(), "x".into()).await.unwrap().is_some());
        store.upsert(visitor.key(), "y".into(), LIFETIME).await.unwrap();
    }
    let moved = store.rotate(visitors[0].key()).await.unwrap().unwrap();
    assert!(flood(store).await.is_empty());
    // Who signs in without having been a visitor is no visitor.
    let newcomer = store.create_owned("x".into(), LIFETIME, owner.into()).await.unwrap();
    assert!(flood(store).await.is_empty());
    assert!(store.delete(newcomer.key()).await.unwrap());
    assert!(store.bind(moved.key(), Some(owner)).await.unwrap());
    assert!(store.bind(moved.key(), Some(OwnerKey::of(b"another"))).await.unwrap());
    let moved = store.rotate(moved.key()).await.unwrap().unwrap();
    assert!(store.put(moved.key(), "x".into()).await.unwrap().is_some());
    assert_eq!(flood(store).await.len(), 1);
    // A hundred users sign in past the flood, each from a session of a visitor.
    let mut users = Vec::new();
    for n in 0..100_u32 {
        let next = store.keys(None, 1_000).await.unwrap().keys;
        let mut visitor = None;
        for key in next {
            if store.get(key, Access::Peek).await.unwrap().is_some_and(|s| s.owner.is_none()) {
                visitor = Some(key);
                break;
            }
        }
        let key = visitor.unwrap();
        assert!(store.bind(key, Some(OwnerKey::of(&n.to_le_bytes()))).await.unwrap());
        users.push(key);
        assert_eq!(flood(store).await.len(), 1);
    }
    assert_eq!(store.len(), 1 + 100 + MAX as usize);
    // Who is signed out by the loss of the owner may stay; nobody else comes until there is room.
    assert!(store.bind(users[0], None).await.unwrap());
    assert!(flood(store).await.is_empty());
    assert!(store.delete(users[0]).await.unwrap());
    assert!(flood(store).await.is_empty());
    // The end of a signed-in session makes no room for a visitor, and the end of a visitor does.
    assert!(store.delete(users[1]).await.unwrap());
    store.revoke(Whose::Everybody, None).await.unwrap();
    eventually("the revoked are out of memory", || store.len() == MAX as usize).await;
    assert!(flood(store).await.is_empty());
    clock.advance(Duration::from_secs(60));
    eventually("the expired are out of memory", || store.is_empty()).await;
    assert_eq!(flood(store).await.len(), MAX as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_visitors_crowds_out_nobody_in_memory() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let store = MemoryStore::with_options(options(&clock)).unwrap();
    refuse_a_flood(&store, &clock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_visitors_crowds_out_nobody_on_disk_nor_after_a_restart() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), options(&clock)).await.unwrap();
    refuse_a_flood(&store, &clock).await;
    let visitor = store.keys(None, 1).await.unwrap().keys[0];
    store.bind(visitor, Some(OwnerKey::of(b"user/42"))).await.unwrap();
    store.close().await.unwrap();
    // They are counted as they are found.
    let store = LogStore::open(folder.path(), options(&clock)).await.unwrap();
    assert_eq!(store.len(), MAX as usize);
    assert_eq!(flood(&store).await.len(), 1);
    store.close().await.unwrap();
    let none = Options { anonymous_sessions_max: 0, ..options(&clock) };
    let refused = LogStore::open(folder.path(), none).await;
    assert!(matches!(refused, Err(OpenError::InvalidOption { option: "anonymous_sessions_max", .. })));
}

#[tokio::test]
async fn key_that_is_used_again_counts_for_whom_it_is_now() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    // Without threads nothing takes an expired session out of memory, so the next one has its place.
    let store = LogStore::open_by_hand(Arc::new(SimDisk::new(1)), options(&clock)).unwrap();
    let store = store.at(Durability::Buffered);
    let key = SessionKey::of(b"used again");
    store.upsert(key, "x".into(), LIFETIME).await.unwrap();
    assert!(store.bind(key, Some(OwnerKey::of(b"user/42"))).await.unwrap());
    clock.advance(Duration::from_secs(60));
    store.upsert(key, "y".into(), LIFETIME).await.unwrap();
    assert_eq!(flood(&store).await.len(), MAX as usize - 1);
    // At the limit: one in the place of a visitor who has ended, and one who is signed in and is written anew.
    clock.advance(Duration::from_secs(60));
    assert!(matches!(create(&store).await, Err(Error::TooManyAnonymousSessions { .. })));
    store.create_as(key, "z".into(), LIFETIME).await.unwrap();
    let signed_in = SessionKey::of(b"signed in");
    store.create_owned_as(signed_in, "x".into(), LIFETIME, OwnerKey::of(b"user/42").into()).await.unwrap();
    store.upsert(signed_in, "y".into(), LIFETIME).await.unwrap();
    assert!(matches!(create(&store).await, Err(Error::TooManyAnonymousSessions { .. })));
}
