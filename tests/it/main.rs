//! The integration tests: one binary, one module for each concern.

mod api; // The contract of every store, at one instant.
mod expiry; // The contract of every store, as time passes.
mod session; // The dictionary over a store: just in time, merged, never revived.
mod stores; // The stores under test, and their clock.
