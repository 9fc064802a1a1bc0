//! The sessions of an owner: listed, counted, labelled; and sessions that begin with one.
//!
//! Goal: to refute that a list shows who is signed in, and that a label goes where its session goes. Method: the contract on every store; on a simulated
//! disk what a session that begins with an owner may not leave visible, and what compaction and a crash leave of labels.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, AtCap, Binding, Clock, Error, Label, Lifetime, LogStore, ManualClock, Options, OwnedSession,
    OwnerKey, SessionKey, SessionStore, Timestamp, Whose,
};

use crate::stores::{Tested, for_every_store};
use crate::support::life::drive as run;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Lifetime = Lifetime::idle(Duration::from_secs(86_400));

for_every_store!(
    list_tells_of_each_session_what_a_user_is_shown,
    list_and_count_have_the_live_sessions_of_one_owner_alone,
    list_of_many_is_walked_in_pages,
    label_goes_where_its_session_goes,
    binding_anew_keeps_the_label_replaces_it_or_takes_it_away,
    session_that_begins_with_an_owner_is_one_like_those_that_were_bound,
    sign_in_moves_the_session_binds_it_and_keeps_what_is_in_it,
);
pub fn ann() -> OwnerKey {
    OwnerKey::of(b"ann")
}

pub fn bob() -> OwnerKey {
    OwnerKey::of(b"bob")
}

pub fn key(n: u32) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

/// A session of ann's that begins now.
pub async fn sign_in(store: &dyn SessionStore, n: u32, binding: Binding) -> Result<(), Error> {
    store.create_owned_as(key(n), Bytes::from(n.to_le_bytes().to_vec()), DAY, binding).await
}

pub async fn listed(store: &dyn SessionStore, owner: OwnerKey) -> Vec<OwnedSession> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.owned(owner, cursor, 1_000).await.unwrap();
        all.extend(page.sessions);
        cursor = page.next;
        if cursor.is_none() {
            all.sort_by_key(|session| session.key);
            return all;
        }
    }
}

pub async fn assert_theirs(
    store: &dyn SessionStore,
    owner: OwnerKey,
    numbers: impl IntoIterator<Item = u32>,
) {
    let mut keys: Vec<_> = numbers.into_iter().map(key).collect();
    keys.sort_unstable();
    assert_eq!(listed(store, owner).await.iter().map(|s| s.key).collect::<Vec<_>>(), keys);
    assert_eq!(store.owned_count(owner).await.unwrap(), keys.len());
    for key in keys {
        assert!(store.get(key, Access::Peek).await.unwrap().is_some());
    }
}

pub async fn label_of(store: &dyn SessionStore, key: SessionKey) -> String {
    store.get(key, Access::Peek).await.unwrap().unwrap().label.to_string()
}

async fn list_tells_of_each_session_what_a_user_is_shown(t: &Tested) {
    let store = &*t.store;
    let began = t.now();
    let lifetime = Lifetime::idle(HOUR).exact().and_absolute(3 * HOUR);
    let binding = Binding::to(ann()).labelled(Label::new("Firefox on Linux").unwrap());
    store.create_owned_as(key(1), "x".into(), lifetime, binding).await.unwrap();
    t.pass(HOUR / 2);
    assert!(store.touch(key(1)).await.unwrap());
    let [session] = &listed(store, ann()).await[..] else { panic!("one session") };
    assert_eq!((session.key, session.label.as_str()), (key(1), "Firefox on Linux"));
    assert_eq!((session.created_at, session.seen_at), (began, Some(t.now())));
    assert_eq!(session.expires_at, t.now().saturating_add(HOUR));
    // Without exact touches the last use is known to the grain, and never too late.
    let coarse = Lifetime::idle(16 * HOUR);
    store.create_owned_as(key(2), "x".into(), coarse, bob().into()).await.unwrap();
    t.pass(Duration::from_secs(200));
    assert!(store.touch(key(2)).await.unwrap());
    let seen_at = listed(store, bob()).await[0].seen_at.unwrap();
    assert!(seen_at <= t.now() && t.now().saturating_since(seen_at) <= Duration::from_secs(300));
    store
        .create_owned_as(key(3), "x".into(), Lifetime::absolute(HOUR), OwnerKey::of(b"cat").into())
        .await
        .unwrap();
    assert_eq!(listed(store, OwnerKey::of(b"cat")).await[0].seen_at, None);
}

