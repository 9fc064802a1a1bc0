//! The envelope: a session's fields as the payload of one record, and back.
//!
//! `postcard` of a format number (`u8`), then a map from name to codec tag (`u8`) and bytes; names ascend. Not the place that knows what
//! is in a field. Invariant: any bytes decode to fields or to a typed error, in time and memory bounded by their length and by the limits
//! on fields; and what [`encode`] wrote decodes to the same fields.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::field::{Field, Fields, is_valid_name};
use super::limits::FIELDS_MAX;

/// The format number this version writes and reads.
const FORMAT: u8 = 1;

#[derive(Serialize)]
struct Envelope<'a> {
    format: u8,
    fields: BTreeMap<&'a str, (u8, &'a [u8])>,
}

pub(super) fn encode(fields: &Fields) -> Result<Bytes, SessionError> {
    if fields.len() > FIELDS_MAX {
        return Err(SessionError::TooManyFields { count: fields.len() });
    }
    let fields =
        fields.iter().map(|(name, field)| (name.as_str(), (field.codec, &field.bytes[..]))).collect();
    let payload = postcard::to_stdvec(&Envelope { format: FORMAT, fields })
        .map_err(|_| SessionError::Malformed { what: "its fields could not be encoded" })?;
    Ok(payload.into())
}

/// The fields of a payload; their bytes are slices of it, not copies.
///
/// Read piece by piece and not as one value, so that the format number is known before what depends on it, and the number of fields
/// before room is made for them.
pub(super) fn decode(payload: &Bytes) -> Result<Fields, SessionError> {
    let (format, rest) = take::<u8>(payload)?;
    if format != FORMAT {
        return Err(SessionError::UnknownEnvelope { found: format, known: FORMAT });
    }
    let (count, mut rest) = take::<u64>(rest)?;
    if usize::try_from(count).map_or(true, |count| count > FIELDS_MAX) {
        return Err(SessionError::Malformed { what: "it has more fields than a session may have" });
    }
    let mut fields = Fields::new();
    for _ in 0..count {
        let ((name, (codec, bytes)), behind) = take::<(&str, (u8, &[u8]))>(rest)?;
        if !is_valid_name(name) {
            return Err(SessionError::Malformed { what: "a field name is empty or too long" });
        }
        if fields.last_key_value().is_some_and(|(before, _)| before.as_str() >= name) {
            return Err(SessionError::Malformed { what: "its field names do not ascend" });
        }
        fields.insert(name.into(), Field { codec, bytes: payload.slice_ref(bytes) });
        rest = behind;
    }
    if rest.is_empty() {
        Ok(fields)
    } else {
        Err(SessionError::Malformed { what: "bytes follow its last field" })
    }
}

fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), SessionError> {
    postcard::take_from_bytes(bytes)
        .map_err(|_| SessionError::Malformed { what: "it ends early, or a length in it is wrong" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::limits::FIELD_NAME_BYTES_MAX;
    use super::*;

    fn fields(names: impl IntoIterator<Item = String>) -> Fields {
        names.into_iter().map(|name| (name, Field { codec: 1, bytes: Bytes::from_static(b"1") })).collect()
    }

    fn malformed(payload: &[u8], about: &str) {
        match decode(&Bytes::copy_from_slice(payload)) {
            Err(SessionError::Malformed { what }) => assert!(what.contains(about), "{what}"),
            other => panic!("{payload:?} gave {other:?}"),
        }
    }

    #[test]
    fn the_bytes_of_format_1_stay_as_they_are() {
        let fields = Fields::from([
            ("a".into(), Field { codec: 1, bytes: Bytes::from_static(b"true") }),
            ("bc".into(), Field { codec: 7, bytes: Bytes::new() }),
        ]);
        let payload = encode(&fields).unwrap();
        assert_eq!(&payload[..], b"\x01\x02\x01a\x01\x04true\x02bc\x07\x00");
        assert_eq!(decode(&payload).unwrap(), fields);
    }

    #[test]
    fn what_is_no_envelope_gives_a_typed_error() {
        malformed(b"", "ends early");
        malformed(b"\x01", "ends early");
        malformed(b"\x01\x01\x01a\x01\x04tru", "ends early");
        malformed(b"\x01\x01\x01a\x01\xff\xff\xff\xff\x0f", "ends early");
        malformed(b"\x01\x01\x02\xff\xfe\x01\x00", "ends early");
        malformed(b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "more fields");
        malformed(b"\x01\x00\x00", "bytes follow");
        malformed(b"\x01\x01\x00\x01\x00", "name is empty");
        malformed(b"\x01\x02\x01a\x01\x00\x01a\x01\x00", "do not ascend");
        let newer = decode(&Bytes::from_static(b"\x02\x00"));
        assert!(matches!(newer, Err(SessionError::UnknownEnvelope { found: 2, known: 1 })));
    }

    #[test]
    fn limits_hold_at_their_edge() {
        let full = fields((0..FIELDS_MAX).map(|n| format!("{n:05}")));
        assert_eq!(decode(&encode(&full).unwrap()).unwrap(), full);
        let over = fields((0..=FIELDS_MAX).map(|n| format!("{n:05}")));
        assert!(matches!(encode(&over), Err(SessionError::TooManyFields { count: 1_025 })));
        let longest = fields(["x".repeat(FIELD_NAME_BYTES_MAX)]);
        assert_eq!(decode(&encode(&longest).unwrap()).unwrap(), longest);
        malformed(&encode(&fields(["x".repeat(FIELD_NAME_BYTES_MAX + 1)])).unwrap(), "too long");
    }

    fn any_fields() -> impl Strategy<Value = Fields> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        let field = (any::<u8>(), bytes).prop_map(|(codec, bytes)| Field { codec, bytes });
        proptest::collection::btree_map(".{1,40}", field, 0..8)
    }

    proptest! {
        #[test]
        fn any_fields_survive_the_trip(fields in any_fields()) {
            prop_assert_eq!(decode(&encode(&fields).unwrap()).unwrap(), fields);
        }

        #[test]
        fn what_decodes_is_written_back_to_what_decodes_the_same(tail in proptest::collection::vec(0..8_u8, 0..40)) {
            let payload = Bytes::from([&[FORMAT], &tail[..]].concat());
            if let Ok(fields) = decode(&payload) {
                prop_assert_eq!(decode(&encode(&fields).unwrap()).unwrap(), fields);
            }
        }

        #[test]
        fn a_damaged_envelope_never_panics_nor_grows(
            fields in any_fields(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut payload = encode(&fields).unwrap().to_vec();
            let len = payload.len();
            payload[at.index(len)] = byte;
            if let Ok(decoded) = decode(&payload.into()) {
                let held: usize = decoded.iter().map(|(name, field)| name.len() + field.bytes.len()).sum();
                prop_assert!(held <= len);
            }
        }
    }
}
