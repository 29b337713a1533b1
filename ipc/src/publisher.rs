//! Publishing: who hears a message, whether there is room for it, and who has to be woken.
//!
//! One [`Publisher`] per participant; `&mut self` makes "one writer" a fact. A publish that nobody hears writes
//! nothing; one that somebody hears is one copy into the own ring, whatever the number of subscribers, and a system
//! call only for those that sleep.
//!
//! Invariants
//! - Nothing kept and unread is overwritten, but for readers that are stalled, down or lossy (the supervisor).
//! - Every wait ends: with room, or at the stall timeout.
//! - Nobody sleeps on a message that was committed before the publisher waits or returns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bell::Ear;
use crate::directory::{DirectoryReader, SlotState};
use crate::grace::Grace;
use crate::layout::{self, Counter, MAX_CHANNELS, MAX_SLOTS, record_limit};
use crate::participant::Shared;
use crate::peer::Peer;
use crate::record::{FLAG_SESSION, FLAG_TO_ONE, Header, SESSION_BYTES, TO_ALL};
use crate::ring::{Held, Need, RingWriter, Waker, ask_for_room};
use crate::slots::{ChannelId, SUPERVISOR, Slot, SlotSet};
use crate::sync::Ordering::Acquire;
use crate::sync::{OwnWords, Words, fence};
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
    pub fn bytes(payload: &'a [u8]) -> Outgoing<'a> {
        Outgoing { to: To::Subscribers, tag: Tag::Bytes, session: None, payload }
    }

    #[inline]
    fn length(&self) -> u64 {
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

struct Reader {
    peer: Arc<Peer>,
    waker: Waker,
}

/// The private copy of a channel's entry, and its counts.
#[derive(Clone, Copy, Default)]
struct Channel {
    /// The directory version of this copy; 0 is none.
    version: u64,
    exists: bool,
    subscribers: SlotSet,
    /// Whether there are any.
    heard: bool,
    limit: u64,
    sequence: u32,
    published: u64,
    rejected: u64,
}

/// The writing owner of a participant's outbox.
pub struct Publisher {
    shared: Arc<Shared>,
    directory: Arc<DirectoryReader>,
    changes: u64,
    writer: RingWriter,
    readers: Vec<Option<Reader>>,
    held: Vec<Held>,
    directed: Vec<u32>,
    channels: Vec<Channel>,
    running: SlotSet,
    running_at: u64,
    /// Whose park words have to be looked at for what is committed.
    to_wake: SlotSet,
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
            writer: RingWriter::new(place.slot, place.incarnation, place.ring_bytes, place.base),
            readers: (0..MAX_SLOTS).map(|_| None).collect(),
            held: vec![Held::default(); MAX_SLOTS],
            directed: vec![0; MAX_SLOTS],
            channels: Vec::new(),
            running: SlotSet::EMPTY,
            running_at: 0,
            to_wake: SlotSet::EMPTY,
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
        match self.put(channel, &message) {
            Ok(published) => Ok(self.wake(channel, message.to, published)),
            Err(error) => Err(self.reject(channel, error)),
        }
    }

    /// As [`Publisher::try_publish`], but a refusal is not counted yet: the caller tries again, or calls
    /// [`Publisher::reject`].
    #[cfg(feature = "tokio")]
    pub(crate) fn attempt(&mut self, channel: ChannelId, message: Outgoing<'_>) -> Result<Published, PublishError> {
        self.put(channel, &message).map(|published| self.wake(channel, message.to, published))
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
        match self.put(channel, &message) {
            Ok(published) => Ok(self.wake(channel, message.to, published)),
            Err(PublishError::Full) => {
                let published = self.publish_waiting(channel, &message, relief)?;
                Ok(self.wake(channel, message.to, published))
            }
            Err(error) => Err(self.reject(channel, error)),
        }
    }

    /// Starts a batch: many messages, one fence and one look at the park words when it is dropped.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch { publisher: self }
    }

    /// How often a reader was declared stalled.
    pub fn stalls(&self) -> u64 {
        self.stalls
    }

    /// The readers that are stalled now.
    pub fn stalled(&self) -> SlotSet {
        let mut set = SlotSet::EMPTY;
        for (slot, held) in self.held.iter().enumerate() {
            set.set(slot as Slot, held.is_stalled());
        }
        set
    }

    /// Position of the next record.
    pub fn head(&self) -> u64 {
        self.writer.head()
    }

    /// The most bytes that one message may have.
    pub fn limit(&self) -> u64 {
        record_limit(self.shared.place.ring_bytes).min(self.shared.place.max_message)
    }

    /// Writes and commits a message; nobody is woken yet.
    #[inline]
    fn put(&mut self, channel: ChannelId, message: &Outgoing<'_>) -> Result<Published, PublishError> {
        if self.changes != self.shared.changes() {
            self.catch_up();
        }
        self.refresh(channel)?;
        let view = &mut self.channels[usize::from(channel.0)];
        let length = message.length();
        if length > view.limit {
            return Err(PublishError::TooLarge { bytes: length, limit: view.limit });
        }
        match message.to {
            To::Subscribers if !view.heard => {
                self.count_published(channel);
                Ok(Published { position: None })
            }
            To::Subscribers => {
                let sequence = view.sequence;
                let need = self.room(length)?;
                let position = self.write(channel, message, need, TO_ALL, sequence);
                let view = &mut self.channels[usize::from(channel.0)];
                view.sequence = sequence.wrapping_add(1);
                let (start, end) = (self.writer.head(), self.writer.head() + need.total());
                let (held, readers, shared) = (&mut self.held, &self.readers, &self.shared);
                view.subscribers.for_each(|slot| keep(slot, held, readers, shared, start, position, end));
                Ok(self.commit(channel, need, position))
            }
            To::Slot(slot) => self.put_directed(channel, message, slot),
        }
    }

    fn put_directed(
        &mut self,
        channel: ChannelId,
        message: &Outgoing<'_>,
        slot: Slot,
    ) -> Result<Published, PublishError> {
        self.check_slot(slot)?;
        let need = self.room(message.length())?;
        let sequence = self.directed[usize::from(slot)];
        let position = self.write(channel, message, need, slot, sequence);
        self.directed[usize::from(slot)] = sequence.wrapping_add(1);
        let (start, end) = (self.writer.head(), self.writer.head() + need.total());
        keep(slot, &mut self.held, &self.readers, &self.shared, start, position, end);
        Ok(self.commit(channel, need, position))
    }

    #[inline]
    fn room(&mut self, length: u64) -> Result<Need, PublishError> {
        let need = self.writer.need(length);
        if self.writer.fits(need) || self.find_room(need) { Ok(need) } else { Err(PublishError::Full) }
    }

    /// Writes a record that there is room for; its position.
    #[inline]
    fn write(&mut self, channel: ChannelId, message: &Outgoing<'_>, need: Need, to: u16, sequence: u32) -> u64 {
        let header = Header {
            length: message.length() as u32,
            kind: Header::KIND_MESSAGE,
            tag: message.tag as u8,
            flags: (u8::from(to != TO_ALL) * FLAG_TO_ONE) | (u8::from(message.session.is_some()) * FLAG_SESSION),
            channel: channel.0,
            to,
            sequence,
            ..Header::default()
        };
        self.writer.write(&self.shared.own, need, header, message.session, message.payload);
        self.writer.head() + need.pad
    }

    #[inline]
    fn commit(&mut self, channel: ChannelId, need: Need, position: u64) -> Published {
        self.writer.commit(&self.shared.own, need);
        self.count_published(channel);
        Published { position: Some(position) }
    }

    /// Wakes whom a message is for.
    #[inline]
    fn wake(&mut self, channel: ChannelId, to: To, published: Published) -> Published {
        if published.position.is_some() {
            Waker::fence();
            let (view, readers) = (&self.channels[usize::from(channel.0)], &mut self.readers);
            match to {
                To::Subscribers => view.subscribers.for_each(|slot| wake(slot, readers)),
                To::Slot(slot) => wake(slot, readers),
            }
        }
        published
    }

    /// Remembers whom a message of a batch is for.
    #[inline]
    fn wake_later(&mut self, channel: ChannelId, to: To, published: Published) -> Published {
        match to {
            _ if published.position.is_none() => {}
            To::Subscribers => self.to_wake.add_all(&self.channels[usize::from(channel.0)].subscribers),
            To::Slot(slot) => self.to_wake.set(slot, true),
        }
        published
    }

    /// Rings every reader that sleeps in front of what a batch has committed.
    fn wake_batch(&mut self) {
        if self.to_wake.is_empty() {
            return;
        }
        Waker::fence();
        let readers = &mut self.readers;
        self.to_wake.for_each(|slot| wake(slot, readers));
        self.to_wake = SlotSet::EMPTY;
    }

    /// Takes over what Control changed: peers that came or went, a new directory.
    #[cold]
    fn catch_up(&mut self) {
        self.changes = self.shared.changes();
        let table = self.shared.table();
        for (slot, newest) in table.newest.iter().enumerate() {
            let known = self.readers[slot].as_ref().map(|reader| &reader.peer);
            let same = match (known, newest) {
                (Some(known), Some(newest)) => Arc::ptr_eq(known, newest),
                (None, None) => true,
                _ => false,
            };
            if !same {
                self.held[slot].renew();
                self.readers[slot] = newest.clone().map(|peer| Reader { peer, waker: Waker::new(slot as Slot) });
            }
        }
        if !Arc::ptr_eq(&self.directory, &table.directory) {
            self.directory = table.directory.clone();
            self.running_at = 0;
            self.channels.iter_mut().for_each(|channel| channel.version = 0);
        }
    }

    /// Takes over the channel's entry if the directory moved. One load of foreign memory if it did not.
    #[inline]
    fn refresh(&mut self, channel: ChannelId) -> Result<(), PublishError> {
        let version = self.directory.version();
        match self.channels.get(usize::from(channel.0)) {
            Some(view) if view.version == version && view.exists => Ok(()),
            _ => self.reread(channel, version),
        }
    }

    #[cold]
    fn reread(&mut self, channel: ChannelId, version: u64) -> Result<(), PublishError> {
        let index = usize::from(channel.0);
        if index >= MAX_CHANNELS {
            return Err(PublishError::UnknownChannel(channel));
        }
        // Acquire: pairs with the Release in `Directory::bump`.
        fence(Acquire);
        let entry = self.directory.entry_of(channel).ok_or(PublishError::UnknownChannel(channel))?;
        if index >= self.channels.len() {
            self.channels.resize(index + 1, Channel::default());
        }
        let limit = self.limit();
        let view = &mut self.channels[index];
        view.version = version;
        view.exists = true;
        view.subscribers = entry.subscribers;
        view.subscribers.set(self.shared.place.slot, false);
        view.heard = !view.subscribers.is_empty();
        view.limit = if entry.max_message == 0 { limit } else { limit.min(entry.max_message) };
        Ok(())
    }

    fn check_slot(&self, slot: Slot) -> Result<(), PublishError> {
        let here = usize::from(slot) < MAX_SLOTS && slot != self.shared.place.slot;
        let known = here && (self.readers[usize::from(slot)].is_some() || slot == SUPERVISOR);
        // A slot that is down keeps what is sent to it for its successor.
        if known || (here && self.directory.slot(slot).state != SlotState::Free) {
            Ok(())
        } else {
            Err(PublishError::NobodyThere(slot))
        }
    }

    /// Looks at the cursors of all readers; whether there is room now.
    #[cold]
    fn find_room(&mut self, need: Need) -> bool {
        let version = self.directory.version();
        if version != self.running_at {
            // Acquire: pairs with the Release in `Directory::bump`.
            fence(Acquire);
            self.running_at = version;
            self.running = SlotSet::EMPTY;
            for slot in 0..MAX_SLOTS as Slot {
                self.running.set(slot, self.directory.slot(slot).state == SlotState::Running);
            }
        }
        let (head, ring, me) = (self.writer.head(), self.shared.place.ring_bytes, self.shared.place.slot);
        let mut gate = head;
        for (slot, reader) in self.readers.iter().enumerate() {
            let Some(reader) = reader else { continue };
            let holds =
                slot != usize::from(SUPERVISOR) && self.running.contains(slot as Slot) && !reader.peer.is_gone();
            if holds && let Some(held) = self.held[slot].gate(reader.peer.map.load(layout::cursor(me)), head, ring) {
                gate = gate.min(held);
            }
        }
        // Acquire: pairs with the Release in `show_cursor`; the readers are done with what we overwrite from here on.
        fence(Acquire);
        self.writer.set_gate(gate);
        self.writer.fits(need)
    }

    #[cold]
    fn publish_waiting(
        &mut self,
        channel: ChannelId,
        message: &Outgoing<'_>,
        mut relief: impl FnMut(),
    ) -> Result<Published, PublishError> {
        let mut wait = self.start_waiting(message);
        loop {
            relief();
            let mut grace = std::mem::take(&mut self.grace);
            let room = grace.wait(|| self.has_room(&wait)) || self.ask(&wait);
            self.grace = grace;
            if room {
                break;
            }
            if Instant::now() >= wait.until {
                if self.stall(&mut wait) {
                    break;
                }
                self.stop_asking();
                return Err(self.reject(channel, PublishError::Full));
            }
            self.sleep(wait.until);
        }
        self.stop_asking();
        // The gate was refreshed for this very message, and nobody else writes.
        self.put(channel, message)
    }

    fn sleep(&mut self, until: Instant) {
        // Short enough for `relief`, and for a bell that a hostile peer has silenced.
        let limit = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(20));
        if self.ear.is_none() {
            self.ear = Ear::new(std::os::fd::AsFd::as_fd(&self.shared.bell)).ok();
        }
        match &self.ear {
            Some(ear) => {
                ear.wait(limit);
            }
            // Out of descriptors: look again every millisecond instead.
            None => std::thread::sleep(limit.min(Duration::from_millis(1))),
        }
    }

    #[inline]
    fn count_published(&mut self, channel: ChannelId) {
        let view = &mut self.channels[usize::from(channel.0)];
        view.published += 1;
        self.shared.own.store(layout::counter(channel, Counter::Published), view.published);
    }

    #[cold]
    pub(crate) fn reject(&mut self, channel: ChannelId, error: PublishError) -> PublishError {
        if let Some(view) = self.channels.get_mut(usize::from(channel.0)) {
            view.rejected += 1;
            self.shared.own.store(layout::counter(channel, Counter::Rejected), view.rejected);
        }
        error
    }
}

