//! Models of the store's threads: its own code under a scheduler that runs one thread at a time and tries other orders each time.
//!
//! `tests/shuttle/Cargo.toml` builds the library once more with them as its unit tests, since they look at the log below the store too. There
//! `src/sync.rs` takes locks, atomics and threads from the scheduler, the disk is the simulated one, and no time passes but by hand.
//!
//! ```text
//! cargo test --manifest-path tests/shuttle/Cargo.toml --target-dir target/shuttle models::
//! ```
//!
//! `CLOAKROOM_SIM_BUDGET` is the number of executions of each model (a long run: 100000), `CLOAKROOM_SEED` begins with other ones. A failure
//! prints its schedule, a long word of hexadecimal digits: `CLOAKROOM_SCHEDULE` with that word, and the name of the model as the filter, runs
//! that one execution again.
//!
//! Nothing may hang: where every thread waits, the scheduler says `deadlock`, and where threads go round for ever, that there were too many steps.
//! What the scheduler does not see: the channels, semaphores and the table of segments, none of which ever blocks a thread. A switch inside of
//! them is not tried, one before and after nearly always is.

mod caps;
mod closing;
mod compaction;
mod expiring;
mod listening;
mod owners;
mod reading;
mod stream;
mod turning;

use std::sync::Arc;
use std::time::Duration;

use shuttle::rand::{Rng as _, thread_rng};
use shuttle::scheduler::{
    PctScheduler, RandomScheduler, ReplayScheduler, Scheduler, UncontrolledNondeterminismCheckScheduler,
};
use shuttle::{Config, MaxSteps, Runner};

use crate::clock::{Clock, ManualClock, Timestamp};
use crate::disk::sim::SimDisk;
use crate::{Lifetime, LogStore, Options, SessionKey};

const HOUR: Duration = Duration::from_secs(3_600);

/// More than any execution takes that comes to its end.
const STEPS_MAX: usize = 200_000;

/// Orders with few changes of priority find what orders at random do not, and the other way round.
const PCT_DEPTH: usize = 3;

/// Executions that are run twice, to see that a schedule leads to the same steps again.
const REPEATED: usize = 5;

/// Runs a model `executions` times: half of them in orders at random, half by priorities that change a few times.
fn explore(executions: usize, model: fn()) {
    if let Ok(schedule) = std::env::var("CLOAKROOM_SCHEDULE") {
        run(ReplayScheduler::new_from_encoded(&schedule), model);
        return;
    }
    let executions = number("CLOAKROOM_SIM_BUDGET").map_or(executions, |n| usize::try_from(n).unwrap());
    let seed = number("CLOAKROOM_SEED").unwrap_or(1);
    let repeated = RandomScheduler::new_from_seed(seed, REPEATED);
    run(UncontrolledNondeterminismCheckScheduler::new(repeated), model);
    run(RandomScheduler::new_from_seed(seed, executions.div_ceil(2)), model);
    run(PctScheduler::new_from_seed(seed, PCT_DEPTH, executions.div_ceil(2)), model);
}

fn run(scheduler: impl Scheduler + 'static, model: fn()) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(model);
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// A number below `end`, which the schedule keeps.
fn below(end: u64) -> u64 {
    thread_rng().gen_range(0..end)
}

/// Lets others go first, up to this often: a thread of few steps would else be over before one of many has come far.
fn linger(most: u64) {
    for _ in 0..below(most + 1) {
        shuttle::thread::yield_now();
    }
}

fn options() -> (Options, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let options = Options {
        segment_bytes: 64 << 10,
        payload_bytes_max: 8 << 10,
        unwritten_bytes_max: 64 << 10,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        ..Options::default()
    };
    (options, clock)
}

fn hour() -> Lifetime {
    Lifetime::idle(HOUR)
}

fn key(n: u32) -> SessionKey {
    SessionKey::of(&n.to_le_bytes())
}

/// What the disk would hold after a power cut now, opened.
fn after_power_loss(disk: &SimDisk, options: &Options) -> LogStore {
    let copy = disk.copy(below(1 << 32));
    copy.crash();
    LogStore::open_by_hand(Arc::new(copy), options.clone()).unwrap()
}

/// What the disk would hold after a killed process, opened.
fn after_kill(disk: &SimDisk, options: &Options) -> LogStore {
    let copy = disk.copy(below(1 << 32));
    copy.kill();
    LogStore::open_by_hand(Arc::new(copy), options.clone()).unwrap()
}

/// Whether a sync has failed: what it dropped the kernel may let go of, so that also a killed process may lose it.
fn sync_failed(disk: &SimDisk) -> bool {
    disk.trace().iter().any(|call| call.contains("Sync") && call.contains("-> E"))
}
