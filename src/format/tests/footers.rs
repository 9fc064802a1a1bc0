//! Footers: what is written is read back, and a body whose checksum was made to hold shows nothing that a segment could not hold.

use super::*;

const SEAL: Seal = Seal { len: 1 << 20, crc: 0x5EA1 };

/// Records of every kind, in no order, the numbers far apart and next to each other, at both ends of the segment.
fn records() -> Vec<(u32, RecordHeader, Body<'static>)> {
    let (key, until) = (SessionKey::of(b"key"), Timestamp::from_millis(9_000));
    let owner = OwnerKey::of(b"owner");
    let rotated = Some(Rotated { old_key: SessionKey::of(b"old"), hides_until: until });
    let spared = Body { spared: Some(SessionKey::of(b"spared")), ..Body::default() };
    let full = Body { owner: Some(owner), label: &[b'l'; 255], payload: b"payload", ..Body::default() };
    let never = Deadlines { absolute_at: Timestamp::MAX, expires_at: Timestamp::MAX, ..deadlines() };
    let put = |deadlines, body| (RecordHeader::new(Kind::Put, key, u32::MAX, deadlines, &body), body);
    let rotate = Body { rotated, ..full };
    let records = [
        put(never, Body::default()),
        put(deadlines(), full),
        (RecordHeader::new(Kind::Rotate, key, 0, deadlines(), &rotate), rotate),
        (RecordHeader::touch(key, Seq(8), deadlines()), Body::default()),
        (RecordHeader::delete(key, until), Body::default()),
        (RecordHeader::revoke(Some(owner), until, &spared), spared),
        (RecordHeader::revoke(None, until, &Body::default()), Body::default()),
    ];
    let first = SEGMENT_HEADER_BYTES + GROUP_HEADER_BYTES;
    let last = |header: &RecordHeader| SEAL.len - header.len();
    let place = |(n, (header, body)): (usize, (RecordHeader, Body<'static>))| {
        let (offset, seq, deadline_seq) = match n % 3 {
            0 => (last(&header), SEQ_END - 1, SEQ_END - 1),
            1 => (first, 1, SEQ_END - 1),
            _ => (first + 1_000, 2, 3),
        };
        (offset, RecordHeader { seq: Seq(seq), deadline_seq: Seq(deadline_seq), ..header }, body)
    };
    records.into_iter().enumerate().map(place).collect()
}

fn footer() -> Vec<u8> {
    let records = records();
    let mut writer = FooterWriter::new(Timestamp::from_millis(5), Seq(6), records.len().try_into().unwrap());
    for (offset, header, body) in records {
        writer.push(&Placed { offset, header, body });
    }
    writer.finish(header().seed(), SEAL)
}

/// What a footer shows, if all of it holds.
fn shown(bytes: &[u8]) -> Result<Vec<(u32, RecordHeader, OwnedParts)>, Invalid> {
    let footer = Footer::decode(bytes, header().seed(), SEAL)?;
    let mut shown = Vec::new();
    footer.visit(|placed| {
        let Body { owner, rotated, spared, .. } = placed.body;
        shown.push((placed.offset, placed.header, (owner, rotated, spared)));
    })?;
    assert_eq!(shown.len(), footer.count as usize);
    Ok(shown)
}

type OwnedParts = (Option<OwnerKey>, Option<Rotated>, Option<SessionKey>);

/// The footer with another body, and checksums that hold.
fn forged(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = bytes.split_off(FOOTER_HEADER_BYTES);
    change(&mut body);
    with_header(SEAL.len, 0, &body)
}

/// A footer that says to be of a segment of this length, `zero` where a zero belongs, and checksums that hold.
fn with_header(len: u32, zero: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; FOOTER_HEADER_BYTES];
    Lay::new(&mut bytes)
        .bytes(b"CLOAKFTR")
        .u32(body.len().try_into().unwrap())
        .u32(checksum(0, body))
        .u32(len)
        .u32(SEAL.crc)
        .u32(zero)
        .checksum(header().seed().at(SEAL.len));
    bytes.extend(body);
    bytes
}

#[test]
fn footer_shows_each_record_without_label_payload_and_checksum() {
    let bytes = footer();
    let expected = records().into_iter().map(|(offset, header, body)| {
        let parts = (body.owner, body.rotated, body.spared);
        (offset, RecordHeader { body_crc: 0, ..header }, parts)
    });
    assert_eq!(shown(&bytes).unwrap(), expected.collect::<Vec<_>>());
    let read = Footer::decode(&bytes, header().seed(), SEAL).unwrap();
    assert_eq!((read.time, read.next_seq, read.count), (Timestamp::from_millis(5), Seq(6), 7));
    assert_eq!(Footer::len(&bytes, header().seed(), SEAL), Ok(bytes.len()));
    assert_eq!(forged(bytes.clone(), |_| {}), bytes);
}

