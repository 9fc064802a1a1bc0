//! Checks that any [`SessionStore`] can be put through, and any store of tower-sessions 0.15: is it what servers rely on?
//!
//! Each is an async function that gives `Ok`, or the first [`Violation`]. They use keys of their own, delete what they made, and need no runtime
//! of a certain kind. Time passes as the caller says: with a manual clock, or by sleeping. They do not try crashes: no trait can say how.
//!
//! ```
//! use cloakroom::{ManualClock, MemoryStore, Options, Timestamp, conformance};
//! # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
//! let clock = std::sync::Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000_000)));
//! let store = MemoryStore::with_options(Options { clock: clock.clone(), ..Options::default() }).expect("they are valid");
//! conformance::all(&store, async |time| clock.advance(time)).await?;
//! # Ok(()) }
//! ```

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use crate::{
    Access, AtCap, Binding, Error, Label, Lifetime, OwnerKey, SessionKey, SessionStore, Stored, When, Whose,
};

#[cfg(feature = "tower-sessions")]
pub mod tower;

const HOUR: Lifetime = Lifetime::idle(Duration::from_secs(3_600));

/// So many requests at once.
const TASKS: usize = 16;

/// What a store does that it must not.
///
/// ```
/// # use cloakroom::conformance::Violation;
/// let violation = Violation::new("resurrection", "a late save revived a session");
/// assert_eq!(violation.check, "resurrection");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{check}: {what}")]
#[non_exhaustive]
pub struct Violation {
    /// The check that found it: the name of its function.
    pub check: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    /// One that a check found.
    ///
    /// ```
    /// # use cloakroom::conformance::Violation;
    /// assert_eq!(Violation::new("expiry", "it lives on").to_string(), "expiry: it lives on");
    /// ```
    #[must_use]
    pub fn new(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, what: what.into() }
    }
}

/// What each check says.
pub type Checked = Result<(), Violation>;

