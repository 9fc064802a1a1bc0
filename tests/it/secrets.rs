//! A busy store that logs all it can, and not one token in what it wrote, printed or logged (P11).
//!
//! Goal: to find a token, or the first twelve bytes of one, where no token belongs. Method: the search knows every form that a token may be written in; it
//! runs over every file of the folder while the store is open, closed, and damaged, over every line logged in this process meanwhile, and over the `Debug`
//! and `Display` of what the store gives. First it must find a token in each form that is planted. It is no test of what a server prints by itself.

use std::collections::HashSet;
use std::fmt::{Debug, Write as _};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cloakroom::{
    Access, Durability, Error, Lifetime, LogStore, Options, OwnerKey, Session, SessionId, SessionStore, When,
    Whose,
};

use crate::stores::defaults;

const LIFETIME: Lifetime = Lifetime::idle(Duration::from_secs(1_800));
/// Bytes of a token that are enough to say that it leaked: nobody writes 96 bits of it by chance.
const PART: usize = 12;
/// Characters of a list of bytes that are compared.
const LIST_CHARS: usize = 30;
const SESSIONS: usize = 300;

/// Every form of every token, by length.
#[derive(Default)]
struct Search {
    needles: Vec<HashSet<Vec<u8>>>,
}

impl Search {
    fn forms(token: &[u8]) -> [Vec<u8>; 6] {
        let part = &token[..PART];
        let hex = part.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let list = format!("{token:?}");
        [
            part.to_vec(),
            URL_SAFE_NO_PAD.encode(part).into(),
            STANDARD.encode(part).into(),
            hex.to_uppercase().into(),
            hex.into(),
            list[..LIST_CHARS].into(),
        ]
    }

    fn add(&mut self, id: &SessionId) {
        let token = URL_SAFE_NO_PAD.decode(id.to_text()).unwrap();
        for form in Self::forms(&token) {
            match self.needles.iter_mut().find(|set| set.iter().all(|needle| needle.len() == form.len())) {
                Some(set) => drop(set.insert(form)),
                None => self.needles.push(HashSet::from([form])),
            }
        }
    }

    fn finds(&self, text: &[u8]) -> bool {
        self.needles.iter().any(|set| {
            let len = set.iter().next().map_or(1, Vec::len);
            text.windows(len).any(|window| set.contains(window))
        })
    }

    fn check(&self, what: &str, text: &[u8]) {
        assert!(!self.finds(text), "a token is in {what}");
    }

    #[expect(clippy::disallowed_methods, reason = "it looks behind the store's back")]
    fn check_folder(&self, folder: &Path) -> usize {
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files += self.check_folder(&path);
                continue;
            }
            self.check(path.to_str().unwrap(), path.to_str().unwrap().as_bytes());
            match std::fs::read(&path) {
                Ok(bytes) => self.check(path.to_str().unwrap(), &bytes),
                // Compaction is done with it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => panic!("{e}"),
            }
            files += 1;
        }
        files
    }
}

/// All that was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was printed.
#[derive(Default)]
struct Printed(String);

impl Printed {
    fn debug(&mut self, what: &impl Debug) {
        writeln!(self.0, "{what:?} {what:#?}").unwrap();
    }

