//! What a store does when its disk fails or is full: who is told what, what goes on, and what the next open finds.
//!
//! Goal: to refute what the docs say of `DiskFull`, `Poisoned` and `DurabilityUnknown`. Method: single calls of a simulated disk fail; the
//! sessions that were acknowledged are counted afterwards.

mod calls;
pub mod full;
mod panics;
#[cfg(target_os = "linux")]
mod strace;
#[cfg(target_os = "linux")]
mod system;

use std::collections::BTreeMap;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cloakroom::disk::Disk;
use cloakroom::disk::sim::{Call, DirOps, Fault, SimDisk};
use cloakroom::{
    Access, Durability, Error, Lifetime, LogStore, OpenError, Session, SessionKey, SessionStore, Timestamp,
    Work,
};

use crate::support::life::{Life, SEGMENT_BYTES, drive};
use crate::support::model::End;

const HOUR: Lifetime = Lifetime::idle(Duration::from_secs(3_600));

/// What a file system has left when it is full: less than a segment takes, more than two lists of segments differ by.
const SLACK_BYTES: u64 = 32;

fn open(life: &Life) -> LogStore {
    LogStore::open_by_hand(Arc::new(life.disk.clone()), life.options.clone()).unwrap()
}

fn key(n: usize) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

fn create(store: &LogStore, n: usize) -> Result<(), Error> {
    drive(store, store.create_as(key(n), vec![n.to_le_bytes()[0]; 3_000].into(), HOUR)).unwrap()
}

fn is_there(store: &LogStore, n: usize) -> bool {
    let found = drive(store, store.get(key(n), Access::Peek)).unwrap().unwrap();
    found.is_some_and(|stored| stored.payload.iter().all(|b| *b == n.to_le_bytes()[0]))
}

/// Creates sessions until there is no room; gives how many there are.
fn fill(store: &LogStore) -> usize {
    let refused = (0..10_000).find_map(|n| Some((n, create(store, n).err()?)));
    let (n, error) = refused.unwrap();
    assert!(matches!(error, Error::DiskFull), "{error:?}");
    n
}

#[test]
fn full_disk_refuses_writes_and_takes_deletes_and_goes_on_when_there_is_space() {
    let life = Life::new(SimDisk::new(1));
    let store = open(&life).at(Durability::Sync);
    life.disk.space_bytes(6 * u64::from(SEGMENT_BYTES));
    let there = fill(&store);
    assert!(there > 50, "{there}");
    assert!((0..there).all(|n| is_there(&store, n)));
    // Again, and for every kind of write.
    assert!(matches!(create(&store, there), Err(Error::DiskFull)));
    assert!(matches!(drive(&store, store.put(key(1), vec![1; 3_000].into())).unwrap(), Err(Error::DiskFull)));
    assert!(drive(&store, store.delete(key(0))).unwrap().unwrap());
    life.disk.space_bytes(u64::MAX);
    store.step();
    create(&store, there).unwrap();
    life.disk.crash();
    drop(store);
    let store = open(&life);
    assert!(!is_there(&store, 0));
    assert!((1..=there).all(|n| is_there(&store, n)));
}

/// Each use of it is written down, so that none can be while no write is taken.
#[test]
fn session_is_loaded_where_its_use_cannot_be_written_down() {
    for is_full in [true, false] {
        let life = Life::new(SimDisk::new(1));
        let store = open(&life).at(Durability::Sync);
        let mut session = Session::new(HOUR.exact());
        session.insert("hat", &7).unwrap();
        drive(&store, session.save(&store)).unwrap().unwrap();
        let id = session.id().unwrap();
        if is_full {
            life.disk.space_bytes(6 * u64::from(SEGMENT_BYTES));
            fill(&store);
        } else {
            life.disk.fail_call_of(Call::Sync, 1, Fault::Eio);
            create(&store, 5).unwrap_err();
        }
        // A full disk may have room for some more uses.
        let refused = (0..1_000).find_map(|_| {
            life.clock.advance(Duration::from_millis(1));
            drive(&store, store.get(id.key(), Access::Touch)).unwrap().err()
        });
        assert!(matches!(refused, Some(Error::DiskFull | Error::Poisoned { .. })), "{refused:?}");
        let loaded = drive(&store, Session::load(&store, id)).unwrap().unwrap().unwrap();
        assert_eq!(loaded.get::<u8>("hat").unwrap(), Some(7));
        life.clock.advance(Duration::from_secs(3_600));
        assert!(drive(&store, Session::load(&store, id)).unwrap().unwrap().is_none(), "it has ended");
    }
}

