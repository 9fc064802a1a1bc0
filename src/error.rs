//! What can go wrong, one enum for each audience: [`OpenError`] for who starts a store, [`Error`] for who uses it, and
//! [`ParseIdError`] for who reads a cookie. Each message says what, where, and what to do; none contains a token or a payload.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::version::Version;

/// Why an operation on a store failed. Nothing of it was written unless the variant says so; sessions that were to give way to a sign-in may be gone, and a
/// read that failed may have moved the deadline.
///
/// ```
/// use cloakroom::{Error, Lifetime, MemoryStore, SessionStore};
/// # #[tokio::main] async fn main() {
/// let refused = MemoryStore::new().create("x".into(), Lifetime::idle(std::time::Duration::ZERO)).await;
/// assert!(matches!(refused, Err(Error::InvalidLifetime { .. })));
/// # }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The payload is longer than [`Options::payload_bytes_max`](crate::Options::payload_bytes_max), or with its owner and label than a segment takes.
    #[error("a payload of {len} bytes is over the limit of {max}: store less, or raise `payload_bytes_max`")]
    PayloadTooLarge {
        /// Length of the payload, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// A part of the lifetime is zero, the idle part is over 68 years, or an end is beyond [`Timestamp::MAX`](crate::Timestamp::MAX).
    #[error(
        "a session cannot have an {part} lifetime of {given:?}: give more than zero, at most 68 years of idleness, and an end before the year 10889"
    )]
    InvalidLifetime {
        /// `"idle"` or `"absolute"`.
        part: &'static str,
        /// What was given.
        given: Duration,
    },
    /// The store is at [`Options::sessions_max`](crate::Options::sessions_max).
    #[error("the store holds {max} sessions, its limit: wait for some to expire, or raise `sessions_max`")]
    TooManySessions {
        /// The limit.
        max: usize,
    },
    /// The store is at [`Options::anonymous_sessions_max`](crate::Options::anonymous_sessions_max): a flood of visitors, whom the signed-in do not
    /// pay for.
    #[error(
        "the store holds {max} sessions without an owner, its limit: wait for some to expire, or raise `anonymous_sessions_max`; those who are signed in \
         are not affected"
    )]
    TooManyAnonymousSessions {
        /// The limit.
        max: usize,
    },
    /// The owner has as many live sessions as the [`Binding`](crate::Binding) allows, and says that a new one is refused.
    #[error(
        "the owner has {max} sessions, their limit: end one of them, or bind with `AtCap::EvictOldest` or `AtCap::EvictIdle`"
    )]
    TooManyOfOwner {
        /// The limit.
        max: u32,
    },
    /// The label is longer than [`LABEL_BYTES_MAX`](crate::LABEL_BYTES_MAX).
    #[error("a label of {len} bytes is over the limit of {max}: `Label::cut` takes as much as fits")]
    LabelTooLong {
        /// Length of the label, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// [`create_as`](crate::SessionStore::create_as) met a live session under that key.
    #[error("there is a live session under this key already: `upsert` replaces it, `put` keeps its lifetime")]
    AlreadyExists,
    /// [`put_if`](crate::SessionStore::put_if) met another version than it was told: read again, then try again.
    #[error("the session is at another version ({}) than the one given: read it again, then try again", current.0.0)]
    Conflict {
        /// The version the session is at.
        current: Version,
    },
    /// The disk has no room for another segment. Nothing was written; deletes go on ([`delete`](crate::SessionStore::delete) says how far), and
    /// writes do once there is room. So does a read that counts as a use, once the session's deadline has to move: [`Access::Peek`](crate::Access::Peek) reads on.
    #[error(
        "no room on the disk for another log segment: free some; deletes go on while their reserve lasts, and nothing acknowledged is lost"
    )]
    DiskFull,
    /// A write or a sync failed earlier, so the store takes no more writes; reads with [`Access::Peek`](crate::Access::Peek) go on. Restart the store to recover.
    #[error(
        "the store takes no more writes since this failed: {cause}. Mend the disk, then open the store again"
    )]
    Poisoned {
        /// The failure that came first.
        cause: Arc<str>,
    },
    /// The write or sync that carried this operation failed: it may or may not be there after a restart. Until then reads show it as done. Then
    /// repeat a delete or a revocation, which harms nothing; a create or a rotation whose id was not given is to be made anew.
    #[error(
        "whether this write survives is unknown, since its write or sync failed: {cause}. Open the store again to find out"
    )]
    DurabilityUnknown {
        /// The failure.
        cause: Arc<str>,
    },
    /// The store was closed.
    #[error("the store is closed: open it again, or end what still uses this handle")]
    Closed,
    /// The store was opened to be read, by [`open_read_only`](crate::LogStore::open_read_only). A read that counts as a use is a write once the
    /// session's deadline has to move.
    #[error("the store was opened read-only: repair it with `LogStore::salvage`, then open it to write")]
    ReadOnly,
    /// Bytes that were read do not match their checksum. They are not served.
    #[error(
        "{segment:08x}.seg is damaged at offset {offset}: {what}. Stop the server and copy the folder; `LogStore::verify` lists all damage, `LogStore::salvage` repairs it"
    )]
    Corrupt {
        /// Number of the segment, which names its file.
        segment: u32,
        /// Offset in the segment, in bytes.
        offset: u32,
        /// What does not hold.
        what: &'static str,
    },
    /// The operating system could not read, or not make the next segment; then nothing was written.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, on which file.
        action: String,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
    /// The operating system gave no random numbers, so no id was made.
    #[error("the operating system gave no random numbers: {cause}")]
    Randomness {
        /// Its reason.
        cause: String,
    },
}

