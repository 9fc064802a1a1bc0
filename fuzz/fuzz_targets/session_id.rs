//! Text to [`SessionId`] and back: what is read is written the same, so that an id has one text and a cookie one meaning.

#![no_main]

use cloakroom::{ID_TEXT_CHARS, SessionId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<SessionId>() {
        Ok(id) => {
            assert_eq!(id.to_text(), text, "an id has two texts");
            assert!(!format!("{id:?}").contains(text), "`Debug` shows the token");
        }
        Err(error) => {
            let wanted = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            // Only the bits behind the last byte are left as a reason to refuse such a text.
            let last = text.chars().last().unwrap_or('A');
            let bits = "AEIMQUYcgkosw048".contains(last);
            let fine = text.len() == ID_TEXT_CHARS && text.chars().all(wanted) && bits;
            assert!(!fine, "a good id was refused: {error}");
        }
    }
});
