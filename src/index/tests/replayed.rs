//! What replay makes of a few records whose order matters, each case by itself; whole lives are in [`history`](super::history).

use super::*;

fn put(replay: &Replay, version: u64, expires_ms: u64) {
    content(replay, 1, entry(1, 64, version, at(expires_ms)));
}

/// Folds in a content that carries the newest deadline.
fn content(replay: &Replay, number: u64, entry: Entry) {
    let content = Content { entry, owner: None, deadline_seq: entry.version };
    replay.gather().content(&key(number), content);
}

/// The sessions there are, and the older versions that outlive them.
fn counts(index: &Index) -> (usize, usize) {
    (index.len(), index.lock(&key(1)).outlived_count())
}

#[test]
fn older_version_outlives_a_session_only_while_it_has_not_ended_itself() {
    for (now_ms, expected) in
        [(999, (1, 1)), (1_000, (1, 1)), (2_999, (1, 1)), (3_000, (0, 0)), (5_000, (0, 0))]
    {
        let replay = Replay::new(at(0));
        put(&replay, 1, 3_000);
        put(&replay, 2, 1_000);
        assert_eq!(counts(&replay.finish(at(now_ms), 1)), expected, "{now_ms}");
    }
}

#[test]
fn older_version_is_forgotten_in_replay_once_a_touch_lives_as_long() {
    for (touch_ms, outlived) in [(2_999, 1), (3_000, 0), (3_001, 0)] {
        let replay = Replay::new(at(0));
        put(&replay, 1, 3_000);
        put(&replay, 2, 1_000);
        replay.touch(&key(1), Seq(2), Seq(3), SegmentId(2), deadlines(at(touch_ms)));
        assert_eq!(counts(&replay.finish(at(0), 1)), (1, outlived), "{touch_ms}");
    }
}

/// Of a session that was deleted, made anew and shortened, the long version from before the delete does not stand for the one behind it.
#[test]
fn older_version_that_a_tombstone_does_not_end_is_kept_beside_a_longer_one_that_it_ends() {
    for order in [[1, 8, 10], [10, 8, 1], [8, 10, 1], [1, 10, 8]] {
        let replay = Replay::new(at(0));
        for version in order {
            put(&replay, version, if version == 1 { 9_000 } else { 10_000 - version * 900 });
        }
        replay.tombstone(&key(1), Seq(5), SegmentId(2), at(9_000), 96);
        let index = replay.finish(at(0), 1);
        assert_eq!(index.lock(&key(1)).hides_until(&key(1)), at(2_800), "{order:?}");
    }
}

#[test]
fn sessions_that_nothing_later_names_are_dropped_and_the_living_among_them_are_counted() {
    let mut replay = Replay::new(at(0));
    for (number, version, expires_ms) in
        [(1, 1, 9_000), (2, 2, 9_000), (3, 3, 4_000), (4, 4, 4_001), (5, 5, 9_000), (6, 6, 9_000)]
    {
        content(&replay, number, entry(1, 64, version, at(expires_ms)));
    }
    replay.touch(&key(2), Seq(2), Seq(7), SegmentId(2), deadlines(at(9_500)));
    assert_eq!(replay.drop_up_to(Seq(5), at(4_000)), 3, "the third has ended");
    assert_eq!(replay.drop_up_to(Seq(5), at(4_000)), 0);
    let index = replay.finish(at(4_000), 1);
    let left: Vec<_> = (1..=6).filter(|number| index.get(&key(*number)).is_some()).collect();
    assert_eq!((left, index.len()), (vec![2, 6], 2));
    (0..Index::SHARDS).for_each(|shard| check(&index.lock_shard(shard)));
}

/// A session that got another owner has a put and a tombstone of one number; what is later than that tombstone stands.
#[test]
fn newest_touch_counts_in_whatever_order_content_touches_and_tombstones_are_read() {
    let mut orders = vec![Vec::new()];
    for _ in 0..5 {
        let longer = |order: &Vec<u8>| {
            (0..5).filter(|n| !order.contains(n)).map(|n| [&order[..], &[n]].concat()).collect::<Vec<_>>()
        };
        orders = orders.iter().flat_map(longer).collect();
    }
    assert_eq!(orders.len(), 120);
    for order in orders {
        let replay = Replay::new(at(0));
        let touch = |seq, expires_ms| {
            replay.touch(&key(1), Seq(5), Seq(seq), SegmentId(2), deadlines(at(expires_ms)));
        };
        for n in &order {
            match n {
                0 => put(&replay, 5, 5_000),
                1 => touch(6, 6_000),
                2 => touch(7, 7_000),
                3 => replay.tombstone(&key(1), Seq(5), SegmentId(2), at(9_000), 96),
                _ => replay.tombstone(&key(1), Seq(3), SegmentId(2), at(9_000), 96),
            }
        }
        let index = replay.finish(at(0), 1);
        let expires_at = index.get(&key(1)).map(|entry| entry.deadlines.expires_at);
        assert_eq!((expires_at, counts(&index)), (Some(at(7_000)), (1, 0)), "{order:?}");
    }
}

#[test]
fn touch_that_a_copy_does_not_carry_keeps_its_segment() {
    for copy_first in [false, true] {
        let replay = Replay::new(at(0));
        let copy = || content(&replay, 1, entry(3, 64, 1, at(5_000)));
        if copy_first {
            copy();
        }
        put(&replay, 1, 5_000);
        replay.touch(&key(1), Seq(1), Seq(2), SegmentId(2), deadlines(at(6_000)));
        if !copy_first {
            copy();
        }
        let found = replay.finish(at(0), 1).get(&key(1)).unwrap();
        assert_eq!((found.address.segment, found.touched_in), (SegmentId(3), Some(SegmentId(2))));
        assert_eq!(found.deadlines.expires_at, at(6_000));
    }
}
