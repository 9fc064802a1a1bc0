//! What compaction writes, and how: which sessions share a file, how long files get, how fast it goes.
//!
//! Goal: that its copies tend to die whole, fit the store's own limits, and leave the disk to others. Method: a store without threads on the simulated disk,
//! whose files and calls are looked at; with threads where the pace is what is tried.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Clock, Durability, Lifetime, LogStore, Options, ReadMode, SessionStore, SystemClock, Whose, Work,
};

use crate::owned::{ann, key, open, options, there};
use crate::refuted::poll;
use crate::support::hooked::{At, Hooked};
use crate::support::life::drive as run;

const HOUR: Duration = Duration::from_secs(3_600);

const fn hours(n: u32) -> Lifetime {
    Lifetime::absolute(HOUR.saturating_mul(n))
}

fn create(store: &LogStore, n: u32, len: usize, lifetime: Lifetime) {
    run(store, store.create_as(key(n), vec![1; len].into(), lifetime)).unwrap().unwrap();
}

pub fn is_segment(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| ending == "seg")
}

/// Files of the log, and how long they are.
pub fn segments(disk: &SimDisk) -> Vec<(String, usize)> {
    let names = disk.names().into_iter().filter(|name| is_segment(name));
    names.map(|name| (name.clone(), disk.contents(&name).unwrap().len())).collect()
}

/// Sessions that end at four times go into four segments, and what is to come is not set aside for each of them.
#[test]
fn copies_of_every_class_set_aside_no_more_than_they_take() {
    let (options, _) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options).at(Durability::Buffered);
    for n in 0..400 {
        create(&store, n, 3_000, [hours(1), hours(20), hours(100), hours(1_000)][n as usize % 4]);
    }
    store.step();
    for n in (0..400).filter(|n| n % 12 >= 4) {
        assert!(run(&store, store.delete(key(n))).unwrap().unwrap());
    }
    let before = disk.trace().len();
    (0..20).for_each(|_| store.step());
    let stream = [options.segment_bytes.to_string(), (options.segment_bytes + (8 << 10)).to_string()];
    let set_aside = |call: &String| {
        let (_, len) = call.split_once(".seg of ").filter(|_| call.contains("Create "))?;
        (!stream.contains(&len.to_string())).then(|| len.parse::<u64>().unwrap())
    };
    let (set_aside, copied) =
        (disk.trace()[before..].iter().filter_map(set_aside).sum::<u64>(), store.stats().compacted_bytes);
    assert!(copied > 300_000, "{copied}");
    // Those as long as one of the stream are not counted, and few.
    assert!(
        set_aside > copied * 3 / 4 && set_aside < copied * 5 / 4,
        "{set_aside} bytes were set aside for {copied}"
    );
}

#[test]
fn copies_of_what_ends_soon_go_without_another_copy() {
    let (options, clock) = options();
    let store = open(&SimDisk::new(1), &options).at(Durability::Buffered);
    // Of three in each segment one ends before it is compacted for the first time, one soon after, one late.
    for n in 0..90 {
        create(&store, n, 3_000, [hours(1), hours(3), hours(1_000)][n as usize % 3]);
    }
    let deleted = (0..90).filter(|n| n % 9 == 1 || n % 9 == 2);
    deleted.for_each(|n| assert!(run(&store, store.delete(key(n))).unwrap().unwrap()));
    clock.advance(HOUR);
    (0..20).for_each(|_| store.step());
    let copied = store.stats().compacted_bytes;
    assert!(copied > 0);
    clock.advance(3 * HOUR);
    (0..20).for_each(|_| store.step());
    assert_eq!(store.stats().compacted_bytes, copied, "what had ended lay among what had not");
    assert!((0..90).filter(|n| n % 3 == 2 && n % 9 != 2).all(|n| there(&store, n)));
}

/// What lives of a segment that was written when they were longer may be more than the reserve takes.
#[test]
fn segment_too_long_for_the_reserve_of_a_full_disk_keeps_no_other_from_its_turn() {
    let (short, _) = options();
    let long = Options { segment_bytes: 1 << 20, ..short.clone() };
    let disk = SimDisk::new(1);
    let store = open(&disk, &long).at(Durability::Buffered);
    (0..200).for_each(|n| create(&store, n, 3_000, hours(1)));
    // Too little of it is dead for a compaction that is not pressed.
    (0..80).for_each(|n| assert!(run(&store, store.delete(key(n))).unwrap().unwrap()));
    run(&store, store.close()).unwrap().unwrap();
    let store = open(&disk, &short).at(Durability::Buffered);
    (200..290).for_each(|n| create(&store, n, 3_000, hours(1)));
    store.step();
    disk.space_bytes(disk.used_bytes());
    let put = |n: u32| run(&store, store.create_as(key(n), vec![1; 3_000].into(), hours(1))).unwrap();
    let mut next = 300;
    while put(next).is_ok() {
        next += 1;
    }
    // Of the long one more is dead than of each of the others.
    let dead = (200..290).filter(|n| n % 3 == 0);
    dead.for_each(|n| assert!(run(&store, store.delete(key(n))).unwrap().unwrap()));
    (0..20).for_each(|_| store.step());
    assert!(store.stats().compacted_bytes > 0, "none had its turn: {:?}", store.stats());
    assert!(put(next).is_ok());
    assert!((80..290).filter(|n| *n < 200 || n % 3 != 0).all(|n| there(&store, n)));
}

