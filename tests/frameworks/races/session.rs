//! One request among others, in the orders that matter, with the middleware's own `Session`.

#![expect(clippy::disallowed_methods, reason = "it looks into the files of a store")]

use std::sync::Arc;

use axum::Router;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use cloakroom::tower_sessions::TowerStore;
use cloakroom::{Access, Binding, Label, LogStore, MemoryStore, Options, OwnerKey, SessionStore as _, Whose};
use time::{Duration, OffsetDateTime};
use tower::ServiceExt as _;
use tower_sessions::session::{Id, Record};
use tower_sessions::{
    CachingSessionStore, ExpiredDeletion as _, Expiry, Session, SessionManagerLayer, SessionStore,
};

/// What a request has: a session of this id.
fn request<S: SessionStore>(store: &Arc<S>, id: Option<Id>) -> Session {
    Session::new(id, Arc::clone(store), None)
}

/// A session with the fields `a` and `b`, which are 1.
async fn stored<S: SessionStore>(store: &Arc<S>) -> Id {
    let session = request(store, None);
    session.insert("a", 1).await.unwrap();
    session.insert("b", 1).await.unwrap();
    session.save().await.unwrap();
    session.id().unwrap()
}

async fn fields<S: SessionStore>(store: &Arc<S>, id: Id) -> [Option<u32>; 3] {
    let session = request(store, Some(id));
    let field = async |name| session.get(name).await.unwrap();
    [field("a").await, field("b").await, field("c").await]
}

fn memory() -> Arc<TowerStore> {
    Arc::new(TowerStore::new(MemoryStore::new()))
}

#[tokio::test]
async fn clear_replaces_what_others_saved_meanwhile() {
    let store = memory();
    let id = stored(&store).await;
    for loads_first in [true, false] {
        let (one, other) = (request(&store, Some(id)), request(&store, Some(id)));
        if loads_first {
            one.get::<u32>("a").await.unwrap();
        }
        other.insert("c", 3).await.unwrap();
        other.save().await.unwrap();
        one.clear().await;
        one.insert("b", 2).await.unwrap();
        one.save().await.unwrap();
        assert_eq!(fields(&store, id).await, [None, Some(2), None]);
    }
}

#[tokio::test]
async fn field_that_one_removes_is_gone_and_what_another_sets_stays() {
    let store = memory();
    let id = stored(&store).await;
    let (one, other) = (request(&store, Some(id)), request(&store, Some(id)));
    one.remove::<u32>("a").await.unwrap();
    other.insert("b", 2).await.unwrap();
    one.save().await.unwrap();
    other.save().await.unwrap();
    assert_eq!(fields(&store, id).await, [None, Some(2), None]);
}

