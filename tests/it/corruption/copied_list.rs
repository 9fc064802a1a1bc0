//! The copy of the manifest: when there is one, and what it says where it is all that is left. And what no list knows of.
//!
//! Goal: to refute that damage of one list costs nobody, and that a list which came to nothing brings nobody back. Method: stores on the simulated
//! disk that end at chosen calls, and files that are put in or taken away.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::disk::Disk as _;
use cloakroom::disk::sim::{Call, Fault, SimDisk};
use cloakroom::probe::{Form, mend};
use cloakroom::{Durability, Lifetime, LogStore, OpenError, Options, SessionStore as _, When};

use super::histories::whole;
use super::lost_list::{beside_a_list_of_nothing, key};
use super::{files, is_segment, observe, open, proven, salvage, verify};
use crate::support::life::{Life, Pace, drive};
use crate::support::model::End;

const DAY: Lifetime = Lifetime::absolute(Duration::from_secs(86_400));

/// A store that fills a segment, and goes on in the next.
fn fill(life: &mut Life, from: u32) -> bool {
    (from..from + 16).all(|n| life.write(key(n), 5_000, When::Absent(DAY), Durability::Sync))
}

#[test]
fn list_has_a_copy_before_it_takes_the_place_of_one_that_was_durable() {
    let mut life = Life::open(SimDisk::new(1));
    life.again(End::Close);
    assert!(fill(&mut life, 0));
    life.again(End::Close);
    // The first list of all has none to take the place of; the first of a life, without a sealed segment, may replace one that a crash takes back.
    let (mut copied, mut renamed) = (false, Vec::new());
    for call in life.disk.trace() {
        match call.split_once(' ').unwrap().1 {
            "Sync MANIFEST.new" => copied = false,
            "Sync MANIFEST.copy" => copied = true,
            "Rename MANIFEST.new to MANIFEST" => renamed.push(copied),
            _ => {}
        }
    }
    let first = renamed.iter().position(|copied| *copied).unwrap();
    assert!(first > 0 && renamed[first + 1..].iter().filter(|copied| !**copied).count() <= 1, "{renamed:?}");
    assert!(renamed.last() == Some(&true), "the first list of a life names a sealed segment: {renamed:?}");
}

/// A list that was to name the next segment, but did not come to count: a copy of it is there.
fn ahead() -> (Life, String) {
    let mut life = Life::open(SimDisk::new(1));
    life.tolerant = true;
    assert!(life.write(key(100), 100, When::Absent(DAY), Durability::Sync));
    life.disk.fail_call_of(Call::Rename, 1, Fault::Eio);
    fill(&mut life, 0);
    let made = life.disk.trace().into_iter().rev().find_map(|call| {
        let (_, made) = call.split_once("Create ")?;
        made.split_once(' ').map(|(name, _)| name.to_owned()).filter(|name| is_segment(name))
    });
    life.disk.kill();
    (life, made.unwrap())
}

#[test]
fn segment_that_only_a_copied_list_names_is_missed_where_the_list_is_lost() {
    let (life, next) = ahead();
    let (disk, options) = (&life.disk, &life.options);
    let sound = disk.copy(1);
    let all = observe(&open(&sound, options).unwrap(), &[]);
    assert!(
        !sound.names().contains(&next)
            || sound.contents(&next).unwrap()[..64] != disk.contents(&next).unwrap()[..64]
    );
    disk.remove("MANIFEST").unwrap();
    assert!(proven(disk, options, &[]) == all, "the segment is there, and nothing is in it");
    // The next open removed it before it had a list of its own.
    disk.remove(&next).unwrap();
    assert!(open(disk, options).is_err());
    assert!(proven(disk, options, &[]).is_empty(), "what went on in it is not known");
}

#[test]
fn copies_without_a_stream_and_a_list_are_no_empty_folder() {
    let store = whole(60, 3, End::Close);
    let is_copy = |name: &String| is_segment(name) && store.disk.contents(name).unwrap()[10] == 2;
    let (copies, others): (Vec<_>, Vec<_>) = store.disk.names().into_iter().partition(is_copy);
    assert!(!copies.is_empty());
    for name in others {
        store.disk.remove(&name).unwrap();
    }
    let before = files(&store.disk);
    assert!(matches!(open(&store.disk, &store.options), Err(OpenError::Damaged { .. })));
    assert!(files(&store.disk) == before && !verify(&store.disk, &store.options).is_sound());
    // Where a new store would have another id, which is drawn.
    assert!(matches!(open(&store.disk.copy(99), &store.options), Err(OpenError::Damaged { .. })));
    assert_eq!(salvage(&store.disk, &store.options).unwrap().sessions_kept, 0);
}

