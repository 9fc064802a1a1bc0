//! What goes wrong at the worst moment: a power cut, a full disk or a failed sync between two steps of the background work.
//!
//! Invariant: each test meets its moment on every run; none waits for luck.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use cloakroom::disk::sim::{Call, DirOps, Fault, SimDisk};
use cloakroom::disk::{Disk, DiskFile, LockError, Map};
use cloakroom::{
    Access, Durability, Error, Lifetime, LogStore, ManualClock, Options, SessionKey, SessionStore, Timestamp,
};

use crate::stores::{defaults, eventually};
use crate::support::life::drive as run;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn options() -> (Options, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let options = Options {
        segment_bytes: 64 << 10,
        payload_bytes_max: 4_096,
        unwritten_bytes_max: 64 << 10,
        clock: Arc::clone(&clock) as Arc<dyn cloakroom::Clock>,
        ..defaults()
    };
    (options, clock)
}

fn open(disk: &SimDisk, options: &Options) -> LogStore {
    LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()).unwrap()
}

fn key(n: u32) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

fn put(store: &LogStore, n: u32, len: usize, lifetime: Lifetime) {
    run(store, store.upsert(key(n), vec![7; len].into(), lifetime)).unwrap().unwrap();
}

fn there(store: &LogStore, n: u32) -> bool {
    run(store, store.get(key(n), Access::Peek)).unwrap().unwrap().is_some()
}

/// What only an unsynced write replaces is still what a power cut leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_drops_nothing_that_only_an_unsynced_write_replaces() {
    let (options, _) = options();
    let disk = SimDisk::new(1);
    let store = LogStore::open_on(Arc::new(disk.clone()), options.clone()).await.unwrap();
    let day = Lifetime::absolute(24 * HOUR);
    let durable = store.at(Durability::Sync);
    for n in 0..20 {
        durable.upsert(key(n), vec![1; 4_000].into(), day).await.unwrap();
    }
    let late = store.at(Durability::Interval(HOUR));
    for n in 0..13 {
        late.upsert(key(n), vec![2; 100].into(), day).await.unwrap();
    }
    crate::stores::eventually("the first segment is compacted away", || {
        !disk.names().contains(&"00000001.seg".to_owned())
    })
    .await;
    disk.crash();
    drop(store);
    let store = open(&disk, &options);
    let lost: Vec<_> = (0..20).filter(|n| !there(&store, *n)).collect();
    assert!(lost.is_empty(), "{lost:?} acknowledged at Sync and lost");
}

/// The tombstone of a session that was shortened and ended is durable before the shortening goes.
#[test]
fn shortened_and_expired_session_stays_gone_after_a_crash() {
    let (options, clock) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options);
    let long = Lifetime::absolute(1_000 * HOUR);
    for n in 0..15 {
        put(&store, n, 4_000, long);
    }
    // The second segment: the shortening, and what dies with it.
    let s = Lifetime::absolute(Duration::from_secs(2));
    for n in 100..105 {
        put(&store, n, 4_000, s);
    }
    assert!(run(&store, store.set_lifetime(key(0), s)).unwrap().unwrap());
    for n in 105..118 {
        put(&store, n, 4_000, s);
    }
    for n in 200..204 {
        put(&store, n, 4_000, long);
    }
    store.step();
    clock.advance(Duration::from_secs(3));
    assert!(!there(&store, 0));
    store.step();
    assert_eq!(store.stats().expired, 1 + 18, "with a tombstone and without");
    disk.crash();
    let store = open(&disk, &options);
    assert!(!there(&store, 0), "revived");
}

