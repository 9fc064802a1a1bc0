//! An embedded session store for Rust servers: log-structured, crash-safe, async.
//!
//! You hand in your coat and get a ticket. The server keeps the coat, the browser keeps the ticket: the ticket is a [`SessionId`] in a
//! cookie, and nothing that is stored opens a session.
//!
//! - [`LogStore`] keeps sessions in an append-only log of segments, with an index in memory from key to place.
//! - [`MemoryStore`] keeps the same contract in memory, for tests and small sites.
//! - [`SessionStore`] is that contract; [`Session`] is a dictionary of typed fields over it, merged field by field when it is saved.
//! - The features `tower-sessions`, `tower-sessions-0-14` and `actix-session` put a store behind those frameworks' own middleware; the page
//!   [`moving`] says how to come from another store. The feature `conformance` has checks that any store can be put through, and
//!   `cookie` the cookie for an id.
//!
//! ```
//! use cloakroom::{Lifetime, LogStore, Options, Session, SessionStore};
//! use std::time::Duration;
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let store = LogStore::open(folder.path(), Options::default()).await?;
//! let mut session = Session::new(Lifetime::idle(Duration::from_secs(30 * 60)));
//! session.insert("cart", &["hat"])?;
//! session.save(&store).await?;
//! let ticket = session.id().expect("saved").to_text(); // goes into the cookie
//!
//! let mut session = Session::load(&store, &ticket.parse()?).await?.expect("still there");
//! assert_eq!(session.get::<Vec<String>>("cart")?.unwrap(), ["hat"]);
//! store.close().await?;
//! # Ok(()) }
//! ```
//!
//! # What survives what
//!
//! | acknowledged at | process killed | power lost | clean close |
//! |---|---|---|---|
//! | [`Durability::Sync`] | kept | kept | kept |
//! | [`Durability::Interval`] | kept | kept if older than the interval | kept |
//! | [`Durability::Buffered`] | what was written before the last moments | the same, synced within about a second | kept |
//!
//! By default create (with an owner too), put and touch are `Interval(100 ms)`; delete, rotate, sign-in, bind and revoke are `Sync`: a logout is never undone. The page
//! [`what_survives_what`] says the same of every other event: a failing or full disk, damage, clocks that step, panics; what is kept, what is
//! told, what to do.
//!
//! # Reads, writes, and futures that are dropped
//!
//! Reads see a write from the moment it is staged; the acknowledgement waits for the durability asked for. Dropping the future of a
//! write before it is ready leaves the write undone or done, never half done; once a read has seen it, it stays. A create or a rotation that is
//! dropped may have happened under an id that nobody learns: the old id of a rotation may be dead. A close goes on; an open closes what it
//! opened, and takes no folder that it was still waiting for.
//!
//! No worker of an async runtime waits for a disk, as long as memory holds the pages that are mapped for it ([`Options::warm_bytes_max`]): the store has a thread that writes, one that syncs, one for segments and expiry, one
//! for compaction, and two that read segments which are not mapped. It needs no runtime of a certain kind.
//!
//! # On disk
//!
//! A folder (0700) with files (0600): `MANIFEST` lists the segments, `xxxxxxxx.seg` are segments, `LOCK`, and the folder itself, are locked by the process that
//! has the store open. `MANIFEST.copy` is a copy of the list, and `torn-*` are copies of what was cut, for salvage alone; `quarantine-*` is what a
//! salvage moved aside. Back up the folder as a
//! whole, while the store is closed; a copy that is put back brings back who was signed out since, so [revoke](SessionStore::revoke) everybody then. In the source, `src/format/mod.rs` has the layout, byte by byte; `src/log`, `src/engine` and their
//! children have the argument why no crash point breaks a promise, each where its code is.

mod adapters;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod contract;
#[cfg(feature = "sim")]
pub mod disk;
#[cfg(not(feature = "sim"))]
mod disk;
mod engine;
mod error;
mod events;
mod format;
mod id;
mod index;
mod lifetime;
mod log;
#[cfg(all(test, shuttle))]
#[path = "../tests/shuttle/mod.rs"]
mod models;
pub mod moving;
mod options;
mod owner;
mod session;
mod store;
mod sync;
mod version;
pub mod what_survives_what;

#[cfg(feature = "actix-session")]
pub use adapters::actix_session;
#[cfg(feature = "tower-sessions")]
pub use adapters::tower_sessions;
#[cfg(feature = "tower-sessions-0-14")]
pub use adapters::tower_sessions_0_14;
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use contract::{Access, Cursor, KeyPage, OwnedPage, OwnedSession, Stats, Stored, When, Whose};
#[cfg(feature = "sim")]
pub use engine::Work;
pub use engine::{Damage, Recovery, Salvaged, Verification};
pub use error::{Error, OpenError, ParseIdError};
pub use events::{Event, Events, Missed, Why};
#[cfg(feature = "sim")]
#[doc(hidden)]
pub use format::probe;
pub use id::{ID_BYTES, ID_TEXT_CHARS, OwnerKey, SessionId, SessionKey, Version};
pub use lifetime::{Lifetime, Terms};
pub use options::{Durability, Options, ReadMode};
pub use owner::{AtCap, Binding, LABEL_BYTES_MAX, Label};
pub use session::{
    FIELD_NAME_BYTES_MAX, FIELDS_MAX, FieldError, RawField, Saved, Session, SessionError, merge,
};
#[cfg(feature = "cookie")]
pub use session::{InvalidCookieName, SessionCookie};
pub use store::{Answer, Change, LogStore, MemoryStore, SessionStore};
pub use sync::Pending;

/// The README's example runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
