//! Publishing: who hears a message, whether there is room for it, and who has to be woken.
//!
//! One [`Publisher`] per participant; `&mut self` makes "one writer" a fact. A publish that nobody hears writes
//! nothing; one that somebody hears is one copy into the own ring, whatever the number of subscribers, and a system
//! call only for those that sleep.
//!
//! Each step has a room: `channels` (the private copy of the directory), `readers` (the others, and their sleep),
//! `keeping` (what may not be overwritten), `room` (the gate), `wait` (a full ring, stalls), `batch` (many at once).
//!
//! Invariants
//! - Nothing kept and unread is overwritten, but for readers that are stalled, down or lossy (the supervisor).
//! - Every wait ends: with room, or at the stall timeout.
//! - Nobody sleeps on a message that was written before the publisher waits or returns.

mod batch;
mod channels;
mod keeping;
mod message;
mod readers;
mod room;
mod wait;

use std::num::NonZeroU64;
use std::sync::Arc;

use crate::bell::Ear;
use crate::directory::{DirectoryReader, SlotState};
use crate::grace::Grace;
use crate::layout::{MAX_SLOTS, record_limit};
use crate::map::{OwnMap, Word};
use crate::participant::Shared;
use crate::record::{FLAG_SESSION, FLAG_TO_ONE, Header, TO_ALL};
use crate::ring::{Need, RingWriter, Waker};
use crate::slots::{ChannelId, SUPERVISOR, Slot, SlotSet};
use crate::sync::Ordering::Acquire;
use crate::sync::fence;

pub use batch::Batch;
use batch::Pending;
use channels::{Channels, Terms};
use keeping::{Extent, Keeping};
pub use message::{Outgoing, PublishError, Published, To};
pub(crate) use message::{Refusal, Written};
use readers::Readers;
use room::Running;

/// The writing owner of a participant's outbox.
pub struct Publisher {
    own: OwnMap,
    /// The directory's version, looked at with every message.
    version: Word,
    writer: RingWriter,
    channels: Channels,
    keeping: Keeping,
    readers: Readers,
    /// Number of the next message to each slot alone.
    directed: Vec<u32>,
    /// What a batch still has to show and to whom.
    pending: Pending,
    shared: Arc<Shared>,
    changes: u64,
    directory: Arc<DirectoryReader>,
    running: Running,
    grace: Grace,
    ear: Option<Ear>,
    stalls: u64,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("writer", &self.writer).finish_non_exhaustive()
    }
}

impl Publisher {
    pub(crate) fn new(shared: Arc<Shared>) -> Publisher {
        let place = &shared.place;
        let directory = shared.table().directory.clone();
        Publisher {
            own: shared.own.clone(),
            version: directory.version_word(),
            writer: RingWriter::new(place.slot, place.incarnation, place.ring_bytes, place.base),
            channels: Channels::default(),
            keeping: Keeping::new(place.slot),
            readers: Readers::new(),
            directed: vec![0; MAX_SLOTS],
            pending: Pending::default(),
            running: Running::default(),
            grace: Grace::default(),
            ear: None,
            stalls: 0,
            changes: 0,
            directory,
            shared,
        }
    }

    /// Publishes if there is room; never waits.
    ///
    /// # Errors
    /// [`PublishError::Full`] when there is none, and what is wrong with the message.
    #[inline]
    pub fn try_publish(&mut self, channel: ChannelId, message: Outgoing<'_>) -> Result<Published, PublishError> {
        match self.put_straight(channel, &message) {
            Some(written) => Ok(written.into()),
            None => self.try_publish_any(channel, &message),
        }
    }

    /// Publishes; waits for room, at most for the herd's stall timeout. A reader that does not move for that long is
    /// stalled from then on: it misses messages and delays nobody until it has caught up.
    ///
    /// # Errors
    /// [`PublishError::Full`] when readers moved, but not enough, and what is wrong with the message.
    #[inline]
    pub fn publish(&mut self, channel: ChannelId, message: Outgoing<'_>) -> Result<Published, PublishError> {
        self.publish_with(channel, message, || {})
    }

    /// Like [`Publisher::publish`], and calls `relief` now and then while it waits: two publishers that wait for each
    /// other get on if each drains its own inbound rings meanwhile.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    #[inline]
    pub fn publish_with(
        &mut self,
        channel: ChannelId,
        message: Outgoing<'_>,
        relief: impl FnMut(),
    ) -> Result<Published, PublishError> {
        match self.put_straight(channel, &message) {
            Some(written) => Ok(written.into()),
            None => self.publish_any(channel, &message, relief),
        }
    }

