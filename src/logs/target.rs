//! A log file that instances' bytes go into as they are.
//!
//! Owns the open file, who writes into it, its index of times, and when it is put aside. Several streams may share a
//! target (the instances of an app that merges its logs, an instance and its predecessor's last words): the lock around
//! it makes it a single writer.
//!
//! Invariants
//! - A line of one stream is never glued to another's. While others share the file only whole lines are moved; the
//!   beginning of one stays in its pipe. A line that is too long for the pipe gets the file for itself until its
//!   newline, or until nothing has come of it for [`SILENCE`] while others wait.
//! - Where somebody else's line is not finished and will not be, a newline is put before what follows. That is the only
//!   byte that is not an instance's, but for the line about lost ones.
//! - Whose line it is stands in the index before the first byte of it moves, so a successor goes on rightly.
//! - A file is put aside at the end of a line, unless one line alone is twice as long as a file may be.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::compress::Asking;
use super::index::{Index, Times, Writer};
use super::open::Open;
use super::peek::{Peek, Seen};
use super::pump::StreamKey;
use super::rotate;
use crate::config::spec::Rotation;

/// How often a file is looked for at its path, and its age is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a time is noted of a file with traffic.
const NOTE_EVERY: Duration = Duration::from_millis(100);
/// After this long without a byte, a line that is not finished holds nobody up any more.
const SILENCE: Duration = Duration::from_secs(1);
/// The same for a line that a predecessor's stream has begun, which may not be attached yet.
const SUCCESSION: Duration = Duration::from_secs(5);
/// How long the beginning of a line may stay in a pipe that somehow does not fill: then it is moved like a long one.
const STALL: Duration = Duration::from_secs(10);
/// How long after a failure to put a file aside it is tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);

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
    path: PathBuf,
    open: Option<Open>,
    index: Index,
    rotation: Rotation,
    compressor: Asking,
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
    /// When its first byte was written, in ms since 1970.
    born_ms: Option<u64>,
    /// Not put aside before.
    rotate_from: Instant,
}

impl Target {
    /// A target that is not open yet.
    pub fn new(path: PathBuf, rotation: Rotation, compressor: Asking) -> Target {
        let index = Index::of(&path, NOTE_EVERY);
        Target {
            writer: None,
            index,
            path,
            open: None,
            rotation,
            compressor,
            streams: Vec::new(),
            moved: Instant::now(),
            is_new: true,
            begun: None,
            peek: None,
            born_ms: None,
            rotate_from: Instant::now(),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is to be put aside by other rules from now on.
    pub fn set_rotation(&mut self, rotation: Rotation) {
        self.rotation = rotation;
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
            if self.open.as_ref().is_some_and(|open| open.is_in_a_line().unwrap_or(false)) {
                self.index.set_writer(*writer);
            }
        }
        if self.streams.len() < 2 {
            self.peek = None;
        }
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
            if open.is_at(&self.path) {
                return Ok(());
            }
        }
        // Deleted or replaced. The carry, if any, goes to the new one.
        let before = self.open.take();
        let is_first = before.is_none();
        let carry = before.map(|open| open.carry).unwrap_or_default();
        let mut open = Open::at(&self.path)?;
        open.carry = carry;
        self.born_ms = None;
        if is_first {
            if self.rotation.compress && open.is_file() {
                self.compressor.mend(&self.path);
            }
        } else {
            self.index.start_anew();
        }
        self.open = Some(open);
        // Said by a predecessor, if nobody has written here since.
        self.writer = self.writer.or_else(|| self.index.writer());
        Ok(())
    }

    /// Lets go of the file: the next byte goes to what lies at its path then.
    pub fn reopen(&mut self) {
        if let Some(open) = &mut self.open {
            // Looked for at once.
            open.looked = Instant::now().checked_sub(LOOK_EVERY).unwrap_or(open.looked);
        }
    }

    /// Empties the file.
    ///
    /// # Errors
    /// Those of `open(2)` and `ftruncate(2)`.
    pub fn flush(&mut self) -> io::Result<()> {
        self.ensure_open()?;
        let open = self.open.as_ref().expect("opened by the line above");
        if open.is_file() {
            open.set_len(0)?;
            self.index.reset();
            self.born_ms = None;
        }
        Ok(())
    }

