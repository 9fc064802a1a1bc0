//! Writes, deletes and syncs: what was said to be done is done, in memory and on disk alike.

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use cloakroom::disk::sim::{Call, Fault, SimDisk};
use cloakroom::{
    Access, Durability, Error, Lifetime, LogStore, Options, Session, SessionKey, SessionStore, Stored,
};
use tokio::task::JoinSet;

use super::{DAY, HOUR, close, delete, key, open, options, put, read, settle, there};
use crate::stores::defaults;
use crate::support::life::drive as run;

/// In emdb what was cleared or dropped was there again after the next open.
#[test]
fn what_was_deleted_or_cleared_stays_so_after_the_store_is_opened_again() {
    for end in 0..3 {
        let (options, _) = options();
        let disk = SimDisk::new(end);
        let mut store = open(&disk, &options);
        // Others lie between them, so that no segment is compacted before the store is opened again.
        for n in 0..40 {
            put(&store, n, 200, DAY);
            put(&store, 100 + n, 4_000, DAY);
        }
        let mut cleared = Session::new(DAY);
        cleared.insert("user", &42).unwrap();
        run(&store, cleared.save(&store)).unwrap().unwrap();
        let id = cleared.id().unwrap().clone();
        (0..40).for_each(|n| delete(&store, n));
        cleared.clear();
        run(&store, cleared.save(&store)).unwrap().unwrap();
        // Before compaction, after it, and once more on what it left.
        for look in 0..3_u32 {
            run(&store, store.flush()).unwrap().unwrap();
            match end {
                0 => close(&store),
                1 => disk.kill(),
                _ => disk.crash(),
            }
            drop(store);
            store = open(&disk, &options);
            assert!((0..40).all(|n| !there(&store, n)), "end {end}, look {look}");
            assert!((100 + look * 20..140).all(|n| there(&store, n)), "end {end}, look {look}");
            assert_eq!(store.len(), [41, 21, 1][look as usize]);
            let session = run(&store, Session::load(&store, &id)).unwrap().unwrap().unwrap();
            assert!(session.is_empty(), "end {end}, look {look}");
            (100 + look * 20..120 + look * 20).filter(|n| *n < 140).for_each(|n| delete(&store, n));
            settle(&store);
        }
    }
}

/// In emdb two writers of one key could leave one's value in memory and the other's as the last of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_many_writers_of_one_key_leave_in_memory_is_what_the_next_open_finds() {
    for round in 0..4_u32 {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 64 << 10, payload_bytes_max: 4_096, ..defaults() };
        let store = LogStore::open(folder.path(), options.clone()).await.unwrap();
        let mut tasks = JoinSet::new();
        for task in 0..8_u32 {
            let store = store.at(Durability::Buffered);
            tasks.spawn(async move {
                // All go over the same keys in the same order, so that they meet at the last write of each, not only at that of a few.
                for at in 0..2_000_u32 {
                    let (key, payload) = (key(at / 4), Bytes::from(format!("{task}/{at}/{round}").repeat(9)));
                    match (at.wrapping_mul(2_654_435_761) >> 16).wrapping_add(task) % 12 {
                        0 => drop(store.delete(key).await.unwrap()),
                        1 => drop(store.put(key, payload).await.unwrap()),
                        2 => drop(store.rotate(key).await.unwrap()),
                        3 => {
                            let lifetime = Lifetime::absolute(HOUR * (1 + task));
                            store.set_lifetime(key, lifetime).await.unwrap();
                        }
                        _ => store.upsert(key, payload, Lifetime::idle(HOUR)).await.unwrap(),
                    }
                }
            });
        }
        tasks.join_all().await;
        let in_memory = all(&store).await;
        assert!(in_memory.len() > 3, "some were rotated");
        store.close().await.unwrap();
        let store = LogStore::open(folder.path(), options).await.unwrap();
        assert_eq!(all(&store).await, in_memory);
        store.close().await.unwrap();
    }
}

async fn all(store: &LogStore) -> BTreeMap<SessionKey, Stored> {
    let (mut found, mut cursor) = (BTreeMap::new(), None);
    loop {
        let page = store.keys(cursor, 100).await.unwrap();
        for key in page.keys {
            found.insert(key, store.get(key, Access::Peek).await.unwrap().unwrap());
        }
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

/// Bitcask deletes by writing a magic value, so that whoever stored that value deleted.
#[test]
fn no_payload_is_taken_for_a_tombstone() {
    let (options, _) = options();
    let disk = SimDisk::new(1);
    let mut store = open(&disk, &options).at(Durability::Sync);
    put(&store, 999, 10, DAY);
    delete(&store, 999);
    // The very bytes of a group that deletes, and of the file around it.
    let file = disk.contents("00000001.seg").unwrap();
    let written = file.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let payloads: Vec<Bytes> = vec![
        Bytes::new(),
        "bitcask_tombstone".into(),
        "bitcask_tombstone2".into(),
        "null".into(),
        vec![0; 4_096].into(),
        vec![0xFF; 4_096].into(),
        b"GRP1".to_vec().into(),
        file[written - 144..written].to_vec().into(),
        file[written - 96..written].to_vec().into(),
        file[..written].to_vec().into(),
        disk.contents("MANIFEST").unwrap().into(),
    ];
    for (n, payload) in (0..).zip(&payloads) {
        run(&store, store.upsert(key(n), payload.clone(), DAY)).unwrap().unwrap();
    }
    for round in 0..3 {
        for (n, payload) in (0..).zip(&payloads) {
            assert_eq!(&read(&store, key(n)).unwrap().payload, payload, "payload {n}, round {round}");
        }
        (100..140).for_each(|n| put(&store, n, 3_000, DAY));
        (100..140).for_each(|n| delete(&store, n));
        settle(&store);
        disk.crash();
        drop(store);
        store = open(&disk, &options).at(Durability::Sync);
        assert!(!there(&store, 999));
    }
}

/// `PostgreSQL` called `fsync` again after it had failed; the kernel said that all was well, with the data gone (2018).
#[test]
fn failed_sync_is_told_to_every_waiter_and_never_tried_again() {
    for seed in 0..10 {
        let (options, _) = options();
        let disk = SimDisk::new(seed);
        let store = open(&disk, &options).at(Durability::Sync);
        (0..5).for_each(|n| put(&store, n, 500, DAY));
        disk.fail_call_of(Call::Sync, 1, Fault::Eio);
        let mut waiting: Vec<_> =
            (5..12).map(|n| store.upsert(key(n), vec![1; 500].into(), DAY)).chain([store.flush()]).collect();
        let mut context = Context::from_waker(Waker::noop());
        for answer in &mut waiting {
            assert!(pin!(answer).poll(&mut context).is_pending());
        }
        let before = disk.calls_of(Call::Sync);
        settle(&store);
        for answer in &mut waiting {
            match pin!(answer).poll(&mut context) {
                Poll::Ready(Err(Error::DurabilityUnknown { .. })) => {}
                other => panic!("{other:?}"),
            }
        }
        let refused = run(&store, store.flush()).unwrap();
        assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
        let refused = run(&store, store.upsert(key(20), "x".into(), DAY)).unwrap();
        assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
        settle(&store);
        assert!(run(&store, store.close()).unwrap().is_err());
        assert_eq!(disk.calls_of(Call::Sync), before + 1, "a sync was called again after it failed");
        disk.crash();
        let store = open(&disk, &options);
        assert!((0..5).all(|n| there(&store, n)) && !there(&store, 20), "seed {seed}");
    }
}
