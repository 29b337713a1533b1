//! `soak crashes`: instances that exit as soon as they run, thousands of times, and not one exit is missed.
//!
//! First without a budget: every start writes a byte into a file of its instance, and its exit code follows from its
//! incarnation, so files and the supervisor's log can be held against one another. Then with budgets, the default one
//! and another: each instance is given up after exactly so many starts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use measure::stand::Stand;
use measure::{figures, interrupt};
use serde_json::Value;

use crate::exits;
use crate::footprint::{growth_kib, processor_time, resident_kib};
use crate::promise::Promises;

/// Exit codes go round: incarnation `n` exits with `n % CODES + 1`.
const CODES: u64 = 50;
/// No crash is waited for longer than this.
const CRASH_LIMIT: Duration = Duration::from_secs(30);
/// Waits between restarts grow by default: sixteen take about two minutes.
const GIVEN_UP_LIMIT: Duration = Duration::from_secs(300);
/// `max_restarts` where nothing is said about it.
const DEFAULT_BUDGET: u64 = 16;
const OTHER_BUDGET: u64 = 5;

/// What a run looks like.
#[derive(Debug, Args)]
pub struct Options {
    /// How many crashes, of all instances together.
    #[arg(long, default_value_t = 10_000)]
    crashes: u64,
    /// How many instances crash at the same time.
    #[arg(long, default_value_t = 4)]
    instances: u64,
    /// Leave the default budget out, which takes two minutes.
    #[arg(long)]
    quick: bool,
}

/// What came of crashes without a budget.
#[derive(Debug, Default)]
struct Crashes {
    starts: u64,
    missed: u64,
    wrong: u64,
    took: Duration,
    supervisor_cores: f64,
    supervisor_kib: u64,
    growth_kib: u64,
}

/// Runs it, prints its figures, returns the promises that were broken.
pub fn run(options: &Options, keep: bool) -> anyhow::Result<Vec<String>> {
    ensure!((1..=64).contains(&options.instances), "--instances: 1 to 64");
    ensure!(options.crashes >= 10 * options.instances, "--crashes: at least ten for each instance");
    let mut stand = Stand::new()?;
    let outcome = crash(options, &mut stand).and_then(|crashes| Ok((crashes, budgets(options, &mut stand)?)));
    let ended = stand.finish(keep);
    let (crashes, [by_default, other]) = outcome?;
    ended?;
    figures::print("crashes", crashes.starts, "exits");
    figures::print("exits_missed", crashes.missed, "exits");
    figures::print("exits_wrong", crashes.wrong, "exits");
    figures::print("restarts_per_second", crashes.starts as u128 * 1000 / crashes.took.as_millis().max(1), "1/s");
    figures::print("supervisor_cores", format!("{:.2}", crashes.supervisor_cores), "");
    figures::print("supervisor_rss", crashes.supervisor_kib, "KiB");
    figures::print("supervisor_growth", crashes.growth_kib, "KiB");
    figures::print("starts_with_default_budget", by_default, "starts");
    figures::print("starts_with_a_budget_of_5", other, "starts");
    let mut promises = Promises::default();
    promises.is_zero("exits_missed", crashes.missed);
    promises.is_zero("exits_wrong", crashes.wrong);
    promises.is_zero("supervisor_growth", crashes.growth_kib);
    promises.holds(crashes.supervisor_cores <= 1.0, || "the supervisor took more than a core".to_owned());
    let default = if options.quick { 0 } else { DEFAULT_BUDGET };
    for (starts, budget) in [(by_default, default), (other, OTHER_BUDGET)] {
        promises.holds(starts == budget, || format!("a budget of {budget} ended after {starts} starts"));
    }
    Ok(promises.broken())
}

