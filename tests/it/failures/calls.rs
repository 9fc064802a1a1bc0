//! Every kind of call fails, once or from then on, at every place: with the store's own threads and by hand, on the simulated disk and in a folder.
//!
//! Goal: to refute that a failure ends in the documented state. Method: work of every kind while one kind of call fails; the errors must be
//! those that the docs name, reads go on, nothing hangs, and the next open finds all that was acknowledged.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use cloakroom::disk::Disk;
use cloakroom::disk::real::RealDisk;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{Durability, Error, LogStore, OpenError, Options, ReadMode, SessionStore};
use rustix::io::Errno;

use crate::stores::defaults;
use crate::support::acked::{Acked, in_time};
use crate::support::hooked::{At, CALLS, Hooked};
use crate::support::{budget, spread};

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        payload_bytes_max: 4_096,
        compaction_bytes_per_second: 1 << 30,
        // So that reads of a real folder are of both kinds.
        warm_bytes_max: 128 << 10,
        ..defaults()
    }
}

/// Which calls fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Once,
    FromThenOn,
}

/// Fails calls of one kind, from the n-th on or that one alone, once it is armed.
struct Failing {
    call: At,
    how: How,
    error: Errno,
    /// Calls until it strikes; far away until it is armed.
    calls_left: AtomicI64,
    struck: AtomicBool,
}

const FAR: i64 = i64::MAX / 2;

impl Failing {
    fn new(call: At, how: How, error: Errno) -> Arc<Self> {
        Arc::new(Self { call, how, error, calls_left: AtomicI64::new(FAR), struck: AtomicBool::new(false) })
    }

    fn arm(&self, n: i64) {
        self.calls_left.store(n, Ordering::SeqCst);
    }

    fn struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst)
    }

    fn meet(&self, at: At) -> io::Result<()> {
        if at != self.call {
            return Ok(());
        }
        let left = self.calls_left.fetch_sub(1, Ordering::SeqCst);
        if left == 1 || (left < 1 && self.how == How::FromThenOn) {
            self.struck.store(true, Ordering::SeqCst);
            return Err(self.error.into());
        }
        Ok(())
    }

    fn on(self: &Arc<Self>, disk: impl Disk) -> Arc<dyn Disk> {
        let failing = Arc::clone(self);
        Hooked::on(disk, move |at, _| failing.meet(at))
    }
}

/// Whether the docs name this error for a write, or for what the failing call is part of.
fn is_documented(error: &Error, failing: &Failing) -> bool {
    match error {
        Error::Poisoned { .. } | Error::DurabilityUnknown { .. } | Error::Io { .. } => true,
        Error::DiskFull => failing.error == Errno::NOSPC,
        _ => false,
    }
}

/// Works on a store until its disk has failed and a little longer, and checks what it says.
async fn work(store: &LogStore, failing: &Failing, n: i64, when: &str) -> Acked {
    let mut acked = Acked::default();
    acked.work(store, 0..20).await;
    assert!(acked.errors.is_empty(), "{when}: {:?}", acked.errors);
    failing.arm(n);
    for part in 1..4 {
        acked.work(store, part * 20..part * 20 + 20).await;
    }
    for error in &acked.errors {
        assert!(is_documented(error, failing), "{when}: {error:?}");
    }
    let errors = acked.check(store, when).await;
    let may_fail = [At::Read].contains(&failing.call);
    assert!(errors.is_empty() || may_fail, "{when}: {errors:?}");
    acked
}

async fn check_again(disk: Arc<dyn Disk>, acked: &Acked, when: &str) {
    let store = in_time("open", LogStore::open_on(disk, options())).await;
    let store = store.unwrap_or_else(|e| panic!("{when}: {e}"));
    let errors = acked.check(&store, when).await;
    assert!(errors.is_empty(), "{when}: {errors:?}");
    let mut more = Acked::default();
    more.work(&store, 1_000..1_020).await;
    assert!(more.errors.is_empty(), "{when}: {:?}", more.errors);
    in_time("close", store.close()).await.unwrap();
}

