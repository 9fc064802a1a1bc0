//! Rotation against everything else that may happen to a session at the same time: one written outcome for each pair, in either order and in any.
//!
//! Goal: to revive an id that was rotated away, to lose what was acknowledged, or to leave one session under two ids (P2, P3). Method: each pair in both
//! orders, then each pair many times at once; what must hold whoever comes first is the table in the docs of `SessionStore::rotate`.
//! The order of tasks is not replayed.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::{
    Access, Error, Lifetime, OwnerKey, Saved, Session, SessionId, SessionKey, SessionStore, Stored, Whose,
};
use tokio::sync::Barrier;

use crate::stores::{Tested, for_every_store};

const LIFETIME: Lifetime = Lifetime::idle(Duration::from_secs(1_800)).exact();
const ROUNDS: usize = 60;

for_every_store! {
    save_in_either_order,
    put_if_in_either_order,
    touch_in_either_order,
    set_lifetime_in_either_order,
    delete_in_either_order,
    rotate_in_either_order,
    revoke_in_either_order,
    bind_in_either_order,
    every_pair_at_once,
    all_of_them_at_once_leave_at_most_one_session,
}

fn owner() -> OwnerKey {
    OwnerKey::of(b"user/42")
}

async fn created(t: &Tested) -> SessionId {
    let mut session = Session::new(LIFETIME);
    session.insert("n", &0).unwrap();
    session.save(&*t.store).await.unwrap();
    session.id().unwrap().clone()
}

async fn load(store: &dyn SessionStore, id: &SessionId) -> Session {
    Session::load(store, id).await.unwrap().unwrap()
}

async fn peek(t: &Tested, key: SessionKey) -> Option<Stored> {
    t.store.get(key, Access::Peek).await.unwrap()
}

async fn rotated(t: &Tested, old: &SessionId) -> SessionId {
    let new = t.store.rotate(old.key()).await.unwrap().unwrap();
    assert!(peek(t, old.key()).await.is_none());
    new
}

async fn save_in_either_order(t: &Tested) {
    let old = created(t).await;
    let (mut before, mut after) = (load(&*t.store, &old).await, load(&*t.store, &old).await);
    before.insert("before", &1).unwrap();
    assert_eq!(before.save(&*t.store).await.unwrap(), Saved::Updated);
    let new = rotated(t, &old).await;
    after.insert("after", &1).unwrap();
    assert_eq!(after.save(&*t.store).await.unwrap(), Saved::Gone);
    let session = load(&*t.store, &new).await;
    assert!(session.contains("before") && !session.contains("after"));
}

async fn put_if_in_either_order(t: &Tested) {
    let old = created(t).await;
    let version = peek(t, old.key()).await.unwrap().version;
    let version = t.store.put_if(old.key(), "a".into(), version).await.unwrap().unwrap();
    let new = rotated(t, &old).await;
    assert_eq!(t.store.put_if(old.key(), "b".into(), version).await.unwrap(), None);
    // The version of before does not fit the session that goes on.
    let refused = t.store.put_if(new.key(), "b".into(), version).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })));
    assert_eq!(peek(t, new.key()).await.unwrap().payload, "a");
}

async fn touch_in_either_order(t: &Tested) {
    let old = created(t).await;
    t.pass(Duration::from_secs(10));
    assert!(t.store.touch(old.key()).await.unwrap());
    let until = peek(t, old.key()).await.unwrap().expires_at;
    let new = rotated(t, &old).await;
    t.pass(Duration::from_secs(10));
    assert!(!t.store.touch(old.key()).await.unwrap());
    assert_eq!(peek(t, new.key()).await.unwrap().expires_at, until);
}

async fn set_lifetime_in_either_order(t: &Tested) {
    let old = created(t).await;
    let minute = Lifetime::idle(Duration::from_secs(60)).exact();
    assert!(t.store.set_lifetime(old.key(), minute).await.unwrap());
    let new = rotated(t, &old).await;
    assert!(!t.store.set_lifetime(old.key(), LIFETIME).await.unwrap());
    assert_eq!(peek(t, new.key()).await.unwrap().idle, minute.idle_part());
}

