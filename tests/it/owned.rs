//! The sessions of an owner: listed, counted, labelled, and no more of them than a sign-in allows.
//!
//! Goal: to refute that a cap is exact, that a label goes where its session goes, and that a list shows who is signed in. Method: the contract on every
//! store; sixty-four tasks that sign in at once beside one that counts; on a simulated disk a crash at every call of a sign-in that evicts, and what a
//! session that begins with an owner may not leave visible.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, AtCap, Binding, Clock, Durability, Error, Label, Lifetime, LogStore, ManualClock, MemoryStore,
    Options, OwnedSession, OwnerKey, SessionKey, SessionStore, Timestamp, Whose,
};

use crate::moments::run;
use crate::stores::{Tested, defaults, for_every_store};
use crate::support::{Replay, seeds};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Lifetime = Lifetime::idle(Duration::from_secs(86_400));

for_every_store!(
    list_tells_of_each_session_what_a_user_is_shown,
    list_and_count_have_the_live_sessions_of_one_owner_alone,
    list_of_many_is_walked_in_pages,
    label_goes_where_its_session_goes,
    binding_anew_keeps_the_label_replaces_it_or_takes_it_away,
    session_that_begins_with_an_owner_is_one_like_those_that_were_bound,
    cap_that_rejects_leaves_everything_as_it_was,
    cap_evicts_the_oldest,
    cap_evicts_who_was_idle_for_longest,
    cap_does_not_count_the_expired_the_revoked_and_the_unbound,
    cap_does_not_count_a_session_that_is_theirs_already,
    cap_that_was_lowered_ends_all_that_are_too_many,
    sign_in_of_a_session_that_is_gone_evicts_nobody,
    rotation_needs_no_place_under_a_cap,
);

fn ann() -> OwnerKey {
    OwnerKey::of(b"ann")
}

fn bob() -> OwnerKey {
    OwnerKey::of(b"bob")
}

fn key(n: u32) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

/// A session of ann's that begins now.
async fn sign_in(store: &dyn SessionStore, n: u32, binding: Binding) -> Result<(), Error> {
    store.create_owned_as(key(n), Bytes::from(n.to_le_bytes().to_vec()), DAY, binding).await
}

