//! What the keeper asks of the kernel that no safe wrapper has, with what belongs to it: signals, reaping, killing.
//!
//! Owns nothing. Everything here returns at once.

#![allow(unsafe_code)] // waitid, waitpid with all that it takes, and dispositions exist only as unsafe functions.

use std::io;
use std::mem::zeroed;

use nix::errno::Errno;
use nix::sys::signal::Signal::*;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal as dispose, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::protocol::{Message, Words, verb};
use crate::process::Pidfd;

/// What is waited for through the signal descriptor.
const AWAITED: [Signal; 4] = [SIGCHLD, SIGTERM, SIGINT, SIGQUIT];

const IGNORED: [Signal; 7] = [SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2, SIGTSTP, SIGTTIN, SIGTTOU];

/// Sets every disposition and the mask, whatever was inherited, and takes the signals that are waited for. The table of
/// signals stands in `keeper`.
pub(super) fn take_signals() -> io::Result<SignalFd> {
    for number in Signal::iterator() {
        let handler = if IGNORED.contains(&number) { SigHandler::SigIgn } else { SigHandler::SigDfl };
        // SAFETY: no function of ours is installed, so none can run at a wrong moment. It is refused for SIGKILL and
        // SIGSTOP, whose dispositions are what they are.
        let _ = unsafe { dispose(number, handler) };
    }
    let awaited = SigSet::from_iter(AWAITED);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&awaited), None)?;
    Ok(SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Whether this is a child that was not reaped yet, so that the pid is its own.
pub(super) fn is_child(pid: u32) -> bool {
    ended(Some(pid)).is_ok()
}

/// Reaps one child that has ended, this one or any, and answers its exit, which has no number yet.
///
/// # Errors
/// `ECHILD` when there is no such child.
pub(super) fn reap(which: Option<u32>) -> io::Result<Option<Words>> {
    let pid = ended(which)?;
    // Before it is reaped, while the pid is still its own.
    let inode = Pidfd::open(pid as u32).ok().and_then(|pidfd| pidfd.identity()).unwrap_or(0);
    let mut status = 0;
    // SAFETY: waitpid only writes to `status`, which outlives the call.
    if pid == 0 || unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG | libc::__WALL) } != pid {
        return Ok(None);
    }
    Ok(Some(Message::new([verb::EXIT, 0, pid as u64, inode, status as u64]).words))
}

/// The pid of a child that has ended and was not reaped, 0 if none has.
fn ended(which: Option<u32>) -> io::Result<libc::pid_t> {
    let (kind, pid) = which.map_or((libc::P_ALL, 0), |pid| (libc::P_PID, pid));
    // SAFETY: all-zero is a valid siginfo_t, and what waitid leaves untouched (nothing ended) must read as pid 0.
    let mut info: libc::siginfo_t = unsafe { zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: waitid only writes to `info`, which outlives the call.
    Errno::result(unsafe { libc::waitid(kind, pid, &raw mut info, options) })?;
    // SAFETY: waitid fills the fields of a child's state change, or leaves the zeroes.
    Ok(unsafe { info.si_pid() })
}

/// Signals a child that was not reaped yet, so that the pid is its own.
pub(super) fn signal(pid: u32, signal: Signal) {
    // It fails only when the child has ended, which the next turn of the loop sees.
    let _ = kill(Pid::from_raw(pid as libc::pid_t), signal);
}

/// Kills every child that the kernel lists now. As a subreaper the keeper is the parent of everything whose own parent
/// has died, so that doing this until there are none reaches what instances left behind as well.
pub(super) fn kill_children() {
    let own = std::process::id();
    // A kernel built without this list leaves children to their group kill; the time limit of the end still holds.
    let list = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).for_each(|pid| signal(pid, SIGKILL));
}
