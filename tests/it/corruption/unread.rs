//! What is not certain, though the bytes that tell of it hold: a copy made between a revocation and its sweep, and blocks that a device cannot read.
//!
//! Invariant: each test meets its moment on every run; none waits for luck.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::disk::{Disk, DiskFile, LockError, Map};
use cloakroom::{
    Access, Clock, Durability, Lifetime, LogStore, ManualClock, Options, OwnerKey, SessionKey, SessionStore,
    Timestamp, Whose, Work,
};

use crate::support::life::drive as run;

const HOUR: Duration = Duration::from_secs(3_600);
const BLOCK: u64 = 4_096;

fn options() -> (Options, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let options = Options {
        segment_bytes: 64 << 10,
        payload_bytes_max: 4_096,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        ..Options::default()
    };
    (options, clock)
}

fn open(disk: &SimDisk, options: &Options) -> LogStore {
    LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()).unwrap().at(Durability::Sync)
}

fn key(n: u32) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

fn owner(n: u32) -> OwnerKey {
    OwnerKey::of(&n.to_le_bytes())
}

fn there(store: &LogStore, n: u32) -> bool {
    run(store, store.get(key(n), Access::Peek)).unwrap().unwrap().is_some()
}

/// Drives a future by these kinds of work alone.
fn by<T>(store: &LogStore, work: &[Work], future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..50 {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
        for work in work {
            store.work(*work);
        }
    }
    panic!("it never ends");
}

const LOG: &[Work] = &[Work::Write, Work::Sync];
const NO_COMPACTION: &[Work] = &[Work::Keep, Work::Write, Work::Sync];

/// The copy says that it was the newest at a moment after the revocation, since the sweep had not come by.
#[test]
fn revoked_session_that_was_compacted_before_the_sweep_is_not_certain_when_the_revocation_is_lost() {
    for compact in [false, true] {
        let (options, _) = options();
        let disk = SimDisk::new(1);
        let store = open(&disk, &options);
        let day = Lifetime::absolute(24 * HOUR);
        let put = |work, n: u32, len: usize| {
            let byte = u8::try_from(n).unwrap();
            by(&store, work, store.upsert(key(n), vec![byte; len].into(), day)).unwrap();
        };
        put(NO_COMPACTION, 0, 300);
        assert!(by(&store, NO_COMPACTION, store.bind(key(0), Some(owner(1)))).unwrap());
        (1..20).for_each(|n| put(NO_COMPACTION, n, 4_000));
        (1..14).for_each(|n| assert!(by(&store, NO_COMPACTION, store.delete(key(n))).unwrap()));
        (0..5).for_each(|_| NO_COMPACTION.iter().for_each(|work| store.work(*work)));
        put(LOG, 100, 300);
        by(&store, LOG, store.revoke(Whose::Owner(owner(1)), None)).unwrap();
        put(LOG, 101, 300);
        put(LOG, 102, 300);
        assert!(!there_by(&store, 0));
        if compact {
            store.work(Work::Compact);
            assert!(!disk.names().contains(&"00000001.seg".to_owned()), "{:?}", disk.names());
        }
        (0..3).for_each(|_| LOG.iter().for_each(|work| store.work(*work)));
        disk.kill();
        drop(store);
        // Whole, it is gone for good.
        let whole = disk.copy(2);
        assert!(!there(&open(&whole, &options), 0));
        // The revocation's record is damaged: it stands behind the payload of session 100 and its group's header.
        let (name, at) = behind(&disk, &[100; 300]);
        disk.flip_bit(&name, at + 48 + 20, 3).unwrap();
        assert!(LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()).is_err(), "not damaged");
        let done = LogStore::salvage_on(Arc::new(disk.clone()), options.clone()).unwrap();
        let store = open(&disk, &options);
        assert!(!there(&store, 0), "compacted: {compact}; a repair logged back in who was revoked: {done:?}");
    }
}

fn there_by(store: &LogStore, n: u32) -> bool {
    by(store, LOG, store.get(key(n), Access::Peek)).unwrap().is_some()
}

fn behind(disk: &SimDisk, mark: &[u8]) -> (String, u64) {
    for name in disk.names() {
        let bytes = disk.contents(&name).unwrap();
        if let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
            let at = at + mark.len();
            assert_eq!(&bytes[at..at + 4], b"GRP1");
            assert_ne!(&bytes[at + 8..at + 12], &[0; 4], "a bare watermark");
            return (name, at as u64);
        }
    }
    panic!("it is not there");
}

/// A disk with a block of one file that it cannot read.
struct Unreadable {
    disk: SimDisk,
    name: &'static str,
    block: u64,
}