async fn listed(store: &dyn SessionStore, owner: OwnerKey) -> Vec<OwnedSession> {
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

async fn assert_theirs(store: &dyn SessionStore, owner: OwnerKey, numbers: impl IntoIterator<Item = u32>) {
    let mut keys: Vec<_> = numbers.into_iter().map(key).collect();
    keys.sort_unstable();
    assert_eq!(listed(store, owner).await.iter().map(|s| s.key).collect::<Vec<_>>(), keys);
    assert_eq!(store.owned_count(owner).await.unwrap(), keys.len());
    for key in keys {
        assert!(store.get(key, Access::Peek).await.unwrap().is_some());
    }
}

async fn label_of(store: &dyn SessionStore, key: SessionKey) -> String {
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

async fn cap_that_rejects_leaves_everything_as_it_was(t: &Tested) {
    let store = &*t.store;
    let two = Binding::to(ann()).at_most(2, AtCap::RejectNew);
    sign_in(store, 1, two.clone()).await.unwrap();
    store.create_as(key(2), "x".into(), DAY).await.unwrap();
    store.create_as(key(3), "x".into(), DAY).await.unwrap();
    assert!(store.bind_as(key(2), Some(two.clone())).await.unwrap());
    let before = store.get(key(3), Access::Peek).await.unwrap();
    assert!(matches!(store.bind_as(key(3), Some(two.clone())).await, Err(Error::TooManyOfOwner { max: 2 })));
    assert!(matches!(sign_in(store, 4, two.clone()).await, Err(Error::TooManyOfOwner { max: 2 })));
    assert_eq!(store.get(key(3), Access::Peek).await.unwrap(), before);
    assert!(store.get(key(4), Access::Peek).await.unwrap().is_none());
    assert_theirs(store, ann(), [1, 2]).await;
    assert!(store.delete(key(1)).await.unwrap());
    sign_in(store, 4, two).await.unwrap();
    // Without a cap there is none, and 0 is 1.
    sign_in(store, 5, ann().into()).await.unwrap();
    let none = Binding::to(bob()).at_most(0, AtCap::RejectNew);
    sign_in(store, 6, none.clone()).await.unwrap();
    assert!(matches!(sign_in(store, 7, none).await, Err(Error::TooManyOfOwner { max: 1 })));
    assert_eq!(store.stats().evicted, 0);
}

async fn cap_evicts_the_oldest(t: &Tested) {
    let store = &*t.store;
    let three = Binding::to(ann()).at_most(3, AtCap::EvictOldest);
    for n in 0..6 {
        sign_in(store, n, three.clone()).await.unwrap();
        t.pass(Duration::from_secs(60));
        // Use does not make one younger.
        assert!(store.touch(key(n.saturating_sub(2))).await.unwrap());
        assert_theirs(store, ann(), n.saturating_sub(2)..=n).await;
    }
    assert_eq!(store.put(key(1), "late".into()).await.unwrap(), None);
    assert_eq!(store.stats().evicted, 3);
}

async fn cap_evicts_who_was_idle_for_longest(t: &Tested) {
    let store = &*t.store;
    let three = Binding::to(ann()).at_most(3, AtCap::EvictIdle);
    for n in 0..3 {
        sign_in(store, n, three.clone()).await.unwrap();
        t.pass(HOUR);
    }
    for n in [0, 2] {
        assert!(store.touch(key(n)).await.unwrap());
    }
    t.pass(HOUR);
    sign_in(store, 3, three.clone()).await.unwrap();
    assert_theirs(store, ann(), [0, 2, 3]).await;
    // Where nothing notes the use, it is the creation.
    store.create_owned_as(key(4), "x".into(), Lifetime::absolute(9 * HOUR), bob().into()).await.unwrap();
    t.pass(HOUR);
    sign_in(store, 5, bob().into()).await.unwrap();
    sign_in(store, 6, Binding::to(bob()).at_most(2, AtCap::EvictIdle)).await.unwrap();
    assert_theirs(store, bob(), [5, 6]).await;
}

async fn cap_does_not_count_the_expired_the_revoked_and_the_unbound(t: &Tested) {
    let store = &*t.store;
    let two = Binding::to(ann()).at_most(2, AtCap::RejectNew);
    let hour = Lifetime::absolute(HOUR);
    store.create_owned_as(key(0), "x".into(), hour, two.clone()).await.unwrap();
    store.create_owned_as(key(1), "x".into(), hour, two.clone()).await.unwrap();
    t.pass(HOUR);
    sign_in(store, 2, two.clone()).await.unwrap();
    sign_in(store, 3, two.clone()).await.unwrap();
    store.revoke(Whose::Owner(ann()), None).await.unwrap();
    sign_in(store, 4, two.clone()).await.unwrap();
    sign_in(store, 5, two.clone()).await.unwrap();
    assert!(store.bind(key(4), None).await.unwrap());
    sign_in(store, 6, two.clone()).await.unwrap();
    assert_theirs(store, ann(), [5, 6]).await;
    assert!(matches!(store.bind_as(key(4), Some(two)).await, Err(Error::TooManyOfOwner { max: 2 })));
    assert_eq!(store.stats().evicted, 0);
}

async fn cap_does_not_count_a_session_that_is_theirs_already(t: &Tested) {
    let store = &*t.store;
    let one = Binding::to(ann()).at_most(1, AtCap::RejectNew);
    sign_in(store, 1, one.clone()).await.unwrap();
    assert!(store.bind_as(key(1), Some(one.labelled(Label::cut("again")))).await.unwrap());
    assert_eq!(label_of(store, key(1)).await, "again");
    assert_theirs(store, ann(), [1]).await;
}

async fn cap_that_was_lowered_ends_all_that_are_too_many(t: &Tested) {
    let store = &*t.store;
    for n in 0..100 {
        sign_in(store, n, ann().into()).await.unwrap();
        t.pass(Duration::from_secs(1));
    }
    sign_in(store, 100, Binding::to(ann()).at_most(4, AtCap::EvictOldest)).await.unwrap();
    assert_theirs(store, ann(), 97..=100).await;
    assert_eq!(store.stats().evicted, 97);
}

async fn sign_in_of_a_session_that_is_gone_evicts_nobody(t: &Tested) {
    let store = &*t.store;
    let one = Binding::to(ann()).at_most(1, AtCap::EvictOldest);
    sign_in(store, 1, one.clone()).await.unwrap();
    assert!(!store.bind_as(key(2), Some(one.clone())).await.unwrap());
    sign_in(store, 3, bob().into()).await.unwrap();
    assert!(matches!(sign_in(store, 3, one).await, Err(Error::AlreadyExists)));
    assert_theirs(store, ann(), [1]).await;
}

async fn rotation_needs_no_place_under_a_cap(t: &Tested) {
    let store = &*t.store;
    let one = Binding::to(ann()).at_most(1, AtCap::RejectNew);
    sign_in(store, 1, one.clone()).await.unwrap();
    let moved = store.rotate(key(1)).await.unwrap().unwrap();
    assert_eq!(store.owned_count(ann()).await.unwrap(), 1);
    assert!(matches!(sign_in(store, 2, one.clone()).await, Err(Error::TooManyOfOwner { max: 1 })));
    assert!(store.delete(moved.key()).await.unwrap());
    sign_in(store, 2, one).await.unwrap();
}

/// Sixty-four sign-ins at once of two owners, some by a create and some by a bind, beside rotations, saves and one that counts all the time.
async fn never_more_than(cap: usize, then: AtCap, store: Arc<dyn SessionStore>) {
    const TASKS: u32 = 64;
    let over = Arc::new(AtomicBool::new(false));
    let watched = {
        let (store, over) = (Arc::clone(&store), Arc::clone(&over));
        tokio::spawn(async move {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(store.owned_count(ann()).await.unwrap());
                tokio::task::yield_now().await;
            }
            most
        })
    };
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let (mut signed_in, mut refused) = (0, 0);
                for round in 0..20 {
                    let owner = if task % 8 == 7 { bob() } else { ann() };
                    let binding = Binding::to(owner)
                        .labelled(Label::cut("device"))
                        .at_most(u32::try_from(cap).unwrap(), then);
                    let key = key(task * 1_000 + round);
                    let done = if task % 2 == 0 {
                        store.create_owned_as(key, "x".into(), DAY, binding).await.map(|()| true)
                    } else {
                        store.create_as(key, "x".into(), DAY).await.unwrap();
                        store.bind_as(key, Some(binding)).await
                    };
                    match done {
                        Ok(done) => signed_in += usize::from(done),
                        Err(Error::TooManyOfOwner { .. }) => refused += 1,
                        Err(e) => panic!("{e}"),
                    }
                    store.put(key, "saved".into()).await.unwrap();
                    if let Some(moved) = store.rotate(key).await.unwrap()
                        && round % 4 == 0
                    {
                        store.delete(moved.key()).await.unwrap();
                    }
                }
                (signed_in, refused)
            })
        })
        .collect();
    let (mut signed_in, mut refused) = (0, 0);
    for task in tasks {
        let (more, less) = task.await.unwrap();
        (signed_in, refused) = (signed_in + more, refused + less);
    }
    over.store(true, Ordering::Relaxed);
    let most = watched.await.unwrap();
    assert!(most <= cap, "{most} sessions under a cap of {cap}");
    for owner in [ann(), bob()] {
        assert!(store.owned_count(owner).await.unwrap() <= cap);
        assert_eq!(listed(&*store, owner).await.len(), store.owned_count(owner).await.unwrap());
    }
    assert_eq!(signed_in + refused, 64 * 20);
    assert_eq!(refused > 0, then == AtCap::RejectNew, "{refused} refused");
    assert_eq!(store.stats().evicted > 0, then != AtCap::RejectNew);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cap_holds_at_every_instant_while_64_tasks_sign_in() {
    for then in [AtCap::RejectNew, AtCap::EvictOldest, AtCap::EvictIdle] {
        never_more_than(5, then, Arc::new(MemoryStore::new())).await;
        let folder = tempfile::tempdir().unwrap();
        let store = LogStore::open(folder.path(), defaults()).await.unwrap().at(Durability::Buffered);
        never_more_than(5, then, Arc::new(store.clone())).await;
        let theirs = listed(&store, ann()).await;
        store.close().await.unwrap();
        let store = LogStore::open(folder.path(), defaults()).await.unwrap();
        assert_eq!(listed(&store, ann()).await, theirs);
        store.close().await.unwrap();
    }
}

