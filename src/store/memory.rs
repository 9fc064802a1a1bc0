//! [`MemoryStore`]: the same contract in process memory, for tests and small sites.
use super::{Answer, SessionStore};
use crate::contract::{Access, Cursor, KeyPage, Stats, Stored, When};
use crate::error::{Error, OpenError};
use crate::id::{SessionId, SessionKey, Version};
use crate::lifetime::Lifetime;
use crate::options::Options;
use crate::sync::Pending;
use bytes::Bytes;
use std::sync::Arc;

/// A store in process memory: the contract of [`SessionStore`] with nothing on disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    options: Arc<Options>,
}

impl MemoryStore {
    /// An empty store with default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// An empty store with the limits and the clock of `options`.
    ///
    /// # Errors
    ///
    /// [`OpenError::InvalidOption`].
    pub fn with_options(options: Options) -> Result<Self, OpenError> {
        options.check()?;
        Ok(Self { options: Arc::new(options) })
    }
}

#[expect(unused_variables)]
impl SessionStore for MemoryStore {
    fn write(&self, key: SessionKey, payload: Bytes, when: When) -> Answer<'_, Option<Version>> {
        Pending::ready(Err(Error::Closed))
    }
    fn get(&self, key: SessionKey, access: Access) -> Answer<'_, Option<Stored>> {
        Pending::ready(Err(Error::Closed))
    }
    fn touch(&self, key: SessionKey) -> Answer<'_, bool> {
        Pending::ready(Err(Error::Closed))
    }
    fn set_lifetime(&self, key: SessionKey, lifetime: Lifetime) -> Answer<'_, bool> {
        Pending::ready(Err(Error::Closed))
    }
    fn delete(&self, key: SessionKey) -> Answer<'_, bool> {
        Pending::ready(Err(Error::Closed))
    }
    fn rotate(&self, key: SessionKey) -> Answer<'_, Option<SessionId>> {
        Pending::ready(Err(Error::Closed))
    }
    fn keys(&self, cursor: Option<Cursor>, limit: usize) -> Answer<'_, KeyPage> {
        Pending::ready(Err(Error::Closed))
    }
    fn len(&self) -> usize {
        0
    }
    fn stats(&self) -> Stats {
        Stats::default()
    }
    fn flush(&self) -> Answer<'_, ()> {
        Pending::ready(Err(Error::Closed))
    }
    fn close(&self) -> Answer<'_, ()> {
        Pending::ready(Err(Error::Closed))
    }
}
