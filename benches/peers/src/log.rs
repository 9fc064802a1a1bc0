//! The bound for our shape: the map, and a bare log with group commit before it. No expiry, no compaction, no recovery.
//!
//! A record is 64 bytes of header, with a checksum, and the value. One thread takes what has gathered and writes it with one call; if a member
//! asked for it, the file is synced, and meanwhile the next group gathers. Space is set aside 64 MiB at a time, so that a sync seldom has
//! to record the file's new length.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{FallocateFlags, fallocate};
use tokio::sync::oneshot;

use crate::map::Map;
use crate::peer::{Key, Op, Peer};

const HEADER_BYTES: usize = 64;
const SET_ASIDE_BYTES: u64 = 64 << 20;
/// As much may wait to be written as cloakroom lets wait by default.
const UNWRITTEN_BYTES_MAX: usize = 16 << 20;

pub struct LogMap {
    map: Map,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    gathering: Mutex<Group>,
    /// There is something to write, or nothing more will come.
    filled: Condvar,
    /// What was gathered has been taken.
    taken: Condvar,
}

#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    waiting: Vec<oneshot::Sender<()>>,
    closed: bool,
}

impl LogMap {
    /// Puts a record into the group; with `sync`, gives what tells that it is on the device.
    fn log(&self, kind: Op, key: &Key, value: &[u8], sync: bool) -> Option<oneshot::Receiver<()>> {
        let mut header = [0; HEADER_BYTES];
        header[0] = kind as u8;
        header[1..33].copy_from_slice(key);
        header[33..41].copy_from_slice(&value.len().to_le_bytes());
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&header[..60]);
        checksum.update(value);
        header[60..].copy_from_slice(&checksum.finalize().to_le_bytes());
        let mut group = self.shared.gathering.lock();
        while group.bytes.len() > UNWRITTEN_BYTES_MAX {
            self.shared.taken.wait(&mut group);
        }
        let first = group.bytes.is_empty();
        group.bytes.extend_from_slice(&header);
        group.bytes.extend_from_slice(value);
        let told = sync.then(|| {
            let (tell, told) = oneshot::channel();
            group.waiting.push(tell);
            told
        });
        drop(group);
        if first {
            self.shared.filled.notify_one();
        }
        told
    }
}

fn write(shared: &Shared, file: &File) {
    let (mut at, mut set_aside) = (0_u64, 0_u64);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let mut group = shared.gathering.lock();
        while group.bytes.is_empty() && !group.closed {
            shared.filled.wait(&mut group);
        }
        if group.bytes.is_empty() {
            return;
        }
        std::mem::swap(&mut bytes, &mut group.bytes);
        let waiting = std::mem::take(&mut group.waiting);
        drop(group);
        shared.taken.notify_all();
        let end = at + bytes.len() as u64;
        while end > set_aside {
            fallocate(file, FallocateFlags::empty(), set_aside, SET_ASIDE_BYTES).expect("there is room");
            set_aside += SET_ASIDE_BYTES;
        }
        file.write_all_at(&bytes, at).expect("the log can be written");
        at = end;
        if !waiting.is_empty() {
            file.sync_data().expect("the log can be synced");
            for waiter in waiting {
                // A writer that stopped waiting needs no answer.
                let _ = waiter.send(());
            }
        }
    }
}

impl Peer for LogMap {
    const NAME: &'static str = "logmap";
    const BLOCKS: bool = false;
    const DURABLE: bool = true;

    async fn open(folder: &Path) -> Self {
        let file = File::create(folder.join("log")).expect("the log can be made");
        let shared = Arc::new(Shared::default());
        let writer = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || write(&shared, &file)
        });
        Self { map: Map::new(), shared, writer: Some(writer) }
    }

    async fn run(&self, op: Op, key: Key, value: Bytes) -> bool {
        if op == Op::Get {
            return self.map.do_now(op, key, &value);
        }
        let told = self.log(op, &key, &value, op == Op::PutSync);
        let found = self.map.do_now(op, key, &value);
        if let Some(told) = told {
            told.await.expect("the writer lives");
        }
        found
    }
}

impl Drop for LogMap {
    fn drop(&mut self) {
        self.shared.gathering.lock().closed = true;
        self.shared.filled.notify_one();
        self.writer.take().into_iter().for_each(|writer| writer.join().expect("the writer ends well"));
    }
}
