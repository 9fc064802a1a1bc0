//! What opening does with a folder that is half made, torn, damaged, or not a store's.
//!
//! Goal: to refute P6 and P7, one case at a time. Method: a simulated disk is brought into the state in question, byte by byte where need be; a
//! refused folder is compared with what it was before.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::Disk;
use cloakroom::disk::sim::{Call, DirOps, Fault, SimDisk};
use cloakroom::{Access, Durability, Lifetime, LogStore, OpenError, SessionKey, SessionStore, When, Work};

use crate::stores::defaults;
use crate::support::history::{Op, Step};
use crate::support::hooked::{At, Hooked};
use crate::support::life::{Life, drive};
use crate::support::model::End;
use crate::support::{Replay, seeds};

const HOUR: Lifetime = Lifetime::idle(Duration::from_secs(3_600));

fn create(name: usize, len: usize) -> Step {
    Step { op: Op::Create { name, len, lifetime: HOUR }, durability: Durability::Sync }
}

/// Every file of a disk.
fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    disk.names().into_iter().map(|name| (name.clone(), disk.contents(&name).unwrap())).collect()
}

fn segments(disk: &SimDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| has_ending(name, "seg")).collect()
}

fn has_ending(name: &str, ending: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, last)| last == ending)
}

/// Opening is refused for damage, and leaves every file as it was; gives the file and the offset that are named.
#[track_caller]
fn refused(life: &mut Life) -> (String, u64) {
    let before = files(&life.disk);
    life.options.footers_from = u32::MAX;
    let named = match life.begin(End::Close) {
        Err(OpenError::Damaged { file, offset, cure, .. }) => {
            assert!(!cure.is_empty());
            (file, offset)
        }
        other => panic!("damage was met with {other:?}"),
    };
    assert!(files(&life.disk) == before, "the files were changed");
    named
}

/// Where a mark that a payload has stands in a file.
#[track_caller]
fn find(disk: &SimDisk, name: &str, bytes: &[u8]) -> u64 {
    let contents = disk.contents(name).unwrap();
    contents.windows(bytes.len()).position(|window| window == bytes).unwrap() as u64
}

#[test]
fn half_created_folder_opens_cleanly() {
    let calls = Life::open(SimDisk::new(0)).disk.calls();
    for seed in seeds(0..30) {
        let _replay = Replay("first open".into(), seed);
        for (dir_ops, n) in
            [DirOps::Ordered, DirOps::Any].into_iter().flat_map(|d| (1..=calls).map(move |n| (d, n)))
        {
            let mut life = Life::new(SimDisk::new(seed));
            life.disk.dir_ops(dir_ops);
            life.disk.crash_at_call(n);
            // Removing what does not matter may fail unseen.
            drop(life.begin(End::Close));
            life.again(End::PowerLoss);
            assert!(life.apply(create(0, 10)));
            life.again(End::Kill);
        }
    }
}

/// A list that is seen and not on the device goes with the next power cut: what is beside it then must not tell of a loss.
#[test]
fn first_open_whose_folder_could_not_be_synced_leaves_one_that_opens() {
    let calls = 2 * Life::open(SimDisk::new(0)).disk.calls();
    for (seed, dir_ops) in seeds(0..6).into_iter().flat_map(|s| [(s, DirOps::Ordered), (s, DirOps::Any)]) {
        let _replay = Replay("first open".into(), seed);
        for (unsynced, n) in [1, 2].into_iter().flat_map(|unsynced| (1..=calls).map(move |n| (unsynced, n))) {
            let mut life = Life::new(SimDisk::new(seed));
            life.disk.dir_ops(dir_ops);
            life.disk.fail_call_of(Call::SyncFolder, unsynced, Fault::Eio);
            assert!(life.begin(End::Close).is_err());
            life.disk.kill();
            life.disk.crash_at_call(life.disk.calls() + n);
            drop(life.begin(End::Kill));
            life.again(End::PowerLoss);
            assert!(life.apply(create(0, 10)));
            life.again(End::Kill);
        }
    }
}

#[test]
fn copy_of_the_list_that_cannot_be_written_leaves_no_older_one() {
    for (call, n) in [Call::Remove, Call::Create, Call::Write, Call::Sync]
        .into_iter()
        .flat_map(|call| (1..8).map(move |n| (call, n)))
    {
        let mut life = Life::open(SimDisk::new(1));
        assert!(life.apply(create(0, 10)));
        life.again(End::Close);
        assert!(life.apply(create(1, 10)));
        assert!(life.disk.contents("MANIFEST.copy").is_some());
        life.end(End::Close);
        life.disk.fail_call_of(call, n, Fault::Eio);
        if life.begin(End::Close).is_ok() {
            let copy = life.disk.contents("MANIFEST.copy");
            assert!(copy.is_none() || copy == life.disk.contents("MANIFEST"), "{call:?} {n}");
        }
    }
}

