//! `soak flood`: everything that every worker published reaches every other worker once, in order and unharmed.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use flood::account::{Account, Figure, PUBLISHERS};
use flood::control::{Control, Phase};
use flood::verdict::{self, Verdict};
use measure::stand::{Pids, Stand, proportional_memory, send};
use measure::{figures, interrupt, place};
use nix::sys::signal::Signal;

use crate::promise::Promises;
use crate::random::Random;

/// Everybody is there at the latest.
const START_LIMIT: Duration = Duration::from_secs(60);
/// What is left is read at the latest.
const QUIET_LIMIT: Duration = Duration::from_secs(30);
/// After the last kill, so that whoever was killed is back before the end.
const RECOVERY: Duration = Duration::from_secs(1);
/// Memory is measured from here on.
const SETTLED: Duration = Duration::from_secs(5);
/// Bytes that may be unread before publishers slow down, where workers are killed.
const WINDOW: u64 = 2 << 20;
/// The most that memory may grow by.
const GROWTH_MIB: f64 = 10.0;

/// What a run looks like.
#[derive(Debug, Args)]
pub struct Options {
    /// How many workers.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// How long they publish.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Kill a random worker every so many seconds.
    #[arg(long)]
    kill_every: Option<f64>,
    /// Size of each worker's ring; 16MiB, or 64MiB when workers are killed.
    #[arg(long)]
    ring: Option<String>,
    /// The longest that a worker may pause when others are killed, in milliseconds.
    #[arg(long, default_value_t = 1000.0)]
    pause_limit: f64,
}

/// Runs it, prints its figures, returns the promises that were broken.
pub fn run(options: &Options, keep: bool) -> anyhow::Result<Vec<String>> {
    ensure!((2..=PUBLISHERS).contains(&options.workers), "--workers: 2 to {PUBLISHERS}");
    let mut stand = Stand::new()?;
    let outcome = flood(options, &mut stand);
    let ended = stand.finish(keep);
    let outcome = outcome?;
    ended?;
    outcome.print(options);
    Ok(outcome.promises(options))
}

struct Outcome {
    verdict: Verdict,
    kills: u64,
    /// Messages received per second.
    rate: f64,
    growth_mib: f64,
    /// Whether everything had been read at the end.
    quiet: bool,
}

fn flood(options: &Options, stand: &mut Stand) -> anyhow::Result<Outcome> {
    let folder = stand.work();
    let control = Control::open(&folder)?;
    let pids = stand.start(&config(options, stand)?)?;
    let accounts: Vec<Account> =
        (0..options.workers).map(|index| Account::read(&folder, index)).collect::<Result<_, _>>()?;
    let all_there = || Ok(accounts.iter().all(|account| account.figure(Figure::Starts) > 0));
    ensure!(interrupt::wait_for(START_LIMIT, all_there)?, "not all workers have come up");

    let began = Instant::now();
    control.set(Phase::Run);
    let settled = began + SETTLED.min(Duration::from_secs(options.seconds) / 2);
    let end = began + Duration::from_secs(options.seconds);
    let mut kills = Kills::new(options, began, end)?;
    kills.until(settled, stand)?;
    let before = memory_mib(&accounts, pids);
    kills.until(end, stand)?;
    let after = memory_mib(&accounts, pids);
    let (received, seconds) = (verdict::of(&accounts).received, began.elapsed().as_secs_f64());
    control.set(Phase::Stop);
    let quiet = interrupt::wait_for(QUIET_LIMIT, || Ok(verdict::is_quiet(&accounts)))?;
    let verdict = verdict::of(&accounts);
    let (rate, growth_mib) = (received as f64 / seconds, after - before);
    Ok(Outcome { verdict, kills: kills.count, rate, growth_mib, quiet })
}

/// Memory of keeper, supervisor and workers. What they share counts once.
fn memory_mib(accounts: &[Account], pids: Pids) -> f64 {
    let workers = accounts.iter().map(|account| account.figure(Figure::Pid) as u32);
    let all = workers.chain([pids.keeper, pids.supervisor]);
    // Whoever is just being restarted has none.
    all.filter_map(proportional_memory).sum::<u64>() as f64 / f64::from(1 << 20)
}

