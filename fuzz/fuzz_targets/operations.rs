//! Sequences of operations on a [`LogStore`] over a simulated disk, against a [`MemoryStore`] as the model: each answer must be the same, and so
//! must every session at the end, after closing and opening again, and after power was lost behind a flush.
//!
//! An operation is four bytes: what, which session, how long, how much. Few sessions and short lives, so that sequences meet: the clock is moved
//! by hand, in steps around the deadlines, and so is the background work, so one input runs one way. What a crash leaves of writes that were not
//! flushed is for `crashes`.

#![no_main]

use std::future::Future;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, AtCap, Binding, Durability, Error, Label, Lifetime, LogStore, ManualClock, MemoryStore, Options,
    OwnerKey, SessionId, SessionKey, SessionStore, Stored, Timestamp, When, Whose,
};
use libfuzzer_sys::fuzz_target;

/// Sessions that a sequence is about.
const NAMES: usize = 8;
/// More operations add time, not states.
const OPERATIONS_MAX: usize = 256;
/// Small, so that a sequence fills several, and compaction has work.
const SEGMENT_BYTES: u32 = 64 << 10;
const PAYLOAD_BYTES_MAX: u32 = 8 << 10;

fuzz_target!(|data: &[u8]| {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
    let disk = SimDisk::new(data.len() as u64);
    let name = |n: usize| [SessionKey::of(&[u8::try_from(n).unwrap_or(0)]); 2];
    let mut pair = Pair {
        store: open(&disk, &clock),
        disk,
        model: MemoryStore::with_options(options(&clock)).expect("the options are valid"),
        keys: std::array::from_fn(name),
        clock,
    };
    for operation in data.chunks_exact(4).take(OPERATIONS_MAX) {
        let [what, which, long, much] = [operation[0], operation[1], operation[2], operation[3]];
        apply(&mut pair, what % 20, usize::from(which) % NAMES, long, much);
    }
    compare(&pair);
    pair.close_and_open();
    compare(&pair);
    pair.lose_power_and_open();
    compare(&pair);
    pair.ask(pair.store.close()).expect("the store closes");
});

/// The store and its model, and by which keys each of them knows the sessions: a rotation makes different ones.
struct Pair {
    store: LogStore,
    disk: SimDisk,
    model: MemoryStore,
    keys: [[SessionKey; 2]; NAMES],
    clock: Arc<ManualClock>,
}

impl Pair {
    #[track_caller]
    fn ask<T>(&self, answer: impl Future<Output = T>) -> T {
        cloakroom_fuzz::ask(&self.store, answer)
    }

    fn close_and_open(&mut self) {
        self.ask(self.store.close()).expect("the store closes");
        self.store = open(&self.disk, &self.clock);
    }

    fn lose_power_and_open(&mut self) {
        self.ask(self.store.flush()).expect("the store is flushed");
        self.disk.crash();
        self.store = open(&self.disk, &self.clock);
    }
}

fn options(clock: &Arc<ManualClock>) -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        footers_from: 0,
        payload_bytes_max: PAYLOAD_BYTES_MAX,
        unwritten_bytes_max: 64 << 10,
        durability: Durability::Buffered,
        clock: Arc::<ManualClock>::clone(clock),
        ..Options::default()
    }
}

/// The store gets a handle of its own, which dies with the power.
fn open(disk: &SimDisk, clock: &Arc<ManualClock>) -> LogStore {
    LogStore::open_by_hand(Arc::new(disk.clone()), options(clock)).expect("what was flushed or closed opens")
}

