//! Every operation's future, dropped after every number of polls: nothing is broken or leaked, and what it did is all or nothing.
//!
//! Goal: to refute what the docs say of dropped futures. Method: a store without threads, so that the n-th poll is the same moment in every run;
//! and one with threads, where many thousands are dropped while a few thousand bytes of room would be leaked in no time.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, Answer, AtCap, Binding, Durability, Error, Lifetime, LogStore, OpenError, Options, OwnerKey,
    Pending, Saved, Session, SessionId, SessionKey, SessionStore, Version, When, Whose,
};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::stores::defaults;
use crate::support::acked::in_time;
use crate::support::life::drive as run;
use crate::support::{Replay, budget, seeds};

const HOUR: Lifetime = Lifetime::idle(Duration::from_secs(3_600));
/// Every touch of it is logged.
const EXACT: Lifetime = Lifetime::idle(Duration::from_secs(3_600)).exact();

/// More than any operation takes.
const POLLS_MAX: usize = 8;

/// Room for a few of the longest records, so that a leak of some is the end of all writing.
fn options() -> Options {
    Options { segment_bytes: 64 << 10, payload_bytes_max: 4_096, unwritten_bytes_max: 64 << 10, ..defaults() }
}

fn key() -> SessionKey {
    SessionKey::of(b"it")
}

/// Polls so often, and drops what is not ready then.
async fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// The operations that are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Create,
    Put,
    PutIf,
    Upsert,
    GetTouch,
    GetPeek,
    Touch,
    SetLifetime,
    Delete,
    Take,
    Rotate,
    Keys,
    Update,
    Flush,
    Save,
    Load,
    Bind,
    CreateOwned,
    SignIn,
    Revoke,
    Owned,
}

const OPS: [Op; 21] = [
    Op::Create,
    Op::Put,
    Op::PutIf,
    Op::Upsert,
    Op::GetTouch,
    Op::GetPeek,
    Op::Touch,
    Op::SetLifetime,
    Op::Delete,
    Op::Take,
    Op::Rotate,
    Op::Keys,
    Op::Update,
    Op::Flush,
    Op::Save,
    Op::Load,
    Op::Bind,
    Op::CreateOwned,
    Op::SignIn,
    Op::Revoke,
    Op::Owned,
];

/// One session at a time, and the newest stays.
fn alone() -> Binding {
    Binding::to(ann()).at_most(1, AtCap::EvictOldest)
}

fn ann() -> OwnerKey {
    OwnerKey::of(b"ann")
}

/// Does it; who looks at what it gives is elsewhere.
async fn perform(op: Op, store: &LogStore, version: Version, id: &SessionId) -> Result<(), Error> {
    let new = || Bytes::from(vec![2; 4_096]);
    match op {
        Op::Create => store.create(new(), HOUR).await.map(drop),
        Op::Put => store.put(key(), new()).await.map(drop),
        Op::PutIf => store.put_if(key(), new(), version).await.map(drop),
        Op::Upsert => store.upsert(key(), new(), EXACT).await,
        Op::GetTouch => store.get(key(), Access::Touch).await.map(drop),
        Op::GetPeek => store.get(key(), Access::Peek).await.map(drop),
        Op::Touch => store.touch(key()).await.map(drop),
        Op::SetLifetime => store.set_lifetime(key(), HOUR).await.map(drop),
        Op::Delete => store.delete(key()).await.map(drop),
        Op::Take => store.take(key()).await.map(drop),
        Op::Rotate => store.rotate(key()).await.map(drop),
        Op::Keys => store.keys(None, 10).await.map(drop),
        Op::Update => store.update(key(), &mut |_| Some(new())).await.map(drop),
        Op::Flush => store.flush().await,
        Op::Bind => store.bind(key(), Some(ann())).await.map(drop),
        Op::CreateOwned => store.create_owned(new(), HOUR, alone()).await.map(drop),
        Op::SignIn => store.sign_in(key(), alone()).await.map(drop),
        Op::Revoke => store.revoke(Whose::Owner(ann()), None).await,
        Op::Owned => store.owned(ann(), None, 10).await.map(drop),
        Op::Load => Session::load(store, id).await.map(drop).map_err(|e| panic!("{e}")),
        Op::Save => {
            let mut session = Session::load(store, id).await.unwrap().unwrap();
            session.insert("cart", &"hat").unwrap();
            session.save(store).await.map(drop).map_err(|e| panic!("{e}"))
        }
    }
}

