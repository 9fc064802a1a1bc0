//! The door for programs that test the format shows what is there, and mends what they changed.
//!
//! Not the format itself. Method: a segment with groups of one, two and no records is shown, changed and mended part by part.

use super::probe::{Form, decode, mend, places};
use super::*;

/// A segment's bytes, and where its parts stand.
fn segment() -> (Vec<u8>, Vec<(Form, u32)>) {
    let seed = header().seed();
    let mut bytes = header().encode().to_vec();
    let mut parts = vec![(Form::Segment, 0)];
    for payloads in [&[&b"one"[..]][..], &[b"", b"three"], &[]] {
        let group_at = u32::try_from(bytes.len()).unwrap();
        parts.push((Form::Group, group_at));
        let mut records = Vec::new();
        for payload in payloads {
            let at = group_at + GROUP_HEADER_BYTES + u32::try_from(records.len()).unwrap();
            parts.push((Form::Record, at));
            records.extend(record(payload, at));
        }
        let group = GroupHeader {
            last: false,
            len: u32::try_from(records.len()).unwrap(),
            records: u32::try_from(payloads.len()).unwrap(),
            watermark: Position { segment: SegmentId(2), offset: 999 },
            next_seq: Seq(8),
            time: Timestamp::from_millis(5),
        };
        bytes.extend(group.encode(seed, group_at));
        bytes.extend(records);
    }
    (bytes, parts)
}

#[test]
fn parts_of_a_segment_are_found_and_read_as_they_were_written() {
    let (bytes, parts) = segment();
    assert_eq!(places(&bytes), parts);
    for (n, (form, at)) in parts.iter().enumerate() {
        // A group reaches to the next one, everything else to what stands behind it.
        let ends = |(next, _): &&(Form, u32)| *form != Form::Group || *next == Form::Group;
        let end = parts[n + 1..].iter().find(ends).map_or(bytes.len(), |(_, end)| *end as usize);
        assert_eq!(decode(*form, &bytes, *at).as_deref(), Ok(&bytes[*at as usize..end]), "{form:?} at {at}");
    }
    // What is cut off is not there.
    assert_eq!(places(&bytes[..bytes.len() - 1]), parts[..parts.len() - 1]);
}

#[test]
fn changed_part_is_refused_until_it_is_mended() {
    let (bytes, parts) = segment();
    for (form, at) in parts {
        // A byte of the store's id, of a group's time, of a record's payload and of its key.
        let places: &[usize] = match form {
            Form::Segment => &[30],
            Form::Group => &[32],
            _ => &[96 + 16 + 40, 24],
        };
        for place in places {
            let mut changed = bytes.clone();
            changed[at as usize + place] ^= 1;
            assert!(decode(form, &changed, at).is_err(), "{form:?} at {at}: {place}");
            mend(form, &mut changed, at);
            let read = decode(form, &changed, at).unwrap();
            assert_eq!(read, changed[at as usize..][..read.len()], "{form:?} at {at}: {place}");
            assert_ne!(changed, bytes);
        }
    }
}

#[test]
fn changed_manifest_is_mended_with_the_length_that_it_has() {
    let manifest = Manifest::empty([1; 16]);
    let mut bytes = manifest.encode();
    // The mark is the number behind the store's id: two bytes where there was one.
    bytes.splice(40..41, [0x80, 0x01]);
    assert!(decode(Form::Manifest, &bytes, 0).is_err());
    mend(Form::Manifest, &mut bytes, 0);
    let expected = Manifest { mark_ms: 128, ..manifest }.encode();
    assert_eq!((decode(Form::Manifest, &bytes, 0).as_ref(), &bytes), (Ok(&expected), &expected));
}

#[test]
fn footer_is_shown_and_mended_like_the_rest() {
    let (mut bytes, mut parts) = segment();
    let at = u32::try_from(bytes.len()).unwrap();
    let mut writer = FooterWriter::new(Timestamp::from_millis(5), Seq(9), 1);
    let (first, seed) = (record(b"one", 112), header().seed());
    let (header, body) = Body::read(&first, seed, 112).unwrap();
    writer.push(&Placed { offset: 112, header, body });
    bytes.extend(writer.finish(seed, Seal { len: at, crc: 7 }));
    parts.push((Form::Footer, at));
    assert_eq!(places(&bytes), parts);
    assert_eq!(decode(Form::Footer, &bytes, at).as_deref(), Ok(&bytes[at as usize..]));
    // The latest store time, in the body.
    bytes[at as usize + 32] ^= 1;
    assert!(decode(Form::Footer, &bytes, at).is_err());
    mend(Form::Footer, &mut bytes, at);
    assert_eq!(decode(Form::Footer, &bytes, at).as_deref(), Ok(&bytes[at as usize..]));
}

#[test]
fn nothing_is_mended_where_there_is_no_room() {
    let (bytes, _) = segment();
    for (form, header) in
        [(Form::Segment, 64), (Form::Group, 48), (Form::Record, 96), (Form::Manifest, 24), (Form::Footer, 32)]
    {
        for len in 0..header {
            let mut short = bytes[..len].to_vec();
            mend(form, &mut short, 0);
            assert_eq!(decode(form, &short, 0), Err("it ends too early"), "{form:?} {len}");
        }
    }
}
