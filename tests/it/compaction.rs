//! What compaction must not change, whatever ends it; and that it ends.
//!
//! Goal: to refute that a session lives or dies by where its records lie (P1, P2, P4), and that disk space is bounded (P9). Method: small
//! segments, histories that leave one kind of record alone in a segment, and a restart after each.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::disk::sim::{Call, DirOps, Fault, SimDisk};
use cloakroom::{Durability, Lifetime, LogStore, SessionKey, SessionStore, When, Work};

use crate::copies::is_segment;
use crate::failures::full::at_once;
use crate::support::history::{Op, Step, history};
use crate::support::hooked::{At, Hooked};
use crate::support::life::{Life, SEGMENT_BYTES, drive};
use crate::support::model::End;
use crate::support::{Replay, budget, seeds};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Files that are neither segments nor copies of cut-off bytes: manifests and their kin.
const OTHER_BYTES_MAX: u64 = 16 << 10;

#[track_caller]
fn sync(life: &mut Life, op: Op) {
    assert!(life.apply(Step { op, durability: Durability::Sync }));
}

/// Writes and forgets as much as a segment holds, so that the stream goes on in another.
fn turn(life: &mut Life) {
    for n in 0..14_u8 {
        let key = SessionKey::of(&[n, 1]);
        assert!(life.write(key, 5_000, When::Always(Lifetime::idle(HOUR)), Durability::Sync));
    }
    for n in 0..14_u8 {
        assert!(life.delete(SessionKey::of(&[n, 1]), Durability::Sync));
    }
}

fn is_poisoned(store: &LogStore) -> bool {
    matches!(drive(store, store.flush()), Some(Err(cloakroom::Error::Poisoned { .. })))
}

#[test]
fn background_work_ends_and_leaves_no_more_on_disk_than_allowed() {
    for seed in seeds(1..30) {
        let _replay = Replay("space".into(), seed);
        let mut life = Life::open(SimDisk::new(seed));
        for part in history(seed, usize::try_from(budget(600)).unwrap()).chunks(60) {
            for step in part {
                assert!(life.apply(*step));
            }
            life.rest();
        }
    }
}

#[test]
fn room_that_records_did_not_fit_into_is_given_back_while_the_store_runs() {
    let mut life = Life::open(SimDisk::new(1));
    for n in 0..400_u32 {
        let key = SessionKey::of(&n.to_le_bytes());
        assert!(life.write(key, 5_000, When::Always(Lifetime::idle(HOUR)), Durability::Sync));
    }
    life.rest();
    let (used, stats) = (life.disk.used_bytes(), life.store().stats());
    let allowed = stats.log_bytes + 2 * u64::from(SEGMENT_BYTES) + OTHER_BYTES_MAX;
    assert!(used <= allowed, "{used} bytes on disk, allowed {allowed}: {stats:?}");
}

/// A copy says how new its deadline is: newer than a touch on disk that came before it, though its content is older than both.
#[test]
fn deadline_that_a_copy_carries_wins_over_an_older_touch_that_is_left() {
    let mut life = Life::open(SimDisk::new(1));
    let key = life.key(0);
    let [long, longer, soon] = [500, 1_000, 1].map(|hours| Lifetime::absolute(hours * HOUR));
    let fill = |life: &mut Life, n: u8, lifetime| {
        for at in 0..13 {
            assert!(life.write(
                SessionKey::of(&[n, at]),
                4_000,
                When::Always(lifetime),
                Durability::Buffered
            ));
        }
        life.step();
    };
    assert!(life.write(key, 100, When::Always(longer), Durability::Sync));
    fill(&mut life, 0, soon);
    let moved = |life: &mut Life, lifetime| sync(life, Op::SetLifetime { name: 0, lifetime });
    // The older touch lies among what lives on, the newer one and the content among what dies.
    moved(&mut life, longer);
    fill(&mut life, 1, longer);
    moved(&mut life, long);
    fill(&mut life, 2, soon);
    let expires_at = |life: &Life| life.observe()[&key].expires_at;
    let before = expires_at(&life);
    life.clock.advance(2 * HOUR);
    life.rest();
    assert!(life.store().stats().compacted_bytes > 0);
    life.again(End::Close);
    assert_eq!(expires_at(&life), before);
}