    /// Moves at most `most` bytes from a stream's pipe to the file.
    ///
    /// # Errors
    /// The file cannot be opened or takes nothing (`ENOSPC`, `EIO`): what is in the pipe stays there.
    pub fn take(&mut self, stream: StreamKey, pipe: BorrowedFd<'_>, most: usize) -> io::Result<Took> {
        self.ensure_open()?;
        let open = self.open.as_mut().expect("opened by the line above");
        if !open.flush()? {
            return Ok(Took::Blocked);
        }
        if !open.is_file() {
            return open.take(pipe, most);
        }
        let size = open.size()?;
        let wants_rotation = self.wants_rotation(size);
        let is_shared = self.streams.iter().any(|other| *other != stream);
        let is_own = self.writer.is_some_and(|writer| writer.stream == stream);
        let most = match is_shared || wants_rotation {
            // No further than it may grow, and a page at least.
            false => {
                self.rotation.max_bytes.map_or(most, |full| most.min(full.saturating_sub(size).max(4096) as usize))
            }
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
        let open = self.open.as_mut().expect("opened above");
        let size = open.size()?;
        let took = open.take(pipe, most)?;
        if let Took::Bytes(bytes) = took {
            let now = wall_ms();
            self.index.note(size, now);
            self.born_ms.get_or_insert(now);
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

    /// Writes a line of our own.
    ///
    /// # Errors
    /// The file cannot be opened or takes nothing.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        self.ensure_open()?;
        let open = self.open.as_ref().expect("opened by the line above");
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
            Seen::Begun(bytes) if !is_shared || is_own && self.is_in_a_line() => Look::Move(bytes),
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

    fn is_in_a_line(&self) -> bool {
        // A file that cannot be read is taken as one that ends well: nothing better can be known.
        self.open.as_ref().is_some_and(|open| open.is_in_a_line().unwrap_or(false))
    }

    /// Makes a stream the one whose bytes come next; `false` while another's line has to be finished first.
    fn hand_over(&mut self, stream: StreamKey) -> io::Result<bool> {
        if self.is_in_a_line() {
            let goes_on = self.writer.is_some_and(|writer| !writer.ended);
            let silence = if self.is_new { SUCCESSION } else { SILENCE };
            if goes_on && self.moved.elapsed() < silence {
                return Ok(false);
            }
            self.open.as_ref().expect("open, since it is in a line").append(b"\n")?;
        }
        let writer = Writer { stream, ended: false };
        self.writer = Some(writer);
        self.index.set_writer(writer);
        Ok(true)
    }

    fn wants_rotation(&mut self, size: u64) -> bool {
        if size == 0 || self.rotate_from > Instant::now() {
            return false;
        }
        let by_age = self.rotation.max_age.is_some();
        let age = match by_age {
            true => Duration::from_millis(wall_ms().saturating_sub(self.born())),
            false => Duration::ZERO,
        };
        rotate::is_due(&self.rotation, size, age)
    }

    fn born(&mut self) -> u64 {
        let path = &self.path;
        *self.born_ms.get_or_insert_with(|| born_ms(path))
    }

    /// Puts the file aside if it ends with a line, or is far too large.
    fn rotate_at_a_line(&mut self, size: u64) {
        let far = self.rotation.max_bytes.is_some_and(|most| size >= most.saturating_mul(2));
        if self.is_in_a_line() && !far {
            return;
        }
        self.rotate();
    }

    fn rotate(&mut self) {
        let is_ours = self.open.as_ref().is_some_and(|open| open.is_at(&self.path));
        if !is_ours {
            // Somebody else has put it aside.
            self.reopen();
            return;
        }
        match rotate::put_aside(&self.path, self.rotation.keep) {
            Ok(()) => {
                self.open = None;
                self.index.start_anew();
                self.born_ms = None;
                if let Some(writer) = self.writer {
                    self.index.set_writer(writer);
                }
                if self.rotation.compress {
                    self.compressor.compress(&self.path);
                }
            }
            Err(error) => {
                tracing::warn!("the log {} cannot be put aside: {error}", self.path.display());
                self.rotate_from = Instant::now() + ROTATE_AGAIN;
            }
        }
    }
}

/// What may be moved.
enum Look {
    Move(usize),
    Not(Took),
}

/// When the first byte of a log was written, in ms since 1970.
pub(super) fn born_ms(log: &Path) -> u64 {
    let noted = Times::of(log).0.first().map(|(_, time)| *time);
    let file = || std::fs::metadata(log).ok();
    let created = || file().and_then(|file| file.created().or_else(|_| file.modified()).ok()).map(ms_of);
    noted.or_else(created).unwrap_or_else(wall_ms)
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

fn ms_of(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The wall clock, in ms since 1970.
pub(super) fn wall_ms() -> u64 {
    ms_of(SystemTime::now())
}
