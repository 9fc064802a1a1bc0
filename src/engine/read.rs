//! The operations that read: from the index to the bytes, and nothing is given that was not checked.
//!
//! A slot is copied out under its shard's lock; the bytes are read without any. In between, compaction may publish another
//! address and remove the segment: then the slot is read again. A segment that is held stays readable when its file is unlinked.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::contract::{Access, Cursor, KeyPage, Place, Stored};
use crate::error::Error;
use crate::format::{Body, RecordHeader, Seed};
use crate::id::{Address, SessionKey, Version};
use crate::index::{Entry, Index};
use crate::log::{List, Segment, find};
use crate::options::Durability;
use crate::owner::Label;
use crate::sync::atomic::Ordering;

use super::Engine;

/// The most keys that one page has, so that making it stays a short loop.
const PAGE_KEYS_MAX: usize = 1_000;

/// How often a session may be found to have moved while it is read: each time takes a whole run of compaction, so more than a few is none.
const MOVES_MAX: usize = 1_000;

/// Where the bytes of a record are.
enum Where<T> {
    /// They were here.
    Here(T),
    /// A thread that may wait has to read them.
    Cold(Arc<Segment>),
    /// The segment is gone: the index has a newer address.
    Moved,
}

/// The bytes of a record, and what checks them.
pub(super) struct Record<'a> {
    bytes: Cow<'a, [u8]>,
    seed: Seed,
    address: Address,
}

impl Record<'_> {
    /// Checks and takes apart.
    pub(super) fn parts(&self) -> Result<(RecordHeader, Body<'_>), Error> {
        let Address { segment, offset, .. } = self.address;
        Body::read(&self.bytes, self.seed, offset).map_err(|invalid| Error::Corrupt {
            segment: segment.0,
            offset,
            what: invalid.what(),
        })
    }
}

impl Engine {
    /// The session, if its bytes are at hand and nothing needs to be written for it.
    pub(crate) fn get_now(&self, key: &SessionKey, access: Access) -> Option<Result<Option<Stored>, Error>> {
        for _ in 0..MOVES_MAX {
            let (now, entry) = match self.live(key) {
                Ok(Some(found)) => found,
                Ok(None) => return Some(Ok(None)),
                Err(closed) => return Some(Err(closed)),
            };
            if access == Access::Touch && entry.deadlines.touched(now).is_some() {
                return None;
            }
            match self.look(&self.table.load(), entry.address, |record| stored(key, &entry, record)) {
                Where::Here(stored) => {
                    if access == Access::Touch {
                        self.count_touch();
                    }
                    return Some(stored);
                }
                Where::Cold(_) => return None,
                Where::Moved => {}
            }
        }
        Some(Err(self.lost(key)))
    }

    pub(crate) async fn get(
        &self,
        key: SessionKey,
        access: Access,
        durability: Durability,
    ) -> Result<Option<Stored>, Error> {
        if access == Access::Touch && !self.touch(key, durability).await? {
            return Ok(None);
        }
        match self.content(&key).await? {
            Some((entry, record)) => stored(&key, &entry, &record),
            None => Ok(None),
        }
    }

    /// A live session's entry and the record it points to, read by a thread that may wait if need be.
    pub(super) async fn content(&self, key: &SessionKey) -> Result<Option<(Entry, Record<'static>)>, Error> {
        for _ in 0..MOVES_MAX {
            let Some((_, entry)) = self.live(key)? else { return Ok(None) };
            let list = Arc::clone(&self.table.load());
            if let Some(record) = self.record(&list, entry.address).await? {
                // Another session's record behind this prefix: this one does not exist.
                return Ok((record.parts()?.0.key == *key).then_some((entry, record)));
            }
        }
        Err(self.lost(key))
    }

    /// What to say of a session whose segment is never there.
    fn lost(&self, key: &SessionKey) -> Error {
        let address = self.index.lock(key).get(key).map(|entry| entry.address);
        let (segment, offset) = address.map_or((0, 0), |a| (a.segment.0, a.offset));
        Error::Corrupt { segment, offset, what: "the index points to it, and it is not there" }
    }