/// Keeps a record from `position` to `end` for a reader, unless that is the lossy supervisor.
#[inline]
fn keep(
    slot: Slot,
    held: &mut [Held],
    readers: &[Option<Reader>],
    shared: &Shared,
    start: u64,
    position: u64,
    end: u64,
) {
    if slot == SUPERVISOR {
        return;
    }
    let cursor = || match &readers[usize::from(slot)] {
        Some(reader) => reader.peer.map.load(layout::cursor(shared.place.slot)),
        None => 0,
    };
    if let Some(resume) = held[usize::from(slot)].keep(start, position, end, cursor) {
        // Before the head: a reader that sees the record sees where to resume.
        shared.own.store(layout::resume(slot), resume);
    }
}

/// Rings a reader that sleeps, once per sleep.
#[inline]
fn wake(slot: Slot, readers: &mut [Option<Reader>]) {
    if let Some(reader) = &mut readers[usize::from(slot)]
        && reader.waker.must_ring(&reader.peer.map)
    {
        reader.peer.ring_bell();
    }
}

/// A publisher that is full, and what it waits for. The steps are public to the crate so that an async client can wait
/// its own way.
pub(crate) struct WaitForRoom {
    length: u64,
    want: u64,
    /// When those that did not move are given up.
    pub(crate) until: Instant,
    cursors: Vec<u64>,
}

