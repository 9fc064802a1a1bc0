//! What must hold of a store whose files are damaged, in whatever way: told, never served; and what is made of it signs nobody in.
//!
//! The strict open holds what it may or refuses, and leaves every byte as it was; verify agrees with it; a read-only open holds sessions
//! as they last were, and no others; a salvage keeps the same ones, and every file.

use std::collections::BTreeMap;
use std::sync::Arc;

use cloakroom::disk::{Disk as _, sim::SimDisk};
use cloakroom::{
    Access, Lifetime, LogStore, OpenError, Options, Salvaged, SessionKey, SessionStore, Stored, Verification,
};

use super::life::drive;

/// The sessions of a store.
pub type Sessions = BTreeMap<SessionKey, Stored>;

/// Every file of a disk.
pub fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    disk.names().into_iter().map(|name| (name.clone(), disk.contents(&name).unwrap())).collect()
}

/// The same files, all of them durable: what is lost of them from then on, a strike has taken.
pub fn settled(disk: &SimDisk, seed: u64) -> SimDisk {
    let settled = SimDisk::new(seed);
    settled.create_folder().unwrap();
    for name in disk.names() {
        settled.set_contents(&name, &disk.contents(&name).unwrap());
    }
    settled
}

/// Strictly, and reading everything: what an open by footers does not see is told later.
pub fn open(disk: &SimDisk, options: &Options) -> Result<LogStore, OpenError> {
    LogStore::open_by_hand(Arc::new(disk.clone()), Options { footers_from: u32::MAX, ..options.clone() })
}

pub fn read_only(disk: &SimDisk, options: &Options) -> LogStore {
    LogStore::open_read_only_by_hand(Arc::new(disk.clone()), options.clone()).unwrap()
}

pub fn verify(disk: &SimDisk, options: &Options) -> Verification {
    LogStore::verify_on(Arc::new(disk.clone()), options.clone()).unwrap()
}

pub fn salvage(disk: &SimDisk, options: &Options) -> Result<Salvaged, OpenError> {
    LogStore::salvage_on(Arc::new(disk.clone()), options.clone())
}

/// All that a store holds, found by a walk; that none of `known` is there beside is checked.
pub fn observe(store: &LogStore, known: &[SessionKey]) -> Sessions {
    let get = |key: &SessionKey| drive(store, store.get(*key, Access::Peek)).unwrap().unwrap();
    let (mut found, mut cursor) = (Sessions::new(), None);
    loop {
        let page = drive(store, store.keys(cursor, 100)).unwrap().unwrap();
        found.extend(page.keys.iter().map(|key| (*key, get(key).unwrap())));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    for key in known {
        assert_eq!(get(key).as_ref(), found.get(key), "a walk and a read differ");
    }
    found
}

/// What a read-only open holds. It is shown to write nothing.
pub fn proven(disk: &SimDisk, options: &Options, known: &[SessionKey]) -> Sessions {
    let before = files(disk);
    let store = read_only(disk, options);
    let found = observe(&store, known);
    let lifetime = Lifetime::absolute(std::time::Duration::from_secs(60));
    let refused = drive(&store, store.create("x".into(), lifetime)).unwrap();
    assert!(matches!(refused, Err(cloakroom::Error::ReadOnly)), "{refused:?}");
    store.step();
    drive(&store, store.close()).unwrap().unwrap();
    drop(store);
    assert!(files(disk) == before, "a read-only open changed a file");
    found
}

/// Whether a file has the name of a segment.
pub fn is_segment(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| ending == "seg")
}

/// What became of a damaged store.
pub enum Judged {
    /// The damage could not be told from a torn end, or costs nobody.
    Opened { found: Sessions, torn_bytes: u64 },
    /// It is repaired now, and so many sessions were kept: of those, where the clock is doubted, some that have ended by it.
    Refused { certain: Sessions, kept: u64 },
    /// Without a list, and with a file that no store wrote, it is taken for somebody else's folder, and left alone.
    Foreign,
}

