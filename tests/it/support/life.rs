//! A store on a simulated disk, driven by hand through one life after another, with the model at its side.
//!
//! Every answer is compared with the model's when it comes. Invariant: nothing reaches the disk but while an operation is driven or
//! [`Life::step`] runs, so one history and one plan of faults give one run (but for keys and salts, which are the system's random numbers and decide
//! nothing).

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, Answer, Clock, Durability, Error, Lifetime, LogStore, ManualClock, OpenError, Options,
    SessionKey, SessionStore, Stored, Timestamp, When,
};

use super::history::{NAMES, Op, PAYLOAD_BYTES_MAX, Step};
use super::model::{End, Model, Session};

pub const SEGMENT_BYTES: u32 = 64 << 10;

/// Rounds of background work after which an operation that is not done never will be.
const ROUNDS_MAX: usize = 64;

/// Lines of the disk's trace that a failure shows.
const TRACE_LINES: usize = 60;

/// Polls a future, doing the store's background work until it is ready; `None` if that does not help.
pub fn drive<T: Unpin>(store: &LogStore, answer: Answer<'_, T>) -> Option<Result<T, Error>> {
    let mut answer = pin!(answer);
    for _ in 0..ROUNDS_MAX {
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => return Some(done),
            Poll::Pending => store.step(),
        }
    }
    None
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
    /// Makes each payload unlike any other.
    payloads: u32,
}

