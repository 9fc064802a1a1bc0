//! Opening: who may, what a crash left there, what is not a store's, what is stale.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Child;

use cloakroom::disk::sim::{Call, DirOps, Fault, SimDisk};
use cloakroom::{Durability, LogStore, OpenError, SessionStore};

use super::{DAY, FOLDER, close, in_a_process, open, options, put, read, say, there};
use crate::stores::defaults;
use crate::support::life::drive as run;

/// In emdb two processes that opened at once could both be admitted, and wrote into one log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_processes_that_open_at_once_one_is_admitted() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return open_when_told(Path::new(&folder)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let test = "regression::opening::of_processes_that_open_at_once_one_is_admitted";
        let mut racers: Vec<_> = (0..5).map(|_| in_a_process(test, folder.path())).collect();
        for (_, said) in &mut racers {
            assert_eq!(said(), "ready");
        }
        let tell = |child: &mut Child| child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        for (child, _) in &mut racers {
            tell(child);
        }
        let answers: Vec<_> = racers.iter_mut().map(|(_, said)| said()).collect();
        let admitted = answers.iter().filter(|answer| *answer == "admitted").count();
        let refused = answers.iter().filter(|answer| *answer == "locked").count();
        // Even rounds end by a close, odd ones by a kill: the next is admitted either way.
        for (child, _) in &mut racers {
            if round % 2 == 1 {
                child.kill().unwrap();
            }
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        assert_eq!((admitted, refused), (1, 4), "round {round}: {answers:?}");
    }
}