/// The sessions there are, by their payload's first byte and whether they are somebody's, and the one that was saved as a dictionary.
type Seen = (Vec<(u8, bool)>, Option<String>);

fn look(store: &LogStore, id: &SessionId) -> Seen {
    let keys = run(store, store.keys(None, 100)).unwrap().unwrap().keys;
    let read = |key: SessionKey| run(store, store.get(key, Access::Peek)).unwrap().unwrap();
    let others = keys.into_iter().filter(|key| *key != id.key());
    let mut seen: Vec<_> = others
        .filter_map(read)
        .map(|stored| {
            assert!(stored.payload.iter().all(|b| *b == stored.payload[0]), "half done");
            (stored.payload[0], stored.owner.is_some())
        })
        .collect();
    seen.sort_unstable();
    let session = run(store, Session::load(store, id)).unwrap().unwrap().unwrap();
    (seen, session.get("cart").unwrap())
}

/// What may be there afterwards: all of it or nothing; who gives way to a new session may be gone before that is there.
fn allowed(op: Op) -> Vec<Seen> {
    let (mine, hers, new) = ((1, false), (3, true), (2, false));
    let seen = |sessions: &[(u8, bool)]| (sessions.to_vec(), None);
    let before = seen(&[mine, hers]);
    let after = match op {
        Op::Create => vec![seen(&[mine, new, hers])],
        Op::Put | Op::PutIf | Op::Upsert | Op::Update => vec![seen(&[new, hers])],
        Op::Delete | Op::Take => vec![seen(&[hers])],
        Op::Save => vec![(vec![mine, hers], Some("hat".into()))],
        Op::Bind => vec![seen(&[(1, true), hers])],
        Op::CreateOwned => vec![seen(&[mine]), seen(&[mine, (2, true)])],
        Op::SignIn => vec![seen(&[mine]), seen(&[(1, true)])],
        Op::Revoke => vec![seen(&[mine])],
        Op::Rotate
        | Op::GetTouch
        | Op::GetPeek
        | Op::Touch
        | Op::SetLifetime
        | Op::Keys
        | Op::Flush
        | Op::Load
        | Op::Owned => vec![],
    };
    [vec![before], after].concat()
}

#[test]
fn operation_dropped_at_any_poll_is_done_or_undone_as_a_whole() {
    let mut done = 0;
    for (op, polls) in OPS.into_iter().flat_map(|op| (0..POLLS_MAX).map(move |polls| (op, polls))) {
        for durability in [Durability::Sync, Durability::Interval(Durability::INTERVAL_DEFAULT)] {
            let disk = SimDisk::new(1);
            let store = LogStore::open_by_hand(Arc::new(disk.clone()), options()).unwrap().at(durability);
            run(&store, store.upsert(key(), vec![1; 3_000].into(), EXACT)).unwrap().unwrap();
            run(&store, store.create_owned(vec![3; 3_000].into(), HOUR, alone())).unwrap().unwrap();
            let mut session = Session::new(HOUR);
            session.insert("name", &1).unwrap();
            run(&store, session.save(&store)).unwrap().unwrap();
            let id = session.id().unwrap().clone();
            let version = run(&store, store.get(key(), Access::Peek)).unwrap().unwrap().unwrap().version;
            {
                let mut operation = pin!(perform(op, &store, version, &id));
                for _ in 0..polls {
                    if operation.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                        done += 1;
                        break;
                    }
                    store.step();
                }
            }
            let seen = look(&store, &id);
            assert!(allowed(op).contains(&seen), "{op:?} dropped at poll {polls}: {seen:?}");
            // It may still be written; then it stays as it is.
            (0..5).for_each(|_| store.step());
            assert_eq!(look(&store, &id), seen, "{op:?} dropped at poll {polls}");
            if polls % 2 == 0 {
                disk.crash();
            } else {
                run(&store, store.close()).unwrap().unwrap();
            }
            drop(store);
            let store = LogStore::open_by_hand(Arc::new(disk), options()).unwrap();
            assert_eq!(look(&store, &id), seen, "{op:?} dropped at poll {polls}, opened again");
        }
    }
    assert!(done > OPS.len(), "nothing was ever polled to its end");
}

