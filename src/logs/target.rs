//! A log file that instances' bytes go into as they are.
//!
//! Owns who writes into the file (`file`), and how much at a time. Several streams may share a target (the instances of
//! an app that merges its logs, an instance and its predecessor's last words): the lock around it makes it a single
//! writer.
//!
//! Invariants
//! - A line of one stream is never glued to another's. While others share the file only whole lines are moved; the
//!   beginning of one stays in its pipe. A line that is too long for the pipe gets the file for itself until its
//!   newline, or until nothing has come of it for [`SILENCE`] while others wait.
//! - Where somebody else's line is not finished and will not be, a newline is put before what follows. That is the only
//!   byte that is not an instance's, but for the line about lost ones.
//! - A line whose rest is lost does not stay there as a piece, unless the piece is very long.
//! - Whose line it is stands in the index before the first byte of it moves, so a successor goes on rightly.
//! - A file is put aside at the end of a line, unless one line alone is twice as long as a file may be.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::compress::Asking;
use super::file::{LogFile, wall_ms};
use super::index::Writer;
use super::losing::{GivenUp, Lost};
use super::peek::{Peek, REACH, Seen};
use super::pump::StreamKey;
use super::written::Written;
use crate::config::spec::Rotation;

/// After this long without a byte, a line that is not finished holds nobody up any more.
const SILENCE: Duration = Duration::from_secs(1);
/// The same for a line that a predecessor's stream has begun, which may not be attached yet.
const SUCCESSION: Duration = Duration::from_secs(5);
/// How long the beginning of a line may stay in a pipe that somehow does not fill: then it is moved like a long one.
const STALL: Duration = Duration::from_secs(10);

/// How one attempt to take bytes went.
#[derive(Debug, PartialEq, Eq)]
pub enum Took {
    /// This many bytes left the pipe.
    Bytes(usize),
    /// Nothing is in the pipe now.
    Empty,
    /// Nothing is in the pipe and nobody can write to it any more.
    End,
    /// Something is in the pipe and nothing moves now, but will: a slow terminal, a line that is not finished.
    Blocked,
}

/// A file, by its path.
#[derive(Debug)]
pub struct Target {
    file: LogFile,
    /// Who is attached.
    streams: Vec<StreamKey>,
    /// Whose bytes are last in it; known once it is open.
    writer: Option<Writer>,
    /// When a byte last came.
    moved: Instant,
    /// Whether none came yet.
    is_new: bool,
    /// The beginning of a line that stays in its pipe: whose, how long, since when.
    begun: Option<(StreamKey, usize, Instant)>,
    peek: Option<Peek>,
}

impl Target {
    /// A target that is not open yet.
    pub fn new(path: PathBuf, rotation: Rotation, compressor: Asking) -> Target {
        let file = LogFile::new(path, rotation, compressor);
        Target { writer: None, file, streams: Vec::new(), moved: Instant::now(), is_new: true, begun: None, peek: None }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Is to be put aside by other rules from now on.
    pub fn set_rotation(&mut self, rotation: Rotation) {
        self.file.set_rotation(rotation);
    }

    /// A stream will write into it.
    pub fn join(&mut self, stream: StreamKey) {
        self.streams.push(stream);
    }

    /// A stream writes no more; one that has `ended` will not be attached again either.
    pub fn leave(&mut self, stream: StreamKey, ended: bool) {
        self.streams.retain(|other| *other != stream);
        if let Some(writer) = self.writer.as_mut().filter(|writer| ended && writer.stream == stream) {
            writer.ended = true;
            if is_in_a_line(&self.file) {
                self.file.index.set_writer(*writer);
            }
        }
        if self.streams.len() < 2 {
            self.peek = None;
        }
    }

    /// Has the file looked for at its path before the next byte.
    pub fn reopen(&mut self) {
        self.file.reopen();
    }

    /// Empties the file.
    ///
    /// # Errors
    /// Those of `open(2)` and `ftruncate(2)`.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.open()?;
        self.file.empty()
    }

