//! Receiving: the rings of all others, read in turn, checked, copied out and handed over; and sleeping when there is
//! nothing.
//!
//! One [`Drain`] per participant. A turn goes from lane to lane (`lane`), copies a piece of a ring into private memory
//! (`chunk`), decides what of it is for us (`walk`, `hearing`) and what is missing (`sequences`, `losses`), shows the cursor,
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
mod walk;

use std::sync::Arc;

use crate::directory::DirectoryReader;
use crate::map::OwnMap;
use crate::participant::Shared;
use crate::ring::Taken;
use crate::rule::Rule;
use crate::slots::Slot;

use chunk::{Chunk, PIECE};
pub use delivery::{Delivery, Turn};
use hearing::Hearing;
use lane::Lane;
use losses::Losses;
pub use losses::{Loss, LossCause};
pub use park::Announced;
use park::Sleep;
use walk::Walk;

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
        // What came meanwhile is found by the next look, before any sleep; to look now would disturb the publisher.
        Ok(if gone { After::More } else { After::Idle })
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
            Taken::Bytes(bytes) => self.walk(index).through(bytes, budget).inspect_err(|_| self.discard())?,
        };
        match walked {
            Some(cursor) => self.lanes[index].reader.advance(cursor),
            None => self.lap(index)?,
        }
        self.lanes[index].show(&self.own);
        Ok(())
    }

    /// A liar's piece: nothing of it is handed over or counted.
    #[cold]
    fn discard(&mut self) {
        self.chunk.discard();
        self.hearing.discard();
    }

    fn walk(&mut self, index: usize) -> Walk<'_> {
        Walk {
            me: self.shared.place.slot,
            lane: &mut self.lanes[index],
            chunk: &mut self.chunk,
            hearing: &mut self.hearing,
            losses: &mut self.losses,
            directory: &self.directory,
            own: &self.own,
        }
    }

    /// Goes on where something is still whole, after the writer has overtaken us.
    #[cold]
    fn lap(&mut self, index: usize) -> Result<(), Rule> {
        let lane = &mut self.lanes[index];
        let lap = lane.reader.lap(&lane.peer.map)?;
        let from = lane.peer.slot;
        if !lap.resumed {
            let loss = Loss { from, channel: None, records: 0, bytes: lap.bytes, cause: LossCause::Lagged };
            self.losses.add(loss, &self.own);
        }
        Ok(())
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
