//! What power loss does to the simulated disk: everything that its contract leaves open really happens for some seed, and
//! nothing else for any.
//!
//! Each test brings a fresh disk into one state under many seeds, cuts the power, and looks at the set of outcomes.

use std::collections::BTreeSet;

use cloakroom::disk::sim::{DirOps, SECTOR_BYTES, SimDisk};
use cloakroom::disk::{Disk, LockError};

const SEEDS: u64 = 600;

/// What is found after a crash, over all seeds.
fn outcomes<T: Ord>(dir_ops: DirOps, before: fn(&SimDisk), after: fn(&SimDisk) -> T) -> BTreeSet<T> {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        disk.dir_ops(dir_ops);
        disk.create_folder().unwrap();
        before(&disk);
        disk.crash();
        after(&disk)
    };
    (0..SEEDS).map(run).collect()
}

fn contents_of_a(disk: &SimDisk) -> Vec<u8> {
    disk.contents("a").unwrap()
}

/// The first byte of each sector, when all bytes of each are the same.
fn sectors(bytes: &[u8]) -> Vec<u8> {
    let whole = |sector: &[u8]| {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "torn within a sector");
        sector[0]
    };
    bytes.chunks(SECTOR_BYTES).map(whole).collect()
}

#[test]
fn synced_bytes_and_names_are_never_lost() {
    for dir_ops in [DirOps::Ordered, DirOps::Any] {
        let found = outcomes(
            dir_ops,
            |disk| {
                let file = disk.create("t", 3_000).unwrap();
                file.write_at(100, &[7; 5_000]).unwrap();
                file.truncate(4_000).unwrap();
                disk.create("gone", 1).unwrap();
                disk.remove("gone").unwrap();
                disk.rename("t", "a").unwrap();
                file.sync().unwrap();
                disk.sync_folder().unwrap();
            },
            |disk| (disk.names(), contents_of_a(disk)),
        );
        let mut bytes = vec![0; 100];
        bytes.resize(4_000, 7);
        assert_eq!(found, BTreeSet::from([(vec!["a".to_owned()], bytes)]));
    }
}

#[test]
fn each_unsynced_sector_is_old_or_new_by_itself() {
    let found = outcomes(
        DirOps::Ordered,
        |disk| {
            disk.set_contents("a", &[b'o'; 3 * SECTOR_BYTES]);
            disk.open("a").unwrap().write_at(0, &[b'n'; 3 * SECTOR_BYTES]).unwrap();
        },
        |disk| String::from_utf8(sectors(&contents_of_a(disk))).unwrap(),
    );
    let all = ["ooo", "oon", "ono", "onn", "noo", "non", "nno", "nnn"];
    assert_eq!(found, all.map(str::to_owned).into());
}

#[test]
fn sector_keeps_any_version_since_the_last_sync_and_none_before() {
    let found = outcomes(
        DirOps::Ordered,
        |disk| {
            disk.set_contents("a", b"0.");
            let file = disk.open("a").unwrap();
            file.write_at(0, b"1").unwrap();
            file.sync().unwrap();
            for text in [&b"2"[..], b"3", b"4"] {
                file.write_at(0, text).unwrap();
            }
        },
        contents_of_a,
    );
    assert_eq!(found, [b"1.", b"2.", b"3.", b"4."].map(|text| text.to_vec()).into());
}

#[test]
fn unsynced_growth_leaves_any_length_with_zeros_for_what_is_missing() {
    let found = outcomes(
        DirOps::Ordered,
        |disk| {
            disk.set_contents("a", &[b'o'; 10]);
            disk.open("a").unwrap().write_at(10, &[b'n'; 2_000]).unwrap();
        },
        contents_of_a,
    );
    assert!(found.iter().all(|bytes| (10..=2_010).contains(&bytes.len())));
    for bytes in &found {
        assert_eq!(bytes[..10], [b'o'; 10]);
        for sector in bytes.chunks(SECTOR_BYTES) {
            let tail = &sector[10.min(sector.len() - 1)..];
            assert!(tail.iter().all(|b| *b == tail[0]), "half a sector was written");
        }
    }
    let lens: BTreeSet<_> = found.iter().map(Vec::len).collect();
    assert!(lens.contains(&10) && lens.contains(&2_010) && lens.len() > 50, "{lens:?}");
    assert!(found.iter().any(|bytes| bytes.len() > 2_000 && bytes[2_000] == 0 && bytes[1_000] == b'n'));
}

#[test]
fn created_length_is_anything_until_the_file_is_synced() {
    let unsynced = outcomes(
        DirOps::Ordered,
        |disk| {
            disk.create("a", 1_000).unwrap();
            disk.sync_folder().unwrap();
        },
        contents_of_a,
    );
    assert!(unsynced.iter().flatten().all(|byte| *byte == 0));
    let lens: BTreeSet<_> = unsynced.iter().map(Vec::len).collect();
    assert!(lens.contains(&0) && lens.contains(&1_000) && lens.len() > 50);
    let synced = outcomes(
        DirOps::Ordered,
        |disk| {
            disk.create("a", 1_000).unwrap().sync().unwrap();
            disk.sync_folder().unwrap();
        },
        contents_of_a,
    );
    assert_eq!(synced, [vec![0; 1_000]].into());
}

