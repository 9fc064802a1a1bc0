//! What planned faults do to the simulated disk: at the call they were planned for, what they should, once.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use cloakroom::disk::Disk;
use cloakroom::disk::sim::{Call, Fault, SECTOR_BYTES, SimDisk};

const SEEDS: u64 = 300;

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_folder().unwrap();
    disk
}

#[test]
fn failed_write_has_written_any_of_its_sectors() {
    for (fault, kind) in [(Fault::Eio, None), (Fault::Enospc, Some(ErrorKind::StorageFull))] {
        let mut found = BTreeSet::new();
        for seed in 0..SEEDS {
            let disk = disk(seed);
            disk.set_contents("a", &[b'o'; 3 * SECTOR_BYTES]);
            let file = disk.open("a").unwrap();
            disk.fail_call(1, fault);
            let error = file.write_at(100, &[b'n'; 2 * SECTOR_BYTES]).unwrap_err();
            assert!(kind.is_none_or(|kind| error.kind() == kind));
            let bytes = disk.contents("a").unwrap();
            assert!(bytes[..100].iter().chain(&bytes[100 + 2 * SECTOR_BYTES..]).all(|byte| *byte == b'o'));
            found.insert([bytes[100], bytes[SECTOR_BYTES], bytes[2 * SECTOR_BYTES]]);
            file.write_at(0, b"x").unwrap();
        }
        assert_eq!(found, [*b"ooo", *b"oon", *b"ono", *b"onn", *b"noo", *b"non", *b"nno", *b"nnn"].into());
    }
}

#[test]
fn failed_sync_drops_what_was_unsynced_and_the_next_says_ok_without_it() {
    for seed in 0..SEEDS {
        let disk = disk(seed);
        disk.set_contents("a", &[b'o'; 2 * SECTOR_BYTES]);
        let file = disk.open("a").unwrap();
        file.write_at(0, b"n").unwrap();
        disk.fail_call_of(Call::Sync, 1, Fault::Eio);
        file.sync().unwrap_err();
        file.sync().unwrap();
        file.write_at(SECTOR_BYTES as u64, b"n").unwrap();
        file.sync().unwrap();
        disk.kill();
        let seen = disk.contents("a").unwrap();
        assert_eq!((seen[0], seen[SECTOR_BYTES]), (b'n', b'n'));
        disk.crash();
        let kept = disk.contents("a").unwrap();
        assert_eq!((kept[0], kept[SECTOR_BYTES]), (b'o', b'n'));
    }
}

#[test]
fn failed_folder_sync_drops_names_and_the_next_says_ok_without_them() {
    let disk = disk(1);
    disk.create("a", 1).unwrap();
    disk.fail_call_of(Call::SyncFolder, 1, Fault::Eio);
    disk.sync_folder().unwrap_err();
    disk.create("b", 1).unwrap();
    disk.sync_folder().unwrap();
    assert_eq!(disk.names(), ["a", "b"]);
    disk.crash();
    assert_eq!(disk.names(), ["b"]);
}

#[test]
fn any_other_failed_call_has_done_nothing() {
    let disk = disk(1);
    disk.set_contents("a", b"coat");
    let file = disk.open("a").unwrap();
    for fault in [Fault::Eio, Fault::Enospc] {
        let fail = || disk.fail_call(1, fault);
        fail();
        assert!(disk.create("b", 1).is_err());
        fail();
        assert!(disk.open("a").is_err());
        fail();
        assert!(disk.rename("a", "b").is_err());
        fail();
        assert!(disk.remove("a").is_err());
        fail();
        assert!(file.truncate(0).is_err());
        assert_eq!((disk.names(), disk.contents("a").unwrap()), (vec!["a".to_owned()], b"coat".to_vec()));
    }
}

#[test]
fn faults_strike_at_their_call_and_once() {
    let disk = disk(1);
    let file = disk.create("a", 1).unwrap();
    disk.fail_call(2, Fault::Eio);
    disk.fail_call_of(Call::Write, 3, Fault::Enospc);
    disk.fail_call_of(Call::Read, 1, Fault::Eio);
    let write = || file.write_at(0, b"x").is_ok();
    assert!(file.read_at(0, &mut [0]).is_err(), "planned for the first read");
    assert!(file.read_at(0, &mut [0]).is_ok(), "a read is not counted for the other two");
    assert!(file.sync().is_ok());
    assert!(!write(), "the second call");
    assert!(write());
    assert!(!write(), "the third write");
    assert!(write() && file.sync().is_ok());
    assert_eq!((disk.calls(), disk.calls_of(Call::Write), disk.calls_of(Call::Read)), (7, 4, 2));
    assert_eq!(disk.trace()[..3], ["1 Create a of 1", "2 Sync a", "3 Write a 0+1 -> Eio"]);
}

/// A small program of six calls, which gives up at the first that fails.
fn replace_a(disk: &SimDisk) -> std::io::Result<()> {
    let file = disk.create("t", 0)?;
    file.write_at(0, &[b'n'; 2 * SECTOR_BYTES])?;
    file.sync()?;
    disk.sync_folder()?;
    disk.rename("t", "a")?;
    disk.sync_folder()
}

#[test]
fn power_goes_in_the_midst_of_each_call_and_stays_off_until_the_restart() {
    let (old, new) = (vec![b'o'; 2 * SECTOR_BYTES], vec![b'n'; 2 * SECTOR_BYTES]);
    for n in 1..=6 {
        let (mut a, mut t) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..SEEDS {
            let disk = disk(seed);
            disk.set_contents("a", &old);
            disk.crash_at_call(n);
            replace_a(&disk).unwrap_err();
            assert_eq!((disk.calls(), disk.has_power()), (n, false));
            assert!(disk.list().is_err() && disk.open("a").is_err() && disk.lock().is_err());
            disk.restart();
            a.insert(disk.contents("a").unwrap());
            t.insert(disk.contents("t"));
        }
        let may_be_new = n >= 5;
        assert_eq!(a.contains(&new), may_be_new, "call {n}");
        assert!(a.contains(&old) && a.len() == 1 + usize::from(may_be_new), "call {n}");
        let torn = |t: &Option<Vec<u8>>| t.as_ref().is_some_and(|t| !t.is_empty() && *t != new);
        assert_eq!(t.iter().any(torn), n == 2 || n == 3, "call {n}");
        assert!(t.contains(&None), "call {n}");
    }
}

#[test]
fn full_disk_refuses_creation_whole_and_growth_in_part() {
    let disk = disk(1);
    disk.space_bytes(1_000);
    let a = disk.create("a", 600).unwrap();
    assert_eq!(disk.create("b", 401).err().unwrap().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.names(), ["a"]);
    let b = disk.create("b", 300).unwrap();
    assert_eq!(a.write_at(590, &[1; 200]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!((a.len().unwrap(), disk.used_bytes()), (700, 1_000));
    a.write_at(0, &[2; 700]).unwrap();
    disk.remove("b").unwrap();
    assert!(disk.create("c", 300).is_err(), "an open file holds its space without a name");
    drop(b);
    let c = disk.create("c", 300).unwrap();
    c.truncate(100).unwrap();
    disk.space_bytes(u64::MAX);
    disk.create("d", 5_000).unwrap();
    assert_eq!(disk.used_bytes(), 5_800);
}