fn config(options: &Options, stand: &Stand) -> anyhow::Result<String> {
    let program = place::built("flood")?;
    // While a worker restarts, nobody waits for it, and what the others publish meanwhile is kept only as far as their
    // rings reach beyond what it had not read yet. So they slow down long before the rings are full.
    let (ring, window) = match options.kill_every {
        None => ("16MiB", String::new()),
        Some(_) => ("64MiB", format!(r#", "--window", "{WINDOW}""#)),
    };
    let ring = options.ring.as_deref().unwrap_or(ring);
    Ok(format!(
        r#"
[status]
listen = "127.0.0.1:0"

[[app]]
name = "flood"
script = {program:?}
interpreter = "none"
args = ["--size", "{size}"{window}]
instances = {workers}
env = {{ FLOOD_FOLDER = {folder:?} }}
wait_ready = true
listen_timeout = "30s"
# However often one is killed, it comes back.
max_restarts = 1000000
min_uptime = 0
ring_size = "{ring}"
"#,
        size = options.size,
        workers = options.workers,
        folder = stand.work(),
    ))
}

/// Kills a random worker every now and then.
struct Kills {
    every: Option<Duration>,
    next: Instant,
    /// Whoever is killed last has to be back before the end.
    last: Instant,
    random: Random,
    count: u64,
}

impl Kills {
    fn new(options: &Options, began: Instant, end: Instant) -> anyhow::Result<Kills> {
        let every = match options.kill_every {
            Some(seconds) => Some(Duration::try_from_secs_f64(seconds).context("--kill-every")?),
            None => None,
        };
        let next = began + every.unwrap_or_default();
        Ok(Kills { every, next, last: end - RECOVERY.min(end - began), random: Random::new()?, count: 0 })
    }

    /// Goes on with it until a moment.
    fn until(&mut self, until: Instant, stand: &Stand) -> anyhow::Result<()> {
        while let Some(every) = self.every.filter(|_| self.next < until.min(self.last)) {
            interrupt::sleep_until(self.next)?;
            self.kill_one(stand)?;
            self.next += every;
        }
        interrupt::sleep_until(until)
    }

    fn kill_one(&mut self, stand: &Stand) -> anyhow::Result<()> {
        let pids = stand.instances()?.into_iter().filter_map(|instance| instance["pid"].as_u64());
        let living: Vec<u64> = pids.filter(|pid| *pid != 0).collect();
        if let Some(pid) = living.get(self.random.below(living.len().max(1) as u64) as usize) {
            send(*pid as u32, Signal::SIGKILL)?;
            self.count += 1;
        }
        Ok(())
    }
}

impl Outcome {
    fn print(&self, options: &Options) {
        let verdict = &self.verdict;
        let millis = |micros: u64| format!("{:.1}", micros as f64 / 1000.0);
        figures::print("sent", verdict.sent, "messages");
        figures::print("received", verdict.received, "messages");
        figures::print("lost", verdict.lost, "messages");
        figures::print("doubled", verdict.doubled, "messages");
        figures::print("reordered", verdict.reordered, "messages");
        figures::print("corrupt", verdict.corrupt, "messages");
        figures::print("rate", format!("{:.0}", self.rate), "messages/s");
        figures::print("longest_pause_ms", millis(verdict.longest_pause_us), "ms");
        figures::print("longest_publish_ms", millis(verdict.longest_publish_us), "ms");
        figures::print("memory_growth_mib", format!("{:.1}", self.growth_mib), "MiB");
        if options.kill_every.is_some() {
            figures::print("kills", self.kills, "workers");
            figures::print("lost_in_hand", verdict.lost_in_hand, "messages");
            figures::print("lost_uncommitted", verdict.lost_uncommitted, "messages");
            figures::print("lost_unexplained", verdict.lost_unexplained, "messages");
            figures::print("lagged", verdict.lagged, "messages");
        }
    }

    fn promises(&self, options: &Options) -> Vec<String> {
        let (verdict, mut promises) = (&self.verdict, Promises::default());
        promises.holds(verdict.received > 0, || "nothing was received".to_owned());
        promises.holds(self.quiet, || "not everything was read within the time for it".to_owned());
        promises.is_zero("doubled", verdict.doubled);
        promises.is_zero("reordered", verdict.reordered);
        promises.is_zero("corrupt", verdict.corrupt);
        promises.is_zero("lost_unexplained", verdict.lost_unexplained);
        match options.kill_every {
            None => {
                let expected = verdict.sent * (options.workers as u64 - 1);
                promises.is_zero("lost", verdict.lost);
                promises.holds(verdict.received == expected, || {
                    format!("received is {} and should be {expected}", verdict.received)
                });
                let growth = self.growth_mib;
                promises.holds(growth <= GROWTH_MIB, || format!("memory has grown by {growth:.1} MiB"));
            }
            Some(_) => {
                let pause = verdict.longest_pause_us.max(verdict.longest_publish_us) as f64 / 1000.0;
                promises.holds(self.kills > 0, || "nobody was killed".to_owned());
                promises.holds(pause <= options.pause_limit, || format!("a survivor has paused for {pause:.0} ms"));
            }
        }
        promises.broken()
    }
}
