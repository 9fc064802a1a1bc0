//! What goes on behind the operations, with the store's own threads: syncs, new segments, compaction, closing.
//!
//! Goal: operations and background work never disturb one another. Method: real folders, small segments, many operations, and checks
//! that hold however the threads interleave. Nothing here depends on how fast the machine is.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, Clock, Durability, Error, Lifetime, LogStore, ManualClock, OpenError, Options, OwnerKey,
    ReadMode, SessionKey, SessionStore, SystemClock, Timestamp, Whose, Work,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::stores::{defaults, eventually};
use crate::support::hooked::{At, Hooked};
use crate::support::life::drive;

const HOUR: Lifetime = Lifetime::idle(Duration::from_secs(3_600));

fn small_segments() -> Options {
    Options {
        segment_bytes: 64 << 10,
        footers_from: 0,
        payload_bytes_max: 8 << 10,
        compaction_bytes_per_second: 1 << 30,
        ..defaults()
    }
}

fn key(number: u64) -> SessionKey {
    SessionKey::of(&number.to_le_bytes())
}

/// A payload that says whose it is and which, and is long enough to fill segments.
fn payload(number: u64, round: u64) -> Bytes {
    [number.to_le_bytes(), round.to_le_bytes()].concat().repeat(20).into()
}

fn read_payload(bytes: &[u8]) -> (u64, u64) {
    let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    assert_eq!(bytes, payload(number(0), number(8)), "a payload is one that was written, whole");
    (number(0), number(8))
}

