//! From a folder to an engine.
//!
//! The folder is not touched before it is known to be a store's, or empty. Until the new manifest is durable nothing that the old
//! one lists is changed, so a crash at any call leaves a folder that opens the same way (P6); what is removed or cut afterwards is not
//! part of the store any more. On a full disk what no list names goes first, once all that is listed was read and is whole, and so do the
//! copies of what was cut off.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::StoreClock;
use crate::disk::{Disk, LockError};
use crate::error::OpenError;
use crate::format::{
    FORMAT_VERSION, Invalid, MANIFEST_MAGIC, Manifest, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, SegmentHeader,
    SegmentKind, segment_name,
};
use crate::id::{Position, SegmentId, Seq};
use crate::log::{Log, STREAM_BYTES_MIN, Segment, Table};
use crate::options::{Options, ReadMode, SEGMENT_BYTES_MAX};

use super::catalog::{Catalog, MANIFEST, MANIFEST_BYTES_MAX, MANIFEST_COPY, MANIFEST_NEW, Unchanged};
use super::damage::quarantined;
use super::footers::Chore;
use super::recover::{
    Recovered, SEGMENT_IDS_MAX, SEQ_GAP, is_torn, recover, refuse_used_up, tells_of_a_later_list,
};
use super::reserve::Reserve;
use super::{Engine, Opened};

/// Threads that read whole segments while the store opens or closes: beyond a few the disk sets the pace.
const WORKERS_MAX: usize = 8;

/// Files with cut-off bytes that are kept; older ones are removed.
const TORN_FILES_MAX: usize = 4;

/// What opening found and did.
///
/// ```
/// use cloakroom::{LogStore, Options, SessionStore};
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let store = LogStore::open(folder.path(), Options::default()).await?;
/// assert_eq!(store.recovery().torn_bytes, 0);
/// store.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// Log records read.
    pub records: u64,
    /// Bytes of log read, footers included.
    pub bytes: u64,
    /// Sessions that were live.
    pub sessions: u64,
    /// Bytes of an unfinished end that were cut off; a copy is kept in files `torn-*`, if there is room. Nothing in them was acknowledged as durable, unless the
    /// device damaged what was synced last.
    pub torn_bytes: u64,
    /// Sessions of which something was there and too little certain, so that they are absent: none but where damage was passed over, by
    /// [`open_read_only`](crate::LogStore::open_read_only).
    pub sessions_in_doubt: u64,
    /// How long it took.
    pub took: Duration,
}

/// Who does the work behind the operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Threads {
    /// Threads of the store's own.
    Own,
    /// Whoever calls [`Engine::step`]: for simulations that replay.
    None,
}

/// Opens the store on `disk`. It reads the disk, so it is called on a thread that may wait.
pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    options: &Options,
    threads: Threads,
) -> Result<Arc<Engine>, OpenError> {
    open_whole(disk, options, threads).map_err(|refused| refused.in_folder(&disk.name()))
}

