//! The records that are measured, and which of them an operation draws: the same in every run, for every store.
//!
//! Ids are 32 bytes, values log-normal around 350 B, clamped to 64 B to 4 KiB. No record is kept in memory: its id and its length follow from
//! its number, so that drawing one costs nanoseconds and no cache of its own. Nothing here knows of a store.

use std::sync::OnceLock;

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// All draws begin here; a worker adds its number.
pub const SEED: u64 = 0x00C1_0AC2_0090;

const VALUE_BYTES_MEDIAN: f64 = 350.0;
/// Standard deviation of the logarithm: nine values of ten are between 130 and 940 bytes.
const VALUE_BYTES_SIGMA: f64 = 0.6;
const VALUE_BYTES_MIN: f64 = 64.0;
const VALUE_BYTES_MAX: u32 = 4096;
/// Lengths repeat after this many records; ids never do.
const VALUES: usize = 4096;
/// Skew of [`Keys::Zipf`], the one that YCSB made usual.
const ZIPF_THETA: f64 = 0.99;

/// The id of record `number`.
pub fn id(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (lane, part) in (0_u64..).zip(bytes.chunks_exact_mut(8)) {
        part.copy_from_slice(&mixed(number.wrapping_mul(4).wrapping_add(lane) ^ SEED).to_le_bytes());
    }
    bytes
}

/// The finalizer of splitmix64: one to one, and every bit of the input moves half of the output's.
fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What is put: random bytes of the lengths above. Each worker has its own, so that no two share a reference count; making one costs next to nothing,
/// since the harness takes what it costs to set up a loop for a part of the loop when it decides how long to make it.
pub struct Values {
    lengths: &'static [usize],
    longest: Bytes,
    next: usize,
}

impl Values {
    pub fn new() -> Self {
        static LENGTHS: OnceLock<Vec<usize>> = OnceLock::new();
        let mut rng = SmallRng::seed_from_u64(SEED);
        let lengths = LENGTHS.get_or_init(|| (0..VALUES).map(|_| length(&mut rng)).collect());
        let mut longest = vec![0; VALUE_BYTES_MAX as usize];
        rng.fill(&mut longest[..]);
        Self { lengths, longest: longest.into(), next: 0 }
    }

    pub fn next(&mut self) -> Bytes {
        self.next = (self.next + 1) % VALUES;
        self.longest.slice(..self.lengths[self.next])
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped to 64..=4096")]
fn length(rng: &mut SmallRng) -> usize {
    let (a, b): (f64, f64) = (rng.random(), rng.random());
    // Box and Muller: two uniform numbers make a normal one; 1 - a is never zero.
    let normal = (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
    let bytes = (VALUE_BYTES_MEDIAN.ln() + VALUE_BYTES_SIGMA * normal).exp();
    bytes.clamp(VALUE_BYTES_MIN, f64::from(VALUE_BYTES_MAX)) as usize
}

/// How the records of a set are drawn.
#[derive(Clone)]
pub enum Keys {
    /// Each alike.
    Uniform { records: u64 },
    /// Some far more often than others, the favourites scattered over the whole set.
    Zipf { records: u64, zeta: f64 },
}

impl Keys {
    pub fn uniform(records: u64) -> Self {
        Self::Uniform { records }
    }

    pub fn zipf(records: u64) -> Self {
        Self::Zipf { records, zeta: (1..=records).map(weight).sum() }
    }

    /// The number of a record.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "record counts are far below 2^52, and the rank is clamped to them"
    )]
    pub fn draw(&self, rng: &mut SmallRng) -> u64 {
        match *self {
            Self::Uniform { records } => rng.random_range(0..records),
            Self::Zipf { records, zeta } => {
                // Gray et al., "Quickly generating billion-record synthetic databases", as YCSB does it.
                let u: f64 = rng.random();
                let eta = (1.0 - (2.0 / records as f64).powf(1.0 - ZIPF_THETA))
                    / (1.0 - (weight(1) + weight(2)) / zeta);
                let rank = match u * zeta {
                    x if x < weight(1) => 0,
                    x if x < weight(1) + weight(2) => 1,
                    _ => {
                        let share = (eta * u - eta + 1.0).powf(1.0 / (1.0 - ZIPF_THETA));
                        ((records as f64 * share) as u64).min(records - 1)
                    }
                };
                // Neighbours in rank would be neighbours in the log, and share its pages; mixing parts them.
                mixed(rank) % records
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "record counts are far below 2^52")]
fn weight(rank: u64) -> f64 {
    (rank as f64).powf(-ZIPF_THETA)
}
