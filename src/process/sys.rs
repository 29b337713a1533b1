//! The system calls of this room that no crate wraps, each behind a safe function of a few lines.
//!
//! Owns no state. Invariant: what goes to the kernel by pointer lives at least as long as the call.

// Raw system calls: pidfds, signal masks, names and descriptors that are known only by number.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `pidfd_send_signal`: to the group that the process leads, instead of the process alone.
pub const TO_GROUP: u32 = 1 << 2;

/// A descriptor for a running process or a zombie. Close-on-exec, as all pidfds are.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0u32) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal to the process (or, with [`TO_GROUP`], the group) behind a pidfd. Signal 0 only asks.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32, flags: u32) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the info may be null, everything else is a number.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, flags) })?;
    Ok(())
}

/// What the kernel tells about a process (`struct pidfd_info`, as of its first version).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    thread_group: u32,
    parent: u32,
    credentials: [u32; 8],
    exit_code: i32,
}

const INFO_PID: u64 = 1;
const INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: u64 = (3 << 30) | ((size_of::<PidfdInfo>() as u64) << 16) | (0xFF << 8) | 11;

/// The wait status of a process that has been reaped, by whomever. `None` before that and on kernels before 6.15.
pub fn pidfd_wait_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo { mask: INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: `info` is as large as the request says and outlives the call.
    let answer = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    (answer == 0 && info.mask & INFO_EXIT != 0).then_some(info.exit_code)
}

/// The number of a process and that of its parent now. `None` once it has been reaped, and on kernels before 6.13.
pub fn pidfd_family(pidfd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let mut info = PidfdInfo { mask: INFO_PID, ..PidfdInfo::default() };
    // SAFETY: `info` is as large as the request says and outlives the call.
    let answer = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    (answer == 0 && info.mask & INFO_PID != 0 && info.pid != 0).then_some((info.pid, info.parent))
}

/// Takes over a descriptor that was inherited under a known number, or just made, close-on-exec from here on.
///
/// # Errors
/// There is no such descriptor.
pub fn inherit(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only; fails when the descriptor is not open.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: open by the line above. Stage and keeper call this once for each number that they were given, before
    // anything else in the process has opened a descriptor; or with one that the caller has just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Marks every descriptor from `first` to `last`, so that the exec that follows closes it. Needs Linux 5.11.
pub fn close_on_exec(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: takes numbers only, and closes nothing in this process.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// The name that `ps` shows for this thread, cut to 15 bytes by the kernel.
pub fn set_name(name: &CStr) {
    // SAFETY: the name is a C string that outlives the call. Cannot fail.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// The priority of this process, from -20 (runs first) to 19.
pub fn set_priority(nice: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }.into())?;
    Ok(())
}

/// Every signal back to what a fresh process has: default dispositions, nothing blocked.
pub fn reset_signals() {
    // All zero is, on every architecture: the default disposition, no flags, an empty mask.
    let default = [0u64; 4];
    let before: *mut u64 = std::ptr::null_mut();
    for signal in 1..=64 {
        // SAFETY: as large as the kernel's `struct sigaction` and outlives the call; sets no handler. Refused for
        // SIGKILL and SIGSTOP, which have no other disposition anyway. The raw call, since the C library's leaves out
        // its own two signals, which somebody may have had ignored as well.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), before, size_of::<u64>()) };
    }
    set_mask(0);
}

/// Blocks all signals of this thread until dropped.
pub struct SignalsBlocked {
    before: u64,
}

impl SignalsBlocked {
    /// Blocks them, those of the C library included.
    pub fn new() -> SignalsBlocked {
        SignalsBlocked { before: set_mask(u64::MAX) }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        set_mask(self.before);
    }
}

/// Sets the thread's mask (bit 0 is signal 1) and returns the one before. The raw call, since the C library's leaves
/// out its own two signals.
fn set_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: both masks are of the size given and outlive the call. Cannot fail with these arguments.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, &raw mut before, size_of::<u64>())
    };
    before
}

fn check(answer: libc::c_long) -> io::Result<libc::c_long> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
