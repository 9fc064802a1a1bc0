//! Random histories of many lives of one store, in which everything fails that can.
//!
//! Method: a life runs a part of the history with some trouble planned; whatever comes of it, the life ends, time passes or the wall clock
//! steps, and the next one must open, perhaps after troubles of its own, and hold what the model allows. Who is told that a write failed must
//! be told right: what was refused has not happened, what is unknown may have. Now and then the store comes to rest, and
//! is held to its bounds. Invariant: a seed and a number of operations give one history.

use std::time::Duration;

use cloakroom::disk::sim::{Call, DirOps, Fault, SimDisk};
use cloakroom::{Clock, ManualClock, Timestamp};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::support::history::history;
use crate::support::life::{Life, Pace, SEGMENT_BYTES};
use crate::support::model::End;
use crate::support::{Replay, budget, seeds};

const OPERATIONS: usize = 10_000;

/// The most operations of one life.
const LIFE_OPERATIONS_MAX: usize = 400;

/// Operations on a store that takes no more writes, before its life ends.
const POISONED_OPERATIONS: usize = 12;

/// Calls that can be made to fail by themselves, reads not among them.
const CALLS: [Call; 8] = [
    Call::Create,
    Call::Open,
    Call::Rename,
    Call::Remove,
    Call::SyncFolder,
    Call::Write,
    Call::Truncate,
    Call::Sync,
];

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Nothing,
    /// A call of any kind, and how it fails.
    Call(u64, Fault),
    /// A call of one kind.
    CallOf(Call, u64, Fault),
    /// So many more bytes, and the disk is full, until an operation of this number.
    Full(u64, usize),
    /// So many more bytes are written, and the disk is found full in the midst of one.
    FullWithin(u64, usize),
}

impl Trouble {
    fn of_life(rng: &mut Xoshiro256PlusPlus) -> Self {
        let n = rng.random_range(1..600);
        let until = rng.random_range(0..LIFE_OPERATIONS_MAX);
        let fault = if rng.random_bool(0.7) { Fault::Eio } else { Fault::Enospc };
        match rng.random_range(0..12) {
            0..2 => Self::Nothing,
            2..5 => Self::Call(n, Fault::PowerLoss),
            5 => Self::Call(n, fault),
            6 => Self::CallOf(CALLS[rng.random_range(0..CALLS.len())], 1 + n / 20, fault),
            7 => Self::CallOf(Call::Sync, 1 + n / 4, Fault::Eio),
            8 => Self::CallOf(Call::Read, n, Fault::Eio),
            9 => Self::CallOf(Call::SyncFolder, 1 + n / 60, Fault::Eio),
            10 => Self::Full(rng.random_range(0..4 * u64::from(SEGMENT_BYTES)), until),
            _ => Self::FullWithin(rng.random_range(0..8 * u64::from(SEGMENT_BYTES)), until),
        }
    }

    fn of_open(rng: &mut Xoshiro256PlusPlus) -> Self {
        let n = rng.random_range(1..40);
        match rng.random_range(0..10) {
            0..3 => Self::Call(n, Fault::PowerLoss),
            3 => Self::Call(n, Fault::Eio),
            4 => Self::Call(n, Fault::Enospc),
            // So few that they come before the store is open.
            5 => Self::CallOf(Call::Read, 1 + n % 3, Fault::Eio),
            6 => Self::FullWithin(n * n * 50, 0),
            7 => Self::Full(n * n * 50, 0),
            _ => Self::Nothing,
        }
    }

    fn begin(self, disk: &SimDisk) {
        match self {
            Self::Nothing => {}
            Self::Call(n, fault) => disk.fail_call(n, fault),
            Self::CallOf(call, n, fault) => disk.fail_call_of(call, n, fault),
            Self::Full(bytes, _) => disk.space_bytes(disk.used_bytes() + bytes),
            Self::FullWithin(bytes, _) => disk.write_bytes(bytes),
        }
    }

    /// Ends it before an operation, if that is its last.
    fn end_at(self, disk: &SimDisk, operation: usize) {
        if let Self::Full(_, until) | Self::FullWithin(_, until) = self
            && operation == until
        {
            lift(disk);
        }
    }
}

fn lift(disk: &SimDisk) {
    disk.space_bytes(u64::MAX);
    disk.write_bytes(u64::MAX);
}

/// What was done and found.
#[derive(Default, PartialEq, Eq, Debug)]
struct Totals {
    operations: usize,
    lives: usize,
    opens: usize,
    /// Lives that ended with a store that took no more writes.
    poisoned: usize,
    rests: usize,
}

pub struct Run {
    life: Life,
    rng: Xoshiro256PlusPlus,
    totals: Totals,
    /// Every call of the disk and every session found at an open, where they are asked for.
    seen: Option<Vec<String>>,
}

