//! A log's past: the files that were put aside, and the one at its path, as one sequence.
//!
//! Owns how a segment is opened and read, whether it is compressed or not, and where in which segment reading begins.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::index::Times;
use super::rotate::{self, Aside};
use super::tail::{READ_LIMIT, last_lines, read_up_to};

/// Between two looks at what was put aside, a file may be compressed: then it is looked for again, so often at most.
const TRIES: usize = 5;
const BLOCK: usize = 64 * 1024;

/// A file of the sequence that is open.
#[derive(Debug)]
pub struct Segment {
    /// The number under which it was put aside, or will be.
    pub number: u64,
    /// Where its index lies beside.
    pub plain: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Plain { file: File, inode: u64 },
    // Decompression goes forward only.
    Gzip { decoder: Box<GzDecoder<File>>, at: u64 },
}

/// Where reading begins.
#[derive(Debug)]
pub struct Start {
    pub segment: Segment,
    pub offset: u64,
}

impl Segment {
    /// The file at the log's path; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn current(log: &Path) -> io::Result<Option<Segment>> {
        let newest = || rotate::asides(log).last().map_or(0, |aside| aside.number);
        for _ in 0..TRIES {
            let before = newest();
            let file = match File::open(log) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            // One that is put aside just now would be read twice.
            if newest() == before {
                return Ok(Some(Segment::plain(file, before + 1, log.to_owned())?));
            }
        }
        Err(io::Error::other("it is put aside faster than it can be read"))
    }

    /// The oldest that was put aside after `number`, or what is at the log's path.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn after(log: &Path, number: u64) -> io::Result<Option<Segment>> {
        for _ in 0..TRIES {
            match rotate::asides(log).into_iter().find(|aside| aside.number > number) {
                None => return Segment::current(log),
                Some(aside) => match Segment::aside(&aside) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    opened => return opened.map(Some),
                },
            }
        }
        Ok(None)
    }

    fn aside(aside: &Aside) -> io::Result<Segment> {
        let file = File::open(&aside.path)?;
        if !aside.compressed {
            return Segment::plain(file, aside.number, aside.plain());
        }
        let source = Source::Gzip { decoder: Box::new(GzDecoder::new(file)), at: 0 };
        Ok(Segment { number: aside.number, plain: aside.plain(), source })
    }

    fn plain(file: File, number: u64, plain: PathBuf) -> io::Result<Segment> {
        let inode = file.metadata()?.ino();
        Ok(Segment { number, plain, source: Source::Plain { file, inode } })
    }

    /// Reads what is at an offset; nothing at its end, for now or for good. An offset of a compressed one may only grow.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &mut self.source {
            Source::Plain { file, .. } => read_up_to(file, buffer, offset),
            Source::Gzip { decoder, at } => {
                while *at < offset {
                    let most = (offset - *at).min(buffer.len() as u64) as usize;
                    match decoder.read(&mut buffer[..most])? {
                        0 => return Ok(0),
                        read => *at += read as u64,
                    }
                }
                let read = decoder.read(buffer)?;
                *at += read as u64;
                Ok(read)
            }
        }
    }

    /// Its size, where it has one that can change.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn size(&self) -> io::Result<Option<u64>> {
        match &self.source {
            Source::Plain { file, .. } => Ok(Some(file.metadata()?.len())),
            Source::Gzip { .. } => Ok(None),
        }
    }

    /// Whether something else comes after it: it is not what is at the log's path.
    pub fn is_past(&self, log: &Path) -> bool {
        let Source::Plain { inode, .. } = &self.source else { return true };
        match fs::metadata(log) {
            Ok(found) => found.ino() != *inode,
            // Put aside, and the next one is not there yet, unless there are several.
            Err(_) => rotate::asides(log).last().is_some_and(|last| last.number > self.number),
        }
    }
}

