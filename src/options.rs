//! What can be set when a store opens: each field with its unit, range, default and reason.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::error::OpenError;

/// The longest segment.
pub(crate) const SEGMENT_BYTES_MAX: u32 = 1 << 30;

/// What a write's acknowledgement promises.
///
/// | | killed process | power loss |
/// |---|---|---|
/// | `Sync` | kept | kept |
/// | `Interval(d)` | kept | kept if it is older than `d` |
/// | `Buffered` | the last moments are lost | the last moments are lost |
///
/// A clean [`close`](crate::SessionStore::close) keeps everything in each of them.
///
/// ```
/// use cloakroom::{Durability, Options};
/// let options = Options { durability: Durability::Sync, ..Options::default() };
/// # assert_ne!(options.durability, Durability::Buffered);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Acknowledged once the device has it. Writers share syncs.
    Sync,
    /// Acknowledged once the kernel has it; the sync that takes it to the device begins after this long at the latest, or with the one under way. The
    /// shortest interval in use counts.
    Interval(Duration),
    /// Acknowledged at once.
    Buffered,
}

impl Durability {
    /// The interval of [`Options::durability`] by default: what a power cut may cost.
    pub const INTERVAL_DEFAULT: Duration = Duration::from_millis(100);

    /// The shortest interval: less is what `Sync` is for.
    const INTERVAL_MIN: Duration = Duration::from_millis(1);
    /// The longest: what is more than that is `Buffered`.
    const INTERVAL_MAX: Duration = Duration::from_secs(3_600);

    /// The same with an interval that is in range.
    pub(crate) fn in_range(self) -> Self {
        match self {
            Self::Interval(d) => Self::Interval(d.clamp(Self::INTERVAL_MIN, Self::INTERVAL_MAX)),
            other => other,
        }
    }
}

/// How sealed segments are read.
///
/// ```
/// use cloakroom::{Options, ReadMode};
/// let options = Options { read_mode: ReadMode::Pread, ..Options::default() };
/// # assert_ne!(options.read_mode, ReadMode::Mapped);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadMode {
    /// Through a memory map, on the calling thread, up to [`Options::warm_bytes_max`]; the rest by the reader threads. A device error under a
    /// map kills the process (SIGBUS); where that cannot be had, use `Pread`.
    Mapped,
    /// By system calls of the reader threads alone.
    Pread,
}

/// Options of a [`LogStore`](crate::LogStore). The defaults are made for a server with up to some millions of sessions.
///
/// ```
/// use cloakroom::{Durability, Options};
/// use std::time::Duration;
///
/// let options = Options { durability: Durability::Interval(Duration::from_millis(20)), ..Options::default() };
/// # assert_eq!(options.segment_bytes, 64 << 20);
/// ```
#[derive(Clone)]
pub struct Options {
    /// Size of a log segment, in bytes: 64 KiB to 1 GiB; default 64 MiB. Smaller ones give space back sooner and cost more files, each of which
    /// stays open; disk use is bounded by twice the live bytes and two of these. On a full disk a sixteenth of one is left for those who sign out:
    /// at 64 KiB some thirty of them, at 64 MiB thirty thousand, until compaction has given back what they free.
    pub segment_bytes: u32,
    /// Sealed segments of so many bytes up get a footer, by which the next open knows what they hold without reading them: 0 up; default 1 MiB. It is
    /// written at a close, or when the segment is a minute old and mostly alive, and takes an eighth of it with sessions of 350 B. Damage in
    /// such a segment does not stop the open. What it has hit is refused with [`Error::Corrupt`](crate::Error::Corrupt) when it is read, and each such
    /// segment is read once behind the open, where damage is told by an event of `tracing` and in
    /// [`Stats::damaged_segments`](crate::Stats::damaged_segments). `u32::MAX` is for who would rather wait for an open that reads everything,
    /// and refuses all that is damaged.
    pub footers_from: u32,
    /// The longest payload, in bytes: 1 to an eighth of `segment_bytes`, and at most 8 MiB; default 1 MiB. A session is read and written whole.
    pub payload_bytes_max: u32,
    /// The most sessions, 1 to 2^31; default 2^31. One more is refused with [`Error::TooManySessions`](crate::Error::TooManySessions).
    pub sessions_max: u32,
    /// The most sessions without an owner, 1 to 2^31; default 2^31. One more is refused with
    /// [`Error::TooManyAnonymousSessions`](crate::Error::TooManyAnonymousSessions), while who has a session can still be
    /// [bound](crate::SessionStore::bind) to an owner. Set well below `sessions_max` it keeps room for those who sign in, whatever flood of visitors
    /// there is. A session whose owner is taken away always may stay. Writers at the same instant may pass it by one each.
    pub anonymous_sessions_max: u32,
    /// Bytes that may wait to be written, 64 KiB to 1 GiB and at least twice the longest record; default 16 MiB. Writers beyond it wait.
    pub unwritten_bytes_max: u32,
    /// Bytes of sealed segments to keep mapped for reads on the calling thread; default 4 GiB. The rest is read by reader threads. Give less than the
    /// memory that is free: a page which the kernel has taken back is read from the disk by the thread that asks for it.
    pub warm_bytes_max: u64,
    /// What create (with an owner too), put, upsert, touch and `set_lifetime` wait for; default `Interval(100 ms)`. Intervals are 1 ms to 1 hour.
    pub durability: Durability,
    /// What delete, rotate, sign-in, bind and revoke wait for; default `Sync`, since a logout that a power cut undoes is worse than a slow logout.
    pub delete_durability: Durability,
    /// How sealed segments are read; default `Mapped`.
    pub read_mode: ReadMode,
    /// Bytes a second that compaction may write, 64 KiB up; default 64 MiB, so that the foreground keeps most of the disk.
    pub compaction_bytes_per_second: u64,
    /// Where the time comes from; default [`SystemClock`].
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            footers_from: 1 << 20,
            payload_bytes_max: 1 << 20,
            sessions_max: 1 << 31,
            anonymous_sessions_max: 1 << 31,
            unwritten_bytes_max: 16 << 20,
            warm_bytes_max: 4 << 30,
            durability: Durability::Interval(Durability::INTERVAL_DEFAULT),
            delete_durability: Durability::Sync,
            read_mode: ReadMode::Mapped,
            compaction_bytes_per_second: 64 << 20,
            clock: Arc::new(SystemClock),
        }
    }
}

