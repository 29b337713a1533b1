//! Where the link comes from: a descriptor that was inherited, its number in the environment.
#![allow(unsafe_code)] // An inherited descriptor is a number until somebody claims it.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};

use super::ConnectError;
use crate::link::LINK_VARIABLE;
use crate::sync::AtomicBool;
use crate::sync::Ordering::SeqCst;

static CLAIMED: AtomicBool = AtomicBool::new(false);

/// Claims the link and keeps it from the programs that this one starts. Once per process.
pub(crate) fn link() -> Result<OwnedFd, ConnectError> {
    let number = std::env::var(LINK_VARIABLE).map_err(|_| ConnectError::NotStartedByHerdwire)?;
    let broken = || ConnectError::BrokenLink { number: number.clone() };
    let raw: RawFd = number.parse().ok().filter(|raw| *raw >= 0).ok_or_else(broken)?;
    // SAFETY: only looked at, while nobody of this process closes what it inherited; a number that is no descriptor
    // fails the calls below.
    let inherited = unsafe { BorrowedFd::borrow_raw(raw) };
    if getsockopt(&inherited, sockopt::SockType) != Ok(SockType::SeqPacket) {
        return Err(broken());
    }
    if CLAIMED.swap(true, SeqCst) {
        return Err(ConnectError::AlreadyConnected);
    }
    // SAFETY: an open socket that this process inherited for this purpose, and claimed only once by the line above.
    let link = unsafe { OwnedFd::from_raw_fd(raw) };
    fcntl(link.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|_| broken())?;
    Ok(link)
}
