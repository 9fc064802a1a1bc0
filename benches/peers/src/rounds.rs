//! The works, each for a fixed time in a closed loop, on threads or on tasks, and what came out of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::runtime::{Builder, Runtime};

use crate::peer::{Op, Peer};
use crate::records::{self, Keys, SEED, Values};

/// How long a work runs; long enough for several of everything that happens in the background.
const WORK_TIME: Duration = Duration::from_secs(2);
/// Operations between two looks at the clock, where an operation is fast.
const BATCH: u64 = 32;
/// Writers of the durable work.
const SYNC_WRITERS: u64 = 64;

/// What is drawn, in shares of a thousand.
type Mix = &'static [(Op, u32)];

const GET: Mix = &[(Op::Get, 1_000)];
const PUT: Mix = &[(Op::Put, 1_000)];
const PUT_SYNC: Mix = &[(Op::PutSync, 1_000)];
const SESSION_MIX: Mix = &[(Op::Get, 900), (Op::Touch, 80), (Op::Put, 15), (Op::Create, 3), (Op::Delete, 2)];

/// Operations a second, by work and peer, one for each round; both in the order in which they first ran.
#[derive(Default)]
pub struct Figures {
    pub works: Vec<&'static str>,
    pub peers: Vec<&'static str>,
    pub rates: BTreeMap<(&'static str, &'static str), Vec<f64>>,
}

impl Figures {
    fn add(&mut self, work: &'static str, peer: &'static str, rate: f64) {
        for (names, name) in [(&mut self.works, work), (&mut self.peers, peer)] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        self.rates.entry((work, peer)).or_default().push(rate);
    }
}

/// What all peers get alike.
pub struct Plan {
    sessions: u64,
    uniform: Keys,
    zipf: Keys,
}

impl Plan {
    pub fn new(sessions: u64) -> Self {
        Self { sessions, uniform: Keys::uniform(sessions), zipf: Keys::zipf(sessions) }
    }
}

/// All works on one peer.
pub fn run<P: Peer>(plan: &Plan, folder: &Path, figures: &mut Figures) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let peer = Arc::new(runtime.block_on(P::open(folder)));
    figures.add("load, 1 thread", P::NAME, load(&*peer, plan.sessions));
    let works = [
        ("get uniform, 1 thread", GET, &plan.uniform, 1),
        ("get uniform, 2 threads", GET, &plan.uniform, 2),
        ("get zipf 0.99, 1 thread", GET, &plan.zipf, 1),
        ("get zipf 0.99, 2 threads", GET, &plan.zipf, 2),
        ("session mix, 2 threads", SESSION_MIX, &plan.uniform, 2),
        ("put buffered, 2 threads", PUT, &plan.uniform, 2),
    ];
    for (work, mix, keys, workers) in works {
        figures.add(work, P::NAME, threads(&peer, mix, keys, workers, BATCH));
    }
    if P::DURABLE {
        peer.durable_from_here();
        let rate = if P::BLOCKS {
            threads(&peer, PUT_SYNC, &plan.uniform, SYNC_WRITERS, 1)
        } else {
            tasks(&runtime, &peer, PUT_SYNC, &plan.uniform)
        };
        figures.add("put sync, 64 writers", P::NAME, rate);
    }
    let peer = Arc::into_inner(peer).expect("all workers are done");
    runtime.block_on(peer.close());
}

fn load<P: Peer>(peer: &P, sessions: u64) -> f64 {
    let mut values = Values::new();
    let start = Instant::now();
    single().block_on(async {
        for number in 0..sessions {
            peer.run(Op::Create, records::id(number), values.next()).await;
        }
    });
    rate(sessions, start.elapsed())
}

fn single() -> Runtime {
    Builder::new_current_thread().build().expect("a runtime starts")
}

/// Workers with a thread each.
fn threads<P: Peer>(peer: &Arc<P>, mix: Mix, keys: &Keys, workers: u64, batch: u64) -> f64 {
    let start = Instant::now();
    let done = std::thread::scope(|scope| {
        let started: Vec<_> = (0..workers)
            .map(|number| {
                let worker = Worker::new(Arc::clone(peer), mix, keys.clone(), number);
                scope.spawn(move || single().block_on(worker.work(batch)))
            })
            .collect();
        started.into_iter().map(|thread| thread.join().expect("a worker ends well")).sum()
    });
    rate(done, start.elapsed())
}

/// Workers that are tasks on two threads.
fn tasks<P: Peer>(runtime: &Runtime, peer: &Arc<P>, mix: Mix, keys: &Keys) -> f64 {
    let workers: Vec<_> =
        (0..SYNC_WRITERS).map(|n| Worker::new(Arc::clone(peer), mix, keys.clone(), n)).collect();
    let start = Instant::now();
    let started: Vec<_> = workers.into_iter().map(|worker| runtime.spawn(worker.work(1))).collect();
    let done = runtime.block_on(async {
        let mut done = 0;
        for task in started {
            done += task.await.expect("a worker ends well");
        }
        done
    });
    rate(done, start.elapsed())
}

#[expect(clippy::cast_precision_loss, reason = "operation counts are far below 2^52")]
fn rate(ops: u64, took: Duration) -> f64 {
    ops as f64 / took.as_secs_f64()
}

struct Worker<P> {
    peer: Arc<P>,
    mix: Mix,
    keys: Keys,
    rng: SmallRng,
    values: Values,
    /// What this worker deleted: its next creates make these again, so that the set stays as large as it was.
    deleted: Vec<u64>,
    found: u64,
}

impl<P: Peer> Worker<P> {
    fn new(peer: Arc<P>, mix: Mix, keys: Keys, number: u64) -> Self {
        let rng = SmallRng::seed_from_u64(SEED + number);
        Self { peer, mix, keys, rng, values: Values::new(), deleted: Vec::new(), found: 0 }
    }

    async fn step(&mut self) {
        let mut share = self.rng.random_range(0..1_000);
        let mut op = self.mix[0].0;
        for (drawn, part) in self.mix {
            if share < *part {
                op = *drawn;
                break;
            }
            share -= part;
        }
        let number = match op {
            Op::Create => self.deleted.pop().unwrap_or_else(|| self.rng.random()),
            _ => self.keys.draw(&mut self.rng),
        };
        let value =
            if matches!(op, Op::Get | Op::Touch | Op::Delete) { Bytes::new() } else { self.values.next() };
        let found = self.peer.run(op, records::id(number), value).await;
        if found && op == Op::Delete {
            self.deleted.push(number);
        }
        self.found += u64::from(found);
    }

    /// Works until the time is over, and gives how much was done.
    async fn work(mut self, batch: u64) -> u64 {
        let (start, mut done) = (Instant::now(), 0);
        while start.elapsed() < WORK_TIME {
            for _ in 0..batch {
                self.step().await;
            }
            done += batch;
        }
        assert!(done < 1_000 || self.found * 10 >= done * 9, "only {} of {done} met a session", self.found);
        done
    }
}
