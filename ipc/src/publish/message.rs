//! What goes in and what comes back: messages on their way out, and why one was not published.

use std::num::NonZeroU64;

use crate::record::SESSION_BYTES;
use crate::slots::{ChannelId, Slot};
use crate::tag::Tag;

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// All subscribers of the channel, the publisher itself excepted.
    Subscribers,
    /// One slot, subscribed or not.
    Slot(Slot),
}

/// A message on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Whom it is for.
    pub to: To,
    /// What the payload is.
    pub tag: Tag,
    /// To, or from, this session at a front.
    pub session: Option<u128>,
    /// Opaque bytes.
    pub payload: &'a [u8],
}

impl<'a> Outgoing<'a> {
    /// Bytes for all subscribers.
    #[inline]
    pub fn bytes(payload: &'a [u8]) -> Outgoing<'a> {
        Outgoing { to: To::Subscribers, tag: Tag::Bytes, session: None, payload }
    }

    /// Bytes that its record carries.
    #[inline]
    pub(super) fn length(&self) -> u64 {
        self.payload.len() as u64 + self.session.map_or(0, |_| SESSION_BYTES as u64)
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Where it stands in the own ring; `None` when nobody listens and nothing was written.
    pub position: Option<u64>,
}

/// Why a message was not published. Nothing of it was written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The slowest reader has not made room, and there was no waiting, or it lasted too long.
    #[error("the ring is full: a reader has not kept up")]
    Full,
    /// Larger than one record of this ring, or than the channel allows.
    #[error("a message of {bytes} bytes is larger than the limit of {limit} (ring/8 - 32, or the channel's own limit)")]
    TooLarge {
        /// Its size with what precedes it.
        bytes: u64,
        /// What may be.
        limit: u64,
    },
    /// No channel has this number.
    #[error("there is no channel {}", .0.0)]
    UnknownChannel(ChannelId),
    /// The slot is nobody's, or our own.
    #[error("there is nobody at slot {0} to send to")]
    NobodyThere(Slot),
}

impl PublishError {
    /// What can be done about it, if we know.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            PublishError::Full => Some("read faster, publish less, or give the herd larger rings"),
            PublishError::TooLarge { .. } => Some("split the message, or give the herd larger rings"),
            PublishError::UnknownChannel(_) => Some("get the channel from the client, by its name"),
            PublishError::NobodyThere(_) => None,
        }
    }
}

/// Why a message was not written: what a [`PublishError`] says beside what the caller knows anyway.
///
/// As large as a position, so that the answer of the hot path stays in registers. Through memory it would be read in
/// larger parts than it was written, which waits until every store of the record has left the processor's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Refusal {
    Full,
    TooLarge,
    UnknownChannel,
    NobodyThere,
}

/// Where a message was written, if anybody hears it. No position is 0.
pub(crate) type Written = Option<NonZeroU64>;

impl From<Written> for Published {
    #[inline]
    fn from(written: Written) -> Published {
        Published { position: written.map(NonZeroU64::get) }
    }
}
