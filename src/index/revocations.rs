//! Which revocations are under way: told, and not yet carried out on every session. It knows no time and no session; it answers whether a
//! content of some number, owned by somebody, was ended.
//!
//! A revocation ends every content of its owner (or of every owner) that has a smaller number than its own, but under the key it spares. So
//! a content needs to carry no epoch: its number is the epoch. For that, who writes an owned session holds these for reading from
//! the moment at which it finds that session standing until its record has a number, and who revokes holds them for writing from before its
//! record has a number until it is added here: a content that was let through has the smaller number, and is ended.
//!
//! Of each owner two revocations suffice: the latest, and the latest that spares somebody else. Any older one spares the same key
//! as one of them, or ends nothing that the two together do not.
//!
//! Invariant: [`Revocations::hides_until`] is no earlier than any deadline that an owned record was ever given.

use hashbrown::HashMap;

use super::slab::{Prefix, prefix};
use crate::clock::Timestamp;
use crate::id::{OwnerKey, Seq, SessionKey};
use crate::sync::atomic::{AtomicU64, Ordering};

/// Owners whose revocation is under way at a time; another one waits for the sweep, which takes a fraction of a second.
const OWNERS_MAX: usize = 1 << 16;

/// What is promised is noted in steps of this, so that most writes have nothing to note: some quarter of an hour.
const PROMISE_STEP_MS: u64 = 1 << 20;

/// The end of all older contents of an owner, but for one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Revocation {
    /// `None` for everybody.
    pub(crate) owner: Option<OwnerKey>,
    pub(crate) seq: Seq,
    pub(crate) spared: Option<SessionKey>,
}

/// The revocations of one owner that count.
#[derive(Clone, Copy, Debug)]
struct Latest {
    seq: Seq,
    spared: Option<Prefix>,
    /// The latest one that does not spare the same.
    other: Option<(Seq, Option<Prefix>)>,
}

impl Latest {
    /// The latest number of a revocation that does not spare this key.
    fn ends(&self, prefix: &Prefix) -> Option<Seq> {
        if self.spared.as_ref() == Some(prefix) { self.other.map(|(seq, _)| seq) } else { Some(self.seq) }
    }

    fn add(&mut self, seq: Seq, spared: Option<Prefix>) {
        if seq <= self.seq {
            let is_other = spared != self.spared && self.other.is_none_or(|(other, _)| other < seq);
            self.other = if is_other { Some((seq, spared)) } else { self.other };
            return;
        }
        if spared != self.spared {
            self.other = Some((self.seq, self.spared));
        }
        (self.seq, self.spared) = (seq, spared);
    }
}

/// Revocations by owner; `None` is everybody.
#[derive(Default)]
pub(crate) struct Revocations {
    latest: HashMap<Option<OwnerKey>, Latest>,
    /// No owned record lasts longer, in milliseconds since 1970.
    promised_ms: AtomicU64,
}

impl Revocations {
    /// A set that ends nothing, of a store whose owned records last until then at most.
    pub(super) fn promising(until: Timestamp) -> Self {
        let revocations = Self::default();
        revocations.promise(until);
        revocations
    }

    pub(crate) fn add(&mut self, revocation: Revocation) {
        let Revocation { owner, seq, spared } = revocation;
        let spared = spared.as_ref().map(prefix);
        let first = Latest { seq, spared, other: None };
        self.latest.entry(owner).and_modify(|latest| latest.add(seq, spared)).or_insert(first);
    }

    /// Whether a content of this number was ended.
    pub(super) fn end(&self, prefix: &Prefix, owner: OwnerKey, version: Seq) -> bool {
        let ended_by = |owner| self.latest.get(&owner).and_then(|latest| latest.ends(prefix));
        [Some(owner), None].into_iter().filter_map(ended_by).any(|seq| version < seq)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.latest.is_empty()
    }

    /// Whether there is room for another owner's.
    pub(crate) fn has_room(&self) -> bool {
        self.latest.len() < OWNERS_MAX
    }

    /// The number of the latest one.
    pub(super) fn newest(&self) -> Option<Seq> {
        self.latest.values().map(|latest| latest.seq).max()
    }