#[test]
fn foreign_folder_is_refused_and_left_alone() {
    let mut life = Life::new(SimDisk::new(1));
    life.disk.set_contents("holiday.jpg", b"a coat at the sea");
    let before = files(&life.disk);
    match life.begin(End::Close) {
        Err(OpenError::ForeignFolder { example, .. }) => assert_eq!(example, "holiday.jpg"),
        other => panic!("{other:?}"),
    }
    assert!(files(&life.disk) == before);
}

/// A store with a sealed segment and an active one, all synced, ended by power loss.
fn damaged_soon(seed: u64) -> Life {
    let mut life = Life::open(SimDisk::new(seed));
    for n in 0..60_u32 {
        let key = SessionKey::of(&n.to_be_bytes());
        assert!(life.write(key, 2_000, When::Absent(HOUR), Durability::Sync));
    }
    life.step();
    life.end(End::PowerLoss);
    life
}

#[test]
fn missing_segment_that_is_listed_is_refused() {
    let mut life = damaged_soon(1);
    let copy = life.disk.copy(1);
    let name = segments(&life.disk)[0].clone();
    cloakroom::disk::Disk::remove(&copy, &name).unwrap();
    life.disk = copy;
    assert_eq!(refused(&mut life).0, name);
}

#[test]
fn segment_that_is_too_short_is_refused_sealed_or_not() {
    let mut life = damaged_soon(1);
    // The reserve has the name of a segment, and nothing is to be read in it.
    let is_segment = |name: &String| life.disk.contents(name).unwrap()[..8] != [0; 8];
    let names: Vec<_> = segments(&life.disk).into_iter().filter(is_segment).collect();
    assert!(names.len() >= 3, "sealed ones and the active one");
    for name in names {
        let contents = life.disk.contents(&name).unwrap();
        for len in [0, 63, 64, 500, 30_000] {
            let whole = life.disk.copy(len as u64);
            life.disk.set_contents(&name, &contents[..len]);
            assert_eq!(refused(&mut life).0, name, "cut to {len}");
            life.disk = whole;
        }
    }
}

#[test]
fn flipped_bit_in_the_manifest_is_refused() {
    let mut life = damaged_soon(1);
    let len = life.disk.contents("MANIFEST").unwrap().len() as u64;
    for offset in 0..len {
        let copy = life.disk.copy(offset);
        copy.flip_bit("MANIFEST", offset, (offset % 8) as u8).unwrap();
        let whole = std::mem::replace(&mut life.disk, copy);
        assert_eq!(refused(&mut life).0, "MANIFEST", "offset {offset}");
        life.disk = whole;
    }
}

#[test]
fn lost_manifest_is_refused_while_there_are_segments_with_groups() {
    let mut life = damaged_soon(1);
    let whole = life.disk.copy(1);
    for lost in
        [&["MANIFEST"][..], &["MANIFEST", "MANIFEST.copy"], &["MANIFEST", "MANIFEST.copy", "MANIFEST.new"]]
    {
        life.disk = whole.copy(2);
        for name in lost {
            // Which of the others are there is not the point.
            drop(cloakroom::disk::Disk::remove(&life.disk, name));
        }
        assert_eq!(refused(&mut life).0, "MANIFEST", "{lost:?}");
    }
}

#[test]
fn older_manifest_in_place_of_the_newest_is_refused() {
    let mut life = Life::open(SimDisk::new(1));
    assert!(life.apply(create(0, 10)));
    let old = life.disk.contents("MANIFEST").unwrap();
    for round in 0..6 {
        for name in 0..10 {
            let op = Op::Upsert { name, len: 2_000 + round, lifetime: HOUR };
            assert!(life.apply(Step { op, durability: Durability::Sync }));
        }
    }
    life.end(End::Kill);
    life.disk.set_contents("MANIFEST", &old);
    let file = refused(&mut life).0;
    assert!(file == "MANIFEST" || has_ending(&file, "seg"), "{file}");
}

/// A payload unlike any other, in each of its parts.
fn marked(n: u8) -> Bytes {
    Bytes::from(vec![0xA0 + n; 700])
}

