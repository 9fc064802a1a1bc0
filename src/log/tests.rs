//! Segments and copies at their edges: what fits to the byte, what is read back, and which watermark counts.
//!
//! Goal: bounds that a store as a whole hardly ever stands at. Not the stream, whose threads the models and the simulations try.

use std::sync::Arc;

use super::*;
use crate::clock::Timestamp;
use crate::disk::Disk as _;
use crate::disk::real::RealDisk;
use crate::format::{
    Body, GROUP_HEADER_BYTES, GroupHeader, Kind, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES,
    SegmentKind, segment_name,
};
use crate::id::{Address, Position, SegmentId, Seq, SessionKey};
use crate::lifetime::Deadlines;

const STORE: [u8; 16] = [7; 16];
const ID: SegmentId = SegmentId(3);

/// Groups of a copy are written when they are as long as this, header included.
const FULL_GROUP: u32 = 256 << 10;

/// A disk in a folder that goes with it.
struct Folder {
    disk: RealDisk,
    _folder: tempfile::TempDir,
}

fn folder() -> Folder {
    let folder = tempfile::tempdir().unwrap();
    Folder { disk: RealDisk::new(folder.path()), _folder: folder }
}

impl Folder {
    fn copy(&self, capacity: u32, mapped: bool) -> CopyWriter {
        CopyWriter::create(&self.disk, ID, STORE, capacity, mapped, (Timestamp::from_millis(9), Seq(1)))
            .unwrap()
    }
}

fn record(seq: u64, payload: &[u8]) -> (RecordHeader, Body<'_>) {
    let ends = Timestamp::from_millis(1_000);
    let deadlines = Deadlines { idle_ms: 0, absolute_at: ends, expires_at: ends, exact: false };
    let body = Body { payload, ..Body::default() };
    let header = RecordHeader::new(Kind::Put, SessionKey::of(&seq.to_le_bytes()), 1, deadlines, &body);
    (RecordHeader { seq: Seq(seq), deadline_seq: Seq(seq + 1), ..header }, body)
}

/// A record of so many bytes in all.
fn payload_of(len: u32) -> Vec<u8> {
    vec![5; (len - RECORD_HEADER_BYTES) as usize]
}

#[test]
fn space_of_a_copy_is_enough_to_the_byte_however_its_groups_fall() {
    // Each of these fills a group by itself; the last one begins another.
    let full = FULL_GROUP - GROUP_HEADER_BYTES;
    for lens in [vec![full; 3], vec![full, full, full, RECORD_HEADER_BYTES], vec![200], vec![]] {
        let bytes: u32 = lens.iter().sum();
        let capacity = u32::try_from(copy_bytes(bytes.into())).unwrap();
        let groups = bytes / full + 1;
        assert_eq!(capacity, SEGMENT_HEADER_BYTES + bytes + groups * GROUP_HEADER_BYTES);
        let folder = folder();
        let mut copy = folder.copy(capacity, false);
        let mut addresses = Vec::new();
        for (n, len) in lens.iter().enumerate() {
            let payload = payload_of(*len);
            let (header, body) = record(n as u64 + 1, &payload);
            assert!(copy.has_room(header.len()), "record {n} of {lens:?}");
            addresses.push(copy.push(&header, &body).unwrap().0);
        }
        assert!(!copy.has_room(RECORD_HEADER_BYTES + capacity));
        let segment = copy.finish().unwrap();
        assert!(segment.written() <= capacity && segment.seal().len == segment.written());
        let file = folder.disk.open(&segment_name(ID)).unwrap();
        assert_eq!(file.len().unwrap(), u64::from(segment.written()), "unused space is given back");
        for (address, len) in addresses.iter().zip(lens) {
            assert_eq!(segment.read(*address).unwrap().len(), len as usize);
        }
    }
}

#[test]
fn copy_has_room_for_a_record_that_ends_where_it_ends_and_for_none_that_is_a_byte_longer() {
    let folder = folder();
    let payload = payload_of(300);
    let (header, body) = record(1, &payload);
    let mut copy = folder.copy(SEGMENT_HEADER_BYTES + GROUP_HEADER_BYTES + 2 * 300, false);
    copy.push(&header, &body).unwrap();
    assert!(copy.has_room(300) && !copy.has_room(301));
    copy.push(&header, &body).unwrap();
    assert!(!copy.has_room(1));
}

