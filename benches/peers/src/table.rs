//! The medians, and how cloakroom stands to each peer.

use crate::peer::Peer as _;
use crate::rounds::Figures;
use crate::store::Cloakroom;

const WIDTH: usize = 11;

/// Prints thousands of operations a second, then cloakroom divided by each peer: the median of the rounds' ratios, since the two figures of a
/// round saw the same machine.
pub fn print(figures: &Figures) {
    println!("\nthousands of operations a second, median of the rounds");
    rows(figures, |work, peer| {
        Some(format!("{:.1}", median(figures.rates.get(&(work, peer))?.clone()) / 1_000.0))
    });
    println!("\ncloakroom / peer, median of the rounds' ratios");
    rows(figures, |work, peer| {
        let own = figures.rates.get(&(work, Cloakroom::NAME))?;
        let theirs = figures.rates.get(&(work, peer))?;
        Some(format!("{:.2}", median(own.iter().zip(theirs).map(|(own, theirs)| own / theirs).collect())))
    });
}

fn rows(figures: &Figures, cell: impl Fn(&'static str, &'static str) -> Option<String>) {
    print!("{:26}", "");
    figures.peers.iter().for_each(|peer| print!("{peer:>WIDTH$}"));
    println!();
    for work in &figures.works {
        print!("{work:26}");
        for peer in &figures.peers {
            print!("{:>WIDTH$}", cell(work, peer).unwrap_or_else(|| "-".into()));
        }
        println!();
    }
}

/// The middle one; of two, the mean.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    f64::midpoint(low, high)
}
