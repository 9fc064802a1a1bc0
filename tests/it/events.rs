//! What is told of sessions as it happens.
//!
//! Goal: to refute that whoever listens learns of every begin, move and end, once, in order and soon; that a slow listener is told how much it missed; and
//! that listening changes nothing else. Method: the contract on every store; a simulated disk for the moments between an end and its sweep; threads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, AtCap, Binding, Durability, Event, Events, Lifetime, LogStore, MemoryStore, Missed, OwnerKey,
    SessionKey, SessionStore, When, Whose, Why,
};

use crate::failures::full::at_once;
use crate::owned::{ann, key, options};
use crate::stores::{Tested, defaults, for_every_store};
use crate::support::life::drive as run;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Lifetime = Lifetime::idle(Duration::from_secs(86_400));

for_every_store!(
    every_begin_move_and_end_is_told_once_and_in_order,
    what_changes_no_session_is_not_told,
    expiry_is_told_within_a_second_though_nobody_uses_the_store,
    each_of_an_owners_revoked_sessions_is_told,
    who_gives_way_is_told_before_who_takes_its_place,
    key_that_begins_anew_is_told_to_have_ended_first,
    slow_listener_is_told_how_much_it_missed,
    two_listeners_hear_the_same_and_one_that_comes_later_hears_what_comes_later,
    listener_hears_the_end_of_the_store,
);

/// The next event; a store that does not tell it within ten seconds never will.
async fn next(events: &mut Events) -> Option<Result<Event, Missed>> {
    tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap()
}

async fn assert_told(events: &mut Events, expected: &[Event]) {
    for event in expected {
        assert_eq!(next(events).await, Some(Ok(*event)));
    }
}

fn deleted(n: u32, why: Why) -> Event {
    Event::Deleted { key: key(n), why }
}

async fn every_begin_move_and_end_is_told_once_and_in_order(t: &Tested) {
    let (store, mut events) = (&*t.store, t.store.events());
    store.create_as(key(1), "x".into(), DAY).await.unwrap();
    store.upsert(key(2), "x".into(), DAY).await.unwrap();
    store.create_owned_as(key(3), "x".into(), DAY, ann().into()).await.unwrap();
    let moved = store.rotate(key(1)).await.unwrap().unwrap();
    assert!(store.delete(key(2)).await.unwrap());
    let made = store.create("x".into(), DAY).await.unwrap();
    let created = |n| Event::Created { key: key(n) };
    let rotated = Event::Rotated { from: key(1), to: moved.key() };
    let last = Event::Created { key: made.key() };
    let all = [created(1), created(2), created(3), rotated, deleted(2, Why::Asked), last];
    assert_told(&mut events, &all).await;
}

async fn what_changes_no_session_is_not_told(t: &Tested) {
    let store = &*t.store;
    store.create_as(key(1), "x".into(), DAY).await.unwrap();
    let mut events = store.events();
    store.put(key(1), "y".into()).await.unwrap().unwrap();
    store.upsert(key(1), "z".into(), DAY).await.unwrap();
    assert!(store.create_as(key(1), "x".into(), DAY).await.is_err());
    assert!(store.bind(key(1), Some(ann())).await.unwrap());
    assert!(store.touch(key(1)).await.unwrap());
    assert!(store.set_lifetime(key(1), DAY).await.unwrap());
    assert!(!store.delete(key(9)).await.unwrap());
    assert_eq!(store.put(key(9), "x".into()).await.unwrap(), None);
    assert!(store.rotate(key(9)).await.unwrap().is_none());
    store.revoke(Whose::Owner(OwnerKey::of(b"bob")), None).await.unwrap();
    let too_long = vec![0; 5_000].into();
    assert!(store.write(key(8), too_long, When::Absent(DAY)).await.is_err());
    store.create_as(key(2), "x".into(), DAY).await.unwrap();
    assert_told(&mut events, &[Event::Created { key: key(2) }]).await;
}

async fn expiry_is_told_within_a_second_though_nobody_uses_the_store(t: &Tested) {
    let store = &*t.store;
    let minutes = |n: u32| Lifetime::absolute(n * Duration::from_secs(60));
    for n in 1..=3 {
        store.create_as(key(n), "x".into(), minutes(n)).await.unwrap();
    }
    let mut events = store.events();
    for n in 1..=3 {
        // Not before the deadline, and the clock of the store is at most a second behind it when it is told.
        t.pass_until(store.get(key(n), Access::Peek).await.unwrap().unwrap().expires_at);
        assert!(store.get(key(n), Access::Peek).await.unwrap().is_none());
        t.pass(Duration::from_secs(1));
        assert_told(&mut events, &[Event::Expired { key: key(n) }]).await;
    }
}

