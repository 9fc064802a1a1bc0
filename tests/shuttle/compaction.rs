//! Compaction, which publishes by address, against everything that moves a session meanwhile. The store is driven by hand, so that one thread does
//! all the work behind the operations, compaction among it, and the others are the operations.
//!
//! Property: a session that one thread moves is, whenever that thread looks, what its last operation made it, to the byte and to the millisecond; for
//! who looks on, its versions never go back, and it does not come back from its end. The same holds after more compaction, and after a power cut.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::scheduler::RoundRobinScheduler;
use shuttle::thread;

use super::{HOUR, after_power_loss, below, explore, hour, key, linger};
use crate::clock::{Clock as _, ManualClock};
use crate::disk::sim::SimDisk;
use crate::sync::scheduled::timers;
use crate::{
    Access, Durability, Lifetime, LogStore, Options, SessionKey, SessionStore as _, Stored, Timestamp,
};

pub(super) const PUT: u32 = 1;
pub(super) const TOUCHED: u32 = 2;
pub(super) const LIFETIME: u32 = 3;
const DELETED: u32 = 4;
const ROTATED: u32 = 5;
const ENDED_BEFORE: u32 = 6;
/// No session: says that one was saved.
const SAVED: u32 = 7;

/// As many of these make the stream go on in another segment.
const FILLER_BYTES: usize = 8 << 10;
const FILLERS: u32 = 6;

/// The files of a store that was closed: a segment that is nearly all dead has what lives of the sessions above, one that lives has older versions.
static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();

/// What a session is: payload's first byte and deadline.
type State = Option<(u8, Timestamp)>;
type Ends = Vec<(SessionKey, State)>;

fn state(stored: Option<&Stored>) -> State {
    stored.map(|stored| (stored.payload[0], stored.expires_at))
}

fn look(store: &LogStore, key: SessionKey) -> State {
    state(block_on(store.get(key, Access::Peek)).unwrap().as_ref())
}

/// Puts without waiting: the work is done by the caller, later.
fn put(store: &LogStore, n: u32, byte: u8, len: usize) {
    block_on(store.at(Durability::Buffered).upsert(key(n), vec![byte; len].into(), hour())).unwrap();
}

/// Makes the files once, before any model runs.
pub(super) fn prepare() {
    super::run(RoundRobinScheduler::new(1), || {
        let (disk, options) = (SimDisk::new(1), options().0);
        let store = LogStore::open_by_hand(Arc::new(disk.clone()), options).unwrap();
        let later = store.at(Durability::Buffered);
        store.step();
        for n in [TOUCHED, ENDED_BEFORE] {
            put(&store, n, 1, 100);
        }
        for n in 0..FILLERS - 1 {
            put(&store, 100 + n, 1, FILLER_BYTES);
            store.step();
        }
        // The next segment, of which little will live.
        for n in 0..FILLERS - 1 {
            put(&store, 200 + n, 1, FILLER_BYTES);
            store.step();
        }
        for n in [PUT, LIFETIME, DELETED, ROTATED] {
            put(&store, n, 1, 100);
        }
        block_on(later.set_lifetime(key(TOUCHED), Lifetime::idle(HOUR / 2))).unwrap();
        block_on(later.delete(key(ENDED_BEFORE))).unwrap();
        for n in 0..FILLERS - 1 {
            put(&store, 200 + n, 2, 100);
        }
        store.step();
        block_on(store.close()).unwrap();
        let files = disk.names().into_iter().map(|name| (disk.contents(&name).unwrap(), name));
        let _ = FILES.set(files.map(|(bytes, name)| (name, bytes)).collect());
    });
}

/// As [`super::options`], with room for what a life stages while one step of the work goes on.
fn options() -> (Options, Arc<ManualClock>) {
    let (mut options, clock) = super::options();
    options.unwritten_bytes_max = 1 << 20;
    (options, clock)
}

