//! Simulations: the store on a simulated disk, driven by hand, with every state that a crash may leave at its side.
//!
//! Goal: to refute the promises P1, P2 and P4 to P9 under power loss, killed processes and every failure of the disk. Four forms:
//!
//! - *Exhaustive*: all sequences of up to three operations, power loss in the midst of every call of the disk, and again in the midst of every call
//!   of the recovery that follows; and the same sequences with every call, reads too, that fails in one of four ways, in them or in the open behind them.
//! - *Long*: random histories of 10,000 operations over many lives, in which everything fails that can.
//! - *Doubtful*: random histories under a wall clock that is days or years ahead at some starts.
//! - *Struck*: what each life of such a history leaves is damaged at random, repaired, lived on with and damaged again (P7, P8).
//!
//! `cargo test` runs the quick form: all sequences of up to two operations, some of three, and a few histories. The full form:
//!
//! ```sh
//! CLOAKROOM_SIM_BUDGET=2197 cargo test --release --test sim -- --nocapture
//! ```
//!
//! The budget is how many sequences of three operations are tried (there are 2,197; with all of them every call is a crash point, in six ways, and
//! so is every call of a recovery, of those after three operations one of sixteen in turn; and every call fails, after three operations one of
//! eight), and how many histories. `CLOAKROOM_SEED` sets the seed that both begin with, which a failure prints; the totals are printed at the end.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect ends there")]

/// Wrong clocks.
mod doubtful;
/// All short sequences.
mod exhaustive;
/// The same sequences, with calls that fail.
mod faults;
/// Long random histories.
mod long;
/// The store that each of them starts from.
mod prepared;
/// Damage in what those leave.
mod struck;
#[expect(dead_code, reason = "it is shared with the integration tests, which use the rest of it")]
#[path = "../it/support/mod.rs"]
mod support;
