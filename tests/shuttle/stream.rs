//! The log alone: who stages, the thread that writes and the thread that syncs.
//!
//! Property: everybody is answered exactly once; an answer at `Sync` comes when the record is in what a power cut leaves, one at `Interval` when
//! it is in what a killed process leaves; no group on disk claims that more was synced than is there. When a write or a sync fails, everybody is
//! told all the same, and what was acknowledged stays true. No waking depends on a timer.

use std::sync::Arc;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::thread::{self, JoinHandle};

use super::{below, explore, key, options, sync_failed};
use crate::clock::{StoreClock, Timestamp};
use crate::disk::Disk;
use crate::disk::sim::{Call, Fault, SimDisk};
use crate::format::{Body, RecordHeader, SegmentKind, segment_name};
use crate::id::{Position, SegmentId, Seq};
use crate::lifetime::Deadlines;
use crate::log::{Log, Outcome, Refused, Segment, Trust, claimed_behind, scan};
use crate::options::Durability;
use crate::sync::scheduled::timers;

/// Room for a few records: who stages more has to wait for the writer.
const LITTLE_ROOM_BYTES: u32 = 200;
const ROOM_BYTES: u32 = 64 << 10;

/// What is waited for.
const SOONER: [Durability; 2] = [Durability::Sync, Durability::Interval(Duration::from_millis(5))];

struct Stream {
    log: Arc<Log>,
    disk: SimDisk,
    active: Arc<Segment>,
    room_bytes: u32,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    fn start(room_bytes: u32) -> Arc<Self> {
        let disk = SimDisk::new(below(1 << 32));
        disk.create_folder().unwrap();
        let active =
            Segment::create(&disk, SegmentId(1), SegmentKind::Stream, [7; 16], 64 << 10, true).unwrap();
        disk.sync_folder().unwrap();
        let clock = Arc::new(StoreClock::start(options().0.clock, Timestamp::default(), None));
        let log = Arc::new(Log::new(clock, Arc::clone(&active), Seq(1), 64 << 10, room_bytes));
        let (writer, syncer) = (Arc::clone(&log), Arc::clone(&log));
        let threads =
            vec![thread::spawn(move || writer.run_writer()), thread::spawn(move || syncer.run_syncer())];
        Arc::new(Self { log, disk, active, room_bytes, threads })
    }

    /// Stages one record as the store does, and waits for its answer.
    fn write(&self, durability: Durability) -> Result<(Seq, Outcome), Refused> {
        let staged = {
            let deadlines = Deadlines {
                idle_ms: 1,
                absolute_at: Timestamp::MAX,
                expires_at: Timestamp::MAX,
                exact: true,
            };
            let mut header = RecordHeader::touch(key(1), Seq(1), deadlines);
            let mut room = block_on(self.log.room(header.len()))?;
            self.log.stage(&mut header, &Body::default(), durability, &mut room)?
        };
        let answer = staged
            .outcome
            .map_or(Ok(()), |outcome| block_on(outcome).expect("a waiter is told, not forgotten"));
        Ok((staged.seq, answer))
    }

    /// The numbers of the records that a disk holds, which must not claim that more was synced.
    fn found(&self, disk: &SimDisk) -> Vec<Seq> {
        let bytes = disk.contents(&segment_name(SegmentId(1))).unwrap();
        let mut found = Vec::new();
        let scanned = scan(&bytes, self.active.header(), Trust::Nothing, |placed| {
            found.push(placed.header.deadline_seq)
        });
        let end = Position { segment: SegmentId(1), offset: scanned.end };
        let claimed = claimed_behind([(&*bytes, self.active.header())], scanned.end);
        assert!(claimed.is_none_or(|claimed| claimed <= end), "{claimed:?} is said to be synced, {end:?} is");
        assert!(scanned.watermark <= end);
        assert!(found.is_sorted(), "out of order: {found:?}");
        found
    }

    fn assert_survives_power_loss(&self, seq: Seq) {
        let copy = self.disk.copy(below(1 << 32));
        copy.crash();
        assert!(self.found(&copy).contains(&seq), "{seq:?} was acknowledged, and a power cut took it");
    }

    fn assert_survives_kill(&self, seq: Seq) {
        let copy = self.disk.copy(below(1 << 32));
        // Asked behind the copy, since one may fail meanwhile.
        if sync_failed(&self.disk) {
            return;
        }
        copy.kill();
        assert!(self.found(&copy).contains(&seq), "{seq:?} was acknowledged, and a kill took it");
    }