fn options() -> (Options, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let options = Options {
        segment_bytes: 64 << 10,
        payload_bytes_max: 4_096,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        ..Options::default()
    };
    (options, clock)
}

fn open(disk: &SimDisk, options: &Options) -> LogStore {
    LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()).unwrap()
}

fn create_owned(store: &LogStore, n: u32, lifetime: Lifetime, binding: Binding) -> Option<Result<(), Error>> {
    run(store, store.create_owned_as(key(n), vec![1; 3_000].into(), lifetime, binding))
}

fn count(store: &LogStore) -> usize {
    run(store, store.owned_count(ann())).unwrap().unwrap()
}

fn there(store: &LogStore, n: u32) -> bool {
    run(store, store.get(key(n), Access::Peek)).unwrap().unwrap().is_some()
}

#[test]
fn after_a_crash_at_any_call_of_a_sign_in_the_cap_holds_and_who_was_told_is_signed_in() {
    const CALLS: u64 = 30;
    let (options, _) = options();
    let whole = SimDisk::new(1);
    let store = open(&whole, &options).at(Durability::Buffered);
    (0..5).for_each(|n| create_owned(&store, n, DAY, ann().into()).unwrap().unwrap());
    run(&store, store.close()).unwrap().unwrap();
    let mut outcomes = [0; 2];
    for (seed, n) in seeds(0..6).into_iter().flat_map(|seed| (1..=CALLS).map(move |n| (seed, n))) {
        let _replay = Replay("sign-in".into(), seed);
        let disk = whole.copy(seed);
        let store = open(&disk, &options).at(Durability::Sync);
        (0..10).for_each(|_| store.step());
        disk.crash_at_call(n);
        let told = create_owned(&store, 9, DAY, Binding::to(ann()).at_most(3, AtCap::EvictOldest));
        (0..6).for_each(|_| store.step());
        let struck = !disk.has_power();
        if struck {
            disk.restart();
        } else {
            disk.crash();
        }
        drop(store);
        let store = open(&disk, &options);
        let is_in = there(&store, 9);
        if told.is_some_and(|told| told.is_ok()) {
            assert!(is_in, "the sign-in was acknowledged at Sync");
        }
        let left = (0..5).filter(|n| there(&store, *n)).count();
        assert!(if is_in { left <= 2 } else { left >= 2 }, "{left} of the others, signed in: {is_in}");
        assert_eq!(count(&store), left + usize::from(is_in));
        outcomes[usize::from(is_in)] += 1;
    }
    assert!(outcomes.iter().all(|n| *n > 0), "{outcomes:?}");
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
