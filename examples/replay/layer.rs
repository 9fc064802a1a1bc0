//! The child process of a replay: the shop's session layer behind loopback HTTP, on the log's time.
//!
//! It judges nothing. Each request says in a header what time it is; the clock only goes forward. Invariant: it ends when its standard input
//! does, so a replay that dies leaves no child behind.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use cloakroom::{
    Clock, Lifetime, LogStore, ManualClock, Options, Session, SessionStore, SystemClock, Timestamp,
};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use super::visit::{self, Door, Trouble};

/// Pages that the history keeps, so that a session stays small however long it lasts.
pub const HISTORY_MAX: usize = 10;
/// Characters of a path that the history keeps; crawlers ask for paths of kilobytes.
pub const PATH_CHARS_MAX: usize = 200;
/// Header with the time of a request, in milliseconds since 1970.
pub const TIME_HEADER: &str = "x-log-time";

/// The hidden subcommand that makes a process a child.
pub const SUBCOMMAND: &str = "session-layer";

/// What a visitor sees of the session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    pub pages: u64,
    pub last: Vec<String>,
}

/// What one child measured.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Figures {
    pub records: u64,
    pub record_bytes: u64,
    pub touches: u64,
    pub touches_logged: u64,
    /// Live sessions, walked key by key.
    pub live: usize,
    /// Nanoseconds that the session layer took, and how many requests took so long.
    pub latencies: Vec<(u64, u64)>,
}

/// An empty histogram of nanoseconds. Its range is given, since recording clamps to the range it has and does not widen it: one that starts
/// small would turn every slow request into a fast one.
pub fn nanoseconds() -> Result<Histogram<u64>, hdrhistogram::CreationError> {
    const MINUTE_NS: u64 = 60_000_000_000;
    Histogram::new_with_bounds(1, MINUTE_NS, 3)
}

/// How the child is started.
#[derive(clap::Args, Clone, Debug)]
pub struct Layer {
    #[arg(long)]
    pub folder: PathBuf,
    /// The time the clock starts at, in milliseconds since 1970.
    #[arg(long)]
    pub at_ms: u64,
    #[arg(long)]
    pub idle_ms: u64,
    /// Without touch coalescing.
    #[arg(long)]
    pub exact: bool,
}

#[derive(Clone)]
struct Served {
    door: Door,
    clock: Arc<ManualClock>,
    latencies: Arc<Mutex<Histogram<u64>>>,
}

impl Layer {
    /// What to start this program with.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![SUBCOMMAND.into(), "--folder".into(), (&self.folder).into()];
        for (name, value) in [("--at-ms", self.at_ms), ("--idle-ms", self.idle_ms)] {
            arguments.extend([name.into(), value.to_string().into()]);
        }
        arguments.extend(self.exact.then(|| "--exact".into()));
        arguments
    }

    /// Serves until standard input ends; says on standard output where.
    pub async fn serve(self) -> Result<(), Box<dyn std::error::Error>> {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(self.at_ms)));
        let options = Options { clock: clock.clone(), ..Options::default() };
        let store = LogStore::open(&self.folder, options).await?;
        let idle = Lifetime::idle(Duration::from_millis(self.idle_ms));
        let lifetime = if self.exact { idle.exact() } else { idle };
        let door = Door { store: store.clone(), ticket: visit::ticket(false)?, lifetime };
        let latencies = Arc::new(Mutex::new(nanoseconds()?));
        let app = Router::new()
            .route("/page", post(page))
            .route("/asset", get(asset))
            .route("/figures", get(figures))
            .with_state(Served { door, clock, latencies });

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        axum::serve(listener, app)
            .with_graceful_shutdown(async {
                let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
            })
            .await?;
        store.close().await?;
        Ok(())
    }
}

/// A page was asked for: it is counted, and its path is remembered.
async fn page(State(served): State<Served>, headers: HeaderMap, path: String) -> Result<Response, Trouble> {
    served.move_clock(&headers)?;
    let start = SystemClock.uptime();
    let mut session = served.door.enter(&headers).await?;
    let pages = session.get::<u64>("pages")?.unwrap_or(0) + 1;
    let mut last = session.get::<Vec<String>>("last")?.unwrap_or_default();
    last.push(path.chars().take(PATH_CHARS_MAX).collect());
    last.drain(..last.len().saturating_sub(HISTORY_MAX));
    session.insert("pages", &pages)?;
    session.insert("last", &last)?;
    let answer = served.door.leave(session, &headers, Json(Some(Seen { pages, last }))).await?;
    served.took(start);
    Ok(answer)
}

/// Something a page pulls in: the session is in use, and stays as it is.
async fn asset(State(served): State<Served>, headers: HeaderMap) -> Result<Response, Trouble> {
    served.move_clock(&headers)?;
    let start = SystemClock.uptime();
    let session = served.door.enter(&headers).await?;
    let seen = seen(&session)?;
    let answer = served.door.leave(session, &headers, Json(seen)).await?;
    served.took(start);
    Ok(answer)
}

fn seen(session: &Session) -> Result<Option<Seen>, Trouble> {
    let pages = session.get("pages")?;
    let last = session.get("last")?.unwrap_or_default();
    Ok(pages.map(|pages| Seen { pages, last }))
}

async fn figures(State(served): State<Served>, headers: HeaderMap) -> Result<impl IntoResponse, Trouble> {
    served.move_clock(&headers)?;
    let store = &served.door.store;
    let (mut live, mut cursor) = (0, None);
    loop {
        let page = store.keys(cursor, 1_000).await?;
        live += page.keys.len();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let stats = store.stats();
    let latencies = served.latencies.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Json(Figures {
        records: stats.records,
        record_bytes: stats.record_bytes,
        touches: stats.touches,
        touches_logged: stats.touches_logged,
        live,
        latencies: latencies.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect(),
    }))
}

impl Served {
    fn move_clock(&self, headers: &HeaderMap) -> Result<(), Trouble> {
        let at_ms: u64 = headers.get(TIME_HEADER).ok_or("no time given")?.to_str()?.parse()?;
        self.clock.advance(Timestamp::from_millis(at_ms).saturating_since(self.clock.wall()));
        Ok(())
    }

    fn took(&self, start: Duration) {
        let ns = SystemClock.uptime().saturating_sub(start).as_nanos();
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.saturating_record(u64::try_from(ns).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_requests_are_recorded_as_slow() {
        let mut latencies = nanoseconds().unwrap();
        for ns in [400, 50_000, 3_000_000, 2_000_000_000] {
            latencies.saturating_record(ns);
            assert!(latencies.max().abs_diff(ns) <= ns / 1_000, "{ns} became {}", latencies.max());
        }
    }
}
