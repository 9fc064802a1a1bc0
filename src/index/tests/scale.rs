//! What a million sessions cost, and whether the memory of those that ended is given back.

use super::*;

const SESSIONS: u64 = 1_000_000;

/// A key without a million runs of SHA-256: multiplication by an odd number spreads as well here.
fn spread_key(number: u64) -> SessionKey {
    let mut bytes = [0; 32];
    for (part, odd) in bytes.chunks_exact_mut(8).zip([
        0x9E37_79B9_7F4A_7C15_u64,
        0xC2B2_AE3D_27D4_EB4F,
        0x1656_67B1_9E37_79F9,
        0xD6E8_FEB8_6659_FD93,
    ]) {
        let mixed = (number + 1).wrapping_mul(odd);
        part.copy_from_slice(&(mixed ^ (mixed >> 29)).wrapping_mul(odd).to_le_bytes());
    }
    SessionKey::from_bytes(bytes)
}

fn per_session(index: &Index) -> usize {
    index.memory_bytes().div_ceil(index.len().max(1))
}

#[test]
fn million_sessions_take_72_bytes_each_through_churn_and_mass_expiry() {
    let index = Index::new();
    let set = |number: u64, expires_ms: u64| {
        let key = spread_key(number);
        index.lock(&key).set(&key, entry(1, 0, number, at(expires_ms)), None, at(0));
    };
    // One in ten lives for long; the others end within one second.
    let expires_ms = |number: u64| {
        if number.is_multiple_of(10) { 86_400_000 + number } else { 1_800_000 + number % 1_000 }
    };
    (0..SESSIONS).for_each(|number| set(number, expires_ms(number)));
    assert_eq!(index.len(), 1_000_000);
    assert!(per_session(&index) <= 72, "{} bytes", per_session(&index));

    for number in 0..SESSIONS / 2 {
        let key = spread_key(number);
        index.lock(&key).remove(&key);
        set(SESSIONS + number, expires_ms(number));
    }
    assert!(per_session(&index) <= 72, "{} bytes after churn", per_session(&index));
    let buckets = (0..Index::SHARDS).map(|shard| index.lock_shard(shard).parts().1.len()).max().unwrap();
    assert!(buckets < 64, "{buckets} buckets for deadlines within a second and within 17 minutes");

    let removed: usize = (0..Index::SHARDS)
        .map(|shard| {
            let mut removed = 0;
            loop {
                let expired = index.lock_shard(shard).expire(at(1_801_200), 1_000, false);
                removed += expired.removed;
                if !expired.more {
                    return removed;
                }
            }
        })
        .sum();
    assert_eq!((removed, index.len()), (900_000, 100_000));
    assert!(per_session(&index) <= 72 * 13 / 10, "{} bytes after expiry", per_session(&index));
    (0..Index::SHARDS).for_each(|shard| check(&index.lock_shard(shard)));
}

/// Asserts that at least so many bytes are counted, and not half as many more: what is spare in a table or a vector.
#[track_caller]
fn assert_near(counted: usize, least: usize) {
    assert!((least..=least + least / 2).contains(&counted), "{counted} bytes, not some {least}");
}

