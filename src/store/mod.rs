//! The public face: the [`SessionStore`] trait and its two implementations.
//!
//! Handles here are cheap clones over the engine (or a map, for [`MemoryStore`]); no logic of log or index lives on this floor.

mod log_store;
mod memory;
mod repair;
mod session_store;

use bytes::Bytes;

use crate::contract::Stored;
use crate::error::Error;
use crate::sync::Pending;

pub use log_store::LogStore;
pub use memory::MemoryStore;
pub use session_store::SessionStore;

/// The future of a store operation.
pub type Answer<'a, T> = Pending<'a, Result<T, Error>>;

/// What is decided by [`SessionStore::update`]'s closure: the new payload, or `None` to leave the session as it is.
pub type Change<'a> = &'a mut (dyn FnMut(&Stored) -> Option<Bytes> + Send);
