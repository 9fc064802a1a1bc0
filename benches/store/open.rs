//! Opening a store with many sessions, to the first `get`: after a clean end, and after none.
//!
//! An unclean end is a copy of the folder taken while the store is open: what a killed process leaves behind. The files are in the page
//! cache, as they are when a server restarts; a machine that restarts reads them from the device as well.

use std::cell::OnceCell;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use cloakroom::{Access, LogStore, Options, SessionKey, SessionStore as _};
use criterion::{Criterion, SamplingMode};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::measure::Latencies;
use crate::{records, work};

pub fn benches(criterion: &mut Criterion, runtime: &Runtime, records: u64) {
    let mut group = criterion.benchmark_group("open");
    group.sampling_mode(SamplingMode::Flat);
    let name = |kind: &str| format!("{records} sessions after {kind}");

    let mut latencies = Latencies::new();
    let closed = OnceCell::new();
    group.bench_function(name("close"), |bencher| {
        let folder: &TempDir = closed.get_or_init(|| {
            let folder = work::folder();
            let store = work::loaded(runtime, folder.path(), records);
            runtime.block_on(store.close()).expect("the store closes");
            folder
        });
        bencher.iter_custom(|rounds| (0..rounds).map(|_| open(runtime, folder.path(), &mut latencies)).sum());
    });
    report(&closed, &latencies, &name("close"));
    drop(closed);

    let mut latencies = Latencies::new();
    let running = OnceCell::new();
    group.bench_function(name("an unclean end"), |bencher| {
        let (folder, _store): &(TempDir, LogStore) = running.get_or_init(|| {
            let folder = work::folder();
            let store = work::loaded(runtime, folder.path(), records);
            (folder, store)
        });
        bencher.iter_custom(|rounds| {
            let copied = |_| {
                let copy = work::folder();
                copy_files(folder.path(), copy.path()).expect("the folder can be copied");
                open(runtime, copy.path(), &mut latencies)
            };
            (0..rounds).map(copied).sum()
        });
    });
    report(&running, &latencies, &name("an unclean end"));
    group.finish();
}

fn report<T>(ran: &OnceCell<T>, latencies: &Latencies, name: &str) {
    if ran.get().is_some() {
        latencies.print(&format!("open/{name}"));
    }
}

/// Opens, reads one session, closes; gives the time to the end of the read.
fn open(runtime: &Runtime, folder: &Path, latencies: &mut Latencies) -> Duration {
    runtime.block_on(async {
        let start = Instant::now();
        let store = LogStore::open(folder, Options::default()).await.expect("the store opens");
        let read = store.get(SessionKey::from_bytes(records::id(0)), Access::Peek).await;
        let took = start.elapsed();
        assert!(read.expect("the store answers").is_some(), "the first session is there");
        latencies.add(took);
        store.close().await.expect("the store closes");
        took
    })
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copied = fs::copy(entry.path(), to.join(entry.file_name()));
        // Compaction goes on meanwhile, and may remove a file that was listed.
        copied.map(drop).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
    }
    Ok(())
}
