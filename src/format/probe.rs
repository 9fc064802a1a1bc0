//! A door into the format for programs that test it: compiled with `sim` alone, hidden from the documentation, promised to nobody.
//!
//! Not a way to read a store. It decodes by the code that a store uses and by no other; what it adds is to encode the outcome again, so that it can be
//! compared, and to close changed bytes with checksums that hold, so that a test reaches what stands behind them.

use std::ops::Range;

use crate::id::SegmentId;

use super::{
    Body, FOOTER_HEADER_BYTES, Footer, FooterWriter, GROUP_HEADER_BYTES, GroupHeader, Invalid, Manifest,
    RECORD_HEADER_BYTES, RecordHeader, Records, SEGMENT_HEADER_BYTES, Seed, SegmentHeader, SegmentKind,
    checksum,
};

/// What bytes are taken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The header of a segment.
    Segment,
    /// A group with all of its records.
    Group,
    /// A record with its body.
    Record,
    /// A whole `MANIFEST`.
    Manifest,
    /// A footer, of a segment whatever its checksum.
    Footer,
}

/// Decodes what stands at `at` of a segment's bytes, or a manifest that stands alone, and encodes it again.
///
/// ```
/// use cloakroom::probe::{Form, decode};
/// assert_eq!(decode(Form::Manifest, b"no manifest", 0), Err("it ends too early"));
/// ```
///
/// # Errors
///
/// Why it is no such thing.
pub fn decode(form: Form, bytes: &[u8], at: u32) -> Result<Vec<u8>, &'static str> {
    encoded(form, bytes, at).map_err(Invalid::what)
}

fn encoded(form: Form, bytes: &[u8], at: u32) -> Result<Vec<u8>, Invalid> {
    let seed = seed(bytes);
    let rest = bytes.get(at as usize..).ok_or(Invalid::Short)?;
    match form {
        Form::Manifest => Ok(Manifest::decode(rest)?.encode()),
        Form::Segment => Ok(SegmentHeader::decode(rest)?.encode().to_vec()),
        Form::Record => {
            let len = RecordHeader::decode(rest, seed, at)?.len();
            let record = rest.get(..len as usize).ok_or(Invalid::Short)?;
            let (header, body) = Body::read(record, seed, at)?;
            let mut again = header.encode(seed, at).to_vec();
            body.append_to(&mut again);
            Ok(again)
        }
        Form::Footer => {
            let (len, seal) = Footer::of(rest, seed, at)?;
            let footer = Footer::decode(rest.get(..len).ok_or(Invalid::Short)?, seed, seal)?;
            let mut writer = FooterWriter::new(footer.time, footer.next_seq, footer.count);
            footer.visit(|placed| writer.push(placed))?;
            Ok(writer.finish(seed, seal))
        }
        Form::Group => {
            let group = GroupHeader::decode(rest, seed, at)?;
            let records = rest.get(GROUP_HEADER_BYTES as usize..).and_then(|b| b.get(..group.len as usize));
            let mut again = group.encode(seed, at).to_vec();
            let records = records.ok_or(Invalid::Short)?;
            Records::new(&group, records, seed, at + GROUP_HEADER_BYTES).visit(true, |placed| {
                again.extend_from_slice(&placed.header.encode(seed, placed.offset));
                placed.body.append_to(&mut again);
            })?;
            Ok(again)
        }
    }
}

/// Gives what stands at `at` checksums that hold, and a manifest or a footer the length that it has; nothing where there is no room for one.
///
/// ```
/// use cloakroom::probe::{Form, decode, mend};
/// let mut bytes = *b"CLOAKMAN\x01\0\0\0....,,,,;;;;no list of segments";
/// mend(Form::Manifest, &mut bytes, 0);
/// assert_eq!(decode(Form::Manifest, &bytes, 0), Err("a field is out of its range"));
/// ```
pub fn mend(form: Form, bytes: &mut [u8], at: u32) {
    let (seed, at) = (seed(bytes), at as usize);
    let start = match form {
        Form::Segment | Form::Manifest => 0,
        Form::Group | Form::Record | Form::Footer => seed.at(u32::try_from(at).unwrap_or(u32::MAX)),
    };
    let Some(rest) = bytes.get_mut(at..) else { return };
    let covered = match form {
        Form::Segment => 0..SEGMENT_HEADER_BYTES as usize - 4,
        Form::Group => 0..GROUP_HEADER_BYTES as usize - 4,
        Form::Record => {
            let header = RECORD_HEADER_BYTES as usize;
            let len = rest.get(4..8).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
            let body = rest.get(header..).and_then(|b| b.get(..len as usize));
            if let Some(crc) = body.map(|body| checksum(0, body)) {
                put(rest, header - 8..header - 4, crc);
            }
            0..header - 4
        }
        Form::Manifest => {
            let Some((len, crc)) = rest.get(24..).map(|body| (body.len(), checksum(0, body))) else { return };
            put(rest, 12..16, u32::try_from(len).unwrap_or(u32::MAX));
            put(rest, 16..20, crc);
            0..20
        }
        Form::Footer => {
            let header = FOOTER_HEADER_BYTES;
            let Some((len, crc)) = rest.get(header..).map(|body| (body.len(), checksum(0, body))) else {
                return;
            };
            put(rest, 8..12, u32::try_from(len).unwrap_or(u32::MAX));
            put(rest, 12..16, crc);
            put(rest, 16..20, u32::try_from(at).unwrap_or(u32::MAX));
            0..header - 4
        }
    };
    let end = covered.end;
    if let Some(crc) = rest.get(covered).map(|covered| checksum(start, covered)) {
        put(rest, end..end + 4, crc);
    }
}

fn put(bytes: &mut [u8], at: Range<usize>, number: u32) {
    if let Some(place) = bytes.get_mut(at) {
        place.copy_from_slice(&number.to_le_bytes());
    }
}

/// Where the parts of a segment stand: its header, each group, behind each group its records, and a footer.
///
/// ```
/// assert!(cloakroom::probe::places(b"no segment").is_empty());
/// ```
#[must_use]
pub fn places(segment: &[u8]) -> Vec<(Form, u32)> {
    let Ok(header) = SegmentHeader::decode(segment) else { return Vec::new() };
    let (seed, mut at) = (header.seed(), SEGMENT_HEADER_BYTES);
    let mut places = vec![(Form::Segment, 0)];
    while let Some(rest) = segment.get(at as usize..)
        && let Ok(group) = GroupHeader::decode(rest, seed, at)
        && let Some(records) =
            rest.get(GROUP_HEADER_BYTES as usize..).and_then(|b| b.get(..group.len as usize))
    {
        places.push((Form::Group, at));
        let records = Records::new(&group, records, seed, at + GROUP_HEADER_BYTES);
        // What is invalid ends the records, and not the groups.
        let _ = records.visit(true, |placed| places.push((Form::Record, placed.offset)));
        at += GROUP_HEADER_BYTES + group.len;
    }
    if segment.get(at as usize..).is_some_and(|rest| Footer::of(rest, seed, at).is_ok()) {
        places.push((Form::Footer, at));
    }
    places
}

/// What the checksums in a segment start from, whether or not its header is valid.
fn seed(segment: &[u8]) -> Seed {
    let at = |at: usize| segment.get(at..);
    let id = at(40).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
    let salt = at(48).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
    SegmentHeader { kind: SegmentKind::Stream, store: [0; 16], id: SegmentId(id), salt }.seed()
}
