//! Standing in for an instance that cannot map memory: the supervisor holds its place in the herd, and speaks with it
//! over a socket.
//!
//! A stand-in is a participant like any other, with a slot and an outbox of its own; `wire::herd` seats it. Two tasks
//! serve it: [`incoming`] reads what the client says and publishes, [`outgoing`] drains the rings and writes. What they
//! have in hand lies in the [`stash`], which the next supervisor goes on from. What is said is [`frame`]'s: another
//! protocol, Node's own IPC, would be another such module and a drain that writes it.
//!
//! Invariants
//! - Nobody but its own two tasks ever waits for a client. One that floods is not read, one that does not read lags.
//! - Everything that waits is bounded: one line, what a socket takes, and a stash of fixed size; the rest stays in rings.
//! - What a client was told is done is done; what it said is done once, whichever supervisor does it.

pub mod frame;
mod incoming;
mod memory;
mod outgoing;
mod stash;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herdwire_ipc::link::ToInstance;
use herdwire_ipc::tokio::Watched;
use herdwire_ipc::{Control, Drain, Publisher, Slot};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::io::Interest;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::link::Key;
use super::{Command, Member};
use crate::snapshot::StandInView;
use stash::Stash;

/// What may wait for the task that reads: answers to what it has asked, of which there is one at a time.
const EVENTS: usize = 64;

/// A connected pair for a pipe, both ends close-on-exec and blocking.
///
/// # Errors
/// Those of `socketpair(2)`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
}

/// What a stand-in wants of the task that owns the herds.
#[derive(Debug)]
pub(super) enum Wish {
    /// Its client says hello.
    Hello,
    /// As a native client would say it over its link.
    Say(u64, herdwire_ipc::link::ToSupervisor),
    /// It has nothing more to do, for this reason.
    Ended(String),
}

/// A place in the herd.
#[derive(Debug)]
pub(super) struct Seated {
    pub publisher: Publisher,
    pub drain: Drain,
    pub control: Control,
}

/// What the task that reads is told.
#[derive(Debug)]
enum Event {
    Seated(Box<Seated>),
    Refused(String),
    Joined,
    /// The number of a channel and the publishers that had not heard of the change, or why not.
    Answer(u64, Result<(u16, Vec<Slot>), String>),
    /// Its client is gone: what it has said is done, then it is over.
    Finish,
}

/// What both tasks share.
#[derive(Debug)]
struct Shared {
    key: Key,
    member: Member,
    socket: Watched,
    stash: Mutex<Stash>,
    /// The longest line.
    line: usize,
    /// There is something to write, or a change for the task that writes.
    news: Notify,
    /// There may be room again for answers.
    room: Notify,
    /// The reason was given; once it is written, all is over.
    closing: AtomicBool,
    /// The client does not take anything any more. What it says still counts.
    deaf: AtomicBool,
    figures: Figures,
}

/// What is counted.
#[derive(Debug, Default)]
struct Figures {
    bad_frames: AtomicU64,
    missed: AtomicU64,
    closed: Mutex<Option<String>>,
}

impl Shared {
    fn stash(&self) -> MutexGuard<'_, Stash> {
        // Nothing panics while it holds the lock; it is never held over an await.
        self.stash.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_with(&self, reason: &str) {
        let mut closed = self.figures.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.get_or_insert_with(|| reason.to_owned());
    }
}

/// A stand-in, in the hands of the task that owns the herds. Dropping it ends its tasks.
#[derive(Debug)]
pub(super) struct StandIn {
    shared: Arc<Shared>,
    control: Option<Control>,
    events: mpsc::Sender<Event>,
    tasks: [JoinHandle<()>; 2],
}

impl StandIn {
    /// Serves a client on `socket`, from where a predecessor has left off if there is a stash.
    ///
    /// # Errors
    /// The socket cannot be watched, or there is no memory; or the stash is of a version that is not understood.
    pub(super) fn open(
        key: Key,
        member: Member,
        socket: OwnedFd,
        stash: Option<OwnedFd>,
        commands: mpsc::Sender<Command>,
    ) -> io::Result<StandIn> {
        let message = (member.spec.ring_bytes / 8).min(member.spec.max_message) as usize;
        // A third more in base64, and what stands around it.
        let line = message + message / 3 + 8192;
        let stash = stash.map_or_else(|| Stash::create(line), Ok).and_then(Stash::open)?;
        let socket = Watched::with_interest(socket, Interest::READABLE | Interest::WRITABLE)?;
        let shared = Arc::new(Shared {
            key,
            member,
            socket,
            stash: Mutex::new(stash),
            line,
            news: Notify::new(),
            room: Notify::new(),
            closing: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            figures: Figures::default(),
        });
        let again = shared.stash().is_greeted();
        if shared.stash().is_ended() {
            shared.close_with("it was closed by an earlier supervisor");
        }
        let (events, told) = mpsc::channel(EVENTS);
        let (give, drain) = oneshot::channel();
        let tasks = [
            tokio::spawn(incoming::run(Arc::clone(&shared), again, commands.clone(), told, give)),
            tokio::spawn(outgoing::run(Arc::clone(&shared), again, commands, drain)),
        ];
        Ok(StandIn { shared, control: None, events, tasks })
    }

