//! The bytes of one simulated file: as programs see them, and as they would be after power loss.
//!
//! It knows no names, handles or faults. Copies share bytes until one of them changes. Invariant: a change is either in `unsynced` or in
//! `durable`, or it was dropped by a failed sync and will never be durable by itself; and what power loss leaves of a sector is one of the
//! versions it had since the last sync.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::plan::SECTOR_BYTES;

#[derive(Clone)]
pub(super) struct Inode {
    /// What reads see: the page cache.
    pub(super) now: Arc<Vec<u8>>,
    /// What has reached the device for certain.
    durable: Arc<Vec<u8>>,
    /// What may have reached it, in the order it was done.
    unsynced: Vec<Change>,
    /// A sync failed: reads see bytes that are held to be on the device and may not be.
    dropped: bool,
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
    bytes: Arc<Vec<u8>>,
}

impl Change {
    fn of_length(len: usize) -> Self {
        Self { len, sector: 0, bytes: Arc::default() }
    }

    /// The sectors it wrote, by number.
    fn sectors(&self) -> impl Iterator<Item = (usize, &[u8])> {
        (self.sector..).zip(self.bytes.chunks(SECTOR_BYTES))
    }

    fn apply(&self, content: &mut Vec<u8>) {
        resize(content, self.len);
        for (sector, bytes) in self.sectors() {
            put(content, sector, bytes);
        }
        content.truncate(self.len);
    }
}

impl Inode {
    /// A new file. Its length is as unsynced as any other change.
    pub(super) fn zeros(len: usize) -> Self {
        Self {
            now: Arc::new(vec![0; len]),
            durable: Arc::default(),
            unsynced: vec![Change::of_length(len)],
            dropped: false,
            handles: 0,
        }
    }

    /// A file that has always had these bytes.
    pub(super) fn durable(bytes: &[u8]) -> Self {
        let bytes = Arc::new(bytes.to_vec());
        Self { now: Arc::clone(&bytes), durable: bytes, unsynced: Vec::new(), dropped: false, handles: 0 }
    }

    /// Whether power loss would leave the same of both, as far as that shows without reading.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let is_settled = |file: &Self| file.unsynced.is_empty() && !file.dropped;
        Arc::ptr_eq(&self.durable, &other.durable) && is_settled(self) && is_settled(other)
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
        let now = Arc::make_mut(&mut self.now);
        if end > now.len() {
            resize(now, end);
        }
        now[offset..end].copy_from_slice(bytes);
        let sector = offset / SECTOR_BYTES;
        let sectors_end = end.next_multiple_of(SECTOR_BYTES);
        let mut image = now[sector * SECTOR_BYTES..sectors_end.min(now.len())].to_vec();
        resize(&mut image, sectors_end - sector * SECTOR_BYTES);
        self.unsynced.push(Change { len: now.len(), sector, bytes: Arc::new(image) });
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
        let byte = Arc::make_mut(&mut self.now).get_mut(at).ok_or(ErrorKind::UnexpectedEof)?;
        *byte ^= 1 << (bit % 8);
        self.durable.clone_from(&self.now);
        self.unsynced.clear();
        Ok(())
    }

    pub(super) fn truncate(&mut self, len: usize) {
        if len < self.now.len() {
            Arc::make_mut(&mut self.now).truncate(len);
            self.unsynced.push(Change::of_length(len));
        }
    }

    pub(super) fn sync(&mut self) {
        if self.unsynced.is_empty() {
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        for change in self.unsynced.drain(..) {
            change.apply(durable);
        }
    }

    /// Some of it reaches the device; that the rest did not, the kernel forgets, as Linux does: it is seen, and the next sync says `Ok` without it.
    pub(super) fn fail_sync(&mut self, rng: &mut Xoshiro256PlusPlus) {
        self.keep_some(rng);
        self.dropped = true;
    }

    /// What a failed sync dropped is in memory that is held to be clean, so the kernel may let go of it at any time: it does between two
    /// processes, or never.
    pub(super) fn evict(&mut self, rng: &mut Xoshiro256PlusPlus) {
        if !self.dropped || rng.random_bool(0.5) {
            return;
        }
        let mut seen = Vec::clone(&self.durable);
        for change in &self.unsynced {
            change.apply(&mut seen);
        }
        // The length is not read back from the device.
        resize(&mut seen, self.now.len());
        self.now = Arc::new(seen);
    }

    /// Power loss.
    pub(super) fn lose(&mut self, rng: &mut Xoshiro256PlusPlus) {
        self.keep_some(rng);
        self.dropped = false;
        self.now = Arc::clone(&self.durable);
    }

    /// Of what is unsynced, some of the first changes become durable whole; of the rest nothing, or of each sector any version and of
    /// the length any stage.
    fn keep_some(&mut self, rng: &mut Xoshiro256PlusPlus) {
        if self.unsynced.is_empty() {
            return;
        }
        let whole = rng.random_range(0..=self.unsynced.len());
        let is_torn = rng.random_bool(0.5);
        let mut rest = std::mem::take(&mut self.unsynced);
        if whole == 0 && !is_torn {
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        for change in rest.drain(..whole) {
            change.apply(durable);
        }
        if is_torn {
            tear(durable, &rest, rng);
        }
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
    resize(content, len);
}

/// Cuts, or grows with zeros: into memory that is zeros already, since a byte at a time is slow where nothing is optimised.
fn resize(content: &mut Vec<u8>, len: usize) {
    if len > content.len() {
        let mut grown = vec![0; len];
        grown[..content.len()].copy_from_slice(content);
        *content = grown;
    } else {
        content.truncate(len);
    }
}

fn put(content: &mut Vec<u8>, sector: usize, bytes: &[u8]) {
    let start = sector * SECTOR_BYTES;
    let end = start + bytes.len();
    if content.len() < end {
        resize(content, end);
    }
    content[start..end].copy_from_slice(bytes);
}
