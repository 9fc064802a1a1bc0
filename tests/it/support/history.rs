//! Operations, and histories of them made from a seed.
//!
//! It knows no store. Invariant: the same seed and length give the same history.

use std::time::Duration;

use cloakroom::{Durability, Lifetime};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// Sessions that a history works on at a time.
pub const NAMES: usize = 10;

/// What a binding does to a label: nothing, or it takes it away, or sets another.
const LABELS: [Option<&str>; 4] = [None, Some(""), Some("phone"), Some("Firefox on Linux")];

/// The longest payload of a history, in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = 6_000;

/// One thing that is done to a store. A session is named by its place among the [`NAMES`].
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Create {
        name: usize,
        len: usize,
        lifetime: Lifetime,
    },
    Put {
        name: usize,
        len: usize,
    },
    /// A put that is conditional on the version, or on one that is not the newest.
    PutIf {
        name: usize,
        len: usize,
        stale: bool,
    },
    Upsert {
        name: usize,
        len: usize,
        lifetime: Lifetime,
    },
    Touch {
        name: usize,
    },
    SetLifetime {
        name: usize,
        lifetime: Lifetime,
    },
    Delete {
        name: usize,
    },
    /// The name goes over to the new key.
    Rotate {
        name: usize,
    },
    /// A session gets an owner, who then has no more than `max`, the oldest of which go; owner 0 is nobody.
    Bind {
        name: usize,
        owner: u8,
        max: Option<u32>,
        label: Option<&'static str>,
    },
    /// The same for a session that begins so.
    CreateOwned {
        name: usize,
        len: usize,
        lifetime: Lifetime,
        owner: u8,
        max: Option<u32>,
    },
    /// Ends every session of an owner, but one; 0 is everybody.
    Revoke {
        owner: u8,
        spared: Option<usize>,
    },
    /// A put under one of the keys that were rotated away.
    Late {
        which: usize,
        len: usize,
    },
    Flush,
    Advance {
        by: Duration,
    },
    /// The background work that there is.
    Step,
    /// A clean close, and the next open.
    Reopen,
}

/// An operation and the durability that it asks for.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub op: Op,
    pub durability: Durability,
}

/// A history of `len` operations.
pub fn history(seed: u64, len: usize) -> Vec<Step> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    (0..len).map(|_| Step { op: op(&mut rng), durability: durability(&mut rng) }).collect()
}

fn durability(rng: &mut Xoshiro256PlusPlus) -> Durability {
    match rng.random_range(0..10) {
        0..3 => Durability::Sync,
        3..7 => Durability::Interval(Durability::INTERVAL_DEFAULT),
        _ => Durability::Buffered,
    }
}

fn op(rng: &mut Xoshiro256PlusPlus) -> Op {
    let name = rng.random_range(0..NAMES);
    let len = match rng.random_range(0..4) {
        0 => rng.random_range(0..64),
        1 => rng.random_range(64..1_000),
        _ => rng.random_range(1_000..PAYLOAD_BYTES_MAX as usize),
    };
    match rng.random_range(0..100) {
        0..10 => Op::Create { name, len, lifetime: lifetime(rng) },
        10..14 => Op::CreateOwned {
            name,
            len,
            lifetime: lifetime(rng),
            owner: rng.random_range(1..3),
            max: rng.random_bool(0.4).then(|| rng.random_range(1..4)),
        },
        14..34 => Op::Put { name, len },
        34..38 => Op::PutIf { name, len, stale: rng.random_bool(0.3) },
        38..50 => Op::Upsert { name, len, lifetime: lifetime(rng) },
        50..58 => Op::Touch { name },
        58..66 => Op::SetLifetime { name, lifetime: lifetime(rng) },
        66..71 => Op::Delete { name },
        71..75 => Op::Rotate { name },
        75..78 => Op::Bind {
            name,
            owner: rng.random_range(0..3),
            max: rng.random_bool(0.4).then(|| rng.random_range(1..4)),
            label: LABELS[rng.random_range(0..LABELS.len())],
        },
        78..79 => Op::Revoke { owner: rng.random_range(0..3), spared: rng.random_bool(0.3).then_some(name) },
        79..81 => Op::Late { which: rng.random_range(0..64), len },
        81..83 => Op::Flush,
        83..90 => Op::Advance { by: advance(rng) },
        90..99 => Op::Step,
        _ => Op::Reopen,
    }
}

/// From less than a second to half a day, so that histories cross deadlines and classes of expiry.
fn lifetime(rng: &mut Xoshiro256PlusPlus) -> Lifetime {
    let period = |rng: &mut Xoshiro256PlusPlus| match rng.random_range(0..3) {
        0 => Duration::from_millis(rng.random_range(500..5_000)),
        1 => Duration::from_millis(rng.random_range(5_000..120_000)),
        _ => Duration::from_secs(rng.random_range(120..43_200)),
    };
    let (idle, absolute) = (period(rng), period(rng));
    match rng.random_range(0..5) {
        0 => Lifetime::absolute(absolute),
        1 => Lifetime::idle(idle).and_absolute(absolute),
        2 => Lifetime::idle(idle).exact(),
        _ => Lifetime::idle(idle),
    }
}

fn advance(rng: &mut Xoshiro256PlusPlus) -> Duration {
    Duration::from_millis(match rng.random_range(0..8) {
        0..3 => rng.random_range(1..400),
        3..6 => rng.random_range(400..5_000),
        6 => rng.random_range(5_000..60_000),
        _ => rng.random_range(60_000..1_000_000),
    })
}
