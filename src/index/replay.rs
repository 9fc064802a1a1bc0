//! Building the index at open from records in any order: segments can be read side by side, and a copy before its original.
//!
//! Records are folded one by one. What is known of a session after any set of records depends on the set alone:
//!
//! 1. Of contents, the one with the greatest sequence number counts; of copies of it, the one that carries the newest deadline, then the one in
//!    the later place.
//! 2. Of deadlines, carried by contents or touches, the one with the greatest number counts; if content and touch carry the same one, the content's.
//!    (A touch older than the content has a smaller number than the deadline which that content brought.) A touch of a content that is
//!    not there says nothing of an older one, which may be all that is left of the session after a newer one was dropped.
//! 3. A tombstone ends everything with a smaller number than its own, seen before or after.
//! 4. A deadline that lost, has not been ended by a tombstone and is later than the one that counts is an outlived version
//!    (see [`shard`](super::shard)).
//! 5. A revocation ends the content that counts, if that is owned and older. It is asked at the end, when all are known; what such a
//!    content stood before is not back, since it was of the same owner or was ended by a tombstone.
//!
//! It trusts that the numbers come from one history of the store. It reads no record, and charges no bytes before [`Replay::finish`],
//! tombstones apart.
//!
//! Invariant: the numbers beside the slots are moved with them; they and the maps for what waits are dropped at the end.

use std::sync::Arc;

use hashbrown::HashMap;

use super::count::Count;
use super::owned::Owned;
use super::revocations::{Revocation, Revocations};
use super::shard::Outlived;
use super::slab::{Prefix, Slab, prefix};
use super::usage::Usage;
use super::{Entry, Index, Shard};
use crate::clock::Timestamp;
use crate::id::{OwnerKey, SegmentId, Seq, SessionKey};
use crate::lifetime::Deadlines;
use crate::sync::{Mutex, for_each};

/// An index in the making. Threads may share it; they wait for each other only where their keys meet in a shard. Where there are
/// millions of records, [gather](Self::gather) them.
pub(crate) struct Replay {
    shards: Vec<Mutex<Fold>>,
    revocations: Mutex<Revocations>,
}

impl Replay {
    /// Nothing yet; deadlines and tombstones up to `now` have passed.
    pub(crate) fn new(now: Timestamp) -> Self {
        let shards = (0..Index::SHARDS).map(|_| Mutex::new(Fold::new(now))).collect();
        Self { shards, revocations: Mutex::default() }
    }

    /// For one thread that folds in contents.
    pub(crate) fn gather(&self) -> Gathered<'_> {
        Gathered { replay: self, shards: (0..Index::SHARDS).map(|_| Vec::new()).collect() }
    }

    /// Folds in a touch or a copy of one, of the content with the number `of`.
    pub(crate) fn touch(
        &self,
        key: &SessionKey,
        of: Seq,
        seq: Seq,
        segment: SegmentId,
        deadlines: Deadlines,
    ) {
        let claim = Claim { seq, of, touched_in: Some(segment), deadlines };
        self.shards[Index::shard_of(key)].lock().touch(key, claim);
    }

    /// Folds in a delete, or a rotation's old key.
    pub(crate) fn tombstone(
        &self,
        key: &SessionKey,
        seq: Seq,
        segment: SegmentId,
        hides_until: Timestamp,
        bytes: u32,
    ) {
        let mut fold = self.shards[Index::shard_of(key)].lock();
        fold.keep(segment, hides_until, bytes);
        fold.tombstone(key, seq);
    }

    /// Folds in a revocation, or a copy of one; `key` is what its record is filed under.
    pub(crate) fn revocation(
        &self,
        key: &SessionKey,
        revocation: Revocation,
        segment: SegmentId,
        hides_until: Timestamp,
        bytes: u32,
    ) {
        self.shards[Index::shard_of(key)].lock().keep(segment, hides_until, bytes);
        self.revocations.lock().add(revocation);
    }

    /// Takes out every session whose newest content nothing with a later number than this names; says how many of them live at `now`.
    pub(crate) fn drop_up_to(&mut self, seq: Seq, now: Timestamp) -> u64 {
        self.shards.iter_mut().map(|fold| fold.get_mut().drop_up_to(seq, now)).sum()
    }

    /// The index of the sessions that live at `now`, and of those that ended while an older version on disk lives on: expiry hands
    /// these to the engine for their tombstones. Up to `workers` threads make it.
    pub(crate) fn finish(self, now: Timestamp, workers: usize) -> Index {
        let count = Arc::default();
        let revocations = self.revocations.into_inner();
        let shards = for_each(&self.shards, workers, |fold| {
            let fold = std::mem::replace(&mut *fold.lock(), Fold::new(now));
            let promised = fold.promised;
            (promised, fold.finish(now, Arc::clone(&count), &revocations))
        });
        let promised = shards.iter().map(|(promised, _)| *promised).max().unwrap_or_default();
        let shards = shards.into_iter().map(|(_, shard)| Mutex::new(shard)).collect();
        // Those that were read have been carried out.
        Index::of(shards, Revocations::promising(promised), count)
    }
}

