//! `soak scale`: a thousand instances start, stop, start, restart, are replaced by a reload, are killed in the same
//! moment and come back, and are deleted; and then everything is as it was before.
//!
//! It goes round twice at least: what the first round leaves behind is what the supervisor needs once, and what a later
//! one adds to it is a leak.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use measure::stand::{Pids, Stand, proportional_memory, send};
use measure::{figures, interrupt};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::exits;
use crate::footprint::{Footprint, growth_kib, processes, zombies};
use crate::promise::Promises;

/// Instances of one app.
const OF_AN_APP: usize = 250;
/// All have come up at the latest.
const WHOLE_LIMIT: Duration = Duration::from_secs(120);
/// How many descriptors more or less are none leaked: somebody may just be asking.
const TOLERANCE: u64 = 2;

/// What a run looks like.
#[derive(Debug, Args)]
pub struct Options {
    /// How many instances.
    #[arg(long, default_value_t = 1000)]
    instances: usize,
    /// How often everything is done.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
}

/// How long each step of a round took, and what was wrong.
#[derive(Debug, Default)]
struct Round {
    start: Duration,
    stop: Duration,
    start_again: Duration,
    restart: Duration,
    reload: Duration,
    kill: Duration,
    storm: Duration,
    status_p99: Duration,
    /// Exits of the storm that are not told, or otherwise than they were.
    exits_wrong: u64,
    keeper_pss_kib: u64,
    supervisor_pss_kib: u64,
}

/// Runs it, prints its figures, returns the promises that were broken.
pub fn run(options: &Options, keep: bool) -> anyhow::Result<Vec<String>> {
    ensure!((1..=4000).contains(&options.instances), "--instances: 1 to 4000");
    ensure!(options.rounds >= 2, "--rounds: two at least, of which the first is the measure");
    let mut stand = Stand::new()?;
    let outcome = go_round(options, &mut stand);
    let ended = stand.finish(keep);
    let promises = outcome?;
    ended?;
    Ok(promises.broken())
}

fn go_round(options: &Options, stand: &mut Stand) -> anyhow::Result<Promises> {
    let mut promises = Promises::default();
    let pids = stand.start(
        "[status]\nlisten = \"127.0.0.1:0\"\n\n[[app]]\nname = \"bystander\"\nscript = \"/bin/sleep\"\nargs = [\"infinity\"]\n",
    )?;
    let bystander = pid_of(&stand.instances()?[0])?;
    let empty = Footprint::settled(pids)?;
    let mut after_first = None;
    for number in 1..=options.rounds {
        let round = one_round(options, stand, pids)?;
        round.print();
        promises.is_zero("storm_exits_wrong", round.exits_wrong);
        let left = Footprint::settled(pids)?;
        let first = *after_first.get_or_insert(left);
        let leaked = left.descriptors.saturating_sub(empty.descriptors + TOLERANCE);
        let grown =
            growth_kib(first.supervisor_kib, left.supervisor_kib) + growth_kib(first.keeper_kib, left.keeper_kib);
        let others = processes(&stand.home())?.len().saturating_sub(3) as u64;
        let unreaped = zombies(pids.keeper) as u64;
        figures::print("round", number, "");
        figures::print("descriptors_leaked", leaked, "descriptors");
        figures::print("keeper_rss", left.keeper_kib, "KiB");
        figures::print("supervisor_rss", left.supervisor_kib, "KiB");
        figures::print("memory_growth", grown, "KiB");
        figures::print("processes_left", others, "processes");
        figures::print("zombies", unreaped, "processes");
        promises.is_zero("descriptors_leaked", leaked);
        promises.is_zero("memory_growth", grown);
        promises.is_zero("processes_left", others);
        promises.is_zero("zombies", unreaped);
    }
    figures::print("descriptors_before", empty.descriptors, "descriptors");
    promises.holds(stand.pids()? == pids, || "the supervisor or the keeper was replaced".to_owned());
    promises.holds(pid_of(&stand.instances()?[0])? == bystander, || "the bystander was disturbed".to_owned());
    Ok(promises)
}

fn one_round(options: &Options, stand: &mut Stand, pids: Pids) -> anyhow::Result<Round> {
    let file = stand.work().join("sleepers.toml");
    std::fs::write(&file, config(options.instances))?;
    let file = file.to_str().context("an odd folder")?.to_owned();
    let mut round = Round { start: timed(stand, &["start", &file])?, ..Round::default() };
    let first = whole(stand, options.instances, &[])?;
    let kib = |pid| proportional_memory(pid).map_or(0, |bytes| bytes / 1024);
    (round.keeper_pss_kib, round.supervisor_pss_kib) = (kib(pids.keeper), kib(pids.supervisor));
    let names: Vec<String> = (0..options.instances.div_ceil(OF_AN_APP)).map(|app| format!("sleeper-{app}")).collect();
    let with = |verb: &str| [vec![verb.to_owned()], names.clone()].concat();
    round.stop = timed(stand, &with("stop"))?;
    round.start_again = timed(stand, &with("start"))?;
    let second = whole(stand, options.instances, &first)?;
    round.restart = timed(stand, &with("restart"))?;
    let third = whole(stand, options.instances, &second)?;
    round.reload = timed(stand, &["reload", &file])?;
    let fourth = whole(stand, options.instances, &third)?;
    storm(stand, &fourth, options.instances, &mut round)?;
    timed(stand, &with("delete"))?;
    Ok(round)
}

