//! A manifest that is lost, or replaced by any that there ever was.
//!
//! Goal: to refute that what a salvage goes by then is a list of which everything that counts can be told. Method: a store lives through a
//! history; after each operation it is killed, and each manifest of its past is put in the place of the newest or of the one before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cloakroom::disk::Disk as _;
use cloakroom::disk::sim::{DirOps, SimDisk};
use cloakroom::probe::{Form, mend};
use cloakroom::{Durability, Lifetime, LogStore, OpenError, Options, SessionKey, SessionStore};

use super::histories::{Whole, shortened, whole};
use super::{Sessions, files, is_segment, observe, open, proven, salvage, verify};
use crate::support::history::{Op, Step, history};
use crate::support::life::{Life, drive};
use crate::support::model::End;
use crate::support::{Replay, budget, seeds, spread};

#[test]
fn damaged_list_alone_costs_nobody() {
    for (n, lost) in (0..8).flat_map(|n| [(n, "a bit"), (n, "the file")]) {
        let end = if n % 2 == 0 { End::Kill } else { End::Close };
        let store = whole(40 + n, 1 + usize::try_from(n % 3).unwrap(), end);
        match lost {
            "a bit" => store.disk.flip_bit("MANIFEST", 40, 1).unwrap(),
            _ => store.disk.remove("MANIFEST").unwrap(),
        }
        assert!(open(&store.disk, &store.options).is_err());
        let certain = proven(&store.disk, &store.options, &store.keys);
        let report = verify(&store.disk, &store.options);
        assert!(report.damage.iter().all(|damage| damage.file == "MANIFEST"), "{report:?}");
        assert_eq!(certain, store.last, "{}, {lost} of the manifest lost: {report:?}", store.what);
    }
}

#[test]
fn nothing_is_certain_without_any_list() {
    let store = whole(50, 3, End::Close);
    store.disk.remove("MANIFEST").unwrap();
    store.disk.remove("MANIFEST.copy").unwrap();
    let done = salvage(&store.disk, &store.options).unwrap();
    assert_eq!(done.sessions_kept, 0);
    assert!(observe(&open(&store.disk, &store.options).unwrap(), &store.keys).is_empty());
}

#[test]
fn list_of_another_store_removes_nothing() {
    let store = whole(51, 2, End::Close);
    // Another store that was opened so often that its ids are beyond all of this one's, and that holds nothing.
    let other = SimDisk::new(1);
    for _ in 0..40 {
        drop(open(&other, &store.options).unwrap());
    }
    store.disk.set_contents("MANIFEST", &other.contents("MANIFEST").unwrap());
    let before = files(&store.disk);
    assert!(matches!(open(&store.disk, &store.options), Err(OpenError::Damaged { .. })));
    assert!(files(&store.disk) == before);
    assert!(!verify(&store.disk, &store.options).is_sound());
    // However many there are.
    let one_less = store.disk.copy(2);
    one_less.remove(before.keys().find(|name| is_segment(name)).unwrap()).unwrap();
    assert!(!verify(&one_less, &store.options).is_sound());
    let done = salvage(&store.disk, &store.options).unwrap();
    assert_eq!(done.sessions_kept, 0, "nothing tells which of the two is right");
    let segments = before.iter().filter(|(name, _)| is_segment(name));
    for (name, bytes) in segments {
        assert!(
            files(&store.disk).iter().any(|(now, found)| now.ends_with(name) && found == bytes),
            "{name}"
        );
    }
}

/// A store that began with the list it gives, wrote session 0, ended it in its second segment, and went on to a third.
fn turned() -> (SimDisk, Options, Vec<u8>) {
    let life = Life::open(SimDisk::new(9));
    let (disk, options) = (life.disk.clone(), life.options.clone());
    let list = disk.contents("MANIFEST").unwrap();
    let store = life.store().at(Durability::Sync);
    let put = |n: u32, len: usize| {
        let day = Lifetime::absolute(Duration::from_secs(86_400));
        drive(&store, store.upsert(key(n), vec![1; len].into(), day)).unwrap().unwrap();
    };
    put(0, 100);
    (1..14).for_each(|n| put(n, 5_000));
    assert!(drive(&store, store.delete(key(0))).unwrap().unwrap());
    (14..26).for_each(|n| put(n, 5_000));
    put(26, 100);
    disk.kill();
    // That the first was cut to its length when it was sealed, no sync has made last.
    let mut first = disk.contents("00000001.seg").unwrap();
    first.resize(64 << 10, 0);
    disk.set_contents("00000001.seg", &first);
    (disk, options, list)
}

pub fn key(n: u32) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

