//! The sweep: one store after another, one damage after another.
//!
//! Every place is struck with `CLOAKROOM_SIM_BUDGET`; else as many as a quick run allows, evenly spread.

use cloakroom::disk::sim::SimDisk;
use cloakroom::{OpenError, Timestamp};

use super::histories::{Whole, whole};
use super::strikes::{Strike, blocks, cuts, flips, whole_files};
use super::{files, is_segment, observe, open, proven, salvage, verify};
use crate::support::model::End;
use crate::support::{Replay, budget, seeds, spread};

/// The stores, each with another that has lived like it, whose files are put in the place of its own.
fn stores(seed: u64) -> Vec<(Whole, SimDisk)> {
    let ends = [(1, End::Kill), (3, End::Close), (4, End::Kill), (5, End::PowerLoss), (10, End::Close)];
    let of = |seed: u64, (lives, end): (usize, End)| whole(seed + lives as u64, lives, end);
    ends.into_iter().map(|life| (of(seed, life), of(seed + 99, life).disk)).collect()
}

/// What became of the damages of one kind.
#[derive(Default, Debug)]
struct Tally {
    harmless: u64,
    cut: u64,
    refused: u64,
    /// Of the refused: sessions that were kept, and that there were.
    kept: u64,
    there: u64,
}

fn sweep(what: &str, own: u64, strikes: impl Fn(&SimDisk) -> Vec<Strike>) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds([7]) {
        let _replay = Replay(format!("sweep of {what}"), seed);
        for (store, other) in &stores(seed) {
            let all = strikes(&store.disk);
            for n in spread(all.len() as u64, budget(own), seed) {
                let strike = &all[usize::try_from(n - 1).unwrap()];
                let disk = store.disk.copy(n);
                if strike.fall_on(&disk, other) {
                    Case { store, strike, disk }.judge(&mut tally);
                }
            }
        }
    }
    println!("{what}: {tally:?}");
    tally
}

/// A store that was struck.
struct Case<'a> {
    store: &'a Whole,
    strike: &'a Strike,
    disk: SimDisk,
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: {:?}", self.store.what, self.strike);
        }
    }
}

impl Case<'_> {
    fn judge(&self, tally: &mut Tally) {
        let Whole { options, keys, last, .. } = self.store;
        let before = files(&self.disk);
        let verified = verify(&self.disk, options);
        assert!(files(&self.disk) == before, "verify changed a file");
        let certain = proven(&self.disk, options, keys);
        let strictly = self.disk.copy(2);
        match open(&strictly, options) {
            Ok(opened) => {
                let found = observe(&opened, keys);
                let torn_bytes = opened.recovery().torn_bytes;
                assert!(verified.is_sound(), "it opens, and is said to be damaged: {verified:?}");
                assert!(certain == found, "a read-only open holds other sessions than a strict one");
                assert_eq!(verified.torn_bytes, torn_bytes);
                if found != *last {
                    assert!(torn_bytes > 0 || self.is_wiped(), "damage was passed over in silence");
                    // A flipped bit spoils one group, so it hides no more than that group and what is behind it.
                    let is_flip = matches!(self.strike, Strike::Flip { .. });
                    let least = if is_flip { self.store.marked } else { 0 };
                    assert!(self.store.held(&found, least, self.now()), "never so: {found:?}");
                }
                *(if torn_bytes > 0 { &mut tally.cut } else { &mut tally.harmless }) += 1;
                let done = salvage(&self.disk, options).unwrap();
                assert!(done.damage.is_empty() && files(&self.disk) == before, "there was nothing to repair");
            }
            Err(OpenError::Damaged { folder, file, cure, .. }) => {
                assert!(files(&strictly) == before, "a refused open changed a file");
                assert!(!file.is_empty() && !folder.is_empty() && cure.contains("salvage"), "{file}");
                assert!(!verified.is_sound() && !verified.damage.is_empty(), "refused, and said to be sound");
                for (key, stored) in &certain {
                    assert_eq!(last.get(key), Some(stored), "{key} is not as it was last");
                    // Beside damage a torn end is none.
                    assert_eq!(verified.torn_bytes, 0, "{verified:?}");
                }
                tally.refused += 1;
                tally.kept += certain.len() as u64;
                tally.there += last.len() as u64;
                self.repair(&before, &certain);
            }
            Err(other) => panic!("met with {other}"),
        }
    }

    /// Whether the end of a file is all zeros now: of a log that was not closed, nothing tells that from an end that was never written.
    fn is_wiped(&self) -> bool {
        let end = |disk: &SimDisk, name| disk.contents(name)?.iter().rposition(|byte| *byte != 0);
        self.disk.names().iter().any(|name| end(&self.disk, name) < end(&self.store.disk, name))
    }

    fn now(&self) -> Timestamp {
        self.store.options.clock.wall()
    }

    /// A salvage keeps what a read-only open showed, and every file that there was.
    fn repair(&self, before: &std::collections::BTreeMap<String, Vec<u8>>, certain: &super::Sessions) {
        let Whole { options, keys, .. } = self.store;
        let done = salvage(&self.disk, options).unwrap();
        assert_eq!(done.sessions_kept, certain.len() as u64, "{done:?}");
        let after = files(&self.disk);
        for (name, bytes) in before.iter().filter(|(name, _)| is_segment(name) || *name == "MANIFEST") {
            let is_kept =
                done.quarantined.iter().any(|aside| aside.ends_with(name) && after[aside] == *bytes);
            assert!(is_kept, "{name} is not in quarantine: {done:?}");
        }
        assert!(verify(&self.disk, options).is_sound());
        for _ in 0..2 {
            let store = open(&self.disk, options).unwrap();
            let found = observe(&store, keys);
            assert!(found == *certain, "salvaged {done:?}, and found {found:?}, not {certain:?}");
            assert_eq!(store.recovery().torn_bytes, 0);
            drop(store);
        }
        assert!(
            done.quarantined.iter().all(|name| self.disk.contents(name).is_some()),
            "an open removed one"
        );
    }
}

#[test]
fn flipped_bit_anywhere_is_told_and_signs_nobody_in() {
    let tally = sweep("flipped bits", 120, flips);
    assert!(tally.refused > 100 && tally.cut > 0 && tally.harmless > 0, "{tally:?}");
    // Most bits are of one payload, of which the rest does not depend.
    assert!(tally.kept * 5 > tally.there, "a repair that keeps nobody is none: {tally:?}");
}

#[test]
fn file_cut_at_any_length_is_told_and_signs_nobody_in() {
    let tally = sweep("cuts", 80, cuts);
    assert!(tally.refused > 50, "{tally:?}");
}

#[test]
fn blocks_zeroed_copied_and_swapped_are_told_and_sign_nobody_in() {
    let tally = sweep("blocks", 100, blocks);
    assert!(tally.refused > 50 && tally.kept > 0, "{tally:?}");
}

#[test]
fn files_deleted_emptied_and_replaced_are_told_and_sign_nobody_in() {
    let tally = sweep("files", 100, whole_files);
    assert!(tally.refused > 50 && tally.kept > 0, "{tally:?}");
}
