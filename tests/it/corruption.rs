//! Damage of every kind in every file of a store: told, never served; and what is made of it afterwards signs nobody back in.
//!
//! Goal: to refute P7 and P8. Method: a history is run once, and what it left is damaged in one way after another. Then
//!
//! - the strict open holds exactly the sessions that there were, or refuses, names file and offset, and leaves every byte as it was. It passes over damage
//!   only where that cannot be told from a torn end, and then says how many bytes it cut off; what it holds is then what there was at one
//!   earlier moment.
//! - Verify says that the store is sound if and only if the strict open succeeds, and changes nothing.
//! - A read-only open holds sessions as they last were, and no others; it changes nothing.
//! - A salvage keeps the same sessions, every file that was there lies in quarantine, and the strict open succeeds from then on.

mod copied_list;
mod crashes;
mod cut_short;
mod ends;
mod histories;
mod kept;
mod lost_list;
mod older_list;
mod sweep;
mod unread;

pub use crate::support::damaged::is_segment;
use crate::support::damaged::{Sessions, files, observe, open, proven, read_only, salvage, verify};
