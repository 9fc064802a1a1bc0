//! The contract of `SessionStore` as time passes, for every store: exact at the instant of reading (P5), never early (P4), gone for
//! good (P2). Each test moves a clock by hand.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{Access, Durability, Error, Lifetime, LogStore, SessionKey, SessionStore, Stored, Timestamp};

use crate::owned::{key, options};
use crate::stores::{SESSIONS_MAX, Tested, eventually, for_every_store};
use crate::support::life::drive as run;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// An idle period whose sixteenth, the grain, is 10 s.
const IDLE: Duration = Duration::from_secs(160);
const GRAIN: Duration = Duration::from_secs(10);
const IDLE_BUT_A_MS: Duration = Duration::from_millis(159_999);

for_every_store! {
    a_session_is_there_until_its_deadline_and_not_at_it,
    an_expired_session_is_absent_to_every_operation,
    an_exact_session_ends_a_whole_idle_period_after_its_last_touch,
    an_absolute_deadline_is_moved_by_nothing,
    an_absolute_deadline_caps_the_idle_period,
    touches_are_coalesced_and_no_session_ends_early,
    only_touches_and_writes_start_the_idle_period_anew,
    an_expired_key_can_be_used_again,
    set_lifetime_lengthens_and_shortens,
    upsert_begins_its_lifetime,
    a_rotated_session_keeps_its_deadlines,
    the_expired_are_counted_and_make_room,
    a_walk_meets_the_living_and_never_the_expired,
    a_wall_clock_that_steps_moves_no_deadline,
}

async fn peek(store: &dyn SessionStore, key: SessionKey) -> Option<Stored> {
    store.get(key, Access::Peek).await.unwrap()
}

async fn create(t: &Tested, lifetime: Lifetime) -> (SessionKey, Timestamp) {
    let key = t.store.create("x".into(), lifetime).await.unwrap().key();
    (key, peek(&*t.store, key).await.unwrap().expires_at)
}

/// The session is live one millisecond before this instant and absent at it.
async fn assert_ends_at(t: &Tested, key: SessionKey, instant: Timestamp) {
    t.pass_until(Timestamp::from_millis(instant.as_millis() - 1));
    assert!(peek(&*t.store, key).await.is_some(), "ended before {instant:?}");
    t.pass(MS);
    assert_eq!(peek(&*t.store, key).await, None, "still there at {instant:?}");
}

async fn a_session_is_there_until_its_deadline_and_not_at_it(t: &Tested) {
    for lifetime in [
        Lifetime::idle(IDLE),
        Lifetime::idle(IDLE).exact(),
        Lifetime::absolute(IDLE),
        Lifetime::absolute(MS),
        Lifetime::idle(MS).exact(),
        Lifetime::idle(IDLE).and_absolute(2 * IDLE),
        Lifetime::idle(Duration::from_secs(365 * 86_400)),
    ] {
        let (key, expires_at) = create(t, lifetime).await;
        assert_ends_at(t, key, expires_at).await;
    }
}

async fn an_expired_session_is_absent_to_every_operation(t: &Tested) {
    // One session for each operation, so that none of them meets what another already cleared away.
    let mut keys = Vec::new();
    for _ in 0..8 {
        keys.push(create(t, Lifetime::absolute(SECOND)).await.0);
    }
    let version = peek(&*t.store, keys[0]).await.unwrap().version;
    // What expires before them keeps a sweep busy, so that it is each operation itself that looks at the deadline.
    for _ in 0..400 {
        create(t, Lifetime::absolute(SECOND / 2)).await;
    }
    t.pass(SECOND);
    let never = &mut |_: &Stored| panic!("there is nothing to change");
    assert!(t.store.keys(None, 100).await.unwrap().keys.is_empty());
    assert_eq!(t.store.put_if(keys[0], "late".into(), version).await.unwrap(), None);
    assert_eq!(t.store.get(keys[1], Access::Touch).await.unwrap(), None);
    assert_eq!(t.store.put(keys[2], "late".into()).await.unwrap(), None);
    assert_eq!(t.store.update(keys[3], never).await.unwrap(), None);
    assert!(!t.store.touch(keys[4]).await.unwrap());
    assert!(!t.store.set_lifetime(keys[5], Lifetime::idle(IDLE)).await.unwrap());
    assert_eq!(t.store.rotate(keys[6]).await.unwrap(), None);
    assert!(!t.store.delete(keys[7]).await.unwrap());
    for key in keys {
        assert_eq!(peek(&*t.store, key).await, None);
    }
    assert_eq!(t.store.stats().touches, 0);
}

async fn an_exact_session_ends_a_whole_idle_period_after_its_last_touch(t: &Tested) {
    let (key, expires_at) = create(t, Lifetime::idle(IDLE).exact()).await;
    assert_eq!(expires_at, t.now().saturating_add(IDLE));
    for step in [MS, SECOND, IDLE_BUT_A_MS, Duration::from_millis(12_345)] {
        t.pass(step);
        assert!(t.store.touch(key).await.unwrap());
        let stored = peek(&*t.store, key).await.unwrap();
        assert_eq!(stored.expires_at, t.now().saturating_add(IDLE));
    }
    assert_eq!(t.store.stats().touches_logged, 4);
    assert_ends_at(t, key, t.now().saturating_add(IDLE)).await;
}