/// What a record says that has a session's content.
#[derive(Clone, Copy)]
pub(crate) struct Content {
    pub(crate) entry: Entry,
    pub(crate) owner: Option<OwnerKey>,
    /// The number of its deadlines.
    pub(crate) deadline_seq: Seq,
}

/// Contents that are folded in some at a time, those of a shard together, and the last ones when this is dropped.
///
/// A shard's table, with millions of sessions, is in no cache; a record that is folded in by itself waits for it, and the thread does nothing
/// meanwhile. The places of some are fetched side by side.
pub(crate) struct Gathered<'a> {
    replay: &'a Replay,
    shards: Vec<Vec<(SessionKey, Content)>>,
}

/// Contents of a shard that are folded in together: enough to hide the wait, few enough that those of all shards fit a processor's cache.
const GATHERED: usize = 32;

impl<'a> Gathered<'a> {
    /// Where what is no content goes, in any order.
    pub(crate) fn replay(&self) -> &'a Replay {
        self.replay
    }

    /// Folds in a put, a rotation's new key, or a copy of either.
    pub(crate) fn content(&mut self, key: &SessionKey, content: Content) {
        let shard = Index::shard_of(key);
        let gathered = &mut self.shards[shard];
        gathered.push((*key, content));
        if gathered.len() == GATHERED {
            self.replay.shards[shard].lock().contents(gathered);
        }
    }
}

impl Drop for Gathered<'_> {
    fn drop(&mut self) {
        for (shard, gathered) in self.replay.shards.iter().zip(&mut self.shards) {
            shard.lock().contents(gathered);
        }
    }
}

/// A deadline that a record carries.
#[derive(Clone, Copy)]
struct Claim {
    seq: Seq,
    /// No content with a smaller number than this is meant.
    of: Seq,
    /// `None` if the record has the content as well.
    touched_in: Option<SegmentId>,
    deadlines: Deadlines,
}

impl Claim {
    /// The greater one counts.
    fn rank(&self) -> (Seq, bool, Option<SegmentId>) {
        (self.seq, self.touched_in.is_none(), self.touched_in)
    }
}

/// The deadlines of one key that lost and might yet be needed: the later a number, the earlier the deadline.
struct Losers {
    key: SessionKey,
    deadlines: Vec<(Seq, Timestamp)>,
}

/// One shard in the making.
struct Fold {
    now: Timestamp,
    slab: Slab,
    /// By slot: the number of the deadline that the content's own record carries.
    carried: Vec<Seq>,
    /// By slot: the number of the deadline that counts.
    newest: Vec<Seq>,
    usage: Usage,
    /// The newest of each key.
    tombstones: HashMap<Prefix, Seq>,
    /// The newest touch of each key whose content is not there.
    touches: HashMap<Prefix, Claim>,
    losers: HashMap<Prefix, Losers>,
    /// Of the sessions in the slab that are owned.
    owned: Owned,
    /// No record that is owned lasts longer. A touch does not say whether it is.
    promised: Timestamp,
}

