//! A store on a simulated disk, driven by hand through one life after another, with the model at its side.
//!
//! Every answer is compared with the model's when it comes. Invariant: nothing reaches the disk but while an operation is driven or
//! [`Life::step`] runs, so one history and one plan of faults give one run (but for keys and salts, which are the system's random numbers and decide
//! nothing).

mod operations;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, Clock, Durability, Error, Lifetime, LogStore, ManualClock, OpenError, Options, SessionKey,
    SessionStore, Stored, Timestamp, When, Work,
};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::history::{NAMES, PAYLOAD_BYTES_MAX};
use super::model::{End, Model};

pub const SEGMENT_BYTES: u32 = 64 << 10;

/// Rounds of background work after which an operation that is not done never will be.
const ROUNDS_MAX: usize = 64;

/// Steps after which background work that goes on will go on for ever.
const STEPS_MAX: usize = 300;

/// Files that are neither segments nor copies of cut-off bytes: manifests and their kin.
const OTHER_BYTES_MAX: u64 = 16 << 10;

/// What the index may take with a chunk in each of its shards, however long the history, and how much more for each session.
const INDEX_BYTES_MAX: u64 = 448 << 10;
const SESSION_BYTES_MAX: u64 = 128;

/// A start so far ahead of the last time that was written down is doubted.
const DOUBTED_FROM: Duration = Duration::from_secs(24 * 3_600);
/// For so long, or until another start is so much later.
const DOUBTED_FOR: Duration = Duration::from_secs(3_600);

/// Lines of the disk's trace that a failure shows.
const TRACE_LINES: usize = 60;

/// Polls a future, doing the store's background work until it is ready; `None` if that does not help.
pub fn drive<T>(store: &LogStore, answer: impl Future<Output = T>) -> Option<T> {
    drive_at(&mut Pace::Steps, store, answer)
}

fn drive_at<T>(pace: &mut Pace, store: &LogStore, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = pin!(answer);
    for round in 0..ROUNDS_MAX {
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => return Some(done),
            Poll::Pending => pace.work(store, round),
        }
    }
    None
}

/// In which order the background work is done while an operation waits.
#[derive(Clone)]
pub enum Pace {
    /// All of it, again and again.
    Steps,
    /// What the operation waits for, and as little else as can be: much is written and not synced.
    Lazy,
    /// Any part at any time, as threads might.
    Random(Xoshiro256PlusPlus),
}

impl Pace {
    /// Does some work in the `round`th of an operation's.
    fn work(&mut self, store: &LogStore, round: usize) {
        match self {
            Self::Lazy if round == 0 => store.work(Work::Write),
            Self::Random(rng) if round < 2 * Work::ALL.len() => {
                store.work(Work::ALL[rng.random_range(0..Work::ALL.len())]);
            }
            Self::Steps | Self::Lazy | Self::Random(_) => store.step(),
        }
    }
}

/// A machine with a disk, a clock and a store, and what is known of them.
pub struct Life {
    pub disk: SimDisk,
    pub clock: Arc<ManualClock>,
    pub model: Model,
    pub options: Options,
    store: Option<LogStore>,
    names: Vec<SessionKey>,
    rotated: Vec<SessionKey>,
    /// Store time when this life began, and the uptime then.
    started: (Timestamp, Duration),
    /// The latest store time of any life.
    time_max: Timestamp,
    /// What the wall showed when its time was doubted first.
    doubted: Option<Timestamp>,
    /// Makes each payload unlike any other.
    payloads: u32,
    pub pace: Pace,
    /// Calls of the disk may fail, or find it full: who is told so is not mistaken.
    pub tolerant: bool,
    /// The store said that it takes no more writes.
    pub poisoned: bool,
    /// What was known before each operation went to the disk, while that is kept.
    moments: Option<Vec<Moment>>,
}

/// What is known at one moment: from here another life can go on, on another disk.
#[derive(Clone)]
pub struct Moment {
    /// Calls of the disk until then.
    pub calls: u64,
    pub model: Model,
    names: Vec<SessionKey>,
    rotated: Vec<SessionKey>,
    wall: Timestamp,
    time_max: Timestamp,
}

