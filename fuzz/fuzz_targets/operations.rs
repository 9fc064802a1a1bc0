//! Sequences of operations on a [`LogStore`], against a [`MemoryStore`] as the model: each answer must be the same, and so must every
//! session at the end, and after closing and opening again.
//!
//! An operation is four bytes: what, which session, how long, how much. Few sessions and short lives, so that sequences meet: the clock is moved
//! by hand, in steps around the deadlines. Ends are clean here; what a crash leaves is for the simulation.

#![no_main]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{
    Access, Error, Lifetime, LogStore, ManualClock, MemoryStore, Options, SessionKey, SessionStore, Stored,
    Timestamp, When,
};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Builder;

/// Sessions that a sequence is about.
const NAMES: usize = 8;
/// More operations add time, not states.
const OPERATIONS_MAX: usize = 256;
/// Small, so that a sequence fills several, and compaction has work.
const SEGMENT_BYTES: u32 = 64 << 10;
const PAYLOAD_BYTES_MAX: u32 = 8 << 10;

fuzz_target!(|data: &[u8]| {
    let runtime = Builder::new_current_thread().build().expect("a runtime starts");
    runtime.block_on(check(data));
});

/// The store and its model, and by which keys each of them knows the sessions: a rotation makes different ones.
struct Pair {
    store: LogStore,
    model: MemoryStore,
    keys: [[SessionKey; 2]; NAMES],
    clock: Arc<ManualClock>,
}

async fn check(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
    let name = |n: usize| [SessionKey::of(&[u8::try_from(n).unwrap_or(0)]); 2];
    let mut pair = Pair {
        store: open(folder.path(), &clock).await,
        model: MemoryStore::with_options(options(&clock)).expect("the options are valid"),
        keys: std::array::from_fn(name),
        clock,
    };
    for operation in data.chunks_exact(4).take(OPERATIONS_MAX) {
        let [what, which, long, much] = [operation[0], operation[1], operation[2], operation[3]];
        if what % 16 == 15 {
            reopen(&mut pair, folder.path()).await;
        } else {
            apply(&mut pair, what % 16, usize::from(which) % NAMES, long, much).await;
        }
    }
    compare(&pair).await;
    reopen(&mut pair, folder.path()).await;
    compare(&pair).await;
    pair.store.close().await.expect("the store closes");
}

fn options(clock: &Arc<ManualClock>) -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        payload_bytes_max: PAYLOAD_BYTES_MAX,
        unwritten_bytes_max: 64 << 10,
        clock: Arc::<ManualClock>::clone(clock),
        ..Options::default()
    }
}

async fn open(folder: &Path, clock: &Arc<ManualClock>) -> LogStore {
    LogStore::open(folder, options(clock)).await.expect("a store that was closed opens")
}

async fn reopen(pair: &mut Pair, folder: &Path) {
    pair.store.close().await.expect("the store closes");
    pair.store = open(folder, &pair.clock).await;
}

async fn apply(pair: &mut Pair, what: u8, which: usize, long: u8, much: u8) {
    let [mine, models] = pair.keys[which];
    let (store, model) = (&pair.store, &pair.model);
    // Up to the longest payload and one byte beyond.
    let payload = Bytes::from(vec![much; usize::from(long) * 33 % (PAYLOAD_BYTES_MAX as usize + 2)]);
    match what {
        0..=2 => {
            let when = if what == 2 { When::Always(lifetime(long)) } else { When::Absent(lifetime(long)) };
            let got = store.write(mine, payload.clone(), when).await;
            same(got.map(drop), model.write(models, payload, when).await.map(drop));
        }
        3 | 4 => {
            let got = store.put(mine, payload.clone()).await.map(|version| version.is_some());
            same(got, model.put(models, payload).await.map(|version| version.is_some()));
        }
        5 => put_if(pair, which, payload, much % 2 == 0).await,
        6 | 7 => {
            let access = if what == 6 { Access::Peek } else { Access::Touch };
            let got = store.get(mine, access).await.map(|s| s.map(seen));
            same(got, model.get(models, access).await.map(|s| s.map(seen)));
        }
        8 => same(store.touch(mine).await, model.touch(models).await),
        9 => {
            let life = lifetime(long);
            same(store.set_lifetime(mine, life).await, model.set_lifetime(models, life).await);
        }
        10 => same(store.delete(mine).await, model.delete(models).await),
        11 => match (store.rotate(mine).await, model.rotate(models).await) {
            (Ok(Some(new)), Ok(Some(models_new))) => {
                assert!(store.get(mine, Access::Peek).await.expect("it reads").is_none(), "the old id lives");
                pair.keys[which] = [new.key(), models_new.key()];
            }
            (got, expected) => same(got.map(|id| id.is_some()), expected.map(|id| id.is_some())),
        },
        12 => same(store.flush().await, model.flush().await),
        _ => pair.clock.advance(Duration::from_millis(u64::from(long) * u64::from(much) / 4)),
    }
}

/// Compare-and-swap with the version of now, or with the one before the last write.
async fn put_if(pair: &Pair, which: usize, payload: Bytes, stale: bool) {
    let [mine, models] = pair.keys[which];
    let (store, model) = (&pair.store, &pair.model);
    let read = (store.get(mine, Access::Peek).await, model.get(models, Access::Peek).await);
    let (Ok(Some(read)), Ok(Some(models_read))) = read else { return };
    if stale {
        let got = store.put(mine, payload.clone()).await.map(|v| v.is_some());
        same(got, model.put(models, payload.clone()).await.map(|v| v.is_some()));
    }
    let got = store.put_if(mine, payload.clone(), read.version).await.map(|v| v.is_some());
    same(got, model.put_if(models, payload, models_read.version).await.map(|v| v.is_some()));
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

/// What both must agree on; versions are each store's own.
type Seen = (Bytes, Timestamp, Timestamp, Option<Timestamp>, Option<Duration>);

fn seen(stored: Stored) -> Seen {
    (stored.payload, stored.created_at, stored.expires_at, stored.absolute_at, stored.idle)
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

async fn compare(pair: &Pair) {
    let mut live = 0;
    for [mine, models] in pair.keys {
        let got = pair.store.get(mine, Access::Peek).await.expect("it reads").map(seen);
        let expected = pair.model.get(models, Access::Peek).await.expect("it reads").map(seen);
        live += usize::from(expected.is_some());
        assert_eq!(got, expected);
    }
    let (mut listed, mut cursor) = (Vec::new(), None);
    loop {
        let page = pair.store.keys(cursor, 3).await.expect("it reads");
        listed.extend(page.keys);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    listed.sort();
    listed.dedup();
    assert_eq!(listed.len(), live, "a walk met sessions that are not there, or missed some");
}
