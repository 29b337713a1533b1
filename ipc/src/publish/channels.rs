//! The private copy of the directory's channels: who listens, what is allowed, and what was counted.
//!
//! A copy is good for one version of the directory. Each publish compares versions and nothing else; everything that a
//! record needs to know of its channel is worked out when they differ, not when it is written.

use super::readers::Readers;
use crate::directory::ChannelEntry;
use crate::layout::{self, Counter, MAX_CHANNELS};
use crate::map::{OwnMap, OwnView, Word};
use crate::record::{SEQUENCE_SHIFT, TAG_SHIFT};
use crate::slots::{ChannelId, Slot, SlotSet};
use crate::sync::OwnWords;
use crate::tag::Tag;

/// What a copy is made under, beside the entry itself.
pub(super) struct Terms {
    pub(super) version: u64,
    pub(super) me: Slot,
    /// The most bytes that any message may have.
    pub(super) limit: u64,
    pub(super) header: (u64, u64),
}

/// One listener's park word, at hand for the look after each publish.
pub(super) struct Listener {
    pub(super) slot: Slot,
    pub(super) park: Word,
}

/// The private copy of a channel's entry, and its counts.
///
/// Whole lines, so that a publish touches as few as can be.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Channel {
    /// The directory version of this copy; 0 is none.
    version: u64,
    /// The most bytes of one message.
    pub(super) limit: u64,
    /// What is always the same in its headers: see [`RingWriter::straight_header`].
    header: (u64, u64),
    /// Whether anybody is subscribed, be it one that is down.
    pub(super) heard: bool,
    /// Number of the next message for all subscribers.
    pub(super) sequence: u32,
    /// The subscribers that are here.
    pub(super) listeners: Box<[Listener]>,
    /// All subscribers, ourselves excepted.
    pub(super) subscribers: SlotSet,
    published: u64,
    rejected: u64,
}

impl Channel {
    /// First and third header word of its next message.
    #[inline]
    pub(super) fn header(&self, length: u64, tag: Tag) -> (u64, u64) {
        let (first, third) = self.header;
        (first | length | (tag as u64) << TAG_SHIFT, third | u64::from(self.sequence) << SEQUENCE_SHIFT)
    }

    #[inline]
    pub(super) fn is_current(&self, version: u64) -> bool {
        self.version == version
    }

    /// Counts a message that was published, heard or not.
    #[inline]
    pub(super) fn count_published(&mut self, own: &OwnView<'_>, id: ChannelId) {
        self.published += 1;
        own.store(layout::counter(id, Counter::Published), self.published);
    }

    fn count_rejected(&mut self, own: &OwnMap, id: ChannelId) {
        self.rejected += 1;
        own.store(layout::counter(id, Counter::Rejected), self.rejected);
    }
}

/// All channels that were published to, by number.
#[derive(Default)]
pub(super) struct Channels(Vec<Channel>);

impl Channels {
    #[inline]
    pub(super) fn at(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.0.get_mut(usize::from(id.0))
    }

    /// Takes over what the directory says at this version.
    pub(super) fn renew(&mut self, id: ChannelId, entry: &ChannelEntry, terms: Terms, readers: &Readers) {
        let Terms { version, me, limit, header } = terms;
        let index = usize::from(id.0);
        debug_assert!(index < MAX_CHANNELS, "the directory has no other channels");
        if index >= self.0.len() {
            self.0.resize_with(index + 1, Channel::default);
        }
        let channel = &mut self.0[index];
        channel.version = version;
        channel.subscribers = entry.subscribers;
        channel.subscribers.set(me, false);
        channel.heard = !channel.subscribers.is_empty();
        channel.limit = if entry.max_message == 0 { limit } else { limit.min(entry.max_message) };
        channel.listeners = readers.listeners(&channel.subscribers);
        channel.header = header;
    }

    /// Nothing that was taken over counts any more: another directory, or others at the slots.
    pub(super) fn forget_all(&mut self) {
        self.0.iter_mut().for_each(|channel| channel.version = 0);
    }

    /// Counts a message that was refused.
    pub(super) fn count_rejected(&mut self, own: &OwnMap, id: ChannelId) {
        if let Some(channel) = self.at(id) {
            channel.count_rejected(own, id);
        }
    }
}