#[test]
fn store_that_opens_with_shorter_segments_makes_none_that_is_longer() {
    let (short, _) = options();
    let long = Options { segment_bytes: 1 << 20, ..short.clone() };
    let disk = SimDisk::new(1);
    let store = open(&disk, &long).at(Durability::Buffered);
    (0..200).for_each(|n| create(&store, n, 3_000, hours(1)));
    // Some is to be compacted, and the rest of the segment to be written again, since nothing has synced it.
    run(&store, store.flush()).unwrap().unwrap();
    (200..280).for_each(|n| create(&store, n, 3_000, hours(1)));
    (0..120).for_each(|n| assert!(run(&store, store.delete(key(n))).unwrap().unwrap()));
    store.work(cloakroom::Work::Write);
    disk.kill();
    drop(store);
    let before: Vec<_> = segments(&disk).into_iter().map(|(name, _)| name).collect();
    let store = open(&disk, &short);
    let check = || {
        for (name, len) in segments(&disk).into_iter().filter(|(name, _)| !before.contains(name)) {
            assert!(
                len <= (64 + 8) << 10,
                "{name}, which is a segment of 64 KiB or the reserve, has {len} bytes"
            );
        }
    };
    check();
    // A list of all, and of what was written again as few as it takes.
    assert!(segments(&disk).len() <= before.len() + 8, "{:?}", segments(&disk));
    for _ in 0..20 {
        store.step();
        check();
    }
    assert!(store.stats().compacted_bytes > 0);
    assert!((120..280).all(|n| there(&store, n)));
}

#[test]
fn long_copy_is_synced_in_parts() {
    let (options, _) = options();
    let options = Options {
        segment_bytes: 64 << 20,
        payload_bytes_max: 1 << 20,
        unwritten_bytes_max: 8 << 20,
        compaction_bytes_per_second: 1 << 40,
        ..options
    };
    let syncs = Arc::new(Mutex::new(BTreeMap::<String, u32>::new()));
    let disk = {
        let syncs = Arc::clone(&syncs);
        Hooked::on(SimDisk::new(1), move |at, name| {
            if at == At::Sync {
                *syncs.lock().unwrap().entry(name.into()).or_default() += 1;
            }
            Ok(())
        })
    };
    let store = LogStore::open_by_hand(disk, options).unwrap().at(Durability::Buffered);
    (0..70).for_each(|n| create(&store, n, 1 << 20, hours(1)));
    (0..33).for_each(|n| assert!(run(&store, store.delete(key(n))).unwrap().unwrap()));
    run(&store, store.flush()).unwrap().unwrap();
    (0..10).for_each(|_| store.step());
    assert!(store.stats().compacted_bytes > 16 << 20);
    // The copy is the last file that was made: as it is made, two parts of 8 MiB, and the rest.
    assert_eq!(syncs.lock().unwrap().iter().rfind(|(name, _)| is_segment(name)).unwrap().1, &4);
}

#[test]
fn figures_of_what_is_live_are_the_same_after_an_open() {
    let (options, _) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options);
    for n in 0..12 {
        create(&store, n, 3_000, hours(1));
    }
    let live = || store.stats().live_bytes;
    assert_eq!(live(), store.stats().record_bytes, "nothing is dead");
    run(&store, store.bind(key(0), Some(ann()))).unwrap().unwrap();
    let rotated = run(&store, store.rotate(key(1))).unwrap().unwrap().unwrap();
    run(&store, store.put(rotated.key(), vec![2; 100].into())).unwrap().unwrap().unwrap();
    run(&store, store.rotate(key(2))).unwrap().unwrap().unwrap();
    run(&store, store.set_lifetime(key(3), hours(2))).unwrap().unwrap();
    run(&store, store.set_lifetime(key(4), hours(2))).unwrap().unwrap();
    run(&store, store.put(key(4), vec![2; 100].into())).unwrap().unwrap().unwrap();
    run(&store, store.delete(key(5))).unwrap().unwrap();
    run(&store, store.revoke(Whose::Owner(ann()), None)).unwrap().unwrap();
    (0..4).for_each(|_| store.step());
    let before = live();
    run(&store, store.close()).unwrap().unwrap();
    assert_eq!(open(&disk, &options).stats().live_bytes, before);
}

