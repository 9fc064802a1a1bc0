//! The nouns of a sign-in: what binds a session to its owner, under what label and what cap. Plain data; no behaviour lives here.

use std::fmt;

use crate::error::Error;
use crate::id::OwnerKey;

/// The longest [`Label`], in bytes.
pub const LABEL_BYTES_MAX: usize = 255;

/// What a user knows a session by, such as the device: at most [`LABEL_BYTES_MAX`] bytes of text, empty for none. It lies in the session's own
/// record, so it is never out of step with it, and it costs no memory.
///
/// ```
/// use cloakroom::{Error, Label};
///
/// assert_eq!(Label::new("Firefox on Linux")?.as_str(), "Firefox on Linux");
/// assert!(matches!(Label::new(&"x".repeat(256)), Err(Error::LabelTooLong { len: 256, max: 255 })));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Label(Box<str>);

impl Label {
    /// A label of this text.
    ///
    /// # Errors
    ///
    /// [`Error::LabelTooLong`].
    ///
    /// ```
    /// # use cloakroom::Label;
    /// assert_eq!(Label::new("phone").unwrap().to_string(), "phone");
    /// ```
    pub fn new(text: &str) -> Result<Self, Error> {
        if text.len() > LABEL_BYTES_MAX {
            return Err(Error::LabelTooLong { len: text.len(), max: LABEL_BYTES_MAX });
        }
        Ok(Self(text.into()))
    }

    /// A label of as much of the text as fits: for a `User-Agent`, which the other side may make as long as it likes.
    ///
    /// ```
    /// # use cloakroom::Label;
    /// assert_eq!(Label::cut("phone").as_str(), "phone");
    /// assert_eq!(Label::cut(&"é".repeat(200)).as_str().chars().count(), 127); // no character is cut in two
    /// ```
    #[must_use]
    pub fn cut(text: &str) -> Self {
        let end = (0..=text.len().min(LABEL_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
        Self(text[..end.unwrap_or_default()].into())
    }

    /// Its length in bytes, as lengths of records are counted.
    pub(crate) fn len(&self) -> u32 {
        // It is at most LABEL_BYTES_MAX.
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// What a record has; only this crate writes them, and it writes text.
    pub(crate) fn of_record(bytes: &[u8]) -> Self {
        Self(String::from_utf8_lossy(bytes).into())
    }

    /// The text.
    ///
    /// ```
    /// assert_eq!(cloakroom::Label::default().as_str(), "");
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What becomes of a sign-in of somebody who has as many sessions as they may have.
///
/// ```
/// use cloakroom::{AtCap, Binding, Error, Lifetime, MemoryStore, OwnerKey, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), Error> {
/// let (store, hour) = (MemoryStore::new(), Lifetime::idle(std::time::Duration::from_secs(3600)));
/// let one = Binding::to(OwnerKey::of(b"user/42")).at_most(1, AtCap::RejectNew);
/// store.create_owned("phone".into(), hour, one.clone()).await?;
/// let refused = store.create_owned("laptop".into(), hour, one).await;
/// assert!(matches!(refused, Err(Error::TooManyOfOwner { max: 1 })));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtCap {
    /// It is refused with [`Error::TooManyOfOwner`], and nothing changes.
    RejectNew,
    /// The sessions that were created first are ended, as many as it takes. Times of creation are whole seconds; of one second, that which was
    /// written last stays.
    EvictOldest,
    /// The sessions that have been idle for longest are ended, as many as it takes. Idleness is known to the grain of a touch
    /// ([`Lifetime`](crate::Lifetime)); one without an idle lifetime counts as idle since it was created.
    /// Uses are not noted where the absolute end is nearer than the idle one: such a session counts as idle from an idle period before that end.
    EvictIdle,
}

/// How many sessions an owner may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cap {
    pub(crate) max: u32,
    pub(crate) then: AtCap,
}

/// What binds a session to an owner.
///
/// ```
/// use cloakroom::{AtCap, Binding, Label, OwnerKey};
///
/// let user_agent = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0";
/// let binding = Binding::to(OwnerKey::of(b"user/42"))
///     .labelled(Label::cut(user_agent))
///     .at_most(5, AtCap::EvictIdle);
/// # let _ = binding;
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binding {
    pub(crate) owner: OwnerKey,
    /// `None` leaves the one that is there.
    pub(crate) label: Option<Label>,
    pub(crate) cap: Option<Cap>,
}

impl Binding {
    /// To this owner, with the label that the session has, however many sessions they have.
    ///
    /// ```
    /// # use cloakroom::{Binding, OwnerKey};
    /// assert_eq!(Binding::to(OwnerKey::of(b"a")), OwnerKey::of(b"a").into());
    /// ```
    #[must_use]
    pub const fn to(owner: OwnerKey) -> Self {
        Self { owner, label: None, cap: None }
    }

    /// The same with another label; an empty one takes it away.
    ///
    /// ```
    /// # use cloakroom::{Binding, Label, OwnerKey};
    /// assert_ne!(Binding::to(OwnerKey::of(b"a")).labelled(Label::default()), OwnerKey::of(b"a").into());
    /// ```
    #[must_use]
    pub fn labelled(mut self, label: Label) -> Self {
        self.label = Some(label);
        self
    }

    /// The same, if the owner then has at most `max` live sessions, this one included (0 is taken as 1). It holds at every instant, however many
    /// sign in at once; those that expired or were revoked do not count. (Who expired by a clock that was wrong, and is back, may be one more where the
    /// new are rejected.) A session that is theirs already is not counted anew.
    ///
    /// ```
    /// # use cloakroom::{AtCap, Binding, OwnerKey};
    /// # let owner = OwnerKey::of(b"a");
    /// assert_ne!(Binding::to(owner).at_most(1, AtCap::RejectNew), Binding::to(owner));
    /// ```
    #[must_use]
    pub const fn at_most(mut self, max: u32, then: AtCap) -> Self {
        self.cap = Some(Cap { max: if max == 0 { 1 } else { max }, then });
        self
    }
}

impl From<OwnerKey> for Binding {
    fn from(owner: OwnerKey) -> Self {
        Self::to(owner)
    }
}
