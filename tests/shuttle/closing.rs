//! A store with its own threads that is closed, or whose last handle is dropped, while everything else goes on.
//!
//! Property: every operation that is under way ends, with an answer or with `Closed`; what was acknowledged is there after the close, whatever its
//! durability; what was refused did not happen; a session has a value that its own history allows. The folder is free afterwards. Nothing depends
//! on a timer.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use shuttle::future::block_on;
use shuttle::thread;

use super::{after_power_loss, below, explore, hour, key, linger, options};
use crate::disk::sim::SimDisk;
use crate::sync::scheduled::timers;
use crate::{
    Access, AtCap, Binding, Durability, Error, LogStore, OpenError, Options, OwnerKey, ReadMode, SessionKey,
    SessionStore as _, Whose,
};

/// What a session may be found to be: the first byte of its payload, 0 where it is gone.
type May = Vec<(SessionKey, Vec<u8>)>;

/// The answer of an operation, or nothing if the store was closed before it.
fn answer<T>(answer: Result<T, Error>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(Error::Closed) => None,
        Err(error) => panic!("{error}"),
    }
}

/// One that writes, in each durability; another session for each.
fn writer(store: &LogStore) -> May {
    let durabilities =
        [Durability::Sync, Durability::Interval(Durability::INTERVAL_DEFAULT), Durability::Buffered];
    let mut may = May::new();
    for (n, durability) in (10..).zip(durabilities) {
        let written = block_on(store.at(durability).upsert(key(n), vec![1; 2_000].into(), hour()));
        let ended = answer(written).is_none();
        may.push((key(n), vec![u8::from(!ended)]));
        if ended {
            return may;
        }
    }
    may
}

/// One that needs room and the next segment again and again.
fn filler(store: &LogStore) -> May {
    let store = store.at(Durability::Interval(Durability::INTERVAL_DEFAULT));
    let put = |n: u32| store.upsert(key(n), vec![1; 8 << 10].into(), hour());
    for n in (20..40).step_by(4) {
        let (a, b, c, d) = block_on(async { tokio::join!(put(n), put(n + 1), put(n + 2), put(n + 3)) });
        let written = [a, b, c, d].map(|written| u8::from(answer(written).is_some()));
        if written != [1; 4] {
            return (n..).zip(written).map(|(n, byte)| (key(n), vec![byte])).collect();
        }
    }
    (20..40).map(|n| (key(n), vec![1])).collect()
}

/// One that reads what is there, from memory and from the disk, and touches it.
fn reader(store: &LogStore) -> May {
    for access in [Access::Peek, Access::Touch, Access::Peek] {
        let Some(found) = answer(block_on(store.get(key(1), access))) else { break };
        assert_eq!(found.expect("nobody deletes it").payload[0], 7);
    }
    let _ = answer(block_on(store.keys(None, 10)));
    vec![(key(1), vec![7])]
}

/// One that ends one session, moves another, and shortens a third.
fn mover(store: &LogStore) -> May {
    let deleted = answer(block_on(store.delete(key(2))));
    let rotated = answer(block_on(store.rotate(key(3))));
    let shortened = answer(block_on(store.set_lifetime(key(4), hour())));
    assert!(deleted != Some(false) && shortened != Some(false) && rotated != Some(None));
    let mut may = vec![(key(2), vec![if deleted.is_some() { 0 } else { 7 }]), (key(4), vec![7])];
    may.push((key(3), vec![if rotated.is_some() { 0 } else { 7 }]));
    may.extend(rotated.flatten().map(|id| (id.key(), vec![7])));
    may
}

fn ann() -> OwnerKey {
    OwnerKey::of(b"ann")
}

fn bob() -> OwnerKey {
    OwnerKey::of(b"bob")
}

/// One that signs all of ann's sessions out but one.
fn revoker(store: &LogStore) -> May {
    let revoked = answer(block_on(store.revoke(Whose::Owner(ann()), Some(key(7)))));
    vec![(key(6), vec![if revoked.is_some() { 0 } else { 7 }]), (key(7), vec![7])]
}

