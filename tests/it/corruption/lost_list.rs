//! A manifest that is lost, or replaced by any that there ever was.
//!
//! Goal: to refute that what a salvage goes by then is a list of which everything that counts can be told. Method: a store lives through a
//! history; after each operation it is killed, and each manifest of its past is put in the place of the newest or of the one before.

use std::collections::BTreeMap;

use cloakroom::disk::Disk as _;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{Durability, OpenError};

use super::histories::{shortened, whole};
use super::{Sessions, files, observe, open, proven, salvage, verify};
use crate::support::history::{Step, history};
use crate::support::life::Life;
use crate::support::model::End;
use crate::support::{Replay, budget, seeds, spread};

#[test]
fn damaged_list_alone_costs_nobody_unless_a_compaction_was_the_last_to_change_it() {
    let mut alone = 0;
    // The first list of a store replaces none, so there is one to go by from its second life on.
    for (n, lost) in (0..8).flat_map(|n| [(n, "a bit"), (n, "the file")]) {
        let end = if n % 2 == 0 { End::Kill } else { End::Close };
        let store = whole(40 + n, 2 + n as usize % 3, end);
        match lost {
            "a bit" => store.disk.flip_bit("MANIFEST", 40, 1).unwrap(),
            _ => store.disk.remove("MANIFEST").unwrap(),
        }
        assert!(open(&store.disk, &store.options).is_err());
        let certain = proven(&store.disk, &store.options, &store.keys);
        let report = verify(&store.disk, &store.options);
        // After a compaction, what the list before it names is gone.
        if report.damage.iter().all(|damage| damage.file == "MANIFEST") {
            assert_eq!(certain, store.last, "{}, {lost} of the manifest lost: {report:?}", store.what);
            alone += 1;
        } else {
            assert!(report.damage[1].what.contains("not there"), "{report:?}");
        }
    }
    assert!(alone >= 4, "{alone}");
}

#[test]
fn nothing_is_certain_without_any_list() {
    let store = whole(50, 3, End::Close);
    store.disk.remove("MANIFEST").unwrap();
    store.disk.remove("MANIFEST.old").unwrap();
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
    let done = salvage(&store.disk, &store.options).unwrap();
    assert_eq!(done.sessions_kept, 0, "nothing tells which of the two is right");
    let segments = before.iter().filter(|(name, _)| name.ends_with(".seg"));
    for (name, bytes) in segments {
        assert!(
            files(&store.disk).iter().any(|(now, found)| now.ends_with(name) && found == bytes),
            "{name}"
        );
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
                    disk.set_contents("MANIFEST.old", list);
                }
                let what = format!("moment {nth}, list {number} of {}, newest: {is_newest}", lists.len());
                // What opens strictly goes by that list, and no surviving byte tells of another.
                if verify(&disk, &options).is_sound() {
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