impl Publisher {
    pub(crate) fn start_waiting(&mut self, message: &Outgoing<'_>) -> WaitForRoom {
        // Nobody may sleep on what is committed while we wait for them to read it.
        self.wake_batch();
        let cursors = self.held.iter().map(Held::cursor).collect();
        let until = Instant::now() + self.shared.place.stall_timeout;
        WaitForRoom { length: message.length(), want: self.writer.wanted(), until, cursors }
    }

    pub(crate) fn has_room(&mut self, wait: &WaitForRoom) -> bool {
        if self.changes != self.shared.changes() {
            self.catch_up();
        }
        self.find_room(self.writer.need(wait.length))
    }

    /// Asks the readers to ring when half the ring is free, and looks once more.
    pub(crate) fn ask(&mut self, wait: &WaitForRoom) -> bool {
        ask_for_room(&self.shared.own, self.shared.place.slot, wait.want);
        self.has_room(wait)
    }

    pub(crate) fn stop_asking(&mut self) {
        self.shared.own.store(layout::want(self.shared.place.slot), 0);
    }

    /// Time is up: whoever did not move since the wait began delays nobody until it has caught up.
    pub(crate) fn stall(&mut self, wait: &mut WaitForRoom) -> bool {
        let head = self.writer.head();
        let ring = self.shared.place.ring_bytes;
        let need = self.writer.need(wait.length);
        for slot in 0..MAX_SLOTS {
            let Some(reader) = &self.readers[slot] else { continue };
            if !self.running.contains(slot as Slot) || slot == usize::from(SUPERVISOR) || reader.peer.is_gone() {
                continue;
            }
            let cursor = reader.peer.map.load(layout::cursor(self.shared.place.slot));
            let held = &mut self.held[slot];
            let blocks = held.gate(cursor, head, ring).is_some_and(|gate| !self.writer.fits_behind(need, gate));
            if blocks && !held.moved_since(wait.cursors[slot]) {
                held.stall();
                self.stalls += 1;
            }
        }
        self.has_room(wait)
    }
}

