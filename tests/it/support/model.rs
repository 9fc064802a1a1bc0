//! What a store must answer, and what may be found after a crash.
//!
//! The model keeps, for each key, every state that it had since the last time all was known, each with the number of the operation that
//! made it. It reads nothing of the store's insides; deadlines are computed here anew, from the contract.
//!
//! # What a crash may leave
//!
//! The log is written and synced front to back, so a crash leaves what the first `p` operations made, for one `p` that is the same for all
//! keys: not less than the last operation that was acknowledged at the durability which the crash spares, and not more than
//! what was begun. Since one rotation is one operation, that it is atomic follows. Expiry is no operation: a state that is past its deadline
//! is absent, and what it replaced is not back.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Lifetime, OwnerKey, SessionKey, Stored, Timestamp, Version};

/// A session as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    pub payload: Bytes,
    /// `None` if the answer that would have told it did not come.
    pub version: Option<Version>,
    /// In whole seconds, as the store keeps it.
    pub created_at: Timestamp,
    pub idle: Option<Duration>,
    pub absolute_at: Timestamp,
    pub expires_at: Timestamp,
    pub exact: bool,
    pub owner: Option<OwnerKey>,
    pub label: &'static str,
}

impl Session {
    /// One without a lifetime yet.
    #[must_use]
    pub fn new(payload: Bytes, created_at: Timestamp, owner: Option<OwnerKey>, label: &'static str) -> Self {
        let (idle, absolute_at, expires_at, exact) = (None, Timestamp::MAX, Timestamp::MAX, false);
        Self { payload, version: None, created_at, idle, absolute_at, expires_at, exact, owner, label }
    }

    /// A new lifetime for a session, beginning now.
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: &Lifetime, now: Timestamp) -> Self {
        self.idle = lifetime.idle_part();
        self.absolute_at = lifetime.absolute_part().map_or(Timestamp::MAX, |d| now.saturating_add(d));
        // There is no other way to ask a lifetime if it is exact.
        self.exact = lifetime.exact() == *lifetime;
        self.expires_at = self.absolute_at;
        self.moved(now)
    }

    /// After a touch now: the deadline moves only if it promises less than a whole idle period.
    #[must_use]
    pub fn touched(self, now: Timestamp) -> Self {
        let Some(idle) = self.idle else { return self };
        let promised = now.saturating_add(idle).min(self.absolute_at);
        if self.exact || self.expires_at < promised { self.moved(now) } else { self }
    }

    fn moved(mut self, now: Timestamp) -> Self {
        if let Some(idle) = self.idle {
            let grain = (idle / 16).clamp(Duration::from_secs(1), Duration::from_secs(300));
            let grain = if self.exact { Duration::ZERO } else { grain };
            self.expires_at = now.saturating_add(idle).saturating_add(grain).min(self.absolute_at);
        }
        self
    }

    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }

    /// Whether this is what the store gave, byte for byte and to the millisecond.
    pub fn is(&self, stored: &Stored) -> bool {
        stored.payload == self.payload
            && self.version.is_none_or(|version| version == stored.version)
            && stored.created_at == self.created_at
            && stored.expires_at == self.expires_at
            && stored.absolute_at.unwrap_or(Timestamp::MAX) == self.absolute_at
            && stored.idle == self.idle
            && stored.owner == self.owner
            && stored.label.as_str() == self.label
    }
}

/// The states of one key, oldest first, each with the number of the operation that made it.
#[derive(Clone, Debug)]
struct Track {
    /// `None` for the new key of a rotation whose answer did not come.
    key: Option<SessionKey>,
    states: Vec<(u64, Option<Session>)>,
}

impl Track {
    fn at(&self, op: u64) -> Option<&Session> {
        self.states.iter().rev().find(|(made, _)| *made <= op)?.1.as_ref()
    }
}

/// What ended the life of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Close,
    Kill,
    PowerLoss,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    tracks: Vec<Track>,
    /// The number of the last operation that was begun.
    begun: u64,
    kept_by_kill: u64,
    kept_by_power_loss: u64,
    /// Store time that a crash of either kind cannot take back.
    pub time_kept_by_kill: Timestamp,
    pub time_kept_by_power_loss: Timestamp,
}

impl Model {
    /// The session that a key has now, if it is live.
    pub fn live(&self, key: SessionKey, now: Timestamp) -> Option<&Session> {
        self.newest(key).filter(|session| session.is_live(now))
    }