/// An open passes over it, so it must not make a verify say otherwise.
#[test]
fn bytes_that_are_no_group_beyond_the_list_that_counts_are_nothing() {
    let store = whole(61, 2, End::Close);
    let is_stream = |name: &String| is_segment(name) && store.disk.contents(name).unwrap()[10] == 1;
    let stream = store.disk.names().into_iter().find(is_stream).unwrap();
    let mut bytes = store.disk.contents(&stream).unwrap()[..64].to_vec();
    bytes[40..44].copy_from_slice(&0x00ff_ffff_u32.to_le_bytes());
    mend(Form::Segment, &mut bytes, 0);
    bytes.extend([0xAA; 200]);
    store.disk.create("00ffffff.seg", 1).unwrap();
    store.disk.set_contents("00ffffff.seg", &bytes);
    assert!(verify(&store.disk, &store.options).is_sound());
    assert!(proven(&store.disk, &store.options, &store.keys) == store.last);
    assert!(observe(&open(&store.disk, &store.options).unwrap(), &store.keys) == store.last);
}

#[test]
fn segment_of_a_later_format_is_not_passed_over_by_a_list_of_nothing() {
    let (store, mut segment) = beside_a_list_of_nothing();
    // Its format, in the header.
    segment[8] = 2;
    mend(Form::Segment, &mut segment, 0);
    store.disk.set_contents("00000001.seg", &segment);
    let verified = LogStore::verify_on(Arc::new(store.disk.clone()), store.options.clone()).err();
    for refused in [verified, salvage(&store.disk, &store.options).err()] {
        assert!(matches!(refused, Some(OpenError::UnknownFormat { found: 2, .. })), "{refused:?}");
    }
}

/// A store that was closed with one session, and its list; then a life that signs that one out, and writes so many sessions more.
fn signed_out_since(more: u32) -> (SimDisk, Options, Vec<u8>) {
    let mut life = Life::open(SimDisk::new(3));
    for n in 1..=3 {
        assert!(life.write(key(n), 100, When::Absent(DAY), Durability::Sync));
    }
    life.again(End::Close);
    life.end(End::Close);
    let list = life.disk.contents("MANIFEST").unwrap();
    life.begin(End::Close).unwrap();
    // Nothing is compacted, so no copy tells that the list has changed.
    life.pace = Pace::Lazy;
    assert!(life.delete(key(1), Durability::Sync));
    (0..more).for_each(|n| assert!(life.write(key(100 + n), 5_000, When::Absent(DAY), Durability::Sync)));
    life.disk.kill();
    (life.disk.clone(), life.options.clone(), list)
}

/// The stream's segments that are written to, in order.
fn streams(disk: &SimDisk) -> Vec<String> {
    let is_written = |name: &String| {
        let bytes = disk.contents(name).unwrap();
        bytes[10] == 1 && bytes[64..].iter().any(|byte| *byte != 0)
    };
    disk.names().into_iter().filter(|name| is_segment(name)).filter(is_written).collect()
}

/// Nobody who was signed out since is found by anyone, and an open says what is wrong.
fn is_told(disk: &SimDisk, options: &Options, what: &str) {
    let before = files(disk);
    assert!(matches!(open(disk, options), Err(OpenError::Damaged { .. })), "{what}");
    assert!(files(disk) == before && !verify(disk, options).is_sound(), "{what}");
    let certain = proven(disk, options, &[]);
    assert!(!certain.contains_key(&key(1)), "{what}: who was signed out came back");
    salvage(disk, options).unwrap();
    assert!(observe(&open(disk, options).unwrap(), &[]) == certain, "{what}");
}

