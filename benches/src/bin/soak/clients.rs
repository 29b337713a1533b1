//! `soak clients`: thousands of control connections that say nothing, say it a byte at a time, or have closed half, and
//! whoever asks is answered as if they were not there.

use std::collections::VecDeque;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use measure::stand::{Stand, descriptors};
use measure::{figures, interrupt, place};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::footprint::settled_descriptors;
use crate::promise::Promises;

/// Connections that send a byte a second, and those that have closed their half.
const SLOW: usize = 200;
const QUESTIONS: usize = 200;
/// Descriptors of the supervisor for control connections at most.
const HELD: usize = 600;
const TOLERANCE: u64 = 2;
/// All have come at the latest.
const COME_LIMIT: Duration = Duration::from_secs(60);

/// What a run looks like.
#[derive(Debug, Args)]
pub struct Options {
    /// How many connections say nothing.
    #[arg(long, default_value_t = 5000)]
    idle: usize,
}

/// Runs it, prints its figures, returns the promises that were broken.
pub fn run(options: &Options, keep: bool) -> anyhow::Result<Vec<String>> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(options.idle as u64 + 1000 < most, "--idle: this process may have {most} descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut stand = Stand::new()?;
    let outcome = crowd(options, &mut stand);
    let ended = stand.finish(keep);
    let promises = outcome?;
    ended?;
    Ok(promises.broken())
}

fn crowd(options: &Options, stand: &mut Stand) -> anyhow::Result<Promises> {
    let mut promises = Promises::default();
    let pids = stand.start("[status]\nlisten = \"127.0.0.1:0\"\n\n[[app]]\nname = \"nap\"\nscript = \"/bin/sleep\"\nargs = [\"infinity\"]\n")?;
    let before = settled_descriptors(pids)?;
    let (quiet, _) = ask(stand)?;
    let control = stand.home().join("control.sock");
    let over = AtomicBool::new(false);
    let (crowded, held) = std::thread::scope(|scope| {
        let (full, is_full) = std::sync::mpsc::channel();
        let crowd = scope.spawn(|| stay_many(&control, options.idle, full, &over));
        let slow = scope.spawn(|| dribble(&control, &over));
        // While they come, and once they are all there.
        let answers = ask(stand).and_then(|while_they_come| {
            is_full.recv_timeout(COME_LIMIT).context("they have not all come")?;
            let held = descriptors(pids.supervisor).context("the supervisor is gone")?;
            Ok(([while_they_come, ask(stand)?], held))
        });
        over.store(true, Relaxed);
        crowd.join().expect("it only connects")?;
        slow.join().expect("it only writes")?;
        answers
    })?;
    let failed = crowded.iter().map(|(_, failed)| failed).sum::<u64>();
    let left = settled_descriptors(pids)?;
    let leaked = left.saturating_sub(before + TOLERANCE);
    figures::print("idle_connections", options.idle, "connections");
    figures::print("connections_held", held as u64 - before.min(held as u64), "descriptors");
    for (name, took) in [("ping_quiet", &quiet), ("ping_as_they_come", &crowded[0].0), ("ping_with_all", &crowded[1].0)]
    {
        figures::print(&format!("{name}_p50_ms"), took[took.len() / 2].as_millis(), "ms");
        figures::print(&format!("{name}_p99_ms"), took[(took.len() - 1) * 99 / 100].as_millis(), "ms");
    }
    figures::print("pings_failed", failed, "pings");
    figures::print("descriptors_leaked", leaked, "descriptors");
    promises.is_zero("pings_failed", failed);
    promises.is_zero("descriptors_leaked", leaked);
    promises.holds(held < before as usize + HELD, || format!("{held} descriptors are held"));
    promises.holds(stand.pids()? == pids, || "the supervisor or the keeper was replaced".to_owned());
    Ok(promises)
}

/// Asks again and again; how long the answers took, sorted, and how many questions failed.
fn ask(stand: &Stand) -> anyhow::Result<(Vec<Duration>, u64)> {
    let (program, mut took, mut failed) = (place::built("herdwire")?, Vec::new(), 0);
    for _ in 0..QUESTIONS {
        interrupt::check()?;
        let began = Instant::now();
        let asked = Command::new(&program)
            .arg("ping")
            .env("HERDWIRE_HOME", stand.home())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        failed += u64::from(!asked.success());
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Ok((took, failed))
}

/// So many connections that say nothing, and once there are so many, a new one for the oldest again and again.
fn stay_many(control: &Path, count: usize, full: Sender<()>, over: &AtomicBool) -> std::io::Result<()> {
    let mut idle = VecDeque::new();
    while !over.load(Relaxed) {
        if idle.len() == count {
            idle.pop_front();
            std::thread::sleep(Duration::from_millis(1));
        }
        idle.push_back(UnixStream::connect(control)?);
        if idle.len() == count {
            // It is waited for once.
            let _ = full.send(());
        }
    }
    Ok(())
}

/// Connections that say something now and then, and never all of it; those that are closed come back.
fn dribble(control: &Path, over: &AtomicBool) -> std::io::Result<()> {
    let mut slow: Vec<UnixStream> = Vec::new();
    while !over.load(Relaxed) {
        while slow.len() < SLOW {
            let connection = UnixStream::connect(control)?;
            if slow.len().is_multiple_of(2) {
                connection.shutdown(Shutdown::Read)?;
            }
            slow.push(connection);
        }
        slow.retain_mut(|connection| connection.write_all(&[1]).is_ok());
        // A byte a second is what is meant; looking for the end more often does no harm.
        for _ in 0..10 {
            if over.load(Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}