/// The part of a process in that race: it holds what it was given until its input ends.
async fn open_when_told(folder: &Path) {
    say("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let opened = LogStore::open(folder, defaults()).await;
    match &opened {
        Ok(_) => say("admitted"),
        Err(OpenError::Locked { .. }) => say("locked"),
        Err(other) => say(&other.to_string()),
    }
    std::io::stdin().read_line(&mut String::new()).unwrap();
    if let Ok(store) = opened {
        store.close().await.unwrap();
    }
}

/// emdb emptied the file or folder that it was pointed at by mistake.
#[tokio::test]
async fn opening_what_is_no_store_leaves_every_byte_alone() {
    let names: [&[&str]; 6] = [
        &["photo.jpg"],
        &["00000001.seg"],
        &["00000001.seg", "00000002.seg"],
        &["MANIFEST"],
        &["MANIFEST.new"],
        &["00000001.seg", "notes"],
    ];
    for names in names {
        for contents in [b"my only copy of the thesis".to_vec(), vec![0x5A; 100_000]] {
            let folder = tempfile::tempdir().unwrap();
            for name in names {
                tokio::fs::write(folder.path().join(name), &contents).await.unwrap();
            }
            let refused = LogStore::open(folder.path(), defaults()).await;
            assert!(refused.is_err(), "{names:?} became a store");
            for name in names {
                let left = tokio::fs::read(folder.path().join(name)).await.unwrap();
                assert!(left == contents, "{name} of {names:?} was changed");
            }
            // A file in the place of the folder.
            let file = folder.path().join(names[0]);
            assert!(LogStore::open(&file, defaults()).await.is_err());
            assert!(tokio::fs::read(&file).await.unwrap() == contents, "{file:?} was changed");
        }
    }
}

/// redb never opened again after a crash while its file grew.
#[test]
fn crash_while_a_segment_is_made_leaves_a_store_that_opens() {
    for (n, seed) in (1..8).flat_map(|n| (0..6).map(move |seed| (n, seed))) {
        let (options, _) = options();
        let disk = SimDisk::new(seed);
        disk.dir_ops(DirOps::Any);
        let store = open(&disk, &options).at(Durability::Sync);
        disk.fail_call_of(Call::Create, n, Fault::PowerLoss);
        let write = |at: u32| store.upsert(super::key(at), vec![1; 4_000].into(), DAY);
        let there_before =
            (0..500).take_while(|at| run(&store, write(*at)).is_some_and(|done| done.is_ok())).count();
        assert!(!disk.has_power(), "the file never grew");
        disk.restart();
        let store = open(&disk, &options);
        assert!((0..u32::try_from(there_before).unwrap()).all(|at| there(&store, at)), "{n} {seed}");
    }
    // What a file system may leave of a file that was to be set aside: any length, nothing in it.
    for len in [0, 1, 63, 64, 65, 4_096, 64 << 10, 1 << 20] {
        let (options, _) = options();
        let disk = SimDisk::new(1);
        let store = open(&disk, &options);
        put(&store, 1, 10, DAY);
        close(&store);
        let left: Vec<_> = (2..12).map(|id| format!("{id:08x}.seg")).collect();
        let left: Vec<_> = left.into_iter().filter(|name| !disk.names().contains(name)).collect();
        for name in &left {
            disk.set_contents(name, &vec![0; len]);
        }
        disk.set_contents("MANIFEST.new", &vec![0; len.min(4_096)]);
        let store = open(&disk, &options);
        assert!(there(&store, 1), "{len} bytes");
        put(&store, 2, 4_000, DAY);
        assert!(!disk.names().contains(left.last().unwrap()), "{len} bytes are still there");
    }
}

/// fjall did not find a new journal after a crash: its folder was not synced, or its name was not the one looked for (PR #317).
#[test]
fn segments_are_found_after_power_loss_however_many_came_before() {
    let (options, _) = options();
    let disk = SimDisk::new(1);
    disk.dir_ops(DirOps::Any);
    let store = open(&disk, &options).at(Durability::Sync);
    for n in 0..280 {
        put(&store, n, 4_000, DAY);
        if n % 3 > 0 {
            continue;
        }
        let lost = disk.copy(n.into());
        lost.crash();
        let store = open(&lost, &options);
        let missing: Vec<_> = (0..=n).filter(|n| !there(&store, *n)).collect();
        assert!(missing.is_empty(), "{missing:?} of {n} are gone");
    }
    let names = disk.names();
    assert!(names.iter().any(|name| name == "00000011.seg"), "ids of two digits were reached: {names:?}");
    // In the midst of each sync of the folder: of those changes of it that were not synced before, any may be lost without the others.
    for (n, seed) in (1..12).flat_map(|n| (0..8).map(move |seed| (n, seed))) {
        let disk = SimDisk::new(seed);
        disk.dir_ops(DirOps::Any);
        let store = open(&disk, &options).at(Durability::Sync);
        disk.fail_call_of(Call::SyncFolder, n, Fault::PowerLoss);
        let write = |at: u32| store.upsert(super::key(at), vec![1; 4_000].into(), DAY);
        let done = (0..400).take_while(|at| run(&store, write(*at)).is_some_and(|done| done.is_ok())).count();
        assert!(!disk.has_power(), "the folder was not synced {n} times");
        disk.restart();
        let store = open(&disk, &options);
        assert!((0..u32::try_from(done).unwrap()).all(|at| there(&store, at)), "{n} {seed}");
    }
}

/// `RocksDB` replayed, five times over, what an earlier life had left in a log file that was used again.
#[test]
fn stale_groups_behind_the_end_of_the_log_are_never_replayed() {
    let (options, _) = options();
    let disk = SimDisk::new(1);
    let store = open(&disk, &options);
    put(&store, 50, 4_000, DAY);
    close(&store);
    drop(store);
    // Another life of this store, of which nothing remains but what it wrote into the very segment that this life will write to.
    let (other, active) = (disk.copy(2), "00000003.seg");
    let store = open(&other, &options);
    // Groups of one length, so that those of two segments stand at the same offsets.
    (0..15).for_each(|n| put(&store, n, 4_000, DAY));
    other.kill();
    drop(store);
    let stale = other.contents(active).unwrap();

    let store = open(&disk, &options);
    put(&store, 100, 4_000, DAY);
    disk.kill();
    drop(store);
    let end = 64 + 48 + 96 + 4_000;
    let bytes = disk.contents(active).unwrap();
    let unused: BTreeMap<_, _> = disk
        .names()
        .into_iter()
        .filter(|name| name != active)
        .map(|name| (name.clone(), disk.contents(&name).unwrap()))
        .filter(|(_, bytes)| bytes.len() >= 64 << 10)
        .collect();
    assert!(bytes[end - 4_000..end].iter().all(|b| *b == 100) && bytes[end..].iter().all(|b| *b == 0));
    assert!(!unused.is_empty(), "a segment is set aside: {:?}", disk.names());
    // At the offsets where they stood, and elsewhere.
    for from in [end, 64, end + 48 + 96 + 4_000] {
        let lives = disk.copy(3);
        let mut recycled = bytes.clone();
        let len = (recycled.len() - end).min(stale.len() - from);
        recycled[end..end + len].copy_from_slice(&stale[from..from + len]);
        lives.set_contents(active, &recycled);
        for (name, fresh) in &unused {
            let mut recycled = (*fresh).clone();
            recycled[64..stale.len()].copy_from_slice(&stale[64..]);
            lives.set_contents(name, &recycled);
        }
        let store = open(&lives, &options);
        assert_eq!(read(&store, super::key(100)).unwrap().payload, vec![100; 4_000]);
        let revived: Vec<_> = (0..15).filter(|n| there(&store, *n)).collect();
        assert!(revived.is_empty(), "{revived:?} were replayed, stale from {from}");
        assert_eq!(store.len(), 2);
    }
    // The whole file of the other life.
    let lives = disk.copy(4);
    lives.set_contents(active, &stale);
    let refused = LogStore::open_by_hand(std::sync::Arc::new(lives), options);
    assert!(matches!(&refused, Err(OpenError::Damaged { file, .. }) if file == active), "{refused:?}");
}
