//! Replay against the life that wrote the records: an engine in miniature drives a shard and keeps the log; whatever order the log is read in,
//! and whatever dead records are missing from it, the index that comes out is the one that was lived with.

use proptest::sample::Index as Pick;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Record {
    Content {
        key: u64,
        address: Address,
        rotated: bool,
        owner: Option<OwnerKey>,
        seq: u64,
        deadline_seq: u64,
        deadlines: Deadlines,
    },
    Revocation {
        revocation: Revocation,
        segment: SegmentId,
        hides_until: Timestamp,
    },
    Touch {
        key: u64,
        of: Seq,
        seq: u64,
        segment: SegmentId,
        deadlines: Deadlines,
    },
    Tombstone {
        key: u64,
        seq: u64,
        segment: SegmentId,
        hides_until: Timestamp,
        bytes: u32,
    },
}

#[derive(Clone, Debug)]
enum Deed {
    Put {
        key: u64,
        lifetime_ms: u64,
    },
    Touch {
        key: u64,
        lifetime_ms: u64,
    },
    Delete {
        key: u64,
    },
    Rotate {
        key: u64,
        to: u64,
    },
    /// Owner 0 is nobody.
    Bind {
        key: u64,
        owner: u8,
    },
    /// Owner 0 is everybody.
    Revoke {
        owner: u8,
        spared: Option<u64>,
    },
    Copy {
        key: u64,
    },
    Publish {
        key: u64,
    },
    CopyTouch {
        key: u64,
    },
    Pass {
        ms: u64,
    },
}

fn deed() -> impl Strategy<Value = Deed> {
    let key = || 0..6_u64;
    // So few that a deadline is given again and again.
    let lifetime_ms = || (1..20_u64).prop_map(|s| s * 1_000);
    prop_oneof![
        4 => (key(), lifetime_ms()).prop_map(|(key, lifetime_ms)| Deed::Put { key, lifetime_ms }),
        4 => (key(), lifetime_ms()).prop_map(|(key, lifetime_ms)| Deed::Touch { key, lifetime_ms }),
        1 => key().prop_map(|key| Deed::Delete { key }),
        1 => (key(), key()).prop_map(|(key, to)| Deed::Rotate { key, to }),
        2 => (key(), 0..3_u8).prop_map(|(key, owner)| Deed::Bind { key, owner }),
        1 => (0..3_u8, prop::option::of(key())).prop_map(|(owner, spared)| Deed::Revoke { owner, spared }),
        2 => key().prop_map(|key| Deed::Copy { key }),
        2 => key().prop_map(|key| Deed::Publish { key }),
        1 => key().prop_map(|key| Deed::CopyTouch { key }),
        2 => (0..3_u64).prop_map(|s| Deed::Pass { ms: s * 1_000 }),
    ]
}

/// The engine in miniature. Every record gets a segment of its own, so that live bytes say of each whether it is needed.
struct Life {
    index: Index,
    log: Vec<Record>,
    /// The number of the newest deadline of each key: what a record on disk would say.
    deadline_seqs: HashMap<u64, u64>,
    /// Compaction under way: what it read of each key, and the number of the deadline.
    copies: HashMap<u64, (Entry, u64)>,
    copied_owners: HashMap<u64, Option<OwnerKey>>,
    now_ms: u64,
    seq: u64,
    segment: u32,
}

impl Life {
    fn lived(deeds: &[Deed]) -> Self {
        let mut life = Self {
            index: Index::new(),
            log: Vec::new(),
            deadline_seqs: HashMap::new(),
            copies: HashMap::new(),
            copied_owners: HashMap::new(),
            now_ms: 0,
            seq: 0,
            segment: 0,
        };
        for deed in deeds {
            life.seq += 1;
            life.segment += 1;
            life.act(deed);
            life.sweep();
        }
        life
    }

    fn live(&self, number: u64) -> Option<Entry> {
        let key = key(number);
        self.index.standing(&self.index.lock(&key), &key).live(at(self.now_ms))
    }

    fn owner(&self, number: u64) -> Option<OwnerKey> {
        self.live(number)?;
        self.index.lock(&key(number)).owner(&key(number))
    }

