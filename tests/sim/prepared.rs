//! A store with a short past, so that each operation meets its interesting case; made once, and copied for every run.
//!
//! In three sealed segments: an older version of the first session that lives longer than its newest, a tombstone and what it hides, a session
//! whose deadline lies in a segment of its own, and enough dead bytes that the next few make a segment half dead. Invariant: every
//! copy is the same, and holds what the model says.

use std::time::Duration;

use cloakroom::disk::sim::{DirOps, SimDisk};
use cloakroom::{Durability, Lifetime, SessionKey, SessionStore, When};

use crate::support::history::{Op, Step};
use crate::support::life::{Life, Moment};
use crate::support::model::End;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// The session that sequences are about.
const FIRST: usize = 0;
/// One whose death makes its segment half dead.
const HEAVY: usize = 3;
/// Whose the third session is, and the first once it is bound.
const OWNER: u8 = 1;
/// The first of those that are not there yet.
const NEW: usize = 6;

/// Records that fill a segment, whatever is in it.
const FILLERS: usize = 11;
const FILLER_BYTES: usize = 5_990;

/// Steps of background work in which compaction ends.
const COMPACTION_STEPS: usize = 6;

/// One operation of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Put,
    Longer,
    Shorter,
    Shorten,
    Touch,
    Delete,
    Rotate,
    Bind,
    Revoke,
    Expire,
    Seal,
    Compact,
    Reopen,
}

impl Act {
    pub const ALL: [Self; 13] = [
        Self::Put,
        Self::Longer,
        Self::Shorter,
        Self::Shorten,
        Self::Touch,
        Self::Delete,
        Self::Rotate,
        Self::Bind,
        Self::Revoke,
        Self::Expire,
        Self::Seal,
        Self::Compact,
        Self::Reopen,
    ];

    /// The `n`th of all sequences of three; the first is 1.
    pub fn three(n: u64) -> [Self; 3] {
        let (n, acts) = (usize::try_from(n - 1).unwrap(), Self::ALL.len());
        [n / acts / acts, n / acts % acts, n % acts].map(|at| Self::ALL[at])
    }

    /// Does it, as the `nth` of a sequence; `false` if the power went, or what fails left no store open.
    pub fn perform(self, life: &mut Life, nth: usize, durability: Durability) -> bool {
        let mut apply = |op| life.apply(Step { op, durability });
        match self {
            Self::Put => {
                apply(Op::Create { name: NEW + nth, len: 4_000, lifetime: Lifetime::idle(2 * HOUR) })
            }
            Self::Longer => apply(Op::Put { name: FIRST, len: 5_500 }),
            Self::Shorter => apply(Op::Put { name: FIRST, len: 100 }),
            Self::Shorten => {
                apply(Op::SetLifetime { name: FIRST, lifetime: Lifetime::absolute(20 * MINUTE) })
            }
            // Later than the grain of an hour, so that it is written.
            Self::Touch => apply(Op::Advance { by: 8 * MINUTE }) && apply(Op::Touch { name: FIRST }),
            Self::Delete => apply(Op::Delete { name: FIRST }),
            Self::Rotate => apply(Op::Rotate { name: FIRST }),
            Self::Bind => apply(Op::Bind { name: FIRST, owner: OWNER, max: Some(1), label: Some("phone") }),
            Self::Revoke => apply(Op::Revoke { owner: OWNER, spared: None }),
            Self::Expire => apply(Op::Advance { by: 2 * HOUR }) && apply(Op::Step),
            Self::Seal => {
                let filler = SessionKey::of(b"filler");
                let always = When::Always(Lifetime::idle(HOUR / 2));
                (0..FILLERS).all(|_| life.write(filler, FILLER_BYTES, always, Durability::Buffered))
                    && (0..2).all(|_| life.apply(Step { op: Op::Step, durability }))
            }
            Self::Compact => {
                apply(Op::Delete { name: HEAVY }) && (0..COMPACTION_STEPS).all(|_| apply(Op::Step))
            }
            Self::Reopen => apply(Op::Reopen),
        }
    }
}

/// The store that every sequence starts from, closed.
pub struct Prepared {
    life: Life,
    moment: Moment,
}

impl Prepared {
    pub fn new() -> Self {
        let mut life = Life::open(SimDisk::new(1));
        let mut apply = |op| assert!(life.apply(Step { op, durability: Durability::Sync }));
        let long = Lifetime::idle(10 * HOUR);
        for (name, len) in [(FIRST, 5_000), (1, 5_000), (2, 1_000), (HEAVY, 5_000), (4, 1_000)] {
            apply(Op::Create { name, len, lifetime: long });
        }
        apply(Op::Reopen);
        apply(Op::Upsert { name: FIRST, len: 3_000, lifetime: Lifetime::idle(HOUR) });
        apply(Op::Delete { name: 4 });
        apply(Op::Create { name: 5, len: 2_000, lifetime: Lifetime::absolute(5 * MINUTE) });
        apply(Op::Bind { name: 2, owner: OWNER, max: None, label: None });
        apply(Op::Reopen);
        apply(Op::SetLifetime { name: 1, lifetime: Lifetime::idle(20 * HOUR) });
        life.end(End::Close);
        let moment = life.moment();
        Self { life, moment }
    }

    /// A life with the store open.
    pub fn open(&self, seed: u64) -> Life {
        let disk = self.life.disk.copy(seed);
        disk.dir_ops(DirOps::Any);
        let mut life = self.life.at(&self.moment, disk);
        life.begin(End::Close).unwrap();
        life
    }
}

#[test]
fn every_operation_meets_its_case() {
    let prepared = Prepared::new();
    let run = |acts: &[Act]| {
        let mut life = prepared.open(1);
        for (nth, act) in acts.iter().enumerate() {
            assert!(act.perform(&mut life, nth, Durability::Sync));
        }
        life
    };
    let segments = |life: &Life| life.disk.names().iter().filter(|name| name.contains(".seg")).count();
    let start = run(&[]);
    let stats = start.store().stats();
    assert_eq!(segments(&start), 5, "three sealed ones, one to write to and the reserve: {stats:?}");
    let has_footer = |life: &Life, name: &String| {
        life.disk.contents(name).unwrap().windows(8).any(|window| window == b"CLOAKFTR")
    };
    let footers =
        |life: &Life| life.disk.names().into_iter().filter(|name| has_footer(life, name)).collect::<Vec<_>>();
    let first = footers(&start);
    assert_eq!(first.len(), 2, "one behind each sealed one but the last, which is mostly headers");
    assert!(start.store().recovery().bytes < stats.log_bytes / 4, "the open goes by them");
    let then = footers(&run(&[Act::Compact, Act::Reopen]));
    assert!(then.iter().any(|name| !first.contains(name)), "a close makes those that are missing: {then:?}");
    assert_eq!(run(&[Act::Put]).store().stats().compacted_bytes, 0, "there is work for compaction too early");
    let compacted = run(&[Act::Compact]).store().stats();
    assert!(compacted.compacted_bytes > 5_000, "there is none for it: {compacted:?}");
    assert_eq!(run(&[Act::Touch]).store().stats().touches_logged, 1);
    assert!(run(&[Act::Expire]).store().stats().expired >= 1);
    let sealed = run(&[Act::Seal, Act::Seal]);
    assert!(
        sealed
            .disk
            .trace()
            .iter()
            .filter(|call| call.contains("Create") && call.contains("of 65536"))
            .count()
            >= 3
    );
}
