//! One pass over a log: a child process with the session layer, a jar of cookies for each visitor, and a model that judges every answer.
//!
//! Invariant: a request is sent only after the answer to the one before it was judged, so the order is the log's, always the same.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cookie::{Cookie, CookieJar};
use indicatif::ProgressBar;
use reqwest::header::{COOKIE, HeaderMap, SET_COOKIE};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::access_log::{Entry, Visitor};
use super::layer::{Figures, Layer, Seen, TIME_HEADER};
use super::model::{Answer, Model, is_page};
use super::visit;

/// What to replay, and how.
pub struct Plan<'a> {
    pub entries: &'a [Entry],
    pub folder: PathBuf,
    pub idle_ms: u64,
    pub exact: bool,
    /// Before which entries the child is killed, in order.
    pub kills: Vec<usize>,
}

/// What came of it.
pub struct Outcome {
    pub model: Model,
    /// Of the children, one after the other.
    pub figures: Vec<Figures>,
    pub folder_bytes: u64,
}

impl Plan<'_> {
    /// Replays everything.
    ///
    /// # Errors
    ///
    /// The first [`Difference`](super::model::Difference), or whatever kept the child from answering.
    pub async fn run(&self, progress: &ProgressBar) -> Result<Outcome, Box<dyn Error>> {
        let mut kills: VecDeque<usize> = self.kills.iter().copied().collect();
        let mut model = Model::new(self.idle_ms, self.exact);
        let mut jars: HashMap<&Visitor, CookieJar> = HashMap::new();
        let mut figures = Vec::new();
        let start_ms = self.entries.first().map_or(0, |entry| entry.at_ms);
        let mut now_ms = start_ms;
        let mut running = self.start(start_ms).await?;
        for (number, entry) in self.entries.iter().enumerate() {
            if kills.front() == Some(&number) {
                kills.pop_front();
                figures.push(running.figures(now_ms).await?);
                running.child.kill().await?;
                progress.println(format!("killed before request {}, started again", number + 1));
                running = self.start(now_ms).await?;
            }
            now_ms = entry.at_ms;
            let answer = running.ask(entry, jars.entry(&entry.visitor).or_default()).await?;
            model.check(entry, answer)?;
            progress.inc(1);
        }
        let ending = running.figures(now_ms).await?;
        let (fewest, most) = model.live_at(now_ms);
        if !(fewest..=most).contains(&ending.live) {
            return Err(format!("{} sessions live at the end, not {fewest} to {most}", ending.live).into());
        }
        figures.push(ending);
        running.end().await?;
        Ok(Outcome { model, figures, folder_bytes: bytes_in(&self.folder).await? })
    }

    async fn start(&self, at_ms: u64) -> Result<Running, Box<dyn Error>> {
        let layer = Layer { folder: self.folder.clone(), at_ms, idle_ms: self.idle_ms, exact: self.exact };
        let mut child = Command::new(std::env::current_exe()?)
            .args(layer.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("the child has no standard output")?;
        let mut address = String::new();
        BufReader::new(output).read_line(&mut address).await?;
        if address.is_empty() {
            return Err(format!("the session layer did not start: {}", child.wait().await?).into());
        }
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Running { child, client, origin: format!("http://{}", address.trim()) })
    }
}

/// A child that serves.
struct Running {
    child: Child,
    client: reqwest::Client,
    origin: String,
}

impl Running {
    /// Replays one request with the visitor's cookies, and takes the ones that come back.
    async fn ask(&self, entry: &Entry, jar: &mut CookieJar) -> Result<Answer, Box<dyn Error>> {
        let request = if is_page(entry) {
            self.client.post(format!("{}/page", self.origin)).body(entry.path.clone())
        } else {
            self.client.get(format!("{}/asset", self.origin))
        };
        let cookies: Vec<String> = jar.iter().map(|cookie| cookie.stripped().to_string()).collect();
        let request = if cookies.is_empty() { request } else { request.header(COOKIE, cookies.join("; ")) };
        let response = request.header(TIME_HEADER, entry.at_ms).send().await?.error_for_status()?;
        let new_id = taken(response.headers(), jar)?;
        let seen: Option<Seen> = serde_json::from_slice(&response.bytes().await?)?;
        Ok(Answer { seen, new_id })
    }

    async fn figures(&self, at_ms: u64) -> Result<Figures, Box<dyn Error>> {
        let request = self.client.get(format!("{}/figures", self.origin)).header(TIME_HEADER, at_ms);
        let body = request.send().await?.error_for_status()?.bytes().await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Lets the child close its store and end.
    async fn end(self) -> Result<(), Box<dyn Error>> {
        let Self { mut child, client, .. } = self;
        // The idle connection of the client would hold up the child's end.
        drop(client);
        drop(child.stdin.take());
        let status = child.wait().await?;
        if status.success() { Ok(()) } else { Err(format!("the session layer ended badly: {status}").into()) }
    }
}

/// Puts the cookies of a response into the jar; gives the value of the session's, if it came, and refuses one that breaks the rules.
fn taken(headers: &HeaderMap, jar: &mut CookieJar) -> Result<Option<String>, Box<dyn Error>> {
    let mut new_id = None;
    for line in headers.get_all(SET_COOKIE) {
        let cookie = Cookie::parse(line.to_str()?.to_owned())?;
        let rules = visit::ticket(false)?.issue(&cookie.value().parse()?);
        if cookie.to_string() != rules.to_string() {
            return Err(format!("the cookie {:?} has other attributes than it must", cookie.name()).into());
        }
        new_id = Some(cookie.value().to_owned());
        jar.add_original(cookie);
    }
    Ok(new_id)
}

/// Bytes that a folder takes on the disk.
async fn bytes_in(folder: &Path) -> Result<u64, Box<dyn Error>> {
    use std::os::unix::fs::MetadataExt;

    let mut bytes = 0;
    let mut files = tokio::fs::read_dir(folder).await?;
    while let Some(file) = files.next_entry().await? {
        bytes += file.metadata().await?.blocks() * 512;
    }
    Ok(bytes)
}
