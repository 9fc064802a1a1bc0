//! Random histories under a wall clock that now and then is days or years ahead when the store starts, for one life or several.
//!
//! Method: between two lives at the right time come some at a wrong one, which is withdrawn, or stays until it is believed. Each life works, and ends
//! in any way. Who has ended by a doubted time alone is back when that is withdrawn; who was signed out under it is not; what was written under it
//! is there. Invariant: a seed and a number of operations give one history.

use std::time::Duration;

use cloakroom::disk::sim::{DirOps, Fault, SimDisk};
use cloakroom::{Clock, Durability, Lifetime, Timestamp};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::support::history::{Op, Step, history};
use crate::support::life::{Life, Pace};
use crate::support::model::End;
use crate::support::{Replay, budget, seeds};

const OPERATIONS: usize = 3_000;
/// The most operations of one life.
const LIFE_OPERATIONS_MAX: usize = 150;

const UPSERT: Op = Op::Upsert { name: 0, len: 100, lifetime: Lifetime::idle(HOUR) };

const HOUR: Duration = Duration::from_secs(3_600);
/// How far ahead the wall is: hardly enough to be doubted, and as far as ten years.
const AHEAD: [Duration; 4] = [
    Duration::from_secs(25 * 3_600),
    Duration::from_secs(2 * 24 * 3_600),
    Duration::from_secs(30 * 24 * 3_600),
    Duration::from_secs(3_653 * 24 * 3_600),
];

/// From here on, the year 2070, time goes on by days alone: in 2106 it is too late for the seconds of `created_at`.
const LATE: Timestamp = Timestamp::from_millis(100 * 366 * 24 * 3_600_000);

/// What was done.
#[derive(Default, Debug)]
struct Totals {
    operations: usize,
    /// Lives that began with a doubt.
    doubted: usize,
    /// Of these, those that outlived it.
    believed: usize,
    /// Starts that bore an earlier one out.
    borne_out: usize,
    withdrawn: usize,
    /// Sessions that a doubted time had ended, and that came back with the right one.
    revived: usize,
}

struct Run {
    life: Life,
    rng: Xoshiro256PlusPlus,
    totals: Totals,
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        disk.dir_ops(if seed.is_multiple_of(2) { DirOps::Ordered } else { DirOps::Any });
        Self {
            life: Life::open(disk),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            totals: Totals::default(),
        }
    }

    fn go(&mut self, operations: usize) {
        while self.totals.operations < operations {
            let end = self.live();
            let (right, uptime) = (self.life.clock.wall(), self.life.clock.uptime());
            self.be_ahead(end, right, uptime);
        }
        self.life.rest();
    }

    /// Some lives at a wrong time, then the start of one at whatever the wall shows by then.
    fn be_ahead(&mut self, mut end: End, right: Timestamp, uptime: Duration) {
        let at = |life: &Life| right.saturating_add(life.clock.uptime().saturating_sub(uptime));
        let by = AHEAD[self.rng.random_range(0..AHEAD.len())];
        let time = self.life.time_max().max(right);
        let wrong = time.saturating_add(if time < LATE { by } else { AHEAD[0] });
        self.life.clock.set_wall(wrong);
        let mut fewest = usize::MAX;
        for nth in 0..self.rng.random_range(1..4) {
            let right = at(&self.life);
            self.life.look(end, right, self.rng.random());
            let was_doubtful = self.life.is_doubtful();
            self.begin(end);
            assert!(nth > 0 || self.life.is_doubtful(), "a start that is so far ahead is not doubted");
            self.totals.doubted += usize::from(self.life.is_doubtful());
            self.totals.borne_out += usize::from(was_doubtful && !self.life.is_doubtful());
            fewest = fewest.min(self.live_count());
            let doubted = self.life.is_doubtful();
            if self.rng.random_bool(0.2) {
                self.life.clock.advance(HOUR);
            }
            end = self.live();
            self.totals.believed += usize::from(doubted && !self.life.is_doubtful());
            // While it is down.
            if self.rng.random_bool(0.3) {
                self.life.clock.advance(HOUR * self.rng.random_range(1..5));
            }
        }
        let is_withdrawn = self.rng.random_bool(0.7);
        let right = at(&self.life);
        self.life.look(end, right, self.rng.random());
        if is_withdrawn {
            self.life.clock.set_wall(right);
        }
        self.begin(end);
        if is_withdrawn {
            self.totals.withdrawn += 1;
            self.totals.revived += self.live_count().saturating_sub(fewest);
        } else {
            // It stays, and a write takes it down.
            self.life.clock.advance(HOUR);
            self.life.apply(Step { op: UPSERT, durability: Durability::Sync });
        }
    }

    fn live_count(&self) -> usize {
        self.life.model.live_count(self.life.now())
    }

    fn begin(&mut self, end: End) {
        if let Err(e) = self.life.begin(end) {
            panic!("it does not open: {e}\n{}", self.life.trace());
        }
    }

    /// One life of a store that is open, to its end.
    fn live(&mut self) -> End {
        let Self { life, rng, totals } = self;
        if rng.random_bool(0.4) {
            life.disk.fail_call(rng.random_range(1..400), Fault::PowerLoss);
        }
        life.pace = match rng.random_range(0..4) {
            0 => Pace::Steps,
            1 => Pace::Lazy,
            _ => Pace::Random(Xoshiro256PlusPlus::seed_from_u64(rng.random())),
        };
        let steps = history(rng.random(), rng.random_range(1..LIFE_OPERATIONS_MAX));
        let lives = steps.into_iter().all(|step| {
            totals.operations += 1;
            life.apply(step)
        });
        if lives && life.disk.has_power() {
            // A loss that did not come would now.
            life.disk.restart();
            if rng.random_bool(0.5) {
                life.rest();
            }
        }
        let end = match rng.random_range(0..3) {
            _ if !life.disk.has_power() => End::PowerLoss,
            0 => End::PowerLoss,
            1 => End::Kill,
            _ => End::Close,
        };
        life.end(end);
        end
    }
}

#[test]
fn time_that_is_doubted_takes_nothing_back_and_brings_nobody_back() {
    let first = seeds([1])[0];
    let mut all = Totals::default();
    for seed in first..first + budget(8) {
        let _replay = Replay("doubtful history".into(), seed);
        let mut run = Run::new(seed);
        run.go(OPERATIONS);
        let Totals { operations, doubted, believed, borne_out, withdrawn, revived } = run.totals;
        all.operations += operations;
        all.doubted += doubted;
        all.believed += believed;
        all.borne_out += borne_out;
        all.withdrawn += withdrawn;
        all.revived += revived;
    }
    println!("from seed {first}: {all:?}");
    let met = [all.doubted, all.believed, all.borne_out, all.withdrawn, all.revived];
    assert!(met.iter().all(|n| *n > 5), "too little was met: {all:?}");
}