    /// The memory that its successor needs.
    pub(super) fn stash(&self) -> io::Result<OwnedFd> {
        self.shared.stash().descriptor().try_clone_to_owned()
    }

    /// Whether a predecessor has stood in for this client.
    pub(super) fn is_inherited(&self) -> bool {
        let stash = self.shared.stash();
        stash.is_greeted() && !stash.is_ended()
    }

    /// Ends its tasks; what is known of it stays.
    pub(super) fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// How far a predecessor has read the rings of the others.
    pub(super) fn cursors(&self) -> Vec<(Slot, u64)> {
        self.shared.stash().cursors().collect()
    }

    /// Whose ring a predecessor has written last, and where it ended when it last kept account of it.
    pub(super) fn written(&self) -> (u32, u64) {
        let mut stash = self.shared.stash();
        let books = stash.books();
        (books.incarnation as u32, books.head)
    }

    /// Has its place now. `published`: the next message of the client is published already, a predecessor died before
    /// it could say so. Written down before the outbox by which that shows may go.
    pub(super) fn take_place(&mut self, seated: Seated, published: bool) {
        let mut stash = self.shared.stash();
        stash.set_greeted();
        if published {
            stash.set_published(true);
        }
        let books = stash.books();
        (books.head, books.incarnation) = (seated.publisher.head(), u64::from(seated.control.place().incarnation));
        stash.commit();
        drop(stash);
        self.control = Some(seated.control.clone());
        self.tell_task(Event::Seated(Box::new(seated)));
    }

    /// As a native client would be told over its link. What concerns who is there is done at once.
    pub(super) fn tell(&mut self, id: u64, message: &ToInstance, descriptors: &[&Arc<OwnedFd>]) {
        match message {
            ToInstance::Peer { slot, incarnation, retired } => self.meet(*slot, *incarnation, *retired, descriptors),
            ToInstance::Gone { slot, incarnation } => {
                self.control.iter().for_each(|control| control.gone(*slot, *incarnation));
            }
            ToInstance::LookAgain { version } => self.control.iter().for_each(|control| control.set_seen(*version)),
            ToInstance::Joined => {
                self.control.iter().for_each(Control::joined);
                self.tell_task(Event::Joined);
            }
            ToInstance::Channel { id: channel, unaware } => {
                self.tell_task(Event::Answer(id, Ok((*channel, unaware.clone()))));
            }
            ToInstance::Failed { reason } => self.tell_task(Event::Answer(id, Err(reason.clone()))),
            ToInstance::Refused { reason } => self.tell_task(Event::Refused(reason.clone())),
            ToInstance::Shutdown => self.say(&frame::inside("shutdown", None, &[])),
            // It has the directory of the supervisor that it lives in, and its place by other means.
            ToInstance::Welcome(_) | ToInstance::Renewed => {}
        }
    }

    /// Whether nothing more comes of it.
    pub(super) fn is_over(&self) -> bool {
        self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Its client is gone. What it has said is still done.
    pub(super) fn finish(&self) {
        self.tell_task(Event::Finish);
    }

    /// What an operator may want to know of it.
    pub(super) fn view(&self) -> StandInView {
        let figures = &self.shared.figures;
        let stash = self.shared.stash();
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        StandInView {
            bad_frames: figures.bad_frames.load(relaxed),
            missed: figures.missed.load(relaxed),
            waiting_bytes: stash.waiting(),
            paused: stash.is_paused(),
            closed: figures.closed.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn meet(&self, slot: Slot, incarnation: u32, retired: bool, descriptors: &[&Arc<OwnedFd>]) {
        let (Some(control), [outbox, bell]) = (&self.control, descriptors) else { return };
        let copies =
            outbox.as_fd().try_clone_to_owned().and_then(|outbox| Ok((outbox, bell.as_fd().try_clone_to_owned()?)));
        let met = copies.map_err(|error| error.to_string()).and_then(|(outbox, bell)| {
            control.add_peer(slot, incarnation, outbox, bell, retired).map_err(|error| error.to_string())
        });
        if let Err(error) = met {
            let (app, index) = (&self.shared.member.app, self.shared.member.index);
            tracing::warn!(%app, index, slot, "its stand-in cannot map a participant: {error}");
        }
    }

    fn say(&self, inside: &[u8]) {
        let mut stash = self.shared.stash();
        if !stash.add_control(inside) {
            tracing::warn!(app = %self.shared.member.app, "a client that does not read could not be told to finish");
        }
        stash.commit();
        drop(stash);
        self.shared.news.notify_one();
    }

    fn tell_task(&self, event: Event) {
        // It has room for more than can be on its way at once; a task that is over wants to know nothing.
        let _ = self.events.try_send(event);
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