#[test]
fn full_store_shrinks_by_deletes_alone() {
    let life = Life::new(SimDisk::new(1));
    let store = open(&life).at(Durability::Sync);
    (0..30).for_each(|n| create(&store, n).unwrap());
    life.disk.space_bytes(life.disk.used_bytes() + SLACK_BYTES);
    let there = 30 + (30..10_000).position(|n| create(&store, n).is_err()).unwrap();
    for n in 0..21 {
        assert!(drive(&store, store.delete(key(n))).unwrap().unwrap());
    }
    for _ in 0..10 {
        store.step();
    }
    create(&store, there).unwrap();
    assert!((21..=there).all(|n| is_there(&store, n)));
    life.disk.crash();
    // An open needs room for a segment.
    life.disk.space_bytes(u64::MAX);
    drop(store);
    let store = open(&life);
    assert!((0..21).all(|n| !is_there(&store, n)));
    assert!((21..=there).all(|n| is_there(&store, n)));
}

/// What is dead goes by a list alone, and the reserve has room for one, also where somebody else takes each byte that comes free.
#[test]
fn dead_segments_of_a_full_disk_go_though_there_is_no_room_for_a_list() {
    let life = Life::new(SimDisk::new(1));
    let store = open(&life).at(Durability::Sync);
    for hours in [1_u8, 2, 3] {
        let lifetime = Lifetime::absolute(Duration::from_secs(3_600) * u32::from(hours));
        for n in 0..60 {
            let created = store.create_as(SessionKey::of(&[hours, n]), vec![n; 3_000].into(), lifetime);
            drive(&store, created).unwrap().unwrap();
        }
    }
    for _ in 0..3 {
        let segments = store.stats().segments;
        life.clock.advance(Duration::from_secs(3_600));
        // Whose room the last list took.
        let disk: &dyn Disk = &life.disk;
        let _ = disk.remove("MANIFEST.copy");
        for _ in 0..5 {
            life.disk.space_bytes(life.disk.used_bytes());
            store.step();
        }
        let left = store.stats().segments;
        assert!(left + 2 <= segments, "of {segments} segments {left} are left: {:?}", store.stats());
    }
}

/// What was cut off is kept for people to look at, and must not keep the store from them.
#[test]
fn copies_of_torn_ends_give_their_room_to_an_open_that_has_none() {
    const TORN_BYTES: usize = 20_000;
    let mut life = Life::new(SimDisk::new(1));
    for round in 1..3 {
        let store = open(&life).at(Durability::Sync);
        create(&store, round).unwrap();
        life.disk.kill();
        drop(store);
        let files = |life: &Life| -> Vec<_> {
            let of = |name: String| (life.disk.contents(&name).unwrap(), name);
            life.disk.names().into_iter().map(of).collect()
        };
        for (mut bytes, name) in
            files(&life).into_iter().filter(|(_, name)| crate::corruption::is_segment(name))
        {
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if end == 0 {
                // No reserve is left, whose room the open would have.
                Disk::remove(&life.disk, &name).unwrap();
            } else if bytes.len() > end + TORN_BYTES {
                bytes[end + 200..end + TORN_BYTES].fill(7);
                life.disk.set_contents(&name, &bytes);
            }
        }
        // In the second round also without the one that is there already.
        life.disk.space_bytes(life.disk.used_bytes() + (24 << 10) - if round == 2 { 15_000 } else { 0 });
        let store = open(&life);
        assert!(store.recovery().torn_bytes > 19_000, "{:?}", store.recovery());
        assert!((1..=round).all(|n| is_there(&store, n)), "{round}");
        let is_torn = |name: &String| name.starts_with("torn-");
        assert_eq!(life.disk.names().into_iter().find(is_torn), None);
        life.disk.space_bytes(u64::MAX);
        if round == 1 {
            life.disk.set_contents("torn-00000001-00000040.bin", &vec![7; TORN_BYTES]);
        }
        drive(&store, store.close()).unwrap().unwrap();
        life.end(End::Kill);
    }
}

