//! Bells: eventfds that wake a sleeping participant.
//!
//! A bell is never read in normal operation: every write is a new edge for every epoll that watches it, so that the
//! drain and a publisher that waits for room can each sleep on the same bell without taking the other's ring away.
//! A counter that somebody filled makes honest rings fail without an edge; so no sleep lasts longer than
//! [`LONGEST_SLEEP`], and who wakes by time alone empties the counter.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// No sleep on a bell lasts longer: a hostile peer can silence it.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Rings a bell. A counter that is full means "rung, as far as we can".
pub(crate) fn ring(bell: BorrowedFd<'_>) {
    while matches!(nix::unistd::write(bell, &1u64.to_ne_bytes()), Err(Errno::EINTR)) {}
}

/// Empties a bell's counter.
pub(crate) fn empty(bell: BorrowedFd<'_>) {
    while matches!(nix::unistd::read(bell, &mut [0; 8]), Err(Errno::EINTR)) {}
}

/// One thread's ear for a bell.
#[derive(Debug)]
pub(crate) struct Ear(Epoll);

impl Ear {
    pub(crate) fn new(bell: BorrowedFd<'_>) -> io::Result<Ear> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(bell.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        Ok(Ear(epoll))
    }

    /// Sleeps until the bell has rung since the last call, at most `limit`; false when time was up.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        // Rounded up, so that a short limit does not become a busy loop.
        let limit = limit.min(LONGEST_SLEEP).as_micros().div_ceil(1000) as u16;
        let mut events = [EpollEvent::empty()];
        match self.0.wait(&mut events, EpollTimeout::from(limit)) {
            Ok(count) => count > 0,
            // A signal: the caller looks at everything and comes back.
            Err(_) => true,
        }
    }
}