impl Fold {
    fn new(now: Timestamp) -> Self {
        Self {
            now,
            slab: Slab::default(),
            carried: Vec::new(),
            newest: Vec::new(),
            usage: Usage::default(),
            tombstones: HashMap::new(),
            touches: HashMap::new(),
            losers: HashMap::new(),
            owned: Owned::default(),
            promised: Timestamp::default(),
        }
    }

    /// Counts a record as live that ends others, until what it ends has ended by itself.
    fn keep(&mut self, segment: SegmentId, hides_until: Timestamp, bytes: u32) {
        if hides_until > self.now {
            self.usage.add_tombstone(segment, hides_until, bytes, self.now);
        }
    }

    fn contents(&mut self, gathered: &mut Vec<(SessionKey, Content)>) {
        for (key, _) in &*gathered {
            // The answer may change with the next one; what it takes to find it is at hand then.
            std::hint::black_box(self.slab.find(&prefix(key)));
        }
        for (key, content) in gathered.drain(..) {
            self.content(&key, content);
        }
    }

    fn content(&mut self, key: &SessionKey, content: Content) {
        let Content { entry, owner, deadline_seq } = content;
        let prefix = prefix(key);
        if owner.is_some() {
            self.promised = self.promised.max(entry.deadlines.expires_at);
        }
        if self.is_ended(&prefix, entry.version) {
            return;
        }
        let Some(number) = self.slab.find(&prefix) else {
            let number = self.slab.push(prefix, &entry);
            if owner.is_some() {
                self.owned.set(number, owner);
            }
            self.carried.push(deadline_seq);
            self.newest.push(deadline_seq);
            self.meet(key, number);
            return;
        };
        let held = self.slab.slot(number).entry();
        let carried = &mut self.carried[number as usize];
        let rank = |e: &Entry, seq| (e.version, seq, e.address.segment, e.address.offset);
        if rank(&entry, deadline_seq) > rank(&held, *carried) {
            *carried = deadline_seq;
            let Entry { deadlines, touched_in, .. } = held;
            self.slab.slot_mut(number).put(&Entry { deadlines, touched_in, ..entry });
            if held.owned || owner.is_some() {
                self.owned.set(number, owner);
            }
        }
        let Entry { version: of, deadlines, .. } = entry;
        self.claim(key, number, Claim { seq: deadline_seq, of, touched_in: None, deadlines });
        self.meet(key, number);
    }

    /// Weighs the touch that waited for the content of this slot, if one did.
    fn meet(&mut self, key: &SessionKey, number: u32) {
        if self.touches.is_empty() {
            return;
        }
        let (prefix, version) = (prefix(key), self.slab.slot(number).version());
        if self.touches.get(&prefix).is_some_and(|touch| touch.of <= version)
            && let Some(touch) = self.touches.remove(&prefix)
        {
            self.claim(key, number, touch);
        }
    }

    fn touch(&mut self, key: &SessionKey, claim: Claim) {
        let prefix = prefix(key);
        self.promised = self.promised.max(claim.deadlines.expires_at);
        if self.is_ended(&prefix, claim.of) {
            return;
        }
        match self.slab.find(&prefix) {
            Some(number) if self.slab.slot(number).version() >= claim.of => self.claim(key, number, claim),
            _ => self.wait(key, claim),
        }
    }

    fn tombstone(&mut self, key: &SessionKey, seq: Seq) {
        let prefix = prefix(key);
        let newest = self.tombstones.entry(prefix).or_default();
        *newest = seq.max(*newest);
        if self.touches.get(&prefix).is_some_and(|touch| touch.of < seq) {
            self.touches.remove(&prefix);
        }
        if let Some(number) = self.slab.find(&prefix)
            && self.slab.slot(number).version() < seq
        {
            self.remove(number);
        }
    }

    fn is_ended(&self, prefix: &Prefix, seq: Seq) -> bool {
        !self.tombstones.is_empty() && self.tombstones.get(prefix).is_some_and(|ended| seq < *ended)
    }

