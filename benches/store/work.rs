//! What the workers of a benchmark do: operations drawn from a mix, in a closed loop, on threads or on tasks.
//!
//! Values that are read are looked at, and most draws must find a session: a loop over absent keys would measure nothing.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use cloakroom::{
    Access, AtCap, Binding, Label, Lifetime, LogStore, Options, OwnerKey, SessionKey, SessionStore as _,
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::measure::Latencies;
use crate::records::{self, Keys, SEED, Values};

/// Long enough that nothing expires in a run; with its grain of five minutes, touches are coalesced as they are in a server.
pub const LIFETIME: Lifetime = Lifetime::idle(Duration::from_secs(24 * 60 * 60));

/// Tasks that load a store: enough for the writer to have groups to write.
const LOADERS: u64 = 64;

/// So many that most have reached their cap after some hundred thousand sign-ins.
const OWNERS: u64 = 20_000;
const DEVICES_MAX: u32 = 5;

/// Fewer operations than this say nothing about how many find their session.
const FEW_OPS: u64 = 1_000;

/// One kind of operation.
#[derive(Clone, Copy)]
pub enum Op {
    Get,
    Touch,
    Put,
    Create,
    /// A create with one of [`OWNERS`] owners, who may have [`DEVICES_MAX`] sessions.
    SignIn,
    Delete,
}

/// What is drawn, in shares of a thousand.
pub type Mix = &'static [(Op, u32)];

/// What a web server asks of its sessions.
pub const SESSION_MIX: Mix =
    &[(Op::Get, 900), (Op::Touch, 80), (Op::Put, 15), (Op::Create, 3), (Op::Delete, 2)];

/// Which session an operation is for.
#[derive(Clone)]
pub enum Target {
    Drawn(Keys),
    /// Each once, from this number up: what is to be deleted must be there.
    Next(Arc<AtomicU64>),
    /// Alike, but from this number up.
    Above(u64, Keys),
}

/// A benchmark: what its workers do, where, to whom.
#[derive(Clone)]
pub struct Work {
    pub store: LogStore,
    pub mix: Mix,
    pub target: Target,
}

/// One worker's state.
struct Worker {
    work: Work,
    rng: SmallRng,
    values: Values,
    /// What this worker deleted: its next creates make these again, so that the set stays as large as it was.
    deleted: Vec<u64>,
    found: u64,
    done: u64,
}

impl Worker {
    fn new(work: Work, number: u64) -> Self {
        let rng = SmallRng::seed_from_u64(SEED + number);
        Self { work, rng, values: Values::new(), deleted: Vec::new(), found: 0, done: 0 }
    }

    async fn step(&mut self) {
        let mut share = self.rng.random_range(0..1_000);
        let drawn = self.work.mix.iter().find(|(_, part)| {
            let here = share < *part;
            share = share.wrapping_sub(*part);
            here
        });
        let op = drawn.map_or(self.work.mix[0].0, |(op, _)| *op);
        let number = match &self.work.target {
            Target::Drawn(keys) => keys.draw(&mut self.rng),
            Target::Next(next) => next.fetch_add(1, Ordering::Relaxed),
            Target::Above(first, keys) => first + keys.draw(&mut self.rng),
        };
        let (key, store) = (SessionKey::from_bytes(records::id(number)), &self.work.store);
        let found = match op {
            Op::Get => store.get(key, Access::Peek).await.map(|read| read.is_some_and(|s| look(&s.payload))),
            Op::Touch => store.touch(key).await,
            Op::Put => store.put(key, self.values.next()).await.map(|version| version.is_some()),
            Op::Create => match self.deleted.pop() {
                Some(number) => {
                    let key = SessionKey::from_bytes(records::id(number));
                    store.create_as(key, self.values.next(), LIFETIME).await.map(|()| true)
                }
                None => store.create(self.values.next(), LIFETIME).await.map(|_| true),
            },
            Op::SignIn => {
                let binding = Binding::to(OwnerKey::of(&(number % OWNERS).to_le_bytes()))
                    .labelled(Label::cut("Firefox on Linux"))
                    .at_most(DEVICES_MAX, AtCap::EvictOldest);
                store.create_owned(self.values.next(), LIFETIME, binding).await.map(|_| true)
            }
            Op::Delete => store.delete(key).await,
        };
        let found = black_box(found.expect("the store answers"));
        if found && matches!(op, Op::Delete) {
            self.deleted.push(number);
        }
        self.found += u64::from(found);
        self.done += 1;
    }

