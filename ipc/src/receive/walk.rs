//! The way through a piece: which of its records are for us, and what is missing between them.

use super::Budget;
use super::chunk::{Chunk, Row};
use super::hearing::Hearing;
use super::lane::Lane;
use super::losses::{Loss, LossCause, Losses};
use crate::directory::DirectoryReader;
use crate::layout::MAX_CHANNELS;
use crate::map::OwnMap;
use crate::record::{Header, Kind, TO_ALL, next_third};
use crate::rule::Rule;
use crate::slots::{ChannelId, Slot};
use crate::tag::Tag;

/// What a walk needs of its drain. The piece was confirmed: what breaks a rule is a lie.
pub(super) struct Walk<'a> {
    pub(super) me: Slot,
    pub(super) lane: &'a mut Lane,
    pub(super) chunk: &'a mut Chunk,
    pub(super) hearing: &'a mut Hearing,
    pub(super) losses: &'a mut Losses,
    pub(super) directory: &'a DirectoryReader,
    pub(super) own: &'a OwnMap,
}

impl Walk<'_> {
    /// Goes through the first `taken` bytes of the piece, or as far as the turn goes; the position where to go on, or
    /// `None` if that is not to be found here. A record that goes on behind the piece is copied whole if it is for us.
    pub(super) fn through(mut self, mut taken: u64, budget: &mut Budget) -> Result<Option<u64>, Rule> {
        let (start, mut at) = (self.lane.reader.cursor(), 0);
        while at < taken && self.chunk.len() < budget.records {
            let header = self.chunk.header(at);
            let (kind, size) = match self.lane.reader.check(&header, start + at) {
                Ok(found) => found,
                // We may stand in the middle of nowhere, by a predecessor's fault.
                Err(_) if self.lane.unproven => return Ok(None),
                Err(rule) => return Err(rule),
            };
            self.lane.unproven = false;
            let end = at + size;
            let subscription = if kind == Kind::Message { self.subscription(&header) } else { None };
            if end > taken {
                if subscription.is_some() {
                    if !self.complete(start, at, taken, end)? {
                        // Overtaken: what comes before it is whole.
                        break;
                    }
                    budget.spend(end - taken);
                }
                taken = end;
            }
            if let Some(subscription) = subscription
                && self.follow(&header, subscription)
            {
                self.chunk.add(at);
                at = self.run(&header, start, end, taken, budget);
            } else {
                at = end;
            }
        }
        self.hearing.settle(self.own);
        Ok(Some(start + at))
    }

    /// Goes on behind a message for as long as what follows is just like it; most of a busy channel is.
    fn run(&mut self, last: &Header, start: u64, at: u64, taken: u64, budget: &Budget) -> u64 {
        if last.to != TO_ALL {
            return at;
        }
        let before = self.chunk.len();
        let [_, _, third, _] = last.to_words();
        let row = Row { third: next_third(third), start, limit: self.lane.reader.limit() };
        let at = self.chunk.run(row, at, taken, budget.records);
        let messages = self.chunk.len() - before;
        self.lane.sequences.pass(last.channel, messages as u32);
        self.hearing.count_delivered(last.channel, messages as u64, self.own);
        at
    }

    /// Whether a message is for us, and under which number of our subscription; 0 for what is sent to us alone.
    #[inline]
    fn subscription(&mut self, header: &Header) -> Option<u32> {
        match header.to {
            TO_ALL => self.hearing.subscription(header.channel, self.directory),
            to => (to == self.me && usize::from(header.channel) < MAX_CHANNELS).then_some(0),
        }
    }

    /// Copies what of a record stands behind the piece; false when it was overtaken meanwhile.
    #[cold]
    fn complete(&mut self, start: u64, at: u64, taken: u64, end: u64) -> Result<bool, Rule> {
        let rest = self.chunk.room(taken, end);
        self.lane.reader.take_rest(&self.lane.peer.map, start + at, taken - at, rest)
    }

    /// Counts what is missing in front of a message, and the message; whether it can be handed over.
    #[inline]
    fn follow(&mut self, header: &Header, subscription: u32) -> bool {
        let missing = match header.to {
            TO_ALL => self.lane.sequences.follow(header.channel, subscription, header.sequence),
            _ => self.lane.sequences.follow_directed(header.sequence),
        };
        if missing != 0 {
            let channel = (header.to == TO_ALL).then_some(ChannelId(header.channel));
            self.lose(channel, missing, LossCause::Lagged);
        }
        if Tag::from_number(header.tag).is_none() {
            self.lose(Some(ChannelId(header.channel)), 1, LossCause::UnknownTag);
            return false;
        }
        self.hearing.count_delivered(header.channel, 1, self.own);
        true
    }

    #[cold]
    fn lose(&mut self, channel: Option<ChannelId>, messages: u32, cause: LossCause) {
        let records = u64::from(messages);
        if let Some(channel) = channel {
            self.hearing.count_lost(channel.0, records, self.own);
        }
        self.losses.add(Loss { from: self.lane.peer.slot, channel, records, bytes: 0, cause }, self.own);
    }
}
