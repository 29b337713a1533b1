//! Soak runs: the real programs under load and under kills, held to their promises.
//!
//! `soak flood` floods a herd with messages and accounts for every one of them; `soak supervisor` kills the supervisor
//! again and again and shows that nobody noticed; `soak reload` replaces an HTTP app under load. All print one figure a line and fail when a promise is broken.

#![deny(unsafe_code)]

mod exits;
mod flood;
mod lines;
mod promise;
mod random;
mod reload;
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
    /// Workers flood one another; with `--kill-every`, one of them is killed now and then.
    Flood(flood::Options),
    /// An HTTP app is reloaded under load.
    Reload(reload::Options),
    /// The supervisor is killed while instances log, exchange messages and exit.
    Supervisor(supervisor::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    interrupt::notice()?;
    let broken = match arguments.run {
        Run::Flood(options) => flood::run(&options, arguments.keep)?,
        Run::Reload(options) => reload::run(&options, arguments.keep)?,
        Run::Supervisor(options) => supervisor::run(&options, arguments.keep)?,
    };
    for promise in &broken {
        eprintln!("broken: {promise}");
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
