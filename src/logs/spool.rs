//! The bytes of one stream on their way into rendered logs.
//!
//! Owns the spool, a raw file in the home's `logs/.raw` into which the pipe is spliced, and the times at which its bytes
//! came. What stands in every log that is rendered from it is cut out of its front (a hole: offsets go on), so a spool
//! takes no more of the disk than [`MOST`] and what is rendered at a time. It is removed when its stream has ended and
//! all is rendered.
//!
//! Invariants
//! - A byte that left the pipe is in the spool until it is committed in every log.
//! - While a log takes nothing, the spool fills up to [`MOST`]; then the stream waits as if its file took nothing.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::file::wall_ms;
use super::index::{Index, Times};
use super::line::Style;
use super::losing::{GivenUp, Lost};
use super::open::Open;
use super::peek::REACH;
use super::position::SpoolId;
use super::pump::{Kind, StreamKey};
use super::rendered::{Rendered, Source};
use super::target::Took;
use super::written::Written;

/// What may wait to be rendered.
const MOST: u64 = 8 * 1024 * 1024;
/// Holes are cut in steps of this.
const HOLE: u64 = 1024 * 1024;
/// Times that are kept of what is rendered already.
const OLD_TIMES: usize = 4096;

/// A spool and where it leads.
#[derive(Debug)]
pub struct Spool {
    id: SpoolId,
    path: PathBuf,
    open: Open,
    reading: File,
    index: Index,
    times: Times,
    /// The last time in the index.
    noted_ms: Option<u64>,
    /// How long it is; what is before `hole` is no more.
    length: u64,
    hole: u64,
    logs: Vec<Arc<Mutex<Rendered>>>,
    style: Style,
    /// Where its lines are in the first log.
    written: Written,
    /// Why a log took nothing the last time.
    waits: Option<i32>,
}

/// Which spool a pipe has.
pub fn id_of(stream: StreamKey, pipe: &OwnedFd) -> SpoolId {
    // Without an inode the numbers are all there is.
    let pipe = nix::sys::stat::fstat(pipe).map_or(0, |pipe| pipe.st_ino);
    SpoolId { instance: stream.instance, incarnation: stream.incarnation, error: stream.kind == Kind::Err, pipe }
}

/// Where a spool lies.
pub fn path_of(folder: &Path, id: &SpoolId) -> PathBuf {
    let kind = if id.error { "err" } else { "out" };
    folder.join(format!("{}-{}-{kind}-{:x}", id.instance, id.incarnation, id.pipe))
}

