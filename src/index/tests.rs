//! What a shard and the index promise, against a model that is too simple to be wrong: a map from key to entry, searched from end to end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::format::{RECORD_HEADER_BYTES, ROTATE_BYTES};

mod history;
mod replayed;
mod revoked;
mod scale;

const START_MS: u64 = 1_700_000_000_000;
/// A session that ended is gone this much later at the latest, if expiry is run.
const LATE_MS: u64 = 128;

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(START_MS + ms)
}

fn later(time: Timestamp, ms: u64) -> Timestamp {
    Timestamp::from_millis(time.as_millis().saturating_add(ms))
}

fn key(number: u64) -> SessionKey {
    SessionKey::of(&number.to_le_bytes())
}

fn deadlines(expires_at: Timestamp) -> Deadlines {
    Deadlines { idle_ms: 60_000, absolute_at: Timestamp::MAX, expires_at, exact: false }
}

fn entry(segment: u32, offset: u32, version: u64, expires_at: Timestamp) -> Entry {
    Entry {
        labelled: false,
        address: Address { segment: SegmentId(segment), offset, len: 400 },
        rotated: false,
        owned: false,
        version: Seq(version),
        deadlines: deadlines(expires_at),
        created_s: 7,
        touched_in: None,
    }
}

fn shard() -> Shard {
    Shard::new(Arc::default())
}

fn live(shard: &Shard) -> BTreeMap<SegmentId, u64> {
    shard.usage().live().collect()
}

/// What entries keep on disk, by the definition.
fn charges<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> BTreeMap<SegmentId, u64> {
    let mut sum = BTreeMap::new();
    for entry in entries {
        let content = entry.address.len - if entry.rotated { ROTATE_BYTES } else { 0 };
        *sum.entry(entry.address.segment).or_default() += u64::from(content);
        if let Some(segment) = entry.touched_in {
            *sum.entry(segment).or_default() += u64::from(RECORD_HEADER_BYTES);
        }
    }
    sum
}

/// Everything a shard must keep true by itself, whatever was done to it.
fn check(shard: &Shard) {
    let (slab, buckets) = shard.parts();
    buckets.check(slab);
    let Page { entries, looked_at, left } = shard.page(u32::MAX, usize::MAX, None);
    assert_eq!((entries.len(), looked_at, left), (slab.len() as usize, entries.len(), 0));
    let mut expected = charges(&entries);
    for (segment, bytes) in shard.usage().tombstones() {
        *expected.entry(segment).or_default() += bytes;
    }
    assert_eq!(live(shard), expected);
    assert!(shard.outlived_count() <= entries.len());
}

