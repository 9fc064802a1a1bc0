//! Compaction: what is dead goes, what is alive moves. `plan` decides from numbers alone, `run` does it, `copier`
//! writes what stays.

mod copier;
mod plan;
mod run;
