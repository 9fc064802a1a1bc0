//! How a write ends, and why one does not begin.

use std::sync::Arc;

/// How a write or sync ended: well, or by a failure whose message this is.
pub(crate) type Outcome = Result<(), Arc<str>>;

/// Why a record was not staged. Nothing of it happened.
#[derive(Clone, Debug)]
pub(crate) enum Refused {
    /// The next segment is not ready; it will be.
    Wait,
    /// It could not be made, for this reason.
    NoSegment(Arc<std::io::Error>),
    Closed,
    Poisoned(Arc<str>),
}
