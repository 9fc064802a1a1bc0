//! A start far ahead of the last time the store wrote down: a wall clock that is wrong, or a server that was down for long.
//!
//! Goal: by such a time nothing is done that cannot be taken back. Method: a store without threads on the simulated disk, the wall moved
//! between two opens.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, Clock, Durability, Lifetime, LogStore, ManualClock, Options, SessionKey, SessionStore, Timestamp,
};

use crate::support::life::drive as run;

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3_600);
const HOUR: Duration = Duration::from_secs(3_600);

/// Opens the store as a machine does whose wall shows `wall`; gives the clock too.
fn open_at(disk: &SimDisk, wall: Timestamp) -> (LogStore, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(wall));
    let source = Arc::clone(&clock) as Arc<dyn Clock>;
    let options =
        Options { segment_bytes: 64 << 10, payload_bytes_max: 4_096, clock: source, ..Options::default() };
    (LogStore::open_by_hand(Arc::new(disk.clone()), options).unwrap(), clock)
}

fn there(store: &LogStore, key: SessionKey) -> bool {
    run(store, store.get(key, Access::Peek)).unwrap().unwrap().is_some()
}

fn close(store: &LogStore) {
    run(store, store.close()).unwrap().unwrap();
}

/// A store with two sessions of two days, closed.
fn with_two_sessions() -> (SimDisk, SessionKey, SessionKey) {
    let (disk, kept, deleted) = (SimDisk::new(1), SessionKey::of(b"kept"), SessionKey::of(b"deleted"));
    let (store, _) = open_at(&disk, START);
    for key in [kept, deleted] {
        let created = store.create_as(key, "x".into(), Lifetime::absolute(48 * HOUR));
        run(&store, created).unwrap().unwrap();
    }
    close(&store);
    (disk, kept, deleted)
}

#[test]
fn wild_step_forward_that_is_withdrawn_gives_back_what_only_it_had_expired() {
    let (disk, kept, deleted) = with_two_sessions();
    let (store, clock) = open_at(&disk, START.saturating_add(WEEK));
    assert!(!there(&store, kept), "expired by the time that the store shows");
    clock.advance(HOUR / 2);
    (0..20).for_each(|_| store.step());
    assert!(!run(&store, store.delete(deleted)).unwrap().unwrap(), "it was not live");
    close(&store);

    let (store, _) = open_at(&disk, START.saturating_add(HOUR));
    assert!(there(&store, kept), "the step was withdrawn");
    assert!(!there(&store, deleted), "who was signed out stays so");
    close(&store);
}

#[test]
fn step_forward_that_stays_is_believed_after_an_hour() {
    let (disk, kept, _) = with_two_sessions();
    let (store, clock) = open_at(&disk, START.saturating_add(WEEK));
    clock.advance(HOUR);
    (0..20).for_each(|_| store.step());
    assert_eq!(store.len(), 0);
    close(&store);

    let (store, _) = open_at(&disk, START.saturating_add(HOUR));
    assert!(!there(&store, kept), "expired for good: the mark was raised");
    close(&store);
}

#[test]
fn doubt_lasts_an_hour_from_when_such_a_time_was_first_shown() {
    let (disk, kept, _) = with_two_sessions();
    let week = START.saturating_add(WEEK);
    for (nth, at) in [Duration::ZERO, HOUR * 2 / 3].into_iter().enumerate() {
        let (store, clock) = open_at(&disk, week.saturating_add(at));
        clock.advance(HOUR * 2 / 5);
        (0..20).for_each(|_| store.step());
        close(&store);
        let (store, _) = open_at(&disk.copy(nth as u64), START.saturating_add(HOUR));
        assert_eq!(
            there(&store, kept),
            nth == 0,
            "start {nth}: two thirds and two fifths are more than an hour"
        );
    }
}

