//! When the bytes of a log were written: a small file beside it, `NAME.times`.
//!
//! Owns its format and its size. A record says "from this offset on, written at this time"; it is made before the bytes
//! are, at most every so often. Also remembered here: whose bytes are last in the log, which a successor must know of a
//! line that is not finished.
//!
//! Format: a header of 32 bytes (magic, instance, incarnation, kind), then records of 16 (offset, ms since 1970), all
//! little-endian. A record that is not whole is none.
//!
//! Invariants
//! - A log without its index is a log without times, and nothing worse: nothing here is an error of the log.
//! - At most [`MOST`] records: when they are reached, every second one goes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::pump::{Kind, StreamKey};

const MAGIC: [u8; 8] = *b"HWTIMES1";
const HEADER: usize = 32;
const RECORD: usize = 16;
/// A mebibyte of them.
const MOST: usize = 64 * 1024;

/// Whose bytes are last in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    pub stream: StreamKey,
    /// It will not write any more.
    pub ended: bool,
}

/// The writing side, for one log.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    every: Duration,
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    offset: u64,
    made: Instant,
}

/// Where the index of a log lies.
pub fn path_of(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".times");
    name.into()
}

impl Index {
    /// The index of a log. Nothing is opened or created yet.
    pub fn of(log: &Path, every: Duration) -> Index {
        Index { path: path_of(log), every, last: None }
    }

    /// Whose bytes are last in the log, if that was ever said.
    pub fn writer(&self) -> Option<Writer> {
        let mut header = [0; HEADER];
        File::open(&self.path).and_then(|file| file.read_exact_at(&mut header, 0)).ok()?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        if header[..8] != MAGIC || word(16) == 0 {
            return None;
        }
        let kind = if word(16) & 1 == 0 { Kind::Err } else { Kind::Out };
        let stream = StreamKey { instance: word(8), incarnation: word(12), kind };
        Some(Writer { stream, ended: word(20) != 0 })
    }

    /// Remembers whose bytes come next.
    pub fn set_writer(&self, writer: Writer) {
        let kind: u32 = match writer.stream.kind {
            Kind::Out => 1,
            Kind::Err => 2,
        };
        let words = [writer.stream.instance, writer.stream.incarnation, kind, u32::from(writer.ended)];
        let bytes: Vec<u8> = MAGIC.into_iter().chain(words.iter().flat_map(|word| word.to_le_bytes())).collect();
        // A log without its index is a log all the same.
        let _ = self.open().and_then(|file| file.write_all_at(&bytes, 0));
    }

    /// Remembers that bytes are written at `offset` now, unless that was said of others a moment ago.
    pub fn note(&mut self, offset: u64, now_ms: u64) {
        if let Some(last) = self.last
            && last.offset <= offset
            && last.made.elapsed() < self.every
        {
            return;
        }
        // A log without its index is a log all the same.
        let _ = self.append(offset, now_ms);
        self.last = Some(Last { offset, made: Instant::now() });
    }

    /// Forgets all times: the log is empty.
    pub fn reset(&mut self) {
        self.last = None;
        if let Ok(file) = File::options().write(true).open(&self.path) {
            // Times that are wrong are cut off at the next note, too.
            let _ = file.set_len(HEADER as u64);
        }
    }

    /// The log was cut back to this length: what is written there next has a time of its own.
    pub fn cut_back(&mut self, length: u64) {
        self.last = None;
        // A log without its index is a log all the same.
        let _ = self.forget_from(length);
    }

    fn forget_from(&self, length: u64) -> io::Result<()> {
        let file = File::options().read(true).write(true).open(&self.path)?;
        let mut records = (file.metadata()?.len() as usize).saturating_sub(HEADER) / RECORD;
        while records > 0 {
            let mut offset = [0; 8];
            file.read_exact_at(&mut offset, place(records - 1))?;
            if u64::from_le_bytes(offset) < length {
                break;
            }
            records -= 1;
        }
        file.set_len(place(records))
    }

    /// The log has been put aside, its index with it.
    pub fn start_anew(&mut self) {
        self.last = None;
    }

    fn append(&self, offset: u64, now_ms: u64) -> io::Result<()> {
        let file = self.open()?;
        let mut records = (file.metadata()?.len() as usize).saturating_sub(HEADER) / RECORD;
        if records > 0 {
            let mut last = [0; 8];
            file.read_exact_at(&mut last, place(records - 1))?;
            // The log was emptied by somebody else.
            if u64::from_le_bytes(last) > offset {
                file.set_len(HEADER as u64)?;
                records = 0;
            }
        }
        if records >= MOST {
            records = self.thin(&file)?;
            return self.open().and_then(|file| put(&file, records, offset, now_ms));
        }
        put(&file, records, offset, now_ms)
    }

    /// Drops every second record, all at once for whoever reads.
    fn thin(&self, file: &File) -> io::Result<usize> {
        let mut all = vec![0; place(MOST) as usize];
        file.read_exact_at(&mut all, 0)?;
        let half: Vec<u8> = all[HEADER..].chunks_exact(RECORD).step_by(2).flatten().copied().collect();
        let aside = self.path.with_extension("times.new");
        let new = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        new.write_all_at(&all[..HEADER], 0)?;
        new.write_all_at(&half, HEADER as u64)?;
        fs::rename(&aside, &self.path)?;
        Ok(half.len() / RECORD)
    }

    fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&self.path)?;
        if file.metadata()?.len() < HEADER as u64 {
            file.write_all_at(&MAGIC, 0)?;
            file.set_len(HEADER as u64)?;
        }
        Ok(file)
    }
}

fn place(record: usize) -> u64 {
    (HEADER + record * RECORD) as u64
}

fn put(file: &File, records: usize, offset: u64, now_ms: u64) -> io::Result<()> {
    let bytes = [offset.to_le_bytes(), now_ms.to_le_bytes()].concat();
    file.write_all_at(&bytes, place(records))
}

/// What an index says: the reading side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Times(pub Vec<(u64, u64)>);

impl Times {
    /// Reads the index of a log; one that is missing or not to be read says nothing.
    pub fn of(log: &Path) -> Times {
        let bytes = fs::read(path_of(log)).unwrap_or_default();
        if bytes.len() < HEADER || bytes[..8] != MAGIC {
            return Times::default();
        }
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let record = |record: &[u8]| (word(&record[..8]), word(&record[8..]));
        Times(bytes[HEADER..].chunks_exact(RECORD).map(record).collect())
    }

    /// When the byte at `offset` was written, in ms since 1970: the nearest time that was noted before it, else after.
    pub fn at(&self, offset: u64) -> Option<u64> {
        self.span(offset).0
    }

    /// The same, with the offset up to which it is the time of every byte.
    pub fn span(&self, offset: u64) -> (Option<u64>, u64) {
        let next = self.0.partition_point(|(from, _)| *from <= offset);
        let until = self.0.get(next).map_or(u64::MAX, |(from, _)| *from);
        (self.0.get(next.saturating_sub(1)).map(|(_, time)| *time), until)
    }

    /// The first offset that was written at `time` or later; `None`: nothing was.
    // Clocks go back now and then, so this is no binary search.
    pub fn since(&self, time: u64) -> Option<u64> {
        self.0.iter().find(|(_, at)| *at >= time).map(|(offset, _)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(every: Duration) -> (tempfile::TempDir, PathBuf, Index) {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        let index = Index::of(&log, every);
        (folder, log, index)
    }

    #[test]
    fn a_byte_has_the_nearest_time_before_it() {
        let (_folder, log, mut index) = index(Duration::ZERO);
        for (offset, time) in [(0, 1000), (50, 2000), (50, 2500), (90, 3000)] {
            index.note(offset, time);
        }
        let times = Times::of(&log);
        assert_eq!([0, 49, 50, 89, 5000].map(|at| times.at(at).unwrap()), [1000, 1000, 2500, 2500, 3000]);
        assert_eq!([times.span(3), times.span(90)], [(Some(1000), 50), (Some(3000), u64::MAX)]);
        assert_eq!([0, 1001, 2500, 3001].map(|at| times.since(at)), [Some(0), Some(50), Some(50), None]);
        assert_eq!(Times::of(Path::new("/nowhere")).at(0), None);
    }

    #[test]
    fn times_are_noted_once_in_a_while_and_anew_for_an_emptied_log() {
        let (_folder, log, mut index) = index(Duration::from_secs(3600));
        index.note(0, 1);
        index.note(500, 2);
        assert_eq!(Times::of(&log).0, [(0, 1)]);
        index = Index::of(&log, Duration::ZERO);
        index.note(700, 3);
        index.note(10, 4);
        assert_eq!(Times::of(&log).0, [(10, 4)]);
    }

    #[test]
    fn a_log_that_was_cut_back_keeps_the_times_of_what_is_left() {
        let (_folder, log, mut index) = index(Duration::ZERO);
        for (offset, time) in [(0, 1), (50, 2), (90, 3)] {
            index.note(offset, time);
        }
        index.cut_back(70);
        index.note(70, 4);
        assert_eq!(Times::of(&log).0, [(0, 1), (50, 2), (70, 4)]);
    }

    #[test]
    fn an_index_never_grows_beyond_its_bound() {
        let (_folder, log, mut index) = index(Duration::ZERO);
        for record in 0..MOST as u64 + 10 {
            index.note(record, record);
        }
        let times = Times::of(&log);
        assert_eq!(times.0.len(), MOST / 2 + 10);
        assert_eq!(times.at(7), Some(6));
        assert_eq!(times.0.last(), Some(&(MOST as u64 + 9, MOST as u64 + 9)));
    }

    #[test]
    fn whose_bytes_are_last_outlives_the_process() {
        let (_folder, log, index) = index(Duration::ZERO);
        assert_eq!(index.writer(), None);
        for kind in [Kind::Out, Kind::Err] {
            let writer = Writer { stream: StreamKey { instance: 3, incarnation: 9, kind }, ended: kind == Kind::Err };
            index.set_writer(writer);
            assert_eq!(Index::of(&log, Duration::ZERO).writer(), Some(writer));
        }
    }
}
