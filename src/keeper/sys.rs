//! The system calls of the keeper that no safe wrapper has.
//!
//! Owns nothing. Everything here returns at once.

#![allow(unsafe_code)] // wait4, pidfds by number, close_range and the step from fork to exec exist only in libc.

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null;
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::protocol::ExitStatus;

/// Descriptors from here on are out of the way of those that a child is given by number.
const OUT_OF_THE_WAY: RawFd = 10;

/// Where a supervisor finds its end of the pair.
const SUPERVISOR_END: RawFd = super::client::INHERITED;

/// `PIDFD_SIGNAL_PROCESS_GROUP`, since Linux 6.9.
const TO_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// `PID_FS_MAGIC`: on this file system a pidfd's inode tells its process from every other of this boot.
const PIDFS: i64 = 0x5049_4446;

/// One child that has ended and was reaped.
#[derive(Debug)]
pub(super) struct Ended {
    pub pid: u32,
    pub pidfd_inode: u64,
    pub status: ExitStatus,
    pub user_time: Duration,
    pub system_time: Duration,
}

/// What there is to reap.
#[derive(Debug)]
pub(super) enum Reaped {
    Ended(Ended),
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
    match reap_pid(pid) {
        Some((status, usage)) => Reaped::Ended(Ended {
            pid: pid as u32,
            pidfd_inode,
            status,
            user_time: duration(usage.ru_utime),
            system_time: duration(usage.ru_stime),
        }),
        None => Reaped::Nothing,
    }
}

/// Reaps this child if it has ended. For the supervisor, which is looked after also while nothing else is reaped.
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
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: wait4 only writes to the two places, which outlive the call.
    let reaped = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG | libc::__WALL, usage.as_mut_ptr()) };
    if reaped != pid {
        return None;
    }
    let status = match libc::WIFSIGNALED(status) {
        true => ExitStatus::Signal(libc::WTERMSIG(status)),
        false => ExitStatus::Code(libc::WEXITSTATUS(status)),
    };
    // SAFETY: zeroed at first, which is a valid rusage, then filled by the kernel.
    Some((status, unsafe { usage.assume_init() }))
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
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
    for flags in [TO_PROCESS_GROUP, 0] {
        // SAFETY: numbers and a null pointer, which stands for a plain signal. It fails where the process is gone or
        // the kernel knows no groups here, and there is nothing more to do about either.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd.as_raw_fd(),
                libc::SIGKILL,
                null::<libc::siginfo_t>(),
                flags,
            )
        };
    }
}

/// Closes all descriptors from 3 on except `spared`.
///
/// To be called before anything else is opened: whoever still owns one of them must never use it again.
pub(super) fn close_others(spared: &mut [RawFd]) {
    spared.sort_unstable();
    let mut first = 3;
    for descriptor in spared.iter().copied().filter(|descriptor| *descriptor >= 3) {
        close_range(first, descriptor - 1, 0);
        first = descriptor + 1;
    }
    close_range(first, RawFd::MAX, 0);
}

fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) {
    if first <= last {
        // SAFETY: takes numbers; that nobody needs these descriptors is up to the callers.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    }
}

/// A copy of this descriptor that no descriptor given to a child by number replaces.
pub(super) fn out_of_the_way(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    let copy = nix::fcntl::fcntl(descriptor, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(OUT_OF_THE_WAY))?;
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Sets what a signal does to this process.
pub(super) fn set_disposition(signal: Signal, handler: SigHandler) -> io::Result<()> {
    debug_assert!(matches!(handler, SigHandler::SigDfl | SigHandler::SigIgn));
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: no function of ours is installed, so none can run at a wrong moment.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Starts a program in a session of its own, with `end` as descriptor 3, our stdio and nothing else of ours: default
/// signals, an empty mask. `program` and `end` are [`out_of_the_way`].
pub(super) fn start(
    program: BorrowedFd<'_>,
    arguments: &[CString],
    environment: &[CString],
    end: BorrowedFd<'_>,
) -> io::Result<u32> {
    let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).chain([null()]).collect::<Vec<_>>();
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: the child calls only what is async-signal-safe, on what was made above; it execs or exits.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => become_program(program, &arguments, &environment, end),
        child => Ok(child as u32),
    }
}

fn become_program(
    program: BorrowedFd<'_>,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
    end: BorrowedFd<'_>,
) -> ! {
    const FAILED: &[u8] = b"herdwire: the supervisor's program cannot be executed\n";
    // SAFETY: plain system calls on numbers, an initialised set and null-terminated arrays that outlive them; none
    // allocates or locks, and this process has no other thread.
    unsafe {
        libc::setsid();
        // Not by `signal`, which leaves out the two signals that the C library keeps for itself: a parent may have had
        // them ignored, which survives every exec.
        let default = [0_u64; 4];
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), null::<u64>(), size_of::<u64>());
        }
        libc::dup2(end.as_raw_fd(), SUPERVISOR_END);
        close_range(SUPERVISOR_END + 1, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC);
        let mut none: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        libc::write(2, FAILED.as_ptr().cast(), FAILED.len());
        libc::_exit(127)
    }
}
