//! Files whose checksums hold and whose numbers no store writes.
//!
//! Goal: what stands behind the checksums is checked too, so that whoever made such a file gets an error that names the place, and no overflow,
//! no session and no change of the folder. Method: a field of a closed store's file is changed, and every checksum above it made to hold again.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::disk::sim::SimDisk;
use cloakroom::probe::{Form, mend, places};
use cloakroom::{
    Access, Clock, Lifetime, LogStore, ManualClock, OpenError, Options, OwnerKey, SessionKey, SessionStore,
    Timestamp, Whose,
};

use crate::support::life::drive as run;

/// A segment in a manifest: id, kind, salt, capacity, and length and checksum if it is sealed.
type Listed = (u32, u32, u64, u32, Option<(u32, u32)>);

/// A manifest: store, mark, doubt, next segment, next number, segments, with what is durable of the stream before them.
type Listing = ([u8; 16], u64, u64, u32, u64, u64, Vec<Listed>);

/// A change of a manifest.
type Lie = fn(&mut Listing);

const SEGMENT: &str = "00000001.seg";

const PUT: u8 = 1;
const TOUCH: u8 = 2;
const DELETE: u8 = 3;
const ROTATE: u8 = 4;
const REVOKE: u8 = 5;

fn options() -> Options {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    Options {
        segment_bytes: 64 << 10,
        payload_bytes_max: 4_096,
        clock: clock as Arc<dyn Clock>,
        ..Options::default()
    }
}

/// A closed store with a record of each kind in one segment.
fn closed() -> SimDisk {
    let disk = SimDisk::new(1);
    let store = LogStore::open_by_hand(Arc::new(disk.clone()), options()).unwrap();
    let (hour, day) = (Duration::from_secs(3_600), Duration::from_secs(86_400));
    for n in 0..3_u8 {
        run(&store, store.create_as(SessionKey::of(&[n]), vec![n; 100].into(), Lifetime::idle(hour)))
            .unwrap()
            .unwrap();
    }
    assert!(run(&store, store.set_lifetime(SessionKey::of(&[0]), Lifetime::idle(day))).unwrap().unwrap());
    assert!(run(&store, store.delete(SessionKey::of(&[1]))).unwrap().unwrap());
    assert!(run(&store, store.rotate(SessionKey::of(&[2]))).unwrap().unwrap().is_some());
    // What a revocation hides is as long as anybody who is owned may last.
    assert!(run(&store, store.bind(SessionKey::of(&[0]), Some(OwnerKey::of(b"ann")))).unwrap().unwrap());
    run(&store, store.revoke(Whose::Owner(OwnerKey::of(b"nobody")), None)).unwrap().unwrap();
    run(&store, store.close()).unwrap().unwrap();
    disk
}

/// Opens it: where the damage is, and that the files are as they were.
fn refused(disk: &SimDisk) -> Option<(String, u64)> {
    let contents = |disk: &SimDisk| disk.names().iter().map(|name| disk.contents(name)).collect::<Vec<_>>();
    let before = contents(disk);
    match LogStore::open_by_hand(Arc::new(disk.clone()), options()) {
        Ok(_) => None,
        Err(OpenError::Damaged { file, offset, .. }) => {
            assert!(contents(disk) == before, "the files were changed");
            Some((file, offset))
        }
        Err(other) => panic!("{other}"),
    }
}

/// What an open refuses, a verify tells, and a salvage leaves a store that opens.
fn is_repaired(disk: &SimDisk, lie: &str) {
    let (shared, options) = (|| Arc::new(disk.clone()), options());
    assert!(!LogStore::verify_on(shared(), options.clone()).unwrap().is_sound(), "{lie}");
    LogStore::salvage_on(shared(), options.clone()).unwrap();
    assert!(LogStore::verify_on(shared(), options).unwrap().is_sound(), "{lie}");
    assert_eq!(refused(disk), None, "{lie}");
}

fn listing(disk: &SimDisk) -> Listing {
    postcard::from_bytes(&disk.contents("MANIFEST").unwrap()[24..]).unwrap()
}

fn relist(disk: &SimDisk, listing: &Listing) {
    let body = postcard::to_stdvec(listing).unwrap();
    let mut bytes = [&b"CLOAKMAN\x01\0\0\0............"[..], &body].concat();
    mend(Form::Manifest, &mut bytes, 0);
    disk.set_contents("MANIFEST", &bytes);
}