    /// The record at an address, looked for in the segments of `list`; `None` if its segment is gone.
    pub(super) async fn record(
        &self,
        list: &List,
        address: Address,
    ) -> Result<Option<Record<'static>>, Error> {
        let copy =
            |r: &Record<'_>| Record { bytes: Cow::Owned(r.bytes.to_vec()), seed: r.seed, address: r.address };
        match self.look(list, address, copy) {
            Where::Here(record) => Ok(Some(record)),
            Where::Moved => Ok(None),
            Where::Cold(segment) => {
                let seed = segment.seed();
                let bytes = self.readers.read(segment, address).await?;
                Ok(Some(Record { bytes: Cow::Owned(bytes), seed, address }))
            }
        }
    }

    /// The session, if there is one now, and the time it was looked at.
    pub(super) fn live(&self, key: &SessionKey) -> Result<Option<(Timestamp, Entry)>, Error> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        // Read first: a touch that comes while this thread sleeps is seen, and cannot be too late for the time it is held against.
        let now = self.clock.now();
        let found = self.index.get(key);
        Ok(found.filter(|entry| entry.deadlines.is_live(now)).map(|entry| (now, entry)))
    }

    /// Whose record is at an address, for a thread that may wait.
    pub(super) fn key_now(&self, list: &List, address: Address) -> Result<SessionKey, Error> {
        match self.look(list, address, key_of) {
            Where::Here(key) => key,
            Where::Cold(segment) => {
                let bytes =
                    segment.read(address).map_err(Error::io(format!("read segment {}", segment.id())))?;
                key_of(&Record { bytes: Cow::Owned(bytes), seed: segment.seed(), address })
            }
            Where::Moved => {
                let Address { segment, offset, .. } = address;
                Err(Error::Corrupt { segment: segment.0, offset, what: "its segment is gone" })
            }
        }
    }

    fn look<T>(&self, list: &List, address: Address, take: impl FnOnce(&Record<'_>) -> T) -> Where<T> {
        let Some(segment) = find(list, address.segment) else { return Where::Moved };
        let seed = segment.seed();
        if address.offset + address.len > segment.written()
            && let Some(bytes) = self.log.find(address)
        {
            return Where::Here(take(&Record { bytes: Cow::Owned(bytes), seed, address }));
        }
        match segment.warm(address) {
            Some(bytes) => Where::Here(take(&Record { bytes: Cow::Borrowed(bytes), seed, address })),
            None => Where::Cold(Arc::clone(segment)),
        }
    }

    pub(crate) async fn keys(&self, cursor: Option<Cursor>, limit: usize) -> Result<KeyPage, Error> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        let limit = limit.clamp(1, PAGE_KEYS_MAX);
        let (mut shard, mut left) = match cursor.map(|cursor| cursor.0) {
            Some(Place::Slots { shard, left }) => (shard, left),
            _ => (0, u32::MAX),
        };
        let (mut keys, mut looked_at) = (Vec::new(), 0);
        while (shard as usize) < Index::SHARDS && keys.len() < limit && looked_at < PAGE_KEYS_MAX {
            let now = self.clock.now();
            let (list, page) = {
                let locked = self.index.lock_shard(shard as usize);
                // While the shard is locked nothing it points to goes from the list; what is held stays readable.
                (Arc::clone(&self.table.load()), self.index.page(&locked, left, limit - keys.len()))
            };
            // Those that have ended count too: a page is short work also where nobody is left.
            looked_at += page.looked_at;
            for entry in page.entries.iter().filter(|entry| entry.deadlines.is_live(now)) {
                match self.look(&list, entry.address, key_of) {
                    Where::Here(key) => keys.push(key?),
                    Where::Moved => {}
                    Where::Cold(_) => {
                        if let Some(record) = self.record(&list, entry.address).await? {
                            keys.push(key_of(&record)?);
                        }
                    }
                }
            }
            (shard, left) = if page.left == 0 { (shard + 1, u32::MAX) } else { (shard, page.left) };
        }
        let more = (shard as usize) < Index::SHARDS;
        Ok(KeyPage { keys, next: more.then_some(Cursor(Place::Slots { shard, left })) })
    }
}

/// Whose a record is: checks the header, which has a checksum of its own, and leaves the payload alone, however long it is.
pub(super) fn key_of(record: &Record<'_>) -> Result<SessionKey, Error> {
    let Address { segment, offset, .. } = record.address;
    RecordHeader::decode(&record.bytes, record.seed, offset)
        .map(|header| header.key)
        .map_err(|invalid| Error::Corrupt { segment: segment.0, offset, what: invalid.what() })
}

/// What the caller gets: the deadlines are the index's, since a touch leaves the record as it was.
pub(super) fn stored(key: &SessionKey, entry: &Entry, record: &Record<'_>) -> Result<Option<Stored>, Error> {
    let (header, body) = record.parts()?;
    if header.key != *key {
        return Ok(None);
    }
    let deadlines = &entry.deadlines;
    Ok(Some(Stored {
        payload: Bytes::copy_from_slice(body.payload),
        version: Version(entry.version),
        created_at: Timestamp::from_millis(u64::from(header.created_s) * 1_000),
        expires_at: deadlines.expires_at,
        absolute_at: (deadlines.absolute_at != Timestamp::MAX).then_some(deadlines.absolute_at),
        idle: deadlines.idle(),
        owner: body.owner,
        label: Label::of_record(body.label),
    }))
}