/// Opens, verifies, reads and repairs a store that held `last` before it was damaged.
pub fn judge(disk: &SimDisk, options: &Options, keys: &[SessionKey], last: &Sessions) -> Judged {
    let before = files(disk);
    if let Err(OpenError::ForeignFolder { .. }) = open(&disk.copy(1), options) {
        let has_list = before.keys().any(|name| name == "MANIFEST" || name == "MANIFEST.copy");
        let refused = salvage(disk, options);
        assert!(matches!(refused, Err(OpenError::ForeignFolder { .. })), "{refused:?}");
        assert!(!has_list && files(disk) == before);
        return Judged::Foreign;
    }
    let verified = verify(disk, options);
    assert!(files(disk) == before, "verify changed a file");
    let certain = proven(disk, options, keys);
    let strictly = disk.copy(2);
    match open(&strictly, options) {
        Ok(opened) => {
            let found = observe(&opened, keys);
            let torn_bytes = opened.recovery().torn_bytes;
            assert!(verified.is_sound(), "it opens, and is said to be damaged: {verified:?}");
            assert!(certain == found, "a read-only open holds other sessions than a strict one");
            assert_eq!(verified.torn_bytes, torn_bytes);
            let done = salvage(disk, options).unwrap();
            assert!(done.damage.is_empty() && files(disk) == before, "there was nothing to repair");
            Judged::Opened { found, torn_bytes }
        }
        Err(OpenError::Damaged { folder, file, cure, .. }) => {
            assert!(files(&strictly) == before, "a refused open changed a file");
            assert!(!file.is_empty() && !folder.is_empty() && cure.contains("salvage"), "{file}");
            assert!(!verified.is_sound() && !verified.damage.is_empty(), "{file}: refused, and {verified:?}");
            for (key, stored) in &certain {
                let was = last.get(key);
                assert!(
                    was == Some(stored),
                    "{key} is not as it was last: {stored:.0?}, not {was:.0?}; {verified:?}"
                );
                // Beside damage a torn end is none.
                assert_eq!(verified.torn_bytes, 0, "{verified:?}");
            }
            let kept = repair(disk, options, keys, &certain);
            Judged::Refused { certain, kept }
        }
        Err(other) => panic!("met with {other}"),
    }
}

/// A salvage keeps what a read-only open showed, and every file that there was.
fn repair(disk: &SimDisk, options: &Options, keys: &[SessionKey], certain: &Sessions) -> u64 {
    let before = files(disk);
    let done = salvage(disk, options).unwrap();
    let after = files(disk);
    for (name, bytes) in before.iter().filter(|(name, _)| is_segment(name) || *name == "MANIFEST") {
        let is_aside = name.starts_with("quarantine-") && after.get(name) == Some(bytes);
        let is_moved = || done.quarantined.iter().any(|to| to.ends_with(name) && after[to] == *bytes);
        assert!(is_aside || is_moved(), "{name} is not in quarantine: {done:?}");
    }
    assert!(verify(disk, options).is_sound());
    for _ in 0..2 {
        let store = open(disk, options).unwrap();
        let found = observe(&store, keys);
        assert!(found == *certain, "salvaged {done:?}, and found {found:?}, not {certain:?}");
        assert_eq!(store.recovery().torn_bytes, 0);
        drop(store);
    }
    assert!(done.quarantined.iter().all(|name| disk.contents(name).is_some()), "an open removed one");
    done.sessions_kept
}

/// Whether the end of a file is all zeros now: of a log that was not closed, nothing tells that from an end that was never written.
pub fn is_wiped(before: &SimDisk, disk: &SimDisk) -> bool {
    let end = |disk: &SimDisk, name| disk.contents(name)?.iter().rposition(|byte| *byte != 0);
    disk.names().iter().any(|name| end(disk, name) < end(before, name))
}
