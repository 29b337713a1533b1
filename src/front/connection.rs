//! One WebSocket connection: the task that reads and writes its socket.
//!
//! Owns the socket, what is half read (`codec`) and half written (`writer`), and the closing handshake. What comes
//! from the browser goes to the relay; what goes to it is put in its outbox by others (`sessions`).
//!
//! Invariants
//! - An idle connection holds no buffer: what is read lies in a scratch buffer of the thread until it is understood.
//! - While a message waits for room on its way to the workers, nothing more is read: the socket's own buffers push
//!   back on the browser. It waits for a limited time; then the session is closed and told so. Nothing is dropped
//!   without a word.
//! - Every wait has a deadline; dropping the task at any moment takes the session out of the table.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use herdwire_ipc::Tag;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, OwnedPermit, error::SendError, error::TrySendError};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::relay::{Message, Origin};

use super::close;
use super::codec::{Decoder, Event, Violation};
use super::frame::Frame;
use super::limits::Limits;
use super::plain::{self, Heard};
use super::pulse::{Beat, Pulse};
use super::queue::State;
use super::sessions::Membership;
use super::writer::{Left, Writer};

/// What arrives at the front, on its way to the relay.
pub type Arrivals = mpsc::Sender<(Origin, Message)>;

/// Room for one message, or the news that nobody takes any more.
type Room = Result<OwnedPermit<(Origin, Message)>, SendError<()>>;

/// Read at once, into a buffer that all connections of a thread share.
const SCRATCH: usize = 16 * 1024;
/// Reads before others get a turn.
const READS: usize = 4;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// An open connection and all that it has under way.
pub struct Connection {
    stream: TcpStream,
    member: Membership,
    arrivals: Arrivals,
    limits: Arc<Limits>,
    began: Instant,
    decoder: Decoder,
    /// Read but not yet understood, because a message is held.
    unread: Vec<u8>,
    held: Option<Held>,
    writer: Writer,
    pulse: Pulse,
    phase: Phase,
}

/// A message that found no room, and its place in the line for it.
struct Held {
    message: Message,
    room: Pin<Box<dyn Future<Output = Room> + Send>>,
    by: Duration,
}

/// How far a connection is. Times count from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Our close frame is on its way.
    Closing {
        by: Duration,
        peer: Peer,
    },
    /// We have said all; what still comes is thrown away, so that the peer gets our last bytes and no reset.
    Draining {
        by: Duration,
    },
    Over,
}

/// Whether a peer's close frame is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Owes,
    /// It has sent it, or broken the protocol so that nothing it says counts.
    Done,
}

/// All that can wake the task.
enum Woken {
    Deadline,
    /// The socket can be read, if `true`; it could be written, at any rate, or is broken.
    Socket(io::Result<bool>),
    Room(Room),
    Outbox,
}

impl Connection {
    /// Takes over a socket after the handshake; `early` is what was read behind the request.
    pub fn new(
        stream: TcpStream,
        early: &[u8],
        member: Membership,
        arrivals: Arrivals,
        limits: Arc<Limits>,
    ) -> Connection {
        let jitter = member.session.id.0 as u8;
        Connection {
            decoder: Decoder::new(member.path.settings.max_message),
            stream,
            member,
            arrivals,
            began: Instant::now(),
            unread: early.to_vec(),
            held: None,
            writer: Writer::default(),
            pulse: Pulse::new(limits.patience, jitter),
            limits,
            phase: Phase::Open,
        }
    }

    /// Runs until the connection is over. By reference: a future that owned it would hold it twice.
    pub async fn run(&mut self) {
        // Armed once and moved only when it fires or would fire too late: most wake-ups leave it alone.
        let mut timer = std::pin::pin!(sleep_until(self.began + self.deadline()));
        self.heed_outbox();
        self.understand_unread();
        loop {
            self.write();
            if self.phase == Phase::Over {
                return;
            }
            let deadline = self.began + self.deadline();
            if deadline < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            match self.wait(timer.as_mut()).await {
                Woken::Deadline => self.look_at_the_clock(),
                Woken::Socket(Ok(true)) => self.read(),
                Woken::Socket(Ok(false)) => {}
                Woken::Socket(Err(error)) => self.broken(&error),
                Woken::Room(Ok(permit)) => self.pass_held(permit),
                Woken::Room(Err(_)) => self.go_away(),
                Woken::Outbox => self.heed_outbox(),
            }
            consume_budget().await;
        }
    }

