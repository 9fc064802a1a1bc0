//! How latencies are taken and told: a histogram of single operations beside the means of the benchmark harness.
//!
//! Reading the clock twice costs as much as a good part of a `get`. So the harness times whole loops in which no clock is read, and
//! the percentiles come from a pass of their own, in which *every* operation is timed (a sample would miss the worst one). Those latencies
//! include the two clock readings; [`clock_cost`] tells what they are worth.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Three digits: a thousandth of a microsecond is less than the clock resolves.
const DIGITS: u8 = 3;

/// Latencies of single operations.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Self {
        Self(Histogram::new_with_max(LATENCY_NS_MAX, DIGITS).expect("the bounds are valid"))
    }

    pub fn add(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_NS_MAX));
    }

    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub fn print(&self, name: &str) {
        let at = |quantile| text(self.0.value_at_quantile(quantile));
        println!(
            "\n{name}: mean {} p50 {} p99 {} p99.9 {} max {} ({} operations)",
            mean(self.0.mean()),
            at(0.5),
            at(0.99),
            at(0.999),
            text(self.0.max()),
            self.0.len()
        );
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a mean of latencies is small and positive"
)]
fn mean(ns: f64) -> String {
    text(ns as u64)
}

fn text(ns: u64) -> String {
    format!("{:.2?}", Duration::from_nanos(ns))
}

/// What it costs to read the clock before and after nothing.
pub fn clock_cost() -> Duration {
    const PAIRS: u32 = 100_000;
    let start = Instant::now();
    for _ in 0..PAIRS {
        std::hint::black_box(Instant::now().elapsed());
    }
    start.elapsed() / PAIRS
}