    fn newest(&self, key: SessionKey) -> Option<&Session> {
        self.tracks.iter().find(|t| t.key == Some(key))?.at(u64::MAX)
    }

    /// Which of an owner's sessions give way to one more, of `max` that may be: those that were created first, and of one second those that were
    /// written first. `None` if that cannot be told, since the answer of a write did not come.
    pub fn first_to_go(&self, owner: OwnerKey, max: usize, now: Timestamp) -> Option<Vec<SessionKey>> {
        let theirs = self.keys().filter_map(|key| Some((self.live(key, now)?, key)));
        let theirs = theirs.filter(|(session, _)| session.owner == Some(owner));
        let mut theirs: Vec<_> = theirs
            .map(|(session, key)| Some((session.created_at, session.version?, key)))
            .collect::<Option<_>>()?;
        theirs.sort_unstable();
        let over = (theirs.len() + 1).saturating_sub(max);
        Some(theirs[..over].iter().map(|(.., key)| *key).collect())
    }

    pub fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.tracks.iter().filter_map(|track| track.key)
    }

    pub fn live_count(&self, now: Timestamp) -> usize {
        self.keys().filter(|key| self.live(*key, now).is_some()).count()
    }

    /// The deadline of a session that was not ended otherwise, be it past.
    pub fn deadline(&self, key: SessionKey) -> Option<Timestamp> {
        self.newest(key).map(|session| session.expires_at)
    }

    /// Begins an operation: it may happen from here on.
    pub fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// The operation that was begun last makes this of a key, of a new one if none is given.
    pub fn stage(&mut self, key: Option<SessionKey>, session: Option<Session>) {
        let state = (self.begun, session);
        match self.tracks.iter_mut().find(|t| t.key.is_some() && t.key == key) {
            Some(track) => track.states.push(state),
            None => self.tracks.push(Track { key, states: vec![(0, None), state] }),
        }
    }

    /// The operation that was begun last ends every session of this owner, of every owner if none is given, but the one that is spared.
    pub fn revoke(&mut self, owner: Option<OwnerKey>, spared: Option<SessionKey>) {
        let begun = self.begun;
        for track in &mut self.tracks {
            let whose = track.at(u64::MAX).and_then(|session| session.owner);
            let ends = whose.is_some_and(|whose| owner.is_none_or(|owner| owner == whose));
            if ends && (spared.is_none() || track.key != spared) {
                track.states.push((begun, None));
            }
        }
    }

    /// The operation that was begun last was refused: nothing of it happened, and nothing will.
    pub fn withdraw(&mut self) {
        let begun = self.begun;
        for track in &mut self.tracks {
            track.states.retain(|(made, _)| *made != begun);
        }
        self.tracks.retain(|track| track.key.is_some() || track.states.len() > 1);
    }

    /// A sync failed: what was not synced before may be lost also without power loss.
    pub fn lose_unsynced(&mut self) {
        self.kept_by_kill = self.kept_by_power_loss;
        self.time_kept_by_kill = self.time_kept_by_power_loss;
    }

    /// The answer told the new key of the rotation that was begun last.
    pub fn name_rotated(&mut self, key: SessionKey) {
        let begun = self.begun;
        let track = self.tracks.iter_mut().rev().find(|t| t.key.is_none() && t.states[1].0 == begun);
        track.unwrap().key = Some(key);
    }

    /// What the store tells of a key that was just written, which the model has but for the version.
    pub fn learn_version(&mut self, key: SessionKey, version: Version) {
        let track = self.tracks.iter_mut().find(|t| t.key == Some(key));
        if let Some((_, Some(session))) = track.and_then(|t| t.states.last_mut()) {
            session.version = Some(version);
        }
    }

    /// An operation was acknowledged, and everything before it is as safe, since it is before it in the log.
    pub fn acknowledge(&mut self, op: u64, end: End, now: Timestamp) {
        self.kept_by_kill = self.kept_by_kill.max(op);
        self.time_kept_by_kill = self.time_kept_by_kill.max(now);
        if end == End::PowerLoss {
            self.kept_by_power_loss = self.kept_by_power_loss.max(op);
            self.time_kept_by_power_loss = self.time_kept_by_power_loss.max(now);
        }
    }

    /// A close, or an open, wrote down what time it is; later times that a crash took back do not count any more.
    pub fn keep_time(&mut self, now: Timestamp) {
        (self.time_kept_by_kill, self.time_kept_by_power_loss) = (now, now);
    }

    /// Checks what a new life found, by key; from then on only that counts, and where `now` is doubtful who has ended by it, as they may come
    /// back. `Err` says what is wrong.
    pub fn reborn(
        &mut self,
        end: End,
        found: &BTreeMap<SessionKey, Stored>,
        now: Timestamp,
        is_doubtful: bool,
    ) -> Result<(), String> {
        let least = match end {
            End::Close => self.begun,
            End::Kill => self.kept_by_kill,
            End::PowerLoss => self.kept_by_power_loss,
        };
        let Some(kept) = (least..=self.begun).rev().find(|op| self.explains(*op, found, now)) else {
            return Err(self.complaint(least, found, now));
        };
        let unnamed = self.unnamed(found);
        let mut tracks = std::mem::take(&mut self.tracks);
        for track in &mut tracks {
            let mut state = track.at(kept).filter(|session| is_doubtful || session.is_live(now)).cloned();
            track.key = track.key.or_else(|| Some(*unnamed.get(&state.as_ref()?.payload)?));
            if let (Some(session), Some(key)) = (&mut state, track.key)
                && let Some(stored) = found.get(&key)
            {
                session.version = Some(stored.version);
            }
            track.states = vec![(0, None), (0, state)];
        }
        tracks.retain(|track| track.key.is_some() || track.at(0).is_some());
        (self.tracks, self.begun) = (tracks, 0);
        (self.kept_by_kill, self.kept_by_power_loss) = (0, 0);
        Ok(())
    }

    /// The store was repaired, and said whom it kept: from then on only they count.
    pub fn keep_only(&mut self, kept: &BTreeMap<SessionKey, Stored>) {
        for track in &mut self.tracks {
            let newest = track.at(u64::MAX).cloned();
            track.states = vec![(0, newest.filter(|_| track.key.is_some_and(|key| kept.contains_key(&key))))];
        }
    }

    /// The keys that no track has: each must be the new key of a rotation whose answer did not come. Payloads are unique.
    fn unnamed(&self, found: &BTreeMap<SessionKey, Stored>) -> BTreeMap<Bytes, SessionKey> {
        let known = |key| self.tracks.iter().any(|t| t.key == Some(key));
        found.iter().filter(|(key, _)| !known(**key)).map(|(key, s)| (s.payload.clone(), *key)).collect()
    }

    fn explains(&self, op: u64, found: &BTreeMap<SessionKey, Stored>, now: Timestamp) -> bool {
        let unnamed = self.unnamed(found);
        let mut explained = 0;
        for track in &self.tracks {
            let expected = track.at(op).filter(|session| session.is_live(now));
            let key = track.key.or_else(|| unnamed.get(&expected?.payload).copied());
            match (expected, key.and_then(|key| found.get(&key))) {
                (None, None) => {}
                (Some(session), Some(stored)) if session.is(stored) => explained += 1,
                _ => return false,
            }
        }
        explained == found.len()
    }

    fn complaint(&self, least: u64, found: &BTreeMap<SessionKey, Stored>, now: Timestamp) -> String {
        let show = |s: &Session| {
            format!("{} B, {:?}, to {:?}, {:?}", s.payload.len(), s.version, s.expires_at, s.created_at)
        };
        let mut lines = vec![format!(
            "no one moment explains what was found at {now:?}; operations {least} to {} may be the last",
            self.begun
        )];
        for track in &self.tracks {
            let stored = track.key.and_then(|key| found.get(&key));
            let allowed = |(at, (made, session)): (usize, &(u64, Option<Session>))| {
                let until = track.states.get(at + 1).map_or(self.begun, |next| next.0 - 1);
                let live = session.as_ref().filter(|s| s.is_live(now));
                let fits = live.map_or(stored.is_none(), |s| stored.is_some_and(|stored| s.is(stored)));
                let mark = if fits { "FITS" } else { "    " };
                (until >= least)
                    .then(|| format!("  {mark} {made}..={until}: {:?}", session.as_ref().map(show)))
            };
            let allowed: Vec<_> = track.states.iter().enumerate().filter_map(allowed).collect();
            if allowed.iter().all(|line| line.contains("FITS")) {
                continue;
            }
            let seen = stored.map(|s| {
                format!("{} B, {:?}, to {:?}, {:?}", s.payload.len(), s.version, s.expires_at, s.created_at)
            });
            lines.push(format!("key {:?} is {seen:?}; allowed:", track.key));
            lines.extend(allowed);
        }
        let unnamed = self.unnamed(found);
        lines.push(format!("{} keys that nobody knows", unnamed.len()));
        lines.join("\n")
    }
}