/// The half of a rotation that hides the old key takes more room as a tombstone of its own.
#[test]
fn tombstones_of_many_rotated_sessions_are_copied_into_few_segments() {
    let life = Life::open(SimDisk::new(1));
    let store = life.store().at(Durability::Buffered);
    let keys = (0..100_u32).map(|n| SessionKey::of(&n.to_le_bytes())).collect::<Vec<_>>();
    for key in &keys {
        let created = store.create_as(*key, vec![1; 200].into(), Lifetime::idle(HOUR));
        drive(&store, created).unwrap().unwrap();
        let id = drive(&store, store.rotate(*key)).unwrap().unwrap().unwrap();
        assert!(drive(&store, store.delete(id.key())).unwrap().unwrap());
    }
    life.rest();
    let creates = life.disk.calls_of(Call::Create);
    assert!(creates < 30, "{creates} files were made");
}

#[test]
fn shortened_session_that_expired_does_not_come_back() {
    for (shorten, crash) in [(0, End::PowerLoss), (1, End::PowerLoss), (2, End::Close), (1, End::Kill)] {
        let mut life = Life::open(SimDisk::new(1));
        sync(&mut life, Op::Create { name: 0, len: 5_000, lifetime: Lifetime::idle(10 * HOUR) });
        // So that the segment of the first version stays.
        for name in 1..9 {
            sync(&mut life, Op::Create { name, len: 6_000, lifetime: Lifetime::idle(10 * HOUR) });
        }
        turn(&mut life);
        let lifetime = Lifetime::absolute(MINUTE);
        match shorten {
            0 => sync(&mut life, Op::SetLifetime { name: 0, lifetime }),
            1 => sync(&mut life, Op::Upsert { name: 0, len: 100, lifetime }),
            _ => {
                sync(&mut life, Op::Rotate { name: 0 });
                sync(&mut life, Op::SetLifetime { name: 0, lifetime });
            }
        }
        turn(&mut life);
        sync(&mut life, Op::Advance { by: 2 * MINUTE });
        // After each step of expiry and compaction.
        for _ in 0..4 {
            life.again(crash);
            life.step();
        }
        life.rest();
        life.again(crash);
        turn(&mut life);
        life.rest();
        life.again(crash);
        assert!(life.check(life.key(0)));
    }
}

#[test]
fn deleted_session_does_not_come_back_when_its_tombstone_is_dropped() {
    let mut life = Life::open(SimDisk::new(1));
    for name in 0..9 {
        sync(&mut life, Op::Create { name, len: 6_000, lifetime: Lifetime::idle(HOUR) });
    }
    turn(&mut life);
    sync(&mut life, Op::Delete { name: 0 });
    turn(&mut life);
    for _ in 0..20 {
        sync(&mut life, Op::Touch { name: 1 });
        sync(&mut life, Op::Advance { by: HOUR / 8 });
        life.rest();
        life.again(End::PowerLoss);
        assert!(life.check(life.key(0)));
    }
}

#[test]
fn touch_whose_segment_holds_nothing_else_is_kept() {
    let mut life = Life::open(SimDisk::new(1));
    for name in 0..9 {
        sync(&mut life, Op::Create { name, len: 6_000, lifetime: Lifetime::idle(HOUR) });
    }
    turn(&mut life);
    for round in 0..6 {
        sync(&mut life, Op::Advance { by: HOUR * 3 / 4 });
        (0..9).for_each(|name| sync(&mut life, Op::Touch { name }));
        turn(&mut life);
        life.rest();
        life.again(if round % 2 == 0 { End::PowerLoss } else { End::Close });
        assert_eq!(life.model.live_count(life.now()), 9);
    }
}

/// A touch counts while it is the newest of its session; of the others a copy would be as long as what it was made of.
#[test]
fn touches_that_a_newer_one_replaced_are_not_copied() {
    let life = Life::open(SimDisk::new(1));
    let store = life.store().at(Durability::Buffered);
    let fill = |first: u32| {
        for n in first..first + 10 {
            let key = SessionKey::of(&n.to_le_bytes());
            drive(&store, store.create_as(key, vec![1; 5_900].into(), Lifetime::idle(HOUR)))
                .unwrap()
                .unwrap();
        }
        life.step();
    };
    fill(0);
    let key = SessionKey::of(&0_u32.to_le_bytes());
    for seconds in 0..500 {
        let lifetime = Lifetime::absolute(Duration::from_secs(3_600 + seconds));
        assert!(drive(&store, store.set_lifetime(key, lifetime)).unwrap().unwrap());
    }
    fill(10);
    fill(20);
    life.rest();
    let copied = store.stats().compacted_bytes;
    assert!((1..20_000).contains(&copied), "{copied} bytes were copied for a session's newest touch");
}

