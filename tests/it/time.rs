//! Time as it is on real machines: walls that step, machines that sleep, clocks that start anywhere, deadlines at the ends of the range.
//!
//! Goal: to refute that nobody is revived, nobody ends early, and nothing overflows or hangs (P2, P4, P5). Method: a store without threads on the
//! simulated disk, and walls and uptimes moved between and during its lives. Starts that are doubted are in `doubt.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, Clock, Durability, Error, Lifetime, LogStore, ManualClock, Options, SessionKey, SessionStore,
    SystemClock, Timestamp,
};

use crate::support::life::drive as run;

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);
/// The longest idle part but a moment.
const IDLE_MAX: Duration = Duration::from_secs((1 << 31) - 2);

fn open_by(disk: &SimDisk, clock: Arc<dyn Clock>) -> LogStore {
    let options = Options { segment_bytes: 64 << 10, payload_bytes_max: 4_096, clock, ..Options::default() };
    LogStore::open_by_hand(Arc::new(disk.clone()), options).unwrap().at(Durability::Sync)
}

fn open_at(disk: &SimDisk, wall: Timestamp) -> (LogStore, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(wall));
    (open_by(disk, Arc::clone(&clock) as Arc<dyn Clock>), clock)
}

fn key(name: &str) -> SessionKey {
    SessionKey::of(name.as_bytes())
}

fn create(store: &LogStore, name: &str, lifetime: Lifetime) -> Result<(), Error> {
    run(store, store.upsert(key(name), "x".into(), lifetime)).unwrap()
}

fn there(store: &LogStore, name: &str) -> bool {
    run(store, store.get(key(name), Access::Peek)).unwrap().unwrap().is_some()
}

fn touch(store: &LogStore, name: &str) -> bool {
    run(store, store.touch(key(name))).unwrap().unwrap()
}

fn settle(store: &LogStore) {
    (0..10).for_each(|_| store.step());
}

fn close(store: &LogStore) {
    run(store, store.close()).unwrap().unwrap();
}

fn before(instant: Timestamp, by: Duration) -> Timestamp {
    let ms = u64::try_from(by.as_millis()).unwrap();
    Timestamp::from_millis(instant.as_millis().saturating_sub(ms))
}

#[test]
fn wall_that_steps_back_an_hour_moves_no_deadline_while_running_nor_across_a_restart() {
    for crash in [false, true] {
        let disk = SimDisk::new(1);
        let (store, clock) = open_at(&disk, START);
        create(&store, "gone", Lifetime::absolute(10 * MINUTE)).unwrap();
        create(&store, "stays", Lifetime::absolute(30 * MINUTE)).unwrap();
        clock.advance(11 * MINUTE);
        clock.set_wall(before(clock.wall(), HOUR));
        assert!(!there(&store, "gone") && there(&store, "stays"));
        settle(&store);
        create(&store, "new", Lifetime::absolute(10 * MINUTE)).unwrap();
        if crash {
            disk.crash();
        } else {
            close(&store);
        }
        drop(store);
        // The wall shows an hour less than the store wrote down.
        let (store, clock) = open_at(&disk, before(START, 49 * MINUTE));
        assert!(!there(&store, "gone"), "revived");
        assert!(there(&store, "stays") && there(&store, "new"), "ended early");
        clock.advance(10 * MINUTE);
        assert!(!there(&store, "new") && there(&store, "stays"));
        clock.advance(9 * MINUTE);
        assert!(!there(&store, "stays"));
    }
}

#[test]
fn wall_that_jumps_ahead_while_running_ends_nobody_and_is_doubted_at_the_restart() {
    let disk = SimDisk::new(1);
    let (store, clock) = open_at(&disk, START);
    create(&store, "it", Lifetime::idle(30 * MINUTE)).unwrap();
    clock.set_wall(START.saturating_add(10 * YEAR));
    settle(&store);
    assert!(there(&store, "it") && touch(&store, "it"));
    close(&store);
    let (store, clock) = open_at(&disk, START.saturating_add(10 * YEAR));
    assert!(!there(&store, "it"), "it goes by the time that it shows");
    clock.advance(MINUTE);
    settle(&store);
    disk.crash();
    drop(store);
    let (store, _) = open_at(&disk, START.saturating_add(MINUTE));
    assert!(there(&store, "it"), "the jump was withdrawn");
    close(&store);
}

