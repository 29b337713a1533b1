//! What the keeper asks of the kernel that no safe wrapper has, with what belongs to it: signals, reaping, killing, and
//! the start of a supervisor.
//!
//! Owns nothing. Everything here returns at once.

#![allow(unsafe_code)] // wait4, pidfds by number, close_range, dispositions and fork exist only as unsafe functions.

use std::ffi::{CString, OsStr, OsString};
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr::null;
use std::time::Duration;
use std::{env, io};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal::*;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, sigaction, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, fexecve, setsid};

use super::protocol::{Exit, ExitStatus};

/// Descriptors from here on are out of the way of those that a child is given by number.
const OUT_OF_THE_WAY: RawFd = 10;

/// `PIDFD_SIGNAL_PROCESS_GROUP`, since Linux 6.9.
const TO_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// `PID_FS_MAGIC`: on this file system a pidfd's inode tells its process from every other of this boot.
const PIDFS: i64 = 0x5049_4446;

/// What a program exits with that could not be executed, as in a shell.
pub(super) const NOT_EXECUTED: i32 = 127;

/// What is waited for through the signal descriptor.
const AWAITED: [Signal; 4] = [SIGCHLD, SIGTERM, SIGINT, SIGQUIT];

const IGNORED: [Signal; 7] = [SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2, SIGTSTP, SIGTTIN, SIGTTOU];

/// Sets every disposition and the mask, whatever was inherited, and takes the signals that are waited for. The table of
/// signals stands in `keeper`.
pub(super) fn take_signals() -> io::Result<SignalFd> {
    for signal in Signal::iterator().filter(|signal| !matches!(signal, SIGKILL | SIGSTOP)) {
        let handler = if IGNORED.contains(&signal) { SigHandler::SigIgn } else { SigHandler::SigDfl };
        // SAFETY: no function of ours is installed, so none can run at a wrong moment.
        unsafe { sigaction(signal, &SigAction::new(handler, SaFlags::empty(), SigSet::empty())) }?;
    }
    let awaited = SigSet::from_iter(AWAITED);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&awaited), None)?;
    Ok(SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// What there is to reap.
#[derive(Debug)]
pub(super) enum Reaped {
    /// One child has ended and was reaped. The number is still to be given.
    Ended(Exit),
    /// Children, none of which has ended.
    Nothing,
    /// No children at all.
    NoChildren,
}

/// Reaps one child.
pub(super) fn reap() -> Reaped {
    let Some(pid) = peek() else { return Reaped::NoChildren };
    if pid == 0 {
        return Reaped::Nothing;
    }
    // Before it is reaped, while the pid is still its own.
    let pidfd_inode = pidfd_inode(pid).unwrap_or(0);
    let Some((status, usage)) = reap_pid(pid) else { return Reaped::Nothing };
    let duration = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    let (user_time, system_time) = (duration(usage.ru_utime), duration(usage.ru_stime));
    Reaped::Ended(Exit { sequence: 0, pid: pid as u32, pidfd_inode, status, user_time, system_time })
}

/// Reaps this child if it has ended. For supervisors, which are looked after also while nothing else is reaped.
pub(super) fn reap_this(pid: u32) -> Option<ExitStatus> {
    reap_pid(pid as libc::pid_t).map(|(status, _)| status)
}

/// The pid of a child that has ended, 0 if none has, `None` if there are no children.
fn peek() -> Option<libc::pid_t> {
    // SAFETY: all-zero is a valid siginfo_t, and what waitid leaves untouched (nothing ended) must read as pid 0.
    let mut info: libc::siginfo_t = unsafe { zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: waitid only writes to `info`, which outlives the call.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) } != 0 {
        return None;
    }
    // SAFETY: waitid fills the fields of a child's state change, or leaves the zeroes.
    Some(unsafe { info.si_pid() })
}

fn reap_pid(pid: libc::pid_t) -> Option<(ExitStatus, libc::rusage)> {
    let mut status = 0;
    // SAFETY: all-zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { zeroed() };
    // SAFETY: wait4 only writes to the two places, which outlive the call.
    let reaped = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG | libc::__WALL, &raw mut usage) };
    if reaped != pid {
        return None;
    }
    Some((ExitStatus::of_wait(status), usage))
}