    fn act(&mut self, deed: &Deed) {
        let (now, seq, segment) = (at(self.now_ms), self.seq, SegmentId(self.segment));
        let address = Address { segment, offset: 64, len: 300 };
        match *deed {
            Deed::Put { key, lifetime_ms } => {
                let deadlines = deadlines(at(self.now_ms + lifetime_ms));
                self.put(key, address, false, self.owner(key), deadlines);
            }
            Deed::Touch { key: number, lifetime_ms } => {
                let Some(old) = self.live(number) else { return };
                let deadlines = deadlines(at(self.now_ms + lifetime_ms));
                self.log.push(Record::Touch { key: number, of: old.version, seq, segment, deadlines });
                self.deadline_seqs.insert(number, seq);
                let key = key(number);
                let mut shard = self.index.lock(&key);
                self.index.standing(&shard, &key).promise(deadlines.expires_at);
                assert!(old.deadlines.is_live(now));
                shard.touch(&key, deadlines, segment, now);
            }
            Deed::Delete { key } => {
                if self.live(key).is_some() {
                    self.end(key, RECORD_HEADER_BYTES);
                }
            }
            Deed::Rotate { key, to } => {
                // To a key that is drawn, so that nobody is there, nor anybody who has ended and is not swept yet.
                if let Some(old) = self.live(key)
                    && self.index.lock(&super::key(to)).get(&super::key(to)).is_none()
                {
                    let owner = self.owner(key);
                    self.end(key, ROTATE_BYTES);
                    self.put(to, address, true, owner, old.deadlines);
                }
            }
            Deed::Bind { key, owner } => {
                let Some(old) = self.live(key) else { return };
                self.end(key, ROTATE_BYTES);
                self.put(key, address, true, (owner > 0).then(|| OwnerKey::of(&[owner])), old.deadlines);
            }
            Deed::Revoke { owner, spared } => {
                let (owner, spared) = ((owner > 0).then(|| OwnerKey::of(&[owner])), spared.map(key));
                let mut shard = self.index.lock(&key(0));
                let mut revoking = self.index.revoke();
                let hides_until = revoking.revocations.hides_until();
                let revocation = Revocation { owner, seq: Seq(seq), spared };
                revoking.add(revocation);
                drop(revoking);
                shard.add_tombstone(segment, hides_until, 96);
                self.log.push(Record::Revocation { revocation, segment, hides_until });
            }
            Deed::Copy { key: number } => {
                let Some(entry) = self.live(number) else { return };
                self.copied_owners.insert(number, self.owner(number));
                self.copies.insert(number, (entry, self.deadline_seqs[&number]));
            }
            Deed::Publish { key: number } => self.publish(number, address),
            // A run of compaction copies the content or the touch, and there is one run at a time.
            Deed::CopyTouch { key: number } if self.copies.contains_key(&number) => {}
            Deed::CopyTouch { key: number } => {
                let Some(old) = self.live(number) else { return };
                let Some(from) = old.touched_in else { return };
                let (deadlines, seq) = (old.deadlines, self.deadline_seqs[&number]);
                self.log.push(Record::Touch { key: number, of: old.version, seq, segment, deadlines });
                let key = key(number);
                assert!(self.index.lock(&key).publish_touch(&key, from, segment, deadlines));
            }
            Deed::Pass { ms } => self.now_ms += ms,
        }
    }

    fn put(
        &mut self,
        number: u64,
        address: Address,
        rotated: bool,
        owner: Option<OwnerKey>,
        deadlines: Deadlines,
    ) {
        let (seq, deadline_seq) = (self.seq, self.seq);
        self.log.push(Record::Content { key: number, address, rotated, owner, seq, deadline_seq, deadlines });
        self.deadline_seqs.insert(number, seq);
        if owner.is_some() {
            self.index.revocations().promise(deadlines.expires_at);
        }
        let key = key(number);
        self.index.lock(&key).set(
            &key,
            content(address, rotated, owner, seq, deadlines),
            owner,
            at(self.now_ms),
        );
    }

    fn end(&mut self, number: u64, bytes: u32) {
        let (key, segment, seq) = (key(number), SegmentId(self.segment), self.seq);
        let mut shard = self.index.lock(&key);
        let hides_until = shard.hides_until(&key);
        shard.add_tombstone(segment, hides_until, bytes);
        shard.remove(&key);
        self.log.push(Record::Tombstone { key: number, seq, segment, hides_until, bytes });
    }

