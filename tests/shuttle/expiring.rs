//! A sign-out of somebody whose time has just come, beside writes that are on their way.
//!
//! Property: once it is answered, nobody is back after a power cut beside a wall clock that is behind: what time it was is on the device too.

use std::sync::Arc;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::thread;

use super::{after_power_loss, below, explore, hour, key, linger, options};
use crate::disk::sim::SimDisk;
use crate::sync::scheduled::timers;
use crate::{Access, Durability, Lifetime, LogStore, SessionStore as _};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn sign_out_of_who_has_just_ended_is_answered_when_the_time_is_kept() {
    explore(1_500, || {
        timers(0);
        let (options, clock) = options();
        let disk = SimDisk::new(below(1 << 32));
        let store = block_on(LogStore::open_on(Arc::new(disk.clone()), options.clone())).unwrap();
        block_on(store.at(Durability::Sync).upsert(key(1), "x".into(), Lifetime::absolute(MINUTE))).unwrap();
        let writing = {
            let store = store.at(Durability::Interval(Durability::INTERVAL_DEFAULT));
            thread::spawn(move || {
                for n in 2..4 {
                    linger(20);
                    block_on(store.upsert(key(n), "x".into(), hour())).unwrap();
                }
            })
        };
        linger(40);
        clock.advance(MINUTE);
        linger(20);
        assert!(!block_on(store.delete(key(1))).unwrap());
        let (behind, _) = super::options();
        let reopened = after_power_loss(&disk, &behind);
        assert!(
            block_on(reopened.get(key(1), Access::Peek)).unwrap().is_none(),
            "who was signed out is back"
        );
        writing.join().unwrap();
        block_on(store.close()).unwrap();
    });
}