impl Run {
    pub fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        disk.dir_ops(if seed.is_multiple_of(2) { DirOps::Ordered } else { DirOps::Any });
        let mut life = Life::open(disk);
        life.tolerant = true;
        Self { life, rng: Xoshiro256PlusPlus::seed_from_u64(seed), totals: Totals::default(), seen: None }
    }

    /// Lives so many operations; `see` is shown what each life left.
    pub fn go(&mut self, operations: usize, mut see: impl FnMut(&Life, End)) {
        while self.totals.operations < operations {
            let end = self.live();
            self.note_calls();
            self.life.end(end);
            lift(&self.life.disk);
            see(&self.life, end);
            move_wall(&self.life.clock, &mut self.rng);
            self.open(end);
            self.totals.lives += 1;
        }
        self.life.disk.restart();
        self.life.rest();
    }

    /// One life, until what ends it.
    fn live(&mut self) -> End {
        let Self { life, rng, .. } = self;
        let trouble = Trouble::of_life(rng);
        trouble.begin(&life.disk);
        let steps = history(rng.random(), rng.random_range(1..LIFE_OPERATIONS_MAX));
        life.pace = match rng.random_range(0..4) {
            0 => Pace::Steps,
            1 => Pace::Lazy,
            _ => Pace::Random(Xoshiro256PlusPlus::seed_from_u64(rng.random())),
        };
        let mut left = POISONED_OPERATIONS;
        let mut lives = true;
        for (nth, step) in steps.into_iter().enumerate() {
            trouble.end_at(&life.disk, nth);
            self.totals.operations += 1;
            lives = life.apply(step);
            left -= usize::from(life.poisoned);
            if !lives || left == 0 {
                break;
            }
        }
        let is_whole = lives && !life.poisoned && life.disk.has_power();
        if is_whole && rng.random_bool(0.5) {
            // Faults that did not strike would now.
            life.disk.restart();
            lift(&life.disk);
            if !life.is_poisoned() {
                life.rest();
                self.totals.rests += 1;
            }
        }
        self.totals.poisoned += usize::from(life.is_poisoned());
        match rng.random_range(0..2) {
            _ if !life.disk.has_power() => End::PowerLoss,
            0 => End::PowerLoss,
            _ => End::Kill,
        }
    }

    /// Opens the store, whatever goes wrong meanwhile; when nothing does it must open.
    fn open(&mut self, mut end: End) {
        let mut calm = self.rng.random_bool(0.5);
        loop {
            if !calm {
                Trouble::of_open(&mut self.rng).begin(&self.life.disk);
            }
            self.totals.opens += 1;
            let opened = self.life.begin(end);
            if !self.life.disk.has_power() {
                end = End::PowerLoss;
                self.life.end(end);
            } else if let Err(e) = opened {
                assert!(!calm, "it does not open: {e}\n{}", self.life.trace());
                self.life.disk.restart();
            } else {
                break;
            }
            lift(&self.life.disk);
            calm = self.rng.random_bool(0.5);
        }
        lift(&self.life.disk);
        if let Some(seen) = &mut self.seen {
            let found = self.life.observe();
            let mut sessions: Vec<_> = found
                .values()
                .map(|s| format!("{} {:?} {:?}", s.payload.len(), s.expires_at, s.created_at))
                .collect();
            sessions.sort();
            seen.extend(sessions);
        }
    }

    /// Keeps the calls of this life. How long a torn end is depends on checksums, hence on keys and salts, which no seed gives.
    fn note_calls(&mut self) {
        if let Some(seen) = &mut self.seen {
            let without_len = |call: String| match call.split_once("torn-") {
                Some((front, _)) => format!("{front} torn"),
                None => call,
            };
            seen.extend(self.life.disk.trace().into_iter().map(without_len));
        }
    }
}

/// Some time passes, or the wall clock steps: back, or forward by less than what would be doubted.
fn move_wall(clock: &ManualClock, rng: &mut Xoshiro256PlusPlus) {
    let some = Duration::from_millis(rng.random_range(0..100_000));
    let back = |by: Duration| {
        let since = clock.wall().saturating_since(Timestamp::default());
        clock.set_wall(Timestamp::default().saturating_add(since.saturating_sub(by)));
    };
    match rng.random_range(0..16) {
        0..4 => clock.advance(some),
        4..6 => back(some),
        6 => back(some * 200),
        7 => clock.set_wall(clock.wall().saturating_add(some * 300)),
        _ => {}
    }
}

#[test]
fn long_history_of_every_trouble_keeps_its_promises() {
    let first = seeds([1])[0];
    let mut all = Totals::default();
    for seed in first..first + budget(2) {
        let _replay = Replay("long history".into(), seed);
        let mut run = Run::new(seed);
        run.go(OPERATIONS, |_, _| {});
        let Totals { operations, lives, opens, poisoned, rests } = run.totals;
        all.operations += operations;
        all.lives += lives;
        all.opens += opens;
        all.poisoned += poisoned;
        all.rests += rests;
    }
    println!("from seed {first}: {all:?}");
    assert!(all.poisoned > 10 && all.rests > 10 && all.opens > all.lives, "too little went wrong: {all:?}");
}

#[test]
fn two_runs_of_one_seed_are_the_same() {
    for seed in seeds([3, 4]) {
        let run = || {
            let mut run = Run::new(seed);
            run.seen = Some(Vec::new());
            run.go(600, |_, _| {});
            (run.totals, run.seen.unwrap())
        };
        let [(totals, seen), (totals_again, seen_again)] = [run(), run()];
        let differs = seen.iter().zip(&seen_again).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{:?}", differs.map(|at| (&seen[at], &seen_again[at])));
        assert_eq!((totals, seen.len()), (totals_again, seen_again.len()));
        assert!(seen.len() > 1_000);
    }
}