/// A list that cannot be replaced leaves the originals in force, whatever was copied.
#[test]
fn failed_manifest_after_copying_loses_nothing() {
    let mut found = 0;
    for nth in 1..40 {
        let (options, clock) = options();
        let disk = SimDisk::new(1);
        let store = open(&disk, &options);
        let long = Lifetime::absolute(1_000 * HOUR);
        for n in 0..40 {
            let lifetime = if n % 2 == 0 { long } else { Lifetime::absolute(Duration::from_secs(60)) };
            put(&store, n, 4_000, lifetime);
        }
        store.step();
        clock.advance(Duration::from_secs(61));
        disk.fail_call_of(Call::Create, nth, Fault::Enospc);
        for _ in 0..10 {
            store.step();
        }
        drop(run(&store, store.close()).unwrap());
        drop(store);
        disk.crash();
        let Ok(store) = LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()) else {
            panic!("does not open, create {nth} failed")
        };
        let lost = (0..40).step_by(2).filter(|n| !there(&store, *n)).count();
        found += u32::from(lost > 0);
        if lost > 0 {
            println!("create {nth} failed: {lost} sessions lost");
        }
    }
    assert_eq!(found, 0);
}

/// One copy for each class is made of small segments, fewer than it takes to merge them again.
#[test]
fn merging_small_segments_comes_to_rest() {
    let (options, clock) = options();
    let disk = SimDisk::new(1);
    let mut store = open(&disk, &options);
    for round in 0..9 {
        for (class, hours) in [1, 20, 100, 1_000].into_iter().enumerate() {
            let class = u32::try_from(class).unwrap();
            put(&store, round * 10 + class, 400, Lifetime::absolute(hours * HOUR));
        }
        drop(run(&store, store.close()).unwrap());
        drop(store);
        store = open(&disk, &options);
    }
    clock.advance(Duration::from_secs(1));
    for _ in 0..20 {
        store.step();
    }
    let creates = disk.calls_of(Call::Create);
    for _ in 0..20 {
        store.step();
    }
    assert_eq!(disk.calls_of(Call::Create) - creates, 0, "files made by a store at rest");
}

/// When the folder's sync fails after the rename, the list on disk may be the new one, and names the new segment.
#[test]
fn failed_folder_sync_leaves_a_folder_that_opens() {
    let mut bad = Vec::new();
    for nth in 1..12 {
        let (options, _) = options();
        let disk = SimDisk::new(1);
        let store = open(&disk, &options);
        disk.fail_call_of(Call::SyncFolder, nth, Fault::Eio);
        for n in 0..40 {
            let put = store.upsert(key(n), vec![1; 4_000].into(), Lifetime::absolute(HOUR));
            let _ = run(&store, put);
        }
        disk.kill();
        drop(store);
        if let Err(e) = LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()) {
            bad.push((nth, e.to_string()));
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

/// The first list replaces none, so it leaves no copy of an old one by which the folder would look robbed.
#[test]
fn half_made_folder_opens() {
    let mut bad = Vec::new();
    for n in 1..20 {
        for (seed, dir_ops) in (0..20).flat_map(|s| [(s, DirOps::Ordered), (s, DirOps::Any)]) {
            let (options, _) = options();
            let disk = SimDisk::new(seed);
            disk.dir_ops(dir_ops);
            disk.crash_at_call(n);
            drop(LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()));
            disk.restart();
            if let Err(e) = LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()) {
                bad.push((n, seed, e.to_string()));
            }
        }
    }
    assert!(bad.is_empty(), "{} of them, such as {:?}", bad.len(), bad[0]);
}

/// A segment that may be written to keeps its map: a copy of it would not know how far it is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_up_maps_loses_nothing() {
    let (options, _) = options();
    let options = Options { warm_bytes_max: 0, ..options };
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), options.clone()).await.unwrap();
    let day = Lifetime::absolute(24 * HOUR);
    for n in 0..200 {
        store.upsert(key(n), vec![1; 4_000].into(), day).await.unwrap();
    }
    store.flush().await.unwrap();
    // Two thirds of each segment die.
    for n in (0..200).filter(|n| n % 3 != 0) {
        store.delete(key(n)).await.unwrap();
    }
    eventually("the living are copied", || store.stats().compacted_bytes > 60 * 4_000).await;
    store.close().await.unwrap();
    let store = LogStore::open(folder.path(), options).await.unwrap();
    let mut lost = 0;
    for n in (0..200).filter(|n| n % 3 == 0) {
        lost += u32::from(store.get(key(n), Access::Peek).await.unwrap().is_none());
    }
    store.close().await.unwrap();
    assert_eq!(lost, 0);
}

