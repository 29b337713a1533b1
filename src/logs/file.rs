//! The file of a log, found at its path again and again.
//!
//! Owns what is open of it, its index of times, and when it is put aside. Who writes to it and in which shape is left to
//! `target` and `rendered`; how bytes get in, to `open`.
//!
//! Invariants
//! - A file that was deleted or replaced is noticed within [`LOOK_EVERY`], and at once after [`LogFile::reopen`].
//! - What is put aside is what lies at the path, never what somebody else has put aside already.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::compress::Asking;
use super::index::{Index, Times};
use super::open::Open;
use super::rotate;
use crate::config::spec::Rotation;

/// How often a file is looked for at its path.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a time is noted of a file with traffic.
const NOTE_EVERY: Duration = Duration::from_millis(100);
/// How long after a failure to put a file aside it is tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);
/// The longest beginning of a line that is cut back: what is longer is worth more than a tidy end.
const CUT_LIMIT: u64 = 16 * 1024 * 1024;

/// A log's file, open or not.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    compressor: Asking,
    open: Option<Open>,
    pub index: Index,
    /// When its first byte was written, in ms since 1970.
    born_ms: Option<u64>,
    /// Not put aside before.
    rotate_from: Instant,
}

/// Whether the file that is open is the one that was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Same,
    Another,
}

impl LogFile {
    /// A file that is not open yet.
    pub fn new(path: PathBuf, rotation: Rotation, compressor: Asking) -> LogFile {
        let index = Index::of(&path, NOTE_EVERY);
        LogFile { path, rotation, compressor, open: None, index, born_ms: None, rotate_from: Instant::now() }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is to be put aside by other rules from now on.
    pub fn set_rotation(&mut self, rotation: Rotation) {
        self.rotation = rotation;
    }

    /// How large it may grow.
    pub fn most_bytes(&self) -> Option<u64> {
        self.rotation.max_bytes
    }

    /// What is open, if anything is.
    pub fn opened(&self) -> Option<&Open> {
        self.open.as_ref()
    }

    /// Opens the file, creating it and its folder (but not the one above), unless it is open and still lies at its path.
    ///
    /// # Errors
    /// Those of `open(2)` and `mkdir(2)`.
    pub fn open(&mut self) -> io::Result<(&mut Open, Found)> {
        let is_here = self.open.as_mut().is_some_and(|open| {
            if open.looked.elapsed() < LOOK_EVERY {
                return true;
            }
            open.looked = Instant::now();
            open.is_at(&self.path)
        });
        let found = if is_here { Found::Same } else { Found::Another };
        if !is_here {
            self.open_anew()?;
        }
        Ok((self.open.as_mut().expect("it is open, or was opened above"), found))
    }

    fn open_anew(&mut self) -> io::Result<()> {
        // Where that fails, what was open stays, since it has the carry.
        let mut open = Open::at(&self.path).inspect_err(|_| self.reopen())?;
        // Deleted or replaced, if there was one. The carry, if any, goes to the new one.
        let before = self.open.take();
        let is_first = before.is_none();
        open.carry = before.map(|open| open.carry).unwrap_or_default();
        self.born_ms = None;
        if !is_first {
            self.index.start_anew();
        } else if self.rotation.compress && open.is_file() {
            self.compressor.mend(&self.path);
        }
        self.open = Some(open);
        Ok(())
    }

    /// Lets go of the file; what lies at the path is opened for the next byte.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// Has the file looked for at its path before the next byte.
    pub fn reopen(&mut self) {
        if let Some(open) = &mut self.open {
            open.looked = Instant::now().checked_sub(LOOK_EVERY).unwrap_or(open.looked);
        }
    }

    /// Empties the file, if it is one.
    ///
    /// # Errors
    /// Those of `ftruncate(2)`.
    pub fn empty(&mut self) -> io::Result<()> {
        if let Some(open) = self.open.as_ref().filter(|open| open.is_file()) {
            open.set_len(0)?;
            self.index.reset();
            self.born_ms = None;
        }
        Ok(())
    }

    /// Cuts off the beginning of a line that it ends with, unless that is very long: how many bytes went.
    ///
    /// # Errors
    /// It cannot be read or cut.
    pub fn cut_back(&mut self) -> io::Result<u64> {
        let Some(open) = self.open.as_ref().filter(|open| open.is_file()) else { return Ok(0) };
        let size = open.size()?;
        let floor = size.saturating_sub(CUT_LIMIT);
        let begun = open.line_begins(floor)?;
        if begun == floor && floor > 0 {
            return Ok(0);
        }
        open.set_len(begun)?;
        self.index.cut_back(begun);
        Ok(size - begun)
    }

    /// Takes note that a byte came at this offset at this time, in ms since 1970.
    pub fn note(&mut self, offset: u64, ms: u64) {
        self.index.note(offset, ms);
        if offset == 0 {
            self.born_ms = Some(ms);
        }
    }

    /// Whether it is to be put aside, being so long.
    pub fn is_due(&mut self, size: u64) -> bool {
        let is_file = self.open.as_ref().is_some_and(Open::is_file);
        if size == 0 || !is_file || self.rotate_from > Instant::now() {
            return false;
        }
        let age = match self.rotation.max_age {
            Some(_) => wall_ms().saturating_sub(self.born()),
            None => 0,
        };
        rotate::is_due(&self.rotation, size, Duration::from_millis(age))
    }

    fn born(&mut self) -> u64 {
        let path = &self.path;
        *self.born_ms.get_or_insert_with(|| born_ms(path))
    }

    /// Puts it aside and lets go of it; whether that was done.
    pub fn put_aside(&mut self) -> bool {
        if !self.open.as_ref().is_some_and(|open| open.is_at(&self.path)) {
            // Somebody else has put it aside.
            self.reopen();
            return false;
        }
        if let Err(error) = rotate::put_aside(&self.path, self.rotation.keep) {
            tracing::warn!("the log {} cannot be put aside: {error}", self.path.display());
            self.rotate_from = Instant::now() + ROTATE_AGAIN;
            return false;
        }
        self.open = None;
        self.index.start_anew();
        self.born_ms = None;
        if self.rotation.compress {
            self.compressor.compress(&self.path);
        }
        true
    }
}

/// When the first byte of a log was written, in ms since 1970.
pub fn born_ms(log: &Path) -> u64 {
    let noted = Times::of(log).0.first().map(|(_, time)| *time);
    let file = || std::fs::metadata(log).ok();
    let created = || file().and_then(|file| file.created().or_else(|_| file.modified()).ok()).map(ms_of);
    noted.or_else(created).unwrap_or_else(wall_ms)
}

fn ms_of(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The wall clock, in ms since 1970.
pub fn wall_ms() -> u64 {
    ms_of(SystemTime::now())
}
