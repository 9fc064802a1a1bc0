//! A thread of the store that panics: waiters are told, nothing hangs, the folder is freed, and the next open finds all that was acknowledged.
//!
//! Method: the disk panics in the n-th call that one thread makes, told by its name. Which thread meets what when is not replayed; what must
//! hold does not depend on it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use cloakroom::disk::sim::SimDisk;
use cloakroom::{Access, Durability, Error, LogStore, OpenError, Options, SessionStore};

use crate::stores::{defaults, eventually};
use crate::support::acked::{Acked, HOUR, in_time, key, payload};
use crate::support::budget;
use crate::support::hooked::{At, Hooked};
use crate::support::life::drive;

fn options() -> Options {
    Options { segment_bytes: 64 << 10, payload_bytes_max: 4_096, ..defaults() }
}

/// Panics in the n-th call of a thread from when it is armed.
struct Trap {
    thread: &'static str,
    armed: AtomicBool,
    calls_left: AtomicU32,
}

impl Trap {
    fn new(thread: &'static str, n: u32) -> Arc<Self> {
        Arc::new(Self { thread, armed: AtomicBool::new(false), calls_left: AtomicU32::new(n) })
    }

    fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    fn sprang(&self) -> bool {
        self.calls_left.load(Ordering::SeqCst) == 0
    }

    fn meet(&self, at: At) {
        if !self.armed.load(Ordering::SeqCst) || std::thread::current().name() != Some(self.thread) {
            return;
        }
        let left = self.calls_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        assert_ne!(left, Ok(1), "a test lets {} panic in a call of {at:?}", self.thread);
    }
}

async fn open(disk: &SimDisk, trap: &Arc<Trap>) -> Result<LogStore, OpenError> {
    let trap = Arc::clone(trap);
    let hooked = Hooked::on(disk.clone(), move |at, _| {
        trap.meet(at);
        io::Result::Ok(())
    });
    in_time("open", LogStore::open_on(hooked, options())).await
}