async fn list_and_count_have_the_live_sessions_of_one_owner_alone(t: &Tested) {
    let store = &*t.store;
    for n in 0..40 {
        match n % 4 {
            0 => store.create_as(key(n), "x".into(), DAY).await.unwrap(),
            1 => sign_in(store, n, bob().into()).await.unwrap(),
            _ => sign_in(store, n, ann().into()).await.unwrap(),
        }
    }
    let theirs = |n: &u32| n % 4 >= 2;
    assert_theirs(store, ann(), (0..40).filter(theirs)).await;
    assert!(store.delete(key(2)).await.unwrap());
    assert!(store.bind(key(3), None).await.unwrap());
    assert!(store.bind(key(6), Some(bob())).await.unwrap());
    assert!(store.set_lifetime(key(7), Lifetime::absolute(HOUR)).await.unwrap());
    assert_theirs(store, ann(), (7..40).filter(theirs)).await;
    t.pass(HOUR);
    assert_theirs(store, ann(), (8..40).filter(theirs)).await;
    store.revoke(Whose::Owner(ann()), Some(key(11))).await.unwrap();
    assert_theirs(store, ann(), [11]).await;
    assert_theirs(store, bob(), (0..40).filter(|n| n % 4 == 1 || *n == 6)).await;
    assert_theirs(store, OwnerKey::of(b"nobody"), []).await;
}

async fn list_of_many_is_walked_in_pages(t: &Tested) {
    let store = &*t.store;
    for n in 0..300 {
        sign_in(store, n, if n % 3 == 0 { bob() } else { ann() }.into()).await.unwrap();
    }
    for limit in [0, 1, 7, 500] {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = store.owned(ann(), cursor, limit).await.unwrap();
            assert!(page.sessions.len() <= limit.max(1));
            seen.extend(page.sessions.iter().map(|session| session.key));
            (cursor, pages) = (page.next, pages + 1);
            if cursor.is_none() {
                break;
            }
        }
        seen.sort_unstable();
        let mut expected: Vec<_> = (0..300).filter(|n| n % 3 != 0).map(key).collect();
        expected.sort_unstable();
        assert_eq!(seen, expected, "in pages of {limit}");
        assert!(pages >= 200 / limit.max(1), "{pages} pages of {limit}");
    }
}

async fn label_goes_where_its_session_goes(t: &Tested) {
    let store = &*t.store;
    let longest = "é".repeat(127) + "!";
    sign_in(store, 1, Binding::to(ann()).labelled(Label::new(&longest).unwrap())).await.unwrap();
    store.put(key(1), "longer than what was there before".into()).await.unwrap().unwrap();
    assert_eq!(label_of(store, key(1)).await, longest);
    let read = store.get(key(1), Access::Touch).await.unwrap().unwrap();
    store.put_if(key(1), "x".into(), read.version).await.unwrap().unwrap();
    assert!(matches!(store.put_if(key(1), "y".into(), read.version).await, Err(Error::Conflict { .. })));
    store.upsert(key(1), "z".into(), DAY).await.unwrap();
    t.pass(HOUR);
    assert!(store.touch(key(1)).await.unwrap());
    store.update(key(1), &mut |_| Some("w".into())).await.unwrap().unwrap();
    assert!(store.bind(key(1), Some(bob())).await.unwrap());
    let moved = store.rotate(key(1)).await.unwrap().unwrap();
    let stored = store.get(moved.key(), Access::Peek).await.unwrap().unwrap();
    assert_eq!(
        (stored.label.as_str(), stored.owner, &stored.payload[..]),
        (&*longest, Some(bob()), &b"w"[..])
    );
    assert!(store.bind(moved.key(), None).await.unwrap());
    assert_eq!(label_of(store, moved.key()).await, "");
    // Who has the key next begins without it.
    sign_in(store, 2, Binding::to(ann()).labelled(Label::cut("phone"))).await.unwrap();
    assert!(store.set_lifetime(key(2), Lifetime::absolute(HOUR)).await.unwrap());
    t.pass(HOUR);
    store.upsert(key(2), "new".into(), DAY).await.unwrap();
    assert_eq!(label_of(store, key(2)).await, "");
}