#[test]
fn delete_by_a_doubtful_time_hides_all_that_the_right_time_would_revive() {
    let (disk, key) = (SimDisk::new(1), SessionKey::of(b"shortened"));
    let (store, _) = open_at(&disk, START);
    // The first record lives for five days; what shortens it, and its delete, lie in later segments.
    run(&store, store.create_as(key, "x".into(), Lifetime::absolute(120 * HOUR))).unwrap().unwrap();
    fill(&store, "a", 120 * HOUR);
    fill(&store, "b", 4 * HOUR);
    run(&store, store.set_lifetime(key, Lifetime::absolute(48 * HOUR))).unwrap().unwrap();
    fill(&store, "c", 4 * HOUR);
    close(&store);

    let (store, _) = open_at(&disk, START.saturating_add(WEEK));
    assert!(!run(&store, store.delete(key)).unwrap().unwrap(), "it was not live");
    close(&store);

    // The step was withdrawn. When the shortened lifetime is over, segments are compacted; the first one stays.
    let (store, clock) = open_at(&disk, START.saturating_add(HOUR));
    assert!(!there(&store, key));
    clock.advance(23 * HOUR);
    (0..50).for_each(|_| store.step());
    close(&store);
    let (store, clock) = open_at(&disk, START.saturating_add(25 * HOUR));
    clock.advance(24 * HOUR);
    (0..50).for_each(|_| store.step());
    close(&store);
    let (store, _) = open_at(&disk, START.saturating_add(50 * HOUR));
    assert!(!there(&store, key), "who was signed out came back");
    close(&store);
}

#[test]
fn compaction_by_a_doubtful_time_keeps_what_only_that_has_ended() {
    let (disk, key) = (SimDisk::new(1), SessionKey::of(b"deleted"));
    let (store, _) = open_at(&disk, START);
    // The record stays among others that live on. Its tombstone lies among what is dead already.
    run(&store, store.create_as(key, "x".into(), Lifetime::absolute(48 * HOUR))).unwrap().unwrap();
    fill(&store, "a", 120 * HOUR);
    fill(&store, "b", 24 * HOUR);
    assert!(run(&store, store.delete(key)).unwrap().unwrap());
    for n in 0..60 {
        let key = SessionKey::of(format!("b{n}").as_bytes());
        assert!(run(&store.at(Durability::Buffered), store.delete(key)).unwrap().unwrap());
    }
    close(&store);

    let (store, _) = open_at(&disk, START.saturating_add(WEEK));
    (0..20).for_each(|_| store.step());
    assert!(store.stats().compacted_bytes > 0, "there was something to do");
    close(&store);

    let (store, _) = open_at(&disk, START.saturating_add(HOUR));
    assert!(!there(&store, key), "who was signed out came back");
    assert!((0..60).all(|n| there(&store, SessionKey::of(format!("a{n}").as_bytes()))));
    close(&store);
}

/// A server that is up for twenty minutes every second day: no start of it is believed while it lasts.
#[test]
fn store_that_is_never_up_for_an_hour_lets_go_of_who_has_ended() {
    let disk = SimDisk::new(1);
    let days = |n: u32| START.saturating_add(24 * HOUR * n);
    for n in 0..8 {
        let (store, clock) = open_at(&disk, days(2 * n));
        fill(&store, &format!("{n} "), HOUR);
        (0..20).for_each(|_| store.step());
        clock.advance(HOUR / 3);
        (0..20).for_each(|_| store.step());
        let stats = store.stats();
        assert!(stats.sessions <= 3 * 60, "in round {n}: {stats:?}");
        assert!(disk.used_bytes() < 1 << 20, "in round {n}: {stats:?}");
        close(&store);
    }
    let (store, _) = open_at(&disk, START);
    // The last two starts are not borne out.
    let is_back = |key: &&String| there(&store, SessionKey::of(key.as_bytes()));
    let all: Vec<_> = (0..6).flat_map(|n| (0..60).map(move |m| format!("{n} {m}"))).collect();
    assert_eq!(all.iter().find(is_back), None, "the wall stepped back, and who had ended came back");
}

/// Some segments' worth of sessions.
fn fill(store: &LogStore, name: &str, lifetime: Duration) {
    for n in 0..60 {
        let key = SessionKey::of(format!("{name}{n}").as_bytes());
        let created = store.create_as(key, vec![7; 3_000].into(), Lifetime::absolute(lifetime));
        run(store, created).unwrap().unwrap();
    }
}
