//! The pump's thread: which streams it looks at and when.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;

use super::stream::{State, Stream, Watch};
use super::table::Table;
use super::turn::TURN_BYTES;
use super::{Event, lock};
use crate::config::spec::Rotation;
use crate::logs::compress::Asking;
use crate::logs::position::SpoolId;
use crate::logs::rendered::Rendered;
use crate::logs::spool;

/// Events looked at in one turn of the loop.
const BATCH: usize = 64;
/// The eventfd's token; streams count from 1.
const WAKE: u64 = 0;

/// What the thread and the handle have in common.
#[derive(Debug)]
pub struct Shared {
    pub epoll: Epoll,
    wake: EventFd,
    stopping: AtomicBool,
    pub report: mpsc::Sender<Event>,
    pub patience: Duration,
    pub compressor: Asking,
    table: Mutex<Table>,
    /// Streams that the thread has to look at without an event: see [`Stream::look_again`].
    pub restless: Mutex<BTreeSet<u64>>,
}

impl Shared {
    /// Streams are added by the handle, and the thread is started by it.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(report: mpsc::Sender<Event>, patience: Duration, compressor: Asking) -> io::Result<Shared> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let (stopping, table, restless) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Ok(Shared { epoll, wake, stopping, report, patience, compressor, table, restless })
    }

    /// What the thread does, until it is told to stop.
    pub fn run(&self) {
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

    /// The rendered log at a path, whoever writes to it.
    pub fn rendered(&self, path: &Path, folder: &Path, rotation: &Rotation) -> io::Result<Arc<Mutex<Rendered>>> {
        let mut table = self.table();
        if let Some(rendered) = table.rendered.get(path).and_then(Weak::upgrade) {
            lock(&rendered).set_rotation(rotation.clone());
            return Ok(rendered);
        }
        table.rendered.retain(|_, rendered| rendered.strong_count() > 0);
        let exists = |id: &SpoolId| spool::path_of(folder, id).exists();
        spool::make_folder(folder)?;
        let rendered = Rendered::new(path, folder, rotation.clone(), self.compressor.clone(), exists)?;
        let rendered = Arc::new(Mutex::new(rendered));
        table.rendered.insert(path.to_owned(), Arc::downgrade(&rendered));
        Ok(rendered)
    }

    /// Everyone who is attached.
    pub fn streams(&self) -> Vec<Arc<Mutex<Stream>>> {
        self.table().streams.values().cloned().collect()
    }

    /// The table, for a moment.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// Has the thread end after the turn it is in.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.ring();
    }

    /// Wakes the thread.
    pub fn ring(&self) {
        // Fails only when it has been rung so often that it cannot be missed.
        let _ = self.wake.write(1);
    }
}
