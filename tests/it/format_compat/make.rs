//! Makes the fixtures: a store in each state that one can be left in.
//!
//! It writes through the public operations alone, on a simulated disk; damage is done to the files afterwards. Invariant: what is expected of a fixture is what the
//! operations promised while it was made, not what opening it finds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::disk::sim::SimDisk;
use cloakroom::probe::{Form, places};
use cloakroom::{
    Access, Clock, Durability, Lifetime, LogStore, ManualClock, OwnerKey, SessionKey, SessionStore,
    Timestamp, Whose,
};

use super::{Fixture, line, options};
use crate::support::life::drive as run;

/// Every fixture, by the name of its folder, in order.
pub(super) const NAMES: [&str; 14] = [
    "clean",
    "damaged_footer",
    "damaged_group",
    "damaged_manifest",
    "damaged_segment",
    "everybody",
    "footers",
    "killed",
    "owned",
    "revoked",
    "rotated",
    "tombstones",
    "torn",
    "touched",
];

const START_MS: u64 = 1_800_000_000_000;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Lifetime = Lifetime::absolute(Duration::from_secs(86_400));

/// A store being made, and what it promised.
struct Maker {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    store: LogStore,
    gone: Vec<SessionKey>,
}

/// The fixture of that name.
pub(super) fn fixture(name: &str) -> Fixture {
    let mut maker = Maker::new(if name.contains("footer") { 0 } else { u32::MAX });
    match name {
        "clean" => {
            maker.lifetimes();
            maker.closed()
        }
        "damaged_footer" | "footers" => {
            maker.owners();
            maker.deletes();
            maker.revocations();
            maker.many();
            maker.closed().by_footers(name == "footers")
        }
        "damaged_group" => {
            maker.lifetimes();
            maker.killed().flipped("00000001.seg", 4_000)
        }
        "damaged_manifest" => {
            maker.lifetimes();
            maker.closed().flipped("MANIFEST", 40)
        }
        "damaged_segment" => {
            maker.lifetimes();
            maker.closed().flipped("00000001.seg", 5_000)
        }
        "everybody" => {
            maker.owners();
            maker.revoke(Whose::Everybody, Some("of bob 7"));
            maker.closed()
        }
        "killed" => {
            maker.lifetimes();
            maker.unsynced();
            maker.killed()
        }
        "owned" => {
            maker.owners();
            maker.closed()
        }
        "revoked" => {
            maker.owners();
            maker.revocations();
            maker.killed()
        }
        "rotated" => {
            maker.rotations();
            maker.closed()
        }
        "tombstones" => {
            maker.deletes();
            maker.killed()
        }
        "torn" => {
            maker.lifetimes();
            maker.torn()
        }
        "touched" => {
            maker.touches();
            maker.closed()
        }
        other => panic!("{other} is no fixture"),
    }
}

fn key(name: &str) -> SessionKey {
    SessionKey::of(name.as_bytes())
}

/// Bytes of all values, unlike those of any other length.
fn payload(len: usize) -> Bytes {
    (0..len).map(|n| (n.wrapping_mul(len | 1) >> 3).to_le_bytes()[0]).collect()
}

