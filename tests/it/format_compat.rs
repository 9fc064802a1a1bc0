//! Folders that stores of each format version left, which must open for ever.
//!
//! Goal: what version 1 wrote is read by every later version of this crate, or refused with the same place. Method: `tests/fixtures/v1` has one folder
//! for each state that a store can be left in, with a text that says what is in it; each is opened on a simulated disk and in a real folder, read, written to,
//! closed and opened again.
//!
//! The text, `expected.txt`, has a line for each fact, words with one space between them:
//!
//! ```text
//! clock MS                                     the wall clock of whoever opens it
//! file NAME BYTES                              the file's length; zeros at its end are not kept in the tree
//! opens TORN_BYTES                             it opens, and that much of its end is cut off
//! damaged FILE OFFSET                          or it is refused, with this place
//! reads BYTES                                  so much of it is read to open it; said where segments have footers
//! session KEY SHA256 LEN CREATED EXPIRES ABSOLUTE IDLE OWNER
//! gone KEY                                     a key that must read as nothing
//! ```
//!
//! Keys and hashes are in hex, times in milliseconds, `-` is none. [`make`] wrote them, once:
//!
//! ```text
//! CLOAKROOM_FIXTURES=tests/fixtures/v1 cargo test --test it format_compat
//! ```
//!
//! It makes every fixture anew on each run all the same, and holds it against the same checks; only with the variable set does it write, and only folders
//! that are not there yet. A fixture that is there is never made again: that is what it is for.

mod make;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::{
    Access, Clock, Lifetime, LogStore, ManualClock, OpenError, Options, SessionKey, SessionStore, Stored,
    Timestamp,
};
use sha2::{Digest, Sha256};

use crate::stores::defaults;
use crate::support::life::drive as run;

const SEGMENT_BYTES: u32 = 64 << 10;

/// A folder of files, as a store left it, and what is to be found in it.
struct Fixture {
    files: BTreeMap<String, Vec<u8>>,
    expected: String,
}

