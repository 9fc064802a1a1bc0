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
                let expired = index.lock_shard(shard).expire(at(1_801_200), 1_000);
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
