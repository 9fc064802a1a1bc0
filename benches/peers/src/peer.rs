//! What is asked of every store that is measured.

use std::future::Future;
use std::path::Path;

use bytes::Bytes;

pub type Key = [u8; 32];

/// One kind of operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Get,
    /// The deadline moves, the value stays.
    Touch,
    Put,
    /// A put that is on the device when it is acknowledged.
    PutSync,
    Create,
    Delete,
}

/// A store. Operations are futures, since some of the stores wait without holding a thread; those of the others are ready when they are polled,
/// and cost nothing beyond the call.
pub trait Peer: Send + Sync + Sized + 'static {
    const NAME: &'static str;
    /// Whether an operation may hold its thread: such a store is given a thread for each writer, not a task.
    const BLOCKS: bool;
    /// Whether it can put something on the device at all.
    const DURABLE: bool;

    fn open(folder: &Path) -> impl Future<Output = Self>;

    /// Does it, and says whether there was such a session.
    fn run(&self, op: Op, key: Key, value: Bytes) -> impl Future<Output = bool> + Send;

    /// From here on, nothing but [`Op::PutSync`] is asked.
    fn durable_from_here(&self) {}

    fn close(self) -> impl Future<Output = ()> {
        async {}
    }
}
