//! What is in a pipe, without taking it out: where its whole lines end.
//!
//! Owns a second pipe, into which the first is duplicated (`tee`, inside the kernel) to be read. What was looked at
//! stays in the first pipe until it is moved by its exact length, so nothing is ever only in our memory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, tee};

/// What is looked at in one go: what a pipe holds unless somebody made it larger.
pub const REACH: usize = 64 * 1024;
/// A line that fills half of that has to be moved before its end is seen: its writer could not go on otherwise.
const LONG: usize = REACH / 2;

/// What a pipe begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Whole lines, of this many bytes in all.
    Lines(usize),
    /// The beginning of a line, of this many bytes.
    Begun(usize),
    /// The beginning of a line that may be too long for the pipe.
    Long(usize),
    Empty,
    /// Nobody can write to it any more, and nothing is in it.
    End,
}

/// The second pipe.
#[derive(Debug)]
pub struct Peek {
    read: OwnedFd,
    write: OwnedFd,
    buffer: Vec<u8>,
    /// What the last look saw, in bytes.
    seen: usize,
}

impl Peek {
    /// Makes the pipe.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Peek> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Peek { read, write, buffer: vec![0; REACH], seen: 0 })
    }

    /// What `pipe` begins with, as far as [`REACH`].
    ///
    /// # Errors
    /// Those of `tee(2)`: what it is given is no pipe.
    pub fn look(&mut self, pipe: BorrowedFd<'_>) -> io::Result<Seen> {
        let bytes = loop {
            match tee(pipe, self.write.as_fd(), REACH, SpliceFFlags::SPLICE_F_NONBLOCK) {
                Ok(0) => {
                    self.seen = 0;
                    return Ok(Seen::End);
                }
                Ok(bytes) => break bytes,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.seen = 0;
                    return Ok(Seen::Empty);
                }
                Err(error) => return Err(error.into()),
            }
        };
        // All of it: what is left would be taken for the next look's.
        let mut filled = 0;
        while filled < bytes {
            match nix::unistd::read(&self.read, &mut self.buffer[filled..bytes]) {
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(read) => filled += read,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.seen = filled;
        let newline = self.buffer[..filled].iter().rposition(|byte| *byte == b'\n');
        Ok(match newline {
            Some(at) => Seen::Lines(at + 1),
            None if filled >= LONG => Seen::Long(filled),
            None => Seen::Begun(filled),
        })
    }

    /// What the last look saw.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.seen]
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    fn pipe() -> (File, File) {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        (read.into(), write.into())
    }

    #[test]
    fn a_look_finds_the_last_newline_and_takes_nothing_out() {
        let (mut read, mut write) = pipe();
        let mut peek = Peek::new().unwrap();
        assert_eq!(peek.look(read.as_fd()).unwrap(), Seen::Empty);
        write.write_all(b"one\ntwo\nthr").unwrap();
        for _ in 0..3 {
            assert_eq!(peek.look(read.as_fd()).unwrap(), Seen::Lines(8));
        }
        let mut all = [0; 11];
        read.read_exact(&mut all).unwrap();
        assert_eq!(&all, b"one\ntwo\nthr");
        write.write_all(b"ee").unwrap();
        assert_eq!(peek.look(read.as_fd()).unwrap(), Seen::Begun(2));
        write.write_all(&[b'x'; 40_000]).unwrap();
        assert_eq!(peek.look(read.as_fd()).unwrap(), Seen::Long(40_002));
        read.read_exact(&mut [0; 40_002]).unwrap();
        drop(write);
        assert_eq!(peek.look(read.as_fd()).unwrap(), Seen::End);
    }
}
