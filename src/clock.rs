//! Time, behind a seam: the system's clock, and one that a test or a simulation moves by hand.
//!
//! A store needs two readings: the wall clock, once, to know where in history it stands when it opens; and an uptime that
//! never steps and counts suspended time, to advance from there. So a wall clock that is set back while the store runs moves
//! no deadline. This is the only module that names the system's time.

use std::fmt;
#[cfg(not(all(test, shuttle)))]
use std::time::Instant;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(all(test, shuttle)))]
use crate::sync::{Condvar, MutexGuard};

/// An instant in store time: milliseconds since 1970-01-01 UTC.
///
/// ```
/// use cloakroom::Timestamp;
/// use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
///
/// let t = Timestamp::from_millis(1_500);
/// assert_eq!(t.as_millis(), 1_500);
/// assert_eq!(SystemTime::from(t), UNIX_EPOCH + Duration::from_millis(1_500));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The latest instant a store can hold (the year 10889): 48 bits of milliseconds, so that it fits an index slot.
    pub const MAX: Self = Self((1 << 48) - 1);

    /// The instant this many milliseconds after 1970-01-01 UTC, or [`MAX`](Self::MAX) if that is later.
    ///
    /// ```
    /// # use cloakroom::Timestamp;
    /// assert_eq!(Timestamp::from_millis(u64::MAX), Timestamp::MAX);
    /// ```
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        if ms > Self::MAX.0 { Self::MAX } else { Self(ms) }
    }

    /// Milliseconds since 1970-01-01 UTC.
    ///
    /// ```
    /// # use cloakroom::Timestamp;
    /// assert_eq!(Timestamp::from_millis(7).as_millis(), 7);
    /// ```
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This much later, or [`MAX`](Self::MAX) where that would be out of range. Parts of a millisecond count as a whole one,
    /// so that a deadline is never early.
    ///
    /// ```
    /// # use cloakroom::Timestamp;
    /// # use std::time::Duration;
    /// assert_eq!((Timestamp::from_millis(5).saturating_add(Duration::from_micros(1_001))).as_millis(), 7);
    /// ```
    #[must_use]
    pub fn saturating_add(self, by: Duration) -> Self {
        let part_ms = u64::from(by.subsec_nanos().div_ceil(1_000_000));
        Self::from_millis(by.as_secs().saturating_mul(1_000).saturating_add(part_ms).saturating_add(self.0))
    }

    /// How long after `earlier` this is; zero if it is not.
    ///
    /// ```
    /// # use cloakroom::Timestamp;
    /// # use std::time::Duration;
    /// let (a, b) = (Timestamp::from_millis(5), Timestamp::from_millis(9));
    /// assert_eq!(b.saturating_since(a), Duration::from_millis(4));
    /// assert_eq!(a.saturating_since(b), Duration::ZERO);
    /// ```
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

impl From<Timestamp> for SystemTime {
    fn from(t: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_millis(t.0)
    }
}

/// Where a store gets its time from. [`SystemClock`] unless [`Options::clock`](crate::Options::clock) says otherwise.
///
/// ```
/// use cloakroom::{Clock, SystemClock};
///
/// let clock = SystemClock;
/// let before = clock.uptime();
/// assert!(clock.uptime() >= before);
/// assert!(clock.wall().as_millis() > 1_700_000_000_000);
/// ```
pub trait Clock: Send + Sync + 'static {
    /// The wall clock. Read when a store opens; it may step.
    fn wall(&self) -> Timestamp;

    /// Time since some fixed instant; it never steps back, and goes on while the machine is suspended. Read for every operation,
    /// so it should cost nanoseconds.
    fn uptime(&self) -> Duration;
}

