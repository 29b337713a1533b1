//! `soak supervisor`: supervisor, keeper or both are killed, or the supervisor is replaced, again and again, and nobody
//! notices. Only where both die at once everything is started again, and then once.

mod faults;
mod herd;
mod releases;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use flood::account::{Account, Figure};
use flood::control::{Control, Phase};
use flood::verdict;
use measure::stand::Stand;
use measure::{figures, interrupt};
use serde_json::Value;

use crate::exits::{self, Comparison};
use crate::footprint::settled_descriptors;
use crate::lines::{self, Lines};
use crate::promise::Promises;
use faults::{Fault, Faults};

/// Everybody is there at the latest.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Logs, rings and descriptors have settled at the latest.
const QUIET_LIMIT: Duration = Duration::from_secs(30);
/// Instances that do something: more would keep two processors busy with themselves.
const CHATTERS: usize = 20;
/// How many descriptors more or less are none leaked: somebody may just be asking.
const TOLERANCE: u64 = 2;

/// What a run looks like.
#[derive(Debug, Args)]
pub struct Options {
    /// How often something is killed.
    #[arg(long, default_value_t = 50)]
    kills: u64,
    /// How many instances. Those beyond 20 only sleep.
    #[arg(long, default_value_t = 20)]
    instances: usize,
    /// The longest time between two kills.
    #[arg(long, default_value_t = 1.5)]
    seconds_between: f64,
    /// Kill the keeper instead of the supervisor.
    #[arg(long, conflicts_with_all = ["both", "upgrade"])]
    keeper: bool,
    /// Kill both at once, and have everything started again.
    #[arg(long, conflicts_with = "upgrade")]
    both: bool,
    /// Replace the supervisor so many times, by good and by bad releases in turn, instead of killing anything.
    #[arg(long, value_name = "N")]
    upgrade: Option<u64>,
}

impl Options {
    /// Instances that log, exchange messages and exit; the others only sleep.
    fn chatters(&self) -> usize {
        self.instances.min(CHATTERS)
    }

    fn fault(&self) -> Fault {
        match (self.keeper, self.both, self.upgrade) {
            (true, _, _) => Fault::Keeper,
            (_, true, _) => Fault::Both,
            (_, _, Some(_)) => Fault::Upgrade,
            _ => Fault::Supervisor,
        }
    }

    fn faults(&self) -> u64 {
        self.upgrade.unwrap_or(self.kills)
    }
}

/// Runs it, prints its figures, returns the promises that were broken.
pub fn run(options: &Options, keep: bool) -> anyhow::Result<Vec<String>> {
    ensure!((2..=herd::LIMIT).contains(&options.instances), "--instances: 2 to {}", herd::LIMIT);
    let mut stand = Stand::new()?;
    let outcome = soak(options, &mut stand);
    let ended = stand.finish(keep);
    let outcome = outcome?;
    ended?;
    outcome.print();
    Ok(outcome.promises(options))
}

struct Outcome {
    faults: Faults,
    restarted: u64,
    doubled_instances: u64,
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
    stand.start(&herd::config(options.instances, options.chatters(), stand)?)?;
    let accounts: Vec<Account> =
        (0..options.chatters()).map(|index| Account::read(&folder, index)).collect::<Result<_, _>>()?;
    let all_there = || Ok(accounts.iter().all(|account| account.figure(Figure::Starts) > 0));
    ensure!(interrupt::wait_for(START_LIMIT, all_there)?, "not all instances have come up");
    let longest = Duration::try_from_secs_f64(options.seconds_between).context("--seconds-between")?;
    let mut faults = Faults::new(options.fault(), longest, stand)?;
    if options.keeper {
        // From the first time on instances are no children of the keeper until they are restarted, and each takes two
        // descriptors more to be watched: this is when there are the most.
        faults.next(&accounts, stand)?;
    }
    let before = settled_descriptors(stand.pids()?)?;
    control.set(Phase::Run);
    for _ in 0..options.faults() {
        faults.next(&accounts, stand)?;
        if options.both {
            herd::is_whole(stand, options.instances)?;
        }
    }
    // The last of those who died over it are back.
    interrupt::sleep_until(Instant::now() + Duration::from_secs(1))?;
    control.set(Phase::Stop);

    // What is not there by then is lost, and counted so.
    interrupt::wait_for(QUIET_LIMIT, || Ok(verdict::is_quiet(&accounts)))?;
    let pids = stand.pids()?;
    let after = settled_descriptors(pids)?;
    let all = stand.instances()?;
    let doubled_instances = herd::doubled(&stand.home(), &all)?;
    let instances = herd::chatters(&all);
    let lines = lines::settled(&instances, &accounts)?;
    let verdict = verdict::of(&accounts);
    Ok(Outcome {
        faults,
        doubled_instances,
        restarted: restarted(&instances, &accounts),
        lines,
        messages: verdict.received,
        messages_lost: verdict.lost,
        doubled: verdict.doubled,
        reordered: verdict.reordered,
        corrupt: verdict.corrupt,
        exits: exits::compare(&stand.log()?, &instances, &accounts),
        leaked: after.saturating_sub(before + TOLERANCE),
    })
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

impl Outcome {
    fn print(&self) {
        self.faults.print();
        figures::print("instances_doubled", self.doubled_instances, "processes");
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
        self.faults.promises(&mut promises);
        promises.is_zero("instances_doubled", self.doubled_instances);
        promises.holds(self.lines.written > 0, || "nothing was logged".to_owned());
        promises.holds(self.messages > 0, || "no message was exchanged".to_owned());
        promises.holds(self.exits.exits > 0, || "nobody has exited".to_owned());
        promises.is_zero("descriptors_leaked", self.leaked);
        if options.both {
            // Whoever ran is started again, and what was on its way with both of them is gone with them.
            return promises.broken();
        }
        promises.is_zero("instances_restarted", self.restarted);
        promises.is_zero("lines_lost", self.lines.lost);
        promises.is_zero("lines_doubled", self.lines.doubled);
        promises.is_zero("lines_torn", self.lines.torn);
        promises.is_zero("messages_lost", self.messages_lost);
        promises.is_zero("messages_doubled", self.doubled);
        promises.is_zero("messages_reordered", self.reordered);
        promises.is_zero("messages_corrupt", self.corrupt);
        promises.is_zero("exits_wrong", self.exits.wrong);
        promises.broken()
    }
}
