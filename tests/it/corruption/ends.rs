//! A stream whose end lies in two segments, since nothing had sealed the first when the store was killed.
//!
//! Goal: that what is certain of such an end is neither less than an open finds, nor more than a hole in it leaves. Method: a store without threads, whose
//! second segment is begun before the first was synced.

use cloakroom::disk::{Disk as _, sim::SimDisk};
use cloakroom::{Durability, Lifetime, Options, SessionKey, SessionStore, Work};

use super::{Sessions, is_segment, observe, open, proven, read_only, salvage, verify};
use crate::support::life::{Life, drive};
use crate::support::model::End;

const DAY: Lifetime = Lifetime::absolute(std::time::Duration::from_secs(86_400));

/// How many of the sessions lie in the first segment.
const FIRST: u8 = 10;
const ALL: u8 = 16;

fn key(n: u8) -> SessionKey {
    SessionKey::of(&[n])
}

/// A killed store with a group for each of so many sessions, and what it held. If they were `synced` each of the last two groups tells
/// that all before it are on the device.
fn turned(sessions: u8, synced: bool) -> (SimDisk, Options, Sessions) {
    let life = Life::open(SimDisk::new(7));
    let store = life.store().at(Durability::Buffered);
    for n in 0..sessions {
        if n + 2 >= sessions && synced {
            store.work(Work::Sync);
        }
        drive(&store, store.create_as(key(n), vec![0xA0 + n; 5_000].into(), DAY)).unwrap().unwrap();
        store.work(Work::Write);
        if n == FIRST - 1 {
            store.work(Work::Keep);
        }
    }
    let sessions = observe(&store, &[]);
    life.disk.kill();
    (life.disk.clone(), life.options.clone(), sessions)
}

/// Where the payload of a session stands.
fn find(disk: &SimDisk, n: u8) -> (&'static str, u64) {
    let name = if n < FIRST { "00000001.seg" } else { "00000003.seg" };
    let bytes = disk.contents(name).unwrap();
    (
        name,
        bytes.windows(5_000).position(|window| window.iter().all(|byte| *byte == 0xA0 + n)).unwrap() as u64,
    )
}

#[test]
fn end_in_two_segments_of_which_nothing_tells_that_it_was_synced_is_certain_as_far_as_it_is_whole() {
    let (disk, options, sessions) = turned(ALL, false);
    assert_eq!(sessions.len(), usize::from(ALL));
    assert!(proven(&disk, &options, &[]) == sessions);
    let report = verify(&disk, &options);
    assert!(report.is_sound() && report.torn_bytes == 0, "{report:?}");
    // A hole in the first is its end: a strict open and all others go by what is before it.
    let (name, at) = find(&disk, 4);
    disk.flip_bit(name, at - 90, 0).unwrap();
    let certain = proven(&disk, &options, &[]);
    assert!((0..ALL).all(|n| certain.contains_key(&key(n)) == (n < 4)), "{:?}", certain.keys());
    let report = verify(&disk, &options);
    assert_eq!(read_only(&disk.copy(1), &options).recovery().torn_bytes, report.torn_bytes);
    let store = open(&disk, &options).unwrap();
    assert!(report.is_sound() && report.torn_bytes == store.recovery().torn_bytes, "{report:?}");
    assert!(observe(&store, &[]) == certain);
}

#[test]
fn hole_in_the_first_of_two_segments_leaves_what_the_second_says() {
    for n in [0, 4, FIRST - 1] {
        let (disk, options, sessions) = turned(ALL, true);
        let (name, at) = find(&disk, n);
        disk.flip_bit(name, at - 90, 0).unwrap();
        assert!(open(&disk, &options).is_err());
        let certain = proven(&disk, &options, &[]);
        assert!((FIRST..ALL).all(|n| certain.get(&key(n)) == sessions.get(&key(n))), "{:?}", certain.keys());
        // What was lost may have ended any that is older.
        assert!((0..n).all(|n| !certain.contains_key(&key(n))), "{:?}", certain.keys());
        assert_eq!(salvage(&disk, &options).unwrap().sessions_kept, certain.len() as u64);
        // Into as few files as hold them.
        let is_new = |name: &String| is_segment(name) && !name.starts_with("quarantine");
        assert!(disk.names().iter().filter(|name| is_new(name)).count() <= 2, "{:?}", disk.names());
        assert!(observe(&open(&disk, &options).unwrap(), &[]) == certain);
    }
}

#[test]
fn second_segment_in_which_nothing_was_written_yet_tells_nothing_of_the_first() {
    let (disk, options, sessions) = turned(FIRST, true);
    assert!(disk.contents("00000003.seg").is_some(), "it is listed");
    let (name, at) = find(&disk, 4);
    disk.flip_bit(name, at - 90, 0).unwrap();
    let certain = proven(&disk, &options, &[]);
    assert!((5..FIRST).all(|n| certain.get(&key(n)) == sessions.get(&key(n))), "{:?}", certain.keys());
    assert!((0..4).all(|n| !certain.contains_key(&key(n))), "{:?}", certain.keys());
    // Nor does another file in its place, in which nothing can be told from what was to be there.
    let (disk, options, sessions) = turned(FIRST, true);
    disk.set_contents("00000003.seg", &vec![0xFF; 64 << 10]);
    assert!(open(&disk, &options).is_err());
    assert!(proven(&disk, &options, &[]) == sessions);
}

