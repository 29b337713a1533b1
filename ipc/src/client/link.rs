//! The link of a worker: one small thread that owns the socket, the table of requests and the signs of life.
//!
//! Everybody else leaves frames in a bounded queue and answers in a table, and rings the thread's bell. Requests are
//! idempotent; what is not answered when a new supervisor says so is asked again. The end of the link is no sign of
//! death: the supervisor's end lives in the keeper, so it means that the whole manager is gone; the wire goes on.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::RequestError;
use crate::bell;
use crate::link::{ToInstance, ToSupervisor};
use crate::participant::Control;
use crate::seqpacket::{self, MAX_RECORD, Wait};

/// How long a request waits for its answer.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Requests that may wait for an answer.
const MAX_PENDING: usize = 1024;
/// Frames that may wait for a supervisor that does not read; beyond it requests fail, notices are made good later.
const MAX_OUTGOING: usize = 4096;
/// How often the thread shows that this process lives.
const BEAT_MS: u16 = 1000;

/// What the supervisor answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) channel: u16,
    pub(crate) unaware: Vec<u16>,
}

type Reply = Box<dyn FnOnce(Result<Answer, RequestError>) + Send>;

struct Pending {
    message: ToSupervisor,
    reply: Reply,
}

#[derive(Default)]
struct State {
    joined: bool,
    /// Why there is no supervisor any more.
    closed: Option<io::ErrorKind>,
    last_id: u64,
    pending: BTreeMap<u64, Pending>,
    outgoing: VecDeque<Vec<u8>>,
    ready: bool,
    shutting_down: bool,
    stop: bool,
}

/// The part of the link that everybody may touch.
pub(crate) struct Link {
    socket: OwnedFd,
    /// Wakes the thread.
    bell: OwnedFd,
    state: Mutex<State>,
    moved: Condvar,
}

impl Link {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Link> {
        let bell = crate::memory::create_bell()?;
        Ok(Link { socket, bell, state: Mutex::new(State::default()), moved: Condvar::new() })
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Asks the supervisor; `reply` is called once, from the link's thread or right here. The id is for
    /// [`Link::forget`].
    pub(crate) fn request(&self, message: ToSupervisor, reply: Reply) -> u64 {
        let mut state = self.state();
        let refused = match state.closed {
            Some(_) => Some(RequestError::NoSupervisor),
            None if state.pending.len() >= MAX_PENDING => Some(RequestError::TooMany(MAX_PENDING)),
            None if state.outgoing.len() >= MAX_OUTGOING => Some(RequestError::TooMany(MAX_OUTGOING)),
            None => None,
        };
        if let Some(error) = refused {
            drop(state);
            reply(Err(error));
            return 0;
        }
        state.last_id += 1;
        let id = state.last_id;
        state.outgoing.push_back(message.to_frame(id));
        state.pending.insert(id, Pending { message, reply });
        drop(state);
        bell::ring(self.bell.as_fd());
        id
    }

    /// Nobody waits for this answer any more.
    pub(crate) fn forget(&self, id: u64) {
        self.state().pending.remove(&id);
    }

    /// Asks the supervisor and waits for its answer.
    pub(crate) fn ask(&self, message: ToSupervisor) -> Result<Answer, RequestError> {
        let (told, answer) = std::sync::mpsc::sync_channel(1);
        let id = self.request(
            message,
            // Nobody listens any more when time was up.
            Box::new(move |answer| drop(told.send(answer))),
        );
        answer.recv_timeout(REQUEST_LIMIT).unwrap_or_else(|_| {
            self.forget(id);
            Err(RequestError::NoAnswer(REQUEST_LIMIT))
        })
    }

    /// Tells the supervisor that the application is ready; told again to every new supervisor.
    pub(crate) fn ready(&self) -> Result<(), RequestError> {
        let mut state = self.state();
        if state.closed.is_some() {
            return Err(RequestError::NoSupervisor);
        }
        if !std::mem::replace(&mut state.ready, true) {
            self.tell(&mut state, &ToSupervisor::Ready);
        }
        drop(state);
        bell::ring(self.bell.as_fd());
        Ok(())
    }

    /// Waits until everybody in the herd knows us; false when time was up or the link ended.
    pub(crate) fn wait_joined(&self, until: Instant) -> bool {
        let mut state = self.state();
        while !state.joined && state.closed.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.moved.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.joined
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.state().shutting_down
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed.is_some()
    }

    pub(crate) fn note_shutdown(&self) {
        self.state().shutting_down = true;
    }

    /// Says that the own outbox is mapped.
    pub(crate) fn mapped(&self) {
        let mut state = self.state();
        self.tell(&mut state, &ToSupervisor::Mapped);
    }

