//! The operations that write: each stages one record and changes the index in one step.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::contract::{Stored, When};
use crate::error::Error;
use crate::events::{Event, Why};
use crate::format::{Body, Kind, OWNER_LEN, RECORD_HEADER_BYTES, RecordHeader};
use crate::id::{Seq, SessionKey, Version};
use crate::index::{Entry, Shard, Standing};
use crate::lifetime::{Deadlines, Lifetime};
use crate::log::{Outcome, Refused, Room, Staged};
use crate::options::Durability;
use crate::owner::Label;
use crate::sync::atomic::Ordering;

use super::Engine;
use super::read::{Record, stored};

/// How one try to write ended.
pub(super) enum Tried<T> {
    /// Nothing needed to be staged.
    Done(T),
    Staged(Staged, T),
    /// The session changed since it was read.
    Again,
}

/// Why one try to write came to nothing.
pub(super) enum Halt {
    Refused(Refused),
    Failed(Error),
}

impl From<Refused> for Halt {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Engine {
    /// Tries until there is a segment to write to, then waits for what the durability promises; `None` asks the caller to read again.
    ///
    /// Dropping the future while it waits for room or for a segment leaves nothing done; dropping it later leaves all of it done.
    pub(super) async fn staged<T>(
        &self,
        bytes: u32,
        mut attempt: impl FnMut(&mut Room<'_>) -> Result<Tried<T>, Halt>,
    ) -> Result<Option<T>, Error> {
        if self.is_read_only {
            return Err(Error::ReadOnly);
        }
        // A session may be from a time of larger limits: nobody could ever wait for that much room.
        let max = self.options.unwritten_bytes_max.min(self.options.segment_bytes / 2);
        if bytes > max {
            return Err(Error::PayloadTooLarge { len: bytes as usize, max: max as usize });
        }
        let mut room = self.log.room(bytes).await?;
        let (staged, answer) = loop {
            let space = self.log.space();
            match attempt(&mut room) {
                Ok(Tried::Done(answer)) => return Ok(Some(answer)),
                Ok(Tried::Again) => return Ok(None),
                Ok(Tried::Staged(staged, answer)) => break (staged, answer),
                Err(Halt::Refused(Refused::Wait)) => {
                    self.log.turned.raise();
                    space.await;
                }
                Err(Halt::Refused(refused)) => return Err(refused.into()),
                Err(Halt::Failed(error)) => return Err(error),
            }
        };
        // What is left of it is for others, while this one waits for the disk.
        drop(room);
        acknowledged(staged.outcome).await?;
        Ok(Some(answer))
    }

    pub(crate) async fn write(
        &self,
        key: SessionKey,
        payload: Bytes,
        when: When,
        durability: Durability,
    ) -> Result<Option<Version>, Error> {
        self.check_payload(&payload)?;
        if let When::Absent(lifetime) | When::Always(lifetime) | When::VersionWith { lifetime, .. } = &when {
            Deadlines::start(self.clock.now(), lifetime)?;
        }
        let body = Body { payload: &payload, ..Body::default() };
        let unowned = RecordHeader::new(Kind::Put, key, 0, UNSET, &body);
        // The label that a record takes along, and the version that has it.
        let mut kept: Option<(Seq, Label)> = None;
        loop {
            let front_len = OWNER_LEN + kept.as_ref().map_or(0, |(_, label)| label.len());
            let written = self.staged(unowned.len() + front_len, |room| {
                let mut shard = self.index.lock(&key);
                let now = self.clock.now();
                let standing = self.index.standing(&shard, &key);
                let Some((deadlines, created_s)) = self.admit(&standing, when, now)? else {
                    return Ok(Tried::Done(None));
                };
                // A session that begins anew belongs to nobody, whoever had the key before.
                let kept_on = standing.live(now).and_then(|entry| Some((entry, standing.owner?)));
                let label = match (&kept, kept_on) {
                    (_, None) => "",
                    (_, Some((entry, _))) if !entry.labelled => "",
                    (Some((version, label)), Some((entry, _))) if *version == entry.version => label.as_str(),
                    _ => return Ok(Tried::Again),
                };
                let owner = kept_on.map(|(_, owner)| owner);
                let mut header = RecordHeader { created_s, deadlines, ..unowned };
                if let Some(owner) = owner {
                    header.own(owner, label.as_bytes());
                    standing.promise(deadlines.expires_at);
                }
                let body = Body { owner, label: label.as_bytes(), ..body };
                let staged = self.log.stage(&mut header, &body, durability, room)?;
                let entry = began(&staged, &header);
                if standing.live(now).is_none() {
                    self.tell_of_new(&key, standing.found, now);
                }
                shard.set(&key, entry, owner, now);
                Ok(Tried::Staged(staged, Some(Version(entry.version))))
            });
            if let Some(written) = written.await? {
                return Ok(written);
            }
            kept = self.content(&key).await?.map(|(entry, record)| label_of(entry, &record)).transpose()?;
        }
    }

    pub(super) fn check_payload(&self, payload: &Bytes) -> Result<(), Error> {
        let (len, max) = (payload.len(), self.options.payload_bytes_max as usize);
        if len > max { Err(Error::PayloadTooLarge { len, max }) } else { Ok(()) }
    }

    /// Whether there may be one session more, where one that has ended is in its place or not.
    pub(super) fn check_sessions(&self, found: Option<Entry>) -> Result<(), Error> {
        let max = self.options.sessions_max as usize;
        if found.is_none() && self.index.len() >= max { Err(Error::TooManySessions { max }) } else { Ok(()) }
    }

    /// Whether the condition holds: the deadlines and the time of creation that the session will have.
    fn admit(
        &self,
        standing: &Standing<'_>,
        when: When,
        now: Timestamp,
    ) -> Result<Option<(Deadlines, u32)>, Error> {
        let live = standing.live(now);
        let kept = |entry: Entry| (entry.deadlines.touched(now).unwrap_or(entry.deadlines), entry.created_s);
        let lifetime = match (when, live) {
            (When::Present | When::Version(_) | When::VersionWith { .. }, None) => return Ok(None),
            (When::Present, Some(entry)) => return Ok(Some(kept(entry))),
            (When::Version(version), Some(entry)) if entry.version == version.0 => {
                return Ok(Some(kept(entry)));
            }
            (When::VersionWith { version, lifetime, loaded }, Some(entry)) if entry.version == version.0 => {
                let given = Deadlines::start(now, &lifetime)?;
                return Ok(Some((given.merged(loaded, entry.deadlines), entry.created_s)));
            }
            (When::Version(_) | When::VersionWith { .. }, Some(entry)) => {
                return Err(Error::Conflict { current: Version(entry.version) });
            }
            (When::Absent(_), Some(_)) => return Err(Error::AlreadyExists),
            (When::Absent(lifetime) | When::Always(lifetime), _) => lifetime,
        };
        self.check_sessions(standing.found)?;
        let max = self.options.anonymous_sessions_max as usize;
        // One in the place of another anonymous session that ended makes no more of them.
        let is_more = live.is_none() && standing.found.is_none_or(|entry| entry.owned);
        if is_more && self.index.anonymous() >= max {
            return Err(Error::TooManyAnonymousSessions { max });
        }
        let created_s = live.map_or_else(|| seconds(now), |entry| entry.created_s);
        Ok(Some((Deadlines::start(now, &lifetime)?, created_s)))
    }

    /// Whether the session is live, if that can be told without writing: a touch that the logged deadline covers, or nobody to touch.
    pub(crate) fn touch_now(&self, key: &SessionKey) -> Option<Result<bool, Error>> {
        match self.live(key) {
            Ok(Some((now, entry))) if entry.deadlines.touched(now).is_some() => None,
            Ok(Some(_)) => {
                self.count_touch();
                Some(Ok(true))
            }
            Ok(None) => Some(Ok(false)),
            Err(closed) => Some(Err(closed)),
        }
    }

    pub(super) fn count_touch(&self) {
        self.counters.touches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) async fn touch(&self, key: SessionKey, durability: Durability) -> Result<bool, Error> {
        if let Some(live) = self.touch_now(&key) {
            return live;
        }
        let moved = self.move_deadline(key, durability, |entry, now| Ok(entry.deadlines.touched(now)));
        let live = moved.await?;
        if live {
            self.count_touch();
            self.counters.touches_logged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(live)
    }

    pub(crate) async fn set_lifetime(
        &self,
        key: SessionKey,
        lifetime: Lifetime,
        durability: Durability,
    ) -> Result<bool, Error> {
        Deadlines::start(self.clock.now(), &lifetime)?;
        self.move_deadline(key, durability, |_, now| Deadlines::start(now, &lifetime).map(Some)).await
    }

    async fn move_deadline(
        &self,
        key: SessionKey,
        durability: Durability,
        moved: impl Fn(&Entry, Timestamp) -> Result<Option<Deadlines>, Error>,
    ) -> Result<bool, Error> {
        let done = self.staged(RECORD_HEADER_BYTES, |room| {
            let mut shard = self.index.lock(&key);
            let now = self.clock.now();
            let standing = self.index.standing(&shard, &key);
            let Some(entry) = standing.live(now) else { return Ok(Tried::Done(false)) };
            let Some(deadlines) = moved(&entry, now)? else { return Ok(Tried::Done(true)) };
            standing.promise(deadlines.expires_at);
            let mut header = RecordHeader::touch(key, entry.version, deadlines);
            let staged = self.log.stage(&mut header, &Body::default(), durability, room)?;
            drop(standing);
            shard.touch(&key, deadlines, staged.address.segment, now);
            Ok(Tried::Staged(staged, true))
        });
        Ok(done.await?.unwrap_or(false))
    }

    pub(crate) async fn delete(&self, key: SessionKey, durability: Durability) -> Result<bool, Error> {
        let was_live = self.delete_where(key, durability, |_| true).await?.flatten().is_some();
        if !was_live {
            self.await_its_end(durability).await?;
        }
        Ok(was_live)
    }

    /// Deletes, and gives the last of it: the content is read first, outside of any lock, and the record staged only if it is still the newest.
    pub(crate) async fn take(
        &self,
        key: SessionKey,
        durability: Durability,
    ) -> Result<Option<Stored>, Error> {
        loop {
            let read = self.content(&key).await?;
            let version = read.as_ref().map(|(entry, _)| entry.version);
            let is_as_read = |live: Option<&Entry>| live.map(|entry| entry.version) == version;
            let ended = self.delete_where(key, durability, is_as_read).await?.flatten();
            match (read, ended) {
                // The deadline may have moved since.
                (Some((_, record)), Some(entry)) => return stored(&key, &entry, &record),
                (Some(_), None) => {}
                (None, _) => {
                    self.await_its_end(durability).await?;
                    return Ok(None);
                }
            }
        }
    }

    /// Ends the session, if the one that is live passes; gives that, or `None` where it does not pass.
    async fn delete_where(
        &self,
        key: SessionKey,
        durability: Durability,
        passes: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<Option<Option<Entry>>, Error> {
        let deleted = self.staged(RECORD_HEADER_BYTES, |room| {
            let mut shard = self.index.lock(&key);
            let now = self.clock.now();
            let standing = self.index.standing(&shard, &key);
            let live = standing.live(now);
            if !passes(live.as_ref()) {
                return Ok(Tried::Again);
            }
            let Some(found) = standing.found else { return Ok(Tried::Done(None)) };
            // Who has expired by a time that may be wrong could come back with the right one, so the delete is written down.
            if live.is_none() && !self.clock.is_doubtful() {
                self.ended_by(found.deadlines.expires_at.min(now));
                return Ok(Tried::Done(None));
            }
            drop(standing);
            let staged = self.end(&mut shard, &key, durability, room)?;
            let why = if live.is_some() { Why::Asked } else { Why::Revoked };
            let expired = !found.deadlines.is_live(now);
            self.listeners.tell(if expired { Event::Expired { key } } else { Event::Deleted { key, why } });
            Ok(Tried::Staged(staged, live))
        });
        deleted.await
    }

    /// What has ended a session may still be on its way to the device, and "it is gone" must not be answered before that is there.
    /// Where that was its deadline, the time must be there too, or a crash beside a wall clock that is behind would bring it back.
    async fn await_its_end(&self, durability: Durability) -> Result<(), Error> {
        if durability == Durability::Buffered {
            return Ok(());
        }
        let ended_by = self.ended_by.load(Ordering::Acquire);
        while self.log.time().as_millis() < ended_by {
            let space = self.log.space();
            match self.log.mark_time() {
                Ok(()) => break,
                Err(Refused::Wait) => {
                    self.log.turned.raise();
                    space.await;
                }
                Err(refused) => return Err(refused.into()),
            }
        }
        self.flush().await
    }

    /// Tells that a session began, and before it how the one ended that has left nobody but its entry behind. Its shard is locked.
    pub(super) fn tell_of_new(&self, key: &SessionKey, found: Option<Entry>, now: Timestamp) {
        let key = *key;
        match found {
            Some(entry) if entry.deadlines.is_live(now) => {
                self.listeners.tell(Event::Deleted { key, why: Why::Revoked });
            }
            Some(_) => self.listeners.tell(Event::Expired { key }),
            None => {}
        }
        self.listeners.tell(Event::Created { key });
    }

    /// Writes down that the session is gone, and takes it out.
    pub(super) fn end(
        &self,
        shard: &mut Shard,
        key: &SessionKey,
        durability: Durability,
        room: &mut Room<'_>,
    ) -> Result<Staged, Refused> {
        let hides_until = shard.hides_until(key);
        let mut header = RecordHeader::delete(*key, hides_until);
        let staged = self.log.stage(&mut header, &Body::default(), durability, room)?;
        shard.remove(key);
        shard.add_tombstone(staged.address.segment, hides_until, RECORD_HEADER_BYTES);
        Ok(staged)
    }

    pub(crate) async fn flush(&self) -> Result<(), Error> {
        if self.is_read_only {
            return Ok(());
        }
        let barrier = self.log.barrier()?;
        acknowledged(Some(barrier)).await
    }
}

/// Stands in a header until its record is staged.
pub(super) const UNSET: Deadlines =
    Deadlines { idle_ms: 0, absolute_at: Timestamp::MAX, expires_at: Timestamp::MAX, exact: false };

/// What the index keeps of a content that was staged.
pub(super) fn began(staged: &Staged, header: &RecordHeader) -> Entry {
    Entry {
        address: staged.address,
        rotated: header.kind == Kind::Rotate,
        owned: header.owned,
        labelled: header.label_len > 0,
        version: staged.seq,
        deadlines: header.deadlines,
        created_s: header.created_s,
        touched_in: None,
    }
}

fn label_of(entry: Entry, record: &Record<'_>) -> Result<(Seq, Label), Error> {
    Ok((entry.version, Label::of_record(record.parts()?.1.label)))
}

pub(super) fn seconds(now: Timestamp) -> u32 {
    // Until the year 2106; later sessions are all as old as that.
    u32::try_from(now.as_millis() / 1_000).unwrap_or(u32::MAX)
}

/// Waits for the outcome of a write, if it is wanted.
pub(super) async fn acknowledged(outcome: Option<oneshot::Receiver<Outcome>>) -> Result<(), Error> {
    let Some(outcome) = outcome else { return Ok(()) };
    match outcome.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(cause)) => Err(Error::DurabilityUnknown { cause }),
        Err(_) => Err(Error::DurabilityUnknown { cause: "the store ended before".into() }),
    }
}