/// A session that larger limits let in is refused, and nobody waits for room that can never be.
#[test]
fn rotating_a_session_that_a_larger_limit_let_in_ends() {
    let (small, _) = options();
    let large = Options {
        segment_bytes: 4 << 20,
        payload_bytes_max: 400 << 10,
        unwritten_bytes_max: 1 << 20,
        ..small.clone()
    };
    // The shorter one would fit a segment of its own, and never comes to one: the next has to be twice as long as what it is for.
    for len in [300 << 10, 50 << 10] {
        let disk = SimDisk::new(1);
        let store = open(&disk, &large);
        put(&store, 1, len, Lifetime::absolute(HOUR));
        drop(run(&store, store.close()).unwrap());
        drop(store);
        let store = open(&disk, &small);
        (10..15).for_each(|n| put(&store, n, 4_000, Lifetime::absolute(HOUR)));
        let rotated = run(&store, store.rotate(key(1))).expect("rotate waits for ever");
        assert!(matches!(rotated, Err(Error::PayloadTooLarge { .. })), "{rotated:?}");
    }
}

/// A barrier behind which nothing waits writes nothing.
#[test]
fn flushing_an_idle_store_writes_nothing() {
    let (options, _) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options);
    put(&store, 1, 100, Lifetime::absolute(HOUR));
    for _ in 0..3_000 {
        run(&store, store.flush()).unwrap().unwrap();
    }
    let longest = disk.names().iter().filter_map(|n| disk.contents(n)).map(|c| c.len()).max().unwrap();
    assert!(longest <= 72 << 10, "a segment of 64 KiB, or the reserve of one, has {longest} bytes");
}

/// Steps of a test and of the store's threads, one after another.
#[derive(Default)]
struct Steps {
    done: Mutex<u32>,
    changed: Condvar,
}

impl Steps {
    fn reach(&self, step: u32) {
        *self.done.lock().unwrap() = step;
        self.changed.notify_all();
    }

    fn wait(&self, step: u32) {
        let waited =
            self.changed.wait_timeout_while(self.done.lock().unwrap(), 20 * SECOND, |done| *done < step);
        assert!(!waited.unwrap().1.timed_out(), "step {step} never came");
    }
}

/// A disk whose first segment's second sync fails while a third write to it is under way.
struct Halting {
    disk: SimDisk,
    steps: Arc<Steps>,
}

struct HaltingFile {
    file: Arc<dyn DiskFile>,
    steps: Option<Arc<Steps>>,
    calls: Mutex<[u32; 2]>,
}

impl HaltingFile {
    fn nth(&self, call: usize) -> u32 {
        let mut calls = self.calls.lock().unwrap();
        calls[call] += 1;
        calls[call]
    }
}

impl Disk for Halting {
    fn create_folder(&self) -> io::Result<()> {
        self.disk.create_folder()
    }
    fn lock(&self) -> Result<Box<dyn Send + Sync>, LockError> {
        self.disk.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let steps = (name == "00000001.seg").then(|| Arc::clone(&self.steps));
        Ok(Arc::new(HaltingFile { file: self.disk.create(name, len)?, steps, calls: Mutex::default() }))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }
    fn name(&self) -> String {
        self.disk.name()
    }
}

impl DiskFile for HaltingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(steps) = &self.steps
            && self.nth(0) == 3
        {
            steps.reach(2);
            steps.wait(3);
        }
        self.file.write_at(offset, bytes)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
    fn sync(&self) -> io::Result<()> {
        if let Some(steps) = &self.steps
            && self.nth(1) == 2
        {
            steps.reach(1);
            steps.wait(2);
            return Err(io::Error::other("the device failed"));
        }
        self.file.sync()
    }
    fn map(&self) -> io::Result<Option<Map>> {
        Ok(None)
    }
}