impl Life {
    /// An empty disk, and no store yet.
    pub fn new(disk: SimDisk) -> Self {
        let wall = Timestamp::from_millis(1_700_000_000_250);
        let clock = Arc::new(ManualClock::at(wall));
        let options = Options {
            segment_bytes: SEGMENT_BYTES,
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
            payloads: 0,
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

    /// The key that a name stands for now.
    pub fn key(&self, name: usize) -> SessionKey {
        self.names[name]
    }

    /// Store time.
    pub fn now(&self) -> Timestamp {
        self.started.0.saturating_add(self.clock.uptime().saturating_sub(self.started.1))
    }

    /// The background work that there is.
    pub fn step(&self) {
        self.store().step();
    }

    /// Ends the store's life; the machine is on again afterwards.
    pub fn end(&mut self, end: End) {
        if self.store.is_some() {
            self.time_max = self.time_max.max(self.now());
        }
        match end {
            End::Kill => self.disk.kill(),
            End::PowerLoss if self.disk.has_power() => self.disk.crash(),
            End::PowerLoss => self.disk.restart(),
            End::Close => {
                let store = self.store();
                drive(store, store.close()).unwrap().unwrap();
                self.model.keep_time(self.now());
            }
        }
        self.store = None;
    }

    /// Opens a store after `end`, and checks that it holds what it may.
    pub fn begin(&mut self, end: End) -> Result<(), OpenError> {
        let opened = LogStore::open_by_hand(Arc::new(self.disk.clone()), self.options.clone());
        let time_was_max = self.time_max;
        // Also an open that fails may have written down what time it was.
        self.time_max = self.time_max.max(self.clock.wall());
        let store = opened?;
        if !self.disk.has_power() {
            // The power went when all that matters was done: nobody saw what this life found.
            return Ok(());
        }
        let report = store.recovery();
        if end != End::PowerLoss {
            assert_eq!(report.torn_bytes, 0, "only power loss tears\n{}", self.trace());
        }
        self.set_time(&store, end, time_was_max);
        self.store = Some(store);
        let found = self.observe();
        let now = self.now();
        self.model.keep_time(now);
        if let Err(complaint) = self.model.reborn(end, &found, now) {
            panic!("after {end:?}: {complaint}\n{}", self.trace());
        }
        assert!(report.sessions >= found.len() as u64, "{report:?} of {}", found.len());
        Ok(())
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
            let page = drive(store, store.keys(cursor, 100)).unwrap().unwrap();
            keys.extend(page.keys);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let get = |key: &SessionKey| drive(store, store.get(*key, Access::Peek)).unwrap().unwrap();
        let found: BTreeMap<_, _> = keys.iter().filter_map(|key| Some((*key, get(key)?))).collect();
        assert_eq!(keys.len() - known, found.len(), "a walk meets each live session once\n{}", self.trace());
        found
    }

    /// Does one thing, and checks the answer and what is read afterwards; `false` if the power went.
    pub fn apply(&mut self, step: Step) -> bool {
        let Step { op, durability } = step;
        match op {
            Op::Create { name, len, lifetime } => {
                self.write(self.names[name], len, When::Absent(lifetime), durability)
            }
            Op::Put { name, len } => self.write(self.names[name], len, When::Present, durability),
            Op::PutIf { name, len, stale } => {
                let key = self.names[name];
                let other = self.model.live(self.names[(name + 1) % NAMES], self.now());
                let live = if stale { other } else { self.model.live(key, self.now()) };
                let when = live.and_then(|s| s.version).map_or(When::Present, When::Version);
                self.write(key, len, when, durability)
            }
            Op::Upsert { name, len, lifetime } => {
                self.write(self.names[name], len, When::Always(lifetime), durability)
            }
            Op::Late { which, len } => match self.rotated.len() {
                0 => true,
                n => self.write(self.rotated[which % n], len, When::Present, durability),
            },
            Op::Touch { name } => self.move_deadline(self.names[name], None, durability),
            Op::SetLifetime { name, lifetime } => {
                self.move_deadline(self.names[name], Some(lifetime), durability)
            }
            Op::Delete { name } => self.delete(self.names[name], durability),
            Op::Rotate { name } => self.rotate(name, durability),
            Op::Flush => self.flush(),
            Op::Advance { by } => {
                self.clock.advance(by);
                true
            }
            Op::Step => {
                self.step();
                self.disk.has_power()
            }
            Op::Reopen => self.reopen(),
        }
    }

    fn reopen(&mut self) -> bool {
        let now = self.now();
        let store = self.store.take().unwrap();
        self.time_max = self.time_max.max(now);
        let closed = drive(&store, store.close()).unwrap();
        drop(store);
        if !self.disk.has_power() {
            // All is synced, though neither the end nor the time of it may have been written down.
            if closed.is_ok() {
                self.closed_without_power();
            }
            return false;
        }
        closed.unwrap();
        self.model.keep_time(now);
        match self.begin(End::Close) {
            Ok(()) => self.disk.has_power(),
            Err(e) if self.disk.has_power() => {
                panic!("after a close it does not open: {e}\n{}", self.trace())
            }
            Err(_) => {
                self.closed_without_power();
                false
            }
        }
    }

    fn closed_without_power(&mut self) {
        let begun = self.model.begin();
        self.model.acknowledge(begun, End::PowerLoss, Timestamp::default());
    }

    /// Writes a payload of `len` bytes under a key, on a condition.
    pub fn write(&mut self, key: SessionKey, len: usize, when: When, durability: Durability) -> bool {
        let now = self.now();
        let payload = self.payload(len);
        let live = self.model.live(key, now).cloned();
        let second = Timestamp::from_millis(now.as_millis() / 1_000 * 1_000);
        let new = |created_at, lifetime: &Lifetime| {
            let (payload, version) = (payload.clone(), None);
            let (idle, absolute_at, expires_at, exact) = (None, Timestamp::MAX, Timestamp::MAX, false);
            Session { payload, version, created_at, idle, absolute_at, expires_at, exact }
                .with_lifetime(lifetime, now)
        };
        let written = match (&when, live) {
            (When::Present | When::Version(_), None) => Ok(None),
            (When::Version(version), Some(live)) if live.version != Some(*version) => Err(live.version),
            (When::Present | When::Version(_), Some(live)) => {
                Ok(Some(Session { payload: payload.clone(), version: None, ..live.touched(now) }))
            }
            (When::Absent(_), Some(_)) => Err(None),
            (When::Absent(lifetime), None) => Ok(Some(new(second, lifetime))),
            (When::Always(lifetime), live) => Ok(Some(new(live.map_or(second, |s| s.created_at), lifetime))),
        };
        let op = self.model.begin();
        if let Ok(Some(session)) = &written {
            self.model.stage(Some(key), Some(session.clone()));
        }
        let store = self.store().at(durability);
        match (drive(&store, store.write(key, payload, when)), written) {
            (Some(Ok(Some(version))), Ok(Some(_))) => {
                self.model.learn_version(key, version);
                self.acknowledged(op, durability, now);
            }
            (Some(Ok(None)), Ok(None)) | (Some(Err(Error::AlreadyExists)), Err(None)) => {}
            (Some(Err(Error::Conflict { current })), Err(Some(version))) => assert_eq!(current, version),
            (answer, written) => return self.failed("write", &answer, &written),
        }
        self.check(key)
    }

    fn move_deadline(&mut self, key: SessionKey, given: Option<Lifetime>, durability: Durability) -> bool {
        let now = self.now();
        let live = self.model.live(key, now).cloned();
        let moved = live.clone().map(|session| match &given {
            Some(lifetime) => session.with_lifetime(lifetime, now),
            None => session.touched(now),
        });
        let op = self.model.begin();
        // A touch that the promised deadline covers writes nothing; and whether what it relies on is safe, it does not say.
        let logged = given.is_some() || moved != live;
        if logged && moved.is_some() {
            self.model.stage(Some(key), moved.clone());
        }
        let store = self.store().at(durability);
        let answer = match given {
            Some(lifetime) => drive(&store, store.set_lifetime(key, lifetime)),
            None => drive(&store, store.touch(key)),
        };
        match answer {
            Some(Ok(is_live)) if is_live == moved.is_some() => {
                if logged && is_live {
                    self.acknowledged(op, durability, now);
                }
            }
            answer => return self.failed("touch or lifetime", &answer, &moved),
        }
        self.check(key)
    }

    /// Deletes a session.
    pub fn delete(&mut self, key: SessionKey, durability: Durability) -> bool {
        let now = self.now();
        let was_live = self.model.live(key, now).is_some();
        let op = self.model.begin();
        if was_live {
            self.model.stage(Some(key), None);
        }
        let store = self.store().at(durability);
        match drive(&store, store.delete(key)) {
            Some(Ok(deleted)) if deleted == was_live => {
                if was_live {
                    self.acknowledged(op, durability, now);
                }
            }
            answer => return self.failed("delete", &answer, &was_live),
        }
        self.check(key)
    }

    fn rotate(&mut self, name: usize, durability: Durability) -> bool {
        let (old, now) = (self.names[name], self.now());
        let live = self.model.live(old, now).cloned();
        let op = self.model.begin();
        if let Some(session) = &live {
            self.model.stage(Some(old), None);
            self.model.stage(None, Some(Session { version: None, ..session.clone() }));
        }
        let store = self.store().at(durability);
        let new = match drive(&store, store.rotate(old)) {
            Some(Ok(Some(id))) if live.is_some() => id.key(),
            Some(Ok(None)) if live.is_none() => return self.check(old),
            answer => return self.failed("rotate", &answer, &live),
        };
        self.model.name_rotated(new);
        self.rotated.push(old);
        self.names[name] = new;
        self.acknowledged(op, durability, now);
        // What a rotated session's version is, only a read tells.
        if let Some(Ok(Some(stored))) = drive(self.store(), self.store().get(new, Access::Peek)) {
            self.model.learn_version(new, stored.version);
        }
        self.check(old) && self.check(new)
    }

    fn flush(&mut self) -> bool {
        let op = self.model.begin();
        match drive(self.store(), self.store().flush()) {
            // Where nothing was staged it writes nothing, the time neither.
            Some(Ok(())) => self.model.acknowledge(op, End::PowerLoss, Timestamp::default()),
            answer => return self.failed("flush", &answer, &()),
        }
        self.disk.has_power()
    }

    fn acknowledged(&mut self, op: u64, durability: Durability, now: Timestamp) {
        match durability {
            Durability::Sync => self.model.acknowledge(op, End::PowerLoss, now),
            Durability::Interval(_) => self.model.acknowledge(op, End::Kill, now),
            Durability::Buffered => {}
        }
    }

    fn payload(&mut self, len: usize) -> Bytes {
        self.payloads += 1;
        let mark = self.payloads.to_le_bytes();
        mark.iter().copied().cycle().take(len.max(mark.len())).collect()
    }

    /// Reads a session and compares it; `false` if there is no power.
    pub fn check(&self, key: SessionKey) -> bool {
        let expected = self.model.live(key, self.now());
        match drive(self.store(), self.store().get(key, Access::Peek)) {
            Some(Ok(found)) => {
                let same = match (&found, expected) {
                    (Some(stored), Some(session)) => session.is(stored),
                    (None, None) => true,
                    _ => false,
                };
                assert!(same, "read {found:?}\nof {expected:?} at {:?}\n{}", self.now(), self.trace());
                self.disk.has_power()
            }
            answer => self.failed("get", &answer, &expected),
        }
    }

    /// An answer that only a lack of power excuses.
    fn failed(&self, what: &str, answer: &dyn std::fmt::Debug, expected: &dyn std::fmt::Debug) -> bool {
        assert!(!self.disk.has_power(), "{what} gave {answer:?}, not as {expected:?}\n{}", self.trace());
        false
    }

    /// The last calls of the disk.
    pub fn trace(&self) -> String {
        let trace = self.disk.trace();
        trace[trace.len().saturating_sub(TRACE_LINES)..].join("\n")
    }
}