async fn each_of_an_owners_revoked_sessions_is_told(t: &Tested) {
    let (store, mut events) = (&*t.store, t.store.events());
    let numbers = 0..40;
    for n in numbers.clone() {
        let owner = if n % 4 == 0 { OwnerKey::of(b"bob") } else { ann() };
        store.create_owned_as(key(n), "x".into(), DAY, owner.into()).await.unwrap();
        assert_told(&mut events, &[Event::Created { key: key(n) }]).await;
    }
    store.revoke(Whose::Owner(ann()), Some(key(7))).await.unwrap();
    let expected: BTreeSet<_> = numbers.filter(|n| n % 4 != 0 && *n != 7).map(key).collect();
    let mut told = BTreeSet::new();
    for _ in 0..expected.len() {
        match next(&mut events).await {
            Some(Ok(Event::Deleted { key, why: Why::Revoked })) => assert!(told.insert(key), "told twice"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, expected);
    assert!(store.delete(key(7)).await.unwrap());
    assert_told(&mut events, &[deleted(7, Why::Asked)]).await;
}

async fn who_gives_way_is_told_before_who_takes_its_place(t: &Tested) {
    let (store, mut events) = (&*t.store, t.store.events());
    let one = Binding::to(ann()).at_most(1, AtCap::EvictOldest);
    store.create_owned_as(key(1), "x".into(), DAY, one.clone()).await.unwrap();
    store.create_owned_as(key(2), "x".into(), DAY, one.clone()).await.unwrap();
    store.create_as(key(3), "x".into(), DAY).await.unwrap();
    assert!(store.bind_as(key(3), Some(one)).await.unwrap());
    let created = |n| Event::Created { key: key(n) };
    let all = [created(1), deleted(1, Why::Evicted), created(2), created(3), deleted(2, Why::Evicted)];
    assert_told(&mut events, &all).await;
}

async fn key_that_begins_anew_is_told_to_have_ended_first(t: &Tested) {
    let (store, mut events) = (&*t.store, t.store.events());
    store.create_as(key(1), "x".into(), Lifetime::absolute(HOUR)).await.unwrap();
    store.create_as(key(2), "x".into(), Lifetime::absolute(HOUR)).await.unwrap();
    store.create_owned_as(key(3), "x".into(), DAY, ann().into()).await.unwrap();
    store.create_owned_as(key(4), "x".into(), DAY, ann().into()).await.unwrap();
    for n in 1..=4 {
        assert_told(&mut events, &[Event::Created { key: key(n) }]).await;
    }
    t.pass(HOUR);
    store.revoke(Whose::Owner(ann()), None).await.unwrap();
    store.upsert(key(1), "y".into(), DAY).await.unwrap();
    store.create_owned_as(key(2), "y".into(), DAY, ann().into()).await.unwrap();
    store.create_as(key(3), "y".into(), DAY).await.unwrap();
    store.create_owned_as(key(4), "y".into(), DAY, ann().into()).await.unwrap();
    // Whether the sweep or the new session was first, each key ended and then began, for the reason that holds.
    let mut told = BTreeMap::<SessionKey, Vec<Event>>::new();
    for _ in 0..8 {
        let event = next(&mut events).await.unwrap().unwrap();
        let (Event::Created { key } | Event::Deleted { key, .. } | Event::Expired { key }) = event else {
            panic!("{event:?}")
        };
        told.entry(key).or_default().push(event);
    }
    for n in 1..=4 {
        let end = if n <= 2 { Event::Expired { key: key(n) } } else { deleted(n, Why::Revoked) };
        assert_eq!(told[&key(n)], [end, Event::Created { key: key(n) }], "session {n}");
        assert!(store.get(key(n), Access::Peek).await.unwrap().is_some());
    }
}

async fn slow_listener_is_told_how_much_it_missed(t: &Tested) {
    let (store, mut events) = (&*t.store, t.store.events());
    let all = [Event::Created { key: key(1) }, Event::Expired { key: key(1) }];
    // One session after another under one key: each begin tells that the one before has ended, if no sweep has.
    for n in 0..3_000 {
        if n > 0 {
            t.pass(Duration::from_secs(60));
        }
        store.upsert(key(1), "x".into(), Lifetime::absolute(Duration::from_secs(60))).await.unwrap();
    }
    let missed = 2 * 3_000 - 1 - 4_096;
    assert_eq!(next(&mut events).await, Some(Err(Missed(missed))));
    for n in missed..2 * 3_000 - 1 {
        assert_told(&mut events, &all[usize::from(n % 2 == 1)..][..1]).await;
    }
}

async fn two_listeners_hear_the_same_and_one_that_comes_later_hears_what_comes_later(t: &Tested) {
    let store = &*t.store;
    let (mut first, mut second) = (store.events(), store.events());
    store.create_as(key(1), "x".into(), DAY).await.unwrap();
    let mut late = store.events();
    drop(first);
    store.create_as(key(2), "x".into(), DAY).await.unwrap();
    let created = |n| Event::Created { key: key(n) };
    assert_told(&mut second, &[created(1), created(2)]).await;
    assert_told(&mut late, &[created(2)]).await;
    drop((second, late));
    // Nobody listens for a while, and then somebody does.
    store.create_as(key(3), "x".into(), DAY).await.unwrap();
    first = store.events();
    store.create_as(key(4), "x".into(), DAY).await.unwrap();
    assert_told(&mut first, &[created(4)]).await;
}

async fn listener_hears_the_end_of_the_store(t: &Tested) {
    let (store, mut events) = (&*t.store, t.store.events());
    store.create_as(key(1), "x".into(), DAY).await.unwrap();
    store.close().await.unwrap();
    assert_told(&mut events, &[Event::Created { key: key(1) }]).await;
    assert_eq!(next(&mut events).await, None);
    assert_eq!(next(&mut store.events()).await, None);
}

#[tokio::test]
async fn store_in_memory_that_is_dropped_is_told_as_an_end() {
    let store = MemoryStore::new();
    let mut events = store.events();
    drop(store);
    assert_eq!(next(&mut events).await, None);
}

fn told_now(events: &mut Events, store: &LogStore) -> Vec<Event> {
    let mut told = Vec::new();
    while let Some(Some(Ok(event))) = run(store, events.next()) {
        told.push(event);
    }
    told
}

/// The keys are read from records that may lie in memory, in a segment that is gone by then, or behind a tombstone that an older version needs.
#[test]
fn ended_sessions_are_told_wherever_their_records_lie_and_whoever_listens_changes_nothing_else() {
    let run_through = |listens: bool| {
        let (options, clock) = options();
        let disk = SimDisk::new(1);
        let store = LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()).unwrap();
        let store = store.at(Durability::Buffered);
        let mut events = listens.then(|| store.events());
        for n in 0..200_u32 {
            let hours = if n % 7 == 0 { 1_000 } else { 1 + n % 3 };
            let lifetime = Lifetime::absolute(hours * HOUR);
            run(&store, store.create_as(key(n), vec![1; 1_500].into(), lifetime)).unwrap().unwrap();
            if n % 14 == 0 {
                // An older version on disk outlives it.
                let shorter = Lifetime::absolute(2 * HOUR);
                assert!(run(&store, store.set_lifetime(key(n), shorter)).unwrap().unwrap());
            }
            if n % 10 == 0 {
                store.step();
            }
        }
        let ended_after = |hours: u32| {
            (0..200_u32)
                .filter(|n| if n % 14 == 0 { hours == 2 } else { n % 7 != 0 && 1 + n % 3 == hours })
                .map(key)
                .collect::<BTreeSet<_>>()
        };
        for hours in 1..=3 {
            if let Some(events) = &mut events {
                told_now(events, &store);
            }
            clock.advance(HOUR);
            (0..30).for_each(|_| store.step());
            if let Some(events) = &mut events {
                let told: Vec<_> = told_now(events, &store)
                    .into_iter()
                    .map(|event| if let Event::Expired { key } = event { key } else { panic!("{event:?}") })
                    .collect();
                assert_eq!(told.len(), ended_after(hours).len(), "after {hours} hours");
                assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), ended_after(hours));
            }
        }
        let stats = store.stats();
        run(&store, store.close()).unwrap().unwrap();
        (stats.sessions, stats.expired, stats.live_bytes, stats.records)
    };
    assert_eq!(run_through(true), run_through(false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_keys_that_threads_create_move_and_end_each_is_told_in_order() {
    for store in [None, Some(tempfile::tempdir().unwrap())] {
        let store: Arc<dyn SessionStore> = match &store {
            None => Arc::new(MemoryStore::new()),
            Some(folder) => {
                let store = LogStore::open(folder.path(), defaults()).await.unwrap();
                Arc::new(store.at(Durability::Buffered))
            }
        };
        let mut events = store.events();
        let listener = tokio::spawn(async move {
            let mut live = BTreeSet::new();
            let mut ends = 0;
            while let Some(told) = events.next().await {
                match told.unwrap() {
                    Event::Created { key } => assert!(live.insert(key), "began twice"),
                    Event::Rotated { from, to } => assert!(live.remove(&from) && live.insert(to)),
                    Event::Deleted { key, .. } | Event::Expired { key } => {
                        assert!(live.remove(&key), "ended twice, or before it began");
                        ends += 1;
                    }
                    event => panic!("{event:?}"),
                }
            }
            (live, ends)
        });
        let tasks: Vec<_> = (0..8_u32)
            .map(|task| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for round in 0..150_u32 {
                        // The same few keys again and again, some of which end by themselves or with their owner.
                        let key = key(task % 4 * 10 + round % 10);
                        let lifetime = Lifetime::absolute(Duration::from_millis(u64::from(1 + round % 40)));
                        store
                            .upsert(key, "x".into(), if round % 3 == 0 { DAY } else { lifetime })
                            .await
                            .unwrap();
                        match round % 5 {
                            0 => drop(store.delete(key).await.unwrap()),
                            1 => drop(store.rotate(key).await.unwrap()),
                            2 => drop(store.bind(key, Some(ann())).await.unwrap()),
                            3 if round % 15 == 3 => store.revoke(Whose::Owner(ann()), None).await.unwrap(),
                            _ => tokio::task::yield_now().await,
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        store.revoke(Whose::Everybody, None).await.unwrap();
        tokio::time::timeout(Duration::from_secs(20), async {
            // The sessions that end by themselves do so; the others stay.
            while store.stats().expired == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(Duration::from_millis(600)).await;
        })
        .await
        .unwrap();
        let mut left = BTreeSet::from_iter(store.keys(None, 1_000).await.unwrap().keys);
        store.close().await.unwrap();
        let (live, ends) = listener.await.unwrap();
        left.retain(|key| !live.contains(key));
        assert!(left.is_empty(), "{left:?} are there and were not told");
        assert!(ends > 100, "{ends} ends");
    }
}

/// Each counter moves with what it counts, and with nothing else.
#[test]
fn stats_count_what_was_done() {
    let (options, clock) = options();
    let store = LogStore::open_by_hand(Arc::new(SimDisk::new(1)), options).unwrap().at(Durability::Sync);
    let start = store.stats();
    for n in 0..4 {
        let lifetime = Lifetime::idle(HOUR);
        run(&store, store.upsert(key(n), vec![1; 100].into(), lifetime)).unwrap().unwrap();
    }
    let put = store.stats();
    assert_eq!((put.sessions, put.records, put.groups - start.groups, put.syncs - start.syncs), (4, 4, 4, 4));
    assert_eq!(put.live_bytes, put.record_bytes);
    let touch = |n| run(&store, store.touch(key(n))).unwrap().unwrap();
    assert!(touch(0));
    clock.advance(HOUR / 2);
    assert!(touch(0) && !touch(9));
    let touched = store.stats();
    assert_eq!((touched.touches, touched.touches_logged, touched.records), (2, 1, 5));
    assert!(run(&store, store.delete(key(1))).unwrap().unwrap());
    clock.advance(54 * HOUR / 60);
    (0..5).for_each(|_| store.step());
    let ended = store.stats();
    assert_eq!((ended.sessions, ended.expired, ended.revoked, ended.evicted), (1, 2, 0, 0));
    assert_eq!((ended.touches, ended.records, ended.segments), (2, 6, 1));
    assert!(ended.index_bytes > 0 && ended.log_bytes >= ended.live_bytes, "{ended:?}");
}

#[test]
fn session_that_begins_anew_before_the_sweep_is_told_to_have_expired_first() {
    let (options, clock) = options();
    let store = LogStore::open_by_hand(Arc::new(SimDisk::new(1)), options).unwrap().at(Durability::Buffered);
    let mut events = store.events();
    let create = || at_once(store.create_as(key(1), "x".into(), Lifetime::absolute(HOUR)));
    assert!(create());
    clock.advance(HOUR);
    assert!(create());
    let key = key(1);
    for told in [Event::Created { key }, Event::Expired { key }, Event::Created { key }] {
        assert_eq!(run(&store, events.next()).unwrap(), Some(Ok(told)));
    }
}