#[test]
fn unsynced_cut_is_whole_or_not_at_all_and_a_kept_one_leaves_nothing_behind_it() {
    let found = outcomes(
        DirOps::Ordered,
        |disk| {
            disk.set_contents("a", &[b'x'; 4 * SECTOR_BYTES]);
            let file = disk.open("a").unwrap();
            file.truncate(SECTOR_BYTES as u64).unwrap();
            file.write_at(2 * SECTOR_BYTES as u64, &[b'y'; SECTOR_BYTES]).unwrap();
        },
        contents_of_a,
    );
    let whole: BTreeSet<_> = found
        .iter()
        .filter(|bytes| bytes.len() % SECTOR_BYTES == 0)
        .map(|bytes| String::from_utf8_lossy(&sectors(bytes)).into_owned())
        .collect();
    for expected in ["xxxx", "xxyx", "x", "x\0\0", "x\0y"] {
        assert!(whole.contains(expected), "{expected:?} never happened: {whole:?}");
    }
    for bytes in found.iter().filter(|bytes| bytes.len() < 4 * SECTOR_BYTES) {
        assert!(!bytes[SECTOR_BYTES..].contains(&b'x'), "bytes came back from behind a cut");
    }
}

#[test]
fn unsynced_names_survive_in_order_or_in_any_choice() {
    let before = |disk: &SimDisk| {
        for name in ["a", "b", "c"] {
            disk.create(name, 1).unwrap().sync().unwrap();
        }
    };
    let names = |disk: &SimDisk| disk.names().concat();
    let ordered = outcomes(DirOps::Ordered, before, names);
    assert_eq!(ordered, ["", "a", "ab", "abc"].map(str::to_owned).into());
    let any = outcomes(DirOps::Any, before, names);
    assert_eq!(any, ["", "a", "b", "c", "ab", "ac", "bc", "abc"].map(str::to_owned).into());
}

#[test]
fn rename_leaves_the_old_file_or_the_new_one() {
    for dir_ops in [DirOps::Ordered, DirOps::Any] {
        let found = outcomes(
            dir_ops,
            |disk| {
                disk.set_contents("a", b"old");
                let file = disk.create("a.new", 0).unwrap();
                file.write_at(0, b"new").unwrap();
                file.sync().unwrap();
                disk.rename("a.new", "a").unwrap();
            },
            |disk| (disk.names().len(), contents_of_a(disk)),
        );
        let (old, new) = (b"old".to_vec(), b"new".to_vec());
        let mut expected = BTreeSet::from([(1, old.clone()), (2, old), (1, new.clone())]);
        if dir_ops == DirOps::Any {
            // Under its old name as well.
            expected.insert((2, new));
        }
        assert_eq!(found, expected);
    }
}

#[test]
fn file_removed_without_a_folder_sync_may_come_back_with_its_bytes() {
    let found = outcomes(
        DirOps::Ordered,
        |disk| {
            disk.set_contents("a", b"coat");
            disk.remove("a").unwrap();
        },
        |disk| disk.contents("a"),
    );
    assert_eq!(found, [None, Some(b"coat".to_vec())].into());
}

#[test]
fn killed_process_loses_nothing_and_what_it_wrote_is_no_more_synced_than_before() {
    let mut survivors = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        disk.set_contents("a", b"old");
        disk.open("a").unwrap().write_at(0, b"new").unwrap();
        disk.create("b", 1).unwrap();
        disk.kill();
        assert_eq!((disk.names().len(), contents_of_a(&disk)), (2, b"new".to_vec()));
        disk.crash();
        survivors.insert((disk.names().len(), contents_of_a(&disk)));
    }
    let (old, new) = (b"old".to_vec(), b"new".to_vec());
    assert_eq!(survivors, [(1, old.clone()), (2, old), (1, new.clone()), (2, new)].into());
}

#[test]
fn handles_of_an_ended_life_do_nothing_any_more() {
    for end in [SimDisk::crash, SimDisk::kill] {
        let disk = SimDisk::new(1);
        disk.set_contents("a", b"coat");
        let (old, file, lock) = (disk.clone(), disk.open("a").unwrap(), disk.lock().unwrap());
        end(&disk);
        assert!(file.write_at(0, b"late").is_err());
        assert!(file.read_at(0, &mut [0]).is_err());
        assert!(
            file.truncate(0).is_err() && file.sync().is_err() && file.len().is_err() && file.map().is_err()
        );
        assert!(old.create("b", 1).is_err() && old.open("a").is_err() && old.list().is_err());
        assert!(old.rename("a", "b").is_err() && old.remove("a").is_err() && old.sync_folder().is_err());
        assert!(matches!(old.lock(), Err(LockError::Io(_))) && old.create_folder().is_err());
        let held = disk.lock().unwrap();
        drop((lock, file));
        assert!(matches!(disk.lock(), Err(LockError::Held(_))), "an old lock's drop freed the new one");
        drop(held);
        assert_eq!((disk.names(), contents_of_a(&disk)), (vec!["a".to_owned()], b"coat".to_vec()));
    }
}

#[test]
fn same_seed_and_calls_give_the_same_bytes_and_another_seed_others() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        disk.create_folder().unwrap();
        for i in 0..20 {
            let file = disk.create(&format!("f{i}"), 4_096).unwrap();
            file.write_at(i * 100, &[1; 3_000]).unwrap();
        }
        disk.crash();
        disk.names().into_iter().map(|name| (disk.contents(&name), name)).collect::<Vec<_>>()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn copies_of_one_state_are_lost_in_their_own_ways() {
    let disk = SimDisk::new(1);
    disk.set_contents("a", b"old");
    let file = disk.open("a").unwrap();
    file.write_at(0, b"new").unwrap();
    let lose = |seed| {
        let copy = disk.copy(seed);
        copy.crash();
        contents_of_a(&copy)
    };
    let found: BTreeSet<_> = (0..100).map(lose).collect();
    assert_eq!(found, [b"old".to_vec(), b"new".to_vec()].into());
    assert_eq!(contents_of_a(&disk), b"new");
    file.sync().unwrap();
}
