//! The contract of `SessionStore`, for every store: what each operation gives, writes and refuses. Time stands still here; `expiry` moves it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Access, Error, Lifetime, SessionKey, SessionStore, Stored, When};

use crate::stores::{PAYLOAD_BYTES_MAX, SESSIONS_MAX, Tested, for_every_store};

const HOUR: Duration = Duration::from_secs(3_600);
const LIFETIME: Lifetime = Lifetime::idle(HOUR);

for_every_store! {
    a_created_session_reads_back_as_it_was_put,
    payloads_are_any_bytes_up_to_the_limit,
    put_replaces_the_payload_and_keeps_the_rest,
    put_if_writes_at_the_given_version_only,
    write_at_a_version_begins_the_lifetime_that_it_is_given,
    a_version_is_never_used_again,
    create_as_never_replaces_a_live_session,
    upsert_writes_whether_or_not_there_was_a_session,
    update_writes_what_the_closure_decides,
    concurrent_updates_lose_nothing,
    of_many_that_create_one_key_one_wins,
    reading_touching_and_lifetimes_keep_the_version,
    a_deleted_session_is_revived_by_nobody,
    a_rotated_session_has_all_but_its_old_id,
    a_late_save_with_the_old_key_revives_nobody,
    a_walk_meets_every_key_once,
    a_walk_meets_whoever_lives_through_it,
    payloads_over_the_limit_are_refused,
    sessions_over_the_limit_are_refused,
    empty_and_endless_lifetimes_are_refused,
    a_closed_store_says_so_through_every_handle,
}

async fn peek(store: &dyn SessionStore, key: SessionKey) -> Option<Stored> {
    store.get(key, Access::Peek).await.unwrap()
}

async fn all_keys(store: &dyn SessionStore, limit: usize) -> Vec<SessionKey> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.keys(cursor, limit).await.unwrap();
        assert!(page.keys.len() <= limit.max(1));
        keys.extend(page.keys);
        assert!(keys.len() <= 2 * SESSIONS_MAX as usize, "the walk goes in circles");
        cursor = page.next;
        if cursor.is_none() {
            return keys;
        }
    }
}

/// No operation that wants a live session finds one under `key`, and none of them makes one.
async fn assert_absent(store: &dyn SessionStore, key: SessionKey, live: usize) {
    assert_eq!(peek(store, key).await, None);
    assert_eq!(store.get(key, Access::Touch).await.unwrap(), None);
    assert_eq!(store.put(key, "late".into()).await.unwrap(), None);
    let never = &mut |_: &Stored| panic!("there is nothing to change");
    assert_eq!(store.update(key, never).await.unwrap(), None);
    assert!(!store.touch(key).await.unwrap());
    assert!(!store.set_lifetime(key, LIFETIME).await.unwrap());
    assert_eq!(store.rotate(key).await.unwrap(), None);
    assert!(!store.delete(key).await.unwrap());
    assert_eq!(peek(store, key).await, None);
    assert!(!all_keys(store, 100).await.contains(&key));
    assert_eq!(store.len(), live);
}

async fn a_created_session_reads_back_as_it_was_put(t: &Tested) {
    let day = 24 * HOUR;
    let id = t.store.create("coat".into(), LIFETIME.and_absolute(day)).await.unwrap();
    let other = t.store.create("hat".into(), Lifetime::absolute(HOUR)).await.unwrap();
    assert_ne!(id, other);
    let stored = peek(&*t.store, id.key()).await.unwrap();
    assert_eq!(stored.payload, "coat");
    assert_eq!(stored.created_at, t.now());
    assert_eq!(stored.idle, Some(HOUR));
    assert_eq!(stored.absolute_at, Some(t.now().saturating_add(day)));
    assert!(stored.expires_at >= t.now().saturating_add(HOUR));
    assert_eq!(stored.owner, None);
    let stored = peek(&*t.store, other.key()).await.unwrap();
    assert_eq!((stored.idle, stored.absolute_at), (None, Some(stored.expires_at)));
    assert_eq!(stored.expires_at, t.now().saturating_add(HOUR));
    assert_eq!((t.store.len(), t.store.is_empty(), t.store.stats().sessions), (2, false, 2));
    assert_absent(&*t.store, SessionKey::of(b"never issued"), 2).await;
}

