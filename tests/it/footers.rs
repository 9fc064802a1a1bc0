//! Footers: what an open takes from them is what the segments hold, and whatever is wrong with one costs time alone.
//!
//! Goal: to refute that a footer is a hint. Not here: power loss and failing disks, which every simulated life meets with footers written and read.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::sim::{Call, Fault, SimDisk};
use cloakroom::{
    Access, Clock, Durability, Error, Lifetime, LogStore, ManualClock, OpenError, Options, SessionKey,
    SessionStore, Stored, Timestamp, When, Work,
};

use crate::copies::is_segment;
use crate::stores::{defaults, eventually};
use crate::support::history::history;
use crate::support::hooked::{At, Hooked};
use crate::support::life::{Life, drive};
use crate::support::model::End;
use crate::support::{Replay, budget, seeds};

const HOUR: Lifetime = Lifetime::idle(Duration::from_secs(3_600));

/// What a footer begins with.
const MAGIC: &[u8] = b"CLOAKFTR";

/// Where the footer of a segment's file begins.
fn footer_at(disk: &SimDisk, name: &str) -> Option<usize> {
    disk.contents(name)?.windows(MAGIC.len()).position(|window| window == MAGIC)
}

fn with_footers(disk: &SimDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| footer_at(disk, name).is_some()).collect()
}

/// The next life on a copy of the disk, which reads segments of so many bytes by their footers.
#[track_caller]
fn next(life: &Life, end: End, footers_from: u32) -> Life {
    let mut next = life.at(&life.moment(), life.disk.copy(7));
    next.options.footers_from = footers_from;
    next.begin(end).unwrap();
    next
}

/// A history, some segments of sessions that live on, and a clean end.
fn closed(seed: u64) -> Life {
    let mut life = Life::open(SimDisk::new(seed));
    for step in history(seed, 300) {
        assert!(life.apply(step));
    }
    for n in 0..60_u32 {
        let lifetime = When::Always(Lifetime::idle(Duration::from_secs(40_000)));
        assert!(life.write(SessionKey::of(&n.to_be_bytes()), 3_000, lifetime, Durability::Sync));
    }
    life.end(End::Close);
    life
}

#[test]
fn open_by_footers_finds_what_an_open_that_reads_everything_finds() {
    let (mut spared, mut records) = (0, 0);
    for seed in seeds(1..budget(30)) {
        let _replay = Replay("footers".into(), seed);
        let mut life = Life::open(SimDisk::new(seed));
        for (at, part) in history(seed, 400).chunks(80).enumerate() {
            for step in part {
                assert!(life.apply(*step));
            }
            (0..4).for_each(|_| life.step());
            let end = [End::Close, End::Kill, End::PowerLoss][at % 3];
            life.end(end);
            let (by_footers, whole) = (next(&life, end, 0), next(&life, end, u32::MAX));
            assert_eq!(by_footers.observe(), whole.observe());
            let [found, expected] = [&by_footers, &whole].map(|life| life.store().stats());
            assert_eq!((found.sessions, found.live_bytes), (expected.sessions, expected.live_bytes));
            let [found, expected] = [&by_footers, &whole].map(|life| life.store().recovery());
            assert_eq!((found.records, found.sessions), (expected.records, expected.sessions));
            spared += expected.bytes - found.bytes;
            records += found.records;
            life.begin(end).unwrap();
        }
    }
    assert!(spared > 10 * records, "only {spared} bytes of {records} records were not read");
}

#[test]
fn footer_that_is_damaged_torn_or_lost_costs_time_alone() {
    let life = closed(3);
    let files = with_footers(&life.disk);
    assert!(files.len() > 2, "{:?}", life.disk.names());
    let good = next(&life, End::Close, 0);
    let mut tried = 0;
    let mut open = |name: &str, bytes: Vec<u8>| {
        let mut spoilt = life.at(&life.moment(), life.disk.copy(7));
        spoilt.disk.set_contents(name, &bytes);
        spoilt.begin(End::Close).unwrap();
        assert_eq!(spoilt.observe(), good.observe());
        let (found, expected) = (spoilt.store().recovery(), good.store().recovery());
        assert!(found.records == expected.records && found.bytes > expected.bytes, "{name}: it was believed");
        tried += 1;
    };
    for name in &files {
        let (bytes, at) = (life.disk.contents(name).unwrap(), footer_at(&life.disk, name).unwrap());
        for offset in (at..bytes.len()).step_by(usize::try_from(budget(3)).unwrap().min(3)) {
            let mut spoilt = bytes.clone();
            spoilt[offset] ^= 1 << (offset % 8);
            open(name, spoilt);
            open(name, bytes[..offset].to_vec());
        }
    }
    // One segment's footer behind another.
    let (one, other) = (&files[0], &files[1]);
    let footer = life.disk.contents(one).unwrap().split_off(footer_at(&life.disk, one).unwrap());
    let mut bytes = life.disk.contents(other).unwrap();
    bytes.truncate(footer_at(&life.disk, other).unwrap());
    bytes.extend(footer);
    open(other, bytes);
    assert!(tried > 100);
}

