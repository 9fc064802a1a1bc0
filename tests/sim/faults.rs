//! Every sequence of up to three operations, and every call of the disk that fails in it or in the open that follows.
//!
//! Method: a sequence runs once for each of its calls and each way to fail. Who is told that a write failed must be told right: what was refused has
//! not happened, what is unknown may have; reads go on. Then the device works again, a store that takes writes comes to rest within its
//! bounds, and the next life must open and hold what the model allows. The quick form does so after one operation, and for some calls after two.
//! Invariant: a sequence, the way to fail and the number of a call say all that is needed to see a failure again.

use std::fmt;

use cloakroom::Durability;
use cloakroom::disk::sim::{Call, Fault, SimDisk};

use crate::prepared::{Act, Prepared};
use crate::support::life::{Life, Pace};
use crate::support::model::End;
use crate::support::{budget, seeds, spread};

/// Sequences of three that the quick form tries.
const THREES: u64 = 4;

/// Of this many calls one fails, each in its turn, where there was more than one operation.
const STRIDE: u64 = 8;

/// Calls that fail on a device that is gone: more than any sequence has left.
const GONE_CALLS: u64 = 400;

const ENDS: [End; 2] = [End::Kill, End::PowerLoss];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// One call says EIO.
    Eio,
    /// One call says that there is no space.
    Enospc,
    /// It and all that follow say EIO, until the sequence is at its end.
    Gone,
    /// One read says EIO.
    Unread,
}

impl Way {
    const ALL: [Self; 4] = [Self::Eio, Self::Enospc, Self::Gone, Self::Unread];

    fn plan(self, disk: &SimDisk, call: u64) {
        match self {
            Self::Eio => disk.fail_call(call, Fault::Eio),
            Self::Enospc => disk.fail_call(call, Fault::Enospc),
            Self::Gone => (call..call + GONE_CALLS).for_each(|call| disk.fail_call(call, Fault::Eio)),
            Self::Unread => disk.fail_call_of(Call::Read, call, Fault::Eio),
        }
    }

    /// How many calls there were that may fail in this way.
    fn calls(self, disk: &SimDisk) -> u64 {
        if self == Self::Unread { disk.calls_of(Call::Read) } else { disk.calls() }
    }
}

/// What was tried.
#[derive(Default, Debug)]
struct Totals {
    sequences: u64,
    /// Calls that failed in a sequence.
    faults: u64,
    /// Calls that failed in an open.
    open_faults: u64,
    /// Stores that took no more writes.
    poisoned: u64,
    /// Opens that a failure refused.
    refused: u64,
}

/// Which call fails; printed when it is the last.
struct Failing<'a> {
    sequence: &'a [Act],
    durability: Durability,
    seed: u64,
    way: Way,
    call: u64,
    /// It is one of the open's.
    opening: bool,
}

impl fmt::Display for Failing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequence, durability, seed, way, call, opening } = self;
        let of = if *opening { "the open behind it" } else { "it" };
        write!(f, "{sequence:?}, {durability:?}, CLOAKROOM_SEED={seed}: {way:?} at call {call} of {of}")
    }
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{self}");
        }
    }
}

struct Faults {
    prepared: Prepared,
    seed: u64,
    full: bool,
    totals: Totals,
}

impl Faults {
    fn begin(&self, durability: Durability) -> Life {
        let mut life = self.prepared.open(self.seed);
        life.tolerant = true;
        // Where not all is to be synced, little is.
        life.pace = if durability == Durability::Sync { Pace::Steps } else { Pace::Lazy };
        life
    }

