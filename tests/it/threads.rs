//! Power loss under the store's own threads: many tasks write while the power goes at a call that nobody chose.
//!
//! Goal: to refute P1 and P2 in the orders that a store driven by hand never takes. Method: each session belongs to one task and counts up; what is
//! found must not be older than what was acknowledged at `Sync`, nor anything that was not begun. How threads interleave is not replayed; the
//! rest is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::sim::{DirOps, SimDisk};
use cloakroom::{Access, Durability, Lifetime, LogStore, Options, SessionKey, SessionStore, When};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::stores::{defaults, eventually};
use crate::support::{Replay, budget, seeds};

const TASKS: u64 = 4;
const KEYS_OF_A_TASK: u64 = 6;
const HOUR: Lifetime = Lifetime::idle(Duration::from_secs(3_600));

/// The states of a session that a crash may leave, oldest first; 0 is none.
type Allowed = BTreeMap<u64, Vec<u64>>;

fn options() -> Options {
    Options { segment_bytes: 64 << 10, payload_bytes_max: 8_192, footers_from: 0, ..defaults() }
}

fn key(number: u64) -> SessionKey {
    SessionKey::of(&number.to_le_bytes())
}

fn payload(number: u64) -> Bytes {
    let len = usize::try_from(number * 7_919 % 5_000).unwrap();
    number.to_le_bytes().repeat(1 + len / 8).into()
}