fn open_whole(disk: &Arc<dyn Disk>, options: &Options, threads: Threads) -> Result<Arc<Engine>, OpenError> {
    options.check()?;
    let started = options.clock.uptime();
    let folder = disk.name();
    refuse_foreign(&**disk)?;
    disk.create_folder().map_err(OpenError::io(format!("make the folder {folder}")))?;
    let lock = lock(&**disk)?;
    let list = |disk: &dyn Disk| disk.list().map_err(OpenError::io(format!("list the folder {folder}")));
    let mut manifest = read_manifest(&**disk, &list(&**disk)?)?;
    refuse_used_up(manifest.next_segment, Seq(manifest.next_seq))?;
    refuse_lost(&**disk, &list(&**disk)?, &manifest)?;
    let workers = workers(threads, options);
    let attempt = |manifest: &mut Manifest, thrift| {
        let catalog = Catalog::new(Arc::clone(disk), manifest.clone());
        let found = recover(&**disk, options, &catalog, workers, thrift != Thrift::None);
        // It may have replaced the list.
        *manifest = catalog.read(Manifest::clone);
        let found = found?;
        refuse_used_up(manifest.next_segment, found.next_seq)?;
        start(Arc::clone(disk), options.clone(), threads, catalog, found, started, thrift)
    };
    let mut begun = attempt(&mut manifest, Thrift::None);
    for thrift in [Thrift::ShortSegment, Thrift::NoReserve] {
        if let Err(OpenError::Io { source, .. }) = &begun
            && source.kind() == io::ErrorKind::StorageFull
        {
            make_room(disk, &list(&**disk)?, &manifest)?;
            begun = attempt(&mut manifest, thrift);
        }
    }
    let engine = begun?;
    *engine.lock.lock() = Some(lock);
    let listed = |id: SegmentId| engine.catalog.read(|m| m.segments.iter().any(|s| s.id == id.0));
    let left = remove_orphans(&**disk, &list(&**disk)?, |id| listed(id) || engine.reserve.is(id));
    // Of the others, whoever gets the id removes the file first; behind that it must not be tried again.
    engine.left_behind.lock().extend(left.into_iter().filter(|id| engine.catalog.was_given(*id)));
    Engine::run(&engine).map_err(OpenError::io("start the threads of the store"))?;
    Ok(engine)
}

/// How many threads read whole segments side by side, at an open or a close.
pub(super) fn workers(threads: Threads, options: &Options) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // A simulation reads in one order; what is not mapped takes as much memory as it is long.
    match (threads, options.read_mode) {
        (Threads::None, _) => 1,
        (Threads::Own, ReadMode::Mapped) => cores().min(WORKERS_MAX),
        (Threads::Own, ReadMode::Pread) => cores().min(2),
    }
}

/// Takes the folder's lock.
pub(super) fn lock(disk: &dyn Disk) -> Result<Box<dyn Send + Sync>, OpenError> {
    let folder = disk.name();
    disk.lock().map_err(|refused| match refused {
        LockError::Held(pid) => OpenError::Locked { folder, pid },
        LockError::Io(e) => OpenError::io(format!("lock the folder {folder}"))(e),
    })
}

/// Leaves a folder alone that holds files and no store.
pub(super) fn refuse_foreign(disk: &dyn Disk) -> Result<(), OpenError> {
    let folder = disk.name();
    let names = disk.list().map_err(OpenError::io(format!("list the folder {folder}")))?;
    if names.iter().any(|name| name == MANIFEST || name == MANIFEST_COPY) {
        return Ok(());
    }
    for example in names {
        let read = OpenError::io(format!("read {example}"));
        if !is_ours(&example) || is_of_another(disk, &example).map_err(read)? {
            return Err(OpenError::ForeignFolder { folder, example });
        }
    }
    Ok(())
}

