//! What a repair keeps, one case at a time: it fails closed, and it is not empty.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::Disk;
use cloakroom::disk::sim::{Call, Fault, SimDisk};
use cloakroom::{
    Access, Durability, Error, Lifetime, LogStore, ManualClock, Options, Recovery, SessionKey, SessionStore,
    Timestamp, When,
};

use super::{files, is_segment, open, proven, read_only, salvage, verify};
use crate::stores::defaults;
use crate::support::life::drive;

const DAY: Lifetime = Lifetime::idle(Duration::from_secs(86_400));

/// A store whose every life has a segment of its own, closed; what is damaged is found by the payload.
struct Lives {
    disk: SimDisk,
    options: Options,
    clock: Arc<ManualClock>,
}

impl Lives {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let options = Options {
            segment_bytes: 64 << 10,
            payload_bytes_max: 4_096,
            clock: Arc::clone(&clock) as Arc<dyn cloakroom::Clock>,
            ..Options::default()
        };
        Self { disk: SimDisk::new(3), options, clock }
    }

    fn live<T>(&self, life: impl FnOnce(&LogStore) -> T) -> T {
        let store = open(&self.disk, &self.options).unwrap().at(Durability::Sync);
        let answer = life(&store);
        drive(&store, store.close()).unwrap().unwrap();
        answer
    }

    /// Turns a bit, so many bytes from where a payload stands.
    #[track_caller]
    fn damage(&self, payload: u8, from: i64) -> (String, u64) {
        let mark = marked(payload);
        for name in self.disk.names().into_iter().filter(|name| !name.starts_with("quarantine")) {
            let bytes = self.disk.contents(&name).unwrap();
            if let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
                let at = u64::try_from(i64::try_from(at).unwrap() + from).unwrap();
                self.disk.flip_bit(&name, at, 2).unwrap();
                return (name, at);
            }
        }
        panic!("there is no payload {payload}");
    }

    /// Which of the sessions 0 to 9 are certain, and are what a salvage keeps.
    #[track_caller]
    fn kept(&self) -> Vec<u8> {
        assert!(open(&self.disk, &self.options).is_err(), "nothing is damaged");
        let certain = proven(&self.disk, &self.options, &[]);
        let done = salvage(&self.disk, &self.options).unwrap();
        assert_eq!(done.sessions_kept, certain.len() as u64);
        let store = open(&self.disk, &self.options).unwrap();
        let found: Vec<_> = (0..10).filter(|n| get(&store, *n).is_some()).collect();
        assert_eq!(found, (0..10).filter(|n| certain.contains_key(&key(*n))).collect::<Vec<_>>());
        found
    }
}

fn marked(n: u8) -> Bytes {
    Bytes::from(vec![0xA0 + n; 300])
}

fn key(n: u8) -> SessionKey {
    SessionKey::of(&[n])
}

fn get(store: &LogStore, n: u8) -> Option<Bytes> {
    drive(store, store.get(key(n), Access::Peek)).unwrap().unwrap().map(|stored| stored.payload)
}

/// Session `n` with payload `payload`.
fn put(store: &LogStore, n: u8, payload: u8) {
    drive(store, store.upsert(key(n), marked(payload), DAY)).unwrap().unwrap();
}

/// From a payload to the record's header before it, and to that of its group.
const RECORD: i64 = -96;
const GROUP: i64 = -96 - 48;

/// Three lives: 0 to 3, each in a group of its own, then 3 to 5, then 6.
fn three_lives() -> Lives {
    let lives = Lives::new();
    lives.live(|store| (0..4).for_each(|n| put(store, n, n)));
    lives.live(|store| (3..6).for_each(|n| put(store, n, n + 4)));
    lives.live(|store| put(store, 6, 0));
    lives
}

#[test]
fn headers_of_a_group_and_of_its_record_hide_together_whom_they_were_about() {
    let lives = three_lives();
    lives.damage(1, GROUP);
    lives.damage(1, RECORD);
    // What stood there may have ended those that are older.
    assert_eq!(lives.kept(), [2, 3, 4, 5, 6]);
}

