//! Operations that others overtake: while they wait for room in the log, and between two readings of the clock.
//!
//! Goal: that each goes by what holds when its record is staged, and not by what it found when it came. Method: a store without threads. A segment without
//! room holds an operation up; a clock has another thread do something at each of the readings that an operation takes, one after the other.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake};
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, AtCap, Binding, Clock, Durability, Label, Lifetime, LogStore, ManualClock, Options, OwnerKey,
    SessionStore, Stored, Timestamp, Whose, Work,
};

use crate::owned::{ann, bob, count, key, label_of, open, options, there};
use crate::refuted::{now, poll};

const DAY: Lifetime = Lifetime::idle(Duration::from_secs(86_400));
const MINUTE: Lifetime = Lifetime::idle(Duration::from_secs(60));

/// Longer than any other thread takes that is not waiting for this one.
const PATIENCE: Duration = Duration::from_millis(20);

/// A store whose active segment has no room for a payload of 8 KiB, and some for what is short.
fn nearly_full(begin: impl FnOnce(&LogStore)) -> LogStore {
    let (options, _) = options();
    let options = Options { payload_bytes_max: 8 << 10, ..options };
    let store = open(&SimDisk::new(1), &options).at(Durability::Buffered);
    begin(&store);
    let is_taken = |n| poll(&mut pin!(store.create_as(key(n), vec![1; 2_000].into(), DAY))).is_some();
    assert!((100..200).any(|n| !is_taken(n)));
    store
}

fn after_steps<T>(store: &LogStore, mut waits: Pin<&mut impl Future<Output = T>>) -> T {
    for _ in 0..50 {
        store.step();
        if let Some(done) = poll(&mut waits) {
            return done;
        }
    }
    panic!("it waits for ever");
}

#[test]
fn save_that_waits_for_room_keeps_the_label_that_is_given_meanwhile() {
    let labelled = |label| Binding::to(ann()).labelled(Label::cut(label));
    let store = nearly_full(|store| {
        now(store.create_owned_as(key(1), "x".into(), DAY, labelled("phone"))).unwrap();
    });
    let mut waits = pin!(store.put(key(1), vec![2; 8_000].into()));
    assert!(poll(&mut waits).is_none());
    assert!(now(store.bind_as(key(1), Some(labelled("tablet")))).unwrap());
    after_steps(&store, waits).unwrap().unwrap();
    assert_eq!(now(label_of(&store, key(1))), "tablet");
    assert_eq!(now(store.get(key(1), Access::Peek)).unwrap().unwrap().payload, vec![2; 8_000]);
}

#[test]
fn sign_in_that_waits_for_room_is_not_refused_for_its_own_session_that_becomes_theirs_meanwhile() {
    let store = nearly_full(|store| now(store.create_as(key(1), vec![1; 8_000].into(), DAY)).unwrap());
    let one = Binding::to(ann()).at_most(1, AtCap::RejectNew);
    let mut waits = pin!(store.bind_as(key(1), Some(one)));
    assert!(poll(&mut waits).is_none());
    now(store.put(key(1), "short".into())).unwrap().unwrap();
    assert!(now(store.bind(key(1), Some(ann()))).unwrap());
    assert!(after_steps(&store, waits).unwrap());
    assert_eq!(count(&store), 1);
}

/// What another thread does.
type Beside = Box<dyn FnOnce() + Send>;

/// A clock that stands still, and at one of its readings lets another thread do something first; that one may have to wait for who reads.
struct Overtaking {
    clock: ManualClock,
    /// How many readings come before it.
    next: Mutex<Option<(u32, Beside)>>,
    begun: Mutex<Option<Receiver<()>>>,
}

impl Clock for Overtaking {
    fn wall(&self) -> Timestamp {
        self.clock.wall()
    }
    fn uptime(&self) -> Duration {
        let beside = {
            let mut next = self.next.lock().unwrap();
            match next.take() {
                Some((0, beside)) => Some(beside),
                Some((readings, beside)) => {
                    *next = Some((readings - 1, beside));
                    None
                }
                None => None,
            }
        };
        if let Some(beside) = beside {
            let (tell, told) = channel();
            let other = std::thread::Builder::new().spawn(move || {
                beside();
                // Who has gone on does not wait for it now.
                let _ = tell.send(());
            });
            other.unwrap();
            if told.recv_timeout(PATIENCE).is_err() {
                *self.begun.lock().unwrap() = Some(told);
            }
        }
        self.clock.uptime()
    }
}