/// Kills all in the same moment, and waits until all are back.
fn storm(stand: &mut Stand, pids: &[u32], instances: usize, round: &mut Round) -> anyhow::Result<()> {
    let before = stand.log()?.len();
    let address = status_address(stand)?;
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let (back, latencies) = std::thread::scope(|scope| {
        let looks = scope.spawn(|| look_on(address, &over));
        let killed = pids.iter().try_for_each(|pid| send(*pid, Signal::SIGKILL));
        round.kill = began.elapsed();
        let back = killed.and_then(|()| whole(stand, instances, pids));
        over.store(true, Relaxed);
        (back, looks.join().expect("it only looks"))
    });
    back?;
    round.storm = began.elapsed();
    round.status_p99 = latencies.get(latencies.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default();
    let log = stand.log()?;
    let told = exits::told(log.get(before..).context("the log was cut")?);
    let right = told.values().filter(|words| words[..] == ["signal 9".to_owned()]).count();
    round.exits_wrong = (pids.len().abs_diff(right) + told.len().abs_diff(right)) as u64;
    Ok(())
}

/// Asks for the status page until it is over; how long each answer took, sorted.
fn look_on(address: SocketAddr, over: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !over.load(Relaxed) {
        let began = Instant::now();
        match page(address) {
            Ok(()) => took.push(began.elapsed()),
            Err(error) => {
                eprintln!("the status page does not answer: {error}");
                took.push(WHOLE_LIMIT);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    took.sort_unstable();
    took
}

fn page(address: SocketAddr) -> anyhow::Result<()> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(WHOLE_LIMIT))?;
    write!(connection, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "an odd answer");
    Ok(())
}

fn status_address(stand: &Stand) -> anyhow::Result<SocketAddr> {
    let pong: Value = serde_json::from_str(&stand.herdwire(["ping", "--json"])?)?;
    Ok(pong["status"]["address"].as_str().context("there is no status page")?.parse()?)
}

fn timed<A: AsRef<std::ffi::OsStr>>(stand: &Stand, arguments: &[A]) -> anyhow::Result<Duration> {
    interrupt::check()?;
    let began = Instant::now();
    stand.herdwire(arguments)?;
    Ok(began.elapsed())
}

/// Waits until all sleepers are online and none of these processes is among them; their pids.
fn whole(stand: &Stand, instances: usize, gone: &[u32]) -> anyhow::Result<Vec<u32>> {
    let mut pids = Vec::new();
    let is_whole = interrupt::wait_for(WHOLE_LIMIT, || {
        let all = stand.instances()?;
        let online = all.iter().filter(|one| one["pm2_env"]["status"] == "online" && one["name"] != "bystander");
        pids = online.map(pid_of).collect::<Result<_, _>>()?;
        pids.sort_unstable();
        let mut distinct = pids.clone();
        distinct.dedup();
        Ok(distinct.len() == instances
            && all.len() == instances + 1
            && !gone.iter().any(|pid| pids.binary_search(pid).is_ok()))
    })?;
    ensure!(is_whole, "{} of {instances} instances are online", pids.len());
    Ok(pids)
}

fn pid_of(instance: &Value) -> anyhow::Result<u32> {
    instance["pid"].as_u64().map(|pid| pid as u32).context("an instance without a pid")
}

fn config(instances: usize) -> String {
    let app = |number: usize| {
        let count = OF_AN_APP.min(instances - number * OF_AN_APP);
        format!(
            "[[app]]\nname = \"sleeper-{number}\"\nscript = \"/bin/sleep\"\nargs = [\"infinity\"]\ninstances = {count}\n\
             reload = {{ min_ready = \"10ms\", parallel = 50, probation = 0 }}\n\n"
        )
    };
    (0..instances.div_ceil(OF_AN_APP)).map(app).collect()
}

impl Round {
    fn print(&self) {
        let steps = [
            ("start_ms", self.start),
            ("stop_ms", self.stop),
            ("start_again_ms", self.start_again),
            ("restart_ms", self.restart),
            ("reload_ms", self.reload),
            ("storm_kill_ms", self.kill),
            ("storm_ms", self.storm),
            ("storm_status_p99_ms", self.status_p99),
        ];
        for (metric, took) in steps {
            figures::print(metric, took.as_millis(), "ms");
        }
        figures::print("storm_exits_wrong", self.exits_wrong, "exits");
        figures::print("keeper_pss", self.keeper_pss_kib, "KiB");
        figures::print("supervisor_pss", self.supervisor_pss_kib, "KiB");
    }
}