    /// Every branch is cancel safe: the line for room is kept in `self`.
    async fn wait(&mut self, timer: Pin<&mut Sleep>) -> Woken {
        let reads = self.held.is_none();
        let writes = self.writer.is_busy();
        let interest = match (reads, writes) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            // Without `reads` nothing happens to the socket but this; waiting for it when nothing is to be written
            // would spin, hence the condition below.
            (false, _) => Interest::WRITABLE,
        };
        let Connection { stream, held, member, .. } = self;
        tokio::select! {
            // The order keeps the clock going under a flood; writing has its turn in every round.
            biased;
            () = timer => Woken::Deadline,
            ready = stream.ready(interest), if reads || writes => {
                Woken::Socket(ready.map(|ready| reads && (ready.is_readable() || ready.is_read_closed())))
            }
            permit = room(held) => Woken::Room(permit),
            () = member.session.wake.notified() => Woken::Outbox,
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn deadline(&self) -> Duration {
        match self.phase {
            Phase::Open => self.held.as_ref().map_or(Duration::MAX, |held| held.by).min(self.pulse.deadline()),
            Phase::Closing { by, .. } | Phase::Draining { by } => by,
            Phase::Over => Duration::ZERO,
        }
    }

    fn look_at_the_clock(&mut self) {
        let now = self.now();
        match self.phase {
            Phase::Open if self.held.as_ref().is_some_and(|held| now >= held.by) => {
                self.refuse_more(close::OVERLOADED);
            }
            Phase::Open => match self.pulse.beat(now) {
                Beat::Wait => {}
                Beat::Ping => self.writer.urgent(Frame::ping()),
                Beat::Silent => self.refuse_more(close::SILENT),
                Beat::Stalled => {
                    // Else its queue overflowed as well and it is counted already.
                    if self.member.session.outbox.lock().state() == State::Open {
                        self.member.sessions.counters.slow_closed.fetch_add(1, Relaxed);
                    }
                    self.refuse_more(close::SLOW);
                }
            },
            Phase::Closing { by, .. } | Phase::Draining { by } if now >= by => self.phase = Phase::Over,
            Phase::Closing { .. } | Phase::Draining { .. } | Phase::Over => {}
        }
    }

    /// The outbox has something to send, or somebody closed it.
    fn heed_outbox(&mut self) {
        if self.phase != Phase::Open {
            return;
        }
        let state = self.member.session.outbox.lock().state();
        match state {
            State::Open => {}
            State::Overflowed => self.refuse_more(close::SLOW),
            State::Closed => self.go_away(),
        }
    }
}

/// Waits for the held message's turn; for ever if there is none.
async fn room(held: &mut Option<Held>) -> Room {
    match held {
        Some(held) => held.room.as_mut().await,
        None => std::future::pending().await,
    }
}

/// From the browser.
impl Connection {
    fn read(&mut self) {
        SCRATCH_BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..READS {
                match self.stream.try_read(buffer) {
                    Ok(0) => {
                        self.phase = Phase::Over;
                        return;
                    }
                    Ok(read) => {
                        self.pulse.heard(self.now());
                        self.understand(&buffer[..read]);
                        if read < buffer.len() || self.held.is_some() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(error) => return self.broken(&error),
                }
            }
        });
    }

    fn understand_unread(&mut self) {
        let unread = std::mem::take(&mut self.unread);
        self.understand(&unread);
    }

    fn understand(&mut self, mut input: &[u8]) {
        while matches!(self.phase, Phase::Open | Phase::Closing { .. }) {
            if self.held.is_some() {
                self.unread.extend_from_slice(input);
                return;
            }
            match self.decoder.next(&mut input) {
                Ok(None) => return,
                Ok(Some(event)) => self.heed(event),
                Err(violation) => return self.violated(violation),
            }
        }
    }

    fn heed(&mut self, event: Event) {
        match (event, self.phase) {
            (Event::Close(code), Phase::Open) => {
                let echo = Frame::close(code, "");
                self.writer.close(&mut self.member.session.outbox.lock(), echo);
                self.closing(self.limits.close, Peer::Done);
            }
            (Event::Close(_), Phase::Closing { by, .. }) => self.phase = Phase::Closing { by, peer: Peer::Done },
            (Event::Ping(payload), Phase::Open) => self.writer.urgent(Frame::pong(&payload)),
            (Event::Text(payload), Phase::Open) => self.hear_text(payload),
            (Event::Binary(payload), Phase::Open) => self.pass(Tag::Bytes, payload),
            (Event::Pong, _) => {}
            // Whoever is being closed is not listened to any more.
            (_, Phase::Closing { .. } | Phase::Draining { .. } | Phase::Over) => {}
        }
    }