    /// Makes the thread leave the herd and end.
    pub(crate) fn stop(&self) {
        self.state().stop = true;
        bell::ring(self.bell.as_fd());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a notice. When the queue is full it is left out: the supervisor does not read, and its successor gets
    /// everything that matters once more.
    fn tell(&self, state: &mut State, message: &ToSupervisor) {
        if state.closed.is_none() && state.outgoing.len() < MAX_OUTGOING {
            state.outgoing.push_back(message.to_frame(0));
        }
    }

    fn close(&self, why: io::ErrorKind) {
        let mut state = self.state();
        state.closed = Some(why);
        state.outgoing.clear();
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        self.moved.notify_all();
        for pending in pending.into_values() {
            (pending.reply)(Err(RequestError::NoSupervisor));
        }
    }
}

/// Runs on the link's own thread until [`Link::stop`].
pub(crate) fn serve(link: &Link, control: &Control) {
    let mut buffer = vec![0; MAX_RECORD];
    loop {
        let unsent = link.flush();
        link.sleep(unsent);
        control.beat();
        link.receive(&mut buffer, control);
        for accusation in control.accusations() {
            let reason = accusation.rule.to_string();
            let accuse = ToSupervisor::Accuse { slot: accusation.slot, incarnation: accusation.incarnation, reason };
            link.tell(&mut link.state(), &accuse);
        }
        if link.state().stop {
            control.leave();
            link.tell(&mut link.state(), &ToSupervisor::Leave);
            link.flush();
            return;
        }
    }
}

impl Link {
    /// Sends what is queued; whether something is left because the supervisor does not read.
    fn flush(&self) -> bool {
        let mut state = self.state();
        while let Some(frame) = state.outgoing.front() {
            match seqpacket::send(self.socket.as_fd(), frame, &[], Wait::Never) {
                Ok(()) => drop(state.outgoing.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    drop(state);
                    self.close(error.kind());
                    return false;
                }
            }
        }
        false
    }

    fn sleep(&self, unsent: bool) {
        let mut events = PollFlags::POLLIN;
        events.set(PollFlags::POLLOUT, unsent);
        let closed = self.is_closed();
        let bell = PollFd::new(self.bell.as_fd(), PollFlags::POLLIN);
        let mut both = [bell, PollFd::new(self.socket.as_fd(), events)];
        // The end of the link would wake us for ever.
        let watched = if closed { &mut both[..1] } else { &mut both[..] };
        // An interrupted or failed poll is a wake-up like any other; it comes back at the next one.
        let _ = poll(watched, PollTimeout::from(BEAT_MS));
        bell::empty(self.bell.as_fd());
    }

    fn receive(&self, buffer: &mut [u8], control: &Control) {
        while !self.is_closed() {
            match seqpacket::receive(self.socket.as_fd(), buffer, Wait::Never) {
                Ok(received) if received.length == 0 => self.close(io::ErrorKind::UnexpectedEof),
                Ok(received) => match ToInstance::from_frame(&buffer[..received.length]) {
                    Ok(Some((id, message))) => self.handle(id, message, received.descriptors, control),
                    // A frame of a later version.
                    Ok(None) => {}
                    Err(_) => self.close(io::ErrorKind::InvalidData),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.close(error.kind()),
            }
        }
    }

    fn handle(&self, id: u64, message: ToInstance, descriptors: Vec<OwnedFd>, control: &Control) {
        match message {
            ToInstance::Peer { slot, incarnation, retired } => {
                self.meet(slot, incarnation, retired, descriptors, control);
            }
            ToInstance::Gone { slot, incarnation } => control.gone(slot, incarnation),
            ToInstance::LookAgain { version } => self.look_again(version, control),
            ToInstance::Joined => {
                control.joined();
                self.state().joined = true;
                self.moved.notify_all();
            }
            ToInstance::Channel { id: channel, unaware } => self.answer(id, Ok(Answer { channel, unaware })),
            ToInstance::Failed { reason } => self.answer(id, Err(RequestError::Refused { reason })),
            ToInstance::Renewed => self.renew(descriptors, control),
            ToInstance::Shutdown => {
                self.note_shutdown();
                // Whoever waits for a message has to hear of it.
                control.wake();
            }
            // Only ever answers to the hello, which is done.
            ToInstance::Welcome(_) | ToInstance::Refused { .. } => {}
        }
    }

    fn meet(&self, slot: u16, incarnation: u32, retired: bool, descriptors: Vec<OwnedFd>, control: &Control) {
        let Ok([outbox, bell]) = <[OwnedFd; 2]>::try_from(descriptors) else { return };
        if let Err(error) = control.add_peer(slot, incarnation, outbox, bell, retired) {
            let accuse = ToSupervisor::Accuse { slot, incarnation, reason: error.to_string() };
            self.tell(&mut self.state(), &accuse);
        }
    }

    /// Peers and directory are taken over: what was sent before stands in Control's table, which publisher and drain
    /// look at before they do anything else.
    fn look_again(&self, version: u64, control: &Control) {
        let seen = control.directory_version();
        // A version that is not there yet belongs to a directory that is still on its way.
        if seen >= version {
            control.set_seen(seen);
            self.tell(&mut self.state(), &ToSupervisor::Seen { version: seen });
        }
    }

    fn answer(&self, id: u64, answer: Result<Answer, RequestError>) {
        let pending = self.state().pending.remove(&id);
        if let Some(pending) = pending {
            (pending.reply)(answer);
        }
    }

    /// A new supervisor: its directory is taken over, and what is still open is said once more.
    fn renew(&self, descriptors: Vec<OwnedFd>, control: &Control) {
        if let Some(directory) = descriptors.into_iter().next()
            && control.renew_directory(directory).is_err()
        {
            return self.close(io::ErrorKind::InvalidData);
        }
        let mut state = self.state();
        state.outgoing.clear();
        if !state.joined {
            self.tell(&mut state, &ToSupervisor::Mapped);
        }
        let open: Vec<_> = state.pending.iter().map(|(id, pending)| pending.message.to_frame(*id)).collect();
        state.outgoing.extend(open);
        if state.ready {
            self.tell(&mut state, &ToSupervisor::Ready);
        }
        drop(state);
        self.look_again(0, control);
    }
}

/// Starts the link's thread.
pub(crate) fn spawn(link: Arc<Link>, control: Control) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("herdwire-link".into())
        .stack_size(256 * 1024)
        .spawn(move || serve(&link, &control))
}
