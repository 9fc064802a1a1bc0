//! What the options ask for is done.
//!
//! Goal: that none of them is forgotten. Method: a store without threads, which shows what waits, on a disk that shows
//! what is mapped and how long files are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom::disk::real::RealDisk;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{Access, Durability, Lifetime, LogStore, Options, ReadMode, SessionStore};

use crate::copies::segments;
use crate::failures::full::at_once;
use crate::owned::{key, open, options};
use crate::support::hooked::{At, Hooked};
use crate::support::life::drive as run;

const HOUR: Lifetime = Lifetime::absolute(Duration::from_secs(3_600));

#[test]
fn writes_and_deletes_wait_for_what_the_options_say() {
    let waits = [Durability::Buffered, Durability::Sync];
    for (write, delete) in waits.into_iter().flat_map(|write| waits.map(|delete| (write, delete))) {
        let (options, _) = options();
        let options = Options { durability: write, delete_durability: delete, ..options };
        let store = open(&SimDisk::new(1), &options);
        let put = at_once(store.upsert(key(1), "coat".into(), HOUR));
        assert_eq!(put, write == Durability::Buffered);
        run(&store, store.flush()).unwrap().unwrap();
        assert_eq!(at_once(store.delete(key(1))), delete == Durability::Buffered);
    }
}

#[test]
fn sealed_segments_are_kept_mapped_up_to_the_bytes_that_were_asked_for() {
    let (options, _) = options();
    // Each is three quarters full when it is left: two are, a third would be too much.
    let options = Options { read_mode: ReadMode::Mapped, warm_bytes_max: 130 << 10, ..options };
    let reads = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&reads);
    let folder = tempfile::tempdir().unwrap();
    let disk = Hooked::on(RealDisk::new(folder.path()), move |at, _| {
        seen.fetch_add(u64::from(at == At::Read), Ordering::Relaxed);
        Ok(())
    });
    let store = LogStore::open_by_hand(disk, options).unwrap().at(Durability::Buffered);
    for n in 0..100 {
        run(&store, store.upsert(key(n), vec![1; 4_000].into(), HOUR)).unwrap().unwrap();
        store.step();
    }
    let is_read = |n: u32| {
        let before = reads.load(Ordering::Relaxed);
        run(&store, store.get(key(n), Access::Peek)).unwrap().unwrap().unwrap();
        reads.load(Ordering::Relaxed) > before
    };
    let cold = (0..100).filter(|n| is_read(*n)).count();
    assert_eq!((0..100).position(|n| !is_read(n)), Some(cold), "the oldest are read from the disk");
    // A segment holds twelve, and some are in the active one.
    assert!((25..36).contains(&(100 - cold)), "{cold} were read");
}

#[test]
fn footer_that_would_save_little_is_not_written() {
    let closed = |len: usize, footers_from: u32| {
        let (options, _) = options();
        let disk = SimDisk::new(1);
        let store = open(&disk, &Options { footers_from, ..options }).at(Durability::Buffered);
        for n in 0..2_000 {
            run(&store, store.upsert(key(n), vec![1; len].into(), HOUR)).unwrap().unwrap();
        }
        run(&store, store.close()).unwrap().unwrap();
        segments(&disk)
    };
    assert_eq!(closed(1, 0), closed(1, u32::MAX), "a line takes more than a third of a record");
    assert_ne!(closed(300, 0), closed(300, u32::MAX));
}
