//! Whose sessions they are: binding, and ending all of somebody's at once.
//!
//! Goal: to refute P1 and P2 for owners. Method: the contract on every store; then, on a simulated disk, the moments at which a revocation might
//! miss somebody or be forgotten: a late save, a crash, a compaction that drops what it ended, an older version on disk that had no owner.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::sim::{Call, Fault, SimDisk};
use cloakroom::{
    Access, Durability, Error, Lifetime, LogStore, OwnerKey, SessionKey, SessionStore, Whose, Work,
};

use crate::owned::{key, open, options};
use crate::stores::{Tested, defaults, eventually, for_every_store};
use crate::support::life::drive as run;
use crate::support::{Replay, seeds};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Lifetime = Lifetime::idle(Duration::from_secs(86_400));

for_every_store!(
    a_bound_session_keeps_its_owner_through_every_write,
    binding_keeps_payload_lifetime_and_creation,
    revoking_an_owner_ends_theirs_and_nobody_elses,
    the_spared_session_lives_on_and_so_does_what_it_becomes,
    everybody_is_everybody_who_is_owned,
    what_was_revoked_is_absent_to_every_operation,
    who_signs_in_again_is_not_revoked,
    a_key_that_begins_anew_belongs_to_nobody,
);

fn owner(n: u8) -> OwnerKey {
    OwnerKey::of(&[n])
}

async fn bound(store: &dyn SessionStore, n: u32, whose: Option<u8>) -> SessionKey {
    store.create_as(key(n), Bytes::from(n.to_le_bytes().to_vec()), DAY).await.unwrap();
    if let Some(whose) = whose {
        assert!(store.bind(key(n), Some(owner(whose))).await.unwrap());
    }
    key(n)
}

async fn owner_of(store: &dyn SessionStore, key: SessionKey) -> Option<OwnerKey> {
    store.get(key, Access::Peek).await.unwrap().unwrap().owner
}

async fn is_there(store: &dyn SessionStore, key: SessionKey) -> bool {
    store.get(key, Access::Peek).await.unwrap().is_some()
}

async fn a_bound_session_keeps_its_owner_through_every_write(t: &Tested) {
    let store = &*t.store;
    let key = bound(store, 1, Some(7)).await;
    assert_eq!(owner_of(store, key).await, Some(owner(7)));
    store.put(key, "longer than it was before".into()).await.unwrap().unwrap();
    assert_eq!(owner_of(store, key).await, Some(owner(7)));
    store.upsert(key, "x".into(), DAY).await.unwrap();
    t.pass(2 * HOUR);
    assert!(store.touch(key).await.unwrap());
    assert!(store.set_lifetime(key, DAY).await.unwrap());
    assert_eq!(owner_of(store, key).await, Some(owner(7)));
    let id = store.rotate(key).await.unwrap().unwrap();
    assert_eq!(owner_of(store, id.key()).await, Some(owner(7)));
    assert!(store.bind(id.key(), None).await.unwrap());
    assert_eq!(owner_of(store, id.key()).await, None);
    store.revoke(Whose::Owner(owner(7)), None).await.unwrap();
    assert!(is_there(store, id.key()).await);
}

async fn binding_keeps_payload_lifetime_and_creation(t: &Tested) {
    let store = &*t.store;
    let key = bound(store, 1, None).await;
    let before = store.get(key, Access::Peek).await.unwrap().unwrap();
    t.pass(HOUR);
    assert!(store.bind(key, Some(owner(1))).await.unwrap());
    let after = store.get(key, Access::Peek).await.unwrap().unwrap();
    assert!(after.version > before.version);
    assert_eq!(
        (after.payload, after.created_at, after.expires_at, after.idle, after.absolute_at),
        (before.payload, before.created_at, before.expires_at, before.idle, before.absolute_at)
    );
    assert!(!store.bind(SessionKey::of(b"nobody"), Some(owner(1))).await.unwrap());
}

