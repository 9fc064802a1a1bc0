//! A salvage that is cut short where nothing that is listed tells of it: beside a list of nothing, and beside segments without a header.
//!
//! Goal: such a folder is refused, or holds what the salvage keeps, and the next salvage keeps the same. Method: power goes, or a call fails, at every
//! call of the salvage, with both ways in which a folder may lose names.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::disk::Disk as _;
use cloakroom::disk::sim::{Call, DirOps, Fault, SimDisk};
use cloakroom::probe::{Form, mend};
use cloakroom::{Durability, Lifetime, LogStore, OpenError, Options, SessionKey, SessionStore as _};

use super::{Sessions, is_segment, observe, open, proven, salvage, verify};
use crate::support::life::{Life, drive};

pub const DAY: Lifetime = Lifetime::absolute(Duration::from_secs(86_400));

pub fn key(n: u32) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

pub fn live(disk: &SimDisk, options: &Options, work: impl FnOnce(&LogStore)) {
    live_in(&open(disk, options).unwrap(), work);
}

fn live_in(store: &LogStore, work: impl FnOnce(&LogStore)) {
    let store = store.at(Durability::Sync);
    work(&store);
    drive(&store, store.close()).unwrap().unwrap();
}

fn put(store: &LogStore, n: u32) {
    put_of(store, n, 300);
}

pub fn put_of(store: &LogStore, n: u32, len: usize) {
    drive(store, store.upsert(key(n), vec![7; len].into(), DAY)).unwrap().unwrap();
}

pub fn sign_out(store: &LogStore, n: u32) {
    assert!(drive(store, store.delete(key(n))).unwrap().unwrap());
}

fn newest(disk: &SimDisk) -> String {
    disk.names().into_iter().filter(|name| is_segment(name)).max().unwrap()
}

fn fail_call(disk: &SimDisk, n: u64) {
    disk.fail_call(n, Fault::Eio);
}

/// Cuts a salvage short at each of its calls; gives what is certain.
fn cut_short(disk: &SimDisk, options: &Options) -> Sessions {
    assert!(open(&disk.copy(1), options).is_err());
    let certain = proven(disk, options, &[]);
    let whole = disk.copy(1);
    let before = whole.calls();
    salvage(&whole, options).unwrap();
    assert!(observe(&open(&whole, options).unwrap(), &[]) == certain);
    for n in 1..=whole.calls() - before {
        for (dir_ops, fails) in [(DirOps::Ordered, false), (DirOps::Any, false), (DirOps::Any, true)] {
            let what = format!("call {n}, {dir_ops:?}, fails: {fails}");
            let cut = disk.copy(n);
            cut.dir_ops(dir_ops);
            let strike = if fails { fail_call } else { SimDisk::crash_at_call };
            strike(&cut, n);
            drop(salvage(&cut, options));
            let end = if fails { SimDisk::kill } else { SimDisk::restart };
            end(&cut);
            let is_sound = verify(&cut, options).is_sound();
            match open(&cut.copy(3), options) {
                Ok(store) => {
                    let found = observe(&store, &[]);
                    assert!(
                        is_sound && found == certain,
                        "{what}: sound: {is_sound}, {} are there, {:?}",
                        found.len(),
                        cut.names()
                    );
                }
                Err(e) => assert!(!is_sound, "{what}: {e}"),
            }
            assert!(proven(&cut, options, &[]) == certain, "{what}: others are certain then");
            salvage(&cut, options).unwrap();
            assert!(observe(&open(&cut, options).unwrap(), &[]) == certain, "{what}: the next keeps others");
        }
    }
    certain
}

pub fn store() -> (SimDisk, Options) {
    (SimDisk::new(1), Life::new(SimDisk::new(1)).options)
}

#[test]
fn salvage_beside_a_list_of_nothing_that_is_cut_short_leaves_no_empty_store() {
    let (disk, options) = store();
    live(&disk, &options, |_| ());
    let nothing = disk.contents("MANIFEST").unwrap();
    live(&disk, &options, |store| (0..5).for_each(|n| put(store, n)));
    live(&disk, &options, |store| put(store, 9));
    disk.set_contents("MANIFEST", &nothing);
    assert_eq!(cut_short(&disk, &options).len(), 1);
}