impl Moment {
    /// The same, with a wall clock that shows `least` at the least, and no time which any life is beyond.
    #[must_use]
    pub fn on_time(self, least: Timestamp) -> Self {
        Self { wall: self.wall.max(self.time_max).max(least), ..self }
    }
}

impl Life {
    /// An empty disk, and no store yet.
    pub fn new(disk: SimDisk) -> Self {
        let wall = Timestamp::from_millis(1_700_000_000_250);
        let clock = Arc::new(ManualClock::at(wall));
        let options = Options {
            segment_bytes: SEGMENT_BYTES,
            footers_from: 0,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            ..Options::default()
        };
        Self {
            disk,
            clock,
            model: Model::default(),
            options,
            store: None,
            names: (0..NAMES).map(|n| SessionKey::of(&n.to_le_bytes())).collect(),
            rotated: Vec::new(),
            started: (wall, Duration::ZERO),
            time_max: wall,
            doubted: None,
            payloads: 0,
            pace: Pace::Steps,
            tolerant: false,
            poisoned: false,
            moments: None,
        }
    }

    /// What is known now.
    pub fn moment(&self) -> Moment {
        Moment {
            calls: self.disk.calls(),
            model: self.model.clone(),
            names: self.names.clone(),
            rotated: self.rotated.clone(),
            wall: self.clock.wall(),
            time_max: if self.store.is_some() { self.time_max.max(self.now()) } else { self.time_max },
        }
    }

    /// Another machine that knows what this one knew at a moment, and has no store open yet.
    pub fn at(&self, moment: &Moment, disk: SimDisk) -> Self {
        let clock = Arc::new(ManualClock::at(moment.wall));
        let options = Options { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..self.options.clone() };
        Self {
            disk,
            clock,
            model: moment.model.clone(),
            options,
            store: None,
            names: moment.names.clone(),
            rotated: moment.rotated.clone(),
            started: (moment.wall, Duration::ZERO),
            // An open that did not come to its end may have written down what time it was.
            time_max: moment.time_max.max(moment.wall),
            doubted: self.doubted,
            payloads: self.payloads,
            pace: Pace::Steps,
            tolerant: self.tolerant,
            poisoned: false,
            moments: None,
        }
    }

    /// Keeps from now on what is known before each operation goes to the disk.
    pub fn keep_moments(&mut self) {
        self.moments = Some(Vec::new());
    }

    /// What was kept, in order.
    pub fn take_moments(&mut self) -> Vec<Moment> {
        self.note();
        self.moments.take().unwrap_or_default()
    }

    fn note(&mut self) {
        let moment = self.moments.is_some().then(|| self.moment());
        if let Some(moments) = &mut self.moments {
            moments.extend(moment);
        }
    }

    /// The same, with a store open.
    pub fn open(disk: SimDisk) -> Self {
        let mut life = Self::new(disk);
        life.begin(End::Close).unwrap();
        life
    }

    pub fn store(&self) -> &LogStore {
        self.store.as_ref().unwrap()
    }

    pub fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// The key that a name stands for now.
    pub fn key(&self, name: usize) -> SessionKey {
        self.names[name]
    }

    /// Store time.
    pub fn now(&self) -> Timestamp {
        self.started.0.saturating_add(self.clock.uptime().saturating_sub(self.started.1))
    }

    /// The latest time that may have been written down.
    pub fn time_max(&self) -> Timestamp {
        self.time_max
    }

    /// Whether it may yet turn out to be another, so that it is not written down, and nobody has ended by it for good.
    pub fn is_doubtful(&self) -> bool {
        self.doubted.is_some_and(|since| self.now() < since.saturating_add(DOUBTED_FOR))
    }

    /// What a start at `wall` is held for.
    fn judge(&mut self, wall: Timestamp) {
        let is_borne_out = |since: &Timestamp| wall >= since.saturating_add(DOUBTED_FOR);
        self.time_max =
            self.doubted.filter(is_borne_out).map_or(self.time_max, |since| self.time_max.max(since));
        let goes_on = |since: &Timestamp| *since <= wall && !is_borne_out(since);
        let is_ahead = wall > self.time_max.saturating_add(DOUBTED_FROM);
        self.doubted = is_ahead.then(|| self.doubted.filter(goes_on).unwrap_or(wall));
        if !is_ahead {
            // Also an open that fails may have written down what time it was.
            self.time_max = self.time_max.max(wall);
        }
    }

