//! One field of a session: a codec's tag, and bytes in that codec.
//!
//! The codec is JSON, since it says itself what it holds: a struct that a deploy changed decodes by serde's rules (defaults,
//! renames) or fails, and never reads one field's bytes as another's. Not a cache: a value is decoded each time it is asked for.
//! Invariant: no `Debug` here shows a value.

use std::any::type_name;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::FieldError;
use super::limits::{FIELD_NAME_BYTES_MAX, LEVELS_MAX};

/// Tag of the codec that is `serde_json`.
const CODEC_JSON: u8 = 1;

/// The fields of a session, by name.
pub(super) type Fields = BTreeMap<String, Field>;

/// A field as it is stored. Equal bytes are an equal value: that is what tells a change.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) codec: u8,
    pub(super) bytes: Bytes,
}

impl Field {
    pub(super) fn encode<T: Serialize + ?Sized>(name: &str, value: &T) -> Result<Self, FieldError> {
        let bytes = serde_json::to_vec(value)
            .map_err(|_| FieldError::Encode { field: name.into(), given: type_name::<T>() })?;
        // Only what has so many of these can be that deep.
        let may_be_deep = bytes.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() > LEVELS_MAX;
        if may_be_deep && serde_json::from_slice::<serde_json::Value>(&bytes).is_err() {
            return Err(FieldError::TooDeep { field: name.into() });
        }
        Ok(Self { codec: CODEC_JSON, bytes: bytes.into() })
    }

    pub(super) fn decode<T: DeserializeOwned>(&self, name: &str) -> Result<T, FieldError> {
        if self.codec != CODEC_JSON {
            return Err(FieldError::UnknownCodec { field: name.into(), found: self.codec });
        }
        serde_json::from_slice(&self.bytes).map_err(|e| FieldError::Decode {
            field: name.into(),
            wanted: type_name::<T>(),
            column: e.column(),
        })
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Field({} bytes in codec {})", self.bytes.len(), self.codec)
    }
}

/// Whether a name may name a field.
pub(super) fn is_valid_name(name: &str) -> bool {
    (1..=FIELD_NAME_BYTES_MAX).contains(&name.len())
}

/// A field's value that has not been decoded, from [`Session::iter`](crate::Session::iter).
///
/// ```
/// # use cloakroom::{FieldError, Lifetime, Session};
/// # let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
/// session.insert("n", &7)?;
/// for (name, value) in session.iter() {
///     assert_eq!(name, "n");
///     assert_eq!(value.decode::<u32>()?, 7);
/// }
/// # Ok::<(), FieldError>(())
/// ```
#[derive(Clone, Copy)]
pub struct RawField<'a> {
    pub(super) name: &'a str,
    pub(super) field: &'a Field,
}

impl RawField<'_> {
    /// The value, decoded.
    ///
    /// # Errors
    ///
    /// [`FieldError::Decode`] and [`FieldError::UnknownCodec`].
    ///
    /// ```
    /// # use cloakroom::{FieldError, Lifetime, Session};
    /// # let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// session.insert("n", &7)?;
    /// let (_, value) = session.iter().next().unwrap();
    /// assert!(value.decode::<String>().is_err());
    /// # Ok::<(), FieldError>(())
    /// ```
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, FieldError> {
        self.field.decode(self.name)
    }

    /// Length of what is stored for it, in bytes.
    ///
    /// ```
    /// # use cloakroom::{FieldError, Lifetime, Session};
    /// # let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// session.insert("n", &7)?;
    /// assert_eq!(session.iter().map(|(_, value)| value.stored_bytes()).sum::<usize>(), 1);
    /// # Ok::<(), FieldError>(())
    /// ```
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        self.field.bytes.len()
    }
}

impl fmt::Debug for RawField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawField({:?}, {} bytes)", self.name, self.stored_bytes())
    }
}