#[derive(Clone, Debug)]
enum Op {
    Set { key: u64, lifetime_ms: u64, rotated: bool, touched: bool },
    Remove { key: u64 },
    Publish { key: u64, stale: bool, same_deadlines: bool },
    PublishTouch { key: u64, same_deadlines: bool },
    Pass { ms: u64 },
    Expire { max: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..40_u64;
    let lifetime_ms = prop_oneof![0..1_000_u64, 0..100_000_u64, Just(1 << 31), Just(u64::MAX)];
    prop_oneof![
        8 => (key(), lifetime_ms, any::<bool>(), any::<bool>())
            .prop_map(|(key, lifetime_ms, rotated, touched)| Op::Set { key, lifetime_ms, rotated, touched }),
        2 => key().prop_map(|key| Op::Remove { key }),
        2 => (key(), any::<bool>(), any::<bool>())
            .prop_map(|(key, stale, same_deadlines)| Op::Publish { key, stale, same_deadlines }),
        2 => (key(), any::<bool>()).prop_map(|(key, same_deadlines)| Op::PublishTouch { key, same_deadlines }),
        2 => prop_oneof![0..500_u64, 0..50_000_u64].prop_map(|ms| Op::Pass { ms }),
        3 => prop_oneof![1..5_usize, Just(1_000)].prop_map(|max| Op::Expire { max }),
    ]
}

/// A shard, and what it should know: for each key its entry and the latest deadline of any of its versions.
#[derive(Default)]
struct Model {
    sessions: BTreeMap<u64, (Entry, Timestamp)>,
    now_ms: u64,
    seq: u64,
}

impl Model {
    fn apply(&mut self, shard: &mut Shard, op: &Op) {
        self.seq += 1;
        let now = at(self.now_ms);
        match *op {
            Op::Set { key: number, lifetime_ms, rotated, touched } => {
                let expires_at = later(now, lifetime_ms);
                let segment = u32::try_from(self.seq / 16).unwrap() + 1;
                let touched_in = touched.then_some(SegmentId(segment + 1));
                let entry = Entry { rotated, touched_in, ..entry(segment, 64, self.seq, expires_at) };
                shard.set(&key(number), entry, None, now);
                let older = self.sessions.get(&number).map_or(Timestamp::default(), |(_, until)| *until);
                let until = if older > now { expires_at.max(older) } else { expires_at };
                self.sessions.insert(number, (entry, until));
            }
            Op::Remove { key: number } => {
                let expected = self.sessions.remove(&number).map(|(entry, _)| entry);
                assert_eq!(shard.remove(&key(number)), expected);
            }
            Op::Publish { key: number, stale, same_deadlines } => {
                let Some((entry, _)) = self.sessions.get_mut(&number) else { return };
                let mut read = *entry;
                read.address.offset += u32::from(stale);
                read.deadlines = if same_deadlines { entry.deadlines } else { deadlines(at(1 << 40)) };
                let to = Address { segment: SegmentId(900), offset: 64, len: 300 };
                assert_eq!(shard.publish(&key(number), &read, to), !stale);
                if !stale {
                    let touched_in = if same_deadlines { None } else { entry.touched_in };
                    *entry = Entry { address: to, rotated: false, touched_in, ..*entry };
                }
            }
            Op::PublishTouch { key: number, same_deadlines } => {
                let Some((entry, _)) = self.sessions.get_mut(&number) else { return };
                let from = entry.touched_in.unwrap_or(SegmentId(1));
                let carried = if same_deadlines { entry.deadlines } else { deadlines(at(1 << 40)) };
                let done = shard.publish_touch(&key(number), from, SegmentId(901), carried);
                assert_eq!(done, same_deadlines && entry.touched_in.is_some());
                if done {
                    entry.touched_in = Some(SegmentId(901));
                }
            }
            Op::Pass { ms } => self.now_ms += ms,
            Op::Expire { max } => self.expire(shard, max),
        }
    }

    fn expire(&mut self, shard: &mut Shard, max: usize) {
        let now = at(self.now_ms);
        let done = shard.expire(now, max, false);
        assert!(done.removed + done.outlived.len() <= max);
        let before = self.sessions.len();
        self.sessions.retain(|number, (entry, until)| {
            let here = shard.get(&key(*number)).is_some();
            assert!(here || !entry.deadlines.is_live(now), "{number} ended early");
            assert!(here || *until <= now, "{number} went without a tombstone");
            let noticed = later(entry.deadlines.expires_at, LATE_MS) > now;
            assert!(!here || done.more || noticed || later(*until, 1_200) > now, "{number} was left behind");
            here
        });
        assert_eq!(before - self.sessions.len(), done.removed);
        for (key_out, entry_out, hides_until) in done.outlived {
            let (entry, until) = self.sessions.values().find(|(e, _)| *e == entry_out).unwrap();
            assert!(!entry.deadlines.is_live(now) && *until > now);
            assert_eq!((hides_until, shard.hides_until(&key_out)), (*until, *until));
            assert_eq!(shard.get(&key_out), Some(entry_out));
        }
    }

