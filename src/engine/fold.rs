//! What a record on disk means to an index in the making. It is told nothing of where the record was read: in its segment, or in a footer.

use crate::format::{Kind, Placed, RECORD_HEADER_BYTES, RecordHeader};
use crate::id::{Address, SegmentId};
use crate::index::{Content, Entry, Gathered, Revocation};

/// Folds one record in; `moved` is its address if it is not where it was found.
pub(super) fn fold(
    gathered: &mut Gathered<'_>,
    placed: &Placed<'_>,
    segment: SegmentId,
    moved: Option<Address>,
) {
    let replay = gathered.replay();
    let RecordHeader { kind, key, seq, deadline_seq, deadlines, created_s, .. } = placed.header;
    match kind {
        Kind::Put | Kind::Rotate => {
            let address =
                moved.unwrap_or(Address { segment, offset: placed.offset, len: placed.header.len() });
            let rotated = kind == Kind::Rotate;
            let owner = placed.body.owner;
            let entry = Entry {
                address,
                rotated,
                owned: owner.is_some(),
                labelled: placed.header.label_len > 0,
                version: seq,
                deadlines,
                created_s,
                touched_in: None,
            };
            gathered.content(&key, Content { entry, owner, deadline_seq });
        }
        Kind::Touch => replay.touch(&key, seq, deadline_seq, segment, deadlines),
        Kind::Delete => {
            replay.tombstone(&key, seq, segment, deadlines.expires_at, RECORD_HEADER_BYTES);
        }
        Kind::Revoke => {
            let revocation = Revocation { owner: placed.header.revoked(), seq, spared: placed.body.spared };
            replay.revocation(&key, revocation, segment, deadlines.expires_at, placed.header.len());
        }
    }
    if let Some(rotated) = &placed.body.rotated {
        replay.tombstone(&rotated.old_key, seq, segment, rotated.hides_until, RECORD_HEADER_BYTES);
    }
}
