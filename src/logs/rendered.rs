//! A log whose lines are rendered: stamped, as JSON, or put together from several streams.
//!
//! Owns the committed position of its file (`file`). Reads spools, which hold the bytes as
//! they came (`spool`), and appends whole lines, a batch at a time.
//!
//! Exactly once, whenever the supervisor is killed: a batch is appended, then its position is committed. In between the
//! file is longer than the position says, and the successor cuts it back and renders the same bytes again; see
//! `position`.
//!
//! Invariants
//! - Lines of several streams are never mixed within a line: what is appended ends with a newline.
//! - A line longer than [`BATCH`] is rendered in pieces, each marked as one that goes on.
//! - Times are those at which the bytes were first seen.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memchr::{memchr, memrchr};

use super::compress::Asking;
use super::file::{Found, LogFile, wall_ms};
use super::index::Times;
use super::line::Style;
use super::position::{Position, PositionFile, SpoolId};
use super::tail::read_up_to;
use super::written::Written;
use crate::config::spec::Rotation;

/// What is read and rendered at a time, and the longest line that stays one.
const BATCH: usize = 256 * 1024;

/// The most memory that is kept for rendered text between batches.
const KEPT_TEXT: usize = 4 * 1024 * 1024;

thread_local! {
    /// What is read and rendered at a time: for one thread, not for one log, of which there may be thousands.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { block: Vec::new(), text: Vec::new() }) };
}

struct Scratch {
    block: Vec<u8>,
    text: Vec<u8>,
}

/// What is to be rendered of a spool.
pub struct Source<'s> {
    pub id: SpoolId,
    pub file: &'s File,
    /// What is before that is no more, since it was rendered.
    pub from: u64,
    /// How long it is.
    pub length: u64,
    /// When its bytes came.
    pub times: &'s Times,
    /// Whether nothing follows: what has no newline is a line, too.
    pub ended: bool,
}

/// A rendered file, by its path.
#[derive(Debug)]
pub struct Rendered {
    file: LogFile,
    positions: PositionFile,
    position: Position,
}

