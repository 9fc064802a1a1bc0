//! What was acknowledged is kept, what is gone stays gone, and it always opens: histories that end at every possible moment.
//!
//! Goal: to refute the promises P1, P2, P4, P5, P6 and P7. Method: one history runs once to count the disk's calls; then it runs again and again,
//! and the power goes, or the process is killed, at another moment each time; what the next life finds must be explained by the model.

use cloakroom::disk::sim::{DirOps, SimDisk};

use crate::support::history::{Step, history};
use crate::support::life::Life;
use crate::support::model::End;
use crate::support::{Replay, budget, seeds, spread};

const HISTORY_LEN: usize = 200;

fn disk(seed: u64, dir_ops: DirOps) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.dir_ops(dir_ops);
    disk
}

/// Runs a history until its end or until the power goes; says how many operations were done.
fn run(life: &mut Life, steps: &[Step]) -> usize {
    steps.iter().position(|step| !life.apply(*step)).unwrap_or(steps.len())
}

/// Runs a history that the power ends in the midst of the `n`-th call, and opens it afterwards.
fn lose_power_at(seed: u64, dir_ops: DirOps, steps: &[Step], n: u64) -> Life {
    let mut life = Life::new(disk(seed ^ n, dir_ops));
    life.disk.crash_at_call(n);
    let opened = life.begin(End::Close);
    if opened.is_ok() && life.disk.has_power() {
        run(&mut life, steps);
    }
    assert!(!life.disk.has_power(), "call {n} was never made");
    life.again(End::PowerLoss);
    life
}

fn calls_of(seed: u64, steps: &[Step]) -> u64 {
    let mut life = Life::open(disk(seed, DirOps::Ordered));
    assert_eq!(run(&mut life, steps), steps.len());
    life.disk.calls()
}

#[test]
fn power_loss_at_any_call_leaves_what_was_acknowledged() {
    for seed in seeds([1, 2, 3, 4]) {
        let _replay = Replay("power loss".into(), seed);
        let steps = history(seed, HISTORY_LEN);
        let calls = calls_of(seed, &steps);
        for dir_ops in [DirOps::Ordered, DirOps::Any] {
            for n in spread(calls, budget(250), seed) {
                let mut life = lose_power_at(seed, dir_ops, &steps, n);
                // It opens a second time, and nothing has changed.
                let found = life.observe();
                life.again(End::Kill);
                assert_eq!(life.observe(), found);
            }
        }
    }
}
