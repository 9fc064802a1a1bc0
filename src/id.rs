//! Names: the secret token a browser holds, the key the store files it under, and where a record lies.
//!
//! A [`SessionId`] exists in the cookie and in the memory of a request, nowhere else. What is stored, listed and logged is
//! its SHA-256, the [`SessionKey`]: a copy of the files opens no session, and comparing keys leaks nothing about a token
//! (an attacker who learns by timing how many bytes of a hash matched cannot steer the next guess). Invariant: no type in
//! this module prints a token unless asked by name ([`SessionId::to_text`]).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
#[cfg(not(all(test, shuttle)))]
use rand::TryRng as _;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, ParseIdError};

pub(crate) use crate::version::Seq;
pub use crate::version::Version;

/// Bytes of randomness in a [`SessionId`], and length of a [`SessionKey`].
pub const ID_BYTES: usize = 32;

/// Characters of the text form of a [`SessionId`].
pub const ID_TEXT_CHARS: usize = 43;

/// The secret that names a session: 256 bits from the operating system, to be put in a cookie.
///
/// Whoever holds it is signed in, so `Debug` prints nothing of it and there is no `Display`; [`to_text`](Self::to_text)
/// gives the form for the cookie, and [`FromStr`] reads it back strictly.
///
/// ```
/// use cloakroom::SessionId;
///
/// let id = SessionId::random()?;
/// let cookie_value = id.to_text();
/// assert_eq!(cookie_value.len(), 43);
/// assert_eq!(cookie_value.parse::<SessionId>()?, id);
/// assert_eq!(format!("{id:?}"), "SessionId(redacted)");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId([u8; ID_BYTES]);

impl SessionId {
    /// A new id, from the operating system's random numbers.
    ///
    /// # Errors
    ///
    /// [`Error::Randomness`] when the operating system gives none. There is no fallback.
    ///
    /// ```
    /// # use cloakroom::SessionId;
    /// assert_ne!(SessionId::random()?, SessionId::random()?);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn random() -> Result<Self, Error> {
        // A model that runs a schedule again meets the same locks again.
        #[cfg(all(test, shuttle))]
        return Self::drawn(|into| Ok::<(), Error>(crate::sync::scheduled::random_bytes(into)));
        #[cfg(not(all(test, shuttle)))]
        Self::drawn(|into| rand::rngs::SysRng.try_fill_bytes(into))
    }

    /// A new id from a source that is as good as the operating system's.
    pub(crate) fn drawn<E: fmt::Display>(
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, Error> {
        let mut bytes = [0; ID_BYTES];
        fill(&mut bytes).map_err(|e| Error::Randomness { cause: e.to_string() })?;
        Ok(Self(bytes))
    }

    /// The key the session is stored under: SHA-256 of the id. Safe to log and to list.
    ///
    /// ```
    /// # use cloakroom::SessionId;
    /// let id = SessionId::random()?;
    /// assert_eq!(id.key(), id.key());
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    #[must_use]
    pub fn key(&self) -> SessionKey {
        SessionKey(Sha256::digest(self.0).into())
    }

    /// The text form, for the cookie: base64url without padding, 43 characters. A secret.
    ///
    /// ```
    /// # use cloakroom::SessionId;
    /// let text = SessionId::random()?.to_text();
    /// assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    #[must_use]
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

impl FromStr for SessionId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != ID_TEXT_CHARS {
            return Err(ParseIdError::Length { len: text.len() });
        }
        let mut bytes = [0; ID_BYTES];
        // The decoder refuses other alphabets, padding, and non-zero bits behind the last byte, so each id has one text.
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(ID_BYTES) => Ok(Self(bytes)),
            _ => Err(ParseIdError::Alphabet),
        }
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(redacted)")
    }
}

impl From<&SessionId> for SessionKey {
    fn from(id: &SessionId) -> Self {
        id.key()
    }
}

/// Goes before a name when it is hashed. Longer than an id, so that what is hashed for a name is never what is hashed for an id.
const NAME_PREFIX: &[u8; 33] = b"cloakroom: a name, and no id, is:";

/// What a session is stored under: the SHA-256 of its id. It names a session and opens none.
///
/// A request's id is hashed before anything is looked up, and that is the defence against timing: how long a lookup takes may tell how much of a *key*
/// matched, and nobody can choose ids whose keys come ever nearer to one that is stored, so no guess leads to the next. Nothing compares ids.
///
/// ```
/// use cloakroom::SessionKey;
///
/// let key = SessionKey::of(b"user/42");
/// assert_eq!(key, SessionKey::of(b"user/42"));
/// assert_eq!(key.to_string().len(), 64);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey([u8; ID_BYTES]);

