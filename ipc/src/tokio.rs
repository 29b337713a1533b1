//! The client for tokio programs: the same names as the blocking one, async.
//!
//! ```no_run
//! # async fn worker() -> Result<(), Box<dyn std::error::Error>> {
//! let (herd, mut inbox) = herdwire_ipc::tokio::connect().await?;
//! let chat = herd.subscribe("chat").await?;
//! herd.ready()?;
//! while let Some(message) = inbox.next().await? {
//!     herd.publish(&chat, message.payload()).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A receiver yields after 256 messages, since draining a ring costs no budget that tokio knows of: without it a flood
//! would starve the other tasks of its thread. Waiting works on the bell with edges, which nobody reads.
#![allow(unsafe_code)] // For one call: the registration of a descriptor.

use std::collections::VecDeque;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ::tokio::sync::{Mutex, oneshot};
use ::tokio::task::{spawn_blocking, yield_now};
use ::tokio::time::timeout;
use serde::Serialize;

use crate::bell::{self, LONGEST_SLEEP};
use crate::client::environment;
use crate::client::link::REQUEST_LIMIT;
use crate::client::receiver::Receiver;
use crate::client::{
    Channel, ConnectError, Connection, Me, Message, Neighbour, ReceiveError, RequestError, SendError, SessionId,
    establish,
};
use crate::drain::{Delivery, Drain, Loss, TURN, Turn};
use crate::link::ToSupervisor;
use crate::participant::Control;
use crate::publisher::{Outgoing, PublishError, Published, Publisher, To};
use crate::slots::{ChannelId, SUPERVISOR};
use crate::tag::Tag;

/// How often a dense reader or a full publisher lets other tasks run before it sleeps.
const YIELDS: usize = 4;
/// How long a full publisher sleeps before it looks again by itself.
const NAP: Duration = Duration::from_millis(20);

/// A descriptor of our own that a tokio runtime watches. The one safe door to `AsyncFd`'s registration.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Watches for readability. For a bell, an eventfd or a pipe's reading end.
    ///
    /// # Errors
    /// The descriptor cannot be watched (a plain file), or the kernel refuses.
    ///
    /// # Panics
    /// Outside a runtime with I/O enabled.
    pub fn new(descriptor: OwnedFd) -> io::Result<Watched> {
        Watched::with_interest(descriptor, Interest::READABLE)
    }

    /// Watches for what `interest` says.
    ///
    /// # Errors
    /// As [`Watched::new`].
    ///
    /// # Panics
    /// As [`Watched::new`].
    pub fn with_interest(descriptor: OwnedFd, interest: Interest) -> io::Result<Watched> {
        // SAFETY: an `OwnedFd` is open, returns the same number each time, and lives inside the `AsyncFd` until that is
        // dropped or taken apart; nothing can close or exchange it meanwhile.
        let watched = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
        Ok(Watched(watched.map_err(io::Error::from)?))
    }

    /// Calls `read` when there is something, again and again while it says `WouldBlock`. Cancel safe.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn read<T>(&self, mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|watched| read(watched.get_ref().as_fd())) {
                return result;
            }
        }
    }

    /// Stops watching.
    pub fn into_inner(self) -> OwnedFd {
        self.0.into_inner()
    }

    /// Waits for the next edge, at most `limit`; false when time was up. Cancel safe: an edge that was not taken stays.
    pub async fn edge(&self, limit: Duration) -> bool {
        match timeout(limit, self.0.readable()).await {
            Ok(Ok(mut ready)) => {
                ready.clear_ready();
                true
            }
            // The runtime shuts down; there will be no other look.
            Ok(Err(_)) => true,
            Err(_) => false,
        }
    }
}

impl Deref for Watched {
    type Target = AsyncFd<OwnedFd>;

    fn deref(&self) -> &AsyncFd<OwnedFd> {
        &self.0
    }
}

/// Lets a drain sleep in a runtime until it has news, at most a second. `bell` watches the drain's own bell. Cancel
/// safe: the announcement is taken back.
pub async fn wait_for_news(drain: &mut Drain, bell: &Watched) {
    if drain.is_dense() {
        for _ in 0..YIELDS {
            yield_now().await;
            if drain.has_news() {
                return;
            }
        }
    }
    // From the announcement to the sleep there is no await.
    let Some(announced) = drain.announce() else { return };
    if !bell.edge(LONGEST_SLEEP).await {
        bell::empty(bell.get_ref().as_fd());
    }
    drop(announced);
}

