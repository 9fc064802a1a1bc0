//! The integration tests: one binary, one module for each concern.

/// The source tree keeps its own rules: imports, sizes, seams.
mod tidy;
