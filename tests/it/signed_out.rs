//! Sign-outs of people whose time has just come, where nothing but the time itself ends them.
//!
//! Goal: "nobody is there" is not answered before what ended them is on the device, however they were found to be gone. Method: power is lost right after
//! the answer, and the next start has a wall clock that is behind. Invariant: nothing here depends on how fast the machine is.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, Clock, Durability, Error, Lifetime, LogStore, ManualClock, Options, OwnerKey, ReadMode,
    SessionKey, SessionStore, Timestamp, Whose, Work,
};

use crate::stores::defaults;
use crate::support::hooked::{At, Hooked};
use crate::support::life::drive;

const BEGIN: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const MANY: u64 = 30;
const HOUR: Lifetime = Lifetime::idle(Duration::from_secs(3_600));

fn key(n: u64) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

fn options(clock: Arc<dyn Clock>) -> Options {
    Options { segment_bytes: 64 << 10, payload_bytes_max: 8 << 10, footers_from: 0, clock, ..defaults() }
}

/// Whether somebody is there after a power cut now, by a wall clock that has gone back to the beginning.
fn is_back(disk: &SimDisk, key: SessionKey) -> bool {
    let disk = disk.copy(7);
    disk.crash();
    let store = LogStore::open_by_hand(Arc::new(disk), options(Arc::new(ManualClock::at(BEGIN)))).unwrap();
    drive(&store, store.get(key, Access::Peek)).unwrap().unwrap().is_some()
}

/// Whether a sign-out is answered while nothing is written for it, whatever is synced.
fn is_answered_at_once(store: &LogStore, key: SessionKey) -> bool {
    let mut answer = pin!(store.delete(key));
    (0..3).any(|_| {
        store.work(Work::Sync);
        answer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    })
}

/// What it says at last, where nobody makes room.
fn sign_out(store: &LogStore, key: SessionKey) -> Result<bool, Error> {
    let mut answer = pin!(store.delete(key));
    for _ in 0..20 {
        if let Poll::Ready(said) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return said;
        }
        for work in [Work::Write, Work::Sync, Work::Keep] {
            store.work(work);
        }
    }
    panic!("a sign-out is never answered")
}

/// Shows how many milliseconds have passed, and goes on by some whenever it is read.
#[derive(Default)]
struct Ticking(AtomicU64, AtomicU64);

impl Clock for Ticking {
    fn wall(&self) -> Timestamp {
        BEGIN
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(self.1.load(Ordering::SeqCst), Ordering::SeqCst))
    }
}

/// Sweeps many whose time has come, and in the midst of it, at the `nth` call of a kind, signs one of them out.
fn sign_out_within_a_sweep(name: u64, calls: At, nth: u64, listens: bool) {
    let (clock, disk) = (Arc::new(Ticking::default()), SimDisk::new(1));
    let swept = Arc::new(OnceLock::<LogStore>::new());
    let (within, made, seen) = (Arc::clone(&swept), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&made);
    let answered = Arc::clone(&seen);
    let hooked = Hooked::on(disk.clone(), move |at, _| {
        let Some(store) = within.get().filter(|_| at == calls) else { return Ok(()) };
        if count.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            answered.store(1 + u64::from(is_answered_at_once(store, key(name))), Ordering::SeqCst);
        }
        // Where a segment is asked for, there is none, so that it is asked for again and again.
        if at == At::Create { Err(std::io::Error::other("there can be none")) } else { Ok(()) }
    });
    let options = Options { read_mode: ReadMode::Pread, ..options(Arc::clone(&clock) as Arc<dyn Clock>) };
    let store = LogStore::open_by_hand(hooked, options).unwrap();
    for n in 0..MANY {
        // So long that the next segment is needed at the end, where that is what is called for.
        let payload = vec![1; if listens { 1 } else { 1_800 }];
        let minute = Lifetime::absolute(MINUTE);
        let mut write = pin!(store.create_as(key(n), payload.into(), minute));
        while write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            store.work(Work::Write);
            store.work(Work::Sync);
        }
    }
    let events = listens.then(|| store.events());
    clock.0.fetch_add(60_000, Ordering::SeqCst);
    clock.1.store(100, Ordering::SeqCst);
    assert!(swept.set(store.clone()).is_ok());
    store.work(Work::Keep);
    clock.1.store(0, Ordering::SeqCst);
    assert_eq!(
        (store.len(), seen.load(Ordering::SeqCst)),
        (0, 1),
        "{name}, after {made:?} calls: it is answered at once"
    );
    assert!(!sign_out(&store, key(name)).unwrap());
    assert!(!is_back(&disk, key(name)), "{name} was signed out and is back");
    drop(events);
}

/// One that tells of them reads their keys: as long as the device takes, the time is not written down.
#[test]
fn sign_out_of_who_was_just_swept_waits_for_the_time() {
    for name in 0..5 {
        sign_out_within_a_sweep(name, At::Read, MANY, true);
        sign_out_within_a_sweep(name, At::Create, 40, false);
    }
}

