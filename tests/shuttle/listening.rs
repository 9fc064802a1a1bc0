//! Listeners that come and go beside the thread that ends sessions in memory for them.
//!
//! Property: whoever listens hears of a session whose time has come though nobody uses the store, also who comes as that thread finds nobody listening.

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::thread;

use super::{explore, key, linger, options};
use crate::sync::scheduled::timers;
use crate::{Event, Events, Lifetime, MemoryStore, SessionStore as _};

fn told(events: &mut Events) -> Option<Event> {
    match pin!(events.next()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(told) => Some(told.unwrap().unwrap()),
        Poll::Pending => None,
    }
}

#[test]
fn listener_that_comes_as_nobody_is_found_listening_hears_what_expires() {
    explore(800, || {
        timers(u32::MAX);
        let (options, clock) = options();
        let store = MemoryStore::with_options(options).unwrap();
        let minute = Lifetime::absolute(Duration::from_secs(60));
        drop(store.events());
        // It is told to nobody, which is how that is found out.
        block_on(store.create_as(key(1), "x".into(), minute)).unwrap();
        linger(40);
        let mut events = store.events();
        clock.advance(Duration::from_secs(60));
        let heard = (0..2_000).any(|_| {
            thread::yield_now();
            told(&mut events).is_some()
        });
        assert!(heard, "nobody ended the session");
        block_on(store.close()).unwrap();
    });
}