#[test]
fn machine_that_sleeps_for_days_wakes_to_what_is_due() {
    let disk = SimDisk::new(1);
    let (store, clock) = open_at(&disk, START);
    for (name, lifetime) in [
        ("idle", Lifetime::idle(30 * MINUTE)),
        ("absolute", Lifetime::absolute(2 * DAY)),
        ("long", Lifetime::idle(30 * DAY)),
        ("capped", Lifetime::idle(30 * DAY).and_absolute(3 * DAY + MS)),
    ] {
        create(&store, name, lifetime).unwrap();
    }
    clock.advance(3 * DAY);
    // Before any sweep.
    assert!(!there(&store, "idle") && !there(&store, "absolute"));
    assert!(there(&store, "long") && there(&store, "capped"));
    assert!(!touch(&store, "idle") && touch(&store, "long") && touch(&store, "capped"));
    settle(&store);
    assert_eq!(store.len(), 2);
    clock.advance(MS);
    assert!(!there(&store, "capped"), "a touch moved it beyond its end");
    disk.crash();
    drop(store);
    let (store, _) = open_at(&disk, START);
    assert!(there(&store, "long") && !there(&store, "idle") && !there(&store, "absolute"));
}

/// Forward, and right again: within the hour what only the step had ended is back; later it has ended for good.
#[test]
fn wall_ten_years_ahead_is_withdrawn_within_the_hour_or_after_it() {
    for (ahead, runs, is_back) in [
        (10 * YEAR, 59 * MINUTE, true),
        (10 * YEAR, 61 * MINUTE, false),
        (DAY + 2 * MINUTE, 59 * MINUTE, true),
        // Not so far that it is doubted.
        (23 * HOUR, MINUTE, false),
    ] {
        let disk = SimDisk::new(1);
        let (store, _) = open_at(&disk, START);
        create(&store, "old", Lifetime::absolute(20 * HOUR)).unwrap();
        create(&store, "out", Lifetime::absolute(20 * HOUR)).unwrap();
        create(&store, "forever", Lifetime::absolute(50 * YEAR)).unwrap();
        close(&store);
        let (store, clock) = open_at(&disk, START.saturating_add(ahead));
        assert!(!there(&store, "old") && there(&store, "forever"), "{ahead:?}");
        create(&store, "new", Lifetime::absolute(HOUR)).unwrap();
        run(&store, store.delete(key("out"))).unwrap().unwrap();
        clock.advance(runs);
        settle(&store);
        disk.crash();
        drop(store);
        let (store, _) = open_at(&disk, START.saturating_add(HOUR));
        assert_eq!(there(&store, "old"), is_back, "{ahead:?}, {runs:?}");
        assert!(there(&store, "forever"), "{ahead:?}, {runs:?}");
        assert!(!there(&store, "out"), "{ahead:?}, {runs:?}: who was signed out came back");
        let ended = runs >= HOUR;
        assert_eq!(there(&store, "new"), !ended, "{ahead:?}, {runs:?}: promised an hour, had {runs:?}");
        settle(&store);
        close(&store);
    }
}

#[test]
fn lifetimes_at_both_ends_of_the_range_end_when_they_say() {
    let year = |years: u32| Timestamp::default().saturating_add(years * YEAR);
    for wall in [Timestamp::default(), Timestamp::from_millis(1), MS_1970, START, year(500), year(8_000)] {
        for (lifetime, lives) in [
            (Lifetime::absolute(MS), MS),
            (Lifetime::idle(MS).exact(), MS),
            (Lifetime::idle(MS).and_absolute(MS), MS),
            (Lifetime::idle(IDLE_MAX).exact(), IDLE_MAX),
            (Lifetime::idle(IDLE_MAX), IDLE_MAX),
            (Lifetime::absolute(800 * YEAR), 800 * YEAR),
            (Lifetime::idle(IDLE_MAX).and_absolute(MINUTE), MINUTE),
        ] {
            let disk = SimDisk::new(1);
            let (store, clock) = open_at(&disk, wall);
            create(&store, "it", lifetime).unwrap();
            let stored = run(&store, store.get(key("it"), Access::Peek)).unwrap().unwrap().unwrap();
            let end = stored.expires_at;
            assert!(end >= wall.saturating_add(lives), "{wall:?} {lifetime:?}");
            settle(&store);
            clock.advance(before(end, MS).saturating_since(wall));
            settle(&store);
            assert!(there(&store, "it"), "{wall:?} {lifetime:?}: ended early");
            disk.kill();
            drop(store);
            let (store, clock) = open_at(&disk, before(end, MS));
            assert!(there(&store, "it"), "{wall:?} {lifetime:?}: ended early after a restart");
            clock.advance(MS);
            assert!(!there(&store, "it") && !touch(&store, "it"), "{wall:?} {lifetime:?}: lives on");
            clock.advance(HOUR);
            settle(&store);
            assert_eq!(store.len(), 0, "{wall:?} {lifetime:?}");
            close(&store);
        }
    }
}