async fn payloads_are_any_bytes_up_to_the_limit(t: &Tested) {
    let longest = (0..PAYLOAD_BYTES_MAX).map(|n| n.to_le_bytes()[0]).collect::<Vec<_>>();
    for payload in
        [Bytes::new(), Bytes::from_static(&[0]), Bytes::from_static(b"\xff\x00\xfe"), longest.into()]
    {
        let id = t.store.create(payload.clone(), LIFETIME).await.unwrap();
        assert_eq!(peek(&*t.store, id.key()).await.unwrap().payload, payload);
        t.store.put(id.key(), payload.clone()).await.unwrap().unwrap();
        assert_eq!(peek(&*t.store, id.key()).await.unwrap().payload, payload);
    }
}

async fn put_replaces_the_payload_and_keeps_the_rest(t: &Tested) {
    let id = t.store.create("1".into(), Lifetime::absolute(HOUR)).await.unwrap();
    let first = peek(&*t.store, id.key()).await.unwrap();
    t.pass(Duration::from_secs(1));
    let version = t.store.put(id.key(), "2".into()).await.unwrap().unwrap();
    let mut second = peek(&*t.store, id.key()).await.unwrap();
    assert!(second.version > first.version);
    assert_eq!(second.version, version);
    assert_eq!(second.payload, "2");
    (second.payload, second.version) = (first.payload.clone(), first.version);
    assert_eq!(second, first);
}

async fn put_if_writes_at_the_given_version_only(t: &Tested) {
    let id = t.store.create("1".into(), LIFETIME).await.unwrap();
    let first = peek(&*t.store, id.key()).await.unwrap().version;
    let second = t.store.put_if(id.key(), "2".into(), first).await.unwrap().unwrap();
    match t.store.put_if(id.key(), "stale".into(), first).await {
        Err(Error::Conflict { current }) => assert_eq!(current, second),
        other => panic!("{other:?}"),
    }
    let stored = peek(&*t.store, id.key()).await.unwrap();
    assert_eq!((stored.payload, stored.version), ("2".into(), second));
    t.store.delete(id.key()).await.unwrap();
    assert_eq!(t.store.put_if(id.key(), "late".into(), second).await.unwrap(), None);
    assert_absent(&*t.store, id.key(), 0).await;
}

async fn write_at_a_version_begins_the_lifetime_that_it_is_given(t: &Tested) {
    let id = t.store.create("1".into(), LIFETIME).await.unwrap();
    let first = peek(&*t.store, id.key()).await.unwrap();
    for seconds in [7_200, 60] {
        let lifetime = Lifetime::absolute(Duration::from_secs(seconds));
        let now = peek(&*t.store, id.key()).await.unwrap();
        if now.version != first.version {
            let when = When::VersionWith { version: first.version, lifetime, loaded: first.terms() };
            let stale = t.store.write(id.key(), "x".into(), when).await;
            assert!(matches!(stale, Err(Error::Conflict { .. })));
            assert_eq!(peek(&*t.store, id.key()).await.unwrap(), now, "a conflict changes nothing");
        }
        let when = When::VersionWith { version: now.version, lifetime, loaded: now.terms() };
        t.store.write(id.key(), "2".into(), when).await.unwrap().unwrap();
        let stored = peek(&*t.store, id.key()).await.unwrap();
        assert_eq!((&stored.payload[..], stored.created_at), (&b"2"[..], first.created_at));
        assert_eq!(stored.idle, None);
        t.pass(Duration::from_secs(30));
        assert!(peek(&*t.store, id.key()).await.is_some());
    }
    let last = peek(&*t.store, id.key()).await.unwrap();
    t.pass(Duration::from_secs(30));
    assert!(peek(&*t.store, id.key()).await.is_none());
    let when = When::VersionWith { version: last.version, lifetime: LIFETIME, loaded: last.terms() };
    assert_eq!(t.store.write(id.key(), "late".into(), when).await.unwrap(), None);
}

async fn a_version_is_never_used_again(t: &Tested) {
    let key = SessionKey::of(b"used again");
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        t.store.create_as(key, "1".into(), LIFETIME).await.unwrap();
        let first = peek(&*t.store, key).await.unwrap().version;
        let second = t.store.put(key, "2".into()).await.unwrap().unwrap();
        assert!(seen.insert(first) && seen.insert(second));
        for older in seen.iter().filter(|version| **version != second) {
            let stale = t.store.put_if(key, "stale".into(), *older).await;
            assert!(matches!(stale, Err(Error::Conflict { .. })));
        }
        assert!(t.store.delete(key).await.unwrap());
    }
}