#[test]
fn header_that_is_damaged_beside_an_older_list_hides_no_stream() {
    for more in [0, 20] {
        let (disk, options, list) = signed_out_since(more);
        let active = streams(&disk).pop().unwrap();
        for at in 0..64 {
            let disk = disk.copy(at);
            disk.flip_bit(&active, at, 3).unwrap();
            disk.set_contents("MANIFEST", &list);
            if let Err(OpenError::UnknownFormat { .. }) = open(&disk, &options) {
                continue;
            }
            is_told(&disk, &options, &format!("byte {at}, {more} more"));
        }
        let disk = disk.copy(1);
        let mut wiped = disk.contents(&active).unwrap();
        wiped[..64].fill(0);
        disk.set_contents(&active, &wiped);
        disk.set_contents("MANIFEST", &list);
        is_told(&disk, &options, "a front of zeros");
    }
}

#[test]
fn stream_under_another_name_beside_an_older_list_is_no_leftover() {
    let (disk, options, list) = signed_out_since(0);
    let active = streams(&disk).pop().unwrap();
    let bytes = disk.contents(&active).unwrap();
    disk.remove(&active).unwrap();
    disk.create("00ffffff.seg", 1).unwrap();
    disk.set_contents("00ffffff.seg", &bytes);
    disk.set_contents("MANIFEST", &list);
    is_told(&disk, &options, "another name");
}

#[test]
fn first_stream_behind_an_older_list_is_missed_whatever_became_of_it() {
    let (disk, options, list) = signed_out_since(20);
    let written = streams(&disk);
    let first = &written[1];
    for (n, became) in ["removed", "emptied", "wiped"].into_iter().enumerate() {
        let disk = disk.copy(n as u64);
        match became {
            "removed" => disk.remove(first).unwrap(),
            "emptied" => disk.set_contents(first, &[]),
            _ => disk.set_contents(first, &vec![0; 64 << 10]),
        }
        disk.set_contents("MANIFEST", &list);
        is_told(&disk, &options, became);
    }
}

/// What a salvage has moved aside is no part of a store that is made later.
#[test]
fn store_that_is_made_beside_what_another_left_in_quarantine_is_its_own() {
    let store = whole(62, 2, End::Close);
    store.disk.flip_bit("MANIFEST", 40, 1).unwrap();
    store.disk.remove("MANIFEST.copy").unwrap();
    salvage(&store.disk, &store.options).unwrap();
    for name in store.disk.names() {
        if name.starts_with("MANIFEST") || is_segment(&name) {
            store.disk.remove(&name).unwrap();
        }
    }
    assert!(store.disk.names().iter().any(|name| name.starts_with("quarantine-")));
    let began = open(&store.disk, &store.options).unwrap().at(Durability::Sync);
    drive(&began, began.create_as(key(1), "x".into(), DAY)).unwrap().unwrap();
    let last = observe(&began, &[]);
    drive(&began, began.close()).unwrap().unwrap();
    assert_eq!(last.len(), 1);
    assert!(verify(&store.disk, &store.options).is_sound());
    assert!(proven(&store.disk, &store.options, &[]) == last);
    assert!(salvage(&store.disk, &store.options).unwrap().quarantined.is_empty());
}

#[test]
fn file_with_a_name_that_no_store_gets_to_leaves_a_repaired_store_that_opens() {
    let store = whole(63, 2, End::Close);
    let name = "7fffffff.seg";
    store.disk.create(name, 1).unwrap();
    store
        .disk
        .set_contents(name, b"what somebody has put here, longer than any header of a segment would be");
    store.disk.flip_bit("MANIFEST", 40, 1).unwrap();
    let done = salvage(&store.disk, &store.options).unwrap();
    assert!(done.quarantined.iter().any(|aside| aside.ends_with(name)), "{done:?}");
    assert!(verify(&store.disk, &store.options).is_sound());
    drop(open(&store.disk, &store.options).unwrap());
}

