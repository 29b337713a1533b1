//! How long nobody answers after the SIGKILL of a supervisor with a thousand instances, and what its successor computes
//! until it does: the second figure says more than the first on a machine that is busy with other things.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::manager::Manager;
use super::memory;
use crate::figures::{Figures, median};

/// How often a supervisor is killed.
const KILLS: usize = 30;
/// A successor answers within this time, or never.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two kills: what a successor has left for later is done by then.
const PAUSE: Duration = Duration::from_millis(1500);

/// Kills the supervisor again and again.
pub fn sample(manager: &Manager, figures: &mut Figures) -> Result<()> {
    let online = manager.online()?;
    let (mut absences, mut computed) = (Vec::new(), Vec::new());
    for _ in 0..KILLS {
        std::thread::sleep(PAUSE);
        let before = supervisor(manager)?;
        let killed = Instant::now();
        kill(Pid::from_raw(before.cast_signed()), Signal::SIGKILL)?;
        let successor = loop {
            // Nobody may answer, or the one that is dying.
            match supervisor(manager) {
                Ok(pid) if pid != before => break pid,
                Ok(_) | Err(_) => ensure!(killed.elapsed() < LIMIT, "no supervisor answers"),
            }
        };
        absences.push(killed.elapsed().as_secs_f64() * 1e3);
        computed.push(memory::busy(successor)? as f64 / 1e6);
    }
    ensure!(manager.online()? == online, "a kill of the supervisor has cost an instance");
    absences.sort_by(f64::total_cmp);
    figures.add("absence_1000_p50", "ms", median(absences.clone()));
    figures.add("absence_1000_max", "ms", absences[KILLS - 1]);
    figures.add("adoption_1000_cpu", "ms", median(computed));
    Ok(())
}

fn supervisor(manager: &Manager) -> Result<u32> {
    let pids = manager.pids()?;
    ensure!(pids.len() == 2, "nobody answers");
    Ok(pids[1])
}
