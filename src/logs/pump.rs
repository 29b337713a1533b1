//! One thread that moves what instances print from their pipes into their files.
//!
//! Owns the thread, its epoll, and the table of streams. The read ends come from whoever spawned or adopted the
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

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::compress::{Asking, Compressor};
use super::losing::{Losing, Lost};
use super::place::Paths;
use super::rendered::Rendered;
use super::sink::{Route, Sink};
use super::spool;
use super::target::{Target, Took};
use crate::config::spec::Rotation;

/// What one stream may move in one turn.
const TURN_BYTES: usize = 256 * 1024;
/// How long after a failure the same is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The same for a target that is only slow.
const RETRY_SLOW: Duration = Duration::from_millis(20);
/// The longest wait for a target that is only slow.
const SLOWEST: Duration = Duration::from_millis(160);
/// How long an instance waits for a file that takes nothing before its lines are dropped.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long after a report that nobody had room for it is tried again.
const REPORT_AGAIN: Duration = Duration::from_millis(100);
/// Reports that may wait for the receiver; further ones stay in the streams' state.
const EVENTS: usize = 256;
/// Events looked at in one turn of the loop.
const BATCH: usize = 64;
/// The eventfd's token; streams count from 1.
const WAKE: u64 = 0;

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
    /// Everything is in the file and nobody can write to the pipe any more: the store may forget it. Ends a trouble,
    /// too.
    Closed(StreamKey),
    /// The file takes nothing. Told once until it is over or the reason is another. Nothing is lost: the instance
    /// waits once its pipe is full.
    Trouble { stream: StreamKey, path: PathBuf, error: io::Error },
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

#[derive(Debug)]
pub(super) struct Shared {
    epoll: Epoll,
    wake: EventFd,
    stopping: AtomicBool,
    report: mpsc::Sender<Event>,
    patience: Duration,
    compressor: Asking,
    table: Mutex<Table>,
    /// Streams that the thread has to look at without an event: see [`Stream::look_again`].
    restless: Mutex<BTreeSet<u64>>,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    streams: HashMap<u64, Arc<Mutex<Stream>>>,
    tokens: HashMap<StreamKey, u64>,
    targets: HashMap<PathBuf, Weak<Mutex<Target>>>,
    /// So many targets are looked through for those that nobody uses any more.
    tidy_at: usize,
    rendered: HashMap<PathBuf, Weak<Mutex<Rendered>>>,
}

#[derive(Debug)]
struct Stream {
    token: u64,
    key: StreamKey,
    sink: Sink,
    state: State,
    /// Since when the file takes nothing.
    failing: Option<Instant>,
    /// What is being dropped, since that took too long.
    losing: Option<Losing>,
    /// What was dropped and is not told.
    lost: Option<Lost>,
    /// The last wait for a target that is slow.
    slow: Duration,
    /// The number of the error that the file gives now.
    trouble: Option<i32>,
    /// The one that was told.
    told: Option<i32>,
}

