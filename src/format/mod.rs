//! Bytes to values and back.

/// Length of a record's header: all of a touch, a tombstone.
pub(crate) const RECORD_HEADER_BYTES: u32 = 96;

/// What a rotate record carries for its old key, beyond what a put would: that key, and how long what it hides may outlast it.
pub(crate) const ROTATE_BYTES: u32 = 40;
