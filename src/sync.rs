//! What waits for what: the future every store operation returns, named threads, and the seam to locks and atomics.
//!
//! Nothing here knows of sessions or disks. Locks and atomics are `parking_lot`'s and the standard library's under another name; in the
//! models of `tests/shuttle` they are those of a scheduler that tries other orders each time. Invariant: dropping a [`Pending`] never
//! undoes or corrupts anything; it only stops waiting.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(all(test, shuttle))]
pub(crate) mod scheduled;

#[cfg(not(all(test, shuttle)))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(all(test, shuttle))]
pub(crate) use scheduled::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::atomic;
#[cfg(all(test, shuttle))]
use shuttle::thread;
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::atomic;
#[cfg(not(all(test, shuttle)))]
use std::thread;

use atomic::{AtomicUsize, Ordering};

/// The future that a store operation returns.
///
/// An operation whose answer is at hand (a `get` of a warm session) is done by the call itself and costs no allocation; any other runs
/// when it is polled. Dropping it before it is ready leaves a write either undone or done, never half done.
///
/// ```
/// use cloakroom::{Access, MemoryStore, SessionKey, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), cloakroom::Error> {
/// let nobody = MemoryStore::new().get(SessionKey::of(b"nobody"), Access::Peek).await?;
/// assert!(nobody.is_none());
/// # Ok(()) }
/// ```
#[must_use = "an operation that is not awaited may never happen"]
pub struct Pending<'a, T>(State<'a, T>);

enum State<'a, T> {
    Ready(Option<T>),
    Boxed(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

impl<'a, T: Unpin> Pending<'a, T> {
    /// An answer that is at hand.
    ///
    /// ```
    /// # #[tokio::main] async fn main() {
    /// assert_eq!(cloakroom::Pending::ready(7).await, 7);
    /// # }
    /// ```
    pub fn ready(answer: T) -> Self {
        Self(State::Ready(Some(answer)))
    }

    /// An answer that a future gives.
    ///
    /// ```
    /// # #[tokio::main] async fn main() {
    /// assert_eq!(cloakroom::Pending::new(async { 7 }).await, 7);
    /// # }
    /// ```
    pub fn new(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self(State::Boxed(Box::pin(future)))
    }
}

impl<T: Unpin> Future for Pending<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.get_mut().0 {
            // A future that is polled after its answer stays pending for ever, like a finished channel.
            State::Ready(answer) => answer.take().map_or(Poll::Pending, Poll::Ready),
            State::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for Pending<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}

/// Starts a named thread.
pub(crate) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(format!("cloakroom-{name}")).spawn(body)
}

/// The answers of `work` for each of `items`, in their order, got by up to `workers` threads at once.
pub(crate) fn for_each<T: Sync, R: Send>(
    items: &[T],
    workers: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len())));
    let worker = || {
        while let Some((at, item)) = items.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            let answer = work(item);
            answers.lock().push((at, answer));
        }
    };
    thread::scope(|scope| {
        for _ in 1..workers.min(items.len()) {
            #[cfg(all(test, shuttle))]
            scope.spawn(worker);
            // Where there can be no more threads, those that there are do it all.
            #[cfg(not(all(test, shuttle)))]
            if thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    let mut answers = answers.into_inner();
    answers.sort_unstable_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Wakes a thread that waits for work; a call while it is busy is remembered.
#[derive(Default)]
pub(crate) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(crate) fn raise(&self) {
        *self.raised.lock() = true;
        self.changed.notify_one();
    }

    /// Waits until it is raised, or this long; lowers it.
    pub(crate) fn wait(&self, at_most: Duration) {
        let mut raised = self.raised.lock();
        if !*raised {
            self.changed.wait_for(&mut raised, at_most);
        }
        *raised = false;
    }
}
