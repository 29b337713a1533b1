//! What keeper and supervisor hold and use: descriptors, memory, processor time; and the processes of a home.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use measure::interrupt;
use measure::stand::{Pids, is_alive};

/// What was let go is closed at the latest.
const QUIET_LIMIT: Duration = Duration::from_secs(30);
/// The kernel's unit of processor time, on every architecture that Herdwire runs on.
const TICK: Duration = Duration::from_millis(10);
const PAGE_KIB: u64 = 4;

/// What both hold at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Footprint {
    /// Of both together.
    pub descriptors: u64,
    pub keeper_kib: u64,
    pub supervisor_kib: u64,
}

impl Footprint {
    /// What they hold, once the number of descriptors stays the same.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn settled(pids: Pids) -> anyhow::Result<Footprint> {
        Ok(Footprint {
            descriptors: settled_descriptors(pids)?,
            keeper_kib: resident_kib(pids.keeper)?,
            supervisor_kib: resident_kib(pids.supervisor)?,
        })
    }
}

/// Descriptors that a process holds, but for logs and files of /proc: a supervisor that takes over opens those when there is
/// something to write or to look at, and lets go of them with their instance.
fn lasting_descriptors(pid: u32) -> Option<usize> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let is_lasting = |path: &Path| {
        let is_log = path.to_string_lossy().contains(".log");
        !is_log && !path.starts_with("/proc")
    };
    Some(entries.flatten().filter(|entry| fs::read_link(entry.path()).is_ok_and(|path| is_lasting(&path))).count())
}

/// Descriptors of keeper and supervisor, once their number stays the same.
pub fn settled_descriptors(pids: Pids) -> anyhow::Result<u64> {
    /// Outboxes of the dead are let go about once a second.
    const STEADY: Duration = Duration::from_millis(2500);
    let count = || [pids.keeper, pids.supervisor].into_iter().filter_map(lasting_descriptors).sum::<usize>() as u64;
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

/// Memory of a process that is in use, in KiB.
pub fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).with_context(|| format!("process {pid}"))?;
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).context("an odd statm")?;
    Ok(pages * PAGE_KIB)
}

/// Processor time that a process has used.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let (_, rest) = text.rsplit_once(") ").context("an odd stat")?;
    let ticks: u32 = rest.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
    Ok(TICK * ticks)
}

/// Processes of a home, by their environment, keeper and supervisor included.
pub fn processes(home: &Path) -> anyhow::Result<Vec<u32>> {
    let mark = format!("HERDWIRE_HOME={}", home.display());
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_ours = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) && is_alive(*pid)
    };
    Ok(pids.filter(is_ours).collect())
}

/// Children of a process that have ended and that it has not reaped.
pub fn zombies(parent: u32) -> usize {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| !is_alive(*pid)).count()
}

/// By how much something has grown beyond a share and a little that is noise, in KiB; 0 when it has not.
pub fn growth_kib(before: u64, after: u64) -> u64 {
    /// What an allocator may keep for itself.
    const NOISE_KIB: u64 = 512;
    after.saturating_sub(before + before / 20 + NOISE_KIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_time_and_growth_is_what_exceeds_a_twentieth() {
        let me = std::process::id();
        assert!(resident_kib(me).unwrap() > 100);
        processor_time(me).unwrap();
        assert_eq!(growth_kib(20_000, 21_000), 0);
        assert_eq!(growth_kib(20_000, 22_000), 488);
    }
}
