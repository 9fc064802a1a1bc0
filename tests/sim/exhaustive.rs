//! Every sequence of up to three operations, a crash at every call of the disk, and at every call of the recovery that follows.
//!
//! Method: a sequence runs once; beside each call the disk keeps what power loss in its midst would leave, in several ways. Each of these is
//! opened, with the same kept beside each call of the open (the quick form tries all of these after one operation, and some after two). What is found must be what the model allows of the moment when the
//! power went. Invariant: a sequence, a seed and a number of a call say all that is needed to see a failure again.

use std::fmt;

use cloakroom::Durability;
use cloakroom::disk::sim::{DirOps, SimDisk};

use crate::prepared::{Act, Prepared};
use crate::support::life::{Life, Moment, Pace};
use crate::support::model::End;
use crate::support::{budget, seeds, spread};

/// Sequences of three that the quick form tries.
const THREES: u64 = 13;

/// Of this many recoveries one is followed to its rest.
const RESTS: u64 = 16;

/// Of this many crashes during a recovery one is tried, each in its turn: in the quick form where there was more than one operation, else where
/// there were three (with all of them that form would take days).
const RECOVERY_STRIDE: usize = 16;

/// What each operation of a sequence waits for, in turn.
const DURABILITIES: [[Durability; 3]; 3] = [
    [Durability::Sync; 3],
    [Durability::Interval(Durability::INTERVAL_DEFAULT), Durability::Sync, Durability::Buffered],
    [Durability::Buffered; 3],
];

/// What was tried.
#[derive(Default, Debug)]
struct Totals {
    sequences: u64,
    crash_points: u64,
    /// Crashes during recovery.
    recovery_crash_points: u64,
    opens: u64,
}

/// Which crash is tried; printed when it is the last.
struct Crash<'a> {
    sequence: &'a [Act],
    durability: usize,
    seed: u64,
    /// Number of the call, for the run and for the recovery.
    calls: [u64; 2],
    run: &'a SimDisk,
}

impl fmt::Display for Crash<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequence, durability, seed, calls: [run, recovery], .. } = self;
        write!(f, "{sequence:?}, durability {durability}, CLOAKROOM_SEED={seed}, ")?;
        write!(f, "power loss at call {run}, then at call {recovery} of the recovery (0: nowhere)")
    }
}

impl Drop for Crash<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let trace = self.run.trace();
            eprintln!("{self}. The run:\n{}", trace.join("\n"));
        }
    }
}

struct Exhaustive {
    prepared: Prepared,
    seed: u64,
    /// All sequences of three are tried, and every recovery is crashed.
    full: bool,
    totals: Totals,
}

impl Exhaustive {
    /// The ways in which the power goes.
    fn losses(&self, seed: u64) -> Vec<(u64, DirOps)> {
        let seeds = if self.full { 0..3 } else { 0..1 };
        let ways = |n| [(seed + n, DirOps::Any), (seed + n, DirOps::Ordered)];
        seeds.flat_map(ways).collect()
    }

    fn sequence(&mut self, sequence: &[Act]) {
        self.totals.sequences += 1;
        let number = usize::try_from(self.totals.sequences).unwrap();
        for durability in 0..DURABILITIES.len() {
            if self.full || number % DURABILITIES.len() == durability {
                self.run(sequence, durability);
            }
        }
    }

    fn run(&mut self, sequence: &[Act], durability: usize) {
        let mut life = self.prepared.open(self.seed);
        life.disk.fork_at_calls(&self.losses(self.seed));
        life.keep_moments();
        // Where not all is to be synced, little is.
        life.pace = if durability == 0 { Pace::Steps } else { Pace::Lazy };
        let run = life.disk.clone();
        let mut crash = Crash { sequence, durability, seed: self.seed, calls: [0; 2], run: &run };
        for (nth, act) in sequence.iter().enumerate() {
            assert!(act.perform(&mut life, nth, DURABILITIES[durability][nth]));
        }
        life.step();
        let moments = life.take_moments();
        for (nth, (call, disk)) in life.disk.take_forks().into_iter().enumerate() {
            crash.calls = [call, 0];
            let is_turn = nth as u64 % 2 == call / 2 % 2;
            if !self.full && sequence.len() > 1 && !is_turn {
                continue;
            }
            // The last moment before the call.
            let at = moments.partition_point(|moment| moment.calls < call);
            let nested = self.full || (sequence.len() < 3 && is_turn);
            self.recover(&life, &moments[at - 1], disk, nested, &mut crash);
            self.totals.crash_points += 1;
        }
        crash.calls = [0; 2];
        life.rest();
        life.again(End::PowerLoss);
        finish(life);
    }

    fn recover(&mut self, life: &Life, moment: &Moment, disk: SimDisk, nested: bool, crash: &mut Crash<'_>) {
        let mut life = life.at(moment, disk);
        let before = life.moment();
        if nested {
            let mut losses = self.losses(self.seed + crash.calls[0]);
            // In one way each, which is another one for each call of the run.
            losses.truncate(1);
            life.disk.fork_at_calls(&losses);
        }
        self.open(&mut life);
        let tries_all = crash.sequence.len() <= if self.full { 2 } else { 1 };
        let stride = if tries_all { 1 } else { RECOVERY_STRIDE };
        let first = usize::try_from(self.totals.crash_points).unwrap() % stride;
        for (call, disk) in life.disk.take_forks().into_iter().skip(first).step_by(stride) {
            crash.calls[1] = call;
            self.totals.recovery_crash_points += 1;
            let mut again = life.at(&before, disk);
            self.open(&mut again);
            finish(again);
        }
        crash.calls[1] = 0;
        if self.full || self.totals.crash_points.is_multiple_of(RESTS) {
            let found = life.observe();
            if crash.calls[0].is_multiple_of(4) {
                life.rest();
            }
            life.again(if crash.calls[0].is_multiple_of(2) { End::PowerLoss } else { End::Kill });
            self.totals.opens += 1;
            assert_eq!(life.observe(), found, "opening twice changes nothing");
        }
        finish(life);
    }

    fn open(&mut self, life: &mut Life) {
        self.totals.opens += 1;
        if let Err(e) = life.begin(End::PowerLoss) {
            panic!("it does not open: {e}\n{}", life.trace());
        }
    }
}

/// Ends a life without the work of a close.
fn finish(mut life: Life) {
    life.end(End::Kill);
}

#[test]
fn every_short_sequence_crashed_at_every_call_keeps_its_promises() {
    let threes = Act::ALL.len().pow(3) as u64;
    for seed in seeds([1]) {
        let tried = budget(THREES).min(threes);
        let (full, totals) = (tried == threes, Totals::default());
        let mut all = Exhaustive { prepared: Prepared::new(), seed, full, totals };
        for a in Act::ALL {
            all.sequence(&[a]);
            for b in Act::ALL {
                all.sequence(&[a, b]);
            }
        }
        for n in spread(threes, tried, seed) {
            all.sequence(&Act::three(n));
            if all.totals.sequences.is_multiple_of(200) {
                println!("so far {:?}", all.totals);
            }
        }
        println!("seed {seed}, full: {full}, {:?}", all.totals);
        assert!(all.totals.crash_points > 10 * all.totals.sequences);
    }
}