    /// Time has come so far.
    fn reach(&mut self) {
        if !self.is_doubtful() {
            self.time_max = self.time_max.max(self.now());
        }
    }

    fn keep_time(&mut self) {
        if !self.is_doubtful() {
            self.model.keep_time(self.now());
        }
    }

    /// The background work that there is.
    pub fn step(&self) {
        self.store().step();
    }

    /// Lets the background work come to its end, and checks what is left then on disk and in memory (P9).
    #[track_caller]
    pub fn rest(&self) {
        let quiet = (0..STEPS_MAX).any(|_| {
            let calls = self.disk.calls();
            // Compaction that has nothing else to do lets go of what could not be read, and tries that the next time.
            (0..2).for_each(|_| self.step());
            self.disk.calls() == calls
        });
        assert!(quiet, "the background work never ends\n{}", self.trace());
        let torn = self.disk.names().into_iter().filter(|name| name.starts_with("torn-"));
        let torn: u64 = torn.map(|name| self.disk.contents(&name).unwrap().len() as u64).sum();
        let (used, stats) = (self.disk.used_bytes() - torn, self.store().stats());
        // The unused end that a call could not cut off, the next open cuts off. A file that could not be removed is tried again.
        let left = |call: &&String| call.contains("Truncate") && call.contains("-> E");
        let left = self.disk.trace().iter().filter(left).count() as u64;
        let allowed = 2 * stats.live_bytes + (2 + left) * u64::from(SEGMENT_BYTES) + OTHER_BYTES_MAX;
        assert!(used <= allowed, "{used} bytes on disk, allowed {allowed}: {stats:?}\n{}", self.trace());
        let index_bytes_max = INDEX_BYTES_MAX + SESSION_BYTES_MAX * stats.sessions;
        assert!(stats.index_bytes <= index_bytes_max, "{stats:?}");
    }

    /// Whether the store takes no more writes; it may have found out by itself.
    pub fn is_poisoned(&self) -> bool {
        let Some(store) = &self.store else { return self.poisoned };
        // A barrier that nobody waits for changes nothing.
        let mut barrier = pin!(store.flush());
        let polled = barrier.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        self.poisoned || matches!(polled, Poll::Ready(Err(Error::Poisoned { .. })))
    }

    /// Ends the store's life; the machine is on again afterwards.
    pub fn end(&mut self, end: End) {
        if self.store.is_some() {
            self.reach();
            self.poisoned = self.is_poisoned();
        }
        match end {
            End::Kill => self.disk.kill(),
            End::PowerLoss if self.disk.has_power() => self.disk.crash(),
            End::PowerLoss => self.disk.restart(),
            End::Close => {
                let store = self.store();
                drive(store, store.close()).unwrap().unwrap();
                self.closed();
                self.keep_time();
            }
        }
        if std::mem::take(&mut self.poisoned) {
            // What a failed sync left behind, the kernel may have let go of.
            self.model.lose_unsynced();
        }
        self.store = None;
    }

    /// Opens a store after `end`, and checks that it holds what it may.
    pub fn begin(&mut self, end: End) -> Result<(), OpenError> {
        let opened = LogStore::open_by_hand(Arc::new(self.disk.clone()), self.options.clone());
        let time_was_max = self.time_max;
        self.judge(self.clock.wall());
        let store = opened?;
        if !self.disk.has_power() {
            // The power went when all that matters was done: nobody saw what this life found.
            return Ok(());
        }
        let report = store.recovery();
        if end != End::PowerLoss && !self.tolerant {
            assert_eq!(report.torn_bytes, 0, "only power loss tears\n{}", self.trace());
        }
        self.set_time(&store, end, time_was_max);
        self.store = Some(store);
        let found = self.observe();
        let now = self.now();
        self.keep_time();
        if let Err(complaint) = self.model.reborn(end, &found, now, self.is_doubtful()) {
            panic!("after {end:?}: {complaint}\n{}", self.trace());
        }
        assert!(report.sessions >= found.len() as u64, "{report:?} of {}", found.len());
        Ok(())
    }

