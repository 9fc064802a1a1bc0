//! What a real system does to a store: small file systems that fill up, descriptors that run out, folders that go away or take no changes.
//!
//! Not here is what the simulated disk shows exactly. What needs more rights or tools than there are is skipped, and said. Invariant: what is mounted
//! is unmounted, whatever the test comes to.

#![expect(
    clippy::disallowed_methods,
    reason = "it does to files and folders what others than the store do to them"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cloakroom::{Access, Durability, Error, LogStore, OpenError, Options, SessionStore};

use crate::stores::defaults;
use crate::support::acked::{Acked, HOUR, in_time, key, payload};

fn options() -> Options {
    Options { segment_bytes: 64 << 10, payload_bytes_max: 4_096, ..defaults() }
}

async fn open(folder: &Path) -> LogStore {
    let patience = Duration::from_secs(30);
    let opened = in_time("open", LogStore::open_wait(folder, options(), patience)).await;
    opened.unwrap_or_else(|e| panic!("{e}")).at(Durability::Sync)
}

/// What background work needs to get on.
async fn a_moment() {
    let _ = tokio::time::timeout(Duration::from_millis(5), std::future::pending::<()>()).await;
}

/// Waits until compaction has found nothing more to do: while it works there are moments when its space is free for whoever comes.
async fn rest(store: &LogStore) {
    let (mut before, mut moments) = (store.stats(), 0);
    while moments < 150 {
        a_moment().await;
        moments += 1;
        let now = store.stats();
        if (now.compacted_bytes, now.segments) != (before.compacted_bytes, before.segments) {
            (before, moments) = (now, 0);
        }
    }
}

/// Runs a command; says why not, if it does not succeed.
fn done(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|e| format!("no {program}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program} {arguments:?}: {said}")) }
}

/// A file system of its own, small.
struct Mounted {
    at: PathBuf,
    _folder: tempfile::TempDir,
}

impl Mounted {
    fn tmpfs() -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("mnt");
        std::fs::create_dir(&at).unwrap();
        done("mount", &["-t", "tmpfs", "-o", "size=1200k", "none", at.to_str().unwrap()])?;
        Ok(Self { at, _folder: folder })
    }

    fn ext4() -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let (image, at) = (folder.path().join("image"), folder.path().join("mnt"));
        std::fs::create_dir(&at).unwrap();
        File::create(&image).unwrap().set_len(4 << 20).unwrap();
        done("mkfs.ext4", &["-q", "-m", "0", "-F", image.to_str().unwrap()])?;
        done("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()])?;
        Ok(Self { at, _folder: folder })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(why) = done("umount", &["-l", self.at.to_str().unwrap()]) {
            println!("{} stays mounted: {why}", self.at.display());
        }
    }
}