#[test]
fn scan_of_a_copy_shows_every_record_and_tells_the_number_behind_the_last() {
    let folder = folder();
    let mut copy = folder.copy(4_096, false);
    let mut pushed = Vec::new();
    for seq in [4, 9, 2] {
        let payload = payload_of(100 + u32::try_from(seq).unwrap());
        let (header, body) = record(seq, &payload);
        pushed.push((header, copy.push(&header, &body).unwrap().0));
    }
    let segment = copy.finish().unwrap();
    let bytes = segment.whole(segment.written()).unwrap();
    for trust in [Trust::Nothing, Trust::Whole] {
        let mut shown = Vec::new();
        let scanned = scan(&bytes, segment.header(), trust, |placed| {
            shown.push((
                placed.header,
                Address { segment: ID, offset: placed.offset, len: placed.header.len() },
            ));
        });
        assert_eq!(shown, pushed);
        // The latest number is that of a deadline, one above its content's.
        assert_eq!((scanned.next_seq, scanned.records, scanned.end), (Seq(11), 3, segment.written()));
        assert_eq!((scanned.stopped, scanned.time), (None, Timestamp::from_millis(9)));
    }
}

/// Bytes of a stream's segment with bare groups back to back, each of which claims a watermark.
fn stream(segment: &Segment, claims: &[Position]) -> Vec<u8> {
    let mut bytes = segment.whole(SEGMENT_HEADER_BYTES).unwrap().into_owned();
    for watermark in claims {
        let at = u32::try_from(bytes.len()).unwrap();
        let group = GroupHeader {
            last: false,
            len: 0,
            records: 0,
            watermark: *watermark,
            next_seq: Seq(1),
            time: Timestamp::default(),
        };
        bytes.extend_from_slice(&group.encode(segment.seed(), at));
    }
    bytes
}

#[test]
fn watermark_behind_the_end_is_the_latest_of_all_that_stand_there_and_of_none_before() {
    let folder = folder();
    let create =
        |id| Segment::create(&folder.disk, SegmentId(id), SegmentKind::Stream, STORE, 4_096, false).unwrap();
    let (first, second) = (create(1), create(2));
    let claim = |segment, offset| Position { segment: SegmentId(segment), offset };
    // The first claims the most, and stands before the end.
    let bytes = stream(&first, &[claim(9, 9), claim(1, 64), claim(1, 112)]);
    let others = stream(&second, &[claim(1, 100), claim(1, 160), claim(1, 20)]);
    let behind = |end| claimed_behind([(&bytes[..], first.header())], end);
    assert_eq!(behind(64), Some(claim(9, 9)));
    assert_eq!(behind(112), Some(claim(1, 112)));
    assert_eq!(behind(208), None);
    let both = claimed_behind([(&bytes[..], first.header()), (&others[..], second.header())], 112);
    assert_eq!(both, Some(claim(1, 160)));
    // Of the others all of it lies behind the end, the first group too.
    let first_only = stream(&second, &[claim(1, 150)]);
    let both = claimed_behind([(&bytes[..], first.header()), (&first_only[..], second.header())], 112);
    assert_eq!(both, Some(claim(1, 150)));
}

#[test]
fn segment_is_read_through_its_map_while_it_has_one() {
    let folder = folder();
    let payload = payload_of(200);
    let (header, body) = record(1, &payload);
    for mapped in [true, false] {
        let mut copy = folder.copy(4_096, mapped);
        let address = copy.push(&header, &body).unwrap().0;
        let segment = copy.finish().unwrap();
        assert_eq!(segment.is_mapped(), mapped);
        assert_eq!(segment.warm(address).map(<[u8]>::len), mapped.then_some(200));
        let cold = segment.unmapped();
        assert!(!cold.is_mapped() && cold.warm(address).is_none());
        assert_eq!(cold.read(address).unwrap(), segment.read(address).unwrap());
    }
}

