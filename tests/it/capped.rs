//! No more sessions of an owner than a sign-in allows.
//!
//! Goal: to refute that a cap is exact. Method: the contract on every store; sixty-four tasks that sign in at once beside one that counts; on a simulated
//! disk a crash at every call of a sign-in that evicts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, AtCap, Binding, Durability, Error, Label, Lifetime, LogStore, MemoryStore, SessionStore, Whose,
};

use crate::owned::{
    ann, assert_theirs, bob, count, create_owned, key, label_of, listed, open, options, sign_in, there,
};
use crate::stores::{Tested, defaults, for_every_store};
use crate::support::life::drive as run;
use crate::support::{Replay, seeds};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Lifetime = Lifetime::idle(Duration::from_secs(86_400));

for_every_store!(
    cap_that_rejects_leaves_everything_as_it_was,
    cap_evicts_the_oldest,
    cap_evicts_who_was_idle_for_longest,
    cap_does_not_count_the_expired_the_revoked_and_the_unbound,
    cap_does_not_count_a_session_that_is_theirs_already,
    cap_that_was_lowered_ends_all_that_are_too_many,
    sign_in_of_a_session_that_is_gone_evicts_nobody,
    rotation_needs_no_place_under_a_cap,
);
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
    t.pass(HOUR);
    store.create_owned_as(key(7), "x".into(), Lifetime::absolute(9 * HOUR), bob().into()).await.unwrap();
    assert!(store.touch(key(6)).await.unwrap());
    sign_in(store, 8, Binding::to(bob()).at_most(3, AtCap::EvictIdle)).await.unwrap();
    assert_theirs(store, bob(), [6, 7, 8]).await;
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
                    let done = if task % 3 == 0 {
                        store.create_owned_as(key, "x".into(), DAY, binding).await.map(|()| true)
                    } else {
                        store.create_as(key, "x".into(), DAY).await.unwrap();
                        match task % 3 {
                            1 => store.bind_as(key, Some(binding)).await,
                            _ => store.sign_in(key, binding).await.map(|id| id.is_some()),
                        }
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

#[test]
fn session_that_has_expired_is_not_evicted_though_it_is_still_in_memory() {
    let (options, clock) = options();
    let store = open(&SimDisk::new(1), &options);
    create_owned(&store, 1, Lifetime::absolute(HOUR), ann().into()).unwrap().unwrap();
    create_owned(&store, 2, DAY, ann().into()).unwrap().unwrap();
    let store = store.at(Durability::Buffered);
    clock.advance(HOUR);
    create_owned(&store, 3, DAY, Binding::to(ann()).at_most(2, AtCap::EvictOldest)).unwrap().unwrap();
    assert_eq!((count(&store), store.stats().evicted), (2, 0));
    assert!(there(&store, 2) && there(&store, 3));
    (0..4).for_each(|_| store.step());
    assert_eq!(store.stats().expired, 1);
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