/// A store that is closed, with sessions 0 to 9 in one segment that has a footer.
struct Closed {
    disk: SimDisk,
    options: Options,
    file: String,
}

fn key(n: u8) -> SessionKey {
    SessionKey::of(&[n])
}

fn marked(n: u8) -> Bytes {
    Bytes::from(vec![0xA0 + n; 300])
}

impl Closed {
    fn new(live: impl FnOnce(&LogStore)) -> Self {
        let (disk, options) = (SimDisk::new(1), options(0));
        let store = open(&disk, &options).unwrap().at(Durability::Sync);
        for n in 0..10 {
            drive(&store, store.create_as(key(n), marked(n), HOUR)).unwrap().unwrap();
        }
        live(&store);
        drive(&store, store.close()).unwrap().unwrap();
        let [file] = &*with_footers(&disk) else { panic!("{:?}", disk.names()) };
        Self { file: file.clone(), disk, options }
    }

    /// Turns a bit, so many bytes from where a payload stands; gives the place.
    fn damage(&self, payload: u8, from: usize) -> usize {
        let (bytes, mark) = (self.disk.contents(&self.file).unwrap(), marked(payload));
        let at = bytes.windows(mark.len()).position(|window| window == mark).unwrap() + from;
        self.disk.flip_bit(&self.file, at as u64, 2).unwrap();
        at
    }
}

fn options(footers_from: u32) -> Options {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    Options { segment_bytes: 64 << 10, payload_bytes_max: 4_096, footers_from, clock, ..defaults() }
}

fn open(disk: &SimDisk, options: &Options) -> Result<LogStore, OpenError> {
    LogStore::open_by_hand(Arc::new(disk.clone()), options.clone())
}

fn get(store: &LogStore, n: u8) -> Result<Option<Stored>, Error> {
    drive(store, store.get(key(n), Access::Peek)).unwrap()
}

