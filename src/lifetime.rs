//! How long a session lives: what the caller asks for, and the deadlines that follow from it.
//!
//! There is one deadline, the logged one. A touch logs nothing while that deadline is at least a whole idle period away;
//! otherwise it logs `now + idle + grain`. So a session lives between `idle` and `idle + grain` after its last touch, never less,
//! the same before and after a crash, and a busy session costs one small record every `grain` instead of one a request.
//! Pure functions of the time given; no clock is read here.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::Error;

/// The shortest and the longest grain: how far a touch may move the deadline beyond what was asked, to spare later touches.
const GRAIN_MIN: Duration = Duration::from_secs(1);
const GRAIN_MAX: Duration = Duration::from_secs(5 * 60);
/// The grain is the idle period divided by this.
const GRAIN_PARTS: u32 = 16;
/// Idle periods of this many milliseconds (24 days) and more are kept in whole seconds, rounded up: they share 32 bits of an index slot.
pub(crate) const IDLE_MS_EXACT: u64 = 1 << 31;

/// How long a session lives: an *idle* part that each touch starts anew, an *absolute* part that nothing moves, or both.
///
/// Either part alone is enough; with both, the earlier deadline counts. Idle expiry is coalesced: a session lives between
/// `idle` and `idle + grain` after its last touch, where the grain is a sixteenth of `idle`, at least 1 s, at most 5 min.
/// A touch that the logged deadline covers is neither written nor, at any durability, waited for. [`exact`](Self::exact) opts out and pays a log
/// record for every touch. The absolute part has no grain.
///
/// ```
/// use cloakroom::Lifetime;
/// use std::time::Duration;
///
/// let half_an_hour = Duration::from_secs(30 * 60);
/// let day = Duration::from_secs(24 * 60 * 60);
/// let lifetime = Lifetime::idle(half_an_hour).and_absolute(day);
/// assert_eq!(lifetime.idle_part(), Some(half_an_hour));
/// assert_eq!(lifetime.absolute_part(), Some(day));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetime {
    idle: Option<Duration>,
    absolute: Option<Duration>,
    exact: bool,
}

impl Lifetime {
    /// Ends this long after the last touch or write.
    ///
    /// ```
    /// # use cloakroom::Lifetime;
    /// # use std::time::Duration;
    /// assert_eq!(Lifetime::idle(Duration::from_secs(60)).absolute_part(), None);
    /// ```
    #[must_use]
    pub const fn idle(idle: Duration) -> Self {
        Self { idle: Some(idle), absolute: None, exact: false }
    }

    /// Ends this long after it is given, whatever happens meanwhile.
    ///
    /// ```
    /// # use cloakroom::Lifetime;
    /// # use std::time::Duration;
    /// assert_eq!(Lifetime::absolute(Duration::from_secs(60)).idle_part(), None);
    /// ```
    #[must_use]
    pub const fn absolute(absolute: Duration) -> Self {
        Self { idle: None, absolute: Some(absolute), exact: false }
    }

    /// The same with an absolute end as well.
    ///
    /// ```
    /// # use cloakroom::Lifetime;
    /// # use std::time::Duration;
    /// let s = Duration::from_secs;
    /// assert_eq!(Lifetime::idle(s(1)).and_absolute(s(9)).absolute_part(), Some(s(9)));
    /// ```
    #[must_use]
    pub const fn and_absolute(mut self, absolute: Duration) -> Self {
        self.absolute = Some(absolute);
        self
    }

    /// The same without touch coalescing: every touch is logged, and idle expiry is exact to the millisecond.
    ///
    /// ```
    /// # use cloakroom::Lifetime;
    /// # use std::time::Duration;
    /// let lifetime = Lifetime::idle(Duration::from_secs(60)).exact();
    /// assert_ne!(lifetime, Lifetime::idle(Duration::from_secs(60)));
    /// ```
    #[must_use]
    pub const fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    /// The idle part, if there is one.
    ///
    /// ```
    /// # use cloakroom::Lifetime;
    /// # use std::time::Duration;
    /// assert!(Lifetime::idle(Duration::from_secs(60)).idle_part().is_some());
    /// ```
    #[must_use]
    pub const fn idle_part(&self) -> Option<Duration> {
        self.idle
    }

    /// The absolute part, if there is one.
    ///
    /// ```
    /// # use cloakroom::Lifetime;
    /// # use std::time::Duration;
    /// assert!(Lifetime::idle(Duration::from_secs(60)).absolute_part().is_none());
    /// ```
    #[must_use]
    pub const fn absolute_part(&self) -> Option<Duration> {
        self.absolute
    }
}

