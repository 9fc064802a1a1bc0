//! cloakroom itself, through its public interface, with its defaults but for the durability that a work asks for.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Access, Durability, Lifetime, LogStore, Options, SessionKey, SessionStore as _};

use crate::peer::{Key, Op, Peer};

/// Long enough that nothing expires in a run.
const LIFETIME: Lifetime = Lifetime::idle(Duration::from_secs(24 * 60 * 60));

pub struct Cloakroom {
    buffered: LogStore,
    synced: LogStore,
}

impl Peer for Cloakroom {
    const NAME: &'static str = "cloakroom";
    const BLOCKS: bool = false;
    const DURABLE: bool = true;

    async fn open(folder: &Path) -> Self {
        let store = LogStore::open(folder, Options::default()).await.expect("the store opens");
        Self { buffered: store.at(Durability::Buffered), synced: store.at(Durability::Sync) }
    }

    async fn run(&self, op: Op, key: Key, value: Bytes) -> bool {
        let (store, key) = (&self.buffered, SessionKey::from_bytes(key));
        let done = match op {
            Op::Get => store.get(key, Access::Peek).await.map(|read| black_box(read).is_some()),
            Op::Touch => store.touch(key).await,
            Op::Put => store.put(key, value).await.map(|version| version.is_some()),
            Op::PutSync => self.synced.put(key, value).await.map(|version| version.is_some()),
            Op::Create => store.upsert(key, value, LIFETIME).await.map(|()| true),
            Op::Delete => store.delete(key).await,
        };
        done.expect("the store answers")
    }

    async fn close(self) {
        self.buffered.close().await.expect("the store closes");
    }
}