/// The list that is seen then may not be the one that a power cut leaves: what only that one names must not go before this one is on the device.
#[test]
fn open_that_finds_no_room_removes_nothing_that_the_list_before_may_name() {
    let prepared = |seed, nth| {
        let life = Life::new(SimDisk::new(seed));
        life.disk.dir_ops(DirOps::Any);
        let store = open(&life).at(Durability::Sync);
        (0..50).for_each(|n| create(&store, n).unwrap());
        store.step();
        let early = store.at(Durability::Buffered);
        for n in (0..40).filter(|n| n % 10 > 0) {
            assert!(drive(&store, early.delete(key(n))).unwrap().unwrap());
        }
        life.disk.fail_call_of(Call::SyncFolder, nth, Fault::Eio);
        store.step();
        let is_poisoned = create(&store, 50).is_err();
        life.disk.kill();
        (life, is_poisoned)
    };
    let mut poisoned = 0;
    for (seed, nth) in (0..8).flat_map(|seed| (1..4).map(move |nth| (seed, nth))) {
        for (full, n) in (1..4).flat_map(|full| (1..60).step_by(3).map(move |n| (full, n))) {
            let (life, is_poisoned) = prepared(seed, nth);
            poisoned += usize::from(is_poisoned);
            life.disk.fail_call_of(Call::Write, full, Fault::Enospc);
            life.disk.crash_at_call(n);
            drop(LogStore::open_by_hand(Arc::new(life.disk.clone()), life.options.clone()));
            life.disk.crash();
            let opened = LogStore::open_by_hand(Arc::new(life.disk.clone()), life.options.clone());
            let store = opened.unwrap_or_else(|e| panic!("{seed} {nth} {full} {n}: {e}\n{}", life.trace()));
            assert!((0..50).filter(|at| at % 10 == 0 || *at >= 40).all(|at| is_there(&store, at)));
        }
    }
    assert!(poisoned > 0, "no list was changed");
}

/// After such a failure no later call says what became of the folder.
#[test]
fn open_is_not_tried_again_after_the_folder_could_not_be_synced() {
    for nth in [1, 2] {
        let life = Life::new(SimDisk::new(nth));
        let store = open(&life).at(Durability::Sync);
        (0..30).for_each(|n| create(&store, n).unwrap());
        life.disk.kill();
        drop(store);
        life.disk.fail_call_of(Call::SyncFolder, nth, Fault::Enospc);
        let refused = LogStore::open_by_hand(Arc::new(life.disk.clone()), life.options.clone());
        assert!(matches!(refused, Err(OpenError::Io { .. })), "{nth}");
        life.disk.crash();
        let store = open(&life);
        assert!((0..30).all(|n| is_there(&store, n)));
    }
}

#[test]
fn failed_write_or_sync_poisons_and_what_was_acknowledged_is_kept() {
    for (call, fault) in [(Call::Write, Fault::Eio), (Call::Write, Fault::Enospc), (Call::Sync, Fault::Eio)] {
        for (end, seed) in
            [End::Kill, End::PowerLoss].into_iter().flat_map(|end| (0..10).map(move |s| (end, s)))
        {
            let life = Life::new(SimDisk::new(seed));
            let store = open(&life).at(Durability::Sync);
            (0..5).for_each(|n| create(&store, n).unwrap());
            life.disk.fail_call_of(call, 1, fault);
            let cause = match create(&store, 5) {
                Err(Error::DurabilityUnknown { cause }) => cause,
                other => panic!("{call:?}: {other:?}"),
            };
            assert!(cause.contains("segment 00000001 failed"), "{call:?}: {cause}");
            for error in [
                create(&store, 6).unwrap_err(),
                drive(&store, store.delete(key(0))).unwrap().unwrap_err(),
                drive(&store, store.flush()).unwrap().unwrap_err(),
            ] {
                assert!(matches!(error, Error::Poisoned { .. }), "{error:?}");
            }
            // What is staged stays readable, as if nothing had happened.
            assert!((0..6).all(|n| is_there(&store, n)));
            assert!(matches!(drive(&store, store.close()).unwrap(), Err(Error::DurabilityUnknown { .. })));
            if end == End::Kill {
                life.disk.kill();
            } else {
                life.disk.crash();
            }
            drop(store);
            let store = open(&life);
            let unknown = is_there(&store, 5);
            assert!((0..5).all(|n| is_there(&store, n)) && !is_there(&store, 6));
            // Whatever became of the one that is unknown, from here on it is that for good.
            life.disk.crash();
            drop(store);
            let store = open(&life);
            assert_eq!(is_there(&store, 5), unknown);
            assert!((0..5).all(|n| is_there(&store, n)));
        }
    }
}

