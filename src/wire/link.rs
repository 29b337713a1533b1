//! One link: what an instance says, read by a task of its own, and what it is told, sent without ever waiting.
//!
//! A worker that does not read (stopped, or hostile) fills its socket and then a bounded queue here; past that its
//! link is given up, its process is not: it goes on without wire changes, and its successor starts clean.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use herdwire_ipc::link::ToInstance;
use herdwire_ipc::seqpacket::{self, Wait};
use herdwire_ipc::tokio::Watched;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Command;
use super::standin::StandIn;

/// Frames that may wait for a worker that does not read.
const WAITING: usize = 2048;

/// Which process a link belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub instance: u32,
    pub incarnation: u32,
}

/// What came over a link.
#[derive(Debug)]
pub(super) struct Frame {
    pub from: Key,
    /// `None`: the other side closed it, which means nothing but that nothing more comes.
    pub bytes: Option<Vec<u8>>,
}

/// How one process is told; dropping it ends whatever reads.
#[derive(Debug)]
pub(super) enum Link {
    /// To a client that maps the herd's memory.
    Native(Native),
    /// To the supervisor's own stand-in for one that cannot.
    StandIn(StandIn),
}

impl Link {
    /// Tells, or keeps it until the other side reads.
    pub(super) fn tell(&mut self, id: u64, message: &ToInstance, descriptors: &[&Arc<OwnedFd>]) {
        match self {
            Link::Native(native) => native.tell(id, message, descriptors),
            Link::StandIn(stand_in) => stand_in.tell(id, message, descriptors),
        }
    }

    /// Sends what waits, as far as the other side reads.
    pub(super) fn flush(&mut self) {
        if let Link::Native(native) = self {
            native.flush();
        }
    }

    pub(super) fn stand_in(&self) -> Option<&StandIn> {
        match self {
            Link::Native(_) => None,
            Link::StandIn(stand_in) => Some(stand_in),
        }
    }
}

/// The sending side of a link.
#[derive(Debug)]
pub(super) struct Native {
    socket: Arc<Watched>,
    waiting: VecDeque<(Vec<u8>, Vec<Arc<OwnedFd>>)>,
    broken: bool,
    reader: JoinHandle<()>,
}

impl Native {
    pub(super) fn open(key: Key, socket: OwnedFd, commands: mpsc::Sender<Command>) -> io::Result<Native> {
        let socket = Arc::new(Watched::new(socket)?);
        let reader = tokio::spawn(read(key, Arc::clone(&socket), commands));
        Ok(Native { socket, waiting: VecDeque::new(), broken: false, reader })
    }

    /// Sends a frame with its descriptors, or keeps it until the worker reads.
    fn tell(&mut self, id: u64, message: &ToInstance, descriptors: &[&Arc<OwnedFd>]) {
        if self.broken {
            return;
        }
        let descriptors = descriptors.iter().map(|descriptor| Arc::clone(descriptor)).collect();
        self.waiting.push_back((message.to_frame(id), descriptors));
        self.flush();
        if self.waiting.len() > WAITING {
            tracing::warn!("a worker has not read its link for {WAITING} frames: its link is given up");
            self.give_up();
        }
    }

    /// Sends what waits, as far as the worker reads.
    fn flush(&mut self) {
        while let Some((bytes, descriptors)) = self.waiting.front() {
            let borrowed: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
            match seqpacket::send(self.socket.as_fd(), bytes, &borrowed, Wait::Never) {
                Ok(()) => {
                    self.waiting.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.give_up(),
            }
        }
    }

    fn give_up(&mut self) {
        self.broken = true;
        self.waiting.clear();
        self.reader.abort();
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(from: Key, socket: Arc<Watched>, commands: mpsc::Sender<Command>) {
    loop {
        let bytes = match socket.read(receive).await {
            Ok(bytes) if !bytes.is_empty() => Some(bytes),
            Ok(_) | Err(_) => None,
        };
        let ended = bytes.is_none();
        if commands.send(Command::Frame(Frame { from, bytes })).await.is_err() || ended {
            return;
        }
    }
}

/// The next record, empty at the end. Workers have no descriptors to send; what they attach is closed here.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    thread_local! {
        // One for each thread: one for each link would be most of our memory, and nearly all of them are silent.
        static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; seqpacket::MAX_RECORD].into());
    }
    BUFFER.with_borrow_mut(|buffer| {
        let received = seqpacket::receive(socket, buffer, Wait::Never)?;
        Ok(buffer[..received.length].to_vec())
    })
}
