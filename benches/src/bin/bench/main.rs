//! `scripts/bench NAME`: Herdwire beside its peers in one run, one figure a line.
//!
//! Standard output carries `metric: value unit` and `metric_vs_peer: value x` and nothing else; what a reader should
//! know besides goes to standard error. Every figure is the median of interleaved rounds, every ratio the median of
//! the ratios of its rounds, so that a machine that is slow for a while slows both sides of it.
//!
//! Owns no processes that outlive it: the ends of a measurement die with this process (`end`), what detaches itself
//! (`supervisor`) lives in a folder that `scripts/bench` clears.

#![deny(unsafe_code)]

mod end;
mod figures;
mod placement;
mod supervisor;
mod wire;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures Herdwire beside its peers.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Round trips and throughput of the wire, beside eventfd, pipe, Unix socket and Redis
    Wire(wire::Options),
    /// Commands, memory, restarts, idle time and logs with up to 1,000 instances, beside pm2
    Supervisor(supervisor::Options),
    /// Prints lines as fast as they are taken
    #[command(name = supervisor::PRINTER, hide = true)]
    Print { seconds: f64 },
    /// One end of a measurement; its work comes through standard input
    #[command(name = end::ROLE, hide = true)]
    End,
    /// Becomes another program that dies with its parent
    #[command(name = end::LEASHED, hide = true)]
    Leashed {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Wire(options) => wire::run(&options),
        What::Supervisor(options) => supervisor::run(&options),
        What::Print { seconds } => supervisor::print_lines(seconds),
        What::End => end::serve(wire::work),
        What::Leashed { command } => end::leashed(&command),
    }
}
