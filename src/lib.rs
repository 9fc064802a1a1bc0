//! An embedded session store for Rust servers.
#![warn(missing_docs)]

mod clock;
mod contract;
#[cfg(feature = "sim")]
pub mod disk;
#[cfg(not(feature = "sim"))]
mod disk;
mod engine;
mod error;
mod format;
mod id;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "the engine lands next"))]
mod index;
mod lifetime;
mod log;
mod options;
mod session;
mod store;
mod sync;
mod version;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use contract::{Access, Cursor, KeyPage, Stats, Stored, When};
pub use engine::Recovery;
pub use error::{Error, OpenError, ParseIdError};
pub use id::{ID_BYTES, ID_TEXT_CHARS, SessionId, SessionKey, Version};
pub use lifetime::Lifetime;
pub use options::{Corruption, Durability, Options, ReadMode};
pub use session::{FIELD_NAME_BYTES_MAX, FIELDS_MAX, FieldError, RawField, Saved, Session, SessionError};
pub use store::{Answer, Change, LogStore, MemoryStore, SessionStore};
pub use sync::Pending;