/// Whether a file with a name of ours is of somebody else. What a first open that a crash cut short leaves is its header, or zeros where it
/// was to be; anything else was never written by a store, and making one would remove it.
fn is_of_another(disk: &dyn Disk, name: &str) -> io::Result<bool> {
    let file = match disk.open(name) {
        Ok(file) => file,
        // Another store is at work here; who has the folder, its lock tells.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let mut front = [0; SEGMENT_HEADER_BYTES as usize];
    let len = front.len().min(usize::try_from(file.len()?).unwrap_or(usize::MAX));
    file.read_at(0, &mut front[..len])?;
    let invalid = match name {
        MANIFEST_NEW => Manifest::decode(&front).err(),
        _ if segment_id(name).is_some() => SegmentHeader::decode(&front).err(),
        // It is not removed, or is refused for what it tells of.
        _ => None,
    };
    Ok(invalid == Some(Invalid::Magic)
        && !is_begun(&front, if name == MANIFEST_NEW { MANIFEST_MAGIC } else { SEGMENT_MAGIC }))
}

/// Whether this is what a write that failed leaves of what begins so: some bytes of it, or none, and zeros.
fn is_begun(front: &[u8], magic: &[u8]) -> bool {
    let written = front.iter().zip(magic).take_while(|(byte, own)| byte == own).count();
    front[written..].iter().all(|byte| *byte == 0)
}

fn is_ours(name: &str) -> bool {
    ["LOCK", MANIFEST, MANIFEST_NEW, MANIFEST_COPY].contains(&name)
        || segment_id(name).is_some()
        || quarantined(name).is_some()
        || is_torn(name)
}

pub(super) fn segment_id(name: &str) -> Option<SegmentId> {
    let hex = name.strip_suffix(".seg")?;
    let id = SegmentId(u32::from_str_radix(hex, 16).ok()?);
    (segment_name(id) == name).then_some(id)
}

/// The manifest, or a new one for a folder in which no store was ever finished.
fn read_manifest(disk: &dyn Disk, names: &[String]) -> Result<Manifest, OpenError> {
    let damaged = |what: &str| OpenError::damaged(MANIFEST, 0, what);
    if !names.iter().any(|name| name == MANIFEST) {
        if names.iter().any(|name| name == MANIFEST_COPY) {
            return Err(damaged("it is not there, though its copy is"));
        }
        return Ok(Manifest::empty(new_store(disk)?));
    }
    let bytes =
        whole(disk, MANIFEST, MANIFEST_BYTES_MAX).map_err(OpenError::io(format!("read {MANIFEST}")))?;
    Manifest::decode(&bytes).map_err(|invalid| match invalid {
        Invalid::Unknown(found) => {
            OpenError::UnknownFormat { file: MANIFEST.into(), found, known: FORMAT_VERSION.into() }
        }
        invalid => damaged(invalid.what()),
    })
}

/// An id for a store that no other has.
pub(super) fn new_store(disk: &dyn Disk) -> Result<[u8; 16], OpenError> {
    let mut store = [0; 16];
    disk.random(&mut store).map_err(OpenError::io("get random numbers for the store's id"))?;
    Ok(store)
}

/// What a file holds, up to `limit`: a damaged one may be of any length.
fn whole(disk: &dyn Disk, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let mut bytes = vec![0; usize::try_from(file.len()?.min(limit)).map_err(io::Error::other)?];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// How much of a file without a header is looked at: the first group stands right behind it. The reserve has none, and is long.
pub(super) const HEAD_BYTES: u64 = 64 << 10;

/// Whether something was written to a file that has no header. A header is synced before anything is written behind it, so no crash leaves that.
pub(super) fn is_headless(front: &[u8]) -> bool {
    front.iter().skip(SEGMENT_HEADER_BYTES as usize).any(|byte| *byte != 0)
}

/// Refuses a folder whose manifest was replaced by an older one or another store's, or lost, where a segment tells of that.
fn refuse_lost(disk: &dyn Disk, names: &[String], manifest: &Manifest) -> Result<(), OpenError> {
    for name in names {
        // A list of nothing fits every folder: with it each segment would be removed as one that is not needed any more.
        let is_suspect = |id: SegmentId| id.0 >= manifest.next_segment || manifest.segments.is_empty();
        let Some(id) = segment_id(name).filter(|id| is_suspect(*id)) else { continue };
        let read = |e| OpenError::io(format!("read {name}"))(e);
        let file = disk.open(name).map_err(read)?;
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        if file.len().map_err(read)? < u64::from(SEGMENT_HEADER_BYTES) {
            continue;
        }
        file.read_at(0, &mut header).map_err(read)?;
        let header = match SegmentHeader::decode(&header) {
            Ok(header) => header,
            Err(Invalid::Unknown(found)) => {
                return Err(OpenError::UnknownFormat {
                    file: name.clone(),
                    found,
                    known: FORMAT_VERSION.into(),
                });
            }
            Err(invalid) => {
                if is_headless(&whole(disk, name, HEAD_BYTES).map_err(read)?) {
                    let what = format!(
                        "of the segment's header, {}, and no manifest lists it, though something was written behind it",
                        invalid.what()
                    );
                    return Err(OpenError::damaged(name, 0, what));
                }
                continue;
            }
        };
        if id.0 < manifest.next_segment {
            if header.store != manifest.store {
                let what = format!("{name} is of another store than the manifest");
                return Err(OpenError::damaged(MANIFEST, 0, what));
            }
            continue;
        }
        if header.id != id && manifest.segments.is_empty() {
            return Err(OpenError::damaged(
                name,
                0,
                "it has the header of another id, and no manifest lists it",
            ));
        }
        // Of a file under another's name, it is the other that may be known.
        if header.id.0 < manifest.next_segment {
            continue;
        }
        let bytes = whole(disk, name, SEGMENT_BYTES_MAX.into()).map_err(read)?;
        if tells_of_a_later_list(&bytes, &header, manifest) {
            let what = if header.store == manifest.store || manifest.next_segment == 1 {
                format!("{name} holds groups and is newer than the manifest, so a newer manifest was lost")
            } else {
                format!("{name} is of another store than the manifest")
            };
            return Err(OpenError::damaged(MANIFEST, 0, what));
        }
    }
    Ok(())
}

/// What an open does without on a disk that is nearly full.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thrift {
    None,
    /// The stream goes on in the shortest segment.
    ShortSegment,
    /// And the reserve is set aside later, out of the next room there is.
    NoReserve,
}

/// Makes the segment that the stream goes on in, and the manifest by which the folder is this store's.
fn start(
    disk: Arc<dyn Disk>,
    options: Options,
    threads: Threads,
    catalog: Catalog,
    found: Recovered,
    started: Duration,
    thrift: Thrift,
) -> Result<Arc<Engine>, OpenError> {
    let write = |e| OpenError::io("make the first segment of the store")(e);
    let doubted = catalog.read(Manifest::doubted);
    let clock = Arc::new(StoreClock::start(Arc::clone(&options.clock), found.time, doubted));
    let (reserve, active) = begin_stream(&disk, &options, &catalog, thrift).map_err(write)?;
    catalog.sync_folder().map_err(Unchanged::Unknown)?;
    let next_seq = Seq(found.next_seq.0 + SEQ_GAP);
    let listed = active.listed(None);
    let sealed = found.sealed.iter().map(|(_, listed)| *listed);
    // Whoever is left out is left out by the time that is written down: by a later one, a crash beside a wall clock that is behind would bring some back.
    let time = clock.mark();
    let changed = catalog.change(time, next_seq, |manifest| {
        manifest.segments = sealed.chain([listed]).collect();
        manifest.doubted_ms = clock.doubted_since().as_millis();
        manifest.durable = Position { segment: active.id(), offset: SEGMENT_HEADER_BYTES }.pack();
    });
    changed?;
    let (table, mut chores) = (Table::default(), Vec::new());
    for (segment, listed) in &found.sealed {
        // What lies above the seal does not count any more. That it stays there for now costs space alone.
        if let Err(e) = segment.trim() {
            tracing::warn!(error = %e, segment = %segment.id(), "the unused end of a segment could not be cut off");
        }
        let Some(seal) = listed.seal else { continue };
        let is_check = segment.footer_bytes() > 0;
        // One that lived through an open is likely to stay.
        let footer_due = (!is_check).then_some(Duration::ZERO);
        let chore = Chore { segment: Arc::clone(segment), seal, footer_due };
        if is_check {
            table.put(&Arc::new(segment.unmapped()));
        } else {
            table.put(segment);
        }
        if seal.len >= options.footers_from {
            chores.push(chore);
        }
    }
    table.put(&active);
    // What only a doubtful time has ended stays, expired, to be deleted or to come back.
    let index = found.replay.finish(time, found.workers);
    let recovery = Recovery {
        records: found.records,
        bytes: found.bytes,
        sessions: index.live_len(time) as u64,
        torn_bytes: found.torn_bytes,
        sessions_in_doubt: 0,
        took: options.clock.uptime().saturating_sub(started),
    };
    let room = options.unwritten_bytes_max;
    let log = Log::new(Arc::clone(&clock), active, next_seq, options.segment_bytes, room);
    let lock = None;
    let opened =
        Opened { options, disk, clock, index, log, table, catalog, reserve, chores, lock, recovery, threads };
    let engine = Arc::new(opened.engine(false));
    engine.balance_warmth();
    Ok(engine)
}

/// Sets the reserve aside, and makes the segment that the stream goes on in; neither is listed.
fn begin_stream(
    disk: &Arc<dyn Disk>,
    options: &Options,
    catalog: &Catalog,
    thrift: Thrift,
) -> io::Result<(Reserve, Arc<Segment>)> {
    let (id, store) = (catalog.take_id(), catalog.store());
    let reserve = Reserve::missing(Arc::clone(disk), options.segment_bytes);
    if thrift != Thrift::NoReserve {
        reserve.hold(catalog)?;
    }
    let bytes = if thrift == Thrift::None { options.segment_bytes } else { STREAM_BYTES_MIN };
    let mapped = options.read_mode == ReadMode::Mapped;
    Ok((reserve, Segment::create(&**disk, id, SegmentKind::Stream, store, bytes, mapped)?))
}

/// Removes what is in the way of an open that found no room; all that is listed was read and is whole.
fn make_room(disk: &Arc<dyn Disk>, names: &[String], manifest: &Manifest) -> Result<(), OpenError> {
    for torn in names.iter().filter(|name| is_torn(name)) {
        if let Err(e) = disk.remove(torn) {
            tracing::warn!(error = %e, file = %torn, "a copy of what was cut off could not be removed");
        }
    }
    // No list that counted has named what is newer than this one, which an open left that came to nothing, nor what has no header, such as the reserve.
    let is_blank =
        |id| is_blank(&**disk, &segment_name(id)).unwrap_or_else(|e| e.kind() == io::ErrorKind::NotFound);
    let is_listed = |id: SegmentId| manifest.segments.iter().any(|listed| listed.id == id.0);
    remove_orphans(&**disk, names, |id| id.0 < manifest.next_segment && (is_listed(id) || !is_blank(id)));
    let is_needed = |id: SegmentId| id.0 >= manifest.next_segment || is_listed(id) || is_blank(id);
    if manifest.segments.is_empty() || names.iter().filter_map(|name| segment_id(name)).all(is_needed) {
        return Ok(());
    }
    // The others may be in the list before this one, and that is the one on the device if the folder could not be synced behind this one.
    let again = Catalog::new(Arc::clone(disk), manifest.clone());
    match again.change(manifest.mark(), Seq(manifest.next_seq), |_| {}) {
        Ok(()) => {
            remove_orphans(&**disk, names, is_needed);
            Ok(())
        }
        Err(Unchanged::Kept(_)) => Ok(()),
        Err(unknown) => Err(unknown.into()),
    }
}

/// Whether a file has no header: a segment that is listed has one on the device.
fn is_blank(disk: &dyn Disk, name: &str) -> io::Result<bool> {
    let file = disk.open(name)?;
    let mut front = [0; SEGMENT_HEADER_BYTES as usize];
    if file.len()? < u64::from(SEGMENT_HEADER_BYTES) {
        return Ok(true);
    }
    file.read_at(0, &mut front)?;
    Ok(front.iter().all(|byte| *byte == 0))
}

/// Removes what no list names: leftovers of compactions and of opens that a crash cut short. Gives the segments that could not be removed.
fn remove_orphans(disk: &dyn Disk, names: &[String], listed: impl Fn(SegmentId) -> bool) -> Vec<SegmentId> {
    let mut left = Vec::new();
    // One that no store gets as far as has its name from elsewhere, and may be somebody's.
    let is_orphan = |id: SegmentId| id.0 < SEGMENT_IDS_MAX && !listed(id);
    let orphans = names.iter().filter(|name| segment_id(name).is_some_and(is_orphan));
    let mut torn: Vec<_> = names.iter().filter(|name| is_torn(name)).collect();
    torn.sort_unstable();
    let old = torn.len().saturating_sub(TORN_FILES_MAX);
    for name in orphans.chain(torn.into_iter().take(old)) {
        if let Err(e) = disk.remove(name) {
            tracing::warn!(error = %e, file = %name, "a file that is not needed any more could not be removed");
            left.extend(segment_id(name));
        }
    }
    left
}