    /// The copy of a content lands where it was read some time ago; much may have happened since.
    fn publish(&mut self, number: u64, to: Address) {
        let Some((entry, deadline_seq)) = self.copies.remove(&number) else { return };
        let Entry { version, deadlines, .. } = entry;
        let (seq, rotated, address) = (version.0, false, to);
        let owner = self.copied_owners.remove(&number).flatten();
        self.log.push(Record::Content { key: number, address, rotated, owner, seq, deadline_seq, deadlines });
        let key = key(number);
        let mut shard = self.index.lock(&key);
        let same_content = shard.get(&key).is_some_and(|entry| entry.version == version);
        assert_eq!(shard.publish(&key, &entry, to), same_content);
    }

    /// What the background does: ends what is due and writes tombstones where an older version lives on.
    fn sweep(&mut self) {
        if let Some(upto) = self.index.revoked_last() {
            for shard in 0..Index::SHARDS {
                let mut left = u32::MAX;
                while left > 0 {
                    let mut locked = self.index.lock_shard(shard);
                    let after = self.index.sweep_revoked(&mut locked, left, 2, false).left;
                    assert!(after < left);
                    left = after;
                }
            }
            self.index.revoked(upto);
        }
        for shard in 0..Index::SHARDS {
            let expired = self.index.lock_shard(shard).expire(at(self.now_ms), 1_000, false);
            assert!(!expired.more);
            for (key_out, _, _) in expired.outlived {
                self.seq += 1;
                self.segment += 1;
                let number = (0..6).find(|number| key(*number) == key_out).unwrap();
                self.end(number, RECORD_HEADER_BYTES);
            }
        }
    }

    /// Whether any byte of a record is live.
    fn needs(&self, record: &Record) -> bool {
        let segment = match record {
            Record::Content { address, .. } => address.segment,
            Record::Touch { segment, .. }
            | Record::Tombstone { segment, .. }
            | Record::Revocation { segment, .. } => *segment,
        };
        self.index.live_bytes().contains_key(&segment)
    }

    fn replay<'a>(&self, log: impl IntoIterator<Item = &'a Record>) -> Index {
        let now = at(self.now_ms);
        let replay = Replay::new(now);
        let mut gathered = replay.gather();
        for record in log {
            match *record {
                Record::Content { key: number, address, rotated, owner, seq, deadline_seq, deadlines } => {
                    let entry = content(address, rotated, owner, seq, deadlines);
                    gathered.content(&key(number), Content { entry, owner, deadline_seq: Seq(deadline_seq) });
                }
                Record::Revocation { revocation, segment, hides_until } => {
                    replay.revocation(&key(0), revocation, segment, hides_until, 96);
                }
                Record::Touch { key: number, of, seq, segment, deadlines } => {
                    replay.touch(&key(number), of, Seq(seq), segment, deadlines);
                }
                Record::Tombstone { key: number, seq, segment, hides_until, bytes } => {
                    replay.tombstone(&key(number), Seq(seq), segment, hides_until, bytes);
                }
            }
        }
        drop(gathered);
        let index = replay.finish(now, 1);
        (0..Index::SHARDS).for_each(|shard| check(&index.lock_shard(shard)));
        index
    }
}

fn content(
    address: Address,
    rotated: bool,
    owner: Option<OwnerKey>,
    seq: u64,
    deadlines: Deadlines,
) -> Entry {
    Entry {
        labelled: false,
        address,
        rotated,
        owned: owner.is_some(),
        version: Seq(seq),
        deadlines,
        created_s: 0,
        touched_in: None,
    }
}

/// All that an index says of the keys that live.
fn said(life: &Life, index: &Index) -> Vec<(u64, Said, Timestamp)> {
    let of = |number| {
        let shard = index.lock(&key(number));
        let standing = index.standing(&shard, &key(number));
        let said = (standing.live(at(life.now_ms))?, standing.owner);
        Some((number, said, shard.hides_until(&key(number))))
    };
    (0..6).filter_map(of).collect()
}

/// What is known of a session, and whose it is.
type Said = (Entry, Option<OwnerKey>);

fn shuffled<T>(items: &mut [T], picks: &[Pick]) {
    for (to, pick) in (1..items.len()).zip(picks.iter().cycle()) {
        items.swap(to, pick.index(to + 1));
    }
}