#[test]
fn salvage_beside_a_stream_without_a_header_that_is_cut_short_brings_nobody_back() {
    let (disk, options) = store();
    live(&disk, &options, |store| (0..5).for_each(|n| put(store, n)));
    let list = disk.contents("MANIFEST").unwrap();
    live(&disk, &options, |store| sign_out(store, 1));
    let mut wiped = disk.contents(&newest(&disk)).unwrap();
    wiped[..64].fill(0);
    disk.set_contents(&newest(&disk), &wiped);
    disk.set_contents("MANIFEST", &list);
    assert!(cut_short(&disk, &options).is_empty());
}

#[test]
fn salvage_beside_a_segment_of_another_store_that_is_cut_short_comes_to_the_same_end() {
    let (disk, options) = store();
    live(&disk, &options, |store| (0..5).for_each(|n| put(store, n)));
    let other = SimDisk::new(2);
    (0..6).for_each(|n| live(&other, &options, |store| put(store, n)));
    disk.create(&newest(&other), 1).unwrap();
    disk.set_contents(&newest(&other), &other.contents(&newest(&other)).unwrap());
    assert!(cut_short(&disk, &options).is_empty());
}

/// What a crash left of a compaction, damaged: both lists say that it does not count.
#[test]
fn leftover_with_a_damaged_header_costs_nobody_beside_two_lists_that_agree() {
    let (disk, options) = store();
    live(&disk, &options, |store| (0..5).for_each(|n| put(store, n)));
    let mut leftover = disk.contents(&newest(&disk)).unwrap();
    leftover[40..44].copy_from_slice(&0x100_u32.to_le_bytes());
    leftover[20] ^= 1;
    disk.create("00000100.seg", 1).unwrap();
    disk.set_contents("00000100.seg", &leftover);
    assert!(disk.contents("MANIFEST") == disk.contents("MANIFEST.copy"));
    assert_eq!(cut_short(&disk, &options).len(), 5);
    disk.set_contents("MANIFEST.copy", b"what another list was");
    assert!(cut_short(&disk, &options).is_empty(), "nothing tells that the list is the newest");
}

/// Signs 1 out, and lets compaction take all that this was written to; gives the list of before.
fn signed_out_and_compacted(disk: &SimDisk, options: &Options) -> Vec<u8> {
    live(disk, options, |store| (0..8).for_each(|n| put_of(store, n, 4_000)));
    let list = disk.contents("MANIFEST").unwrap();
    live(disk, options, |store| {
        put_of(store, 30, 4_000);
        for n in [1, 30] {
            sign_out(store, n);
        }
    });
    let written = newest(disk);
    live(disk, options, |store| (0..50).for_each(|_| store.step()));
    assert!(disk.contents(&written).is_none(), "it is still there: {:?}", disk.names());
    list
}

#[test]
fn older_list_is_told_though_all_that_was_written_since_was_compacted() {
    let (disk, options) = store();
    let list = signed_out_and_compacted(&disk, &options);
    let newer: Vec<_> = disk.names().into_iter().filter(|name| is_segment(name)).collect();
    disk.set_contents("MANIFEST", &list);
    assert!(!cut_short(&disk, &options).contains_key(&key(1)), "beside {newer:?}");
}

/// Gives a segment another id, and the salt with which its groups hold.
fn rename(bytes: &mut [u8], id: u32) {
    let seed_of = |id: u32| u64::from(id).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let old = u32::from_le_bytes(bytes[40..44].try_into().unwrap());
    let salt = u64::from_le_bytes(bytes[48..56].try_into().unwrap()) ^ seed_of(old) ^ seed_of(id);
    bytes[40..44].copy_from_slice(&id.to_le_bytes());
    bytes[48..56].copy_from_slice(&salt.to_le_bytes());
    mend(Form::Segment, bytes, 0);
}

/// A removal of a leftover that power loss took back, beside the list of a store that was closed: it is no sign of another list.
#[test]
fn leftover_that_comes_back_beside_the_list_of_a_closed_store_costs_nobody() {
    let (disk, options) = store();
    drop(signed_out_and_compacted(&disk, &options));
    let is_copy = |name: &String| disk.contents(name).is_some_and(|bytes| bytes[10] == 2);
    let copy = disk.names().into_iter().filter(|name| is_segment(name)).find(is_copy).unwrap();
    let id = u32::from_str_radix(&copy[..8], 16).unwrap();
    for ahead in [4, 5, 9, 300] {
        let disk = disk.copy(1);
        let (mut bytes, id) = (disk.contents(&copy).unwrap(), id + ahead);
        rename(&mut bytes, id);
        let name = format!("{id:08x}.seg");
        let mut held = Sessions::default();
        live(&disk, &options, |store| held = observe(store, &[]));
        disk.create(&name, 1).unwrap();
        disk.set_contents(&name, &bytes);
        assert!(verify(&disk, &options).is_sound(), "{ahead} ahead");
        assert!(held.len() == 7 && observe(&open(&disk, &options).unwrap(), &[]) == held, "{ahead} ahead");
        assert!(disk.contents(&name).is_none(), "{ahead} ahead");
    }
}