async fn create_as_never_replaces_a_live_session(t: &Tested) {
    let key = SessionKey::of(b"a framework's id");
    t.store.create_as(key, "first".into(), LIFETIME).await.unwrap();
    let before = peek(&*t.store, key).await;
    let second = t.store.create_as(key, "second".into(), Lifetime::absolute(HOUR)).await;
    assert!(matches!(second, Err(Error::AlreadyExists)));
    assert_eq!(peek(&*t.store, key).await, before);
    assert!(t.store.delete(key).await.unwrap());
    t.store.create_as(key, "third".into(), LIFETIME).await.unwrap();
    assert_eq!(peek(&*t.store, key).await.unwrap().payload, "third");
}

async fn upsert_writes_whether_or_not_there_was_a_session(t: &Tested) {
    let key = SessionKey::of(b"rate/192.0.2.1");
    t.store.upsert(key, "1".into(), LIFETIME).await.unwrap();
    let first = peek(&*t.store, key).await.unwrap();
    t.pass(Duration::from_secs(1));
    t.store.upsert(key, "2".into(), Lifetime::absolute(2 * HOUR)).await.unwrap();
    let second = peek(&*t.store, key).await.unwrap();
    assert_eq!((second.payload, second.idle), ("2".into(), None));
    assert_eq!(second.expires_at, t.now().saturating_add(2 * HOUR));
    assert!(second.version > first.version);
    assert_eq!(second.created_at, first.created_at);
    assert_eq!(t.store.len(), 1);
    assert!(t.store.write(key, "3".into(), When::Always(LIFETIME)).await.unwrap().unwrap() > second.version);
}

async fn update_writes_what_the_closure_decides(t: &Tested) {
    let id = t.store.create("a".into(), LIFETIME).await.unwrap();
    let append = &mut |s: &Stored| Some([&s.payload[..], b"b"].concat().into());
    let version = t.store.update(id.key(), append).await.unwrap().unwrap();
    let stored = peek(&*t.store, id.key()).await.unwrap();
    assert_eq!((stored.payload.clone(), stored.version), ("ab".into(), version));
    assert_eq!(t.store.update(id.key(), &mut |_| None).await.unwrap(), None);
    assert_eq!(peek(&*t.store, id.key()).await.unwrap(), stored);
}

