//! One thread that moves what instances print from their pipes into their files.
//!
//! Owns the thread (`work`), the streams (`stream`) and their table (`table`); a stream's turn is in `turn`, what becomes
//! of one whose file takes nothing in `pressure`. The read ends come from whoever spawned or adopted the
//! instance and have duplicates in the store, which is why a stream is taken out of the epoll by name and never by
//! closing it. Does not decide where files lie (`place`) nor how bytes get in (`target`, `spool`).
//!
//! Invariants
//! - Streams are known by a 64-bit token, never by a descriptor's number, which may be a stranger's by the time an
//!   event is looked at.
//! - One stream gets at most [`TURN_BYTES`] before the others have their turn.
//! - A file that takes nothing stops its own streams alone: their bytes stay in the pipes, and the writers wait, for
//!   [`PATIENCE`]. From then on what fills half of a pipe is dropped in whole lines, counted, and told where the log goes
//!   on, so that a full disk stops no instance for longer.
//! - There is no queue: what has to be reported is read off the streams' state until the receiver has taken it.
//! - Locks are taken in this order: a stream; the table or the restless; a target or a rendered log. Never two of a kind.

mod pressure;
mod stream;
mod table;
mod turn;
mod work;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::FcntlArg;
use tokio::sync::mpsc;

use self::stream::{State, Stream};
use self::turn::{Served, TURN_BYTES};
pub(super) use self::work::Shared;
use super::compress::{Asking, Compressor};
use super::losing::Lost;
use super::place::Paths;
use super::sink::{Route, Sink};
use super::spool;
use super::target::Target;
use crate::config::spec::Rotation;

/// How long an instance waits for a file that takes nothing before its lines are dropped.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Reports that may wait for the receiver; further ones stay in the streams' state.
const EVENTS: usize = 256;

/// Which of an instance's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Out,
    Err,
}

/// One output of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamKey {
    pub instance: u32,
    pub incarnation: u32,
    pub kind: Kind,
}

/// What the pump has to tell.
#[derive(Debug)]
pub enum Event {
    /// Everything is in the file and nobody can write to the pipe any more: the store may forget it.
    Closed(StreamKey),
    /// The file takes nothing. Told once until it is over or something about it is another. While nothing `drops`, the
    /// instance waits once its pipe is full, and nothing is lost.
    Trouble { stream: StreamKey, path: PathBuf, error: io::Error, drops: bool },
    /// The trouble is over.
    Recovered(StreamKey),
    /// The trouble lasted so long that lines were dropped, all of which is said in the log, too.
    Lost { stream: StreamKey, path: PathBuf, lost: Lost },
}

/// How a [`Pump::drain`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// What was in the pipe is in the file.
    Empty,
    /// The same, and nothing can follow. Also for a stream that is not attached (any more).
    Closed,
    /// The limit passed or the file takes nothing; the rest stays in the pipe and the pump goes on.
    Left,
}

/// The thread and its streams. Dropping it stops the thread; what is in the pipes stays there.
#[derive(Debug)]
pub struct Pump {
    shared: Arc<Shared>,
    events: Mutex<Option<mpsc::Receiver<Event>>>,
    thread: Option<JoinHandle<()>>,
    /// Ends with the pump.
    _compressor: Compressor,
}

impl Pump {
    /// Starts the thread.
    ///
    /// # Errors
    /// No descriptor or no thread is left.
    pub fn start() -> io::Result<Pump> {
        Pump::with_patience(PATIENCE)
    }