#[test]
fn segment_that_no_list_knows_and_that_is_gone_is_missed() {
    let (disk, options, list) = turned();
    assert!(!proven(&disk, &options, &[]).contains_key(&key(0)));
    disk.remove("MANIFEST").unwrap();
    disk.set_contents("MANIFEST.copy", &list);
    let all = proven(&disk, &options, &[]);
    assert_eq!(all.len(), 26, "the old list and the segments since have everything");
    // The second has the id behind the reserve's, which holds nothing.
    disk.remove("00000003.seg").unwrap();
    let certain = proven(&disk, &options, &[]);
    assert!(!certain.contains_key(&key(0)), "its end was in the segment that is gone");
    assert!(certain.contains_key(&key(26)), "it was written after that: {certain:?}");
}

#[test]
fn last_segment_that_no_list_knows_and_that_is_gone_is_missed() {
    let (disk, options, list) = turned();
    disk.remove("MANIFEST").unwrap();
    disk.set_contents("MANIFEST.copy", &list);
    disk.remove("00000004.seg").unwrap();
    assert!(proven(&disk, &options, &[]).is_empty(), "it may have ended anybody");
}

#[test]
fn list_that_is_older_than_any_segment_with_groups_is_refused_whatever_lies_between() {
    let (disk, options, list) = turned();
    disk.set_contents("MANIFEST", &list);
    for gone in [None, Some("00000003.seg")] {
        if let Some(name) = gone {
            disk.remove(name).unwrap();
        }
        let before = files(&disk);
        assert!(matches!(open(&disk, &options), Err(OpenError::Damaged { .. })), "{gone:?}");
        assert!(files(&disk) == before);
    }
}

/// Ids are given before what gets them is listed, so a list of the past may pass over a segment that it counts as given.
#[test]
fn list_without_the_segment_that_the_stream_went_on_in_is_refused() {
    let (disk, options, list) = turned();
    disk.set_contents("MANIFEST", &list);
    for name in disk.names().into_iter().filter(|name| is_segment(name) && name != "00000001.seg") {
        disk.remove(&name).unwrap();
    }
    let before = files(&disk);
    assert!(matches!(open(&disk, &options), Err(OpenError::Damaged { .. })));
    assert!(files(&disk) == before && !verify(&disk, &options).is_sound());
    assert!(proven(&disk, &options, &[]).is_empty(), "whatever ended somebody may be in what is gone");
}

#[test]
fn copies_without_any_list_are_no_empty_folder() {
    let store = whole(54, 3, End::Kill);
    let is_copy = |name: &String| is_segment(name) && store.disk.contents(name).unwrap()[10] == 2;
    let (copies, others): (Vec<_>, Vec<_>) = store.disk.names().into_iter().partition(is_copy);
    assert!(!copies.is_empty());
    others.iter().filter(|name| *name != "LOCK").for_each(|name| store.disk.remove(name).unwrap());
    let before = files(&store.disk);
    assert!(matches!(open(&store.disk, &store.options), Err(OpenError::Damaged { .. })));
    assert!(files(&store.disk) == before);
}

#[test]
fn file_that_no_list_knows_counts_for_what_its_front_shows() {
    let (disk, options, list) = turned();
    disk.remove("MANIFEST").unwrap();
    disk.set_contents("MANIFEST.copy", &list);
    // One that is shorter than a header was never written to.
    disk.create("00000009.seg", 1).unwrap();
    disk.set_contents("00000009.seg", &disk.contents("00000004.seg").unwrap()[..20]);
    assert_eq!(proven(&disk, &options, &[]).len(), 26);
    disk.flip_bit("00000004.seg", 40, 0).unwrap();
    assert!(proven(&disk, &options, &[]).is_empty(), "whatever ended somebody may be in it");
}

#[test]
fn file_beyond_the_list_in_which_nothing_counts_is_no_damage() {
    // What a close could not remove of a store in which nobody ever was.
    let life = Life::open(SimDisk::new(3));
    let reserve = "00000002.seg";
    let bytes = life.disk.contents("00000001.seg").unwrap();
    drive(life.store(), life.store().close()).unwrap().unwrap();
    assert!(!life.disk.names().iter().any(|name| is_segment(name)));
    life.disk.kill();
    life.disk.create(reserve, 1).unwrap();
    life.disk.set_contents(reserve, &vec![0; 64 << 10]);
    assert!(verify(&life.disk, &life.options).is_sound());
    life.disk.create("00000001.seg", 1).unwrap();
    life.disk.set_contents("00000001.seg", &bytes);
    assert!(verify(&life.disk, &life.options).is_sound());
    open(&life.disk, &life.options).unwrap();
    // A segment under another's name.
    let store = whole(53, 2, End::Close);
    let from = store.disk.names().into_iter().find(|name| is_segment(name)).unwrap();
    let to = "00ffffff.seg";
    store.disk.create(to, 1).unwrap();
    store.disk.set_contents(to, &store.disk.contents(&from).unwrap());
    assert!(verify(&store.disk, &store.options).is_sound());
    assert!(proven(&store.disk, &store.options, &store.keys) == store.last);
    open(&store.disk, &store.options).unwrap();
}