async fn binding_anew_keeps_the_label_replaces_it_or_takes_it_away(t: &Tested) {
    let store = &*t.store;
    sign_in(store, 1, Binding::to(ann()).labelled(Label::cut("phone"))).await.unwrap();
    for (binding, label) in [
        (Binding::to(ann()), "phone"),
        (Binding::to(bob()), "phone"),
        (Binding::to(bob()).labelled(Label::cut("tablet")), "tablet"),
        (Binding::to(bob()).labelled(Label::default()), ""),
        (Binding::to(bob()), ""),
    ] {
        assert!(store.bind_as(key(1), Some(binding)).await.unwrap());
        assert_eq!(label_of(store, key(1)).await, label);
    }
    assert!(!store.bind_as(key(2), Some(ann().into())).await.unwrap());
}

async fn session_that_begins_with_an_owner_is_one_like_those_that_were_bound(t: &Tested) {
    let store = &*t.store;
    sign_in(store, 1, ann().into()).await.unwrap();
    assert!(matches!(sign_in(store, 1, bob().into()).await, Err(Error::AlreadyExists)));
    let too_long = Bytes::from(vec![0; 5_000]);
    let refused = store.create_owned_as(key(2), too_long, DAY, ann().into()).await;
    assert!(matches!(refused, Err(Error::PayloadTooLarge { len: 5_000, .. })));
    let refused =
        store.create_owned_as(key(2), "x".into(), Lifetime::idle(Duration::ZERO), ann().into()).await;
    assert!(matches!(refused, Err(Error::InvalidLifetime { .. })));
    store.revoke(Whose::Owner(ann()), None).await.unwrap();
    assert!(store.get(key(1), Access::Peek).await.unwrap().is_none());
    // A key that was revoked or has expired is free, whoever had it.
    sign_in(store, 1, bob().into()).await.unwrap();
    let stored = store.get(key(1), Access::Peek).await.unwrap().unwrap();
    assert_eq!((stored.owner, stored.payload), (Some(bob()), Bytes::from(1_u32.to_le_bytes().to_vec())));
    assert_theirs(store, ann(), []).await;
    assert_theirs(store, bob(), [1]).await;
}

async fn sign_in_moves_the_session_binds_it_and_keeps_what_is_in_it(t: &Tested) {
    let store = &*t.store;
    let two = Binding::to(ann()).labelled(Label::cut("phone")).at_most(2, AtCap::RejectNew);
    store.create_as(key(1), "cart".into(), DAY).await.unwrap();
    let before = store.get(key(1), Access::Peek).await.unwrap().unwrap();
    let id = store.sign_in(key(1), two.clone()).await.unwrap().unwrap();
    assert!(store.get(key(1), Access::Peek).await.unwrap().is_none());
    let after = store.get(id.key(), Access::Peek).await.unwrap().unwrap();
    assert_eq!((after.owner, after.label.as_str()), (Some(ann()), "phone"));
    assert_eq!(
        (after.payload, after.created_at, after.expires_at),
        (before.payload, before.created_at, before.expires_at)
    );
    // Who is signed in may sign in again, also at the cap; who is not is refused, and stays who they are.
    sign_in(store, 2, two.clone()).await.unwrap();
    let again = store.sign_in(id.key(), two.clone()).await.unwrap().unwrap();
    store.create_as(key(3), "x".into(), DAY).await.unwrap();
    assert!(matches!(store.sign_in(key(3), two.clone()).await, Err(Error::TooManyOfOwner { max: 2 })));
    assert!(store.get(key(3), Access::Peek).await.unwrap().unwrap().owner.is_none());
    assert!(store.sign_in(key(9), two).await.unwrap().is_none());
    store.revoke(Whose::Owner(ann()), None).await.unwrap();
    assert!(store.get(again.key(), Access::Peek).await.unwrap().is_none());
}

