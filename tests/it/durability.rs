//! What was acknowledged is kept, what is gone stays gone, and it always opens: histories that end at every possible moment.
//!
//! Goal: to refute the promises P1, P2, P4, P5, P6 and P7. Method: one history runs once to count the disk's calls; then it runs again and again,
//! and the power goes, or the process is killed, at another moment each time; what the next life finds must be explained by the model.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::sim::{DirOps, SimDisk};
use cloakroom::{Access, Durability, Lifetime, LogStore, Options, ReadMode, SessionKey, SessionStore};

use crate::stores::defaults;
use crate::support::history::{NAMES, Op, Step, history};
use crate::support::life::Life;
use crate::support::model::End;
use crate::support::{Replay, budget, seeds, spread};

const HISTORY_LEN: usize = 200;

fn disk(seed: u64, dir_ops: DirOps) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.dir_ops(dir_ops);
    disk
}

/// Runs a history until its end or until the power goes; says how many operations were done.
fn run(life: &mut Life, steps: &[Step]) -> usize {
    steps.iter().position(|step| !life.apply(*step)).unwrap_or(steps.len())
}

/// Runs a history that the power ends in the midst of the `n`-th call, and opens it afterwards.
fn lose_power_at(seed: u64, dir_ops: DirOps, steps: &[Step], n: u64) -> Life {
    let mut life = Life::new(disk(seed ^ n, dir_ops));
    life.disk.crash_at_call(n);
    let opened = life.begin(End::Close);
    if opened.is_ok() && life.disk.has_power() {
        run(&mut life, steps);
    }
    assert!(!life.disk.has_power(), "call {n} was never made");
    life.again(End::PowerLoss);
    life
}

fn calls_of(seed: u64, steps: &[Step]) -> u64 {
    let mut life = Life::open(disk(seed, DirOps::Ordered));
    assert_eq!(run(&mut life, steps), steps.len());
    life.disk.calls()
}

#[test]
fn power_loss_at_any_call_leaves_what_was_acknowledged() {
    for seed in seeds([1, 2, 3, 4]) {
        let _replay = Replay("power loss".into(), seed);
        let steps = history(seed, HISTORY_LEN);
        let calls = calls_of(seed, &steps);
        for dir_ops in [DirOps::Ordered, DirOps::Any] {
            for n in spread(calls, budget(150), seed) {
                let mut life = lose_power_at(seed, dir_ops, &steps, n);
                // It opens a second time, and nothing has changed.
                let found = life.observe();
                life.again(End::Kill);
                assert_eq!(life.observe(), found);
            }
        }
    }
}

/// Where a folder forgets in any order, a list may outlive the power cut that takes the segment which it names.
#[test]
fn segment_is_made_durable_before_a_list_names_it() {
    let lifetime = Lifetime::idle(Duration::from_secs(600));
    let upsert = |name| Step { op: Op::Upsert { name, len: 4_000, lifetime }, durability: Durability::Sync };
    let steps: Vec<Step> = (0..20).map(|n| upsert(n % NAMES)).collect();
    for seed in seeds(71..87) {
        let _replay = Replay("a list before its segment".into(), seed);
        for n in 1..=calls_of(seed, &steps) {
            lose_power_at(seed, DirOps::Any, &steps, n);
        }
    }
}

#[test]
fn power_loss_during_recovery_leaves_what_was_acknowledged() {
    for seed in seeds([11, 12]) {
        let _replay = Replay("power loss during recovery".into(), seed);
        let steps = history(seed, HISTORY_LEN);
        let calls = calls_of(seed, &steps);
        for (dir_ops, n) in [DirOps::Ordered, DirOps::Any]
            .into_iter()
            .flat_map(|d| spread(calls, budget(40), seed).map(move |n| (d, n)))
        {
            // Each call of the recovery in turn; the disk of the next try is the one that the last left.
            let mut life = Life::new(disk(seed ^ n, dir_ops));
            life.disk.crash_at_call(n);
            if life.begin(End::Close).is_ok() && life.disk.has_power() {
                run(&mut life, &steps);
            }
            for call in 1.. {
                life.end(End::PowerLoss);
                life.disk.crash_at_call(call);
                let opened = life.begin(End::PowerLoss);
                if life.disk.has_power() {
                    opened.unwrap();
                    break;
                }
            }
            let found = life.observe();
            life.again(End::PowerLoss);
            assert_eq!(life.observe(), found, "opening twice changes nothing");
        }
    }
}

#[test]
fn kill_after_any_operation_leaves_what_was_acknowledged() {
    for seed in seeds([21, 22, 23]) {
        let _replay = Replay("kill".into(), seed);
        let steps = history(seed, HISTORY_LEN);
        for n in spread(HISTORY_LEN as u64, budget(100), seed) {
            let mut life = Life::open(disk(seed ^ n, DirOps::Ordered));
            let n = usize::try_from(n).unwrap();
            assert_eq!(run(&mut life, &steps[..n]), n);
            life.again(End::Kill);
            let found = life.observe();
            // What a killed process left in memory of the kernel, the next one has put on the device.
            life.again(End::PowerLoss);
            assert_eq!(life.observe(), found);
        }
    }
}

#[test]
fn rotation_is_atomic_across_a_crash() {
    let lifetime = Lifetime::idle(Duration::from_secs(600));
    let steps: Vec<Step> = (0..12)
        .map(|n| match n % 3 {
            0 => Op::Upsert { name: n / 6, len: 2_500, lifetime },
            _ => Op::Rotate { name: n / 6 },
        })
        .map(|op| Step { op, durability: Durability::Sync })
        .collect();
    for seed in seeds(51..71) {
        let _replay = Replay("rotation".into(), seed);
        let calls = calls_of(seed, &steps);
        for (dir_ops, n) in
            [DirOps::Ordered, DirOps::Any].into_iter().flat_map(|d| (1..=calls).map(move |n| (d, n)))
        {
            let life = lose_power_at(seed, dir_ops, &steps, n);
            // The model has compared all states; this says in short what it would have said at length.
            let found = life.observe();
            let payloads: BTreeSet<_> = found.values().map(|stored| stored.payload.clone()).collect();
            assert_eq!(payloads.len(), found.len(), "a session is there under two keys");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_that_maps_nothing_keeps_its_sessions_in_a_real_folder() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 64 << 10,
        payload_bytes_max: 4_096,
        read_mode: ReadMode::Pread,
        ..defaults()
    };
    let hour = Lifetime::idle(Duration::from_secs(3_600));
    let key = |n: u32| SessionKey::of(&n.to_le_bytes());
    let payload = |n: u32, round: u8| Bytes::from([n.to_le_bytes().repeat(500), vec![round]].concat());
    for round in 0..3 {
        let store = LogStore::open(folder.path(), options.clone()).await.unwrap();
        for n in 0..100 {
            let found = store.get(key(n), Access::Peek).await.unwrap();
            assert_eq!(found.map(|s| s.payload), (round > 0).then(|| payload(n, round - 1)), "session {n}");
        }
        for n in 0..100 {
            store.upsert(key(n), payload(n, round), hour).await.unwrap();
        }
        for n in 0..100 {
            let found = store.get(key(n), Access::Touch).await.unwrap().unwrap();
            assert_eq!(found.payload, payload(n, round));
        }
        if round == 1 {
            assert_eq!(store.keys(None, 1_000).await.unwrap().keys.len(), 100);
        }
        store.close().await.unwrap();
    }
}
