//! Where a store is damaged, and what damaged files are called once they have been moved aside. Plain data.

use std::fmt;

/// Places that are kept: a report is for people, and what is damaged throughout is not clearer for more.
const PLACES_MAX: usize = 1_000;

/// What the names of files begin with that a salvage moved aside.
const QUARANTINE: &str = "quarantine-";

/// A place that is damaged.
///
/// ```
/// # use cloakroom::{LogStore, Options};
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// for place in LogStore::verify(folder.path(), Options::default()).await?.damage {
///     eprintln!("{place}"); // 00000001.seg, offset 4711: the checksum does not match
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Damage {
    /// The file, in the store's folder.
    pub file: String,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// What does not hold.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, offset {}: {}", self.file, self.offset, self.what)
    }
}

/// The damaged places of a store.
#[derive(Clone, Default)]
pub(super) struct Damages {
    /// The first ones.
    pub(super) places: Vec<Damage>,
    /// All of them.
    pub(super) count: u64,
}

impl Damages {
    pub(super) fn add(&mut self, file: &str, offset: u32, what: impl Into<String>) {
        self.count += 1;
        if self.places.len() < PLACES_MAX {
            self.places.push(Damage { file: file.into(), offset: offset.into(), what: what.into() });
        }
    }
}

/// The name under which the `turn`-th salvage moves a file aside.
pub(super) fn quarantine_name(turn: u32, name: &str) -> String {
    format!("{QUARANTINE}{turn:04}-{name}")
}

/// What a file was called that has such a name.
pub(super) fn quarantined(name: &str) -> Option<&str> {
    turn_of(name).map(|(_, name)| name)
}

/// The number of the next salvage.
pub(super) fn next_turn(names: &[String]) -> u32 {
    names.iter().filter_map(|name| turn_of(name)).map(|(turn, _)| turn).max().unwrap_or(0).saturating_add(1)
}

fn turn_of(name: &str) -> Option<(u32, &str)> {
    let (turn, name) = name.strip_prefix(QUARANTINE)?.split_once('-')?;
    turn.bytes().all(|b| b.is_ascii_digit()).then(|| Some((turn.parse().ok()?, name)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_damaged_places_are_counted_and_the_first_thousand_kept() {
        let mut damages = Damages::default();
        (0..1_001).for_each(|at| damages.add("00000001.seg", at, "it is damaged"));
        assert_eq!((damages.count, damages.places.len()), (1_001, 1_000));
        assert_eq!(damages.places.last().map(|place| place.offset), Some(999));
    }
}
