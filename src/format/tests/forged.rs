//! Headers whose checksums hold and whose fields no store writes.
//!
//! Not whole files: those are forged where stores are opened. Method: a field of a valid header is changed and its checksum made to hold again; what is
//! at the edge of the range is read, what is one beyond it is refused.

use super::*;

const OFFSET: u32 = 64;

/// The header that these bytes are, with another number at `at` and a checksum that holds.
fn forged(mut bytes: Vec<u8>, at: usize, number: &[u8], start: u32) -> Vec<u8> {
    bytes[at..at + number.len()].copy_from_slice(number);
    let end = bytes.len() - 4;
    let crc = checksum(start, &bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn record_of(kind: Kind) -> RecordHeader {
    let (key, until) = (SessionKey::of(b"key"), Timestamp::from_millis(9_000_000));
    let header = match kind {
        Kind::Put | Kind::Rotate => RecordHeader::new(kind, key, 77, deadlines(), &Body::default()),
        Kind::Touch => RecordHeader::touch(key, Seq(8), deadlines()),
        Kind::Delete => RecordHeader::delete(key, until),
        Kind::Revoke => RecordHeader::revoke(Some(OwnerKey::of(b"owner")), until, &Body::default()),
    };
    RecordHeader { seq: Seq(8), deadline_seq: Seq(8), ..header }
}

/// What the header of a record is taken for after these changes.
fn read(record: RecordHeader, changes: &[(usize, &[u8])]) -> Result<RecordHeader, Invalid> {
    let seed = header().seed();
    let mut bytes = record.encode(seed, OFFSET).to_vec();
    for (at, number) in changes {
        bytes = forged(bytes, *at, number, seed.at(OFFSET));
    }
    RecordHeader::decode(&bytes, seed, OFFSET)
}

const KINDS: [Kind; 5] = [Kind::Put, Kind::Touch, Kind::Delete, Kind::Rotate, Kind::Revoke];

/// The offsets of a record's fields.
const FLAGS: usize = 1;
const LABEL: usize = 2;
const BODY: usize = 4;
const SEQ: usize = 8;
const DEADLINE_SEQ: usize = 16;
const KEY: usize = 24;
const CREATED: usize = 56;
const EXPIRES: usize = 64;
const ABSOLUTE: usize = 72;
const IDLE: usize = 80;

#[test]
fn record_at_the_edge_of_a_range_is_read_and_one_beyond_it_is_refused() {
    let never = Timestamp::MAX.as_millis();
    let whole = (1_u64 << 31).next_multiple_of(1_000);
    let at_edge: [(&str, usize, u64); 5] = [
        ("deadline number", DEADLINE_SEQ, SEQ_END - 1),
        ("number no later than that of its deadline", SEQ, 8),
        ("end that is never", ABSOLUTE, never),
        ("idle period", IDLE, whole),
        ("idle period that is none", IDLE, 0),
    ];
    let beyond: [(&str, usize, u64); 8] = [
        ("deadline number", DEADLINE_SEQ, SEQ_END),
        ("deadline number before its own", DEADLINE_SEQ, 7),
        ("number that is none", SEQ, 0),
        ("number later than that of its deadline", SEQ, 9),
        ("end later than never", ABSOLUTE, never + 1),
        ("deadline later than never", EXPIRES, never + 1),
        ("deadline later than its end", EXPIRES, 9_000_001),
        ("idle period with a part of a second", IDLE, whole + 1),
    ];
    for kind in [Kind::Put, Kind::Touch, Kind::Rotate] {
        for (what, at, number) in at_edge {
            assert!(read(record_of(kind), &[(at, &number.to_le_bytes())]).is_ok(), "{kind:?}: {what}");
        }
        for (what, at, number) in beyond {
            let read = read(record_of(kind), &[(at, &number.to_le_bytes())]);
            assert_eq!(read, Err(Invalid::Field), "{kind:?}: {what}");
        }
        let ends_at_once = 9_000_000_u64.to_le_bytes();
        assert!(
            read(record_of(kind), &[(EXPIRES, &ends_at_once)]).is_ok(),
            "{kind:?}: one deadline for both"
        );
    }
}

#[test]
fn longest_body_is_read_and_a_longer_one_is_refused() {
    // The longest record has 2^24 - 1 bytes.
    let longest = (1_u32 << 24) - 1 - RECORD_HEADER_BYTES;
    let with = |len: u32| read(record_of(Kind::Put), &[(BODY, &len.to_le_bytes())]).map(|r| r.len());
    assert_eq!(with(longest), Ok((1 << 24) - 1));
    assert_eq!(with(longest + 1), Err(Invalid::Field));
}

#[test]
fn time_of_creation_is_less_than_2_to_the_32nd_and_only_content_has_one() {
    for kind in KINDS {
        let content = matches!(kind, Kind::Put | Kind::Rotate);
        let with = |created: u64| read(record_of(kind), &[(CREATED, &created.to_le_bytes())]);
        assert_eq!(with(u32::MAX.into()).is_ok(), content, "{kind:?}");
        assert_eq!(with(1 << 32), Err(Invalid::Field), "{kind:?}");
        assert_eq!(read(record_of(kind), &[(LABEL, &[1])]).is_ok(), content, "{kind:?}: a label");
        assert_eq!(read(record_of(kind), &[(3, &[1])]), Err(Invalid::Field), "{kind:?}: a byte that is zero");
    }
}

#[test]
fn record_has_only_the_flags_of_its_kind_and_keeps_each() {
    let documented = |kind| match kind {
        Kind::Put | Kind::Rotate => 1 | 2,
        Kind::Touch => 1,
        Kind::Delete => 0,
        Kind::Revoke => 4 | 8,
    };
    for (kind, flags) in KINDS.into_iter().flat_map(|kind| (0..=u8::MAX).map(move |flags| (kind, flags))) {
        // Who revokes everybody names nobody.
        let nobody = [0; 32];
        let key: &[u8] = if flags & 4 == 0 { &[] } else { &nobody };
        let read = read(record_of(kind), &[(FLAGS, &[flags]), (KEY, key)]);
        assert_eq!(read.is_ok(), flags & !documented(kind) == 0, "{kind:?}: {flags}");
        let Ok(record) = read else { continue };
        let held = (record.deadlines.exact, record.owned, record.all, record.spares);
        assert_eq!(held, (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 8 != 0));
        assert_eq!(record.encode(header().seed(), OFFSET)[FLAGS], flags, "{kind:?}");
    }
    for number in [0, 6, u8::MAX] {
        assert_eq!(read(record_of(Kind::Put), &[(0, &[number])]), Err(Invalid::Field), "kind {number}");
    }
}

#[test]
fn tombstone_and_revocation_have_one_deadline_and_no_idle_period() {
    for kind in [Kind::Delete, Kind::Revoke] {
        assert!(read(record_of(kind), &[]).is_ok(), "{kind:?}");
        let number = 1_000_u64.to_le_bytes();
        assert_eq!(read(record_of(kind), &[(IDLE, &number)]), Err(Invalid::Field), "{kind:?}");
        assert_eq!(read(record_of(kind), &[(EXPIRES, &number)]), Err(Invalid::Field), "{kind:?}");
    }
}

#[test]
fn revocation_names_one_owner_or_everybody() {
    assert_eq!(read(record_of(Kind::Revoke), &[]).unwrap().revoked(), Some(OwnerKey::of(b"owner")));
    assert_eq!(read(record_of(Kind::Revoke), &[(KEY + 16, &[1])]), Err(Invalid::Field), "more than an owner");
    assert_eq!(
        read(record_of(Kind::Revoke), &[(FLAGS, &[4])]),
        Err(Invalid::Field),
        "everybody and an owner"
    );
    let everybody = RecordHeader::revoke(None, Timestamp::from_millis(5), &Body::default());
    let everybody = RecordHeader { seq: Seq(8), deadline_seq: Seq(8), ..everybody };
    assert_eq!(read(everybody, &[]).unwrap().revoked(), None);
    assert_eq!(read(everybody, &[(KEY, &[1])]), Err(Invalid::Field), "everybody and a part of an owner");
}

#[test]
fn record_without_content_has_no_payload() {
    for kind in KINDS {
        let payload = Body { payload: b"payload", ..Body::default() };
        let mut record = RecordHeader { body_len: payload.len(), body_crc: payload.crc(), ..record_of(kind) };
        let mut bytes = Vec::new();
        if kind == Kind::Rotate {
            let rotated = Rotated { old_key: SessionKey::of(b"old"), hides_until: Timestamp::MAX };
            let body = Body { rotated: Some(rotated), ..payload };
            (record.body_len, record.body_crc) = (body.len(), body.crc());
            body.append_to(&mut bytes);
        } else {
            payload.append_to(&mut bytes);
        }
        let whole = [&record.encode(header().seed(), OFFSET)[..], &bytes].concat();
        let read = Body::read(&whole, header().seed(), OFFSET).map(|(_, body)| body.payload);
        let content = matches!(kind, Kind::Put | Kind::Rotate);
        assert_eq!(read, if content { Ok(&b"payload"[..]) } else { Err(Invalid::Field) }, "{kind:?}");
        let longer = [whole, vec![0]].concat();
        assert_eq!(Body::read(&longer, header().seed(), OFFSET).map(drop), Err(Invalid::Field), "{kind:?}");
    }
}

#[test]
fn group_holds_as_many_records_as_fit_and_knows_its_flags() {
    let seed = header().seed();
    let group = GroupHeader {
        last: false,
        len: 2 * RECORD_HEADER_BYTES,
        records: 2,
        watermark: Position { segment: SegmentId(2), offset: 999 },
        next_seq: Seq(SEQ_END),
        time: Timestamp::MAX,
    };
    let read = |at: usize, number: &[u8]| {
        let bytes = forged(group.encode(seed, OFFSET).to_vec(), at, number, seed.at(OFFSET));
        GroupHeader::decode(&bytes, seed, OFFSET)
    };
    assert_eq!(read(4, &[0]), Ok(group));
    assert_eq!(read(4, &[1]), Ok(GroupHeader { last: true, ..group }));
    let bare = [[0; 4], [0; 4]].concat();
    assert_eq!(read(8, &bare), Ok(GroupHeader { len: 0, records: 0, ..group }), "a bare watermark");
    let beyond: [(&str, usize, &[u8]); 9] = [
        ("flag", 4, &[2]),
        ("records that do not fit", 8, &[191]),
        ("records of no length", 8, &[0]),
        ("length of no records", 12, &[0]),
        ("more records than fit", 12, &[3]),
        ("next number", 24, &(SEQ_END + 1).to_le_bytes()),
        ("time", 32, &(Timestamp::MAX.as_millis() + 1).to_le_bytes()),
        ("zero", 40, &[1]),
        ("last byte of the zero", 43, &[1]),
    ];
    for (what, at, number) in beyond {
        assert_eq!(read(at, number), Err(Invalid::Field), "{what}");
    }
    assert_eq!(read(3, b"2"), Err(Invalid::Magic));
    assert_eq!(GroupHeader::decode(&group.encode(seed, OFFSET)[..47], seed, OFFSET), Err(Invalid::Short));
}

#[test]
fn segment_of_unknown_features_is_told_from_one_with_a_wrong_field() {
    let read = |at: usize, number: &[u8]| {
        SegmentHeader::decode(&forged(header().encode().to_vec(), at, number, 0)).map(|read| read.kind)
    };
    assert_eq!(read(10, &[1]), Ok(SegmentKind::Stream));
    assert_eq!(read(10, &[2]), Ok(SegmentKind::Copy));
    assert_eq!(read(12, &u32::MAX.to_le_bytes()), Ok(SegmentKind::Stream), "compatible features");
    assert_eq!(read(16, &[1]), Err(Invalid::Unknown(1)), "features that who writes must know");
    assert_eq!(read(20, &[2]), Err(Invalid::Unknown(2)), "features that who reads must know");
    let both = [3_u32.to_le_bytes(), 6_u32.to_le_bytes()].concat();
    assert_eq!(read(16, &both), Err(Invalid::Unknown(7)));
    for (what, at, number) in [
        ("no kind", 10, &[0][..]),
        ("another kind", 10, &[3]),
        ("first zero", 11, &[1]),
        ("second zero", 44, &[1]),
        ("last zero", 56, &[1]),
        ("no id", 40, &[0; 4]),
    ] {
        assert_eq!(read(at, number), Err(Invalid::Field), "{what}");
    }
}

type Lie = fn(&mut Manifest);

#[test]
fn manifest_at_the_edge_of_a_range_is_read_and_one_beyond_it_is_refused() {
    let listed = |id| Listed {
        id,
        kind: SegmentKind::Copy,
        salt: 5,
        capacity: 64,
        seal: Some(Seal { len: 64, crc: 6 }),
    };
    let sound = Manifest {
        mark_ms: Timestamp::MAX.as_millis(),
        doubted_ms: Timestamp::MAX.as_millis(),
        next_segment: 3,
        next_seq: SEQ_END,
        segments: vec![listed(1), listed(2)],
        ..Manifest::empty([1; 16])
    };
    let truths: [Lie; 5] = [
        |_| (),
        |m| m.next_seq = 1,
        |m| m.segments[0].seal = None,
        |m| m.durable = (3 << 32) - 1,
        |m| (m.next_segment, m.segments) = (1, Vec::new()),
    ];
    for (n, change) in truths.into_iter().enumerate() {
        let mut manifest = sound.clone();
        change(&mut manifest);
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest), "{n}");
    }
    let lies: [(&str, Lie); 12] = [
        ("the mark is no time", |m| m.mark_ms += 1),
        ("the doubt is no time", |m| m.doubted_ms += 1),
        ("there is no next segment", |m| (m.next_segment, m.segments) = (0, Vec::new())),
        ("there is no next number", |m| m.next_seq = 0),
        ("the next number is beyond all", |m| m.next_seq += 1),
        ("more is durable than there are segments", |m| m.durable = 3 << 32),
        ("two segments have one id", |m| m.segments[0].id = 2),
        ("segments are not by id", |m| m.segments.swap(0, 1)),
        ("an id is given that is not", |m| m.next_segment = 2),
        ("a segment has no id", |m| m.segments[0].id = 0),
        ("there was no room for a header", |m| m.segments[1].capacity = 63),
        ("a seal does not cover the header", |m| m.segments[1].seal = Some(Seal { len: 63, crc: 6 })),
    ];
    for (lie, change) in lies {
        let mut manifest = sound.clone();
        change(&mut manifest);
        assert_eq!(Manifest::decode(&manifest.encode()), Err(Invalid::Field), "{lie}");
    }
    // A byte more, which the length counts: postcard alone would pass over it.
    let mut longer = sound.encode();
    longer.push(0);
    let (len, crc) = (u32::try_from(longer.len() - 24).unwrap(), checksum(0, &longer[24..]));
    longer[12..16].copy_from_slice(&len.to_le_bytes());
    longer[16..20].copy_from_slice(&crc.to_le_bytes());
    let head = checksum(0, &longer[..20]);
    longer[20..24].copy_from_slice(&head.to_le_bytes());
    assert_eq!(Manifest::decode(&longer), Err(Invalid::Field));
}
