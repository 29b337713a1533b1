//! One thread of low priority that compresses what was put aside.
//!
//! Owns the thread. A log is asked for by its path; everything that was put aside of it and is plain is compressed,
//! into a file aside, and renamed when it is whole: whoever looks sees a plain file or a whole compressed one. What a
//! death leaves half done is done again when the log is next asked for. A file is locked while it is compressed: a
//! supervisor that has frozen is not waited for long when its disk hangs, and its successor leaves that file to it.
//!
//! The queue is bounded; when it is full, the log stays plain until it is put aside the next time.
#![allow(unsafe_code)] // One system call, for the thread's own priority.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::rotate;

/// Logs that may wait.
const WAITING: usize = 1024;
/// Between two looks whether to stop.
const BLOCK: usize = 64 * 1024;
/// How long its end is waited for: a disk may hang, and a freeze has two seconds in all.
const STOP_LIMIT: Duration = Duration::from_millis(300);

/// The thread. Dropping it stops it within a block.
#[derive(Debug)]
pub struct Compressor {
    logs: SyncSender<PathBuf>,
    left: Arc<Mutex<Left>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Compressor {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread is left.
    pub fn start() -> io::Result<Compressor> {
        let (logs, asked) = sync_channel(WAITING);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("log gzip".to_owned()).spawn(move || run(&asked, &stopped))?;
        Ok(Compressor { logs, left: Arc::default(), stop, thread: Some(thread) })
    }

    /// Where logs are asked for.
    pub fn asking(&self) -> Asking {
        Asking { queue: Some(self.logs.clone()), left: Arc::clone(&self.left) }
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes a thread that sleeps; one that does not looks at the flag anyway.
        self.asking().compress(Path::new(""));
        let until = Instant::now() + STOP_LIMIT;
        let Some(thread) = self.thread.take() else { return };
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            // A thread that panicked has said so on stderr.
            let _ = thread.join();
        }
    }
}

/// By folder, the logs of which a predecessor has left something plain; each folder is looked through once, since
/// thousands of logs may lie in one.
type Left = HashMap<PathBuf, HashSet<PathBuf>>;

/// An end of the queue.
#[derive(Debug, Clone, Default)]
pub struct Asking {
    queue: Option<SyncSender<PathBuf>>,
    left: Arc<Mutex<Left>>,
}

impl Asking {
    /// Has everything compressed that was put aside of a log. Never waits.
    pub fn compress(&self, log: &Path) {
        if let Some(queue) = &self.queue {
            // Full: the next time.
            let _ = queue.try_send(log.to_owned());
        }
    }

    /// The same for a log that is opened for the first time, if a predecessor has died with this half done.
    pub fn mend(&self, log: &Path) {
        let (Some(_), Some(folder)) = (&self.queue, log.parent()) else { return };
        let mut folders = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let left = folders.entry(folder.to_owned()).or_insert_with(|| rotate::plain_asides_in(folder));
        if left.remove(log) {
            self.compress(log);
        }
    }
}

fn run(asked: &Receiver<PathBuf>, stop: &AtomicBool) {
    lower_priority();
    while let Ok(log) = asked.recv() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        for aside in rotate::asides(&log) {
            if stop.load(Ordering::Acquire) {
                return;
            }
            let plain = aside.plain();
            let done = match aside.compressed {
                // Left beside its compressed self by a death, if at all.
                true => fs::remove_file(&plain),
                false => compress(&plain, &aside_of(&plain, ".gz"), stop),
            };
            match done {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!("the log {} cannot be compressed: {error}", plain.display()),
            }
        }
    }
}

/// Replaces a file by a compressed one, which appears whole or not at all. One that somebody else compresses is left to
/// them.
fn compress(plain: &Path, into: &Path, stop: &AtomicBool) -> io::Result<()> {
    let mut from = File::open(plain)?;
    // A file system without locks has one supervisor at most that is late.
    if let Err(TryLockError::WouldBlock) = from.try_lock() {
        return Ok(());
    }
    let aside = aside_of(into, ".new");
    if let Err(error) = fill(&mut from, &aside, stop).and_then(|()| fs::rename(&aside, into)) {
        // Half a file is of no use to anybody.
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    fs::remove_file(plain)
}

fn fill(from: &mut File, aside: &Path, stop: &AtomicBool) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(aside)?;
    let mut gzip = GzEncoder::new(file, Compression::default());
    let mut block = vec![0; BLOCK];
    loop {
        match from.read(&mut block) {
            Ok(0) => break,
            Ok(read) => gzip.write_all(&block[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if stop.load(Ordering::Acquire) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    let file = gzip.finish()?;
    // The times of a file say how old a log is.
    file.set_modified(from.metadata()?.modified()?)?;
    // The plain one goes afterwards.
    file.sync_data()
}

fn aside_of(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn lower_priority() {
    const LOWEST: i32 = 19;
    // SAFETY: takes numbers alone; 0 is the calling thread, which is what Linux means by a process here.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST) };
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;

    fn until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < deadline, "not in time");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_was_put_aside_is_compressed_whole_and_what_a_death_left_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        let file = |ending: &str| folder.path().join(format!("a.log.{ending}"));
        let text = "a line\n".repeat(100_000);
        fs::write(file("000002"), &text).unwrap();
        // Killed while compressing, and killed between the rename and the removal.
        fs::write(file("000002.gz.new"), "half").unwrap();
        fs::write(file("000001"), "one").unwrap();
        fs::write(file("000001.gz"), "whole").unwrap();
        let compressor = Compressor::start().unwrap();
        compressor.asking().compress(&log);
        until(|| !file("000002").exists());
        let mut read = String::new();
        GzDecoder::new(File::open(file("000002.gz")).unwrap()).read_to_string(&mut read).unwrap();
        assert_eq!(read, text);
        assert!(!file("000001").exists() && !file("000002.gz.new").exists());
        assert_eq!(fs::read_to_string(file("000001.gz")).unwrap(), "whole");
    }

    #[test]
    fn a_file_that_another_supervisor_still_compresses_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("a.log.000001"), "one").unwrap();
        fs::write(file("a.log.000001.gz.new"), "half").unwrap();
        let its = File::open(file("a.log.000001")).unwrap();
        its.lock().unwrap();
        let compress = || compress(&file("a.log.000001"), &file("a.log.000001.gz"), &AtomicBool::new(false));
        compress().unwrap();
        assert_eq!(fs::read_to_string(file("a.log.000001.gz.new")).unwrap(), "half");
        assert!(file("a.log.000001").exists() && !file("a.log.000001.gz").exists());
        // Dead, or done.
        drop(its);
        compress().unwrap();
        assert!(!file("a.log.000001").exists() && file("a.log.000001.gz").exists());
    }
}
