//! Replay against the life that wrote the records: an engine in miniature drives a shard and keeps the log; whatever order the log is read in,
//! and whatever dead records are missing from it, the index that comes out is the one that was lived with.

use proptest::sample::Index as Pick;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Record {
    Content { key: u64, address: Address, rotated: bool, seq: u64, deadline_seq: u64, deadlines: Deadlines },
    Touch { key: u64, seq: u64, segment: SegmentId, deadlines: Deadlines },
    Tombstone { key: u64, seq: u64, segment: SegmentId, hides_until: Timestamp, bytes: u32 },
}

#[derive(Clone, Debug)]
enum Deed {
    Put { key: u64, lifetime_ms: u64 },
    Touch { key: u64, lifetime_ms: u64 },
    Delete { key: u64 },
    Rotate { key: u64, to: u64 },
    Copy { key: u64 },
    Publish { key: u64 },
    CopyTouch { key: u64 },
    Pass { ms: u64 },
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
        self.index.lock(&key).get(&key).filter(|entry| entry.deadlines.is_live(at(self.now_ms)))
    }

    fn act(&mut self, deed: &Deed) {
        let (now, seq, segment) = (at(self.now_ms), self.seq, SegmentId(self.segment));
        let address = Address { segment, offset: 64, len: 300 };
        match *deed {
            Deed::Put { key, lifetime_ms } => {
                let deadlines = deadlines(at(self.now_ms + lifetime_ms));
                self.put(key, address, false, deadlines);
            }
            Deed::Touch { key: number, lifetime_ms } => {
                let Some(old) = self.live(number) else { return };
                let deadlines = deadlines(at(self.now_ms + lifetime_ms));
                self.log.push(Record::Touch { key: number, seq, segment, deadlines });
                self.deadline_seqs.insert(number, seq);
                let key = key(number);
                let touched = Entry { deadlines, touched_in: Some(segment), ..old };
                self.index.lock(&key).set(&key, touched, now);
            }
            Deed::Delete { key } => {
                if self.live(key).is_some() {
                    self.end(key, RECORD_HEADER_BYTES);
                }
            }
            Deed::Rotate { key, to } => {
                if let Some(old) = self.live(key)
                    && self.live(to).is_none()
                    && key != to
                {
                    self.end(key, ROTATE_BYTES);
                    self.put(to, address, true, old.deadlines);
                }
            }
            Deed::Copy { key: number } => {
                let Some(entry) = self.live(number) else { return };
                self.copies.insert(number, (entry, self.deadline_seqs[&number]));
            }
            Deed::Publish { key: number } => self.publish(number, address),
            // A run of compaction copies the content or the touch, and there is one run at a time.
            Deed::CopyTouch { key: number } if self.copies.contains_key(&number) => {}
            Deed::CopyTouch { key: number } => {
                let Some(old) = self.live(number) else { return };
                let Some(from) = old.touched_in else { return };
                let (deadlines, seq) = (old.deadlines, self.deadline_seqs[&number]);
                self.log.push(Record::Touch { key: number, seq, segment, deadlines });
                let key = key(number);
                assert!(self.index.lock(&key).publish_touch(&key, from, segment, deadlines));
            }
            Deed::Pass { ms } => self.now_ms += ms,
        }
    }

    fn put(&mut self, number: u64, address: Address, rotated: bool, deadlines: Deadlines) {
        let seq = self.seq;
        self.log.push(Record::Content { key: number, address, rotated, seq, deadline_seq: seq, deadlines });
        self.deadline_seqs.insert(number, seq);
        let (key, version) = (key(number), Seq(seq));
        let entry = Entry { address, rotated, version, deadlines, created_s: 0, touched_in: None };
        self.index.lock(&key).set(&key, entry, at(self.now_ms));
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
        let (seq, rotated) = (version.0, false);
        self.log.push(Record::Content { key: number, address: to, rotated, seq, deadline_seq, deadlines });
        let key = key(number);
        let mut shard = self.index.lock(&key);
        let same_content = shard.get(&key).is_some_and(|entry| entry.version == version);
        assert_eq!(shard.publish(&key, &entry, to), same_content);
    }

    /// What the background does: ends what is due and writes tombstones where an older version lives on.
    fn sweep(&mut self) {
        for shard in 0..Index::SHARDS {
            let expired = self.index.lock_shard(shard).expire(at(self.now_ms), 1_000);
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
            Record::Touch { segment, .. } | Record::Tombstone { segment, .. } => *segment,
        };
        self.index.live_bytes().contains_key(&segment)
    }

    fn replay<'a>(&self, log: impl IntoIterator<Item = &'a Record>) -> Index {
        let now = at(self.now_ms);
        let replay = Replay::new(now);
        for record in log {
            match *record {
                Record::Content { key: number, address, rotated, seq, deadline_seq, deadlines } => {
                    let version = Seq(seq);
                    let entry =
                        Entry { address, rotated, version, deadlines, created_s: 0, touched_in: None };
                    replay.content(&key(number), entry, Seq(deadline_seq));
                }
                Record::Touch { key: number, seq, segment, deadlines } => {
                    replay.touch(&key(number), Seq(seq), segment, deadlines);
                }
                Record::Tombstone { key: number, seq, segment, hides_until, bytes } => {
                    replay.tombstone(&key(number), Seq(seq), segment, hides_until, bytes);
                }
            }
        }
        let index = replay.finish(now);
        (0..Index::SHARDS).for_each(|shard| check(&index.lock_shard(shard)));
        index
    }
}

