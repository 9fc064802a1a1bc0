//! Placeholder of the benchmarks.

fn main() {}
