//! The threads that read cold segments: they wait for the disk so that no async worker does.
//!
//! A small pool behind a bounded queue. Invariant: who is let into the queue gets an answer, also when the pool ends.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::Error;
use crate::id::Address;
use crate::log::Segment;
use crate::sync::{Condvar, Mutex};

/// Reads that may wait in the queue; who comes later waits to be let in.
const QUEUE: usize = 1_024;

struct Job {
    segment: Arc<Segment>,
    address: Address,
    answer: oneshot::Sender<io::Result<Vec<u8>>>,
    /// Its place in the queue, until it is done.
    _place: OwnedSemaphorePermit,
}

struct Queue {
    jobs: VecDeque<Job>,
    /// There are threads, or there will be; without them the caller reads.
    served: bool,
}

pub(super) struct Readers {
    queue: Mutex<Queue>,
    work: Condvar,
    entrance: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(served: bool) -> Self {
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), served });
        Self { queue, work: Condvar::new(), entrance: Arc::new(Semaphore::new(QUEUE)) }
    }

    /// The bytes at an address of a segment that is not warm.
    pub(super) async fn read(&self, segment: Arc<Segment>, address: Address) -> Result<Vec<u8>, Error> {
        let id = segment.id();
        let failed = move |e| Error::io(format!("read segment {id} at offset {}", address.offset))(e);
        let place = Arc::clone(&self.entrance).acquire_owned().await.map_err(|_| Error::Closed)?;
        let (answer, bytes) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            if !queue.served {
                drop(queue);
                return segment.read(address).map_err(failed);
            }
            queue.jobs.push_back(Job { segment, address, answer, _place: place });
        }
        self.work.notify_one();
        bytes.await.map_err(|_| Error::Closed)?.map_err(failed)
    }

    /// A reader thread's life: it ends when the pool does and the queue is empty.
    pub(super) fn run(&self) {
        loop {
            let mut queue = self.queue.lock();
            let Some(job) = queue.jobs.pop_front() else {
                if !queue.served {
                    return;
                }
                self.work.wait(&mut queue);
                continue;
            };
            drop(queue);
            if job.answer.is_closed() {
                continue;
            }
            // A read changes nothing, so one that panics is a read that failed, and the thread goes on for those who come next.
            let read = catch_unwind(AssertUnwindSafe(|| job.segment.read(job.address)));
            let read = read.unwrap_or_else(|_| Err(io::Error::other("the thread that read panicked")));
            // Who does not wait any more needs no answer.
            let _ = job.answer.send(read);
        }
    }

    /// Ends the threads; later reads are done by the caller.
    pub(super) fn stop(&self) {
        self.queue.lock().served = false;
        self.work.notify_all();
    }
}
