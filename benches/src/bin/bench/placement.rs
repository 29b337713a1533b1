//! Where the ends of a measurement run.

use anyhow::Result;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Where the ends of a measurement run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Wherever the kernel puts them.
    Unpinned,
    /// All on one core.
    OneCore,
    /// Each on a core of its own; needs two.
    TwoCores,
}

impl Placement {
    /// The core of the end with this number; `None` leaves it to the kernel.
    pub fn core(self, end: usize, cores: &[usize]) -> Option<usize> {
        match self {
            Placement::Unpinned => None,
            Placement::OneCore => cores.first().copied(),
            Placement::TwoCores => cores.get(end % cores.len().max(1)).copied(),
        }
    }

    /// Whether this machine has the cores for it.
    pub fn is_possible(self, cores: &[usize]) -> bool {
        self != Placement::TwoCores || cores.len() >= 2
    }
}

/// The cores that this process may use.
pub fn cores() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect())
}

/// Pins this process to one core.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
