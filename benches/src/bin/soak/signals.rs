//! `soak signals`: a hundred thousand signals to supervisor and keeper, and none does more than what is documented.
//!
//! Those that ask for an end are sent to the keeper by themselves, a thousand times in a row: everything ends once, in
//! order, and nothing is left.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use measure::stand::{Pids, Stand, is_alive, send};
use measure::{figures, interrupt};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::footprint::{Footprint, growth_kib, processes};
use crate::promise::Promises;
use crate::random::Random;

const INSTANCES: usize = 4;
/// Signals between two questions whether all are well.
const BURST: u64 = 1000;
/// How often an end is asked for.
const ENDS: u32 = 1000;
const LIMIT: Duration = Duration::from_secs(30);
const TOLERANCE: u64 = 2;

/// What has no meaning to a keeper.
const TO_KEEPER: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGPIPE,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// What has no meaning to a supervisor, and SIGUSR2, which has it open the logs anew.
const TO_SUPERVISOR: [Signal; 12] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGPIPE,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
    Signal::SIGALRM,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// What a run looks like.
#[derive(Debug, Args)]
pub struct Options {
    /// How many signals, to both together.
    #[arg(long, default_value_t = 100_000)]
    signals: u64,
}

/// Runs it, prints its figures, returns the promises that were broken.
pub fn run(options: &Options, keep: bool) -> anyhow::Result<Vec<String>> {
    let mut stand = Stand::new()?;
    let outcome = signal(options, &mut stand);
    let ended = stand.finish(keep);
    let promises = outcome?;
    ended?;
    Ok(promises.broken())
}

fn signal(options: &Options, stand: &mut Stand) -> anyhow::Result<Promises> {
    let mut promises = Promises::default();
    let pids = stand.start(&config(stand))?;
    // With everything that opening the logs anew needs once.
    send(pids.supervisor, Signal::SIGUSR2)?;
    let all = stand.instances()?;
    let before = Footprint::settled(pids)?;
    let replaced = storm(options.signals, pids, stand)?;
    let after = Footprint::settled(stand.pids()?)?;
    let now = stand.instances()?;
    let restarted = all.iter().zip(&now).filter(|(one, other)| one["pid"] != other["pid"]).count() as u64;
    let leaked = after.descriptors.saturating_sub(before.descriptors + TOLERANCE);
    let grown =
        growth_kib(before.supervisor_kib, after.supervisor_kib) + growth_kib(before.keeper_kib, after.keeper_kib);
    let (lines, gaps) = lines(&now)?;
    figures::print("signals", options.signals, "signals");
    figures::print("managers_replaced", replaced, "processes");
    figures::print("instances_restarted", restarted, "instances");
    figures::print("lines", lines, "lines");
    figures::print("lines_wrong", gaps, "lines");
    figures::print("descriptors_leaked", leaked, "descriptors");
    figures::print("memory_growth", grown, "KiB");
    promises.is_zero("managers_replaced", replaced);
    promises.is_zero("instances_restarted", restarted);
    promises.holds(lines > 0, || "nothing was logged".to_owned());
    promises.is_zero("lines_wrong", gaps);
    promises.is_zero("descriptors_leaked", leaked);
    promises.is_zero("memory_growth", grown);
    end(stand, &mut promises)?;
    Ok(promises)
}

/// Sends them; how often keeper or supervisor was replaced over it.
fn storm(signals: u64, pids: Pids, stand: &mut Stand) -> anyhow::Result<u64> {
    let mut random = Random::new()?;
    let (mut now, mut replaced, mut sent) = (pids, 0, 0);
    while sent < signals {
        for _ in 0..BURST.min(signals - sent) {
            let (pid, meant): (u32, &[Signal]) = match sent % 2 {
                0 => (now.keeper, &TO_KEEPER),
                _ => (now.supervisor, &TO_SUPERVISOR),
            };
            // One that has died over it shows below.
            let _ = send(pid, meant[random.below(meant.len() as u64) as usize]);
            sent += 1;
        }
        interrupt::check()?;
        let then = stand.pids()?;
        replaced += u64::from(then.keeper != now.keeper) + u64::from(then.supervisor != now.supervisor);
        now = then;
    }
    Ok(replaced)
}

/// Asks for the end, again and again within a second.
fn end(stand: &mut Stand, promises: &mut Promises) -> anyhow::Result<()> {
    let pids = stand.pids()?;
    let began = Instant::now();
    for _ in 0..ENDS {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            for pid in [pids.keeper, pids.supervisor] {
                // It may have ended already.
                let _ = send(pid, signal);
            }
        }
    }
    let within = began.elapsed();
    let has_ended = interrupt::wait_for(LIMIT, || Ok(!is_alive(pids.keeper)))?;
    ensure!(has_ended, "it does not end");
    stand.has_ended();
    let log = stand.log()?;
    let ends = log.matches("ending all instances").count();
    let forced = log.matches("killing everything").count() as u64;
    let impolite = (0..INSTANCES)
        .filter(|index| fs::read_to_string(stand.work().join(format!("end-{index}"))).unwrap_or_default() != "bye")
        .count() as u64;
    let left = processes(&stand.home())?.len() as u64;
    figures::print("ends_asked_for", ENDS * 2, "signals");
    figures::print("ends_asked_within_ms", within.as_millis(), "ms");
    figures::print("ends_begun", ends, "times");
    figures::print("ends_forced", forced, "times");
    figures::print("instances_not_ended_once", impolite, "instances");
    figures::print("processes_left", left, "processes");
    promises.holds(ends == 1, || format!("the end was begun {ends} times"));
    promises.is_zero("ends_forced", forced);
    promises.is_zero("instances_not_ended_once", impolite);
    promises.is_zero("processes_left", left);
    Ok(())
}

/// Instances that print numbered lines and say goodbye once when they are told to end.
fn config(stand: &Stand) -> String {
    let script = format!(
        "trap \"printf bye >> '{}/end-$HERDWIRE_INDEX'; exit 0\" INT; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done",
        stand.work().display()
    );
    format!(
        "[status]\nlisten = \"127.0.0.1:0\"\n\n[[app]]\nname = \"polite\"\nscript = \"/bin/sh\"\nargs = [\"-c\", {script:?}]\n\
         interpreter = \"none\"\ninstances = {INSTANCES}\nkill_timeout = \"20s\"\n"
    )
}

/// Whole lines in all logs, and those that do not follow the one before.
fn lines(instances: &[Value]) -> anyhow::Result<(u64, u64)> {
    let (mut lines, mut wrong) = (0, 0);
    for instance in instances {
        let path = instance["pm2_env"]["pm_out_log_path"].as_str().unwrap_or_default();
        let text = fs::read_to_string(path)?;
        // The last one may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for (number, line) in (1_u64..).zip(whole.lines()) {
            lines += 1;
            wrong += u64::from(line != format!("line {number}"));
        }
    }
    Ok((lines, wrong))
}