/// Deletes, however often it is to be asked for until compaction has made room.
async fn delete(store: &LogStore, n: u32) {
    let deleted = async {
        loop {
            match store.delete(key(n)).await {
                Ok(deleted) => return assert!(deleted, "session {n}"),
                Err(Error::DiskFull) => a_moment().await,
                Err(other) => panic!("session {n}: {other}"),
            }
        }
    };
    in_time("a delete on a full disk", deleted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_on_a_small_file_system_fills_shrinks_and_opens() {
    for (kind, mounted) in [("tmpfs", Mounted::tmpfs()), ("ext4", Mounted::ext4())] {
        let mounted = match mounted {
            Ok(mounted) => mounted,
            Err(why) => {
                println!("skipped on {kind}: {why}");
                continue;
            }
        };
        let folder = mounted.at.join("store");
        let store = open(&folder).await;
        let mut sessions = 0;
        let refused = loop {
            let written = in_time("put", store.upsert(key(sessions), payload(sessions, 3_000).into(), HOUR));
            match written.await {
                Ok(()) => sessions += 1,
                Err(error) => break error,
            }
            assert!(sessions < 5_000, "{kind} has no end");
        };
        assert!(matches!(refused, Error::DiskFull), "{kind}: {refused:?}");
        in_time("compaction of a full store", rest(&store)).await;
        // Not a byte is left to anybody.
        std::io::copy(&mut std::io::repeat(1), &mut File::create(mounted.at.join("ballast")).unwrap())
            .unwrap_err();
        let (gone, stay): (Vec<_>, Vec<_>) = (0..sessions).partition(|n| n % 5 < 3);
        for n in &gone {
            delete(&store, *n).await;
        }
        let there =
            async |store: &LogStore, n: u32| in_time("get", store.get(key(n), Access::Peek)).await.unwrap();
        for n in &stay {
            assert!(there(&store, *n).await.is_some(), "{kind}: session {n}");
        }
        // The space that came back is the store's own, and takes writes again.
        let written = async {
            while let Err(error) = store.upsert(key(9_999), payload(9_999, 3_000).into(), HOUR).await {
                assert!(matches!(error, Error::DiskFull), "{kind}: {error:?}");
                a_moment().await;
            }
        };
        in_time("a write after deletes", written).await;
        drop(in_time("close", store.close()).await);
        drop(store);
        let store = open(&folder).await;
        for n in gone {
            assert!(there(&store, n).await.is_none(), "{kind}: session {n} came back");
        }
        for n in stay.into_iter().chain([9_999]) {
            assert!(there(&store, n).await.is_some(), "{kind}: session {n}");
        }
        drop(in_time("close", store.close()).await);
    }
}

/// Tells a process with few descriptors which folder is its own.
const FOLDER: &str = "CLOAKROOM_DESCRIPTORS_FOLDER";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_that_run_out_are_told_and_writes_go_on_when_they_are_back() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return run_out(Path::new(&folder)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let test = "failures::system::descriptors_that_run_out_are_told_and_writes_go_on_when_they_are_back";
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 80 && exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("#done"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn run_out(folder: &Path) {
    let store = open(folder).await;
    let mut acked = Acked::default();
    acked.work(&store, 0..40).await;
    assert!(acked.errors.is_empty(), "{:?}", acked.errors);
    let taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(taken.len() < 80, "there is no limit");
    let refused = in_time("another open", LogStore::open(folder.join("other"), options())).await;
    assert!(matches!(refused, Err(OpenError::Io { .. })), "{refused:?}");
    for part in 1..4 {
        acked.work(&store, part * 40..part * 40 + 40).await;
    }
    assert!(!acked.errors.is_empty(), "no segment was made meanwhile");
    for error in &acked.errors {
        assert!(
            matches!(error, Error::Io { .. } | Error::Poisoned { .. } | Error::DurabilityUnknown { .. }),
            "{error:?}"
        );
    }
    assert!(acked.check(&store, "without descriptors").await.is_empty());
    drop(taken);
    let poisoned = acked.errors.iter().any(|e| matches!(e, Error::Poisoned { .. }));
    assert!(!poisoned, "a lack of descriptors ended the writing: {:?}", acked.errors.last());
    acked.errors.clear();
    let written = async {
        while store.upsert(key(5_000), payload(5_000, 3_000).into(), HOUR).await.is_err() {
            a_moment().await;
        }
    };
    in_time("a write when they are back", written).await;
    acked.work(&store, 6_000..6_060).await;
    assert!(acked.errors.is_empty(), "{:?}", acked.errors);
    in_time("close", store.close()).await.unwrap();
    drop(store);
    let store = open(folder).await;
    assert!(acked.check(&store, "afterwards").await.is_empty());
    in_time("close", store.close()).await.unwrap();
    println!("\n#done");
}

/// What is done to a folder while a store has it open, and how it is undone.
type Deed = (&'static str, fn(&Path) -> Result<(), String>, fn(&Path) -> Result<(), String>);

fn elsewhere(folder: &Path) -> PathBuf {
    folder.with_extension("away")
}

const DEEDS: [Deed; 3] = [
    (
        "renamed away",
        |f| std::fs::rename(f, elsewhere(f)).map_err(|e| e.to_string()),
        |f| std::fs::rename(elsewhere(f), f).map_err(|e| e.to_string()),
    ),
    (
        "made immutable",
        |f| done("chattr", &["+i", f.to_str().unwrap()]),
        |f| done("chattr", &["-i", f.to_str().unwrap()]),
    ),
    // Again, if the store makes a file meanwhile: half of it gone is another case.
    (
        "deleted",
        |f| (0..100).any(|_| std::fs::remove_dir_all(f).is_ok()).then_some(()).ok_or("it cannot be".into()),
        |_| Err("for good".into()),
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_that_goes_away_or_takes_no_changes_is_told_and_reads_go_on() {
    for (deed, perform, undo) in DEEDS {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("store");
        let store = open(&folder).await;
        let mut acked = Acked::default();
        acked.work(&store, 0..40).await;
        if let Err(why) = perform(&folder) {
            println!("skipped, a folder {deed}: {why}");
            in_time("close", store.close()).await.unwrap();
            continue;
        }
        for part in 1..4 {
            acked.work(&store, part * 40..part * 40 + 40).await;
        }
        assert!(!acked.errors.is_empty(), "{deed}: nobody was told");
        for error in &acked.errors {
            let told =
                matches!(error, Error::Io { .. } | Error::Poisoned { .. } | Error::DurabilityUnknown { .. });
            assert!(told, "{deed}: {error:?}");
        }
        assert!(acked.check(&store, deed).await.is_empty(), "{deed}: reads ended");
        drop(in_time("close", store.close()).await);
        drop(store);
        if undo(&folder).is_ok() {
            let store = open(&folder).await;
            assert!(acked.check(&store, deed).await.is_empty());
            acked.errors.clear();
            acked.work(&store, 1_000..1_040).await;
            assert!(acked.errors.is_empty(), "{deed}: {:?}", acked.errors);
            in_time("close", store.close()).await.unwrap();
        }
    }
}

/// A folder that takes no changes from the start: no store, and nothing harmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_that_takes_no_changes_opens_no_store_and_opens_later() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("store");
    let store = open(&folder).await;
    let mut acked = Acked::default();
    acked.work(&store, 0..40).await;
    in_time("close", store.close()).await.unwrap();
    drop(store);
    if let Err(why) = done("chattr", &["+i", folder.to_str().unwrap()]) {
        println!("skipped: {why}");
        return;
    }
    let refused = in_time("open", LogStore::open(&folder, options())).await;
    done("chattr", &["-i", folder.to_str().unwrap()]).unwrap();
    assert!(matches!(refused, Err(OpenError::Io { .. })), "{refused:?}");
    let store = open(&folder).await;
    assert!(acked.check(&store, "afterwards").await.is_empty());
    in_time("close", store.close()).await.unwrap();
}

/// Somebody moves the folder of a store that runs and starts another in its place: the two have nothing to do with each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_whose_folder_was_moved_leaves_the_one_in_its_place_alone() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("store");
    let old = open(&folder).await;
    let mut of_old = Acked::default();
    of_old.work(&old, 0..40).await;
    std::fs::rename(&folder, elsewhere(&folder)).unwrap();
    let new = open(&folder).await;
    let (mut of_new, mut refused) = (Acked::default(), 0);
    for part in 1..6 {
        of_new.work(&new, part * 1_000..part * 1_000 + 40).await;
        of_old.work(&old, part * 40..part * 40 + 40).await;
        refused += of_old.errors.len();
    }
    assert!(refused > 0, "the old one went on as if nothing had happened");
    assert!(of_new.errors.is_empty(), "{:?}", of_new.errors);
    assert!(of_old.check(&old, "the old one").await.is_empty());
    drop(in_time("close", old.close()).await);
    in_time("close", new.close()).await.unwrap();
    drop((old, new));
    for (folder, acked) in [(folder.clone(), of_new), (elsewhere(&folder), of_old)] {
        let store = open(&folder).await;
        assert!(acked.check(&store, folder.to_str().unwrap()).await.is_empty());
        in_time("close", store.close()).await.unwrap();
    }
}