async fn revoking_an_owner_ends_theirs_and_nobody_elses(t: &Tested) {
    let store = &*t.store;
    for n in 0..30 {
        bound(store, n, [None, Some(1), Some(2)][n as usize % 3]).await;
    }
    store.revoke(Whose::Owner(owner(1)), None).await.unwrap();
    for n in 0..30 {
        assert_eq!(is_there(store, key(n)).await, n % 3 != 1, "session {n}");
    }
    let mut keys = store.keys(None, 1_000).await.unwrap().keys;
    keys.sort_unstable();
    let mut left: Vec<_> = (0..30).filter(|n| n % 3 != 1).map(key).collect();
    left.sort_unstable();
    assert_eq!(keys, left);
    eventually("the revoked leave memory", || store.len() == 20 && store.stats().revoked == 10).await;
}

async fn the_spared_session_lives_on_and_so_does_what_it_becomes(t: &Tested) {
    let store = &*t.store;
    for n in 0..5 {
        bound(store, n, Some(1)).await;
    }
    store.revoke(Whose::Owner(owner(1)), Some(key(3))).await.unwrap();
    for n in 0..5 {
        assert_eq!(is_there(store, key(n)).await, n == 3);
    }
    let moved = store.rotate(key(3)).await.unwrap().unwrap();
    assert!(is_there(store, moved.key()).await);
    // Somebody else is spared this time.
    store.revoke(Whose::Owner(owner(1)), Some(key(4))).await.unwrap();
    assert!(!is_there(store, moved.key()).await);
}

async fn everybody_is_everybody_who_is_owned(t: &Tested) {
    let store = &*t.store;
    for n in 0..9 {
        bound(store, n, [None, Some(1), Some(2)][n as usize % 3]).await;
    }
    store.revoke(Whose::Everybody, Some(key(4))).await.unwrap();
    for n in 0..9 {
        assert_eq!(is_there(store, key(n)).await, n % 3 == 0 || n == 4, "session {n}");
    }
}

async fn what_was_revoked_is_absent_to_every_operation(t: &Tested) {
    let store = &*t.store;
    let key = bound(store, 1, Some(1)).await;
    let read = store.get(key, Access::Peek).await.unwrap().unwrap();
    store.revoke(Whose::Owner(owner(1)), None).await.unwrap();
    assert_eq!(store.put(key, "late".into()).await.unwrap(), None);
    assert_eq!(store.put_if(key, "late".into(), read.version).await.unwrap(), None);
    assert!(!store.touch(key).await.unwrap());
    assert!(!store.set_lifetime(key, DAY).await.unwrap());
    assert!(!store.bind(key, None).await.unwrap());
    assert_eq!(store.rotate(key).await.unwrap(), None);
    assert!(!store.delete(key).await.unwrap());
    assert!(!is_there(store, key).await);
    assert!(store.get(key, Access::Touch).await.unwrap().is_none());
    assert!(store.keys(None, 10).await.unwrap().keys.is_empty());
}

async fn who_signs_in_again_is_not_revoked(t: &Tested) {
    let store = &*t.store;
    bound(store, 1, Some(1)).await;
    store.revoke(Whose::Owner(owner(1)), None).await.unwrap();
    let again = bound(store, 2, Some(1)).await;
    assert!(is_there(store, again).await);
    assert!(store.touch(again).await.unwrap());
    store.put(again, "here".into()).await.unwrap().unwrap();
    eventually("the first leaves memory", || store.len() == 1).await;
    assert!(is_there(store, again).await);
}

async fn a_key_that_begins_anew_belongs_to_nobody(t: &Tested) {
    let store = &*t.store;
    let key = bound(store, 1, Some(1)).await;
    store.revoke(Whose::Owner(owner(1)), None).await.unwrap();
    store.upsert(key, "new".into(), DAY).await.unwrap();
    assert_eq!(owner_of(store, key).await, None);
    store.revoke(Whose::Owner(owner(1)), None).await.unwrap();
    assert!(is_there(store, key).await);
}

fn put(store: &LogStore, n: u32, len: usize, lifetime: Lifetime, whose: Option<u8>) {
    run(store, store.upsert(key(n), vec![1; len].into(), lifetime)).unwrap().unwrap();
    if let Some(whose) = whose {
        assert!(run(store, store.bind(key(n), Some(owner(whose)))).unwrap().unwrap());
    }
}

fn there(store: &LogStore, n: u32) -> bool {
    run(store, store.get(key(n), Access::Peek)).unwrap().unwrap().is_some()
}

