//! `scripts/bench cli`: the command line beside pm2's, and what the two managers weigh.
//!
//! A command's time is that from its start to its end, as the shell sees it. Both managers do the same with the same
//! native app (`sleep`) in turn. Every ratio here is pm2's figure divided by Herdwire's: so many times faster, or
//! lighter.

mod manager;
mod memory;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::figures::Figures;
use manager::Manager;

/// Runs of `list` in each round and for each number of instances.
const LISTS: usize = 3;
const MANY: usize = 100;

/// How thoroughly, and what to run.
#[derive(Args)]
pub struct Options {
    /// Interleaved rounds; `list` runs three times in each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// One round: does it work at all?
    #[arg(long)]
    quick: bool,
    /// The binary to measure [default: the one beside this program]
    #[arg(long)]
    herdwire: Option<PathBuf>,
    /// pm2's command; without it only Herdwire is measured
    #[arg(long)]
    pm2: Option<PathBuf>,
    /// Folder for the homes of both; whoever names it clears it
    #[arg(long)]
    folder: PathBuf,
}

/// Measures everything and prints it.
pub fn run(options: &Options) -> Result<()> {
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("herdwire"));
    let herdwire = options.herdwire.clone().map_or_else(beside, Ok)?;
    let mut managers = vec![Manager::herdwire(herdwire, &options.folder)?];
    match &options.pm2 {
        Some(pm2) => managers.push(Manager::pm2(pm2.clone(), &options.folder)?),
        None => eprintln!("bench: no pm2 was named: its figures are left out"),
    }
    let rounds = if options.quick { 1 } else { options.rounds.max(1) };
    eprintln!("bench: {rounds} rounds; `list_cold` of Herdwire starts nothing, `start_cold` starts all of it");
    let mut figures = Figures::default();
    for round in 1..=rounds {
        eprintln!("bench: round {round} of {rounds}");
        sample(&managers, &mut figures)?;
    }
    figures.print();
    for metric in figures.metrics().filter(|metric| !metric.ends_with("_pm2")) {
        figures.print_ratio(&format!("{metric}_vs_pm2"), &format!("{metric}_pm2"), &metric);
    }
    Ok(())
}

/// One round.
fn sample(managers: &[Manager], figures: &mut Figures) -> Result<()> {
    for manager in managers {
        cold(manager, figures)?;
    }
    lists(managers, 0, figures)?;
    for manager in managers {
        figures.add(&manager.metric("pss_0"), "MiB", manager.pss()?);
        manager.start(10)?;
    }
    lists(managers, 10, figures)?;
    for manager in managers {
        manager.run(&["delete", "all"])?;
        figures.add(&manager.metric("start_100"), "ms", manager.start(MANY)?);
    }
    lists(managers, MANY, figures)?;
    for manager in managers {
        figures.add(&manager.metric("pss_100"), "MiB", manager.pss()?);
        figures.add(&manager.metric("restart_100"), "ms", manager.run(&["restart", "all"])?);
        expect_online(manager, MANY)?;
        figures.add(&manager.metric("stop_100"), "ms", manager.run(&["stop", "all"])?);
        expect_online(manager, 0)?;
        manager.kill()?;
    }
    Ok(())
}

/// The first commands where nothing runs. Leaves the manager running, without instances.
fn cold(manager: &Manager, figures: &mut Figures) -> Result<()> {
    manager.kill()?;
    figures.add(&manager.metric("list_cold"), "ms", manager.run(&["list"])?);
    manager.kill()?;
    figures.add(&manager.metric("start_cold"), "ms", manager.start(1)?);
    manager.run(&["delete", "all"])?;
    Ok(())
}

/// `list` of both managers in turn.
fn lists(managers: &[Manager], instances: usize, figures: &mut Figures) -> Result<()> {
    for _ in 0..LISTS {
        for manager in managers {
            let metric = manager.metric(&format!("list_warm_{instances}"));
            figures.add(&metric, "ms", manager.run(&["list"])?);
        }
    }
    Ok(())
}

/// A command that returns before it has done its work must not look fast.
fn expect_online(manager: &Manager, expected: usize) -> Result<()> {
    let online = manager.online().context("cannot count what is online")?;
    ensure!(online == expected, "{}: {online} instances are online instead of {expected}", manager.name());
    Ok(())
}
