//! Sessions that outlived their time, or lost it: sweeps, reopening, rewriting.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cloakroom::disk::sim::{Call, Fault, SimDisk};
use cloakroom::{Access, Clock as _, Durability, Error, Lifetime, LogStore, SessionStore, Stored};
use tokio::task::JoinSet;

use super::{DAY, HOUR, close, delete, key, open, options, put, read, settle, there};
use crate::stores::eventually;
use crate::support::life::drive as run;

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

/// In emdb the sweep deleted a key that was inserted again between its look at the deadline and its removal.
#[test]
fn sweep_leaves_a_key_alone_that_was_created_again() {
    let (options, clock) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options);
    for n in 0..300 {
        // Every third leaves an older record behind that would outlive it: its sweep writes a tombstone.
        put(&store, n, 50, if n % 3 == 0 { DAY } else { Lifetime::absolute(MINUTE) });
    }
    for n in (0..300).step_by(3) {
        assert!(run(&store, store.set_lifetime(key(n), Lifetime::absolute(MINUTE))).unwrap().unwrap());
    }
    // Some just before their end, so that the sweep finds them by the deadline that they had.
    clock.advance(MINUTE.saturating_sub(MS));
    for n in 0..30 {
        run(&store, store.upsert(key(n), "again".into(), Lifetime::absolute(HOUR))).unwrap().unwrap();
    }
    clock.advance(MS);
    let again = |n: u32| match n % 2 {
        0 => store.create_as(key(n), "again".into(), Lifetime::absolute(HOUR)),
        _ => store.upsert(key(n), "again".into(), Lifetime::absolute(HOUR)),
    };
    for n in 30..150 {
        // Staged at the first poll, when no sweep has run yet.
        run(&store, again(n)).unwrap().unwrap();
    }
    store.step();
    // A sweep has looked at those; what it saw must not count for who takes the key now.
    clock.advance(MINUTE);
    store.step();
    for n in 150..200 {
        run(&store, again(n)).unwrap().unwrap();
    }
    settle(&store);
    // Buckets of deadlines are coarse: by now the last of them is looked at.
    clock.advance(MINUTE);
    settle(&store);
    let check = |store: &LogStore| {
        for n in 0..200 {
            assert_eq!(read(store, key(n)).unwrap().payload, "again", "session {n}");
        }
        assert!((200..300).all(|n| !there(store, n)));
        assert_eq!(store.len(), 200);
    };
    check(&store);
    run(&store, store.flush()).unwrap().unwrap();
    disk.crash();
    let store = open(&disk, &options);
    check(&store);
    settle(&store);
    check(&store);
}

/// `BuntDB` counted a key's time anew from each reopening (#85), and lost it when it rewrote its file (#112).
#[test]
fn deadlines_stay_the_same_through_reopening_and_compaction() {
    let (options, clock) = options();
    let disk = SimDisk::new(1);
    let mut store = open(&disk, &options).at(Durability::Sync);
    let lifetimes = [
        DAY,
        Lifetime::idle(20 * HOUR),
        Lifetime::idle(20 * HOUR).exact(),
        Lifetime::idle(12 * HOUR).and_absolute(30 * HOUR),
        Lifetime::absolute(700 * HOUR),
    ];
    let kept = || (0..15_u32).zip(lifetimes.iter().cycle());
    for (n, lifetime) in kept() {
        put(&store, n, 1_000, *lifetime);
        (0..3).for_each(|other| put(&store, 1_000 + n * 3 + other, 1_000, DAY));
        clock.advance(Duration::from_millis(1_234));
    }
    // So much of what follows lives that it is never rewritten; their touches lie among what will be.
    let still = 20..45_u32;
    still.clone().for_each(|n| put(&store, n, 3_000, Lifetime::idle(20 * HOUR)));
    clock.advance(HOUR);
    let touch = |n: u32| {
        assert!(run(&store, store.touch(key(n))).unwrap().unwrap());
        (0..2).for_each(|other| put(&store, 2_000 + n * 2 + other, 1_000, DAY));
    };
    (0..8).chain(still.clone()).for_each(touch);
    let all = |store: &LogStore| {
        let all = kept().map(|(n, _)| n).chain(still.clone());
        all.map(|n| read(store, key(n)).unwrap()).collect::<Vec<Stored>>()
    };
    let before = all(&store);
    disk.crash();
    drop(store);
    store = open(&disk, &options).at(Durability::Sync);
    assert_eq!(all(&store), before, "opened again, nothing compacted");
    (2_000..2_090).filter(|n| there(&store, *n)).for_each(|n| delete(&store, n));
    (1_000..1_045).for_each(|n| delete(&store, n));
    let mut compacted = 0;
    for round in 0..6 {
        settle(&store);
        assert_eq!(all(&store), before, "compacted, round {round}");
        compacted += store.stats().compacted_bytes;
        clock.advance(HOUR);
        match round % 3 {
            0 => close(&store),
            1 => disk.kill(),
            _ => disk.crash(),
        }
        drop(store);
        store = open(&disk, &options).at(Durability::Sync);
        assert_eq!(all(&store), before, "opened again, round {round}");
        // So that the next round finds something to compact.
        (2_000..2_060).for_each(|n| put(&store, n, 2_000, DAY));
        (2_000..2_060).for_each(|n| delete(&store, n));
    }
    assert!(compacted > 15_000, "the sessions were never rewritten: {compacted}");
    let ends: BTreeSet<_> = before.iter().map(|stored| stored.expires_at).collect();
    let live = |at| before.iter().map(|stored| stored.expires_at > at).collect::<Vec<_>>();
    for end in ends {
        clock.advance(end.saturating_since(clock.wall()).saturating_sub(MS));
        for _ in 0..2 {
            let kept = kept().map(|(n, _)| n).chain(still.clone());
            let found: Vec<_> = kept.map(|n| there(&store, n)).collect();
            assert_eq!(found, live(clock.wall()));
            clock.advance(end.saturating_since(clock.wall()));
        }
    }
}