/// A disk with those files.
pub(super) fn disk() -> SimDisk {
    let disk = SimDisk::new(below(1 << 32));
    for (name, bytes) in FILES.get().expect("prepared") {
        disk.set_contents(name, bytes);
    }
    disk
}

fn start(options: &Options) -> (SimDisk, LogStore) {
    timers(0);
    let disk = disk();
    let store = LogStore::open_by_hand(Arc::new(disk.clone()), options.clone()).unwrap();
    (disk, store)
}

/// Writes its session anew, and again.
fn putter(store: &LogStore) -> Ends {
    let key = key(PUT);
    let before = look(store, key).unwrap();
    for byte in [2, 3] {
        block_on(store.put(key, vec![byte; 100].into())).unwrap().unwrap();
        assert_eq!(look(store, key), Some((byte, before.1)));
        linger(20);
    }
    vec![(key, look(store, key))]
}

/// Shortens a session and gives it its old deadline again, the stream going on to the next segment in between or not.
fn swinger(store: &LogStore, n: u32) -> Ends {
    let key = key(n);
    let before = look(store, key).unwrap();
    let lifetime = if n == TOUCHED { HOUR / 2 } else { HOUR };
    let later = store.at(Durability::Buffered);
    assert!(block_on(later.set_lifetime(key, Lifetime::idle(HOUR / 4))).unwrap());
    let shorter = look(store, key).unwrap();
    assert!(shorter.1 < before.1);
    let mut ends = Ends::new();
    if below(2) == 0 {
        for filler in 0..=FILLERS {
            put(store, n * 1_000 + filler, 1, FILLER_BYTES);
            ends.push((super::key(n * 1_000 + filler), look(store, super::key(n * 1_000 + filler))));
        }
    }
    linger(20);
    if below(4) > 0 {
        assert!(block_on(later.set_lifetime(key, Lifetime::idle(lifetime))).unwrap());
        assert_eq!(look(store, key), Some(before));
        ends.push((key, Some(before)));
    } else {
        ends.push((key, Some(shorter)));
    }
    ends
}

/// Ends a session, and begins another of the same key or not.
fn deleter(store: &LogStore) -> Ends {
    let key = key(DELETED);
    assert!(block_on(store.at(Durability::Buffered).delete(key)).unwrap());
    assert_eq!(look(store, key), None);
    linger(20);
    if below(2) == 0 {
        put(store, DELETED, 9, 50);
    }
    vec![(key, look(store, key)), (super::key(ENDED_BEFORE), None)]
}

/// Moves a session to one fresh key after another.
fn rotator(store: &LogStore) -> Ends {
    let (mut at, mut ends) = (key(ROTATED), Ends::new());
    let before = look(store, at);
    for _ in 0..2 {
        let id = block_on(store.at(Durability::Buffered).rotate(at)).unwrap().expect("it lives");
        assert_eq!((look(store, at), look(store, id.key())), (None, before));
        ends.push((at, None));
        at = id.key();
        linger(20);
    }
    ends.push((at, before));
    ends
}

/// Looks on: versions do not go back, and who has ended stays away, but for the one that is begun anew.
fn looker(store: &LogStore) -> Ends {
    let mut seen: BTreeMap<u32, Option<crate::Version>> = BTreeMap::new();
    for _ in 0..3 {
        for n in [PUT, TOUCHED, LIFETIME, DELETED, ROTATED, ENDED_BEFORE] {
            let found = block_on(store.get(key(n), Access::Peek)).unwrap().map(|stored| stored.version);
            match seen.insert(n, found) {
                Some(None) if n != DELETED => assert_eq!(found, None, "session {n} came back"),
                Some(Some(before)) => assert!(found.is_none_or(|now| now >= before), "session {n} is older"),
                _ => {}
            }
            assert!(found.is_some() || [DELETED, ROTATED, ENDED_BEFORE].contains(&n), "session {n} is lost");
        }
        linger(10);
    }
    Ends::new()
}