#[test]
fn footers_stay_while_the_stream_only_waits_for_its_next_segment() {
    let (options, clock) = options();
    let options = Options { footers_from: 0, ..options };
    let disk = SimDisk::new(1);
    let store = open(&disk, &options).at(Durability::Buffered);
    (0..40).for_each(|n| create(&store, n, 4_000, hours(1)));
    (0..4).for_each(|_| store.step());
    clock.advance(Duration::from_secs(60));
    (0..8).for_each(|_| store.step());
    let footers = || {
        let holds = |name: &String| {
            disk.contents(name).is_some_and(|bytes| bytes.windows(8).any(|window| window == b"CLOAKFTR"))
        };
        disk.names().into_iter().filter(holds).count()
    };
    let before = footers();
    assert!(before >= 2, "{before}");
    // The next segment is wanted from three quarters of this one on, and nobody makes it.
    let create = |n| poll(&mut pin!(store.create_as(key(n), vec![1; 1_000].into(), hours(1))));
    let took = (40..140).take_while(|n| {
        let is_taken = create(*n).is_some();
        store.work(Work::Write);
        store.work(Work::Compact);
        assert_eq!(footers(), before, "behind session {n}");
        is_taken
    });
    assert!(took.count() < 100, "it was never full");
}

#[test]
fn store_maps_all_its_segments_or_none() {
    for (read_mode, expected) in [(ReadMode::Mapped, 14), (ReadMode::Pread, 0)] {
        let (options, clock) = options();
        let options = Options { read_mode, ..options };
        let sim = SimDisk::new(1);
        let maps = Arc::new(AtomicU64::new(0));
        let open = || {
            let maps = Arc::clone(&maps);
            let disk = Hooked::on(sim.clone(), move |at, _| {
                maps.fetch_add(u64::from(at == At::Map), Ordering::Relaxed);
                Ok(())
            });
            LogStore::open_by_hand(disk, options.clone()).unwrap()
        };
        let store = open().at(Durability::Buffered);
        for n in 0..90 {
            create(&store, n, 3_000, if n % 3 == 0 { hours(1_000) } else { hours(1) });
        }
        store.work(cloakroom::Work::Write);
        sim.kill();
        drop(store);
        let store = open();
        clock.advance(HOUR);
        (0..20).for_each(|_| store.step());
        assert!(store.stats().compacted_bytes > 0);
        // Each segment as it is made, and once more if it is opened again.
        assert_eq!(maps.load(Ordering::Relaxed), expected, "{read_mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_takes_as_long_as_its_pace_wants_and_a_close_does_not_wait_for_it() {
    const PER_SECOND: u64 = 512 << 10;
    let options = Options {
        segment_bytes: 4 << 20,
        payload_bytes_max: 4_096,
        compaction_bytes_per_second: PER_SECOND,
        ..crate::stores::defaults()
    };
    let store = LogStore::open_on(Arc::new(SimDisk::new(1)), options).await.unwrap().at(Durability::Buffered);
    for n in 0..1_300 {
        store.create_as(key(n), vec![1; 4_000].into(), hours(1)).await.unwrap();
    }
    // Three segments of which a bit more than half is dead.
    for n in (0..1_300).filter(|n| n % 8 < 5) {
        store.delete(key(n)).await.unwrap();
    }
    let began = SystemClock.uptime();
    crate::stores::eventually("compacted", || store.stats().compacted_bytes > 0).await;
    let (took, bytes) = (SystemClock.uptime().saturating_sub(began), store.stats().compacted_bytes);
    let least = Duration::from_millis(1_000 * bytes / PER_SECOND * 2 / 3);
    assert!(took >= least, "{bytes} bytes took {took:?}");
    store.close().await.unwrap();
}

/// What nobody needs is not waited for.
#[test]
fn segment_that_cannot_be_read_goes_once_nothing_of_it_is_alive() {
    let (options, clock) = options();
    let (disk, unreadable) = (SimDisk::new(1), Arc::new(Mutex::new(String::new())));
    let refused = Arc::clone(&unreadable);
    let hooked = Hooked::on(disk.clone(), move |at, name| {
        if at == At::Read && *refused.lock().unwrap() == name { Err(ErrorKind::Other.into()) } else { Ok(()) }
    });
    let store = LogStore::open_by_hand(hooked, options).unwrap().at(Durability::Buffered);
    (0..60).for_each(|n| create(&store, n, 3_000, hours(if n < 30 { 1 } else { 9 })));
    (0..5).for_each(|_| store.step());
    let (first, _) = segments(&disk).swap_remove(0);
    unreadable.lock().unwrap().clone_from(&first);
    clock.advance(HOUR);
    (0..20).for_each(|_| store.step());
    assert!(segments(&disk).iter().all(|(name, _)| *name != first), "{:?}", segments(&disk));
    assert!((30..60).all(|n| there(&store, n)));
}
