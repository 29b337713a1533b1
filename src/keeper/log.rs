//! The keeper's few words for the operator, on its standard error: `herdwire.log`, or the terminal in the foreground.
//!
//! Never blocks: a line has a fixed size, and one that nobody would take now is given up.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The longest line. Below PIPE_BUF, so that a pipe that is writable takes it whole.
const LINE_BYTES: usize = 512;

/// Writes one line.
pub(super) fn line(message: fmt::Arguments<'_>) {
    let mut line = [b'\n'; LINE_BYTES];
    let mut room = &mut line[..LINE_BYTES - 1];
    // A line that is too long is cut, which is told as an error and is fine here.
    let _ = write!(room, "{:.0} keeper: {message}", jiff::Timestamp::now());
    let length = LINE_BYTES - room.len();
    let stderr = io::stderr();
    let mut interest = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut interest, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
        // Nobody is left to be told about a log that cannot be written.
        let _ = nix::unistd::write(stderr.as_fd(), &line[..length]);
    }
}
