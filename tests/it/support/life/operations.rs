//! What is done to a store in a life, and what the model says of each answer.
//!
//! It begins and ends no life, but for a close and the open behind it. Invariant: when an operation has returned, the model allows exactly what
//! its answer allows.

use bytes::Bytes;
use cloakroom::{
    Access, Answer, AtCap, Binding, Durability, Error, Label, Lifetime, LogStore, OwnerKey, SessionKey,
    SessionStore, Timestamp, When, Whose, Work,
};
use rand::RngExt;

use super::{Life, Pace, drive, drive_at};
use crate::support::history::{NAMES, Op, Step};
use crate::support::model::{End, Session};

/// An answer, after the failures that are no news.
#[derive(Debug)]
enum Heard<T> {
    Answer(Result<T, Error>),
    /// The power went, or the disk failed where it may.
    Failed,
}

impl Life {
    /// Does one thing, and checks the answer and what is read afterwards; `false` if the power went.
    pub fn apply(&mut self, step: Step) -> bool {
        let Step { op, durability } = step;
        self.note();
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
            Op::Bind { name, owner, max, label } => {
                self.bind(self.names[name], owner_of(owner), max, label, durability)
            }
            Op::CreateOwned { name, len, lifetime, owner, max } => {
                let (key, owner) = (self.names[name], OwnerKey::of(&[owner]));
                self.create_owned(key, len, lifetime, owner, max, durability)
            }
            Op::Revoke { owner, spared } => {
                self.revoke(owner_of(owner), spared.map(|name| self.names[name]), durability)
            }
            Op::Flush => self.flush(),
            Op::Advance { by } => {
                self.clock.advance(by);
                true
            }
            Op::Step => {
                let part = match &mut self.pace {
                    Pace::Random(rng) => Work::ALL.get(rng.random_range(0..Work::ALL.len() + 2)),
                    _ => None,
                };
                match part {
                    Some(work) => self.store().work(*work),
                    None => self.step(),
                }
                self.disk.has_power()
            }
            Op::Reopen => self.reopen(),
        }
    }

    fn reopen(&mut self) -> bool {
        let store = self.store.take().unwrap();
        self.reach();
        let closed = drive(&store, store.close()).unwrap();
        drop(store);
        match closed {
            Ok(()) => self.closed(),
            Err(_) if !self.disk.has_power() => return false,
            Err(Error::DurabilityUnknown { .. }) if self.tolerant => {
                self.poisoned = true;
                return false;
            }
            Err(e) => panic!("it does not close: {e}\n{}", self.trace()),
        }
        if !self.disk.has_power() {
            return false;
        }
        if !self.tolerant {
            self.keep_time();
        }
        self.note();
        match self.begin(End::Close) {
            Ok(()) => self.disk.has_power(),
            Err(e) if self.disk.has_power() && !self.tolerant => {
                panic!("after a close it does not open: {e}\n{}", self.trace())
            }
            Err(_) => false,
        }
    }

    /// All is synced, though neither the end nor the time of it may have been written down.
    pub(super) fn closed(&mut self) {
        let begun = self.model.begin();
        self.model.acknowledge(begun, End::PowerLoss, Timestamp::default());
    }

    /// Writes a payload of `len` bytes under a key, on a condition.
    pub fn write(&mut self, key: SessionKey, len: usize, when: When, durability: Durability) -> bool {
        let now = self.now();
        let payload = self.payload(len);
        let live = self.model.live(key, now).cloned();
        let second = Timestamp::from_millis(now.as_millis() / 1_000 * 1_000);
        let (owner, label) = live.as_ref().map_or((None, ""), |session| (session.owner, session.label));
        let new = |created_at, lifetime: &Lifetime| {
            Session::new(payload.clone(), created_at, owner, label).with_lifetime(lifetime, now)
        };
        let written = match (&when, live) {
            (When::Present | When::Version(_), None) => Ok(None),
            (When::VersionWith { .. }, _) => unreachable!("no operation gives a lifetime so"),
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
        let answer = self.ask(durability, |store| store.write(key, payload, when));
        match (self.heard(answer), written) {
            (Heard::Answer(Ok(Some(version))), Ok(Some(_))) => {
                self.model.learn_version(key, version);
                self.acknowledged(op, durability, now);
            }
            (Heard::Failed, _)
            | (Heard::Answer(Ok(None)), Ok(None))
            | (Heard::Answer(Err(Error::AlreadyExists)), Err(None)) => {}
            // The version that an answer would have told, had it come, is not known here.
            (Heard::Answer(Err(Error::Conflict { .. })), Err(None)) => assert!(self.tolerant),
            (Heard::Answer(Err(Error::Conflict { current })), Err(Some(version))) => {
                assert_eq!(current, version);
            }
            (answer, written) => self.wrong("write", &answer, &written),
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
        let answer = self.ask(durability, |store| match given {
            Some(lifetime) => store.set_lifetime(key, lifetime),
            None => store.touch(key),
        });
        match self.heard(answer) {
            Heard::Failed => {}
            Heard::Answer(Ok(is_live)) if is_live == moved.is_some() => {
                if logged && is_live {
                    self.acknowledged(op, durability, now);
                }
            }
            answer @ Heard::Answer(_) => self.wrong("touch or lifetime", &answer, &moved),
        }
        self.check(key)
    }

    /// Deletes a session.
    pub fn delete(&mut self, key: SessionKey, durability: Durability) -> bool {
        let now = self.now();
        let was_live = self.model.live(key, now).is_some();
        let ended_at = self.model.deadline(key).map_or(Timestamp::default(), |deadline| deadline.min(now));
        let op = self.model.begin();
        // Who has ended by a time that may be wrong must not come back.
        if was_live || self.is_doubtful() && self.model.deadline(key).is_some() {
            self.model.stage(Some(key), None);
        }
        let answer = self.ask(durability, |store| store.delete(key));
        match self.heard(answer) {
            Heard::Failed => {}
            Heard::Answer(Ok(deleted)) if deleted == was_live => {
                // What has ended the session is as safe as a delete, be it the time.
                let written_at = if was_live { now } else { ended_at };
                self.acknowledged(op, durability, written_at);
            }
            answer @ Heard::Answer(_) => self.wrong("delete", &answer, &was_live),
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
        let answer = self.ask(durability, |store| store.rotate(old));
        let new = match self.heard(answer) {
            Heard::Failed => return self.check(old),
            Heard::Answer(Ok(Some(id))) if live.is_some() => id.key(),
            Heard::Answer(Ok(None)) if live.is_none() => return self.check(old),
            answer @ Heard::Answer(_) => {
                self.wrong("rotate", &answer, &live);
                return false;
            }
        };
        self.model.name_rotated(new);
        self.rotated.push(old);
        self.names[name] = new;
        self.acknowledged(op, durability, now);
        self.learn(new);
        self.check(old) && self.check(new)
    }

    /// The binding under a cap, with those that give way to it, each of which is an operation of its own before it: a crash may come between.
    fn binding(&mut self, owner: OwnerKey, max: Option<u32>) -> Binding {
        let now = self.now();
        // Where the disk may fail, what of several operations was refused cannot be told; who may not have ended counts.
        let max = max.filter(|_| !self.tolerant && !self.is_doubtful());
        let first = max.and_then(|max| Some((max, self.model.first_to_go(owner, max as usize, now)?)));
        let Some((max, first)) = first else { return Binding::to(owner) };
        for key in first {
            self.model.begin();
            self.model.stage(Some(key), None);
        }
        Binding::to(owner).at_most(max, AtCap::EvictOldest)
    }

    fn create_owned(
        &mut self,
        key: SessionKey,
        len: usize,
        lifetime: Lifetime,
        owner: OwnerKey,
        max: Option<u32>,
        durability: Durability,
    ) -> bool {
        let (now, payload) = (self.now(), self.payload(len));
        let is_live = self.model.live(key, now).is_some();
        let binding = if is_live { Binding::to(owner) } else { self.binding(owner, max) };
        let op = self.model.begin();
        if !is_live {
            let second = Timestamp::from_millis(now.as_millis() / 1_000 * 1_000);
            let session =
                Session::new(payload.clone(), second, Some(owner), "").with_lifetime(&lifetime, now);
            self.model.stage(Some(key), Some(session));
        }
        let answer = self.ask(durability, |store| store.create_owned_as(key, payload, lifetime, binding));
        match self.heard(answer) {
            Heard::Answer(Ok(())) if !is_live => {
                self.acknowledged(op, durability, now);
                self.learn(key);
            }
            Heard::Answer(Err(Error::AlreadyExists)) if is_live => {}
            Heard::Failed => {}
            answer @ Heard::Answer(_) => self.wrong("create owned", &answer, &is_live),
        }
        self.names.clone().into_iter().all(|key| self.check(key))
    }

    /// What version a session has whose write did not tell it.
    fn learn(&mut self, key: SessionKey) {
        if let Some(Ok(Some(stored))) = drive(self.store(), self.store().get(key, Access::Peek)) {
            self.model.learn_version(key, stored.version);
        }
    }

    fn bind(
        &mut self,
        key: SessionKey,
        owner: Option<OwnerKey>,
        max: Option<u32>,
        label: Option<&'static str>,
        durability: Durability,
    ) -> bool {
        let now = self.now();
        let live = self.model.live(key, now).cloned();
        let is_new = live.as_ref().is_some_and(|session| session.owner != owner);
        let binding = owner.map(|owner| self.binding(owner, max.filter(|_| is_new)));
        let binding = binding.map(|binding| match label {
            Some(label) => binding.labelled(Label::cut(label)),
            None => binding,
        });
        let op = self.model.begin();
        if let Some(session) = &live {
            let label = owner.map_or("", |_| label.unwrap_or(session.label));
            self.model.stage(Some(key), Some(Session { version: None, owner, label, ..session.clone() }));
        }
        let answer = self.ask(durability, |store| store.bind_as(key, binding));
        match self.heard(answer) {
            Heard::Failed => return self.check(key),
            Heard::Answer(Ok(is_live)) if is_live == live.is_some() => {}
            answer @ Heard::Answer(_) => self.wrong("bind", &answer, &live),
        }
        if live.is_some() {
            self.acknowledged(op, durability, now);
            self.learn(key);
        }
        self.names.clone().into_iter().all(|key| self.check(key))
    }

    fn revoke(
        &mut self,
        owner: Option<OwnerKey>,
        spared: Option<SessionKey>,
        durability: Durability,
    ) -> bool {
        let now = self.now();
        let op = self.model.begin();
        self.model.revoke(owner, spared);
        let answer =
            self.ask(durability, |store| store.revoke(owner.map_or(Whose::Everybody, Whose::Owner), spared));
        match self.heard(answer) {
            Heard::Failed => {}
            Heard::Answer(Ok(())) => self.acknowledged(op, durability, now),
            answer @ Heard::Answer(_) => self.wrong("revoke", &answer, &()),
        }
        self.names.clone().into_iter().all(|key| self.check(key))
    }

    fn flush(&mut self) -> bool {
        let op = self.model.begin();
        let answer = self.ask(Durability::Sync, SessionStore::flush);
        match self.heard(answer) {
            Heard::Failed => {}
            // Where nothing was staged it writes nothing, the time neither.
            Heard::Answer(Ok(())) => self.model.acknowledge(op, End::PowerLoss, Timestamp::default()),
            answer @ Heard::Answer(_) => self.wrong("flush", &answer, &()),
        }
        self.disk.has_power()
    }

    /// The answer of an operation that has begun, after as much background work as it needs; `None` if that does not help.
    fn ask<T: Unpin>(
        &mut self,
        durability: Durability,
        operation: impl FnOnce(&LogStore) -> Answer<'_, T>,
    ) -> Option<Result<T, Error>> {
        self.note();
        let store = self.store().at(durability);
        drive_at(&mut self.pace, &store, operation(&store))
    }

    /// What an answer means for the model, where a failure is excused.
    fn heard<T: std::fmt::Debug>(&mut self, answer: Option<Result<T, Error>>) -> Heard<T> {
        let answer = match answer {
            Some(Ok(answer)) => return Heard::Answer(Ok(answer)),
            None | Some(Err(_)) if !self.disk.has_power() => return Heard::Failed,
            None => panic!("no answer ever comes\n{}", self.trace()),
            Some(Err(error)) => error,
        };
        match answer {
            error if !self.tolerant => return Heard::Answer(Err(error)),
            // It may have happened, and reads see it.
            Error::DurabilityUnknown { .. } => self.poisoned = true,
            Error::Poisoned { .. } => {
                self.poisoned = true;
                self.model.withdraw();
            }
            Error::DiskFull | Error::Io { .. } => self.model.withdraw(),
            error => return Heard::Answer(Err(error)),
        }
        Heard::Failed
    }

    fn acknowledged(&mut self, op: u64, durability: Durability, now: Timestamp) {
        let now = if self.is_doubtful() { Timestamp::default() } else { now };
        match durability {
            Durability::Sync => self.model.acknowledge(op, End::PowerLoss, now),
            Durability::Interval(_) => self.model.acknowledge(op, End::Kill, now),
            Durability::Buffered => {}
        }
    }

    fn payload(&mut self, len: usize) -> Bytes {
        self.payloads += 1;
        let mark = self.payloads.to_le_bytes();
        let mut bytes = mark.repeat(len / mark.len() + 1);
        bytes.truncate(len.max(mark.len()));
        bytes.into()
    }

    /// Reads a session and compares it; `false` if there is no power.
    pub fn check(&self, key: SessionKey) -> bool {
        let expected = self.model.live(key, self.now());
        match drive(self.store(), self.store().get(key, Access::Peek)) {
            // Whether the operation that met the end was staged or refused, nobody was told.
            _ if !self.disk.has_power() => false,
            Some(Ok(found)) => {
                let same = match (&found, expected) {
                    (Some(stored), Some(session)) => session.is(stored),
                    (None, None) => true,
                    _ => false,
                };
                assert!(same, "read {found:?}\nof {expected:?} at {:?}\n{}", self.now(), self.trace());
                true
            }
            // A read that failed says nothing.
            Some(Err(Error::Io { .. })) if self.tolerant => true,
            answer => {
                self.wrong("get", &answer, &expected);
                false
            }
        }
    }

    fn wrong(&self, what: &str, answer: &dyn std::fmt::Debug, expected: &dyn std::fmt::Debug) {
        panic!("{what} gave {answer:?}, not as {expected:?}\n{}", self.trace());
    }
}

/// The owner of a number; 0 is nobody, or everybody.
fn owner_of(number: u8) -> Option<OwnerKey> {
    (number > 0).then(|| OwnerKey::of(&[number]))
}
