//! One segment: its file, its map while it is warm, and how far it is written.
//!
//! Invariant: bytes below `written` never change again, so they are read without a lock; nothing is read above it.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, Map};
use crate::format::{
    FOOTER_HEADER_BYTES, Footer, Invalid, Listed, SEGMENT_HEADER_BYTES, Seal, Seed, SegmentHeader,
    SegmentKind, checksum, segment_name,
};
use crate::id::{Address, SegmentId};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, Ordering};

/// The shortest segment that the stream goes on in on a disk that is nearly full: room for a hundred deletes.
pub(crate) const STREAM_BYTES_MIN: u32 = 16 << 10;

/// A segment is checked in pieces of this length.
const PIECE_BYTES: usize = 256 << 10;

/// A segment of the log.
pub(crate) struct Segment {
    header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    map: Option<Map>,
    /// Bytes that the file has room for.
    capacity: u32,
    /// Bytes that reached the kernel. Written by whoever holds `crc`.
    written: AtomicU32,
    /// Checksum of those bytes.
    crc: Mutex<crc32fast::Hasher>,
    /// Length of the footer that stands behind them, for all that read this file.
    footer: Arc<AtomicU32>,
}

impl Segment {
    /// Makes a segment file with its header, synced; the folder is not synced yet.
    pub(crate) fn create(
        disk: &dyn Disk,
        id: SegmentId,
        kind: SegmentKind,
        store: [u8; 16],
        capacity: u32,
        mapped: bool,
    ) -> io::Result<Arc<Self>> {
        let name = segment_name(id);
        match disk.remove(&name) {
            // What a crash left under a name that was never listed.
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let file = disk.create(&name, capacity.into())?;
        Self::create_in(disk, file, id, kind, store, capacity, mapped)
            .inspect_err(|_| drop(disk.remove(&name)))
    }

    /// The same in a file that is there, has room for `capacity` bytes and was never written.
    pub(crate) fn create_in(
        disk: &dyn Disk,
        file: Arc<dyn DiskFile>,
        id: SegmentId,
        kind: SegmentKind,
        store: [u8; 16],
        capacity: u32,
        mapped: bool,
    ) -> io::Result<Arc<Self>> {
        let header = SegmentHeader { kind, store, id, salt: random_salt(disk)? };
        let crc = Mutex::new(Self::start(&*file, &header)?);
        let map = if mapped { file.map()? } else { None };
        let written = AtomicU32::new(SEGMENT_HEADER_BYTES);
        Ok(Arc::new(Self { header, file, map, capacity, written, crc, footer: Arc::default() }))
    }

    /// Makes a segment for the stream, of `capacity` bytes; a shorter one, but of `least` bytes, where the disk has no room for that.
    pub(crate) fn create_stream(
        disk: &dyn Disk,
        id: SegmentId,
        store: [u8; 16],
        mut capacity: u32,
        least: u32,
        mapped: bool,
    ) -> io::Result<Arc<Self>> {
        let least = least.max(STREAM_BYTES_MIN);
        loop {
            match Self::create(disk, id, SegmentKind::Stream, store, capacity, mapped) {
                Err(e) if e.kind() == io::ErrorKind::StorageFull && capacity / 2 >= least => capacity /= 2,
                made => return made,
            }
        }
    }

    fn start(file: &dyn DiskFile, header: &SegmentHeader) -> io::Result<crc32fast::Hasher> {
        let bytes = header.encode();
        file.write_at(0, &bytes)?;
        file.sync()?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes);
        Ok(crc)
    }

