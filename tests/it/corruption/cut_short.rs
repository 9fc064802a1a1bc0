//! A salvage that is cut short where nothing that is listed tells of it: beside a list of nothing, and beside segments without a header.
//!
//! Goal: such a folder is refused, or holds what the salvage keeps, and the next salvage keeps the same. Method: power goes, or a call fails, at every
//! call of the salvage, with both ways in which a folder may lose names.

use std::time::Duration;

use cloakroom::disk::Disk as _;
use cloakroom::disk::sim::{DirOps, Fault, SimDisk};
use cloakroom::probe::{Form, mend};
use cloakroom::{Durability, Lifetime, LogStore, Options, SessionKey, SessionStore as _};

use super::{Sessions, is_segment, observe, open, proven, salvage, verify};
use crate::support::life::{Life, drive};

const DAY: Lifetime = Lifetime::absolute(Duration::from_secs(86_400));

fn key(n: u32) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

fn live(disk: &SimDisk, options: &Options, work: impl FnOnce(&LogStore)) {
    let store = open(disk, options).unwrap().at(Durability::Sync);
    work(&store);
    drive(&store, store.close()).unwrap().unwrap();
}

fn put(store: &LogStore, n: u32) {
    put_of(store, n, 300);
}

fn put_of(store: &LogStore, n: u32, len: usize) {
    drive(store, store.upsert(key(n), vec![7; len].into(), DAY)).unwrap().unwrap();
}

fn sign_out(store: &LogStore, n: u32) {
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

fn store() -> (SimDisk, Options) {
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
        // A life that a crash ended had begun to copy.
        let store = open(&disk, &options).unwrap();
        disk.crash();
        drop(store);
        disk.restart();
        disk.create(&name, 1).unwrap();
        disk.set_contents(&name, &bytes);
        let mut held = Sessions::default();
        live(&disk, &options, |store| held = observe(store, &[]));
        assert!(disk.contents(&name).is_none() && held.len() == 7);
        disk.create(&name, 1).unwrap();
        disk.set_contents(&name, &bytes);
        assert!(verify(&disk, &options).is_sound(), "{ahead} ahead");
        assert!(observe(&open(&disk, &options).unwrap(), &[]) == held, "{ahead} ahead");
    }
}