/// As of two requests in one millisecond.
#[test]
fn lifetime_that_is_given_twice_at_once_is_copied_once() {
    let mut life = Life::open(SimDisk::new(1));
    let keys: Vec<_> = (0..60_u32).map(|n| SessionKey::of(&n.to_le_bytes())).collect();
    for key in &keys {
        assert!(life.write(*key, 900, When::Absent(Lifetime::idle(HOUR)), Durability::Buffered));
    }
    life.again(End::Close);
    let store = life.store().at(Durability::Buffered);
    for key in keys.iter().chain(&keys) {
        let lifetime = Lifetime::absolute(HOUR);
        assert!(drive(&store, store.set_lifetime(*key, lifetime)).unwrap().unwrap());
    }
    drive(&store, store.close()).unwrap().unwrap();
    let store = LogStore::open_by_hand(Arc::new(life.disk.clone()), life.options.clone()).unwrap();
    let calls = || {
        (0..50).for_each(|_| store.step());
        life.disk.calls()
    };
    let copied = calls();
    assert!(store.stats().compacted_bytes > 0);
    assert_eq!(calls(), copied, "the copy was copied again");
}

#[test]
fn file_that_could_not_be_removed_is_removed_later_and_no_other_is_tried_again() {
    let life = Life::new(SimDisk::new(1));
    let (made, full, removes) =
        (Mutex::<BTreeSet<_>>::default(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let disk = {
        let (full, removes) = (Arc::clone(&full), Arc::clone(&removes));
        Hooked::on(life.disk.clone(), move |at, name| match at {
            At::Create if full.swap(false, Ordering::Relaxed) => Err(ErrorKind::StorageFull.into()),
            At::Create => {
                made.lock().unwrap().insert(name.to_owned());
                Ok(())
            }
            At::Remove if is_segment(name) => {
                removes.fetch_add(1, Ordering::Relaxed);
                // What is there is removed at the second try.
                if made.lock().unwrap().remove(name) {
                    Err(ErrorKind::PermissionDenied.into())
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        })
    };
    let store = LogStore::open_by_hand(disk, life.options.clone()).unwrap().at(Durability::Buffered);
    for n in 0..60_u32 {
        let key = SessionKey::of(&n.to_le_bytes());
        drive(&store, store.create_as(key, vec![1; 5_000].into(), Lifetime::idle(HOUR))).unwrap().unwrap();
        if n % 4 > 0 {
            assert!(drive(&store, store.delete(key)).unwrap().unwrap());
        }
        store.work(Work::Write);
        store.work(Work::Sync);
        store.work(Work::Keep);
    }
    // The first copy finds no room, and goes to the reserve.
    full.store(true, Ordering::Relaxed);
    (0..20).for_each(|_| store.step());
    assert!(!full.load(Ordering::Relaxed) && store.stats().compacted_bytes > 0);
    let files = life.disk.names().into_iter().filter(|name| is_segment(name)).count() as u64;
    assert_eq!(files, store.stats().segments + 1, "the segments and the reserve: {}", life.trace());
    let before = removes.load(Ordering::Relaxed);
    (0..10).for_each(|_| store.step());
    assert_eq!(removes.load(Ordering::Relaxed), before);
}

#[test]
fn newer_record_that_power_loss_takes_leaves_the_older_one() {
    for seed in seeds(0..40) {
        let _replay = Replay("unsynced".into(), seed);
        let mut life = Life::open(SimDisk::new(seed));
        life.disk.dir_ops(DirOps::Any);
        for name in 0..9 {
            sync(&mut life, Op::Create { name, len: 6_000, lifetime: Lifetime::idle(HOUR) });
        }
        turn(&mut life);
        life.rest();
        // All that the first segment holds is dead now, by records that nobody waits for.
        for name in 0..9 {
            let op = match seed % 3 {
                0 => Op::Put { name, len: 10 },
                1 => Op::Delete { name },
                _ => Op::Rotate { name },
            };
            if seed % 3 < 2 {
                assert!(life.apply(Step { op, durability: Durability::Buffered }));
            } else {
                sync(&mut life, op);
            }
        }
        life.disk.crash_at_call(1 + seed);
        life.step();
        life.step();
        life.again(End::PowerLoss);
    }
}

#[test]
fn compaction_that_fails_loses_nothing_and_leaves_nothing_behind() {
    let calls = [Call::Create, Call::Write, Call::Sync, Call::SyncFolder, Call::Rename, Call::Truncate];
    for (call, fault) in calls.into_iter().flat_map(|call| [(call, Fault::Enospc), (call, Fault::Eio)]) {
        for n in 1..8 {
            let mut life = Life::open(SimDisk::new(n));
            for name in 0..9 {
                sync(&mut life, Op::Create { name, len: 6_000, lifetime: Lifetime::idle(HOUR) });
            }
            turn(&mut life);
            (0..6).for_each(|name| sync(&mut life, Op::Delete { name }));
            life.disk.fail_call_of(call, n, fault);
            for _ in 0..20 {
                life.step();
            }
            (0..9).for_each(|name| assert!(life.check(life.key(name)), "{call:?} {n} {fault:?}"));
            life.again(if n % 2 == 0 { End::Kill } else { End::PowerLoss });
            life.rest();
            life.again(End::PowerLoss);
        }
    }
}

/// A sync of the folder that fails on one thread lets go of what another has made there, to whom the next sync says nothing of it.
#[test]
fn names_that_a_failed_sync_of_another_thread_let_go_of_are_listed_by_nobody() {
    let mut struck = 0;
    for (seed, (at, midst)) in seeds(0..12)
        .into_iter()
        .flat_map(|seed| [(seed, (At::Write, Work::Keep)), (seed, (At::Create, Work::Compact))])
    {
        let _replay = Replay("a failed sync of another thread".into(), seed);
        let life = Life::new(SimDisk::new(seed));
        life.disk.dir_ops(if seed % 2 == 0 { DirOps::Any } else { DirOps::Ordered });
        let slot: Arc<Mutex<Option<LogStore>>> = Arc::default();
        let (other, disk) = (Arc::clone(&slot), life.disk.clone());
        let hooked = Hooked::on(life.disk.clone(), move |call, name| {
            // Not under the lock: the other thread comes here as well.
            let store = if call == at && is_segment(name) { other.lock().unwrap().take() } else { None };
            if let Some(store) = store {
                disk.fail_call_of(Call::SyncFolder, 1, Fault::Eio);
                store.work(midst);
            }
            Ok(())
        });
        let store = LogStore::open_by_hand(hooked, life.options.clone()).unwrap().at(Durability::Buffered);
        let key = |n: u32| SessionKey::of(&n.to_le_bytes());
        // Until a write has to wait for the next segment.
        let mut sessions = 0;
        while at_once(store.create_as(key(sessions), vec![1; 4_000].into(), Lifetime::idle(HOUR))) {
            if sessions < 30 && sessions % 3 > 0 {
                assert!(at_once(store.delete(key(sessions))));
            }
            store.work(Work::Write);
            store.work(Work::Sync);
            if sessions < 30 {
                store.work(Work::Keep);
            }
            sessions += 1;
        }
        *slot.lock().unwrap() = Some(store.clone());
        store.work(if midst == Work::Keep { Work::Compact } else { Work::Keep });
        let was_there = slot.lock().unwrap().take().is_none();
        struck += u64::from(was_there && is_poisoned(&store));
        drop(store);
        life.disk.crash();
        let store = LogStore::open_by_hand(Arc::new(life.disk.clone()), life.options.clone())
            .unwrap_or_else(|e| panic!("{midst:?} in the midst: {e}\n{}", life.trace()));
        for n in (0..sessions).filter(|n| *n >= 30 || n % 3 == 0) {
            let found = drive(&store, store.get(key(n), cloakroom::Access::Peek)).unwrap().unwrap();
            assert!(found.is_some(), "{midst:?} in the midst: session {n} is gone\n{}", life.trace());
        }
    }
    assert!(struck > 4, "the other thread was hardly ever there: {struck}");
}