/// mini-redis and the file store of tower-sessions gave out what had expired until a purge came by.
#[test]
fn expired_session_is_absent_though_no_sweep_ever_runs() {
    let (options, clock) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options);
    (0..20).for_each(|n| put(&store, n, 10, Lifetime::absolute(MINUTE)));
    run(&store, store.flush()).unwrap().unwrap();
    clock.advance(MINUTE.saturating_sub(MS));
    assert!((0..20).all(|n| there(&store, n)));
    clock.advance(MS);
    let absent = |store: &LogStore| {
        assert!((0..20).all(|n| !there(store, n)));
        assert!(run(store, store.get(key(1), Access::Touch)).unwrap().unwrap().is_none());
        assert!(!run(store, store.touch(key(2))).unwrap().unwrap());
        assert!(run(store, store.keys(None, 100)).unwrap().unwrap().keys.is_empty());
        assert_eq!(store.stats().expired, 0, "a sweep ran");
    };
    absent(&store);
    disk.kill();
    drop(store);
    absent(&open(&disk, &options));
}

/// In tower-sessions the task that deletes what has expired ended at its first error and never ran again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiry_and_compaction_go_on_after_one_of_their_calls_failed() {
    let mut cases = JoinSet::new();
    for (call, n, fault) in [
        (Call::Create, 1, Fault::Enospc),
        (Call::Create, 2, Fault::Eio),
        (Call::Remove, 1, Fault::Eio),
        (Call::Remove, 2, Fault::Eio),
        (Call::Truncate, 1, Fault::Eio),
    ] {
        cases.spawn(go_on_after(call, n, fault));
    }
    cases.join_all().await;
}

async fn go_on_after(call: Call, n: u64, fault: Fault) {
    let (options, clock) = options();
    let disk = SimDisk::new(n);
    let store = LogStore::open_on(Arc::new(disk.clone()), options).await.unwrap().at(Durability::Sync);
    // Long and short ones side by side, so that segments are copied and not only removed.
    let wave = async |first: u32| {
        for n in first..first + 60 {
            let lifetime = if n % 3 == 0 { DAY } else { Lifetime::absolute(MINUTE) };
            // No segment could be made: a refusal, of this write alone.
            while let Err(error) = store.create_as(key(n), vec![7; 3_000].into(), lifetime).await {
                assert!(matches!(error, Error::DiskFull | Error::Io { .. }), "{error:?}");
                tokio::task::yield_now().await;
            }
        }
    };
    wave(0).await;
    let (calls, compacted) = (disk.calls_of(call), store.stats().compacted_bytes);
    disk.fail_call_of(call, n, fault);
    clock.advance(MINUTE);
    eventually("the call failed", || disk.calls_of(call) >= calls + n).await;
    eventually("all that was due expired", || store.stats().expired == 40).await;
    eventually("what is left was copied", || store.stats().compacted_bytes > compacted).await;
    if call == Call::Create {
        // Now it is the next segment of the log that cannot be made, or the list that names it.
        disk.fail_call_of(call, n, fault);
    }
    wave(100).await;
    clock.advance(MINUTE);
    eventually("expiry goes on", || store.stats().expired == 80).await;
    let bounded = || {
        let stats = store.stats();
        stats.log_bytes <= 2 * stats.live_bytes + 2 * (64 << 10)
    };
    eventually("compaction goes on", bounded).await;
    for n in (0..160).filter(|n| n % 3 == 0 && (*n < 60 || *n >= 100)) {
        assert!(store.get(key(n), Access::Peek).await.unwrap().is_some(), "session {n}");
    }
    store.close().await.unwrap();
}