/// Many messages with one fence and one look at the park words, made when it is dropped or has to wait.
pub struct Batch<'a> {
    publisher: &'a mut Publisher,
}

impl Batch<'_> {
    /// As [`Publisher::publish`], but nobody is woken yet.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    #[inline]
    pub fn publish(&mut self, channel: ChannelId, message: Outgoing<'_>) -> Result<Published, PublishError> {
        self.publish_with(channel, message, || {})
    }

    /// As [`Publisher::publish_with`], but nobody is woken yet.
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
        let publisher = &mut *self.publisher;
        match publisher.put(channel, &message) {
            Ok(published) => Ok(publisher.wake_later(channel, message.to, published)),
            Err(PublishError::Full) => {
                let published = publisher.publish_waiting(channel, &message, relief)?;
                Ok(publisher.wake_later(channel, message.to, published))
            }
            Err(error) => Err(publisher.reject(channel, error)),
        }
    }

    /// As [`Batch::try_publish`], but a refusal is not counted yet.
    #[inline]
    pub(crate) fn attempt(&mut self, channel: ChannelId, message: Outgoing<'_>) -> Result<Published, PublishError> {
        let publisher = &mut *self.publisher;
        publisher.put(channel, &message).map(|published| publisher.wake_later(channel, message.to, published))
    }

    /// As [`Publisher::try_publish`], but nobody is woken yet.
    ///
    /// # Errors
    /// As [`Publisher::try_publish`].
    #[inline]
    pub fn try_publish(&mut self, channel: ChannelId, message: Outgoing<'_>) -> Result<Published, PublishError> {
        self.attempt(channel, message).map_err(|error| self.publisher.reject(channel, error))
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.publisher.wake_batch();
    }
}
