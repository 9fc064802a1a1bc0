//! redb: a B-tree that copies pages on write, one writer at a time. Each write is a transaction; deadlines are a table of their own.

use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase as _, TableDefinition};

use crate::peer::{Key, Op, Peer};

const VALUES: TableDefinition<&Key, &[u8]> = TableDefinition::new("values");
const DEADLINES: TableDefinition<&Key, u64> = TableDefinition::new("deadlines");
/// Any instant: what it is makes no difference to the work.
const DEADLINE_MS: u64 = 1_800_000_000_000;

pub struct Redb(Database);

impl Redb {
    fn get(&self, key: &Key) -> Result<bool, redb::Error> {
        let copy =
            self.0.begin_read()?.open_table(VALUES)?.get(key)?.map(|v| Bytes::copy_from_slice(v.value()));
        Ok(black_box(copy).is_some())
    }

    fn write(&self, op: Op, key: &Key, value: &[u8]) -> Result<bool, redb::Error> {
        let mut transaction = self.0.begin_write()?;
        let durability = if op == Op::PutSync { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability)?;
        let found = {
            let mut values = transaction.open_table(VALUES)?;
            match op {
                Op::Touch => {
                    transaction.open_table(DEADLINES)?.insert(key, DEADLINE_MS)?;
                    true
                }
                Op::Delete => values.remove(key)?.is_some(),
                _ => {
                    values.insert(key, value)?;
                    true
                }
            }
        };
        transaction.commit()?;
        Ok(found)
    }
}

impl Peer for Redb {
    const NAME: &'static str = "redb";
    const BLOCKS: bool = true;
    const DURABLE: bool = true;

    async fn open(folder: &Path) -> Self {
        let database = Database::create(folder.join("redb")).expect("the database can be made");
        let made = Self(database);
        made.write(Op::Put, &[0; 32], b"so that the table is there").expect("it can be written");
        made
    }

    async fn run(&self, op: Op, key: Key, value: Bytes) -> bool {
        let done = if op == Op::Get { self.get(&key) } else { self.write(op, &key, &value) };
        done.expect("the database answers")
    }
}
