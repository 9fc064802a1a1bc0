//! Replays an access log through the shop's session layer, kills it on the way, and checks every answer against what the log says.
//!
//! ```sh
//! cargo run --release --example replay -- access.log --kill-at 0.25,0.5,0.75
//! ```
//!
//! The session layer runs in a child process, which is this program again; its clock shows the log's time, so sessions idle out as they did.
//! A visitor is an address with a user agent; each has a jar of cookies. At each `--kill-at` the child gets a SIGKILL, and another starts on
//! the same folder: what was acknowledged must be there. The whole log is replayed twice, with touch coalescing and without. The first answer
//! that cannot be is printed, and ends the program with a failure.

#[path = "replay/access_log.rs"]
mod access_log;
#[path = "replay/layer.rs"]
mod layer;
#[path = "replay/model.rs"]
mod model;
#[path = "replay/pass.rs"]
mod pass;
#[path = "replay/report.rs"]
mod report;
#[path = "shop/visit.rs"]
mod visit;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::{AsyncBufReadExt, BufReader};

use access_log::{Entry, Malformed};
use layer::Layer;
use pass::{Outcome, Plan};

#[derive(Parser)]
#[command(about = "Replays an access log through the shop's session layer, killing it on the way")]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Arguments {
    /// An access log in the Common or the Combined format.
    log: Option<PathBuf>,
    /// Where to keep the sessions: two folders in this one, which must not be there yet. A temporary one unless given.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// After which parts of the log to kill the session layer, each above 0 and below 1.
    #[arg(long, default_value = "0.5", value_delimiter = ',', value_parser = fraction)]
    kill_at: Vec<f64>,
    /// Minutes without a request after which a session ends.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=525_600))]
    idle_minutes: u64,
    #[command(subcommand)]
    hidden: Option<Hidden>,
}

#[derive(clap::Subcommand)]
enum Hidden {
    /// The child process.
    #[command(hide = true, name = layer::SUBCOMMAND)]
    Layer(Layer),
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(part) if part > 0.0 && part < 1.0 => Ok(part),
        _ => Err("give a number above 0 and below 1".into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    let arguments = Arguments::parse();
    let done = match (&arguments.hidden, &arguments.log) {
        (Some(Hidden::Layer(layer)), _) => layer.clone().serve().await,
        (None, Some(log)) => replay(log, &arguments).await,
        (None, None) => Err("give an access log".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\n{why}");
            ExitCode::FAILURE
        }
    }
}

async fn replay(log: &Path, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let entries = read(log).await?;
    if entries.is_empty() {
        return Err(format!("{} has no request that could be replayed", log.display()).into());
    }
    let mut temporary = tempfile::tempdir()?;
    // What led to a wrong answer is worth a look; a right one leaves nothing behind.
    temporary.disable_cleanup(arguments.folder.is_none());
    let folder = arguments.folder.as_deref().unwrap_or(temporary.path());
    eprintln!("sessions in {}", folder.display());
    let coalesced = run(&entries, folder, false, arguments).await?;
    let exact = run(&entries, folder, true, arguments).await?;
    println!("{}", report::table(&coalesced, &exact)?);
    temporary.close()?;
    Ok(())
}

async fn run(
    entries: &[Entry],
    folder: &Path,
    exact: bool,
    arguments: &Arguments,
) -> Result<Outcome, Box<dyn Error>> {
    let name = if exact { "exact" } else { "coalesced" };
    let folder = folder.join(name);
    if folder.exists() {
        // Sessions of an earlier replay would make the model wrong about who is new.
        return Err(format!("{} is there already: give another --folder", folder.display()).into());
    }
    let style = ProgressStyle::with_template("{prefix:>9} {wide_bar} {human_pos}/{human_len} {per_sec}")?;
    let progress = ProgressBar::new(entries.len().try_into()?).with_style(style).with_prefix(name);
    let idle_ms = arguments.idle_minutes * 60_000;
    let kills = kill_points(&arguments.kill_at, entries.len());
    let outcome = Plan { entries, folder, idle_ms, exact, kills }.run(&progress).await;
    progress.abandon();
    outcome
}

/// Before which entries to kill: each once, in order.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a part of a count, between 0 and the count"
)]
fn kill_points(parts: &[f64], len: usize) -> Vec<usize> {
    let mut points: Vec<usize> = parts.iter().map(|part| (part * len as f64) as usize).collect();
    points.sort_unstable();
    points.dedup();
    points
}

/// The requests of a log in the order of their times; of one instant, in the order of the log. Says which lines are none.
async fn read(log: &Path) -> Result<Vec<Entry>, Box<dyn Error>> {
    let file = tokio::fs::File::open(log).await.map_err(|e| format!("cannot open {}: {e}", log.display()))?;
    let mut lines = BufReader::new(file).split(b'\n');
    let mut entries = Vec::new();
    let mut malformed: BTreeMap<Malformed, (usize, usize)> = BTreeMap::new();
    let mut number = 0;
    while let Some(line) = lines.next_segment().await? {
        number += 1;
        match access_log::parse(&line) {
            Ok(entry) => entries.push(entry),
            Err(why) => malformed.entry(why).or_insert((0, number)).0 += 1,
        }
    }
    let refused: usize = malformed.values().map(|(times, _)| times).sum();
    println!("{number} lines, {refused} malformed");
    for (why, (times, first)) in malformed {
        println!("  {times} × {why}, first in line {first}");
    }
    entries.sort_by_key(|entry| entry.at_ms);
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kill_points_are_in_order_and_each_once() {
        assert_eq!(kill_points(&[0.5, 0.25, 0.501], 10), [2, 5]);
        assert_eq!(fraction("0.5"), Ok(0.5));
        for bad in ["0", "1", "-1", "NaN", "x"] {
            assert!(fraction(bad).is_err(), "{bad}");
        }
    }
}
