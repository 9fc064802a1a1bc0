//! Sign-ins under a cap against each other, against a rotation, a delete and a save of the sessions that count, and against who counts.
//!
//! Property: at no instant does the owner have more sessions than the cap, to whoever counts them; every sign-in that was answered is there unless another
//! one ended it; and after a power cut that loses nothing the same sessions are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shuttle::future::block_on;
use shuttle::thread;

use super::{after_power_loss, below, explore, hour, key, linger, options};
use crate::disk::sim::SimDisk;
use crate::sync::scheduled::timers;
use crate::{AtCap, Binding, Durability, Error, LogStore, OwnerKey, SessionStore as _};

const CAP: u32 = 2;

fn ann() -> OwnerKey {
    OwnerKey::of(b"ann")
}

fn count(store: &LogStore) -> usize {
    block_on(store.owned_count(ann())).unwrap()
}

/// Signs in by a create or by a bind; whether that was refused.
fn sign_in(store: &LogStore, n: u32, by_create: bool, then: AtCap) -> bool {
    let binding = Binding::to(ann()).at_most(CAP, then);
    let done = if by_create {
        block_on(store.create_owned_as(key(n), "0".into(), hour(), binding))
    } else {
        block_on(store.create_as(key(n), "0".into(), hour())).unwrap();
        block_on(store.bind_as(key(n), Some(binding))).map(drop)
    };
    match done {
        Ok(()) => false,
        Err(Error::TooManyOfOwner { max: CAP }) => true,
        Err(e) => panic!("{e}"),
    }
}

fn cap_holds(then: AtCap) {
    timers(0);
    let options = options().0;
    let disk = SimDisk::new(below(1 << 32));
    let store = LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()).unwrap();
    let store = store.at(Durability::Buffered);
    assert!(!sign_in(&store, 0, true, then));
    let left = Arc::new(AtomicU32::new(4));
    let beside = |act: Box<dyn FnOnce(&LogStore) -> bool + Send>| {
        let (store, left) = (store.clone(), Arc::clone(&left));
        thread::spawn(move || {
            linger(20);
            let refused = act(&store);
            left.fetch_sub(1, Ordering::SeqCst);
            refused
        })
    };
    let signing_in = [
        beside(Box::new(move |store| sign_in(store, 1, true, then))),
        beside(Box::new(move |store| sign_in(store, 2, false, then))),
    ];
    let rotating = beside(Box::new(|store| {
        let moved = block_on(store.rotate(key(0))).unwrap();
        moved.is_some_and(|moved| block_on(store.put(moved.key(), "1".into())).unwrap().is_none())
    }));
    let counting = beside(Box::new(|store| {
        for _ in 0..4 {
            assert!(count(store) <= CAP as usize, "{} sessions", count(store));
            linger(8);
        }
        false
    }));
    while left.load(Ordering::SeqCst) > 0 {
        store.step();
        thread::yield_now();
    }
    let refused = signing_in.into_iter().map(|thread| u32::from(thread.join().unwrap())).sum::<u32>();
    rotating.join().unwrap();
    counting.join().unwrap();
    // Three signed in, of whom two may stay.
    assert_eq!(refused, u32::from(then == AtCap::RejectNew));
    assert_eq!(store.stats().evicted, u64::from(then != AtCap::RejectNew));
    assert_eq!(count(&store), CAP as usize);
    store.step();
    store.step();
    assert_eq!(count(&after_power_loss(&disk, &options)), CAP as usize);
}

#[test]
fn cap_holds_whatever_is_in_flight_where_the_new_are_refused() {
    explore(800, || cap_holds(AtCap::RejectNew));
}

#[test]
fn cap_holds_whatever_is_in_flight_where_the_old_give_way() {
    explore(800, || cap_holds(AtCap::EvictOldest));
}

/// Shards are counted one after the other, and a rotation takes a session from one to another.
#[test]
fn session_that_moves_is_counted_once_by_whoever_counts_meanwhile() {
    explore(800, || {
        timers(0);
        let disk = SimDisk::new(below(1 << 32));
        let store = LogStore::open_by_hand(Arc::new(disk), options().0).unwrap().at(Durability::Buffered);
        assert!(!sign_in(&store, 0, true, AtCap::RejectNew));
        let moving = {
            let store = store.clone();
            thread::spawn(move || {
                let mut key = key(0);
                for _ in 0..3 {
                    key = block_on(store.rotate(key)).unwrap().unwrap().key();
                }
            })
        };
        for _ in 0..4 {
            assert_eq!(count(&store), 1);
        }
        moving.join().unwrap();
    });
}