    /// Opens the file of a listed segment, with all that the file holds readable; `Err(Ok(_))` if it is not the one that is listed.
    pub(crate) fn open(
        disk: &dyn Disk,
        listed: &Listed,
        store: [u8; 16],
        mapped: bool,
    ) -> io::Result<Result<Arc<Self>, Invalid>> {
        let file = disk.open(&segment_name(SegmentId(listed.id)))?;
        let mut len = u32::try_from(file.len()?).unwrap_or(u32::MAX);
        let is_short = listed.seal.is_none() && len < listed.capacity;
        if listed.seal.is_none() {
            // Nothing of a store's is behind that, however long the file is.
            len = len.min(listed.capacity);
        }
        if len < SEGMENT_HEADER_BYTES || is_short {
            return Ok(Err(Invalid::Short));
        }
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        file.read_at(0, &mut bytes)?;
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => header,
            Err(invalid) => return Ok(Err(invalid)),
        };
        let expected =
            SegmentHeader { kind: listed.kind, store, id: SegmentId(listed.id), salt: listed.salt };
        if header != expected {
            return Ok(Err(Invalid::Field));
        }
        let map = if mapped { file.map()? } else { None };
        let (crc, footer) = (Mutex::new(crc32fast::Hasher::new()), Arc::default());
        let written = AtomicU32::new(len);
        Ok(Ok(Arc::new(Self { header, file, map, capacity: len, written, crc, footer })))
    }

    /// A segment of which what counts ends at `end`, to be read through the file alone. Whether the file is that segment's, each read checks.
    pub(crate) fn to_read(header: SegmentHeader, file: Arc<dyn DiskFile>, end: u32) -> Self {
        let (crc, footer) = (Mutex::new(crc32fast::Hasher::new()), Arc::default());
        Self { header, file, map: None, capacity: end, written: AtomicU32::new(end), crc, footer }
    }

    /// The same segment, to be read through the file alone.
    pub(crate) fn unmapped(&self) -> Self {
        Self {
            header: self.header,
            file: Arc::clone(&self.file),
            map: None,
            capacity: self.capacity,
            written: AtomicU32::new(self.written()),
            crc: Mutex::new(self.crc.lock().clone()),
            footer: Arc::clone(&self.footer),
        }
    }

    /// How the manifest lists it.
    pub(crate) fn listed(&self, seal: Option<Seal>) -> Listed {
        let SegmentHeader { kind, id, salt, .. } = self.header;
        Listed { id: id.0, kind, salt, capacity: self.capacity, seal }
    }

    pub(crate) fn id(&self) -> SegmentId {
        self.header.id
    }

    pub(crate) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    pub(crate) fn seed(&self) -> Seed {
        self.header.seed()
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.map.is_some()
    }

    /// Bytes that reached the kernel.
    pub(crate) fn written(&self) -> u32 {
        self.written.load(Ordering::Acquire)
    }

    /// Writes behind what is written.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut crc = self.crc.lock();
        let at = self.written();
        self.file.write_at(at.into(), bytes)?;
        crc.update(bytes);
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.written.store(at + len, Ordering::Release);
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// Brings what is written into memory ahead of its use, if the segment is mapped; this may wait for the disk.
    pub(crate) fn warm_up(&self) {
        if let Some(map) = &self.map {
            map.fault_in(self.written() as usize);
        }
    }

    /// Length and checksum of all that is written.
    pub(crate) fn seal(&self) -> Seal {
        let crc = self.crc.lock();
        Seal { len: self.written(), crc: crc.clone().finalize() }
    }

    /// Forgets what lies above `counts`, all that counts of it: its length and checksum. For a segment that was opened, not written.
    pub(crate) fn cut(&self, counts: &[u8]) -> Seal {
        let len = u32::try_from(counts.len()).unwrap_or(u32::MAX);
        self.written.store(len, Ordering::Release);
        Seal { len, crc: checksum(0, counts) }
    }

    /// Gives space back that was set aside and is not used.
    pub(crate) fn trim(&self) -> io::Result<()> {
        self.file.truncate(self.disk_bytes())
    }

    /// What it takes on the disk once it was trimmed.
    pub(crate) fn disk_bytes(&self) -> u64 {
        u64::from(self.written()) + u64::from(self.footer_bytes())
    }

    pub(crate) fn footer_bytes(&self) -> u32 {
        self.footer.load(Ordering::Acquire)
    }

    /// Puts a footer behind what is written, which was trimmed; not durably, since a footer is a hint. If there is no room for it, there is none.
    pub(crate) fn put_footer(&self, footer: &[u8]) -> io::Result<()> {
        let end = self.written();
        self.file.write_at(end.into(), footer).inspect_err(|_| drop(self.file.truncate(end.into())))?;
        self.footer.store(u32::try_from(footer.len()).unwrap_or(u32::MAX), Ordering::Release);
        Ok(())
    }

    /// Cuts the footer off.
    pub(crate) fn cut_footer(&self) -> io::Result<()> {
        self.file.truncate(self.written().into())?;
        self.footer.store(0, Ordering::Release);
        Ok(())
    }

    /// The bytes of the footer that stands behind what counts of a segment that was opened, if there is one and its header holds.
    pub(crate) fn read_footer(&self, seal: Seal) -> io::Result<Option<Vec<u8>>> {
        let Some(left) = self.capacity.checked_sub(seal.len) else { return Ok(None) };
        let mut header = [0; FOOTER_HEADER_BYTES];
        if (left as usize) < header.len() {
            return Ok(None);
        }
        self.file.read_at(seal.len.into(), &mut header)?;
        match Footer::len(&header, self.seed(), seal) {
            Ok(len) if len <= left as usize => {
                let mut bytes = vec![0; len];
                self.file.read_at(seal.len.into(), &mut bytes)?;
                Ok(Some(bytes))
            }
            _ => Ok(None),
        }
    }

    /// For a segment that was opened, not written: forgets what lies above its seal but for a footer of this length.
    pub(crate) fn keep_footer(&self, seal: Seal, footer: usize) {
        self.written.store(seal.len, Ordering::Release);
        self.footer.store(u32::try_from(footer).unwrap_or(u32::MAX), Ordering::Release);
    }

    /// The checksum of all that is written, read through the file piece by piece: this waits for the disk.
    pub(crate) fn checksum(&self) -> io::Result<u32> {
        let mut crc = crc32fast::Hasher::new();
        let (mut piece, mut at) = (vec![0; PIECE_BYTES], 0);
        while at < self.written() {
            let len = piece.len().min((self.written() - at) as usize);
            self.file.read_at(at.into(), &mut piece[..len])?;
            crc.update(&piece[..len]);
            at += u32::try_from(len).map_err(io::Error::other)?;
        }
        Ok(crc.finalize())
    }

    /// The bytes of a record that is written, if the segment is warm.
    pub(crate) fn warm(&self, address: Address) -> Option<&[u8]> {
        let map = self.map.as_ref()?;
        map.bytes(address.offset as usize, address.len as usize)
    }

    /// The bytes of a record that is written, through the file: this may wait for the disk.
    pub(crate) fn read(&self, address: Address) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; address.len as usize];
        self.file.read_at(address.offset.into(), &mut bytes)?;
        Ok(bytes)
    }

    /// Everything up to `len`: this may wait for the disk, and takes as much memory if the segment is cold.
    pub(crate) fn whole(&self, len: u32) -> io::Result<Cow<'_, [u8]>> {
        if let Some(bytes) = self.map.as_ref().and_then(|map| map.bytes(0, len as usize)) {
            return Ok(Cow::Borrowed(bytes));
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_at(0, &mut bytes)?;
        Ok(Cow::Owned(bytes))
    }
}

fn random_salt(disk: &dyn Disk) -> io::Result<u64> {
    let mut salt = [0; 8];
    disk.random(&mut salt)?;
    Ok(u64::from_le_bytes(salt))
}
