//! Segments and manifests whose fields were changed and whose checksums hold all the same: opening them ends in a typed error, or in a store that gives
//! whole records and nothing else, works, closes, and opens again as it was. No panic, no hang, and no more memory than the files account for.
//!
//! An input is a byte that chooses the store and whether seals are mended, then changes of ten bytes: what, which file, which part of it (2), which of
//! its bytes (2), a number (4).

#![no_main]

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::probe::{Form, mend, places};
use cloakroom::{Access, Error, Lifetime, LogStore, OpenError, Options, SessionKey, SessionStore as _};
use cloakroom_fuzz::{Whole, ask, bounded, bytes_of, open, options};
use libfuzzer_sys::fuzz_target;

/// More changes reach no other code.
const CHANGES_MAX: usize = 12;
/// Enough for two segments.
const SESSIONS: u32 = 60;

/// A segment in a manifest: id, kind, salt, capacity, and length and checksum if it is sealed.
type Listed = (u32, u32, u64, u32, Option<(u32, u32)>);

/// A manifest: store, mark, doubt, next segment, next number, what is durable of the stream, segments.
type Listing = ([u8; 16], u64, u64, u32, u64, u64, Vec<Listed>);

/// A store, and what stands where in its segments.
struct Base {
    whole: Whole,
    segments: BTreeMap<String, Vec<(Form, u32)>>,
}

fuzz_target!(|data: &[u8]| {
    let Some((&which, changes)) = data.split_first() else { return };
    let base = &bases()[usize::from(which % 2)];
    let disk = base.whole.disk.copy(u64::from(which));
    for change in changes.chunks_exact(10).take(CHANGES_MAX) {
        forge(base, &disk, change.first_chunk().expect("chunks are of ten bytes"));
    }
    for (name, places) in &base.segments {
        let Some(mut bytes) = disk.contents(name) else { continue };
        places.iter().for_each(|(form, at)| mend(*form, &mut bytes, *at));
        disk.set_contents(name, &bytes);
    }
    if which & 2 == 0 {
        mend_seals(&disk);
    }
    let files: Vec<_> = disk.names().iter().filter_map(|name| disk.contents(name)).collect();
    // The disk that is simulated keeps each file twice, and opening makes a segment.
    let Ok(store) = bounded(bytes_of(&disk), 4, 1 << 20, || open(&disk, whole())) else { return };
    let found = observe(&store, &base.whole);
    for payload in found.values() {
        let is_part = |file: &Vec<u8>| payload.is_empty() || holds(file, payload);
        assert!(files.iter().any(is_part), "a payload that is in no file");
    }
    work(&store, &base.whole);
    let found = observe(&store, &base.whole);
    if ask(&store, store.close()).is_ok() {
        drop(store);
        let store = match open(&disk, whole()) {
            // It was opened a few segments short of the last that there can be.
            Err(OpenError::Damaged { what, .. }) if what.contains("no store gets so far") => return,
            opened => opened.expect("what was closed opens again"),
        };
        assert_eq!(observe(&store, &base.whole), found, "a close and an open changed something");
    }
});

/// Reads everything. A footer is believed of bytes that have the checksum of the whole that it names, and a header whose own checksum was mended
/// leaves that as it was; what a forger does behind a footer is found when that is gone.
fn whole() -> Options {
    Options { footers_from: u32::MAX, ..options() }
}

fn bases() -> &'static [Base; 2] {
    static BASES: OnceLock<[Base; 2]> = OnceLock::new();
    BASES.get_or_init(|| {
        [true, false].map(|closed| {
            let whole = Whole::new(SESSIONS, closed);
            let names = whole.disk.names().into_iter().filter(|name| name.ends_with(".seg"));
            let segments =
                names.map(|name| (name.clone(), places(&whole.disk.contents(&name).expect("listed"))));
            // A footer with checksums that hold is believed: what it says is for the target of forms.
            let segments = segments.map(|(name, mut places)| {
                places.retain(|(form, _)| *form != Form::Footer);
                (name, places)
            });
            // In the reserve there is nothing to change.
            let segments = segments.filter(|(_, places): &(_, Vec<_>)| !places.is_empty()).collect();
            Base { whole, segments }
        })
    })
}

/// Makes one change.
fn forge(base: &Base, disk: &SimDisk, change: &[u8; 10]) {
    let [what, file, part_low, part_high, byte_low, byte_high, number @ ..] = *change;
    let (part, byte) = (
        usize::from(part_low) | usize::from(part_high) << 8,
        usize::from(byte_low) | usize::from(byte_high) << 8,
    );
    let number = u32::from_le_bytes(number);
    if what % 8 == 7 {
        return relist(disk, part, byte, number);
    }
    let names: Vec<_> = base.segments.iter().collect();
    let (name, places) = names[usize::from(file) % names.len()];
    let (form, at) = places[part % places.len()];
    let Some(mut bytes) = disk.contents(name) else { return };
    let len = match form {
        Form::Segment => 64,
        Form::Group => 48,
        _ => 96,
    };
    let (at, next) =
        (at as usize, places.get(part % places.len() + 1).map_or(bytes.len(), |next| next.1 as usize));
    if bytes.len() < next.max(at + len) {
        return;
    }
    let field = at + byte % (len - 7);
    match what % 8 {
        0 => bytes[field] ^= number.to_le_bytes()[0],
        1 => bytes[field..field + 4].copy_from_slice(&number.to_le_bytes()),
        2 => bytes[field..field + 8].copy_from_slice(&edge(number).to_le_bytes()),
        // Of a body.
        3 if next > at + len => bytes[at + len + byte % (next - at - len)] ^= number.to_le_bytes()[0],
        // The header of one in the place of another's.
        4 => {
            let same: Vec<_> = places.iter().filter(|place| place.0 == form).collect();
            let from = same[byte % same.len()].1 as usize;
            // An earlier change may have cut it off.
            if from + len <= bytes.len() {
                bytes.copy_within(from..from + len, at);
            }
        }
        5 => bytes.truncate(at),
        6 => bytes[at..next].fill(0),
        _ => return,
    }
    disk.set_contents(name, &bytes);
}