/// Who finds their change made already, by a request that was cut off, has it when that is answered.
#[test]
fn save_of_what_another_has_only_staged_is_not_acknowledged_before_that_is_synced() {
    let disk = SimDisk::new(1);
    let store = LogStore::open_by_hand(Arc::new(disk.clone()), options()).unwrap().at(Durability::Sync);
    let mut created = Session::new(HOUR);
    created.insert("n", &1).unwrap();
    run(&store, created.save(&store)).unwrap().unwrap();
    let id = created.id().unwrap();
    let [mut one, mut other] =
        [1, 2].map(|_| run(&store, Session::load(&store, id)).unwrap().unwrap().unwrap());
    for session in [&mut one, &mut other] {
        session.insert("n", &2).unwrap();
    }
    assert!(run(&store, polled(1, one.save(&store))).unwrap().is_none(), "it is staged, and no more");
    assert_eq!(run(&store, other.save(&store)).unwrap().unwrap(), Saved::Unchanged);
    disk.crash();
    drop(store);
    let store = LogStore::open_by_hand(Arc::new(disk), options()).unwrap();
    let found = run(&store, Session::load(&store, id)).unwrap().unwrap().unwrap();
    assert_eq!(found.get::<u32>("n").unwrap(), Some(2));
}

/// Who signs out a second time, since the first request was cut off, is signed out when that is answered.
#[test]
fn delete_of_what_an_unsynced_write_has_ended_is_not_acknowledged_before_that_is_synced() {
    type End = for<'a> fn(&'a LogStore) -> Answer<'a, ()>;
    type Again = fn(&LogStore) -> bool;
    let ends: [(&str, End); 4] = [
        ("take", |store| Pending::new(async { store.take(key()).await.map(|_| ()) })),
        ("delete", |store| Pending::new(async { store.delete(key()).await.map(|_| ()) })),
        ("rotate", |store| Pending::new(async { store.rotate(key()).await.map(|_| ()) })),
        ("revoke", |store| store.revoke(Whose::Everybody, None)),
    ];
    let again: [(&str, Again); 2] = [
        ("delete", |store| run(store, store.delete(key())).unwrap().unwrap()),
        ("take", |store| run(store, store.take(key())).unwrap().unwrap().is_some()),
    ];
    for ((name, end), (second, again)) in ends.into_iter().flat_map(|end| again.map(|again| (end, again))) {
        let name = format!("{name}, then {second}");
        let disk = SimDisk::new(1);
        let store = LogStore::open_by_hand(Arc::new(disk.clone()), options()).unwrap();
        let ann = Binding::to(OwnerKey::of(b"ann"));
        let created = store.create_owned_as(key(), "hat".into(), HOUR, ann);
        run(&store, created).unwrap().unwrap();
        run(&store, store.flush()).unwrap().unwrap();
        {
            let mut ended = pin!(end(&store));
            let polled = ended.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending(), "{name}: it is staged, and no more");
        }
        // It waits for the disk, or the disk has what it tells of.
        assert!(!again(&store), "{name}: it was not live");
        disk.crash();
        drop(store);
        let store = LogStore::open_by_hand(Arc::new(disk), options()).unwrap();
        let found = run(&store, store.get(key(), Access::Peek)).unwrap().unwrap();
        assert!(found.is_none(), "{name}: who was signed out came back");
    }
}

