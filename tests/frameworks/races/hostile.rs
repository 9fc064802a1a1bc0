//! What an attacker and an unlucky site try: ids that were planted, names that are the store's own, deletes by the hundred, a cache that is behind.
//!
//! Each goes through the middleware's own `Session`, or through the trait as the middleware calls it.

use std::collections::HashMap;
use std::sync::Arc;

use actix_session::storage::SessionStore as _;
use cloakroom::actix_session::{ActixStore, MARK};
use cloakroom::tower_sessions::TowerStore;
use cloakroom::{Access, Binding, Lifetime, LogStore, MemoryStore, Options, OwnerKey, SessionStore as _};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tower_sessions::session::Id;
use tower_sessions::{CachingSessionStore, Expiry, Session, SessionStore};

const TOWER_MARK: &str = "\0cloakroom";

fn request<S: SessionStore>(store: &Arc<S>, id: Option<Id>) -> Session {
    Session::new(id, Arc::clone(store), None)
}

fn memory() -> Arc<TowerStore> {
    Arc::new(TowerStore::new(MemoryStore::new()))
}

/// A session with these fields.
async fn stored<S: SessionStore>(store: &Arc<S>, fields: &[(&str, u32)]) -> Id {
    let session = request(store, None);
    for (name, value) in fields {
        session.insert(name, value).await.unwrap();
    }
    session.save().await.unwrap();
    session.id().unwrap()
}

async fn field<S: SessionStore>(store: &Arc<S>, id: Id, name: &str) -> Option<u32> {
    request(store, Some(id)).get(name).await.unwrap()
}

#[tokio::test]
async fn session_that_starts_afresh_has_an_id_that_nobody_knew_before() {
    let store = memory();
    let signed_out = stored(&store, &[("user", 1)]).await;
    for known in [Id(42), signed_out] {
        let session = request(&store, Some(known));
        session.flush().await.unwrap();
        session.insert("user", 2).await.unwrap();
        session.save().await.unwrap();
        assert_ne!(session.id(), Some(known));
        assert!(store.load(&known).await.unwrap().is_none());
        assert_eq!(field(&store, session.id().unwrap(), "user").await, Some(2));
    }
}

#[tokio::test]
async fn what_is_removed_or_set_back_through_a_cache_is_so_in_the_store_behind() {
    let behind = memory();
    let cache = TowerStore::cache(MemoryStore::new());
    let store = Arc::new(CachingSessionStore::new(cache, (*behind).clone()));
    let id = stored(&store, &[("theme", 1)]).await;
    for (theme, user) in [(2, Some(7)), (1, None), (2, Some(8))] {
        let session = request(&store, Some(id));
        session.insert("theme", theme).await.unwrap();
        match user {
            Some(user) => session.insert("user", user).await.unwrap(),
            None => drop(session.remove::<u32>("user").await.unwrap()),
        }
        session.save().await.unwrap();
        for store in [store.clone() as Arc<dyn SessionStore>, behind.clone()] {
            let data = store.load(&id).await.unwrap().unwrap().data;
            assert_eq!(data.get("theme"), Some(&json!(theme)), "{store:?}");
            assert_eq!(data.get("user"), user.map(|user| json!(user)).as_ref(), "{store:?}");
        }
    }
}

#[tokio::test]
async fn session_that_was_cleared_through_a_cache_still_loses_nothing_afterwards() {
    let behind = memory();
    let cache = TowerStore::cache(MemoryStore::new());
    let store = Arc::new(CachingSessionStore::new(cache, (*behind).clone()));
    let id = stored(&store, &[("a", 1)]).await;
    let clears = request(&store, Some(id));
    clears.clear().await;
    clears.save().await.unwrap();
    let (one, other) = (request(&store, Some(id)), request(&store, Some(id)));
    one.insert("a", 2).await.unwrap();
    other.insert("b", 2).await.unwrap();
    one.save().await.unwrap();
    other.save().await.unwrap();
    for name in ["a", "b"] {
        assert_eq!(field(&behind, id, name).await, Some(2), "{name} in the store behind");
        assert_eq!(field(&store, id, name).await, Some(2), "{name} through the cache");
    }
}

#[tokio::test]
async fn visitors_who_sign_out_by_the_hundred_take_nothing_from_who_signs_in() {
    let ours = MemoryStore::new();
    let store = Arc::new(TowerStore::new(ours.clone()));
    let id = stored(&store, &[("cart", 1)]).await;
    let owner = OwnerKey::of(b"ada");
    assert!(ours.bind_as(TowerStore::key(&id), Some(Binding::to(owner))).await.unwrap());
    let signs_in = request(&store, Some(id));
    signs_in.cycle_id().await.unwrap();
    for _ in 0..1_000 {
        let other = stored(&store, &[("user", 2)]).await;
        request(&store, Some(other)).flush().await.unwrap();
    }
    signs_in.save().await.unwrap();
    assert_eq!(field(&store, signs_in.id().unwrap(), "cart").await, Some(1));
    assert_eq!(ours.owned_count(owner).await.unwrap(), 1);
}