#[test]
fn header_of_a_segments_last_group_costs_nobody() {
    let lives = three_lives();
    lives.damage(9, GROUP);
    assert_eq!(lives.kept(), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn damaged_payload_costs_that_session_alone() {
    let lives = three_lives();
    lives.damage(1, 150);
    assert_eq!(lives.kept(), [0, 2, 3, 4, 5, 6]);
}

#[test]
fn damaged_payload_of_the_newest_version_does_not_bring_an_older_one_back() {
    let lives = three_lives();
    lives.damage(7, 10);
    assert_eq!(lives.kept(), [0, 1, 2, 4, 5, 6]);
}

#[test]
fn damaged_payload_of_an_older_version_costs_nobody() {
    let lives = three_lives();
    lives.damage(3, 10);
    assert_eq!(lives.kept(), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn damaged_record_costs_those_who_were_last_written_before_it() {
    let lives = three_lives();
    lives.damage(2, RECORD + 10);
    // What was there may have been a delete of any of them; session 3 was written after it, and again.
    assert_eq!(lives.kept(), [3, 4, 5, 6]);
    let lives = three_lives();
    lives.damage(8, RECORD);
    assert_eq!(lives.kept(), [5, 6]);
}

#[test]
fn damaged_header_of_a_group_or_a_segment_costs_nobody() {
    let lives = three_lives();
    lives.damage(2, GROUP + 9);
    let segment = lives.damage(0, GROUP).0;
    lives.disk.flip_bit(&segment, 20, 1).unwrap();
    assert_eq!(lives.kept(), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn damage_in_the_last_record_costs_everybody_whom_it_may_have_ended() {
    let lives = three_lives();
    lives.live(|store| drop(drive(store, store.delete(key(4)))));
    let names = lives.disk.names();
    let last = names.iter().rfind(|name| is_segment(name)).unwrap();
    let len = lives.disk.contents(last).unwrap().len() as u64;
    lives.disk.flip_bit(last, len - 90, 1).unwrap();
    assert_eq!(lives.kept(), [0_u8; 0]);
}

#[test]
fn missing_segment_costs_those_who_were_not_written_since() {
    for (nth, kept) in [(0, vec![3, 4, 5, 6]), (1, vec![6]), (2, vec![])] {
        let lives = three_lives();
        let names = lives.disk.names();
        let segments: Vec<_> = names.iter().filter(|name| is_segment(name)).collect();
        assert_eq!(segments.len(), 3);
        cloakroom::disk::Disk::remove(&lives.disk, segments[nth]).unwrap();
        assert_eq!(lives.kept(), kept, "segment {nth}");
    }
}

#[test]
fn touch_after_the_damage_proves_the_content_that_it_names() {
    let lives = three_lives();
    lives.clock.advance(Duration::from_secs(50_000));
    lives.live(|store| {
        assert!(drive(store, store.touch(key(0))).unwrap().unwrap());
        put(store, 7, 1);
    });
    lives.damage(2, RECORD + 3);
    assert_eq!(lives.kept(), [0, 3, 4, 5, 6, 7]);
}

#[test]
fn touch_of_a_content_that_is_lost_brings_no_older_one_back() {
    let lives = three_lives();
    lives.live(|store| {
        put(store, 0, 10);
        put(store, 7, 1);
    });
    lives.clock.advance(Duration::from_secs(50_000));
    lives.live(|store| {
        assert!(drive(store, store.touch(key(0))).unwrap().unwrap());
    });
    // The newest content of the session that is touched later.
    lives.damage(10, RECORD + 3);
    let kept = lives.kept();
    assert!(!kept.contains(&0), "{kept:?}");
}

#[test]
fn shorter_lifetime_that_is_lost_ends_the_session() {
    let lives = three_lives();
    let short = Lifetime::idle(Duration::from_secs(60));
    lives.live(|store| {
        put(store, 7, 5);
        assert!(drive(store, store.set_lifetime(key(0), short)).unwrap().unwrap());
        put(store, 8, 1);
    });
    // The record before the one with this payload: a header alone, and a group's before the record.
    let (file, at) = lives.damage(5, 300 + 48 + 70);
    assert!(lives.disk.contents(&file).unwrap().len() as u64 > at);
    assert_eq!(lives.kept(), [8]);
}

#[test]
fn rotation_that_is_lost_leaves_neither_key() {
    for from in [RECORD + 5, 40] {
        let lives = three_lives();
        let id = lives.live(|store| {
            let id = drive(store, store.rotate(key(4))).unwrap().unwrap().unwrap();
            put(store, 7, 9);
            id
        });
        // The rotated session's payload stands twice: the last place is the rotation's.
        let names = lives.disk.names();
        let last = names.iter().rfind(|name| is_segment(name)).unwrap();
        let bytes = lives.disk.contents(last).unwrap();
        let at = bytes.windows(300).position(|window| window == marked(8)).unwrap();
        // Its body begins with the old key.
        let header = i64::try_from(at).unwrap() - 40 - 96;
        lives.disk.flip_bit(last, u64::try_from(header + 96 + from.min(30)).unwrap(), 1).unwrap();
        assert_eq!(lives.kept(), [7]);
        let store = open(&lives.disk, &lives.options).unwrap();
        assert!(drive(&store, store.get(id.key(), Access::Peek)).unwrap().unwrap().is_none());
    }
}

#[test]
fn deleted_session_does_not_come_back_when_its_tombstone_is_damaged() {
    let lives = three_lives();
    lives.live(|store| {
        put(store, 7, 5);
        assert!(drive(store, store.delete(key(0))).unwrap().unwrap());
        put(store, 8, 1);
    });
    lives.damage(5, 300 + 48 + 30);
    assert_eq!(lives.kept(), [8]);
}

#[test]
fn every_damaged_place_is_reported_with_its_offset() {
    let lives = three_lives();
    let one = lives.damage(1, 7);
    let two = lives.damage(9, RECORD + 50);
    let report = verify(&lives.disk, &lives.options);
    let places: Vec<_> = report.damage.iter().map(|d| (d.file.clone(), d.offset)).collect();
    assert_eq!(places, [(one.0, one.1 - 7 - 96), (two.0, two.1 - 50)]);
    assert_eq!((report.damaged_places, report.records_lost, report.torn_bytes), (2, 2, 0));
    assert_eq!((report.segments, report.records, report.sessions), (3, 6, 1));
    assert!(report.sessions_in_doubt > 0);
}

#[test]
fn numbers_and_ids_are_not_used_again_after_a_salvage() {
    let lives = three_lives();
    let before =
        lives.live(|store| drive(store, store.write(key(9), marked(6), When::Always(DAY))).unwrap().unwrap());
    let names = lives.disk.names();
    lives.damage(6, 3);
    salvage(&lives.disk, &lives.options).unwrap();
    lives.live(|store| {
        let after = drive(store, store.write(key(9), marked(6), When::Always(DAY))).unwrap().unwrap();
        assert!(after > before, "{after:?} after {before:?}");
    });
    let last = names.iter().rfind(|name| is_segment(name)).unwrap();
    let new: Vec<_> = lives.disk.names().into_iter().filter(|name| is_segment(name)).collect();
    assert!(new.iter().filter(|name| !name.starts_with("quarantine")).all(|name| name > last), "{new:?}");
}

#[test]
fn salvaged_store_is_damaged_and_salvaged_again() {
    let lives = three_lives();
    lives.damage(1, 150);
    assert_eq!(lives.kept(), [0, 2, 3, 4, 5, 6]);
    lives.live(|store| put(store, 7, 9));
    lives.damage(2, 100);
    assert_eq!(lives.kept(), [0, 3, 4, 5, 6, 7]);
    let turns = |turn: &str| lives.disk.names().iter().filter(|name| name.starts_with(turn)).count();
    assert!(turns("quarantine-0001-") >= 4 && turns("quarantine-0002-") >= 2, "{:?}", lives.disk.names());
}

#[test]
fn read_only_store_expires_at_the_instant_and_touches_nobody() {
    let lives = three_lives();
    lives.live(|store| {
        let minute = Lifetime::idle(Duration::from_secs(60)).exact();
        drive(store, store.upsert(key(7), marked(7), minute)).unwrap().unwrap();
    });
    let before = files(&lives.disk);
    let store = read_only(&lives.disk, &lives.options);
    lives.clock.advance(Duration::from_secs(59));
    assert!(get(&store, 7).is_some());
    let touched = drive(&store, store.get(key(7), Access::Touch)).unwrap();
    assert!(matches!(touched, Err(Error::ReadOnly)), "{touched:?}");
    let refused = drive(&store, store.delete(key(7))).unwrap();
    assert!(matches!(refused, Err(Error::ReadOnly)), "{refused:?}");
    lives.clock.advance(Duration::from_secs(1));
    assert!(get(&store, 7).is_none());
    assert!(get(&store, 6).is_some());
    (0..5).for_each(|_| store.step());
    assert!(open(&lives.disk, &lives.options).is_err(), "the lock is held");
    drop(store);
    assert!(files(&lives.disk) == before);
}

#[test]
fn block_that_a_device_cannot_read_once_costs_nobody() {
    let lives = three_lives();
    let reads = lives.disk.calls_of(Call::Read);
    assert!(verify(&lives.disk, &lives.options).is_sound());
    for n in 1..=lives.disk.calls_of(Call::Read) - reads {
        let copy = lives.disk.copy(n);
        copy.fail_call_of(Call::Read, n, Fault::Eio);
        let report = verify(&copy, &lives.options);
        assert!(report.is_sound() && report.sessions == 7, "read {n}: {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_store_in_a_real_folder_is_verified_read_and_salvaged() {
    let folder = tempfile::tempdir().unwrap();
    let options = || Options { segment_bytes: 1 << 20, payload_bytes_max: 4_096, ..defaults() };
    let store = LogStore::open(folder.path(), options()).await.unwrap();
    for n in 0..10 {
        store.upsert(key(n), marked(n), DAY).await.unwrap();
    }
    store.close().await.unwrap();
    let sound = LogStore::salvage(folder.path(), options()).await.unwrap();
    assert_eq!((sound.sessions_kept, sound.quarantined.len()), (10, 0));
    let path = folder.path().join("00000001.seg");
    let mut bytes = tokio::fs::read(&path).await.unwrap();
    let at = bytes.windows(300).position(|window| window == marked(4)).unwrap();
    bytes[at] ^= 1;
    tokio::fs::write(&path, bytes).await.unwrap();

    let refused = LogStore::open(folder.path(), options()).await.unwrap_err().to_string();
    let named = ["00000001.seg", &folder.path().display().to_string(), "LogStore::salvage"];
    assert!(named.iter().all(|part| refused.contains(part)), "{refused}");
    let report = LogStore::verify(folder.path(), options()).await.unwrap();
    assert_eq!((report.sessions, report.damaged_places), (9, 1));
    let store = LogStore::open_read_only(folder.path(), options()).await.unwrap();
    for n in 0..10 {
        let found = store.get(key(n), Access::Peek).await.unwrap();
        assert_eq!(found.map(|stored| stored.payload), (n != 4).then(|| marked(n)), "session {n}");
    }
    assert!(matches!(store.touch(key(9)).await, Ok(true) | Err(Error::ReadOnly)));
    assert!(matches!(store.create("x".into(), DAY).await, Err(Error::ReadOnly)));
    store.flush().await.unwrap();
    store.close().await.unwrap();

    let done = LogStore::salvage(folder.path(), options()).await.unwrap();
    assert_eq!((done.sessions_kept, done.records_lost, done.damaged_places), (9, 1, 1));
    assert_eq!(done.damage, report.damage);
    let store = LogStore::open(folder.path(), options()).await.unwrap();
    assert_eq!(store.len(), 9);
    store.close().await.unwrap();
    let nowhere = LogStore::verify(folder.path().join("nothing"), options()).await;
    assert!(matches!(nowhere, Err(cloakroom::OpenError::Io { .. })), "{nowhere:?}");
    assert!(!folder.path().join("nothing").exists());
}

#[test]
fn report_of_a_sound_store_counts_what_an_open_finds_closed_or_not() {
    let lives = Lives::new();
    for life in 0..3_u8 {
        lives.live(|store| {
            for n in 0..10 {
                drive(store, store.upsert(SessionKey::of(&[n]), vec![life; 500].into(), DAY))
                    .unwrap()
                    .unwrap();
            }
        });
    }
    for closed in [true, false] {
        if !closed {
            let store = open(&lives.disk, &lives.options).unwrap().at(Durability::Sync);
            drive(&store, store.create_as(SessionKey::of(b"last"), vec![9; 500].into(), DAY))
                .unwrap()
                .unwrap();
            (0..5).for_each(|_| store.step());
            lives.disk.crash();
        }
        let report = verify(&lives.disk, &lives.options);
        assert!(report.is_sound() && report.records_lost == 0 && report.torn_bytes == 0, "{report:?}");
        let store = open(&lives.disk.copy(1), &lives.options).unwrap();
        let recovery = store.recovery();
        assert_eq!((report.records, report.bytes), (recovery.records, recovery.bytes), "closed: {closed}");
        assert_eq!(report.sessions, recovery.sessions);
        let proven = read_only(&lives.disk.copy(2), &lives.options).recovery();
        let counts = |found: &Recovery| (found.sessions, found.records, found.bytes, found.torn_bytes);
        assert_eq!(counts(&proven), counts(&recovery), "closed: {closed}");
    }
}

/// As by a flipped bit of the folder itself. No store gets as far as these ids.
#[test]
fn segment_under_a_name_that_no_store_gives_ends_no_store() {
    for name in ["80000001.seg", "ffffffff.seg"] {
        let lives = Lives::new();
        for n in [1, 2] {
            lives.live(|store| drive(store, store.upsert(key(n), marked(n), DAY)).unwrap().unwrap());
        }
        let whole = lives.disk.contents("00000001.seg").unwrap();
        lives.disk.set_contents(name, &whole);
        (&lives.disk as &dyn Disk).remove("00000001.seg").unwrap();
        assert!(open(&lives.disk, &lives.options).is_err());
        let done = salvage(&lives.disk, &lives.options).unwrap();
        let aside = done.quarantined.iter().find(|aside| aside.ends_with(name)).unwrap();
        assert!(verify(&lives.disk, &lives.options).is_sound());
        for _ in 0..2 {
            assert!(open(&lives.disk, &lives.options).unwrap().len() <= 1);
            assert_eq!(lives.disk.contents(aside).unwrap(), whole);
        }
    }
}

#[test]
fn sealed_segment_that_ends_with_a_group_too_early_is_told() {
    let lives = Lives::new();
    lives.live(|store| {
        for n in 0..10 {
            drive(store, store.upsert(key(n), marked(n), DAY)).unwrap().unwrap();
        }
    });
    let whole = lives.disk.contents("00000001.seg").unwrap();
    let end = whole.windows(300).position(|window| window == marked(3)).unwrap() + 300;
    lives.disk.set_contents("00000001.seg", &whole[..end]);
    assert!(open(&lives.disk, &lives.options).is_err());
    let report = verify(&lives.disk, &lives.options);
    assert_eq!(report.damaged_places, 1, "{report:?}");
    assert!(report.damage[0].what.contains("shorter"), "{report:?}");
}

/// The front of the last segment is damaged. What tells whether anything was written behind its last group is whether zeros follow.
#[test]
fn damaged_front_of_the_last_segment_costs_nobody_where_nothing_stands_behind_the_end() {
    let lives = Lives::new();
    let store = open(&lives.disk, &lives.options).unwrap().at(Durability::Sync);
    for n in 0..10 {
        drive(&store, store.create_as(SessionKey::of(&[n]), vec![n; 500].into(), DAY)).unwrap().unwrap();
    }
    (0..5).for_each(|_| store.step());
    lives.disk.crash();
    drop(store);
    let name = lives.disk.names().into_iter().find(|name| is_segment(name)).unwrap();
    let whole = lives.disk.contents(&name).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for (flipped, behind, sessions) in [(None, 0, 10), (Some(20), 0, 10), (None, 7, 10), (Some(20), 7, 0)] {
        let disk = lives.disk.copy(1);
        let mut bytes = whole.clone();
        bytes[end + 4..end + 40].fill(behind);
        disk.set_contents(&name, &bytes);
        if let Some(at) = flipped {
            disk.flip_bit(&name, at, 2).unwrap();
        }
        let report = verify(&disk, &lives.options);
        assert_eq!(report.sessions, sessions, "flipped {flipped:?}, behind {behind}: {report:?}");
        assert_eq!(report.is_sound(), flipped.is_none());
        assert_eq!(report.torn_bytes > 0, behind > 0);
    } // What was set aside behind it is gone, and with it whatever was written there.
    for kept in [end, end + 47, end + 48] {
        let disk = lives.disk.copy(1);
        disk.set_contents(&name, &whole[..kept]);
        let report = verify(&disk, &lives.options);
        let is_seen = kept - end >= 48;
        assert_eq!((report.is_sound(), report.sessions), (false, if is_seen { 10 } else { 0 }), "{report:?}");
    }
}
