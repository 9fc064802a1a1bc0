//! Damage of every kind in the files of a store that was closed, or cut off behind a flush: opening it must end in the sessions as they were, or in an error
//! that says where the damage is. Never a wrong payload, a session that was signed out, a panic, or more memory than the files have bytes.
//!
//! An input is a byte that chooses between the two stores, and whether they are opened by their footers, then damages of six bytes each: what, which file, where (3), which byte.

#![no_main]

use std::sync::OnceLock;

use cloakroom::disk::{Disk as _, sim::SimDisk};
use cloakroom::{Access, Error, Options, SessionStore as _};
use cloakroom_fuzz::{Whole, ask, bounded, bytes_of, open, options};
use libfuzzer_sys::fuzz_target;

/// More damage reaches no other code.
const DAMAGES_MAX: usize = 16;
/// Enough for several segments.
const SESSIONS: u32 = 150;

fuzz_target!(|data: &[u8]| {
    let Some((&which, damages)) = data.split_first() else { return };
    let whole = &stores()[usize::from(which % 2)];
    let disk = whole.disk.copy(u64::from(which));
    for damage in damages.chunks_exact(6).take(DAMAGES_MAX) {
        let at = usize::from(damage[2]) | usize::from(damage[3]) << 8 | usize::from(damage[4]) << 16;
        strike(&disk, damage[0], damage[1], at, damage[5]);
    }
    // Without a manifest and without any group there is nothing to tell a lost store from a new one.
    let is_gone = !disk.names().iter().any(|name| name == "MANIFEST");
    let was_closed = which % 2 == 0;
    // The disk that is simulated keeps each file twice, and opening makes a segment.
    let options = Options { footers_from: if which & 2 == 0 { 0 } else { u32::MAX }, ..options() };
    let Ok(store) = bounded(bytes_of(&disk), 4, 1 << 20, || open(&disk, options)) else { return };
    let is_reported = !was_closed && store.recovery().torn_bytes > 0;
    for (key, expected) in &whole.sessions {
        match (ask(&store, store.get(*key, Access::Peek)), expected) {
            (Ok(Some(found)), Some(payload)) => assert_eq!(found.payload, payload[..], "a wrong payload"),
            // What stands last in a log that was not closed, and the mark behind it, cannot be told from a torn end: cut, and reported. One
            // damage takes a session with it; all that tells of an end takes several.
            (Ok(Some(_)), None) => {
                assert!(is_reported && damages.len() > 6, "a session that had ended came back")
            }
            (Ok(None), Some(_)) => assert!(is_gone || is_reported, "damage was passed over in silence"),
            (Ok(None), None) | (Err(Error::Corrupt { .. } | Error::Io { .. }), _) => {}
            (Err(other), _) => panic!("{other}"),
        }
    }
});

/// A store that was closed, and one whose power was lost behind a flush and a mark.
fn stores() -> &'static [Whole; 2] {
    static STORES: OnceLock<[Whole; 2]> = OnceLock::new();
    STORES.get_or_init(|| [Whole::new(SESSIONS, true), Whole::new(SESSIONS, false)])
}

/// One damage to one file.
fn strike(disk: &SimDisk, what: u8, which: u8, at: usize, byte: u8) {
    let names = disk.names();
    let Some(name) = names.get(usize::from(which) % names.len().max(1)) else { return };
    let mut bytes = disk.contents(name).expect("it was listed");
    let at = at % bytes.len().max(1);
    match what % 6 {
        0 if !bytes.is_empty() => bytes[at] ^= byte,
        1 => bytes.truncate(at),
        2 => bytes[at..].iter_mut().take(512).for_each(|b| *b = 0),
        3 => {
            let block: Vec<u8> = bytes[at..].iter().take(512).copied().collect();
            let to = usize::from(byte) * 512 % bytes.len().max(1);
            bytes[to..].iter_mut().zip(block).for_each(|(b, from)| *b = from);
        }
        4 => {
            // A file in place of another.
            let other = names.get(usize::from(byte) % names.len()).and_then(|name| disk.contents(name));
            bytes = other.unwrap_or_default();
        }
        _ => {
            disk.remove(name).expect("it was listed");
            return;
        }
    }
    disk.set_contents(name, &bytes);
}
