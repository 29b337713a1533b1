//! A descriptor of our own that a tokio runtime watches.
#![allow(unsafe_code)] // For one call: the registration of a descriptor.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ::tokio::time::timeout;

/// A descriptor of our own that a tokio runtime watches. The one safe door to `AsyncFd`'s registration.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Watches for readability. For a bell, an eventfd or a pipe's reading end.
    ///
    /// # Errors
    /// The descriptor cannot be watched (a plain file), or the kernel refuses.
    ///
    /// # Panics
    /// Outside a runtime with I/O enabled.
    pub fn new(descriptor: OwnedFd) -> io::Result<Watched> {
        Watched::with_interest(descriptor, Interest::READABLE)
    }

    /// Watches for what `interest` says.
    ///
    /// # Errors
    /// As [`Watched::new`].
    ///
    /// # Panics
    /// As [`Watched::new`].
    pub fn with_interest(descriptor: OwnedFd, interest: Interest) -> io::Result<Watched> {
        // SAFETY: an `OwnedFd` is open, returns the same number each time, and lives inside the `AsyncFd` until that is
        // dropped or taken apart; nothing can close or exchange it meanwhile.
        let watched = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
        Ok(Watched(watched.map_err(io::Error::from)?))
    }

    /// Calls `read` when there is something, again and again while it says `WouldBlock`. Cancel safe.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn read<T>(&self, mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|watched| read(watched.get_ref().as_fd())) {
                return result;
            }
        }
    }

    /// Stops watching.
    pub fn into_inner(self) -> OwnedFd {
        self.0.into_inner()
    }

    /// Waits for the next edge, at most `limit`; false when time was up. Cancel safe: an edge that was not taken stays.
    pub async fn edge(&self, limit: Duration) -> bool {
        match timeout(limit, self.0.readable()).await {
            Ok(Ok(mut ready)) => {
                ready.clear_ready();
                true
            }
            // The runtime shuts down; there will be no other look.
            Ok(Err(_)) => true,
            Err(_) => false,
        }
    }
}

impl Deref for Watched {
    type Target = AsyncFd<OwnedFd>;

    fn deref(&self) -> &AsyncFd<OwnedFd> {
        &self.0
    }
}