    fn check(&self, shard: &Shard) {
        check(shard);
        for number in 0..40 {
            let expected = self.sessions.get(&number);
            assert_eq!(shard.get(&key(number)), expected.map(|(entry, _)| *entry));
            let until = expected.map_or(Timestamp::default(), |(_, until)| *until);
            let hides_until = shard.hides_until(&key(number));
            assert!(hides_until == until || (hides_until.max(until) <= at(self.now_ms)));
        }
    }
}

proptest! {
    #[test]
    fn shard_does_what_a_plain_map_does_and_never_ends_a_session_early(ops in prop::collection::vec(op(), 1..300)) {
        let (mut shard, mut model) = (shard(), Model::default());
        for op in &ops {
            model.apply(&mut shard, op);
            model.check(&shard);
        }
    }

    #[test]
    fn walk_meets_every_session_that_lives_throughout(
        ended in prop::collection::vec((0..200_u64, 1..20_usize), 1..100),
    ) {
        let mut shard = shard();
        for number in 0..200 {
            shard.set(&key(number), entry(1, 0, number, at(1_000)), None, at(0));
        }
        let (mut met, mut left) = (std::collections::BTreeSet::new(), u32::MAX);
        let mut turns = ended.iter();
        while left > 0 {
            let limit = turns.next().map_or(7, |(number, limit)| {
                shard.remove(&key(*number));
                *limit
            });
            let len = shard.parts().0.len();
            let Page { entries: page, looked_at, left: after } = shard.page(left, limit, None);
            prop_assert!(page.len() <= limit && after < left);
            prop_assert_eq!((page.len(), looked_at), (looked_at, (left.min(len) - after) as usize));
            met.extend(page.iter().map(|entry| entry.version.0));
            left = after;
        }
        let living = shard.page(u32::MAX, usize::MAX, None).entries;
        prop_assert!(living.iter().all(|entry| met.contains(&entry.version.0)));
    }
}

#[test]
fn touched_session_is_not_ended_at_its_old_deadline() {
    let mut shard = shard();
    shard.set(&key(1), entry(1, 0, 1, at(1_000)), None, at(0));
    shard.set(&key(1), entry(1, 0, 1, at(100_000)), None, at(500));
    assert_eq!(shard.expire(at(99_999), 10, false).removed, 0);
    assert_eq!(shard.get(&key(1)).unwrap().deadlines.expires_at, at(100_000));
    assert_eq!(shard.expire(at(100_000 + LATE_MS), 10, false).removed, 1);
    assert!(live(&shard).is_empty());
}

#[test]
fn touch_that_brings_the_deadline_again_that_a_copy_carries_is_still_needed() {
    let mut shard = shard();
    let read = entry(1, 64, 1, at(9_000));
    shard.set(&key(1), read, None, at(0));
    // While the content is copied: shortened, and given the old deadline again, each in another segment.
    shard.set(
        &key(1),
        Entry { touched_in: Some(SegmentId(4)), deadlines: deadlines(at(500)), ..read },
        None,
        at(0),
    );
    shard.set(&key(1), Entry { touched_in: Some(SegmentId(5)), ..read }, None, at(0));
    let to = Address { segment: SegmentId(3), offset: 64, len: 400 };
    assert!(shard.publish(&key(1), &read, to));
    assert_eq!(live(&shard)[&SegmentId(5)], u64::from(RECORD_HEADER_BYTES));
    check(&shard);
}

#[test]
fn session_outlived_by_an_older_version_is_handed_out_until_it_is_removed() {
    let mut shard = shard();
    shard.set(&key(1), entry(1, 0, 1, at(100_000)), None, at(0));
    shard.set(&key(1), entry(2, 0, 2, at(1_000)), None, at(500));
    assert_eq!(shard.hides_until(&key(1)), at(100_000));
    for now in [1_200, 3_000] {
        let expired = shard.expire(at(now), 10, false);
        assert_eq!((expired.removed, expired.more), (0, false));
        assert_eq!(expired.outlived, [(key(1), entry(2, 0, 2, at(1_000)), at(100_000))]);
        assert!(shard.expire(at(now + 1), 10, false).outlived.is_empty());
    }
    shard.add_tombstone(SegmentId(3), at(100_000), RECORD_HEADER_BYTES);
    assert!(shard.remove(&key(1)).is_some());
    assert_eq!((live(&shard), shard.outlived_count()), (BTreeMap::from([(SegmentId(3), 96)]), 0));
    assert!(!shard.expire(at(99_999), 10, false).more);
    assert_eq!(live(&shard).len(), 1);
    assert!(!shard.expire(at(110_000), 10, false).more);
    assert!(live(&shard).is_empty());
}

#[test]
fn session_put_off_for_its_tombstone_and_written_anew_ends_at_its_new_deadline() {
    let mut shard = shard();
    shard.set(&key(1), entry(1, 0, 1, at(1_400)), None, at(0));
    shard.set(&key(1), entry(2, 0, 2, at(1_000)), None, at(500));
    assert_eq!(shard.expire(at(1_200), 10, false).outlived.len(), 1);
    shard.set(&key(1), entry(3, 0, 3, at(1_500)), None, at(1_210));
    assert_eq!(shard.expire(at(1_499), 10, false).removed, 0);
    assert_eq!(shard.expire(at(1_500 + LATE_MS), 10, false).removed, 1);
}

#[test]
fn session_and_its_older_version_are_gone_at_the_very_instant_of_the_last_deadline() {
    let mut shard = shard();
    // These instants end a finest bucket, so they are looked at no later.
    shard.set(&key(1), entry(1, 0, 1, at(1_280)), None, at(0));
    shard.set(&key(2), entry(1, 0, 2, at(2_560)), None, at(0));
    shard.set(&key(2), entry(1, 0, 3, at(2_500)), None, at(0));
    assert_eq!(shard.expire(at(1_279), 10, false).removed, 0);
    assert_eq!(shard.expire(at(1_280), 10, false).removed, 1);
    let expired = shard.expire(at(2_560), 10, false);
    assert_eq!((expired.removed, expired.outlived.len(), expired.more), (1, 0, false));
}

#[test]
fn session_without_an_end_is_in_no_bucket_until_it_is_given_one() {
    let mut shard = shard();
    shard.set(&key(1), entry(1, 0, 1, Timestamp::MAX), None, at(0));
    shard.set(&key(2), entry(1, 0, 2, at(5)), None, at(0));
    assert_eq!(shard.expire(at(1 << 40), 10, false).removed, 1);
    check(&shard);
    shard.set(&key(1), entry(1, 0, 3, later(at(1 << 40), 900)), None, at(1 << 40));
    assert_eq!(shard.outlived_count(), 1);
    shard.remove(&key(1));
    check(&shard);
}

#[test]
fn older_version_is_forgotten_once_a_newer_one_lives_as_long() {
    let mut shard = shard();
    for (version, expires_ms, outlived) in [(1, 9_000, 0), (2, 1_000, 1), (3, 8_000, 1), (4, 9_000, 0)] {
        shard.set(&key(1), entry(1, 0, version, at(expires_ms)), None, at(0));
        assert_eq!((shard.outlived_count(), shard.hides_until(&key(1))), (outlived, at(9_000)));
    }
    assert_eq!(shard.expire(at(9_200), 10, false).removed, 1);
}

#[test]
fn two_shards_are_told_apart_and_may_be_one() {
    let index = Index::new();
    let other = (1..1_000).map(key).find(|k| Index::shard_of(k) != Index::shard_of(&key(0))).unwrap();
    for (a, b) in [(key(0), other), (other, key(0)), (key(0), key(0))] {
        let mut two = index.lock_two(&a, &b);
        two.of(&a).set(&a, entry(1, 0, 1, at(9)), None, at(0));
        two.of(&b).set(&b, entry(2, 0, 2, at(9)), None, at(0));
        assert_eq!(two.of(&b).get(&b).unwrap().version, Seq(2));
        drop(two);
        assert_eq!(index.lock(&b).get(&b).unwrap().version, Seq(2));
    }
    assert_eq!(index.len(), 2);
}

#[test]
fn index_sums_over_its_shards() {
    let index = Index::new();
    for number in 0..1_000 {
        let segment = u32::try_from(number % 2).unwrap() + 1;
        index.lock(&key(number)).set(&key(number), entry(segment, 0, number, at(9_000)), None, at(0));
    }
    let expected = HashMap::from([(SegmentId(1), 200_000), (SegmentId(2), 200_000)]);
    assert_eq!((index.live_bytes(), index.len()), (expected, 1_000));
    index.lock(&key(7)).add_tombstone(SegmentId(3), at(9_000), 96);
    index.forget_segment(SegmentId(3));
    for number in (0..1_000).step_by(2) {
        index.lock(&key(number)).remove(&key(number));
    }
    assert_eq!((index.live_bytes(), index.len()), (HashMap::from([(SegmentId(2), 200_000)]), 500));
}

#[test]
fn session_that_was_handed_out_is_taken_unless_it_was_written_anew() {
    let mut shard = shard();
    for number in 1..=3 {
        shard.set(&key(number), entry(1, 0, number, at(1_000)), None, at(0));
    }
    let handed_out = shard.expire(at(2_000), 10, true);
    assert_eq!((handed_out.removed, handed_out.handed_out.len(), shard.parts().0.len()), (0, 3, 3));
    shard.set(&key(2), entry(1, 0, 9, at(9_000)), None, at(2_000));
    shard.remove(&key(3));
    let taken: Vec<_> =
        handed_out.handed_out.iter().filter(|named| shard.take(named)).map(|(_, e)| e.version.0).collect();
    assert_eq!(taken, [1]);
    assert!(shard.get(&key(2)).is_some());
    check(&shard);
    // Who is not taken comes again.
    shard.set(&key(4), entry(1, 0, 4, at(2_100)), None, at(2_000));
    assert_eq!(shard.expire(at(3_000), 10, true).handed_out.len(), 1);
    assert_eq!(shard.expire(at(3_001), 10, false).removed, 0);
    assert_eq!(shard.expire(at(4_000 + LATE_MS), 10, false).removed, 1);
}
