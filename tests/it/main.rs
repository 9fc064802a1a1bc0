//! The integration tests: one binary, one module for each concern.

/// What the store asks of a disk, for the real and the simulated one; and that the simulated one loses what it should.
mod disk;
/// The source tree keeps its own rules: imports, sizes, seams.
mod tidy;