#[tokio::test(flavor = "multi_thread")]
async fn interval_is_kept_while_writes_never_pause() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), defaults()).await.unwrap();
    let store = store.at(Durability::Interval(Duration::from_millis(5)));
    store.upsert(key(0), "x".into(), HOUR).await.unwrap();
    let before = store.stats().syncs;
    let mut writes = 0;
    while store.stats().syncs < before + 3 {
        store.put(key(0), "x".into()).await.unwrap();
        writes += 1;
        assert!(writes < 3_000_000, "writes went on and on, and nothing was synced");
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_is_of_the_latest_write_while_segments_turn_and_are_compacted() {
    const KEYS: u64 = 32;
    const ROUNDS: u64 = 400;
    /// Every so many rounds a key leaves a session behind that is never written again, so that no segment dies whole.
    const KEEP_EVERY: u64 = 16;
    let kept = |number: u64, round: u64| SessionKey::of(format!("kept/{number}/{round}").as_bytes());
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), small_segments()).await.unwrap().at(Durability::Buffered);
    let mut tasks = JoinSet::new();
    for number in 0..KEYS {
        let store = store.clone();
        tasks.spawn(async move {
            store.create_as(key(number), payload(number, 0), HOUR).await.unwrap();
            for round in 1..ROUNDS {
                store.put(key(number), payload(number, round)).await.unwrap().unwrap();
                let read = store.get(key(number), Access::Touch).await.unwrap().unwrap();
                assert_eq!(read_payload(&read.payload), (number, round));
                if round % KEEP_EVERY == 0 {
                    store.create_as(kept(number, round), payload(number, round), HOUR).await.unwrap();
                    let read = store
                        .get(kept(number, (round / 64 * 64 + KEEP_EVERY).min(round)), Access::Peek)
                        .await
                        .unwrap();
                    assert_eq!(read_payload(&read.unwrap().payload).0, number);
                }
            }
        });
    }
    tasks.join_all().await;
    for look in 0.. {
        if store.stats().compacted_bytes > 0 {
            break;
        }
        assert!(look < 5_000_000, "nothing was compacted: {:?}", store.stats());
        tokio::task::yield_now().await;
    }
    store.close().await.unwrap();

    let store = LogStore::open(folder.path(), small_segments()).await.unwrap();
    for number in 0..KEYS {
        let read = store.get(key(number), Access::Peek).await.unwrap().unwrap();
        assert_eq!(read_payload(&read.payload), (number, ROUNDS - 1));
        for round in (KEEP_EVERY..ROUNDS).step_by(usize::try_from(KEEP_EVERY).unwrap()) {
            let read = store.get(kept(number, round), Access::Peek).await.unwrap().unwrap();
            assert_eq!(read_payload(&read.payload), (number, round));
        }
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn walk_meets_every_session_while_segments_come_and_go() {
    const SESSIONS: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let options = Options { read_mode: ReadMode::Pread, ..small_segments() };
    let store = LogStore::open(folder.path(), options).await.unwrap().at(Durability::Buffered);
    for number in 0..SESSIONS {
        store.create_as(key(number), payload(number, 0), HOUR).await.unwrap();
    }
    let churn = tokio::spawn({
        let store = store.clone();
        async move {
            for round in 1.. {
                for number in SESSIONS..SESSIONS + 100 {
                    if store.upsert(key(number), payload(number, round), HOUR).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    for walk in 0..60 {
        let (mut met, mut cursor) = (std::collections::HashSet::new(), None);
        loop {
            let page = store.keys(cursor, 40).await.unwrap();
            met.extend(page.keys);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let missed = (0..SESSIONS).filter(|number| !met.contains(&key(*number))).count();
        assert_eq!(missed, 0, "in walk {walk}");
    }
    store.close().await.unwrap();
    churn.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_use_stays_bounded_under_churn() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), small_segments()).await.unwrap().at(Durability::Buffered);
    for round in 0..300 {
        for number in 0..50 {
            store.upsert(key(number), payload(number, round), HOUR).await.unwrap();
        }
    }
    // Compaction catches up by itself; each look costs a read, so this waits for it without sleeping.
    let segments = 2 * u64::from(small_segments().segment_bytes);
    for look in 0.. {
        let stats = store.stats();
        if stats.log_bytes <= 2 * stats.live_bytes + segments {
            break;
        }
        assert!(look < 5_000_000, "{stats:?}");
        tokio::task::yield_now().await;
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn close_among_operations_leaves_each_done_or_refused() {
    for round in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let store = LogStore::open(folder.path(), small_segments()).await.unwrap();
        let done = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for number in 0..8 {
            let (store, done) = (store.clone(), Arc::clone(&done));
            tasks.spawn(async move {
                for at in 0.. {
                    match store.create_as(key(at << 8 | number), payload(number, at), HOUR).await {
                        Ok(()) => drop(done.fetch_add(1, Ordering::SeqCst)),
                        Err(Error::Closed) => return at,
                        Err(other) => panic!("{other}"),
                    }
                }
                unreachable!("the loop has no end")
            });
        }
        while done.load(Ordering::SeqCst) < 20 * round {
            tokio::task::yield_now().await;
        }
        store.close().await.unwrap();
        let acknowledged: u64 = tasks.join_all().await.into_iter().sum();
        assert_eq!(acknowledged, done.load(Ordering::SeqCst));

        let store = LogStore::open(folder.path(), small_segments()).await.unwrap();
        assert_eq!(store.recovery().torn_bytes, 0);
        assert_eq!(store.len() as u64, acknowledged);
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn second_open_is_refused_with_the_holder_and_waits_if_asked() {
    let folder = tempfile::tempdir().unwrap();
    let first = LogStore::open(folder.path(), defaults()).await.unwrap();
    first.at(Durability::Buffered).upsert(key(1), "x".into(), HOUR).await.unwrap();
    let refused = LogStore::open(folder.path(), defaults()).await;
    assert!(
        matches!(&refused, Err(OpenError::Locked { pid: Some(pid), .. }) if *pid == std::process::id()),
        "{refused:?}"
    );
    let patience = Duration::from_secs(60);
    let (second, ()) = tokio::join!(LogStore::open_wait(folder.path(), defaults(), patience), async {
        drop(first);
    });
    let second = second.unwrap();
    assert!(second.get(key(1), Access::Peek).await.unwrap().is_some());
    second.close().await.unwrap();
}

#[tokio::test]
async fn store_on_a_folder_it_cannot_make_says_what_it_tried() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    tempfile::NamedTempFile::new_in(folder.path()).unwrap().persist(&file).unwrap();
    let refused = LogStore::open(file.join("sessions"), defaults()).await.unwrap_err();
    let message = refused.to_string();
    assert!(message.contains("file/sessions") && message.starts_with("cannot "), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn interval_out_of_range_is_taken_as_the_nearest_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), defaults()).await.unwrap();
    for interval in [Duration::ZERO, Duration::MAX] {
        store.at(Durability::Interval(interval)).upsert(key(1), "x".into(), HOUR).await.unwrap();
        store.flush().await.unwrap();
    }
    let refused = Options { durability: Durability::Interval(Duration::MAX), ..defaults() };
    let refused = LogStore::open(folder.path().join("other"), refused).await;
    assert!(matches!(refused, Err(OpenError::InvalidOption { option: "durability", .. })), "{refused:?}");
    store.close().await.unwrap();
}

#[tokio::test]
async fn an_empty_path_is_refused() {
    let refused = LogStore::open("", defaults()).await;
    assert!(matches!(refused, Err(OpenError::Io { .. })), "{refused:?}");
    assert!(!std::path::Path::new("MANIFEST").exists());
}

/// Counts how often it is asked.
#[derive(Default)]
struct Asked(AtomicU64);

impl Clock for Asked {
    fn wall(&self) -> Timestamp {
        self.0.fetch_add(1, Ordering::Relaxed);
        SystemClock.wall()
    }
    fn uptime(&self) -> Duration {
        self.0.fetch_add(1, Ordering::Relaxed);
        SystemClock.uptime()
    }
}

/// A thread that went round and round would ask a hundred times in a millisecond.
#[tokio::test]
async fn store_at_rest_lets_the_processor_rest() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(Asked::default()));
    let options = Options { clock: Arc::clone(&clock) as _, ..small_segments() };
    let store = LogStore::open(folder.path(), options).await.unwrap();
    store.at(Durability::Sync).create_as(key(0), payload(0, 0), HOUR).await.unwrap();
    let (before, since) = (clock.0.load(Ordering::Relaxed), SystemClock.uptime());
    // Until the compactor, which comes most seldom, has had its turn.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let asked = clock.0.load(Ordering::Relaxed) - before;
    assert!(
        u128::from(asked) < 10 * SystemClock.uptime().saturating_sub(since).as_millis(),
        "it asked for the time {asked} times"
    );
    store.close().await.unwrap();
}

/// What the store asks for itself waits for nobody's interval.
#[tokio::test(flavor = "multi_thread")]
async fn segments_that_were_left_go_and_the_time_is_kept_though_an_interval_is_an_hour() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let options = |clock: &Arc<ManualClock>| {
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        Options { clock, durability: Durability::Interval(Duration::from_secs(3_600)), ..small_segments() }
    };
    let disk = SimDisk::new(1);
    let store = LogStore::open_on(Arc::new(disk.clone()), options(&clock)).await.unwrap();
    let minute = Lifetime::absolute(Duration::from_secs(60));
    for _ in 0..300 {
        store.upsert(key(0), vec![1; 5_000].into(), minute).await.unwrap();
    }
    eventually("what is dead is gone", || disk.used_bytes() < 6 * (64 << 10)).await;

    store.upsert(key(1), "x".into(), minute).await.unwrap();
    store.flush().await.unwrap();
    store.upsert(key(2), "x".into(), HOUR).await.unwrap();
    clock.advance(Duration::from_secs(61));
    assert!(store.get(key(1), Access::Peek).await.unwrap().is_none());
    let earlier = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let is_back = || {
        let copy = disk.copy(1);
        copy.crash();
        let store = LogStore::open_by_hand(Arc::new(copy), options(&earlier)).unwrap();
        drive(&store, store.get(key(1), Access::Peek)).unwrap().unwrap().is_some()
    };
    eventually("that it has ended is on the disk", || !is_back()).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_out_of_who_has_just_ended_keeps_the_time_by_which_that_was() {
    for swept in [false, true] {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let options = |clock: &Arc<ManualClock>| {
            let clock = Arc::clone(clock) as Arc<dyn Clock>;
            Options { clock, ..small_segments() }
        };
        let disk = SimDisk::new(1);
        let store = LogStore::open_by_hand(Arc::new(disk.clone()), options(&clock)).unwrap();
        let minute = Lifetime::absolute(Duration::from_secs(60));
        drive(&store, store.create_as(key(1), "x".into(), minute)).unwrap().unwrap();
        drive(&store, store.flush()).unwrap().unwrap();
        clock.advance(Duration::from_secs(61));
        if swept {
            store.work(Work::Keep);
        }
        let groups = store.stats().groups;
        for _ in 0..3 {
            // Nothing but what it asks for is done.
            let mut answer = pin!(store.delete(key(1)));
            let mut poll = || answer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            let mut polled = poll();
            while polled.is_pending() {
                store.work(Work::Write);
                store.work(Work::Sync);
                polled = poll();
            }
            assert!(matches!(polled, Poll::Ready(Ok(false))));
        }
        assert_eq!(store.stats().groups, groups + 1, "the time is written down once");
        disk.crash();
        let earlier = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let store = LogStore::open_by_hand(Arc::new(disk), options(&earlier)).unwrap();
        let found = drive(&store, store.get(key(1), Access::Peek)).unwrap().unwrap();
        assert!(found.is_none(), "swept: {swept}: who was signed out is back");
    }
}

/// A revocation looks at every session there is, and writes need segments meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn sweep_of_many_whose_keys_are_read_holds_up_neither_writes_nor_a_close() {
    const MANY: u32 = 4_000;
    let has_begun = Arc::new(Notify::new());
    let reads = Arc::clone(&has_begun);
    #[expect(clippy::disallowed_methods, reason = "a device that takes its time")]
    let disk = Hooked::on(SimDisk::new(1), move |at, _| {
        if matches!(at, At::Read) {
            reads.notify_waiters();
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
    let store = LogStore::open_on(disk, small_segments()).await.unwrap().at(Durability::Buffered);
    let owner = OwnerKey::of(b"everybody");
    for n in 0..MANY {
        store.create_owned_as(key(n.into()), vec![1; 500].into(), HOUR, owner.into()).await.unwrap();
    }
    let events = store.events();
    let begins = has_begun.notified();
    store.revoke(Whose::Everybody, None).await.unwrap();
    begins.await;
    // They need three segments: three slices of the sweep, of the forty-four and more that it has, however slow the machine is.
    for n in 0..16 {
        store.upsert(key(n), vec![1; 8_000].into(), HOUR).await.unwrap();
    }
    assert_eq!(store.stats().revoked, 0, "the writes have waited for the sweep");
    store.close().await.unwrap();
    assert_eq!(store.stats().revoked, 0, "the close has waited for the sweep");
    drop(events);
}

#[test]
fn flush_waits_until_what_is_staged_is_written_and_that_is_synced() {
    let store = LogStore::open_by_hand(Arc::new(SimDisk::new(1)), small_segments()).unwrap();
    let buffered = store.at(Durability::Buffered);
    drive(&buffered, buffered.upsert(key(1), "x".into(), HOUR)).unwrap().unwrap();
    drive(&store, store.flush()).unwrap().unwrap();
    let mut write = pin!(buffered.upsert(key(2), "x".into(), HOUR));
    let is_ready = |polled: Poll<Result<(), Error>>| matches!(polled, Poll::Ready(Ok(())));
    assert!(is_ready(write.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
    let mut flush = pin!(store.flush());
    let mut poll = || flush.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
    assert!(!poll());
    for (work, is_done) in [(Work::Sync, false), (Work::Write, false), (Work::Sync, true)] {
        store.work(work);
        assert_eq!(poll(), is_done, "{work:?}");
    }
}
