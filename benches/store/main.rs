//! What a [`LogStore`] costs: each operation, the mix a web server makes of them, opening; means by criterion, percentiles beside them.
//!
//! `cargo bench --bench store` runs everything, `cargo bench --bench store -- get` one group. `CLOAKROOM_BENCH_SESSIONS` is the number of sessions
//! (default 1,000,000), `CLOAKROOM_BENCH_DIR` the folder to make stores in (default: the temporary folder, which may be memory:
//! then nothing is learned about a disk). This compares the store with itself; `benches/peers` compares it with others.
//!
//! With more than one thread or task, criterion's time is the wall clock divided by all operations; the percentiles are of single
//! operations. A key is what an operation is given: hashing the token, which a server does once for each request, is measured by itself.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the real clock and copies real files")]
#![expect(clippy::expect_used, reason = "a benchmark that meets an error ends there and says so")]

mod measure;
mod open;
mod records;
mod work;

use std::cell::OnceCell;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom::{Durability, LogStore, SessionId};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use measure::Latencies;
use records::Keys;
use work::{Crew, LIFETIME, Mix, Op, SESSION_MIX, Target, Work};

const SESSIONS_DEFAULT: u64 = 1_000_000;
/// Sessions of their own for the touches that are all logged, and for the deletes.
const EXACT_SESSIONS: u64 = 100_000;
/// Operations whose latencies are taken one by one: of those that wait for no device, and of those that do.
const TIMED_OPS_FAST: u64 = 500_000;
const TIMED_OPS_SYNCED: u64 = 8_000;

const GET: Mix = &[(Op::Get, 1_000)];
const TOUCH: Mix = &[(Op::Touch, 1_000)];
const PUT: Mix = &[(Op::Put, 1_000)];
const CREATE: Mix = &[(Op::Create, 1_000)];
const SIGN_IN: Mix = &[(Op::SignIn, 1_000)];
const DELETE: Mix = &[(Op::Delete, 1_000)];

/// The store all groups but `open` work on, loaded when the first of them runs.
struct Bench {
    runtime: Runtime,
    sessions: u64,
    loaded: OnceCell<(TempDir, LogStore)>,
}

impl Bench {
    fn store(&self) -> LogStore {
        let loaded = || {
            let folder = work::folder();
            let store = work::loaded(&self.runtime, folder.path(), self.sessions);
            (folder, store)
        };
        self.loaded.get_or_init(loaded).1.clone()
    }

    fn uniform(&self) -> Keys {
        Keys::uniform(self.sessions)
    }
}

/// One benchmark: its latencies once, then criterion's loops.
struct Case<'a> {
    name: String,
    crew: Crew,
    timed_ops: u64,
    /// What is done on the loaded store; made when the benchmark is really run.
    work: &'a dyn Fn(&Bench) -> Work,
}

fn case(group: &mut BenchmarkGroup<'_, WallTime>, group_name: &str, bench: &Bench, case: &Case<'_>) {
    let made: OnceCell<Work> = OnceCell::new();
    group.throughput(Throughput::Elements(1)).sampling_mode(SamplingMode::Flat);
    group.bench_function(&case.name, |bencher| {
        let work = made.get_or_init(|| {
            let work = (case.work)(bench);
            let mut latencies = Latencies::new();
            work::run(&work, case.crew, case.timed_ops, Some(&mut latencies));
            latencies.print(&format!("{group_name}/{}", case.name));
            work
        });
        bencher.iter_custom(|ops| work::run(work, case.crew, ops, None));
    });
}

fn reads(criterion: &mut Criterion, bench: &Bench) {
    let mut group = criterion.benchmark_group("get");
    for threads in [1, 2] {
        for (draw, keys) in [("uniform", Keys::uniform as fn(u64) -> Keys), ("zipf 0.99", Keys::zipf)] {
            let work = move |bench: &Bench| Work {
                store: bench.store(),
                mix: GET,
                target: Target::Drawn(keys(bench.sessions)),
            };
            let name = format!("{draw}, threads {threads}");
            let crew = Crew::Threads(threads);
            case(&mut group, "get", bench, &Case { name, crew, timed_ops: TIMED_OPS_FAST, work: &work });
        }
    }
    let id = SessionId::random().expect("the system gives random numbers");
    group.bench_function("hash of a token", |bencher| bencher.iter(|| black_box(&id).key()));
    group.finish();
}

fn mixes(criterion: &mut Criterion, bench: &Bench) {
    let mut group = criterion.benchmark_group("mix");
    let buffered = |bench: &Bench| Work {
        store: bench.store().at(Durability::Buffered),
        mix: SESSION_MIX,
        target: Target::Drawn(bench.uniform()),
    };
    let defaults = |bench: &Bench| Work { store: bench.store(), ..buffered(bench) };
    let name = "buffered, threads 2".to_string();
    let crew = Crew::Threads(2);
    case(&mut group, "mix", bench, &Case { name, crew, timed_ops: TIMED_OPS_FAST, work: &buffered });
    let name = "default durabilities, tasks 64".to_string();
    let crew = Crew::Tasks(64);
    case(&mut group, "mix", bench, &Case { name, crew, timed_ops: TIMED_OPS_FAST, work: &defaults });
    group.finish();
}

