//! `herdwire run`: what instances print also goes to the terminal or to whoever reads our stdout.
//!
//! A thread follows the log files, so a reader that does not read holds up that thread and nobody else, and the files
//! have everything in any case.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::logs::{Follower, From, Kind as Stream, Line};

/// Files that may wait to be followed.
const FILES: usize = 1024;
/// Between two looks for new files.
const LOOK: Duration = Duration::from_millis(50);

/// One log file to follow.
struct Announced {
    path: PathBuf,
    stream: Stream,
    label: String,
    /// Where the instance's output begins in it.
    at: u64,
}

/// Where log files are announced.
#[derive(Debug)]
pub struct Output {
    files: SyncSender<Announced>,
    thread: JoinHandle<()>,
}

impl Output {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread is left.
    pub fn start() -> io::Result<Output> {
        let (files, announced) = sync_channel(FILES);
        let thread = std::thread::Builder::new().name("foreground".into()).spawn(move || copy(&announced))?;
        Ok(Output { files, thread })
    }

    /// Follows a file from where it ends now; one that is followed already is not followed twice.
    pub fn follow(&self, path: PathBuf, stream: Stream, label: String) {
        let at = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        // Full only with more than a thousand files at once: the terminal then lacks some, the files are all there.
        let _ = self.files.try_send(Announced { path, stream, label, at });
    }

    /// Copies what is in the files by now, and ends. Blocks for `limit` at most: a reader that does not read is left.
    pub fn finish(self, limit: Duration) {
        let Output { files, thread } = self;
        drop(files);
        let until = Instant::now() + limit;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn copy(announced: &Receiver<Announced>) {
    let mut follower = Follower::new();
    let mut known: Vec<Announced> = Vec::new();
    loop {
        let is_last = match announced.try_recv() {
            Ok(file) => {
                let is_new = known.iter().all(|known| known.path != file.path);
                if is_new && follower.add(&file.path, From::At(file.at)).is_ok() {
                    known.push(file);
                }
                continue;
            }
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => true,
        };
        let wait = if is_last { Duration::ZERO } else { LOOK };
        match follower.next(wait) {
            // Whether nobody reads any more or all is read: the files have everything.
            Ok(Some(line)) => {
                if print(&known[line.file], &line).is_err() {
                    return;
                }
            }
            Ok(None) if is_last => {
                let _ = follower.rest().iter().try_for_each(|line| print(&known[line.file], line));
                return;
            }
            Ok(None) | Err(_) => {}
        }
    }
}

fn print(file: &Announced, line: &Line) -> io::Result<()> {
    let text = [file.label.as_bytes(), b" | ", &line.bytes, b"\n"].concat();
    match file.stream {
        Stream::Out => io::stdout().write_all(&text),
        Stream::Err => io::stderr().write_all(&text),
    }
}
