//! Saving a [`Session`]: what changed, merged into what is stored by then, with no lock held between reading and writing.
//!
//! Not the merge itself, which is a pure function. Invariant: a save writes only over the very version it merged with, and only under a key that is
//! live, so nothing that others saved is lost unseen (P3) and nobody is revived (P2).

use crate::contract::{Access, When};
use crate::error::Error;
use crate::owner::Binding;
use crate::store::SessionStore;

use super::error::SessionError;
use super::field::Fields;
use super::{Origin, Session, envelope, merge};

/// What a [`Session::save`] did.
///
/// ```
/// # use cloakroom::{Lifetime, MemoryStore, Saved, Session};
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
/// match session.save(&MemoryStore::new()).await? {
///     Saved::Created => println!("set the cookie"),
///     Saved::Gone => println!("remove the cookie"),
///     Saved::Updated | Saved::Unchanged => println!("leave it as it is"),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Saved {
    /// There was nothing to write.
    Unchanged,
    /// The session is stored now, for the first time, and has an id: tell the browser.
    Created,
    /// What changed is stored, merged with what others stored.
    Updated,
    /// The session was deleted, rotated away or expired meanwhile. Nothing was written.
    Gone,
}

/// What a save does about a field that another request changed too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Both {
    LaterWins,
    Refused,
}

impl Session {
    /// Stores what changed. A new session that has a field is created; one that was loaded is read again, merged and written if nobody
    /// else wrote meanwhile, else the same again. Of two requests that set the same field, the later save wins
    /// ([`save_if_unchanged`](Self::save_if_unchanged) refuses instead). Afterwards the session has the merged fields.
    ///
    /// Dropping the future leaves the save done or undone as a whole. A session being *created* is then stored under an id that nobody
    /// knows, until its deadline.
    ///
    /// # Errors
    ///
    /// [`SessionError`]; nothing was written, except as [`Error`](crate::Error) says.
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, Saved, Session};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = MemoryStore::new();
    /// let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// assert_eq!(session.save(&store).await?, Saved::Unchanged);
    /// session.insert("n", &1)?;
    /// assert_eq!(session.save(&store).await?, Saved::Created);
    /// # Ok(()) }
    /// ```
    pub async fn save(&mut self, store: &dyn SessionStore) -> Result<Saved, SessionError> {
        self.store(store, Both::LaterWins).await
    }

    /// [`save`](Self::save), if no field that this session changed was changed by another request since it was loaded or last saved: for
    /// what is computed from what was read, such as a counter. Changes to other fields are merged as ever; a field that was only read is not
    /// compared. After a [`clear`](Self::clear) any change of another request counts.
    ///
    /// # Errors
    ///
    /// [`SessionError::Conflict`] names the field; nothing was written, and the session is as it was. Load it again and decide anew. Else
    /// those of `save`.
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, Session, SessionError};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = MemoryStore::new();
    /// # let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// session.insert("coins", &1)?;
    /// session.save(&store).await?;
    /// let mut other = Session::load(&store, session.id().unwrap()).await?.unwrap();
    /// other.insert("coins", &2)?;
    /// other.save(&store).await?;
    /// session.insert("coins", &2)?; // it does not know that there are two already
    /// let refused = session.save_if_unchanged(&store).await;
    /// assert!(matches!(refused, Err(SessionError::Conflict { field }) if field == "coins"));
    /// # Ok(()) }
    /// ```
    pub async fn save_if_unchanged(&mut self, store: &dyn SessionStore) -> Result<Saved, SessionError> {
        self.store(store, Both::Refused).await
    }

    /// Makes the session an owner's, under a fresh id; do this when somebody signs in, and save who they are behind it. One that is not stored yet is
    /// created with its owner, also where no more visitors are let in. Says whether it did: a session that is gone stays so.
    ///
    /// What was changed and not saved stays so, but in a session that is created by it. A request in flight that still has the old id saves nothing.
    ///
    /// # Errors
    ///
    /// [`SessionError`]; [`Error::TooManyOfOwner`] in it where the [`Binding`] says so.
    ///
    /// ```
    /// use cloakroom::{AtCap, Binding, Label, Lifetime, MemoryStore, OwnerKey, Saved, Session};
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = MemoryStore::new();
    /// let mut session = Session::new(Lifetime::idle(std::time::Duration::from_secs(1800)));
    /// let ann = Binding::to(OwnerKey::of(b"ann")).labelled(Label::cut("Firefox")).at_most(5, AtCap::EvictIdle);
    /// assert!(session.sign_in(&store, ann).await?);
    /// session.insert("user", "ann")?;
    /// assert_eq!(session.save(&store).await?, Saved::Updated);
    /// # Ok(()) }
    /// ```
    pub async fn sign_in(
        &mut self,
        store: &dyn SessionStore,
        binding: Binding,
    ) -> Result<bool, SessionError> {
        match &self.origin {
            Origin::New(lifetime) => {
                let id = store.create_owned(envelope::encode(&self.mine)?, *lifetime, binding).await?;
                self.origin = Origin::Stored(id);
                self.stands_at(self.mine.clone());
            }
            Origin::Stored(old) => {
                let Some(new) = store.sign_in(old.key(), binding).await? else { return Ok(false) };
                self.origin = Origin::Stored(new);
            }
        }
        Ok(true)
    }

    async fn store(&mut self, store: &dyn SessionStore, both: Both) -> Result<Saved, SessionError> {
        if !self.is_changed() {
            return Ok(Saved::Unchanged);
        }
        let key = match &self.origin {
            Origin::New(lifetime) => {
                let id = store.create(envelope::encode(&self.mine)?, *lifetime).await?;
                self.origin = Origin::Stored(id);
                self.stands_at(self.mine.clone());
                return Ok(Saved::Created);
            }
            Origin::Stored(id) => id.key(),
        };
        while let Some(stored) = store.get(key, Access::Peek).await? {
            let theirs = envelope::decode(&stored.payload)?;
            let merged = self.merged(&theirs, both)?;
            if merged == theirs && self.lifetime.is_none() {
                // Another request has made this very change, and may still wait for the device.
                store.flush().await?;
                self.stands_at(theirs);
                return Ok(Saved::Unchanged);
            }
            let version = stored.version;
            let when = self.lifetime.map_or(When::Version(version), |lifetime| {
                let loaded = self.terms.unwrap_or_else(|| stored.terms());
                When::VersionWith { version, lifetime, loaded }
            });
            match store.write(key, envelope::encode(&merged)?, when).await {
                Err(Error::Conflict { .. }) => {}
                Ok(None) => break,
                Ok(Some(_)) => {
                    self.stands_at(merged);
                    return Ok(Saved::Updated);
                }
                Err(refused) => return Err(refused.into()),
            }
        }
        Ok(Saved::Gone)
    }

    fn merged(&self, theirs: &Fields, both: Both) -> Result<Fields, SessionError> {
        if both == Both::Refused
            && let Some(field) = merge::conflict(&self.base, &self.mine, theirs, self.cleared)
        {
            return Err(SessionError::Conflict { field: field.into() });
        }
        Ok(if self.cleared { self.mine.clone() } else { merge::merge(&self.base, &self.mine, theirs) })
    }

    fn stands_at(&mut self, fields: Fields) {
        self.base.clone_from(&fields);
        self.mine = fields;
        self.cleared = false;
        if self.lifetime.take().is_some() {
            // What came of it, the next save finds out.
            self.terms = None;
        }
    }
}
