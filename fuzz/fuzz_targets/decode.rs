//! Bytes to headers, groups, records, footers and manifests: what decodes is encoded to the same bytes, no part of it decodes, nor does it with a flipped bit, and
//! memory stays within a few times the input, whatever lengths it tells.
//!
//! An input is a byte for the form, one that says whether its checksums are mended, two for the bit that is flipped, twelve for id and salt of the
//! segment, then the bytes, which stand behind the header of a segment.

#![no_main]

use cloakroom::probe::{Form, decode, mend};
use cloakroom_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

/// Where the bytes stand in the segment; before a footer there is room for records.
const AT: u32 = 64;
const FOOTER_AT: u32 = 4 << 10;

fuzz_target!(|data: &[u8]| {
    let Some((&[form, mended, bit_low, bit_high, ref place @ ..], rest)) = data.split_first_chunk::<16>()
    else {
        return;
    };
    let form =
        [Form::Segment, Form::Group, Form::Record, Form::Manifest, Form::Footer][usize::from(form % 5)];
    let at = match form {
        Form::Segment | Form::Manifest => 0,
        Form::Group | Form::Record => AT,
        Form::Footer => FOOTER_AT,
    };
    let mut bytes = vec![0; at as usize];
    if at > 0 {
        bytes[40..44].copy_from_slice(&place[..4]);
        bytes[48..56].copy_from_slice(&place[4..]);
    }
    bytes.extend_from_slice(rest);
    if mended % 2 == 1 {
        mend_all(form, &mut bytes, at);
    }
    check(form, &bytes, at, usize::from(u16::from_le_bytes([bit_low, bit_high])));
});

/// Records first: a mended group counts them, and does not cover their bytes.
fn mend_all(form: Form, bytes: &mut [u8], at: u32) {
    if form == Form::Group {
        let mut record = at as usize + 48;
        while let Some(len) = bytes.get(record + 4..).and_then(|b| b.first_chunk()) {
            let len = u32::from_le_bytes(*len) as usize;
            mend(Form::Record, bytes, u32::try_from(record).expect("inputs are short"));
            record = record.saturating_add(96).saturating_add(len);
        }
    }
    mend(form, bytes, at);
}

fn check(form: Form, bytes: &[u8], at: u32, bit: usize) {
    // A listed segment takes five bytes in a manifest and forty in memory, and a list that grows is there twice.
    let decoded = bounded(bytes.len(), 32, 4 << 10, || decode(form, bytes, at));
    let Ok(again) = decoded else { return };
    let whole = &bytes[at as usize..][..again.len()];
    match form {
        // Compatible features that nobody knows are passed over.
        Form::Segment => assert_eq!(whole[20..60], again[20..60], "it is encoded to other bytes"),
        _ => assert!(*whole == again, "it is encoded to other bytes"),
    }
    let end = at as usize + again.len();
    let cut = at as usize + bit % again.len();
    assert!(decode(form, &bytes[..cut], at).is_err(), "the first {cut} bytes of it are one too");
    let mut flipped = bytes[..end].to_vec();
    flipped[at as usize + bit / 8 % again.len()] ^= 1 << (bit % 8);
    assert!(decode(form, &flipped, at).is_err(), "it is one too with bit {bit} flipped");
    // At another place, or with more behind it, it is none.
    if at > 0 {
        flipped.copy_from_slice(&bytes[..end]);
        flipped.insert(at as usize, 0);
        assert!(decode(form, &flipped, at + 1).is_err(), "it is one too a byte further on");
    }
}
