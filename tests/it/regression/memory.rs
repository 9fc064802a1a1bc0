//! What opening takes in memory, whatever the files say.
//!
//! Each test opens in a process of its own, whose peak the kernel knows: other tests take memory too.

use std::path::Path;

use bytes::Bytes;
use cloakroom::disk::sim::SimDisk;
use cloakroom::{Durability, LogStore, OpenError, Options, ReadMode, SessionKey, SessionStore};

use super::{DAY, FOLDER, in_a_process, open, options, put, say};
use crate::stores::defaults;

/// A segment in a manifest: id, kind, salt, capacity, and length and checksum if it is sealed.
type Listed = (u32, u32, u64, u32, Option<(u32, u32)>);

/// A manifest: store, mark, doubt, next segment, next number, segments.
type Listing = ([u8; 16], u64, u64, u32, u64, u64, Vec<Listed>);

const MIB: u64 = 1 << 20;

/// A peak of this process so far, in bytes: `VmPeak` of address space, `VmHWM` of memory.
fn peak(of: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(of)).unwrap();
    let kib: u64 = line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    kib << 10
}

fn crc(start: u32, bytes: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new_with_initial(start);
    hasher.update(bytes);
    hasher.finalize().to_le_bytes()
}

/// A manifest whose checksums hold, which says of its body that it has `len` bytes.
fn manifest(body: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = b"CLOAKMAN\x01\0\0\0".to_vec();
    bytes.extend(u32::try_from(len).unwrap().to_le_bytes());
    bytes.extend(crc(0, body));
    bytes.extend(crc(0, &bytes));
    bytes.extend(body);
    bytes
}

/// Puts a number into a segment's file, and closes the header of `len` bytes that stands at `at` with a checksum that holds.
fn forge(segment: &mut [u8], at: usize, len: usize, field: usize, number: u32) {
    segment[at + field..at + field + 4].copy_from_slice(&number.to_le_bytes());
    let id = u32::from_le_bytes(*segment[40..].first_chunk().unwrap());
    let salt = u64::from_le_bytes(*segment[48..].first_chunk().unwrap());
    let mut z = salt ^ u64::from(id).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    z ^= (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let checksum = crc(u32::try_from(z >> 32).unwrap(), &segment[at..at + len - 4]);
    segment[at + len - 4..at + len].copy_from_slice(&checksum);
}

/// A manifest and a segment whose lengths lie and whose checksums hold.
struct Crafted {
    lie: &'static str,
    manifest: Vec<u8>,
    segment: Vec<u8>,
    /// What opening comes to.
    ends: &'static str,
}

fn crafted() -> Vec<Crafted> {
    let disk = SimDisk::new(1);
    let store = open(&disk, &options().0).at(Durability::Sync);
    put(&store, 1, 100, DAY);
    disk.kill();
    let (true_list, segment) = (disk.contents("MANIFEST").unwrap(), disk.contents("00000001.seg").unwrap());
    let list: Listing = postcard::from_bytes(&true_list[24..]).unwrap();
    let (store, mark, doubted, next_segment, next_seq, durable, mut segments) = list;
    segments.retain(|listed| listed.0 == 1);
    let relist = |change: fn(&mut Listed)| {
        let mut segments = segments.clone();
        segments.iter_mut().for_each(change);
        let body =
            postcard::to_stdvec(&(store, mark, doubted, next_segment, next_seq, durable, segments)).unwrap();
        manifest(&body, body.len())
    };
    let good = relist(|_| {});
    let mut endless = postcard::to_stdvec(&(store, mark, doubted, next_segment, next_seq, durable)).unwrap();
    endless.extend(postcard::to_stdvec(&u32::MAX).unwrap());
    let forged = |at, len, field, number| {
        let mut forged = segment.clone();
        forge(&mut forged, at, len, field, number);
        forged
    };
    let of_list = |lie, manifest| Crafted { lie, manifest, segment: segment.clone(), ends: "refused" };
    let of_segment = |lie, segment, ends| Crafted { lie, manifest: good.clone(), segment, ends };
    vec![
        of_segment("none", segment.clone(), "opened with 1"),
        // Shows that what is forged here would be believed, were it true.
        of_segment("none, forged", forged(64, 48, 12, 1), "opened with 1"),
        of_list("a body of 4 GiB", manifest(&good[24..], u32::MAX as usize)),
        of_list("4 billion segments", manifest(&endless, endless.len())),
        of_list("a capacity of 4 GiB", relist(|listed| listed.3 = u32::MAX)),
        of_list("a sealed length of 4 GiB", relist(|listed| listed.4 = Some((u32::MAX, 0)))),
        of_segment("a group of 4 GiB", forged(64, 48, 8, u32::MAX), "opened with 0"),
        of_segment("a group of 3 GiB", forged(64, 48, 8, 3 << 30), "opened with 0"),
        of_segment("a record of 4 GiB", forged(112, 96, 4, u32::MAX), "opened with 0"),
        of_segment("a record of 3 GiB", forged(112, 96, 4, 3 << 30), "opened with 0"),
    ]
}

/// emdb allocated gigabytes at the word of a file of 20 KB.
#[tokio::test]
async fn lengths_that_lie_allocate_nothing() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let before = peak("VmPeak:");
        let folder = Path::new(&folder);
        let how = match LogStore::open(folder, defaults()).await {
            Ok(store) => {
                let how = format!("opened with {}", store.len());
                store.close().await.unwrap();
                how
            }
            Err(OpenError::Damaged { .. }) => "refused".into(),
            Err(other) => other.to_string(),
        };
        LogStore::verify(folder, defaults()).await.unwrap();
        LogStore::open_read_only(folder, defaults()).await.unwrap().close().await.unwrap();
        LogStore::salvage(folder, defaults()).await.unwrap();
        let taken = (peak("VmPeak:") - before) / MIB;
        say(&format!("{taken} MiB, {how}"));
        return;
    }
    for Crafted { lie, manifest, segment, ends } in crafted() {
        let folder = tempfile::tempdir().unwrap();
        tokio::fs::write(folder.path().join("MANIFEST"), manifest).await.unwrap();
        tokio::fs::write(folder.path().join("00000001.seg"), segment).await.unwrap();
        let (mut child, mut said) =
            in_a_process("regression::memory::lengths_that_lie_allocate_nothing", folder.path());
        let answer = said();
        child.wait().unwrap();
        let (taken, end) = answer.split_once(" MiB, ").unwrap();
        assert_eq!(end, ends, "{lie}");
        // An open maps a segment of 64 MiB that it makes, and starts threads.
        assert!(taken.parse::<u64>().unwrap() < 512, "{lie}: {answer}");
    }
}

