//! Promises of owners, caps and events that were found not to hold, one test for each.
//!
//! Goal: that none of them is broken again. Method: a store without threads, so that what happens between two steps of the background work happens there.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, AtCap, Binding, Clock, Durability, Error, Event, Events, Label, Lifetime, LogStore, ManualClock,
    Options, SessionKey, SessionStore, Timestamp, Whose, Why, Work,
};

use crate::owned::{ann, count, create_owned, key, open, options, sign_in, there};
use crate::stores::{Tested, for_every_store};
use crate::support::life::drive as run;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Lifetime = Lifetime::idle(Duration::from_secs(86_400));

for_every_store!(
    session_that_is_bound_anew_during_a_walk_is_met,
    create_that_meets_a_live_session_evicts_nobody_however_low_the_cap,
    walk_of_all_keys_meets_a_session_that_is_bound_meanwhile,
);

pub fn poll<T>(future: &mut Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// Of a future that is ready at once.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    poll(&mut pin!(future)).unwrap()
}

fn told_now(events: &mut Events) -> Vec<Event> {
    let mut told = Vec::new();
    while let Some(Some(Ok(event))) = poll(&mut pin!(events.next())) {
        told.push(event);
    }
    told
}

#[test]
fn end_of_a_revoked_session_is_told_though_compaction_comes_before_the_sweep() {
    let (options, _) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options).at(Durability::Buffered);
    for n in 0..60_u32 {
        if n % 4 == 0 {
            create_owned(&store, n, DAY, ann().into()).unwrap().unwrap();
        } else {
            run(&store, store.create_as(key(n), vec![1; 3_000].into(), DAY)).unwrap().unwrap();
        }
        store.step();
    }
    (0..10).for_each(|_| store.step());
    let mut events = store.events();
    for n in (0..60).filter(|n| n % 4 != 0) {
        assert!(now(store.delete(key(n))).unwrap());
    }
    told_now(&mut events);
    now(store.revoke(Whose::Owner(ann()), None)).unwrap();
    (0..20).for_each(|_| store.work(Work::Compact));
    assert!(store.stats().segments < 3);
    (0..10).for_each(|_| store.step());
    let mut told = told_now(&mut events);
    told.sort_by_key(|event| if let Event::Deleted { key, .. } = event { *key } else { panic!("{event:?}") });
    let mut expected: Vec<_> = (0..60).step_by(4).map(key).collect();
    expected.sort_unstable();
    let expected: Vec<_> =
        expected.into_iter().map(|key| Event::Deleted { key, why: Why::Revoked }).collect();
    assert_eq!(told, expected);
}

#[test]
fn session_that_comes_back_under_its_key_while_a_sign_in_waits_takes_no_room_of_that() {
    let (options, _) = options();
    let store = open(&SimDisk::new(1), &options).at(Durability::Buffered);
    now(store.create_owned_as(key(1), "x".into(), DAY, ann().into())).unwrap();
    for n in 100.. {
        if poll(&mut pin!(store.create_as(key(n), vec![1; 700].into(), DAY))).is_none() {
            break;
        }
    }
    let one = Binding::to(ann()).at_most(1, AtCap::EvictOldest);
    let mut waits = pin!(store.create_owned_as(key(2), vec![1; 4_000].into(), DAY, one));
    assert!(poll(&mut waits).is_none(), "no segment has room for it");
    assert!(now(store.get(key(1), Access::Peek)).unwrap().is_none());
    now(store.create_owned_as(key(1), "x".into(), DAY, ann().into())).unwrap();
    store.step();
    while poll(&mut waits).is_none() {
        store.step();
    }
    assert_eq!(count(&store), 1);
    assert!(there(&store, 2));
}

async fn session_that_is_bound_anew_during_a_walk_is_met(t: &Tested) {
    let store = &*t.store;
    for n in 0..200 {
        sign_in(store, n, ann().into()).await.unwrap();
    }
    let mut met = std::collections::BTreeSet::new();
    let mut cursor = None;
    loop {
        let page = store.owned(ann(), cursor, 3).await.unwrap();
        met.extend(page.sessions.iter().map(|session| session.key));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
        // Somebody who was not met yet changes the name of the device.
        if let Some(n) = (0..200).find(|n| !met.contains(&key(*n))) {
            let label = Label::new(&format!("{n}")).unwrap();
            assert!(store.bind_as(key(n), Some(Binding::to(ann()).labelled(label))).await.unwrap());
        }
    }
    let missed: Vec<_> = (0..200).filter(|n| !met.contains(&key(*n))).collect();
    assert!(missed.is_empty(), "{missed:?} were theirs through the whole walk");
}

async fn create_that_meets_a_live_session_evicts_nobody_however_low_the_cap(t: &Tested) {
    let store = &*t.store;
    for n in 0..40 {
        sign_in(store, n, ann().into()).await.unwrap();
    }
    let one = Binding::to(ann()).at_most(1, AtCap::EvictOldest);
    assert!(matches!(sign_in(store, 39, one).await, Err(Error::AlreadyExists)));
    assert_eq!(store.owned_count(ann()).await.unwrap(), 40);
}

