//! The list of a life that a kill ended, put back after the open that wrote its unsynced end again.
//!
//! Goal: it is told, whatever became of the old end, since who was signed out in that is in it again. Method: what can be left of the old end is
//! brought about, by power loss, by a footer and by a call that fails. Beside that the list of another store, which knows of nothing.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use cloakroom::disk::Disk as _;
use cloakroom::disk::sim::{Call, DirOps, Fault, SimDisk};
use cloakroom::{Durability, LogStore, OpenError, Options, SessionStore as _, Work};

use super::cut_short::{DAY, key, live, put_of, sign_out, store};
use super::{files, is_segment, observe, open, proven, salvage, verify};
use crate::support::life::drive;

/// Refuses it and tells why; the repair has nobody who was signed out.
fn is_told(disk: &SimDisk, options: &Options, what: &str) {
    let before = files(disk);
    assert!(!verify(disk, options).is_sound(), "{what}: verify says that it is sound");
    let opened = open(disk, options);
    assert!(matches!(opened, Err(OpenError::Damaged { .. })), "{what}: {:?}", opened.err());
    assert!(files(disk) == before, "{what}: the files were changed");
    assert!(!proven(disk, options, &[]).contains_key(&key(1)), "{what}: who was signed out is back");
    salvage(disk, options).unwrap();
    assert!(!observe(&open(disk, options).unwrap(), &[]).contains_key(&key(1)), "{what}: it is kept");
}

/// Who is signed out, in an end that no sync covered, and a kill.
fn signed_out_and_killed(disk: &SimDisk, options: &Options, count: u32) -> Vec<u8> {
    let life = open(disk, options).unwrap();
    let list = disk.contents("MANIFEST").unwrap();
    (0..count).for_each(|n| put_of(&life.at(Durability::Buffered), n, 300));
    drive(&life, life.flush()).unwrap().unwrap();
    (0..4).for_each(|_| life.step());
    sign_out(&life.at(Durability::Buffered), 1);
    life.work(Work::Write);
    disk.kill();
    list
}

#[test]
fn list_of_a_killed_life_is_told_though_power_loss_took_the_end_that_was_written_again() {
    for (seed, order) in (0..40).flat_map(|seed| [(seed, DirOps::Ordered), (seed, DirOps::Any)]) {
        let (disk, options) = (SimDisk::new(seed), store().1);
        disk.dir_ops(order);
        let list = signed_out_and_killed(&disk, &options, 10);
        let second = open(&disk, &options).unwrap();
        assert!(!observe(&second, &[]).contains_key(&key(1)), "seed {seed}");
        disk.crash();
        drop(second);
        assert!(observe(&open(&disk.copy(1), &options).unwrap(), &[]).len() == 9, "seed {seed}");
        disk.set_contents("MANIFEST", &list);
        is_told(&disk, &options, &format!("seed {seed}, {order:?}"));
    }
}

#[test]
fn list_of_a_killed_life_is_told_though_the_end_that_was_written_again_could_not_be_cut_off() {
    let (mut opened, mut refused) = (0, 0);
    for (count, nth) in [20, 60, 100].into_iter().flat_map(|count| (1..6).map(move |nth| (count, nth))) {
        let (disk, options) = store();
        let list = signed_out_and_killed(&disk, &options, count);
        disk.fail_call_of(Call::Truncate, nth, Fault::Eio);
        let Ok(second) = open(&disk, &options) else {
            refused += 1;
            continue;
        };
        opened += 1;
        assert!(!observe(&second, &[]).contains_key(&key(1)), "{count} sessions, call {nth}");
        drive(&second, second.close()).unwrap().unwrap();
        drop(second);
        disk.restart();
        disk.set_contents("MANIFEST", &list);
        is_told(&disk, &options, &format!("{count} sessions, call {nth}"));
    }
    assert!(opened > 6, "{opened} opened, {refused} did not");
}

/// The kill comes in the first group behind a turn, so that the segment which is cut is nearly full.
#[test]
fn list_of_a_killed_life_is_told_though_a_footer_makes_up_for_what_was_cut_off() {
    for len in [60, 100, 200, 300] {
        let (disk, options) = store();
        let again = || LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()).unwrap();
        let life = again();
        let list = disk.contents("MANIFEST").unwrap();
        let (fast, synced) = (life.at(Durability::Buffered), life.at(Durability::Sync));
        let mut context = Context::from_waker(Waker::noop());
        for n in 0.. {
            // Until there is no room, and the keeper has not come yet.
            if pin!(fast.upsert(key(n), vec![7; len].into(), DAY)).poll(&mut context).is_pending() {
                break;
            }
            if n % 20 == 0 {
                life.work(Work::Write);
                life.work(Work::Sync);
            }
        }
        let mut out = pin!(synced.delete(key(1)));
        for work in [Work::Write, Work::Sync, Work::Write, Work::Sync, Work::Keep, Work::Write, Work::Sync] {
            life.work(work);
            if work == Work::Keep {
                // The next segment has come, and the stream goes on in it.
                assert!(out.as_mut().poll(&mut context).is_pending());
            }
        }
        assert!(matches!(out.as_mut().poll(&mut context), Poll::Ready(Ok(true))), "{len} bytes each");
        disk.kill();
        let second = again();
        assert!(!observe(&second, &[]).contains_key(&key(1)), "{len} bytes each");
        drive(&second, second.close()).unwrap().unwrap();
        drop(second);
        disk.set_contents("MANIFEST", &list);
        is_told(&disk, &options, &format!("{len} bytes each"));
    }
}