/// Without room for the time a sign-out is refused like any other.
#[test]
fn sign_out_of_who_has_just_ended_is_refused_where_a_full_disk_has_no_room_for_the_time() {
    const SHORT: u64 = 40;
    let (clock, disk) = (Arc::new(ManualClock::at(BEGIN)), SimDisk::new(1));
    let options = options(Arc::clone(&clock) as Arc<dyn Clock>);
    let store = LogStore::open_by_hand(Arc::new(disk.clone()), options).unwrap();
    for n in 0..SHORT {
        let lifetime = Lifetime::absolute(MINUTE * (1 + u32::try_from(n).unwrap()));
        drive(&store, store.create_as(key(n), "x".into(), lifetime)).unwrap().unwrap();
    }
    drive(&store, store.flush()).unwrap().unwrap();
    disk.space_bytes(disk.used_bytes());
    let mut last = 1_000;
    let full = (12..).find_map(|n| {
        last = 1_000 + n;
        let payload = vec![1; if n < 24 { 4_000 } else { 10 }];
        drive(&store, store.upsert(key(last), payload.into(), HOUR)).unwrap().err()
    });
    assert!(matches!(full, Some(Error::DiskFull)), "{full:?}");
    // What is left to those who let go of something is used up as well.
    let full = (1_000..last).rev().find_map(|n| drive(&store, store.delete(key(n))).unwrap().err());
    assert!(matches!(full, Some(Error::DiskFull)), "{full:?}");
    let mut refused = 0;
    for n in 0..SHORT {
        clock.advance(MINUTE);
        match sign_out(&store, key(n)) {
            Ok(was_there) => assert!(!was_there && !is_back(&disk, key(n)), "{n} was signed out and is back"),
            Err(Error::DiskFull) => refused += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(refused > 0, "there was room for all of them");
    disk.space_bytes(u64::MAX);
    store.work(Work::Keep);
    drive(&store, store.upsert(key(1), "x".into(), HOUR)).unwrap().unwrap();
    assert!(!sign_out(&store, key(SHORT - 1)).unwrap() && !is_back(&disk, key(SHORT - 1)));
}

/// An open takes its time, and leaves out who has ended by the time that it writes down.
#[test]
fn sign_out_of_who_has_ended_while_the_store_opened_waits_for_the_time() {
    for life_ms in 1..20 {
        let disk = SimDisk::new(1);
        let clock = Arc::new(ManualClock::at(BEGIN));
        let store = LogStore::open_by_hand(Arc::new(disk.clone()), options(clock)).unwrap();
        let short = Lifetime::absolute(Duration::from_millis(life_ms));
        drive(&store, store.create_as(key(1), "x".into(), short)).unwrap().unwrap();
        drive(&store, store.create_as(key(2), "x".into(), HOUR)).unwrap().unwrap();
        drive(&store, store.close()).unwrap().unwrap();
        let ticking = Arc::new(Ticking(0.into(), 1.into()));
        let store = LogStore::open_by_hand(Arc::new(disk.clone()), options(ticking)).unwrap();
        if !sign_out(&store, key(1)).unwrap() {
            assert!(!is_back(&disk, key(1)), "of {life_ms} ms: who was signed out is back");
        }
    }
}

/// A sweep asks between its slices whether writes need a segment; one that cannot be made is not tried each time.
#[test]
fn segment_that_cannot_be_made_is_tried_a_few_times_however_long_a_sweep_is() {
    const SWEPT: u64 = 4_000;
    let (clock, disk) = (Arc::new(ManualClock::at(BEGIN)), SimDisk::new(1));
    let (fails, tries) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (is_on, count) = (Arc::clone(&fails), Arc::clone(&tries));
    let hooked = Hooked::on(disk, move |at, name| {
        if at == At::Create && name.contains(".seg") && is_on.load(Ordering::SeqCst) {
            count.fetch_add(1, Ordering::SeqCst);
            return Err(std::io::Error::other("there are no descriptors left"));
        }
        Ok(())
    });
    let store = LogStore::open_by_hand(hooked, options(clock)).unwrap().at(Durability::Buffered);
    let owner = OwnerKey::of(b"everybody");
    for n in 0..SWEPT {
        drive(&store, store.create_owned_as(key(n), "x".into(), HOUR, owner.into())).unwrap().unwrap();
    }
    drive(&store, store.flush()).unwrap().unwrap();
    fails.store(true, Ordering::SeqCst);
    // Until the next segment is needed.
    let refused = (0..).find_map(|n| {
        let mut write = pin!(store.upsert(key(n % SWEPT), vec![1; 4_000].into(), HOUR));
        for _ in 0..3 {
            match write.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(said) => return said.err(),
                Poll::Pending => store.step(),
            }
        }
        Some(Error::Closed)
    });
    assert!(matches!(refused, Some(Error::Io { .. })), "{refused:?}");
    let before = tries.load(Ordering::SeqCst);
    drive(&store, store.revoke(Whose::Everybody, None)).map_or(Ok(()), |said| said.map(drop)).unwrap();
    store.work(Work::Keep);
    assert_eq!(store.stats().revoked, SWEPT);
    assert!(tries.load(Ordering::SeqCst) < before + 20, "{tries:?} tries, {before} of them before");
}

/// A sweep that took nobody out has no time that must be kept.
#[test]
fn sign_out_of_who_was_never_there_waits_for_nothing_where_nobody_has_ended() {
    let clock = Arc::new(ManualClock::at(BEGIN));
    let options = options(Arc::clone(&clock) as Arc<dyn Clock>);
    let store = LogStore::open_by_hand(Arc::new(SimDisk::new(1)), options).unwrap();
    drive(&store, store.create_as(key(1), "x".into(), HOUR)).unwrap().unwrap();
    for listens in [false, true] {
        let events = listens.then(|| store.events());
        for _ in 0..20 {
            store.step();
        }
        clock.advance(MINUTE);
        store.work(Work::Keep);
        assert!(is_answered_at_once(&store, key(2)), "somebody listens: {listens}");
        drop(events);
    }
}
