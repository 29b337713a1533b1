//! The descriptors behind a herd: outboxes, directories and bells; how they are made, sealed and checked.
//!
//! Owns no mapping (`map` does). The supervisor makes an outbox and its bell, the owner maps it, and then it
//! is sealed: from there on nobody, the supervisor included, can map it writable again, and its size is fixed, so
//! that a reader can neither spoil it nor be killed by a missing page.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use crate::layout::{self, OUTBOX_HEAD, is_ring_size};

/// Why a peer's memory is not what it must be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The kernel refused to say.
    #[error("cannot look at the memory")]
    Io(#[from] io::Error),
    /// It could still shrink, grow or be mapped writable by somebody else.
    #[error("the memory is not sealed")]
    NotSealed,
    /// Not the size that a ring of this many bytes needs.
    #[error("the memory has {found} bytes instead of {expected}")]
    Size {
        /// What `fstat` says.
        found: u64,
        /// What it should be.
        expected: u64,
    },
}

/// Makes the memory of an outbox with a ring of `ring_bytes`. Close-on-exec, its size fixed, not yet sealed against
/// writing: [`seal`] does that once its owner has mapped it.
///
/// # Errors
/// `InvalidInput` when [`is_ring_size`] says no; else those of `memfd_create(2)` and `ftruncate(2)`.
pub fn create_outbox(label: &str, ring_bytes: u64) -> io::Result<OwnedFd> {
    if !is_ring_size(ring_bytes) {
        let text = format!("a ring of {ring_bytes} bytes: it must be a power of two from 64 KiB to 64 MiB");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    create(label, OUTBOX_HEAD + ring_bytes)
}

/// Makes the memory of a directory.
///
/// # Errors
/// Those of `memfd_create(2)` and `ftruncate(2)`.
pub fn create_directory(label: &str) -> io::Result<OwnedFd> {
    create(label, layout::directory::BYTES)
}

fn create(label: &str, bytes: u64) -> io::Result<OwnedFd> {
    let label = CString::new(label).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let fd = match memfd_create(label.as_c_str(), flags | no_exec) {
        // Older than Linux 6.3.
        Err(Errno::EINVAL) => memfd_create(label.as_c_str(), flags)?,
        other => other?,
    };
    let size = i64::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    ftruncate(&fd, size)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
    Ok(fd)
}

fn all_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL
}

/// Makes memory that its owner has mapped read-only for everybody else, for ever. Sealing twice is no error.
///
/// # Errors
/// Those of `fcntl(2)`; kernels before 5.1 cannot.
pub fn seal(fd: BorrowedFd<'_>) -> io::Result<()> {
    if seals(fd)?.contains(all_seals()) {
        return Ok(());
    }
    fcntl(fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL))?;
    Ok(())
}

fn seals(fd: BorrowedFd<'_>) -> io::Result<SealFlag> {
    Ok(SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?))
}

/// Checks that an outbox with a ring of `ring_bytes` is sealed and has its size.
///
/// # Errors
/// What is wrong with it.
pub fn verify(fd: BorrowedFd<'_>, ring_bytes: u64) -> Result<(), MemoryError> {
    verify_size(fd, OUTBOX_HEAD + ring_bytes)
}

/// Checks that memory of `bytes` is sealed and has its size.
pub(crate) fn verify_size(fd: BorrowedFd<'_>, bytes: u64) -> Result<(), MemoryError> {
    if !seals(fd)?.contains(all_seals()) {
        return Err(MemoryError::NotSealed);
    }
    let found = size(fd)?;
    if found != bytes {
        return Err(MemoryError::Size { found, expected: bytes });
    }
    Ok(())
}

pub(crate) fn size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let size = fstat(fd)?.st_size;
    u64::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Makes a participant's bell: an eventfd, non-blocking and close-on-exec.
///
/// # Errors
/// Those of `eventfd(2)`.
pub fn create_bell() -> io::Result<OwnedFd> {
    let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    // `EventFd` hands its descriptor out as a borrowed one only.
    bell.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::RING_MIN;
    use crate::map::{OwnMap, PeerMap};

    #[test]
    fn a_sealed_outbox_is_writable_for_its_owner_and_for_nobody_else() {
        let fd = create_outbox("test", RING_MIN).unwrap();
        let owner = OwnMap::new(fd.as_fd(), OUTBOX_HEAD + RING_MIN).unwrap();
        assert!(matches!(verify(fd.as_fd(), RING_MIN), Err(MemoryError::NotSealed)));
        seal(fd.as_fd()).unwrap();
        seal(fd.as_fd()).unwrap();
        verify(fd.as_fd(), RING_MIN).unwrap();
        assert!(OwnMap::new(fd.as_fd(), OUTBOX_HEAD + RING_MIN).is_err());
        assert!(ftruncate(&fd, 4096).is_err() && ftruncate(&fd, 1 << 30).is_err());
        let reader = PeerMap::new(fd.as_fd(), OUTBOX_HEAD + RING_MIN).unwrap();
        use crate::sync::{OwnWords, Words};
        owner.store(17, 4711);
        assert_eq!(reader.load(17), 4711);
        assert_eq!(reader.load(1 << 40), 0);
    }

    #[test]
    fn another_size_is_refused() {
        let fd = create_outbox("test", 2 * RING_MIN).unwrap();
        seal(fd.as_fd()).unwrap();
        assert!(matches!(verify(fd.as_fd(), RING_MIN), Err(MemoryError::Size { .. })));
        assert!(create_outbox("test", RING_MIN + 64).is_err());
    }
}
