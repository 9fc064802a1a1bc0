//! What can happen to the files of a store.
//!
//! Plain data and what it does; nothing is judged here. Invariant: a strike changes a disk, or says that it did not.

use cloakroom::disk::{Disk as _, sim::SimDisk};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

/// One damage to one file, or to two.
#[derive(Clone, Debug)]
pub enum Strike {
    Flip {
        file: String,
        at: u64,
        bit: u8,
    },
    Cut {
        file: String,
        len: usize,
    },
    Zero {
        file: String,
        at: usize,
        len: usize,
    },
    /// A block is written over another, in the same file or a second one.
    Copy {
        from: String,
        at: usize,
        to: String,
        onto: usize,
        len: usize,
    },
    Swap {
        a: String,
        at: usize,
        b: String,
        with: usize,
        len: usize,
    },
    /// Bytes are behind its end, zeros or others.
    Grow {
        file: String,
        by: usize,
        with: u8,
    },
    Delete {
        file: String,
    },
    /// The file of that name of another store stands in its place.
    Foreign {
        file: String,
    },
}

impl Strike {
    /// Does it; whether it changed anything.
    pub fn fall_on(&self, disk: &SimDisk, other: &SimDisk) -> bool {
        let read = |name: &str| disk.contents(name).unwrap();
        let before = disk.names().iter().map(|name| read(name)).collect::<Vec<_>>();
        match self {
            Self::Flip { file, at, bit } => disk.flip_bit(file, *at, *bit).unwrap(),
            Self::Cut { file, len } => disk.set_contents(file, &read(file)[..*len]),
            Self::Zero { file, at, len } => {
                let mut bytes = read(file);
                bytes[*at..].iter_mut().take(*len).for_each(|byte| *byte = 0);
                disk.set_contents(file, &bytes);
            }
            Self::Copy { from, at, to, onto, len } => {
                let block: Vec<u8> = read(from)[*at..].iter().take(*len).copied().collect();
                let mut bytes = read(to);
                bytes[*onto..].iter_mut().zip(block).for_each(|(byte, new)| *byte = new);
                disk.set_contents(to, &bytes);
            }
            Self::Swap { a, at, b, with, len } => {
                let (first, second) = (read(a), read(b));
                let back = Self::Copy { from: b.clone(), at: *with, to: a.clone(), onto: *at, len: *len };
                back.fall_on(disk, other);
                let mut bytes = read(b);
                let block = first[*at..].iter().take(second.len().saturating_sub(*with).min(*len));
                bytes[*with..].iter_mut().zip(block).for_each(|(byte, new)| *byte = *new);
                disk.set_contents(b, &bytes);
            }
            Self::Grow { file, by, with } => {
                let mut bytes = read(file);
                bytes.resize(bytes.len() + by, *with);
                disk.set_contents(file, &bytes);
            }
            Self::Delete { file } => disk.remove(file).unwrap(),
            Self::Foreign { file } => {
                let Some(bytes) = other.contents(file) else { return false };
                disk.set_contents(file, &bytes);
            }
        }
        disk.names().iter().map(|name| read(name)).collect::<Vec<_>>() != before
    }
}

/// One of any kind, most of them where there is data.
pub fn any(disk: &SimDisk, rng: &mut Xoshiro256PlusPlus) -> Strike {
    let names = disk.names();
    let some = |rng: &mut Xoshiro256PlusPlus| {
        let file = names[rng.random_range(0..names.len())].clone();
        let bytes = disk.contents(&file).unwrap();
        let used = 1 + bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let len = if rng.random_bool(0.9) { used.min(bytes.len()) } else { bytes.len() };
        (file, if len == 0 { 0 } else { rng.random_range(0..len) })
    };
    let ((file, at), (other, with)) = (some(rng), some(rng));
    let len = if rng.random_bool(0.5) { 512 } else { rng.random_range(1..8_192) };
    let is_empty = disk.contents(&file).unwrap().is_empty();
    match rng.random_range(0..16) {
        0..6 if !is_empty => Strike::Flip { file, at: at as u64, bit: rng.random_range(0..8) },
        0..8 => Strike::Cut { file, len: at },
        8..10 => Strike::Zero { file, at, len },
        10 => Strike::Copy { from: file, at, to: other, onto: with, len },
        11 => Strike::Swap { a: file, at, b: other, with, len },
        12 => Strike::Foreign { file },
        14 => Strike::Grow { file, by: len, with: if rng.random_bool(0.5) { 0 } else { rng.random() } },
        13 => Strike::Copy { from: file, at: 0, to: other, onto: 0, len: usize::MAX },
        _ => Strike::Delete { file },
    }
}