    /// Keeps a touch until its content comes.
    fn wait(&mut self, key: &SessionKey, claim: Claim) {
        let waiting = self.touches.entry(prefix(key)).or_insert(claim);
        let mut loser = claim;
        if claim.rank() > waiting.rank() {
            loser = std::mem::replace(waiting, claim);
        }
        let winner = *waiting;
        self.note_loser(key, &loser, &winner);
    }

    /// Weighs a deadline against the one that counts for a slot.
    fn claim(&mut self, key: &SessionKey, number: u32, claim: Claim) {
        let newest = &mut self.newest[number as usize];
        let slot = self.slab.slot_mut(number);
        let entry = slot.entry();
        let Entry { version: of, touched_in, deadlines, .. } = entry;
        let held = Claim { seq: *newest, of, touched_in, deadlines };
        let (winner, loser) = if claim.rank() > held.rank() { (claim, held) } else { (held, claim) };
        *newest = winner.seq;
        slot.put(&Entry { deadlines: winner.deadlines, touched_in: winner.touched_in, ..entry });
        self.note_loser(key, &loser, &winner);
    }

    /// Keeps the deadline of a loser that outlives its winner. Others need not be kept: whatever defeats the winner later on, a
    /// tombstone included, defeats them too, and the winner, being the later one, then stands for them.
    fn note_loser(&mut self, key: &SessionKey, loser: &Claim, winner: &Claim) {
        let (seq, until) = (loser.seq, loser.deadlines.expires_at);
        if until <= winner.deadlines.expires_at || until <= self.now {
            return;
        }
        let losers =
            self.losers.entry(prefix(key)).or_insert_with(|| Losers { key: *key, deadlines: Vec::new() });
        if !losers.deadlines.iter().any(|(s, u)| *s >= seq && *u >= until) {
            losers.deadlines.retain(|(s, u)| *s > seq || *u > until);
            losers.deadlines.push((seq, until));
        }
    }

    /// The latest deadline of an older version that outlives what counts.
    fn outlived(&self, prefix: &Prefix, expires_at: Timestamp, now: Timestamp) -> Option<Outlived> {
        let losers = self.losers.get(prefix)?;
        let in_force = losers.deadlines.iter().filter(|(seq, _)| !self.is_ended(prefix, *seq));
        let until = in_force.map(|(_, until)| *until).max()?;
        (until > expires_at && until > now).then_some(Outlived { key: losers.key, until })
    }

    fn drop_up_to(&mut self, seq: Seq, now: Timestamp) -> u64 {
        let mut dropped = 0;
        for number in (0..self.slab.len()).rev() {
            let entry = self.slab.slot(number).entry();
            // The deadline that counts names the content that it was given to, which is the one in the slot: a later content has a later deadline.
            if self.newest[number as usize] <= seq {
                dropped += u64::from(entry.deadlines.is_live(now));
                self.remove(number);
            }
        }
        dropped
    }

    fn remove(&mut self, number: u32) {
        if self.slab.slot(number).is_owned() {
            self.owned.set(number, None);
        }
        if self.slab.swap_remove(number) && self.slab.slot(number).is_owned() {
            self.owned.renumber(self.slab.len(), number);
        }
        self.carried.swap_remove(number as usize);
        self.newest.swap_remove(number as usize);
    }

    fn finish(mut self, now: Timestamp, count: Arc<Count>, revocations: &Revocations) -> Shard {
        let mut outlived = HashMap::new();
        for number in (0..self.slab.len()).rev() {
            let slot = self.slab.slot(number);
            let (prefix, expires_at, version) = (slot.prefix, slot.expires_at(), slot.version());
            let owner = if slot.is_owned() { self.owned.owner(number) } else { None };
            if owner.is_some_and(|owner| revocations.end(&prefix, owner, version)) {
                self.remove(number);
                continue;
            }
            let older = if self.losers.is_empty() { None } else { self.outlived(&prefix, expires_at, now) };
            if let Some(older) = older {
                outlived.insert(prefix, older);
            } else if expires_at <= now {
                self.remove(number);
            }
        }
        let Self { mut slab, mut usage, owned, .. } = self;
        usage.release_tombstones(now, usize::MAX);
        slab.shrink();
        Shard::replayed(slab, usage, outlived, owned, now, count)
    }
}