#[test]
fn manifest_with_a_number_that_no_store_writes_is_refused() {
    assert_eq!(refused(&closed()), None, "what is forged here opens as it is");
    let last = Timestamp::MAX.as_millis();
    let lies: [(&str, Lie); 12] = [
        ("the next segment is the last that can be", |l| l.3 = u32::MAX),
        ("there is no next segment", |l| l.3 = 0),
        ("the next number is the last that can be", |l| l.4 = u64::MAX),
        ("the next number is of no use", |l| l.4 = 1 << 63),
        ("there is no next number", |l| l.4 = 0),
        ("more is durable than there are segments", |l| l.5 = u64::from(l.3) << 32),
        ("the mark is no time", |l| l.1 = Timestamp::MAX.as_millis() + 1),
        ("the doubt is no time", |l| l.2 = u64::MAX),
        ("a segment has no room for its header", |l| l.6[0].3 = 63),
        ("a sealed length has none either", |l| l.6[0].4 = Some((63, 0))),
        ("a segment has the first id that is not given", |l| l.6[0].0 = l.3),
        ("a segment has no id", |l| l.6[0].0 = 0),
    ];
    for (lie, change) in lies {
        let disk = closed();
        let mut listing = listing(&disk);
        change(&mut listing);
        relist(&disk, &listing);
        assert_eq!(refused(&disk), Some(("MANIFEST".into(), 0)), "{lie}");
        is_repaired(&disk, lie);
    }
    // A byte behind its end, and a last number that is written longer than it need be.
    for longer in [0, 0x80] {
        let disk = closed();
        let mut listing = listing(&disk);
        // Behind the list of segments nothing follows, so its last number is the last byte.
        listing.6.clear();
        relist(&disk, &listing);
        let mut bytes = disk.contents("MANIFEST").unwrap();
        *bytes.last_mut().unwrap() |= longer;
        bytes.push(0);
        mend(Form::Manifest, &mut bytes, 0);
        disk.set_contents("MANIFEST", &bytes);
        assert_eq!(refused(&disk), Some(("MANIFEST".into(), 0)), "{longer}");
    }
    // Not so high that it cannot be.
    let disk = closed();
    let mut listing = listing(&disk);
    listing.1 = last;
    relist(&disk, &listing);
    assert_eq!(refused(&disk), None);
}

/// Every part of the segment has a checksum that holds, and the manifest knows another one of the whole.
#[test]
fn sealed_segment_that_is_another_than_the_manifest_says_is_refused() {
    let disk = closed();
    let mut listing = listing(&disk);
    let seal = listing.6.iter_mut().find(|listed| listed.0 == 1).unwrap().4.as_mut().unwrap();
    seal.1 ^= 1;
    let end = seal.0;
    relist(&disk, &listing);
    assert_eq!(refused(&disk), Some((SEGMENT.into(), end.into())));
}

/// Changes the record of that kind at an offset in it; gives the place of its group too.
fn with_changed(kind: u8, at: usize, number: &[u8]) -> (SimDisk, u32) {
    let disk = closed();
    let mut bytes = disk.contents(SEGMENT).unwrap();
    let all = places(&bytes);
    let record = |place: &&(Form, u32)| place.0 == Form::Record && bytes[place.1 as usize] == kind;
    let (_, offset) = *all.iter().find(record).unwrap();
    let group = all.iter().rev().find(|(form, at)| *form == Form::Group && *at < offset).unwrap().1;
    let at = offset as usize + at;
    bytes[at..at + number.len()].copy_from_slice(number);
    mend(Form::Record, &mut bytes, offset);
    disk.set_contents(SEGMENT, &bytes);
    let mut listing = listing(&disk);
    for sealed in listing.6.iter_mut().filter(|listed| listed.0 == 1) {
        sealed.4 = Some((u32::try_from(bytes.len()).unwrap(), crc32fast::hash(&bytes)));
    }
    relist(&disk, &listing);
    (disk, group)
}

/// The same, opened.
fn with_record(kind: u8, at: usize, number: &[u8]) -> Option<(String, u64)> {
    let (disk, group) = with_changed(kind, at, number);
    let refused = refused(&disk)?;
    assert_eq!(refused, (SEGMENT.into(), group.into()), "it names its group");
    Some(refused)
}