#[test]
fn memory_that_is_counted_is_what_the_sessions_and_all_about_them_take() {
    let index = Index::new();
    assert_near(index.memory_bytes(), Index::SHARDS * size_of::<Shard>());

    let mut shard = shard();
    // Each is near enough to its end to get a bucket of its own.
    let instant = |number: u64| at(number * 128);
    for number in 0..256 {
        shard.set(&key(number), entry(1, 0, number, instant(number + 1)), None, instant(number));
    }
    let (slab, buckets) = shard.parts();
    assert_eq!((slab.len(), buckets.len()), (256, 256));
    assert_near(slab.memory_bytes(), 256 * 72);
    let in_use = 256 * 16;
    assert_near(buckets.memory_bytes(), in_use + 2 * 256 * size_of::<(u64, u32)>());
    let parts = |shard: &Shard| {
        let (slab, buckets) = shard.parts();
        slab.memory_bytes() + buckets.memory_bytes() + shard.usage().memory_bytes()
    };
    assert_eq!(shard.memory_bytes(), parts(&shard));

    assert_eq!(shard.expire(instant(257), 1_000, false).removed, 256);
    assert_eq!(shard.parts().1.len(), 0);
    assert_near(shard.parts().1.memory_bytes(), in_use + 256 * size_of::<u32>());

    for number in 0..256 {
        shard.set(&key(number), entry(1, 0, number, instant(90_000)), None, instant(257));
        shard.set(&key(number), entry(1, 0, number, instant(30_000)), None, instant(257));
    }
    assert_eq!(shard.outlived_count(), 256);
    let outlived = shard.memory_bytes() - parts(&shard);
    assert!(outlived >= 256 * (12 + 32 + 8), "{outlived}");
    assert!(outlived <= 512 * (12 + 32 + 8 + 8), "{outlived}");
}

#[test]
fn memory_of_sessions_that_got_their_tombstones_is_given_back() {
    let mut shard = shard();
    for number in 0..2_000 {
        shard.set(&key(number), entry(1, 0, number, at(90_000)), None, at(0));
        shard.set(&key(number), entry(1, 0, number, at(1_000)), None, at(0));
    }
    let full = shard.memory_bytes();
    // All but a few get their tombstones.
    for number in 10..2_000 {
        shard.remove(&key(number));
    }
    let before = shard.memory_bytes();
    assert_eq!(shard.expire(at(2_000), 100, false).outlived.len(), 10);
    let after = shard.memory_bytes();
    assert!(after < before && after < full / 20, "{full} {before} {after}");
    check(&shard);
}

#[test]
fn table_of_older_versions_that_is_used_by_half_is_left_as_it_is() {
    let mut shard = shard();
    for number in 0..300 {
        shard.set(&key(number), entry(1, 0, number, at(90_000)), None, at(0));
        shard.set(&key(number), entry(1, 0, number, at(60_000)), None, at(0));
    }
    let table = |shard: &Shard| {
        let (slab, buckets) = shard.parts();
        shard.memory_bytes() - slab.memory_bytes() - buckets.memory_bytes() - shard.usage().memory_bytes()
    };
    let full = table(&shard);
    for number in 150..300 {
        shard.remove(&key(number));
    }
    assert_eq!(shard.expire(at(1_000), 10, false).removed, 0);
    assert_eq!(table(&shard), full);
}

#[test]
fn owner_costs_a_session_32_bytes_and_the_others_nothing() {
    const EACH: u64 = 200_000;
    for share in [1, 3, 20] {
        let index = Index::new();
        let set = |number: u64, owner: Option<OwnerKey>| {
            let key = spread_key(number);
            let entry = Entry { owned: owner.is_some(), ..entry(1, 0, number, at(9_000)) };
            index.lock(&key).set(&key, entry, owner, at(0));
        };
        (0..EACH).for_each(|number| set(number, None));
        let bare = index.memory_bytes();
        // Sign-ins of sessions that are there: as bytes of a key, the number of a user who has three.
        let owner = |number: u64| {
            OwnerKey::from_bytes(
                u128::from((number / 3 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes(),
            )
        };
        let theirs = (0..EACH).filter(|number| number.is_multiple_of(share));
        theirs.clone().for_each(|number| set(number, Some(owner(number))));
        let each = (index.memory_bytes() - bare).div_ceil(theirs.clone().count());
        assert!(each <= 32, "{each} bytes for each, one session in {share} is owned");
        theirs.for_each(|number| set(number, None));
        assert!(index.memory_bytes() - bare < 1_024 * Index::SHARDS, "{}", index.memory_bytes() - bare);
    }
}