    /// Starts a thread that drops lines after this long.
    ///
    /// # Errors
    /// As of [`Pump::start`].
    pub fn with_patience(patience: Duration) -> io::Result<Pump> {
        let compressor = Compressor::start()?;
        let (report, events) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared::new(report, patience, compressor.asking())?);
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log pump".to_owned()).spawn(move || of_thread.run())?;
        Ok(Pump { shared, events: Mutex::new(Some(events)), thread: Some(thread), _compressor: compressor })
    }

    /// Takes charge of a pipe's read end (non-blocking): whatever comes out of it goes where the route says, into files
    /// that are created along with their folder. A stream of the same key is replaced. Blocks for the opening of files.
    ///
    /// Returns the file that cannot be opened, and why; that is tried again until it can be, and counts as told: what
    /// follows is [`Event::Recovered`].
    pub fn attach(&self, stream: StreamKey, pipe: OwnedFd, route: Route) -> Option<(PathBuf, io::Error)> {
        let mut sink = self.sink(stream, route);
        let trouble = sink.prepare(stream, &pipe, &self.shared).err();
        let trouble = trouble.map(|error| (sink.path(), error));
        let told = trouble.as_ref().map(|(_, error)| error.raw_os_error().unwrap_or(libc::EIO));
        let (token, _) = self.shared.table().add(stream, |token| Stream {
            trouble: told,
            told: told.map(|number| (number, false)),
            ..Stream::new(token, stream, sink, pipe)
        });
        lock(&self.shared.restless).insert(token);
        self.shared.ring();
        trouble
    }

    /// The same for a pipe that a predecessor has served: its file is there, and is left alone until something comes out
    /// of the pipe.
    pub fn go_on(&self, stream: StreamKey, pipe: OwnedFd, route: Route) {
        let is_raw = matches!(route, Route::Raw { .. });
        let sink = self.sink(stream, route);
        let (token, entry) = self.shared.table().add(stream, |token| Stream::new(token, stream, sink, pipe));
        let mut entry = lock(&entry);
        if is_raw {
            self.shared.watch(&mut entry);
        }
        // What is rendered may have to be rendered on, whatever is in the pipe.
        if entry.look_again().is_some() {
            lock(&self.shared.restless).insert(token);
            self.shared.ring();
        }
    }

    fn sink(&self, stream: StreamKey, route: Route) -> Sink {
        self.detach(stream);
        let mut table = self.shared.table();
        match route {
            Route::Raw { path, rotation } => {
                let target = table.target(&path, rotation, &self.shared.compressor);
                lock(&target).join(stream);
                Sink::to(target)
            }
            Route::Rendered(plan) => Sink::of(plan),
        }
    }

    /// Lets go of a stream; what is left in the pipe stays there. Nothing is told of it any more.
    pub fn detach(&self, stream: StreamKey) {
        let Some(entry) = self.shared.table().remove(stream) else { return };
        let mut entry = lock(&entry);
        self.shared.unwatch(&mut entry);
        entry.sink.leave(stream, false);
        entry.state = State::Gone;
    }

    /// Has the files of these instances' streams looked for at their paths again: something has moved them.
    pub fn reopen(&self, of: impl Fn(u32) -> bool) {
        for stream in self.shared.streams() {
            let stream = lock(&stream);
            if of(stream.key.instance) {
                stream.sink.reopen();
            }
        }
    }

    /// Empties the files of an instance, whether a stream writes to them or not; those that were put aside stay.
    /// Returns the first that cannot be. Blocks for the disk.
    ///
    /// # Errors
    /// Those of `open(2)` and `ftruncate(2)`.
    pub fn flush(&self, paths: &Paths) -> io::Result<()> {
        let mut result = Ok(());
        for path in [Some(&paths.out), Some(&paths.error), paths.combined.as_ref()].into_iter().flatten() {
            let table = self.shared.table();
            let target = table.targets.get(path).and_then(Weak::upgrade);
            let rendered = table.rendered.get(path).and_then(Weak::upgrade);
            drop(table);
            let flushed = match (target, rendered) {
                (Some(target), _) => lock(&target).flush(),
                (None, Some(rendered)) => lock(&rendered).flush(),
                (None, None) if path.is_file() => {
                    Target::new(path.clone(), Rotation::default(), Asking::default()).flush()
                }
                (None, None) => Ok(()),
            };
            result = result.and(flushed);
        }
        result
    }

    /// Removes spools in `folder` that belong to no stream: keeper and supervisor both died.
    pub fn remove_stray_spools(&self, folder: &Path) -> usize {
        let known: Vec<PathBuf> =
            self.shared.streams().iter().filter_map(|stream| lock(stream).spool_path(folder)).collect();
        spool::remove_strays(folder, |path| known.iter().any(|known| known == path))
    }

    /// The streams that are not at their end.
    pub fn attached(&self) -> Vec<StreamKey> {
        self.shared.table().tokens.keys().copied().collect()
    }

    /// Moves what is in the stream's pipe now into its file: after this, what a process that has ended wrote is there.
    /// Blocks, for `limit` and the disk at most.
    pub fn drain(&self, stream: StreamKey, limit: Duration) -> Drained {
        let deadline = Instant::now() + limit;
        let Some(entry) = self.shared.table().find(stream) else { return Drained::Closed };
        let mut left = None;
        loop {
            let mut entry = lock(&entry);
            let State::Open { pipe, .. } = &entry.state else { return Drained::Closed };
            // Others may go on writing: what counts is what is there at the beginning, a pipe full at most.
            let there = left.unwrap_or_else(|| capacity(pipe));
            match self.shared.serve(&mut entry, TURN_BYTES) {
                Served::Some(moved) if moved >= there => return Drained::Empty,
                Served::Some(_) if Instant::now() >= deadline => return Drained::Left,
                Served::Some(moved) => left = Some(there - moved),
                Served::Empty => return Drained::Empty,
                Served::Over => return Drained::Closed,
                Served::Stuck => return Drained::Left,
            }
        }
    }

    /// The last lines of a stream that is attached, or has ended not long ago, and the file that they are in: its own
    /// alone, whoever else writes there. Blocks for the disk; reads little.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn last_lines(&self, stream: StreamKey, lines: usize) -> io::Result<Option<(PathBuf, Vec<Vec<u8>>)>> {
        let attached = self.shared.table().find(stream).map(|stream| {
            let stream = lock(&stream);
            (stream.sink.path(), stream.sink.written())
        });
        let Some((path, written)) = attached.or_else(|| self.shared.table().remembered(stream)) else {
            return Ok(None);
        };
        let lines = written.last_lines(&path, lines)?;
        Ok((!lines.is_empty()).then_some((path, lines)))
    }

    /// What the pump has to tell. There is one receiver: `None` the second time. One that is dropped is told nothing.
    pub fn events(&self) -> Option<mpsc::Receiver<Event>> {
        lock(&self.events).take()
    }

    /// Stops the thread and waits for it: one turn at most.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so on stderr.
            let _ = thread.join();
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.end();
    }
}

/// The most that may be in a pipe.
fn capacity(pipe: &OwnedFd) -> usize {
    // Anything but a pipe has no capacity, and is read to its end.
    nix::fcntl::fcntl(pipe, FcntlArg::F_GETPIPE_SZ)
        .ok()
        .and_then(|size| usize::try_from(size).ok())
        .unwrap_or(usize::MAX)
}

/// Nothing here panics while it holds a lock; if something does all the same, the others go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