/// What a later version wrote is for that version to repair, though the list that knows of it is lost.
#[test]
fn segment_of_a_later_format_beyond_the_list_is_not_repaired_away() {
    let store = whole(53, 2, End::Close);
    let from = store.disk.names().into_iter().find(|name| is_segment(name)).unwrap();
    let (to, mut bytes) = ("00ffffff.seg", store.disk.contents(&from).unwrap());
    // Its format, in the header.
    bytes[8] = 2;
    mend(Form::Segment, &mut bytes, 0);
    store.disk.create(to, 1).unwrap();
    store.disk.set_contents(to, &bytes);
    let before = files(&store.disk);
    for refused in [
        LogStore::verify_on(Arc::new(store.disk.clone()), store.options.clone()).err(),
        salvage(&store.disk, &store.options).err(),
    ] {
        assert!(matches!(refused, Some(OpenError::UnknownFormat { found: 2, .. })), "{refused:?}");
    }
    assert!(files(&store.disk) == before, "the files were changed");
}

/// A segment with groups of another store, whose id is beyond all of a store's.
fn foreign(options: &Options) -> (String, Vec<u8>) {
    let other = SimDisk::new(2);
    for _ in 0..40 {
        drop(open(&other, options).unwrap());
    }
    let store = open(&other, options).unwrap().at(Durability::Sync);
    drive(&store, store.create("x".into(), Lifetime::absolute(Duration::from_secs(60)))).unwrap().unwrap();
    let last = other
        .names()
        .into_iter()
        .filter(|name| is_segment(name))
        .find(|name| other.contents(name).unwrap()[64..].iter().any(|byte| *byte != 0));
    let name = last.unwrap();
    (name.clone(), other.contents(&name).unwrap())
}

#[test]
fn segment_of_another_store_beyond_the_list_tells_that_the_list_may_be_anothers() {
    let store = whole(52, 2, End::Close);
    assert!(!proven(&store.disk, &store.options, &store.keys).is_empty());
    let (name, bytes) = foreign(&store.options);
    assert!(!store.disk.names().contains(&name));
    store.disk.create(&name, 1).unwrap();
    store.disk.set_contents(&name, &bytes);
    assert!(open(&store.disk, &store.options).is_err());
    assert!(!verify(&store.disk, &store.options).is_sound());
    assert!(proven(&store.disk, &store.options, &store.keys).is_empty());
}

#[test]
fn folder_of_a_store_that_was_never_finished_is_sound_exactly_where_it_opens() {
    let options = Life::new(SimDisk::new(1)).options;
    let first = SimDisk::new(1);
    drop(open(&first, &options).unwrap());
    for n in 1..=first.calls() {
        let disk = SimDisk::new(n);
        disk.crash_at_call(n);
        drop(open(&disk, &options));
        if disk.has_power() {
            disk.kill();
        } else {
            disk.restart();
        }
        assert!(verify(&disk, &options).is_sound(), "call {n}: {:?}", disk.names());
        open(&disk, &options).unwrap();
    }
}

#[test]
fn crash_while_files_are_moved_aside_never_leaves_what_an_old_list_fits() {
    let (disk, options, list) = turned();
    disk.set_contents("MANIFEST", &list);
    let certain = proven(&disk, &options, &[]);
    let whole = disk.copy(1);
    salvage(&whole, &options).unwrap();
    let calls = whole.calls();
    let ways = [DirOps::Ordered, DirOps::Any].into_iter().flat_map(|d| (0..8).map(move |seed| (d, seed)));
    for ((dir_ops, seed), n) in ways.flat_map(|way| (1..=calls).map(move |n| (way, n))) {
        let cut_short = disk.copy(seed << 16 | n);
        cut_short.dir_ops(dir_ops);
        cut_short.crash_at_call(n);
        drop(salvage(&cut_short, &options));
        cut_short.restart();
        if let Ok(store) = open(&cut_short, &options) {
            let found = observe(&store, &[key(0)]);
            assert!(
                found == certain,
                "call {n}, {dir_ops:?}: {} sessions, not {}",
                found.len(),
                certain.len()
            );
        }
    }
}