impl SessionKey {
    /// The key of a name that something else made: the id of a framework, or a key in plain key-value use. No [`SessionId`] has the same
    /// key, so no cookie, however forged, reaches a record that is filed under a name.
    ///
    /// ```
    /// # use cloakroom::SessionKey;
    /// assert_ne!(SessionKey::of(b"a"), SessionKey::of(b"b"));
    /// ```
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        Self(Sha256::new().chain_update(NAME_PREFIX).chain_update(name).finalize().into())
    }

    /// A key whose 32 bytes are known, as [`as_bytes`](Self::as_bytes) gave them.
    ///
    /// Bytes that come from elsewhere must be uniformly random, or a hash: a store tells keys apart by some of them, and of two keys that are alike in those
    /// one takes the other's place. For a number or a name there is [`of`](Self::of).
    ///
    /// ```
    /// # use cloakroom::SessionKey;
    /// let key = SessionKey::of(b"a");
    /// assert_eq!(SessionKey::from_bytes(*key.as_bytes()), key);
    /// ```
    #[must_use]
    pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    ///
    /// ```
    /// # use cloakroom::SessionKey;
    /// let key = SessionKey::of(b"a");
    /// assert_ne!(key.as_bytes(), SessionKey::of(b"b").as_bytes());
    /// ```
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({self})")
    }
}

/// Goes before an owner's name when it is hashed, so that an owner's key is no session's.
const OWNER_PREFIX: &[u8; 30] = b"cloakroom: a session's owner: ";

/// Whose sessions they are: 128 bits of the SHA-256 of whatever names a user.
///
/// Half of a hash is enough here: to make a name that has another owner's key takes 2^128 tries; and who spends the 2^64 that two names of
/// one key take has made two users that are signed out together.
///
/// ```
/// use cloakroom::OwnerKey;
///
/// let owner = OwnerKey::of(b"user/42");
/// assert_eq!(owner, OwnerKey::of(b"user/42"));
/// assert_eq!(owner.to_string().len(), 32);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerKey([u8; OWNER_BYTES]);

/// Length of an [`OwnerKey`].
pub(crate) const OWNER_BYTES: usize = 16;

impl OwnerKey {
    /// The key of the owner of this name: a user's number, an address, whatever never changes hands.
    ///
    /// ```
    /// # use cloakroom::OwnerKey;
    /// assert_ne!(OwnerKey::of(b"a"), OwnerKey::of(b"b"));
    /// ```
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        let hash: [u8; ID_BYTES] =
            Sha256::new().chain_update(OWNER_PREFIX).chain_update(name).finalize().into();
        let mut key = [0; OWNER_BYTES];
        key.copy_from_slice(&hash[..OWNER_BYTES]);
        Self(key)
    }

    /// A key whose 16 bytes are known, as [`as_bytes`](Self::as_bytes) gave them.
    ///
    /// ```
    /// # use cloakroom::OwnerKey;
    /// let owner = OwnerKey::of(b"a");
    /// assert_eq!(OwnerKey::from_bytes(*owner.as_bytes()), owner);
    /// ```
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    ///
    /// ```
    /// # use cloakroom::OwnerKey;
    /// assert_eq!(OwnerKey::from_bytes([7; 16]).as_bytes(), &[7; 16]);
    /// ```
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerKey({self})")
    }
}

/// Names a segment. It is never used twice in one store; 0 is no segment's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SegmentId(pub(crate) u32);

/// Where a record lies: its segment, the offset of its header there, and its length with header, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    pub(crate) segment: SegmentId,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// A place in the stream of groups: all of the stream's segments before `segment`, and `offset` bytes of that one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Position {
    pub(crate) segment: SegmentId,
    pub(crate) offset: u32,
}

impl Position {
    /// In one word, in the same order.
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.segment.0) << 32 | u64::from(self.offset)
    }

    pub(crate) fn unpack(packed: u64) -> Self {
        let [segment, offset] = [packed >> 32, packed & u64::from(u32::MAX)];
        let segment = SegmentId(u32::try_from(segment).unwrap_or(0));
        Self { segment, offset: u32::try_from(offset).unwrap_or(0) }
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_has_the_key_of_an_id() {
        let bytes = *b"user/0123456789012345678901234567";
        let id = SessionId(*bytes.first_chunk().unwrap());
        assert_ne!(id.key(), SessionKey::of(&id.0));
        assert!(NAME_PREFIX.len() > ID_BYTES);
    }
}
