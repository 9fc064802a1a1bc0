//! The bytes of one simulated file: as programs see them, and as they would be after power loss.
//!
//! It knows no names, handles or faults. Invariant: a change is either in `unsynced` or in `durable`, or it was dropped by a failed sync
//! and will never be durable by itself; and what power loss leaves of a sector is one of the versions it had since the last sync.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::plan::SECTOR_BYTES;

#[derive(Clone)]
pub(super) struct Inode {
    /// What reads see: the page cache.
    pub(super) now: Vec<u8>,
    /// What has reached the device for certain.
    durable: Vec<u8>,
    /// What may have reached it, in the order it was done.
    unsynced: Vec<Change>,
    /// Open handles, which keep a file without a name.
    pub(super) handles: u32,
}

/// One write, truncate or creation, as the device would see it.
#[derive(Clone)]
struct Change {
    /// The file's length after it.
    len: usize,
    /// The first sector that it wrote.
    sector: usize,
    /// Whole sectors as the page cache had them; zeros beyond the end of the file. None for a change of length alone.
    bytes: Vec<u8>,
}

impl Change {
    /// The sectors it wrote, by number.
    fn sectors(&self) -> impl Iterator<Item = (usize, &[u8])> {
        (self.sector..).zip(self.bytes.chunks(SECTOR_BYTES))
    }

    fn apply(&self, content: &mut Vec<u8>) {
        content.resize(self.len, 0);
        for (sector, bytes) in self.sectors() {
            put(content, sector, bytes);
        }
        content.truncate(self.len);
    }
}

impl Inode {
    /// A new file. Its length is as unsynced as any other change.
    pub(super) fn zeros(len: usize) -> Self {
        let created = Change { len, sector: 0, bytes: Vec::new() };
        Self { now: vec![0; len], durable: Vec::new(), unsynced: vec![created], handles: 0 }
    }

    /// A file that has always had these bytes.
    pub(super) fn durable(bytes: &[u8]) -> Self {
        Self { now: bytes.to_vec(), durable: bytes.to_vec(), unsynced: Vec::new(), handles: 0 }
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if into.is_empty() {
            return Ok(());
        }
        let start = usize::try_from(offset).map_err(|_| ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(into.len()).ok_or(ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(self.now.get(start..end).ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if end > self.now.len() {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(bytes);
        let sector = offset / SECTOR_BYTES;
        let sectors_end = end.next_multiple_of(SECTOR_BYTES);
        let mut image = self.now[sector * SECTOR_BYTES..sectors_end.min(self.now.len())].to_vec();
        image.resize(sectors_end - sector * SECTOR_BYTES, 0);
        self.unsynced.push(Change { len: self.now.len(), sector, bytes: image });
    }

    /// What a write that failed leaves: each sector's part of it is written or not.
    pub(super) fn write_in_part(&mut self, offset: usize, bytes: &[u8], rng: &mut Xoshiro256PlusPlus) {
        let mut from = 0;
        while from < bytes.len() {
            let to = ((offset + from + 1).next_multiple_of(SECTOR_BYTES) - offset).min(bytes.len());
            if rng.random_bool(0.5) {
                self.write(offset + from, &bytes[from..to]);
            }
            from = to;
        }
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(|_| ErrorKind::UnexpectedEof)?;
        let byte = self.now.get_mut(at).ok_or(ErrorKind::UnexpectedEof)?;
        *byte ^= 1 << (bit % 8);
        self.durable.clone_from(&self.now);
        self.unsynced.clear();
        Ok(())
    }

    pub(super) fn truncate(&mut self, len: usize) {
        if len < self.now.len() {
            self.now.truncate(len);
            self.unsynced.push(Change { len, sector: 0, bytes: Vec::new() });
        }
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// The kernel forgets that these changes are unsynced, as Linux does: they are seen, and the next sync says `Ok` without them.
    pub(super) fn fail_sync(&mut self) {
        self.unsynced.clear();
    }

    /// Power loss: some of the first changes survive whole; of the rest nothing, or of each sector any version and of the length
    /// any stage.
    pub(super) fn lose(&mut self, rng: &mut Xoshiro256PlusPlus) {
        let whole = rng.random_range(0..=self.unsynced.len());
        let mut rest = std::mem::take(&mut self.unsynced);
        for change in rest.drain(..whole) {
            change.apply(&mut self.durable);
        }
        if rng.random_bool(0.5) {
            tear(&mut self.durable, &rest, rng);
        }
        self.now.clone_from(&self.durable);
    }
}

/// Applies a random part of `changes`: to each sector the first few that wrote it, to the length the first few of all, and of the next
/// a part if it grew the file. A cut that is kept leaves nothing behind it; one that is lost has done nothing.
fn tear(content: &mut Vec<u8>, changes: &[Change], rng: &mut Xoshiro256PlusPlus) {
    let mut writes_kept = BTreeMap::<usize, usize>::new();
    for (sector, _) in changes.iter().flat_map(Change::sectors) {
        *writes_kept.entry(sector).or_default() += 1;
    }
    for kept in writes_kept.values_mut() {
        *kept = rng.random_range(0..=*kept);
    }
    let lens_kept = rng.random_range(0..=changes.len());
    let mut len = content.len();
    for (i, change) in changes.iter().enumerate() {
        if i < lens_kept {
            content.truncate(change.len);
            len = change.len;
        } else if i == lens_kept && change.len > len {
            len = rng.random_range(len..=change.len);
        }
        for (sector, bytes) in change.sectors() {
            if let Some(kept @ 1..) = writes_kept.get_mut(&sector) {
                *kept -= 1;
                put(content, sector, bytes);
            }
        }
    }
    content.resize(len, 0);
}

fn put(content: &mut Vec<u8>, sector: usize, bytes: &[u8]) {
    let start = sector * SECTOR_BYTES;
    let end = start + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}
