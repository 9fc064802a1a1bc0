//! The public face: the [`SessionStore`] trait and its two implementations.
//!
//! Handles here are cheap clones over the engine (or a map, for [`MemoryStore`]); no logic of log or index lives on this floor.

mod log_store;
mod memory;
mod repair;
mod session_store;

pub use log_store::LogStore;
pub use memory::MemoryStore;
pub use session_store::{Answer, Change, SessionStore};
