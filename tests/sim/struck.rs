//! Damage in what long histories of every trouble leave: reserves and half-made copies, lists that were not replaced, ends behind failed syncs.
//!
//! Goal: to refute P7 and P8 where the corruption sweep does not look, since its stores lived without trouble. Method: when a life of a
//! [`long`](crate::long) history has ended, its files are copied and struck at random, several times; each copy is opened, verified, read and
//! repaired. A repaired one lives on with the model, which knows of those alone who were kept, and is struck again. Invariant: a seed says all.

use cloakroom::disk::sim::SimDisk;
use cloakroom::{Durability, Timestamp};
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use crate::long::Run;
use crate::support::damaged::{Judged, is_wiped, judge, settled};
use crate::support::history::{Op, Step, history};
use crate::support::life::Life;
use crate::support::model::End;
use crate::support::{Replay, budget, seeds, strikes};

/// Operations of the history that is struck.
const OPERATIONS: usize = 3_000;

/// Copies of what a life left that are struck.
const COPIES: usize = 6;

/// Operations of a store that was repaired, before it is struck again.
const REPAIRED_OPERATIONS: usize = 40;

/// How often one store is struck and repaired.
const REPAIRS_MAX: usize = 3;

/// What was tried.
#[derive(Default, Debug)]
struct Totals {
    struck: u64,
    cut: u64,
    refused: u64,
    /// Of the refused: sessions that were kept, and that there were.
    kept: u64,
    there: u64,
}

struct Strikes {
    rng: Xoshiro256PlusPlus,
    /// Another store, whose files may stand in the place of this one's.
    other: SimDisk,
    /// What time it is for that.
    other_time: Timestamp,
    totals: Totals,
}

impl Strikes {
    fn new(seed: u64) -> Self {
        let mut other = Life::open(SimDisk::new(!seed));
        for step in history(!seed, 100) {
            assert!(other.apply(step));
        }
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let other_time = other.now();
        Self { rng, other: settled(&other.disk, seed), other_time, totals: Totals::default() }
    }

    /// Strikes what a life left that has ended so.
    fn fall_on(&mut self, life: &Life, end: End) {
        for _ in 0..COPIES {
            let image = settled(&life.disk, self.rng.random());
            let mut next = self.strike(life.at(&life.moment().on_time(self.other_time), image), end);
            for _ in 1..REPAIRS_MAX {
                let Some(repaired) = next else { break };
                let image = settled(&repaired.disk, self.rng.random());
                next =
                    self.strike(repaired.at(&repaired.moment().on_time(self.other_time), image), End::Kill);
            }
        }
    }

    /// Strikes the files of a machine on which no store is open. Gives one on which what was repaired has lived on, and was killed.
    fn strike(&mut self, mut whole: Life, end: End) -> Option<Life> {
        let mut image = whole.disk.copy(self.rng.random());
        whole.begin(end).unwrap();
        let last = whole.observe();
        let is_torn = whole.store().recovery().torn_bytes > 0;
        whole.end(End::Kill);
        if is_torn {
            // Behind what was torn there may be later states of a session, which the open gives up and a repair may keep.
            image = settled(&whole.disk, self.rng.random());
        }
        let disk = image.copy(self.rng.random());
        let mut blows = Vec::new();
        while blows.is_empty() || self.rng.random_bool(0.3) {
            let blow = strikes::any(&disk, &mut self.rng);
            blow.fall_on(&disk, &self.other);
            blows.push(blow);
        }
        let _told = Told { blows: &blows, whole: &whole };
        self.totals.struck += 1;
        let keys: Vec<_> = whole.model.keys().collect();
        match judge(&disk, &whole.options, &keys, &last) {
            Judged::Opened { found, torn_bytes } => {
                let is_told = found == last || torn_bytes > 0 || is_wiped(&image, &disk) || is_emptied(&disk);
                assert!(is_told, "damage was passed over in silence: {found:?} of {last:?}");
                self.totals.cut += u64::from(torn_bytes > 0);
                None
            }
            Judged::Foreign => None,
            Judged::Refused { certain, kept } => {
                assert!(kept >= certain.len() as u64);
                self.totals.refused += 1;
                self.totals.kept += certain.len() as u64;
                self.totals.there += last.len() as u64;
                let mut repaired = whole.at(&whole.moment().on_time(self.other_time), disk);
                repaired.model.keep_only(&certain);
                self.live_on(&mut repaired);
                Some(repaired)
            }
        }
    }

    fn live_on(&mut self, repaired: &mut Life) {
        repaired.begin(End::Close).unwrap();
        for Step { op, .. } in history(self.rng.random(), REPAIRED_OPERATIONS) {
            let op = if matches!(op, Op::Reopen) { Op::Flush } else { op };
            assert!(repaired.apply(Step { op, durability: Durability::Sync }));
            if self.rng.random_bool(0.2) {
                repaired.step();
            }
        }
        repaired.again(End::PowerLoss);
        repaired.end(End::Kill);
    }
}

/// Whether nothing is left to tell that there was a store.
fn is_emptied(disk: &SimDisk) -> bool {
    let tells = |name: &String| {
        name.starts_with("MANIFEST")
            || disk.contents(name).is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0))
    };
    !disk.names().iter().any(tells)
}

/// Prints what was done, when what came of it is not as it should be.
struct Told<'a> {
    blows: &'a [strikes::Strike],
    whole: &'a Life,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}\n{}", self.blows, self.whole.trace());
        }
    }
}

#[test]
fn damage_in_what_a_long_history_leaves_is_told_and_signs_nobody_in() {
    let first = seeds([1])[0];
    let mut all = Totals::default();
    for seed in first..first + budget(1) {
        let _replay = Replay("struck history".into(), seed);
        let mut strikes = Strikes::new(seed);
        Run::new(seed).go(OPERATIONS, |life, end| strikes.fall_on(life, end));
        let Totals { struck, cut, refused, kept, there } = strikes.totals;
        all.struck += struck;
        all.cut += cut;
        all.refused += refused;
        all.kept += kept;
        all.there += there;
    }
    println!("from seed {first}: {all:?}");
    assert!(all.cut > 0 && all.refused > all.struck / 4 && all.kept > 0, "{all:?}");
}
