//! What the tests that crash the store share: histories, the model that knows what may be found afterwards, and one life after another.
//!
//! No test is in here. Everything follows from a seed; [`seeds`] and [`budget`] read the two variables of the environment by which a run is
//! replayed or made longer, and every failure prints the first.

pub mod acked;
pub mod damaged;
pub mod history;
pub mod hooked;
pub mod life;
pub mod model;
pub mod strikes;

/// The seeds of a test: those it brings, or the one in `CLOAKROOM_SEED`.
pub fn seeds(own: impl IntoIterator<Item = u64>) -> Vec<u64> {
    match number("CLOAKROOM_SEED") {
        Some(seed) => vec![seed],
        None => own.into_iter().collect(),
    }
}

/// How many crashes a test may try: its own number, or that in `CLOAKROOM_SIM_BUDGET`.
pub fn budget(own: u64) -> u64 {
    number("CLOAKROOM_SIM_BUDGET").unwrap_or(own).max(1)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// At most `budget` of the numbers from 1 to `last`, evenly spread; which ones depends on the seed.
pub fn spread(last: u64, budget: u64, seed: u64) -> impl Iterator<Item = u64> {
    let stride = last.div_ceil(budget).max(1);
    let first = 1 + seed % stride;
    (first..=last).step_by(usize::try_from(stride).unwrap())
}

/// Prints how to replay what failed, when the test panics.
pub struct Replay(pub String, pub u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with CLOAKROOM_SEED={} CLOAKROOM_SIM_BUDGET=1000000 ({})", self.1, self.0);
        }
    }
}