#[tokio::test]
async fn save_of_a_request_that_was_in_flight_at_a_sign_out_does_nothing_and_is_no_error() {
    let store = memory();
    let id = stored(&store).await;
    let late = request(&store, Some(id));
    late.insert("a", 2).await.unwrap();
    request(&store, Some(id)).flush().await.unwrap();
    late.save().await.unwrap();
    assert!(store.load(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn cycled_session_keeps_its_fields_and_what_others_saved_until_then() {
    let store = memory();
    let id = stored(&store).await;
    let (one, other) = (request(&store, Some(id)), request(&store, Some(id)));
    one.insert("a", 2).await.unwrap();
    other.insert("c", 3).await.unwrap();
    other.save().await.unwrap();
    one.cycle_id().await.unwrap();
    one.insert("b", 2).await.unwrap();
    one.save().await.unwrap();
    assert!(store.load(&id).await.unwrap().is_none(), "the old id lives");
    assert_eq!(fields(&store, one.id().unwrap()).await, [Some(2), Some(2), Some(3)]);
    // It goes on with the new id as its base.
    one.remove::<u32>("a").await.unwrap();
    one.save().await.unwrap();
    assert_eq!(fields(&store, one.id().unwrap()).await, [None, Some(2), Some(3)]);
}

#[tokio::test]
async fn cycle_that_meets_a_sign_out_carries_nothing_but_its_own() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum SignOut {
        BeforeTheDelete,
        BeforeTheCreate,
    }
    for when in [SignOut::BeforeTheDelete, SignOut::BeforeTheCreate] {
        let store = memory();
        let id = stored(&store).await;
        let cycles = request(&store, Some(id));
        cycles.insert("a", 2).await.unwrap();
        let sign_out = async || {
            let session = request(&store, Some(id));
            session.get::<u32>("a").await.unwrap();
            session.flush().await.unwrap();
        };
        if when == SignOut::BeforeTheDelete {
            sign_out().await;
        }
        cycles.cycle_id().await.unwrap();
        if when == SignOut::BeforeTheCreate {
            // Its id is still in the other's cookie.
            store.delete(&id).await.unwrap();
        }
        cycles.insert("c", 3).await.unwrap();
        cycles.save().await.unwrap();
        let carried = fields(&store, cycles.id().unwrap()).await;
        assert_eq!(carried, [Some(2), None, Some(3)], "{when:?}: the other's fields are in the new session");
    }
}

#[tokio::test]
async fn owner_goes_with_a_cycled_id_and_is_signed_out_everywhere() {
    let (ours, owner) = (MemoryStore::new(), OwnerKey::of(b"ada"));
    let store = Arc::new(TowerStore::new(ours.clone()));
    let id = stored(&store).await;
    let binding = Binding::to(owner).labelled(Label::cut("phone"));
    assert!(ours.bind_as(TowerStore::key(&id), Some(binding)).await.unwrap());
    let session = request(&store, Some(id));
    session.cycle_id().await.unwrap();
    session.save().await.unwrap();
    let [theirs] = &ours.owned(owner, None, 10).await.unwrap().sessions[..] else { panic!("one session") };
    assert_eq!((theirs.key, theirs.label.as_str()), (TowerStore::key(&session.id().unwrap()), "phone"));
    let in_flight = request(&store, session.id());
    in_flight.insert("c", 3).await.unwrap();
    ours.revoke(Whose::Owner(owner), None).await.unwrap();
    in_flight.save().await.unwrap();
    assert!(store.load(&session.id().unwrap()).await.unwrap().is_none());
}

#[tokio::test]
async fn cycled_session_that_is_refused_at_first_is_whole_when_it_is_saved_again() {
    let options = Options { sessions_max: 1, anonymous_sessions_max: 1, ..Options::default() };
    let (ours, owner) = (MemoryStore::with_options(options).unwrap(), OwnerKey::of(b"ada"));
    let store = Arc::new(TowerStore::new(ours.clone()));
    let id = stored(&store).await;
    assert!(ours.bind(TowerStore::key(&id), Some(owner)).await.unwrap());
    let cycles = request(&store, Some(id));
    cycles.insert("c", 3).await.unwrap();
    cycles.cycle_id().await.unwrap();
    let other = stored(&store).await;
    assert!(cycles.save().await.is_err(), "there is no room for two");
    store.delete(&other).await.unwrap();
    cycles.save().await.unwrap();
    assert_eq!(fields(&store, cycles.id().unwrap()).await, [Some(1), Some(1), Some(3)]);
    assert_eq!(ours.owned_count(owner).await.unwrap(), 1);
}

async fn end<S: SessionStore>(store: &Arc<S>, id: Id) -> OffsetDateTime {
    store.load(&id).await.unwrap().unwrap().expiry_date
}

#[tokio::test]
async fn deadline_that_is_set_earlier_wins_and_a_slow_reader_shortens_none() {
    let store = memory();
    let soon = |minutes| OffsetDateTime::now_utc() + Duration::minutes(minutes);
    let is_about = |end: OffsetDateTime, minutes| (soon(minutes) - end).abs() < Duration::seconds(5);
    for shortens_first in [true, false] {
        let id = stored(&store).await;
        let (one, other) = (request(&store, Some(id)), request(&store, Some(id)));
        one.set_expiry(Some(Expiry::AtDateTime(soon(5))));
        one.get::<u32>("a").await.unwrap();
        other.insert("c", 3).await.unwrap();
        let (first, second) = if shortens_first { (&one, &other) } else { (&other, &one) };
        first.save().await.unwrap();
        second.save().await.unwrap();
        assert!(is_about(end(&store, id).await, 5), "shortened first: {shortens_first}");
    }
    let id = stored(&store).await;
    let slow = request(&store, Some(id));
    slow.insert("c", 3).await.unwrap();
    let longer = request(&store, Some(id));
    longer.set_expiry(Some(Expiry::OnInactivity(Duration::days(100))));
    longer.save().await.unwrap();
    slow.save().await.unwrap();
    assert!(is_about(end(&store, id).await, 100 * 24 * 60));
    assert_eq!(fields(&store, id).await, [Some(1), Some(1), Some(3)]);
}

#[tokio::test]
async fn session_whose_deadline_is_over_is_gone_and_deleting_the_expired_is_no_work() {
    let store = memory();
    let id = stored(&store).await;
    let session = request(&store, Some(id));
    session.set_expiry(Some(Expiry::AtDateTime(OffsetDateTime::now_utc() - Duration::seconds(1))));
    session.save().await.unwrap();
    assert!(store.load(&id).await.unwrap().is_none());
    store.delete_expired().await.unwrap();
    let mut ended = Record { id, data: Default::default(), expiry_date: OffsetDateTime::UNIX_EPOCH };
    store.create(&mut ended).await.unwrap();
    assert!(store.load(&ended.id).await.unwrap().is_none());
}

#[tokio::test]
async fn created_session_never_takes_an_id_that_is_in_use_and_an_unknown_id_is_not_adopted() {
    let store = memory();
    let id = stored(&store).await;
    let expiry_date = OffsetDateTime::now_utc() + Duration::hours(1);
    let mut record = Record { id, data: Default::default(), expiry_date };
    store.create(&mut record).await.unwrap();
    assert_ne!(record.id, id);
    assert_eq!(fields(&store, id).await, [Some(1), Some(1), None]);

    let planted = request(&store, Some(Id(42)));
    planted.insert("a", 1).await.unwrap();
    planted.save().await.unwrap();
    assert_ne!(planted.id(), Some(Id(42)));
}

#[tokio::test]
async fn what_travels_with_a_record_never_reaches_the_disk_and_no_id_does() {
    let folder = tempfile::tempdir().unwrap();
    let ours = LogStore::open(folder.path(), Options::default()).await.unwrap();
    let store = Arc::new(TowerStore::new(ours.clone()));
    let id = stored(&store).await;
    let session = request(&store, Some(id));
    session.insert("c", "hat stand").await.unwrap();
    session.save().await.unwrap();
    session.cycle_id().await.unwrap();
    session.save().await.unwrap();
    let key = TowerStore::key(&session.id().unwrap());
    let payload = ours.get(key, Access::Peek).await.unwrap().unwrap().payload;
    assert_eq!(payload, r#"{"a":1,"b":1,"c":"hat stand"}"#);
    ours.close().await.unwrap();
    let files =
        std::fs::read_dir(folder.path()).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap());
    let bytes = files.collect::<Vec<_>>().concat();
    let holds = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    assert!(holds(b"hat stand") && !holds(b"u0000cloakroom") && !holds(b"\0cloakroom"));
    for id in [id, session.id().unwrap()] {
        assert!(!holds(id.to_string().as_bytes()) && !holds(&id.0.to_le_bytes()));
    }
}

#[tokio::test]
async fn field_of_the_stores_own_name_is_refused() {
    let store = memory();
    let session = request(&store, None);
    session.insert("\0cloakroom", "mine").await.unwrap();
    let refused = session.save().await.unwrap_err().to_string();
    assert!(refused.contains("the store's own"), "{refused}");
}

async fn cache_before_a_store_loses_nothing(cache: impl SessionStore) {
    let behind = TowerStore::new(MemoryStore::new());
    let store = Arc::new(CachingSessionStore::new(cache, behind.clone()));
    let id = stored(&store).await;
    let (one, other) = (request(&store, Some(id)), request(&store, Some(id)));
    one.insert("a", 2).await.unwrap();
    other.insert("b", 2).await.unwrap();
    one.save().await.unwrap();
    other.save().await.unwrap();
    let next = request(&store, Some(id));
    next.insert("c", 3).await.unwrap();
    next.save().await.unwrap();
    let behind = Arc::new(behind);
    assert_eq!(fields(&behind, id).await, [Some(2), Some(2), Some(3)]);
    let late = request(&store, Some(id));
    late.insert("c", 4).await.unwrap();
    request(&store, Some(id)).flush().await.unwrap();
    late.save().await.unwrap();
    assert!(behind.load(&id).await.unwrap().is_none(), "the store behind the cache revives");
}

#[tokio::test]
async fn caching_store_fills_its_cache_and_the_store_behind_it_keeps_the_promises() {
    cache_before_a_store_loses_nothing(TowerStore::cache(MemoryStore::new())).await;
    cache_before_a_store_loses_nothing(tower_sessions::MemoryStore::default()).await;
}

#[tokio::test]
async fn cache_is_filled_by_a_load_and_answers_the_next() {
    let behind = Arc::new(TowerStore::new(MemoryStore::new()));
    let id = stored(&behind).await;
    let cache = TowerStore::cache(MemoryStore::new());
    let store = Arc::new(CachingSessionStore::new(cache.clone(), (*behind).clone()));
    assert!(cache.load(&id).await.unwrap().is_none());
    assert_eq!(fields(&store, id).await, [Some(1), Some(1), None]);
    let cached = cache.load(&id).await.unwrap().expect("the load filled it");
    let loaded = behind.load(&id).await.unwrap().unwrap();
    assert_eq!((cached.id, cached.data), (loaded.id, loaded.data));
    assert!((cached.expiry_date - loaded.expiry_date).abs() < Duration::seconds(5));
}

#[tokio::test]
async fn handler_that_fails_saves_nothing() {
    let ours = MemoryStore::new();
    let fails = async |session: Session| {
        session.insert("a", 1).await.unwrap();
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let layer = SessionManagerLayer::new(TowerStore::new(ours.clone()));
    let app = Router::new().route("/", get(fails)).layer(layer);
    let answer = app.oneshot(Request::get("/").body(axum::body::Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.headers().get("set-cookie").is_none());
    assert_eq!(ours.len(), 0);
}