/// What of a lifetime touches and saves leave alone: the idle period and the absolute end. Only an explicit change makes another of it, so two
/// that are equal tell that nobody gave the session another lifetime meanwhile.
///
/// ```
/// use cloakroom::{Access, Lifetime, MemoryStore, SessionStore};
/// use std::time::Duration;
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// let store = MemoryStore::new();
/// let id = store.create("x".into(), Lifetime::idle(Duration::from_secs(60))).await?;
/// let loaded = store.get(id.key(), Access::Touch).await?.unwrap().terms();
/// store.set_lifetime(id.key(), Lifetime::idle(Duration::from_secs(5))).await?;
/// assert_ne!(store.get(id.key(), Access::Touch).await?.unwrap().terms(), loaded);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// As a slot keeps it: 0 for none.
    pub(crate) idle_ms: u64,
    /// [`Timestamp::MAX`] for never.
    pub(crate) absolute_at: Timestamp,
}

/// The deadlines of one session at one moment: what a record carries and what the index keeps.
///
/// Invariant: `expires_at <= absolute_at`, and two values that came from the same call compare equal after a trip through a
/// record or an index slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Deadlines {
    /// The idle period in milliseconds, 0 for none; whole seconds from [`IDLE_MS_EXACT`] on.
    pub(crate) idle_ms: u64,
    /// When the session ends whatever happens; [`Timestamp::MAX`] for never.
    pub(crate) absolute_at: Timestamp,
    /// The first instant at which the session is gone, unless a touch moves it.
    pub(crate) expires_at: Timestamp,
    /// Touches are not coalesced.
    pub(crate) exact: bool,
}

impl Deadlines {
    /// The deadlines of a session whose `lifetime` begins `now`.
    pub(crate) fn start(now: Timestamp, lifetime: &Lifetime) -> Result<Self, Error> {
        let part = |duration: Option<Duration>, name| match duration {
            None => Ok(None),
            Some(d) if d.is_zero() => Err(Error::InvalidLifetime { part: name, given: d }),
            // An index slot holds idle periods of less than 2^31 seconds, 68 years.
            Some(d) if name == "idle" && d.as_secs() >= IDLE_MS_EXACT - 1 => {
                Err(Error::InvalidLifetime { part: name, given: d })
            }
            Some(d) => match now.saturating_add(d).saturating_add(GRAIN_MAX) {
                Timestamp::MAX => Err(Error::InvalidLifetime { part: name, given: d }),
                _ => Ok(Some(d)),
            },
        };
        let idle = part(lifetime.idle, "idle")?;
        let absolute = part(lifetime.absolute, "absolute")?;
        let absolute_at = absolute.map_or(Timestamp::MAX, |d| now.saturating_add(d));
        let idle_ms = idle.map_or(0, |d| whole(Timestamp::default().saturating_add(d).as_millis()));
        let unset = Self { idle_ms, absolute_at, expires_at: absolute_at, exact: lifetime.exact };
        Ok(if idle_ms == 0 { unset } else { unset.moved(now) })
    }

    /// The deadlines after a touch `now`, or `None` where they promise enough as they are and nothing need be logged.
    pub(crate) fn touched(&self, now: Timestamp) -> Option<Self> {
        if self.idle_ms == 0 {
            return None;
        }
        let promised = now.saturating_add(Duration::from_millis(self.idle_ms)).min(self.absolute_at);
        let enough = self.expires_at >= promised && !(self.exact && self.expires_at != promised);
        (!enough).then(|| self.moved(now)).filter(|moved| moved != self)
    }

    pub(crate) const fn terms(&self) -> Terms {
        Terms { idle_ms: self.idle_ms, absolute_at: self.absolute_at }
    }

    /// What a request that loaded the session under the terms `loaded`, and now gives it the lifetime of `self`, makes of `theirs`, the
    /// deadlines by then. Where somebody else gave it another lifetime meanwhile, each part ends when the earlier of the two
    /// ends: who shortened it is not overruled by who did not know.
    pub(crate) fn merged(self, loaded: Terms, theirs: Self) -> Self {
        if theirs.terms() == loaded {
            return self;
        }
        // No idle period is the longest one.
        let shorter =
            if self.idle_ms.wrapping_sub(1) <= theirs.idle_ms.wrapping_sub(1) { self } else { theirs };
        Self {
            absolute_at: self.absolute_at.min(theirs.absolute_at),
            expires_at: self.expires_at.min(theirs.expires_at),
            ..shorter
        }
    }

    /// When the session was last in use, no later than it really was and earlier by less than the grain, or by as much as the absolute end
    /// is nearer than the idle one; `None` without an idle part.
    pub(crate) fn seen_at(&self) -> Option<Timestamp> {
        let idle = self.idle()?;
        let grain = if self.exact { Duration::ZERO } else { grain(idle) };
        let back_ms = Timestamp::default().saturating_add(idle).saturating_add(grain).as_millis();
        Some(Timestamp::from_millis(self.expires_at.as_millis().saturating_sub(back_ms)))
    }

    /// Whether the session is there at `now`.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }

    /// Whether the idle period is one that [`start`](Self::start) gives, which an index slot can hold.
    pub(crate) const fn idle_is_whole(&self) -> bool {
        self.idle_ms < IDLE_MS_EXACT * 1_000 && whole(self.idle_ms) == self.idle_ms
    }

