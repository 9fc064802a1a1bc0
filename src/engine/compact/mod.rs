//! Compaction: what is dead goes, what is alive moves. [`plan`] decides from numbers alone; [`run`](mod@run) does it.

mod plan;
mod run;
