//! What a save does beside its fields: lifetimes that two requests change, compare-and-swap, and many tasks at once.
//!
//! Goal: to lose an update, or to undo a shortening (P2, P3, P4). Method: each request is a `Session` of its own; the races have many tasks whose
//! results can be counted. The order of tasks is not replayed.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::{Access, Lifetime, Saved, Session, SessionError, SessionId, SessionStore, Stored};

use crate::stores::{Tested, for_every_store};

const LONG: Lifetime = Lifetime::idle(Duration::from_secs(1_800)).exact();
const SHORT: Lifetime = Lifetime::idle(Duration::from_secs(60)).exact();
const TASKS: usize = 32;

for_every_store! {
    a_save_in_flight_does_not_undo_a_shortening,
    a_slow_reader_never_shortens,
    of_two_lifetimes_the_shorter_wins_and_a_fresh_load_may_lengthen,
    a_lifetime_is_saved_with_the_fields_or_not_at_all,
    shortening_races_saves_and_touches_and_wins,
    compare_and_swap_refuses_a_field_that_both_changed,
    compare_and_swap_loses_no_count,
    a_clear_races_saves_and_leaves_no_half,
    a_delete_races_saves_and_wins,
}

async fn created(t: &Tested) -> SessionId {
    let mut session = Session::new(LONG);
    session.insert("n", &0).unwrap();
    session.save(&*t.store).await.unwrap();
    session.id().unwrap().clone()
}

async fn load(store: &dyn SessionStore, id: &SessionId) -> Session {
    Session::load(store, id).await.unwrap().unwrap()
}

async fn stored(t: &Tested, id: &SessionId) -> Stored {
    t.store.get(id.key(), Access::Peek).await.unwrap().unwrap()
}

async fn idle(t: &Tested, id: &SessionId) -> u64 {
    stored(t, id).await.idle.unwrap().as_secs()
}

async fn a_save_in_flight_does_not_undo_a_shortening(t: &Tested) {
    let id = created(t).await;
    let (mut in_flight, mut shortens) = (load(&*t.store, &id).await, load(&*t.store, &id).await);
    shortens.set_lifetime(SHORT);
    assert!(shortens.is_changed());
    assert_eq!(shortens.save(&*t.store).await.unwrap(), Saved::Updated);
    assert!(!shortens.is_changed());
    in_flight.insert("n", &1).unwrap();
    assert_eq!(in_flight.save(&*t.store).await.unwrap(), Saved::Updated);
    assert_eq!(idle(t, &id).await, 60);
    t.pass(Duration::from_secs(60));
    assert!(Session::load(&*t.store, &id).await.unwrap().is_none());
    in_flight.insert("n", &2).unwrap();
    assert_eq!(in_flight.save(&*t.store).await.unwrap(), Saved::Gone);
}

async fn a_slow_reader_never_shortens(t: &Tested) {
    let id = created(t).await;
    t.store.set_lifetime(id.key(), SHORT).await.unwrap();
    let mut slow = load(&*t.store, &id).await;
    let mut lengthens = load(&*t.store, &id).await;
    lengthens.set_lifetime(LONG);
    lengthens.save(&*t.store).await.unwrap();
    let until = stored(t, &id).await.expires_at;
    t.pass(Duration::from_secs(1));
    slow.insert("n", &1).unwrap();
    assert_eq!(slow.save(&*t.store).await.unwrap(), Saved::Updated);
    assert!(stored(t, &id).await.expires_at >= until);
    assert_eq!(idle(t, &id).await, 1_800);
    t.pass(Duration::from_secs(1_799));
    assert_eq!(load(&*t.store, &id).await.get::<u32>("n").unwrap(), Some(1));
}

async fn of_two_lifetimes_the_shorter_wins_and_a_fresh_load_may_lengthen(t: &Tested) {
    for shorter_first in [true, false] {
        let id = created(t).await;
        let (mut a, mut b) = (load(&*t.store, &id).await, load(&*t.store, &id).await);
        let forever = Lifetime::idle(Duration::from_secs(7_200)).and_absolute(Duration::from_secs(9_000));
        let (first, second) = if shorter_first { (SHORT, forever) } else { (forever, SHORT) };
        a.set_lifetime(first);
        b.set_lifetime(second);
        a.save(&*t.store).await.unwrap();
        b.save(&*t.store).await.unwrap();
        let merged = stored(t, &id).await;
        assert_eq!(merged.idle, Some(Duration::from_secs(60)));
        assert_eq!(merged.absolute_at, Some(t.now().saturating_add(Duration::from_secs(9_000))));
        assert_eq!(merged.expires_at, t.now().saturating_add(Duration::from_secs(60)));
        let mut fresh = load(&*t.store, &id).await;
        fresh.set_lifetime(LONG);
        fresh.save(&*t.store).await.unwrap();
        assert_eq!((idle(t, &id).await, stored(t, &id).await.absolute_at), (1_800, None));
        // One request may change its mind.
        fresh.set_lifetime(forever);
        fresh.save(&*t.store).await.unwrap();
        assert_eq!(idle(t, &id).await, 7_200);
        // A shortening through the store leaves the version as it is, and is seen all the same.
        let mut knows_not = load(&*t.store, &id).await;
        t.store.set_lifetime(id.key(), SHORT).await.unwrap();
        knows_not.set_lifetime(LONG);
        knows_not.save(&*t.store).await.unwrap();
        assert_eq!(idle(t, &id).await, 60);
    }
}