#[test]
fn checksum_of_a_file_is_that_of_its_seal_however_many_pieces_it_is_read_in() {
    for len in [100, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 600 << 10] {
        let folder = folder();
        let segment = folder.copy(len, false).finish().unwrap();
        segment
            .append(&(0..len - SEGMENT_HEADER_BYTES).map(|n| (n % 251) as u8).collect::<Vec<_>>())
            .unwrap();
        assert_eq!(segment.checksum().unwrap(), segment.seal().crc, "{len} bytes");
        folder.disk.open(&segment_name(ID)).unwrap().write_at(u64::from(len) - 1, &[255]).unwrap();
        assert_ne!(segment.checksum().unwrap(), segment.seal().crc, "{len} bytes");
    }
}

#[test]
fn file_that_is_no_longer_than_a_header_opens_and_a_shorter_one_does_not() {
    let folder = folder();
    let segment = folder.copy(4_096, false).finish().unwrap();
    let listed = segment.listed(Some(segment.seal()));
    assert_eq!(segment.written(), SEGMENT_HEADER_BYTES);
    let opened = Segment::open(&folder.disk, &listed, STORE, false).unwrap().unwrap();
    assert_eq!((opened.id(), opened.written()), (ID, SEGMENT_HEADER_BYTES));
    folder.disk.open(&segment_name(ID)).unwrap().truncate(u64::from(SEGMENT_HEADER_BYTES) - 1).unwrap();
    assert!(Segment::open(&folder.disk, &listed, STORE, false).unwrap().is_err());
    // One that may still be written to must have all the space that was set aside.
    let unsealed =
        Segment::create(&folder.disk, SegmentId(4), SegmentKind::Stream, STORE, 4_096, false).unwrap();
    let listed = unsealed.listed(None);
    assert!(Segment::open(&folder.disk, &listed, STORE, false).unwrap().is_ok());
    folder.disk.open(&segment_name(SegmentId(4))).unwrap().truncate(4_095).unwrap();
    assert!(Segment::open(&folder.disk, &listed, STORE, false).unwrap().is_err());
}

#[test]
fn list_of_segments_keeps_their_order_replaces_by_id_and_forgets() {
    let folder = folder();
    let create = |id, mapped| {
        Segment::create(&folder.disk, SegmentId(id), SegmentKind::Copy, STORE, 256, mapped).unwrap()
    };
    let table = Table::default();
    for id in [5, 1, 3] {
        table.put(&create(id, true));
    }
    let ids = |table: &Table| table.load().iter().map(|s| s.id().0).collect::<Vec<_>>();
    assert_eq!(ids(&table), [1, 3, 5]);
    let held = Arc::clone(&table.load());
    table.replace(&Arc::new(table.load()[1].unmapped()));
    table.remove(&[SegmentId(5)]);
    table.replace(&Arc::new(held[2].unmapped()));
    assert_eq!(ids(&table), [1, 3]);
    let list = table.load();
    assert!(find(&list, SegmentId(1)).is_some_and(|s| s.is_mapped()));
    assert!(find(&list, SegmentId(3)).is_some_and(|s| !s.is_mapped()));
    assert!(find(&list, SegmentId(5)).is_none() && find(&list, SegmentId(2)).is_none());
    assert_eq!(held.len(), 3, "who holds the list keeps what it had");
    let gone = Arc::downgrade(&held[2]);
    table.bury();
    drop(held);
    assert_eq!(gone.strong_count(), 1, "a reader that is the last lets go of nothing");
    table.bury();
    assert_eq!(gone.strong_count(), 0);
}

#[test]
fn segment_that_is_put_in_its_own_place_is_let_go_of_once_it_is_removed() {
    let folder = folder();
    let segment = Segment::create(&folder.disk, SegmentId(1), SegmentKind::Copy, STORE, 256, true).unwrap();
    let table = Table::default();
    table.put(&segment);
    table.replace(&segment);
    table.put(&segment);
    table.remove(&[SegmentId(1)]);
    let gone = Arc::downgrade(&segment);
    drop(segment);
    table.bury();
    assert_eq!(gone.strong_count(), 0);
}
