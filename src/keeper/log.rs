//! The keeper's few words for the operator, on its standard error: `herdwire.log`, or the terminal in the foreground.
//!
//! Never blocks and never allocates: a line has a fixed size, and one that nobody would take now is given up.

use std::fmt::{self, Write};
use std::io;
use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The longest line. Below PIPE_BUF, so that a pipe that is writable takes it whole.
const LINE_BYTES: usize = 512;

/// Writes one line.
pub(super) fn line(message: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; LINE_BYTES], length: 0 };
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // A line that is too long is cut, which `Line` reports as an error and which is fine here.
    let _ = write!(line, "{} keeper: {message}", Stamp(seconds));
    let end = line.length.min(LINE_BYTES - 1);
    line.bytes[end] = b'\n';
    let stderr = io::stderr();
    let mut interest = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut interest, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
        // Nobody is left to be told about a log that cannot be written.
        let _ = nix::unistd::write(stderr.as_fd(), &line.bytes[..=end]);
    }
}

struct Line {
    bytes: [u8; LINE_BYTES],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.length..];
        let taken = text.len().min(room.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        if taken == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Seconds since 1970 as a date and time in UTC.
struct Stamp(u64);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / 86_400, self.0 % 86_400);
        // Days since 0000-03-01: with the leap day at a year's end, years and months follow by division.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (year, month) = match month {
            0..=9 => (era * 400 + year, month + 3),
            _ => (era * 400 + year + 1, month - 9),
        };
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Stamp(seconds).to_string(), expected);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let mut line = Line { bytes: [0; LINE_BYTES], length: 0 };
        assert!(line.write_str(&"x".repeat(LINE_BYTES + 1)).is_err());
        assert_eq!(line.length, LINE_BYTES);
    }
}
