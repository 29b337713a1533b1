//! Receiving: the rings of all others, read in turn, checked, copied out and handed over; and sleeping when there is
//! nothing.
//!
//! One [`Drain`] per participant. A turn goes from lane to lane (`lane`), copies a piece of a ring into private memory
//! (`chunk`), decides what of it is for us (`hearing`) and what is missing (`sequences`, `losses`), shows the cursor,
//! and only then hands the messages over: what a dying instance had in hand is lost, never doubled. `park` is the rest.
//!
//! Invariants
//! - Nothing is handed over that was not confirmed after it was copied.
//! - A turn is bounded in records and bytes, so no publisher starves another.
//! - A peer caught lying is dropped at once, whatever else it has.

mod chunk;
mod delivery;
mod hearing;
mod lane;
mod losses;
mod park;
mod sequences;

use std::sync::Arc;

use crate::directory::DirectoryReader;
use crate::layout::MAX_CHANNELS;
use crate::map::OwnMap;
use crate::participant::Shared;
use crate::record::{Header, Kind, TO_ALL};
use crate::ring::Taken;
use crate::rule::Rule;
use crate::slots::{ChannelId, Slot};
use crate::tag::Tag;

use chunk::{Chunk, PIECE};
pub use delivery::{Delivery, Turn};
use hearing::Hearing;
use lane::Lane;
use losses::Losses;
pub use losses::{Loss, LossCause};
pub use park::Announced;
use park::Sleep;

/// The usual limit for one turn.
pub const TURN: usize = 256;
/// No turn copies more, but for a single larger record.
const TURN_BYTES: u64 = 256 * 1024;
/// Bytes that are copied for each message that a turn may still hand over: no large piece for a small turn.
const BYTES_PER_RECORD: u64 = 1024;

/// The reading owner of a participant.
pub struct Drain {
    own: OwnMap,
    shared: Arc<Shared>,
    directory: Arc<DirectoryReader>,
    changes: u64,
    lanes: Vec<Lane>,
    first: usize,
    chunk: Chunk,
    hearing: Hearing,
    losses: Losses,
    sleep: Sleep,
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain").field("place", &self.shared.place).field("lanes", &self.lanes.len()).finish()
    }
}

/// What a turn may still take.
struct Budget {
    records: usize,
    bytes: u64,
}

impl Budget {
    fn is_spent(&self) -> bool {
        self.records == 0 || self.bytes == 0
    }

    /// How large the next piece may be.
    fn piece(&self) -> u64 {
        (self.records as u64 * BYTES_PER_RECORD).min(PIECE as u64)
    }