/// The first says that the log goes on, and power was lost before it did.
#[test]
fn second_segment_that_was_only_handed_over_to_costs_nobody_of_the_first() {
    let (disk, options, sessions) = turned(FIRST + 1, true);
    let mut second = disk.contents("00000003.seg").unwrap();
    second[64..].fill(0);
    disk.set_contents("00000003.seg", &second);
    assert_eq!(proven(&disk, &options, &[]).len(), usize::from(FIRST));
    let (name, at) = find(&disk, 4);
    disk.flip_bit(name, at - 90, 0).unwrap();
    assert!(open(&disk, &options).is_err());
    let certain = proven(&disk, &options, &[]);
    assert!((5..FIRST).all(|n| certain.get(&key(n)) == sessions.get(&key(n))), "{:?}", certain.keys());
    assert!((0..4).all(|n| !certain.contains_key(&key(n))), "{:?}", certain.keys());
}

#[test]
fn torn_end_beside_damage_leaves_nobody() {
    let (disk, options, _) = turned(FIRST, true);
    let (name, torn) = find(&disk, FIRST - 1);
    // The header of its group.
    disk.flip_bit(name, torn - 140, 0).unwrap();
    assert_eq!(proven(&disk, &options, &[]).len(), usize::from(FIRST) - 1, "a torn end alone");
    let (_, at) = find(&disk, 2);
    disk.flip_bit(name, at, 0).unwrap();
    let report = verify(&disk, &options);
    assert!(!report.is_sound() && report.torn_bytes > 0, "{report:?}");
    let place = &report.damage[0];
    assert_eq!(place.to_string(), format!("{}, offset {}: {}", place.file, place.offset, place.what));
    assert!(
        proven(&disk, &options, &[]).is_empty(),
        "what was torn may have been damaged, and have ended anybody"
    );
}

/// What was wiped out from the midst of the last record on may have gone on behind it.
#[test]
fn end_that_was_wiped_out_beside_damage_leaves_nobody() {
    let (disk, options, _) = turned(FIRST, true);
    let (name, at) = find(&disk, 2);
    disk.flip_bit(name, at, 0).unwrap();
    assert_eq!(proven(&disk, &options, &[]).len(), usize::from(FIRST) - 1, "one payload alone");
    let (_, last) = find(&disk, FIRST - 1);
    let mut bytes = disk.contents(name).unwrap();
    bytes[usize::try_from(last).unwrap() + 1_000..].fill(0);
    disk.set_contents(name, &bytes);
    assert!(open(&disk, &options).is_err());
    assert_eq!(verify(&disk, &options).torn_bytes, 0, "nothing but zeros is behind it");
    assert!(proven(&disk, &options, &[]).is_empty());
}

/// A list from before the close knows the last segment without its end, behind which there is a footer now.
#[test]
fn footer_behind_what_an_older_list_leaves_open_is_no_torn_end() {
    let mut life = Life::open(SimDisk::new(7));
    let store = life.store().at(Durability::Sync);
    for n in 0..FIRST / 2 {
        drive(&store, store.create_as(key(n), vec![1; 5_000].into(), DAY)).unwrap().unwrap();
    }
    let (sessions, before) = (observe(&store, &[]), life.disk.contents("MANIFEST").unwrap());
    drop(store);
    life.end(End::Close);
    life.disk.remove("MANIFEST").unwrap();
    life.disk.set_contents("MANIFEST.copy", &before);
    assert!(proven(&life.disk, &life.options, &[]) == sessions);
    assert_eq!(verify(&life.disk, &life.options).torn_bytes, 0);
}

/// The list says that nothing of the stream was on the device, and power loss took the first group of it.
#[test]
fn hole_right_where_the_list_left_off_costs_nobody_who_was_there_before() {
    let (disk, options) = (SimDisk::new(7), Life::open(SimDisk::new(7)).options.clone());
    let store = open(&disk, &options).unwrap();
    drive(&store, store.create_as(key(0), "x".into(), DAY)).unwrap().unwrap();
    let certain = observe(&store, &[]);
    drive(&store, store.close()).unwrap().unwrap();
    let store = open(&disk, &options).unwrap().at(Durability::Buffered);
    for n in 1..4 {
        drive(&store, store.create_as(key(n), "y".into(), DAY)).unwrap().unwrap();
        store.work(Work::Write);
    }
    disk.kill();
    let has_group =
        |name: &String| disk.contents(name).is_some_and(|bytes| bytes.get(64..68) == Some(b"GRP1"));
    let active = disk.names().into_iter().filter(|name| is_segment(name) && has_group(name)).max().unwrap();
    disk.flip_bit(&active, 64, 0).unwrap();
    let report = verify(&disk, &options);
    assert!(report.is_sound() && report.torn_bytes > 0, "{report:?}");
    assert!(proven(&disk, &options, &[]) == certain);
    assert!(observe(&open(&disk, &options).unwrap(), &[]) == certain);
}