async fn concurrent_updates_lose_nothing(t: &Tested) {
    const TASKS: u32 = 16;
    const INCREMENTS: u32 = 50;
    let id = t.store.create(Bytes::copy_from_slice(&0_u32.to_le_bytes()), LIFETIME).await.unwrap();
    let key = id.key();
    let number = |stored: &Stored| u32::from_le_bytes(stored.payload[..].try_into().unwrap());
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let store = Arc::clone(&t.store);
            tokio::spawn(async move {
                for _ in 0..INCREMENTS {
                    let mut add = |s: &Stored| Some(Bytes::copy_from_slice(&(number(s) + 1).to_le_bytes()));
                    store.update(key, &mut add).await.unwrap().unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(number(&peek(&*t.store, key).await.unwrap()), TASKS * INCREMENTS);
}

async fn of_many_that_create_one_key_one_wins(t: &Tested) {
    let key = SessionKey::of(b"wanted by all");
    let tasks: Vec<_> = (0..16_u8)
        .map(|n| {
            let store = Arc::clone(&t.store);
            tokio::spawn(async move { store.create_as(key, vec![n].into(), LIFETIME).await.map(|()| n) })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(n) => winners.push(n),
            Err(error) => assert!(matches!(error, Error::AlreadyExists), "{error:?}"),
        }
    }
    assert_eq!(winners, peek(&*t.store, key).await.unwrap().payload);
}

async fn reading_touching_and_lifetimes_keep_the_version(t: &Tested) {
    let id = t.store.create("x".into(), LIFETIME.exact()).await.unwrap();
    let version = peek(&*t.store, id.key()).await.unwrap().version;
    t.pass(Duration::from_secs(1));
    assert_eq!(t.store.get(id.key(), Access::Touch).await.unwrap().unwrap().version, version);
    t.pass(Duration::from_secs(1));
    assert!(t.store.touch(id.key()).await.unwrap());
    assert!(t.store.set_lifetime(id.key(), Lifetime::absolute(HOUR)).await.unwrap());
    assert_eq!(peek(&*t.store, id.key()).await.unwrap().version, version);
    assert!(t.store.put_if(id.key(), "y".into(), version).await.unwrap().is_some());
}

async fn a_deleted_session_is_revived_by_nobody(t: &Tested) {
    let (id, other) = (
        t.store.create("x".into(), LIFETIME).await.unwrap(),
        t.store.create("y".into(), LIFETIME).await.unwrap(),
    );
    let version = peek(&*t.store, id.key()).await.unwrap().version;
    assert!(t.store.delete(id.key()).await.unwrap());
    assert_absent(&*t.store, id.key(), 1).await;
    assert_eq!(t.store.put_if(id.key(), "late".into(), version).await.unwrap(), None);
    assert_absent(&*t.store, id.key(), 1).await;
    assert_eq!(peek(&*t.store, other.key()).await.unwrap().payload, "y");
}

async fn a_rotated_session_has_all_but_its_old_id(t: &Tested) {
    let old = t.store.create("x".into(), LIFETIME.and_absolute(9 * HOUR)).await.unwrap();
    let before = peek(&*t.store, old.key()).await.unwrap();
    t.pass(Duration::from_secs(1));
    let new = t.store.rotate(old.key()).await.unwrap().unwrap();
    assert_ne!(new, old);
    let mut after = peek(&*t.store, new.key()).await.unwrap();
    assert!(after.version > before.version);
    after.version = before.version;
    assert_eq!(after, before);
    assert_eq!(all_keys(&*t.store, 10).await, [new.key()]);
    let stale = t.store.put_if(new.key(), "stale".into(), before.version).await;
    assert!(matches!(stale, Err(Error::Conflict { .. })));
}

async fn a_late_save_with_the_old_key_revives_nobody(t: &Tested) {
    let first = t.store.create("x".into(), LIFETIME).await.unwrap();
    let version = peek(&*t.store, first.key()).await.unwrap().version;
    let second = t.store.rotate(first.key()).await.unwrap().unwrap();
    let third = t.store.rotate(second.key()).await.unwrap().unwrap();
    for dead in [first.key(), second.key()] {
        assert_eq!(t.store.put_if(dead, "late".into(), version).await.unwrap(), None);
        assert_absent(&*t.store, dead, 1).await;
    }
    assert_eq!(peek(&*t.store, third.key()).await.unwrap().payload, "x");
}

async fn a_walk_meets_every_key_once(t: &Tested) {
    assert_eq!(all_keys(&*t.store, 10).await, []);
    let mut created = BTreeSet::new();
    for _ in 0..100 {
        created.insert(t.store.create("x".into(), LIFETIME).await.unwrap().key());
    }
    // 0 is taken as 1, and more than the longest page as that.
    for limit in [0, 1, 7, 99, 100, 101, usize::MAX] {
        let met = all_keys(&*t.store, limit).await;
        assert_eq!(met.len(), created.len(), "limit {limit}");
        assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), created, "limit {limit}");
    }
}

async fn a_walk_meets_whoever_lives_through_it(t: &Tested) {
    let (mut stays, mut goes) = (BTreeSet::new(), Vec::new());
    for n in 0..300 {
        let key = t.store.create("x".into(), LIFETIME).await.unwrap().key();
        if n % 3 == 0 { goes.push(key) } else { assert!(stays.insert(key)) }
    }
    let (mut met, mut gone) = (BTreeSet::new(), BTreeSet::new());
    let mut cursor = None;
    loop {
        let page = t.store.keys(cursor, 7).await.unwrap();
        assert!(page.keys.iter().all(|key| !gone.contains(key)), "a page has a key that was deleted before");
        met.extend(page.keys);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
        if let Some(key) = goes.pop() {
            assert!(t.store.delete(key).await.unwrap());
            gone.insert(key);
            t.store.create("new".into(), LIFETIME).await.unwrap();
        }
    }
    assert!(stays.is_subset(&met), "missed: {:?}", stays.difference(&met).next());
}

async fn payloads_over_the_limit_are_refused(t: &Tested) {
    let max = usize::try_from(PAYLOAD_BYTES_MAX).unwrap();
    let over = Bytes::from(vec![0; max + 1]);
    let id = t.store.create("x".into(), LIFETIME).await.unwrap();
    let before = peek(&*t.store, id.key()).await.unwrap();
    let absent = SessionKey::of(b"absent");
    for refused in [
        t.store.put(id.key(), over.clone()).await.map(|_| ()),
        t.store.put_if(id.key(), over.clone(), before.version).await.map(|_| ()),
        t.store.upsert(id.key(), over.clone(), LIFETIME).await,
        t.store.create_as(absent, over.clone(), LIFETIME).await,
        t.store.create(over.clone(), LIFETIME).await.map(|_| ()),
        t.store.update(id.key(), &mut |_| Some(over.clone())).await.map(|_| ()),
    ] {
        match refused {
            Err(Error::PayloadTooLarge { len, max: limit }) => assert_eq!((len, limit), (max + 1, max)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(peek(&*t.store, id.key()).await.unwrap(), before);
    assert_absent(&*t.store, absent, 1).await;
}

async fn sessions_over_the_limit_are_refused(t: &Tested) {
    let key = |n: u32| SessionKey::of(&n.to_le_bytes());
    for n in 0..SESSIONS_MAX {
        t.store.create_as(key(n), "x".into(), LIFETIME).await.unwrap();
    }
    let over = key(SESSIONS_MAX);
    for refused in [
        t.store.create_as(over, "x".into(), LIFETIME).await,
        t.store.upsert(over, "x".into(), LIFETIME).await,
    ] {
        assert!(matches!(refused, Err(Error::TooManySessions { max: 500 })), "{refused:?}");
    }
    assert_eq!(peek(&*t.store, over).await, None);
    // None of these makes one more.
    t.store.put(key(0), "y".into()).await.unwrap().unwrap();
    t.store.upsert(key(1), "y".into(), LIFETIME).await.unwrap();
    t.store.rotate(key(2)).await.unwrap().unwrap();
    assert!(t.store.delete(key(3)).await.unwrap());
    t.store.create_as(over, "x".into(), LIFETIME).await.unwrap();
    assert_eq!(t.store.len(), usize::try_from(SESSIONS_MAX).unwrap());
}

async fn empty_and_endless_lifetimes_are_refused(t: &Tested) {
    let id = t.store.create("x".into(), LIFETIME).await.unwrap();
    let before = peek(&*t.store, id.key()).await.unwrap();
    let absent = SessionKey::of(b"absent");
    for lifetime in [
        Lifetime::idle(Duration::ZERO),
        Lifetime::absolute(Duration::ZERO),
        Lifetime::idle(HOUR).and_absolute(Duration::ZERO),
        Lifetime::idle(Duration::MAX),
        Lifetime::absolute(Duration::MAX),
    ] {
        for refused in [
            t.store.create_as(absent, "x".into(), lifetime).await,
            t.store.upsert(id.key(), "y".into(), lifetime).await,
            t.store.set_lifetime(id.key(), lifetime).await.map(|_| ()),
        ] {
            assert!(matches!(refused, Err(Error::InvalidLifetime { .. })), "{lifetime:?}: {refused:?}");
        }
    }
    assert_eq!(peek(&*t.store, id.key()).await.unwrap(), before);
    assert_absent(&*t.store, absent, 1).await;
}

async fn a_closed_store_says_so_through_every_handle(t: &Tested) {
    let (store, key) = (&t.store, SessionKey::of(b"k"));
    store.create_as(key, "x".into(), LIFETIME).await.unwrap();
    store.flush().await.unwrap();
    let other = Arc::clone(store);
    other.close().await.unwrap();
    other.close().await.unwrap();
    let never = &mut |_: &Stored| panic!("nothing is read");
    for refused in [
        store.get(key, Access::Peek).await.map(|_| ()),
        store.get(key, Access::Touch).await.map(|_| ()),
        store.touch(key).await.map(|_| ()),
        store.set_lifetime(key, LIFETIME).await.map(|_| ()),
        store.put(key, "y".into()).await.map(|_| ()),
        store.upsert(key, "y".into(), LIFETIME).await,
        store.create("y".into(), LIFETIME).await.map(|_| ()),
        store.create_as(SessionKey::of(b"l"), "y".into(), LIFETIME).await,
        store.update(key, never).await.map(|_| ()),
        store.rotate(key).await.map(|_| ()),
        store.delete(key).await.map(|_| ()),
        store.keys(None, 10).await.map(|_| ()),
        store.flush().await,
    ] {
        assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    }
}
