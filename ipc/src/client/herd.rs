//! The herd as a worker sees it: publish, send, subscribe, who is there.

use std::ops::DerefMut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::error::{RequestError, SendError};
use super::handshake::Connection;
use super::link::Answer;
use super::message::SessionId;
use super::receiver::Receiver;
use crate::directory::SlotState;
use crate::layout::MAX_SLOTS;
use crate::link::{ToSupervisor, Welcome};
use crate::participant::Control;
use crate::publish::{Outgoing, Published, Publisher, To};
use crate::receive::Drain;
use crate::slots::{ChannelId, SUPERVISOR, Slot};
use crate::tag::Tag;

/// A channel of the herd. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    id: ChannelId,
    name: Arc<str>,
    unaware: Arc<[Slot]>,
}

impl Channel {
    pub(crate) fn new(name: &str, answer: Answer) -> Channel {
        Channel { id: ChannelId(answer.channel), name: name.into(), unaware: answer.unaware.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number in the herd.
    pub fn id(&self) -> ChannelId {
        self.id
    }

    /// Slots of publishers that had not heard of the subscription when the wait for them ran out. Usually empty.
    pub fn unaware(&self) -> &[Slot] {
        &self.unaware
    }
}

/// Who this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// The name of the app.
    pub app: String,
    /// The name of the herd.
    pub herd: String,
    /// The instance's id in the supervisor.
    pub instance: u32,
    /// Its number within the app.
    pub index: u32,
    /// Its slot in the herd.
    pub slot: Slot,
    /// Which process of this slot it is, counted from 1.
    pub incarnation: u32,
}

impl Me {
    pub(crate) fn new(welcome: Welcome) -> Me {
        Me {
            app: welcome.app,
            herd: welcome.herd_name,
            instance: welcome.instance,
            index: welcome.index,
            slot: welcome.slot,
            incarnation: welcome.incarnation,
        }
    }
}

/// Another instance of the herd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its id in the supervisor, which [`Herd::send_to`] takes.
    pub instance: u32,
    /// Its slot.
    pub slot: Slot,
    /// Which process of the slot it is.
    pub incarnation: u32,
    /// Whether it runs; what is sent to one that is down waits for its successor, as far as the ring allows.
    pub state: SlotState,
}

/// A worker's place in its herd. Cheap to clone; the last one that is dropped, the inbox included, leaves the herd.
#[derive(Clone)]
pub struct Herd {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    publisher: Mutex<Publisher>,
    pub(super) receiver: Mutex<Receiver>,
    pub(super) connection: Connection,
}

impl std::fmt::Debug for Herd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Herd").field("me", self.me()).finish()
    }
}