impl Options {
    /// Refuses what is out of range; the messages are the ranges of the field docs.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let payload_max = u64::from(self.segment_bytes / 8).min(8 << 20);
        let unwritten_min = (2 * (u64::from(self.payload_bytes_max) + 1_024)).max(64 << 10);
        let number = [
            (
                "segment_bytes",
                u64::from(self.segment_bytes),
                64 << 10,
                SEGMENT_BYTES_MAX.into(),
                "64 KiB to 1 GiB",
            ),
            (
                "payload_bytes_max",
                u64::from(self.payload_bytes_max),
                1,
                payload_max,
                "1 to segment_bytes / 8, at most 8 MiB",
            ),
            ("sessions_max", u64::from(self.sessions_max), 1, 1 << 31, "1 to 2^31"),
            ("anonymous_sessions_max", u64::from(self.anonymous_sessions_max), 1, 1 << 31, "1 to 2^31"),
            (
                "unwritten_bytes_max",
                u64::from(self.unwritten_bytes_max),
                unwritten_min,
                1 << 30,
                "64 KiB to 1 GiB, at least twice payload_bytes_max and 2 KiB",
            ),
            (
                "compaction_bytes_per_second",
                self.compaction_bytes_per_second,
                64 << 10,
                u64::MAX,
                "64 KiB up",
            ),
        ];
        for (option, given, min, max, range) in number {
            if given < min || given > max {
                return Err(OpenError::InvalidOption { option, given, range });
            }
        }
        for (option, durability) in
            [("durability", self.durability), ("delete_durability", self.delete_durability)]
        {
            if let Durability::Interval(d) = durability
                && durability != durability.in_range()
            {
                let given = u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
                return Err(OpenError::InvalidOption { option, given, range: "1 ms to 1 hour" });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("segment_bytes", &self.segment_bytes)
            .field("footers_from", &self.footers_from)
            .field("payload_bytes_max", &self.payload_bytes_max)
            .field("sessions_max", &self.sessions_max)
            .field("anonymous_sessions_max", &self.anonymous_sessions_max)
            .field("unwritten_bytes_max", &self.unwritten_bytes_max)
            .field("warm_bytes_max", &self.warm_bytes_max)
            .field("durability", &self.durability)
            .field("delete_durability", &self.delete_durability)
            .field("read_mode", &self.read_mode)
            .field("compaction_bytes_per_second", &self.compaction_bytes_per_second)
            .finish_non_exhaustive()
    }
}
