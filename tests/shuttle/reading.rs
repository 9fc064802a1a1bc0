//! A store with its own threads, compaction among them, and readers: of memory, of maps, and through the threads that wait for the disk.
//!
//! Property: a session that is there throughout is found by each get and by each walk over the keys, with the payload of a write that was
//! acknowledged or under way, never an older one again, whichever segment it has moved to and whichever was unlinked meanwhile.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::thread;

use super::compaction::{LIFETIME, PUT, TOUCHED, disk, prepare};
use super::{after_power_loss, below, explore, key, linger, options};
use crate::sync::scheduled::timers;
use crate::{Access, Durability, LogStore, ReadMode, SessionStore as _};

fn reader(store: &LogStore) {
    let mut newest = 0;
    for _ in 0..3 {
        for n in [LIFETIME, TOUCHED, PUT] {
            let access = if below(2) == 0 { Access::Peek } else { Access::Touch };
            let found = block_on(store.get(key(n), access)).unwrap().expect("it is there throughout");
            let byte = found.payload[0];
            assert!(
                if n == PUT { byte >= newest } else { byte == 1 },
                "session {n} is {byte} after {newest}"
            );
            newest = if n == PUT { byte } else { newest };
        }
        let (mut keys, mut cursor) = (Vec::new(), None);
        loop {
            let page = block_on(store.keys(cursor, 4)).unwrap();
            keys.extend(page.keys);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert!([LIFETIME, TOUCHED].iter().all(|n| keys.contains(&key(*n))), "the walk missed one");
        linger(10);
    }
}

#[test]
fn reader_finds_what_is_there_while_its_segment_is_compacted_and_unlinked() {
    prepare();
    explore(1_000, || {
        timers(8);
        let mut options = options().0;
        options.read_mode = if below(2) == 0 { ReadMode::Mapped } else { ReadMode::Pread };
        options.warm_bytes_max = if below(2) == 0 { 0 } else { options.warm_bytes_max };
        let disk = disk();
        let store = block_on(LogStore::open_on(Arc::new(disk.clone()), options.clone())).unwrap();
        let readers = [1, 2].map(|_| {
            let store = store.clone();
            thread::spawn(move || reader(&store))
        });
        for byte in 2..6 {
            block_on(store.at(Durability::Buffered).put(key(PUT), vec![byte; 100].into())).unwrap().unwrap();
            linger(30);
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        block_on(store.close()).unwrap();
        let reopened = after_power_loss(&disk, &options);
        for (n, byte) in [(LIFETIME, 1), (TOUCHED, 1), (PUT, 5)] {
            assert_eq!(block_on(reopened.get(key(n), Access::Peek)).unwrap().unwrap().payload[0], byte);
        }
    });
}
