//! How many bytes of each segment are live, as far as one shard knows: what its sessions and its tombstones keep.
//!
//! *Live* is everything whose loss would change what a recovery finds: the newest content of a session, its newest touch, a tombstone
//! while an older version it hides would still be within its deadline. It decides nothing; what to compact is for the engine to say.
//!
//! Invariant: a segment's figure is the sum of what the sessions of the shard charge to it and of the tombstones not yet released; a
//! tombstone is released no earlier than its time.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use super::Entry;
use super::deadlines::width_ms;
use crate::clock::Timestamp;
use crate::format::{RECORD_HEADER_BYTES, ROTATE_BYTES};
use crate::id::SegmentId;

/// Tombstones are released together in steps of at least this, and at most 19 hours (a thirty-second of 25 days).
const STEP_MS_MIN: u64 = 1 << 10;
const STEP_MS_MAX: u64 = 1 << 26;

#[derive(Default)]
pub(super) struct Usage {
    /// Only segments with something live.
    live: HashMap<SegmentId, u64>,
    /// Bytes by (when they are released, segment): few however many tombstones there are, since times are rounded up to steps
    /// that grow with their distance.
    tombstones: BTreeMap<(u64, SegmentId), u64>,
}

impl Usage {
    /// Counts what a session keeps on disk.
    pub(super) fn charge(&mut self, entry: &Entry) {
        self.add(entry.address.segment, content_bytes(entry));
        if let Some(segment) = entry.touched_in {
            self.add(segment, u64::from(RECORD_HEADER_BYTES));
        }
    }

    /// Takes back what [`charge`](Self::charge) counted for the same entry.
    pub(super) fn release(&mut self, entry: &Entry) {
        self.subtract(entry.address.segment, content_bytes(entry));
        if let Some(segment) = entry.touched_in {
            self.subtract(segment, u64::from(RECORD_HEADER_BYTES));
        }
    }

    /// Counts a tombstone until `hides_until` has passed.
    pub(super) fn add_tombstone(
        &mut self,
        segment: SegmentId,
        hides_until: Timestamp,
        bytes: u32,
        now: Timestamp,
    ) {
        let remaining_ms = hides_until.as_millis().saturating_sub(now.as_millis());
        let step_ms = width_ms(remaining_ms).clamp(STEP_MS_MIN, STEP_MS_MAX);
        let release_ms = hides_until.as_millis().next_multiple_of(step_ms);
        *self.tombstones.entry((release_ms, segment)).or_default() += u64::from(bytes);
        self.add(segment, u64::from(bytes));
    }

    /// Stops counting tombstones that hide nothing any more, a bounded number of steps; says whether that was all.
    pub(super) fn release_tombstones(&mut self, now: Timestamp, steps_max: usize) -> bool {
        for _ in 0..steps_max {
            match self.tombstones.first_entry() {
                Some(first) if first.key().0 <= now.as_millis() => {
                    let ((_, segment), bytes) = first.remove_entry();
                    self.subtract(segment, bytes);
                }
                _ => return true,
            }
        }
        self.tombstones.first_key_value().is_none_or(|((release_ms, _), _)| *release_ms > now.as_millis())
    }

    /// Forgets a segment whose file is gone.
    pub(super) fn forget(&mut self, segment: SegmentId) {
        self.live.remove(&segment);
        self.tombstones.retain(|(_, of), _| *of != segment);
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (SegmentId, u64)> {
        self.live.iter().map(|(segment, bytes)| (*segment, *bytes))
    }

    /// What it has allocated; for the tree, which does not say, twice what its entries take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.live.allocation_size() + 2 * self.tombstones.len() * size_of::<((u64, SegmentId), u64)>()
    }

    #[cfg(test)]
    pub(super) fn tombstones(&self) -> impl Iterator<Item = (SegmentId, u64)> {
        self.tombstones.iter().map(|((_, segment), bytes)| (*segment, *bytes))
    }

