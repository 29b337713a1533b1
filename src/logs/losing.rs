//! What is dropped of a stream whose file has taken nothing for too long, so that its instance need not wait.
//!
//! Owns the count. Whole lines are dropped: of a line that was begun in the file the beginning is cut off there and
//! counted here, and what is written again begins with a line, after one that says how much is missing. The count is that of this process: what a supervisor drops and does not live to tell is missing in it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::peek::{Peek, REACH, Seen};

/// How much was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// Lines, the beginning or the end of one counted as one.
    pub lines: u64,
    pub bytes: u64,
}

impl Lost {
    /// This and what was lost after it.
    pub fn and(self, more: Lost) -> Lost {
        Lost { lines: self.lines + more.lines, bytes: self.bytes + more.bytes }
    }

    /// What is written where the log goes on.
    pub fn in_words(self, why: &io::Error) -> String {
        format!("-- herdwire: {} lines ({} bytes) are missing here: {why} --", self.lines, self.bytes)
    }
}

/// What is lost before anything is dropped from the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GivenUp {
    /// What was cut off the file, or read and not written.
    pub lost: Lost,
    /// Whether the pipe begins with the rest of a line.
    pub in_a_line: bool,
}

/// A stream that is being dropped.
#[derive(Debug)]
pub struct Losing {
    lost: Lost,
    /// The last byte that was dropped ended no line.
    in_a_line: bool,
    tried: Instant,
}

impl Losing {
    /// Begins with what is given up of what has left the pipe.
    pub fn after(given_up: GivenUp) -> Losing {
        Losing { lost: given_up.lost, in_a_line: given_up.in_a_line, tried: Instant::now() }
    }

    /// Whether somebody waits: the pipe is half full, and can be written to.
    pub fn is_called_for(pipe: &OwnedFd) -> bool {
        let Ok(mut peek) = Peek::new() else { return false };
        peek.look(pipe.as_fd()).is_ok() && peek.bytes().len() >= REACH / 2
    }

    /// How much was dropped.
    pub fn lost(&self) -> Lost {
        Lost { lines: self.lost.lines + u64::from(self.in_a_line), ..self.lost }
    }

    /// Whether the file is to be tried again.
    pub fn is_time(&mut self, every: Duration) -> bool {
        let is_time = self.tried.elapsed() >= every;
        if is_time {
            self.tried = Instant::now();
        }
        is_time
    }

    /// Drops the rest of the line that was begun; whether that is all gone.
    pub fn is_between_lines(&mut self, pipe: &OwnedFd) -> bool {
        if !self.in_a_line {
            return true;
        }
        let Ok(mut peek) = Peek::new() else { return false };
        match peek.look(pipe.as_fd()) {
            // Nothing can follow: the line ends here.
            Ok(Seen::End) => true,
            Ok(Seen::Lines(_)) => {
                let end = peek.bytes().iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                self.drop_some(pipe, end).is_ok() && !self.in_a_line
            }
            _ => false,
        }
    }

    /// Drops at most `most` bytes: how many, or `None` at the end of the pipe.
    ///
    /// # Errors
    /// Those of `read(2)`.
    pub fn drop_some(&mut self, pipe: &OwnedFd, most: usize) -> io::Result<Option<usize>> {
        let mut buffer = vec![0; most.min(REACH)];
        let mut dropped = 0;
        while dropped < most {
            let room = (most - dropped).min(REACH);
            match nix::unistd::read(pipe, &mut buffer[..room]) {
                Ok(0) if dropped == 0 => return Ok(None),
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(read) => {
                    let bytes = &buffer[..read];
                    self.lost.bytes += read as u64;
                    self.lost.lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
                    self.in_a_line = bytes.last() != Some(&b'\n');
                    dropped += read;
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(dropped))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use nix::fcntl::OFlag;

    use super::*;

    #[test]
    fn what_is_dropped_is_counted_and_ends_with_a_line() {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let mut write = File::from(write);
        let mut losing = Losing::after(GivenUp::default());
        write.write_all(b"one\ntw").unwrap();
        assert!(!Losing::is_called_for(&read));
        assert_eq!(losing.drop_some(&read, 1000).unwrap(), Some(6));
        assert_eq!(losing.lost(), Lost { lines: 2, bytes: 6 });
        assert!(!losing.is_between_lines(&read));
        write.write_all(b"o\nthree\n").unwrap();
        assert!(losing.is_between_lines(&read));
        assert_eq!(losing.lost(), Lost { lines: 2, bytes: 8 });
        let mut rest = [0; 6];
        let mut read = File::from(read);
        read.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"three\n");
        write.write_all(&[b'x'; 40_000]).unwrap();
        assert!(Losing::is_called_for(&read.into()));
    }
    #[test]
    fn a_line_that_was_cut_off_is_lost_as_a_whole_and_counts_once() {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let cut = Lost { lines: 0, bytes: 4 };
        let mut losing = Losing::after(GivenUp { lost: cut, in_a_line: true });
        assert_eq!(losing.lost(), Lost { lines: 1, bytes: 4 });
        assert!(!losing.is_between_lines(&read));
        File::from(write).write_all(b"rest\nnext\n").unwrap();
        assert!(losing.is_between_lines(&read));
        assert_eq!(losing.lost(), Lost { lines: 1, bytes: 9 });
    }
}