async fn an_absolute_deadline_is_moved_by_nothing(t: &Tested) {
    let (key, expires_at) = create(t, Lifetime::absolute(IDLE)).await;
    assert_eq!(expires_at, t.now().saturating_add(IDLE));
    t.pass(IDLE / 2);
    assert!(t.store.touch(key).await.unwrap());
    t.store.get(key, Access::Touch).await.unwrap().unwrap();
    t.store.put(key, "y".into()).await.unwrap().unwrap();
    assert_eq!((t.store.stats().touches, t.store.stats().touches_logged), (2, 0));
    assert_ends_at(t, key, expires_at).await;
}

async fn an_absolute_deadline_caps_the_idle_period(t: &Tested) {
    let (key, _) = create(t, Lifetime::idle(IDLE).and_absolute(2 * IDLE)).await;
    let end = t.now().saturating_add(2 * IDLE);
    for _ in 0..3 {
        t.pass(IDLE / 2);
        assert!(t.store.touch(key).await.unwrap());
    }
    assert_eq!(peek(&*t.store, key).await.unwrap().expires_at, end);
    assert_ends_at(t, key, end).await;
}

async fn touches_are_coalesced_and_no_session_ends_early(t: &Tested) {
    let (key, expires_at) = create(t, Lifetime::idle(IDLE)).await;
    assert_eq!(expires_at, t.now().saturating_add(IDLE + GRAIN));
    for touches in 1..=600 {
        t.pass(SECOND);
        assert!(t.store.touch(key).await.unwrap());
        let left = peek(&*t.store, key).await.unwrap().expires_at.saturating_since(t.now());
        assert!((IDLE..=IDLE + GRAIN).contains(&left), "{left:?} left after {touches} touches");
    }
    // A deadline that moved covers the touches of the next 10 s, so that one in 11 moves it.
    assert_eq!((t.store.stats().touches, t.store.stats().touches_logged), (600, 600 / 11));
    let last = peek(&*t.store, key).await.unwrap().expires_at;
    assert_ends_at(t, key, last).await;
}

async fn only_touches_and_writes_start_the_idle_period_anew(t: &Tested) {
    let lifetime = Lifetime::idle(IDLE).exact();
    let (peeked, end) = create(t, lifetime).await;
    let (read, written, swapped, touched) = (
        create(t, lifetime).await.0,
        create(t, lifetime).await.0,
        create(t, lifetime).await.0,
        create(t, lifetime).await.0,
    );
    t.pass(IDLE / 2);
    t.store.get(read, Access::Touch).await.unwrap().unwrap();
    t.store.put(written, "y".into()).await.unwrap().unwrap();
    let version = peek(&*t.store, swapped).await.unwrap().version;
    t.store.put_if(swapped, "y".into(), version).await.unwrap().unwrap();
    assert!(t.store.touch(touched).await.unwrap());
    t.store.keys(None, 10).await.unwrap();
    let later = t.now().saturating_add(IDLE);
    assert_ends_at(t, peeked, end).await;
    for key in [read, written, swapped, touched] {
        assert_eq!(peek(&*t.store, key).await.unwrap().expires_at, later);
    }
    assert_ends_at(t, read, later).await;
}

async fn an_expired_key_can_be_used_again(t: &Tested) {
    let key = SessionKey::of(b"used again");
    t.store.create_as(key, "old".into(), Lifetime::absolute(SECOND)).await.unwrap();
    let old = peek(&*t.store, key).await.unwrap();
    t.pass(SECOND);
    t.store.create_as(key, "new".into(), Lifetime::absolute(SECOND)).await.unwrap();
    let new = peek(&*t.store, key).await.unwrap();
    assert_eq!((new.payload.clone(), new.created_at), ("new".into(), t.now()));
    assert!(new.version > old.version);
    let stale = t.store.put_if(key, "stale".into(), old.version).await;
    assert!(matches!(stale, Err(Error::Conflict { current }) if current == new.version));
    t.pass(SECOND);
    t.store.upsert(key, "newest".into(), Lifetime::absolute(SECOND)).await.unwrap();
    let newest = peek(&*t.store, key).await.unwrap();
    assert_eq!((newest.payload, newest.created_at), ("newest".into(), t.now()));
    assert_ends_at(t, key, newest.expires_at).await;
}

