//! Bytes that nobody can change any more: a memfd, written once and sealed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The most that [`read`] takes.
pub const LIMIT: u64 = 2 << 20;

/// Makes a sealed copy of `bytes`. The label is what `/proc/PID/fd` shows of it.
///
/// # Errors
/// Those of creating a memfd and of writing to it.
pub fn create(label: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(label, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Reads it from its beginning.
///
/// # Errors
/// It cannot be read, or holds more than [`LIMIT`].
pub fn read(memory: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut file = File::from(memory.try_clone_to_owned()?);
    if file.metadata()?.len() > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than anything that is sealed here"));
    }
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_sealed_can_be_read_again_and_not_be_written() {
        let memory = create("test", b"settings").unwrap();
        assert_eq!(read(memory.as_fd()).unwrap(), b"settings");
        assert_eq!(read(memory.as_fd()).unwrap(), b"settings");
        assert!(File::from(memory).write_all(b"x").is_err());
    }
}