    fn hear_text(&mut self, payload: Bytes) {
        match plain::hear(&payload) {
            Heard::Message(tag) => self.pass(tag, payload),
            Heard::Ping => {
                let Membership { sessions, session, .. } = &self.member;
                sessions.offer(session, &Frame::text(plain::PONG.as_bytes()));
            }
        }
    }

    /// Hands a message to the relay, or holds it until there is room.
    fn pass(&mut self, tag: Tag, payload: Bytes) {
        let topic = self.member.path.speaks_on.clone();
        let message = Message { topic, session: Some(self.member.session.id), tag, payload };
        match self.arrivals.try_send((Origin::Front, message)) {
            Ok(()) => self.count_received(),
            Err(TrySendError::Full((_, message))) => {
                let room = Box::pin(self.arrivals.clone().reserve_owned());
                self.held = Some(Held { message, room, by: self.now() + self.limits.arrival });
            }
            Err(TrySendError::Closed(_)) => self.go_away(),
        }
    }

    fn pass_held(&mut self, permit: OwnedPermit<(Origin, Message)>) {
        if let Some(held) = self.held.take() {
            permit.send((Origin::Front, held.message));
            self.count_received();
            // It may have said more; that we did not listen is not its silence.
            self.pulse.heard(self.now());
        }
        self.understand_unread();
    }

    fn count_received(&self) {
        self.member.sessions.counters.received.fetch_add(1, Relaxed);
    }
}

/// To the browser.
impl Connection {
    fn write(&mut self) {
        if matches!(self.phase, Phase::Draining { .. } | Phase::Over) {
            return;
        }
        let stream = &self.stream;
        let flushed = self.writer.flush(&self.member.session.outbox, |slices| stream.try_write_vectored(slices));
        match flushed {
            Ok(flushed) => {
                self.member.sessions.counters.sent.fetch_add(flushed.messages, Relaxed);
                self.pulse.wrote(self.now(), flushed.left == Left::Blocked, flushed.moved);
                if flushed.left == Left::More {
                    // Comes back after the others had a turn.
                    self.member.session.wake.notify_one();
                }
                if flushed.left == Left::Nothing {
                    self.finish_closing();
                }
            }
            Err(error) => self.broken(&error),
        }
    }

    /// Once both have said goodbye, the server ends the TCP connection (RFC 6455, 7.1.1), its own half first.
    fn finish_closing(&mut self) {
        if let Phase::Closing { by, peer: Peer::Done } = self.phase {
            let ended = socket2::SockRef::from(&self.stream).shutdown(Shutdown::Write);
            self.phase = if ended.is_ok() { Phase::Draining { by } } else { Phase::Over };
        }
    }

    fn violated(&mut self, violation: Violation) {
        tracing::debug!(session = %self.member.session.id, %violation, "front: a client broke the protocol");
        let frame = Frame::close(Some(violation.close_code()), &violation.to_string());
        self.writer.abandon(&mut self.member.session.outbox.lock(), frame);
        self.closing(self.limits.close, Peer::Done);
    }

    /// The front is closed, or nobody is there any more to hear the session.
    fn go_away(&mut self) {
        let frame = close::GOING_AWAY.frame();
        self.writer.close(&mut self.member.session.outbox.lock(), frame);
        self.closing(self.limits.close, Peer::Owes);
    }

    /// Closes a session that the front cannot or will not serve any longer.
    fn refuse_more(&mut self, reason: close::Reason) {
        tracing::debug!(session = %self.member.session.id, reason = reason.text, "front: a session is closed");
        self.writer.abandon(&mut self.member.session.outbox.lock(), reason.frame());
        self.closing(self.limits.slow_close, Peer::Owes);
    }

    fn closing(&mut self, within: Duration, peer: Peer) {
        // What was held is not handed on, and the close says that; reading goes on, to see the peer's own close.
        self.held = None;
        self.unread = Vec::new();
        self.phase = Phase::Closing { by: self.now() + within, peer };
    }

    fn broken(&mut self, error: &io::Error) {
        tracing::debug!(session = %self.member.session.id, %error, "front: a connection broke");
        self.phase = Phase::Over;
    }
}
