//! The system calls of a store in their order: that what must be on the disk first was synced first.
//!
//! Goal: to show that the real disk syncs at all, which no test that ends a process can, since the kernel keeps what it was given. Method: this
//! program runs itself under `strace` and the parent reads what was recorded. Invariant: a call counts as made when it begins, and as done
//! when it has returned; a sync keeps only what was done before it began.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use cloakroom::{Durability, LogStore, SessionStore};

use super::{is_there, options};
use crate::support::acked::{HOUR, in_time, key, payload};

/// Tells a process under `strace` which folder is its own.
const FOLDER: &str = "CLOAKROOM_ORDER_FOLDER";
const TEST: &str = "failures::strace::order::what_must_be_on_the_disk_first_is_synced_first";

/// The payload of the session whose way to the disk is followed.
const COAT: &str = "a coat that is to be found again";
const ACKNOWLEDGED: &str = "#acknowledged";

/// What is recorded: calls that some architectures do not have are asked for where they are.
const CALLS: &str =
    "trace=?mkdir,mkdirat,fsync,fdatasync,pwrite64,?rename,?renameat,?renameat2,?unlink,?unlinkat,write";

/// Where the header of a segment ends, and its first group begins.
const GROUPS_AT: u64 = 64;

/// What stands behind the arguments of a call while another thread is heard.
const UNFINISHED: &str = " <unfinished ...>";

/// A system call, as it was recorded.
#[derive(Debug)]
struct Call {
    thread: String,
    /// Without what tells the forms of a call apart: `rename` for `renameat2` too.
    name: &'static str,
    /// The path of its descriptor, or those that it was given.
    paths: Vec<String>,
    arguments: String,
    /// The lines at which it began and was done; never, if it was not seen to return.
    begun: usize,
    done: usize,
    is_ok: bool,
}

const NAMES: [&str; 7] = ["mkdir", "fsync", "fdatasync", "pwrite64", "rename", "unlink", "write"];

impl Call {
    /// A call that begins at a line; one that another thread interrupts ends at a later one.
    fn begun(thread: &str, text: &str, line: usize) -> Option<Self> {
        let (name, arguments) = text.split_once('(')?;
        let name = NAMES.into_iter().find(|known| name.starts_with(known))?;
        let of_descriptor = arguments.starts_with(|c: char| c.is_ascii_digit());
        let paths = if of_descriptor {
            let path = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
            path.map(|(path, _)| path.to_owned()).into_iter().collect()
        } else {
            arguments.split('"').skip(1).step_by(2).map(str::to_owned).collect()
        };
        // Without the answer, which is taken down by itself.
        let arguments = match arguments.strip_suffix(UNFINISHED) {
            Some(arguments) => arguments,
            None => arguments.rsplit_once(" = ")?.0.trim_end().strip_suffix(')')?,
        };
        let arguments = arguments.to_owned();
        Some(Self {
            thread: thread.into(),
            name,
            paths,
            arguments,
            begun: line,
            done: usize::MAX,
            is_ok: false,
        })
    }

    fn end(&mut self, text: &str, line: usize) {
        if let Some((_, answer)) = text.rsplit_once(" = ") {
            self.is_ok = answer.starts_with(|c: char| c.is_ascii_digit());
            self.done = line;
        }
    }

    fn path(&self) -> &str {
        self.paths.first().map_or("", String::as_str)
    }

    fn is(&self, name: &str, path: &str) -> bool {
        self.name == name && self.path() == path && self.is_ok
    }

