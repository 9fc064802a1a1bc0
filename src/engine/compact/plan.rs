//! Which segments to compact: a pure function from numbers to a choice.
//!
//! The bound it keeps (P9): disk use is at most twice the live bytes and two segments. A segment is chosen from half dead on; when the dead
//! bytes of all exceed the allowance although none is half dead, the worst are chosen until they do not.

use crate::id::SegmentId;

/// One sealed segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Usage {
    pub(super) id: SegmentId,
    pub(super) bytes: u64,
    /// Of them, those whose loss would change what the next open finds.
    pub(super) live: u64,
}

/// What a segment must at least hold in dead bytes to be copied: more than the headers that a copy needs itself, so that every copy
/// is smaller and none is copied for ever.
const DEAD_BYTES_MIN: u64 = 1 << 10;

/// On a full disk a segment is copied for this many dead bytes: a block, or what a folder grows by.
const PRESSED_BYTES_MIN: u64 = 4 << 10;

/// And one of this many parts: twice the headers of the copy.
const PRESSED_PARTS: u64 = 2_048;

/// Less than one of this many parts of a copy are headers.
const HEADER_PARTS: u64 = 64;

/// Segments of less than one of this many parts of a full one are small.
const SMALL_PARTS: u64 = 8;

/// This many small segments are merged.
const SMALL_MAX: usize = 8;

impl Usage {
    fn dead(&self) -> u64 {
        self.bytes.saturating_sub(self.live)
    }

    /// Whether a copy is enough smaller for a disk that has no room.
    pub(super) fn is_worth_it(&self) -> bool {
        self.dead() >= PRESSED_BYTES_MIN + self.bytes / PRESSED_PARTS
    }
}

/// The segments to compact in one run, which copies at most about one full segment; none if all is well. `pressed` says that the stream needs
/// a segment and the disk has no room for one.
pub(super) fn choose(all: &[Usage], segment_bytes: u64, pressed: bool) -> Vec<SegmentId> {
    let empty: Vec<_> = all.iter().filter(|s| s.live == 0).map(|s| s.id).collect();
    if !empty.is_empty() {
        return empty;
    }
    if pressed {
        // One at a time: what lives of it fits into the reserve.
        let some: Vec<_> = all.iter().filter(|s| s.is_worth_it()).copied().collect();
        return worst_first(some, 0);
    }
    let half_dead: Vec<_> =
        all.iter().filter(|s| s.dead() * 2 >= s.bytes && s.dead() >= DEAD_BYTES_MIN).copied().collect();
    if !half_dead.is_empty() {
        return worst_first(half_dead, segment_bytes);
    }
    let (live, dead) = all.iter().fold((0, 0), |(live, dead), s| (live + s.live, dead + s.dead()));
    if dead > live / 2 + segment_bytes {
        return worst_first(all.to_vec(), segment_bytes);
    }
    let small: Vec<_> = all.iter().filter(|s| s.bytes * SMALL_PARTS < segment_bytes).copied().collect();
    if small.len() >= SMALL_MAX { worst_first(small, segment_bytes) } else { Vec::new() }
}

/// As many as fit one full segment with what lives of them, the one with the largest dead part first; at least one.
fn worst_first(mut segments: Vec<Usage>, segment_bytes: u64) -> Vec<SegmentId> {
    // Compares dead / bytes without dividing; both are below 2^32.
    segments.sort_by_key(|s| std::cmp::Reverse((s.dead() << 32) / s.bytes.max(1)));
    // The headers of the copies need room as well: all goes into one segment if need be.
    let room = segment_bytes - segment_bytes / HEADER_PARTS;
    let mut copied = 0;
    let fits = |s: &&Usage| {
        copied += s.live;
        copied <= room
    };
    let mut chosen: Vec<_> = segments.iter().take_while(fits).map(|s| s.id).collect();
    if chosen.is_empty() {
        chosen.extend(segments.first().map(|s| s.id));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: u64 = 100_000;

    fn segments(numbers: &[(u64, u64)]) -> Vec<Usage> {
        let usage = |(at, (bytes, live)): (usize, &(u64, u64))| Usage {
            id: SegmentId(u32::try_from(at).unwrap()),
            bytes: *bytes,
            live: *live,
        };
        numbers.iter().enumerate().map(usage).collect()
    }

    fn chosen(numbers: &[(u64, u64)]) -> Vec<u32> {
        choose(&segments(numbers), FULL, false).into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn nothing_is_done_while_most_is_alive() {
        assert_eq!(chosen(&[(100_000, 90_000), (100_000, 50_100)]), [] as [u32; 0]);
    }

    #[test]
    fn dead_segments_go_before_anything_is_copied() {
        assert_eq!(chosen(&[(100_000, 10_000), (100_000, 0), (50_000, 0)]), [1, 2]);
    }

    #[test]
    fn half_dead_segments_go_worst_first_up_to_one_full_segment() {
        assert_eq!(
            chosen(&[(100_000, 50_000), (100_000, 90_000), (100_000, 40_000), (100_000, 30_000)]),
            [3, 2]
        );
    }

    #[test]
    fn many_segments_that_are_nearly_half_dead_are_compacted_too() {
        let many = [(100_000, 56_000); 10];
        assert!(!chosen(&many).is_empty());
    }

    #[test]
    fn on_a_full_disk_the_worst_goes_although_most_of_it_is_alive() {
        let all = segments(&[(100_000, 95_900), (100_000, 90_000), (100_000, 80_000)]);
        assert_eq!(choose(&all, FULL, true), [SegmentId(2)]);
        assert_eq!(choose(&all[..1], FULL, true), []);
        assert_eq!(choose(&segments(&[(1_000, 100)]), FULL, true), []);
    }

    #[test]
    fn on_a_full_disk_a_large_segment_must_give_more_than_the_headers_of_its_copy() {
        let large = 64 << 20;
        let dead = |bytes| segments(&[(large, large - bytes)]);
        assert_eq!(choose(&dead((36 << 10) - 1), large, true), []);
        assert_eq!(choose(&dead(36 << 10), large, true), [SegmentId(0)]);
    }

    #[test]
    fn dead_bytes_are_allowed_up_to_half_of_the_living_and_one_segment() {
        assert_eq!(chosen(&[(100_000, 70_000); 10]), [] as [u32; 0]);
        let mut at_the_bound = [(100_000, 60_000); 10];
        assert_eq!(chosen(&at_the_bound), [] as [u32; 0]);
        at_the_bound[0].1 -= 2;
        assert_eq!(chosen(&at_the_bound)[0], 0);
    }

    #[test]
    fn what_is_copied_in_one_run_fits_a_segment_with_its_headers() {
        assert_eq!(chosen(&[(100_000, 49_500); 2]), [0]);
        assert_eq!(chosen(&[(100_000, 49_200); 2]), [0, 1]);
    }

    #[test]
    fn small_is_less_than_an_eighth() {
        assert_eq!(chosen(&[(12_500, 12_000); 8]), [] as [u32; 0]);
        assert_eq!(chosen(&[(12_499, 12_000); 8]).len(), 8);
        assert_eq!(chosen(&[(50_000, 49_000); 8]), [] as [u32; 0]);
    }

    #[test]
    fn many_small_segments_are_merged() {
        assert_eq!(chosen(&[(10_000, 9_000); 7]), [] as [u32; 0]);
        assert_eq!(chosen(&[(10_000, 9_000); 8]).len(), 8);
    }

    #[test]
    fn segment_that_is_all_headers_but_a_little_is_left_alone() {
        assert_eq!(chosen(&[(208, 96)]), [] as [u32; 0]);
    }
}