async fn delete_in_either_order(t: &Tested) {
    let (first, second) = (created(t).await, created(t).await);
    assert!(t.store.delete(first.key()).await.unwrap());
    assert!(t.store.rotate(first.key()).await.unwrap().is_none());
    // Who knows only the old id cannot end what was moved to another.
    let new = rotated(t, &second).await;
    assert!(!t.store.delete(second.key()).await.unwrap());
    assert!(peek(t, new.key()).await.is_some());
    assert_eq!(t.store.len(), 1);
}

async fn rotate_in_either_order(t: &Tested) {
    let old = created(t).await;
    let (mut a, mut b) = (load(&*t.store, &old).await, load(&*t.store, &old).await);
    assert!(a.rotate(&*t.store).await.unwrap());
    assert!(!b.rotate(&*t.store).await.unwrap());
    b.insert("b", &1).unwrap();
    assert_eq!(b.save(&*t.store).await.unwrap(), Saved::Gone);
    a.insert("a", &1).unwrap();
    assert_eq!(a.save(&*t.store).await.unwrap(), Saved::Updated);
    assert_eq!(t.store.len(), 1);
}

async fn revoke_in_either_order(t: &Tested) {
    let (first, second, spared) = (created(t).await, created(t).await, created(t).await);
    for id in [&first, &second, &spared] {
        assert!(t.store.bind(id.key(), Some(owner())).await.unwrap());
    }
    let new = rotated(t, &first).await;
    t.store.revoke(Whose::Owner(owner()), Some(spared.key())).await.unwrap();
    assert!(peek(t, new.key()).await.is_none());
    assert!(t.store.rotate(second.key()).await.unwrap().is_none());
    // Who was spared may rotate, and stays spared.
    let new = rotated(t, &spared).await;
    assert_eq!(peek(t, new.key()).await.unwrap().owner, Some(owner()));
    // Named by an id that is rotated away already, nobody is spared.
    t.store.revoke(Whose::Owner(owner()), Some(spared.key())).await.unwrap();
    assert!(peek(t, new.key()).await.is_none());
}

async fn bind_in_either_order(t: &Tested) {
    let old = created(t).await;
    assert!(t.store.bind(old.key(), Some(owner())).await.unwrap());
    let new = rotated(t, &old).await;
    assert!(!t.store.bind(old.key(), None).await.unwrap());
    assert_eq!(peek(t, new.key()).await.unwrap().owner, Some(owner()));
    assert!(t.store.bind(new.key(), None).await.unwrap());
    assert_eq!(peek(t, new.key()).await.unwrap().owner, None);
}

/// What runs beside a rotation.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Beside {
    Save,
    Touch,
    Delete,
    Rotate,
    Revoke,
    Bind,
}

const BESIDE: [Beside; 6] =
    [Beside::Save, Beside::Touch, Beside::Delete, Beside::Rotate, Beside::Revoke, Beside::Bind];

/// Does it; says whether it found the session, and gives the id it moved it to.
async fn run(store: &dyn SessionStore, mut session: Session, what: Beside) -> (bool, Option<SessionId>) {
    let key = session.id().unwrap().key();
    match what {
        Beside::Save => {
            session.insert("saved", &1).unwrap();
            (session.save(store).await.unwrap() == Saved::Updated, None)
        }
        Beside::Touch => (store.touch(key).await.unwrap(), None),
        Beside::Delete => (session.delete(store).await.unwrap(), None),
        Beside::Rotate => {
            let done = session.rotate(store).await.unwrap();
            (done, session.id().filter(|_| done).cloned())
        }
        Beside::Revoke => {
            store.revoke(Whose::Owner(owner()), None).await.unwrap();
            (true, None)
        }
        Beside::Bind => (store.bind(key, Some(OwnerKey::of(b"another"))).await.unwrap(), None),
    }
}