/// The checks of one function, by its name.
#[derive(Clone, Copy)]
struct Check(&'static str);

impl Check {
    fn that(self, holds: bool, or: &str) -> Checked {
        if holds { Ok(()) } else { Err(Violation::new(self.0, or)) }
    }

    /// The value of an operation that has no reason to fail.
    fn done<T, E: std::fmt::Display>(self, result: Result<T, E>) -> Result<T, Violation> {
        result.map_err(|e| Violation::new(self.0, format!("an operation failed: {e}")))
    }

    async fn get(self, store: &dyn SessionStore, key: SessionKey) -> Result<Option<Stored>, Violation> {
        self.done(store.get(key, Access::Peek).await)
    }

    async fn gone(self, store: &dyn SessionStore, key: SessionKey, or: &str) -> Checked {
        self.that(self.get(store, key).await?.is_none(), or)
    }

    /// A session that is there, with a payload.
    async fn session(self, store: &dyn SessionStore, payload: &str) -> Result<SessionKey, Violation> {
        let id = self.done(store.create(Bytes::copy_from_slice(payload.as_bytes()), HOUR).await)?;
        Ok(id.key())
    }
}

/// All of them, one after another.
///
/// # Errors
///
/// The first [`Violation`].
///
/// ```
/// # use cloakroom::{ManualClock, MemoryStore, Options, Timestamp, conformance};
/// # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
/// # let clock = std::sync::Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000_000)));
/// # let store = MemoryStore::with_options(Options { clock: clock.clone(), ..Options::default() }).expect("they are valid");
/// conformance::all(&store, async |time| clock.advance(time)).await?;
/// # Ok(()) }
/// ```
pub async fn all(store: &dyn SessionStore, pass: impl AsyncFn(Duration)) -> Checked {
    contract(store).await?;
    rotation(store).await?;
    owners(store).await?;
    resurrection(store).await?;
    races(store).await?;
    expiry(store, pass).await
}

/// What each operation answers, one at a time.
///
/// # Errors
///
/// The first [`Violation`].
///
/// ```
/// # use cloakroom::{MemoryStore, conformance};
/// # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
/// conformance::contract(&MemoryStore::new()).await?;
/// # Ok(()) }
/// ```
pub async fn contract(store: &dyn SessionStore) -> Checked {
    let check = Check("contract");
    let key = check.session(store, "1").await?;
    let first = check
        .get(store, key)
        .await?
        .ok_or_else(|| Violation::new(check.0, "what was created is not there"))?;
    check.that(first.payload == "1", "another payload comes back than was put")?;
    let again = store.create_as(key, "2".into(), HOUR).await;
    check.that(matches!(again, Err(Error::AlreadyExists)), "a key that is in use is given again")?;
    let second = check.done(store.put(key, "2".into()).await)?;
    check
        .that(second.is_some_and(|version| version != first.version), "a put does not change the version")?;
    let stale = store.put_if(key, "stale".into(), first.version).await;
    check.that(matches!(stale, Err(Error::Conflict { .. })), "a put at an old version is no conflict")?;
    for (key, version) in [(key, first.version), (SessionKey::of(b"nobody's"), first.version)] {
        let none = Lifetime::absolute(Duration::ZERO);
        let when = When::VersionWith { version, lifetime: none, loaded: first.terms() };
        let refused = store.write(key, "never".into(), when).await;
        let is_so = matches!(refused, Err(Error::InvalidLifetime { .. }));
        check
            .that(is_so, "a lifetime that is none is not refused as that, whatever else stands against it")?;
    }
    let soon = Lifetime::absolute(Duration::from_secs(60));
    let version = second.unwrap_or(first.version);
    check.done(
        store
            .write(key, "3".into(), When::VersionWith { version, lifetime: soon, loaded: first.terms() })
            .await,
    )?;
    let third = check.get(store, key).await?;
    let is_so = third.is_some_and(|s| {
        s.payload == "3" && s.created_at == first.created_at && s.expires_at < first.expires_at
    });
    check.that(is_so, "a write at a version does not begin the lifetime that it was given")?;
    let appended = store.update(key, &mut |s| Some([&s.payload[..], b"4"].concat().into())).await;
    check.done(appended)?;
    check.that(check.get(store, key).await?.is_some_and(|s| s.payload == "34"), "an update is not there")?;
    check.that(check.done(store.touch(key).await)?, "a live session cannot be touched")?;
    check.that(check.done(store.delete(key).await)?, "a live session cannot be deleted")?;
    check.gone(store, key, "a deleted session is there").await?;
    check.that(!check.done(store.delete(key).await)?, "a session is deleted twice")?;
    check.that(check.done(store.take(key).await)?.is_none(), "a session that is gone can be taken")?;
    check.that(!check.done(store.touch(key).await)?, "a session that is gone can be touched")?;
    check.done(store.upsert(key, "5".into(), HOUR).await)?;
    check.that(check.get(store, key).await?.is_some_and(|s| s.payload == "5"), "an upsert is not there")?;
    let taken = check.done(store.take(key).await)?;
    check.that(taken.is_some_and(|s| s.payload == "5"), "a take does not give the last of a session")?;
    check.gone(store, key, "a session that was taken is there").await
}

/// A rotation moves a session at once, and its old key is dead.
///
/// # Errors
///
/// The first [`Violation`].
///
/// ```
/// # use cloakroom::{MemoryStore, conformance};
/// # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
/// conformance::rotation(&MemoryStore::new()).await?;
/// # Ok(()) }
/// ```
pub async fn rotation(store: &dyn SessionStore) -> Checked {
    let check = Check("rotation");
    let old = check.session(store, "1").await?;
    let before = check.get(store, old).await?;
    let moved = check.done(store.rotate(old).await)?;
    let new = moved.ok_or_else(|| Violation::new(check.0, "a live session cannot be rotated"))?.key();
    check.gone(store, old, "the old key lives on").await?;
    let after = check.get(store, new).await?;
    let kept = |s: &Stored| (s.payload.clone(), s.created_at, s.expires_at);
    check.that(
        after.is_some() && after.as_ref().map(kept) == before.as_ref().map(kept),
        "the session changes on the way",
    )?;
    check.that(check.done(store.rotate(old).await)?.is_none(), "a dead key is rotated again")?;
    check.that(
        check.done(store.put(old, "late".into()).await)?.is_none(),
        "a save under the old key is taken",
    )?;
    check.gone(store, old, "a save under the old key revives it").await?;
    check.done(store.delete(new).await).map(drop)
}

/// Sessions of an owner: listed and counted, labelled, moved by a sign-in, and no more of them than a cap allows, however many sign in at once.
///
/// # Errors
///
/// The first [`Violation`].
///
/// ```
/// # use cloakroom::{MemoryStore, conformance};
/// # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
/// conformance::owners(&MemoryStore::new()).await?;
/// # Ok(()) }
/// ```
pub async fn owners(store: &dyn SessionStore) -> Checked {
    let check = Check("owners");
    let owner = OwnerKey::of(b"conformance/owners");
    let two = |then| Binding::to(owner).labelled(Label::cut("device")).at_most(2, then);
    let visitor = check.session(store, "cart").await?;
    let signed_in = check.done(store.sign_in(visitor, two(AtCap::RejectNew)).await)?;
    let first = signed_in.ok_or_else(|| Violation::new(check.0, "a live session is not signed in"))?.key();
    check.gone(store, visitor, "the id from before the sign-in is live").await?;
    let stored = check.get(store, first).await?;
    check.that(
        stored.is_some_and(|s| s.payload == "cart" && s.owner == Some(owner) && s.label.as_str() == "device"),
        "a sign-in does not keep the payload, or does not give owner and label",
    )?;
    check.done(store.put(first, "more".into()).await)?;
    let labelled = check.get(store, first).await?.is_some_and(|s| s.label.as_str() == "device");
    check.that(labelled, "a put forgets the label")?;
    check.done(store.create_owned("2".into(), HOUR, two(AtCap::RejectNew)).await)?;
    let refused = store.create_owned("3".into(), HOUR, two(AtCap::RejectNew)).await;
    check.that(matches!(refused, Err(Error::TooManyOfOwner { max: 2 })), "a cap is passed")?;
    let evicting = (0..TASKS).map(|_| store.create_owned("4".into(), HOUR, two(AtCap::EvictOldest)));
    for done in at_once(evicting).await {
        check.done(done)?;
        let count = check.done(store.owned_count(owner).await)?;
        check.that(count <= 2, "of sign-ins at once more stay than the cap allows")?;
    }
    check.gone(store, first, "the oldest session does not give way").await?;
    let listed = check.done(store.owned(owner, None, 10).await)?.sessions;
    check.that(listed.len() == 2, "the list of an owner's sessions is not what is there")?;
    check.done(store.revoke(Whose::Owner(owner), Some(listed[0].key)).await)?;
    let left = check.done(store.owned(owner, None, 10).await)?.sessions;
    check.that(
        left.len() == 1 && left[0].key == listed[0].key,
        "a revocation leaves others than the one it spares",
    )?;
    check.done(store.delete(left[0].key).await).map(drop)
}

/// Nothing that a late request does brings a session back: one that was deleted, rotated away, or signed out with all of its owner's.
///
/// # Errors
///
/// The first [`Violation`].
///
/// ```
/// # use cloakroom::{MemoryStore, conformance};
/// # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
/// conformance::resurrection(&MemoryStore::new()).await?;
/// # Ok(()) }
/// ```
pub async fn resurrection(store: &dyn SessionStore) -> Checked {
    let check = Check("resurrection");
    let owner = OwnerKey::of(b"conformance/resurrection");
    for end in ["deleted", "rotated away", "revoked"] {
        let key = check.session(store, "1").await?;
        check.done(store.bind(key, Some(owner)).await)?;
        let before = check.get(store, key).await?;
        let moved = match end {
            "deleted" => check.done(store.delete(key).await).map(|_| None)?,
            "rotated away" => check.done(store.rotate(key).await)?,
            _ => check.done(store.revoke(Whose::Owner(owner), None).await).map(|()| None)?,
        };
        check.gone(store, key, &format!("a session that was {end} is there")).await?;
        let before = before.ok_or_else(|| Violation::new(check.0, "a bound session is not there"))?;
        let (version, loaded) = (before.version, before.terms());
        check.done(store.put(key, "late".into()).await)?;
        check.done(store.put_if(key, "late".into(), version).await)?;
        check.done(
            store.write(key, "late".into(), When::VersionWith { version, lifetime: HOUR, loaded }).await,
        )?;
        check.done(store.update(key, &mut |_| Some("late".into())).await)?;
        check.done(store.touch(key).await)?;
        check.done(store.set_lifetime(key, HOUR).await)?;
        check.done(store.bind(key, Some(owner)).await)?;
        check.done(store.rotate(key).await)?;
        check.gone(store, key, &format!("a late request revived a session that was {end}")).await?;
        if let Some(moved) = moved {
            check.done(store.delete(moved.key()).await)?;
        }
    }
    Ok(())
}

/// Requests at once: no update is lost, of many creates of one key one wins, and of many rotations one moves the session.
///
/// # Errors
///
/// The first [`Violation`].
///
/// ```
/// # use cloakroom::{MemoryStore, conformance};
/// # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
/// conformance::races(&MemoryStore::new()).await?;
/// # Ok(()) }
/// ```
pub async fn races(store: &dyn SessionStore) -> Checked {
    let check = Check("races");
    let key = check.session(store, "").await?;
    let append = |_| async move {
        for _ in 0..8 {
            // Read, wait, write: what every request does.
            loop {
                let Some(read) = check.get(store, key).await? else {
                    return Err(Violation::new(check.0, "the session is gone"));
                };
                yield_now().await;
                let longer = [&read.payload[..], b"x"].concat().into();
                match store.put_if(key, longer, read.version).await {
                    Err(Error::Conflict { .. }) => {}
                    done => break check.done(done).map(drop)?,
                }
            }
        }
        Ok(())
    };
    for appended in at_once((0..TASKS).map(append)).await {
        appended?;
    }
    let len = check.get(store, key).await?.map_or(0, |s| s.payload.len());
    check.that(len == 8 * TASKS, &format!("{len} of {} updates are there", 8 * TASKS))?;

    let rotated = at_once((0..TASKS).map(|_| store.rotate(key))).await;
    let mut moved = Vec::new();
    for one in rotated {
        moved.extend(check.done(one)?);
    }
    check.that(moved.len() == 1, &format!("{} rotations at once moved one session", moved.len()))?;
    for id in moved {
        check.done(store.delete(id.key()).await)?;
    }
    let created = at_once((0..TASKS).map(|_| store.create_as(key, "1".into(), HOUR))).await;
    let won = created.iter().filter(|one| one.is_ok()).count();
    check.that(won == 1, &format!("{won} creates at once made one session"))?;
    let deleted = at_once((0..TASKS).map(|_| store.delete(key))).await;
    let won = deleted.iter().filter(|one| matches!(one, Ok(true))).count();
    check.that(won == 1, &format!("{won} deletes at once ended one session"))
}

/// A session is there until its deadline, and absent from then on to every call. `pass` lets time pass, some three seconds in all.
///
/// # Errors
///
/// The first [`Violation`].
///
/// ```
/// # use cloakroom::{ManualClock, MemoryStore, Options, Timestamp, conformance};
/// # #[tokio::main] async fn main() -> Result<(), conformance::Violation> {
/// let clock = std::sync::Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000_000)));
/// let store = MemoryStore::with_options(Options { clock: clock.clone(), ..Options::default() }).expect("they are valid");
/// conformance::expiry(&store, async |time| clock.advance(time)).await?; // or tokio::time::sleep
/// # Ok(()) }
/// ```
pub async fn expiry(store: &dyn SessionStore, pass: impl AsyncFn(Duration)) -> Checked {
    let check = Check("expiry");
    let second = Lifetime::absolute(Duration::from_secs(1));
    let id = check.done(store.create("1".into(), second).await)?;
    let (ends, kept) = (id.key(), check.session(store, "kept").await?);
    let longer = check.done(store.create("2".into(), second).await)?.key();
    check.done(store.set_lifetime(longer, HOUR).await)?;
    let shorter = check.session(store, "3").await?;
    check.done(store.set_lifetime(shorter, second).await)?;
    check.that(check.get(store, ends).await?.is_some(), "a session ends before its deadline")?;
    pass(Duration::from_millis(1_100)).await;
    check.gone(store, ends, "a session is there after its deadline").await?;
    check.gone(store, shorter, "a deadline cannot be brought forward").await?;
    check.that(check.get(store, longer).await?.is_some(), "a deadline cannot be put off")?;
    check.that(check.get(store, kept).await?.is_some(), "a session ends with another")?;
    let late = [
        check.done(store.touch(ends).await)?,
        check.done(store.set_lifetime(ends, HOUR).await)?,
        check.done(store.put(ends, "late".into()).await)?.is_some(),
        check.done(store.rotate(ends).await)?.is_some(),
        check.done(store.delete(ends).await)?,
    ];
    check.that(late == [false; 5], "an operation finds a session that has expired")?;
    check.done(store.create_as(ends, "new".into(), HOUR).await)?;
    check.that(
        check.get(store, ends).await?.is_some_and(|s| s.payload == "new"),
        "an expired key is not free",
    )?;
    for key in [ends, kept, longer] {
        check.done(store.delete(key).await)?;
    }
    Ok(())
}

/// Lets others go on, once.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs futures by turns until all are ready.
async fn at_once<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<Pin<Box<F>>> = futures.map(Box::pin).collect();
    let mut ready = Vec::new();
    poll_fn(|context| {
        running.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Ready(output) => {
                ready.push(output);
                false
            }
            Poll::Pending => true,
        });
        if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    ready
}
