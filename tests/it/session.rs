//! `Session` over every store: created just in time, saved only when it changed, merged with what others saved (P3), and never
//! revived (P2). Where two requests meet, each is a `Session` of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{
    Access, Error, FIELDS_MAX, FieldError, Lifetime, OwnerKey, Saved, Session, SessionError, SessionId,
    Stored, Whose,
};
use serde::{Deserialize, Serialize};

use crate::stores::{Tested, for_every_store};

const LIFETIME: Lifetime = Lifetime::idle(Duration::from_secs(1_800)).exact();

for_every_store! {
    nothing_is_stored_until_there_is_something_to_store,
    what_did_not_change_is_not_written,
    what_others_did_already_is_not_written_again,
    changes_to_different_fields_all_win,
    of_two_changes_to_one_field_the_later_save_wins,
    concurrent_saves_lose_no_field,
    clear_removes_what_others_added_too,
    a_logout_wins_over_a_request_in_flight,
    an_expired_session_is_not_revived_by_a_save,
    a_rotation_keeps_what_is_unsaved_and_ends_the_old_id,
    a_sign_in_gives_a_stored_session_a_fresh_id_and_creates_a_new_one,
    loading_counts_as_using,
    a_struct_changed_by_a_deploy_is_never_misread,
    what_is_no_session_is_refused_and_left_alone,
    a_field_in_an_unknown_codec_is_kept,
    limits_hold_also_for_a_merge,
    nothing_secret_is_printed,
}

async fn saved(t: &Tested, fields: &[(&str, u32)]) -> SessionId {
    let mut session = Session::new(LIFETIME);
    for (name, value) in fields {
        session.insert(name, value).unwrap();
    }
    assert_eq!(session.save(&*t.store).await.unwrap(), Saved::Created);
    session.id().unwrap().clone()
}

async fn load(t: &Tested, id: &SessionId) -> Session {
    Session::load(&*t.store, id).await.unwrap().unwrap()
}

async fn stored(t: &Tested, id: &SessionId) -> Option<Stored> {
    t.store.get(id.key(), Access::Peek).await.unwrap()
}

async fn assert_fields(t: &Tested, id: &SessionId, expected: &[(&str, u32)]) {
    let session = load(t, id).await;
    let fields: BTreeMap<_, u32> =
        session.iter().map(|(name, value)| (name, value.decode().unwrap())).collect();
    assert_eq!(fields, expected.iter().copied().collect());
}

async fn nothing_is_stored_until_there_is_something_to_store(t: &Tested) {
    let mut session = Session::new(LIFETIME);
    assert_eq!(session.save(&*t.store).await.unwrap(), Saved::Unchanged);
    session.insert("a", &1).unwrap();
    session.remove("a");
    session.clear();
    assert!(!session.rotate(&*t.store).await.unwrap());
    assert_eq!(session.save(&*t.store).await.unwrap(), Saved::Unchanged);
    assert_eq!((session.id(), t.store.len()), (None, 0));
    session.insert("a", &2).unwrap();
    assert_eq!(session.save(&*t.store).await.unwrap(), Saved::Created);
    assert_fields(t, session.id().unwrap(), &[("a", 2)]).await;
    let unknown = SessionId::random().unwrap();
    let adopted = Session::load_or_new(&*t.store, Some(&unknown), LIFETIME).await.unwrap();
    assert!(adopted.id().is_none() && adopted.is_empty());
    assert_eq!(t.store.len(), 1);
}

async fn what_did_not_change_is_not_written(t: &Tested) {
    let id = saved(t, &[("a", 1), ("b", 2)]).await;
    let before = stored(t, &id).await;
    let mut session = load(t, &id).await;
    session.insert("a", &1).unwrap();
    session.remove("b");
    session.insert("b", &2).unwrap();
    assert!(!session.is_changed());
    assert_eq!(session.save(&*t.store).await.unwrap(), Saved::Unchanged);
    assert_eq!(stored(t, &id).await, before);
    session.remove("b");
    assert_eq!(session.save(&*t.store).await.unwrap(), Saved::Updated);
    assert_eq!(session.save(&*t.store).await.unwrap(), Saved::Unchanged);
    session.remove("a");
    assert_eq!(session.save(&*t.store).await.unwrap(), Saved::Updated);
    assert_fields(t, &id, &[]).await;
}

