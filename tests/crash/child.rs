//! The process that is killed: tasks that write to one store and say what was acknowledged.
//!
//! Invariant: a session belongs to one task, so its operations are in order; a line is printed whole, the beginning before the operation
//! starts and the end after it was acknowledged.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Durability, Lifetime, LogStore, Options, ReadMode, SessionKey, SessionStore, When};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

const TASKS: u64 = 8;
const KEYS_OF_A_TASK: u64 = 40;

/// Long enough that nothing expires meanwhile.
const LIFETIME: Lifetime = Lifetime::idle(Duration::from_secs(24 * 3_600));

/// The end of a process that nobody kills.
const OPERATIONS_MAX: usize = 1_000_000;

/// Small segments, so that they turn and are compacted all the time; read as `CLOAKROOM_READ_MODE` says.
pub fn options() -> Options {
    let read_mode = match std::env::var("CLOAKROOM_READ_MODE").as_deref() {
        Ok("pread") => ReadMode::Pread,
        _ => ReadMode::Mapped,
    };
    Options {
        segment_bytes: 256 << 10,
        payload_bytes_max: 8_192,
        footers_from: 0,
        read_mode,
        ..Options::default()
    }
}

pub fn key(number: u64) -> SessionKey {
    SessionKey::of(&number.to_le_bytes())
}

/// A payload that is made of a number and nothing else.
fn payload(number: u64, len: usize) -> Bytes {
    number.to_le_bytes().iter().copied().cycle().take(8 * len.max(1)).collect()
}

/// The number that a payload is made of, all through.
pub fn number_in(payload: &[u8]) -> u64 {
    let (words, rest) = payload.as_chunks::<8>();
    assert!(rest.is_empty() && words.iter().all(|word| *word == words[0]), "a payload is torn");
    u64::from_le_bytes(words[0])
}

/// Writes until it is killed; all of it at `Sync`, if that is asked for.
pub fn run(folder: &str, life: u64, seed: u64, sync: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let patience = Duration::from_secs(30);
        let store = Arc::new(LogStore::open_wait(folder, options(), patience).await.unwrap());
        let tasks: Vec<_> =
            (0..TASKS).map(|task| tokio::spawn(write(Arc::clone(&store), life, task, seed, sync))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn write(store: Arc<LogStore>, life: u64, task: u64, seed: u64, sync: bool) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_mul(1_000_003) ^ (life * TASKS + task));
    for operation in 1..OPERATIONS_MAX {
        let own = task * KEYS_OF_A_TASK + rng.random_range(0..KEYS_OF_A_TASK);
        let durability = match rng.random_range(0..4) {
            0 => Durability::Sync,
            _ if sync => Durability::Sync,
            _ => Durability::Interval(Durability::INTERVAL_DEFAULT),
        };
        let store = store.at(durability);
        let delete = rng.random_bool(0.2);
        // Unlike every number of another life or operation, and never 0.
        let number = if delete { 0 } else { (life + 1) << 32 | operation as u64 };
        say('b', own, number);
        if delete {
            store.delete(key(own)).await.unwrap();
        } else {
            let payload = payload(number, rng.random_range(0..256));
            store.write(key(own), payload, When::Always(LIFETIME)).await.unwrap();
        }
        say('a', own, number);
    }
}

fn say(what: char, key: u64, number: u64) {
    let mut out = std::io::stdout().lock();
    // The parent that reads is gone only when the test is over.
    let _ = out.write_all(format!("{what} {key} {number};\n").as_bytes());
    let _ = out.flush();
}