async fn a_lifetime_is_saved_with_the_fields_or_not_at_all(t: &Tested) {
    let id = created(t).await;
    let (mut mine, mut theirs) = (load(&*t.store, &id).await, load(&*t.store, &id).await);
    theirs.insert("n", &1).unwrap();
    theirs.save(&*t.store).await.unwrap();
    mine.insert("n", &2).unwrap();
    mine.set_lifetime(SHORT);
    let before = stored(t, &id).await;
    assert!(matches!(mine.save_if_unchanged(&*t.store).await, Err(SessionError::Conflict { .. })));
    assert_eq!(stored(t, &id).await, before);
    mine.set_lifetime(Lifetime::idle(Duration::ZERO));
    assert!(mine.save(&*t.store).await.is_err());
    assert_eq!(stored(t, &id).await, before);
    // A session that is new begins with the one it was given last.
    let mut new = Session::new(LONG);
    new.set_lifetime(SHORT);
    assert!(!new.is_changed());
    new.insert("n", &1).unwrap();
    new.save(&*t.store).await.unwrap();
    assert_eq!(idle(t, new.id().unwrap()).await, 60);
}

async fn shortening_races_saves_and_touches_and_wins(t: &Tested) {
    let id = created(t).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, id) = (Arc::clone(&t.store), id.clone());
            tokio::spawn(async move {
                let mut session = load(&*store, &id).await;
                for n in 0..10 {
                    session.insert(&format!("{task}"), &n).unwrap();
                    if task % 4 == 0 && n == 5 {
                        session.set_lifetime(SHORT);
                    }
                    session.save(&*store).await.unwrap();
                    store.touch(id.key()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let session = load(&*t.store, &id).await;
    assert_eq!((idle(t, &id).await, session.len()), (60, TASKS + 1));
    t.pass(Duration::from_secs(60));
    assert!(Session::load(&*t.store, &id).await.unwrap().is_none());
}

async fn compare_and_swap_refuses_a_field_that_both_changed(t: &Tested) {
    let id = created(t).await;
    let (mut mine, mut theirs) = (load(&*t.store, &id).await, load(&*t.store, &id).await);
    theirs.insert("n", &1).unwrap();
    theirs.insert("other", &1).unwrap();
    theirs.save(&*t.store).await.unwrap();
    mine.insert("mine", &1).unwrap();
    assert_eq!(mine.save_if_unchanged(&*t.store).await.unwrap(), Saved::Updated);
    assert_eq!(mine.len(), 3);
    let mut stale = mine;
    theirs.insert("n", &2).unwrap();
    theirs.save(&*t.store).await.unwrap();
    // The same value is a conflict too, and so are a removal and a clear.
    for value in [Some(2), Some(3), None] {
        match value {
            Some(value) => stale.insert("n", &value).unwrap(),
            None => assert!(stale.remove("n")),
        }
        let refused = stale.save_if_unchanged(&*t.store).await;
        assert!(matches!(refused, Err(SessionError::Conflict { field }) if field == "n"));
        assert!(stale.is_changed());
    }
    stale.clear();
    assert!(matches!(stale.save_if_unchanged(&*t.store).await, Err(SessionError::Conflict { .. })));
    assert_eq!(load(&*t.store, &id).await.len(), 3);
    assert_eq!(stale.save(&*t.store).await.unwrap(), Saved::Updated);
    theirs.insert("late", &1).unwrap();
    t.store.delete(id.key()).await.unwrap();
    assert_eq!(theirs.save_if_unchanged(&*t.store).await.unwrap(), Saved::Gone);
}

async fn compare_and_swap_loses_no_count(t: &Tested) {
    const COUNTS: usize = 5;
    let id = created(t).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (store, id) = (Arc::clone(&t.store), id.clone());
            tokio::spawn(async move {
                let mut counted = 0;
                while counted < COUNTS {
                    let mut session = load(&*store, &id).await;
                    let n = session.get::<usize>("n").unwrap().unwrap();
                    tokio::task::yield_now().await;
                    session.insert("n", &(n + 1)).unwrap();
                    match session.save_if_unchanged(&*store).await {
                        Ok(saved) => {
                            assert_eq!(saved, Saved::Updated);
                            counted += 1;
                        }
                        Err(SessionError::Conflict { field }) => assert_eq!(field, "n"),
                        Err(e) => panic!("{e}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(load(&*t.store, &id).await.get::<usize>("n").unwrap(), Some(TASKS * COUNTS));
}

async fn a_clear_races_saves_and_leaves_no_half(t: &Tested) {
    let id = created(t).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, id) = (Arc::clone(&t.store), id.clone());
            tokio::spawn(async move {
                for n in 0..10 {
                    let mut session = load(&*store, &id).await;
                    // The two are written together, so they are there together, whoever clears.
                    assert_eq!(session.contains("a"), session.contains("b"), "task {task}");
                    if task % 8 == 0 {
                        session.clear();
                    } else {
                        session.insert("a", &(task, n)).unwrap();
                        session.insert("b", &(task, n)).unwrap();
                    }
                    session.save(&*store).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut last = load(&*t.store, &id).await;
    last.clear();
    last.save(&*t.store).await.unwrap();
    assert!(load(&*t.store, &id).await.is_empty());
}

async fn a_delete_races_saves_and_wins(t: &Tested) {
    for _ in 0..20 {
        let id = created(t).await;
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (store, id) = (Arc::clone(&t.store), id.clone());
                tokio::spawn(async move {
                    let Some(mut session) = Session::load(&*store, &id).await.unwrap() else { return };
                    if task == TASKS / 2 {
                        assert!(session.delete(&*store).await.unwrap());
                        return;
                    }
                    session.insert(&task.to_string(), &task).unwrap();
                    session.set_lifetime(LONG);
                    session.save(&*store).await.unwrap();
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(Session::load(&*t.store, &id).await.unwrap().is_none());
    }
    assert_eq!(t.store.len(), 0);
}
