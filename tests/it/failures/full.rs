//! A disk that is full: a store on it can always shrink, by deletes and by what expires, however its sessions lie; and it opens.
//!
//! Goal: to refute P9 where there is no room for anything. Method: the simulated disk gets no byte more than the store takes when the disk is
//! called full; what is then to come back must come back without any.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use cloakroom::disk::Disk;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{Access, Answer, Durability, Error, Lifetime, LogStore, Options, SessionStore, Work};

use crate::corruption::is_segment;
use crate::support::acked::{key, payload};
use crate::support::life::{Life, SEGMENT_BYTES, drive};
use crate::support::{Replay, seeds};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

const DAY: Lifetime = Lifetime::absolute(Duration::from_secs(86_400));

/// What two lists of segments differ by.
const SLACK_BYTES: u64 = 64;

/// As long as a segment, and a margin for a list.
const RESERVE_BYTES: u32 = SEGMENT_BYTES + (8 << 10);

/// What the reserve gives the stream: room for the shortest segment, and for a list.
const SPARED_BYTES: u32 = 24 << 10;

fn open(life: &Life) -> LogStore {
    let opened = LogStore::open_by_hand(Arc::new(life.disk.clone()), life.options.clone());
    opened.unwrap_or_else(|e| panic!("{e}\n{}", life.trace())).at(Durability::Sync)
}

fn put(store: &LogStore, n: u32, len: usize) -> Result<(), Error> {
    drive(store, store.upsert(key(n), payload(n, len).into(), DAY)).unwrap()
}