fn options(clock_ms: u64) -> Options {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(clock_ms)));
    Options {
        segment_bytes: SEGMENT_BYTES,
        footers_from: 0,
        payload_bytes_max: 8 << 10,
        clock: clock as Arc<dyn Clock>,
        ..defaults()
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

/// The line of a session.
fn line(key: SessionKey, stored: &Stored) -> String {
    let hash = Sha256::digest(&stored.payload).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    let or_none = |ms: Option<u64>| ms.map_or("-".into(), |ms| ms.to_string());
    let absolute = or_none(stored.absolute_at.map(Timestamp::as_millis));
    let idle = or_none(stored.idle.map(|idle| u64::try_from(idle.as_millis()).unwrap()));
    let owner = stored.owner.map_or("-".into(), |owner| owner.to_string());
    let (created, expires) = (stored.created_at.as_millis(), stored.expires_at.as_millis());
    format!("session {key} {hash} {} {created} {expires} {absolute} {idle} {owner}", stored.payload.len())
}

/// Whom a line is about.
fn key_of(line: &str) -> SessionKey {
    let hex = line.split(' ').nth(1).unwrap();
    let byte = |n: usize| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap();
    SessionKey::from_bytes(std::array::from_fn(byte))
}

impl Fixture {
    #[expect(clippy::disallowed_methods, reason = "the fixtures are files of the tree")]
    fn read(folder: &Path) -> Self {
        let expected = std::fs::read_to_string(folder.join("expected.txt")).unwrap();
        let file = |words: Vec<&str>| {
            let mut bytes = std::fs::read(folder.join(words[1])).unwrap();
            bytes.resize(words[2].parse().unwrap(), 0);
            (words[1].to_owned(), bytes)
        };
        let files = Self::lines_of(&expected, "file").map(|line| file(line.split(' ').collect())).collect();
        Self { files, expected }
    }

    #[expect(clippy::disallowed_methods, reason = "the fixtures are files of the tree")]
    fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("expected.txt"), &self.expected).unwrap();
        for (name, bytes) in &self.files {
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            std::fs::write(folder.join(name), &bytes[..end]).unwrap();
        }
    }

    fn lines_of<'a>(expected: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
        expected.lines().filter(move |line| line.split(' ').next() == Some(word))
    }

    fn lines<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        Self::lines_of(&self.expected, word)
    }

    /// The words behind the first one of the only line that begins so.
    fn fact<'a>(&'a self, word: &'a str) -> Option<Vec<&'a str>> {
        Some(self.lines(word).next()?.split(' ').skip(1).collect())
    }

    fn options(&self) -> Options {
        options(self.fact("clock").unwrap()[0].parse().unwrap())
    }

    fn disk(&self) -> SimDisk {
        let disk = SimDisk::new(1);
        self.files.iter().for_each(|(name, bytes)| disk.set_contents(name, bytes));
        disk
    }

    /// Whether this is how opening it should end; gives the store if it opened.
    fn opened(&self, what: &str, opened: Result<LogStore, OpenError>) -> Option<LogStore> {
        match (opened, self.fact("damaged")) {
            (Ok(store), None) => {
                let torn = store.recovery().torn_bytes.to_string();
                assert_eq!(self.fact("opens").unwrap(), [torn], "{what}: bytes that were cut off");
                if let Some(bytes) = self.fact("reads") {
                    assert_eq!(bytes, [store.recovery().bytes.to_string()], "{what}: bytes that were read");
                }
                Some(store)
            }
            (Err(OpenError::Damaged { file, offset, .. }), Some(place)) => {
                assert_eq!([file, offset.to_string()], place[..], "{what}");
                None
            }
            (Ok(_), Some(place)) => panic!("{what} opened, damaged as it is at {place:?}"),
            (Err(error), _) => panic!("{what}: {error}"),
        }
    }

    /// Everybody who is there, as lines.
    fn sessions(&self) -> BTreeSet<&str> {
        self.lines("session").collect()
    }

    fn gone(&self) -> impl Iterator<Item = SessionKey> {
        self.lines("gone").map(key_of)
    }

    /// Opens it on a simulated disk, works with it, and opens it again; and opens it by a clock that went back.
    fn check(&self, what: &str) {
        let disk = self.disk();
        let open = || LogStore::open_by_hand(Arc::new(disk.clone()), self.options());
        let Some(store) = self.opened(what, open()) else {
            for (name, bytes) in &self.files {
                assert!(disk.contents(name).as_ref() == Some(bytes), "{what}: {name} was changed");
            }
            return;
        };
        let get = |store: &LogStore, key| run(store, store.get(key, Access::Peek)).unwrap().unwrap();
        let same = |store: &LogStore, more: usize| {
            let mut keys = run(store, store.keys(None, 1_000)).unwrap().unwrap().keys;
            keys.extend(self.sessions().into_iter().map(key_of));
            keys.sort_unstable();
            keys.dedup();
            let found: BTreeSet<_> =
                keys.iter().filter_map(|key| Some(line(*key, &get(store, *key)?))).collect();
            let missing: Vec<_> = self.sessions().into_iter().filter(|line| !found.contains(*line)).collect();
            assert_eq!((missing, found.len()), (vec![], self.sessions().len() + more), "{what}: {found:#?}");
            assert!(self.gone().all(|key| get(store, key).is_none()), "{what}: one that was gone is back");
        };
        same(&store, 0);
        let new = SessionKey::of(b"written by a later version");
        let day = Lifetime::absolute(Duration::from_secs(86_400));
        run(&store, store.create_as(new, vec![9; 5_000].into(), day)).unwrap().unwrap();
        (0..20).for_each(|_| store.step());
        same(&store, 1);
        run(&store, store.close()).unwrap().unwrap();
        drop(store);
        let store = open().unwrap();
        same(&store, 1);
        assert_eq!(get(&store, new).unwrap().payload, vec![9; 5_000], "{what}");
        let store = LogStore::open_by_hand(Arc::new(self.disk()), options(1_000)).unwrap();
        same(&store, 0);
    }

    /// Opens it in a real folder, with the store's own threads.
    fn check_in_a_folder(&self, what: &str) {
        tokio::runtime::Runtime::new().unwrap().block_on(self.in_a_folder(what));
    }

    async fn in_a_folder(&self, what: &str) {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in &self.files {
            tokio::fs::write(folder.path().join(name), bytes).await.unwrap();
        }
        let opened = LogStore::open(folder.path(), self.options()).await;
        let Some(store) = self.opened(what, opened) else { return };
        for line in self.sessions() {
            let stored = store.get(key_of(line), Access::Peek).await.unwrap();
            assert_eq!(stored.map(|s| self::line(key_of(line), &s)).as_deref(), Some(line), "{what}");
        }
        for key in self.gone() {
            assert_eq!(store.get(key, Access::Touch).await.unwrap(), None, "{what}");
        }
        store.close().await.unwrap();
    }
}

#[test]
fn folders_of_version_1_open_as_they_were_left() {
    let mut names: Vec<_> = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, make::NAMES, "each state has its folder");
    for name in names {
        let fixture = Fixture::read(&folder().join(&name));
        let what = name.to_string_lossy();
        fixture.check(&what);
        fixture.check_in_a_folder(&what);
    }
}

#[test]
fn folders_made_now_open_as_they_were_left() {
    let write = std::env::var_os("CLOAKROOM_FIXTURES").map(PathBuf::from);
    for name in make::NAMES {
        let fixture = make::fixture(name);
        let what = format!("{name}, made now");
        fixture.check(&what);
        fixture.check_in_a_folder(&what);
        if let Some(folder) = write.as_ref().map(|folder| folder.join(name))
            && !folder.exists()
        {
            fixture.write(&folder);
        }
    }
}
