//! Files read on while others write to them, line by line.
//!
//! Owns the open files and what is read of a line that is not finished. Looks at the files every few milliseconds to a
//! tenth of a second instead of being told: it works on every file system and costs little. Goes through what was put
//! aside meanwhile, compressed or not, before it goes on with what lies at the path.
//!
//! Invariants
//! - Every byte that is in a file when it is looked at is handed out once, in order. Two exceptions that nobody can see:
//!   a file that is truncated and has grown beyond its old size before the next look, and files that were put aside and
//!   removed as too many before they were read. And one that is meant: a line that is begun and then cut off (its rest
//!   was lost on a full disk) is not handed out.
//! - What is kept of one line is at most [`LINE_LIMIT`].

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::history::{self, Segment, Start};
use super::index::{self, Times};
use super::tail::LINE_LIMIT;

const BLOCK: usize = 64 * 1024;
/// Bytes of the last line that are kept, to know it again.
const KNOWN_BEFORE: usize = 64;
const SHORT_PAUSE: Duration = Duration::from_millis(10);
const LONG_PAUSE: Duration = Duration::from_millis(100);

/// Where to begin in a file that exists already. One that appears later is read from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Start,
    End,
    /// This many lines before its end, or in what was put aside before it.
    Last(usize),
    /// What was written at this time (in ms since 1970) or later, or was put aside since.
    Since(u64),
    /// This many bytes after its start, or its end where that comes first.
    At(u64),
}

/// A line, or a part of one that is longer than [`LINE_LIMIT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The number that [`Follower::add`] gave the file.
    pub file: usize,
    /// Its bytes, without the newline.
    pub bytes: Vec<u8>,
    /// Whether a newline followed; the next piece of this file continues the line otherwise.
    pub ended: bool,
    /// When it was written, in ms since 1970, where that was asked for and is known.
    pub time: Option<u64>,
}

/// Several files followed at once.
#[derive(Debug, Default)]
pub struct Follower {
    files: Vec<Followed>,
    /// Lines that are read and not handed out: at most a block of each file.
    ready: VecDeque<Line>,
    pause: Duration,
    timed: bool,
}

#[derive(Debug)]
struct Followed {
    path: PathBuf,
    open: Option<Segment>,
    at: u64,
    /// The beginning of a line, or what was not handed out of it, and where that is.
    begun: Vec<u8>,
    begun_at: u64,
    /// Where the line begins, and what is before that, as far as it is known.
    line_at: u64,
    before: Vec<u8>,
    times: Option<Known>,
}

/// Times of a segment, as they were last read.
#[derive(Debug)]
struct Known {
    inode: u64,
    size: u64,
    times: Times,
}

impl Follower {
    /// Follows nothing yet.
    pub fn new() -> Follower {
        Follower::default()
    }

    /// Follows nothing yet, and will say when lines were written.
    pub fn timed() -> Follower {
        Follower { timed: true, ..Follower::default() }
    }

    /// Follows a file, which need not exist yet, and returns its number: 0 for the first.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub fn add(&mut self, path: &Path, from: From) -> io::Result<usize> {
        let current = || Segment::current(path);
        let start = match from {
            From::Start => current()?.map(|segment| Start { segment, offset: 0 }),
            From::End => match current()? {
                Some(segment) => Some(Start { offset: segment.size()?.unwrap_or(0), segment }),
                None => None,
            },
            From::At(offset) => match current()? {
                Some(segment) => Some(Start { offset: offset.min(segment.size()?.unwrap_or(0)), segment }),
                None => None,
            },
            From::Last(lines) => history::last(path, lines)?,
            From::Since(time) => match history::since(path, time)? {
                Some(start) => Some(start),
                None => return self.add(path, From::End),
            },
        };
        let (open, at) = start.map_or((None, 0), |start| (Some(start.segment), start.offset));
        let (begun, path) = (Vec::new(), path.to_owned());
        self.files.push(Followed { path, open, at, begun, begun_at: at, line_at: at, before: Vec::new(), times: None });
        Ok(self.files.len() - 1)
    }

    /// The next line of any file, or `None` when none came within `limit`. Blocks.
    ///
    /// # Errors
    /// A file cannot be read any more; the others can, by calling again.
    pub fn next(&mut self, limit: Duration) -> io::Result<Option<Line>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            if self.look()? {
                self.pause = SHORT_PAUSE;
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(self.pause.min(left));
            self.pause = (self.pause * 2).clamp(SHORT_PAUSE, LONG_PAUSE);
        }
    }

    /// What has been read of lines that never ended: for the end, when nobody writes any more.
    pub fn rest(&mut self) -> Vec<Line> {
        let mut lines = VecDeque::new();
        self.files.iter_mut().enumerate().for_each(|(number, file)| file.cut(number, &mut lines));
        lines.into()
    }

    /// Reads a block of each file; whether there was anything.
    fn look(&mut self) -> io::Result<bool> {
        let mut any = false;
        for (number, file) in self.files.iter_mut().enumerate() {
            any |= file.read_on(number, self.timed, &mut self.ready)?;
        }
        Ok(any)
    }
}