/// A write that was under way when an earlier one's sync failed lies behind a hole: another sync, were it to succeed, says nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_as_synced_after_a_failed_sync() {
    let (options, _) = options();
    let steps = Arc::new(Steps::default());
    let disk = Halting { disk: SimDisk::new(1), steps: Arc::clone(&steps) };
    let store = LogStore::open_on(Arc::new(disk), options).await.unwrap().at(Durability::Sync);
    let lifetime = Lifetime::absolute(HOUR);
    let (one, two) = (store.clone(), store.clone());
    let first = tokio::spawn(async move { one.upsert(key(1), "a".into(), lifetime).await });
    steps.wait(1);
    let second = tokio::spawn(async move { two.upsert(key(2), "b".into(), lifetime).await });
    assert!(first.await.unwrap().is_err());
    steps.reach(3);
    assert!(second.await.unwrap().is_err(), "acknowledged at Sync behind a hole");
    assert!(store.close().await.is_err());
}

#[test]
fn full_disk_shrinks_once_everything_on_it_has_ended() {
    let (options, clock) = options();
    let disk = SimDisk::new(9);
    let store = open(&disk, &options);
    (0..300).for_each(|n| put(&store, n, 1_000, Lifetime::absolute(HOUR)));
    disk.space_bytes(disk.used_bytes());
    let before = store.stats().segments;
    clock.advance(HOUR + SECOND);
    (0..20).for_each(|_| store.step());
    let after = store.stats();
    assert!(after.segments < before && after.segments <= 2, "{before} segments, then {after:?}");
    put(&store, 1, 1_000, Lifetime::absolute(HOUR));
    assert!(there(&store, 1));
}

#[test]
fn as_many_bytes_may_wait_to_be_written_however_many_were() {
    let (options, _) = options();
    let store =
        open(&SimDisk::new(1), &Options { segment_bytes: 4 << 20, ..options }).at(Durability::Buffered);
    let mut keys = (0..).map(key);
    let mut fill = || {
        let create = |key| {
            let mut created = pin!(store.create_as(key, "x".into(), Lifetime::absolute(HOUR)));
            created.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        let there = keys.by_ref().take_while(|key| create(*key)).count();
        store.step();
        there
    };
    let first = fill();
    assert!(first > 500, "{first}");
    assert!((0..20).all(|_| fill() == first), "room was lost or won");
}

/// Who ended, and is kept only because an older version outlives them, is counted as live by nobody who opens or looks at the folder.
#[test]
fn session_that_is_kept_for_an_older_version_is_not_counted_as_live() {
    let (options, clock) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options);
    put(&store, 0, 10, Lifetime::absolute(HOUR));
    put(&store, 1, 10, Lifetime::absolute(HOUR));
    assert!(run(&store, store.set_lifetime(key(0), Lifetime::absolute(SECOND))).unwrap().unwrap());
    run(&store, store.flush()).unwrap().unwrap();
    disk.crash();
    clock.advance(2 * SECOND);
    let device: Arc<dyn Disk> = Arc::new(disk.clone());
    let verified = LogStore::verify_on(Arc::clone(&device), options.clone()).unwrap();
    assert_eq!((verified.sessions, verified.sessions_in_doubt), (1, 0), "verified");
    assert_eq!(
        LogStore::salvage_on(Arc::clone(&device), options.clone()).unwrap().sessions_kept,
        1,
        "salvaged"
    );
    let read_only = LogStore::open_read_only_by_hand(device, options.clone()).unwrap();
    assert_eq!(read_only.recovery().sessions, 1, "read only");
    drop(read_only);
    assert_eq!(open(&disk, &options).recovery().sessions, 1, "opened");
}
