//! An open log: where its end is, and how bytes get there.
//!
//! Owns the descriptor. Bytes go to the file's end, which is asked for before every move, since somebody may have
//! truncated the file (it shrinks) or written to it (it grows) from outside.
//!
//! Invariants
//! - Into a regular file, bytes move inside the kernel (`splice`): a byte that left the pipe is in the file. Only
//!   what cannot be spliced to passes through our memory, at most [`COPY_BYTES`] at a time.
//! - Never blocks for longer than the disk does: what would block says so.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, SpliceFFlags, fallocate, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::place;
use super::tail::last_lines;
use super::target::Took;

/// What is copied at a time where splice is refused. A pipe that says it is writable takes this much.
const COPY_BYTES: usize = 4096;

/// A file that is open.
#[derive(Debug)]
pub struct Open {
    file: File,
    /// Device and inode.
    pub identity: (u64, u64),
    /// When it was last looked for at its path.
    pub looked: Instant,
    way: Way,
    /// What was read and not yet written, from a target that bytes are copied to: after a short write or a failed one.
    pub carry: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A regular file, inside the kernel.
    Splice,
    /// A regular file whose file system refuses that.
    CopyToEnd,
    /// A terminal, a pipe, a device: a stream of its own.
    CopyOn,
    /// Into nothing, inside the kernel.
    Nowhere,
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Open {
    /// Opens what lies at `path`, or creates it and the folders above it.
    ///
    /// # Errors
    /// Those of `open(2)` and `mkdir(2)`.
    pub fn at(path: &Path) -> io::Result<Open> {
        let file = open_or_create(path)?;
        let found = file.metadata()?;
        let way = match found.is_file() {
            true => Way::Splice,
            false if place::is_nowhere(path) => Way::Nowhere,
            false => Way::CopyOn,
        };
        let identity = (found.dev(), found.ino());
        Ok(Open { file, identity, looked: Instant::now(), way, carry: Vec::new() })
    }

    /// Whether it still lies at `path`.
    pub fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }

    /// Whether it is a file, with an end and lines that stay.
    pub fn is_file(&self) -> bool {
        matches!(self.way, Way::Splice | Way::CopyToEnd)
    }

