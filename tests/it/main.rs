//! The integration tests: one binary, one module for each concern.
//!
//! Variables of the environment: `CLOAKROOM_SEED` replays a seed that a failure printed, `CLOAKROOM_SIM_BUDGET` makes the tests that crash, fail, drop
//! and fight longer, and `CLOAKROOM_READ_MODE=pread` runs every store in a folder without maps.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect ends there")]

/// The contract of every store, at one instant.
mod api;
/// What goes on behind the operations, with threads.
mod background;
/// Futures that are dropped before they are ready.
mod cancel;
/// No more sessions of an owner than a sign-in allows.
mod capped;
/// What compaction must not change, and that it ends.
mod compaction;
/// What compaction writes, and how.
mod copies;
/// Damage of every kind, and what is made of it.
mod corruption;
/// What the store asks of a disk, for the real and the simulated one; and that the simulated one loses what it should.
mod disk;
/// Starts by a wall clock that may be wrong.
mod doubt;
/// Histories that end in a crash at every possible moment.
mod durability;
/// What is told of sessions as it happens.
mod events;
/// The contract of every store, as time passes.
mod expiry;
/// A disk that fails or is full.
mod failures;
/// Types that a deploy changed, read from what is stored.
mod fields;
/// Who has the folder.
mod fight;
/// What stands behind sealed segments, and an open by it.
mod footers;
/// Files whose checksums hold and whose numbers no store writes.
mod forged;
/// Folders that stores of each format version left.
mod format_compat;
/// Lifetimes, compare-and-swap and races of saves.
mod merging;
/// Power cuts, full disks and failed syncs between two steps of the background work.
mod moments;
/// What the options ask for.
mod options;
/// Operations that others overtake.
mod overtaken;
/// The sessions of an owner: listed, counted, labelled.
mod owned;
/// Whose sessions they are, and ending all of somebody's.
mod owners;
/// What opening does with folders that are half made, torn, damaged or foreign.
mod recovery;
/// Promises of owners, caps and events that were found not to hold.
mod refuted;
/// Bugs that other stores had and that this design invites.
mod regression;
/// A rotation beside everything else that changes a session.
mod rotation;
/// What is printed and stored holds no token.
mod secrets;
/// The dictionary over a store: just in time, merged, never revived.
mod session;
mod signed_out;
/// The stores under test, and their clock.
mod stores;
/// Histories, the model of what a crash may leave, and one life of a store after another.
#[expect(dead_code, reason = "it is shared with the simulations, which use the rest of it")]
mod support;
/// Power loss under the store's own threads.
mod threads;
/// The source tree keeps its own rules: imports, sizes, seams.
mod tidy;
/// Clocks that step, sleep and end.
mod time;
/// A flood of visitors, and those who sign in meanwhile.
mod visitors;