    fn spend(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// What a lane has left after its part of a turn.
enum After {
    Idle,
    More,
    Ended,
}

impl Drain {
    pub(crate) fn new(shared: Arc<Shared>) -> Drain {
        let directory = shared.table().directory.clone();
        Drain {
            own: shared.own.clone(),
            hearing: Hearing::new(shared.place.slot),
            sleep: Sleep::new(shared.place.slot),
            directory,
            shared,
            changes: 0,
            lanes: Vec::new(),
            first: 0,
            chunk: Chunk::new(),
            losses: Losses::default(),
        }
    }

    /// Hands over what is there, at most `limit` messages ([`TURN`] is usual) and about 256 KiB. Never waits. A
    /// cursor is shown before the messages in front of it are handed over.
    pub fn turn(&mut self, limit: usize, mut hand_over: impl FnMut(Delivery<'_>)) -> Turn {
        if self.changes != self.shared.changes() {
            self.catch_up();
        }
        let limit = limit.max(1);
        let mut budget = Budget { records: limit, bytes: TURN_BYTES };
        let (mut more, lanes) = (false, self.lanes.len());
        let mut ended = Vec::new();
        for turn in 0..lanes {
            let index = (self.first + turn) % lanes;
            match self.read_lane(index, &mut budget, &mut hand_over) {
                Ok(After::Idle) => {}
                Ok(After::More) => more = true,
                Ok(After::Ended) => ended.push(index),
                Err(rule) => {
                    self.shared.accuse(&self.lanes[index].peer, rule);
                    ended.push(index);
                }
            }
            if budget.is_spent() {
                more = true;
                self.first = (index + 1) % lanes;
                break;
            }
        }
        more |= self.end_of(ended);
        let records = limit - budget.records;
        self.sleep.note(records);
        Turn { records, more }
    }

    /// What was missed since the last call.
    pub fn lost(&mut self) -> Vec<Loss> {
        self.losses.take()
    }

    /// Reads one ring up to the head that it has now, or until the turn is full.
    #[inline]
    fn read_lane(
        &mut self,
        index: usize,
        budget: &mut Budget,
        hand_over: &mut impl FnMut(Delivery<'_>),
    ) -> Result<After, Rule> {
        let lane = &mut self.lanes[index];
        // Before the head is looked at: what a dead peer committed lies below the head that is seen after this.
        let gone = lane.peer.is_gone();
        if !lane.look_ahead()? {
            return Ok(if gone { After::Ended } else { After::Idle });
        }
        while self.lanes[index].reader.is_behind() {
            if budget.is_spent() {
                return Ok(After::More);
            }
            self.read_piece(index, budget)?;
            for delivery in self.chunk.deliveries() {
                budget.records -= 1;
                hand_over(delivery);
            }
        }
        // What came meanwhile waits for the next turn.
        Ok(if gone || self.lanes[index].has_news() { After::More } else { After::Idle })
    }

    /// Copies a piece of a ring, decides what of it is for us, and shows the cursor behind it.
    fn read_piece(&mut self, index: usize, budget: &mut Budget) -> Result<(), Rule> {
        let lane = &mut self.lanes[index];
        self.chunk.begin(lane.peer.slot, lane.peer.incarnation);
        let most = budget.piece();
        let taken = lane.reader.take(&lane.peer.map, self.chunk.room(0, most))?;
        budget.spend(if let Taken::Bytes(bytes) = taken { bytes } else { most });
        self.hearing.look(&self.directory);
        let walked = match taken {
            Taken::Empty => return Ok(()),
            Taken::Overtaken => None,
            Taken::Bytes(bytes) => self.walk(index, bytes, budget).inspect_err(|_| self.chunk.discard())?,
        };
        match walked {
            Some(cursor) => {
                let lane = &mut self.lanes[index];
                lane.reader.advance(cursor);
            }
            None => self.lap(index)?,
        }
        self.lanes[index].show(&self.own);
        Ok(())
    }

    /// Goes through the piece in hand; where to go on, or `None` if that is not to be found here.
    fn walk(&mut self, index: usize, bytes: u64, budget: &mut Budget) -> Result<Option<u64>, Rule> {
        let (start, mut at, mut taken) = (self.lanes[index].reader.cursor(), 0, bytes);
        while at < taken && self.chunk.len() < budget.records {
            let lane = &mut self.lanes[index];
            let header = self.chunk.header(at);
            let (kind, size) = match lane.reader.check(&header, start + at) {
                Ok(found) => found,
                // We may stand in the middle of nowhere, by a predecessor's fault.
                Err(_) if lane.unproven => return Ok(None),
                Err(rule) => return Err(rule),
            };
            lane.unproven = false;
            let end = at + size;
            let subscription = if kind == Kind::Message { self.subscription(&header) } else { None };
            if end > taken {
                let lane = &self.lanes[index];
                if subscription.is_some() {
                    let rest = self.chunk.room(taken, end);
                    if !lane.reader.take_rest(&lane.peer.map, start + at, taken - at, rest)? {
                        // Overtaken: what comes before it is whole.
                        break;
                    }
                    budget.spend(end - taken);
                }
                taken = end;
            }
            if let Some(subscription) = subscription
                && self.follow(index, &header, subscription)
            {
                self.chunk.add(at);
            }
            at = end;
        }
        Ok(Some(start + at))
    }

    /// Whether a message is for us, and under which number of our subscription; 0 for what is sent to us alone.
    #[inline]
    fn subscription(&mut self, header: &Header) -> Option<u32> {
        match header.to {
            TO_ALL => self.hearing.subscription(header.channel, &self.directory),
            to => (to == self.shared.place.slot && usize::from(header.channel) < MAX_CHANNELS).then_some(0),
        }
    }

    /// Counts what is missing in front of a message, and the message; whether it can be handed over.
    #[inline]
    fn follow(&mut self, index: usize, header: &Header, subscription: u32) -> bool {
        let lane = &mut self.lanes[index];
        let missing = match header.to {
            TO_ALL => lane.sequences.follow(header.channel, subscription, header.sequence),
            _ => lane.sequences.follow_directed(header.sequence),
        };
        let from = lane.peer.slot;
        if missing != 0 {
            let channel = (header.to == TO_ALL).then_some(ChannelId(header.channel));
            self.lose(Loss { from, channel, records: u64::from(missing), bytes: 0, cause: LossCause::Lagged });
        }
        if Tag::from_number(header.tag).is_none() {
            let channel = Some(ChannelId(header.channel));
            self.lose(Loss { from, channel, records: 1, bytes: 0, cause: LossCause::UnknownTag });
            return false;
        }
        self.hearing.count_delivered(header.channel, 1, &self.own);
        true
    }

    /// Goes on where something is still whole, after the writer has overtaken us.
    #[cold]
    fn lap(&mut self, index: usize) -> Result<(), Rule> {
        let lane = &mut self.lanes[index];
        let lap = lane.reader.lap(&lane.peer.map)?;
        let from = lane.peer.slot;
        if !lap.resumed {
            self.lose(Loss { from, channel: None, records: 0, bytes: lap.bytes, cause: LossCause::Lagged });
        }
        Ok(())
    }

    #[cold]
    fn lose(&mut self, loss: Loss) {
        if let Some(channel) = loss.channel {
            self.hearing.count_lost(channel.0, loss.records, &self.own);
        }
        self.losses.add(loss, &self.own);
    }

    /// Takes lanes out that are finished, or goes on to their next incarnation; whether there is one.
    fn end_of(&mut self, mut ended: Vec<usize>) -> bool {
        let (mut more, me) = (false, self.me());
        ended.sort_unstable();
        for index in ended.into_iter().rev() {
            match self.lanes[index].successor(me) {
                Some(lane) => {
                    self.shared.show_start(lane.peer.slot, lane.shown());
                    self.lanes[index] = lane;
                    more = true;
                }
                None => {
                    self.lanes.swap_remove(index);
                }
            }
        }
        more
    }

    /// Takes over what Control changed: peers that came, a new directory.
    #[cold]
    fn catch_up(&mut self) {
        self.changes = self.shared.changes();
        let mut table = self.shared.table();
        let incoming = table.take_incoming();
        if !Arc::ptr_eq(&self.directory, &table.directory) {
            self.directory = table.directory.clone();
            self.hearing.forget();
        }
        drop(table);
        for incoming in incoming {
            match self.lanes.iter_mut().find(|lane| lane.peer.slot == incoming.peer.slot) {
                Some(lane) => lane.queue(incoming),
                None => {
                    let lane = Lane::new(incoming, self.me());
                    self.shared.show_start(lane.peer.slot, lane.shown());
                    self.lanes.push(lane);
                }
            }
        }
    }

    fn me(&self) -> Slot {
        self.shared.place.slot
    }
}