fn revoke(store: &LogStore, whose: u8, spared: Option<u32>) {
    run(store, store.revoke(Whose::Owner(owner(whose)), spared.map(key))).unwrap().unwrap();
}

#[test]
fn after_a_crash_at_any_call_a_revocation_ended_all_or_none() {
    const SESSIONS: u32 = 60;
    /// More than a revocation makes, the sweep and the mark behind it included.
    const CALLS: u64 = 40;
    let (options, _) = options();
    let whole = SimDisk::new(1);
    let store = open(&whole, &options).at(Durability::Buffered);
    (0..SESSIONS).for_each(|n| put(&store, n, 300, DAY, Some(1)));
    run(&store, store.close()).unwrap().unwrap();
    let mut outcomes = [0; 2];
    for (seed, n) in seeds(0..4).into_iter().flat_map(|seed| (1..=CALLS).map(move |n| (seed, n))) {
        let _replay = Replay("revocation".into(), seed);
        let disk = whole.copy(seed);
        let store = open(&disk, &options);
        // What else there is to do is done before.
        (0..10).for_each(|_| store.step());
        disk.crash_at_call(n);
        let told = run(&store, store.revoke(Whose::Owner(owner(1)), Some(key(7))));
        (0..6).for_each(|_| store.step());
        let struck = !disk.has_power();
        if struck {
            disk.restart();
        } else {
            disk.crash();
        }
        drop(store);
        let store = open(&disk, &options);
        let left = (0..SESSIONS).filter(|n| there(&store, *n)).count();
        assert!(left == 1 || left == SESSIONS as usize, "{left} are left");
        assert!(there(&store, 7));
        if told.is_some_and(|told| told.is_ok()) {
            assert_eq!(left, 1, "the revocation was acknowledged at Sync");
        }
        outcomes[usize::from(left == 1)] += 1;
    }
    assert!(outcomes.iter().all(|n| *n > 0), "{outcomes:?}");
}

/// The content that had no owner yet is older than the revocation, and not of the owner: what binds hides it.
#[test]
fn version_from_before_the_sign_in_does_not_come_back() {
    for (reopen, touch) in [(false, false), (true, false), (false, true), (true, true)] {
        let (options, clock) = options();
        let disk = SimDisk::new(1);
        let mut store = open(&disk, &options);
        // The visitor's version, in a segment that lives on.
        put(&store, 0, 3_000, Lifetime::absolute(1_000 * HOUR), None);
        (1..21).for_each(|n| put(&store, n, 3_000, Lifetime::absolute(2_000 * HOUR), None));
        store.step();
        assert!(run(&store, store.bind(key(0), Some(owner(1)))).unwrap().unwrap());
        if touch {
            let longer = Lifetime::absolute(1_500 * HOUR);
            assert!(run(&store, store.set_lifetime(key(0), longer)).unwrap().unwrap());
        }
        // What is bound lies among what dies soon, and is compacted away with it.
        (30..60).for_each(|n| put(&store, n, 3_000, Lifetime::absolute(HOUR), None));
        revoke(&store, 1, None);
        assert!(!there(&store, 0));
        for round in 0..4 {
            clock.advance(if round == 2 { 500 * HOUR } else { HOUR });
            (0..12).for_each(|_| store.step());
            if reopen {
                disk.crash();
                store = open(&disk, &options);
            }
            assert!(!there(&store, 0), "revived in round {round}");
        }
        disk.crash();
        drop(store);
        let store = open(&disk, &options);
        assert!(!there(&store, 0), "revived at the end");
        assert!((1..21).all(|n| there(&store, n)));
    }
}

