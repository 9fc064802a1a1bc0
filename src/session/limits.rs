//! What a session may hold at most, for the fields, the envelope and the errors that speak of it.
//!
//! Limits of single payloads are options of the store; these are not, since they bound the work of a save. Invariant: a session within them
//! when it was saved decodes.

/// The most fields of a session: each is looked at on every save, and a session that has more is a table that wants to be one.
pub const FIELDS_MAX: usize = 1_024;

/// The longest field name, in bytes: names are written with every save.
pub const FIELD_NAME_BYTES_MAX: usize = 256;

/// Arrays and objects within each other that a field's JSON may have: what has more is not read back.
pub(super) const LEVELS_MAX: usize = 127;
