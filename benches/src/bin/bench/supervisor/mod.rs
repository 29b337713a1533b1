//! `scripts/bench supervisor`: the two managers side by side: what a command takes, what they weigh, how soon a dead
//! worker has a successor, what they do when nothing is to be done, how fast they take what workers print, and, for Herdwire
//! alone, how soon a dead supervisor has a successor that answers.
//!
//! A command's time is that from its start to its end, as the shell sees it. Both managers do the same with the same
//! native app (`sleep`) in turn. Every ratio here says so many times faster, or lighter, than pm2.

mod adoption;
mod logs;
mod manager;
mod memory;
mod succession;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::figures::Figures;
pub use logs::{PRINTER, print_lines};
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
        for manager in &managers {
            succession::sample(manager, &options.folder, &mut figures)?;
            logs::sample(manager, &mut figures)?;
        }
    }
    for manager in &managers {
        large(manager, &mut figures)?;
    }
    figures.print();
    for metric in figures.metrics().filter(|metric| !metric.ends_with("_pm2")) {
        // Of a rate more is better, of everything else less.
        let (of, by) = (format!("{metric}_pm2"), metric.clone());
        let (of, by) = if metric.starts_with("log_lines") { (by, of) } else { (of, by) };
        figures.print_ratio(&format!("{metric}_vs_pm2"), &of, &by);
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
        figures.add(&manager.metric("pss_10"), "MiB", manager.pss()?);
        manager.run(&["delete", "all"])?;
        figures.add(&manager.metric("start_100"), "ms", manager.start(MANY)?);
    }
    lists(managers, MANY, figures)?;
    idle(managers, figures)?;
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

/// What the managers compute while nothing happens and nobody looks, in percent of a core. Both at once, and for longer than
/// pm2 waits between two looks of its own.
fn idle(managers: &[Manager], figures: &mut Figures) -> Result<()> {
    const WAIT: Duration = Duration::from_secs(31);
    // What the last command has left to do is not idleness.
    std::thread::sleep(Duration::from_secs(2));
    let pids = managers.iter().map(Manager::pids).collect::<Result<Vec<_>>>()?;
    // Nor is the answer to that question.
    std::thread::sleep(Duration::from_secs(1));
    let all = || pids.iter().map(|pids| memory::busy_of(pids)).collect::<Result<Vec<_>>>();
    let (before, began) = (all()?, Instant::now());
    std::thread::sleep(WAIT);
    let (after, took) = (all()?, began.elapsed());
    for ((manager, before), after) in managers.iter().zip(before).zip(after) {
        let share = (after - before) as f64 / took.as_nanos() as f64;
        figures.add(&manager.metric("idle_cpu_100"), "% of a core", share * 100.0);
    }
    Ok(())
}

/// A thousand instances, once. What comes after a SIGKILL is measured of Herdwire alone: of pm2 the instances are lost.
fn large(manager: &Manager, figures: &mut Figures) -> Result<()> {
    manager.kill()?;
    eprintln!("bench: {} starts 1,000 instances", manager.name());
    figures.add(&manager.metric("start_1000"), "ms", manager.start(1000)?);
    figures.add(&manager.metric("list_warm_1000"), "ms", manager.run(&["list"])?);
    figures.add(&manager.metric("pss_1000"), "MiB", manager.pss()?);
    if manager.is_ours() {
        adoption::sample(manager, figures)?;
    }
    manager.kill()
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