    /// Opens the file, if it is not open.
    ///
    /// # Errors
    /// Those of `open(2)` and `mkdir(2)`.
    pub fn prepare(&mut self) -> io::Result<()> {
        self.file.open().map(drop)
    }

    /// Until somebody writes, whoever wrote for a predecessor is the one whose line may not be finished. Looked up with the
    /// first byte: a supervisor that takes over has thousands of files that nobody writes to.
    fn inherit_writer(&mut self) {
        if self.writer.is_none() && self.is_new {
            self.writer = self.file.index.writer();
        }
    }

    /// Moves at most `most` bytes from a stream's pipe to the file.
    ///
    /// # Errors
    /// The file cannot be opened or takes nothing (`ENOSPC`, `EIO`): what is in the pipe stays there.
    pub fn take(
        &mut self,
        stream: StreamKey,
        pipe: BorrowedFd<'_>,
        most: usize,
        written: &mut Written,
    ) -> io::Result<Took> {
        self.inherit_writer();
        let (open, _) = self.file.open()?;
        if !open.flush()? {
            return Ok(Took::Blocked);
        }
        if !open.is_file() {
            return open.take(pipe, most);
        }
        let size = open.size()?;
        let wants_rotation = self.file.is_due(size);
        let is_shared = self.streams.iter().any(|other| *other != stream);
        let is_own = self.writer.is_some_and(|writer| writer.stream == stream);
        let most = match is_shared || wants_rotation {
            // No further than it may grow, and a page at least.
            false => self.file.most_bytes().map_or(most, |full| most.min(full.saturating_sub(size).max(4096) as usize)),
            true => match self.look(stream, pipe, is_own, is_shared, wants_rotation)? {
                Look::Move(bytes) => bytes,
                Look::Not(took) => return Ok(took),
            },
        };
        if !is_own {
            // Nothing to write is no reason to end another's line.
            if !is_shared && !wants_rotation {
                match state_of(pipe) {
                    (true, _) => {}
                    (false, true) => return Ok(Took::End),
                    (false, false) => return Ok(Took::Empty),
                }
            }
            if !self.hand_over(stream)? {
                return Ok(Took::Blocked);
            }
        }
        let (open, _) = self.file.open()?;
        let size = open.size()?;
        let took = open.take(pipe, most)?;
        if let Took::Bytes(bytes) = took {
            written.note(open.identity, size, bytes as u64);
            self.file.note(size, wall_ms());
            (self.moved, self.is_new) = (Instant::now(), false);
            self.begun = None;
            if !is_shared {
                self.peek = None;
            }
            if wants_rotation {
                self.rotate_at_a_line(size + bytes as u64);
            }
        }
        Ok(took)
    }

    /// Gives up what has left a stream's pipe and is no whole line: the beginning of one is cut off the file.
    ///
    /// # Errors
    /// The file cannot be opened, read or cut.
    pub fn give_up(&mut self, stream: StreamKey) -> io::Result<GivenUp> {
        self.inherit_writer();
        let (open, _) = self.file.open()?;
        let is_own = !open.is_file() || self.writer.is_some_and(|writer| writer.stream == stream);
        if !is_own {
            return Ok(GivenUp::default());
        }
        let carry = std::mem::take(&mut open.carry);
        let was_in_a_line = is_in_a_line(&self.file);
        let cut = if was_in_a_line { self.file.cut_back()? } else { 0 };
        let lines = carry.iter().filter(|byte| **byte == b'\n').count() as u64;
        let lost = Lost { lines, bytes: cut + carry.len() as u64 };
        Ok(GivenUp { lost, in_a_line: carry.last().map_or(was_in_a_line, |last| *last != b'\n') })
    }

