//! cloakroom beside other stores: the same records, the same work, one run, one machine; medians of interleaved rounds, and ratios.
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers/Cargo.toml
//! ```
//!
//! `CLOAKROOM_BENCH_SESSIONS` (default 1,000,000), `CLOAKROOM_BENCH_ROUNDS` (default 3), `CLOAKROOM_BENCH_DIR` (default the temporary folder: no
//! durable figure means anything if that is memory) and `CLOAKROOM_BENCH_PEERS` (names, divided by commas) are read from the environment.
//!
//! Two of the peers are no stores but bounds. `map` is a sharded hash map that copies the value out: nothing that keeps values behind a key
//! reads faster. `logmap` adds a bare group-commit log to it, with no expiry, no compaction and no recovery. Peers are not asked whether a session has
//! expired, and are never synced in the works that are not durable: both is in their favour.

mod heed;
mod log;
mod map;
mod peer;
#[path = "../../store/records.rs"]
mod records;
mod redb;
mod rounds;
mod store;
mod table;

use std::path::{Path, PathBuf};

use peer::Peer;
use rounds::{Figures, Plan};

fn main() {
    let sessions = number("CLOAKROOM_BENCH_SESSIONS", 1_000_000);
    let rounds = number("CLOAKROOM_BENCH_ROUNDS", 3);
    let parent = std::env::var_os("CLOAKROOM_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let wanted = std::env::var("CLOAKROOM_BENCH_PEERS").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').filter(|name| !name.is_empty()).collect();
    let plan = Plan::new(sessions);
    let mut figures = Figures::default();
    for round in 1..=rounds {
        println!("round {round} of {rounds}, {sessions} sessions");
        let mut go = Go { plan: &plan, parent: &parent, wanted: &wanted, figures: &mut figures };
        go.peer::<map::Map>();
        go.peer::<log::LogMap>();
        go.peer::<store::Cloakroom>();
        go.peer::<heed::Lmdb>();
        go.peer::<redb::Redb>();
    }
    table::print(&figures);
}

struct Go<'a> {
    plan: &'a Plan,
    parent: &'a Path,
    wanted: &'a [&'a str],
    figures: &'a mut Figures,
}

impl Go<'_> {
    /// All works on one peer, in a folder of its own that goes with it.
    fn peer<P: Peer>(&mut self) {
        if self.wanted.is_empty() || self.wanted.contains(&P::NAME) {
            let folder = tempfile::Builder::new().prefix("cloakroom-peers").tempdir_in(self.parent);
            let folder = folder.expect("a folder can be made");
            println!("  {}", P::NAME);
            rounds::run::<P>(self.plan, folder.path(), self.figures);
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number is given"))
}