/// Whether it is done without any work behind it.
pub fn at_once<T: Unpin>(answer: Answer<'_, T>) -> bool {
    pin!(answer).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn there(store: &LogStore, n: u32) -> bool {
    let found = drive(store, store.get(key(n), Access::Peek)).unwrap().unwrap();
    found.is_some_and(|stored| stored.payload == payload(n, stored.payload.len()))
}

/// Deletes, and waits for room if there is none: `false` if it does not come.
fn delete(store: &LogStore, n: u32) -> bool {
    for _ in 0..200 {
        match drive(store, store.delete(key(n))).unwrap() {
            Ok(deleted) => return deleted,
            Err(Error::DiskFull) => store.step(),
            Err(other) => panic!("{other}"),
        }
    }
    false
}

/// The power goes. It undoes cuts of sealed segments, and may take the reserve, which is not synced: together that may be more than the disk has.
/// No disk is that, so it has as much as it needs for both.
fn lose_power(life: &Life) {
    let limit = life.disk.used_bytes() + SLACK_BYTES;
    life.disk.crash();
    life.disk.space_bytes(limit.max(life.disk.used_bytes() + u64::from(SEGMENT_BYTES)));
}

/// A store of so many sessions of so many bytes, which are all that its disk has room for.
fn full(life: &Life, sessions: u32, len: usize) -> (LogStore, u32) {
    let store = open(life);
    (0..sessions).for_each(|n| put(&store, n, len).unwrap());
    (0..20).for_each(|_| store.step());
    life.disk.space_bytes(life.disk.used_bytes() + SLACK_BYTES);
    let more = (sessions..sessions + 1_000).find(|n| put(&store, *n, len).is_err());
    (store, more.unwrap())
}

#[test]
fn store_on_a_full_disk_shrinks_though_every_segment_is_partly_alive() {
    // Of five sessions so many are deleted, one here and one there, so that no segment dies whole.
    for (of_five, len) in [(3, 3_000), (2, 3_000), (1, 3_000), (3, 300), (1, 300)] {
        let life = Life::new(SimDisk::new(1));
        let (store, sessions) = full(&life, 600_000 / u32::try_from(len).unwrap(), len);
        let used = life.disk.used_bytes();
        let (gone, stay): (Vec<_>, Vec<_>) = (0..sessions).partition(|n| n % 5 < of_five);
        for (at, n) in gone.iter().enumerate() {
            assert!(delete(&store, *n), "delete {at} of {} is refused for ever, {of_five} of 5", gone.len());
        }
        (0..200).for_each(|_| store.step());
        let (now, stats) = (life.disk.used_bytes(), store.stats());
        let bound = 2 * stats.live_bytes + 2 * u64::from(SEGMENT_BYTES) + (16 << 10);
        assert!(now <= bound, "{used} bytes were used, then {now}: {stats:?}");
        // What came back can be written to.
        let freed: u64 = gone.len() as u64 * len as u64;
        let fits = u32::try_from(freed / 2 / (len as u64 + 300)).unwrap();
        for n in 0..fits {
            assert!(
                put(&store, 10_000 + n, len).is_ok() || {
                    (0..100).for_each(|_| store.step());
                    put(&store, 10_000 + n, len).is_ok()
                },
                "{n} of {fits} fit, {of_five} of 5: {:?}",
                store.stats()
            );
        }
        lose_power(&life);
        drop(store);
        let store = open(&life);
        assert!(gone.iter().all(|n| !there(&store, *n)), "who was signed out came back");
        assert!(stay.iter().all(|n| there(&store, *n)), "somebody was lost");
    }
}

#[test]
fn store_opens_on_a_disk_that_was_full_when_it_was_killed() {
    for (seed, kill) in (0..8).flat_map(|seed| [(seed, true), (seed, false)]) {
        let life = Life::new(SimDisk::new(seed));
        let (store, sessions) = full(&life, 200, 3_000);
        let deleted = u32::try_from(seed).unwrap() * 3;
        assert!((0..deleted).all(|n| delete(&store, n)));
        if kill {
            life.disk.kill();
        } else {
            lose_power(&life);
        }
        drop(store);
        for _ in 0..3 {
            let store = open(&life);
            assert!((0..deleted).all(|n| !there(&store, n)));
            assert!((deleted..sessions).all(|n| there(&store, n)));
            life.disk.kill();
        }
        let store = open(&life);
        assert!((deleted..sessions).all(|n| delete(&store, n)), "it cannot be emptied");
        (0..20).for_each(|_| store.step());
        put(&store, 10_000, 3_000).unwrap();
    }
}

#[test]
fn expiry_alone_gives_the_space_of_a_full_disk_back() {
    let life = Life::new(SimDisk::new(1));
    let (store, sessions) = full(&life, 200, 3_000);
    let used = life.disk.used_bytes();
    life.clock.advance(Duration::from_secs(86_400));
    (0..20).for_each(|_| store.step());
    assert!((0..sessions).all(|n| !there(&store, n)));
    let now = life.disk.used_bytes();
    assert!(now <= 2 * u64::from(SEGMENT_BYTES) + (16 << 10), "{used} bytes, then {now}");
    put(&store, 1, 3_000).unwrap();
}

/// What was set aside for bad times is no use to a store that is closed.
#[test]
fn closed_store_leaves_no_reserve_behind() {
    let life = Life::new(SimDisk::new(1));
    let store = open(&life);
    (0..30).for_each(|n| put(&store, n, 3_000).unwrap());
    (0..20).for_each(|_| store.step());
    drive(&store, store.close()).unwrap().unwrap();
    let (used, log_bytes) = (life.disk.used_bytes(), store.stats().log_bytes);
    assert!(used < log_bytes + 1_024, "{used} bytes for a log of {log_bytes}: {:?}", life.disk.names());
}

/// Many small segments are merged also where only the reserve has room for the copy, and that comes to rest.
#[test]
fn small_segments_are_merged_on_a_full_disk_and_that_ends() {
    let life = Life::new(SimDisk::new(1));
    for n in 0..8 {
        let store = open(&life);
        if n == 7 {
            life.disk.space_bytes(life.disk.used_bytes() + SLACK_BYTES);
        }
        (n * 2..n * 2 + 2).for_each(|n| put(&store, n, 1_000).unwrap());
        drive(&store, store.close()).unwrap().unwrap();
    }
    let (store, sessions) = (open(&life), 16);
    life.disk.space_bytes(life.disk.used_bytes() + SLACK_BYTES);
    let at_rest = (0..100).any(|_| {
        let calls = life.disk.calls();
        store.step();
        life.disk.calls() == calls
            || life.disk.trace().iter().rev().take(8).all(|call| !call.contains("Write"))
    });
    assert!(at_rest, "it copies for ever\n{}", life.trace());
    assert!((0..sessions).all(|n| there(&store, n)));
    assert!(store.stats().segments <= 3, "they were not merged: {:?}", store.stats());
}

/// Fills the disk: whole segments of sessions that stay, and then the last one with visitors, 1,000 up to what this gives, whose time is a minute.
fn filled_by_visitors(life: &Life, store: &LogStore, sessions: u32, living: u32) -> u32 {
    (0..sessions).for_each(|n| put(store, n, 3_000).unwrap());
    (0..20).for_each(|_| store.step());
    let segments = store.stats().segments;
    while store.stats().segments == segments {
        put(store, 9_999, 3_000).unwrap();
        (0..4).for_each(|_| store.step());
    }
    (5_000..5_000 + living).for_each(|n| put(store, n, 3_000).unwrap());
    life.disk.space_bytes(life.disk.used_bytes() + SLACK_BYTES);
    let short = Lifetime::absolute(Duration::from_secs(60));
    let visit = |n| drive(store, store.upsert(key(n), payload(n, 3_000).into(), short)).unwrap();
    let more = (1_000..2_000).find(|n| visit(*n).is_err()).unwrap();
    assert!(more + living > 1_010, "only {} found room", more - 1_000);
    more
}

/// The last segment is not compacted while records go into it: the store leaves it, for what is kept for bad times.
#[test]
fn what_died_in_the_last_segment_alone_makes_room_on_a_full_disk() {
    for by_expiry in [true, false] {
        let life = Life::new(SimDisk::new(1));
        let (store, sessions) = (open(&life), 100);
        let more = filled_by_visitors(&life, &store, sessions, 0);
        if by_expiry {
            life.clock.advance(Duration::from_secs(61));
        } else {
            (1_000..more)
                .for_each(|n| assert!(delete(&store, n), "delete {n} of {more} is refused for ever"));
        }
        (0..50).for_each(|_| store.step());
        for n in 0..10 {
            assert!(
                put(&store, 3_000 + n, 3_000).is_ok(),
                "put {n}: {:?} {:?}",
                store.stats(),
                life.disk.names()
            );
            store.step();
        }
        lose_power(&life);
        drop(store);
        let store = open(&life);
        assert!((0..sessions).all(|n| there(&store, n)), "somebody was lost");
        assert!((1_000..more).all(|n| !there(&store, n)), "who was signed out came back");
    }
}

/// As a copy half of a rotation is a record of its own, and longer.
#[test]
fn rotated_sessions_can_be_deleted_on_a_full_disk() {
    let life = Life::new(SimDisk::new(1));
    let store = open(&life);
    let sign_in = |n| {
        let made = drive(&store, store.create(payload(n, 40).into(), DAY)).unwrap()?;
        Ok::<_, Error>(drive(&store, store.rotate(made.key())).unwrap()?.unwrap())
    };
    let mut ids: Vec<_> = (0..3_000).map(|n| sign_in(n).unwrap()).collect();
    (0..20).for_each(|_| store.step());
    life.disk.space_bytes(life.disk.used_bytes() + SLACK_BYTES);
    while let Ok(id) = sign_in(u32::try_from(ids.len()).unwrap()) {
        ids.push(id);
    }
    for (at, id) in ids.iter().enumerate() {
        let deleted = (0..200).any(|_| match drive(&store, store.delete(id.key())).unwrap() {
            Ok(deleted) => deleted,
            Err(Error::DiskFull) => {
                store.step();
                false
            }
            Err(other) => panic!("{other}"),
        });
        assert!(deleted, "delete {at} of {} is refused for ever: {:?}", ids.len(), store.stats());
    }
}

fn has_file_of(life: &Life, bytes: u32) -> bool {
    life.disk.names().iter().any(|name| life.disk.contents(name).unwrap().len() == bytes as usize)
}

/// Room that others gave back meanwhile: then nothing has to be written into the rest of the reserve.
#[test]
fn reserve_that_gave_some_room_is_whole_again_once_there_is_room() {
    let life = Life::new(SimDisk::new(1));
    let store = open(&life);
    filled_by_visitors(&life, &store, 100, 0);
    life.clock.advance(Duration::from_secs(61));
    assert!(has_file_of(&life, RESERVE_BYTES));
    (0..3).for_each(|_| store.work(Work::Keep));
    assert!(has_file_of(&life, RESERVE_BYTES - SPARED_BYTES));
    life.disk.space_bytes(u64::MAX);
    (0..20).for_each(|_| store.step());
    assert!(has_file_of(&life, RESERVE_BYTES), "{:?}", life.disk.names());
}

/// While the reserve is short any segment is compacted, not only one that is half dead, and nobody has to write for it.
#[test]
fn reserve_that_gave_some_room_is_whole_again_though_less_than_half_was_dead() {
    let life = Life::new(SimDisk::new(1));
    let store = open(&life);
    filled_by_visitors(&life, &store, 100, 10);
    life.clock.advance(Duration::from_secs(61));
    (0..3).for_each(|_| store.work(Work::Keep));
    assert!(has_file_of(&life, RESERVE_BYTES - SPARED_BYTES));
    (0..50).for_each(|_| store.step());
    assert!(has_file_of(&life, RESERVE_BYTES), "{:?}", store.stats());
}

/// What is kept for bad times is not broken into where that would give nothing back.
#[test]
fn reserve_of_a_full_store_stays_whole_until_what_is_dead_outweighs_it() {
    for dead in [0, 1] {
        let life = Life::new(SimDisk::new(1));
        let (store, sessions) = full(&life, 100, 3_000);
        // Of the last segment, which takes records, less is dead than the room for another one.
        assert!((0..dead).all(|n| delete(&store, sessions - 1 - n)));
        for n in 0..20 {
            assert!(
                put(&store, sessions + 100 + n, 4_500).is_err(),
                "it found room: {:?}",
                life.disk.names()
            );
            store.step();
        }
        assert!(has_file_of(&life, RESERVE_BYTES), "{dead} dead: {:?}", life.disk.names());
    }
}

/// What is set aside is a segment, and for the list of it one of 64 parts more or 8 KiB.
#[test]
fn reserve_is_as_long_as_a_segment_and_a_list_of_very_many() {
    for (segment_bytes, reserve) in [(64 << 10, 72 << 10), (4 << 20, (4 << 20) + (64 << 10))] {
        let life = Life::new(SimDisk::new(1));
        let options = Options { segment_bytes, ..life.options.clone() };
        let _store = LogStore::open_by_hand(Arc::new(life.disk.clone()), options).unwrap();
        let names = life.disk.names();
        let mut lens = names.iter().map(|name| life.disk.contents(name).unwrap().len());
        assert!(lens.any(|len| len == reserve), "{segment_bytes}: {names:?}");
    }
}

/// An open that writes the unsynced end of the log again needs as much room as that takes, and no more.
#[test]
fn open_on_a_full_disk_takes_no_more_room_than_what_it_writes() {
    let life = Life::new(SimDisk::new(1));
    let store = open(&life).at(Durability::Buffered);
    let create = |n| drive(&store, store.create_as(key(n), payload(n, 3_000).into(), DAY)).unwrap().unwrap();
    (0..10).for_each(create);
    drive(&store, store.flush()).unwrap().unwrap();
    (10..12).for_each(create);
    store.work(Work::Write);
    life.disk.kill();
    drop(store);
    // The reserve goes first. Then there are the last 6 KiB to be written again, the shortest segment to go on in, of 16 KiB, and a list.
    life.disk.space_bytes(life.disk.used_bytes() - u64::from(RESERVE_BYTES) + (24 << 10));
    let store = open(&life);
    assert!((0..12).all(|n| there(&store, n)));
}

/// A segment in which the write would not fit is of no use to it, and takes the last room from others.
#[test]
fn write_that_is_too_long_for_the_room_there_is_takes_none_of_it() {
    let mut life = Life::new(SimDisk::new(1));
    life.options.segment_bytes = 256 << 10;
    life.options.payload_bytes_max = 32 << 10;
    let store = open(&life);
    let step = || (0..10).for_each(|_| store.step());
    (0..60).for_each(|n| put(&store, n, 2_000).unwrap());
    step();
    life.disk.space_bytes(life.disk.used_bytes() + (24 << 10));
    (60..105).for_each(|n| put(&store, n, 2_000).unwrap());
    let (used, segments) = (life.disk.used_bytes(), store.stats().segments);
    let refused = put(&store, 105, 30_000);
    assert!(matches!(refused, Err(Error::DiskFull)), "{refused:?}");
    step();
    assert_eq!((life.disk.used_bytes(), store.stats().segments), (used, segments));
    put(&store, 106, 2_000).unwrap();
}

/// The group that ends a segment always has its room, also where deletes have filled it up and the store comes to rest there.
#[test]
fn segment_that_is_full_to_its_last_bytes_can_still_be_ended() {
    for len in (0..144).step_by(12) {
        let life = Life::new(SimDisk::new(1));
        let store = open(&life).at(Durability::Buffered);
        let log = || [Work::Write, Work::Sync].map(|work| store.work(work));
        let first_refused = |is_done: &dyn Fn(u32) -> bool| {
            let refused = |n: &u32| {
                log();
                !is_done(*n)
            };
            (0..10_000).find(refused).expect("a segment has an end")
        };
        let puts = first_refused(&|n| at_once(store.upsert(key(n), payload(n, len).into(), DAY)));
        let gone = first_refused(&|n| at_once(store.delete(key(n))));
        life.disk.space_bytes(life.disk.used_bytes());
        for _ in 0..2 {
            store.work(Work::Keep);
            log();
        }
        life.disk.space_bytes(u64::MAX);
        assert!(delete(&store, gone), "{len}");
        drive(&store, store.flush()).unwrap().unwrap();
        let too_long = |name: &String| {
            let bytes = life.disk.contents(name).unwrap().len();
            bytes > SEGMENT_BYTES as usize && bytes != RESERVE_BYTES as usize
        };
        assert_eq!(life.disk.names().into_iter().find(too_long), None, "{len}");
        life.disk.crash();
        let store = open(&life);
        assert!((0..puts).all(|n| there(&store, n) == (n > gone)), "{len}");
    }
}

/// On a full disk there are many tries, and there are only so many ids.
#[test]
fn tries_for_a_segment_use_no_ids_up() {
    let life = Life::new(SimDisk::new(1));
    let (store, sessions) = full(&life, 100, 3_000);
    let id = |name: &String| u32::from_str_radix(name.strip_suffix(".seg")?, 16).ok();
    let highest = || life.disk.names().iter().filter_map(id).max().unwrap();
    let before = highest();
    for n in 0..100 {
        assert!(put(&store, sessions + n, 3_000).is_err());
        store.step();
    }
    assert!((0..sessions).all(|n| delete(&store, n)));
    (0..50).for_each(|_| store.step());
    put(&store, 1, 3_000).unwrap();
    (0..50).for_each(|_| store.step());
    assert!(highest() < before + 60, "{before}, then {}", highest());
}

/// Where the list is lost that the copy is in, the one before it must not pass the copy over and sign somebody in.
#[test]
fn salvage_by_the_list_before_a_compaction_on_the_reserve_signs_nobody_in() {
    for seed in 0..4 {
        let life = Life::new(SimDisk::new(seed));
        let (store, sessions) = full(&life, 200, 3_000);
        let (mut deleted, before) = (0, store.stats().compacted_bytes);
        while store.stats().compacted_bytes == before {
            assert!(deleted < sessions && delete(&store, deleted));
            deleted += 1 + u32::try_from(seed).unwrap() % 3;
            (0..2).for_each(|_| store.step());
        }
        let gone: Vec<_> = (0..sessions).filter(|n| !there(&store, *n)).collect();
        life.disk.kill();
        drop(store);
        life.disk.space_bytes(u64::MAX);
        let disk: &dyn Disk = &life.disk;
        disk.remove("MANIFEST").unwrap();
        LogStore::salvage_on(Arc::new(life.disk.clone()), life.options.clone()).unwrap();
        let store = open(&life);
        let back: Vec<_> = gone.iter().filter(|n| there(&store, **n)).collect();
        assert!(back.is_empty(), "seed {seed}: {back:?} of {} came back", gone.len());
    }
}

/// A copy that is missing may have had any record that was there when it began, also one that is newer than the reserve was.
#[test]
fn salvage_without_a_copy_that_was_made_on_the_reserve_signs_nobody_in() {
    for seed in seeds(1..5) {
        let _replay = Replay("a copy on the reserve".into(), seed);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let life = Life::new(SimDisk::new(seed));
        let store = open(&life);
        let mut gone = BTreeSet::new();
        for n in 0..200 {
            put(&store, n, 3_000).unwrap();
            if n % 4 == 3 {
                gone.insert(rng.random_range(0..n));
                for n in &gone {
                    drive(&store, store.delete(key(*n))).unwrap().unwrap();
                }
            }
        }
        (0..20).for_each(|_| store.step());
        let before = store.stats().compacted_bytes;
        life.disk.space_bytes(life.disk.used_bytes() + SLACK_BYTES);
        for round in 0..100 {
            let n = rng.random_range(0..200);
            assert!(delete(&store, n) || gone.contains(&n));
            gone.insert(n);
            (0..2).for_each(|_| store.step());
            if round % 8 > 0 {
                continue;
            }
            for name in life.disk.names().into_iter().filter(|name| is_segment(name)) {
                let disk = life.disk.copy(1);
                disk.space_bytes(u64::MAX);
                (&disk as &dyn Disk).remove(&name).unwrap();
                LogStore::salvage_on(Arc::new(disk.clone()), life.options.clone()).unwrap();
                let salvaged = LogStore::open_by_hand(Arc::new(disk), life.options.clone()).unwrap();
                let back: Vec<_> = gone.iter().filter(|n| there(&salvaged, **n)).collect();
                assert!(back.is_empty(), "without {name} {back:?} of {} came back", gone.len());
            }
        }
        assert!(store.stats().compacted_bytes > before);
    }
}