fn writes(criterion: &mut Criterion, bench: &Bench) {
    let mut group = criterion.benchmark_group("write");
    let interval = Durability::Interval(Durability::INTERVAL_DEFAULT);
    let cases = [
        ("touch, coalesced", TOUCH, Durability::Buffered, Crew::Threads(1)),
        ("put buffered, threads 1", PUT, Durability::Buffered, Crew::Threads(1)),
        ("put buffered, threads 2", PUT, Durability::Buffered, Crew::Threads(2)),
        ("create buffered, threads 1", CREATE, Durability::Buffered, Crew::Threads(1)),
        ("sign in under a cap, threads 1", SIGN_IN, Durability::Buffered, Crew::Threads(1)),
        ("put interval, tasks 64", PUT, interval, Crew::Tasks(64)),
    ];
    for (name, mix, durability, crew) in cases {
        let work = move |bench: &Bench| Work {
            store: bench.store().at(durability),
            mix,
            target: Target::Drawn(bench.uniform()),
        };
        case(
            &mut group,
            "write",
            bench,
            &Case { name: name.into(), crew, timed_ops: TIMED_OPS_FAST, work: &work },
        );
    }
    for tasks in [1, 16, 64, 256] {
        let work = |bench: &Bench| Work {
            store: bench.store().at(Durability::Sync),
            mix: PUT,
            target: Target::Drawn(bench.uniform()),
        };
        let (name, crew) = (format!("put sync, tasks {tasks}"), Crew::Tasks(tasks));
        case(&mut group, "write", bench, &Case { name, crew, timed_ops: TIMED_OPS_SYNCED, work: &work });
    }
    group.finish();
}

/// Touches that are all logged, on sessions that opted out of coalescing.
fn exact_touches(criterion: &mut Criterion, bench: &Bench) {
    let mut group = criterion.benchmark_group("write");
    let work = |bench: &Bench| {
        work::load(&bench.runtime, &bench.store(), bench.sessions, EXACT_SESSIONS, LIFETIME.exact());
        let target = Target::Above(bench.sessions, Keys::uniform(EXACT_SESSIONS));
        Work { store: bench.store().at(Durability::Buffered), mix: TOUCH, target }
    };
    let name = "touch, logged".to_string();
    let crew = Crew::Threads(1);
    case(&mut group, "write", bench, &Case { name, crew, timed_ops: EXACT_SESSIONS, work: &work });
    group.finish();
}

/// Deletes: each batch is made first, and only its end is timed.
fn deletes(criterion: &mut Criterion, bench: &Bench) {
    let mut group = criterion.benchmark_group("write");
    group.throughput(Throughput::Elements(1)).sampling_mode(SamplingMode::Flat);
    let made = AtomicU64::new(bench.sessions + EXACT_SESSIONS);
    let next = Arc::new(AtomicU64::new(bench.sessions + EXACT_SESSIONS));
    for (name, durability, ops) in
        [("delete buffered", Durability::Buffered, EXACT_SESSIONS), ("delete sync", Durability::Sync, 1_000)]
    {
        let mut latencies = Some(Latencies::new());
        group.bench_function(name, |bencher| {
            let batch = |ops: u64, latencies: Option<&mut Latencies>| -> Duration {
                let first = made.fetch_add(ops, Ordering::Relaxed);
                work::load(&bench.runtime, &bench.store(), first, ops, LIFETIME);
                let store = bench.store().at(durability);
                let work = Work { store, mix: DELETE, target: Target::Next(Arc::clone(&next)) };
                work::run(&work, Crew::Threads(1), ops, latencies)
            };
            if let Some(mut latencies) = latencies.take() {
                batch(ops, Some(&mut latencies));
                latencies.print(&format!("write/{name}"));
            }
            bencher.iter_custom(|ops| batch(ops, None));
        });
    }
    group.finish();
}

fn main() {
    let sessions = std::env::var("CLOAKROOM_BENCH_SESSIONS").ok();
    let sessions = sessions.map_or(SESSIONS_DEFAULT, |text| text.parse().expect("a number of sessions"));
    let bench = Bench { runtime: work::runtime(), sessions, loaded: OnceCell::new() };
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    println!("each latency below includes {:.2?} for reading the clock", measure::clock_cost());
    reads(&mut criterion, &bench);
    mixes(&mut criterion, &bench);
    writes(&mut criterion, &bench);
    exact_touches(&mut criterion, &bench);
    deletes(&mut criterion, &bench);
    open::benches(&mut criterion, &bench.runtime, sessions);
    criterion.final_summary();
}
