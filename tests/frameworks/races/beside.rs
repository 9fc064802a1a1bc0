//! A store that does something else just before it ends a session: what another request, or a page of the site, may do at that moment.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::tower_sessions::TowerStore;
use cloakroom::{
    Access, Answer, Binding, Cursor, Events, KeyPage, Lifetime, MemoryStore, OwnedPage, OwnerKey, Pending,
    SessionId, SessionKey, SessionStore, Stats, Stored, Version, When, Whose,
};
use serde_json::Value;
use time::OffsetDateTime;
use tower_sessions::{Session, SessionStore as _};

type Once = Box<dyn FnOnce() -> Answer<'static, ()> + Send>;

/// The store, and what is done beside the next end of a session.
pub struct Beside {
    pub store: MemoryStore,
    once: Mutex<Option<Once>>,
}

impl Beside {
    pub fn new(store: MemoryStore, once: impl FnOnce() -> Answer<'static, ()> + Send + 'static) -> Self {
        Self { store, once: Mutex::new(Some(Box::new(once))) }
    }

    async fn meet(&self) {
        let once = self.once.lock().unwrap().take();
        if let Some(once) = once {
            once().await.unwrap();
        }
    }
}

impl SessionStore for Beside {
    fn delete(&self, key: SessionKey) -> Answer<'_, bool> {
        Pending::new(async move {
            self.meet().await;
            self.store.delete(key).await
        })
    }
    fn take(&self, key: SessionKey) -> Answer<'_, Option<Stored>> {
        Pending::new(async move {
            self.meet().await;
            self.store.take(key).await
        })
    }
    fn write(&self, key: SessionKey, payload: bytes::Bytes, when: When) -> Answer<'_, Option<Version>> {
        self.store.write(key, payload, when)
    }
    fn get(&self, key: SessionKey, access: Access) -> Answer<'_, Option<Stored>> {
        self.store.get(key, access)
    }
    fn touch(&self, key: SessionKey) -> Answer<'_, bool> {
        self.store.touch(key)
    }
    fn set_lifetime(&self, key: SessionKey, lifetime: Lifetime) -> Answer<'_, bool> {
        self.store.set_lifetime(key, lifetime)
    }
    fn rotate(&self, key: SessionKey) -> Answer<'_, Option<SessionId>> {
        self.store.rotate(key)
    }
    fn sign_in(&self, key: SessionKey, binding: Binding) -> Answer<'_, Option<SessionId>> {
        self.store.sign_in(key, binding)
    }
    fn bind_as(&self, key: SessionKey, binding: Option<Binding>) -> Answer<'_, bool> {
        self.store.bind_as(key, binding)
    }
    fn create_owned_as(
        &self,
        key: SessionKey,
        payload: bytes::Bytes,
        lifetime: Lifetime,
        binding: Binding,
    ) -> Answer<'_, ()> {
        self.store.create_owned_as(key, payload, lifetime, binding)
    }
    fn owned(&self, owner: OwnerKey, cursor: Option<Cursor>, limit: usize) -> Answer<'_, OwnedPage> {
        self.store.owned(owner, cursor, limit)
    }
    fn owned_count(&self, owner: OwnerKey) -> Answer<'_, usize> {
        self.store.owned_count(owner)
    }
    fn revoke(&self, whose: Whose, except: Option<SessionKey>) -> Answer<'_, ()> {
        self.store.revoke(whose, except)
    }
    fn keys(&self, cursor: Option<Cursor>, limit: usize) -> Answer<'_, KeyPage> {
        self.store.keys(cursor, limit)
    }
    fn events(&self) -> Events {
        self.store.events()
    }
    fn len(&self) -> usize {
        self.store.len()
    }
    fn stats(&self) -> Stats {
        self.store.stats()
    }
    fn flush(&self) -> Answer<'_, ()> {
        self.store.flush()
    }
    fn close(&self) -> Answer<'_, ()> {
        self.store.close()
    }
}

/// What is saved and who is bound in the moment before a cycle's delete goes along: it was acknowledged.
#[tokio::test]
async fn what_is_acknowledged_just_before_a_cycled_session_ends_goes_along() {
    let (ours, owner) = (MemoryStore::new(), OwnerKey::of(b"ada"));
    let first = Arc::new(TowerStore::new(ours.clone()));
    let session = Session::new(None, Arc::clone(&first), None);
    session.insert("a", 1).await.unwrap();
    session.save().await.unwrap();
    let id = session.id().unwrap();
    let (key, theirs) = (TowerStore::key(&id), ours.clone());
    let other = Session::new(Some(id), first, None);
    other.insert("b", 2).await.unwrap();
    let meanwhile = move || {
        Pending::new(async move {
            other.save().await.unwrap();
            theirs.set_lifetime(key, Lifetime::absolute(Duration::from_secs(300))).await?;
            theirs.bind(key, Some(owner)).await.map(drop)
        })
    };
    let store = Arc::new(TowerStore::new(Beside::new(ours.clone(), meanwhile)));
    let cycles = Session::new(Some(id), Arc::clone(&store), None);
    cycles.insert("c", 3).await.unwrap();
    cycles.cycle_id().await.unwrap();
    cycles.save().await.unwrap();
    let record = store.load(&cycles.id().unwrap()).await.unwrap().unwrap();
    assert_eq!(
        ["a", "b", "c"].map(|name| record.data.get(name).and_then(Value::as_u64)),
        [1, 2, 3].map(Some)
    );
    assert!(record.expiry_date < OffsetDateTime::now_utc() + Duration::from_secs(310));
    ours.revoke(Whose::Owner(owner), None).await.unwrap();
    assert!(store.load(&cycles.id().unwrap()).await.unwrap().is_none(), "its owner signed out everywhere");
}
