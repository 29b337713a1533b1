//! Many messages with one commit, one fence and one look at the park words.

use super::{Outgoing, PublishError, Published, Publisher, Refusal, To, Written};
use crate::ring::Waker;
use crate::slots::{ChannelId, SlotSet};

/// A batch shows what it has written at the latest after so many bytes, so that its readers do not wait for its end.
const SHOW_EVERY: u64 = 16 << 10;

/// Many messages with one fence and one look at the park words, made when it is dropped or has to wait.
pub struct Batch<'a> {
    publisher: &'a mut Publisher,
}

impl<'a> Batch<'a> {
    pub(super) fn new(publisher: &'a mut Publisher) -> Batch<'a> {
        publisher.pending.begin(publisher.writer.head());
        Batch { publisher }
    }

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
        match self.put_straight(channel, &message) {
            Some(written) => Ok(written.into()),
            None => self.publish_any(channel, &message, relief),
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
            Err(refusal) => Err(self.publisher.reject(channel, message, refusal)),
        }
    }

    /// As [`Publisher::put_straight`], but nobody is woken yet.
    #[inline]
    fn put_straight(&mut self, channel: ChannelId, message: &Outgoing<'_>) -> Option<Written> {
        let publisher = &mut *self.publisher;
        let written = publisher.write_straight(channel, message)?;
        if written.is_some() {
            publisher.remember(channel, message.to);
        }
        Some(written)
    }

    #[cold]
    fn publish_waiting(
        &mut self,
        channel: ChannelId,
        message: &Outgoing<'_>,
        relief: impl FnMut(),
    ) -> Result<Published, PublishError> {
        let room = self.publisher.wait_for_room(message, relief);
        self.publisher.pending.begin(self.publisher.writer.head());
        // The gate was refreshed for this very message, and nobody else writes.
        let written = room.and_then(|()| self.attempt(channel, message));
        written.map(Published::from).map_err(|refusal| self.publisher.reject(channel, message, refusal))
    }

    /// As [`Batch::try_publish`], but a refusal is not counted yet.
    pub(crate) fn attempt(&mut self, channel: ChannelId, message: &Outgoing<'_>) -> Result<Written, Refusal> {
        let publisher = &mut *self.publisher;
        let written = publisher.write(channel, message)?;
        if written.is_some() {
            publisher.remember(channel, message.to);
        }
        Ok(written)
    }

    /// As [`Publisher::reject`].
    #[cfg(feature = "tokio")]
    pub(crate) fn reject(&mut self, channel: ChannelId, message: &Outgoing<'_>, refusal: Refusal) -> PublishError {
        self.publisher.reject(channel, message, refusal)
    }

    /// As [`Publisher::try_publish`], but nobody is woken yet.
    ///
    /// # Errors
    /// As [`Publisher::try_publish`].
    #[inline]
    pub fn try_publish(&mut self, channel: ChannelId, message: Outgoing<'_>) -> Result<Published, PublishError> {
        match self.attempt(channel, &message) {
            Ok(written) => Ok(written.into()),
            Err(refusal) => Err(self.publisher.reject(channel, &message, refusal)),
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.publisher.flush();
    }
}

/// What a batch has written since it last told anybody.
#[derive(Default)]
pub(super) struct Pending {
    /// Whose park words have to be looked at.
    for_whom: SlotSet,
    last: Option<ChannelId>,
    /// The head that was shown last.
    shown: u64,
}

impl Pending {
    /// Everything up to `head` has been shown.
    fn begin(&mut self, head: u64) {
        self.shown = head;
    }

    /// The subscribers of a channel have changed: the next message to it is for others.
    pub(super) fn forget_channel(&mut self) {
        self.last = None;
    }
}

impl Publisher {
    /// Remembers whom a message of a batch is for, and commits now and then.
    #[inline]
    fn remember(&mut self, channel: ChannelId, to: To) {
        if to != To::Subscribers || self.pending.last != Some(channel) {
            self.remember_all(channel, to);
        }
        if self.writer.head() - self.pending.shown > SHOW_EVERY {
            self.writer.commit(&self.own);
            self.pending.shown = self.writer.head();
        }
    }

    fn remember_all(&mut self, channel: ChannelId, to: To) {
        match to {
            To::Slot(slot) => self.pending.for_whom.set(slot, true),
            To::Subscribers => {
                if let Some(view) = self.channels.at(channel) {
                    self.pending.for_whom.add_all(&view.subscribers);
                    self.pending.last = Some(channel);
                }
            }
        }
    }

    /// Commits what a batch has written and rings every reader that sleeps in front of it.
    pub(super) fn flush(&mut self) {
        if self.pending.for_whom.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        self.writer.commit(&self.own);
        Waker::fence();
        pending.for_whom.for_each(|slot| self.readers.wake(slot));
    }
}
