//! The stores that are damaged: made by short lives of many operations, so that each has sealed segments, copies, tombstones, rotations
//! and shortened lifetimes, and ended in every way there is.
//!
//! Invariant: `last` is what an open of the undamaged disk holds, and one of the moments.

use cloakroom::disk::sim::SimDisk;
use cloakroom::{Clock as _, Durability, Options, SessionKey, Timestamp};

use super::{Sessions, observe, open};
use crate::support::damaged::settled;
use crate::support::history::{Op, Step, history};
use crate::support::life::Life;
use crate::support::model::End;

/// Operations of one life.
const LIFE_OPS: usize = 30;

/// A store that has ended, and all that is known of it.
pub struct Whole {
    pub what: String,
    pub disk: SimDisk,
    pub options: Options,
    /// What it holds.
    pub last: Sessions,
    /// What it held after each operation of its last life.
    pub moments: Vec<Sessions>,
    /// The first moment that a later watermark covers.
    pub marked: usize,
    /// The manifest that it had when the last life began.
    pub old_list: Vec<u8>,
    /// Every key that it ever had.
    pub keys: Vec<SessionKey>,
}

impl Whole {
    /// Whether these are the sessions that there were at one moment, not before the one with the number `least`.
    pub fn held(&self, found: &Sessions, least: usize, now: Timestamp) -> bool {
        let is_it = |moment: &Sessions| {
            let mut live = moment.iter().filter(|(_, stored)| stored.expires_at > now);
            live.by_ref().all(|(key, stored)| found.get(key) == Some(stored))
                && moment.iter().filter(|(_, stored)| stored.expires_at > now).count() == found.len()
        };
        self.moments[least..].iter().any(is_it)
    }
}

/// Payloads are short here: a store of a few thousand bytes has every kind of record, and each byte of it can be turned.
pub fn shortened(op: Op) -> Op {
    let short = |len: usize| len % 200;
    match op {
        Op::Create { name, len, lifetime } => Op::Create { name, len: short(len), lifetime },
        Op::Put { name, len } => Op::Put { name, len: short(len) },
        Op::PutIf { name, len, stale } => Op::PutIf { name, len: short(len), stale },
        Op::Upsert { name, len, lifetime } => Op::Upsert { name, len: short(len), lifetime },
        Op::Late { which, len } => Op::Late { which, len: short(len) },
        Op::Reopen => Op::Flush,
        other => other,
    }
}

/// A store of `lives` lives, the last of which ended so.
pub fn whole(seed: u64, lives: usize, end: End) -> Whole {
    let mut life = Life::open(SimDisk::new(seed));
    let mut keys = Vec::new();
    let mut moments = Vec::new();
    let mut marked = 0;
    let mut old_list = Vec::new();
    for number in 0..lives {
        let is_last = number + 1 == lives;
        old_list = life.disk.contents("MANIFEST").unwrap();
        for (at, step) in history(seed ^ (number as u64) << 32, LIFE_OPS).into_iter().enumerate() {
            let durability = if is_last { step.durability } else { Durability::Sync };
            assert!(life.apply(Step { op: shortened(step.op), durability }));
            keys.extend(life.model.keys());
            if is_last {
                moments.push(life.observe());
            }
            if is_last && at == LIFE_OPS * 2 / 3 {
                assert!(life.apply(Step { op: Op::Flush, durability: Durability::Sync }));
                (0..3).for_each(|_| life.step());
                marked = moments.len() - 1;
            }
        }
        if !is_last {
            life.again(if number % 2 == 0 { End::Close } else { End::Kill });
        }
    }
    keys.sort_unstable();
    keys.dedup();
    life.end(end);
    let (disk, options) = (settled(&life.disk, seed), life.options.clone());
    let store = open(&disk.copy(seed), &options).unwrap();
    let last = observe(&store, &keys);
    let whole = Whole {
        what: format!("{lives} lives, then {end:?}"),
        disk,
        options,
        last,
        moments,
        marked,
        old_list,
        keys,
    };
    let from = if end == End::Close { whole.moments.len() - 1 } else { whole.marked };
    assert!(whole.held(&whole.last, from, life.clock.wall()), "{}", whole.what);
    whole
}
