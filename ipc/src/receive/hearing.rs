//! The private copy of which channels we hear, and their counters.

use crate::directory::DirectoryReader;
use crate::layout::{self, Counter, MAX_CHANNELS};
use crate::map::OwnMap;
use crate::slots::{ChannelId, Slot};
use crate::sync::Ordering::Acquire;
use crate::sync::{OwnWords, fence};

/// One channel. A new subscription gets a new number, counted from 1: what was published before is not missed.
#[derive(Clone, Copy, Default)]
struct Channel {
    version: u64,
    subscribed: bool,
    subscription: u32,
    delivered: u64,
    lost: u64,
}

/// All channels that records came for.
pub(super) struct Hearing {
    me: Slot,
    /// The directory's version, looked at once per chunk.
    version: u64,
    channels: Vec<Channel>,
    /// A channel, and how many messages of it were counted in a row.
    row: (u16, u64),
}

impl Hearing {
    pub(super) fn new(me: Slot) -> Hearing {
        Hearing { me, version: 0, channels: Vec::new(), row: (0, 0) }
    }

    /// Looks at the directory's version. After a head was loaded: whoever published because we are subscribed is never
    /// ahead of our copy.
    pub(super) fn look(&mut self, directory: &DirectoryReader) {
        self.version = directory.version();
    }

    /// Another directory: nothing is known of it yet.
    pub(super) fn forget(&mut self) {
        self.channels.iter_mut().for_each(|channel| channel.version = 0);
    }

    /// The number of our subscription to a channel, if we are subscribed.
    #[inline]
    pub(super) fn subscription(&mut self, channel: u16, directory: &DirectoryReader) -> Option<u32> {
        match self.channels.get(usize::from(channel)) {
            Some(known) if known.version == self.version => known.subscribed.then_some(known.subscription),
            _ => self.ask(channel, directory),
        }
    }

    #[cold]
    fn ask(&mut self, channel: u16, directory: &DirectoryReader) -> Option<u32> {
        if usize::from(channel) >= MAX_CHANNELS {
            return None;
        }
        // Acquire: pairs with the Release in `Directory::bump`.
        fence(Acquire);
        let entry = directory.entry_of(ChannelId(channel));
        let subscribed = entry.is_some_and(|entry| entry.subscribers.contains(self.me));
        let version = self.version;
        let known = self.at(channel)?;
        known.subscription += u32::from(subscribed && !known.subscribed);
        known.version = version;
        known.subscribed = subscribed;
        subscribed.then_some(known.subscription)
    }

    /// Counts messages that are handed over. Shown by [`Hearing::settle`], which comes before that.
    #[inline]
    pub(super) fn count_delivered(&mut self, channel: u16, messages: u64, own: &OwnMap) {
        if channel != self.row.0 {
            self.settle(own);
            self.row.0 = channel;
        }
        self.row.1 += messages;
    }

    /// Forgets what was counted and not shown.
    pub(super) fn discard(&mut self) {
        self.row = (0, 0);
    }

    /// Shows what was counted.
    pub(super) fn settle(&mut self, own: &OwnMap) {
        let (channel, messages) = std::mem::take(&mut self.row);
        if messages > 0
            && let Some(known) = self.at(channel)
        {
            known.delivered += messages;
            own.store(layout::counter(ChannelId(channel), Counter::Delivered), known.delivered);
        }
    }

    /// Counts messages that were missed.
    pub(super) fn count_lost(&mut self, channel: u16, messages: u64, own: &OwnMap) {
        if let Some(known) = self.at(channel) {
            known.lost += messages;
            own.store(layout::counter(ChannelId(channel), Counter::Lost), known.lost);
        }
    }

    fn at(&mut self, channel: u16) -> Option<&mut Channel> {
        let index = usize::from(channel);
        if index >= MAX_CHANNELS {
            return None;
        }
        if index >= self.channels.len() {
            self.channels.resize(index + 1, Channel::default());
        }
        Some(&mut self.channels[index])
    }
}