    /// Forgets those up to this number, which were carried out on every session.
    pub(super) fn forget(&mut self, upto: Seq) {
        self.latest.retain(|_, latest| {
            latest.other = latest.other.filter(|(seq, _)| *seq > upto);
            latest.seq > upto
        });
    }

    /// Notes that an owned record lasts until then.
    pub(crate) fn promise(&self, until: Timestamp) {
        let step_ms = until.as_millis().next_multiple_of(PROMISE_STEP_MS);
        if self.promised_ms.load(Ordering::Relaxed) < step_ms {
            self.promised_ms.fetch_max(step_ms, Ordering::Relaxed);
        }
    }

    /// How long anything may last that a revocation of now ends.
    pub(crate) fn hides_until(&self) -> Timestamp {
        Timestamp::from_millis(self.promised_ms.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner(n: u8) -> OwnerKey {
        OwnerKey::of(&[n])
    }

    fn revocation() -> impl Strategy<Value = Revocation> {
        let owner_of = prop_oneof![3 => (0..2_u8).prop_map(|n| Some(owner(n))), 1 => Just(None)];
        let spared = prop_oneof![Just(None), (0..3_u8).prop_map(|n| Some(SessionKey::from_bytes([n; 32])))];
        (owner_of, 1..20_u64, spared).prop_map(|(owner, seq, spared)| Revocation {
            owner,
            seq: Seq(seq),
            spared,
        })
    }

    proptest! {
        #[test]
        fn two_of_an_owner_end_what_all_of_them_end(
            all in proptest::collection::vec(revocation(), 0..12),
            upto in 0..20_u64,
        ) {
            let mut all = all;
            all.sort_by_key(|r| (r.seq.0, r.owner));
            all.dedup_by_key(|r| r.seq);
            let mut kept = Revocations::default();
            // In an order that is not that of the numbers.
            all.iter().rev().step_by(2).for_each(|r| kept.add(*r));
            all.iter().rev().skip(1).step_by(2).for_each(|r| kept.add(*r));
            let check = |kept: &Revocations, from: u64| {
                for (key, n, version) in (0..4_u8).flat_map(|k| (0..2).flat_map(move |n| (0..20).map(move |v| (k, n, v)))) {
                    let ended = all.iter().any(|r| {
                        r.seq.0 > version.max(from)
                            && r.owner.is_none_or(|o| o == owner(n))
                            && r.spared != Some(SessionKey::from_bytes([key; 32]))
                    });
                    assert_eq!(kept.end(&[key; 12], owner(n), Seq(version)), ended, "{all:?} {key} {n} {version}");
                }
            };
            check(&kept, 0);
            // What is younger than a sweep was begun by is not forgotten with the rest.
            kept.forget(Seq(upto));
            check(&kept, upto);
            let newest = all.iter().map(|r| r.seq).max().filter(|seq| seq.0 > upto);
            prop_assert_eq!((kept.newest(), kept.is_empty()), (newest, newest.is_none()));
        }
    }

    #[test]
    fn promise_is_kept_to_the_latest_and_a_little_longer() {
        let until = |ms| Timestamp::from_millis(ms);
        let revocations = Revocations::promising(until(5_000_000));
        assert!(revocations.hides_until() >= until(5_000_000));
        revocations.promise(until(7_000_000));
        revocations.promise(until(6_000_000));
        let hides_until = revocations.hides_until();
        assert!(hides_until >= until(7_000_000) && hides_until < until(7_000_000 + PROMISE_STEP_MS));
        revocations.promise(Timestamp::MAX);
        assert_eq!(revocations.hides_until(), Timestamp::MAX);
    }

    #[test]
    fn there_is_room_for_65536_owners_and_for_none_more_until_one_is_forgotten() {
        let mut revocations = Revocations::default();
        for seq in 1..=1_u64 << 16 {
            assert!(revocations.has_room(), "{seq}");
            let owner = Some(OwnerKey::from_bytes(u128::from(seq).to_le_bytes()));
            revocations.add(Revocation { owner, seq: Seq(seq), spared: None });
        }
        assert!(!revocations.has_room());
        revocations.forget(Seq(1));
        assert!(revocations.has_room());
    }
}
