//! A revocation against saves, touches, rotations and reads of the sessions that it ends, and against the sweep that carries it out.
//!
//! Property: from the moment at which a revocation is answered, nobody whom it ends is found, whatever was in flight; who is spared, and who was bound
//! after it, lives. The same holds after a power cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shuttle::future::block_on;
use shuttle::thread;

use super::{after_power_loss, below, explore, hour, key, linger, options};
use crate::disk::sim::SimDisk;
use crate::sync::scheduled::timers;
use crate::{Access, Durability, LogStore, OwnerKey, SessionKey, SessionStore as _, Whose};

const ENDED: u32 = 1;
const SPARED: u32 = 2;
const ROTATED: u32 = 3;
const OTHERS: u32 = 4;

fn owner(n: u32) -> OwnerKey {
    OwnerKey::of(&n.to_le_bytes())
}

fn bound(store: &LogStore, n: u32, whose: u32) {
    block_on(store.create_as(key(n), "0".into(), hour())).unwrap();
    // The content is staged and perhaps not written: it is read from memory.
    assert!(block_on(store.bind(key(n), Some(owner(whose)))).unwrap());
}

fn is_there(store: &LogStore, key: SessionKey) -> bool {
    block_on(store.get(key, Access::Peek)).unwrap().is_some()
}

/// Saves and touches until there is nobody to save.
fn saver(store: &LogStore) {
    for _ in 0..4 {
        if block_on(store.put(key(ENDED), "1".into())).unwrap().is_none() {
            assert!(!block_on(store.touch(key(ENDED))).unwrap(), "touched behind its end");
            return;
        }
        linger(8);
    }
}

#[test]
fn nobody_slips_past_a_revocation_whatever_is_in_flight() {
    explore(1_500, || {
        timers(0);
        let options = options().0;
        let disk = SimDisk::new(below(1 << 32));
        let store = LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()).unwrap();
        let store = store.at(Durability::Buffered);
        [ENDED, SPARED, ROTATED].into_iter().for_each(|n| bound(&store, n, 1));
        bound(&store, OTHERS, 2);
        store.step();
        let left = Arc::new(AtomicU32::new(3));
        let beside = |act: fn(&LogStore) -> Option<SessionKey>| {
            let (store, left) = (store.clone(), Arc::clone(&left));
            thread::spawn(move || {
                linger(30);
                let made = act(&store);
                left.fetch_sub(1, Ordering::SeqCst);
                made
            })
        };
        let saving = beside(|store| {
            saver(store);
            None
        });
        let rotating = beside(|store| Some(block_on(store.rotate(key(ROTATED))).unwrap()?.key()));
        let revoking = beside(|store| {
            block_on(store.revoke(Whose::Owner(owner(1)), Some(key(SPARED)))).unwrap();
            assert!(
                !is_there(store, key(ENDED)) && !is_there(store, key(ROTATED)),
                "found behind the answer"
            );
            assert!(is_there(store, key(SPARED)) && is_there(store, key(OTHERS)));
            bound(store, 9, 1);
            None
        });
        while left.load(Ordering::SeqCst) > 0 {
            store.step();
            thread::yield_now();
        }
        saving.join().unwrap();
        revoking.join().unwrap();
        let rotated = rotating.join().unwrap();
        let check = |store: &LogStore, when: &str| {
            let gone = [Some(key(ENDED)), Some(key(ROTATED)), rotated];
            for (n, gone) in gone.into_iter().flatten().enumerate() {
                assert!(!is_there(store, gone), "session {n} is there {when}");
            }
            for n in [SPARED, OTHERS, 9] {
                assert!(is_there(store, key(n)), "session {n} is gone {when}");
            }
        };
        check(&store, "at once");
        store.step();
        assert_eq!(store.len(), 3, "the sweep took out who was revoked");
        check(&store, "after the sweep");
        store.step();
        check(&after_power_loss(&disk, &options), "after a power cut");
    });
}
