//! What planned faults do to the simulated disk: at the call they were planned for, what they should, once.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use cloakroom::disk::Disk;
use cloakroom::disk::sim::{Call, DirOps, Fault, SECTOR_BYTES, SimDisk};

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
fn failed_sync_keeps_any_part_and_the_next_says_ok_without_the_rest() {
    let (mut read, mut kept) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..SEEDS {
        let disk = disk(seed);
        disk.set_contents("a", &[b'o'; 3 * SECTOR_BYTES]);
        let file = disk.open("a").unwrap();
        file.write_at(0, b"n").unwrap();
        file.write_at(SECTOR_BYTES as u64, b"n").unwrap();
        disk.fail_call_of(Call::Sync, 1, Fault::Eio);
        file.sync().unwrap_err();
        file.sync().unwrap();
        // Another handle learns no more of it.
        disk.open("a").unwrap().sync().unwrap();
        file.write_at(2 * SECTOR_BYTES as u64, b"n").unwrap();
        file.sync().unwrap();
        let front = |bytes: Vec<u8>| [0, 1, 2].map(|sector| bytes[sector * SECTOR_BYTES]);
        assert_eq!(front(disk.contents("a").unwrap()), *b"nnn", "this life sees what it wrote");
        disk.kill();
        read.insert(front(disk.contents("a").unwrap()));
        disk.crash();
        kept.insert(front(disk.contents("a").unwrap()));
    }
    let any = BTreeSet::from([*b"oon", *b"non", *b"onn", *b"nnn"]);
    assert_eq!(kept, any, "on the device");
    assert_eq!(read, any, "for the next process, which may not read what was only in memory");
}

#[test]
fn memory_that_a_failed_sync_left_clean_keeps_its_length_and_what_is_written_later() {
    let mut found = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = disk(seed);
        let file = disk.create("a", 3 * SECTOR_BYTES as u64).unwrap();
        disk.fail_call_of(Call::Sync, 1, Fault::Eio);
        file.write_at(0, b"1").unwrap();
        file.sync().unwrap_err();
        file.write_at(SECTOR_BYTES as u64, b"2").unwrap();
        disk.kill();
        let bytes = disk.contents("a").unwrap();
        assert_eq!(bytes.len(), 3 * SECTOR_BYTES);
        found.insert([bytes[0], bytes[SECTOR_BYTES]]);
    }
    assert_eq!(found, [*b"\x002", *b"12"].into());
}

#[test]
fn failed_folder_sync_keeps_some_names_and_the_next_says_ok_without_the_rest() {
    let mut kept = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = disk(seed);
        disk.create("a", 1).unwrap();
        disk.create("b", 1).unwrap();
        disk.fail_call_of(Call::SyncFolder, 1, Fault::Eio);
        disk.sync_folder().unwrap_err();
        disk.create("c", 1).unwrap();
        disk.sync_folder().unwrap();
        assert_eq!(disk.names(), ["a", "b", "c"]);
        disk.crash();
        kept.insert(disk.names().concat());
    }
    assert_eq!(kept, ["c", "ac", "abc"].map(str::to_owned).into());
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

#[test]
fn write_that_meets_a_full_disk_leaves_exactly_what_fits_and_later_ones_nothing() {
    for n in 0..=1_500_u64 {
        let disk = disk(n);
        let file = disk.create("a", 2_000).unwrap();
        disk.write_bytes(n);
        let first = file.write_at(10, &[1; 500]);
        assert_eq!(first.is_ok(), n >= 500);
        let second = file.write_at(510, &[2; 1_000]);
        assert_eq!(second.is_ok(), n >= 1_500);
        assert_eq!(file.write_at(1_900, &[3]).unwrap_err().kind(), ErrorKind::StorageFull);
        let bytes = disk.contents("a").unwrap();
        let written = usize::try_from(n).unwrap();
        assert!(bytes[10..10 + written.min(500)].iter().all(|b| *b == 1));
        // What did not fit counts all the same: nothing fits behind it.
        let behind = written.saturating_sub(500);
        assert!(bytes[510..510 + behind].iter().all(|b| *b == 2));
        assert!(bytes[10 + written.min(500)..510].iter().chain(&bytes[510 + behind..]).all(|b| *b == 0));
        disk.write_bytes(u64::MAX);
        file.write_at(1_900, &[3]).unwrap();
    }
}

#[test]
fn forks_are_what_power_loss_at_each_call_leaves() {
    let old = vec![b'o'; 2 * SECTOR_BYTES];
    let seeds: Vec<u64> = (0..SEEDS).collect();
    let disk = disk(1);
    disk.set_contents("a", &old);
    disk.fork_at_calls(&seeds.iter().map(|seed| (*seed, DirOps::Ordered)).collect::<Vec<_>>());
    replace_a(&disk).unwrap();
    let mut forked = BTreeSet::new();
    for (call, fork) in disk.take_forks() {
        assert!(fork.has_power() && fork.lock().is_ok() && fork.calls() == 0);
        forked.insert((call, fork.contents("a"), fork.contents("t")));
    }
    assert!(disk.take_forks().is_empty(), "they are given once");
    let mut crashed = BTreeSet::new();
    for (call, seed) in (1..=6).flat_map(|call| seeds.iter().map(move |seed| (call, *seed))) {
        let disk = SimDisk::new(seed);
        disk.create_folder().unwrap();
        disk.set_contents("a", &old);
        disk.crash_at_call(call);
        replace_a(&disk).unwrap_err();
        disk.restart();
        crashed.insert((call, disk.contents("a"), disk.contents("t")));
    }
    // The lengths that growth leaves are too many for all of them to occur in both.
    let whole = |t: &Option<Vec<u8>>| t.as_ref().is_none_or(|t| t.len() % SECTOR_BYTES == 0);
    let [forked, crashed] = [forked, crashed]
        .map(|found| found.into_iter().filter(|(_, _, t)| whole(t)).collect::<BTreeSet<_>>());
    assert_eq!(forked, crashed);
}
