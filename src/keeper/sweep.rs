//! The very end: nothing that descends from the keeper survives it.
//!
//! As a subreaper the keeper becomes the parent of everything whose own parent has died, so killing its children until
//! there are none reaches what instances left behind as well.

use std::os::fd::BorrowedFd;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::name::Kind;
use super::protocol::RawName;
use super::store::Store;
use super::sys;

/// Kills every process whose pidfd is in the store, each with its process group.
pub(super) fn kill_stored(store: &Store) {
    let is_pidfd = |name: &RawName| name[..2] == (Kind::Pidfd as u16).to_le_bytes();
    store
        .after(None)
        .filter(|(name, _)| is_pidfd(name))
        .for_each(|(_, pidfd): (_, BorrowedFd<'_>)| sys::kill_group(pidfd));
}

/// Kills every child that the kernel lists now; answers how many.
pub(super) fn kill_children() -> usize {
    let own = std::process::id();
    // A kernel built without this list leaves children to their group kill; the time limit of the end still holds.
    let list = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
    let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw);
    // They are ours and not reaped, so these pids are theirs; one that has ended already needs no signal.
    pids.filter(|pid| kill(*pid, Signal::SIGKILL).is_ok()).count()
}
