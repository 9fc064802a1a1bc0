//! The sweep: one store after another, one damage after another.
//!
//! Every place is struck with `CLOAKROOM_SIM_BUDGET`; else as many as a quick run allows, evenly spread.

use cloakroom::disk::sim::SimDisk;

use super::histories::{Whole, whole};
use crate::support::damaged::{Judged, is_wiped, judge};
use crate::support::model::End;
use crate::support::strikes::{Strike, blocks, cuts, flips, whole_files};
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
        match judge(&self.disk, options, keys, last) {
            Judged::Opened { found, torn_bytes } => {
                if found != *last {
                    let is_told = torn_bytes > 0 || is_wiped(&self.store.disk, &self.disk);
                    assert!(is_told, "damage was passed over in silence");
                    // A flipped bit spoils one group, so it hides no more than that group and what is behind it.
                    let is_flip = matches!(self.strike, Strike::Flip { .. });
                    let least = if is_flip { self.store.marked } else { 0 };
                    assert!(self.store.held(&found, least, options.clock.wall()), "never so: {found:?}");
                }
                *(if torn_bytes > 0 { &mut tally.cut } else { &mut tally.harmless }) += 1;
            }
            Judged::Foreign => panic!("one damage makes it another's folder"),
            Judged::Refused { certain, kept } => {
                assert_eq!(kept, certain.len() as u64);
                tally.refused += 1;
                tally.kept += certain.len() as u64;
                tally.there += last.len() as u64;
            }
        }
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
