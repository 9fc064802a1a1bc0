//! What is written is read back, and nothing else is.

use proptest::prelude::*;

use crate::clock::Timestamp;
use crate::id::{OwnerKey, Position, SegmentId, Seq, SessionKey};
use crate::lifetime::Deadlines;

use super::*;

mod footers;
mod forged;
#[cfg(feature = "sim")]
mod probed;

fn header() -> SegmentHeader {
    SegmentHeader { kind: SegmentKind::Stream, store: [7; 16], id: SegmentId(3), salt: 0x1234_5678_9abc_def0 }
}

fn deadlines() -> Deadlines {
    let at = Timestamp::from_millis;
    Deadlines { idle_ms: 60_000, absolute_at: at(9_000_000), expires_at: at(70_000), exact: true }
}

fn record(payload: &[u8], offset: u32) -> Vec<u8> {
    let body = Body {
        owner: Some(OwnerKey::of(b"owner")),
        rotated: Some(Rotated { old_key: SessionKey::of(b"old"), hides_until: Timestamp::from_millis(12) }),
        spared: None,
        label: b"Firefox",
        payload,
    };
    let mut record = RecordHeader::new(Kind::Rotate, SessionKey::of(b"key"), 77, deadlines(), &body);
    (record.seq, record.deadline_seq) = (Seq(8), Seq(9));
    let mut bytes = record.encode(header().seed(), offset).to_vec();
    body.append_to(&mut bytes);
    bytes
}