impl Followed {
    /// Goes on with what was put aside after `number`, or with what lies at the path, from its start.
    fn go_on(&mut self, number: Option<u64>) -> io::Result<()> {
        self.open = match number {
            Some(number) => Segment::after(&self.path, number)?,
            None => Segment::current(&self.path)?,
        };
        (self.at, self.begun_at, self.line_at, self.times) = (0, 0, 0, None);
        self.before.clear();
        Ok(())
    }

    /// Reads one block; `false` when nothing is new.
    fn read_on(&mut self, number: usize, timed: bool, lines: &mut VecDeque<Line>) -> io::Result<bool> {
        let Some(segment) = &mut self.open else {
            self.go_on(None)?;
            return Ok(self.open.is_some());
        };
        let size = segment.size()?;
        if size.is_none_or(|size| size > self.at) {
            let mut block = vec![0; BLOCK];
            let read = segment.read_at(&mut block, self.at)?;
            if read > 0 {
                if timed {
                    self.learn_times();
                }
                self.split(number, &block[..read], lines);
                return Ok(true);
            }
        }
        let Some(segment) = &self.open else { return Ok(false) };
        if let Some(size) = size.filter(|size| *size < self.at) {
            if size == self.line_at && self.is_as_before() {
                // The line that was begun was cut off, since its rest is lost.
                self.begun.clear();
                (self.at, self.begun_at) = (size, size);
            } else {
                self.cut(number, lines);
                (self.at, self.begun_at, self.line_at, self.times) = (0, 0, 0, None);
            }
            return Ok(true);
        }
        // Read to its end; only then is a file left that is not at its path any more. What was written to it between
        // the two looks is in it by now.
        if !segment.is_past(&self.path) || segment.size()?.is_some_and(|size| size > self.at) {
            return Ok(false);
        }
        let aside = segment.number;
        self.cut(number, lines);
        self.go_on(Some(aside))?;
        Ok(self.open.is_some())
    }

    /// Whether what is before the line is what it was: the file was not emptied and written anew.
    fn is_as_before(&mut self) -> bool {
        let Some(segment) = &mut self.open else { return false };
        let mut now = vec![0; self.before.len()];
        let from = self.line_at - now.len() as u64;
        !now.is_empty() && segment.read_at(&mut now, from).is_ok_and(|read| read == now.len()) && now == self.before
    }

    /// Reads the segment's times again if there are more of them.
    fn learn_times(&mut self) {
        let Some(segment) = &self.open else { return };
        let Ok(found) = fs::metadata(index::path_of(&segment.plain)) else { return };
        match &self.times {
            // Put aside meanwhile: what lies there is another file's.
            Some(known) if known.inode != found.ino() || known.size == found.len() => {}
            _ => {
                let times = Times::of(&segment.plain);
                self.times = Some(Known { inode: found.ino(), size: found.len(), times });
            }
        }
    }

    fn split(&mut self, number: usize, mut block: &[u8], lines: &mut VecDeque<Line>) {
        while !block.is_empty() {
            let room = LINE_LIMIT - self.begun.len();
            let newline = block.iter().take(room + 1).position(|byte| *byte == b'\n');
            let length = newline.unwrap_or(block.len().min(room));
            self.begun.extend_from_slice(&block[..length]);
            let taken = length + usize::from(newline.is_some());
            block = &block[taken..];
            self.at += taken as u64;
            if newline.is_some() || self.begun.len() == LINE_LIMIT && !block.is_empty() {
                let bytes = std::mem::take(&mut self.begun);
                let time = self.time();
                self.begun_at = self.at;
                if newline.is_some() {
                    self.line_at = self.at;
                    self.before.clear();
                    self.before.extend_from_slice(&bytes[bytes.len().saturating_sub(KNOWN_BEFORE)..]);
                    self.before.push(b'\n');
                }
                lines.push_back(Line { file: number, bytes, ended: newline.is_some(), time });
            }
        }
    }

    fn time(&self) -> Option<u64> {
        self.times.as_ref().and_then(|known| known.times.at(self.begun_at))
    }

    /// The line that was begun will not be continued.
    fn cut(&mut self, number: usize, lines: &mut VecDeque<Line>) {
        if !self.begun.is_empty() {
            let (bytes, time) = (std::mem::take(&mut self.begun), self.time());
            lines.push_back(Line { file: number, bytes, ended: false, time });
            self.begun_at = self.at;
        }
    }
}