#[test]
fn damage_behind_a_footer_is_never_served_and_is_told_by_the_read_and_by_the_check() {
    let closed = Closed::new(|_| {});
    let at = closed.damage(4, 150);
    let store = open(&closed.disk, &closed.options).unwrap();
    for n in 0..10 {
        match get(&store, n) {
            Ok(stored) => assert_eq!(stored.unwrap().payload, marked(n)),
            Err(Error::Corrupt { segment, offset, .. }) => {
                assert_eq!((n, format!("{segment:08x}.seg")), (4, closed.file.clone()));
                assert!((offset as usize..at).contains(&(at - 150 - 1)), "{offset} of {at}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(matches!(get(&store, 4), Err(Error::Corrupt { .. })));
    (0..10).for_each(|_| store.step());
    assert_eq!(store.stats().damaged_segments, 1, "the check behind the open tells");
    // A segment that is nearly dead, and that nobody may copy.
    (5..10).for_each(|n| assert!(drive(&store, store.delete(key(n))).unwrap().unwrap()));
    (0..10).for_each(|_| store.step());
    assert_eq!(store.stats().damaged_segments, 1, "it is counted once");
    assert!(closed.disk.names().contains(&closed.file) && store.stats().compacted_bytes == 0);
    // The session that is damaged lives, so the segment stays, and whoever reads all of it refuses.
    (0..4).for_each(|n| assert!(drive(&store, store.delete(key(n))).unwrap().unwrap()));
    (0..10).for_each(|_| store.step());
    assert!(closed.disk.names().contains(&closed.file) && store.stats().damaged_segments == 1);
    drive(&store, store.close()).unwrap().unwrap();
    let whole = Options { footers_from: u32::MAX, ..closed.options.clone() };
    match open(&closed.disk, &whole) {
        Err(OpenError::Damaged { file, .. }) => assert_eq!(file, closed.file),
        other => panic!("{other:?}"),
    }
    let store = open(&closed.disk, &closed.options).unwrap();
    (0..10).for_each(|_| store.step());
    assert!(store.stats().damaged_segments == 1 && drive(&store, store.delete(key(4))).unwrap().unwrap());
    (0..10).for_each(|_| store.step());
    assert!(!closed.disk.names().contains(&closed.file) && store.stats().damaged_segments == 0);
    drive(&store, store.close()).unwrap().unwrap();
    assert_eq!(open(&closed.disk, &whole).unwrap().recovery().sessions, 0);
}

#[test]
fn check_behind_an_open_finds_nothing_wrong_with_what_is_whole() {
    let closed = Closed::new(|_| {});
    let store = open(&closed.disk, &closed.options).unwrap();
    (0..10).for_each(|_| store.step());
    assert_eq!(store.stats().damaged_segments, 0);
    (0..10).for_each(|n| assert_eq!(get(&store, n).unwrap().unwrap().payload, marked(n)));
}

#[test]
fn tombstone_that_is_damaged_behind_a_footer_still_hides_what_it_hid() {
    // The tombstone is the record behind the last payload.
    let closed = Closed::new(|store| assert!(drive(store, store.delete(key(3))).unwrap().unwrap()));
    closed.damage(9, 300 + 48 + 30);
    let store = open(&closed.disk, &closed.options).unwrap();
    assert!(get(&store, 3).unwrap().is_none());
    (0..10).for_each(|_| store.step());
    assert!(get(&store, 3).unwrap().is_none() && store.stats().damaged_segments == 1);
    drive(&store, store.close()).unwrap().unwrap();
    // A salvage goes by the records: it cannot know what the damaged one said, and keeps nobody whom it may have named.
    let done = LogStore::salvage_on(Arc::new(closed.disk.clone()), closed.options.clone()).unwrap();
    assert!(done.sessions_dropped > 0, "{done:?}");
    let store = open(&closed.disk, &closed.options).unwrap();
    assert!(get(&store, 3).unwrap().is_none());
}

#[test]
fn footer_that_cannot_be_written_is_left_out_and_nothing_is_poisoned() {
    // The last write of a close.
    let mut last = 0;
    for fault in [None, Some(Fault::Eio), Some(Fault::Enospc)] {
        let (disk, options) = (SimDisk::new(1), options(0));
        let store = open(&disk, &options).unwrap().at(Durability::Sync);
        for n in 0..10 {
            drive(&store, store.create_as(key(n), marked(n), HOUR)).unwrap().unwrap();
        }
        let before = disk.calls_of(Call::Write);
        if let Some(fault) = fault {
            disk.fail_call_of(Call::Write, last, fault);
        }
        drive(&store, store.close()).unwrap().unwrap();
        last = disk.calls_of(Call::Write) - before;
        assert_eq!(with_footers(&disk).is_empty(), fault.is_some());
        let store = open(&disk, &options).unwrap();
        (0..10).for_each(|n| assert_eq!(get(&store, n).unwrap().unwrap().payload, marked(n)));
    }
}

#[test]
fn footer_stays_from_one_life_to_the_next_and_a_new_one_is_made_where_one_is_lost() {
    let closed = Closed::new(|_| {});
    let live = || {
        let store = open(&closed.disk, &closed.options).unwrap();
        let read = store.recovery().bytes;
        (0..5).for_each(|_| store.step());
        drive(&store, store.close()).unwrap().unwrap();
        read
    };
    let read = live();
    assert!(read < 1_000, "{read} bytes of ten sessions of 300");
    assert_eq!([live(), live()], [read; 2]);
    let (mut bytes, at) =
        (closed.disk.contents(&closed.file).unwrap(), footer_at(&closed.disk, &closed.file).unwrap());
    bytes.truncate(at + 100);
    closed.disk.set_contents(&closed.file, &bytes);
    assert_eq!(live(), at as u64);
    assert_eq!(live(), read);
}

#[test]
fn segments_that_are_short_or_mostly_headers_have_no_footer() {
    let footers = |footers_from, len: usize| {
        let disk = SimDisk::new(1);
        let store = open(&disk, &options(footers_from)).unwrap();
        for n in 0..10 {
            drive(&store, store.create_as(key(n), vec![n; len].into(), HOUR)).unwrap().unwrap();
        }
        drive(&store, store.close()).unwrap().unwrap();
        let bytes: usize = disk.names().iter().map(|name| footer_at(&disk, name).unwrap_or(0)).sum();
        (with_footers(&disk).len(), bytes)
    };
    let (count, bytes) = footers(0, 300);
    assert!(count == 1 && bytes > 4_000);
    let bytes = u32::try_from(bytes).unwrap();
    assert_eq!(footers(bytes, 300).0, 1);
    assert_eq!(footers(bytes + 1, 300).0, 0);
    assert_eq!(footers(0, 0).0, 0, "it would be longer than a third");
}

/// A segment that waits for its footer is held open, and its space with it.
#[test]
fn segment_that_is_removed_before_its_footer_was_written_gives_its_space_back_at_once() {
    let life = Life::open(SimDisk::new(1));
    let store = life.store().at(Durability::Buffered);
    let work = || [Work::Write, Work::Sync, Work::Keep].into_iter().for_each(|work| store.work(work));
    let keys: Vec<_> = (0..60_u32).map(|n| SessionKey::of(&n.to_le_bytes())).collect();
    for key in &keys {
        drive(&store, store.create_as(*key, vec![7; 4_000].into(), HOUR)).unwrap().unwrap();
        work();
    }
    for key in &keys {
        assert!(drive(&store, store.delete(*key)).unwrap().unwrap());
    }
    work();
    let before = life.disk.used_bytes();
    store.work(Work::Compact);
    let after = life.disk.used_bytes();
    assert!(after + 3 * (64 << 10) < before, "{before} bytes, then {after}");
}

/// A store with so many sessions of `len` bytes, closed, none of whose segments has a footer.
fn without_footers(sessions: u32, len: usize) -> SimDisk {
    let (disk, options) = (SimDisk::new(1), options(u32::MAX));
    let store = open(&disk, &options).unwrap().at(Durability::Buffered);
    for n in 0..sessions {
        drive(&store, store.create_as(number(n), vec![7; len].into(), HOUR)).unwrap().unwrap();
    }
    drive(&store, store.close()).unwrap().unwrap();
    disk
}

fn number(n: u32) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

#[test]
fn footers_of_a_close_leave_the_next_open_its_room() {
    let prepared = without_footers(2_000, 300);
    for room in [120, 136, 152] {
        let disk = prepared.copy(1);
        disk.space_bytes(disk.used_bytes() + (room << 10));
        let store = open(&disk, &options(0)).unwrap();
        drive(&store, store.close()).unwrap().unwrap();
        let store = open(&disk, &options(0)).unwrap_or_else(|e| panic!("{room} KiB: {e}"));
        assert_eq!(store.recovery().sessions, 2_000);
    }
}

#[test]
fn footers_leave_a_store_without_a_reserve_the_room_to_shrink_in() {
    for room in [68, 76] {
        let disk = without_footers(2_000, 300);
        disk.space_bytes(disk.used_bytes() + (room << 10));
        let store = open(&disk, &options(0)).unwrap().at(Durability::Buffered);
        (0..40).for_each(|_| store.step());
        assert!(with_footers(&disk).is_empty(), "{room} KiB: the reserve comes first");
        for n in (0..2_000).filter(|n| n % 50 < 35) {
            assert!(drive(&store, store.delete(number(n))).unwrap().unwrap(), "{room} KiB, {n}");
            store.step();
        }
    }
}

#[test]
fn footer_that_the_device_cannot_read_costs_time_alone() {
    // The header of the footer, then all of it.
    let closed = Closed::new(|_| {});
    for read in 1..=2 {
        closed.disk.fail_call_of(Call::Read, 2 + read, Fault::Eio);
        let store = open(&closed.disk, &closed.options).unwrap();
        assert!(store.recovery().bytes > 3_000, "{read}: {:?}", store.recovery());
        (0..10).for_each(|n| assert_eq!(get(&store, n).unwrap().unwrap().payload, marked(n)));
        drive(&store, store.close()).unwrap().unwrap();
    }
}

#[test]
fn disk_use_with_footers_is_bounded() {
    for (sessions, len) in [(1_056, 100), (1_377, 100), (1_312, 110)] {
        let life = Life::open(SimDisk::new(1));
        let store = life.store().at(Durability::Buffered);
        for n in 0..sessions {
            let lifetime = Lifetime::absolute(Duration::from_secs(if n % 100 < 47 { 3_600 } else { 36_000 }));
            drive(&store, store.create_as(number(n), vec![7; len].into(), lifetime)).unwrap().unwrap();
        }
        life.rest();
        assert!(with_footers(&life.disk).is_empty(), "no segment is old enough");
        life.clock.advance(Duration::from_secs(60));
        life.rest();
        assert!(!with_footers(&life.disk).is_empty());
        life.clock.advance(Duration::from_secs(2 * 3_600));
        life.rest();
    }
}

/// Bytes written a second time must be worth it.
#[test]
fn segments_that_will_not_stay_get_no_footer_and_nothing_is_copied_because_of_one() {
    let life = Life::open(SimDisk::new(1));
    let store = life.store().at(Durability::Buffered);
    let create = |n, secs| {
        let lifetime = Lifetime::absolute(Duration::from_secs(secs));
        drive(&store, store.create_as(number(n), vec![7; 300].into(), lifetime)).unwrap().unwrap();
    };
    // Four in ten end before their segments are old enough, and one in ten much later.
    (0..1_000).for_each(|n| create(n, [30, 7_200, 36_000][[0, 0, 0, 0, 1, 2, 2, 2, 2, 2][n as usize % 10]]));
    life.rest();
    life.clock.advance(Duration::from_secs(60));
    life.rest();
    assert!(with_footers(&life.disk).is_empty(), "less than two thirds live");
    // As many again of which all live, and then half of them and a few.
    (1_000..2_000).for_each(|n| create(n, if n % 20 < 9 { 7_200 } else { 36_000 }));
    life.rest();
    life.clock.advance(Duration::from_secs(60));
    life.rest();
    let footers = with_footers(&life.disk);
    assert!(footers.len() > 2, "{footers:?}");
    let copied = store.stats().compacted_bytes;
    life.clock.advance(Duration::from_secs(7_200));
    life.rest();
    let names = life.disk.names();
    let left: Vec<_> = footers.iter().filter(|name| names.contains(name)).collect();
    let kept = with_footers(&life.disk).len();
    assert!(left.len() > 2 && kept * 2 < left.len(), "{kept} of {} were not cut off", left.len());
    let copied = store.stats().compacted_bytes - copied;
    assert!(copied < 300_000, "{copied} bytes were copied");
}

#[test]
fn close_does_not_wait_for_all_the_footers_that_are_missing() {
    let disk = without_footers(2_000, 300);
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let slow = Arc::clone(&clock);
    let hooked = Hooked::on(disk.clone(), move |call, _| {
        if call == At::Read {
            slow.advance(Duration::from_millis(300));
        }
        Ok(())
    });
    let store =
        LogStore::open_by_hand(hooked, Options { clock: Arc::clone(&clock) as _, ..options(0) }).unwrap();
    let before = clock.uptime();
    drive(&store, store.close()).unwrap().unwrap();
    assert_eq!(
        clock.uptime().saturating_sub(before).as_millis(),
        1_200,
        "of {} segments",
        store.stats().segments
    );
    assert_eq!(with_footers(&disk).len(), 4);
}

#[test]
fn segment_that_the_check_cannot_read_is_told_of_as_damaged() {
    let closed = Closed::new(|_| {});
    let store = open(&closed.disk, &closed.options).unwrap();
    closed.disk.fail_call_of(Call::Read, 1, Fault::Eio);
    (0..3).for_each(|_| store.step());
    assert_eq!(store.stats().damaged_segments, 1);
}

/// A store of which the first segments hold the sessions that end in a minute.
fn ending_soon() -> SimDisk {
    let disk = SimDisk::new(1);
    let store = open(&disk, &options(0)).unwrap().at(Durability::Buffered);
    for n in 0..2_000 {
        let lifetime = if n < 300 { Lifetime::idle(Duration::from_secs(60)) } else { HOUR };
        drive(&store, store.create_as(number(n), vec![7; 300].into(), lifetime)).unwrap().unwrap();
    }
    drive(&store, store.close()).unwrap().unwrap();
    disk
}

/// Checks take as long as reading all there is; what is dead does not wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_goes_on_between_the_checks_behind_an_open() {
    let disk = tokio::task::spawn_blocking(ending_soon).await.unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_600_000)));
    let (calls, removed) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
    let (seen, gone) = (Arc::clone(&calls), Arc::clone(&removed));
    let hooked = Hooked::on(disk, move |call, name| {
        if std::thread::current().name() == Some("cloakroom-compactor") && is_segment(name) {
            gone.fetch_or(call == At::Remove, Ordering::SeqCst);
            if call == At::Read && !gone.load(Ordering::SeqCst) {
                seen.lock().unwrap().insert(name.to_owned());
            }
        }
        Ok(())
    });
    let store = LogStore::open_on(hooked, Options { clock, ..options(0) }).await.unwrap();
    eventually("what is dead is removed", || removed.load(Ordering::SeqCst)).await;
    let read = calls.lock().unwrap().len();
    assert!((1..=4).contains(&read), "{read} segments were read");
    store.close().await.unwrap();
}