/// A file of a terabyte takes no room on the disk where most of it is a hole.
#[tokio::test]
async fn files_that_are_long_beyond_reason_are_not_read_whole() {
    const LEN: u64 = 1 << 40;
    if let Some(folder) = std::env::var_os(FOLDER) {
        let (before, folder) = (peak("VmPeak:"), Path::new(&folder));
        let options = || Options { read_mode: ReadMode::Pread, ..defaults() };
        LogStore::verify(folder, options()).await.unwrap();
        LogStore::open_read_only(folder, options()).await.unwrap().close().await.unwrap();
        let opened = match LogStore::open(folder, options()).await {
            Ok(store) => {
                let sessions = store.len();
                store.close().await.unwrap();
                format!("opened with {sessions}")
            }
            Err(OpenError::Damaged { file, .. }) => file,
            Err(other) => other.to_string(),
        };
        LogStore::salvage(folder, options()).await.unwrap();
        say(&format!("{} MiB, {opened}", (peak("VmPeak:") - before) / MIB));
        return;
    }
    for (file, ends) in
        [("MANIFEST", "MANIFEST"), ("00000001.seg", "opened with 1"), ("MANIFEST.copy", "opened with 1")]
    {
        let folder = tempfile::tempdir().unwrap();
        let (path, whole) = (folder.path(), crafted().swap_remove(0));
        for (name, bytes) in [("MANIFEST", &whole.manifest), ("00000001.seg", &whole.segment)] {
            tokio::fs::write(path.join(name), bytes).await.unwrap();
        }
        tokio::fs::write(path.join("MANIFEST.copy"), &whole.manifest).await.unwrap();
        let grown = tokio::fs::OpenOptions::new().write(true).open(path.join(file)).await.unwrap();
        grown.set_len(LEN).await.unwrap();
        let test = "regression::memory::files_that_are_long_beyond_reason_are_not_read_whole";
        let (mut child, mut said) = in_a_process(test, path);
        let answer = said();
        child.wait().unwrap();
        let (taken, end) = answer.split_once(" MiB, ").unwrap();
        assert_eq!(end, ends, "{file}");
        assert!(taken.parse::<u64>().unwrap() < 512, "{file}: {answer}");
    }
}

/// emdb needed twice the data in memory to open it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_takes_a_fraction_of_the_data_in_memory() {
    const SESSIONS: u32 = 400;
    let options = || Options {
        segment_bytes: 1 << 20,
        payload_bytes_max: 100 << 10,
        read_mode: ReadMode::Pread,
        ..defaults()
    };
    if let Some(folder) = std::env::var_os(FOLDER) {
        let before = peak("VmHWM:");
        let store = LogStore::open(Path::new(&folder), options()).await.unwrap();
        say(&format!("{} {}", peak("VmHWM:") - before, store.len()));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), options()).await.unwrap().at(Durability::Buffered);
    for n in 0..SESSIONS {
        let payload = Bytes::from(vec![1; 100 << 10]);
        store.upsert(SessionKey::of(&n.to_le_bytes()), payload, DAY).await.unwrap();
    }
    let data = store.stats().live_bytes;
    store.close().await.unwrap();
    let (mut child, mut said) =
        in_a_process("regression::memory::opening_takes_a_fraction_of_the_data_in_memory", folder.path());
    let answer = said();
    child.wait().unwrap();
    let (taken, sessions) = answer.split_once(' ').unwrap();
    assert_eq!(sessions, SESSIONS.to_string());
    let taken: u64 = taken.parse().unwrap();
    assert!(taken < data / 2, "opening {} MiB took {} MiB", data / MIB, taken / MIB);
}
