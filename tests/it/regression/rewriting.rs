//! Writes that come while compaction rewrites what they change: at one moment of it, on every run.

use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use cloakroom::disk::sim::SimDisk;
use cloakroom::disk::{Disk, DiskFile, LockError};
use cloakroom::{Clock as _, Durability, Lifetime, LogStore, SessionStore, Stored};

use super::{DAY, HOUR, delete, key, open, options, put, read, settle};
use crate::support::life::drive as run;

const SEGMENT_BYTES: u64 = 64 << 10;

/// A disk on which something happens when copies are written and no list names them yet.
struct Between {
    disk: SimDisk,
    /// A file was made that is no segment of the stream.
    copied: Mutex<bool>,
    happens: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Disk for Between {
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
        *self.copied.lock().unwrap() |= name.contains(".seg") && len != SEGMENT_BYTES;
        self.disk.create(name, len)
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
        let copied = std::mem::take(&mut *self.copied.lock().unwrap());
        let happens = if copied { self.happens.lock().unwrap().take() } else { None };
        if let Some(happens) = happens {
            happens();
        }
        self.disk.sync_folder()
    }
    fn name(&self) -> String {
        self.disk.name()
    }
}

/// What a future gives at once: a buffered write is done when it is staged.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("there is no room for a short write"),
    }
}

/// emdb lost writes that were made during or after a compaction.
#[test]
fn what_is_written_while_compaction_runs_is_what_is_read_and_found_again() {
    const SESSIONS: u32 = 24;
    let (options, clock) = options();
    let disk = SimDisk::new(1);
    let between =
        Arc::new(Between { disk: disk.clone(), copied: Mutex::default(), happens: Mutex::default() });
    let store = LogStore::open_by_hand(Arc::clone(&between) as Arc<dyn Disk>, options.clone()).unwrap();
    for n in 0..SESSIONS {
        put(&store, n, 500, DAY);
        put(&store, 100 + n, 4_000, DAY);
        run(&store, store.upsert(key(200 + n), "x".into(), Lifetime::idle(HOUR))).unwrap().unwrap();
    }
    clock.advance(HOUR / 2);
    let late = store.at(Durability::Buffered);
    *between.happens.lock().unwrap() = Some(Box::new(move || {
        for n in 0..SESSIONS {
            match n % 4 {
                0 => drop(now(late.put(key(n), vec![200; 100].into())).unwrap().unwrap()),
                1 => assert!(now(late.delete(key(n))).unwrap()),
                2 => assert!(now(late.rotate(key(n))).unwrap().is_some()),
                _ => assert!(now(late.set_lifetime(key(n), Lifetime::absolute(HOUR))).unwrap()),
            }
            assert!(now(late.touch(key(200 + n))).unwrap());
        }
    }));
    // Their own background work compacts as soon as a segment is half dead.
    (0..SESSIONS).for_each(|n| delete(&store, 100 + n));
    settle(&store);
    assert!(between.happens.lock().unwrap().is_none(), "nothing was copied");
    let seen = |store: &LogStore| -> BTreeMap<_, Stored> {
        let keys = run(store, store.keys(None, 1_000)).unwrap().unwrap().keys;
        keys.into_iter().map(|key| (key, read(store, key).unwrap())).collect()
    };
    let found = seen(&store);
    let hour = clock.wall().saturating_add(HOUR);
    for n in 0..SESSIONS {
        let stored = found.get(&key(n));
        match n % 4 {
            0 => assert_eq!(stored.unwrap().payload, vec![200; 100], "session {n} is as it was before"),
            1 | 2 => assert_eq!(stored, None, "session {n} is back"),
            _ => assert_eq!(stored.unwrap().expires_at, hour, "session {n} has the lifetime of before"),
        }
        assert!(found[&key(200 + n)].expires_at > hour, "session {n} lost a touch");
    }
    assert_eq!(found.len(), (SESSIONS / 4 * 3 + SESSIONS) as usize, "those that were rotated have new keys");
    run(&store, store.put(key(0), "after".into())).unwrap().unwrap();
    run(&store, store.flush()).unwrap().unwrap();
    let found = seen(&store);
    for _ in 0..2 {
        disk.crash();
        let store = open(&disk, &options);
        assert_eq!(seen(&store), found, "found again");
        settle(&store);
        assert_eq!(seen(&store), found, "compacted once more");
    }
}
