//! Locks, condition variables and waits as the models have them: the interfaces of `parking_lot` and of the clock, over a scheduler that runs
//! one thread at a time and decides at each call which one goes on.
//!
//! There is no time. A wait with a time limit may end at once as if the time were over, as often in one execution as [`timers`] allows; beyond
//! that a notification alone ends it. So what must not depend on a timer is seen to hang when it does.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

use shuttle::rand::{Rng as _, thread_rng};
use shuttle::sync as model;

thread_local! {
    /// One execution runs on one thread of the system.
    static TIMERS_LEFT: Cell<u32> = const { Cell::new(0) };
}

/// How many waits with a time limit may run out in the execution that begins; [`u32::MAX`] for each of them.
pub(crate) fn timers(left: u32) {
    TIMERS_LEFT.set(left);
}

/// Whether a time limit is over: a decision of the scheduler.
fn is_over() -> bool {
    let left = TIMERS_LEFT.get();
    if left == u32::MAX {
        return true;
    }
    let over = left > 0 && thread_rng().r#gen();
    TIMERS_LEFT.set(left - u32::from(over));
    over
}

/// Random bytes, the same when a schedule is run again.
pub(crate) fn random_bytes(bytes: &mut [u8]) {
    thread_rng().fill(bytes);
}

#[derive(Default, Debug)]
pub(crate) struct Mutex<T>(model::Mutex<T>);

pub(crate) struct MutexGuard<'a, T> {
    lock: &'a model::Mutex<T>,
    /// Empty only while a condition variable waits.
    held: Option<model::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(model::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { lock: &self.0, held: Some(lock(&self.0)) }
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Like `parking_lot`, it does not care whether a holder panicked.
fn lock<T>(mutex: &model::Mutex<T>) -> model::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("nobody looks through a guard that waits")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("nobody looks through a guard that waits")
    }
}

#[derive(Default, Debug)]
pub(crate) struct RwLock<T>(model::RwLock<T>);

pub(crate) use model::{RwLockReadGuard, RwLockWriteGuard};

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(model::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default, Debug)]
pub(crate) struct Condvar(model::Condvar);

pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(model::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("a guard waits for one thing at a time");
        guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) -> WaitTimeoutResult {
        let over = is_over();
        if over {
            drop(guard.held.take());
            shuttle::thread::yield_now();
            guard.held = Some(lock(guard.lock));
        } else {
            self.wait(guard);
        }
        WaitTimeoutResult(over)
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// An instant to wait for, known by its distance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(Duration);

impl Deadline {
    pub(crate) fn after(delay: Duration) -> Self {
        Self(delay)
    }

    pub(crate) fn is_over(self) -> bool {
        is_over()
    }

    pub(crate) fn wait<T>(self, condition: &Condvar, guard: &mut MutexGuard<'_, T>) {
        condition.wait_for(guard, self.0);
    }
}