#[test]
fn segment_header_is_read_back_and_every_flipped_bit_is_noticed() {
    let bytes = header().encode();
    assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(SegmentHeader::decode(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn newer_format_is_told_from_damage() {
    let mut bytes = header().encode();
    bytes[8] = 2;
    let crc = checksum(0, &bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(SegmentHeader::decode(&bytes), Err(Invalid::Unknown(2)));
}

#[test]
fn record_with_every_part_is_read_back() {
    let bytes = record(b"payload", 64);
    let (record, body) = Body::read(&bytes, header().seed(), 64).unwrap();
    assert_eq!((record.kind, record.seq, record.deadline_seq), (Kind::Rotate, Seq(8), Seq(9)));
    assert_eq!((record.created_s, record.deadlines), (77, deadlines()));
    assert_eq!((body.label, body.payload), (&b"Firefox"[..], &b"payload"[..]));
    assert_eq!(body.owner, Some(OwnerKey::of(b"owner")));
    assert_eq!(body.rotated.unwrap().old_key, SessionKey::of(b"old"));
}

#[test]
fn record_elsewhere_or_in_another_segment_does_not_validate() {
    let bytes = record(b"payload", 64);
    let other = SegmentHeader { id: SegmentId(4), ..header() }.seed();
    assert!(Body::read(&bytes, header().seed(), 65).is_err());
    assert!(Body::read(&bytes, other, 64).is_err());
}

#[test]
fn every_flipped_bit_of_a_record_is_noticed() {
    let bytes = record(b"payload", 64);
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Body::read(&bad, header().seed(), 64).is_err(), "bit {bit}");
    }
}

#[test]
fn group_walk_gives_its_records_and_refuses_a_wrong_count() {
    let seed = header().seed();
    let first = record(b"a", 112);
    let offset = 112 + u32::try_from(first.len()).unwrap();
    let bytes = [first, record(b"bc", offset)].concat();
    let len = u32::try_from(bytes.len()).unwrap();
    let watermark = Position { segment: SegmentId(2), offset: 999 };
    let group = GroupHeader {
        last: true,
        len,
        records: 2,
        watermark,
        next_seq: Seq(8),
        time: Timestamp::from_millis(5),
    };
    assert_eq!(GroupHeader::decode(&group.encode(seed, 64), seed, 64), Ok(group));
    let mut payloads = Vec::new();
    let records = Records::new(&group, &bytes, seed, 112);
    records.visit(true, |placed| payloads.push(placed.body.payload.to_vec())).unwrap();
    assert_eq!(payloads, [b"a".to_vec(), b"bc".to_vec()]);
    for records in [1, 3] {
        let wrong = GroupHeader { records, ..group };
        assert!(Records::new(&wrong, &bytes, seed, 112).visit(true, |_| {}).is_err(), "{records}");
    }
}

#[test]
fn manifest_is_read_back_and_every_flipped_bit_is_noticed() {
    let listed = |id| Listed {
        id,
        kind: SegmentKind::Copy,
        salt: 5,
        capacity: 100,
        seal: Some(Seal { len: 100, crc: 6 }),
    };
    let manifest = Manifest {
        store: [1; 16],
        mark_ms: 2,
        doubted_ms: 0,
        next_segment: 9,
        next_seq: 3,
        durable: (4 << 32) + 70,
        segments: vec![listed(1), listed(8)],
    };
    let bytes = manifest.encode();
    assert_eq!(Manifest::decode(&bytes), Ok(manifest));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn record_of_each_kind_is_read_back() {
    let (key, until) = (SessionKey::of(b"key"), Timestamp::from_millis(9_000));
    let owner = OwnerKey::of(b"owner");
    let rotated = Some(Rotated { old_key: SessionKey::of(b"old"), hides_until: until });
    let spared = Body { spared: Some(SessionKey::of(b"spared")), ..Body::default() };
    let payload = Body { payload: b"payload", ..Body::default() };
    let full = Body { owner: Some(owner), label: &[b'l'; 255], ..payload };
    let with = |kind, body| (RecordHeader::new(kind, key, 77, deadlines(), &body), body);
    let records = [
        with(Kind::Put, Body::default()),
        with(Kind::Put, full),
        with(Kind::Rotate, Body { rotated, ..Body::default() }),
        with(Kind::Rotate, Body { rotated, ..full }),
        (RecordHeader::touch(key, Seq(8), deadlines()), Body::default()),
        (RecordHeader::delete(key, until), Body::default()),
        (RecordHeader::revoke(Some(owner), until, &Body::default()), Body::default()),
        (RecordHeader::revoke(None, until, &Body::default()), Body::default()),
        (RecordHeader::revoke(Some(owner), until, &spared), spared),
    ];
    for (record, body) in records {
        let record = RecordHeader { seq: Seq(8), deadline_seq: Seq(9), ..record };
        let mut bytes = record.encode(header().seed(), 64).to_vec();
        body.append_to(&mut bytes);
        assert_eq!(bytes.len(), record.len() as usize);
        assert_eq!(Body::read(&bytes, header().seed(), 64), Ok((record, body)));
    }
    assert_eq!(RecordHeader::touch(key, Seq(8), deadlines()).seq, Seq(8));
}

#[test]
fn put_that_is_given_an_owner_later_is_the_same_as_one_that_had_it() {
    let payload = Body { payload: b"payload", ..Body::default() };
    let owned = Body { owner: Some(OwnerKey::of(b"owner")), ..payload };
    let of = |body| RecordHeader::new(Kind::Put, SessionKey::of(b"key"), 77, deadlines(), body);
    let mut late = of(&payload);
    late.own(OwnerKey::of(b"owner"), b"");
    assert_eq!(late, of(&owned));
}

/// What a checksum starts from is a part of the format: these are the numbers of version 1.
#[test]
fn checksums_start_from_the_same_numbers_for_ever() {
    let copy =
        SegmentHeader { kind: SegmentKind::Copy, id: SegmentId(0xffff_0001), salt: u64::MAX / 3, ..header() };
    let starts = |of: SegmentHeader| [0, 64, 65, u32::MAX].map(|offset| of.seed().at(offset));
    assert_eq!(starts(header()), [0x99df_ccd8, 0x84f8_34ac, 0x7fd9_f841, 0x2b73_994f]);
    assert_eq!(starts(copy), [0x1bb8_443e, 0xf4c1_120d, 0x4aac_0169, 0x7fe8_ebbd]);
}

#[test]
fn segment_is_known_by_its_salt_whatever_else_is_damaged() {
    let mut bytes = header().encode();
    bytes[..48].fill(0);
    bytes[56..].fill(0);
    assert!(header().is_of(&bytes));
    assert!(!header().is_of(&bytes[..55]));
    bytes[55] ^= 1;
    assert!(!header().is_of(&bytes));
    assert_eq!(segment_name(SegmentId(0x1f)), "0000001f.seg");
}

#[test]
fn manifest_gives_times_ids_and_segments() {
    let listed = |id| Listed { id, kind: SegmentKind::Stream, salt: 5, capacity: 100, seal: None };
    let mut manifest = Manifest::empty([1; 16]);
    assert_eq!((manifest.mark(), manifest.doubted()), (Timestamp::default(), None));
    (manifest.mark_ms, manifest.doubted_ms) = (7, 9);
    assert_eq!(manifest.mark(), Timestamp::from_millis(7));
    assert_eq!(manifest.doubted(), Some(Timestamp::from_millis(9)));
    assert_eq!([(); 3].map(|()| manifest.take_id().0), [1, 2, 3]);
    manifest.segments = vec![listed(1), listed(3)];
    assert_eq!(manifest.find(SegmentId(3)).map(|found| found.id), Some(3));
    assert_eq!(manifest.find(SegmentId(2)), None);
}

/// An error that carries no allocation cannot name the number; otherwise it says the same.
#[test]
fn fixed_sentence_says_what_the_error_says() {
    use Invalid::{BodyChecksum, Checksum, Field, Magic, Short, Unknown};
    for invalid in [BodyChecksum, Checksum, Field, Magic, Short] {
        assert_eq!(invalid.what(), invalid.to_string());
    }
    assert_eq!(Unknown(2).what(), "it has a format this version does not know");
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), offset: u32) {
        let seed = header().seed();
        let _ = SegmentHeader::decode(&bytes);
        let _ = GroupHeader::decode(&bytes, seed, offset);
        let _ = RecordHeader::decode(&bytes, seed, offset);
        let _ = Manifest::decode(&bytes);
        if bytes.len() >= RECORD_HEADER_BYTES as usize {
            let _ = Body::read(&bytes, seed, offset);
        }
    }
}