    fn durability(&self) -> Durability {
        match usize::try_from(below(3)).unwrap() {
            // Records that nobody waits for gather until a timer says so, and hold their room meanwhile.
            2 if self.room_bytes == ROOM_BYTES => Durability::Buffered,
            at => SOONER[at % 2],
        }
    }

    /// A writer's life: a few records of each durability, each answer checked; says if the log failed.
    fn use_it(&self) -> bool {
        for _ in 0..3 {
            let durability = self.durability();
            match self.write(durability) {
                Ok((seq, Ok(()))) => match durability {
                    Durability::Sync => self.assert_survives_power_loss(seq),
                    Durability::Interval(_) => self.assert_survives_kill(seq),
                    Durability::Buffered => {}
                },
                Ok((_, Err(_))) | Err(Refused::Poisoned(_)) => return true,
                Err(refused) => panic!("refused: {refused:?}"),
            }
        }
        false
    }

    /// A barrier: what was staged before it is durable after it; says if the log failed.
    fn flush(&self) -> bool {
        let before = self.write(self.durability());
        let Ok((seq, _)) = before else { return true };
        let Ok(barrier) = self.log.barrier() else { return true };
        let answer = block_on(barrier).expect("a waiter is told, not forgotten");
        if answer.is_ok() {
            self.assert_survives_power_loss(seq);
        }
        answer.is_err()
    }

    /// Says what time it is, if there is room for that; no failure of its own.
    fn mark(&self) -> bool {
        let _ = self.log.mark_time();
        false
    }

    /// Writers at once; says if one of them met a failure.
    fn run(self: &Arc<Self>) -> bool {
        let lives: [fn(&Self) -> bool; 4] = [Self::use_it, Self::use_it, Self::flush, Self::mark];
        let spawn = |life: fn(&Self) -> bool| {
            let stream = Arc::clone(self);
            thread::spawn(move || life(&stream))
        };
        let writers: Vec<_> = lives.into_iter().map(spawn).collect();
        writers.into_iter().fold(false, |failed, writer| writer.join().unwrap() | failed)
    }

    fn stop(self: Arc<Self>) {
        self.log.stop();
        let Ok(stream) = Arc::try_unwrap(self) else { panic!("somebody still writes") };
        for thread in stream.threads {
            thread.join().unwrap();
        }
    }
}

/// Writers at once, and nothing fails.
fn answered_and_kept(room_bytes: u32, timers_left: u32) {
    timers(timers_left);
    let stream = Stream::start(room_bytes);
    assert!(!stream.run(), "nothing failed, and somebody was told so");
    stream.log.settle().unwrap();
    stream.assert_survives_power_loss(stream.log.last_seq());
    stream.stop();
}

#[test]
fn everybody_is_answered_once_and_what_was_acknowledged_is_kept() {
    explore(2_000, || answered_and_kept(ROOM_BYTES, 0));
}

#[test]
fn who_waits_for_room_gets_it_when_the_writer_has_written() {
    explore(2_000, || answered_and_kept(LITTLE_ROOM_BYTES, 0));
}

/// Who gathers, and who is due, is woken early by nobody.
#[test]
fn timers_that_fire_at_any_moment_change_no_answer() {
    explore(1_000, || answered_and_kept(ROOM_BYTES, 4));
}

#[test]
fn failed_write_or_sync_is_told_to_everybody_who_waits_and_to_who_comes_later() {
    explore(3_000, || {
        timers(0);
        let stream = Stream::start([ROOM_BYTES, LITTLE_ROOM_BYTES][usize::try_from(below(2)).unwrap()]);
        let call = if below(2) == 0 { Call::Write } else { Call::Sync };
        stream.disk.fail_call_of(call, 1 + below(4), Fault::Eio);
        let failed = stream.run();
        let poisoned = stream.log.poisoned().is_some();
        assert!(!failed || poisoned, "somebody was told of a failure that the log knows nothing of");
        if poisoned {
            assert!(matches!(stream.write(Durability::Buffered), Err(Refused::Poisoned(_))));
            assert!(matches!(stream.log.barrier(), Err(Refused::Poisoned(_))));
        }
        stream.stop();
    });
}