/// The operating system's clocks: real time, and boot time (which counts suspended time).
///
/// ```
/// use cloakroom::{Clock, SystemClock};
/// assert!(SystemClock.uptime() <= SystemClock.uptime());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the seam that the lint points to")]
    fn wall(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn uptime(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}

/// A clock that stands still until it is moved: for tests that cross deadlines without sleeping, and for replaying the past.
///
/// ```
/// use cloakroom::{Clock, ManualClock, Timestamp};
/// use std::time::Duration;
///
/// let clock = ManualClock::at(Timestamp::from_millis(1_000));
/// clock.advance(Duration::from_secs(2));
/// assert_eq!(clock.wall(), Timestamp::from_millis(3_000));
/// ```
#[derive(Debug)]
pub struct ManualClock {
    wall_ms: AtomicU64,
    uptime_ms: AtomicU64,
}

impl ManualClock {
    /// A clock whose wall shows `wall`.
    ///
    /// ```
    /// # use cloakroom::{Clock, ManualClock, Timestamp};
    /// assert_eq!(ManualClock::at(Timestamp::from_millis(9)).wall().as_millis(), 9);
    /// ```
    #[must_use]
    pub fn at(wall: Timestamp) -> Self {
        Self { wall_ms: AtomicU64::new(wall.as_millis()), uptime_ms: AtomicU64::new(0) }
    }

    /// Lets time pass: wall and uptime move together. Parts of a millisecond are dropped.
    ///
    /// ```
    /// # use cloakroom::{Clock, ManualClock, Timestamp};
    /// # use std::time::Duration;
    /// let clock = ManualClock::at(Timestamp::default());
    /// clock.advance(Duration::from_millis(3));
    /// assert_eq!(clock.uptime(), Duration::from_millis(3));
    /// ```
    pub fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
        self.uptime_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Sets the wall alone, as an administrator or a time server does; the uptime does not notice.
    ///
    /// ```
    /// # use cloakroom::{Clock, ManualClock, Timestamp};
    /// let clock = ManualClock::at(Timestamp::from_millis(9));
    /// clock.set_wall(Timestamp::from_millis(4));
    /// assert_eq!((clock.wall().as_millis(), clock.uptime().as_millis()), (4, 0));
    /// ```
    pub fn set_wall(&self, wall: Timestamp) {
        self.wall_ms.store(wall.as_millis(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.wall_ms.load(Ordering::SeqCst))
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(self.uptime_ms.load(Ordering::SeqCst))
    }
}

/// A start this far ahead of the mark may be a wall clock that is wrong; or the server was down for so long.
const DOUBT_FROM: Duration = Duration::from_secs(24 * 3_600);
/// How long such a start is doubted, from the first time that the clock showed such a time.
const DOUBT_FOR: Duration = Duration::from_secs(3_600);

/// Store time: it starts at the later of the wall clock and the mark the store last wrote down, and advances by uptime.
///
/// Invariant: it never goes back, neither while the store runs nor across a restart on the same mark (P2). A start far ahead of
/// the mark is *doubtful* for its first hour, or until a later start shows an hour more: reads go by the time it shows, and nobody
/// is ended for good by it; deadlines that are given meanwhile are as late as it says. No mark is raised, and what is removed has ended by the mark;
/// a restart with the step withdrawn finds everybody whom it alone had ended.
pub(crate) struct StoreClock {
    source: std::sync::Arc<dyn Clock>,
    start: Timestamp,
    uptime_at_start: Duration,
    /// While the start is doubtful: the mark to keep, what the wall showed when it was doubted first, and how long it still is.
    doubt: Option<Doubt>,
}

#[derive(Clone, Copy)]
struct Doubt {
    mark: Timestamp,
    since: Timestamp,
    lasts: Duration,
}

impl StoreClock {
    /// A clock for a store that wrote down `mark` last, the epoch for a new one, and doubted its start when the wall showed `doubted`.
    pub(crate) fn start(
        source: std::sync::Arc<dyn Clock>,
        mark: Timestamp,
        doubted: Option<Timestamp>,
    ) -> Self {
        let (uptime_at_start, wall) = (source.uptime(), source.wall());
        // A start that shows an hour more than one which was doubted bears that out: a store that is never up for so long gets there as well.
        let is_borne_out = |since: &Timestamp| wall >= since.saturating_add(DOUBT_FOR);
        let mark = doubted.filter(is_borne_out).map_or(mark, |since| mark.max(since));
        let is_ahead = mark > Timestamp::default() && wall > mark.saturating_add(DOUBT_FROM);
        let goes_on = |since: &Timestamp| *since <= wall && !is_borne_out(since);
        let since = doubted.filter(goes_on).unwrap_or(wall);
        let lasts = DOUBT_FOR.saturating_sub(wall.saturating_since(since));
        let doubt = is_ahead.then_some(Doubt { mark, since, lasts });
        Self { source, start: wall.max(mark), uptime_at_start, doubt }
    }

    pub(crate) fn now(&self) -> Timestamp {
        // In whole milliseconds; in 64 bits, since this is read for every operation.
        let ms = u64::try_from(self.passed().as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_millis(self.start.as_millis().saturating_add(ms))
    }

    /// What may be written down as the time that was reached.
    pub(crate) fn mark(&self) -> Timestamp {
        self.doubt().map_or_else(|| self.now(), |doubt| doubt.mark)
    }

    /// Whether the time may yet turn out to be wrong.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.doubt().is_some()
    }

    /// What the wall showed when the time was doubted first; the epoch if it is not.
    pub(crate) fn doubted_since(&self) -> Timestamp {
        self.doubt().map_or(Timestamp::default(), |doubt| doubt.since)
    }

    fn doubt(&self) -> Option<Doubt> {
        self.doubt.filter(|doubt| self.passed() < doubt.lasts)
    }

    fn passed(&self) -> Duration {
        self.source.uptime().saturating_sub(self.uptime_at_start)
    }
}

#[cfg(all(test, shuttle))]
pub(crate) use crate::sync::scheduled::Deadline;

/// An instant of real time to wait for. Waiting is for devices and threads, so a store's clock has no say in it.
#[cfg(not(all(test, shuttle)))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(Instant);

#[cfg(not(all(test, shuttle)))]
impl Deadline {
    #[expect(
        clippy::disallowed_methods,
        reason = "waits are measured in real time, whatever a store's clock shows"
    )]
    pub(crate) fn after(delay: Duration) -> Self {
        Self(Instant::now() + delay)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "waits are measured in real time, whatever a store's clock shows"
    )]
    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    /// Waits for a notification, until then at the latest.
    pub(crate) fn wait<T>(self, condition: &Condvar, guard: &mut MutexGuard<'_, T>) {
        condition.wait_until(guard, self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MARK: Timestamp = Timestamp::from_millis(1_000_000_000_000);

    fn started_at(wall: Timestamp) -> (Arc<ManualClock>, StoreClock) {
        let source = Arc::new(ManualClock::at(wall));
        let clock = StoreClock::start(Arc::clone(&source) as Arc<dyn Clock>, MARK, None);
        (source, clock)
    }

    #[test]
    fn wall_that_steps_back_moves_nothing() {
        let (source, clock) = started_at(Timestamp::from_millis(5));
        assert_eq!(clock.now(), MARK);
        source.advance(Duration::from_secs(1));
        source.set_wall(Timestamp::from_millis(1));
        assert_eq!(clock.now(), MARK.saturating_add(Duration::from_secs(1)));
        assert_eq!(clock.mark(), clock.now());
    }

    #[test]
    fn start_far_ahead_raises_no_mark_for_an_hour() {
        let ahead = MARK.saturating_add(DOUBT_FROM).saturating_add(Duration::from_millis(1));
        let (source, clock) = started_at(ahead);
        assert_eq!((clock.now(), clock.mark(), clock.is_doubtful()), (ahead, MARK, true));
        source.advance(DOUBT_FOR);
        assert_eq!((clock.mark(), clock.is_doubtful()), (ahead.saturating_add(DOUBT_FOR), false));
        assert!(!started_at(MARK.saturating_add(DOUBT_FROM)).1.is_doubtful());
    }

    #[test]
    fn doubt_ends_an_hour_after_it_began_however_often_the_store_starts() {
        let first = MARK.saturating_add(2 * DOUBT_FROM);
        let start_after = |passed| {
            let source = Arc::new(ManualClock::at(first.saturating_add(passed)));
            StoreClock::start(source, MARK, Some(first))
        };
        assert!(start_after(DOUBT_FOR / 2).is_doubtful());
        assert_eq!(start_after(DOUBT_FOR / 2).doubted_since(), first);
        assert!(!start_after(DOUBT_FOR).is_doubtful());
        let again = start_after(365 * DOUBT_FROM);
        assert!(again.is_doubtful(), "another jump");
        assert_eq!(
            (again.mark(), again.doubted_since()),
            (first, again.now()),
            "which bears the first one out"
        );
    }
}
