//! What an adapter has answered is there after a power cut, also where another request did the same and does not wait for it any more.
//!
//! Method: a store without threads over the simulated disk. A request that is polled once and dropped leaves its record staged; the next one finds
//! nothing to do, and the power goes at its answer.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use actix_session::storage::SessionStore as _;
use cloakroom::actix_session::ActixStore;
use cloakroom::disk::sim::{Call, Fault, SimDisk};
use cloakroom::tower_sessions::TowerStore;
use cloakroom::{
    Clock, Durability, Lifetime, LogStore, ManualClock, Options, SessionKey, SessionStore, Timestamp,
};
use time::{Duration, OffsetDateTime};
use tower_sessions::SessionStore as _;
use tower_sessions::session::Record;

const TTL: Duration = Duration::hours(1);

fn open(disk: &SimDisk) -> LogStore {
    opened(disk, Options::default())
}

fn opened(disk: &SimDisk, options: Options) -> LogStore {
    let options = Options {
        segment_bytes: 64 << 10,
        payload_bytes_max: 4_096,
        unwritten_bytes_max: 64 << 10,
        ..options
    };
    LogStore::open_by_hand(Arc::new(disk.clone()), options).unwrap().at(Durability::Sync)
}

fn polled_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// Polls until it is ready, with the store's work in between.
fn drive<T>(store: &LogStore, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Some(done) = polled_once(future.as_mut()) {
            return done;
        }
        store.step();
    }
}

fn new_record() -> Record {
    Record { id: Default::default(), data: HashMap::new(), expiry_date: OffsetDateTime::now_utc() + TTL }
}

#[test]
fn sign_out_is_not_answered_before_one_that_is_under_way_is_on_the_device() {
    let disk = SimDisk::new(1);
    let ours = open(&disk);
    let (tower, actix) = (TowerStore::new(ours.clone()), ActixStore::new(ours.clone()));
    let mut record = new_record();
    drive(&ours, tower.create(&mut record)).unwrap();
    let token = drive(&ours, actix.save(HashMap::new(), &TTL)).unwrap();
    for _ in ["one that is dropped", "one that is dropped as well"] {
        assert!(polled_once(tower.delete(&record.id)).is_none(), "answered at once");
        assert!(polled_once(actix.delete(&token)).is_none(), "answered at once");
    }
    drive(&ours, tower.delete(&record.id)).unwrap();
    drive(&ours, actix.delete(&token)).unwrap();
    disk.crash();
    let ours = open(&disk);
    assert!(drive(&ours, TowerStore::new(ours.clone()).load(&record.id)).unwrap().is_none());
    assert!(drive(&ours, ActixStore::new(ours.clone()).load(&token)).unwrap().is_none());
}

#[test]
fn change_that_another_request_has_only_staged_is_not_answered_before_it_is_on_the_device() {
    let disk = SimDisk::new(1);
    let ours = open(&disk);
    let store = TowerStore::new(ours.clone());
    let mut record = new_record();
    drive(&ours, store.create(&mut record)).unwrap();
    record.data.insert("user".into(), 1.into());
    record.expiry_date += Duration::minutes(1);
    assert!(polled_once(store.save(&record)).is_none(), "answered at once");
    // No later than what is stored, whatever the clock has rounded.
    record.expiry_date -= Duration::milliseconds(100);
    drive(&ours, store.save(&record)).unwrap();
    disk.crash();
    let ours = open(&disk);
    let found = drive(&ours, TowerStore::new(ours.clone()).load(&record.id)).unwrap().unwrap();
    assert_eq!(found.data.get("user"), Some(&1.into()));
}

/// A lifetime that a site gives beside the adapter moves with each use, which takes a write.
#[test]
fn who_is_signed_in_is_let_in_while_no_write_is_taken_whatever_lifetime_they_have() {
    for is_full in [true, false] {
        let disk = SimDisk::new(1);
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let ours =
            opened(&disk, Options { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..Options::default() });
        let (tower, actix) = (TowerStore::new(ours.clone()), ActixStore::new(ours.clone()));
        let mut record = new_record();
        drive(&ours, tower.create(&mut record)).unwrap();
        let token = drive(&ours, actix.save(HashMap::new(), &TTL)).unwrap();
        let idle = Lifetime::idle(std::time::Duration::from_secs(600)).exact();
        for key in drive(&ours, ours.keys(None, 10)).unwrap().keys {
            assert!(drive(&ours, ours.set_lifetime(key, idle)).unwrap());
        }
        if is_full {
            disk.space_bytes(disk.used_bytes());
        } else {
            disk.fail_call_of(Call::Sync, disk.calls_of(Call::Sync) + 1, Fault::Eio);
        }
        let mut key = (0_u32..).map(|n| SessionKey::of(&n.to_le_bytes()));
        for len in [4_000, 0] {
            while drive(&ours, ours.upsert(key.next().unwrap(), vec![0; len].into(), idle)).is_ok() {}
        }
        clock.advance(std::time::Duration::from_secs(60));
        assert!(drive(&ours, ours.touch(TowerStore::key(&record.id))).is_err(), "full: {is_full}");
        assert!(drive(&ours, tower.load(&record.id)).unwrap().is_some(), "full: {is_full}");
        assert!(drive(&ours, actix.load(&token)).unwrap().is_some(), "full: {is_full}");
    }
}