#[test]
fn records_that_recovery_moved_are_missed_where_only_the_list_before_it_is_left() {
    let mut life = Life::open(SimDisk::new(4));
    let lifetime = Lifetime::absolute(Duration::from_secs(86_400));
    let create = Op::Create { name: 0, len: 50, lifetime };
    assert!(life.apply(Step { op: create, durability: Durability::Sync }));
    // Now a watermark covers it, and none what follows.
    (0..3).for_each(|_| life.step());
    assert!(life.apply(Step { op: Op::Delete { name: 0 }, durability: Durability::Sync }));
    let ended = life.key(0);
    let before = life.disk.contents("MANIFEST").unwrap();
    life.again(End::Kill);
    life.disk.kill();
    life.disk.remove("MANIFEST").unwrap();
    life.disk.set_contents("MANIFEST.copy", &before);
    let certain = proven(&life.disk, &life.options, &[ended]);
    assert!(
        certain.is_empty(),
        "{:?} {:?} {certain:?}",
        life.disk.names(),
        verify(&life.disk, &life.options)
    );
    // Also where nothing tells what one of the files is.
    let holds = |name: &&String| is_segment(name) && life.disk.contents(name).unwrap()[0] != 0;
    for name in life.disk.names().iter().filter(holds) {
        let disk = life.disk.copy(1);
        disk.flip_bit(name, 40, 0).unwrap();
        assert!(proven(&disk, &life.options, &[ended]).is_empty(), "{name}");
    }
}

/// Two damages: of the list, so that the one before it is all there is, and of what a segment that is newer begins with.
#[test]
fn segment_beyond_the_list_counts_though_its_first_group_is_damaged_too() {
    let mut life = Life::open(SimDisk::new(5));
    let lifetime = Lifetime::absolute(Duration::from_secs(86_400));
    for name in 0..3 {
        let create = Op::Create { name, len: 50, lifetime };
        assert!(life.apply(Step { op: create, durability: Durability::Sync }));
    }
    let before = life.disk.contents("MANIFEST").unwrap();
    life.again(End::Close);
    let ended = life.key(0);
    assert!(life.apply(Step { op: Op::Delete { name: 0 }, durability: Durability::Sync }));
    life.disk.kill();
    let holds = |name: &&String| is_segment(name) && life.disk.contents(name).unwrap()[0] != 0;
    let newest = life.disk.names().iter().filter(holds).max().unwrap().clone();
    for (what, lost) in [("the copy is the older list", true), ("the older list is in its place", false)] {
        let disk = life.disk.copy(6);
        if lost {
            disk.remove("MANIFEST").unwrap();
            disk.set_contents("MANIFEST.copy", &before);
        } else {
            disk.set_contents("MANIFEST", &before);
        }
        // In the first record, or in the group's own header, where nothing else tells that there was one.
        for at in [130, 70].into_iter().take(if lost { 2 } else { 1 }) {
            let disk = disk.copy(7);
            disk.flip_bit(&newest, at, 3).unwrap();
            assert!(open(&disk, &life.options).is_err(), "{what}, {at}");
            let certain = proven(&disk, &life.options, &[ended]);
            assert!(!certain.contains_key(&ended), "{what}, {at}: who was signed out came back");
        }
    }
}

/// A store at one moment of its life, and the lists that it had until then.
struct Moment {
    disk: SimDisk,
    lists: BTreeMap<Vec<u8>, usize>,
    sessions: Sessions,
}

fn moments(seed: u64, life: &mut Life) -> Vec<Moment> {
    let mut moments = Vec::new();
    let mut lists = BTreeMap::new();
    for number in 0..4_u64 {
        for (at, step) in history(seed ^ number << 40, 60).into_iter().enumerate() {
            assert!(life.apply(Step { op: shortened(step.op), durability: Durability::Sync }));
            if at % 4 == 0 {
                life.step();
            }
            let newest = lists.len();
            lists.entry(life.disk.contents("MANIFEST").unwrap()).or_insert(newest);
            if at % 5 == 0 {
                let (disk, sessions) = (life.disk.copy(seed), life.observe());
                moments.push(Moment { disk, lists: lists.clone(), sessions });
            }
        }
        life.again(if number % 2 == 0 { End::Kill } else { End::Close });
    }
    moments
}