impl Spool {
    /// Opens a stream's spool, or goes on with the one that a predecessor filled.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn open(folder: &Path, id: SpoolId, logs: Vec<Arc<Mutex<Rendered>>>, style: Style) -> io::Result<Spool> {
        make_folder(folder)?;
        let path = path_of(folder, &id);
        let open = Open::at(&path)?;
        let reading = File::open(&path)?;
        let length = open.size()?;
        let index = Index::of(&path, Duration::ZERO);
        // Somebody has removed what was there: offsets begin anew.
        for log in logs.iter().filter(|log| lock(log).done(id) > length) {
            lock(log).forget(id)?;
        }
        let (times, hole) = (Times::of(&path), first_data(&reading).min(length));
        // Created by now, as others are, and if it cannot be, that is known before there is something to write.
        let prepared = logs.iter().map(|log| lock(log).prepare()).fold(Ok(()), Result::and);
        let (written, waits) = (Written::default(), prepared.err().as_ref().map(number));
        Ok(Spool { id, path, open, reading, index, times, noted_ms: None, length, hole, logs, style, written, waits })
    }

    /// Moves at most `most` bytes from the pipe into the spool, and renders what is whole.
    ///
    /// # Errors
    /// The spool takes nothing, or a log takes nothing and the spool is full: what is in the pipe stays there.
    pub fn take(&mut self, pipe: BorrowedFd<'_>, most: usize) -> io::Result<Took> {
        self.make_room()?;
        let took = self.open.take(pipe, most)?;
        match took {
            Took::Bytes(_) => {
                self.note_time();
                // Asked for, since a write that failed half-way is finished by the next one.
                self.length = self.open.size()?;
                // Noticed at the next take, if it is not over by then.
                self.render_later();
            }
            Took::Empty if self.waits.is_some() => self.render_later(),
            Took::End => {
                self.render(true)?;
                self.remove();
            }
            Took::Empty | Took::Blocked => {}
        }
        Ok(took)
    }

    /// Why something is left to be rendered though nothing is in the pipe: the number of an error.
    pub fn waits(&self) -> Option<i32> {
        self.waits
    }

    /// Where its lines are in the first log.
    pub fn written(&self) -> &Written {
        &self.written
    }

    /// The logs that it leads to.
    pub fn logs(&self) -> &[Arc<Mutex<Rendered>>] {
        &self.logs
    }

    /// Takes note of the time of what comes now, unless it is that of what came before.
    fn note_time(&mut self) {
        let now = wall_ms();
        if self.noted_ms != Some(now) {
            self.index.note(self.length, now);
            self.times.0.push((self.length, now));
            self.noted_ms = Some(now);
        }
    }

    /// Renders what fills the spool.
    fn make_room(&mut self) -> io::Result<()> {
        if self.length - self.done() >= MOST { self.render(false) } else { Ok(()) }
    }

    /// Cuts off the beginning of a line, as far as it is not rendered, and what was read and not written.
    ///
    /// # Errors
    /// The spool cannot be read or cut.
    pub fn give_up(&mut self) -> io::Result<GivenUp> {
        let size = self.open.size()?;
        let carry = std::mem::take(&mut self.open.carry);
        let was_in_a_line = self.open.is_in_a_line()?;
        let rendered = self.logs.iter().map(|log| lock(log).done(self.id)).max().unwrap_or(0);
        let begun = self.open.line_begins(rendered.max(self.hole))?.min(size);
        self.open.set_len(begun)?;
        self.length = begun;
        self.index.cut_back(begun);
        self.noted_ms = None;
        self.times.0.retain(|(from, _)| *from < begun);
        let lines = carry.iter().filter(|byte| **byte == b'\n').count() as u64;
        let lost = Lost { lines, bytes: size - begun + carry.len() as u64 };
        Ok(GivenUp { lost, in_a_line: carry.last().map_or(was_in_a_line, |last| *last != b'\n') })
    }

    /// Writes a line of our own, as if the instance had.
    ///
    /// # Errors
    /// The spool takes little, or is full since a log takes nothing.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        self.make_room()?;
        self.open.reserve(REACH)?;
        let before = if self.open.is_in_a_line().unwrap_or(false) { "\n" } else { "" };
        self.open.append(format!("{before}{line}\n").as_bytes())?;
        self.note_time();
        self.length = self.open.size()?;
        self.render_later();
        Ok(())
    }

    fn done(&self) -> u64 {
        let done = |log: &Arc<Mutex<Rendered>>| lock(log).done(self.id);
        self.logs.iter().map(done).min().unwrap_or(self.length).min(self.length)
    }

    /// Renders what can be; what cannot be waits in the spool.
    fn render_later(&mut self) {
        let prepared = self.logs.iter().map(|log| lock(log).prepare()).fold(Ok(()), Result::and);
        self.waits = self.render(false).and(prepared).err().as_ref().map(number);
    }

    fn render(&mut self, ended: bool) -> io::Result<()> {
        let source = Source {
            id: self.id,
            file: &self.reading,
            from: self.hole,
            length: self.length,
            times: &self.times,
            ended,
        };
        let mut result = Ok(());
        let mut of_others = Written::default();
        for (at, log) in self.logs.iter().enumerate() {
            let written = if at == 0 { &mut self.written } else { &mut of_others };
            // One that takes nothing does not hold the others up.
            let advanced = lock(log).advance(&source, &mut self.style, written);
            result = result.and(advanced);
        }
        self.cut();
        result
    }

    /// Gives back what stands in every log.
    fn cut(&mut self) {
        let done = self.done();
        if self.times.0.len() > OLD_TIMES {
            let known = self.times.0.partition_point(|(from, _)| *from <= done).saturating_sub(1);
            self.times.0.drain(..known);
            if done == self.length {
                self.noted_ms = None;
                self.index.reset();
            }
        }
        if done.saturating_sub(self.hole) <= HOLE {
            return;
        }
        // The last byte stays: it tells whether a line is open.
        let last = done - 1;
        let end = last - last % 4096;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (from, length) = (self.hole as libc::off_t, (end - self.hole) as libc::off_t);
        // On a file system that has no holes the spool grows until its stream has ended.
        let _ = fallocate(self.open.as_fd(), flags, from, length);
        self.hole = end;
    }

    fn remove(&mut self) {
        // The spool first: a position without one is dropped, a spool without a position would be rendered again.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(super::index::path_of(&self.path));
        for log in &self.logs {
            if let Err(error) = lock(log).forget(self.id) {
                tracing::debug!("the position of {} is not committed: {error}", lock(log).path().display());
            }
        }
    }
}

/// Where what is left of a spool begins: a predecessor has cut its front out, whatever the positions say.
fn first_data(spool: &File) -> u64 {
    match lseek(spool, 0, Whence::SeekData) {
        Ok(at) => u64::try_from(at).unwrap_or(0),
        // Nothing but a hole.
        Err(Errno::ENXIO) => u64::MAX,
        // A file system without holes.
        Err(_) => 0,
    }
}

/// Removes spools that belong to nobody: their keeper and their supervisor both died.
pub fn remove_strays(folder: &Path, is_known: impl Fn(&Path) -> bool) -> usize {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let is_spool = |path: &PathBuf| path.extension().is_none_or(|ending| ending == "times");
    let strays = files.filter(is_spool).filter(|path| !is_known(&path.with_extension("")));
    strays.filter(|path| fs::remove_file(path).is_ok()).count()
}

/// Creates the folder of spools, but not the home above it.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    let make = |folder: &Path| match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    if let Err(error) = make(folder) {
        let above = folder.parent().filter(|_| error.kind() == io::ErrorKind::NotFound).ok_or(error)?;
        make(above)?;
        make(folder)?;
    }
    Ok(())
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn lock(log: &Arc<Mutex<Rendered>>) -> std::sync::MutexGuard<'_, Rendered> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
