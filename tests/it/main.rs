//! The integration tests: one binary, one module for each concern.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect ends there")]

/// What the store asks of a disk, for the real and the simulated one; and that the simulated one loses what it should.
mod disk;