/// Publishes in a runtime; waits for room as [`Publisher::publish`] does. `bell` watches a descriptor of the own bell
/// (not the one that the drain's [`Watched`] has: clone it). `relief` is called now and then meanwhile. Cancel safe:
/// the message is published whole or not at all.
///
/// # Errors
/// As [`Publisher::publish`].
pub async fn publish(
    publisher: &mut Publisher,
    bell: &Watched,
    channel: ChannelId,
    message: Outgoing<'_>,
    mut relief: impl FnMut(),
) -> Result<Published, PublishError> {
    let mut published = publisher.attempt(channel, message);
    if published == Err(PublishError::Full) {
        let room = wait_for_room(&mut Asking(publisher), bell, &message, &mut relief).await;
        // The gate was refreshed for this very message, and nobody else writes.
        published = room.and_then(|()| publisher.attempt(channel, message));
    }
    published.map_err(|error| publisher.reject(channel, error))
}

/// A publisher that has asked for room; dropping it takes the wish back.
struct Asking<'a>(&'a mut Publisher);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.stop_asking();
    }
}

async fn wait_for_room(
    asking: &mut Asking<'_>,
    bell: &Watched,
    message: &Outgoing<'_>,
    relief: &mut impl FnMut(),
) -> Result<(), PublishError> {
    let publisher = &mut *asking.0;
    let mut wait = publisher.start_waiting(message);
    loop {
        relief();
        for _ in 0..YIELDS {
            yield_now().await;
            if publisher.has_room(&wait) {
                return Ok(());
            }
        }
        if publisher.ask(&wait) {
            return Ok(());
        }
        let left = wait.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return if publisher.stall(&mut wait) { Ok(()) } else { Err(PublishError::Full) };
        }
        bell.edge(left.min(NAP)).await;
    }
}

/// As [`crate::connect`], without blocking the runtime.
///
/// # Errors
/// As [`crate::connect`].
pub async fn connect() -> Result<(Herd, Inbox), ConnectError> {
    connect_over(environment::link()?).await
}

/// As [`connect`], over a link that the caller has.
///
/// # Errors
/// As [`connect`].
pub async fn connect_over(link: OwnedFd) -> Result<(Herd, Inbox), ConnectError> {
    let established = spawn_blocking(move || establish(link)).await;
    let (connection, publisher, drain) = established.map_err(|error| ConnectError::Link(io::Error::other(error)))??;
    let watch = || Watched::new(connection.control.bell().try_clone_to_owned()?);
    let (bell, room) = (watch().map_err(ConnectError::Link)?, watch().map_err(ConnectError::Link)?);
    let receiver = Mutex::new(Receiver::new(drain, connection.control.clone()));
    let publisher = Mutex::new(publisher);
    let herd = Herd { inner: Arc::new(Inner { publisher, room, receiver, bell, connection }) };
    let inbox = Inbox { herd: herd.clone(), ready: VecDeque::new(), since_yield: 0 };
    Ok((herd, inbox))
}

/// A worker's place in its herd. Cheap to clone; the last one that is dropped, the inbox included, leaves the herd.
#[derive(Clone)]
pub struct Herd {
    inner: Arc<Inner>,
}

/// Both locks are held over an await on purpose: whoever waits for room or for news is the one that may go on first,
/// and the others queue up behind it, as they would with the blocking client.
struct Inner {
    publisher: Mutex<Publisher>,
    room: Watched,
    receiver: Mutex<Receiver>,
    bell: Watched,
    connection: Connection,
}

impl std::fmt::Debug for Herd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Herd").field("me", self.me()).finish()
    }
}

impl Herd {
    /// Who this process is.
    pub fn me(&self) -> &Me {
        &self.inner.connection.me
    }

    /// As [`crate::Herd::subscribe`]. Cancel safe: the supervisor may still do it.
    ///
    /// # Errors
    /// As [`crate::Herd::subscribe`].
    pub async fn subscribe(&self, name: &str) -> Result<Channel, RequestError> {
        self.ask(name, ToSupervisor::Subscribe { name: name.into() }).await
    }

    /// As [`crate::Herd::unsubscribe`]. Cancel safe: the supervisor may still do it.
    ///
    /// # Errors
    /// As [`crate::Herd::subscribe`].
    pub async fn unsubscribe(&self, channel: &Channel) -> Result<(), RequestError> {
        self.ask(channel.name(), ToSupervisor::Unsubscribe { name: channel.name().into() }).await.map(drop)
    }

    /// As [`crate::Herd::channel`]. Cancel safe: the supervisor may still do it.
    ///
    /// # Errors
    /// As [`crate::Herd::subscribe`].
    pub async fn channel(&self, name: &str) -> Result<Channel, RequestError> {
        self.ask(name, ToSupervisor::Intern { name: name.into() }).await
    }

