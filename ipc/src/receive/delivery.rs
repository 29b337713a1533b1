//! What a turn hands over, and what it says of itself.

use crate::map::bytes_of;
use crate::record::{FLAG_SESSION, Header, SESSION_BYTES, TO_ALL};
use crate::slots::{ChannelId, Slot};
use crate::tag::Tag;

/// One message, as long as the drain's turn lasts.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Who published it.
    pub from: Slot,
    /// Which incarnation of it.
    pub from_incarnation: u32,
    /// The channel.
    pub channel: ChannelId,
    /// What the payload is.
    pub tag: Tag,
    /// To, or from, this session at a front.
    pub session: Option<u128>,
    /// Sent to this slot and to nobody else.
    pub to_me_alone: bool,
    /// Counts the publisher's messages of the channel, or to us; wraps.
    pub sequence: u32,
    /// Where it stood in its publisher's ring; grows for ever.
    pub position: u64,
    /// Opaque bytes.
    pub payload: &'a [u8],
}

impl<'a> Delivery<'a> {
    /// From a header that was checked and the words behind it; `None` when its tag is unknown.
    ///
    /// Inlined, or else the answer goes through memory, where its 128-bit parts wait for narrower stores.
    #[inline]
    pub(super) fn new(from: Slot, incarnation: u32, header: &Header, words: &'a [u64]) -> Option<Delivery<'a>> {
        let payload = bytes_of(words, header.length as usize);
        let (session, payload) = if header.flags & FLAG_SESSION == 0 {
            (None, payload)
        } else {
            let (session, payload) = payload.split_first_chunk::<SESSION_BYTES>()?;
            (Some(u128::from_le_bytes(*session)), payload)
        };
        Some(Delivery {
            from,
            from_incarnation: incarnation,
            channel: ChannelId(header.channel),
            tag: Tag::from_number(header.tag)?,
            session,
            to_me_alone: header.to != TO_ALL,
            sequence: header.sequence,
            position: header.position,
            payload,
        })
    }
}

/// What one turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Messages handed over.
    pub records: usize,
    /// Whether there may be more right now.
    pub more: bool,
}
