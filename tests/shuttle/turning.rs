//! A store with its own threads whose writers need one segment after another: room in memory, the next segment, the keeper that makes it, and
//! compaction behind them.
//!
//! Property: every write ends; an acknowledged one is what a power cut leaves (at `Sync`) and what a close leaves (at any durability); one that was
//! refused for want of a segment did not happen. When the segment cannot be made, nobody waits for it for ever. Nothing depends on a timer.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::thread;

use super::{after_kill, after_power_loss, below, explore, hour, key, linger, options, sync_failed};
use crate::disk::sim::{Call, Fault, SimDisk};
use crate::sync::scheduled::timers;
use crate::{Access, Durability, Error, LogStore, Options, SessionStore as _};

/// Three writers' records fill a segment and more, and more than may wait to be written.
const WRITERS: u32 = 3;
const PAYLOAD_BYTES: usize = 8 << 10;

/// Less than the writers have to write.
const LITTLE_ROOM_BYTES: u32 = 64 << 10;

const DURABILITIES: [Durability; 3] =
    [Durability::Sync, Durability::Interval(Durability::INTERVAL_DEFAULT), Durability::Buffered];

/// How each of a writer's sessions ended up: `Some` is the number last acknowledged, `None` if that is not known.
type Ends = Vec<(u32, Option<u8>)>;

fn room(mut options: Options) -> Options {
    options.unwritten_bytes_max = if below(2) == 0 { LITTLE_ROOM_BYTES } else { 16 * LITTLE_ROOM_BYTES };
    options
}

fn open(disk: &SimDisk, options: &Options) -> LogStore {
    block_on(LogStore::open_on(Arc::new(disk.clone()), options.clone())).unwrap()
}

/// Writes one session after another, four at a time, and then the first of them again.
fn writer(store: &LogStore, disk: &SimDisk, options: &Options, number: u32, may_fail: bool) -> Ends {
    // Records that nobody waits for gather until a timer says so, and hold their room meanwhile.
    let choices = if options.unwritten_bytes_max > LITTLE_ROOM_BYTES { 3 } else { 2 };
    let durability = DURABILITIES[usize::try_from(below(choices)).unwrap()];
    let store = store.at(durability);
    let put = |n: u32, byte: u8| store.upsert(key(n), vec![byte; PAYLOAD_BYTES].into(), hour());
    let first = number * 10;
    let answers = block_on(async {
        let (a, b, c, d) =
            tokio::join!(put(first, 1), put(first + 1, 1), put(first + 2, 1), put(first + 3, 1));
        [a, b, c, d, put(first, 2).await]
    });
    let mut ends: Ends = (first..first + 4).map(|n| (n, Some(0))).collect();
    for ((n, byte), answer) in [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2)].into_iter().zip(answers) {
        let end = &mut ends[n].1;
        match answer {
            Ok(_) => *end = Some(byte),
            Err(Error::DiskFull | Error::Io { .. }) if may_fail => {}
            Err(Error::DurabilityUnknown { .. } | Error::Poisoned { .. }) if may_fail => *end = None,
            Err(error) => panic!("session {n}: {error}"),
        }
    }
    match durability {
        Durability::Sync if below(4) == 0 => check(&after_power_loss(disk, options), &ends),
        Durability::Interval(_) if below(4) == 0 => {
            let killed = after_kill(disk, options);
            // Asked behind the copy, since one may fail meanwhile.
            if !sync_failed(disk) {
                check(&killed, &ends);
            }
        }
        _ => {}
    }
    ends
}

/// Whether the store has of each session what was acknowledged last.
fn check(store: &LogStore, ends: &Ends) {
    for (n, end) in ends {
        let Some(byte) = end else { continue };
        let found = block_on(store.get(key(*n), Access::Peek)).unwrap();
        let found = found.map_or(0, |stored| stored.payload[0]);
        assert_eq!(found, *byte, "session {n}");
    }
}

/// The writers at once; says how the sessions ended.
fn write(store: &LogStore, disk: &SimDisk, options: &Options, may_fail: bool) -> Ends {
    let spawn = |number| {
        let (store, disk, options) = (store.clone(), disk.clone(), options.clone());
        thread::spawn(move || {
            linger(20);
            writer(&store, &disk, &options, number, may_fail)
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(spawn).collect();
    writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
}

#[test]
fn writers_that_fill_segments_all_end_and_a_close_keeps_what_they_wrote() {
    explore(1_000, || {
        timers(0);
        let options = room(options().0);
        let disk = SimDisk::new(below(1 << 32));
        let store = open(&disk, &options);
        let ends = write(&store, &disk, &options, false);
        check(&store, &ends);
        block_on(store.close()).unwrap();
        check(&after_power_loss(&disk, &options), &ends);
    });
}

#[test]
fn segment_that_cannot_be_made_refuses_who_needs_it_and_hangs_nobody() {
    explore(1_000, || {
        timers(2);
        let options = room(options().0);
        let disk = SimDisk::new(below(1 << 32));
        let store = open(&disk, &options);
        let call = [Call::Create, Call::SyncFolder, Call::Rename, Call::Sync, Call::Write];
        let fault = if below(2) == 0 { Fault::Eio } else { Fault::Enospc };
        let (call, first) = (call[usize::try_from(below(5)).unwrap()], 1 + below(4));
        (first..=first + below(4)).for_each(|n| disk.fail_call_of(call, n, fault));
        let ends = write(&store, &disk, &options, true);
        check(&store, &ends);
        let closed = block_on(store.close());
        // What follows from a close that failed is for the durability of each write to say.
        if closed.is_ok() {
            check(&after_power_loss(&disk, &options), &ends);
        }
    });
}