    /// The idle period, if there is one.
    pub(crate) fn idle(&self) -> Option<Duration> {
        (self.idle_ms != 0).then(|| Duration::from_millis(self.idle_ms))
    }

    fn moved(mut self, now: Timestamp) -> Self {
        let idle = Duration::from_millis(self.idle_ms);
        let grain = if self.exact { Duration::ZERO } else { grain(idle) };
        self.expires_at = now.saturating_add(idle).saturating_add(grain).min(self.absolute_at);
        self
    }
}

/// How far beyond `now + idle` a touch moves the deadline.
pub(crate) fn grain(idle: Duration) -> Duration {
    (idle / GRAIN_PARTS).clamp(GRAIN_MIN, GRAIN_MAX)
}

const fn whole(idle_ms: u64) -> u64 {
    if idle_ms < IDLE_MS_EXACT { idle_ms } else { idle_ms.div_ceil(1_000) * 1_000 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn after(ms: u64) -> Timestamp {
        NOW.saturating_add(Duration::from_millis(ms))
    }

    /// What a caller may ask for, in seconds; 0 is no such part.
    fn any_lifetime() -> impl Strategy<Value = Lifetime> {
        (0..200_u64, 1..400_u64, any::<bool>()).prop_map(|(idle, absolute, exact)| {
            let (idle, absolute) = (Duration::from_secs(idle), Duration::from_secs(absolute));
            let lifetime = Lifetime::absolute(absolute);
            let lifetime =
                if idle.is_zero() { lifetime } else { Lifetime::idle(idle).and_absolute(absolute) };
            if exact { lifetime.exact() } else { lifetime }
        })
    }

    proptest! {
        #[test]
        fn of_two_who_set_a_lifetime_the_shorter_wins_in_either_order_and_one_alone_gets_its_own(
            loaded in any_lifetime(), mine in any_lifetime(), theirs in any_lifetime(), later_ms in 0..60_000_u64,
        ) {
            let now = after(later_ms);
            let [loaded, theirs] = [loaded, theirs].map(|lifetime| Deadlines::start(NOW, &lifetime).unwrap());
            let mine = Deadlines::start(now, &mine).unwrap();
            prop_assert_eq!(mine.merged(loaded.terms(), loaded), mine);
            let both = mine.merged(loaded.terms(), theirs);
            if theirs.terms() != loaded.terms() {
                prop_assert!(both.expires_at <= mine.expires_at && both.expires_at <= theirs.expires_at);
                prop_assert_eq!(both.absolute_at, mine.absolute_at.min(theirs.absolute_at));
                let other = theirs.merged(loaded.terms(), mine);
                if mine.terms() != loaded.terms() {
                    prop_assert_eq!((both.idle_ms, both.absolute_at), (other.idle_ms, other.absolute_at));
                    prop_assert_eq!(both.expires_at, other.expires_at);
                }
                // Later touches keep to it as well.
                let touched = both.touched(now).unwrap_or(both);
                prop_assert!(touched.expires_at <= both.absolute_at);
            }
        }
    }

    #[test]
    fn touch_is_free_while_a_whole_idle_period_is_promised() {
        let start = Deadlines::start(NOW, &Lifetime::idle(Duration::from_secs(160))).unwrap();
        assert_eq!(start.expires_at, after(170_000));
        assert_eq!(start.touched(after(10_000)), None);
        assert_eq!(start.touched(after(10_001)).unwrap().expires_at, after(180_001));
    }

    #[test]
    fn absolute_deadline_caps_every_touch() {
        let s = Duration::from_secs;
        let start = Deadlines::start(NOW, &Lifetime::idle(s(60)).and_absolute(s(100))).unwrap();
        let late = start.touched(after(90_000)).unwrap();
        assert_eq!(late.expires_at, after(100_000));
        assert_eq!(late.touched(after(95_000)), None);
        assert!(!late.is_live(after(100_000)));
    }

    #[test]
    fn exact_logs_every_touch_and_has_no_grain() {
        let start = Deadlines::start(NOW, &Lifetime::idle(Duration::from_secs(60)).exact()).unwrap();
        assert_eq!(start.expires_at, after(60_000));
        assert_eq!(start.touched(after(1)).unwrap().expires_at, after(60_001));
        assert_eq!(start.touched(NOW), None);
    }

    #[test]
    fn zero_and_overflowing_lifetimes_are_refused() {
        for lifetime in [
            Lifetime::idle(Duration::ZERO),
            Lifetime::absolute(Duration::ZERO),
            Lifetime::idle(Duration::MAX),
            Lifetime::idle(Duration::from_secs(60)).and_absolute(Duration::from_secs(1 << 40)),
        ] {
            assert!(
                matches!(Deadlines::start(NOW, &lifetime), Err(Error::InvalidLifetime { .. })),
                "{lifetime:?}"
            );
        }
    }
}