/// Writes until the store takes no more; gives what may be found of each session.
async fn write(store: LogStore, task: u64, seed: u64, mut allowed: Allowed) -> Allowed {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ task);
    let mut number = seed * 1_000_000 + task * 100_000;
    loop {
        number += 1;
        let own = task * KEYS_OF_A_TASK + rng.random_range(0..KEYS_OF_A_TASK);
        let durability = match rng.random_range(0..3) {
            0 => Durability::Sync,
            1 => Durability::Interval(Durability::INTERVAL_DEFAULT),
            _ => Durability::Buffered,
        };
        let store = store.at(durability);
        let states = allowed.entry(own).or_insert_with(|| vec![0]);
        let delete = rng.random_bool(0.2);
        states.push(if delete { 0 } else { number });
        let done = if delete {
            store.delete(key(own)).await
        } else {
            store.write(key(own), payload(number), When::Always(HOUR)).await.map(|_| true)
        };
        match done {
            // Of a session that was gone already it does not say how safe that is.
            Ok(true) if durability == Durability::Sync => drop(states.drain(..states.len() - 1)),
            Ok(_) => {}
            Err(_) => return allowed,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_among_threads_leaves_what_was_acknowledged() {
    for seed in seeds(1..9) {
        let _replay = Replay("power loss among threads".into(), seed);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let disk = SimDisk::new(seed);
        disk.dir_ops(if seed % 2 == 0 { DirOps::Any } else { DirOps::Ordered });
        let mut allowed: Vec<Allowed> = (0..TASKS).map(|_| Allowed::new()).collect();
        for life in 0..budget(15) {
            let store = LogStore::open_on(Arc::new(disk.clone()), options()).await.unwrap();
            for (own, states) in allowed.iter_mut().flatten() {
                let found = store.get(key(*own), Access::Peek).await.unwrap();
                let number =
                    found.as_ref().map_or(0, |s| u64::from_le_bytes(s.payload[..8].try_into().unwrap()));
                assert!(found.is_none_or(|s| s.payload == payload(number)), "session {own} is torn");
                assert!(
                    states.contains(&number),
                    "life {life}: session {own} is at {number}, not one of {states:?}\n{}",
                    disk.trace().join("\n")
                );
                *states = vec![number];
            }
            disk.crash_at_call(rng.random_range(50..600));
            let tasks: Vec<_> = (0..TASKS)
                .zip(allowed)
                .map(|(task, own)| tokio::spawn(write(store.clone(), task, seed * 1_000 + life, own)))
                .collect();
            allowed = Vec::new();
            for task in tasks {
                allowed.push(task.await.unwrap());
            }
            // Where the call that fails was one of the background, the writers may have met their end before the power went.
            eventually("the power goes", || !disk.has_power()).await;
            drop(store);
            disk.restart();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interval_write_survives_power_loss_once_its_interval_is_over() {
    let disk = SimDisk::new(1);
    let store = LogStore::open_on(Arc::new(disk.clone()), options()).await.unwrap();
    let syncs = store.stats().syncs;
    let soon = store.at(Durability::Interval(Duration::from_millis(5)));
    soon.create_as(key(1), payload(1), HOUR).await.unwrap();
    eventually("the interval's sync", || store.stats().syncs > syncs).await;
    disk.crash();
    drop((store, soon));
    let store = LogStore::open_on(Arc::new(disk.clone()), options()).await.unwrap();
    assert_eq!(store.get(key(1), Access::Peek).await.unwrap().unwrap().payload, payload(1));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_and_rotations_survive_power_loss_without_being_asked_to() {
    let disk = SimDisk::new(1);
    let store = LogStore::open_on(Arc::new(disk.clone()), options()).await.unwrap();
    let synced = store.at(Durability::Sync);
    for n in 0..2 {
        synced.create_as(key(n), payload(n), HOUR).await.unwrap();
    }
    assert!(store.delete(key(0)).await.unwrap());
    let rotated = store.rotate(key(1)).await.unwrap().unwrap();
    disk.crash();
    drop((store, synced));
    let store = LogStore::open_on(Arc::new(disk.clone()), options()).await.unwrap();
    assert_eq!(store.get(key(0), Access::Peek).await.unwrap(), None);
    assert_eq!(store.get(key(1), Access::Peek).await.unwrap(), None);
    assert_eq!(store.get(rotated.key(), Access::Peek).await.unwrap().unwrap().payload, payload(1));
    store.close().await.unwrap();
}

/// A buffered write is in the kernel after a moment and on the device after a second, by the store's own doing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_that_nobody_waits_for_reaches_the_kernel_and_then_the_device() {
    let disk = SimDisk::new(1);
    let store = LogStore::open_on(Arc::new(disk.clone()), options()).await.unwrap();
    // The writer and the syncer sleep; nobody but a single write can wake them.
    for n in 0..2 {
        let before = store.stats();
        store.at(Durability::Buffered).create_as(key(n), payload(n), HOUR).await.unwrap();
        eventually("it is written", || store.stats().groups > before.groups).await;
        eventually("it is synced", || store.stats().syncs > before.syncs).await;
    }
    disk.crash();
    drop(store);
    let store = LogStore::open_on(Arc::new(disk.clone()), options()).await.unwrap();
    assert_eq!(store.recovery().sessions, 2);
    store.close().await.unwrap();
}

/// The syncer may be awake or asleep when the second write comes, so there are many rounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_interval_is_kept_behind_a_long_one_and_before_it() {
    let hour = Duration::from_secs(3_600);
    let soon = Duration::from_millis(2);
    let store = LogStore::open_on(Arc::new(SimDisk::new(1)), options()).await.unwrap();
    for round in 0..100 {
        let before = store.stats();
        let intervals = if round % 2 == 0 { [hour, soon] } else { [soon, hour] };
        for (n, interval) in (0..).zip(intervals) {
            store.at(Durability::Interval(interval)).upsert(key(n), payload(n), HOUR).await.unwrap();
        }
        eventually("the short one's sync", || store.stats().syncs > before.syncs).await;
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_whose_interval_is_not_over_cost_no_sync() {
    let store = LogStore::open_on(Arc::new(SimDisk::new(1)), options()).await.unwrap();
    let later = store.at(Durability::Interval(Duration::from_secs(3_600)));
    let mut costs = BTreeSet::new();
    // The store writes down the time now and then, and syncs that: not in every round.
    for _ in 0..10 {
        let before = store.stats().syncs;
        for n in 0..20 {
            later.upsert(key(n), payload(n), HOUR).await.unwrap();
        }
        costs.insert(store.stats().syncs - before);
    }
    assert!(costs.contains(&0), "syncs of twenty writes: {costs:?}");
    store.close().await.unwrap();
}