fn apply(pair: &mut Pair, what: u8, which: usize, long: u8, much: u8) {
    let [mine, models] = pair.keys[which];
    let (store, model) = (&pair.store, &pair.model);
    // Up to the longest payload and one byte beyond.
    let payload = Bytes::from(vec![much; usize::from(long) * 33 % (PAYLOAD_BYTES_MAX as usize + 2)]);
    match what {
        0..=2 => {
            let when = if what == 2 { When::Always(lifetime(long)) } else { When::Absent(lifetime(long)) };
            let got = pair.ask(store.write(mine, payload.clone(), when));
            same(got.map(drop), pair.ask(model.write(models, payload, when)).map(drop));
        }
        3 | 4 => {
            let got = pair.ask(store.put(mine, payload.clone())).map(|version| version.is_some());
            same(got, pair.ask(model.put(models, payload)).map(|version| version.is_some()));
        }
        5 => put_if(pair, which, payload, much.is_multiple_of(2)),
        6 | 7 => {
            let access = if what == 6 { Access::Peek } else { Access::Touch };
            let got = pair.ask(store.get(mine, access)).map(|s| s.map(seen));
            same(got, pair.ask(model.get(models, access)).map(|s| s.map(seen)));
        }
        8 => same(pair.ask(store.touch(mine)), pair.ask(model.touch(models))),
        9 => {
            let life = lifetime(long);
            same(pair.ask(store.set_lifetime(mine, life)), pair.ask(model.set_lifetime(models, life)));
        }
        10 => same(pair.ask(store.delete(mine)), pair.ask(model.delete(models))),
        11 => match (moved(pair, store, mine, long, much), moved(pair, model, models, long, much)) {
            (Ok(Some(new)), Ok(Some(models_new))) => {
                assert!(
                    pair.ask(store.get(mine, Access::Peek)).expect("it reads").is_none(),
                    "the old id lives"
                );
                pair.keys[which] = [new.key(), models_new.key()];
            }
            (got, expected) => same(got.map(|id| id.is_some()), expected.map(|id| id.is_some())),
        },
        12 => same(pair.ask(store.flush()), pair.ask(model.flush())),
        13 => store.step(),
        14 => pair.close_and_open(),
        15 => pair.lose_power_and_open(),
        17 => {
            let binding = owner(long).map(|owner| binding(owner, much));
            same(pair.ask(store.bind_as(mine, binding.clone())), pair.ask(model.bind_as(models, binding)));
        }
        16 => {
            let (lifetime, binding) =
                (lifetime(much), binding(owner(long).unwrap_or(OwnerKey::of(b"0")), long));
            let got = pair.ask(store.create_owned_as(mine, payload.clone(), lifetime, binding.clone()));
            same(got, pair.ask(model.create_owned_as(models, payload, lifetime, binding)));
        }
        18 => {
            let whose = owner(long).map_or(Whose::Everybody, Whose::Owner);
            let [mine, models] = [mine, models].map(|key| much.is_multiple_of(2).then_some(key));
            same(pair.ask(store.revoke(whose, mine)), pair.ask(model.revoke(whose, models)));
        }
        _ => pair.clock.advance(Duration::from_millis(u64::from(long) * u64::from(much) / 4)),
    }
}

/// Rotates a session, or signs it in.
fn moved(
    pair: &Pair,
    store: &dyn SessionStore,
    key: SessionKey,
    long: u8,
    much: u8,
) -> Result<Option<SessionId>, Error> {
    pair.ask(match owner(long) {
        Some(owner) if much.is_multiple_of(2) => store.sign_in(key, binding(owner, much)),
        _ => store.rotate(key),
    })
}

/// Compare-and-swap with the version of now, or with the one before the last write.
fn put_if(pair: &Pair, which: usize, payload: Bytes, stale: bool) {
    let [mine, models] = pair.keys[which];
    let (store, model) = (&pair.store, &pair.model);
    let read = (pair.ask(store.get(mine, Access::Peek)), pair.ask(model.get(models, Access::Peek)));
    let (Ok(Some(read)), Ok(Some(models_read))) = read else { return };
    if stale {
        let got = pair.ask(store.put(mine, payload.clone())).map(|v| v.is_some());
        same(got, pair.ask(model.put(models, payload.clone())).map(|v| v.is_some()));
    }
    let got = pair.ask(store.put_if(mine, payload.clone(), read.version)).map(|v| v.is_some());
    same(got, pair.ask(model.put_if(models, payload, models_read.version)).map(|v| v.is_some()));
}

