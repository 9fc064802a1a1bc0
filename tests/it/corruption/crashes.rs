//! A salvage that does not end: the power goes at every one of its calls, or one fails.
//!
//! Goal: to refute that a folder is, at every moment of a repair, refused as before or holds what the repair keeps. Method: the calls of one
//! salvage are counted, then it is cut short at each; the folder is opened, and salvaged again.

use cloakroom::disk::Disk as _;
use cloakroom::disk::sim::{DirOps, Fault, SimDisk};
use cloakroom::{LogStore, OpenError};

use super::histories::{Whole, whole};
use super::{Sessions, files, is_segment, observe, open, proven, salvage};
use crate::support::model::End;
use crate::support::{Replay, budget, seeds, spread};

/// Damages a store in ways that make a salvage go each of its ways.
fn damaged(store: &Whole) -> Vec<(&'static str, SimDisk)> {
    let names = store.disk.names();
    let segments: Vec<_> = names.iter().filter(|name| is_segment(name)).collect();
    let strike = |what: &'static str, change: &dyn Fn(&SimDisk)| {
        let disk = store.disk.copy(1);
        change(&disk);
        disk.sync_folder().unwrap();
        (what, disk)
    };
    vec![
        strike("a flipped bit in the first segment", &|disk| disk.flip_bit(segments[0], 200, 1).unwrap()),
        strike("a segment that is missing", &|disk| disk.remove(segments[segments.len() / 2]).unwrap()),
        strike("no manifest", &|disk| disk.remove("MANIFEST").unwrap()),
        strike("a damaged manifest", &|disk| disk.flip_bit("MANIFEST", 30, 1).unwrap()),
        strike("neither manifest", &|disk| {
            disk.remove("MANIFEST").unwrap();
            disk.flip_bit("MANIFEST.copy", 30, 1).unwrap();
        }),
        strike("an old manifest", &|disk| disk.set_contents("MANIFEST", &store.old_list)),
    ]
}

/// Every segment that was there before is there still, under this name or that.
fn is_all_there(before: &SimDisk, disk: &SimDisk) -> bool {
    let after = files(disk);
    let segments = files(before).into_iter().filter(|(name, _)| is_segment(name));
    segments
        .into_iter()
        .all(|(name, bytes)| after.iter().any(|(now, found)| now.ends_with(&name) && *found == bytes))
}

/// After a salvage that was cut short: the folder is refused, or repaired; the next salvage keeps what this one would have.
fn judge(what: &str, store: &Whole, before: &SimDisk, disk: &SimDisk, certain: &Sessions) {
    let Whole { options, keys, .. } = store;
    assert!(is_all_there(before, disk), "{what}: a segment is gone");
    let opened = disk.copy(5);
    match open(&opened, options) {
        Err(OpenError::Damaged { .. }) => assert!(files(&opened) == files(disk), "{what}"),
        Err(other) => panic!("{what}: {other}"),
        Ok(opened) => {
            let found = observe(&opened, keys);
            // Where nothing is certain, a folder without a list and without segments under their names is that of a new store.
            assert!(found == *certain, "{what}: {found:?} instead of {certain:?}");
        }
    }
    let readable = proven(disk, options, keys);
    let reports = || (super::verify(before, options), super::verify(disk, options), disk.names());
    assert!(readable == *certain, "{what}: read-only serves {readable:?}; {:#?}", reports());
    salvage(disk, options).unwrap();
    assert!(is_all_there(before, disk), "{what}: a segment is gone after the next salvage");
    let opened = open(disk, options).unwrap();
    let found = observe(&opened, keys);
    assert!(found == *certain, "{what}, again: {found:?} instead of {certain:?}");
}

fn stores(seed: u64) -> Vec<Whole> {
    [(3, End::Close), (4, End::Kill)].map(|(lives, end)| whole(seed + lives as u64, lives, end)).into()
}

#[test]
fn salvage_that_power_loss_cuts_short_signs_nobody_in_and_can_be_done_again() {
    for seed in seeds([1, 2]) {
        let _replay = Replay("salvage and power loss".into(), seed);
        for store in stores(seed) {
            for (what, before) in damaged(&store) {
                let certain = proven(&before, &store.options, &store.keys);
                let whole = before.copy(2);
                salvage(&whole, &store.options).unwrap();
                let calls = whole.calls();
                for (dir_ops, n) in [DirOps::Ordered, DirOps::Any]
                    .into_iter()
                    .flat_map(|d| spread(calls, budget(25), seed).map(move |n| (d, n)))
                {
                    let disk = before.copy(seed ^ n << 8);
                    disk.dir_ops(dir_ops);
                    disk.crash_at_call(n);
                    drop(salvage(&disk, &store.options));
                    assert!(!disk.has_power(), "{what}: call {n} was never made");
                    disk.restart();
                    let what = format!("{}, {what}, power lost at call {n}, {dir_ops:?}", store.what);
                    judge(&what, &store, &before, &disk, &certain);
                }
            }
        }
    }
}

#[test]
fn salvage_that_a_failing_call_ends_can_be_done_again() {
    for seed in seeds([3]) {
        let _replay = Replay("salvage and a failing call".into(), seed);
        for store in stores(seed) {
            for (what, before) in damaged(&store) {
                let certain = proven(&before, &store.options, &store.keys);
                let whole = before.copy(2);
                salvage(&whole, &store.options).unwrap();
                let calls = whole.calls();
                for (fault, n) in [Fault::Eio, Fault::Enospc]
                    .into_iter()
                    .flat_map(|fault| spread(calls, budget(12), seed).map(move |n| (fault, n)))
                {
                    let disk = before.copy(seed ^ n << 8);
                    disk.fail_call(n, fault);
                    match LogStore::salvage_on(std::sync::Arc::new(disk.clone()), store.options.clone()) {
                        Ok(_) | Err(OpenError::Io { .. }) => {}
                        Err(other) => panic!("{what}: {other}"),
                    }
                    disk.kill();
                    let what = format!("{}, {what}, {fault:?} at call {n}", store.what);
                    judge(&what, &store, &before, &disk, &certain);
                }
            }
        }
    }
}