    /// As [`crate::Herd::ready`].
    ///
    /// # Errors
    /// The supervisor is gone.
    pub fn ready(&self) -> Result<(), RequestError> {
        self.inner.connection.link.ready()
    }

    /// As [`crate::Herd::publish`]. Cancel safe: the message is published whole or not at all.
    ///
    /// # Errors
    /// As [`crate::Herd::publish`].
    pub async fn publish(&self, channel: &Channel, payload: impl AsRef<[u8]>) -> Result<Published, SendError> {
        self.send(channel, Outgoing::bytes(payload.as_ref())).await
    }

    /// As [`crate::Herd::publish_text`].
    ///
    /// # Errors
    /// As [`crate::Herd::publish`].
    pub async fn publish_text(&self, channel: &Channel, text: &str) -> Result<Published, SendError> {
        self.send(channel, Outgoing { tag: Tag::Text, ..Outgoing::bytes(text.as_bytes()) }).await
    }

    /// As [`crate::Herd::publish_json`].
    ///
    /// # Errors
    /// As [`crate::Herd::publish_json`].
    pub async fn publish_json<T: Serialize + ?Sized>(
        &self,
        channel: &Channel,
        value: &T,
    ) -> Result<Published, SendError> {
        let payload = serde_json::to_vec(value)?;
        self.send(channel, Outgoing { tag: Tag::Json, ..Outgoing::bytes(&payload) }).await
    }

    /// Publishes if there is room and no other task publishes; never waits.
    ///
    /// # Errors
    /// [`PublishError::Full`], or the message is too large.
    pub fn try_publish(&self, channel: &Channel, payload: impl AsRef<[u8]>) -> Result<Published, SendError> {
        let mut publisher = self.inner.publisher.try_lock().map_err(|_| PublishError::Full)?;
        Ok(publisher.try_publish(channel.id(), Outgoing::bytes(payload.as_ref()))?)
    }

