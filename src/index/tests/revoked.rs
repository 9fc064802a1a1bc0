//! What a revocation does to an index: who is gone at once, and what a sweep takes out.
//!
//! Not which of several revocations count; that is tested beside them.

use super::*;

fn ann() -> OwnerKey {
    OwnerKey::of(b"ann")
}

/// A session of that number, its version, which ends at 9 s.
fn set(index: &Index, number: u64, owner: Option<OwnerKey>) {
    let entry = Entry { owned: owner.is_some(), ..entry(1, 0, number, at(9_000)) };
    index.lock(&key(number)).set(&key(number), entry, owner, at(0));
}

fn revoke(index: &Index, owner: Option<OwnerKey>, seq: u64, spared: Option<SessionKey>) {
    index.revoke().add(Revocation { owner, seq: Seq(seq), spared });
}

/// The sessions that a reader finds, that a writer finds, and that a walk finds, which must be the same.
fn found(index: &Index) -> Vec<u64> {
    let is_read = |number: &u64| index.get(&key(*number)).is_some();
    let is_written = |number: &u64| {
        let shard = index.lock(&key(*number));
        let standing = index.standing(&shard, &key(*number));
        standing.live(at(0)).is_some()
    };
    let read: Vec<_> = (1..100).filter(is_read).collect();
    assert_eq!((1..100).filter(is_written).collect::<Vec<_>>(), read);
    let walk = |shard| index.page(&index.lock_shard(shard), u32::MAX, usize::MAX).entries;
    let mut walked: Vec<_> = (0..Index::SHARDS).flat_map(walk).map(|entry| entry.version.0).collect();
    walked.sort_unstable();
    assert_eq!(walked, read);
    read
}

/// How many sessions a sweep through all shards takes out.
fn sweep(index: &Index) -> usize {
    let mut removed = 0;
    for shard in 0..Index::SHARDS {
        let mut left = u32::MAX;
        while left > 0 {
            let mut locked = index.lock_shard(shard);
            let Swept { removed: taken, left: after, .. } = index.sweep_revoked(&mut locked, left, 2, false);
            assert!(after < left);
            (removed, left) = (removed + taken, after);
        }
    }
    removed
}

#[test]
fn revoked_session_is_gone_at_once_and_taken_out_by_a_sweep() {
    let index = Index::new();
    for number in 1..=20 {
        set(&index, number, Some(ann()));
    }
    set(&index, 21, Some(OwnerKey::of(b"bob")));
    set(&index, 22, None);
    assert_eq!((found(&index), index.revoked_last()), ((1..=22).collect(), None));

    revoke(&index, Some(ann()), 18, Some(key(3)));
    assert_eq!(index.revoked_last(), Some(Seq(18)));
    assert_eq!(found(&index), [3, 18, 19, 20, 21, 22], "the spared, the newer, those of others");
    assert_eq!(index.len(), 22, "they are still there");
    revoke(&index, None, 19, None);
    assert_eq!(index.revoked_last(), Some(Seq(19)));
    assert_eq!(found(&index), [19, 20, 21, 22]);

    assert_eq!(sweep(&index), 18);
    assert_eq!((sweep(&index), index.len()), (0, 4));
    index.revoked(Seq(18));
    assert_eq!(index.revoked_last(), Some(Seq(19)), "one came while the sweep was under way");
    index.revoked(Seq(19));
    assert_eq!((index.revoked_last(), found(&index)), (None, vec![19, 20, 21, 22]));
    assert_eq!(live(&index.lock(&key(22))).values().sum::<u64>() % 400, 0);
    (0..Index::SHARDS).for_each(|shard| check(&index.lock_shard(shard)));
}

#[test]
fn writer_of_an_owned_session_notes_how_long_its_record_lasts() {
    let index = Index::new();
    set(&index, 1, Some(ann()));
    set(&index, 2, None);
    let promise = |number, until| {
        let shard = index.lock(&key(number));
        index.standing(&shard, &key(number)).promise(until);
        index.revocations().hides_until()
    };
    assert_eq!(promise(2, at(90_000_000)), Timestamp::default(), "nobody can revoke it");
    assert!(promise(1, at(5_000)) >= at(5_000));
    assert!(promise(1, at(90_000_000)) >= at(90_000_000));
}

#[test]
fn session_that_ended_stands_but_does_not_live() {
    let index = Index::new();
    set(&index, 1, Some(ann()));
    let shard = index.lock(&key(1));
    let standing = index.standing(&shard, &key(1));
    assert!(standing.live(at(8_999)).is_some() && standing.live(at(9_000)).is_none());
    assert_eq!((standing.found.unwrap().version, standing.owner), (Seq(1), Some(ann())));
}