/// The inode of a process's pidfd; `None` where it identifies nothing.
fn pidfd_inode(pid: libc::pid_t) -> Option<u64> {
    // SAFETY: takes two numbers and returns a descriptor or -1.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let raw = RawFd::try_from(raw).ok().filter(|raw| *raw >= 0)?;
    // SAFETY: the kernel has just made this descriptor, for us alone.
    let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
    let on_pidfs = nix::sys::statfs::fstatfs(&pidfd).ok()?.filesystem_type().0 as i64 == PIDFS;
    on_pidfs.then(|| nix::sys::stat::fstat(&pidfd).ok().map(|stat| stat.st_ino))?
}

/// Kills a process and its process group.
pub(super) fn kill_group(pidfd: BorrowedFd<'_>) {
    let (pidfd, no_info) = (pidfd.as_raw_fd(), null::<libc::siginfo_t>());
    for flags in [TO_PROCESS_GROUP, 0] {
        // SAFETY: numbers and a null pointer, which stands for a plain signal. It fails where the process is gone or
        // the kernel knows no groups here, and there is nothing more to do about either.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGKILL, no_info, flags) };
    }
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

/// Closes all descriptors but stdio. Before anything else is opened: whoever still owns one must never use it again.
pub(super) fn close_all() {
    close_range(0);
}

/// Has all descriptors but stdio closed by the next exec.
pub(super) fn close_at_exec() {
    close_range(libc::CLOSE_RANGE_CLOEXEC);
}

fn close_range(flags: libc::c_uint) {
    // SAFETY: takes numbers; that nobody needs these descriptors is up to the callers.
    unsafe { libc::syscall(libc::SYS_close_range, 3, RawFd::MAX, flags) };
}

/// A copy that no descriptor given to a child by number replaces.
pub(super) fn out_of_the_way(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    let copy = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(OUT_OF_THE_WAY))?;
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Becomes a program, with these arguments; returns only when that fails.
pub(super) fn execute(program: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let mut executed = fexecve(program, arguments, environment);
    // A script: its interpreter is to open it by its number, which may then stay open.
    if executed == Err(Errno::ENOENT) && fcntl(program, FcntlArg::F_SETFD(FdFlag::empty())).is_ok() {
        executed = fexecve(program, arguments, environment);
    }
    let Err(errno) = executed;
    errno.into()
}

/// Our environment as a program is given it.
pub(super) fn environment() -> Vec<CString> {
    // It came from C strings, so that it holds no NUL.
    let entry = |(name, value): (OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
    env::vars_os().map(entry).filter_map(|entry| CString::new(entry).ok()).collect()
}

/// Sets or removes a variable of our environment, which supervisors and later keepers are given.
pub(super) fn set_variable(name: &str, value: Option<&OsStr>) {
    // SAFETY: this process has no other thread that could look at the environment.
    unsafe { value.map_or_else(|| env::remove_var(name), |value| env::set_var(name, value)) };
}

/// Starts a supervisor in a session of its own, with `end` as its descriptor 3, our stdio (but `stderr`, if given) and
/// nothing else of ours: default signals, an empty mask. `program` and `end` are [`out_of_the_way`].
///
/// It is not waited for: a program that cannot be executed says so on its stderr and exits with [`NOT_EXECUTED`].
pub(super) fn start(
    program: BorrowedFd<'_>,
    (arguments, environment): (&[CString], &[CString]),
    end: BorrowedFd<'_>,
    stderr: Option<BorrowedFd<'_>>,
) -> io::Result<u32> {
    // SAFETY: this process has no other thread, so its child may do what any program may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let error = prepare(end, stderr).err().unwrap_or_else(|| execute(program, arguments, environment));
            eprintln!("herdwire: the supervisor's program cannot be executed: {error}");
            // SAFETY: ends the child, which is still a copy of us, before anything of ours is dropped in it.
            unsafe { libc::_exit(NOT_EXECUTED) }
        }
        child => Ok(child as u32),
    }
}

fn prepare(end: BorrowedFd<'_>, stderr: Option<BorrowedFd<'_>>) -> io::Result<()> {
    setsid()?;
    // Where the keeper could make itself hard to kill, its supervisor is to be easier to kill; where not, neither changes.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-500");
    // Not by `sigaction`, which leaves out the two signals that the C library keeps for itself: a parent may have had
    // them ignored, which survives every exec.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads one action from `default`, which is long enough and installs no function.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), null::<u64>(), size_of::<u64>());
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    if let Some(stderr) = stderr {
        nix::unistd::dup2_stderr(stderr)?;
    }
    close_at_exec();
    // SAFETY: nobody in this process uses descriptor 3 by now, whatever it is: what is still needed lies beyond it.
    match unsafe { libc::dup2(end.as_raw_fd(), super::client::INHERITED) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