#[test]
fn failed_sync_is_told_to_who_waits_for_a_group_that_is_not_written() {
    let life = Life::new(SimDisk::new(1));
    let store = open(&life).at(Durability::Sync);
    let mut waiting = [0, 1].map(|n| store.create_as(key(n), "x".into(), HOUR));
    let mut look = |n: usize| Pin::new(&mut waiting[n]).poll(&mut Context::from_waker(Waker::noop()));
    assert!(look(0).is_pending());
    store.work(Work::Write);
    assert!(look(1).is_pending());
    life.disk.fail_call_of(Call::Sync, 1, Fault::Eio);
    store.work(Work::Sync);
    for n in [0, 1] {
        let told = look(n);
        assert!(matches!(told, Poll::Ready(Err(Error::DurabilityUnknown { .. }))), "{n}: {told:?}");
    }
}

#[test]
fn poisoned_store_leaves_its_disk_as_it_is() {
    let life = Life::new(SimDisk::new(1));
    let store = open(&life).at(Durability::Sync);
    (0..60).for_each(|n| create(&store, n).unwrap());
    store.step();
    life.disk.fail_call_of(Call::Sync, 1, Fault::Eio);
    assert!(matches!(create(&store, 60), Err(Error::DurabilityUnknown { .. })));
    let calls = life.disk.calls();
    // Footers are due, and nearly all is dead.
    for by in [Duration::from_secs(120), Duration::from_secs(7_200)] {
        life.clock.advance(by);
        (0..10).for_each(|_| store.step());
    }
    assert_eq!(life.disk.calls(), calls, "{}", life.trace());
}

#[test]
fn store_opens_again_after_any_one_call_failed() {
    let calls =
        [Call::Create, Call::Write, Call::Sync, Call::SyncFolder, Call::Rename, Call::Remove, Call::Truncate];
    for (call, n) in calls.into_iter().flat_map(|call| (1..25).map(move |n| (call, n))) {
        for end in [End::Kill, End::Close] {
            let life = Life::new(SimDisk::new(n));
            let store = open(&life).at(Durability::Sync);
            life.disk.fail_call_of(call, n, Fault::Eio);
            let mut known = BTreeMap::new();
            for at in 0..60 {
                if create(&store, at).is_ok() {
                    known.insert(at, true);
                }
                if at >= 3 && drive(&store, store.delete(key(at - 3))).unwrap().is_ok_and(|deleted| deleted) {
                    known.insert(at - 3, false);
                } else if at >= 3 {
                    known.remove(&(at - 3));
                }
            }
            match end {
                End::Close => {
                    drop(drive(&store, store.close()));
                    // The failure was meant for this life.
                    life.disk.restart();
                }
                _ => life.disk.kill(),
            }
            drop(store);
            let store = match LogStore::open_by_hand(Arc::new(life.disk.clone()), life.options.clone()) {
                Ok(store) => store,
                Err(e) => panic!("{call:?} {n} {end:?}: {e}\n{}", life.trace()),
            };
            for (at, there) in known {
                assert_eq!(
                    is_there(&store, at),
                    there,
                    "{call:?} {n} {end:?}: session {at}\n{}",
                    life.trace()
                );
            }
        }
    }
}

