//! The file that a stream goes to.
//!
//! Owns the open file, and the rule where the next byte goes: to its end, which is asked for before every move, since
//! somebody may have truncated the file (it shrinks) or written to it (it grows) from outside. Several streams may
//! share a target (an instance and its predecessor's last words): the lock around it makes it a single writer.
//!
//! Invariants
//! - Into a regular file, bytes move inside the kernel (`splice`): a byte that left the pipe is in the file. Only
//!   what cannot be spliced to passes through our memory, at most [`COPY_BYTES`] at a time.
//! - Never blocks for longer than the disk does: what would block says so.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout};

/// How often a file is looked for at its path.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is copied at a time where splice is refused. A pipe that says it is writable takes this much.
const COPY_BYTES: usize = 4096;

/// How one attempt to take bytes went.
#[derive(Debug, PartialEq, Eq)]
pub enum Took {
    /// This many bytes left the pipe.
    Bytes(usize),
    /// Nothing is in the pipe now.
    Empty,
    /// Nothing is in the pipe and nobody can write to it any more.
    End,
    /// The target takes nothing now, but will (a slow terminal).
    Blocked,
}

/// A file, by its path.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    identity: (u64, u64),
    looked: Instant,
    way: Way,
    /// What was read and not yet written, from a target that bytes are copied to: after a short write or a failed one.
    carry: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A regular file, inside the kernel.
    Splice,
    /// A regular file whose file system refuses that.
    CopyToEnd,
    /// A terminal, a pipe, a device: a stream of its own.
    CopyOn,
}

impl Target {
    /// A target that is not open yet.
    pub fn new(path: PathBuf) -> Target {
        Target { path, open: None }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file, creating it and its folder (but not the one above), unless it is open and still lies at its path.
    ///
    /// # Errors
    /// Those of `open(2)` and `mkdir(2)`.
    pub fn ensure_open(&mut self) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            if open.looked.elapsed() < LOOK_EVERY {
                return Ok(());
            }
            open.looked = Instant::now();
            if fs::metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == open.identity) {
                return Ok(());
            }
        }
        // Deleted or replaced. The carry, if any, goes to the new one.
        let carry = self.open.take().map(|open| open.carry).unwrap_or_default();
        let file = open_or_create(&self.path)?;
        let found = file.metadata()?;
        let way = if found.is_file() { Way::Splice } else { Way::CopyOn };
        self.open = Some(Open { file, identity: (found.dev(), found.ino()), looked: Instant::now(), way, carry });
        Ok(())
    }

    /// Moves at most `most` bytes from the pipe to the file.
    ///
    /// # Errors
    /// The file cannot be opened or takes nothing (`ENOSPC`, `EIO`): what is in the pipe stays there.
    pub fn take(&mut self, pipe: BorrowedFd<'_>, most: usize) -> io::Result<Took> {
        self.ensure_open()?;
        let open = self.open.as_mut().expect("opened by the line above");
        if !open.flush()? {
            return Ok(Took::Blocked);
        }
        if open.way == Way::Splice {
            match open.splice(pipe, most) {
                // Not on this file system, or not from this descriptor.
                Err(Errno::EINVAL) => open.way = Way::CopyToEnd,
                Err(Errno::EAGAIN) => return Ok(Took::Empty),
                Err(error) => return Err(error.into()),
                Ok(0) => return Ok(Took::End),
                Ok(moved) => return Ok(Took::Bytes(moved)),
            }
        }
        open.copy(pipe, most.min(COPY_BYTES))
    }
}

impl Open {
    fn splice(&mut self, pipe: BorrowedFd<'_>, most: usize) -> nix::Result<usize> {
        let mut end = self.end()?;
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        loop {
            match splice(pipe, None, &self.file, Some(&mut end), most, flags) {
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
    fn flush(&mut self) -> io::Result<bool> {
        while !self.carry.is_empty() {
            let written = match self.way {
                Way::CopyOn if !self.takes_more() => return Ok(false),
                Way::CopyOn => (&self.file).write(&self.carry),
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
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
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