    fn error(&mut self, error: &(impl std::error::Error + 'static)) {
        writeln!(self.0, "{error} {error:?}").unwrap();
        let mut cause = std::error::Error::source(error);
        while let Some(source) = cause {
            writeln!(self.0, "{source} {source:?}").unwrap();
            cause = source.source();
        }
    }
}

/// Signs in, out, everywhere and nowhere; `search` knows every id that was issued.
async fn busy(store: &LogStore, search: &mut Search, printed: &mut Printed) {
    let owner = OwnerKey::of(b"user/42");
    for n in 0..SESSIONS {
        let mut session = Session::new(LIFETIME);
        session.insert("cart", &"x".repeat(n)).unwrap();
        session.save(store).await.unwrap();
        let old = session.id().unwrap().clone();
        search.add(&old);
        assert!(session.rotate(store).await.unwrap());
        let id = session.id().unwrap().clone();
        search.add(&id);
        session.insert("n", &n).unwrap();
        session.set_lifetime(LIFETIME.and_absolute(Duration::from_secs(7_200)));
        session.save(store).await.unwrap();
        printed.debug(&(&session, session.iter().next(), &id, id.key(), &old));
        printed.debug(&store.get(id.key(), Access::Touch).await.unwrap().unwrap());
        store.bind(id.key(), Some(owner)).await.unwrap();
        let version = store.get(id.key(), Access::Peek).await.unwrap().unwrap().version;
        store.put(id.key(), store.get(id.key(), Access::Peek).await.unwrap().unwrap().payload).await.unwrap();
        for refused in [
            store.put_if(id.key(), "late".into(), version).await.map(|_| ()),
            store.create_as(id.key(), "again".into(), LIFETIME).await,
            store.write(id.key(), vec![0; 100_000].into(), When::Present).await.map(|_| ()),
            store.set_lifetime(id.key(), Lifetime::idle(Duration::ZERO)).await.map(|_| ()),
        ] {
            printed.error(&refused.unwrap_err());
        }
        printed.error(&session.get::<bool>("cart").unwrap_err());
        printed.error(&format!("{}!", &id.to_text()[1..]).parse::<SessionId>().unwrap_err());
        printed.error(&format!("{}A", id.to_text()).parse::<SessionId>().unwrap_err());
        match n % 3 {
            0 => drop(session.delete(store).await.unwrap()),
            1 => store.revoke(Whose::Owner(owner), Some(id.key())).await.unwrap(),
            _ => {}
        }
    }
    printed.debug(&store.keys(None, 1_000).await.unwrap());
    printed.debug(&(store, store.stats(), store.recovery(), store.flush()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_is_in_any_file_line_or_message() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    tracing::subscriber::set_global_default(subscriber.with_writer(move || writer.clone()).finish()).unwrap();
    let options = Options {
        segment_bytes: 64 << 10,
        footers_from: 0,
        payload_bytes_max: 4_096,
        durability: Durability::Buffered,
        ..defaults()
    };
    let (folder, mut search, mut printed) =
        (tempfile::tempdir().unwrap(), Search::default(), Printed::default());
    let path = folder.path().join("sessions");
    printed.debug(&options);
    tracing::trace!("the search begins");
    let store = LogStore::open(&path, options.clone()).await.unwrap();
    let store = store.at(Durability::Buffered);
    busy(&store, &mut search, &mut printed).await;
    store.flush().await.unwrap();
    assert!(search.check_folder(&path) > 3, "there is something to look at");
    printed.error(&LogStore::open(&path, options.clone()).await.unwrap_err());
    store.close().await.unwrap();
    printed.error(&store.touch(SessionId::random().unwrap().key()).await.err().unwrap_or(Error::Closed));
    search.check_folder(&path);
    damage(&path);
    let options = Options { footers_from: u32::MAX, ..options };
    printed.debug(&LogStore::verify(&path, options.clone()).await.unwrap());
    printed.error(&LogStore::open(&path, options.clone()).await.unwrap_err());
    printed.debug(&LogStore::salvage(&path, options).await.unwrap());
    search.check_folder(&path);
    search.check("what was printed", printed.0.as_bytes());
    let logged = lines.0.lock().unwrap().clone();
    let text = String::from_utf8_lossy(&logged);
    assert!(text.contains("the search begins"), "what was logged went elsewhere");
    search.check("what was logged", &logged);
}

/// Turns one byte in the midst of the oldest segment.
#[expect(clippy::disallowed_methods, reason = "it damages a file behind the store's back")]
fn damage(folder: &Path) {
    let mut segments: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "seg"))
        .collect();
    segments.sort();
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    let at = bytes.len() / 3;
    bytes[at] ^= 0xff;
    std::fs::write(&segments[0], bytes).unwrap();
}

#[test]
fn search_finds_a_token_in_every_form() {
    let (id, other) = (SessionId::random().unwrap(), SessionId::random().unwrap());
    let mut search = Search::default();
    search.add(&id);
    let token = URL_SAFE_NO_PAD.decode(id.to_text()).unwrap();
    for form in Search::forms(&token) {
        assert!(search.finds(&[b"before".to_vec(), form, b"behind".to_vec()].concat()));
    }
    for whole in [id.to_text(), STANDARD.encode(&token), format!("{token:?}")] {
        assert!(search.finds(whole.as_bytes()), "{whole}");
    }
    assert!(!search.finds(other.to_text().as_bytes()));
}