/// One that signs bob in where he may have one session only, and gives the new one to ann.
fn signer(store: &LogStore) -> May {
    let binding = Binding::to(bob()).at_most(1, AtCap::EvictOldest);
    let signed = answer(block_on(store.create_owned_as(key(9), vec![1; 100].into(), hour(), binding)));
    if signed.is_none() {
        // Who gives way does so before.
        return vec![(key(8), vec![7, 0]), (key(9), vec![0])];
    }
    let bound = answer(block_on(store.bind(key(9), Some(ann()))));
    assert_ne!(bound, Some(false));
    vec![(key(8), vec![0]), (key(9), vec![1, u8::from(bound.is_none())])]
}

/// One that waits for all that is staged, and one write that is given up at some moment.
fn quitter(store: &LogStore) -> May {
    let flushed = answer(block_on(store.flush()));
    let store = store.at(Durability::Sync);
    let mut write = pin!(store.upsert(key(5), vec![8; 2_000].into(), hour()));
    {
        for _ in 0..below(3) {
            if let Poll::Ready(written) = write.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return vec![(key(5), vec![if answer(written).is_some() { 8 } else { 7 }])];
            }
            linger(4);
        }
    }
    let _ = flushed;
    vec![(key(5), vec![7, 8])]
}

/// A store with eight sessions, three of which are somebody's, which lie in a segment that is sealed and, by option, cold.
fn store(options: &Options) -> (SimDisk, LogStore) {
    let disk = SimDisk::new(below(1 << 32));
    let open = || block_on(LogStore::open_on(Arc::new(disk.clone()), options.clone())).unwrap();
    let store = open();
    for n in 1..=8 {
        block_on(store.at(Durability::Buffered).upsert(key(n), vec![7; 100].into(), hour())).unwrap();
    }
    for (n, owner) in [(6, ann()), (7, ann()), (8, bob())] {
        assert!(block_on(store.at(Durability::Buffered).bind(key(n), Some(owner))).unwrap());
    }
    block_on(store.close()).unwrap();
    (disk.clone(), open())
}

fn check(store: &LogStore, may: &May) {
    for (key, allowed) in may {
        let found = block_on(store.get(*key, Access::Peek)).unwrap().map_or(0, |stored| stored.payload[0]);
        assert!(allowed.contains(&found), "{key:?} is {found}, may be {allowed:?}");
    }
}

/// All of them at once, beside whoever ends the store; then what the folder holds.
fn run(end: fn(LogStore)) {
    timers(0);
    let (mut options, _) = options();
    options.read_mode = if below(2) == 0 { ReadMode::Mapped } else { ReadMode::Pread };
    let (disk, store) = store(&options);
    let lives: [fn(&LogStore) -> May; 7] = [writer, reader, mover, quitter, filler, revoker, signer];
    let spawn = |life: fn(&LogStore) -> May| {
        let store = store.clone();
        thread::spawn(move || {
            linger(30);
            life(&store)
        })
    };
    let threads: Vec<_> = lives.into_iter().map(spawn).collect();
    linger(60);
    end(store);
    let may: May = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let reopened = loop {
        match LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()) {
            // The last handle may have been dropped a moment ago.
            Err(OpenError::Locked { .. }) => thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    check(&reopened, &may);
    drop(reopened);
    check(&after_power_loss(&disk, &options), &may);
}

#[test]
fn close_beside_everything_answers_all_and_keeps_what_was_acknowledged() {
    explore(1_000, || {
        run(|store| {
            let other = store.clone();
            let second = thread::spawn(move || block_on(other.close()));
            block_on(store.close()).unwrap();
            second.join().unwrap().unwrap();
            assert!(matches!(block_on(store.flush()), Err(Error::Closed)));
        });
    });
}

#[test]
fn dropping_the_last_handle_keeps_everything_and_frees_the_folder() {
    explore(1_000, || run(drop));
}