async fn what_others_did_already_is_not_written_again(t: &Tested) {
    let id = saved(t, &[("a", 1), ("b", 1)]).await;
    let (mut mine, mut theirs) = (load(t, &id).await, load(t, &id).await);
    for session in [&mut mine, &mut theirs] {
        session.insert("a", &2).unwrap();
        session.remove("b");
    }
    assert_eq!(theirs.save(&*t.store).await.unwrap(), Saved::Updated);
    let before = stored(t, &id).await;
    assert_eq!(mine.save(&*t.store).await.unwrap(), Saved::Unchanged);
    assert!(!mine.is_changed());
    assert_eq!(stored(t, &id).await, before);
}

async fn changes_to_different_fields_all_win(t: &Tested) {
    let id = saved(t, &[("kept", 0), ("mine", 0), ("theirs", 0), ("i remove", 0), ("they remove", 0)]).await;
    let (mut mine, mut theirs) = (load(t, &id).await, load(t, &id).await);
    mine.insert("mine", &1).unwrap();
    mine.remove("i remove");
    mine.insert("i add", &1).unwrap();
    theirs.insert("theirs", &2).unwrap();
    theirs.remove("they remove");
    theirs.insert("they add", &2).unwrap();
    assert_eq!(theirs.save(&*t.store).await.unwrap(), Saved::Updated);
    assert_eq!(mine.save(&*t.store).await.unwrap(), Saved::Updated);
    let merged = [("kept", 0), ("mine", 1), ("theirs", 2), ("i add", 1), ("they add", 2)];
    assert_fields(t, &id, &merged).await;
    assert_eq!(mine.get::<u32>("they add").unwrap(), Some(2));
    // What a save merged in is not mine: another save of the same request does not put it back.
    theirs.remove("they add");
    theirs.save(&*t.store).await.unwrap();
    mine.insert("mine", &3).unwrap();
    mine.save(&*t.store).await.unwrap();
    assert_fields(t, &id, &[("kept", 0), ("mine", 3), ("theirs", 2), ("i add", 1)]).await;
}

async fn of_two_changes_to_one_field_the_later_save_wins(t: &Tested) {
    let id = saved(t, &[("a", 0), ("b", 0)]).await;
    let (mut first, mut second) = (load(t, &id).await, load(t, &id).await);
    first.insert("a", &1).unwrap();
    first.insert("b", &1).unwrap();
    second.insert("a", &2).unwrap();
    second.remove("b");
    first.save(&*t.store).await.unwrap();
    second.save(&*t.store).await.unwrap();
    assert_fields(t, &id, &[("a", 2)]).await;
}