/// Dropped futures give back the room they waited for or used: thousands leave as much as there was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_dropped_operations_leak_no_room() {
    for seed in seeds(1..3) {
        let _replay = Replay("dropped operations".into(), seed);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let store = in_time("open", LogStore::open(folder.path(), options())).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..4 {
            let (store, seed) = (store.clone(), rng.random::<u64>() ^ task);
            tasks.spawn(async move { drop_many(&store, seed, 500 * budget(1).min(100)).await });
        }
        in_time("the tasks", tasks.join_all()).await;
        // As many of the longest as there is room for, at once: each waits for room until another is written.
        let longest = |n: u32| {
            let key = SessionKey::of(&n.to_le_bytes());
            store.write(key, vec![3; 4_096].into(), When::Always(HOUR))
        };
        for n in 0..40 {
            assert!(in_time("a write of full size", longest(n)).await.unwrap().is_some());
        }
        in_time("close", store.close()).await.unwrap();
        let store = in_time("open", LogStore::open(folder.path(), options())).await.unwrap();
        assert!(store.len() >= 40);
        in_time("close", store.close()).await.unwrap();
    }
}

async fn drop_many(store: &LogStore, seed: u64, many: u64) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    store.upsert(key(), vec![1; 3_000].into(), EXACT).await.unwrap();
    let mut session = Session::new(HOUR);
    session.insert("name", &1).unwrap();
    session.save(store).await.unwrap();
    let id = session.id().unwrap().clone();
    let version = store.get(id.key(), Access::Peek).await.unwrap().unwrap().version;
    for _ in 0..many {
        let op = OPS[rng.random_range(0..OPS.len())];
        let durability = [Durability::Sync, Durability::Interval(Durability::INTERVAL_DEFAULT)];
        let store = store.at(durability[rng.random_range(0..2)]);
        let performed = polled(rng.random_range(0..4), perform(op, &store, version, &id)).await;
        match performed {
            None | Some(Ok(()) | Err(Error::Conflict { .. })) => {}
            Some(Err(other)) => panic!("{op:?}: {other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_that_is_dropped_closes_all_the_same() {
    for polls in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let store = in_time("open", LogStore::open(folder.path(), options())).await.unwrap();
        store.upsert(key(), vec![1; 3_000].into(), HOUR).await.unwrap();
        let _ = polled(polls, store.close()).await;
        assert!(matches!(store.put(key(), "x".into()).await, Err(Error::Closed)));
        in_time("close", store.close()).await.unwrap();
        let again = in_time("open", LogStore::open(folder.path(), options())).await.unwrap();
        assert!(again.get(key(), Access::Peek).await.unwrap().is_some());
        in_time("close", again.close()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_that_is_dropped_frees_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let _ = polled(round % 3, LogStore::open(folder.path(), options())).await;
        let patience = Duration::from_secs(30);
        let store = in_time("open", LogStore::open_wait(folder.path(), options(), patience)).await.unwrap();
        store.upsert(key(), vec![1; 3_000].into(), HOUR).await.unwrap();
        in_time("close", store.close()).await.unwrap();
    }
}

/// Whoever gave up waiting for a folder takes it from nobody, however long its patience was to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_wait_that_is_dropped_never_takes_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let holder = in_time("open", LogStore::open(folder.path(), options())).await.unwrap();
    for _ in 0..4 {
        let patience = Duration::from_secs(3_600);
        assert!(polled(1, LogStore::open_wait(folder.path(), options(), patience)).await.is_none());
    }
    // Longer than they take between two looks.
    let _ = polled(1, std::future::pending::<()>()).await;
    let mut store = holder;
    for round in 0..60 {
        in_time("close", store.close()).await.unwrap();
        drop(store);
        store = match in_time("open", LogStore::open(folder.path(), options())).await {
            Ok(store) => store,
            // One that was dropped just now may be looking at this moment, once.
            Err(OpenError::Locked { .. }) if round < 2 => {
                let patience = Duration::from_secs(30);
                in_time("open", LogStore::open_wait(folder.path(), options(), patience)).await.unwrap()
            }
            Err(other) => panic!("round {round}: {other}"),
        };
    }
    in_time("close", store.close()).await.unwrap();
}
