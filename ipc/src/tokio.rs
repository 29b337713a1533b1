//! What tokio programs need: descriptors watched by its reactor.

#![allow(unsafe_code)] // The registration of a descriptor with tokio is unsafe; this is the one place that does it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;

/// A descriptor that tokio watches for being readable. Must be made inside a runtime.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Watches `fd`, which must be one that epoll takes (socket, pipe, eventfd).
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn new(fd: OwnedFd) -> io::Result<Watched> {
        // SAFETY: the descriptor is owned here, never handed out, and closed only after it is deregistered, when
        // `AsyncFd` is dropped.
        let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        watched.map(Watched).map_err(|error| error.into_parts().1)
    }

    /// Calls `read` when there is something, again and again while it says `WouldBlock`. Cancel safe.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn read<T>(&self, mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|fd| read(fd.as_fd())) {
                return result;
            }
        }
    }

    /// Waits for the next edge: something has come since the last call. Reads nothing. Cancel safe.
    ///
    /// # Errors
    /// The runtime shuts down.
    pub async fn edge(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