async fn concurrent_saves_lose_no_field(t: &Tested) {
    const TASKS: usize = 16;
    const SAVES: usize = 10;
    let id = saved(t, &[("shared", 0)]).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, id) = (Arc::clone(&t.store), id.clone());
            tokio::spawn(async move {
                for n in 0..SAVES {
                    let mut session = Session::load(&*store, &id).await.unwrap().unwrap();
                    session.insert(&format!("{task}/{n}"), &(task * SAVES + n)).unwrap();
                    session.insert("shared", &task).unwrap();
                    assert_ne!(session.save(&*store).await.unwrap(), Saved::Gone);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let session = load(t, &id).await;
    assert_eq!(session.len(), TASKS * SAVES + 1);
    for (task, n) in (0..TASKS).flat_map(|task| (0..SAVES).map(move |n| (task, n))) {
        assert_eq!(session.get::<usize>(&format!("{task}/{n}")).unwrap(), Some(task * SAVES + n));
    }
}

async fn clear_removes_what_others_added_too(t: &Tested) {
    let id = saved(t, &[("a", 1)]).await;
    let (mut mine, mut theirs) = (load(t, &id).await, load(t, &id).await);
    theirs.insert("b", &1).unwrap();
    theirs.save(&*t.store).await.unwrap();
    mine.clear();
    mine.insert("c", &1).unwrap();
    assert_eq!(mine.save(&*t.store).await.unwrap(), Saved::Updated);
    assert_fields(t, &id, &[("c", 1)]).await;
    // It cleared once: what is added behind it stays.
    theirs.insert("d", &1).unwrap();
    theirs.save(&*t.store).await.unwrap();
    mine.insert("e", &1).unwrap();
    mine.save(&*t.store).await.unwrap();
    assert_fields(t, &id, &[("c", 1), ("d", 1), ("e", 1)]).await;
}

async fn a_logout_wins_over_a_request_in_flight(t: &Tested) {
    let id = saved(t, &[("user", 42)]).await;
    let (mut in_flight, logout) = (load(t, &id).await, load(t, &id).await);
    in_flight.insert("cart", &1).unwrap();
    assert!(logout.delete(&*t.store).await.unwrap());
    for _ in 0..2 {
        assert_eq!(in_flight.save(&*t.store).await.unwrap(), Saved::Gone);
    }
    assert!(!in_flight.rotate(&*t.store).await.unwrap());
    assert!(Session::load(&*t.store, &id).await.unwrap().is_none());
    assert!(!in_flight.delete(&*t.store).await.unwrap());
    assert_eq!(t.store.len(), 0);
}

async fn an_expired_session_is_not_revived_by_a_save(t: &Tested) {
    let id = saved(t, &[("user", 42)]).await;
    let mut late = load(t, &id).await;
    t.pass(Duration::from_secs(1_800));
    late.insert("cart", &1).unwrap();
    assert_eq!(late.save(&*t.store).await.unwrap(), Saved::Gone);
    assert!(Session::load(&*t.store, &id).await.unwrap().is_none());
}

async fn a_rotation_keeps_what_is_unsaved_and_ends_the_old_id(t: &Tested) {
    let old = saved(t, &[("cart", 1)]).await;
    let (mut session, mut in_flight) = (load(t, &old).await, load(t, &old).await);
    session.insert("user", &42).unwrap();
    assert!(session.rotate(&*t.store).await.unwrap());
    assert!(session.is_changed());
    assert_eq!(session.save(&*t.store).await.unwrap(), Saved::Updated);
    in_flight.insert("cart", &2).unwrap();
    assert_eq!(in_flight.save(&*t.store).await.unwrap(), Saved::Gone);
    assert!(Session::load(&*t.store, &old).await.unwrap().is_none());
    assert_fields(t, session.id().unwrap(), &[("cart", 1), ("user", 42)]).await;
}

async fn a_sign_in_gives_a_stored_session_a_fresh_id_and_creates_a_new_one(t: &Tested) {
    let ann = OwnerKey::of(b"ann");
    let old = saved(t, &[("cart", 1)]).await;
    let (mut session, mut in_flight) = (load(t, &old).await, load(t, &old).await);
    session.insert("user", &42).unwrap();
    assert!(session.sign_in(&*t.store, ann.into()).await.unwrap());
    assert_eq!(session.save(&*t.store).await.unwrap(), Saved::Updated);
    in_flight.insert("cart", &2).unwrap();
    assert_eq!(in_flight.save(&*t.store).await.unwrap(), Saved::Gone);
    assert!(!in_flight.sign_in(&*t.store, ann.into()).await.unwrap());
    assert_fields(t, session.id().unwrap(), &[("cart", 1), ("user", 42)]).await;
    let mut new = Session::new(Lifetime::idle(Duration::from_secs(1_800)));
    new.insert("cart", &3).unwrap();
    assert!(new.sign_in(&*t.store, ann.into()).await.unwrap());
    assert!(!new.is_changed());
    assert_fields(t, new.id().unwrap(), &[("cart", 3)]).await;
    assert_eq!(t.store.owned_count(ann).await.unwrap(), 2);
    // Whoever is signed out everywhere meanwhile does not come in by the save behind the sign-in.
    new.insert("user", &42).unwrap();
    t.store.revoke(Whose::Owner(ann), None).await.unwrap();
    assert_eq!(new.save(&*t.store).await.unwrap(), Saved::Gone);
}

async fn loading_counts_as_using(t: &Tested) {
    let id = saved(t, &[("a", 1)]).await;
    for _ in 0..3 {
        t.pass(Duration::from_secs(1_799));
        load(t, &id).await;
    }
    t.pass(Duration::from_secs(1_800));
    assert!(Session::load(&*t.store, &id).await.unwrap().is_none());
}

async fn a_struct_changed_by_a_deploy_is_never_misread(t: &Tested) {
    #[derive(Serialize)]
    struct Before {
        width: u32,
        height: u32,
        name: String,
    }
    #[derive(Deserialize, PartialEq, Debug)]
    struct Compatible {
        name: String,
        #[serde(rename = "height")]
        tall: u64,
        #[serde(default)]
        depth: u8,
        width: Option<i16>,
    }
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "only whether it decodes matters")]
    struct Incompatible {
        width: u32,
        depth: u32,
    }
    let mut session = Session::new(LIFETIME);
    session.insert("box", &Before { width: 1, height: 2, name: "hidden".into() }).unwrap();
    session.save(&*t.store).await.unwrap();
    let session = load(t, session.id().unwrap()).await;
    let decoded = session.get::<Compatible>("box").unwrap().unwrap();
    assert_eq!(decoded, Compatible { name: "hidden".into(), tall: 2, depth: 0, width: Some(1) });
    let misread = session.get::<Incompatible>("box").unwrap_err();
    assert!(matches!(&misread, FieldError::Decode { field, .. } if field == "box"), "{misread:?}");
    let misread = session.get::<Vec<u32>>("box").unwrap_err();
    assert!(misread.to_string().contains("\"box\"") && !format!("{misread} {misread:?}").contains("hidden"));
}