/// A store that created three marked sessions, each synced before the next; ended. No watermark is above the third.
fn three_marked(end: End) -> Life {
    let mut life = Life::open(SimDisk::new(5));
    for n in 0..3 {
        let store = life.store().at(Durability::Sync);
        drive(&store, store.create_as(SessionKey::of(&[n]), marked(n), HOUR)).unwrap().unwrap();
    }
    life.end(end);
    life
}

/// Opens what a model knows nothing of.
fn open(life: &Life) -> LogStore {
    LogStore::open_by_hand(Arc::new(life.disk.clone()), life.options.clone()).unwrap()
}

/// Which marked sessions there are.
fn marks(store: &LogStore) -> Vec<u8> {
    let get = |n: &u8| drive(store, store.get(SessionKey::of(&[*n]), Access::Peek)).unwrap().unwrap();
    (0..8).filter(|n| get(n).is_some_and(|stored| stored.payload == marked(*n))).collect()
}

/// Before the folder is known to be a store's, a file that has gone meanwhile is another opener's affair, and one that cannot be read may be anybody's.
#[test]
fn file_that_cannot_be_looked_at_is_no_reason_to_take_the_folder() {
    for (failure, opens) in [(ErrorKind::NotFound, true), (ErrorKind::PermissionDenied, false)] {
        let life = Life::new(SimDisk::new(1));
        let folder: &dyn Disk = &life.disk;
        folder.create_folder().unwrap();
        folder.create("00000001.seg", 100).unwrap();
        let looked = AtomicBool::new(false);
        let disk = Hooked::on(life.disk.clone(), move |at, name| {
            let fails = at == At::Open && name == "00000001.seg" && !looked.swap(true, Ordering::Relaxed);
            if fails { Err(failure.into()) } else { Ok(()) }
        });
        let opened = LogStore::open_by_hand(disk, life.options.clone());
        assert_eq!(opened.is_ok(), opens, "{failure:?}");
        if let Err(refused) = opened {
            assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
            assert_eq!(life.disk.contents("00000001.seg").unwrap(), [0; 100]);
        }
    }
}

#[test]
fn torn_tail_is_cut_kept_aside_and_reported() {
    let life = three_marked(End::Kill);
    let file = segments(&life.disk)[0].clone();
    // The third was synced, but nothing on the disk says so: it cannot be told from an end that was never finished.
    let at = find(&life.disk, &file, &marked(2));
    life.disk.flip_bit(&file, at + 300, 0).unwrap();
    let before = life.disk.contents(&file).unwrap();
    let store = open(&life);
    assert_eq!(marks(&store), [0, 1]);
    let report = store.recovery();
    assert_eq!((report.sessions, report.records), (2, 2));
    let torn: Vec<_> = life.disk.names().into_iter().filter(|n| n.starts_with("torn-")).collect();
    assert_eq!(torn.len(), 1, "{torn:?}");
    let kept = life.disk.contents(&torn[0]).unwrap();
    assert_eq!(kept.len() as u64, report.torn_bytes);
    assert!(before.windows(kept.len()).any(|window| window == kept), "not the bytes that were cut");
    assert!(kept.windows(100).any(|window| window == &marked(2)[..100]));
    life.disk.kill();
    drop(store);
    let store = open(&life);
    assert_eq!((marks(&store), store.recovery().torn_bytes), (vec![0, 1], 0));
}

