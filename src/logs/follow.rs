//! Files read on while others write to them, line by line.
//!
//! Owns the open files and what is read of a line that is not finished. Looks at the files every few milliseconds to a
//! tenth of a second instead of being told: it works on every file system and costs little.
//!
//! Invariants
//! - Every byte that is in a file when it is looked at is handed out once, in order. One exception that nobody can see:
//!   a file that is truncated and has grown beyond its old size before the next look.
//! - What is kept of one line is at most [`LINE_LIMIT`].

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::tail::{LINE_LIMIT, read_up_to, start_of_last};

const BLOCK: usize = 64 * 1024;
const SHORT_PAUSE: Duration = Duration::from_millis(10);
const LONG_PAUSE: Duration = Duration::from_millis(100);

/// Where to begin in a file that exists already. One that appears later is read from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Start,
    End,
    /// This many lines before its end.
    Last(usize),
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
}

/// Several files followed at once.
#[derive(Debug, Default)]
pub struct Follower {
    files: Vec<Followed>,
    /// Lines that are read and not handed out: at most a block of each file.
    ready: VecDeque<Line>,
    pause: Duration,
}

#[derive(Debug)]
struct Followed {
    path: PathBuf,
    open: Option<(File, u64)>,
    at: u64,
    /// The beginning of a line.
    begun: Vec<u8>,
}

impl Follower {
    /// Follows nothing yet.
    pub fn new() -> Follower {
        Follower::default()
    }

    /// Follows a file, which need not exist yet, and returns its number: 0 for the first.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub fn add(&mut self, path: &Path, from: From) -> io::Result<usize> {
        let mut file = Followed { path: path.to_owned(), open: None, at: 0, begun: Vec::new() };
        file.reopen()?;
        if let Some((open, _)) = &file.open {
            let size = open.metadata()?.len();
            file.at = match from {
                From::Start => 0,
                From::End => size,
                From::At(offset) => offset.min(size),
                From::Last(lines) => start_of_last(open, size, lines)?,
            };
        }
        self.files.push(file);
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
        let begun = self.files.iter_mut().enumerate().filter(|(_, file)| !file.begun.is_empty());
        begun
            .map(|(number, file)| Line { file: number, bytes: std::mem::take(&mut file.begun), ended: false })
            .collect()
    }

    /// Reads a block of each file; whether there was anything.
    fn look(&mut self) -> io::Result<bool> {
        let mut any = false;
        for (number, file) in self.files.iter_mut().enumerate() {
            any |= file.read_on(number, &mut self.ready)?;
        }
        Ok(any)
    }
}

impl Followed {
    /// Opens what lies at the path now, from its start. A file that is not there is none.
    fn reopen(&mut self) -> io::Result<()> {
        self.open = match File::open(&self.path) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                Some((file, inode))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        self.at = 0;
        Ok(())
    }

    /// Reads one block; `false` when nothing is new.
    fn read_on(&mut self, number: usize, lines: &mut VecDeque<Line>) -> io::Result<bool> {
        let Some((file, inode)) = &self.open else {
            self.reopen()?;
            return Ok(self.open.is_some());
        };
        let size = file.metadata()?.len();
        if size > self.at {
            let mut block = vec![0; BLOCK];
            let read = read_up_to(file, &mut block, self.at)?;
            self.at += read as u64;
            self.split(number, &block[..read], lines);
            return Ok(true);
        }
        if size < self.at {
            self.cut(number, lines);
            self.at = 0;
            return Ok(true);
        }
        // Read to its end; only then is a file left that is not at its path any more.
        match fs::metadata(&self.path) {
            Ok(found) if found.ino() != *inode => {
                self.cut(number, lines);
                self.reopen()?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn split(&mut self, number: usize, mut block: &[u8], lines: &mut VecDeque<Line>) {
        while !block.is_empty() {
            let room = LINE_LIMIT - self.begun.len();
            let newline = block.iter().take(room + 1).position(|byte| *byte == b'\n');
            let length = newline.unwrap_or(block.len().min(room));
            self.begun.extend_from_slice(&block[..length]);
            block = &block[length + usize::from(newline.is_some())..];
            if newline.is_some() || self.begun.len() == LINE_LIMIT && !block.is_empty() {
                let bytes = std::mem::take(&mut self.begun);
                lines.push_back(Line { file: number, bytes, ended: newline.is_some() });
            }
        }
    }

    /// The line that was begun will not be continued.
    fn cut(&mut self, number: usize, lines: &mut VecDeque<Line>) {
        if !self.begun.is_empty() {
            lines.push_back(Line { file: number, bytes: std::mem::take(&mut self.begun), ended: false });
        }
    }
}