async fn set_lifetime_lengthens_and_shortens(t: &Tested) {
    let (key, _) = create(t, Lifetime::absolute(IDLE)).await;
    t.pass(IDLE / 2);
    assert!(t.store.set_lifetime(key, Lifetime::absolute(4 * IDLE)).await.unwrap());
    let stored = peek(&*t.store, key).await.unwrap();
    assert_eq!(stored.expires_at, t.now().saturating_add(4 * IDLE));
    t.pass(IDLE);
    assert!(t.store.set_lifetime(key, Lifetime::idle(2 * SECOND).exact()).await.unwrap());
    let stored = peek(&*t.store, key).await.unwrap();
    assert_eq!((stored.idle, stored.absolute_at), (Some(2 * SECOND), None));
    t.pass(SECOND);
    t.store.put(key, "y".into()).await.unwrap().unwrap();
    assert_ends_at(t, key, t.now().saturating_add(2 * SECOND)).await;
}

async fn upsert_begins_its_lifetime(t: &Tested) {
    let (key, _) = create(t, Lifetime::absolute(4 * IDLE)).await;
    t.pass(SECOND);
    t.store.upsert(key, "shorter".into(), Lifetime::absolute(IDLE)).await.unwrap();
    assert_ends_at(t, key, t.now().saturating_add(IDLE)).await;
}

async fn a_rotated_session_keeps_its_deadlines(t: &Tested) {
    let (old, expires_at) = create(t, Lifetime::idle(IDLE).exact()).await;
    t.pass(IDLE / 2);
    let new = t.store.rotate(old).await.unwrap().unwrap().key();
    assert_eq!(peek(&*t.store, new).await.unwrap().expires_at, expires_at);
    assert!(t.store.touch(new).await.unwrap());
    assert_ends_at(t, new, t.now().saturating_add(IDLE)).await;
}

async fn the_expired_are_counted_and_make_room(t: &Tested) {
    let (stays, _) = create(t, Lifetime::absolute(IDLE)).await;
    for _ in 1..SESSIONS_MAX {
        create(t, Lifetime::absolute(SECOND)).await;
    }
    let refused = t.store.create("x".into(), Lifetime::idle(IDLE)).await;
    assert!(matches!(refused, Err(Error::TooManySessions { .. })));
    t.pass(3 * SECOND);
    eventually("one session is left", || t.store.len() == 1).await;
    eventually("the expired are counted", || t.store.stats().expired == u64::from(SESSIONS_MAX) - 1).await;
    for _ in 1..SESSIONS_MAX {
        create(t, Lifetime::absolute(SECOND)).await;
    }
    assert_eq!(t.store.stats().sessions, u64::from(SESSIONS_MAX));
    assert!(peek(&*t.store, stays).await.is_some());
}

async fn a_walk_meets_the_living_and_never_the_expired(t: &Tested) {
    let (mut stays, mut met) = (BTreeSet::new(), BTreeSet::new());
    for n in 0..300 {
        let short = n % 3 == 0;
        let (key, _) = create(t, Lifetime::absolute(if short { SECOND * (1 + n / 30) } else { IDLE })).await;
        if !short {
            stays.insert(key);
        }
    }
    let mut cursor = None;
    for page_number in 0.. {
        let page = t.store.keys(cursor, 5).await.unwrap();
        for key in &page.keys {
            assert!(peek(&*t.store, *key).await.is_some(), "an expired key on page {page_number}");
        }
        met.extend(page.keys);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
        t.pass(SECOND / 4);
    }
    assert!(stays.is_subset(&met), "missed: {:?}", stays.difference(&met).next());
}

async fn a_wall_clock_that_steps_moves_no_deadline(t: &Tested) {
    let lifetime = Lifetime::absolute(IDLE);
    let (gone, _) = create(t, lifetime).await;
    t.pass(IDLE);
    let before = t.now();
    let (key, _) = create(t, lifetime).await;
    t.set_wall(Timestamp::from_millis(before.as_millis() - 86_400_000));
    assert_eq!(peek(&*t.store, gone).await, None);
    t.pass(IDLE_BUT_A_MS);
    assert!(peek(&*t.store, key).await.is_some());
    t.set_wall(Timestamp::from_millis(before.as_millis() + 86_400_000));
    assert!(peek(&*t.store, key).await.is_some());
    t.pass(MS);
    assert_eq!(peek(&*t.store, key).await, None);
}

/// A page is short work, also where thousands have ended and none was swept.
#[test]
fn page_of_keys_ends_though_it_met_nobody_who_lives() {
    let (options, clock) = options();
    let store = LogStore::open_by_hand(Arc::new(SimDisk::new(1)), options).unwrap().at(Durability::Buffered);
    let minute = Lifetime::absolute(Duration::from_secs(60));
    for n in 0..5_000_u32 {
        run(&store, store.upsert(key(n), "x".into(), minute)).unwrap().unwrap();
    }
    clock.advance(Duration::from_secs(60));
    let (mut pages, mut cursor) = (0, None);
    loop {
        let page = run(&store, store.keys(cursor, 10)).unwrap().unwrap();
        assert_eq!(page.keys, []);
        pages += 1;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert!((4..=6).contains(&pages), "{pages} pages of a thousand for five thousand");
}