/// An open that cannot end tells no later one that the list is old: neither by the copies that it made, nor by the list that it left.
#[test]
fn copies_of_opens_that_come_to_nothing_are_no_sign_of_another_list() {
    let (disk, options) = store();
    signed_out_and_killed(&disk, &options, 10);
    let mut is_durable = false;
    for nth in 1..60 {
        disk.fail_call(nth, Fault::Eio);
        let opened = open(&disk, &options);
        disk.restart();
        if let Ok(store) = opened {
            assert!(!observe(&store, &[]).contains_key(&key(1)), "call {nth}");
            disk.kill();
            is_durable = true;
        }
        assert!(verify(&disk, &options).is_sound(), "call {nth}");
        let copy = disk.copy(nth);
        copy.crash();
        assert!(verify(&copy, &options).is_sound(), "power loss behind call {nth}");
        let held = observe(&open(&copy, &options).unwrap(), &[]).len();
        assert!(held == 9 || held == 10 && !is_durable, "power loss behind call {nth}: {held} sessions");
    }
    assert!(is_durable);
}

/// Room is made by removing what compaction left, for which the list is written once more; and a copy that was made stays.
#[test]
fn open_that_makes_room_and_is_cut_short_leaves_no_older_list() {
    let (whole, options) = store();
    live(&whole, &options, |store| put_of(store, 0, 400));
    signed_out_and_killed(&whole, &options, 10);
    let names: Vec<_> = whole.names().into_iter().filter(|name| is_segment(name)).collect();
    let left = (1..9).map(|id| format!("{id:08x}.seg")).find(|name| !names.contains(name)).unwrap();
    assert!(left < names[names.len() - 1], "it is of an id that was given: {names:?}");
    let (mut made, mut cut) = (0, 0);
    let cases = (0..24)
        .flat_map(|room| (1..60).flat_map(move |nth| (1..4).map(move |kept| (room * 2_048, nth, kept))));
    for (room, nth, kept) in cases {
        let disk = whole.copy(nth);
        let what = format!("{room} bytes of room, removal {kept} fails, power loss at call {nth}");
        disk.create(&left, 1).unwrap();
        disk.set_contents(&left, &whole.contents(&names[0]).unwrap());
        disk.space_bytes(disk.used_bytes() + room);
        disk.fail_call_of(Call::Remove, kept, Fault::Eio);
        disk.fail_call(nth, Fault::PowerLoss);
        let opened = open(&disk, &options);
        made += usize::from(disk.contents(&left).is_none());
        cut += usize::from(opened.is_err());
        drop(opened);
        disk.crash();
        disk.space_bytes(u64::MAX);
        assert!(verify(&disk, &options).is_sound() && open(&disk, &options).is_ok(), "{what}");
    }
    assert!(made > 0 && cut > 0);
}

/// A store that is closed and holds nothing has a list of nothing.
fn of_nothing(options: &Options) -> Vec<u8> {
    let other = SimDisk::new(77);
    live(&other, options, |_| ());
    other.contents("MANIFEST").unwrap()
}

#[test]
fn list_of_nothing_of_another_store_beside_copies_alone_is_told() {
    let (disk, options) = store();
    let life = open(&disk, &options).unwrap();
    put_of(&life.at(Durability::Sync), 0, 300);
    disk.kill();
    drop(life);
    live(&disk, &options, |_| ());
    let written = |name: &String| is_segment(name) && disk.contents(name).unwrap()[0] != 0;
    let kinds: Vec<_> =
        disk.names().into_iter().filter(written).map(|n| disk.contents(&n).unwrap()[10]).collect();
    assert_eq!(kinds, [2], "copies alone: {:?}", disk.names());
    disk.set_contents("MANIFEST", &of_nothing(&options));
    let refused = open(&disk, &options).err().unwrap().to_string();
    assert!(refused.contains("of another store than the manifest"), "{refused}");
    is_told(&disk, &options, "of another store");
}

#[test]
fn list_of_nothing_of_before_a_salvage_is_told() {
    let (disk, options) = store();
    live(&disk, &options, |_| ());
    let nothing = disk.contents("MANIFEST").unwrap();
    live(&disk, &options, |store| (0..8).for_each(|n| put_of(store, n, 400)));
    disk.flip_bit("MANIFEST", 40, 1).unwrap();
    assert_eq!(salvage(&disk, &options).unwrap().sessions_kept, 8);
    disk.set_contents("MANIFEST", &nothing);
    is_told(&disk, &options, "of before");
}