    /// As [`crate::Herd::publish_many`]. Cancelled, it has published the first ones.
    ///
    /// # Errors
    /// As [`crate::Herd::publish`].
    pub async fn publish_many<P: AsRef<[u8]>>(
        &self,
        channel: &Channel,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<usize, SendError> {
        let mut publisher = self.inner.publisher.lock().await;
        let mut payloads = payloads.into_iter().peekable();
        let mut count = 0;
        while payloads.peek().is_some() {
            let full = publish_batch(&mut publisher, channel, &mut payloads, &mut count)?;
            if full && let Some(payload) = payloads.next() {
                let message = Outgoing::bytes(payload.as_ref());
                publish(&mut publisher, &self.inner.room, channel.id(), message, || self.relieve()).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// As [`crate::Herd::send_to`].
    ///
    /// # Errors
    /// As [`crate::Herd::send_to`].
    pub async fn send_to(
        &self,
        instance: u32,
        channel: &Channel,
        payload: impl AsRef<[u8]>,
    ) -> Result<Published, SendError> {
        let slot = crate::client::slot_of(&self.inner.connection.control, instance)?;
        self.send(channel, Outgoing { to: To::Slot(slot), ..Outgoing::bytes(payload.as_ref()) }).await
    }

    /// As [`crate::Herd::send_to_session`].
    ///
    /// # Errors
    /// As [`crate::Herd::publish`].
    pub async fn send_to_session(
        &self,
        channel: &Channel,
        session: SessionId,
        payload: impl AsRef<[u8]>,
    ) -> Result<Published, SendError> {
        let message = Outgoing::bytes(payload.as_ref());
        self.send(channel, Outgoing { to: To::Slot(SUPERVISOR), session: Some(session.0), ..message }).await
    }

    /// As [`crate::Herd::send`]. Cancel safe: the message is published whole or not at all.
    ///
    /// # Errors
    /// As [`crate::Herd::publish`].
    pub async fn send(&self, channel: &Channel, message: Outgoing<'_>) -> Result<Published, SendError> {
        let mut publisher = self.inner.publisher.lock().await;
        Ok(publish(&mut publisher, &self.inner.room, channel.id(), message, || self.relieve()).await?)
    }

    /// As [`crate::Herd::peers`].
    pub fn peers(&self) -> Vec<Neighbour> {
        crate::client::neighbours(&self.inner.connection.control)
    }

    /// As [`crate::Herd::publisher`].
    pub async fn publisher(&self) -> impl DerefMut<Target = Publisher> + '_ {
        self.inner.publisher.lock().await
    }

    /// As [`crate::Herd::control`].
    pub fn control(&self) -> &Control {
        &self.inner.connection.control
    }

    /// As [`crate::Herd::is_shutting_down`].
    pub fn is_shutting_down(&self) -> bool {
        self.inner.connection.link.is_shutting_down()
    }

    /// As [`crate::Herd::has_supervisor`].
    pub fn has_supervisor(&self) -> bool {
        !self.inner.connection.link.is_closed()
    }

    async fn ask(&self, name: &str, message: ToSupervisor) -> Result<Channel, RequestError> {
        let (told, answer) = oneshot::channel();
        let link = &self.inner.connection.link;
        // Nobody listens any more when time was up.
        let id = link.request(message, Box::new(move |answer| drop(told.send(answer))));
        match timeout(REQUEST_LIMIT, answer).await {
            Ok(Ok(answer)) => Ok(Channel::new(name, answer?)),
            Ok(Err(_)) => Err(RequestError::NoSupervisor),
            Err(_) => {
                link.forget(id);
                Err(RequestError::NoAnswer(REQUEST_LIMIT))
            }
        }
    }

    fn relieve(&self) {
        // Held by the inbox: then it is being drained.
        if let Ok(mut receiver) = self.inner.receiver.try_lock() {
            receiver.relieve();
        }
    }
}

/// Publishes while there is room; whether it ran out. The payload that did not fit is still the next one.
fn publish_batch<P: AsRef<[u8]>, I: Iterator<Item = P>>(
    publisher: &mut Publisher,
    channel: &Channel,
    payloads: &mut std::iter::Peekable<I>,
    count: &mut usize,
) -> Result<bool, SendError> {
    let mut batch = publisher.batch();
    while let Some(payload) = payloads.peek() {
        match batch.attempt(channel.id(), Outgoing::bytes(payload.as_ref())) {
            Err(PublishError::Full) => return Ok(true),
            other => drop(other?),
        }
        payloads.next();
        *count += 1;
    }
    Ok(false)
}

/// Where a worker's messages arrive. One per process.
#[derive(Debug)]
pub struct Inbox {
    herd: Herd,
    ready: VecDeque<Message>,
    since_yield: usize,
}

impl Inbox {
    /// As [`crate::Inbox::next`]. Cancel safe: a message that was not returned is still there.
    ///
    /// # Errors
    /// None at present.
    pub async fn next(&mut self) -> Result<Option<Message>, ReceiveError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                self.since_yield += 1;
                return Ok(Some(message));
            }
            if self.since_yield >= TURN {
                self.since_yield = 0;
                yield_now().await;
            }
            let inner = &self.herd.inner;
            let mut receiver = inner.receiver.lock().await;
            let turn = receiver.fill();
            self.ready = receiver.take();
            if !self.ready.is_empty() {
                continue;
            }
            if turn.more {
                yield_now().await;
                continue;
            }
            // After the look at the rings: what was there before the request is still handed over.
            if self.herd.is_shutting_down() && !receiver.drain.has_news() {
                return Ok(None);
            }
            wait_for_news(&mut receiver.drain, &inner.bell).await;
        }
    }

    /// As [`crate::Inbox::next_timeout`]. Cancel safe.
    ///
    /// # Errors
    /// [`ReceiveError::TimedOut`].
    pub async fn next_timeout(&mut self, limit: Duration) -> Result<Option<Message>, ReceiveError> {
        timeout(limit, self.next()).await.unwrap_or(Err(ReceiveError::TimedOut))
    }

    /// As [`crate::Inbox::turn`]. Yields once, so that a loop over it starves nobody.
    pub async fn turn(&mut self, mut hand_over: impl FnMut(Delivery<'_>)) -> Turn {
        yield_now().await;
        let mut receiver = self.herd.inner.receiver.lock().await;
        self.ready.extend(receiver.take());
        let early = self.ready.len();
        for message in self.ready.drain(..) {
            hand_over(message.delivery());
        }
        let turn = receiver.drain.turn(TURN, hand_over);
        Turn { records: turn.records + early, ..turn }
    }

    /// Waits until a turn would find something, at most a second. May come back early. Cancel safe.
    pub async fn wait(&mut self) {
        if self.ready.is_empty() {
            let inner = &self.herd.inner;
            wait_for_news(&mut inner.receiver.lock().await.drain, &inner.bell).await;
        }
    }

    /// As [`crate::Inbox::lost`].
    pub async fn lost(&mut self) -> Vec<Loss> {
        self.herd.inner.receiver.lock().await.drain.lost()
    }
}