#[test]
fn newest_four_copies_of_torn_ends_are_kept_and_what_only_looks_like_one_is_left_alone() {
    let life = Life::new(SimDisk::new(1));
    let torn = || life.disk.names().into_iter().filter(|n| n.starts_with("torn-")).collect::<Vec<_>>();
    drop(open(&life));
    life.disk.kill();
    let others =
        ["torn-00000001-0000000.bin", "torn-00000001-0000000g.bin", "torn-00000001.bin", "torn-notes.txt"];
    let folder: &dyn Disk = &life.disk;
    for name in others {
        folder.create(name, 1).unwrap();
    }
    let mut seen = Vec::new();
    for n in 0..7 {
        let store = open(&life).at(Durability::Buffered);
        drive(&store, store.create_as(SessionKey::of(&[n]), marked(n), HOUR)).unwrap().unwrap();
        store.work(Work::Write);
        life.disk.kill();
        drop(store);
        let holds =
            |file: &String| life.disk.contents(file).unwrap().windows(100).any(|w| w == &marked(n)[..100]);
        let file = segments(&life.disk).into_iter().find(holds).unwrap();
        life.disk.flip_bit(&file, find(&life.disk, &file, &marked(n)), 0).unwrap();
        drop(open(&life));
        life.disk.kill();
        seen.extend(torn().into_iter().filter(|name| !others.contains(&&**name)));
        seen.sort();
        seen.dedup();
    }
    assert_eq!(seen.len(), 7);
    let mut expected: Vec<_> = seen[3..].iter().map(String::as_str).chain(others).collect();
    expected.sort_unstable();
    assert_eq!(torn(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_followed_by_valid_groups_is_a_torn_tail() {
    let life = Life::new(SimDisk::new(5));
    let store = LogStore::open_on(Arc::new(life.disk.clone()), life.options.clone()).await.unwrap();
    // Each in a group of its own, and no group says that one before it was synced.
    let store = store.at(Durability::Interval(Duration::from_secs(3_600)));
    for n in 0..3 {
        store.create_as(SessionKey::of(&[n]), marked(n), HOUR).await.unwrap();
    }
    life.disk.kill();
    drop(store);
    let file = segments(&life.disk)[0].clone();
    let at = find(&life.disk, &file, &marked(1));
    life.disk.flip_bit(&file, at, 3).unwrap();
    let store = open(&life);
    assert_eq!(marks(&store), [0]);
    assert_eq!(store.recovery().torn_bytes, 2 * (48 + 96 + 700));
}

#[test]
fn flipped_bit_below_a_later_watermark_is_refused() {
    for (n, bit) in [(0, 0), (0, 7), (1, 3)] {
        let mut life = three_marked(End::Kill);
        let file = segments(&life.disk)[0].clone();
        let at = find(&life.disk, &file, &marked(n));
        life.disk.flip_bit(&file, at, bit).unwrap();
        let (named, offset) = refused(&mut life);
        // The group that holds it is named: its header and the record's stand before the payload.
        assert_eq!((named, offset), (file, at - 48 - 96));
    }
}

#[test]
fn flipped_bit_in_a_store_that_fell_idle_is_refused() {
    let mut life = Life::open(SimDisk::new(5));
    let store = life.store().at(Durability::Sync);
    drive(&store, store.create_as(SessionKey::of(b"k"), marked(0), HOUR)).unwrap().unwrap();
    drop(store);
    (0..3).for_each(|_| life.step());
    life.end(End::PowerLoss);
    let file = segments(&life.disk)[0].clone();
    let at = find(&life.disk, &file, &marked(0));
    life.disk.flip_bit(&file, at + 1, 1).unwrap();
    assert_eq!(refused(&mut life).0, file);
}

#[test]
fn flipped_bit_anywhere_in_a_sealed_segment_is_refused() {
    let mut life = three_marked(End::Close);
    let file = segments(&life.disk)[0].clone();
    // Behind it stands a footer, which is a hint.
    let len = find(&life.disk, &file, b"CLOAKFTR");
    let whole = life.disk.copy(1);
    for offset in (0..len).step_by(7).chain([len - 1]) {
        life.disk = whole.copy(2);
        life.disk.flip_bit(&file, offset, 5).unwrap();
        assert_eq!(refused(&mut life).0, file, "offset {offset}");
    }
}

/// A file that was moved to another volume, say.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "it moves the store's files, as an administrator does")]
async fn link_to_a_file_of_the_store_is_that_file_to_everyone() {
    let folder = tempfile::tempdir().unwrap();
    let (store, other) = (folder.path().join("store"), folder.path().join("other"));
    let opened = LogStore::open(&store, defaults()).await.unwrap();
    let id = opened.create("x".into(), HOUR).await.unwrap();
    opened.close().await.unwrap();
    std::fs::create_dir(&other).unwrap();
    let all: Vec<_> = std::fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    for name in all.iter().filter(|name| *name != "LOCK") {
        std::fs::rename(store.join(name), other.join(name)).unwrap();
        std::os::unix::fs::symlink(other.join(name), store.join(name)).unwrap();
    }
    // One that leads nowhere is no file.
    std::os::unix::fs::symlink(other.join("nothing"), store.join("00ffffff.seg")).unwrap();
    let report = LogStore::verify(&store, defaults()).await.unwrap();
    assert!(report.is_sound() && report.sessions == 1, "{report:?}");
    for _ in 0..2 {
        let opened = LogStore::open(&store, defaults()).await.unwrap();
        assert!(opened.get(id.key(), Access::Peek).await.unwrap().is_some());
        opened.close().await.unwrap();
    }
}
