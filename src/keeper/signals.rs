//! What signals do to a keeper: the table stands in `keeper`.

use std::io;

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::sys;

/// What is waited for through the signal descriptor.
const AWAITED: [Signal; 4] = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

const IGNORED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGPIPE,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// Sets every disposition and the mask, whatever was inherited, and takes the signals that are waited for.
pub(super) fn take() -> io::Result<SignalFd> {
    for number in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        let handler = if IGNORED.contains(&number) { SigHandler::SigIgn } else { SigHandler::SigDfl };
        sys::set_disposition(number, handler)?;
    }
    let awaited = SigSet::from_iter(AWAITED);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&awaited), None)?;
    Ok(SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}