    /// Starts a batch: many messages, one fence and one look at the park words when it is dropped.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch::new(self)
    }

    /// How often a reader was declared stalled.
    pub fn stalls(&self) -> u64 {
        self.stalls
    }

    /// The readers that are stalled now.
    pub fn stalled(&self) -> SlotSet {
        self.keeping.stalled()
    }

    /// Position of the next record.
    pub fn head(&self) -> u64 {
        self.writer.head()
    }

    /// The most bytes that one message may have.
    pub fn limit(&self) -> u64 {
        record_limit(self.shared.place.ring_bytes).min(self.shared.place.max_message)
    }

    #[inline(never)]
    fn try_publish_any(&mut self, channel: ChannelId, message: &Outgoing<'_>) -> Result<Published, PublishError> {
        match self.attempt(channel, message) {
            Ok(written) => Ok(written.into()),
            Err(refusal) => Err(self.reject(channel, message, refusal)),
        }
    }

    #[inline(never)]
    fn publish_any(
        &mut self,
        channel: ChannelId,
        message: &Outgoing<'_>,
        relief: impl FnMut(),
    ) -> Result<Published, PublishError> {
        match self.attempt(channel, message) {
            Ok(written) => Ok(written.into()),
            Err(Refusal::Full) => self.publish_waiting(channel, message, relief),
            Err(refusal) => Err(self.reject(channel, message, refusal)),
        }
    }

    /// As [`Publisher::try_publish`], but a refusal is not counted yet: the caller tries again, or calls
    /// [`Publisher::reject`].
    pub(crate) fn attempt(&mut self, channel: ChannelId, message: &Outgoing<'_>) -> Result<Written, Refusal> {
        let written = self.write(channel, message)?;
        if written.is_some() {
            self.writer.commit(&self.own);
            self.wake(channel, message.to);
        }
        Ok(written)
    }

    /// Writes, commits and wakes in one straight line; `None` where anything is out of the ordinary, and nothing was
    /// done. Made to be inlined where it is called, and everything else not to be: what a message is, and what
    /// becomes of it, then never leaves the registers.
    #[inline(always)]
    fn put_straight(&mut self, channel: ChannelId, message: &Outgoing<'_>) -> Option<Written> {
        let written = self.write_straight(channel, message)?;
        if written.is_some() {
            self.writer.commit(&self.own.view());
            self.wake_subscribers(channel);
        }
        Some(written)
    }

    /// Writes a message that is nothing special onto a channel of which nothing has changed, right behind the last
    /// record, which was for the same subscribers.
    #[inline(always)]
    fn write_straight(&mut self, id: ChannelId, message: &Outgoing<'_>) -> Option<Written> {
        if message.session.is_some() || message.to != To::Subscribers || self.changes != self.shared.changes() {
            return None;
        }
        let own = self.own.view();
        let version = self.version.load();
        let channel = self.channels.at(id)?;
        let length = message.payload.len() as u64;
        if !channel.is_current(version) || length > channel.limit {
            return None;
        }
        if !channel.heard {
            channel.count_published(&own, id);
            return Some(None);
        }
        if !self.keeping.continues(id) {
            return None;
        }
        let (first, third) = channel.header(length, message.tag);
        let position = self.writer.write_straight(&own, first, third, message.payload)?;
        channel.sequence = channel.sequence.wrapping_add(1);
        channel.count_published(&own, id);
        Some(NonZeroU64::new(position))
    }

    /// Writes a message into the ring, or counts it when nobody hears it. It is not committed and nobody is woken yet.
    fn write(&mut self, channel: ChannelId, message: &Outgoing<'_>) -> Result<Written, Refusal> {
        self.refresh(channel)?;
        match message.to {
            To::Subscribers => self.write_for_all(channel, message),
            To::Slot(slot) => self.write_for_one(channel, message, slot),
        }
    }

    fn write_for_all(&mut self, id: ChannelId, message: &Outgoing<'_>) -> Result<Written, Refusal> {
        let length = message.length();
        let Some(channel) = self.channels.at(id) else { return Err(Refusal::UnknownChannel) };
        if length > channel.limit {
            return Err(Refusal::TooLarge);
        }
        if !channel.heard {
            channel.count_published(&self.own.view(), id);
            return Ok(None);
        }
        let need = self.room(length)?;
        let Some(channel) = self.channels.at(id) else { return Err(Refusal::UnknownChannel) };
        let sequence = channel.sequence;
        channel.sequence = sequence.wrapping_add(1);
        channel.count_published(&self.own.view(), id);
        let header = header_of(id, message, length, TO_ALL, sequence);
        let position = self.writer.write(&self.own.view(), need, header, message.session, message.payload);
        if need.pad > 0 || !self.keeping.continues(id) {
            let extent = Extent { start: position - need.pad, position, end: self.writer.head() };
            self.keeping.begin(id, &channel.subscribers, extent, &self.readers, &self.own);
        }
        Ok(NonZeroU64::new(position))
    }

    fn write_for_one(&mut self, id: ChannelId, message: &Outgoing<'_>, slot: Slot) -> Result<Written, Refusal> {
        let length = message.length();
        if length > self.channels.at(id).ok_or(Refusal::UnknownChannel)?.limit {
            return Err(Refusal::TooLarge);
        }
        if !self.can_reach(slot) {
            return Err(Refusal::NobodyThere);
        }
        let need = self.room(length)?;
        let sequence = self.directed[usize::from(slot)];
        self.directed[usize::from(slot)] = sequence.wrapping_add(1);
        let header = header_of(id, message, length, slot, sequence);
        let position = self.writer.write(&self.own.view(), need, header, message.session, message.payload);
        let extent = Extent { start: position - need.pad, position, end: self.writer.head() };
        self.keeping.keep_for_one(slot, extent, &self.readers, &self.own);
        if let Some(channel) = self.channels.at(id) {
            channel.count_published(&self.own.view(), id);
        }
        Ok(NonZeroU64::new(position))
    }

    fn room(&mut self, length: u64) -> Result<Need, Refusal> {
        let need = self.writer.need(length);
        if self.writer.fits(need) || self.find_room(need) { Ok(need) } else { Err(Refusal::Full) }
    }

    /// Wakes whom a committed message is for.
    fn wake(&mut self, channel: ChannelId, to: To) {
        match to {
            To::Subscribers => self.wake_subscribers(channel),
            To::Slot(slot) => {
                Waker::fence();
                self.readers.wake(slot);
            }
        }
    }

    #[inline(always)]
    fn wake_subscribers(&mut self, channel: ChannelId) {
        Waker::fence();
        let Some(channel) = self.channels.at(channel) else { return };
        for listener in &channel.listeners {
            self.readers.wake_parked(listener.slot, listener.park.load());
        }
    }

    /// Makes the private copy of a channel's entry current.
    fn refresh(&mut self, channel: ChannelId) -> Result<(), Refusal> {
        if self.changes != self.shared.changes() {
            self.catch_up();
        }
        let version = self.version.load();
        match self.channels.at(channel) {
            Some(view) if view.is_current(version) => Ok(()),
            _ => self.reread(channel, version),
        }
    }

    #[cold]
    fn reread(&mut self, channel: ChannelId, version: u64) -> Result<(), Refusal> {
        // Acquire: pairs with the Release in `Directory::bump`.
        fence(Acquire);
        let entry = self.directory.entry_of(channel).ok_or(Refusal::UnknownChannel)?;
        self.keeping.settle(self.writer.head());
        self.pending.forget_channel();
        let terms = Terms {
            version,
            me: self.shared.place.slot,
            limit: self.limit(),
            header: self.writer.straight_header(header(channel, TO_ALL)),
        };
        self.channels.renew(channel, &entry, terms, &self.readers);
        Ok(())
    }

    /// Takes over what Control changed: peers that came or went, a new directory.
    #[cold]
    fn catch_up(&mut self) {
        self.changes = self.shared.changes();
        self.keeping.settle(self.writer.head());
        let table = self.shared.table();
        let keeping = &mut self.keeping;
        self.readers.renew(&table.newest, |slot| keeping.renew(slot));
        if !Arc::ptr_eq(&self.directory, &table.directory) {
            self.directory = table.directory.clone();
            self.version = self.directory.version_word();
            self.running.forget();
        }
        self.channels.forget_all();
    }

    /// Whether a slot is somebody's, and not our own.
    fn can_reach(&self, slot: Slot) -> bool {
        let here = usize::from(slot) < MAX_SLOTS && slot != self.shared.place.slot;
        let known = here && (self.readers.is_here(slot) || slot == SUPERVISOR);
        // A slot that is down keeps what is sent to it for its successor.
        known || (here && self.directory.slot(slot).state != SlotState::Free)
    }

    /// Counts a refusal; the error that the caller is told.
    #[cold]
    pub(crate) fn reject(&mut self, id: ChannelId, message: &Outgoing<'_>, refusal: Refusal) -> PublishError {
        self.channels.count_rejected(&self.own, id);
        match refusal {
            Refusal::Full => PublishError::Full,
            Refusal::TooLarge => {
                let limit = self.channels.at(id).map_or(0, |channel| channel.limit);
                PublishError::TooLarge { bytes: message.length(), limit }
            }
            Refusal::UnknownChannel => PublishError::UnknownChannel(id),
            Refusal::NobodyThere => match message.to {
                To::Slot(slot) => PublishError::NobodyThere(slot),
                To::Subscribers => unreachable!("subscribers are nobody in particular"),
            },
        }
    }
}

/// What is the same in all headers of a channel, or of one receiver's.
fn header(channel: ChannelId, to: u16) -> Header {
    let flags = u8::from(to != TO_ALL) * FLAG_TO_ONE;
    Header { kind: Header::KIND_MESSAGE, flags, channel: channel.0, to, ..Header::default() }
}

/// The header of one message, complete but for its position and incarnation.
fn header_of(channel: ChannelId, message: &Outgoing<'_>, length: u64, to: u16, sequence: u32) -> Header {
    let header = header(channel, to);
    let flags = header.flags | (u8::from(message.session.is_some()) * FLAG_SESSION);
    Header { length: length as u32, tag: message.tag as u8, flags, sequence, ..header }
}