    /// Learns what an end has left from a copy of the disk, which is opened when the wall shows `wall`. The next start of the store itself may be at
    /// another time, by which not all of it can be seen.
    pub fn look(&mut self, end: End, wall: Timestamp, seed: u64) {
        let copy = self.disk.copy(seed);
        let disk = std::mem::replace(&mut self.disk, copy);
        let (shown, time_max, doubted) = (self.clock.wall(), self.time_max, self.doubted);
        let kept = self.model.time_kept_by_power_loss;
        let kept = (if end == End::PowerLoss { kept } else { self.model.time_kept_by_kill }, kept);
        self.clock.set_wall(wall);
        self.begin(end).unwrap();
        self.store = None;
        self.clock.set_wall(shown);
        (self.disk, self.time_max, self.doubted) = (disk, time_max, doubted);
        (self.model.time_kept_by_kill, self.model.time_kept_by_power_loss) = kept;
    }

    /// Ends the store's life, and begins another, whatever it takes.
    pub fn again(&mut self, end: End) {
        self.end(end);
        if let Err(e) = self.begin(end) {
            panic!("after {end:?} it does not open: {e}\n{}", self.trace());
        }
    }

    /// Learns what time it is for the new store: the wall's, unless that stepped back. Then a session is needed to find out.
    fn set_time(&mut self, store: &LogStore, end: End, time_was_max: Timestamp) {
        let (wall, uptime) = (self.clock.wall(), self.clock.uptime());
        self.started = (wall, uptime);
        if wall >= time_was_max {
            return;
        }
        let day = Duration::from_secs(86_400);
        let probe = SessionKey::of(format!("probe {}", uptime.as_nanos()).as_bytes());
        let buffered = store.at(Durability::Buffered);
        let absolute = When::Always(Lifetime::absolute(day));
        drive(&buffered, buffered.write(probe, Bytes::new(), absolute)).unwrap().unwrap();
        let stored = drive(store, store.get(probe, Access::Peek)).unwrap().unwrap().unwrap();
        assert!(drive(&buffered, buffered.delete(probe)).unwrap().unwrap());
        let now = Timestamp::default()
            .saturating_add(stored.expires_at.saturating_since(Timestamp::default().saturating_add(day)));
        let least = match end {
            End::Kill => self.model.time_kept_by_kill,
            End::Close | End::PowerLoss => self.model.time_kept_by_power_loss,
        };
        assert!(
            now >= least.max(wall) && now <= self.time_max,
            "after {end:?} it is {now:?}, not {least:?} to {:?}
{}",
            self.time_max,
            self.trace()
        );
        self.started = (now, uptime);
    }

    /// All that the store holds, read in both ways.
    pub fn observe(&self) -> BTreeMap<SessionKey, Stored> {
        let store = self.store();
        let (mut keys, mut cursor) = (self.model.keys().collect::<Vec<_>>(), None);
        let known = keys.len();
        loop {
            let page = self.read(|| drive(store, store.keys(cursor, 100)));
            keys.extend(page.keys);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let get = |key: &SessionKey| self.read(|| drive(store, store.get(*key, Access::Peek)));
        let found: BTreeMap<_, _> = keys.iter().filter_map(|key| Some((*key, get(key)?))).collect();
        assert_eq!(keys.len() - known, found.len(), "a walk meets each live session once\n{}", self.trace());
        found
    }

    /// What a read gives, tried again where the disk may fail.
    fn read<T>(&self, read: impl Fn() -> Option<Result<T, Error>>) -> T {
        match read() {
            Some(Err(Error::Io { .. })) if self.tolerant => read().unwrap().unwrap(),
            answer => answer.unwrap().unwrap(),
        }
    }

    /// The last calls of the disk, those before that failed, and its files.
    pub fn trace(&self) -> String {
        let trace = self.disk.trace();
        let (before, last) = trace.split_at(trace.len().saturating_sub(TRACE_LINES));
        let failed = before.iter().filter(|call| call.contains("->"));
        let len = |name: &String| self.disk.contents(name).map_or(0, |bytes| bytes.len());
        let files = self.disk.names().into_iter().map(|name| format!("{name} of {}", len(&name)));
        let files = files.collect::<Vec<_>>().join(", ");
        failed.chain(last).cloned().chain([files]).collect::<Vec<_>>().join("\n")
    }
}
