//! The table at the end of a replay: plain figures in, text out.

use hdrhistogram::Histogram;

use super::layer::{self, Figures};
use super::pass::Outcome;

/// The table, with and without touch coalescing side by side.
pub fn table(coalesced: &Outcome, exact: &Outcome) -> Result<String, Box<dyn std::error::Error>> {
    let (with, without) = (Column::of(coalesced)?, Column::of(exact)?);
    let mut lines = vec![format!("{:<34}{:>16}{:>16}", "", "coalesced", "exact")];
    for ((what, with), (_, without)) in with.rows().into_iter().zip(without.rows()) {
        lines.push(format!("{what:<34}{with:>16}{without:>16}"));
    }
    Ok(lines.join("\n"))
}

/// One pass, summed over its children.
struct Column<'a> {
    outcome: &'a Outcome,
    all: Figures,
    latencies: Histogram<u64>,
}

impl<'a> Column<'a> {
    fn of(outcome: &'a Outcome) -> Result<Self, Box<dyn std::error::Error>> {
        let mut all = Figures::default();
        let mut latencies = layer::nanoseconds()?;
        for part in &outcome.figures {
            all.records += part.records;
            all.record_bytes += part.record_bytes;
            all.touches += part.touches;
            all.touches_logged += part.touches_logged;
            all.live = part.live;
            for &(ns, times) in &part.latencies {
                latencies.record_n(ns, times)?;
            }
        }
        let requests = u64::try_from(outcome.model.requests)?;
        if latencies.len() != requests {
            return Err(format!("{} of {requests} requests were timed", latencies.len()).into());
        }
        Ok(Self { outcome, all, latencies })
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let model = &self.outcome.model;
        let took = |quantile| {
            let ns = self.latencies.value_at_quantile(quantile);
            format!("{}.{} µs", ns / 1_000, ns % 1_000 / 100)
        };
        vec![
            ("requests, each answer checked", model.requests.to_string()),
            ("where either answer was right", model.either.to_string()),
            ("visitors", model.visitors().to_string()),
            ("sessions created", model.created().to_string()),
            ("sessions expired", model.created().saturating_sub(self.all.live).to_string()),
            ("sessions live at the end", self.all.live.to_string()),
            ("times killed", (self.outcome.figures.len() - 1).to_string()),
            ("log records", self.all.records.to_string()),
            ("log records per request", ratio(self.all.records, model.requests)),
            ("touches", self.all.touches.to_string()),
            ("touches that needed a record", self.all.touches_logged.to_string()),
            ("bytes of records", self.all.record_bytes.to_string()),
            ("bytes on disk after the close", self.outcome.folder_bytes.to_string()),
            ("session layer, p50", took(0.5)),
            ("session layer, p99", took(0.99)),
            ("session layer, p99.9", took(0.999)),
            ("session layer, longest", took(1.0)),
        ]
    }
}

/// `part / whole` to two places.
fn ratio(part: u64, whole: usize) -> String {
    let hundredths = part.saturating_mul(100) / u64::try_from(whole.max(1)).unwrap_or(u64::MAX);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}