    fn add(&mut self, segment: SegmentId, bytes: u64) {
        *self.live.entry(segment).or_default() += bytes;
    }

    /// A segment that was forgotten stays so.
    fn subtract(&mut self, segment: SegmentId, bytes: u64) {
        if let Some(live) = self.live.get_mut(&segment) {
            *live = live.saturating_sub(bytes);
            if *live == 0 {
                self.live.remove(&segment);
            }
        }
    }
}

/// The half of a rotate record that names its old key is a tombstone, and counted as one.
fn content_bytes(entry: &Entry) -> u64 {
    let others = if entry.rotated { ROTATE_BYTES } else { 0 };
    u64::from(entry.address.len.saturating_sub(others))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn after(ms: u64) -> Timestamp {
        Timestamp::from_millis(NOW.as_millis() + ms)
    }

    fn live(usage: &Usage, segment: u32) -> u64 {
        usage.live().find(|(s, _)| s.0 == segment).map_or(0, |(_, bytes)| bytes)
    }

    #[test]
    fn tombstone_counts_until_its_time_and_little_longer() {
        for hides_ms in [1, 1_000, 60_000, 3_600_000, 30 * 86_400_000] {
            let mut usage = Usage::default();
            usage.add_tombstone(SegmentId(1), after(hides_ms), 96, NOW);
            assert!(usage.release_tombstones(after(hides_ms - 1), 10));
            assert_eq!(live(&usage, 1), 96, "released early: {hides_ms} ms");
            assert!(usage.release_tombstones(after(hides_ms + hides_ms / 32 + STEP_MS_MIN), 10));
            assert_eq!(live(&usage, 1), 0, "released late: {hides_ms} ms");
            assert_eq!(usage.live().count(), 0);
        }
    }

    #[test]
    fn a_million_tombstones_take_little_memory() {
        let mut usage = Usage::default();
        for n in 0..1_000_000_u64 {
            usage.add_tombstone(SegmentId(1), after(n * 2_600), 96, NOW);
        }
        assert_eq!(live(&usage, 1), 96_000_000);
        assert!(usage.tombstones.len() < 1_200, "{}", usage.tombstones.len());
    }

    #[test]
    fn releasing_is_done_in_bounded_steps() {
        let mut usage = Usage::default();
        for n in 0..10 {
            usage.add_tombstone(SegmentId(n), after(1), 96, NOW);
        }
        usage.add_tombstone(SegmentId(10), after(3_600_000), 96, NOW);
        // The very instant to which their times are rounded up.
        let now = after(STEP_MS_MIN);
        assert!(!usage.release_tombstones(now, 4));
        assert_eq!(usage.live().count(), 7);
        assert!(usage.release_tombstones(now, 6), "what is left is not due");
        assert_eq!(live(&usage, 10), 96);
    }

    #[test]
    fn forgotten_segment_has_no_bytes_and_its_tombstones_take_none_from_a_later_count() {
        let mut usage = Usage::default();
        usage.add_tombstone(SegmentId(1), after(1), 96, NOW);
        usage.add_tombstone(SegmentId(2), after(1), 40, NOW);
        usage.forget(SegmentId(1));
        assert_eq!((live(&usage, 1), live(&usage, 2)), (0, 40));
        assert!(usage.release_tombstones(after(5_000), 10));
        assert_eq!(usage.live().count(), 0);
    }

    #[test]
    fn memory_that_is_counted_is_what_segments_and_tombstones_take() {
        let mut usage = Usage::default();
        assert_eq!(usage.memory_bytes(), 0);
        for n in 0..1_000 {
            usage.add_tombstone(SegmentId(n), after(1), 96, NOW);
        }
        let least = 1_000 * size_of::<(SegmentId, u64)>() + 2 * 1_000 * size_of::<((u64, SegmentId), u64)>();
        let counted = usage.memory_bytes();
        assert!((least..=least + least / 2).contains(&counted), "{counted} bytes, not some {least}");
    }
}