/// Why a store did not open. The folder is as it was, unless the variant says otherwise.
///
/// ```
/// use cloakroom::{LogStore, OpenError, Options};
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let store = LogStore::open(folder.path(), Options::default()).await?;
/// let second = LogStore::open(folder.path(), Options::default()).await;
/// assert!(matches!(second, Err(OpenError::Locked { .. })));
/// store.close().await?;
/// # use cloakroom::SessionStore;
/// # Ok(()) }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another store, in this process or another, has the folder open.
    #[error("{folder} is in use by {}: close that store first, or use `open_wait`", holder(*pid))]
    Locked {
        /// The folder.
        folder: String,
        /// The process that holds it, where it could be told.
        pid: Option<u32>,
    },
    /// The folder holds files and no store. It was left alone.
    #[error(
        "{folder} holds files that are no store's (such as {example:?}): give an empty folder, or one of a store"
    )]
    ForeignFolder {
        /// The folder.
        folder: String,
        /// One of its files.
        example: String,
    },
    /// The store was written by a newer version of this crate, in a format this one does not know.
    #[error(
        "{file} has format {found}, and this version reads up to {known}: use a newer version of cloakroom"
    )]
    UnknownFormat {
        /// The file.
        file: String,
        /// Its format, or the feature bits of it that are not known.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// Data that had been made durable is damaged. The files were left as they are.
    #[error("{file} in {folder} is damaged at offset {offset}: {what}. {cure}")]
    Damaged {
        /// The folder.
        folder: String,
        /// The file.
        file: String,
        /// Offset in it, in bytes.
        offset: u64,
        /// What does not hold.
        what: String,
        /// What can be done.
        cure: &'static str,
    },
    /// An option is out of its range.
    #[error("option `{option}` is {given}, outside of {range}")]
    InvalidOption {
        /// Name of the field of [`Options`](crate::Options).
        option: &'static str,
        /// What was given.
        given: u64,
        /// What is allowed.
        range: &'static str,
    },
    /// The operating system refused: a read-only folder, a full disk, no descriptors.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, on which file.
        action: String,
        /// The operating system's error.
        source: io::Error,
    },
}

impl OpenError {
    /// What one can do about damage; the calls are named with their type, as one has to look for them.
    const CURE: &str = "Call `LogStore::salvage`: it keeps what is certain and signs everybody else out (`LogStore::verify` lists all damage, \
                        `LogStore::open_read_only` serves what is certain meanwhile). Or restore a copy of the folder and revoke everybody, since it brings \
                        back who was signed out since. The files were left as they are";

    /// Damage of a file; [`in_folder`](Self::in_folder) says of which folder.
    pub(crate) fn damaged(file: impl Into<String>, offset: u32, what: impl Into<String>) -> Self {
        Self::Damaged {
            folder: String::new(),
            file: file.into(),
            offset: offset.into(),
            what: what.into(),
            cure: Self::CURE,
        }
    }

    /// The same, said of a folder.
    pub(crate) fn in_folder(mut self, name: &str) -> Self {
        if let Self::Damaged { folder, .. } = &mut self {
            name.clone_into(folder);
        }
        self
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

impl Error {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source: Arc::new(source) }
    }
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        None => "another store".into(),
        Some(pid) if pid == std::process::id() => {
            "this process (a dropped store closes in the background)".into()
        }
        Some(pid) => format!("process {pid}"),
    }
}

/// Why a text is no [`SessionId`](crate::SessionId): treat the request as one without a session. The text is not repeated here.
///
/// ```
/// use cloakroom::{ParseIdError, SessionId};
/// assert_eq!("short".parse::<SessionId>(), Err(ParseIdError::Length { len: 5 }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// Not 43 characters.
    #[error("a session id has 43 characters, not {len}")]
    Length {
        /// Its length, in bytes.
        len: usize,
    },
    /// A character outside of base64url, or bits set behind the last byte.
    #[error("a session id is base64url without padding")]
    Alphabet,
}
