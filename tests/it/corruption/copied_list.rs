//! The copy of the manifest: when there is one, and what it says where it is all that is left. And what no list knows of.
//!
//! Goal: to refute that damage of one list costs nobody, and that a list which came to nothing brings nobody back. Method: stores on the simulated
//! disk that end at chosen calls, and files that are put in or taken away.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::disk::Disk as _;
use cloakroom::disk::sim::{Call, Fault, SimDisk};
use cloakroom::probe::{Form, mend};
use cloakroom::{Durability, Lifetime, LogStore, OpenError, When};

use super::histories::whole;
use super::lost_list::key;
use super::{files, is_segment, observe, open, proven, salvage, verify};
use crate::support::life::Life;
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
    let store = whole(50, 3, End::Close);
    let names = store.disk.names();
    let mut segment = store.disk.contents(names.iter().find(|name| is_segment(name)).unwrap()).unwrap();
    store.disk.remove("MANIFEST").unwrap();
    store.disk.remove("MANIFEST.copy").unwrap();
    assert_eq!(salvage(&store.disk, &store.options).unwrap().sessions_kept, 0);
    // Its format, in the header.
    segment[8] = 2;
    mend(Form::Segment, &mut segment, 0);
    store.disk.set_contents("00000001.seg", &segment);
    let verified = LogStore::verify_on(Arc::new(store.disk.clone()), store.options.clone()).err();
    for refused in [verified, salvage(&store.disk, &store.options).err()] {
        assert!(matches!(refused, Some(OpenError::UnknownFormat { found: 2, .. })), "{refused:?}");
    }
}
