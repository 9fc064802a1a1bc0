//! Bytes to a [`Session`]: anything decodes or gives a typed error, and what decodes is stored again with the same fields.

#![no_main]

use std::time::Duration;

use bytes::Bytes;
use cloakroom::{FIELDS_MAX, Lifetime, MemoryStore, Saved, Session, SessionStore as _};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Builder;

fuzz_target!(|data: &[u8]| {
    let runtime = Builder::new_current_thread().build().expect("a runtime starts");
    runtime.block_on(check(Bytes::copy_from_slice(data)));
});

async fn check(payload: Bytes) {
    let store = MemoryStore::new();
    let lifetime = Lifetime::idle(Duration::from_secs(60));
    let id = store.create(payload, lifetime).await.expect("the payload is short");
    let Ok(loaded) = Session::load(&store, &id).await else { return };
    let mut session = loaded.expect("it was just created");
    assert!(session.len() <= FIELDS_MAX);
    assert!(!session.is_changed(), "loading is no change");
    let names: Vec<String> = session.keys().map(String::from).collect();
    for (_, field) in session.iter() {
        // The bytes of a field may be no JSON; that is for who asks for it, as a typed error.
        let _: Result<String, _> = field.decode();
    }
    if session.insert("added by the target", &1).is_err() {
        assert_eq!(names.len(), FIELDS_MAX, "a full session alone refuses a field");
        return;
    }
    let was_there = names.iter().any(|name| name == "added by the target");
    let saved = session.save(&store).await.expect("it is stored");
    assert!(matches!(saved, Saved::Updated | Saved::Unchanged));
    let again = Session::load(&store, &id).await.expect("what was saved decodes").expect("it is live");
    assert_eq!(again.len(), names.len() + usize::from(!was_there));
    assert!(names.iter().all(|name| again.contains(name)), "a field was lost");
    assert_eq!(again.get::<u8>("added by the target").expect("it is a number"), Some(1));
}