const MS_1970: Timestamp = Timestamp::from_millis(1_000);

#[test]
fn clock_at_the_end_of_the_range_refuses_new_sessions_and_breaks_nothing() {
    for wall in [Timestamp::MAX, before(Timestamp::MAX, MS), before(Timestamp::MAX, MINUTE)] {
        let disk = SimDisk::new(1);
        let (store, _) = open_at(&disk, START);
        create(&store, "it", Lifetime::absolute(DAY)).unwrap();
        create(&store, "idle", Lifetime::idle(DAY)).unwrap();
        close(&store);
        let (store, clock) = open_at(&disk, wall);
        let refused = create(&store, "new", Lifetime::absolute(HOUR));
        assert!(matches!(refused, Err(Error::InvalidLifetime { .. })), "{refused:?}");
        assert!(!there(&store, "it") && !touch(&store, "idle"));
        // Beyond the end, and beyond the hour for which it is doubted.
        for by in [MS, MINUTE, 2 * HOUR, 100_000 * YEAR] {
            clock.advance(by);
            settle(&store);
            assert!(!there(&store, "it"));
        }
        close(&store);
        // The mark is at the end now; the wall is right again.
        let (store, _) = open_at(&disk, START);
        assert!(!there(&store, "it"), "revived");
        assert!(matches!(create(&store, "it", Lifetime::absolute(HOUR)), Err(Error::InvalidLifetime { .. })));
        settle(&store);
        close(&store);
    }
}

/// An uptime that is not what it should be: it goes back a little now and then.
struct Unsteady(AtomicU64);

impl Clock for Unsteady {
    fn wall(&self) -> Timestamp {
        START
    }
    fn uptime(&self) -> Duration {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        Duration::from_millis(1_000 + n * 10 - (n % 7) * 13)
    }
}

#[test]
fn uptime_that_goes_back_a_little_breaks_nothing() {
    let disk = SimDisk::new(1);
    for start in [0, 3, 5] {
        let store = open_by(&disk, Arc::new(Unsteady(AtomicU64::new(start))));
        for n in 0..200 {
            let name = n.to_string();
            create(&store, &name, Lifetime::idle(20 * MS).exact()).unwrap();
            let _ = (touch(&store, &name), there(&store, &name));
            run(&store, store.delete(key(&name))).unwrap().unwrap();
            create(&store, &name, Lifetime::absolute(HOUR)).unwrap();
            settle(&store);
            assert!(there(&store, &name));
        }
        close(&store);
    }
}

/// `/proc/uptime` is boot time: it counts the time a machine sleeps.
#[cfg(target_os = "linux")]
#[test]
fn system_clock_counts_from_the_boot_of_the_machine() {
    let kernel = || {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
    };
    let (earlier, uptime, later) = (kernel(), SystemClock.uptime(), kernel());
    // The kernel's is in hundredths of a second.
    let hundredth = Duration::from_millis(10);
    assert!(earlier <= uptime + hundredth && uptime <= later + hundredth, "{earlier:?} {uptime:?} {later:?}");
}

/// A machine that has slept, to a process in a time namespace of its own: it alone sees a boot time that is ahead, as after a suspension of so long. Where
/// that may not be made, it is said.
#[cfg(target_os = "linux")]
#[test]
fn system_clock_counts_the_time_that_a_machine_sleeps() {
    const NAME: &str = "time::system_clock_counts_the_time_that_a_machine_sleeps";
    const SLEPT_S: u64 = 10_000_000;
    let slept = "CLOAKROOM_SLEPT";
    if std::env::var_os(slept).is_some() {
        return println!("\n#uptime {}", SystemClock.uptime().as_secs());
    }
    let before = SystemClock.uptime().as_secs();
    let output = std::process::Command::new("unshare")
        .args(["--time", "--boottime", &SLEPT_S.to_string()])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(slept, "1")
        .output();
    let said = match &output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout),
        failed => return println!("skipped: {failed:?}"),
    };
    let uptime = said.lines().find_map(|line| line.strip_prefix("#uptime ")?.parse::<u64>().ok()).unwrap();
    let passed = uptime - SLEPT_S - before;
    assert!(passed <= SystemClock.uptime().as_secs() - before, "{uptime} is not {before} and {SLEPT_S}");
}
