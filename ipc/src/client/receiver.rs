//! The drain of a worker with a backlog, into which a waiting publisher may drain meanwhile.
//!
//! Invariants
//! - The backlog holds at most [`BACKLOG_BYTES`] and one turn; beyond it the rings fill, and their publishers wait.

use std::collections::VecDeque;
use std::sync::Arc;

use super::message::{Message, SessionId};
use crate::directory::DirectoryReader;
use crate::participant::Control;
use crate::receive::{Delivery, Drain, TURN, Turn};
use crate::slots::ChannelId;

/// What a waiting publisher takes in before the application asks for it.
const BACKLOG_BYTES: usize = 4 << 20;
/// What a message takes beside its payload, about.
const MESSAGE_BYTES: usize = std::mem::size_of::<Message>();

pub(crate) struct Receiver {
    pub(crate) drain: Drain,
    backlog: VecDeque<Message>,
    bytes: usize,
    names: Names,
}

impl Receiver {
    pub(crate) fn new(drain: Drain, control: Control) -> Receiver {
        Receiver {
            drain,
            backlog: VecDeque::new(),
            bytes: 0,
            names: Names { control, channels: Vec::new(), senders: Vec::new() },
        }
    }

    /// One turn into the backlog.
    pub(crate) fn fill(&mut self) -> Turn {
        let Receiver { drain, backlog, bytes, names } = self;
        drain.turn(TURN, |delivery| {
            *bytes += delivery.payload.len() + MESSAGE_BYTES;
            backlog.push_back(names.message(delivery));
        })
    }

    /// What a publisher does here while it waits for room.
    pub(crate) fn relieve(&mut self) {
        if self.bytes < BACKLOG_BYTES {
            self.fill();
        }
    }

    /// Takes the whole backlog.
    pub(crate) fn take(&mut self) -> VecDeque<Message> {
        self.bytes = 0;
        std::mem::take(&mut self.backlog)
    }
}

/// Names that messages carry, looked up once.
struct Names {
    control: Control,
    channels: Vec<Option<Arc<str>>>,
    /// Per slot: the incarnation that was looked up, and its instance.
    senders: Vec<Option<(u32, Option<u32>)>>,
}

impl Names {
    fn message(&mut self, delivery: Delivery<'_>) -> Message {
        Message {
            channel_name: self.channel(delivery.channel),
            channel: delivery.channel,
            from: delivery.from,
            from_incarnation: delivery.from_incarnation,
            from_instance: self.instance(delivery.from, delivery.from_incarnation),
            tag: delivery.tag,
            session: delivery.session.map(SessionId),
            to_me_alone: delivery.to_me_alone,
            sequence: delivery.sequence,
            position: delivery.position,
            payload: delivery.payload.to_vec(),
        }
    }

    /// A channel's number and name belong together for as long as the herd lives.
    fn channel(&mut self, id: ChannelId) -> Arc<str> {
        let index = usize::from(id.0);
        if index >= self.channels.len() {
            self.channels.resize(index + 1, None);
        }
        if let Some(name) = &self.channels[index] {
            return name.clone();
        }
        let name: Option<Arc<str>> = self.directory().name(id).map(Arc::from);
        self.channels[index].clone_from(&name);
        name.unwrap_or_else(|| Arc::from(""))
    }

    fn instance(&mut self, slot: u16, incarnation: u32) -> Option<u32> {
        let index = usize::from(slot);
        if index >= self.senders.len() {
            self.senders.resize(index + 1, None);
        }
        if let Some((known, instance)) = self.senders[index]
            && known == incarnation
        {
            return instance;
        }
        let entry = self.directory().slot(slot);
        // The slot may have gone on to another incarnation; the instance is the same unless the slot was given away.
        if entry.incarnation == incarnation {
            self.senders[index] = Some((incarnation, entry.instance));
        }
        entry.instance
    }

    fn directory(&self) -> Arc<DirectoryReader> {
        self.control.directory()
    }
}
