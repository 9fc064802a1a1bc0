//! Bytes to a [`Session`]: anything decodes or gives a typed error, in memory bounded by its length, and what decodes is stored again with the same fields.

#![no_main]

use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Access, FIELDS_MAX, Lifetime, MemoryStore, Saved, Session, SessionId, SessionStore as _};
use cloakroom_fuzz::bounded;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

/// A field that no input has by chance.
const ADDED: &str = "added by the target";

fuzz_target!(|data: &[u8]| {
    let runtime = Builder::new_current_thread().build().expect("a runtime starts");
    check(&runtime, Bytes::copy_from_slice(data));
});

fn check(runtime: &Runtime, payload: Bytes) {
    let store = MemoryStore::new();
    let lifetime = Lifetime::idle(Duration::from_secs(60));
    let len = payload.len();
    let id = runtime.block_on(store.create(payload, lifetime)).expect("the payload is short");
    // A field takes four bytes at least, and less than 256 in memory beside its bytes, which are shared.
    let loaded = bounded(len, 64, 4 << 10, || runtime.block_on(Session::load(&store, &id)));
    let Ok(loaded) = loaded else { return };
    let mut session = loaded.expect("it was just created");
    assert!(session.len() <= FIELDS_MAX);
    assert!(!session.is_changed(), "loading is no change");
    let fields = fields(&session);
    if session.insert(ADDED, &1).is_err() {
        assert_eq!(fields.len(), FIELDS_MAX, "a full session alone refuses a field");
        return;
    }
    let was_there = fields.iter().any(|(name, ..)| name == ADDED);
    let again = saved_and_loaded(runtime, &store, &mut session, &id);
    assert_eq!(again.len(), fields.len() + usize::from(!was_there));
    assert_eq!(again.get::<u8>(ADDED).expect("it is a number"), Some(1));
    if was_there {
        return;
    }
    session.remove(ADDED);
    let again = saved_and_loaded(runtime, &store, &mut session, &id);
    assert_eq!(self::fields(&again), fields, "a field was lost, or changed");
    let stored = |runtime: &Runtime| {
        let stored = runtime.block_on(store.get(id.key(), Access::Peek)).expect("it reads");
        stored.expect("it is live").payload
    };
    let bytes = stored(runtime);
    session.insert(ADDED, &2).expect("there was room");
    saved_and_loaded(runtime, &store, &mut session, &id);
    session.remove(ADDED);
    saved_and_loaded(runtime, &store, &mut session, &id);
    assert_eq!(stored(runtime), bytes, "the same fields are other bytes");
}

/// Name, length and, where it is a text, value of each field. The bytes of a field may be no JSON; that is for who asks for it, as a typed error.
fn fields(session: &Session) -> Vec<(String, usize, Option<String>)> {
    let one = |(name, field): (&str, cloakroom::RawField<'_>)| {
        (name.to_owned(), field.stored_bytes(), field.decode().ok())
    };
    session.iter().map(one).collect()
}

fn saved_and_loaded(
    runtime: &Runtime,
    store: &MemoryStore,
    session: &mut Session,
    id: &SessionId,
) -> Session {
    let saved = runtime.block_on(session.save(store)).expect("it is stored");
    assert!(matches!(saved, Saved::Updated | Saved::Unchanged));
    let again = runtime.block_on(Session::load(store, id));
    again.expect("what was saved decodes").expect("it is live")
}
