//! The log: segments of groups, written by one thread and synced by another.
//!
//! # Why nothing acknowledged is lost (P1)
//!
//! A record gets its sequence number and its place in one step, under the staging lock; the groups are written in that order, each with
//! one positional write, and a group is written only after every group before it was. So the kernel always holds a prefix of
//! the log, and a sync covers a prefix.
//!
//! - *Sync*: the outcome is sent after `fdatasync` of every segment that held unsynced bytes of the prefix up to the record's group
//!   returned `Ok`. A crash before: nobody was told. A crash after: the device has the prefix.
//! - *Interval*: the outcome is sent after the write returned: a killed process leaves the bytes to the kernel. The sync is due within
//!   the interval from then.
//! - Allocation comes first: a segment takes no group before its file has its space, its header is synced, its folder is synced and the
//!   manifest that lists it is durable. So a write needs no space, and what is acknowledged lies in a file that the next open reads.
//!
//! # The watermark
//!
//! Each group carries the position up to which the log was synced when the group was taken for writing. It is read after the sync it
//! speaks of returned, so it never claims too much. Hence: an invalid group *below* a watermark that a later valid group carries is
//! damage to bytes that were on the device; an invalid group above every watermark can come of power loss alone. When the
//! stream has been idle since its last sync, a group without records carries the watermark beyond the last record: then
//! damage anywhere in the data is told from a torn end.
//!
//! # A failed write or sync
//!
//! The kernel may have dropped the pages and may say `Ok` the next time, so nothing is tried again: the log is poisoned. Who waits is
//! told that the outcome is unknown, who comes later is refused, and what is staged stays readable from memory.
//!
//! # Leaving a segment
//!
//! The group that ends a segment says so in its flags, so that recovery can tell a complete segment from one whose end was lost and never
//! reads the next segment of the stream over a hole.

mod copy;
mod outcome;
mod room;
mod scan;
mod segment;
mod staging;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod walk;

pub(crate) use copy::{CopyWriter, copy_bytes};
pub(crate) use outcome::{Outcome, Refused};
pub(crate) use room::Room;
pub(crate) use scan::{Scanned, Trust, claimed_behind, end_of_bytes, scan};
pub(crate) use segment::{STREAM_BYTES_MIN, Segment};
pub(crate) use staging::Staged;
pub(crate) use stream::Log;
pub(crate) use table::{List, Table, find};
pub(crate) use walk::{Found, groups, last_group, walk};
