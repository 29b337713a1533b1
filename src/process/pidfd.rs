//! A process by descriptor: it names one process for ever, never a later one with the same number.
//!
//! Owns the descriptor. Works for children and for strangers, alive, dead or reaped.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus};

use super::sys;

/// One process. Readable (POLLIN) once it has ended.
#[derive(Debug)]
pub struct Pidfd {
    fd: OwnedFd,
    /// Once it was asked for: it never changes.
    inode: OnceLock<u64>,
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Pidfd {
    /// Takes over a descriptor that is a pidfd.
    pub fn from_fd(fd: OwnedFd) -> Pidfd {
        Pidfd { fd, inode: OnceLock::new() }
    }

    /// The process with this number now. Only safe from a race for a number that cannot be reused meanwhile: that of
    /// an own child that nobody reaps, or one that is looked at again afterwards.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub fn open(pid: u32) -> io::Result<Pidfd> {
        Ok(Pidfd::from_fd(sys::pidfd_open(pid)?))
    }

    /// The same process by another descriptor.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Pidfd> {
        Ok(Pidfd { fd: self.fd.try_clone()?, inode: self.inode.clone() })
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The number that is unique to this process since boot, on kernels with pidfs (6.9); before, the same for all.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn inode(&self) -> io::Result<u64> {
        if let Some(inode) = self.inode.get() {
            return Ok(*inode);
        }
        let inode = nix::sys::stat::fstat(&self.fd)?.st_ino;
        Ok(*self.inode.get_or_init(|| inode))
    }

    /// The same, where it tells this process from all others: `None` on kernels without pidfs.
    pub fn identity(&self) -> Option<u64> {
        const PIDFS: u64 = 0x5049_4446;
        let on_pidfs = nix::sys::statfs::fstatfs(&self.fd).ok()?.filesystem_type().0 as u64 == PIDFS;
        on_pidfs.then(|| self.inode().ok())?
    }

    /// Whether it has ended, reaped or not.
    pub fn is_dead(&self) -> bool {
        self.poll(PollTimeout::ZERO).is_some_and(|seen| seen.contains(PollFlags::POLLIN))
    }

    /// Whether it ended within `limit`. Blocks.
    pub fn wait_dead(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
            if self.poll(timeout).is_some_and(|seen| seen.contains(PollFlags::POLLIN)) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }

    /// Whether it has ended and its parent has taken notice: its number may belong to another process now.
    pub fn is_reaped(&self) -> bool {
        matches!(sys::pidfd_send_signal(self.as_fd(), 0, 0), Err(error) if error.raw_os_error() == Some(libc::ESRCH))
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    /// `ESRCH` when it has been reaped, `EPERM`, and `EINVAL` for a number that is no signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        sys::pidfd_send_signal(self.as_fd(), signal, 0)
    }

    /// Sends a signal to the group that the process leads, even when only others of the group are left.
    ///
    /// # Errors
    /// `ESRCH` when nothing is left of it.
    pub fn signal_group(&self, signal: i32) -> io::Result<()> {
        match sys::pidfd_send_signal(self.as_fd(), signal, sys::TO_GROUP) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.signal_group_by_number(signal),
            other => other,
        }
    }

    /// How it ended, once it has been reaped, whoever did it. `None` before, and on kernels before 6.15: there only
    /// its parent is told.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        sys::pidfd_wait_status(self.as_fd()).map(ExitStatus::from_raw)
    }

    /// How it ended, also when its parent has not taken notice yet: what the kernel shows of a zombie is exact as long as
    /// it is one. `None` while it runs, and when it was reaped where the kernel does not remember (before 6.15).
    pub fn ended_with(&self) -> Option<ExitStatus> {
        const EXIT_CODE: usize = 49;
        let of_zombie = || {
            let fields = self.stat().filter(|_| self.is_dead())?;
            // Nothing at all is what those see who may not look, too: it is believed only after the end.
            fields.get(EXIT_CODE)?.parse().ok().filter(|status| *status != 0).map(ExitStatus::from_raw)
        };
        self.exit_status().or_else(of_zombie)
    }

    /// The parent's number now; `None` once it has been reaped.
    pub fn parent(&self) -> Option<u32> {
        let told = sys::pidfd_family(self.as_fd()).map(|(_, parent)| parent);
        told.or_else(|| self.stat()?.get(1)?.parse().ok())
    }

    /// Its number and its parent's; `None` once it has been reaped.
    pub fn family(&self) -> Option<(u32, u32)> {
        sys::pidfd_family(self.as_fd()).or_else(|| Some((self.pid()?, self.parent()?)))
    }

    /// When it began, in ticks since boot; `None` once it has been reaped.
    pub fn started(&self) -> Option<u64> {
        self.stat()?.get(19)?.parse().ok()
    }

    /// What /proc says of it, from its state on.
    fn stat(&self) -> Option<Vec<String>> {
        let stat = fs::read(format!("/proc/{}/stat", self.pid()?)).ok()?;
        // The name in parentheses may hold anything, further parentheses and newlines included.
        let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let fields = std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace().map(str::to_owned).collect();
        // The number was its own while it was read if it still is.
        (!self.is_reaped()).then_some(fields)
    }

    /// Reaps it, if it is an own child that has ended. Never blocks.
    ///
    /// # Errors
    /// `ECHILD` when it is no child of this process.
    pub fn reap(&self) -> io::Result<Option<ExitStatus>> {
        let seen = nix::sys::wait::waitid(Id::PIDFd(self.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)?;
        Ok(match seen {
            WaitStatus::Exited(_, code) => Some(ExitStatus::from_raw((code & 0xff) << 8)),
            WaitStatus::Signaled(_, signal, dumped) => {
                Some(ExitStatus::from_raw(signal as i32 | if dumped { 0x80 } else { 0 }))
            }
            _ => None,
        })
    }

    /// Reaps an own child that is about to end.
    pub(super) fn bury(&self) {
        self.wait_dead(Duration::from_secs(1));
        // Should it not have ended, it is reaped like any other.
        let _ = self.reap();
    }

    /// The process's number; `None` once it has been reaped.
    pub fn pid(&self) -> Option<u32> {
        if let Some((pid, _)) = sys::pidfd_family(self.as_fd()) {
            return Some(pid);
        }
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd())).ok()?;
        let pid = about.lines().find_map(|line| line.strip_prefix("Pid:"))?;
        pid.trim().parse().ok()
    }

    /// Whether this is the process that was recorded with this number and inode. True for one that is reaped by now.
    pub fn matches(&self, pid: u32, inode: u64) -> bool {
        self.inode().is_ok_and(|own| own == inode) && self.pid().is_none_or(|own| own == pid)
    }

    /// Before 6.9 only numbers name a group. Ours is that of a process that has not been reaped, so it cannot be
    /// anybody else's.
    fn signal_group_by_number(&self, signal: i32) -> io::Result<()> {
        let pid = self.pid().ok_or(Errno::ESRCH)?;
        let group = nix::unistd::Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::ESRCH)?);
        let signal = nix::sys::signal::Signal::try_from(signal)?;
        nix::sys::signal::killpg(group, signal)?;
        Ok(())
    }

    fn poll(&self, timeout: PollTimeout) -> Option<PollFlags> {
        let mut asked = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut asked, timeout).ok()?;
        asked[0].revents()
    }
}