    fn sequence(&mut self, sequence: &[Act]) {
        self.totals.sequences += 1;
        let number = self.totals.sequences;
        let interval = Durability::Interval(Durability::INTERVAL_DEFAULT);
        for (nth, durability) in [Durability::Sync, interval, Durability::Buffered].into_iter().enumerate() {
            if !self.full && number % 3 != nth as u64 {
                continue;
            }
            let mut life = self.begin(durability);
            let before = Way::ALL.map(|way| way.calls(&life.disk));
            assert!(perform(&mut life, sequence, durability));
            for (way, before) in Way::ALL.into_iter().zip(before) {
                let calls = way.calls(&life.disk) - before;
                for call in self.tried(calls, sequence) {
                    let failing =
                        Failing { sequence, durability, seed: self.seed, way, call, opening: false };
                    self.fail(&failing);
                }
            }
            life.end(End::Kill);
            self.fail_opens(&life, sequence, durability);
        }
    }

    /// Which of so many calls fail.
    fn tried(&self, calls: u64, sequence: &[Act]) -> impl Iterator<Item = u64> + use<> {
        let all = sequence.len() <= if self.full { 2 } else { 1 };
        spread(calls, if all { calls } else { calls.div_ceil(STRIDE) }.max(1), self.totals.sequences)
    }

    /// One call fails in a sequence.
    fn fail(&mut self, failing: &Failing<'_>) {
        let mut life = self.begin(failing.durability);
        failing.way.plan(&life.disk, failing.call);
        perform(&mut life, failing.sequence, failing.durability);
        let failed = life.disk.trace().iter().any(|call| call.contains("-> E"));
        assert!(failed || failing.way == Way::Unread, "nothing failed\n{}", life.trace());
        // Faults that are left would strike now.
        life.disk.restart();
        self.totals.faults += 1;
        if life.is_open() && !life.is_poisoned() {
            life.rest();
        }
        self.totals.poisoned += u64::from(life.is_poisoned());
        let first = usize::from(failing.call.is_multiple_of(2));
        life.again(ENDS[first]);
        life.rest();
        life.again(ENDS[1 - first]);
        life.end(End::Kill);
    }

    /// The calls of the open behind a sequence fail, each in its turn.
    fn fail_opens(&mut self, ended: &Life, sequence: &[Act], durability: Durability) {
        let moment = ended.moment();
        let open = |plan: &dyn Fn(&SimDisk)| {
            let mut life = ended.at(&moment, ended.disk.copy(self.seed));
            let calls = Way::ALL.map(|way| way.calls(&life.disk));
            plan(&life.disk);
            let opened = life.begin(End::Kill);
            (life, calls, opened)
        };
        let (mut life, before, opened) = open(&|_| {});
        opened.unwrap();
        let after = Way::ALL.map(|way| way.calls(&life.disk));
        life.end(End::Kill);
        for (nth, way) in Way::ALL.into_iter().enumerate() {
            for call in self.tried(after[nth] - before[nth], sequence) {
                let _failing = Failing { sequence, durability, seed: self.seed, way, call, opening: true };
                let (mut life, _, opened) = open(&|disk| way.plan(disk, call));
                life.disk.restart();
                self.totals.open_faults += 1;
                self.totals.refused += u64::from(opened.is_err());
                life.again(ENDS[usize::from(call.is_multiple_of(2))]);
                life.rest();
                life.end(End::Kill);
            }
        }
    }
}

/// Does a sequence; `false` if no store is open after it.
fn perform(life: &mut Life, sequence: &[Act], durability: Durability) -> bool {
    let done = sequence.iter().enumerate().all(|(nth, act)| act.perform(life, nth, durability));
    if done {
        life.step();
    }
    done
}

#[test]
fn every_short_sequence_with_a_failure_at_every_call_keeps_its_promises() {
    let threes = Act::ALL.len().pow(3) as u64;
    for seed in seeds([1]) {
        let tried = budget(THREES).min(threes);
        let (full, totals) = (tried == threes, Totals::default());
        let mut all = Faults { prepared: Prepared::new(), seed, full, totals };
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
        let Totals { faults, open_faults, poisoned, refused, .. } = all.totals;
        assert!(faults > 1_000 && open_faults > 1_000 && poisoned > 100 && refused > 100, "{:?}", all.totals);
    }
}