/// A list of nothing is put back, beside copies alone. Nobody is certain, and a salvage that moves them all aside says so to the end.
#[test]
fn salvage_beside_a_list_of_nothing_and_copies_that_is_cut_short_comes_to_the_same_end() {
    let (disk, options) = store();
    live(&disk, &options, |_| ());
    let nothing = disk.contents("MANIFEST").unwrap();
    drop(signed_out_and_compacted(&disk, &options));
    let is_stream = |name: &String| disk.contents(name).is_some_and(|bytes| bytes[10] == 1);
    for stream in disk.names().into_iter().filter(|name| is_segment(name)).filter(is_stream) {
        disk.remove(&stream).unwrap();
    }
    disk.sync_folder().unwrap();
    disk.set_contents("MANIFEST", &nothing);
    assert!(cut_short(&disk, &options).is_empty());
}

/// The segment that the list leaves open was filled, and has a footer that makes up for what was cut off.
#[test]
fn older_list_of_an_open_store_is_told_though_all_that_was_written_since_was_compacted() {
    for count in 148..157 {
        let (disk, options) = store();
        let again = || LogStore::open_by_hand(Arc::new(disk.clone()), options.clone());
        let mut list = Vec::new();
        live_in(&again().unwrap(), |store| {
            list = disk.contents("MANIFEST").unwrap();
            let fast = store.at(Durability::Buffered);
            (0..count).for_each(|n| put(&fast, n));
        });
        live_in(&again().unwrap(), |store| {
            put_of(store, 300, 4_000);
            for n in [1, 300] {
                sign_out(store, n);
            }
        });
        live_in(&again().unwrap(), |store| (0..50).for_each(|_| store.step()));
        disk.set_contents("MANIFEST", &list);
        assert!(again().is_err() && !verify(&disk, &options).is_sound(), "{count} sessions");
        assert!(!proven(&disk, &options, &[]).contains_key(&key(1)), "{count} sessions");
    }
}

/// A compaction that fails at its list has removed its copies; a sync of the folder that fails lets go of that, and the next says `Ok`.
fn removals_are_lost(seed: u64, nth: u64, dir_ops: DirOps) {
    let (disk, options) = (SimDisk::new(seed), store().1);
    let classes = [1_800, 43_200, 3 * 86_400, 30 * 86_400];
    live(&disk, &options, |store| {
        for (n, secs) in (0..16).zip(classes.into_iter().cycle()) {
            let lifetime = Lifetime::absolute(Duration::from_secs(secs));
            drive(store, store.upsert(key(n), vec![7; 3_000].into(), lifetime)).unwrap().unwrap();
        }
    });
    disk.dir_ops(dir_ops);
    let killed = open(&disk, &options).unwrap().at(Durability::Sync);
    disk.fail_call_of(Call::Create, nth, Fault::Eio);
    (0..8).for_each(|n| sign_out(&killed, n));
    disk.kill();
    drop(killed);
    disk.fail_call_of(Call::SyncFolder, 1, Fault::Eio);
    assert!(matches!(open(&disk, &options), Err(OpenError::Io { .. })));
    disk.kill();
    live(&disk, &options, |store| assert_eq!(observe(store, &[]).len(), 8));
    disk.crash();
    let what = format!("seed {seed}, create {nth}, {dir_ops:?}: {:?}", disk.names());
    assert!(verify(&disk, &options).is_sound(), "{what}");
    assert_eq!(observe(&open(&disk, &options).unwrap(), &[]).len(), 8, "{what}");
}

#[test]
fn copies_of_which_a_failed_sync_lost_the_removal_are_no_sign_of_another_list() {
    for (dir_ops, seed) in
        [DirOps::Ordered, DirOps::Any].into_iter().flat_map(|d| (0..6).map(move |n| (d, n)))
    {
        (3..12).for_each(|nth| removals_are_lost(seed, nth, dir_ops));
    }
}
