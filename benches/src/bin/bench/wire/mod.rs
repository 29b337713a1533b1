//! `scripts/bench wire`: the wire beside eventfd, pipe, Unix socket pair and Redis pub/sub.
//!
//! Owns the list of what is measured and how it is compared. How one end does its part is `ends`' business; the herd
//! is made by hand (`herd`), so that the wire itself is measured and no supervisor.

mod cases;
mod ends;
mod herd;
mod redis;
mod streams;
mod wired;

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::figures::Figures;
use crate::placement;
use cases::{By, CASES, Case, Measure, RATIOS};
use redis::Server;

pub use ends::{Job, Outcome, work};

/// How thoroughly.
#[derive(Args)]
pub struct Options {
    /// Interleaved rounds; every figure is the median of as many samples
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds that each measurement lasts in each round
    #[arg(long, default_value_t = 500)]
    millis: u64,
    /// One short round: does it work at all?
    #[arg(long)]
    quick: bool,
    /// Measure only metrics that begin like this
    #[arg(long, default_value = "")]
    only: String,
}

/// What a case needs to know of this run.
struct Setting {
    cores: Vec<usize>,
    limit: Duration,
    redis: Option<Server>,
}

/// Measures everything and prints it.
pub fn run(options: &Options) -> Result<()> {
    let (rounds, millis) = if options.quick { (1, 100) } else { (options.rounds.max(1), options.millis.max(1)) };
    let cores = placement::cores()?;
    let cases = || CASES.iter().filter(|case| case.metric.starts_with(&options.only));
    let needs_redis = cases().any(|case| case.by() == Some(By::Redis));
    let redis = if needs_redis { Server::start()? } else { None };
    if needs_redis && redis.is_none() {
        eprintln!("bench: redis-server is not installed: its figures are left out");
    }
    eprintln!("bench: {rounds} rounds of {millis} ms each, {} cores, unpinned unless the metric says so", cores.len());
    let setting = Setting { cores, limit: Duration::from_millis(millis), redis };
    let mut figures = Figures::default();
    for round in 1..=rounds {
        eprintln!("bench: round {round} of {rounds}");
        for case in cases().filter(|case| case.is_possible(&setting)) {
            sample(case, &setting, &mut figures)?;
        }
    }
    figures.print();
    for (metric, of, by) in RATIOS {
        figures.print_ratio(metric, of, by);
    }
    Ok(())
}

/// One sample of one case.
fn sample(case: &Case, setting: &Setting, figures: &mut Figures) -> Result<()> {
    let metric = case.metric;
    match case.measure {
        Measure::RoundTrip { .. } => {
            let (p50, p99) = case.round_trip(setting)?;
            figures.add(metric, "us", p50 / 1e3);
            figures.add(&format!("{metric}_p99"), "us", p99 / 1e3);
        }
        Measure::Stream { size, .. } => {
            let (per_second, cost) = case.stream(setting)?;
            if size <= 1024 {
                figures.add(metric, "msgs/s", per_second);
            } else {
                figures.add(metric, "GB/s", per_second * size as f64 / 1e9);
            }
            if case.shows_cost() {
                figures.add(&format!("{metric}_cost"), "ns", cost);
            }
        }
        Measure::PublishCost { .. } => figures.add(metric, "ns", case.publish_cost(setting)?),
    }
    Ok(())
}