/// Every flip of one bit in each byte of each file.
pub fn flips(disk: &SimDisk) -> Vec<Strike> {
    let flip = |(file, at): (String, usize)| {
        let bit = u8::try_from((at * 7 + 3) % 8).unwrap();
        Strike::Flip { file, at: at as u64, bit }
    };
    bytes_of(disk).into_iter().map(flip).collect()
}

/// Every shorter length of each file.
pub fn cuts(disk: &SimDisk) -> Vec<Strike> {
    bytes_of(disk).into_iter().map(|(file, len)| Strike::Cut { file, len }).collect()
}

/// Each file with every offset at which it has data, and a few of those that were set aside and not used.
fn bytes_of(disk: &SimDisk) -> Vec<(String, usize)> {
    let used = |file: &str| disk.contents(file).unwrap().iter().rposition(|byte| *byte != 0).unwrap_or(0);
    let mut of_file = (String::new(), 0);
    let mut wanted = Vec::new();
    for (file, at) in places(disk, 1) {
        if of_file.0 != file {
            of_file = (file.clone(), used(&file));
        }
        if at % 61 == 0 || at <= of_file.1 {
            wanted.push((file, at));
        }
    }
    wanted
}

/// Blocks zeroed, copied over another and swapped, within a file and between files.
pub fn blocks(disk: &SimDisk) -> Vec<Strike> {
    let mut strikes = Vec::new();
    for len in [512, 4_096] {
        let blocks = places(disk, len);
        for (n, (file, at)) in blocks.iter().enumerate() {
            strikes.push(Strike::Zero { file: file.clone(), at: *at, len });
            for step in [1, 2, 5, 11] {
                let (other, other_at) = &blocks[(n + step) % blocks.len()];
                let (from, at, to, onto) = (file.clone(), *at, other.clone(), *other_at);
                strikes.push(Strike::Copy { from, at, to, onto, len });
                strikes.push(Strike::Swap { a: file.clone(), at, b: other.clone(), with: onto, len });
            }
        }
    }
    strikes
}

/// Each file deleted, emptied, grown, and replaced by another store's or by another of this one.
pub fn whole_files(disk: &SimDisk) -> Vec<Strike> {
    let names = disk.names();
    let mut strikes = Vec::new();
    for file in &names {
        strikes.push(Strike::Delete { file: file.clone() });
        strikes.push(Strike::Cut { file: file.clone(), len: 0 });
        strikes.push(Strike::Foreign { file: file.clone() });
        for (by, with) in [(1, 0), (1, 7), (5_000, 0), (70_000, 0xff)] {
            strikes.push(Strike::Grow { file: file.clone(), by, with });
        }
        for to in names.iter().filter(|to| *to != file) {
            let (from, to, len) = (file.clone(), to.clone(), usize::MAX);
            strikes.push(Strike::Copy { from, at: 0, to, onto: 0, len });
        }
    }
    strikes
}

/// Each file with every multiple of `step` below its length.
fn places(disk: &SimDisk, step: usize) -> Vec<(String, usize)> {
    let of = |file: &String| {
        let len = disk.contents(file).unwrap().len();
        (0..len).step_by(step).map(|at| (file.clone(), at)).collect::<Vec<_>>()
    };
    disk.names().iter().flat_map(of).collect()
}