#[test]
fn any_list_of_the_past_in_place_of_the_newest_signs_nobody_in() {
    for seed in seeds([61, 62, 63]) {
        let _replay = Replay("lists of the past".into(), seed);
        let mut life = Life::open(SimDisk::new(seed));
        let moments = moments(seed, &mut life);
        let keys: Vec<_> = life.model.keys().collect();
        let options = life.options.clone();
        let (mut refused, mut kept) = (0_usize, 0_usize);
        for nth in spread(moments.len() as u64, budget(12), seed) {
            let Moment { disk, lists, sessions } = &moments[usize::try_from(nth - 1).unwrap()];
            for ((list, number), is_newest) in lists.iter().flat_map(|list| [(list, true), (list, false)]) {
                let disk = disk.copy(nth);
                if is_newest {
                    disk.set_contents("MANIFEST", list);
                } else {
                    disk.remove("MANIFEST").unwrap();
                    disk.set_contents("MANIFEST.copy", list);
                }
                let what = format!("moment {nth}, list {number} of {}, newest: {is_newest}", lists.len());
                // What opens strictly goes by that list, and no surviving byte tells of another.
                if verify(&disk, &options).is_sound() {
                    let found = observe(&open(&disk, &options).unwrap(), &keys);
                    assert!(found.iter().all(|(key, stored)| sessions.get(key) == Some(stored)), "{what}");
                    continue;
                }
                refused += 1;
                let certain = proven(&disk, &options, &keys);
                for (key, stored) in &certain {
                    // Sessions whose time has come meanwhile are told by the clock, which has gone on.
                    assert_eq!(sessions.get(key), Some(stored), "{what}");
                }
                kept += certain.len();
            }
        }
        println!("seed {seed}: {refused} refused, {kept} sessions kept");
        assert!(refused > 30 && kept > 20, "{refused}, {kept}");
    }
}

/// A store that has had one list only has no other to go by.
#[test]
fn damaged_header_is_told_where_the_only_list_is_lost() {
    let life = Life::open(SimDisk::new(1));
    let store = life.store().at(Durability::Sync);
    drive(
        &store,
        store.create_as(SessionKey::of(b"k"), "x".into(), Lifetime::absolute(Duration::from_secs(86_400))),
    )
    .unwrap()
    .unwrap();
    drop(store);
    life.disk.kill();
    for at in 8..40 {
        let disk = life.disk.copy(at);
        disk.remove("MANIFEST").unwrap();
        disk.remove("MANIFEST.copy").unwrap();
        disk.flip_bit("00000001.seg", at, 0).unwrap();
        let before = files(&disk);
        assert!(open(&disk, &life.options).is_err(), "byte {at}");
        assert!(files(&disk) == before, "byte {at}");
        // But where it is the number of a format that is not known, which a salvage leaves alone too.
        let Ok(found) = LogStore::verify_on(Arc::new(disk.clone()), life.options.clone()) else { continue };
        assert!(!found.is_sound(), "byte {at}: {found:?}");
        salvage(&disk, &life.options).unwrap();
        assert!(open(&disk, &life.options).unwrap().is_empty());
    }
}

/// A store of which a salvage has kept nobody, and one of the segments that it had.
pub fn beside_a_list_of_nothing() -> (Whole, Vec<u8>) {
    let store = whole(50, 3, End::Close);
    let names = store.disk.names();
    let segment = store.disk.contents(names.iter().find(|name| is_segment(name)).unwrap()).unwrap();
    store.disk.remove("MANIFEST").unwrap();
    store.disk.remove("MANIFEST.copy").unwrap();
    assert_eq!(salvage(&store.disk, &store.options).unwrap().sessions_kept, 0);
    (store, segment)
}

#[test]
fn damaged_header_is_told_where_the_list_is_of_nothing() {
    let (store, mut segment) = beside_a_list_of_nothing();
    segment[61] ^= 1;
    store.disk.set_contents("00000001.seg", &segment);
    let before = files(&store.disk);
    assert!(matches!(open(&store.disk, &store.options), Err(OpenError::Damaged { .. })));
    assert!(files(&store.disk) == before && !verify(&store.disk, &store.options).is_sound());
    salvage(&store.disk, &store.options).unwrap();
    assert!(observe(&open(&store.disk, &store.options).unwrap(), &store.keys).is_empty());
}

#[test]
fn segment_under_another_name_without_a_list_is_no_empty_folder() {
    let (disk, options, _) = turned();
    let segment = disk.contents("00000004.seg").unwrap();
    disk.names().iter().for_each(|name| disk.remove(name).unwrap());
    disk.set_contents("00000009.seg", &segment);
    let before = files(&disk);
    assert!(matches!(open(&disk, &options), Err(OpenError::Damaged { .. })));
    assert!(files(&disk) == before && !verify(&disk, &options).is_sound());
}