struct UnreadableFile {
    file: Arc<dyn DiskFile>,
    block: Option<u64>,
}

impl Disk for Unreadable {
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
        self.disk.create(name, len)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let block = name.ends_with(self.name).then_some(self.block);
        Ok(Arc::new(UnreadableFile { file: self.disk.open(name)?, block }))
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

impl DiskFile for UnreadableFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let end = offset + into.len() as u64;
        match self.block {
            Some(block) if offset < (block + 1) * BLOCK && end > block * BLOCK => {
                Err(io::Error::other("the device cannot read it"))
            }
            _ => self.file.read_at(offset, into),
        }
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn map(&self) -> io::Result<Option<Map>> {
        Ok(None)
    }
}

/// What cannot be read is taken for zeros, and zeros for an end behind which nothing was ever written.
#[test]
fn session_whose_delete_is_in_a_block_that_cannot_be_read_is_not_certain() {
    for gap in [16, 0] {
        let (options, _) = options();
        let disk = SimDisk::new(1);
        let store = open(&disk, &options);
        let day = Lifetime::absolute(24 * HOUR);
        // Header of the segment; of two groups and records.
        let rest = usize::try_from(BLOCK).unwrap() - 64 - 2 * (48 + 96) - 300 - gap;
        for (n, len) in [(0, 300), (1, rest)] {
            run(&store, store.upsert(key(n), vec![7; len].into(), day)).unwrap().unwrap();
        }
        assert!(run(&store, store.delete(key(0))).unwrap().unwrap());
        (0..3).for_each(|_| store.step());
        disk.kill();
        drop(store);
        let bytes = disk.contents("00000001.seg").unwrap();
        let at = usize::try_from(BLOCK).unwrap() - gap;
        assert_eq!(&bytes[at..at + 4], b"GRP1", "the delete's group begins elsewhere");
        assert!(bytes[2 * 4_096..].iter().all(|byte| *byte == 0));
        let broken = || Arc::new(Unreadable { disk: disk.clone(), name: "00000001.seg", block: 1 });
        let report = LogStore::verify_on(broken(), options.clone()).unwrap();
        assert!(!report.is_sound());
        let done = LogStore::salvage_on(broken(), options.clone()).unwrap();
        let store = open(&disk, &options);
        assert!(!there(&store, 0), "gap {gap}: a repair logged back in who was deleted: {done:?}");
    }
}

/// A young store: all that it has lies in the segment that takes records, and somebody else has filled the disk.
/// "Damage of files that no list names: everything is kept, no open reads them."
#[test]
fn file_that_no_list_names_and_that_cannot_be_read_does_not_keep_a_store_shut() {
    let (options, _) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options);
    run(&store, store.upsert(key(0), vec![7; 100].into(), Lifetime::absolute(HOUR))).unwrap().unwrap();
    run(&store, store.close()).unwrap().unwrap();
    drop(store);
    // As a reserve that was restored after a compaction, or a copy that a crash left.
    disk.set_contents("00000063.seg", &vec![0; 64 << 10]);
    drop(open(&disk.copy(1), &options));
    let broken = || Arc::new(Unreadable { disk: disk.clone(), name: "00000063.seg", block: 0 });
    let done = LogStore::salvage_on(broken(), options.clone()).unwrap();
    assert!(LogStore::verify_on(broken(), options.clone()).unwrap().is_sound());
    let opened = LogStore::open_by_hand(broken(), options.clone());
    assert!(opened.is_ok(), "sound, salvaged ({done:?}), and refused: {}", opened.err().unwrap());
}

/// Beside an older list what cannot be read may be what was written since.
#[test]
fn newer_stream_whose_front_cannot_be_read_beside_an_older_list_brings_nobody_back() {
    let (options, _) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options);
    for n in 0..5 {
        let day = Lifetime::absolute(24 * HOUR);
        run(&store, store.upsert(key(n), vec![7; 300].into(), day)).unwrap().unwrap();
    }
    run(&store, store.close()).unwrap().unwrap();
    let list = disk.contents("MANIFEST").unwrap();
    let store = open(&disk, &options);
    assert!(run(&store, store.delete(key(1))).unwrap().unwrap());
    run(&store, store.close()).unwrap().unwrap();
    disk.set_contents("MANIFEST", &list);
    assert!(disk.contents("00000003.seg").is_some() && disk.contents("00000004.seg").is_none());
    let broken = || Arc::new(Unreadable { disk: disk.clone(), name: "00000003.seg", block: 0 });
    assert!(LogStore::open_by_hand(broken(), options.clone()).is_err());
    LogStore::salvage_on(broken(), options.clone()).unwrap();
    assert!(!there(&open(&disk, &options), 1), "1 is back");
}
