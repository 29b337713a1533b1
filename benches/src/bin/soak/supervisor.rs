//! `soak supervisor`: the supervisor is killed again and again, and nobody notices.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use flood::account::{Account, Figure, PUBLISHERS};
use flood::control::{Control, Phase};
use flood::verdict;
use measure::stand::{Pids, Stand, descriptors, send};
use measure::{figures, interrupt, place};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::exits::{self, Comparison};
use crate::lines::{self, Lines};
use crate::promise::Promises;
use crate::random::Random;

/// Everybody is there at the latest.
const START_LIMIT: Duration = Duration::from_secs(60);
/// After a kill the next supervisor answers at the latest.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Logs, rings and descriptors have settled at the latest.
const QUIET_LIMIT: Duration = Duration::from_secs(30);
/// An instance exits within this time.
const EXIT_LIMIT: Duration = Duration::from_secs(3);
/// How long it takes the supervisor, at most, to answer an exit with a new process.
const ANSWER: Duration = Duration::from_millis(15);
/// How many descriptors more or less are none leaked: somebody may just be asking.
const TOLERANCE: u64 = 2;

/// What a run looks like.
#[derive(Debug, Args)]
pub struct Options {
    /// How often the supervisor is killed.
    #[arg(long, default_value_t = 50)]
    kills: u64,
    /// How many instances.
    #[arg(long, default_value_t = 8)]
    instances: usize,
    /// The longest time between two kills.
    #[arg(long, default_value_t = 1.5)]
    seconds_between: f64,
}

/// Runs it, prints its figures, returns the promises that were broken.
pub fn run(options: &Options, keep: bool) -> anyhow::Result<Vec<String>> {
    ensure!((2..=PUBLISHERS).contains(&options.instances), "--instances: 2 to {PUBLISHERS}");
    let mut stand = Stand::new()?;
    let outcome = soak(options, &mut stand);
    let ended = stand.finish(keep);
    let outcome = outcome?;
    ended?;
    outcome.print();
    Ok(outcome.promises(options))
}

struct Outcome {
    kills: u64,
    longest_absence: Duration,
    restarted: u64,
    lines: Lines,
    messages: u64,
    messages_lost: u64,
    doubled: u64,
    reordered: u64,
    corrupt: u64,
    exits: Comparison,
    leaked: u64,
}

fn soak(options: &Options, stand: &mut Stand) -> anyhow::Result<Outcome> {
    let folder = stand.work();
    let control = Control::open(&folder)?;
    let pids = stand.start(&config(options, stand)?)?;
    let accounts: Vec<Account> =
        (0..options.instances).map(|index| Account::read(&folder, index)).collect::<Result<_, _>>()?;
    let all_there = || Ok(accounts.iter().all(|account| account.figure(Figure::Starts) > 0));
    ensure!(interrupt::wait_for(START_LIMIT, all_there)?, "not all instances have come up");
    let before = settled_descriptors(pids)?;

    control.set(Phase::Run);
    let (kills, longest_absence) = kill_again_and_again(options, &accounts, stand, pids)?;
    // The last of those who died over it are back.
    interrupt::sleep_until(Instant::now() + Duration::from_secs(1))?;
    control.set(Phase::Stop);

    // What is not there by then is lost, and counted so.
    interrupt::wait_for(QUIET_LIMIT, || Ok(verdict::is_quiet(&accounts)))?;
    let pids = stand.pids()?;
    let after = settled_descriptors(pids)?;
    let instances = stand.instances()?;
    let lines = lines::settled(&instances, &accounts)?;
    let verdict = verdict::of(&accounts);
    Ok(Outcome {
        kills,
        longest_absence,
        restarted: restarted(&instances, &accounts),
        lines,
        messages: verdict.received,
        messages_lost: verdict.lost,
        doubled: verdict.doubled,
        reordered: verdict.reordered,
        corrupt: verdict.corrupt,
        exits: exits::compare(&stand.log()?, &instances, &accounts),
        leaked: before.abs_diff(after).saturating_sub(TOLERANCE),
    })
}

/// Kills the supervisor at random moments; returns how often, and how long it took at most until the next one answered.
fn kill_again_and_again(
    options: &Options,
    accounts: &[Account],
    stand: &mut Stand,
    mut pids: Pids,
) -> anyhow::Result<(u64, Duration)> {
    let mut random = Random::new()?;
    let longest = Duration::try_from_secs_f64(options.seconds_between).context("--seconds-between")?;
    let mut longest_absence = Duration::ZERO;
    for count in 0..options.kills {
        match random.below(4) {
            // As soon as it answers.
            0 => {}
            // While it is busy with an exit.
            1 => {
                wait_for_exit(accounts)?;
                std::thread::sleep(ANSWER * random.below(1000) as u32 / 1000);
            }
            _ => interrupt::sleep_until(Instant::now() + longest * random.below(1000) as u32 / 1000)?,
        }
        send(pids.supervisor, Signal::SIGKILL)?;
        let killed = Instant::now();
        let mut successor = None;
        let is_back = || {
            // Nobody answers while there is none.
            successor = stand.pids().ok().filter(|now| now.supervisor != pids.supervisor);
            Ok(successor.is_some())
        };
        interrupt::wait_for(READY_LIMIT, is_back)?;
        let successor = successor.with_context(|| format!("no supervisor answers after kill {}", count + 1))?;
        ensure!(successor.keeper == pids.keeper, "the keeper is another one after kill {}", count + 1);
        longest_absence = longest_absence.max(killed.elapsed());
        pids = successor;
    }
    Ok((options.kills, longest_absence))
}