#[tokio::test]
async fn mark_that_a_visitor_made_up_gives_nothing_of_a_session_that_signed_out() {
    let ours = MemoryStore::new();
    let store = Arc::new(TowerStore::new(ours.clone()));
    let victim = stored(&store, &[("user", 1)]).await;
    let owner = OwnerKey::of(b"ada");
    assert!(ours.bind_as(TowerStore::key(&victim), Some(Binding::to(owner))).await.unwrap());
    request(&store, Some(victim)).flush().await.unwrap();

    // A site where visitors name their fields.
    let session = request(&store, Some(stored(&store, &[("mine", 1)]).await));
    let mut mark: Value = session.get(TOWER_MARK).await.unwrap().unwrap();
    mark["key"] = json!(TowerStore::key(&victim).as_bytes());
    session.insert(TOWER_MARK, mark).await.unwrap();
    session.cycle_id().await.unwrap();
    if session.save().await.is_ok() {
        assert_eq!(field(&store, session.id().unwrap(), "user").await, None);
    }
    assert_eq!(ours.owned_count(owner).await.unwrap(), 0);
}

#[tokio::test]
async fn entry_of_the_stores_own_name_does_not_undo_what_others_save() {
    let store = ActixStore::new(MemoryStore::new());
    let ttl = Duration::hours(1);
    let token = store.save(HashMap::from([("credit".into(), "10".into())]), &ttl).await.unwrap();
    let again = || token.as_ref().to_owned().try_into().unwrap();
    let mut slow = store.load(&token).await.unwrap().unwrap();
    let mut spends = store.load(&token).await.unwrap().unwrap();
    spends.insert("credit".into(), "0".into());
    store.update(again(), spends, &ttl).await.unwrap();
    slow.insert(MARK.into(), r#""a field that a visitor named""#.into());
    assert!(store.update(again(), slow, &ttl).await.is_err());
    assert_eq!(store.load(&token).await.unwrap().unwrap()["credit"], "0");
}

/// A mark that is made up, or is one of another session of the same visitor, is no base to merge with.
#[tokio::test]
async fn mark_of_another_session_does_not_undo_what_others_save() {
    let ours = MemoryStore::new();
    let tower = Arc::new(TowerStore::new(ours.clone()));
    let id = stored(&tower, &[("credit", 10)]).await;
    let second = stored(&tower, &[("credit", 10), ("x", 1)]).await;
    let of_second: Value = request(&tower, Some(second)).get(TOWER_MARK).await.unwrap().unwrap();
    let mut made_up = of_second.clone();
    made_up["key"] = json!(TowerStore::key(&id).as_bytes());
    for (n, mark) in [of_second, made_up].into_iter().enumerate() {
        let session = request(&tower, Some(id));
        session.insert(TOWER_MARK, mark).await.unwrap();
        session.insert("credit", 0).await.unwrap();
        assert!(session.save().await.is_err(), "mark {n}");
        assert_eq!(field(&tower, id, "credit").await, Some(10));
    }

    let (actix, ttl) = (ActixStore::new(ours), Duration::hours(1));
    let new = async || actix.save(HashMap::from([("credit".into(), "10".into())]), &ttl).await.unwrap();
    let (token, second) = (new().await, new().await);
    let mut state = actix.load(&token).await.unwrap().unwrap();
    let mark = actix.load(&second).await.unwrap().unwrap().remove(MARK).unwrap();
    state.insert(MARK.into(), mark);
    state.insert("credit".into(), "0".into());
    assert!(actix.update(token.as_ref().to_owned().try_into().unwrap(), state, &ttl).await.is_err());
    assert_eq!(actix.load(&token).await.unwrap().unwrap()["credit"], "10");
}

#[tokio::test]
async fn value_that_is_saved_can_be_loaded_however_deep_it_is() {
    for depth in [1, 64, 126, 127, 128, 500] {
        let store = memory();
        let id = stored(&store, &[("a", 1)]).await;
        let session = request(&store, Some(id));
        let deep = (0..depth).fold(Value::Null, |value, _| Value::Array(vec![value]));
        session.insert_value("deep", deep.clone()).await.unwrap();
        let saved = session.save().await.is_ok();
        let found = request(&store, Some(id)).get_value("deep").await.expect("the session can be loaded");
        assert_eq!(found, saved.then_some(deep), "{depth}");
        assert!(saved || depth > 100, "{depth}");
    }
}

#[tokio::test]
async fn number_comes_back_as_it_was_saved() {
    let store = memory();
    let mut bits = 1_u64;
    let numbers: Vec<f64> = std::iter::repeat_with(|| {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        f64::from_bits(bits)
    })
    .filter(|number| number.is_finite())
    .take(1_000)
    .collect();
    let session = request(&store, None);
    session.insert("numbers", &numbers).await.unwrap();
    session.save().await.unwrap();
    let found: Vec<f64> = request(&store, session.id()).get("numbers").await.unwrap().unwrap();
    let differ = numbers.iter().zip(&found).filter(|(put, got)| put != got).count();
    assert_eq!(differ, 0);
}

#[tokio::test]
async fn sign_out_whose_client_went_away_leaves_no_session_of_the_owner() {
    let folder = tempfile::tempdir().unwrap();
    let ours = LogStore::open(folder.path(), Options::default()).await.unwrap();
    let store = Arc::new(TowerStore::new(ours.clone()));
    let owner = OwnerKey::of(b"ada");
    let mut is_cut = false;
    for _ in 0..100 {
        let id = stored(&store, &[("user", 1)]).await;
        assert!(ours.bind_as(TowerStore::key(&id), Some(Binding::to(owner))).await.unwrap());
        // The server drops a handler whose client is gone. On a busy machine the disk may be done before this thread looks.
        tokio::select! {
            biased;
            deleted = store.delete(&id) => deleted.unwrap(),
            () = std::future::ready(()) => is_cut = true,
        }
        ours.flush().await.unwrap();
        assert!(store.load(&id).await.unwrap().is_none());
        assert_eq!(ours.owned_count(owner).await.unwrap(), 0, "a session that nobody can sign out of");
        if is_cut {
            break;
        }
    }
    assert!(is_cut, "a delete waits for the disk");
}

#[tokio::test]
async fn deadline_that_another_shortened_goes_with_a_cycled_id() {
    let store = memory();
    let id = stored(&store, &[("a", 1)]).await;
    let cycles = request(&store, Some(id));
    cycles.get::<u32>("a").await.unwrap();
    let shortens = request(&store, Some(id));
    shortens.set_expiry(Some(Expiry::OnInactivity(Duration::minutes(5))));
    shortens.save().await.unwrap();
    cycles.cycle_id().await.unwrap();
    cycles.save().await.unwrap();
    let end = store.load(&cycles.id().unwrap()).await.unwrap().unwrap().expiry_date;
    assert!(end < OffsetDateTime::now_utc() + Duration::minutes(6), "{end}");
}

#[tokio::test]
async fn lifetime_of_any_length_is_kept_or_refused() {
    let far = OffsetDateTime::now_utc() + Duration::hours(1);
    for ttl in [Duration::hours(2), Duration::weeks(52 * 100_000), Duration::MAX] {
        let store = ActixStore::new(MemoryStore::new());
        if let Ok(token) = store.save(HashMap::from([("a".into(), "1".into())]), &ttl).await {
            assert!(store.load(&token).await.unwrap().is_some(), "{ttl}");
        }
    }
    for ttl in [Duration::MIN, Duration::ZERO, Duration::MAX] {
        let store = memory();
        let session = request(&store, None);
        session.insert("a", 1).await.unwrap();
        session.set_expiry(Some(Expiry::OnInactivity(ttl)));
        session.save().await.unwrap();
        let end = store.load(&session.id().unwrap()).await.unwrap().map(|record| record.expiry_date);
        assert_eq!(end.is_some_and(|end| end > far), ttl.is_positive(), "{ttl}");
    }
}

#[tokio::test]
async fn session_that_a_cache_cannot_hold_is_served_by_the_store_behind() {
    let behind = memory();
    let cache = TowerStore::cache(MemoryStore::new());
    let store = Arc::new(CachingSessionStore::new(cache, (*behind).clone()));
    let huge = json!("x".repeat(600 << 10));
    let deep = (0..125).fold(Value::Null, |value, _| Value::Array(vec![value]));
    for value in [huge, deep] {
        let session = request(&store, None);
        session.insert_value("value", value.clone()).await.unwrap();
        session.save().await.unwrap();
        for _ in 0..2 {
            let found = request(&store, session.id()).get_value("value").await.unwrap();
            assert!(found.as_ref() == Some(&value));
        }
    }
}

#[tokio::test]
async fn idle_lifetime_that_was_given_meanwhile_stays_one() {
    let ours = MemoryStore::new();
    let store = Arc::new(TowerStore::new(ours.clone()));
    let id = stored(&store, &[("a", 1)]).await;
    let late = request(&store, Some(id));
    late.insert("a", 2).await.unwrap();
    let minute = std::time::Duration::from_secs(60);
    assert!(ours.set_lifetime(TowerStore::key(&id), Lifetime::idle(minute)).await.unwrap());
    late.save().await.unwrap();
    let stored = ours.get(TowerStore::key(&id), Access::Peek).await.unwrap().unwrap();
    assert_eq!((stored.idle, stored.absolute_at), (Some(minute), None));
    assert_eq!(field(&store, id, "a").await, Some(2));
}

#[tokio::test]
async fn clear_of_an_id_that_is_nobodys_adopts_it_not() {
    let store = memory();
    let session = request(&store, Some(Id(42)));
    session.clear().await;
    session.insert("user", 1).await.unwrap();
    session.save().await.unwrap();
    assert!(store.load(&Id(42)).await.unwrap().is_none());
}
