//! What `/proc` says about a process.

use std::fs;

use anyhow::{Context, Result};

/// Bytes of memory, shared pages divided among those who share them.
pub fn pss(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{path}`"))?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("Pss:")).with_context(|| format!("no Pss in `{path}`"))?;
    let kib = line.trim().trim_end_matches("kB").trim().parse::<u64>()?;
    Ok(kib << 10)
}

/// Nanoseconds that all threads of a process have computed.
pub fn busy(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that has ended meanwhile has computed as good as nothing since.
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        sum += text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// The same for several processes together.
pub fn busy_of(pids: &[u32]) -> Result<u64> {
    pids.iter().map(|pid| busy(*pid)).sum()
}

/// Whether there is such a process, one that only waits to be reaped excepted.
pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may hold anything.
    stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()).is_some_and(|state| state != 'Z')
}
