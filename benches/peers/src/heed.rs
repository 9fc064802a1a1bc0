//! LMDB, through heed: a mapped B-tree, readers that never wait, one writer at a time. Each write is a transaction; deadlines are a database of
//! their own.

use std::hint::black_box;
use std::path::Path;

use ::heed::types::{Bytes as Slice, U64};
use ::heed::{Database, Env, EnvFlags, EnvOpenOptions, Error, FlagSetMode, byteorder::LE};
use bytes::Bytes;

use crate::peer::{Key, Op, Peer};

/// Address space, not memory: it has to hold whatever a run writes.
const MAP_BYTES: usize = 32 << 30;
/// Any instant: what it is makes no difference to the work.
const DEADLINE_MS: u64 = 1_800_000_000_000;

pub struct Lmdb {
    env: Env,
    values: Database<Slice, Slice>,
    deadlines: Database<Slice, U64<LE>>,
}

impl Lmdb {
    fn create(folder: &Path) -> Result<Self, Error> {
        // SAFETY: the folder was made for this run, and no other process knows of it; without syncs, a crash costs a benchmark's data.
        let env = unsafe {
            EnvOpenOptions::new().map_size(MAP_BYTES).max_dbs(2).flags(EnvFlags::NO_SYNC).open(folder)?
        };
        let mut transaction = env.write_txn()?;
        let values = env.create_database(&mut transaction, Some("values"))?;
        let deadlines = env.create_database(&mut transaction, Some("deadlines"))?;
        transaction.commit()?;
        Ok(Self { env, values, deadlines })
    }

    fn do_now(&self, op: Op, key: &Key, value: &[u8]) -> Result<bool, Error> {
        if op == Op::Get {
            let transaction = self.env.read_txn()?;
            let copy = self.values.get(&transaction, key)?.map(Bytes::copy_from_slice);
            return Ok(black_box(copy).is_some());
        }
        let mut transaction = self.env.write_txn()?;
        let found = match op {
            Op::Touch => self.deadlines.put(&mut transaction, key, &DEADLINE_MS).map(|()| true),
            Op::Delete => self.values.delete(&mut transaction, key),
            _ => self.values.put(&mut transaction, key, value).map(|()| true),
        };
        transaction.commit()?;
        found
    }
}

impl Peer for Lmdb {
    const NAME: &'static str = "lmdb";
    const BLOCKS: bool = true;
    const DURABLE: bool = true;

    async fn open(folder: &Path) -> Self {
        Self::create(folder).expect("the environment can be made")
    }

    async fn run(&self, op: Op, key: Key, value: Bytes) -> bool {
        self.do_now(op, &key, &value).expect("the environment answers")
    }

    fn durable_from_here(&self) {
        // SAFETY: called between two works, while no other thread uses the environment; it takes back what was unsafe about the flag.
        let set = unsafe { self.env.set_flags(EnvFlags::NO_SYNC, FlagSetMode::Disable) };
        set.and_then(|()| self.env.force_sync()).expect("the environment can be synced");
    }
}
