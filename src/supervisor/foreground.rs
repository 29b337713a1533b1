//! `herdwire run`: what instances print also goes to the terminal or to whoever reads our stdout.
//!
//! A thread follows the log files, so a reader that does not read holds up that thread and nobody else, and the files
//! have everything in any case.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use crate::logs::{Follower, From, Kind as Stream};

/// Files that may wait to be followed.
const FILES: usize = 1024;
/// Between two looks for new files.
const LOOK: Duration = Duration::from_millis(50);

/// Where log files are announced.
#[derive(Debug)]
pub struct Output {
    files: SyncSender<(PathBuf, Stream, String)>,
}

impl Output {
    /// Starts the thread. It ends with the process.
    ///
    /// # Errors
    /// No thread is left.
    pub fn start() -> io::Result<Output> {
        let (files, announced) = sync_channel(FILES);
        std::thread::Builder::new().name("foreground".into()).spawn(move || copy(&announced))?;
        Ok(Output { files })
    }

    /// Follows a file from now on; one that is followed already is not followed twice.
    pub fn follow(&self, path: PathBuf, stream: Stream, label: String) {
        // Full only with more than a thousand files at once: the terminal then lacks some, the files are all there.
        let _ = self.files.try_send((path, stream, label));
    }
}

fn copy(announced: &Receiver<(PathBuf, Stream, String)>) {
    let mut follower = Follower::new();
    let mut known: Vec<(PathBuf, Stream, String)> = Vec::new();
    loop {
        match announced.try_recv() {
            Ok(file) if known.iter().any(|(path, ..)| *path == file.0) => continue,
            Ok(file) => {
                if follower.add(&file.0, From::End).is_ok() {
                    known.push(file);
                }
                continue;
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
        let Ok(Some(line)) = follower.next(LOOK) else { continue };
        let (_, stream, label) = &known[line.file];
        let text = [label.as_bytes(), b" | ", &line.bytes, b"\n"].concat();
        let written = match stream {
            Stream::Out => io::stdout().write_all(&text),
            Stream::Err => io::stderr().write_all(&text),
        };
        if written.is_err() {
            // Nobody reads any more; the files go on.
            return;
        }
    }
}