pub fn options() -> (Options, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let options = Options {
        segment_bytes: 64 << 10,
        payload_bytes_max: 4_096,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        ..Options::default()
    };
    (options, clock)
}

pub fn open(disk: &SimDisk, options: &Options) -> LogStore {
    LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()).unwrap()
}

pub fn create_owned(
    store: &LogStore,
    n: u32,
    lifetime: Lifetime,
    binding: Binding,
) -> Option<Result<(), Error>> {
    run(store, store.create_owned_as(key(n), vec![1; 3_000].into(), lifetime, binding))
}

pub fn count(store: &LogStore) -> usize {
    run(store, store.owned_count(ann())).unwrap().unwrap()
}

pub fn there(store: &LogStore, n: u32) -> bool {
    run(store, store.get(key(n), Access::Peek)).unwrap().unwrap().is_some()
}

/// The visitor's version ends later than all that came after it, and is not of the owner: what begins under its key has to hide it.
#[test]
fn version_of_a_visitor_does_not_come_back_once_the_session_that_began_under_its_key_is_revoked() {
    let (options, clock) = options();
    let disk = SimDisk::new(1);
    let mut store = open(&disk, &options);
    let long = |hours| Lifetime::absolute(hours * HOUR);
    run(&store, store.create_as(key(0), vec![1; 3_000].into(), long(1_000))).unwrap().unwrap();
    (1..21).for_each(|n| create_owned(&store, n, long(2_000), bob().into()).unwrap().unwrap());
    store.step();
    // It ends by a shorter lifetime, and nobody has swept it when somebody signs in under its key.
    assert!(run(&store, store.set_lifetime(key(0), long(1))).unwrap().unwrap());
    clock.advance(HOUR);
    assert!(!there(&store, 0));
    create_owned(&store, 0, long(3), ann().into()).unwrap().unwrap();
    (30..60).for_each(|n| create_owned(&store, n, long(1), bob().into()).unwrap().unwrap());
    run(&store, store.revoke(Whose::Owner(ann()), None)).unwrap().unwrap();
    for round in 0..6 {
        assert!(!there(&store, 0), "revived in round {round}");
        clock.advance(HOUR);
        (0..12).for_each(|_| store.step());
        disk.crash();
        store = open(&disk, &options);
    }
    assert!((1..21).all(|n| there(&store, n)));
}

#[test]
fn labels_and_owners_are_there_after_compaction_and_a_crash() {
    let (options, clock) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options);
    let phone = || Binding::to(ann()).labelled(Label::cut("phone"));
    for n in 0..60 {
        let (lifetime, binding) = if n % 5 == 0 {
            (Lifetime::absolute(100 * HOUR), phone())
        } else {
            (Lifetime::absolute(HOUR), bob().into())
        };
        create_owned(&store, n, lifetime, binding).unwrap().unwrap();
        if n % 10 == 0 {
            run(&store, store.put(key(n), vec![2; 2_000].into())).unwrap().unwrap().unwrap();
        }
    }
    clock.advance(2 * HOUR);
    (0..20).for_each(|_| store.step());
    assert!(store.stats().compacted_bytes > 0);
    disk.crash();
    drop(store);
    let store = open(&disk, &options);
    assert_eq!(count(&store), 12);
    let theirs = run(&store, listed(&store, ann())).unwrap();
    assert!(theirs.iter().all(|session| session.label.as_str() == "phone"));
    run(&store, store.put(key(0), "x".into())).unwrap().unwrap().unwrap();
    assert_eq!(run(&store, label_of(&store, key(0))).unwrap(), "phone");
}

#[test]
fn label_is_text_of_255_bytes_at_most() {
    let refused = Label::new(&"x".repeat(256)).unwrap_err();
    assert!(refused.to_string().contains("256") && refused.to_string().contains("255"), "{refused}");
    assert_eq!(Label::new(&"x".repeat(255)).unwrap().as_str().len(), 255);
    assert_eq!(Label::cut(&"x".repeat(256)).as_str().len(), 255);
    assert_eq!(Label::cut(&("x".repeat(253) + "€")).as_str(), "x".repeat(253));
}