fn check(store: &LogStore, ends: &Ends, when: &str) {
    for (key, end) in ends {
        assert_eq!(look(store, *key), *end, "{key:?} {when}");
    }
}

/// Fills segments with what is dead at once, so that all before it is compacted, and the log is cut short.
fn churn(store: &LogStore) {
    store.step();
    for _ in 0..2 * FILLERS {
        put(store, 999, 1, FILLER_BYTES);
        store.step();
    }
}

type Life = fn(&LogStore) -> Ends;

/// Runs some lives beside the work, until all have ended.
fn beside_compaction(store: &LogStore, lives: &[Life]) -> Ends {
    let left = Arc::new(AtomicU32::new(u32::try_from(lives.len()).unwrap()));
    let spawn = |life: &Life| {
        let (store, left, life) = (store.clone(), Arc::clone(&left), *life);
        thread::spawn(move || {
            linger(120);
            let ends = life(&store);
            left.fetch_sub(1, Ordering::SeqCst);
            ends
        })
    };
    let threads: Vec<_> = lives.iter().map(spawn).collect();
    while left.load(Ordering::SeqCst) > 0 {
        store.step();
        thread::yield_now();
    }
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn session_is_what_its_last_operation_made_it_while_compaction_moves_it() {
    prepare();
    explore(600, || {
        let options = options().0;
        let (disk, store) = start(&options);
        let swing: [Life; 2] = [|store| swinger(store, LIFETIME), |store| swinger(store, TOUCHED)];
        let others: [Life; 3] = [putter, deleter, rotator];
        let picked =
            [swing[usize::try_from(below(2)).unwrap()], others[usize::try_from(below(3)).unwrap()], looker];
        let cut = {
            let (disk, options) = (disk.clone(), options.clone());
            thread::spawn(move || {
                linger(300);
                let reopened = after_power_loss(&disk, &options);
                for n in [PUT, TOUCHED, LIFETIME] {
                    assert!(look(&reopened, key(n)).is_some(), "a power cut took session {n}");
                }
                assert_eq!(look(&reopened, key(ENDED_BEFORE)), None);
            })
        };
        let ends = beside_compaction(&store, &picked);
        cut.join().unwrap();
        assert!(store.stats().compacted_bytes > 0, "nothing was compacted");
        check(&store, &ends, "at once");
        churn(&store);
        check(&store, &ends, "after more compaction");
        let reopened = after_power_loss(&disk, &options);
        check(&reopened, &ends, "after a power cut");
        churn(&reopened);
        check(&reopened, &ends, "after a power cut and more compaction");
    });
}

/// The deadline that compaction copied is replaced and given again meanwhile, in other segments: the last record that says so is needed.
#[test]
fn deadline_that_comes_back_while_its_session_is_copied_is_kept() {
    prepare();
    explore(1_000, || {
        let options = options().0;
        let (disk, store) = start(&options);
        let lives: [Life; 2] = [|store| swinger(store, LIFETIME), |store| swinger(store, TOUCHED)];
        let ends = beside_compaction(&store, &lives[..1 + usize::try_from(below(2)).unwrap()]);
        churn(&store);
        check(&store, &ends, "after more compaction");
        check(&after_power_loss(&disk, &options), &ends, "after a power cut");
    });
}

/// Threads that move one session: whoever is first, it is gone once it was deleted, and only a rotation that came before leaves it under another key.
#[test]
fn deleted_session_stays_gone_whatever_else_moves_it() {
    prepare();
    explore(600, || {
        let options = options().0;
        let (disk, store) = start(&options);
        let delete: Life = |store| {
            block_on(store.at(Durability::Buffered).delete(key(ROTATED))).unwrap();
            vec![(key(ROTATED), None)]
        };
        let rotate: Life = |store| {
            let id = block_on(store.at(Durability::Buffered).rotate(key(ROTATED))).unwrap();
            id.map(|id| (id.key(), look(store, id.key()))).into_iter().collect()
        };
        // Another session of perhaps another shard, moved to yet another: two who move wait for each other only if the order of locks is wrong.
        let rotate_other: Life = |store| {
            let id =
                block_on(store.at(Durability::Buffered).rotate(key(LIFETIME))).unwrap().expect("it lives");
            assert!(look(store, id.key()).is_some());
            Ends::new()
        };
        let save: Life = |store| {
            let saved = block_on(store.put(key(ROTATED), vec![2; 100].into())).unwrap();
            block_on(store.touch(key(ROTATED))).unwrap();
            block_on(store.set_lifetime(key(ROTATED), hour())).unwrap();
            // Saved while it had its old key: before it was moved.
            saved.map(|_| (key(SAVED), None)).into_iter().collect()
        };
        let ends = beside_compaction(&store, &[delete, rotate, rotate_other, save]);
        let saved = ends.iter().any(|(key, _)| *key == super::key(SAVED));
        let moved = ends.iter().find_map(|(_, end)| *end);
        assert!(!saved || moved.is_none_or(|(byte, _)| byte == 2), "what was saved before the move is lost");
        check(&store, &ends, "at once");
        churn(&store);
        check(&store, &ends, "after more compaction");
        check(&after_power_loss(&disk, &options), &ends, "after a power cut");
    });
}

/// Time passes by a minute at a time while sessions of a few minutes are touched, swept and compacted.
#[test]
fn session_lives_as_long_as_its_last_touch_promised_and_not_beyond() {
    const MINUTE: Duration = Duration::from_secs(60);
    const TTL: Duration = Duration::from_secs(10 * 60);
    prepare();
    explore(600, || {
        let (options, clock) = options();
        let (disk, store) = start(&options);
        let ids = [301, 302];
        for n in ids {
            block_on(store.at(Durability::Buffered).upsert(key(n), vec![1; 100].into(), Lifetime::idle(TTL)))
                .unwrap();
        }
        // The store goes by the uptime; a thread may be met between it and the wall.
        let (time, start) = (Arc::clone(&clock), clock.wall());
        let now = move || start.saturating_add(time.uptime());
        let begun = now();
        let time = Arc::clone(&clock);
        let passing = thread::spawn(move || {
            for _ in 0..30 {
                time.advance(MINUTE);
                linger(8);
            }
        });
        let live = |n: u32, begun: Timestamp| {
            let (store, now) = (store.clone(), now.clone());
            move || {
                let mut promised = begun.saturating_add(TTL);
                loop {
                    linger(30);
                    let before = now();
                    let touched = block_on(store.at(Durability::Buffered).touch(key(n))).unwrap();
                    assert!(touched || now() >= promised, "it ended early");
                    if !touched {
                        return (key(n), None);
                    }
                    promised = before.saturating_add(TTL);
                    let latest = now().saturating_add(TTL + TTL / 16);
                    let found = look(&store, key(n));
                    assert!(found.is_some() || now() >= promised, "it ended early");
                    assert!(found.is_none_or(|(_, end)| promised <= end && end <= latest), "{found:?}");
                    if below(3) == 0 {
                        return (key(n), found);
                    }
                }
            }
        };
        let threads = ids.map(|n| thread::spawn(live(n, begun)));
        for _ in 0..3 {
            store.step();
        }
        passing.join().unwrap();
        let ends: Ends = threads.map(|thread| thread.join().unwrap()).into();
        let end_now = |(key, end): &(SessionKey, State)| (*key, end.filter(|(_, end)| now() < *end));
        let ends: Ends = ends.iter().map(end_now).collect();
        store.step();
        check(&store, &ends, "at once");
        churn(&store);
        check(&store, &ends, "after more compaction");
        check(&after_power_loss(&disk, &options), &ends, "after a power cut");
    });
}