#[test]
fn record_with_a_number_that_no_store_writes_is_refused() {
    let most = u64::MAX.to_le_bytes();
    let never = (Timestamp::MAX.as_millis() + 1).to_le_bytes();
    for kind in [PUT, TOUCH, DELETE, ROTATE, REVOKE] {
        assert_eq!(with_record(kind, 1, &[]), None, "a record of kind {kind} is read as it is");
        assert!(with_record(kind, 16, &most).is_some(), "kind {kind}: the number of its deadline");
        assert!(
            with_record(kind, 16, &(1_u64 << 63).to_le_bytes()).is_some(),
            "kind {kind}: the first that is none"
        );
        assert!(with_record(kind, 8, &[0; 8]).is_some(), "kind {kind}: no number");
        assert!(with_record(kind, 64, &most).is_some(), "kind {kind}: it ends after all times");
        assert!(with_record(kind, 72, &never).is_some(), "kind {kind}: it ends at no time");
        assert!(with_record(kind, 80, &most).is_some(), "kind {kind}: its idle period");
        assert!(with_record(kind, 3, &[1]).is_some(), "kind {kind}: a byte that is zero");
        assert!(with_record(kind, 0, &[6]).is_some(), "kind {kind}: another kind");
    }
    assert!(with_record(ROTATE, 96 + 32, &never).is_some(), "what a rotation hides ends at no time");
}

#[test]
fn part_that_a_kind_of_record_does_not_have_is_zero() {
    for kind in [TOUCH, DELETE, REVOKE] {
        assert!(with_record(kind, 56, &[1]).is_some(), "kind {kind}: a time of creation");
        assert!(with_record(kind, 2, &[1]).is_some(), "kind {kind}: a label");
    }
    for (kind, flags) in [(PUT, [4, 8, 16]), (TOUCH, [2, 4, 8]), (DELETE, [1, 2, 4]), (REVOKE, [1, 2, 8])] {
        for flag in flags {
            assert!(with_record(kind, 1, &[flag]).is_some(), "kind {kind}: flag {flag}");
        }
    }
    for kind in [DELETE, REVOKE] {
        assert!(with_record(kind, 80, &[1]).is_some(), "kind {kind}: an idle period");
        assert!(with_record(kind, 72, &[0; 8]).is_some(), "kind {kind}: it ends before what it hides");
    }
    assert!(with_record(REVOKE, 24 + 16, &[1]).is_some(), "an owner of more than 16 bytes");
    assert!(with_record(REVOKE, 1, &[4]).is_some(), "everybody, and an owner");
}

/// What a watermark says was on the device ends with a group, if a store has written it. One that ends inside of a group is no reason to seal there.
#[test]
fn watermark_inside_of_a_group_leaves_a_store_that_opens_again_with_everybody() {
    let disk = SimDisk::new(1);
    let store = LogStore::open_by_hand(Arc::new(disk.clone()), options()).unwrap();
    let create = |store: &LogStore, n: u8| {
        let lifetime = Lifetime::idle(Duration::from_secs(3_600));
        run(store, store.create_as(SessionKey::of(&[n]), vec![n; 100].into(), lifetime)).unwrap().unwrap();
        run(store, store.flush()).unwrap().unwrap();
    };
    (0..4).for_each(|n| create(&store, n));
    (0..5).for_each(|_| store.step());
    disk.crash();
    drop(store);
    let whole = disk.contents(SEGMENT).unwrap();
    let groups: Vec<_> = places(&whole).into_iter().filter(|place| place.0 == Form::Group).collect();
    assert!(groups.len() > 4);
    for (_, at) in &groups {
        for claimed in (64..at + 48).step_by(4) {
            let disk = disk.copy(1);
            let mut bytes = whole.clone();
            bytes[*at as usize + 20..*at as usize + 24].copy_from_slice(&claimed.to_le_bytes());
            bytes[*at as usize + 16..*at as usize + 20].copy_from_slice(&1_u32.to_le_bytes());
            mend(Form::Group, &mut bytes, *at);
            disk.set_contents(SEGMENT, &bytes);
            for time in ["first", "second"] {
                let store = LogStore::open_by_hand(Arc::new(disk.clone()), options())
                    .unwrap_or_else(|e| panic!("the {time} open, {claimed} claimed at {at}: {e}"));
                for n in 0..4 {
                    let found = run(&store, store.get(SessionKey::of(&[n]), Access::Peek)).unwrap().unwrap();
                    assert!(found.is_some(), "session {n}, {claimed} claimed at {at}");
                }
                run(&store, store.close()).unwrap().unwrap();
            }
        }
    }
}

/// Each could be written, and is such that the next ones might be none.
#[test]
fn record_with_a_number_that_no_store_gets_to_is_told_and_repaired() {
    for kind in [PUT, TOUCH, DELETE, ROTATE, REVOKE] {
        let (disk, _) = with_changed(kind, 16, &((1_u64 << 62) + 1).to_le_bytes());
        assert_eq!(refused(&disk), Some(("MANIFEST".into(), 0)), "kind {kind}");
        is_repaired(&disk, "the number of a record");
    }
}