/// Where the last `lines` lines of a log begin. Reads backwards, at most 16 MiB of what is not compressed.
///
/// # Errors
/// A file cannot be read.
pub fn last(log: &Path, lines: usize) -> io::Result<Option<Start>> {
    let mut left = lines;
    let mut read = 0;
    let mut best = None;
    if let Some(segment) = Segment::current(log)? {
        let (start, done) = start_in(segment, &mut left, &mut read)?;
        best = Some(start);
        if done {
            return Ok(best);
        }
    }
    for aside in rotate::asides(log).into_iter().rev() {
        if best.as_ref().is_some_and(|start| aside.number >= start.segment.number) {
            continue;
        }
        let segment = match Segment::aside(&aside) {
            Ok(segment) => segment,
            // It has gone meanwhile, and all before it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let (start, done) = start_in(segment, &mut left, &mut read)?;
        best = Some(start);
        if done {
            break;
        }
    }
    Ok(best)
}

/// Where the last `left` lines of a segment begin, and whether there are so many or enough was read.
fn start_in(mut segment: Segment, left: &mut usize, read: &mut u64) -> io::Result<(Start, bool)> {
    let (offset, found, bytes) = match &mut segment.source {
        Source::Plain { file, .. } => {
            let size = file.metadata()?.len();
            let (offset, found) = last_lines(file, size, *left, READ_LIMIT.saturating_sub(*read))?;
            (offset, found, size - offset)
        }
        Source::Gzip { decoder, .. } => {
            let (offset, found) = last_of_stream(decoder, *left)?;
            (offset, found, 0)
        }
    };
    *left -= found.min(*left);
    *read += bytes;
    if matches!(segment.source, Source::Gzip { .. }) {
        // Read to its end by now: once more from its start.
        let mut name = segment.plain.as_os_str().to_owned();
        name.push(".gz");
        segment.source = Source::Gzip { decoder: Box::new(GzDecoder::new(File::open(PathBuf::from(name))?)), at: 0 };
    }
    Ok((Start { segment, offset }, *left == 0 || *read >= READ_LIMIT))
}

/// The offset of the last `lines` lines of what can only be read forwards, and how many there are.
fn last_of_stream(stream: &mut impl Read, lines: usize) -> io::Result<(u64, usize)> {
    if lines == 0 {
        return Ok((0, 0));
    }
    let mut starts: VecDeque<u64> = VecDeque::from([0]);
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    loop {
        let read = stream.read(&mut block)?;
        if read == 0 {
            break;
        }
        for (place, _) in block[..read].iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            starts.push_back(at + place as u64 + 1);
            // One more, since the last may begin no line.
            if starts.len() > lines + 1 {
                starts.pop_front();
            }
        }
        at += read as u64;
    }
    if starts.back() == Some(&at) {
        starts.pop_back();
    } else if starts.len() > lines {
        starts.pop_front();
    }
    Ok((starts.front().copied().unwrap_or(at), starts.len()))
}

/// Where what was written at `time` (in ms since 1970) or later begins; `None`: nothing was.
///
/// # Errors
/// A file cannot be read.
pub fn since(log: &Path, time: u64) -> io::Result<Option<Start>> {
    let mut best: Option<Start> = None;
    if let Some(segment) = Segment::current(log)? {
        let (offset, is_all) = offset_since(log, log, time);
        if let Some(offset) = offset {
            best = Some(Start { segment, offset });
        }
        if !is_all {
            return Ok(best);
        }
    }
    for aside in rotate::asides(log).into_iter().rev() {
        let (offset, is_all) = offset_since(&aside.plain(), &aside.path, time);
        if let Some(offset) = offset {
            match Segment::aside(&aside) {
                Ok(segment) => best = Some(Start { segment, offset }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        if !is_all {
            break;
        }
    }
    Ok(best)
}

/// Where in a file what is not older begins, and whether that may be all of it.
fn offset_since(plain: &Path, file: &Path, time: u64) -> (Option<u64>, bool) {
    let times = Times::of(plain);
    if let Some((_, first)) = times.0.first() {
        let is_all = *first >= time;
        return (if is_all { Some(0) } else { times.since(time) }, is_all);
    }
    // Without times, the file's last change is all that is known.
    let changed = fs::metadata(file).and_then(|file| file.modified()).ok();
    let changed = changed.and_then(|at| at.duration_since(std::time::SystemTime::UNIX_EPOCH).ok());
    let is_all = changed.is_some_and(|at| at.as_millis() as u64 >= time);
    (is_all.then_some(0), is_all)
}
