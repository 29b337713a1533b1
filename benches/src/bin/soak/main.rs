//! Soak runs: the real programs under load and under kills, held to their promises.
//!
//! `soak flood` floods a herd with messages and accounts for every one of them; `soak supervisor` kills the supervisor
//! again and again and shows that nobody noticed; `soak reload` replaces an HTTP app under load. `soak crashes`, `soak scale`,
//! `soak signals`, `soak clients` and `soak failpoints` do the rest of what may happen (`docs/faults.md`). All print one figure a line and fail when a promise is broken.

#![deny(unsafe_code)]

mod clients;
mod crashes;
mod exits;
mod failpoints;
mod flood;
mod footprint;
mod lines;
mod promise;
mod random;
mod reload;
mod scale;
mod signals;
mod supervisor;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use measure::interrupt;

/// Runs Herdwire under load and under kills, and checks every promise.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Arguments {
    /// Keep the run's folder (home, logs, accounts), and say where it is.
    #[arg(long, global = true)]
    keep: bool,
    #[command(subcommand)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Run {
    /// Control connections that say nothing keep nobody from being answered.
    Clients(clients::Options),
    /// Instances exit at once, thousands of times.
    Crashes(crashes::Options),
    /// Each system call of supervisor and keeper fails once, comes late once, and kills its process once.
    Failpoints(failpoints::Options),
    /// Workers flood one another; with `--kill-every`, one of them is killed now and then.
    Flood(flood::Options),
    /// An HTTP app is reloaded under load.
    Reload(reload::Options),
    /// A thousand instances start, stop, restart, are reloaded and killed all at once.
    Scale(scale::Options),
    /// Supervisor and keeper get a hundred thousand signals.
    Signals(signals::Options),
    /// The supervisor is killed while instances log, exchange messages and exit.
    Supervisor(supervisor::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    interrupt::notice()?;
    let broken = match arguments.run {
        Run::Clients(options) => clients::run(&options, arguments.keep)?,
        Run::Crashes(options) => crashes::run(&options, arguments.keep)?,
        Run::Failpoints(options) => failpoints::run(&options, arguments.keep)?,
        Run::Flood(options) => flood::run(&options, arguments.keep)?,
        Run::Reload(options) => reload::run(&options, arguments.keep)?,
        Run::Scale(options) => scale::run(&options, arguments.keep)?,
        Run::Signals(options) => signals::run(&options, arguments.keep)?,
        Run::Supervisor(options) => supervisor::run(&options, arguments.keep)?,
    };
    for promise in &broken {
        eprintln!("broken: {promise}");
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