#[test]
fn flushes_of_an_idle_store_take_no_more_space_than_a_segment() {
    let life = Life::new(SimDisk::new(1));
    let store = open(&life);
    create(&store, 1).unwrap();
    for _ in 0..2 * SEGMENT_BYTES / 48 {
        drive(&store, store.flush()).unwrap().unwrap();
    }
    assert!(life.disk.used_bytes() <= 3 * u64::from(SEGMENT_BYTES), "{} bytes", life.disk.used_bytes());
    // The reserve is a segment and a margin.
    let most = SEGMENT_BYTES as usize + (8 << 10);
    for name in life.disk.names() {
        assert!(life.disk.contents(&name).unwrap().len() <= most, "{name} grew");
    }
    create(&store, 2).unwrap();
    drive(&store, store.flush()).unwrap().unwrap();
    life.disk.crash();
    drop(store);
    let store = open(&life);
    assert!(is_there(&store, 1) && is_there(&store, 2));
}

#[test]
fn expired_session_stays_gone_when_the_wall_steps_back_though_the_segment_is_full() {
    // How much is left of the segment behind the last record, when no other record comes.
    for left in [0, 40, 47, 48, 95, 96, 200, 3_000] {
        let life = Life::new(SimDisk::new(1));
        let store = open(&life).at(Durability::Buffered);
        store.step();
        for n in 0..10 {
            let created = store.create_as(key(n), vec![n.to_le_bytes()[0]; 6_000].into(), HOUR);
            drive(&store, created).unwrap().unwrap();
        }
        let minute = Lifetime::absolute(Duration::from_secs(60));
        drive(&store, store.create_as(key(10), vec![10; 4_320 - left].into(), minute)).unwrap().unwrap();
        (0..3).for_each(|_| store.step());
        life.clock.advance(Duration::from_secs(61));
        assert!(!is_there(&store, 10));
        for _ in 0..5 {
            store.step();
        }
        life.disk.crash();
        drop(store);
        life.clock.set_wall(Timestamp::from_millis(1_600_000_000_000));
        let store = open(&life);
        assert!(is_there(&store, 9) && !is_there(&store, 10), "{left} bytes were left");
    }
}

/// What a crash left under an id that was not given yet cannot be removed at the open: once the id is given, the file is not that one any more.
#[test]
fn leftover_that_could_not_be_removed_is_left_alone_when_its_id_is_in_use() {
    for nth in 1..24 {
        let life = Life::new(SimDisk::new(nth));
        let store = open(&life).at(Durability::Sync);
        create(&store, 0).unwrap();
        drive(&store, store.close()).unwrap().unwrap();
        drop(store);
        // The second was given, to what was kept for bad times, and is not given again.
        for id in 2..16 {
            life.disk.set_contents(&format!("{id:08x}.seg"), &[0; 100]);
        }
        life.disk.fail_call_of(Call::Remove, nth, Fault::Eio);
        let opened = LogStore::open_by_hand(Arc::new(life.disk.clone()), life.options.clone());
        let Ok(store) = opened else { continue };
        let store = store.at(Durability::Sync);
        // Before compaction has come by, which tries again what could not be removed.
        let before = store.at(Durability::Buffered);
        for n in 1..120 {
            let created = before.create_as(key(n), vec![n.to_le_bytes()[0]; 3_000].into(), HOUR);
            assert!(std::pin::pin!(created).poll(&mut Context::from_waker(Waker::noop())).is_ready());
            for work in [Work::Keep, Work::Write, Work::Sync] {
                store.work(work);
            }
        }
        // Not of the first segments, so that these are what they were.
        let gone = |n: &usize| (50..100).contains(n) && !n.is_multiple_of(3);
        for n in (0..120).filter(gone) {
            assert!(drive(&store, store.delete(key(n))).unwrap().unwrap());
        }
        (0..20).for_each(|_| store.step());
        assert!(life.disk.contents("00000002.seg").is_none(), "remove {nth} failed, and nobody tried again");
        life.disk.crash();
        drop(store);
        let store = open(&life);
        let lost: Vec<_> = (0..120).filter(|n| !gone(n) && !is_there(&store, *n)).collect();
        assert!(lost.is_empty(), "remove {nth} failed: {lost:?} are lost");
    }
}