async fn walk_of_all_keys_meets_a_session_that_is_bound_meanwhile(t: &Tested) {
    let store = &*t.store;
    for n in 0..200 {
        store.create_as(key(n), "x".into(), DAY).await.unwrap();
    }
    let mut met = std::collections::BTreeSet::new();
    let mut cursor = None;
    loop {
        let page = store.keys(cursor, 3).await.unwrap();
        met.extend(page.keys);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
        if let Some(n) = (0..200).find(|n| !met.contains(&key(*n))) {
            assert!(store.bind(key(n), Some(ann())).await.unwrap());
        }
    }
    assert_eq!(met.len(), 200);
}

#[test]
fn lowered_cap_ends_no_more_than_are_too_many_when_others_end_meanwhile() {
    let (options, clock) = options();
    let options = Options { unwritten_bytes_max: 64 << 10, ..options };
    let store = open(&SimDisk::new(1), &options).at(Durability::Buffered);
    for n in 0..20 {
        let lifetime = if n < 16 { DAY } else { Lifetime::absolute(HOUR) };
        create_owned(&store, n, lifetime, ann().into()).unwrap().unwrap();
        clock.advance(Duration::from_secs(1));
    }
    (0..10).for_each(|_| store.step());
    // Somebody else has all the room there is.
    let mut others = Vec::new();
    for n in 100..160 {
        let mut other = Box::pin(store.create_as(key(n), vec![1; 3_000].into(), DAY));
        if poll(&mut other.as_mut()).is_none() {
            others.push(other);
        }
    }
    let three = Binding::to(ann()).at_most(3, AtCap::EvictOldest);
    let mut waits = pin!(store.create_owned_as(key(50), "x".into(), DAY, three));
    assert!(poll(&mut waits).is_none());
    clock.advance(HOUR);
    assert_eq!(count(&store), 16);
    drop(others);
    for _ in 0..100 {
        store.step();
        if let Some(done) = poll(&mut waits) {
            done.unwrap();
            break;
        }
    }
    assert!(there(&store, 50));
    assert_eq!(count(&store), 3, "as many as it takes, and no more");
}

#[test]
fn lowered_cap_ends_more_than_one_turn_has_room_for() {
    // The less of both is what there is room for: unwritten bytes, and half a segment.
    for (unwritten_bytes_max, segment_kib) in [(64 << 10, 64), (1 << 20, 64), (1 << 20, 96)] {
        let (options, clock) = options();
        let options = Options { unwritten_bytes_max, segment_bytes: segment_kib << 10, ..options };
        let store = open(&SimDisk::new(1), &options);
        for n in 0..400 {
            run(&store, store.create_owned_as(key(n), "x".into(), DAY, ann().into())).unwrap().unwrap();
            clock.advance(Duration::from_secs(1));
        }
        let three = Binding::to(ann()).at_most(3, AtCap::EvictOldest);
        let long = vec![1; 4_096].into();
        run(&store, store.create_owned_as(key(400), long, DAY, three)).unwrap().unwrap();
        assert_eq!((count(&store), store.stats().evicted), (3, 398));
        assert!((398..=400).all(|n| there(&store, n)));
    }
}

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn open_at(disk: &SimDisk, wall: Timestamp) -> LogStore {
    let clock = Arc::new(ManualClock::at(wall)) as Arc<dyn Clock>;
    let options = Options { segment_bytes: 64 << 10, payload_bytes_max: 4_096, clock, ..Options::default() };
    LogStore::open_by_hand(Arc::new(disk.clone()), options).unwrap()
}

#[test]
fn cap_that_evicts_holds_when_a_wild_step_forward_is_withdrawn() {
    for then in [AtCap::EvictOldest, AtCap::EvictIdle] {
        let disk = SimDisk::new(1);
        let two = Binding::to(ann()).at_most(2, then);
        let store = open_at(&disk, START);
        create_owned(&store, 1, Lifetime::absolute(1_000 * HOUR), two.clone()).unwrap().unwrap();
        create_owned(&store, 2, Lifetime::absolute(48 * HOUR), two.clone()).unwrap().unwrap();
        run(&store, store.close()).unwrap().unwrap();
        let store = open_at(&disk, START.saturating_add(7 * 24 * HOUR));
        create_owned(&store, 3, DAY, two.clone()).unwrap().unwrap();
        assert!(there(&store, 1), "who is live by any time does not give way to who is live by none");
        run(&store, store.close()).unwrap().unwrap();
        let store = open_at(&disk, START.saturating_add(HOUR));
        assert_eq!(count(&store), 2, "{then:?}");
        assert!(there(&store, 1) && there(&store, 3));
    }
}

#[test]
fn delete_of_a_revoked_session_in_doubt_is_told_as_a_revocation() {
    let disk = SimDisk::new(1);
    let store = open_at(&disk, START);
    create_owned(&store, 1, DAY, ann().into()).unwrap().unwrap();
    run(&store, store.create_as(SessionKey::of(b"other"), "x".into(), DAY)).unwrap().unwrap();
    run(&store, store.close()).unwrap().unwrap();
    let store = open_at(&disk, START.saturating_add(7 * 24 * HOUR)).at(Durability::Buffered);
    create_owned(&store, 2, DAY, ann().into()).unwrap().unwrap();
    let mut events = store.events();
    now(store.revoke(Whose::Owner(ann()), None)).unwrap();
    assert!(!now(store.delete(key(2))).unwrap());
    assert_eq!(told_now(&mut events), [Event::Deleted { key: key(2), why: Why::Revoked }]);
}