    /// Writes a line of our own, about a stream.
    ///
    /// # Errors
    /// The file cannot be opened or takes little; another's line has to be finished first (`WouldBlock`).
    pub fn say(&mut self, line: &str, stream: StreamKey) -> io::Result<()> {
        self.inherit_writer();
        let (open, _) = self.file.open()?;
        if !open.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        open.reserve(REACH)?;
        let is_own = self.writer.is_some_and(|writer| writer.stream == stream);
        if !is_own && open.is_file() && !self.hand_over(stream)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (open, _) = self.file.open()?;
        let before = if open.is_in_a_line().unwrap_or(false) { "\n" } else { "" };
        open.append(format!("{before}{line}\n").as_bytes())
    }

    /// How much of what is in the pipe may be moved now; one line at most where the file is put aside after it.
    fn look(
        &mut self,
        stream: StreamKey,
        pipe: BorrowedFd<'_>,
        is_own: bool,
        is_shared: bool,
        one: bool,
    ) -> io::Result<Look> {
        let mut peek = match self.peek.take() {
            Some(peek) => peek,
            None => Peek::new()?,
        };
        let mut seen = peek.look(pipe)?;
        if let (Seen::Lines(_), true, Some(first)) = (seen, one, peek.bytes().iter().position(|byte| *byte == b'\n')) {
            seen = Seen::Lines(first + 1);
        }
        self.peek = Some(peek);
        Ok(match seen {
            Seen::Lines(bytes) | Seen::Long(bytes) => Look::Move(bytes),
            Seen::Empty => Look::Not(Took::Empty),
            Seen::End => Look::Not(Took::End),
            // The line is begun in the file already, or nobody else is there to be glued to.
            Seen::Begun(bytes) if !is_shared || is_own && is_in_a_line(&self.file) => Look::Move(bytes),
            Seen::Begun(bytes) => match self.begun {
                Some((of, length, since)) if (of, length) == (stream, bytes) => {
                    if since.elapsed() < STALL && !state_of(pipe).1 {
                        return Ok(Look::Not(Took::Blocked));
                    }
                    Look::Move(bytes)
                }
                _ if state_of(pipe).1 => Look::Move(bytes),
                _ => {
                    self.begun = Some((stream, bytes, Instant::now()));
                    Look::Not(Took::Blocked)
                }
            },
        })
    }

    /// Makes a stream the one whose bytes come next; `false` while another's line has to be finished first.
    fn hand_over(&mut self, stream: StreamKey) -> io::Result<bool> {
        if is_in_a_line(&self.file) {
            let goes_on = self.writer.is_some_and(|writer| !writer.ended);
            let silence = if self.is_new { SUCCESSION } else { SILENCE };
            if goes_on && self.moved.elapsed() < silence {
                return Ok(false);
            }
            self.file.opened().expect("open, since it is in a line").append(b"\n")?;
        }
        let writer = Writer { stream, ended: false };
        self.writer = Some(writer);
        self.file.index.set_writer(writer);
        Ok(true)
    }

    /// Puts the file aside if it ends with a line, or is far too large.
    fn rotate_at_a_line(&mut self, size: u64) {
        let far = self.file.most_bytes().is_some_and(|most| size >= most.saturating_mul(2));
        if (far || !is_in_a_line(&self.file))
            && self.file.put_aside()
            && let Some(writer) = self.writer
        {
            self.file.index.set_writer(writer);
        }
    }
}

/// Whether a file that is open ends in the middle of a line. One that cannot be read is taken as one that ends well:
/// nothing better can be known.
fn is_in_a_line(file: &LogFile) -> bool {
    file.opened().is_some_and(|open| open.is_in_a_line().unwrap_or(false))
}

/// What may be moved.
enum Look {
    Move(usize),
    Not(Took),
}

/// Whether something can be read from a pipe, and whether nobody can write to it any more.
fn state_of(pipe: BorrowedFd<'_>) -> (bool, bool) {
    let mut asked = [PollFd::new(pipe, PollFlags::POLLIN)];
    // Fails by an interruption at most: then there may be something.
    if poll(&mut asked, PollTimeout::ZERO).is_err() {
        return (true, false);
    }
    let events = asked[0].revents().unwrap_or(PollFlags::empty());
    (events.contains(PollFlags::POLLIN), events.contains(PollFlags::POLLHUP))
}