/// The rotation, and what ran beside it, at once.
async fn race(t: &Tested, old: &SessionId, what: Beside) -> (Option<SessionId>, bool, Option<SessionId>) {
    let start = Arc::new(Barrier::new(2));
    let mut rotating = load(&*t.store, old).await;
    let session = load(&*t.store, old).await;
    let (store, gate) = (Arc::clone(&t.store), Arc::clone(&start));
    let beside = tokio::spawn(async move {
        gate.wait().await;
        run(&*store, session, what).await
    });
    start.wait().await;
    let rotated = rotating.rotate(&*t.store).await.unwrap();
    let (found, moved) = beside.await.unwrap();
    (rotating.id().filter(|_| rotated).cloned(), found, moved)
}

async fn every_pair_at_once(t: &Tested) {
    for what in BESIDE {
        for round in 0..ROUNDS {
            let old = created(t).await;
            t.store.bind(old.key(), Some(owner())).await.unwrap();
            let (new, found, moved) = race(t, &old, what).await;
            let told = format!("{what:?} in round {round}: rotated {}, found {found}", new.is_some());
            assert!(peek(t, old.key()).await.is_none(), "the old id lives: {told}");
            let after = match &new {
                Some(new) => Session::load(&*t.store, new).await.unwrap(),
                None => None,
            };
            match what {
                Beside::Save => {
                    let after = after.unwrap();
                    assert_eq!(after.contains("saved"), found, "{told}");
                }
                Beside::Touch => assert!(after.is_some(), "{told}"),
                // It was signed out, or it lives on under the new id: never both.
                Beside::Delete => {
                    assert!(found != new.is_some() && new.is_some() == after.is_some(), "{told}");
                }
                Beside::Rotate => assert!(found != new.is_some() && moved.is_some() == found, "{told}"),
                Beside::Revoke => assert!(after.is_none(), "{told}"),
                Beside::Bind => {
                    let key = new.as_ref().unwrap().key();
                    let bound = peek(t, key).await.unwrap().owner == Some(OwnerKey::of(b"another"));
                    assert_eq!(bound, found, "{told}");
                }
            }
            for id in [new, moved].into_iter().flatten() {
                t.store.delete(id.key()).await.unwrap();
            }
        }
    }
}

async fn all_of_them_at_once_leave_at_most_one_session(t: &Tested) {
    for round in 0..ROUNDS {
        let old = created(t).await;
        t.store.bind(old.key(), Some(owner())).await.unwrap();
        let start = Arc::new(Barrier::new(4 * BESIDE.len()));
        let mut tasks = Vec::new();
        for n in 0..4 * BESIDE.len() {
            let session = load(&*t.store, &old).await;
            let (store, gate) = (Arc::clone(&t.store), Arc::clone(&start));
            // A revocation or a delete in every second round only, so that the others have time to meet.
            let what = match BESIDE[(n + round) % BESIDE.len()] {
                Beside::Delete | Beside::Revoke if round % 2 == 0 => Beside::Save,
                what => what,
            };
            tasks.push(tokio::spawn(async move {
                gate.wait().await;
                (what, run(&*store, session, what).await)
            }));
        }
        let (mut rotations, mut deletes, mut ids) = (0, 0, Vec::new());
        for task in tasks {
            let (what, (found, moved)) = task.await.unwrap();
            rotations += usize::from(what == Beside::Rotate && found);
            deletes += usize::from(what == Beside::Delete && found);
            ids.extend(moved);
        }
        assert!(rotations + deletes <= 1, "round {round}: {rotations} rotations, {deletes} deletes");
        assert!(peek(t, old.key()).await.is_none(), "round {round}");
        if round % 2 == 0 {
            assert_eq!(ids.len(), 1, "round {round}");
            assert!(peek(t, ids[0].key()).await.is_some(), "round {round}");
        }
        for id in ids {
            t.store.delete(id.key()).await.unwrap();
        }
    }
    crate::stores::eventually("nobody is left", || t.store.is_empty()).await;
}