/// One of two owners, or none.
fn owner(long: u8) -> Option<OwnerKey> {
    (!long.is_multiple_of(3)).then(|| OwnerKey::of(&[long % 3]))
}

/// With labels and caps of all kinds.
fn binding(owner: OwnerKey, much: u8) -> Binding {
    let binding = match much % 3 {
        0 => Binding::to(owner),
        1 => Binding::to(owner).labelled(Label::default()),
        _ => Binding::to(owner).labelled(Label::cut(&"x".repeat(usize::from(much)))),
    };
    let max = u32::from(much % 4);
    match much % 5 {
        0 | 1 => binding,
        2 => binding.at_most(max, AtCap::RejectNew),
        3 => binding.at_most(max, AtCap::EvictOldest),
        _ => binding.at_most(max, AtCap::EvictIdle),
    }
}

/// Lifetimes of all kinds, from nothing (which is refused) to half a minute.
fn lifetime(long: u8) -> Lifetime {
    let s = |parts: u8| Duration::from_millis(u64::from(parts) * 500);
    match long % 4 {
        0 => Lifetime::idle(s(long / 4)),
        1 => Lifetime::absolute(s(long / 4)),
        2 => Lifetime::idle(s(long / 8)).and_absolute(s(long / 4)),
        _ => Lifetime::idle(s(long / 4)).exact(),
    }
}

/// What both must agree on: length and hash of the payload, which keep a message short, then the instants. Versions are each store's own, and of the
/// creation a log keeps the second.
type Seen = (usize, u64, u64, Timestamp, Option<Timestamp>, Option<Duration>, Option<(OwnerKey, String)>);

fn seen(stored: Stored) -> Seen {
    let mut hasher = DefaultHasher::new();
    hasher.write(&stored.payload);
    let created_s = stored.created_at.as_millis() / 1_000;
    let (len, hash) = (stored.payload.len(), hasher.finish());
    let owner = stored.owner.map(|owner| (owner, stored.label.to_string()));
    (len, hash, created_s, stored.expires_at, stored.absolute_at, stored.idle, owner)
}

#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(got: Result<T, Error>, expected: Result<T, Error>) {
    match (got, expected) {
        (Ok(got), Ok(expected)) => assert_eq!(got, expected),
        (Err(got), Err(expected)) => {
            let kinds = (std::mem::discriminant(&got), std::mem::discriminant(&expected));
            assert!(kinds.0 == kinds.1, "{got} where the model says: {expected}");
        }
        (got, expected) => panic!("{got:?} where the model says {expected:?}"),
    }
}

fn compare(pair: &Pair) {
    let mut live = 0;
    for [mine, models] in pair.keys {
        let got = pair.ask(pair.store.get(mine, Access::Peek)).expect("it reads").map(seen);
        let expected = pair.ask(pair.model.get(models, Access::Peek)).expect("it reads").map(seen);
        live += usize::from(expected.is_some());
        assert_eq!(got, expected);
    }
    let (mut listed, mut cursor) = (Vec::new(), None);
    loop {
        let page = pair.ask(pair.store.keys(cursor, 3)).expect("it reads");
        listed.extend(page.keys);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    listed.sort();
    listed.dedup();
    for owner in (0..3).map(|n| owner(n).unwrap_or(OwnerKey::of(b"0"))) {
        let count = pair.ask(pair.store.owned_count(owner)).expect("it reads");
        assert_eq!(count, pair.ask(pair.model.owned_count(owner)).expect("it reads"));
        let page = pair.ask(pair.store.owned(owner, None, 1_000)).expect("it reads");
        assert_eq!(page.sessions.len(), count, "the list and the count of an owner differ");
    }
    assert_eq!(listed.len(), live, "a walk met sessions that are not there, or missed some");
}