#[derive(Debug)]
enum State {
    Open {
        pipe: OwnedFd,
        watch: Watch,
    },
    /// At its end, which is not told yet.
    Ended,
    /// Nothing to do any more.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// In the epoll.
    Now,
    /// Not in the epoll, to be looked at at this time: new, or its file took nothing.
    From(Instant),
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
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let (report, events) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared {
            epoll,
            wake,
            stopping: AtomicBool::new(false),
            report,
            patience,
            compressor: compressor.asking(),
            table: Mutex::default(),
            restless: Mutex::default(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log pump".to_owned()).spawn(move || of_thread.run())?;
        Ok(Pump { shared, events: Mutex::new(Some(events)), thread: Some(thread), _compressor: compressor })
    }

    /// Takes charge of a pipe's read end (non-blocking): whatever comes out of it goes where the route says, into files
    /// that are created along with their folder. Returns at once; a file that cannot be opened is an
    /// [`Event::Trouble`]. A stream of the same key is replaced.
    pub fn attach(&self, stream: StreamKey, pipe: OwnedFd, route: Route) {
        let (token, _) = self.enter(stream, pipe, route);
        lock(&self.shared.restless).insert(token);
        self.shared.ring();
    }

    /// The same for a pipe that a predecessor has served: its file is there, and is left alone until something comes out
    /// of the pipe.
    pub fn go_on(&self, stream: StreamKey, pipe: OwnedFd, route: Route) {
        let is_raw = matches!(route, Route::Raw { .. });
        let (token, entry) = self.enter(stream, pipe, route);
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

    fn enter(&self, stream: StreamKey, pipe: OwnedFd, route: Route) -> (u64, Arc<Mutex<Stream>>) {
        self.detach(stream);
        let mut table = self.shared.table();
        table.last += 1;
        let token = table.last;
        let sink = match route {
            Route::Raw { path, rotation } => {
                let target = table.target(&path, rotation, &self.shared.compressor);
                lock(&target).join(stream);
                Sink::File(target)
            }
            Route::Rendered(plan) => Sink::of(plan),
        };
        let state = State::Open { pipe, watch: Watch::From(Instant::now()) };
        let entry = Stream {
            token,
            key: stream,
            sink,
            state,
            failing: None,
            losing: None,
            lost: None,
            slow: Duration::ZERO,
            trouble: None,
            told: None,
        };
        let entry = Arc::new(Mutex::new(entry));
        table.tokens.insert(stream, token);
        table.streams.insert(token, Arc::clone(&entry));
        (token, entry)
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

    /// What the pump has to tell. There is one receiver: `None` the second time. One that is dropped is told nothing.
    pub fn events(&self) -> Option<mpsc::Receiver<Event>> {
        lock(&self.events).take()
    }

    /// Stops the thread and waits for it: one turn at most.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.ring();
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

/// What came of serving a stream once.
enum Served {
    /// This many bytes, and there may be more.
    Some(usize),
    /// Nothing is there now.
    Empty,
    /// It is at its end.
    Over,
    /// Its file takes nothing.
    Stuck,
}

impl Shared {
    fn run(&self) {
        let mut events = [EpollEvent::empty(); BATCH];
        while !self.stopping.load(Ordering::Acquire) {
            let timeout = self.look_at_restless();
            let seen = match self.epoll.wait(&mut events, timeout) {
                Ok(seen) => seen,
                Err(Errno::EINTR) => continue,
                Err(error) => unreachable!("waiting on our own epoll fails by interruption alone: {error}"),
            };
            for event in &events[..seen] {
                if event.data() == WAKE {
                    // Non-blocking; read only to silence it.
                    let _ = self.wake.read();
                    continue;
                }
                // The table is free again before the stream is served.
                let stream = self.table().streams.get(&event.data()).cloned();
                if let Some(stream) = stream {
                    self.serve(&mut lock(&stream), TURN_BYTES);
                }
            }
        }
    }

    /// Serves the streams whose time has come, tells what could not be told, and says when to look again.
    fn look_at_restless(&self) -> EpollTimeout {
        let tokens: Vec<u64> = lock(&self.restless).iter().copied().collect();
        let mut next: Option<Instant> = None;
        for token in tokens {
            let stream = self.table().streams.get(&token).cloned();
            let again = stream.and_then(|stream| self.look_at(&mut lock(&stream)));
            match again {
                Some(again) => next = Some(next.map_or(again, |next| next.min(again))),
                None => drop(lock(&self.restless).remove(&token)),
            }
        }
        next.map_or(EpollTimeout::NONE, |next| {
            let left = next.saturating_duration_since(Instant::now()).as_millis() + 1;
            EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
        })
    }

    fn look_at(&self, stream: &mut Stream) -> Option<Instant> {
        match &stream.state {
            State::Open { watch: Watch::From(time), .. } if *time <= Instant::now() => {
                self.serve(stream, TURN_BYTES);
            }
            State::Open { watch: Watch::Now, .. } if stream.sink.waits().is_some() || stream.losing.is_some() => {
                self.serve(stream, TURN_BYTES);
            }
            _ => self.tell(stream),
        }
        stream.look_again()
    }

    /// Moves up to `most` bytes of a stream and acts on what comes of it.
    fn serve(&self, stream: &mut Stream, most: usize) -> Served {
        if stream.losing.is_some()
            && let Some(served) = self.lose(stream)
        {
            return served;
        }
        let State::Open { pipe, .. } = &stream.state else { return Served::Over };
        let mut moved = 0;
        let outcome = loop {
            match stream.sink.take(stream.key, pipe, most - moved, self) {
                Ok(Took::Bytes(bytes)) if moved + bytes < most => moved += bytes,
                Ok(Took::Bytes(bytes)) => break Ok(Served::Some(moved + bytes)),
                Ok(Took::Empty | Took::Blocked) if moved > 0 => break Ok(Served::Some(moved)),
                Ok(Took::Empty) => break Ok(Served::Empty),
                Ok(Took::End) => break Ok(Served::Over),
                Ok(Took::Blocked) => break Ok(Served::Stuck),
                Err(error) => break Err(error.raw_os_error().unwrap_or(libc::EIO)),
            }
        };
        stream.trouble = outcome.as_ref().err().copied().or_else(|| stream.sink.waits());
        match outcome {
            Ok(Served::Over) => self.over(stream),
            Ok(Served::Stuck) => {
                stream.failing = None;
                stream.slow = (stream.slow * 2).clamp(RETRY_SLOW, SLOWEST);
                self.pause(stream, stream.slow);
            }
            Ok(Served::Some(_) | Served::Empty) => {
                (stream.failing, stream.slow) = (None, Duration::ZERO);
                self.watch(stream);
            }
            Err(_) => {
                let since = *stream.failing.get_or_insert_with(Instant::now);
                self.pause(stream, RETRY.min(self.patience));
                if since.elapsed() >= self.patience {
                    stream.start_losing();
                }
            }
        }
        self.tell(stream);
        if stream.look_again().is_some() && lock(&self.restless).insert(stream.token) {
            // Served by `drain`, beside a thread that may be asleep without an end.
            self.ring();
        }
        outcome.unwrap_or(Served::Stuck)
    }

    /// Everything is in the file.
    fn over(&self, stream: &mut Stream) {
        self.unwatch(stream);
        stream.sink.leave(stream.key, true);
        stream.state = State::Ended;
    }

    /// Drops what is in the pipe, or goes on with the file when it takes bytes again: `None` then.
    fn lose(&self, stream: &mut Stream) -> Option<Served> {
        let State::Open { pipe, .. } = &stream.state else { return None };
        let losing = stream.losing.as_mut()?;
        let error = io::Error::from_raw_os_error(stream.trouble.unwrap_or(libc::EIO));
        if losing.is_time(RETRY.min(self.patience)) && losing.is_between_lines(pipe) {
            match stream.sink.say(&losing.lost().in_words(&error), stream.key, pipe, self) {
                Ok(()) => {
                    stream.lost = Some(losing.lost());
                    (stream.losing, stream.failing) = (None, None);
                    return None;
                }
                Err(error) => stream.trouble = error.raw_os_error().or(stream.trouble),
            }
        }
        let dropped = losing.drop_some(pipe, TURN_BYTES);
        match dropped {
            // Looked at again when more comes.
            Ok(Some(_)) => self.watch(stream),
            // At its end: nobody waits, so what was lost is told in the log whenever that can be.
            Ok(None) | Err(_) => self.pause(stream, RETRY.min(self.patience)),
        }
        self.tell(stream);
        if stream.look_again().is_some() && lock(&self.restless).insert(stream.token) {
            self.ring();
        }
        Some(Served::Stuck)
    }

    /// The file takes bytes: wait for more of them.
    fn watch(&self, stream: &mut Stream) {
        let State::Open { pipe, watch: watch @ Watch::From(_) } = &mut stream.state else { return };
        match self.epoll.add(&*pipe, EpollEvent::new(EpollFlags::EPOLLIN, stream.token)) {
            Ok(()) => *watch = Watch::Now,
            Err(error) => {
                *watch = Watch::From(Instant::now() + RETRY);
                stream.trouble = Some(error as i32);
            }
        }
    }

    /// The file takes nothing: do not even look at the pipe for a while, not at its end either.
    fn pause(&self, stream: &mut Stream, time: Duration) {
        self.unwatch(stream);
        if let State::Open { watch, .. } = &mut stream.state {
            *watch = Watch::From(Instant::now() + time);
        }
    }

    fn unwatch(&self, stream: &mut Stream) {
        if let State::Open { pipe, watch: watch @ Watch::Now } = &mut stream.state {
            // Fails only for a descriptor that is not in it.
            let _ = self.epoll.delete(&*pipe);
            *watch = Watch::From(Instant::now());
        }
    }

    /// Tells what is new about a stream, if the receiver has room for it. One without a receiver counts as told.
    fn tell(&self, stream: &mut Stream) {
        while let Some(event) = stream.news() {
            let (is_loss, is_end) = (matches!(event, Event::Lost { .. }), matches!(event, Event::Closed(_)));
            if matches!(self.report.try_send(event), Err(TrySendError::Full(_))) {
                return;
            }
            if is_loss {
                stream.lost = None;
                continue;
            }
            stream.told = stream.trouble;
            if is_end {
                stream.state = State::Gone;
                self.table().forget(stream.token, stream.key);
            }
        }
    }

    /// The rendered log at a path, whoever writes to it.
    pub(super) fn rendered(&self, path: &Path, folder: &Path, rotation: &Rotation) -> io::Result<Arc<Mutex<Rendered>>> {
        let mut table = self.table();
        if let Some(rendered) = table.rendered.get(path).and_then(Weak::upgrade) {
            lock(&rendered).set_rotation(rotation.clone());
            return Ok(rendered);
        }
        table.rendered.retain(|_, rendered| rendered.strong_count() > 0);
        let exists = |id: &super::position::SpoolId| spool::path_of(folder, id).exists();
        spool::make_folder(folder)?;
        let rendered = Rendered::new(path, folder, rotation.clone(), self.compressor.clone(), exists)?;
        let rendered = Arc::new(Mutex::new(rendered));
        table.rendered.insert(path.to_owned(), Arc::downgrade(&rendered));
        Ok(rendered)
    }

    fn streams(&self) -> Vec<Arc<Mutex<Stream>>> {
        self.table().streams.values().cloned().collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    fn ring(&self) {
        // Fails only when it has been rung so often that it cannot be missed.
        let _ = self.wake.write(1);
    }
}

impl Stream {
    /// When the thread has to look at it without an event.
    fn look_again(&self) -> Option<Instant> {
        match self.state {
            State::Open { watch: Watch::From(time), .. } => Some(time),
            State::Open { .. } if self.sink.waits().is_some() || self.losing.is_some() => Some(Instant::now() + RETRY),
            State::Open { .. } if self.trouble != self.told || self.lost.is_some() => {
                Some(Instant::now() + REPORT_AGAIN)
            }
            State::Ended => Some(Instant::now() + REPORT_AGAIN),
            State::Open { .. } | State::Gone => None,
        }
    }
}

impl Stream {
    /// The next thing to tell of it.
    fn news(&self) -> Option<Event> {
        if let Some(lost) = self.lost {
            return Some(Event::Lost { stream: self.key, path: self.sink.path(), lost });
        }
        match self.state {
            State::Ended => Some(Event::Closed(self.key)),
            State::Open { .. } if self.trouble != self.told => Some(match self.trouble {
                None => Event::Recovered(self.key),
                Some(number) => Event::Trouble {
                    stream: self.key,
                    path: self.sink.path(),
                    error: io::Error::from_raw_os_error(number),
                },
            }),
            State::Open { .. } | State::Gone => None,
        }
    }

    /// Begins to drop what is in its pipe, if somebody waits for that.
    fn start_losing(&mut self) {
        let State::Open { pipe, .. } = &self.state else { return };
        if Losing::is_called_for(pipe) {
            self.losing = Some(Losing::new());
        }
    }

    fn spool_path(&self, folder: &Path) -> Option<PathBuf> {
        match &self.state {
            State::Open { pipe, .. } if !matches!(self.sink, Sink::File(_)) => {
                Some(spool::path_of(folder, &spool::id_of(self.key, pipe)))
            }
            _ => None,
        }
    }
}

impl Table {
    /// One target for a path, whoever writes to it.
    fn target(&mut self, path: &Path, rotation: Rotation, compressor: &Asking) -> Arc<Mutex<Target>> {
        if let Some(target) = self.targets.get(path).and_then(Weak::upgrade) {
            lock(&target).set_rotation(rotation);
            return target;
        }
        if self.targets.len() >= self.tidy_at {
            self.targets.retain(|_, target| target.strong_count() > 0);
            // Each look pays for as many that came since.
            self.tidy_at = (self.targets.len() * 2).max(64);
        }
        let target = Arc::new(Mutex::new(Target::new(path.to_owned(), rotation, compressor.clone())));
        self.targets.insert(path.to_owned(), Arc::downgrade(&target));
        target
    }

    fn find(&self, key: StreamKey) -> Option<Arc<Mutex<Stream>>> {
        self.streams.get(self.tokens.get(&key)?).cloned()
    }

    fn remove(&mut self, key: StreamKey) -> Option<Arc<Mutex<Stream>>> {
        let token = self.tokens.remove(&key)?;
        self.streams.remove(&token)
    }

    /// Removes a stream, unless another has its key by now.
    fn forget(&mut self, token: u64, key: StreamKey) {
        self.streams.remove(&token);
        if self.tokens.get(&key) == Some(&token) {
            self.tokens.remove(&key);
        }
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