    /// Its size; 0 of what has none.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn size(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.end()?).unwrap_or(0))
    }

    /// Cuts it to this size.
    ///
    /// # Errors
    /// Those of `ftruncate(2)`.
    pub fn set_len(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    /// Whether its last byte is in the middle of a line.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_in_a_line(&self) -> io::Result<bool> {
        let size = self.size()?;
        if size == 0 || !self.is_file() {
            return Ok(false);
        }
        let mut last = [0];
        self.reading()?.read_exact_at(&mut last, size - 1)?;
        Ok(last != *b"\n")
    }

    /// Where the line begins in the middle of which it ends, no further back than `floor`; its size if it ends well.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn line_begins(&self, floor: u64) -> io::Result<u64> {
        let size = self.size()?;
        if size <= floor || !self.is_in_a_line()? {
            return Ok(size);
        }
        Ok(last_lines(&self.reading()?, size, 1, size - floor)?.0)
    }

    /// Ours is open for writing alone: what reads it opens it again, whatever lies at its path by now.
    fn reading(&self) -> io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Writes bytes of our own at its end: all or none.
    ///
    /// # Errors
    /// Those of `write(2)`.
    pub fn append(&self, bytes: &[u8]) -> io::Result<()> {
        if !self.is_file() {
            return (&self.file).write_all(bytes);
        }
        let end = self.size()?;
        self.file.write_all_at(bytes, end).inspect_err(|_| {
            // What is there of them is not whole.
            let _ = self.file.set_len(end);
        })
    }

    /// Makes sure that it takes so many bytes more, where its file system can tell.
    ///
    /// # Errors
    /// It does not (`ENOSPC`, `EDQUOT`, `EIO`).
    pub fn reserve(&self, bytes: usize) -> io::Result<()> {
        if !self.is_file() {
            return Ok(());
        }
        let (from, bytes) = (self.end()?, bytes as libc::off_t);
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, bytes) {
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves at most `most` bytes from the pipe to the end.
    ///
    /// # Errors
    /// It takes nothing (`ENOSPC`, `EIO`): what is in the pipe stays there.
    pub fn take(&mut self, pipe: BorrowedFd<'_>, most: usize) -> io::Result<Took> {
        if !self.flush()? {
            return Ok(Took::Blocked);
        }
        if matches!(self.way, Way::Splice | Way::Nowhere) {
            match self.splice(pipe, most) {
                // Not on this file system, or not from this descriptor.
                Err(Errno::EINVAL) if self.way == Way::Splice => self.way = Way::CopyToEnd,
                Err(Errno::EINVAL) => self.way = Way::CopyOn,
                Err(Errno::EAGAIN) => return Ok(Took::Empty),
                Err(error) => return Err(error.into()),
                Ok(0) => return Ok(Took::End),
                Ok(moved) => return Ok(Took::Bytes(moved)),
            }
        }
        self.copy(pipe, most.min(COPY_BYTES))
    }

    fn splice(&mut self, pipe: BorrowedFd<'_>, most: usize) -> nix::Result<usize> {
        let mut end = self.end()?;
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        loop {
            let to = (self.way == Way::Splice).then_some(&mut end);
            match splice(pipe, None, &self.file, to, most, flags) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    }

    /// One read and its write.
    fn copy(&mut self, pipe: BorrowedFd<'_>, most: usize) -> io::Result<Took> {
        if !self.takes_more() {
            return Ok(Took::Blocked);
        }
        let mut buffer = [0; COPY_BYTES];
        let read = loop {
            match nix::unistd::read(pipe, &mut buffer[..most]) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Took::Empty),
                Err(error) => return Err(error.into()),
                Ok(0) => return Ok(Took::End),
                Ok(read) => break read,
            }
        };
        self.carry.extend_from_slice(&buffer[..read]);
        self.flush()?;
        Ok(Took::Bytes(read))
    }

    /// Writes as much of the carry as the target takes now; whether nothing is left of it.
    ///
    /// # Errors
    /// It takes nothing.
    pub fn flush(&mut self) -> io::Result<bool> {
        while !self.carry.is_empty() {
            let written = match self.way {
                Way::CopyOn | Way::Nowhere if !self.takes_more() => return Ok(false),
                Way::CopyOn | Way::Nowhere => (&self.file).write(&self.carry),
                Way::Splice | Way::CopyToEnd => self.file.write_at(&self.carry, self.end()? as u64),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.carry.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether a write of [`COPY_BYTES`] would not block. Terminals and sockets that were handed to us may be blocking.
    fn takes_more(&self) -> bool {
        if self.way != Way::CopyOn {
            return true;
        }
        let mut asked = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        // An error shows itself at the write.
        nix::poll::poll(&mut asked, PollTimeout::ZERO).map_or(true, |ready| ready > 0)
    }

    fn end(&self) -> nix::Result<libc::loff_t> {
        Ok(nix::sys::stat::fstat(&self.file)?.st_size)
    }
}

fn open_or_create(path: &Path) -> io::Result<File> {
    let open = || {
        // Non-blocking for pipes and terminals; O_APPEND would forbid splice.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | place::follow(path))
            .open(path)
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().ok_or(error)?;
            // Only the folder of logs itself: a home that was removed must stay gone, since its keeper ends by that.
            DirBuilder::new().mode(0o700).create(folder)?;
            open()
        }
        // A socket cannot be opened by its path, not even one's own stdout.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => match path.to_str() {
            Some("/dev/stdout") => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            Some("/dev/stderr") => Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
            _ => Err(error),
        },
        other => other,
    }
}