    /// Does `ops` operations; with `latencies`, times each of them.
    async fn run(mut self, ops: u64, mut latencies: Option<&mut Latencies>) {
        for _ in 0..ops {
            match &mut latencies {
                None => self.step().await,
                Some(latencies) => {
                    let start = Instant::now();
                    self.step().await;
                    latencies.add(start.elapsed());
                }
            }
        }
        assert!(
            self.done < FEW_OPS || self.found * 10 >= self.done * 9,
            "only {} of {} operations met a session",
            self.found,
            self.done
        );
    }
}

/// Looks at the first byte of each cache line, as a reader of the value would.
fn look(value: &[u8]) -> bool {
    value.iter().step_by(64).fold(0_u8, |sum, byte| black_box(sum ^ byte));
    true
}

/// Who does the work.
#[derive(Clone, Copy)]
pub enum Crew {
    /// Threads, each with a runtime of its own on which one task runs.
    Threads(u64),
    /// Tasks on a runtime with two threads.
    Tasks(u64),
}

/// Does at least `ops` operations between all workers, and gives the time that `ops` of them took by the clock on the wall.
pub fn run(work: &Work, crew: Crew, ops: u64, latencies: Option<&mut Latencies>) -> Duration {
    let (Crew::Threads(workers) | Crew::Tasks(workers)) = crew;
    let each = ops.div_ceil(workers);
    let mut own: Vec<Option<Latencies>> =
        (0..workers).map(|_| latencies.is_some().then(Latencies::new)).collect();
    let took = match crew {
        Crew::Threads(_) => threads(work, each, &mut own),
        Crew::Tasks(_) => tasks(work, each, &mut own),
    };
    if let Some(all) = latencies {
        own.iter().flatten().for_each(|latencies| all.merge(latencies));
    }
    took.mul_f64(ratio(ops, each * workers))
}

#[expect(clippy::cast_precision_loss, reason = "operation counts are far below 2^52")]
fn ratio(asked: u64, done: u64) -> f64 {
    asked as f64 / done as f64
}

fn threads(work: &Work, each: u64, own: &mut [Option<Latencies>]) -> Duration {
    let gate = Barrier::new(own.len() + 1);
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..)
            .zip(own)
            .map(|(number, latencies)| {
                let (gate, worker) = (&gate, Worker::new(work.clone(), number));
                scope.spawn(move || {
                    let runtime = Builder::new_current_thread().build().expect("a runtime starts");
                    gate.wait();
                    runtime.block_on(worker.run(each, latencies.as_mut()));
                })
            })
            .collect();
        gate.wait();
        let start = Instant::now();
        for thread in started {
            thread.join().expect("a worker ends well");
        }
        start.elapsed()
    })
}

fn tasks(work: &Work, each: u64, own: &mut [Option<Latencies>]) -> Duration {
    let runtime = runtime();
    let workers: Vec<_> =
        (0..).zip(own.iter_mut()).map(|(n, own)| (Worker::new(work.clone(), n), own.take())).collect();
    let start = Instant::now();
    let started: Vec<_> = workers
        .into_iter()
        .map(|(worker, mut latencies)| {
            runtime.spawn(async move {
                worker.run(each, latencies.as_mut()).await;
                latencies
            })
        })
        .collect();
    runtime.block_on(async {
        for (task, latencies) in started.into_iter().zip(own) {
            *latencies = task.await.expect("a worker ends well");
        }
    });
    start.elapsed()
}

/// A runtime with two threads: what the targets are stated for.
pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts")
}

/// Where stores are measured.
pub fn folder() -> TempDir {
    let parent = std::env::var_os("CLOAKROOM_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new().prefix("cloakroom-bench").tempdir_in(parent).expect("a folder can be made")
}

/// A store in `folder`, with records `0..records`.
pub fn loaded(runtime: &Runtime, folder: &Path, records: u64) -> LogStore {
    let store = runtime.block_on(LogStore::open(folder, Options::default())).expect("the store opens");
    load(runtime, &store, 0, records, LIFETIME);
    store
}

/// Makes `count` records from number `first` up, and has the disk take them.
pub fn load(runtime: &Runtime, store: &LogStore, first: u64, count: u64, lifetime: Lifetime) {
    let store = store.at(cloakroom::Durability::Buffered);
    let loaders: Vec<_> = (0..LOADERS)
        .map(|loader| {
            let store = store.clone();
            runtime.spawn(async move {
                let mut values = Values::new();
                for number in (loader..count).step_by(usize::try_from(LOADERS).unwrap_or(1)) {
                    let key = SessionKey::from_bytes(records::id(first + number));
                    store.create_as(key, values.next(), lifetime).await.expect("a record is made");
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for loader in loaders {
            loader.await.expect("a loader ends well");
        }
        store.flush().await.expect("the store is flushed");
    });
}