/// One life in which a call fails, and the next.
async fn one_life(disk: impl Disk + Clone, failing: &Arc<Failing>, n: i64, kill: Option<&SimDisk>) {
    let when = format!("{:?} {:?} {n} {:?}", failing.call, failing.how, failing.error);
    let store = in_time("open", LogStore::open_on(failing.on(disk.clone()), options())).await.unwrap();
    let acked = work(&store.at(Durability::Sync), failing, n, &when).await;
    if let Some(sim) = kill {
        sim.crash();
        drop(store);
        return check_again(Arc::new(sim.clone()), &acked, &when).await;
    }
    let closed = in_time(&format!("close, {when}"), store.close()).await;
    let told =
        acked.errors.iter().any(|e| matches!(e, Error::Poisoned { .. } | Error::DurabilityUnknown { .. }));
    assert!(closed.is_err() || !told, "{when}: a close says all is well");
    // The lock is free although a handle lives.
    failing.arm(FAR);
    check_again(Arc::new(disk), &acked, &when).await;
}

const ERRORS: [Errno; 2] = [Errno::IO, Errno::NOSPC];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_call_among_threads_ends_as_documented() {
    let mut struck = std::collections::BTreeSet::new();
    for (call, how) in CALLS.into_iter().flat_map(|call| [(call, How::Once), (call, How::FromThenOn)]) {
        for n in spread(24, budget(1), 1 + call as u64).chain([1]) {
            let error = ERRORS[usize::try_from(n).unwrap() % 2];
            let failing = Failing::new(call, how, error);
            let disk = SimDisk::new(n);
            let kill = (n % 3 == 0).then_some(&disk);
            one_life(disk.clone(), &failing, n.cast_signed(), kill).await;
            failing.struck().then(|| struck.insert(call));
        }
    }
    // The others are calls of an open.
    for call in CALLS.into_iter().filter(|call| ![At::CreateFolder, At::List, At::Open].contains(call)) {
        let is_made = call != At::Len && (call != At::Map || options().read_mode == ReadMode::Mapped);
        assert!(struck.contains(&call) || !is_made, "no {call:?} was made: {struck:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_call_in_a_folder_ends_as_documented() {
    for (call, how) in CALLS.into_iter().flat_map(|call| [(call, How::Once), (call, How::FromThenOn)]) {
        for n in spread(16, budget(1), call as u64) {
            let failing = Failing::new(call, how, ERRORS[usize::try_from(n).unwrap() % 2]);
            let folder = tempfile::tempdir().unwrap();
            one_life(RealDisk::new(folder.path()), &failing, n.cast_signed(), None).await;
        }
    }
}

/// Whatever fails while it opens: a typed error or a store that works, and the folder opens when the disk is well again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_call_while_opening_leaves_a_folder_that_opens() {
    for (call, how) in CALLS.into_iter().flat_map(|call| [(call, How::Once), (call, How::FromThenOn)]) {
        for (n, first) in spread(16, budget(4), call as u64).flat_map(|n| [(n, true), (n, false)]) {
            let when = format!("{call:?} {how:?} {n}, first: {first}");
            let disk = SimDisk::new(n);
            let mut acked = Acked::default();
            if !first {
                let store = LogStore::open_on(Arc::new(disk.clone()), options()).await.unwrap();
                acked.work(&store.at(Durability::Sync), 0..50).await;
                disk.kill();
            }
            let failing = Failing::new(call, how, ERRORS[usize::try_from(n).unwrap() % 2]);
            failing.arm(n.cast_signed());
            match in_time(&when, LogStore::open_on(failing.on(disk.clone()), options())).await {
                Ok(store) => {
                    failing.arm(FAR);
                    assert!(acked.check(&store, &when).await.is_empty());
                    drop(in_time(&when, store.close()).await);
                }
                Err(OpenError::Io { .. }) => assert!(failing.struck()),
                Err(other) => panic!("{when}: {other}"),
            }
            failing.arm(FAR);
            if n % 2 == 0 {
                disk.crash();
            }
            check_again(Arc::new(disk.clone()), &acked, &when).await;
        }
    }
}