async fn what_is_no_session_is_refused_and_left_alone(t: &Tested) {
    let id = saved(t, &[("a", 1)]).await;
    let mut session = load(t, &id).await;
    session.insert("b", &1).unwrap();
    for (payload, is_newer) in [(&b""[..], false), (b"\x01\x02\x01", false), (b"\x63", true)] {
        t.store.put(id.key(), Bytes::from_static(payload)).await.unwrap().unwrap();
        let loaded = Session::load(&*t.store, &id).await.map(|_| Saved::Unchanged);
        let before = stored(t, &id).await;
        for refused in [loaded, session.save(&*t.store).await] {
            match refused {
                Err(SessionError::Malformed { .. }) => assert!(!is_newer),
                Err(SessionError::UnknownEnvelope { found: 0x63, known: 1 }) => assert!(is_newer),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(stored(t, &id).await, before);
        assert!(session.is_changed());
    }
}

async fn a_field_in_an_unknown_codec_is_kept(t: &Tested) {
    let payload = Bytes::from_static(b"\x01\x01\x03new\x09\x02hi");
    let id = t.store.create(payload, LIFETIME).await.unwrap();
    let mut session = load(t, &id).await;
    let unknown = session.get::<String>("new").unwrap_err();
    assert!(matches!(unknown, FieldError::UnknownCodec { field, found: 9 } if field == "new"));
    session.insert("old", &1).unwrap();
    assert_eq!(session.save(&*t.store).await.unwrap(), Saved::Updated);
    assert_eq!(stored(t, &id).await.unwrap().payload, &b"\x01\x02\x03new\x09\x02hi\x03old\x01\x011"[..]);
}

async fn limits_hold_also_for_a_merge(t: &Tested) {
    let id = saved(t, &[("a", 0)]).await;
    let (mut mine, mut theirs) = (load(t, &id).await, load(t, &id).await);
    for n in 1..FIELDS_MAX {
        mine.insert(&n.to_string(), &()).unwrap();
    }
    assert!(matches!(mine.insert("one more", &()), Err(FieldError::TooManyFields)));
    mine.insert("a", &1).unwrap();
    for name in [String::new(), "x".repeat(257)] {
        assert!(matches!(mine.insert(&name, &()), Err(FieldError::InvalidName { .. })));
    }
    theirs.insert("theirs", &0).unwrap();
    theirs.save(&*t.store).await.unwrap();
    let refused = mine.save(&*t.store).await;
    assert!(matches!(refused, Err(SessionError::TooManyFields { count }) if count == FIELDS_MAX + 1));
    assert_fields(t, &id, &[("a", 0), ("theirs", 0)]).await;
    mine.clear();
    mine.insert("long", &"x".repeat(5_000)).unwrap();
    let refused = mine.save(&*t.store).await;
    assert!(matches!(refused, Err(SessionError::Store(Error::PayloadTooLarge { .. }))));
    mine.insert("long", &1).unwrap();
    assert_eq!(mine.save(&*t.store).await.unwrap(), Saved::Updated);
    assert_fields(t, &id, &[("long", 1)]).await;
}

async fn nothing_secret_is_printed(t: &Tested) {
    let mut session = Session::new(LIFETIME);
    session.insert("phone", "555-0100").unwrap();
    session.save(&*t.store).await.unwrap();
    let id = session.id().unwrap().to_text();
    let raw = session.iter().next().unwrap().1;
    let error = session.get::<u32>("phone").unwrap_err();
    assert!(std::error::Error::source(&error).is_none());
    for printed in [format!("{session:?}"), format!("{raw:?}"), format!("{error} {error:?}")] {
        assert!(printed.contains("phone"), "{printed}");
        assert!(!printed.contains("555") && !printed.contains(&id), "{printed}");
    }
}
