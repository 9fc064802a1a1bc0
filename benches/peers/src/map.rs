//! The bound for reading: a sharded hash map that copies the value out. It forgets everything, and nothing expires.

use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::peer::{Key, Op, Peer};

/// Far more than threads, so that two of them seldom meet.
const SHARDS: usize = 256;

pub struct Map {
    shards: Vec<Mutex<HashMap<Key, Bytes>>>,
}

impl Map {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, key: &Key) -> &Mutex<HashMap<Key, Bytes>> {
        // Ids are random, so any byte of them parts them evenly; the table hashes all of them.
        &self.shards[usize::from(key[31])]
    }

    pub fn do_now(&self, op: Op, key: Key, value: &Bytes) -> bool {
        let mut shard = self.shard(&key).lock();
        match op {
            Op::Get => {
                let copy = shard.get(&key).map(|value| Bytes::copy_from_slice(value));
                drop(shard);
                black_box(copy).is_some()
            }
            Op::Touch => shard.contains_key(&key),
            Op::Put | Op::PutSync | Op::Create => {
                shard.insert(key, Bytes::copy_from_slice(value));
                true
            }
            Op::Delete => shard.remove(&key).is_some(),
        }
    }
}

impl Peer for Map {
    const NAME: &'static str = "map";
    const BLOCKS: bool = false;
    const DURABLE: bool = false;

    async fn open(_: &Path) -> Self {
        Self::new()
    }

    async fn run(&self, op: Op, key: Key, value: Bytes) -> bool {
        self.do_now(op, key, &value)
    }
}
