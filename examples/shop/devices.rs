//! Which sessions a user is signed in with: one record for each user, plain key-value use of the session store.
//!
//! Invariant: **a session that says it is signed in is listed.** "Sign out everywhere" can so never miss one. What keeps it, whatever runs at the
//! same time and wherever a crash falls, is the order of the steps:
//!
//! - *Sign in:* (1) the session is live under a fresh id, and says nothing; (2) its key is added to the record; (3) the session says who it is, by
//!   a save that does nothing if the session is gone. One log holds both and a crash cuts it only at its end, so (3) never survives without (2).
//! - *Sign out everywhere:* (1) read the record; (2) delete each session listed; (3) drop those keys, and no others, from the record. A
//!   sign-in that has added its key before (1) finds its session gone and fails; one that adds it later has come after, and stays.
//! - *Dropping a key* from the record happens only once its session is known to be gone. Gone stays gone, so however late the drop is, it is right. A
//!   key whose session ended otherwise is only dead weight until then.
//!
//! The record changes by compare-and-swap (`update`), so no change of another request is lost. It is written at each sign-in, which starts
//! its idle period anew; that is longer than any session can live.

use std::time::Duration;

use cloakroom::{Access, Clock, Error, Lifetime, SessionKey, SessionStore, SystemClock, Timestamp};
use serde::{Deserialize, Serialize};

use super::visit::Trouble;

pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest a session lives, used or not.
pub const SESSION_DAYS_MAX: u32 = 30;
/// Devices of one user; signing in with one more signs out the one that signed in first. Sign-ins at the same instant may exceed it by
/// their number, until the next.
const DEVICES_MAX: usize = 20;

/// A session that is or was signed in.
#[derive(Clone, Serialize, Deserialize)]
pub struct Device {
    key: [u8; 32],
    pub label: String,
    /// When it signed in, in milliseconds since 1970: for the eye only.
    pub since_ms: u64,
}

impl Device {
    pub fn key(&self) -> SessionKey {
        SessionKey::from_bytes(self.key)
    }
}

/// The devices of one user.
pub struct Devices<'a> {
    store: &'a dyn SessionStore,
    record: SessionKey,
}

impl<'a> Devices<'a> {
    pub fn of(store: &'a dyn SessionStore, user: &str) -> Self {
        Self { store, record: SessionKey::of(format!("devices/{user}").as_bytes()) }
    }

    /// Those whose session is live, in the order in which they signed in.
    pub async fn live(&self) -> Result<Vec<Device>, Trouble> {
        Ok(self.sorted().await?.0)
    }

    /// Adds the session under `key`, which is live and does not say yet that it is signed in.
    pub async fn add(&self, key: SessionKey, label: &str) -> Result<(), Trouble> {
        let (mut live, mut gone) = self.sorted().await?;
        while live.len() >= DEVICES_MAX {
            let oldest = live.remove(0);
            self.store.delete(oldest.key()).await?;
            gone.push(oldest.key());
        }
        let since_ms = SystemClock.wall().as_millis();
        let device = Device { key: *key.as_bytes(), label: label.to_owned(), since_ms };
        self.change(|devices| {
            devices.retain(|device| !gone.contains(&device.key()));
            devices.push(device.clone());
        })
        .await
    }

    /// Signs out one: the session is deleted, then forgotten.
    pub async fn sign_out(&self, key: SessionKey) -> Result<(), Trouble> {
        self.store.delete(key).await?;
        self.forget(&[key]).await
    }

    /// Signs out all that are listed now; says how many were still live.
    pub async fn sign_out_all(&self) -> Result<usize, Trouble> {
        let keys: Vec<SessionKey> = self.listed().await?.iter().map(Device::key).collect();
        let mut signed_out = 0;
        for &key in &keys {
            signed_out += usize::from(self.store.delete(key).await?);
        }
        self.forget(&keys).await?;
        Ok(signed_out)
    }

    async fn forget(&self, gone: &[SessionKey]) -> Result<(), Trouble> {
        self.change(|devices| devices.retain(|device| !gone.contains(&device.key()))).await
    }

    async fn listed(&self) -> Result<Vec<Device>, Trouble> {
        match self.store.get(self.record, Access::Peek).await? {
            Some(stored) => Ok(serde_json::from_slice(&stored.payload)?),
            None => Ok(Vec::new()),
        }
    }

    /// Those whose session is live, and the keys of the others.
    async fn sorted(&self) -> Result<(Vec<Device>, Vec<SessionKey>), Trouble> {
        let (mut live, mut gone) = (Vec::new(), Vec::new());
        for device in self.listed().await? {
            match self.store.get(device.key(), Access::Peek).await? {
                Some(_) => live.push(device),
                None => gone.push(device.key()),
            }
        }
        Ok((live, gone))
    }