    /// Where it writes to.
    fn offset(&self) -> u64 {
        let (_, last) = self.arguments.rsplit_once(", ").unwrap();
        last.parse().unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// The calls of a record in the order in which they began.
struct Calls(Vec<Call>);

impl Calls {
    fn read(record: &str) -> Self {
        let (mut calls, mut open) = (Vec::<Call>::new(), BTreeMap::<_, usize>::new());
        for (line, text) in record.lines().enumerate() {
            let (thread, text) = text.split_once(' ').unwrap();
            let text = text.trim_start();
            if text.starts_with("<... ") {
                if let Some(at) = open.remove(thread) {
                    calls[at].end(text, line);
                }
            } else if let Some(mut call) = Call::begun(thread, text, line) {
                if text.ends_with(UNFINISHED) {
                    open.insert(thread, calls.len());
                } else {
                    call.end(text, line);
                }
                calls.push(call);
            }
        }
        Self(calls)
    }

    fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = &Call> {
        self.0.iter().filter(move |call| call.name == name && call.is_ok)
    }

    /// When a call that began after the line `after` was done, the first of this name on this path.
    fn done(&self, name: &str, path: &str, after: usize) -> Option<usize> {
        self.0.iter().filter(|call| call.begun > after && call.is(name, path)).map(|call| call.done).min()
    }

    /// What the thread of a call does next.
    fn next(&self, call: &Call) -> Option<&Call> {
        self.0.iter().find(|next| next.begun > call.done && next.thread == call.thread)
    }

    /// Follows steps of which each begins when the one before it is done; says when the last is done.
    fn chain(&self, after: usize, steps: &[(&str, &str)]) -> Result<usize, String> {
        steps.iter().try_fold(after, |after, (name, path)| {
            self.done(name, path, after).ok_or_else(|| format!("no {name} of {path} behind line {after}"))
        })
    }
}

/// A new folder is in its parent before anything is in it.
fn check_folders(calls: &Calls) {
    let made: Vec<_> = calls.all("mkdir").collect();
    assert_eq!(made.len(), 2, "{made:?}");
    for made in made {
        let parent = Path::new(made.path()).parent().unwrap().to_str().unwrap();
        let next = calls.next(made).unwrap();
        assert!(next.is("fsync", parent), "{made:?} is followed by {next:?}");
    }
}

/// A list is on the disk before it counts, and counts on the disk before its thread does anything that it allows.
fn check_lists(calls: &Calls, folder: &str) {
    let new = format!("{folder}/MANIFEST.new");
    let renamed: Vec<_> = calls.all("rename").filter(|call| call.path() == new).collect();
    assert!(renamed.len() > 2, "{renamed:?}");
    for renamed in renamed {
        let written = calls.all("pwrite64").rfind(|call| call.path() == new && call.begun < renamed.begun);
        let synced = calls.done("fdatasync", &new, written.unwrap().done);
        assert!(synced.is_some_and(|synced| synced < renamed.begun), "{written:?}, {renamed:?}");
        let next = calls.next(renamed).unwrap();
        assert!(next.is("fsync", folder), "{renamed:?} is followed by {next:?}");
    }
}

/// A segment takes no group before it is durably listed, and is not removed before it durably is not. Those of copies are listed when they are whole.
fn check_segments(calls: &Calls, folder: &str, writer: &str) {
    let list = format!("{folder}/MANIFEST.new");
    let listed = [("rename", list.as_str()), ("fsync", folder)];
    let mut first = BTreeMap::new();
    for call in calls.all("pwrite64").filter(|c| c.path().contains(".seg") && c.offset() >= GROUPS_AT) {
        first.entry(call.path()).or_insert(call);
    }
    first.retain(|_, call| call.thread == writer);
    assert!(first.len() > 2, "{first:?}");
    for (segment, group) in &first {
        let made = calls.done("pwrite64", segment, 0).unwrap();
        let steps = [("fdatasync", *segment), ("fsync", folder), listed[0], listed[1]];
        let done = calls.chain(made, &steps).unwrap_or_else(|e| panic!("{segment}: {e}"));
        assert!(
            done < group.begun,
            "{segment} takes a group at line {}, and is listed at {done}",
            group.begun
        );
    }
    let removed: Vec<_> = calls.all("unlink").filter(|call| first.contains_key(call.path())).collect();
    assert!(!removed.is_empty(), "no segment was removed");
    for removed in removed {
        let done = calls.chain(first[removed.path()].done, &listed).unwrap_or_else(|e| panic!("{e}"));
        assert!(done < removed.begun, "{removed:?} before line {done}");
    }
}

/// What is acknowledged at [`Durability::Sync`] is on the disk before the server can know; gives the thread that wrote it.
fn check_acknowledged(calls: &Calls) -> String {
    let written = calls.all("pwrite64").find(|call| call.arguments.contains(COAT)).unwrap();
    let told = calls.all("write").find(|call| call.arguments.contains(ACKNOWLEDGED)).unwrap();
    let synced = calls.done("fdatasync", written.path(), written.done);
    assert!(synced.is_some_and(|synced| synced < told.begun), "{written:?}, {told:?}");
    written.thread.clone()
}

/// One session whose acknowledgement is told, then enough for segments to turn, die and be removed.
async fn work(folder: &Path) {
    let store = in_time("open", LogStore::open(folder, options())).await.unwrap().at(Durability::Sync);
    in_time("put", store.upsert(key(0), COAT.as_bytes().to_vec().into(), HOUR)).await.unwrap();
    println!("\n{ACKNOWLEDGED}");
    for n in 1..100 {
        in_time("put", store.upsert(key(n), payload(n, 3_000).into(), HOUR)).await.unwrap();
    }
    let segments = store.stats().segments;
    for n in 1..100 {
        assert!(in_time("delete", store.delete(key(n))).await.unwrap());
    }
    let removed = async {
        while store.stats().segments >= segments {
            tokio::task::yield_now().await;
        }
    };
    in_time("segments that died are removed", removed).await;
    in_time("close", store.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_be_on_the_disk_first_is_synced_first() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return work(Path::new(&folder)).await;
    }
    if let Err(why) = is_there() {
        println!("skipped: {why}");
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().canonicalize().unwrap().join("new/store");
    let record = top.path().join("record");
    let output = Command::new("strace")
        .args(["-f", "-y", "-qq", "-s", "8192", "-e", "signal=none", "-e", CALLS, "-o"])
        .arg(&record)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(FOLDER, &folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let calls = Calls::read(&std::fs::read_to_string(record).unwrap());
    let folder = folder.to_str().unwrap();
    check_folders(&calls);
    let writer = check_acknowledged(&calls);
    check_lists(&calls, folder);
    check_segments(&calls, folder, &writer);
}
