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
use cloakroom::disk::sim::SimDisk;
use cloakroom::tower_sessions::TowerStore;
use cloakroom::{Durability, LogStore, Options};
use time::{Duration, OffsetDateTime};
use tower_sessions::SessionStore as _;
use tower_sessions::session::Record;

const TTL: Duration = Duration::hours(1);

fn open(disk: &SimDisk) -> LogStore {
    let options = Options {
        segment_bytes: 64 << 10,
        payload_bytes_max: 4_096,
        unwritten_bytes_max: 64 << 10,
        ..Options::default()
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