impl Maker {
    fn new(footers_from: u32) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(START_MS)));
        let disk = SimDisk::new(1);
        let options = cloakroom::Options { clock: clock.clone(), footers_from, ..options(0) };
        let store = LogStore::open_by_hand(Arc::new(disk.clone()), options).unwrap().at(Durability::Sync);
        Self { disk, clock, store, gone: Vec::new() }
    }

    fn create(&self, name: &str, len: usize, lifetime: Lifetime) {
        run(&self.store, self.store.create_as(key(name), payload(len), lifetime)).unwrap().unwrap();
        self.clock.advance(Duration::from_millis(1_357));
    }

    fn delete(&mut self, name: &str) {
        assert!(run(&self.store, self.store.delete(key(name))).unwrap().unwrap());
        self.gone.push(key(name));
    }

    fn settle(&self) {
        (0..10).for_each(|_| self.store.step());
    }

    /// Sessions of every kind of lifetime, and of short and long payloads; one has ended.
    fn lifetimes(&mut self) {
        self.create("idle", 300, Lifetime::idle(HOUR));
        self.create("exact", 17, Lifetime::idle(HOUR).exact());
        self.create("absolute", 2_000, DAY);
        self.create("both", 1, Lifetime::idle(HOUR).and_absolute(6 * HOUR));
        self.create("long", 0, Lifetime::idle(Duration::from_secs(68 * 365 * 86_400)));
        self.create("ended", 40, Lifetime::absolute(MINUTE));
        self.create("largest", 8 << 10, DAY);
        run(&self.store, self.store.put(key("idle"), payload(301))).unwrap().unwrap();
        run(&self.store, self.store.upsert(key("both"), payload(2), DAY)).unwrap().unwrap();
        self.clock.advance(MINUTE);
        self.gone.push(key("ended"));
        self.settle();
    }

    /// What reached the kernel, and of which no later group says that it was synced.
    fn unsynced(&mut self) {
        let late = self.store.at(Durability::Interval(HOUR));
        run(&late, late.create_as(key("late"), payload(600), DAY)).unwrap().unwrap();
        run(&late, late.put(key("exact"), payload(18))).unwrap().unwrap();
        assert!(run(&late, late.delete(key("absolute"))).unwrap().unwrap());
        self.gone.push(key("absolute"));
    }

    /// Sessions that fill segments and are deleted, so that what else is in those is rewritten.
    fn churn(&mut self, name: &str) {
        let names: Vec<_> = (0..24).map(|n| format!("{name} {n}")).collect();
        for name in &names {
            self.create(name, 6_000, DAY);
        }
        for name in &names {
            self.delete(name);
        }
        self.settle();
    }

    /// Those who were deleted, some in a segment that is compacted away while their tombstones are needed; and one whose life was shortened until it ended.
    fn deletes(&mut self) {
        self.create("early", 100, DAY);
        self.create("shortened", 100, DAY);
        let names: Vec<_> = (0..40).map(|n| format!("session {n}")).collect();
        for name in &names {
            self.create(name, 2_000, DAY);
        }
        let minute = Lifetime::absolute(MINUTE);
        assert!(run(&self.store, self.store.set_lifetime(key("shortened"), minute)).unwrap().unwrap());
        self.delete("early");
        for name in &names[..30] {
            self.delete(name);
        }
        self.clock.advance(2 * MINUTE);
        self.gone.push(key("shortened"));
        self.churn("junk");
        // One is made anew under a key whose tombstone is there, one is deleted at the very end.
        run(&self.store, self.store.create_as(key("session 3"), payload(33), DAY)).unwrap().unwrap();
        self.gone.retain(|gone| *gone != key("session 3"));
        self.delete(&names[39]);
    }

    /// Keys that were rotated away: once, twice, after a compaction, and with a touch behind.
    fn rotations(&mut self) {
        self.create("once", 500, DAY);
        self.create("twice", 501, Lifetime::idle(HOUR));
        self.create("late", 502, Lifetime::idle(HOUR));
        self.rotate(key("once"));
        let first = self.rotate(key("twice"));
        self.churn("junk");
        self.rotate(first);
        self.clock.advance(MINUTE * 20);
        let late = self.rotate(key("late"));
        self.clock.advance(MINUTE * 20);
        assert!(run(&self.store, self.store.touch(late)).unwrap().unwrap());
    }

    /// Sessions of three owners: bound, bound to another, set free, rotated, saved and copied as an owner's.
    fn owners(&mut self) {
        for (n, owner) in (0..12).zip(["ann", "bob", "cyd"].iter().cycle()) {
            let name = format!("of {owner} {n}");
            self.create(&name, 200 + n, if n < 6 { Lifetime::idle(HOUR) } else { DAY });
            self.bind(&name, Some(owner));
        }
        self.create("of nobody", 212, DAY);
        self.bind("of ann 0", Some("bob"));
        self.bind("of bob 1", None);
        self.churn("junk");
        self.rotate(key("of cyd 2"));
        run(&self.store, self.store.put(key("of ann 3"), payload(100))).unwrap().unwrap();
        run(&self.store, self.store.upsert(key("of bob 4"), payload(101), DAY)).unwrap().unwrap();
        assert!(run(&self.store, self.store.set_lifetime(key("of cyd 5"), DAY)).unwrap().unwrap());
        self.settle();
    }

    /// One owner is revoked but for one session, another as a whole, who signs in again; what ended is in part rewritten.
    fn revocations(&mut self) {
        let whose = |name: &str| Whose::Owner(OwnerKey::of(name.as_bytes()));
        self.revoke(whose("bob"), Some("of bob 10"));
        self.revoke(whose("ann"), None);
        self.churn("more junk");
        self.create("of ann, later", 300, DAY);
        self.bind("of ann, later", Some("ann"));
        self.create("of ann, again", 301, DAY);
        self.bind("of ann, again", Some("ann"));
        self.revoke(whose("ann"), Some("of ann, later"));
    }

    fn bind(&self, name: &str, owner: Option<&str>) {
        let owner = owner.map(|name| OwnerKey::of(name.as_bytes()));
        assert!(run(&self.store, self.store.bind(key(name), owner)).unwrap().unwrap());
        let stored = run(&self.store, self.store.get(key(name), Access::Peek)).unwrap().unwrap();
        assert_eq!(stored.unwrap().owner, owner);
    }

    fn revoke(&mut self, whose: Whose, spared: Option<&str>) {
        let get = |key| run(&self.store, self.store.get(key, Access::Peek)).unwrap().unwrap().unwrap();
        let keys = run(&self.store, self.store.keys(None, 1_000)).unwrap().unwrap().keys;
        let spared = spared.map(key);
        let is_theirs = |owner: Option<OwnerKey>| match whose {
            Whose::Owner(whose) => owner == Some(whose),
            Whose::Everybody => owner.is_some(),
        };
        let ends = keys.into_iter().filter(|key| is_theirs(get(*key).owner) && spared != Some(*key));
        let ends: Vec<_> = ends.collect();
        assert!(!ends.is_empty(), "nobody is there to be revoked");
        self.gone.extend(ends);
        run(&self.store, self.store.revoke(whose, spared)).unwrap().unwrap();
    }

    fn rotate(&mut self, old: SessionKey) -> SessionKey {
        let id = run(&self.store, self.store.rotate(old)).unwrap().unwrap().unwrap();
        self.gone.push(old);
        id.key()
    }

    /// Deadlines that lie elsewhere than their contents: behind them, before a copy of them, in a copy of their own.
    fn touches(&mut self) {
        for n in 0..20 {
            self.create(&format!("kept {n}"), 3_100, Lifetime::idle(HOUR));
        }
        self.clock.advance(MINUTE * 20);
        for n in 0..20 {
            let name = key(&format!("kept {n}"));
            match n % 4 {
                0 => assert!(run(&self.store, self.store.touch(name)).unwrap().unwrap()),
                1 => assert!(run(&self.store, self.store.set_lifetime(name, DAY)).unwrap().unwrap()),
                2 => {
                    run(&self.store, self.store.put(name, payload(100 + n))).unwrap().unwrap();
                }
                _ => {}
            }
        }
        self.churn("junk");
        assert!(run(&self.store, self.store.touch(key("kept 3"))).unwrap().unwrap());
    }

    /// Sessions that fill some segments, and live on.
    fn many(&mut self) {
        for n in 0..60 {
            self.create(&format!("one of many {n}"), 3_000 + n, DAY);
        }
        self.settle();
    }

    /// What is expected of the store as it is now.
    fn facts(&self) -> String {
        let page = run(&self.store, self.store.keys(None, 1_000)).unwrap().unwrap();
        assert!(page.next.is_none() && !page.keys.is_empty());
        let get = |key| run(&self.store, self.store.get(key, Access::Peek)).unwrap().unwrap().unwrap();
        let mut lines: Vec<_> = page.keys.into_iter().map(|key| line(key, &get(key))).collect();
        lines.extend(self.gone.iter().map(|key| format!("gone {key}")));
        lines.sort_unstable();
        lines.join("\n")
    }

    fn fixture(&self, ends: &str, facts: &str) -> Fixture {
        let files: BTreeMap<_, _> = self
            .disk
            .names()
            .into_iter()
            .map(|name| (name.clone(), self.disk.contents(&name).unwrap()))
            .collect();
        let lengths: Vec<_> =
            files.iter().map(|(name, bytes)| format!("file {name} {}", bytes.len())).collect();
        let clock = self.clock.wall().as_millis();
        let expected = format!("clock {clock}\n{}\n{ends}\n{facts}\n", lengths.join("\n"));
        Fixture { files, expected }
    }

    fn closed(self) -> Fixture {
        let facts = self.facts();
        run(&self.store, self.store.close()).unwrap().unwrap();
        self.fixture("opens 0", &facts)
    }

    fn killed(self) -> Fixture {
        let facts = self.facts();
        self.disk.kill();
        self.fixture("opens 0", &facts)
    }

    /// The last write got to the disk in part, the end of its record and the middle of it missing.
    fn torn(self) -> Fixture {
        let facts = self.facts();
        self.settle();
        let is_torn = key("torn");
        let late = self.store.at(Durability::Buffered);
        run(&late, late.create_as(is_torn, payload(1_500), DAY)).unwrap().unwrap();
        run(&self.store, self.store.flush()).unwrap().unwrap();
        self.disk.kill();
        let mut fixture = self.fixture("", &facts);
        let written = |bytes: &Vec<u8>| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let segments = fixture.files.iter_mut().filter(|(name, _)| name.contains(".seg"));
        let bytes = segments.map(|(_, bytes)| bytes).max_by_key(|bytes| written(bytes)).unwrap();
        let end = written(bytes);
        bytes[end - 700..end].fill(0);
        bytes[end - 1_100..end - 1_000].fill(0);
        let torn = written(bytes) - (end - 1_500 - 96 - 48);
        fixture.expected = fixture.expected.replacen("\n\n", &format!("\nopens {torn}\n"), 1);
        writeln!(fixture.expected, "gone {is_torn}").unwrap();
        fixture
    }
}

