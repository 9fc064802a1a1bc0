//! The contract of the disk seam: one suite of tests, run on every implementation.
//!
//! What power loss and faults do is the simulated disk's alone, and has modules of its own.

/// What the simulated disk's faults do, and how they are planned.
mod faults;
/// What the simulated disk loses when power goes, and what it never loses.
mod losses;

use std::io::ErrorKind;

use cloakroom::disk::real::RealDisk;
use cloakroom::disk::sim::SimDisk;
use cloakroom::disk::{Disk, LockError};

fn read(disk: &dyn Disk, name: &str) -> Vec<u8> {
    let file = disk.open(name).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn names(disk: &dyn Disk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.sort();
    names
}

fn folder_that_is_not_there_is_empty_and_takes_no_file(disk: &dyn Disk) {
    assert!(names(disk).is_empty());
    assert_eq!(disk.create("a", 1).err().unwrap().kind(), ErrorKind::NotFound);
    assert!(matches!(disk.lock(), Err(LockError::Io(error)) if error.kind() == ErrorKind::NotFound));
    assert_eq!(disk.sync_folder().unwrap_err().kind(), ErrorKind::NotFound);
    disk.create_folder().unwrap();
    disk.create_folder().unwrap();
    disk.sync_folder().unwrap();
    assert!(names(disk).is_empty());
}

fn created_file_is_zeros_and_is_created_once(disk: &dyn Disk) {
    disk.create_folder().unwrap();
    disk.create("a", 5_000).unwrap();
    assert_eq!(read(disk, "a"), [0; 5_000]);
    disk.open("a").unwrap().write_at(0, b"kept").unwrap();
    assert_eq!(disk.create("a", 1).err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert_eq!(&read(disk, "a")[..5], b"kept\0");
    assert_eq!(disk.create("empty", 0).unwrap().len().unwrap(), 0);
}

fn reads_are_exact_or_unexpected_eof(disk: &dyn Disk) {
    disk.create_folder().unwrap();
    let file = disk.create("a", 10).unwrap();
    file.write_at(4, b"abcdef").unwrap();
    let mut three = [0; 3];
    file.read_at(7, &mut three).unwrap();
    assert_eq!(&three, b"def");
    for offset in [8, 10, 11, 1 << 40] {
        assert_eq!(file.read_at(offset, &mut three).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
    file.read_at(10, &mut []).unwrap();
}

fn writes_grow_a_file_with_zeros_between_and_change_nothing_else(disk: &dyn Disk) {
    disk.create_folder().unwrap();
    let file = disk.create("a", 4).unwrap();
    file.write_at(0, b"abcd").unwrap();
    file.write_at(6, b"ef").unwrap();
    file.write_at(1, b"X").unwrap();
    assert_eq!(read(disk, "a"), b"aXcd\0\0ef");
    assert_eq!(file.len().unwrap(), 8);
}

fn truncate_cuts_and_never_grows(disk: &dyn Disk) {
    disk.create_folder().unwrap();
    let file = disk.create("a", 8).unwrap();
    file.write_at(0, b"abcdefgh").unwrap();
    file.truncate(9).unwrap();
    assert_eq!(file.len().unwrap(), 8);
    file.truncate(3).unwrap();
    assert_eq!(read(disk, "a"), b"abc");
    file.write_at(5, b"z").unwrap();
    assert_eq!(read(disk, "a"), b"abc\0\0z");
    file.truncate(0).unwrap();
    assert_eq!(file.len().unwrap(), 0);
}

fn handles_of_one_file_see_each_other_at_once(disk: &dyn Disk) {
    disk.create_folder().unwrap();
    let one = disk.create("a", 4).unwrap();
    let two = disk.open("a").unwrap();
    one.write_at(0, b"abcd").unwrap();
    let mut bytes = [0; 4];
    two.read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"abcd");
    two.truncate(2).unwrap();
    assert_eq!(one.len().unwrap(), 2);
    one.sync().unwrap();
    two.sync().unwrap();
    assert_eq!(read(disk, "a"), b"ab");
}

fn rename_replaces_and_handles_follow_the_file(disk: &dyn Disk) {
    disk.create_folder().unwrap();
    let (a, b) = (disk.create("a", 1).unwrap(), disk.create("b", 1).unwrap());
    a.write_at(0, b"A").unwrap();
    b.write_at(0, b"B").unwrap();
    disk.rename("a", "b").unwrap();
    assert_eq!(names(disk), ["b"]);
    assert_eq!(read(disk, "b"), b"A");
    a.write_at(0, b"a").unwrap();
    b.write_at(0, b"b").unwrap();
    assert_eq!(read(disk, "b"), b"a");
    let mut byte = [0];
    b.read_at(0, &mut byte).unwrap();
    assert_eq!(&byte, b"b");
    disk.rename("b", "b").unwrap();
    assert_eq!(disk.rename("a", "c").unwrap_err().kind(), ErrorKind::NotFound);
}

fn removed_file_is_gone_by_name_and_goes_on_by_handle(disk: &dyn Disk) {
    disk.create_folder().unwrap();
    let file = disk.create("a", 1).unwrap();
    disk.remove("a").unwrap();
    assert!(names(disk).is_empty());
    assert_eq!(disk.open("a").err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(disk.remove("a").unwrap_err().kind(), ErrorKind::NotFound);
    file.write_at(0, b"x").unwrap();
    file.sync().unwrap();
    let mut byte = [0];
    file.read_at(0, &mut byte).unwrap();
    assert_eq!(&byte, b"x");
    disk.create("a", 1).unwrap();
    assert_eq!(read(disk, "a"), b"\0");
}

fn list_names_every_file_and_not_the_lock(disk: &dyn Disk) {
    disk.create_folder().unwrap();
    let _lock = disk.lock().unwrap();
    for name in ["b", "a", "c.tmp"] {
        disk.create(name, 1).unwrap();
    }
    disk.remove("b").unwrap();
    disk.sync_folder().unwrap();
    assert_eq!(names(disk), ["a", "c.tmp"]);
}

fn lock_is_refused_with_its_holder_until_dropped(disk: &dyn Disk) {
    disk.create_folder().unwrap();
    let held = disk.lock().unwrap();
    for _ in 0..2 {
        match disk.lock() {
            Err(LockError::Held(pid)) => assert_eq!(pid, Some(std::process::id())),
            Err(LockError::Io(error)) => panic!("{error}"),
            Ok(_) => panic!("locked twice"),
        }
    }
    drop(held);
    let again = disk.lock().unwrap();
    assert!(disk.lock().is_err());
    drop(again);
    drop(disk.lock().unwrap());
}

/// One module of tests for each disk: `$make` gives a disk whose folder is not there, and what must outlive it.
macro_rules! contract {
    ($module:ident, $make:expr, [$($test:ident),* $(,)?]) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $test() {
                    let (disk, _keep) = $make;
                    super::$test(&disk);
                }
            )*
        }
    };
}

macro_rules! contract_of {
    ($module:ident, $make:expr) => {
        contract!(
            $module,
            $make,
            [
                folder_that_is_not_there_is_empty_and_takes_no_file,
                created_file_is_zeros_and_is_created_once,
                reads_are_exact_or_unexpected_eof,
                writes_grow_a_file_with_zeros_between_and_change_nothing_else,
                truncate_cuts_and_never_grows,
                handles_of_one_file_see_each_other_at_once,
                rename_replaces_and_handles_follow_the_file,
                removed_file_is_gone_by_name_and_goes_on_by_handle,
                list_names_every_file_and_not_the_lock,
                lock_is_refused_with_its_holder_until_dropped,
            ]
        );
    };
}

contract_of!(real, {
    let folder = tempfile::tempdir().unwrap();
    (RealDisk::new(folder.path().join("store")), folder)
});

contract_of!(sim, (SimDisk::new(0), ()));