/// Does `operation` on a fresh store again and again, `beside` at another reading of the clock each time, and checks what both leave.
fn at_every_reading(
    begin: fn(&LogStore),
    operation: impl Fn(&LogStore),
    beside: fn(&LogStore),
    check: impl Fn(&LogStore, u32),
) {
    for reading in 0.. {
        let clock = Arc::new(Overtaking {
            clock: ManualClock::at(Timestamp::from_millis(1_700_000_000_000)),
            next: Mutex::default(),
            begun: Mutex::default(),
        });
        let options = Options { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..options().0 };
        let store = open(&SimDisk::new(1), &options).at(Durability::Buffered);
        begin(&store);
        let other = store.clone();
        *clock.next.lock().unwrap() = Some((reading, Box::new(move || beside(&other))));
        operation(&store);
        let came = clock.next.lock().unwrap().take().is_none();
        if let Some(told) = clock.begun.lock().unwrap().take() {
            told.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        if !came {
            assert!(reading > 0, "the operation reads the clock");
            return;
        }
        check(&store, reading);
    }
}

/// What is done to a store, and what it is called.
type Named = (&'static str, fn(&LogStore));

const OPERATIONS: [Named; 6] = [
    ("put", |store| {
        now(store.put(key(1), "late".into())).unwrap();
    }),
    ("put_if", |store| {
        let stored = now(store.get(key(1), Access::Peek)).unwrap();
        if let Some(stored) = stored {
            let _ = now(store.put_if(key(1), "late".into(), stored.version));
        }
    }),
    ("set_lifetime", |store| {
        now(store.set_lifetime(key(1), DAY)).unwrap();
    }),
    ("bind", |store| {
        now(store.bind(key(1), Some(ann()))).unwrap();
    }),
    ("rotate", |store| {
        now(store.rotate(key(1))).unwrap();
    }),
    ("sign_in", |store| {
        now(store.sign_in(key(1), ann().into())).unwrap();
    }),
];

const REVOCATIONS: [Named; 2] = [
    ("revoke", |store| now(store.revoke(Whose::Owner(ann()), None)).unwrap()),
    ("revoke all", |store| now(store.revoke(Whose::Everybody, None)).unwrap()),
];

#[test]
fn session_that_is_ended_at_any_reading_of_the_clock_within_an_operation_is_gone_behind_it() {
    for (operation, operate) in OPERATIONS {
        for (end, beside) in REVOCATIONS {
            at_every_reading(
                |store| now(store.create_owned_as(key(1), "x".into(), DAY, ann().into())).unwrap(),
                operate,
                beside,
                |store, reading| {
                    assert!(!there(store, 1) && count(store) == 0, "{operation}, {end} at reading {reading}");
                },
            );
        }
    }
}

/// Says that it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn revocation_that_waits_for_others_to_be_carried_out_is_woken_when_they_are() {
    let (options, _) = options();
    let options = Options { segment_bytes: 64 << 20, unwritten_bytes_max: 16 << 20, ..options };
    let store = open(&SimDisk::new(1), &options).at(Durability::Buffered);
    for n in 0..1_u32 << 16 {
        now(store.revoke(Whose::Owner(OwnerKey::of(&n.to_le_bytes())), None)).unwrap();
    }
    let mut waits = pin!(store.revoke(Whose::Owner(ann()), None));
    let woken = Arc::new(Woken::default());
    let waker = Arc::clone(&woken).into();
    assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    store.work(Work::Keep);
    assert!(woken.0.load(Ordering::SeqCst), "it sleeps for ever");
    now(waits).unwrap();
}

#[test]
fn session_that_becomes_anothers_at_any_reading_of_the_clock_within_a_sign_in_does_not_give_way() {
    let two = || Binding::to(ann()).at_most(2, AtCap::EvictOldest);
    at_every_reading(
        |store| {
            for n in 1..4 {
                now(store.create_owned_as(key(n), "x".into(), DAY, ann().into())).unwrap();
            }
        },
        |store| now(store.create_owned_as(key(4), "x".into(), DAY, two())).unwrap(),
        |store| {
            // Session 9 tells that it did.
            if now(store.bind(key(2), Some(bob()))).unwrap() {
                now(store.create_as(key(9), "x".into(), DAY)).unwrap();
            }
        },
        |store, reading| {
            assert_eq!(there(store, 2), there(store, 9), "at reading {reading}");
            assert!(there(store, 4) && count(store) <= 2);
        },
    );
}

/// Whether it is to be seen of a session.
type Seen = fn(&Stored) -> bool;

const CHANGES: [(Named, Seen); 3] = [
    (("put", |store| assert!(now(store.put(key(1), "late".into())).unwrap().is_some())), |taken| {
        taken.payload == "late"
    }),
    (("bind", |store| assert!(now(store.bind(key(1), Some(bob()))).unwrap())), |taken| {
        taken.owner == Some(bob())
    }),
    (("set_lifetime", |store| assert!(now(store.set_lifetime(key(1), MINUTE)).unwrap())), |taken| {
        taken.idle == Some(Duration::from_secs(60))
    }),
];

#[test]
fn take_that_waits_for_room_gives_what_others_do_meanwhile() {
    for ((name, change), is_seen) in CHANGES {
        let options = Options { segment_bytes: 1 << 20, unwritten_bytes_max: 64 << 10, ..options().0 };
        let store = open(&SimDisk::new(1), &options).at(Durability::Buffered);
        now(store.create_as(key(1), "x".into(), DAY)).unwrap();
        // All the room that there is for what is not written yet, to the last header.
        let is_taken = |n, len| poll(&mut pin!(store.create_as(key(n), vec![1; len].into(), DAY))).is_some();
        for (from, len) in [(100, 2_000), (200, 0)] {
            assert!((from..from + 100).any(|n| !is_taken(n, len)));
        }
        assert!((100..300).any(|n| poll(&mut pin!(store.delete(key(n)))).is_none()));
        let mut waits = pin!(store.take(key(1)));
        assert!(poll(&mut waits).is_none(), "it has read, and waits");
        store.step();
        change(&store);
        let taken = after_steps(&store, waits).unwrap().expect("it was live");
        assert!(is_seen(&taken), "{name}: {taken:?}");
        assert!(!there(&store, 1));
    }
}
