//! `herdwire run`: what instances print also goes to the terminal or to whoever reads our stdout.
//!
//! A thread follows the log files, so a reader that does not read holds up that thread and nobody else, and the files
//! have everything in any case.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use crate::logs::{Follower, From, Kind as Stream, Line};

/// Files that may wait to be followed.
const FILES: usize = 1024;
/// Between two looks for new files.
const LOOK: Duration = Duration::from_millis(50);

/// Where log files are announced.
#[derive(Debug)]
pub struct Output {
    orders: SyncSender<Order>,
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    Follow(File),
    /// Say so when all that is in the files has been written.
    Finish(SyncSender<()>),
}

/// A file to follow.
#[derive(Debug)]
struct File {
    path: PathBuf,
    stream: Stream,
    label: String,
    /// Where it ended when it was announced: what is there already is not of this run.
    from: u64,
}

impl Output {
    /// Starts the thread. It ends with the process.
    ///
    /// # Errors
    /// No thread is left.
    pub fn start() -> io::Result<Output> {
        let (orders, announced) = sync_channel(FILES);
        std::thread::Builder::new().name("foreground".into()).spawn(move || copy(&announced))?;
        Ok(Output { orders })
    }

    /// Follows a file from now on; one that is followed already is not followed twice.
    pub fn follow(&self, path: PathBuf, stream: Stream, label: String) {
        let from = fs::metadata(&path).map_or(0, |found| found.len());
        // Full only with more than a thousand files at once: the terminal then lacks some, the files are all there.
        let _ = self.orders.try_send(Order::Follow(File { path, stream, label, from }));
    }

    /// Waits until all that is in the files has been written, at most for `limit`: a reader may have stopped reading.
    pub fn finish(&self, limit: Duration) {
        let (done, finished) = sync_channel(1);
        if self.orders.try_send(Order::Finish(done)).is_ok() {
            // Without an answer the reader is gone or does not read: the files have everything.
            let _ = finished.recv_timeout(limit);
        }
    }
}

fn copy(announced: &Receiver<Order>) {
    let mut follower = Follower::new();
    let mut known: Vec<File> = Vec::new();
    loop {
        match announced.try_recv() {
            Ok(Order::Follow(file)) => {
                let is_new = !known.iter().any(|other| other.path == file.path);
                if is_new && follower.add(&file.path, From::Byte(file.from)).is_ok() {
                    known.push(file);
                }
            }
            Ok(Order::Finish(done)) => {
                while let Ok(Some(line)) = follower.next(Duration::ZERO) {
                    if write(&known, &line).is_err() {
                        return;
                    }
                }
                let rest = follower.rest();
                if rest.iter().any(|line| write(&known, line).is_err()) {
                    return;
                }
                // Whoever asked waits no longer than its limit.
                let _ = done.try_send(());
            }
            Err(TryRecvError::Empty) => {
                let Ok(Some(line)) = follower.next(LOOK) else { continue };
                if write(&known, &line).is_err() {
                    // Nobody reads any more; the files go on.
                    return;
                }
            }
            Err(TryRecvError::Disconnected) => return,
        }
    }
}

fn write(known: &[File], line: &Line) -> io::Result<()> {
    let File { stream, label, .. } = &known[line.file];
    let text = [label.as_bytes(), b" | ", &line.bytes, b"\n"].concat();
    match stream {
        Stream::Out => io::stdout().write_all(&text),
        Stream::Err => io::stderr().write_all(&text),
    }
}