impl Herd {
    pub(super) fn new(connection: Connection, publisher: Publisher, drain: Drain) -> Herd {
        let receiver = Mutex::new(Receiver::new(drain, connection.control.clone()));
        Herd { inner: Arc::new(Inner { publisher: Mutex::new(publisher), receiver, connection }) }
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Who this process is.
    pub fn me(&self) -> &Me {
        &self.inner.connection.me
    }

    /// Lets this process hear a channel. Answers when every running publisher of the herd knows of it, or with the
    /// slots of those that do not ([`Channel::unaware`]).
    ///
    /// # Errors
    /// The supervisor refuses, does not answer within ten seconds, or is gone.
    pub fn subscribe(&self, name: &str) -> Result<Channel, RequestError> {
        self.ask(name, ToSupervisor::Subscribe { name: name.into() })
    }

    /// Does not hear a channel any more.
    ///
    /// # Errors
    /// As [`Herd::subscribe`].
    pub fn unsubscribe(&self, channel: &Channel) -> Result<(), RequestError> {
        self.ask(channel.name(), ToSupervisor::Unsubscribe { name: channel.name().into() }).map(drop)
    }

    /// A channel to publish on, without hearing it.
    ///
    /// # Errors
    /// As [`Herd::subscribe`].
    pub fn channel(&self, name: &str) -> Result<Channel, RequestError> {
        self.ask(name, ToSupervisor::Intern { name: name.into() })
    }

    /// Tells the supervisor that this instance is ready to serve.
    ///
    /// # Errors
    /// The supervisor is gone.
    pub fn ready(&self) -> Result<(), RequestError> {
        self.inner.connection.link.ready()
    }

    /// Publishes bytes to all subscribers. Waits while a reader's unread messages fill the ring, at most for the
    /// herd's stall timeout.
    ///
    /// # Errors
    /// The message is too large, or there was no room in time.
    pub fn publish(&self, channel: &Channel, payload: impl AsRef<[u8]>) -> Result<Published, SendError> {
        self.send(channel, Outgoing::bytes(payload.as_ref()))
    }

    /// Publishes text to all subscribers.
    ///
    /// # Errors
    /// As [`Herd::publish`].
    pub fn publish_text(&self, channel: &Channel, text: &str) -> Result<Published, SendError> {
        self.send(channel, Outgoing { tag: Tag::Text, ..Outgoing::bytes(text.as_bytes()) })
    }

    /// Publishes a value as JSON to all subscribers.
    ///
    /// # Errors
    /// As [`Herd::publish`], or the value is not representable as JSON.
    pub fn publish_json<T: Serialize + ?Sized>(&self, channel: &Channel, value: &T) -> Result<Published, SendError> {
        let payload = serde_json::to_vec(value)?;
        self.send(channel, Outgoing { tag: Tag::Json, ..Outgoing::bytes(&payload) })
    }

    /// Publishes bytes if there is room; never waits but for another thread's publish.
    ///
    /// # Errors
    /// [`crate::PublishError::Full`], or the message is too large.
    pub fn try_publish(&self, channel: &Channel, payload: impl AsRef<[u8]>) -> Result<Published, SendError> {
        Ok(self.lock().try_publish(channel.id, Outgoing::bytes(payload.as_ref()))?)
    }

    /// Publishes many messages and wakes their readers once. Says how many; the error of the first that failed ends it.
    ///
    /// # Errors
    /// As [`Herd::publish`].
    pub fn publish_many<P: AsRef<[u8]>>(
        &self,
        channel: &Channel,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<usize, SendError> {
        let mut publisher = self.lock();
        let mut batch = publisher.batch();
        let mut count = 0;
        for payload in payloads {
            batch.publish_with(channel.id, Outgoing::bytes(payload.as_ref()), || self.relieve())?;
            count += 1;
        }
        Ok(count)
    }

    /// Sends bytes to one instance, by its id in the supervisor. It need not be subscribed.
    ///
    /// # Errors
    /// As [`Herd::publish`], or there is no such instance in the herd.
    pub fn send_to(&self, instance: u32, channel: &Channel, payload: impl AsRef<[u8]>) -> Result<Published, SendError> {
        let slot = slot_of(&self.inner.connection.control, instance)?;
        self.send(channel, Outgoing { to: To::Slot(slot), ..Outgoing::bytes(payload.as_ref()) })
    }

    /// Sends bytes to one browser, wherever its front is.
    ///
    /// # Errors
    /// As [`Herd::publish`].
    pub fn send_to_session(
        &self,
        channel: &Channel,
        session: SessionId,
        payload: impl AsRef<[u8]>,
    ) -> Result<Published, SendError> {
        let message = Outgoing::bytes(payload.as_ref());
        self.send(channel, Outgoing { to: To::Slot(SUPERVISOR), session: Some(session.0), ..message })
    }

    /// Sends anything: with a tag, to a slot, for a session.
    ///
    /// # Errors
    /// As [`Herd::publish`].
    pub fn send(&self, channel: &Channel, message: Outgoing<'_>) -> Result<Published, SendError> {
        Ok(self.lock().publish_with(channel.id, message, || self.relieve())?)
    }

    /// The other instances of the herd.
    pub fn peers(&self) -> Vec<Neighbour> {
        neighbours(&self.inner.connection.control)
    }

    /// The publisher itself, for the fastest path. Other threads that publish wait as long as it is held.
    pub fn publisher(&self) -> impl DerefMut<Target = Publisher> + '_ {
        self.lock()
    }

    /// The participant's control: positions, counters, directory.
    pub fn control(&self) -> &Control {
        &self.inner.connection.control
    }

    /// Whether the supervisor has asked this instance to finish.
    pub fn is_shutting_down(&self) -> bool {
        self.inner.connection.link.is_shutting_down()
    }

    /// Whether somebody serves the link: a supervisor, or the keeper until there is one. Without them messages among
    /// instances go on, requests fail.
    pub fn has_supervisor(&self) -> bool {
        !self.inner.connection.link.is_closed()
    }

    fn ask(&self, name: &str, message: ToSupervisor) -> Result<Channel, RequestError> {
        Ok(Channel::new(name, self.inner.connection.link.ask(message)?))
    }

    fn lock(&self) -> MutexGuard<'_, Publisher> {
        self.inner.publisher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Two workers that publish to each other from the thread that should receive would wait for each other.
    fn relieve(&self) {
        // Held by the inbox: then it is being drained.
        if let Ok(mut receiver) = self.inner.receiver.try_lock() {
            receiver.relieve();
        }
    }
}

pub(crate) fn slot_of(control: &Control, instance: u32) -> Result<Slot, SendError> {
    let found = neighbours(control).into_iter().find(|neighbour| neighbour.instance == instance);
    found.map(|neighbour| neighbour.slot).ok_or(SendError::NoSuchInstance(instance))
}

pub(crate) fn neighbours(control: &Control) -> Vec<Neighbour> {
    let (directory, me) = (control.directory(), control.place().slot);
    (0..MAX_SLOTS as Slot)
        .filter(|slot| *slot != me)
        .filter_map(|slot| {
            let entry = directory.slot(slot);
            let instance = entry.instance.filter(|_| entry.state != SlotState::Free)?;
            Some(Neighbour { instance, slot, incarnation: entry.incarnation, state: entry.state })
        })
        .collect()
}