/// Numbers at which things end.
fn edge(number: u32) -> u64 {
    let near = u64::from(number % 4);
    let edges = [0, 1 << 16, 1 << 24, 1 << 31, 1 << 32, 1 << 48, 1 << 63, u64::MAX - 3, 1_000_000_000];
    (edges[number as usize / 4 % edges.len()] + near).wrapping_sub(u64::from(number >> 31) * 2 * near)
}

/// Changes the manifest.
fn relist(disk: &SimDisk, part: usize, byte: usize, number: u32) {
    let Some(mut bytes) = disk.contents("MANIFEST") else { return };
    if part % 16 == 15 {
        let at = byte % bytes.len();
        bytes[at] ^= number.to_le_bytes()[0];
        mend(Form::Manifest, &mut bytes, 0);
        return disk.set_contents("MANIFEST", &bytes);
    }
    let Ok(listing) = postcard::from_bytes::<Listing>(&bytes[24..]) else { return };
    let (mut store, mut mark, mut doubted, mut next_segment, mut next_seq, mut durable, mut segments) =
        listing;
    let at = byte % segments.len().max(1);
    match part % 16 {
        0 => store[byte % 16] ^= number.to_le_bytes()[0],
        1 => mark = edge(number),
        2 => doubted = edge(number),
        3 => next_segment = number,
        4 => next_seq = edge(number),
        5 if at < segments.len() => drop(segments.remove(at)),
        6 if at < segments.len() => segments.push(segments[at]),
        7 if number.is_multiple_of(2) => durable = edge(number),
        7 => segments.push((number, number % 2, u64::from(number), number, None)),
        what if at < segments.len() => {
            let (id, kind, salt, capacity, seal) = &mut segments[at];
            match what {
                8 => *id = number,
                9 => *kind = number % 3,
                10 => *salt = edge(number),
                11 => *capacity = number,
                12 => *seal = None,
                13 => *seal = Some((number, seal.map_or(0, |seal| seal.1))),
                _ => *seal = Some((number % (*capacity).max(1), 0)),
            }
        }
        _ => return,
    }
    segments.sort_by_key(|listed| listed.0);
    write_listing(disk, &(store, mark, doubted, next_segment, next_seq, durable, segments));
}

/// Gives each sealed segment that is listed the checksum of what it holds.
fn mend_seals(disk: &SimDisk) {
    let Some(bytes) = disk.contents("MANIFEST") else { return };
    let Some(Ok(mut listing)) = bytes.get(24..).map(postcard::from_bytes::<Listing>) else { return };
    for (id, _, _, _, seal) in &mut listing.6 {
        let Some((len, crc)) = seal else { continue };
        let segment = disk.contents(&format!("{id:08x}.seg"));
        if let Some(counts) = segment.as_ref().and_then(|bytes| bytes.get(..*len as usize)) {
            *crc = crc32fast::hash(counts);
        }
    }
    write_listing(disk, &listing);
}

fn write_listing(disk: &SimDisk, listing: &Listing) {
    let body = postcard::to_stdvec(listing).expect("plain numbers");
    let mut bytes = [&b"CLOAKMAN\x01\0\0\0............"[..], &body].concat();
    mend(Form::Manifest, &mut bytes, 0);
    disk.set_contents("MANIFEST", &bytes);
}

/// All that can be read, and by typed errors what cannot.
fn observe(store: &LogStore, whole: &Whole) -> BTreeMap<SessionKey, Vec<u8>> {
    let (mut keys, mut cursor) = (whole.sessions.iter().map(|known| known.0).collect::<Vec<_>>(), None);
    loop {
        match ask(store, store.keys(cursor, 1_000)) {
            Ok(page) => {
                keys.extend(page.keys);
                cursor = page.next;
            }
            Err(error) => {
                excuse(&error);
                break;
            }
        }
        if cursor.is_none() {
            break;
        }
    }
    let mut found = BTreeMap::new();
    for key in keys {
        match ask(store, store.get(key, Access::Peek)) {
            Ok(Some(stored)) => drop(found.insert(key, stored.payload.to_vec())),
            Ok(None) => {}
            Err(error) => excuse(&error),
        }
    }
    found
}

/// Errors that damage excuses, and forged numbers: a session of the year 10889 can be given no longer life.
fn excuse(error: &Error) {
    let excused = matches!(error, Error::Corrupt { .. } | Error::Io { .. } | Error::InvalidLifetime { .. });
    assert!(excused, "{error}");
}

/// Some of everything, compaction included.
fn work(store: &LogStore, whole: &Whole) {
    for (n, (key, _)) in whole.sessions.iter().enumerate() {
        let done = match n % 5 {
            0 => ask(store, store.touch(*key)).map(drop),
            1 => ask(store, store.delete(*key)).map(drop),
            2 => ask(store, store.rotate(*key)).map(drop),
            3 => ask(store, store.put(*key, vec![7; 900].into())).map(drop),
            _ => ask(store, store.upsert(*key, vec![8; 900].into(), Lifetime::idle(Duration::from_secs(60))))
                .map(drop),
        };
        if let Err(error) = done {
            excuse(&error);
        }
    }
    (0..5).for_each(|_| store.step());
}

fn holds(file: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(file, part).is_some()
}