#[test]
fn every_flipped_bit_and_every_length_of_a_footer_is_noticed() {
    let bytes = footer();
    for bit in 0..bytes.len() * 8 {
        let mut spoilt = bytes.clone();
        spoilt[bit / 8] ^= 1 << (bit % 8);
        assert!(shown(&spoilt).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(shown(&bytes[..len]).is_err(), "{len} bytes");
    }
    assert!(shown(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn footer_of_another_segment_or_another_seal_is_not_believed() {
    let bytes = footer();
    let other = SegmentHeader { salt: 1, ..header() };
    assert!(Footer::len(&bytes, other.seed(), SEAL).is_err());
    for seal in [Seal { len: SEAL.len + 1, ..SEAL }, Seal { crc: SEAL.crc + 1, ..SEAL }] {
        assert!(Footer::decode(&bytes, header().seed(), seal).is_err());
    }
    let of = |len, zero| Footer::of(&with_header(len, zero, &[]), header().seed(), SEAL.len);
    assert!(of(SEAL.len, 0).is_ok());
    assert_eq!(of(SEAL.len - 1, 0), Err(Invalid::Field), "what it says of its place is not so");
    assert_eq!(of(SEAL.len, 1), Err(Invalid::Field), "a footer has one form");
}

#[test]
fn footer_is_found_where_it_belongs_and_nowhere_else() {
    let seed = header().seed();
    let seal = Seal { len: 4_321, ..SEAL };
    let footer = FooterWriter::new(Timestamp::from_millis(5), Seq(6), 0).finish(seed, seal);
    let segment = |before: usize| [&vec![b'C'; before][..], &footer, b"and zeros"].concat();
    assert_eq!(Footer::find(&segment(4_321), seed), Some(4_321));
    assert_eq!(Footer::find(&segment(4_320), seed), None);
    // One that a payload holds, before the true one.
    let within = [&footer[..], &vec![0; 4_321 - footer.len()], &footer].concat();
    assert_eq!(Footer::find(&within, seed), Some(4_321));
    assert_eq!(Footer::find(&segment(4_321)[..4_321 + FOOTER_HEADER_BYTES - 1], seed), None);
}

#[test]
fn line_that_no_segment_could_hold_is_refused_though_its_checksum_holds() {
    let head = 20;
    // Kind, label, front, lengths; behind the key the numbers of the first record: offset, body.
    let changes: [(&str, usize, u8); 6] = [
        ("a kind that is none", head, 6),
        ("a flag that its kind has not", head, 1 | 4 << 4),
        ("a label that its body has no room for", head + 1, 1),
        ("a front that it has not", head + 2, 1),
        ("a number of nine bytes", head + 3, 9),
        ("a place beyond the end", head + 39 + 2, 0xFF),
    ];
    for (what, at, byte) in changes {
        assert!(shown(&forged(footer(), |body| body[at] = byte)).is_err(), "{what}");
    }
    let made = |kind, body_len, label_len| {
        let header = RecordHeader::new(kind, SessionKey::of(b"key"), 0, deadlines(), &Body::default());
        let header = RecordHeader { body_len, label_len, seq: Seq(1), deadline_seq: Seq(1), ..header };
        let mut writer = FooterWriter::new(Timestamp::from_millis(5), Seq(2), 1);
        writer.push(&Placed { offset: 1_000, header, body: Body::default() });
        shown(&writer.finish(super::header().seed(), SEAL))
    };
    assert!(made(Kind::Put, 2, 2).is_ok() && made(Kind::Touch, 0, 0).is_ok());
    assert!(made(Kind::Put, 1, 2).is_err(), "a label longer than what is left of its body");
    assert!(made(Kind::Touch, 1, 0).is_err(), "a payload in a kind that has none");
    let longer = |body: &mut Vec<u8>| {
        assert_eq!(body[head + 3] & 0xF, 3, "the length of its offset");
        body[head + 3] += 1;
        body.insert(head + 39 + 3, 0);
    };
    assert!(shown(&forged(footer(), longer)).is_err(), "a number with a zero too many");
    let count = |n: u32| forged(footer(), |body| body[16..20].copy_from_slice(&n.to_le_bytes()));
    assert!(shown(&count(6)).is_err() && shown(&count(8)).is_err() && shown(&count(u32::MAX)).is_err());
    assert!(shown(&forged(footer(), |body| body.push(0))).is_err());
    assert!(shown(&forged(footer(), |body| body[8..16].copy_from_slice(&SEQ_END.to_le_bytes()))).is_ok());
    assert!(
        shown(&forged(footer(), |body| body[8..16].copy_from_slice(&(SEQ_END + 1).to_le_bytes()))).is_err()
    );
    assert!(
        shown(&forged(footer(), |body| body[..8].copy_from_slice(&(1_u64 << 48).to_le_bytes()))).is_err()
    );
}

proptest! {
    #[test]
    fn forged_footer_shows_only_what_a_segment_could_hold(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let bytes = forged(footer(), |body| {
            for (at, byte) in &changes {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            if let Some(cut) = cut {
                body.truncate(cut.index(body.len()));
            }
        });
        let Ok(footer) = Footer::decode(&bytes, header().seed(), SEAL) else { return Ok(()) };
        let (mut shown, mut all_sound) = (0, true);
        let done = footer.visit(|placed| {
            shown += 1;
            let Placed { offset, header: record, .. } = placed;
            all_sound &= *offset >= SEGMENT_HEADER_BYTES + GROUP_HEADER_BYTES && offset + record.len() <= SEAL.len;
            // A header that is written is one that is read.
            let written = record.encode(header().seed(), *offset);
            all_sound &= RecordHeader::decode(&written, header().seed(), *offset) == Ok(*record);
        });
        prop_assert!(all_sound && (done.is_err() || shown == footer.count));
    }
}