fn crash(options: &Options, stand: &mut Stand) -> anyhow::Result<Crashes> {
    let app = format!("instances = {}\nmax_restarts = 1000000\nmin_uptime = 0\n", options.instances);
    // It may be told that its instances have not stayed up: they are not to.
    let _ = stand.start(&config("crasher", &app, stand));
    let pids = stand.pids()?;
    let mut seen = (0, Instant::now());
    let mut await_starts = |limit: u64| -> anyhow::Result<()> {
        loop {
            let now = starts(&stand.work(), "crasher")?;
            if now > seen.0 {
                seen = (now, Instant::now());
            }
            if now >= limit {
                return Ok(());
            }
            ensure!(seen.1.elapsed() < CRASH_LIMIT, "after {now} crashes nothing happens any more");
            interrupt::sleep_until(Instant::now() + Duration::from_millis(50))?;
        }
    };
    // What a supervisor needs once it has by then.
    await_starts(options.crashes / 5)?;
    let (before_kib, busy, began) = (resident_kib(pids.supervisor)?, processor_time(pids.supervisor)?, Instant::now());
    let first = starts(&stand.work(), "crasher")?;
    await_starts(options.crashes)?;
    let took = began.elapsed();
    let cores = (processor_time(pids.supervisor)? - busy).as_secs_f64() / took.as_secs_f64();
    let (last, after_kib) = (starts(&stand.work(), "crasher")?, resident_kib(pids.supervisor)?);
    stand.herdwire(["stop", "crasher"])?;
    let instances = stand.instances()?;
    ensure!(stand.pids()? == pids, "the supervisor or the keeper was replaced");
    let (missed, wrong) = compare(&stand.log()?, &instances, &stand.work())?;
    stand.herdwire(["delete", "crasher"])?;
    Ok(Crashes {
        starts: last,
        missed,
        wrong,
        // The rest of the way, by which the rate is told.
        took: took * last as u32 / (last - first).max(1) as u32,
        supervisor_cores: cores,
        supervisor_kib: after_kib,
        growth_kib: growth_kib(before_kib, after_kib),
    })
}

/// An app whose instances write down that they have started, and exit.
fn config(name: &str, more: &str, stand: &Stand) -> String {
    let script = format!(
        "printf x >> '{}/{name}-'$HERDWIRE_INDEX; exit $((HERDWIRE_INCARNATION % {CODES} + 1))",
        stand.work().display()
    );
    format!(
        "[status]\nlisten = \"127.0.0.1:0\"\n\n[[app]]\nname = {name:?}\nscript = \"/bin/sh\"\nargs = [\"-c\", {script:?}]\ninterpreter = \"none\"\n{more}"
    )
}

/// Bytes that the instances of an app have written, one for each start.
fn starts(work: &Path, app: &str) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(work)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&format!("{app}-")) {
            sum += entry.metadata()?.len();
        }
    }
    Ok(sum)
}

/// Exits that the log does not tell, and those that it or `jlist` tells otherwise than they were.
fn compare(log: &str, instances: &[Value], work: &Path) -> anyhow::Result<(u64, u64)> {
    let told = exits::told(log);
    let (mut missed, mut wrong) = (0, 0);
    for instance in instances.iter().filter(|instance| instance["name"] == "crasher") {
        let id = instance["pm_id"].as_u64().context("no id")?;
        let index = instance["pm2_env"]["NODE_APP_INSTANCE"].as_u64().context("no index")?;
        let of_it: BTreeMap<u64, &Vec<String>> =
            told.iter().filter(|((of, _), _)| *of == id).map(|((_, n), words)| (u64::from(*n), words)).collect();
        let starts = fs::metadata(work.join(format!("crasher-{index}")))?.len();
        let last = of_it.keys().next_back().copied().unwrap_or(0);
        for incarnation in 1..=starts.max(last) {
            match of_it.get(&incarnation) {
                None => missed += 1,
                Some(words) if words[..] == [format!("exit code {}", incarnation % CODES + 1)] => {}
                // The last one was told to stop: before, while or after it wrote.
                Some(_) if incarnation == last => {}
                Some(words) => {
                    eprintln!("instance {id}, incarnation {incarnation}: told as {words:?}");
                    wrong += 1;
                }
            }
        }
        wrong += u64::from(!(starts == last || starts + 1 == last));
    }
    Ok((missed, wrong))
}

/// After how many starts an app is given up, by default and with another budget.
fn budgets(options: &Options, stand: &mut Stand) -> anyhow::Result<[u64; 2]> {
    let mut counts = [0; 2];
    let cases = [("patient", String::new()), ("strict", format!("max_restarts = {OTHER_BUDGET}\n"))];
    for ((name, more), count) in cases.iter().zip(&mut counts).skip(usize::from(options.quick)) {
        // That it has failed is what is wanted.
        let _ = stand.start(&config(name, more, stand));
        let is_given_up = || {
            let all = stand.instances()?;
            Ok(all.iter().any(|one| one["name"] == *name && one["pm2_env"]["status"] == "errored"))
        };
        ensure!(interrupt::wait_for(GIVEN_UP_LIMIT, is_given_up)?, "{name} is never given up");
        *count = starts(&stand.work(), name)?;
        stand.herdwire(["delete", name])?;
    }
    Ok(counts)
}