/// Waits until the next instance is about to exit, if one does.
fn wait_for_exit(accounts: &[Account]) -> anyhow::Result<()> {
    let exits = || accounts.iter().map(|account| account.figure(Figure::ExitCount)).sum::<u64>();
    let (before, until) = (exits(), Instant::now() + EXIT_LIMIT);
    while exits() == before && Instant::now() < until {
        interrupt::check()?;
        // Short, since what follows takes milliseconds.
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// Descriptors of keeper and supervisor, once their number stays the same.
fn settled_descriptors(pids: Pids) -> anyhow::Result<u64> {
    /// Outboxes of the dead are let go about once a second.
    const STEADY: Duration = Duration::from_millis(2500);
    let count = || [pids.keeper, pids.supervisor].into_iter().filter_map(descriptors).sum::<usize>() as u64;
    let (mut last, mut since) = (count(), Instant::now());
    interrupt::wait_for(QUIET_LIMIT, || {
        let now = count();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok(since.elapsed() >= STEADY)
    })?;
    Ok(last)
}

/// Starts that no exit explains, by the workers' own accounts and by what the supervisor has counted.
fn restarted(instances: &[Value], accounts: &[Account]) -> u64 {
    let mut sum = 0;
    for instance in instances {
        let account = &accounts[index(instance)];
        let (starts, exits) = (account.figure(Figure::Starts), account.figure(Figure::ExitCount));
        let counted = instance["pm2_env"]["restart_time"].as_u64().unwrap_or(u64::MAX);
        let wrong = counted.abs_diff(exits).max(starts.abs_diff(exits + 1));
        if wrong > 0 {
            let id = &instance["pm_id"];
            eprintln!("instance {id}: {starts} starts, {exits} exits, restart_time {counted}");
        }
        sum += wrong;
    }
    sum
}

/// Which instance of its app this is. `jlist` always says.
pub fn index(instance: &Value) -> usize {
    instance["pm2_env"]["NODE_APP_INSTANCE"].as_u64().expect("jlist has every instance's index") as usize
}

fn config(options: &Options, stand: &Stand) -> anyhow::Result<String> {
    let program = place::built("chatter")?;
    Ok(format!(
        r#"
[status]
listen = "127.0.0.1:0"

[[app]]
name = "chatter"
script = {program:?}
interpreter = "none"
instances = {instances}
env = {{ FLOOD_FOLDER = {folder:?} }}
wait_ready = true
listen_timeout = "30s"
# However often one exits, it comes back at once.
max_restarts = 1000000
min_uptime = 0
"#,
        instances = options.instances,
        folder = stand.work(),
    ))
}

impl Outcome {
    fn print(&self) {
        figures::print("kills", self.kills, "supervisors");
        figures::print("longest_absence_ms", self.longest_absence.as_millis(), "ms");
        figures::print("instances_restarted", self.restarted, "instances");
        figures::print("lines", self.lines.written, "lines");
        figures::print("lines_lost", self.lines.lost, "lines");
        figures::print("lines_doubled", self.lines.doubled, "lines");
        figures::print("lines_torn", self.lines.torn, "lines");
        figures::print("messages", self.messages, "messages");
        figures::print("messages_lost", self.messages_lost, "messages");
        figures::print("messages_doubled", self.doubled, "messages");
        figures::print("messages_reordered", self.reordered, "messages");
        figures::print("messages_corrupt", self.corrupt, "messages");
        figures::print("exits", self.exits.exits, "exits");
        figures::print("exits_wrong", self.exits.wrong, "exits");
        figures::print("descriptors_leaked", self.leaked, "descriptors");
    }

    fn promises(&self, options: &Options) -> Vec<String> {
        let mut promises = Promises::default();
        promises.holds(self.kills == options.kills, || "the supervisor was not killed as often as asked".to_owned());
        promises.holds(self.lines.written > 0, || "nothing was logged".to_owned());
        promises.holds(self.messages > 0, || "no message was exchanged".to_owned());
        promises.holds(self.exits.exits > 0, || "nobody has exited".to_owned());
        promises.is_zero("instances_restarted", self.restarted);
        promises.is_zero("lines_lost", self.lines.lost);
        promises.is_zero("lines_doubled", self.lines.doubled);
        promises.is_zero("lines_torn", self.lines.torn);
        promises.is_zero("messages_lost", self.messages_lost);
        promises.is_zero("messages_doubled", self.doubled);
        promises.is_zero("messages_reordered", self.reordered);
        promises.is_zero("messages_corrupt", self.corrupt);
        promises.is_zero("exits_wrong", self.exits.wrong);
        promises.is_zero("descriptors_leaked", self.leaked);
        promises.broken()
    }
}