/// Opens the folder with nothing that panics, and checks what is there.
async fn check_again(disk: &SimDisk, acked: &Acked, when: &str) {
    let store = in_time("open", LogStore::open_on(Arc::new(disk.clone()), options())).await;
    let store = store.unwrap_or_else(|e| panic!("{when}: {e}\n{}", disk.trace().join("\n")));
    let errors = acked.check(&store, when).await;
    assert!(errors.is_empty(), "{when}: {errors:?}");
    in_time("close", store.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_of_a_thread_that_writes_ends_the_writing_and_nothing_else() {
    let threads = [("writer", 8), ("syncer", 8), ("keeper", 24), ("compactor", 24)];
    for (name, calls) in threads {
        let mut sprung = 0;
        for n in (1..=calls).step_by(if budget(1) > 1 { 1 } else { 3 }) {
            let trap = Trap::new(format!("cloakroom-{name}").leak(), n);
            let when = format!("call {n} of the {name}");
            let disk = SimDisk::new(n.into());
            let store = open(&disk, &trap).await.unwrap().at(Durability::Sync);
            let mut acked = Acked::default();
            acked.work(&store, 0..40).await;
            assert!(acked.errors.is_empty(), "{when}: {:?}", acked.errors);
            trap.arm();
            for part in 1..30 {
                acked.work(&store, part * 40..part * 40 + 40).await;
                if trap.sprang() {
                    break;
                }
            }
            sprung += u32::from(trap.sprang());
            if trap.sprang() {
                eventually("the store is poisoned", || store.poison_is_told()).await;
                let refused = in_time("put", store.upsert(key(1), payload(1, 10).into(), HOUR)).await;
                assert!(matches!(refused, Err(Error::Poisoned { .. })), "{when}: {refused:?}");
            }
            let read = acked.check(&store, &when).await;
            assert!(read.is_empty(), "{when}: {read:?}");
            let closed = in_time(&format!("close, {when}"), store.close()).await;
            assert_eq!(closed.is_err(), trap.sprang(), "{when}: {closed:?}");
            // Whether or not the handle still lives.
            check_again(&disk, &acked, &when).await;
            drop(store);
        }
        assert!(sprung > 0, "no call of the {name} was ever met");
    }
}

trait Told {
    fn poison_is_told(&self) -> bool;
}

impl Told for LogStore {
    /// A barrier is refused at once by a store that takes no more writes.
    fn poison_is_told(&self) -> bool {
        use std::future::Future as _;
        let mut flush = std::pin::pin!(self.flush());
        let polled = flush.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        matches!(polled, std::task::Poll::Ready(Err(Error::Poisoned { .. })))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_while_the_store_ends_is_told_and_frees_the_folder() {
    let mut sprung = 0;
    for n in 1..12 {
        let trap = Trap::new("cloakroom-keeper", n);
        let when = format!("call {n} of the end");
        let disk = SimDisk::new(n.into());
        let store = open(&disk, &trap).await.unwrap().at(Durability::Sync);
        let mut acked = Acked::default();
        acked.work(&store, 0..30).await;
        // The keeper may be in the midst of a round: it is met there or in the end.
        trap.arm();
        let closed = in_time(&format!("close, {when}"), store.close()).await;
        assert_eq!(closed.is_err(), trap.sprang(), "{when}: {closed:?}");
        sprung += u32::from(trap.sprang());
        check_again(&disk, &acked, &when).await;
    }
    assert!(sprung > 3, "{sprung} calls of the end were met");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_of_every_reader_are_told_and_reads_and_writes_go_on() {
    let disk = SimDisk::new(1);
    // Panics again and again: there are fewer threads than that.
    let panics = Arc::new(AtomicU32::new(0));
    let left = Arc::clone(&panics);
    let hooked = Hooked::on(disk.clone(), move |at, _| {
        let is_reader = std::thread::current().name() == Some("cloakroom-reader");
        let strikes = |n: u32| n.checked_sub(1);
        if at == At::Read
            && is_reader
            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, strikes).is_ok()
        {
            panic!("a test lets a reader panic");
        }
        io::Result::Ok(())
    });
    let store = in_time("open", LogStore::open_on(hooked, options())).await.unwrap().at(Durability::Sync);
    let mut acked = Acked::default();
    acked.work(&store, 0..40).await;
    panics.store(8, Ordering::SeqCst);
    let mut told = 0;
    while panics.load(Ordering::SeqCst) > 0 {
        let read = in_time("a cold read", store.get(key(36), Access::Peek)).await;
        assert!(matches!(&read, Err(Error::Io { .. }) | Ok(Some(_))), "{read:?}");
        told += u32::from(read.is_err());
    }
    assert_eq!(told, 8, "who waited for a read was told");
    acked.work(&store, 40..80).await;
    assert!(acked.errors.is_empty(), "{:?}", acked.errors);
    assert!(acked.check(&store, "afterwards").await.is_empty());
    in_time("close", store.close()).await.unwrap();
    check_again(&disk, &acked, "readers").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_while_the_store_opens_is_told_and_leaves_a_folder_that_opens() {
    let disk = SimDisk::new(1);
    let mut acked = Acked::default();
    let mut opened = false;
    for n in 1..200 {
        // Every other life leaves an end to be written again.
        let store = LogStore::open_on(Arc::new(disk.clone()), options()).await.unwrap().at(Durability::Sync);
        acked.work(&store, 0..8).await;
        if n % 2 == 0 {
            disk.kill();
        } else {
            in_time("close", store.close()).await.unwrap();
        }
        drop(store);
        let trap = Trap::new("cloakroom-open", n);
        trap.arm();
        match open(&disk, &trap).await {
            Ok(store) => {
                opened = !trap.sprang();
                in_time("close", store.close()).await.unwrap();
            }
            Err(OpenError::Io { .. }) => assert!(trap.sprang()),
            Err(other) => panic!("call {n}: {other}"),
        }
        check_again(&disk, &acked, &format!("call {n} of the opener")).await;
        if opened {
            break;
        }
    }
    assert!(opened, "no open was ever let through");
}

/// Other threads may write and sync before the one that panicked has poisoned the store; here they do so always.
#[test]
fn nothing_is_acknowledged_behind_a_call_that_panicked() {
    for call in [At::Write, At::Sync] {
        let disk = SimDisk::new(1);
        let armed = Arc::new(AtomicBool::new(false));
        let trap = Arc::clone(&armed);
        let hooked = Hooked::on(disk.clone(), move |at, _| {
            assert!(at != call || !trap.swap(false, Ordering::SeqCst), "a test lets {at:?} panic");
            io::Result::Ok(())
        });
        let store = LogStore::open_by_hand(hooked, options()).unwrap().at(Durability::Sync);
        let create = |n| drive(&store, store.create_as(key(n), payload(n, 100).into(), HOUR));
        create(1).unwrap().unwrap();
        armed.store(true, Ordering::SeqCst);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| create(2)));
        assert!(panicked.is_err() && !armed.load(Ordering::SeqCst));
        assert!(!matches!(create(3), Some(Ok(()))), "acknowledged behind {call:?}");
        disk.crash();
        let store = LogStore::open_by_hand(Arc::new(disk.clone()), options()).unwrap();
        let found = drive(&store, store.get(key(1), Access::Peek)).unwrap().unwrap();
        assert_eq!(found.unwrap().payload, payload(1, 100));
    }
}
