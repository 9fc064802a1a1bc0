//! What can go wrong with a [`Session`](crate::Session): [`FieldError`] for one field, [`SessionError`] for the whole.
//!
//! Invariant: no message, `Debug` form or cause here repeats a value of a session, since errors end up in logs. That is why what
//! serde said about a value it could not decode is not kept: it quotes the value.

use crate::error::Error;

use super::limits::{FIELD_NAME_BYTES_MAX, FIELDS_MAX, LEVELS_MAX};

/// Why a field could not be read or set. The session is as it was.
///
/// ```
/// use cloakroom::{FieldError, Lifetime, Session};
///
/// let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
/// session.insert("theme", "dark")?;
/// let misread = session.get::<u32>("theme").unwrap_err();
/// assert!(matches!(&misread, FieldError::Decode { field, .. } if field == "theme"));
/// assert!(!misread.to_string().contains("dark"));
/// # Ok::<(), FieldError>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// What is stored does not decode as the type asked for, say since a deploy changed it.
    #[error(
        "field {field:?} does not decode as {wanted}, from column {column} of its JSON on: give the type serde defaults that \
         cover what older versions stored, or remove the field"
    )]
    Decode {
        /// Name of the field.
        field: String,
        /// The Rust type that was asked for.
        wanted: &'static str,
        /// Where in the JSON it went wrong, counted from 1; 0 where that is not known.
        column: usize,
    },
    /// The value is one that JSON cannot hold, such as a map whose keys are structs.
    #[error("field {field:?} cannot be stored as JSON: change {given} so that it serializes")]
    Encode {
        /// Name of the field.
        field: String,
        /// The Rust type that was given.
        given: &'static str,
    },
    /// The field was written by a newer version of this crate, in a codec this one does not know. A save keeps it as it is.
    #[error(
        "field {field:?} has codec {found}, which this version of cloakroom does not know: use a newer one"
    )]
    UnknownCodec {
        /// Name of the field.
        field: String,
        /// The codec's tag.
        found: u8,
    },
    /// A name is empty or longer than [`FIELD_NAME_BYTES_MAX`](crate::FIELD_NAME_BYTES_MAX).
    #[error("a field name of {len} bytes was given: use 1 to {FIELD_NAME_BYTES_MAX}")]
    InvalidName {
        /// Length of the name, in bytes.
        len: usize,
    },
    /// The value has more than 127 arrays and objects within each other, which nothing would read back.
    #[error(
        "the value for field {field:?} is nested too deep to be read again: {LEVELS_MAX} levels are the most"
    )]
    TooDeep {
        /// Name of the field.
        field: String,
    },
    /// The session has [`FIELDS_MAX`](crate::FIELDS_MAX) fields already.
    #[error(
        "the session has {FIELDS_MAX} fields, the most it may have: put what belongs together in one field"
    )]
    TooManyFields,
}

/// Why a session could not be loaded, saved, rotated or deleted.
///
/// ```
/// use cloakroom::{Lifetime, MemoryStore, Session, SessionError, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let lifetime = Lifetime::idle(std::time::Duration::from_secs(1800));
/// let id = store.create("put there by something else".into(), lifetime).await?;
/// assert!(matches!(Session::load(&store, &id).await, Err(SessionError::UnknownEnvelope { .. })));
/// # Ok(()) }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] Error),
    /// The payload stored under this key is no session. It is not guessed at.
    #[error(
        "the stored payload is not a session's: {what}. If something else writes under this key, keep the two apart; else delete the session"
    )]
    Malformed {
        /// What does not hold.
        what: &'static str,
    },
    /// The payload stored under this key is no session, or one written by a newer version of this crate.
    #[error(
        "the stored payload has envelope format {found}, and this version of cloakroom reads {known}: use a newer one, or, if something \
         else writes under this key, keep the two apart"
    )]
    UnknownEnvelope {
        /// The format number found.
        found: u8,
        /// The one that is known.
        known: u8,
    },
    /// [`save_if_unchanged`](crate::Session::save_if_unchanged) met a field that another request changed too. Nothing was written.
    #[error(
        "field {field:?} was changed by another request meanwhile: load the session again, then decide anew"
    )]
    Conflict {
        /// Name of the field; the first of them, if there are more.
        field: String,
    },
    /// This session and what another request saved meanwhile have more than [`FIELDS_MAX`](crate::FIELDS_MAX) fields together. Nothing was
    /// written.
    #[error(
        "merged with what another request saved, the session would have {count} fields, over the limit of {FIELDS_MAX}: put what \
         belongs together in one field"
    )]
    TooManyFields {
        /// How many they would be.
        count: usize,
    },
}