/// What a list was written behind is on the device, though no group is left that says so.
#[test]
fn end_of_the_stream_that_the_list_knows_of_is_missed() {
    let mut life = Life::open(SimDisk::new(4));
    assert!(life.write(key(1), 100, When::Absent(DAY), Durability::Sync));
    assert!(fill(&mut life, 10));
    let active = streams(&life.disk).pop().unwrap();
    let earlier = life.disk.contents(&active).unwrap();
    for n in [1].into_iter().chain(10..18) {
        assert!(life.delete(key(n), Durability::Sync));
    }
    // Most of the segment that was left is dead, so it is compacted, and the list is a new one.
    life.rest();
    life.disk.kill();
    let whole = life.disk.contents(&active).unwrap();
    assert!(earlier != whole && proven(&life.disk, &life.options, &[]).len() == 8);
    let written = earlier.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for (n, from) in (64..written).step_by(97).chain([written]).enumerate() {
        let disk = life.disk.copy(n as u64);
        let mut wiped = whole.clone();
        wiped[from..].fill(0);
        disk.set_contents(&active, &wiped);
        is_told(&disk, &life.options, &format!("wiped from {from} on"));
    }
    life.disk.set_contents(&active, &earlier);
    is_told(&life.disk, &life.options, "an earlier state of it");
}

#[test]
fn headers_that_are_wiped_out_without_any_list_are_no_empty_folder() {
    let store = whole(64, 2, End::Close);
    store.disk.remove("MANIFEST").unwrap();
    store.disk.remove("MANIFEST.copy").unwrap();
    for name in store.disk.names().into_iter().filter(|name| is_segment(name)) {
        let mut wiped = store.disk.contents(&name).unwrap();
        wiped[..64].fill(0);
        store.disk.set_contents(&name, &wiped);
    }
    is_told(&store.disk, &store.options, "all headers are gone");
}

/// A write that fails may come to a part of itself, and the process may end before it has tidied up.
#[test]
fn first_open_that_a_write_cut_short_at_any_byte_is_done_again() {
    let options = Life::new(SimDisk::new(1)).options;
    let life = Life::open(SimDisk::new(1));
    let first = &life.disk;
    let (header, list) = (first.contents("00000001.seg").unwrap(), first.contents("MANIFEST").unwrap());
    for n in 0..64 {
        for (name, whole) in [("00000001.seg", &header), ("MANIFEST.new", &list)] {
            let disk = SimDisk::new(2);
            disk.create_folder().unwrap();
            disk.create(name, 1).unwrap();
            let mut begun = whole[..n.min(whole.len())].to_vec();
            begun.resize(whole.len(), 0);
            disk.set_contents(name, &begun);
            assert!(verify(&disk, &options).is_sound(), "{n} bytes of {name}");
            drop(open(&disk, &options).unwrap_or_else(|e| panic!("{n} bytes of {name}: {e}")));
        }
    }
}

#[test]
fn wipe_that_reaches_from_the_header_over_the_first_groups_leaves_nobody() {
    let (disk, options, _) = signed_out_since(0);
    let active = streams(&disk).pop().unwrap();
    for at in 0..64 {
        for len in [200, 512] {
            let disk = disk.copy(at as u64);
            let mut wiped = disk.contents(&active).unwrap();
            wiped[at..at + len].fill(0);
            disk.set_contents(&active, &wiped);
            is_told(&disk, &options, &format!("{len} bytes from {at} on"));
        }
    }
}

#[test]
fn header_that_is_damaged_before_anything_was_written_costs_nobody() {
    let mut life = Life::open(SimDisk::new(5));
    assert!(life.write(key(1), 100, When::Absent(DAY), Durability::Sync));
    life.again(End::Close);
    life.disk.kill();
    let is_active = |name: &String| {
        life.disk.contents(name).is_some_and(|bytes| bytes.len() == 64 << 10 && bytes[10] == 1)
    };
    let active = life.disk.names().into_iter().filter(|name| is_segment(name)).find(is_active).unwrap();
    // By chance, of one in 256, the header ends as one that was wiped out does.
    if life.disk.contents(&active).unwrap()[63] != 0 {
        life.disk.flip_bit(&active, 20, 1).unwrap();
        assert!(open(&life.disk, &life.options).is_err());
        assert_eq!(proven(&life.disk, &life.options, &[]).len(), 1);
    }
}

#[test]
fn older_list_beside_all_that_was_written_since_costs_nobody() {
    for more in [0, 20] {
        let (disk, options, list) = signed_out_since(more);
        let newest = observe(&open(&disk.copy(1), &options).unwrap(), &[]);
        disk.set_contents("MANIFEST", &list);
        assert!(open(&disk, &options).is_err());
        assert!(proven(&disk, &options, &[]) == newest, "{more} more");
    }
}
