//! A message that was received, owned.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::receive::Delivery;
use crate::slots::{ChannelId, SUPERVISOR, Slot};
use crate::tag::Tag;

/// One browser's place at a front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u128);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A message that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub(super) channel_name: Arc<str>,
    pub(super) channel: ChannelId,
    pub(super) from: Slot,
    pub(super) from_incarnation: u32,
    pub(super) from_instance: Option<u32>,
    pub(super) tag: Tag,
    pub(super) session: Option<SessionId>,
    pub(super) to_me_alone: bool,
    pub(super) sequence: u32,
    pub(super) position: u64,
    pub(super) payload: Vec<u8>,
}

impl Message {
    /// Its bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Its bytes, without a copy.
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// What the bytes are.
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// The payload as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self) -> Result<&str, std::str::Utf8Error> {
        std::str::from_utf8(&self.payload)
    }

    /// The payload as a value, read as JSON.
    ///
    /// # Errors
    /// It is no JSON, or not that of a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.payload)
    }

    /// The channel's name.
    pub fn channel(&self) -> &str {
        &self.channel_name
    }

    /// The channel's number.
    pub fn channel_id(&self) -> ChannelId {
        self.channel
    }

    /// The instance that published it; `None` when the supervisor did, for a browser or another host.
    pub fn from(&self) -> Option<u32> {
        self.from_instance
    }

    /// The slot that published it, and which incarnation of it.
    pub fn from_slot(&self) -> (Slot, u32) {
        (self.from, self.from_incarnation)
    }

    /// Whether it came from outside: a browser or another host.
    pub fn is_from_outside(&self) -> bool {
        self.from == SUPERVISOR
    }

    /// The browser that it came from.
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// Whether it was sent to this instance and to no other.
    pub fn is_to_me_alone(&self) -> bool {
        self.to_me_alone
    }

    /// Counts its publisher's messages of the channel, or to us; wraps.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    pub(crate) fn delivery(&self) -> Delivery<'_> {
        Delivery {
            from: self.from,
            from_incarnation: self.from_incarnation,
            channel: self.channel,
            tag: self.tag,
            session: self.session.map(|session| session.0),
            to_me_alone: self.to_me_alone,
            sequence: self.sequence,
            position: self.position,
            payload: &self.payload,
        }
    }
}