#[test]
fn revocation_outlives_the_compaction_of_its_segment_and_goes_when_it_ends_nothing_more() {
    let (options, clock) = options();
    let disk = SimDisk::new(1);
    let mut store = open(&disk, &options);
    // The revoked lie between others that live on, so that their segments stay.
    for n in 0..60 {
        let whose = (n % 5 == 0).then_some(1);
        put(&store, n, 2_000, Lifetime::absolute(100 * HOUR), whose);
    }
    revoke(&store, 1, Some(10));
    // Fills the rest of the segment of the revocation with what dies.
    (100..160).for_each(|n| put(&store, n, 3_000, Lifetime::absolute(HOUR), None));
    clock.advance(2 * HOUR);
    (0..20).for_each(|_| store.step());
    disk.crash();
    store = open(&disk, &options);
    for n in 0..60 {
        assert_eq!(there(&store, n), n % 5 != 0 || n == 10, "session {n}");
    }
    let segments = store.stats().segments;
    clock.advance(200 * HOUR);
    (0..40).for_each(|_| store.step());
    let stats = store.stats();
    assert!(stats.segments < segments && stats.live_bytes == 0, "{stats:?}");
    drop(store);
}

/// A save that has read the session before it was revoked, and writes afterwards, while the keeper has not come by.
#[test]
fn late_save_does_not_slip_past_a_revocation_that_is_not_swept_yet() {
    let (options, _) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options).at(Durability::Buffered);
    put(&store, 1, 100, DAY, Some(1));
    put(&store, 2, 100, DAY, Some(1));
    store.step();
    revoke(&store, 1, Some(2));
    assert_eq!(store.len(), 2, "the sweep has not come by");
    assert_eq!(run(&store, store.put(key(1), "late".into())).unwrap().unwrap(), None);
    assert!(run(&store, store.put(key(2), "spared".into())).unwrap().unwrap().is_some());
    run(&store, store.flush()).unwrap().unwrap();
    disk.crash();
    drop(store);
    let store = open(&disk, &options);
    assert!(!there(&store, 1) && there(&store, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_slips_past_a_revocation_while_sixteen_tasks_save() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), defaults()).await.unwrap().at(Durability::Buffered);
    for round in 0..20_u32 {
        let keys: Vec<_> = (0..16).map(|n| key(round * 16 + n)).collect();
        for (n, key) in keys.iter().enumerate() {
            store.create_as(*key, "0".into(), DAY).await.unwrap();
            assert!(store.bind(*key, Some(owner(u8::try_from(n % 2).unwrap()))).await.unwrap());
        }
        let tasks: Vec<_> = keys
            .iter()
            .map(|key| {
                let (store, key) = (store.clone(), *key);
                tokio::spawn(async move {
                    let mut saves = 0;
                    while saves < 2_000 && store.put(key, "1".into()).await.unwrap().is_some() {
                        saves += 1;
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        store.revoke(Whose::Owner(owner(0)), None).await.unwrap();
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(is_there(&store, *key).await, n % 2 == 1);
        }
        for task in tasks {
            task.await.unwrap();
        }
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(is_there(&store, *key).await, n % 2 == 1, "revived");
        }
    }
    store.close().await.unwrap();
    let store = LogStore::open(folder.path(), defaults()).await.unwrap();
    assert_eq!(store.keys(None, 1_000).await.unwrap().keys.len(), 20 * 8);
    store.close().await.unwrap();
}

/// The sweep that would make room never comes then.
#[test]
fn revocation_that_waits_for_others_to_be_carried_out_is_told_that_the_store_ends() {
    for is_closed in [true, false] {
        let (mut options, _) = options();
        (options.segment_bytes, options.unwritten_bytes_max) = (32 << 20, 16 << 20);
        let disk = SimDisk::new(1);
        let store = open(&disk, &options);
        let store = store.at(Durability::Buffered);
        let revoke = |n: u32| store.revoke(Whose::Owner(OwnerKey::of(&n.to_le_bytes())), None);
        // As many as are kept in mind at once.
        let many = 1 << 16;
        (0..many).for_each(|n| run(&store, revoke(n)).unwrap().unwrap());
        let mut waiting = revoke(many);
        let mut look = || Pin::new(&mut waiting).poll(&mut Context::from_waker(Waker::noop()));
        assert!(look().is_pending());
        if is_closed {
            run(&store, store.close()).unwrap().unwrap();
        } else {
            disk.fail_call_of(Call::Write, 1, Fault::Eio);
            store.work(Work::Write);
        }
        let told = look();
        let is_told = matches!(told, Poll::Ready(Err(Error::Closed | Error::Poisoned { .. })));
        assert!(is_told, "closed: {is_closed}, {told:?}");
    }
}