impl Fixture {
    /// It is opened by its footers; or reads all, since a bit of each of them is flipped.
    fn by_footers(mut self, whole: bool) -> Self {
        let (mut read, mut footers) = (0, 0);
        for bytes in self.files.iter_mut().filter(|(name, _)| name.contains(".seg")).map(|(_, bytes)| bytes) {
            let footer = places(bytes).into_iter().find(|(form, _)| *form == Form::Footer);
            let at = footer.map_or(bytes.len(), |(_, at)| at as usize);
            footers += usize::from(at < bytes.len());
            read += if whole && at < bytes.len() { bytes.len() - at } else { at };
            if let (Some(byte), false) = (bytes.get_mut(at + 50), whole) {
                *byte ^= 0x10;
            }
        }
        assert!(footers > 1, "{footers} segments with footers are not enough");
        writeln!(self.expected, "reads {read}").unwrap();
        self
    }

    /// With a bit of a file flipped: of a segment, the group around it is told; of a manifest, its beginning.
    fn flipped(mut self, file: &str, at: usize) -> Self {
        let bytes = self.files.get_mut(file).unwrap();
        let groups =
            places(bytes).into_iter().filter(|(form, _)| *form == Form::Group).map(|(_, offset)| offset);
        let place = groups.filter(|offset| (*offset as usize) < at).max().unwrap_or(0);
        bytes[at] ^= 0x10;
        let kept = |line: &&str| line.starts_with("clock ") || line.starts_with("file ");
        let kept: Vec<_> = self.expected.lines().filter(kept).collect();
        self.expected = format!("{}\ndamaged {file} {place}\n", kept.join("\n"));
        self
    }
}