    /// Changes the record whatever others do to it meanwhile, and makes it if it is not there; `edit` may run more than once.
    async fn change(&self, mut edit: impl FnMut(&mut Vec<Device>) + Send) -> Result<(), Trouble> {
        let lifetime = Lifetime::idle(DAY * (SESSION_DAYS_MAX + 1));
        loop {
            let mut encoded = Ok(Vec::new());
            let changed = self
                .store
                .update(self.record, &mut |stored| {
                    let devices = serde_json::from_slice::<Vec<Device>>(&stored.payload);
                    encoded = devices.and_then(|mut devices| {
                        edit(&mut devices);
                        serde_json::to_vec(&devices)
                    });
                    encoded.as_ref().ok().map(|bytes| bytes.clone().into())
                })
                .await?;
            encoded?;
            if changed.is_some() {
                return Ok(());
            }
            let mut devices = Vec::new();
            edit(&mut devices);
            let payload = serde_json::to_vec(&devices)?;
            match self.store.create_as(self.record, payload.into(), lifetime).await {
                Err(Error::AlreadyExists) => {}
                made => return Ok(made?),
            }
        }
    }
}

/// A name for the browser that sends this `User-Agent`. Browsers claim to be each other, so the order matters.
pub fn label(user_agent: &str) -> String {
    let first = |names: &[(&str, &'static str)]| {
        names.iter().find(|(sign, _)| user_agent.contains(sign)).map(|(_, name)| *name)
    };
    let browser = first(&[
        ("Firefox/", "Firefox"),
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ]);
    let system = first(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("CrOS", "ChromeOS"),
        ("Linux", "Linux"),
    ]);
    let browser = browser.unwrap_or("A browser");
    system.map_or_else(|| browser.into(), |system| format!("{browser} on {system}"))
}

/// An instant for people, to the minute.
pub fn in_words(at: Timestamp) -> String {
    let at = time::OffsetDateTime::from(std::time::SystemTime::from(at));
    format!(
        "{} {} {}, {:02}:{:02} UTC",
        at.day(),
        &at.month().to_string()[..3],
        at.year(),
        at.hour(),
        at.minute()
    )
}

#[cfg(test)]
mod tests {
    use cloakroom::{MemoryStore, Saved, Session};

    use super::*;

    async fn session(store: &MemoryStore) -> Session {
        let mut session = Session::new(Lifetime::idle(DAY));
        session.insert("device", "some browser").unwrap();
        session.save(store).await.unwrap();
        session
    }

    fn key(session: &Session) -> SessionKey {
        session.id().unwrap().key()
    }

    #[tokio::test]
    async fn sign_in_that_meets_a_sign_out_everywhere_fails_and_one_that_comes_later_stays() {
        let store = MemoryStore::new();
        let devices = Devices::of(&store, "ada");
        let (mut caught, mut late) = (session(&store).await, session(&store).await);
        devices.add(key(&caught), "caught").await.unwrap();
        assert_eq!(devices.sign_out_all().await.unwrap(), 1);
        caught.insert("user", "ada").unwrap();
        assert_eq!(caught.save(&store).await.unwrap(), Saved::Gone);

        devices.add(key(&late), "late").await.unwrap();
        late.insert("user", "ada").unwrap();
        assert_eq!(late.save(&store).await.unwrap(), Saved::Updated);
        let live = devices.live().await.unwrap();
        assert_eq!(live.iter().map(|device| device.label.as_str()).collect::<Vec<_>>(), ["late"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_one_of_many_sign_ins_at_once_is_listed() {
        let store = MemoryStore::new();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..DEVICES_MAX {
            let store = store.clone();
            tasks.spawn(async move {
                let session = session(&store).await;
                Devices::of(&store, "ada").add(key(&session), "x").await.unwrap();
                key(&session)
            });
        }
        let mut added = tasks.join_all().await;
        let live = Devices::of(&store, "ada").live().await.unwrap();
        let mut listed: Vec<SessionKey> = live.iter().map(Device::key).collect();
        added.sort();
        listed.sort();
        assert_eq!(listed, added);
    }

    #[tokio::test]
    async fn one_device_too_many_signs_out_the_first_and_users_stay_apart() {
        let store = MemoryStore::new();
        let (ada, bob) = (Devices::of(&store, "ada"), Devices::of(&store, "bob"));
        let of_bob = session(&store).await;
        bob.add(key(&of_bob), "bob's").await.unwrap();
        let first = session(&store).await;
        ada.add(key(&first), "0").await.unwrap();
        for number in 1..=DEVICES_MAX {
            ada.add(key(&session(&store).await), &number.to_string()).await.unwrap();
        }
        assert!(store.get(key(&first), Access::Peek).await.unwrap().is_none());
        assert_eq!(ada.live().await.unwrap().len(), DEVICES_MAX);
        assert_eq!(ada.sign_out_all().await.unwrap(), DEVICES_MAX);
        assert_eq!(ada.listed().await.unwrap().len(), 0);
        assert_eq!(bob.live().await.unwrap().len(), 1);
    }

    #[test]
    fn labels_see_through_what_browsers_claim_to_be() {
        let edge = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36 Edg/120.0";
        assert_eq!(label(edge), "Edge on Windows");
        assert_eq!(label("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0"), "Firefox on Linux");
        assert_eq!(label("<script>"), "A browser");
    }

    #[test]
    fn instants_are_told_to_the_minute() {
        assert_eq!(in_words(Timestamp::from_millis(971_211_336_000)), "10 Oct 2000, 20:55 UTC");
    }
}
