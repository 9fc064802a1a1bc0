//! What names a session, and what its bytes are taken for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, Error, FieldError, LogStore, Session, SessionError, SessionId, SessionKey, SessionStore,
};
use tokio::task::JoinSet;

use super::{DAY, open, options};
use crate::stores::defaults;
use crate::support::life::drive as run;

const TASKS: u32 = 64;

/// PAN-OS made files named by the cookie of a session, wherever that pointed (CVE-2024-3400). Here a cookie is parsed or refused, and what is
/// kept is a hash of it inside of a segment, so that no text of a client's reaches the file system.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_id_or_key_names_a_file() {
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("sessions");
    let store = LogStore::open(&folder, defaults()).await.unwrap();
    let long = "a".repeat(5_000);
    let evil =
        ["../../../../evil", "/tmp/evil", "MANIFEST", "00000001.seg", "evil\0", "`touch evil`", "", &long];
    for text in evil {
        assert!(text.parse::<SessionId>().is_err(), "{text:?} is taken for an id");
        // As long as an id, so that it is not the length alone that keeps it out.
        let padded: String = text.chars().chain("./".chars().cycle()).take(43).collect();
        assert!(padded.len() != 43 || text == long || padded.parse::<SessionId>().is_err(), "{padded:?}");
        let key = SessionKey::of(text.as_bytes());
        store.create_as(key, Bytes::from(text.to_owned()), DAY).await.unwrap();
        assert_eq!(store.get(key, Access::Touch).await.unwrap().unwrap().payload, text);
    }
    store.flush().await.unwrap();
    store.close().await.unwrap();
    let names = |of: &std::path::Path| {
        let entries = std::fs::read_dir(of).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    assert_eq!(names(outside.path()), BTreeSet::from(["sessions".to_owned()]));
    let is_a_segment = |name: &str| {
        name.strip_suffix(".seg")
            .is_some_and(|hex| hex.len() == 8 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    for name in names(&folder) {
        assert!(
            ["LOCK", "MANIFEST", "MANIFEST.new", "MANIFEST.copy"].contains(&&*name) || is_a_segment(&name),
            "{name}"
        );
    }
}

/// A cookie store that failed to read a session tried an older decoder, and so took what an attacker had made (CVE-2026-39324).
#[test]
fn bytes_of_another_encoding_are_refused_and_never_tried_with_another_decoder() {
    const JSON: u8 = 1;
    let store = open(&SimDisk::new(1), &options().0);
    let envelope =
        |format: u8, codec: u8| Bytes::from([&[format, 1, 5][..], b"admin", &[codec, 4], b"true"].concat());
    let id = run(&store, store.create(envelope(1, JSON), DAY)).unwrap().unwrap();
    let load = |payload: Bytes| {
        run(&store, store.put(id.key(), payload)).unwrap().unwrap().unwrap();
        run(&store, Session::load(&store, &id)).unwrap().map(Option::unwrap)
    };
    assert_eq!(
        load(envelope(1, JSON)).unwrap().get("admin").unwrap(),
        Some(true),
        "the sample is a good one"
    );
    for format in (0..=u8::MAX).filter(|format| *format != 1) {
        match load(envelope(format, JSON)) {
            Err(SessionError::UnknownEnvelope { found, .. }) => assert_eq!(found, format),
            other => panic!("envelope {format}: {other:?}"),
        }
    }
    for codec in (0..=u8::MAX).filter(|codec| *codec != JSON) {
        match load(envelope(1, codec)).unwrap().get::<bool>("admin") {
            Err(FieldError::UnknownCodec { found, .. }) => assert_eq!(found, codec),
            other => panic!("codec {codec}: {other:?}"),
        }
    }
    let bare =
        [&br#"{"admin":true}"#[..], br#"[["admin",true]]"#, b"\x04\x08{\x06:\nadminT", b"\x81\xa5admin\xc3"];
    for payload in bare {
        assert!(load(Bytes::from_static(payload)).is_err(), "{payload:?}");
    }
}

/// Rack made an id, looked if it was free, and wrote: two requests could be given one session (rack #1406).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_made_at_once_never_share_an_id() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), defaults()).await.unwrap();
    let start = Arc::new(tokio::sync::Barrier::new(TASKS as usize));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (store, start) = (store.clone(), Arc::clone(&start));
        tasks.spawn(async move {
            let mut ids = Vec::new();
            let mut won = Vec::new();
            start.wait().await;
            for round in 0..20_u32 {
                let mine = Bytes::from(format!("{task}/{round}"));
                let id = store.create(mine.clone(), DAY).await.unwrap();
                let id = if round % 2 == 0 { id } else { store.rotate(id.key()).await.unwrap().unwrap() };
                ids.push((id.key(), mine));
                let wanted = SessionKey::of(format!("wanted by all, {round}").as_bytes());
                match store.create_as(wanted, task.to_string().into(), DAY).await {
                    Ok(()) => won.push(round),
                    Err(error) => assert!(matches!(error, Error::AlreadyExists), "{error:?}"),
                }
            }
            (task, ids, won)
        });
    }
    let (mut ids, mut winners) = (BTreeMap::new(), BTreeMap::new());
    for (task, its_ids, won) in tasks.join_all().await {
        for (key, payload) in its_ids {
            assert!(ids.insert(key, payload).is_none(), "an id was given twice");
        }
        for round in won {
            assert!(winners.insert(round, task).is_none(), "two won round {round}");
        }
    }
    assert_eq!((ids.len(), winners.len()), (TASKS as usize * 20, 20));
    store.close().await.unwrap();
    let store = LogStore::open(folder.path(), defaults()).await.unwrap();
    for (key, payload) in ids {
        assert_eq!(store.get(key, Access::Peek).await.unwrap().unwrap().payload, payload);
    }
    for (round, task) in winners {
        let wanted = SessionKey::of(format!("wanted by all, {round}").as_bytes());
        assert_eq!(store.get(wanted, Access::Peek).await.unwrap().unwrap().payload, task.to_string());
    }
    store.close().await.unwrap();
}