/// All that an index says of the keys that live.
fn said(life: &Life, index: &Index) -> Vec<(u64, Entry, Timestamp)> {
    let of = |number| {
        let shard = index.lock(&key(number));
        let entry = shard.get(&key(number)).filter(|entry| entry.deadlines.is_live(at(life.now_ms)))?;
        Some((number, entry, shard.hides_until(&key(number))))
    };
    (0..6).filter_map(of).collect()
}

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
        let expected = said(&life, &life.index);
        prop_assert_eq!(&said(&life, &life.replay(&log)), &expected);
        log.reverse();
        prop_assert_eq!(&said(&life, &life.replay(&log)), &expected);
        shuffled(&mut log, &picks);
        prop_assert_eq!(&said(&life, &life.replay(&log)), &expected);
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
        let entries = |said: Vec<(u64, Entry, Timestamp)>| -> Vec<_> { said.into_iter().map(|(n, e, _)| (n, e)).collect() };
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
    let content = |segment, version, deadlines| Entry {
        address: Address { segment: SegmentId(segment), offset: 64, len: 300 },
        rotated: false,
        version: Seq(version),
        deadlines,
        created_s: 0,
        touched_in: None,
    };
    replay.content(&key(1), content(2, 2, deadlines(at(1_000))), Seq(2));
    replay.content(&key(1), content(1, 1, deadlines(at(90_000))), Seq(1));
    replay.content(&key(2), content(2, 3, deadlines(at(1_000))), Seq(3));
    let index = replay.finish(at(5_000));
    assert_eq!(index.len(), 1);
    let expired = index.lock(&key(1)).expire(at(6_000), 10);
    assert_eq!(expired.outlived.len(), 1);
    let (key_out, entry, hides_until) = expired.outlived[0];
    assert_eq!((key_out, entry.version, hides_until), (key(1), Seq(2), at(90_000)));
}

#[test]
fn tombstone_counts_only_while_it_hides_something() {
    let replay = Replay::new(at(1_000));
    replay.tombstone(&key(1), Seq(1), SegmentId(1), at(1_000), 96);
    replay.tombstone(&key(2), Seq(2), SegmentId(2), at(1_001), 40);
    assert_eq!(replay.finish(at(1_000)).live_bytes(), HashMap::from([(SegmentId(2), 40)]));
}