impl Rendered {
    /// A file at `path`, whose positions are kept in `folder`. `is_known` says which spools still exist.
    ///
    /// # Errors
    /// The positions cannot be opened.
    pub fn new(
        path: &Path,
        folder: &Path,
        rotation: Rotation,
        compressor: Asking,
        is_known: impl Fn(&SpoolId) -> bool,
    ) -> io::Result<Rendered> {
        let (positions, mut position) = PositionFile::open(&position_path(folder, path))?;
        position.spools.retain(|id, _| is_known(id));
        Ok(Rendered { file: LogFile::new(path.to_owned(), rotation, compressor), positions, position })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Is to be put aside by other rules from now on.
    pub fn set_rotation(&mut self, rotation: Rotation) {
        self.file.set_rotation(rotation);
    }

    /// How much of a spool stands in it.
    pub fn done(&self, id: SpoolId) -> u64 {
        self.position.spools.get(&id).copied().unwrap_or(0)
    }

    /// Opens the file, if it is not open.
    ///
    /// # Errors
    /// Those of `open(2)` and `mkdir(2)`, or the position cannot be committed.
    pub fn prepare(&mut self) -> io::Result<()> {
        self.ensure_open()
    }

    /// Renders what is there of a spool in whole lines, and notes where they are.
    ///
    /// # Errors
    /// The file takes nothing, or the position cannot be committed: nothing of the batch at hand is in the file then.
    pub fn advance(&mut self, source: &Source<'_>, style: &mut Style, written: &mut Written) -> io::Result<()> {
        // A spool that was removed by somebody, or that belongs to another life, begins anew.
        let mut at = self.done(source.id).max(source.from).min(source.length);
        if at == source.length {
            return Ok(());
        }
        SCRATCH.with_borrow_mut(|Scratch { block, text }| {
            block.resize(BATCH, 0);
            while at < source.length {
                let most = (source.length - at).min(BATCH as u64) as usize;
                let read = read_up_to(source.file, &mut block[..most], at)?;
                text.clear();
                let whole = render(source, style, at, &block[..read], text);
                if whole == 0 {
                    break;
                }
                self.put(source, at, whole as u64, text, written)?;
                at += whole as u64;
            }
            text.shrink_to(KEPT_TEXT);
            Ok(())
        })
    }

    /// Appends a rendered batch, which took so many bytes of its spool, and commits it.
    fn put(&mut self, source: &Source<'_>, at: u64, whole: u64, text: &[u8], written: &mut Written) -> io::Result<()> {
        let first = source.times.at(at).unwrap_or_else(wall_ms);
        self.append(text, first)?;
        self.position.spools.insert(source.id, at + whole);
        let appended = text.len() as u64;
        self.commit_or_undo(source.id, at, appended)?;
        written.note(self.position.identity, self.position.length.saturating_sub(appended), appended);
        if self.file.is_due(self.position.length) {
            self.file.put_aside();
        }
        Ok(())
    }

    /// Appends text, and counts it in the position that is not committed yet.
    fn append(&mut self, text: &[u8], time: u64) -> io::Result<()> {
        self.ensure_open()?;
        let open = self.file.opened().expect("opened by the line above");
        if !open.is_file() {
            return open.append(text);
        }
        let size = open.size()?;
        if size != self.position.length {
            // Emptied or written to by somebody else: what is there counts, before anything is added to it.
            self.position.length = size;
            self.positions.commit(&self.position)?;
        }
        open.append(text)?;
        self.file.note(size, time);
        self.position.length = size + text.len() as u64;
        Ok(())
    }

    fn commit_or_undo(&mut self, id: SpoolId, before: u64, appended: u64) -> io::Result<()> {
        let committed = self.positions.commit(&self.position);
        if committed.is_err() {
            self.position.spools.insert(id, before);
            let length = self.position.length.saturating_sub(appended);
            if let Some(open) = self.file.opened().filter(|open| open.is_file())
                && open.set_len(length).is_ok()
            {
                self.position.length = length;
            }
        }
        committed
    }

    /// A spool is done with.
    ///
    /// # Errors
    /// The position cannot be committed; it is dropped with the next one.
    pub fn forget(&mut self, id: SpoolId) -> io::Result<()> {
        match self.position.spools.remove(&id) {
            Some(_) => self.positions.commit(&self.position),
            None => Ok(()),
        }
    }

    /// Opens the file unless it is open and still lies at its path; what was not committed of it goes.
    fn ensure_open(&mut self) -> io::Result<()> {
        match self.file.open()? {
            (_, Found::Same) => Ok(()),
            (_, Found::Another) => self.agree().inspect_err(|_| self.file.close()),
        }
    }

    /// Makes the position and a file that has just been opened say the same.
    fn agree(&mut self) -> io::Result<()> {
        let Some(open) = self.file.opened().filter(|open| open.is_file()) else { return Ok(()) };
        if open.identity != self.position.identity {
            self.position.identity = open.identity;
            self.position.length = open.size()?;
            self.positions.commit(&self.position)?;
        } else if open.size()? > self.position.length {
            open.set_len(self.position.length)?;
        }
        if open.is_in_a_line().unwrap_or(false) {
            open.append(b"\n")?;
        }
        Ok(())
    }

    /// Has the file looked for at its path before the next line.
    pub fn reopen(&mut self) {
        self.file.reopen();
    }

    /// Empties the file.
    ///
    /// # Errors
    /// Those of `open(2)` and `ftruncate(2)`.
    pub fn flush(&mut self) -> io::Result<()> {
        self.ensure_open()?;
        self.file.empty()
    }
}

/// Renders the whole lines of a block that begins at `at`, and says how many bytes those are.
fn render(source: &Source<'_>, style: &mut Style, at: u64, block: &[u8], text: &mut Vec<u8>) -> usize {
    let is_end = source.ended && at + block.len() as u64 == source.length;
    let whole = match memrchr(b'\n', block) {
        Some(newline) => newline + 1,
        None if is_end || block.len() == BATCH => block.len(),
        None => return 0,
    };
    let is_end = is_end && whole == block.len();
    let (mut from, mut time, mut until) = (0, 0, 0);
    while from < whole {
        let newline = memchr(b'\n', &block[from..whole]);
        let end = newline.map_or(whole, |newline| from + newline);
        // Of many lines that came at once the time is looked for once.
        if at + from as u64 >= until {
            let (known, ends) = source.times.span(at + from as u64);
            (time, until) = (known.unwrap_or_else(wall_ms), ends);
        }
        style.line(&block[from..end], time, newline.is_some() || is_end, text);
        from = end + usize::from(newline.is_some());
    }
    whole
}

/// Where the positions of a log are kept: by its name, and by its whole path's checksum, since others may have that name.
fn position_path(folder: &Path, log: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).take(100).collect();
    folder.join(format!("{name}.{:08x}.at", crc32fast::hash(log.as_os_str().as_bytes())))
}
