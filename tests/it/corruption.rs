//! Damage of every kind in every file of a store: told, never served; and what is made of it afterwards signs nobody back in.
//!
//! Goal: to refute P7 and P8. Method: a history is run once, and what it left is damaged in one way after another. Then
//!
//! - the strict open holds exactly the sessions that there were, or refuses, names file and offset, and leaves every byte as it was. It passes over damage
//!   only where that cannot be told from a torn end, and then says how many bytes it cut off; what it holds is then what there was at one
//!   earlier moment.
//! - Verify says that the store is sound if and only if the strict open succeeds, and changes nothing.
//! - A read-only open holds sessions as they last were, and no others; it changes nothing.
//! - A salvage keeps the same sessions, every file that was there lies in quarantine, and the strict open succeeds from then on.

mod crashes;
mod ends;
mod histories;
mod kept;
mod lost_list;
mod strikes;
mod sweep;
mod unread;

use std::collections::BTreeMap;
use std::sync::Arc;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, Lifetime, LogStore, OpenError, Options, Salvaged, SessionKey, SessionStore, Stored, Verification,
};

use crate::support::life::drive;

/// The sessions of a store.
type Sessions = BTreeMap<SessionKey, Stored>;

/// Every file of a disk.
fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    disk.names().into_iter().map(|name| (name.clone(), disk.contents(&name).unwrap())).collect()
}

/// Strictly, and reading everything: what an open by footers does not see is told later.
fn open(disk: &SimDisk, options: &Options) -> Result<LogStore, OpenError> {
    LogStore::open_by_hand(Arc::new(disk.clone()), Options { footers_from: u32::MAX, ..options.clone() })
}

fn read_only(disk: &SimDisk, options: &Options) -> LogStore {
    LogStore::open_read_only_by_hand(Arc::new(disk.clone()), options.clone()).unwrap()
}

fn verify(disk: &SimDisk, options: &Options) -> Verification {
    LogStore::verify_on(Arc::new(disk.clone()), options.clone()).unwrap()
}

fn salvage(disk: &SimDisk, options: &Options) -> Result<Salvaged, OpenError> {
    LogStore::salvage_on(Arc::new(disk.clone()), options.clone())
}

/// All that a store holds, found by a walk; that none of `known` is there beside is checked.
fn observe(store: &LogStore, known: &[SessionKey]) -> Sessions {
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
fn proven(disk: &SimDisk, options: &Options, known: &[SessionKey]) -> Sessions {
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
