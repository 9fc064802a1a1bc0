//! Histories with power cuts and kills in their midst, recoveries that are cut short too, against the model of what a crash may leave: the one that the
//! simulation has, read from the same files.
//!
//! An input is a byte for the disk, then operations of five bytes: what, at which durability; which session; and three of how much.

#![no_main]

use std::time::Duration;

use cloakroom::disk::sim::{DirOps, SimDisk};
use cloakroom::{Clock as _, Durability, Lifetime, Timestamp};
use libfuzzer_sys::fuzz_target;

use crate::support::history::{NAMES, Op, PAYLOAD_BYTES_MAX, Step};
use crate::support::life::Life;
use crate::support::model::End;

#[path = "../../tests/it/support/mod.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod support;

/// More operations add time, not states.
const OPERATIONS_MAX: usize = 160;

fuzz_target!(|data: &[u8]| {
    let Some((&first, operations)) = data.split_first() else { return };
    let disk = SimDisk::new(u64::from(first));
    disk.dir_ops(if first % 2 == 0 { DirOps::Ordered } else { DirOps::Any });
    let mut life = Life::open(disk);
    for operation in operations.chunks_exact(5).take(OPERATIONS_MAX) {
        apply(&mut life, operation);
    }
    // What a killed process left in the memory of the kernel, the next one has put on the device.
    life.again(End::Kill);
    let (found, now) = (life.observe(), life.now());
    life.again(End::PowerLoss);
    assert!(life.now() != now || life.observe() == found, "opening twice changed something");
});

/// Does one operation; if the power goes meanwhile, another life begins.
fn apply(life: &mut Life, operation: &[u8]) {
    let [what, name, long, much, more] = *operation.first_chunk().expect("chunks are of five bytes");
    let amount = u16::from_le_bytes([much, more]);
    let (name, len) = (usize::from(name) % NAMES, usize::from(amount) % PAYLOAD_BYTES_MAX as usize);
    let (which, lifetime) = (usize::from(long), lifetime(long, amount));
    let op = match what % 23 {
        0 | 1 => Op::Create { name, len, lifetime },
        2 | 3 => Op::Put { name, len },
        4 => Op::PutIf { name, len, stale: long % 2 == 0 },
        5 | 6 => Op::Upsert { name, len, lifetime },
        7 => Op::Touch { name },
        8 => Op::SetLifetime { name, lifetime },
        9 => Op::Delete { name },
        10 => Op::Rotate { name },
        11 => Op::Late { which, len },
        12 => Op::Flush,
        13 => Op::Advance { by: Duration::from_millis(u64::from(amount) * u64::from(long % 8)) },
        14..=16 => Op::Step,
        17 => Op::Reopen,
        18 | 19 => return life.disk.crash_at_call(1 + u64::from(amount) % 80),
        20 => return set_back(life, amount),
        21 => return live_again(life, End::Kill, amount),
        _ => return live_again(life, End::PowerLoss, amount),
    };
    let durability = match what / 23 % 3 {
        0 => Durability::Sync,
        1 => Durability::Interval(Durability::INTERVAL_DEFAULT),
        _ => Durability::Buffered,
    };
    if !life.apply(Step { op, durability }) {
        live_again(life, End::PowerLoss, amount);
    }
}

/// Ends this life and begins the next; from an odd `amount` on the power goes in the midst of that as well, time and again.
fn live_again(life: &mut Life, mut end: End, mut amount: u16) {
    loop {
        // A planned loss may strike on the way.
        end = if life.disk.has_power() { end } else { End::PowerLoss };
        life.end(end);
        if amount % 2 == 1 {
            life.disk.crash_at_call(1 + u64::from(amount / 2) % 32);
        }
        amount /= 64;
        let opened = life.begin(end);
        if life.disk.has_power() {
            opened.expect("a store opens after a crash");
            return;
        }
    }
}

/// The wall clock goes back: for the store's time that counts at the next open.
fn set_back(life: &Life, ms: u16) {
    let wall = life.clock.wall().as_millis();
    life.clock.set_wall(Timestamp::from_millis(wall - u64::from(ms)));
}

/// From half a second to some hours, of all kinds.
fn lifetime(long: u8, amount: u16) -> Lifetime {
    let idle = Duration::from_millis(500 + u64::from(long) * 200);
    let absolute = Duration::from_millis(500 + u64::from(amount) * 200);
    match long % 5 {
        0 => Lifetime::absolute(absolute),
        1 => Lifetime::idle(idle).and_absolute(absolute),
        2 => Lifetime::idle(idle).exact(),
        3 => Lifetime::idle(absolute),
        _ => Lifetime::idle(idle),
    }
}
