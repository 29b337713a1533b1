//! The herd as an async worker sees it.

use std::io;
use std::ops::DerefMut;
use std::sync::Arc;

use ::tokio::sync::{Mutex, oneshot};
use ::tokio::time::timeout;
use serde::Serialize;

use super::{Watched, publish};
use crate::client::link::REQUEST_LIMIT;
use crate::client::receiver::Receiver;
use crate::client::{Channel, Connection, Me, Neighbour, RequestError, SendError, SessionId};
use crate::link::ToSupervisor;
use crate::participant::Control;
use crate::publish::{Outgoing, PublishError, Published, Publisher, Refusal, To};
use crate::receive::Drain;
use crate::slots::SUPERVISOR;
use crate::tag::Tag;

/// A worker's place in its herd. Cheap to clone; the last one that is dropped, the inbox included, leaves the herd.
#[derive(Clone)]
pub struct Herd {
    inner: Arc<Inner>,
}

/// Both locks are held over an await on purpose: whoever waits for room or for news is the one that may go on first,
/// and the others queue up behind it, as they would with the blocking client.
pub(super) struct Inner {
    publisher: Mutex<Publisher>,
    room: Watched,
    pub(super) receiver: Mutex<Receiver>,
    pub(super) bell: Watched,
    connection: Connection,
}

impl std::fmt::Debug for Herd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Herd").field("me", self.me()).finish()
    }
}

impl Herd {
    pub(super) fn new(connection: Connection, publisher: Publisher, drain: Drain) -> io::Result<Herd> {
        let watch = || Watched::new(connection.control.bell().try_clone_to_owned()?);
        let (bell, room) = (watch()?, watch()?);
        let receiver = Mutex::new(Receiver::new(drain, connection.control.clone()));
        let publisher = Mutex::new(publisher);
        Ok(Herd { inner: Arc::new(Inner { publisher, room, receiver, bell, connection }) })
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

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
        let message = Outgoing::bytes(payload.as_ref());
        match batch.attempt(channel.id(), &message) {
            Ok(_) => {}
            Err(Refusal::Full) => return Ok(true),
            Err(refusal) => return Err(batch.reject(channel.id(), &message, refusal).into()),
        }
        payloads.next();
        *count += 1;
    }
    Ok(false)
}