proptest! {
    #[test]
    fn records_in_any_order_give_the_index_that_wrote_them(
        deeds in prop::collection::vec(deed(), 1..60),
        picks in prop::collection::vec(any::<Pick>(), 60),
    ) {
        let life = Life::lived(&deeds);
        let mut log = life.log.clone();
        let in_order = said(&life, &life.replay(&log));
        let revoked = deeds.iter().any(|deed| matches!(deed, Deed::Revoke { .. }));
        let lived = said(&life, &life.index);
        prop_assert_eq!(in_order.len(), lived.len());
        for (found, expected) in in_order.iter().zip(&lived) {
            prop_assert_eq!((found.0, found.1), (expected.0, expected.1));
            // Of a version that was revoked, replay does not know that it needs no tombstone: one too many does no harm.
            prop_assert!(found.2 == expected.2 || revoked && found.2 > expected.2);
        }
        log.reverse();
        prop_assert_eq!(&said(&life, &life.replay(&log)), &in_order);
        shuffled(&mut log, &picks);
        prop_assert_eq!(&said(&life, &life.replay(&log)), &in_order);
    }

    #[test]
    fn no_dead_record_is_missed_and_nobody_who_ended_comes_back_later(
        deeds in prop::collection::vec(deed(), 1..60),
        dropped in prop::collection::vec(any::<bool>(), 120),
        later_ms in 0..20_000_u64,
    ) {
        let mut life = Life::lived(&deeds);
        let kept = |life: &Life| -> Vec<Record> {
            let gone = |(record, dropped): &(&Record, &bool)| **dropped && !life.needs(record);
            life.log.iter().zip(dropped.iter().cycle()).filter(|pair| !gone(pair)).map(|(record, _)| *record).collect()
        };
        let entries = |said: Vec<(u64, Said, Timestamp)>| -> Vec<_> { said.into_iter().map(|(n, e, _)| (n, e)).collect() };
        let expected = entries(said(&life, &life.index));
        let left = kept(&life);
        prop_assert_eq!(&entries(said(&life, &life.replay(&left))), &expected);
        // Some time later, after more has ended and been swept.
        life.log = left;
        life.now_ms += later_ms;
        life.sweep();
        let expected = entries(said(&life, &life.index));
        let left = kept(&life);
        prop_assert_eq!(&entries(said(&life, &life.replay(&left))), &expected);
    }
}

#[test]
fn ended_session_with_an_older_version_on_disk_stays_until_it_has_its_tombstone() {
    let replay = Replay::new(at(0));
    let put = |number, segment, version, expires_ms| {
        let address = Address { segment: SegmentId(segment), offset: 64, len: 300 };
        let entry = content(address, false, None, version, deadlines(at(expires_ms)));
        replay.gather().content(&key(number), Content { entry, owner: None, deadline_seq: Seq(version) });
    };
    put(1, 2, 2, 1_000);
    put(1, 1, 1, 90_000);
    put(2, 2, 3, 1_000);
    let index = replay.finish(at(5_000), 1);
    assert_eq!(index.len(), 1);
    let expired = index.lock(&key(1)).expire(at(6_000), 10, false);
    assert_eq!(expired.outlived.len(), 1);
    let (key_out, entry, hides_until) = expired.outlived[0];
    assert_eq!((key_out, entry.version, hides_until), (key(1), Seq(2), at(90_000)));
}

#[test]
fn tombstone_counts_only_while_it_hides_something() {
    let replay = Replay::new(at(1_000));
    replay.tombstone(&key(1), Seq(1), SegmentId(1), at(1_000), 96);
    replay.tombstone(&key(2), Seq(2), SegmentId(2), at(1_001), 40);
    assert_eq!(replay.finish(at(1_000), 1).live_bytes(), HashMap::from([(SegmentId(2), 40)]));
}

/// What is left of a session may be a version from before it was bound: a touch of a later one, which was dropped, does not make that live on.
#[test]
fn touch_of_a_content_that_is_gone_moves_no_older_one() {
    for touch_first in [false, true] {
        let replay = Replay::new(at(0));
        let put = || {
            let address = Address { segment: SegmentId(1), offset: 64, len: 300 };
            let entry = content(address, false, None, 1, deadlines(at(1_000)));
            replay.gather().content(&key(1), Content { entry, owner: None, deadline_seq: Seq(1) });
        };
        let touch = || replay.touch(&key(1), Seq(5), Seq(6), SegmentId(2), deadlines(at(90_000)));
        if touch_first {
            touch();
            put();
        } else {
            put();
            touch();
        }
        let index = replay.finish(at(0), 1);
        assert_eq!(index.lock(&key(1)).get(&key(1)).unwrap().deadlines.expires_at, at(1_000));
    }
}
