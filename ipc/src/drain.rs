//! Receiving: the rings of all others, read in turn, checked, copied out and handed over; and sleeping when there is
//! nothing.
//!
//! One [`Drain`] per participant. A turn copies a batch into private memory, shows the cursors, and only then hands
//! the messages over: what a dying instance had in hand is lost, never doubled.
//!
//! Invariants
//! - Nothing is handed over that was not confirmed after it was copied.
//! - A turn is bounded in records, bytes and headers walked, so no publisher starves another.
//! - A peer caught lying is dropped at once, whatever else it has.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crate::bell::{self, Ear, LONGEST_SLEEP};
use crate::directory::DirectoryReader;
use crate::grace::Grace;
use crate::layout::{self, Counter, MAX_CHANNELS, record_limit};
use crate::map::bytes_of;
use crate::participant::{Incoming, Shared};
use crate::peer::Peer;
use crate::record::{FLAG_SESSION, Header, Kind, SESSION_BYTES, TO_ALL};
use crate::ring::{Look, RingReader, Sleeper, show_cursor};
use crate::rule::Rule;
use crate::slots::{ChannelId, Slot};
use crate::sync::Ordering::Acquire;
use crate::sync::{OwnWords, fence};
use crate::tag::Tag;

/// The usual limit for one turn.
pub const TURN: usize = 256;
/// No turn copies more, but for a single larger record.
const TURN_BYTES: usize = 256 * 1024;
/// Headers that one ring may cost per turn, messages for others among them.
const TURN_HEADERS: usize = 4096;
/// Records since the last sleep from which on traffic counts as dense.
const DENSE: u64 = 4;
/// Different losses kept apart for whoever asks; beyond it they are added up per peer.
const MAX_LOSSES: usize = 1024;

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

/// What one turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Messages handed over.
    pub records: usize,
    /// Whether there may be more right now.
    pub more: bool,
}

/// Messages that this participant missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Whose they were.
    pub from: Slot,
    /// The channel; `None` for those sent to us alone, and where it is not known.
    pub channel: Option<ChannelId>,
    /// How many messages, as far as their sequence numbers tell.
    pub records: u64,
    /// Bytes of the publisher's ring that were never read, whoever they were for.
    pub bytes: u64,
    /// Why.
    pub cause: LossCause,
}

/// Why messages were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossCause {
    /// The publisher had to go on before we had read them.
    Lagged,
    /// They carry a content tag that this version does not know.
    UnknownTag,
}

/// The rings of one slot: that of its living incarnation and, before it, those of dead ones.
struct Lane {
    peer: Arc<Peer>,
    reader: RingReader,
    shown: u64,
    /// The wish for which the publisher was rung already.
    rung_for: u64,
    /// Not one record was confirmed yet: a cursor that we inherited may be wrong, which is not the peer's fault.
    unproven: bool,
    /// Next sequence per channel, with the subscription under which it was learnt.
    expected: Vec<Option<(u32, u32)>>,
    expected_directed: Option<u32>,
    next: VecDeque<Incoming>,
}

/// A record of the batch in hand.
struct Entry {
    from: Slot,
    incarnation: u32,
    header: Header,
    start: usize,
}

/// Private copy of whether we hear a channel. A new subscription gets a new number.
#[derive(Clone, Copy, Default)]
struct Hearing {
    version: u64,
    subscribed: bool,
    subscription: u32,
    delivered: u64,
    lost: u64,
    in_turn: u64,
}

/// The reading owner of a participant.
pub struct Drain {
    shared: Arc<Shared>,
    directory: Arc<DirectoryReader>,
    changes: u64,
    lanes: Vec<Lane>,
    first: usize,
    arena: Vec<u64>,
    batch: Vec<Entry>,
    hearing: Vec<Hearing>,
    /// The directory's version, looked at once per chunk.
    version: u64,
    /// Channels that were heard in this turn.
    touched: Vec<u16>,
    lost_of: HashMap<Slot, u64>,
    losses: HashMap<(Slot, Option<ChannelId>, LossCause), (u64, u64)>,
    sleeper: Sleeper,
    grace: Grace,
    ear: Option<Ear>,
    since_sleep: u64,
    dense: bool,
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain").field("place", &self.shared.place).field("lanes", &self.lanes.len()).finish()
    }
}

impl Drain {
    pub(crate) fn new(shared: Arc<Shared>) -> Drain {
        let directory = shared.table().directory.clone();
        Drain {
            sleeper: Sleeper::new(shared.place.slot),
            directory,
            shared,
            changes: 0,
            lanes: Vec::new(),
            first: 0,
            arena: Vec::new(),
            batch: Vec::new(),
            hearing: Vec::new(),
            version: 0,
            touched: Vec::new(),
            lost_of: HashMap::new(),
            losses: HashMap::new(),
            grace: Grace::default(),
            ear: None,
            since_sleep: 0,
            dense: false,
        }
    }

    /// Hands over what is there, at most `limit` messages ([`TURN`] is usual) and about 256 KiB. Never waits. The
    /// cursors are shown before the first message is handed over.
    pub fn turn(&mut self, limit: usize, mut hand_over: impl FnMut(Delivery<'_>)) -> Turn {
        let more = self.collect(limit.max(1));
        let mut records = 0;
        for entry in &self.batch {
            if let Some(delivery) = entry.delivery(&self.arena) {
                records += 1;
                hand_over(delivery);
            }
        }
        self.since_sleep += records as u64;
        Turn { records, more }
    }

    /// What was missed since the last call.
    pub fn lost(&mut self) -> Vec<Loss> {
        self.losses
            .drain()
            .map(|((from, channel, cause), (records, bytes))| Loss { from, channel, records, bytes, cause })
            .collect()
    }

    /// Sleeps until there may be something, at most `limit` and at most a second. When traffic is dense it gives the
    /// publishers a few chances before it does.
    pub fn wait(&mut self, limit: Duration) {
        if self.is_dense() {
            let mut grace = std::mem::take(&mut self.grace);
            let news = grace.wait(|| self.has_news());
            self.grace = grace;
            if news {
                return;
            }
        }
        if self.ear.is_none() {
            self.ear = Ear::new(self.shared.bell.as_fd()).ok();
        }
        let Some(announced) = self.announce() else { return };
        let drain = &announced.drain;
        match &drain.ear {
            Some(ear) if !ear.wait(limit) && limit >= LONGEST_SLEEP => bell::empty(drain.shared.bell.as_fd()),
            Some(_) => {}
            // Out of descriptors: look again every millisecond instead.
            None => std::thread::sleep(limit.min(Duration::from_millis(1))),
        }
    }

    /// Announces a sleep and looks at everything once more; `None` when there is something. Whoever sleeps does it
    /// while it holds the answer, on the bell, for a second at most.
    pub fn announce(&mut self) -> Option<Announced<'_>> {
        self.sleeper.announce(&self.shared.own);
        let announced = Announced { drain: self };
        (!announced.drain.has_news()).then_some(announced)
    }

    /// Whether traffic has been dense since the last sleep, so that a little patience pays.
    pub fn is_dense(&self) -> bool {
        self.dense || self.since_sleep >= DENSE
    }

    /// Whether a turn would find something to do.
    pub fn has_news(&self) -> bool {
        self.changes != self.shared.changes()
            || self.lanes.iter().any(|lane| lane.reader.has_news(&lane.peer.map) || lane.peer.is_gone())
    }

    /// Fills the batch and shows the cursors; whether there may be more.
    fn collect(&mut self, limit: usize) -> bool {
        self.batch.clear();
        self.arena.clear();
        if self.changes != self.shared.changes() {
            self.catch_up();
        }
        let (mut more, lanes) = (false, self.lanes.len());
        let mut dropped = Vec::new();
        for turn in 0..lanes {
            let index = (self.first + turn) % lanes;
            match self.read_lane(index, limit) {
                Ok(After::Idle) => {}
                Ok(After::More) => more = true,
                Ok(After::Ended) => dropped.push(index),
                Err(rule) => {
                    self.shared.accuse(&self.lanes[index].peer, rule);
                    dropped.push(index);
                }
            }
            if self.is_full(limit) {
                more = true;
                self.first = (index + 1) % lanes;
                break;
            }
        }
        dropped.sort_unstable();
        for index in dropped.into_iter().rev() {
            more |= self.end_of(index);
        }
        self.count_delivered();
        more
    }

    fn is_full(&self, limit: usize) -> bool {
        self.batch.len() >= limit || self.arena.len() * 8 >= TURN_BYTES
    }

    /// Reads one ring until it is empty or the turn is full.
    fn read_lane(&mut self, index: usize, limit: usize) -> Result<After, Rule> {
        let lane = &mut self.lanes[index];
        // Before the head is looked at: what a dead peer committed lies below the head that is seen after this.
        let gone = lane.peer.is_gone();
        if !lane.reader.look_ahead(&lane.peer.map)? {
            return Ok(if gone { After::Ended } else { After::Idle });
        }
        let mut headers = 0;
        let more = loop {
            let before = headers;
            self.read_chunk(index, limit, &mut headers)?;
            self.show(index);
            let lane = &self.lanes[index];
            if self.is_full(limit) || headers >= TURN_HEADERS {
                break true;
            }
            if headers == before || !lane.reader.has_news(&lane.peer.map) {
                break false;
            }
            // What came meanwhile waits for the next turn, unless this ring simply had more than a chunk.
            if !lane.reader.is_behind() {
                break true;
            }
        };
        Ok(if more || gone { After::More } else { After::Idle })
    }

    /// Copies up to an eighth of the ring, then makes sure that nothing of it was overtaken.
    fn read_chunk(&mut self, index: usize, limit: usize, headers: &mut usize) -> Result<(), Rule> {
        // After the head was loaded: whoever published because we are subscribed is never ahead of our copy.
        self.version = self.directory.version();
        let lane = &self.lanes[index];
        let (start, chunk) = (lane.reader.cursor(), lane.peer.ring / 8);
        let (batch, arena) = (self.batch.len(), self.arena.len());
        let mut at = start;
        let mut overtaken = false;
        while !self.is_full(limit) && *headers < TURN_HEADERS && at - start < chunk {
            let lane = &self.lanes[index];
            match lane.reader.look(&lane.peer.map, at) {
                Ok(Look::Empty) => break,
                Ok(Look::Overtaken) => {
                    overtaken = true;
                    break;
                }
                Ok(Look::Record(kind, header, size)) => {
                    if kind == Kind::Message && self.is_for_us(&header) {
                        let lane = &self.lanes[index];
                        let (from, incarnation, start) = (lane.peer.slot, lane.peer.incarnation, self.arena.len());
                        lane.reader.copy(&lane.peer.map, at, &header, &mut self.arena);
                        self.batch.push(Entry { from, incarnation, header, start });
                    }
                    at += size;
                    *headers += 1;
                }
                // We may stand in the middle of nowhere, by a predecessor's fault.
                Err(_) if lane.unproven && at == start => {
                    overtaken = true;
                    break;
                }
                Err(rule) => return Err(rule),
            }
        }
        let lane = &mut self.lanes[index];
        if overtaken || !lane.reader.confirm(&lane.peer.map)? {
            self.batch.truncate(batch);
            self.arena.truncate(arena);
            let lap = lane.reader.lap(&lane.peer.map)?;
            *headers += 1;
            let from = lane.peer.slot;
            if !lap.resumed {
                self.lose(from, None, LossCause::Lagged, 0, lap.bytes);
            }
            return Ok(());
        }
        lane.reader.advance(at);
        lane.unproven &= at == start;
        self.follow_sequences(index, batch);
        Ok(())
    }

    #[inline]
    fn is_for_us(&mut self, header: &Header) -> bool {
        match header.to {
            TO_ALL => self.hears(header.channel),
            to => to == self.shared.place.slot && usize::from(header.channel) < MAX_CHANNELS,
        }
    }

    #[inline]
    fn hears(&mut self, channel: u16) -> bool {
        match self.hearing.get(usize::from(channel)) {
            Some(hearing) if hearing.version == self.version => hearing.subscribed,
            _ => self.rehear(channel, self.version),
        }
    }

    #[cold]
    fn rehear(&mut self, channel: u16, version: u64) -> bool {
        let index = usize::from(channel);
        if index >= MAX_CHANNELS {
            return false;
        }
        // Acquire: pairs with the Release in `Directory::bump`.
        fence(Acquire);
        let entry = self.directory.entry_of(ChannelId(channel));
        let subscribed = entry.is_some_and(|entry| entry.subscribers.contains(self.shared.place.slot));
        self.grow_hearing(index);
        let hearing = &mut self.hearing[index];
        if subscribed && !hearing.subscribed {
            hearing.subscription += 1;
        }
        hearing.version = version;
        hearing.subscribed = subscribed;
        subscribed
    }

    fn grow_hearing(&mut self, index: usize) {
        if index >= self.hearing.len() {
            self.hearing.resize(index + 1, Hearing::default());
        }
    }

    /// Counts what is missing between the sequence numbers of what was confirmed.
    fn follow_sequences(&mut self, index: usize, from: usize) {
        for entry in from..self.batch.len() {
            let Entry { header, .. } = self.batch[entry];
            let channel = usize::from(header.channel);
            self.grow_hearing(channel);
            let hearing = &mut self.hearing[channel];
            if hearing.in_turn == 0 {
                self.touched.push(header.channel);
            }
            hearing.in_turn += 1;
            let subscription = hearing.subscription;
            let lane = &mut self.lanes[index];
            let next = header.sequence.wrapping_add(1);
            let expected = if header.to == TO_ALL {
                if channel >= lane.expected.len() {
                    lane.expected.resize(channel + 1, None);
                }
                let known = lane.expected[channel].replace((subscription, next));
                known.filter(|(learnt, _)| *learnt == subscription).map(|(_, expected)| expected)
            } else {
                lane.expected_directed.replace(next)
            };
            let missing = expected.map_or(0, |expected| header.sequence.wrapping_sub(expected));
            if missing != 0 {
                let (slot, of) = (lane.peer.slot, (header.to == TO_ALL).then_some(ChannelId(header.channel)));
                self.lose(slot, of, LossCause::Lagged, u64::from(missing), 0);
            }
            if Tag::from_number(header.tag).is_none() {
                let slot = self.lanes[index].peer.slot;
                self.lose(slot, Some(ChannelId(header.channel)), LossCause::UnknownTag, 1, 0);
                // Counted below as one that was not delivered.
                self.hearing[channel].in_turn -= 1;
            }
        }
    }

    #[cold]
    fn lose(&mut self, from: Slot, channel: Option<ChannelId>, cause: LossCause, records: u64, bytes: u64) {
        if let Some(channel) = channel {
            let hearing = &mut self.hearing[usize::from(channel.0)];
            hearing.lost += records;
            self.shared.own.store(layout::counter(channel, Counter::Lost), hearing.lost);
        }
        let lost = self.lost_of.entry(from).or_default();
        *lost += records;
        self.shared.own.store(layout::lost(from), *lost);
        let apart = self.losses.len() < MAX_LOSSES || self.losses.contains_key(&(from, channel, cause));
        let sum = self.losses.entry((from, channel.filter(|_| apart), cause)).or_default();
        sum.0 += records;
        sum.1 += bytes;
    }

    fn count_delivered(&mut self) {
        for channel in self.touched.drain(..).map(ChannelId) {
            let hearing = &mut self.hearing[usize::from(channel.0)];
            hearing.delivered += std::mem::take(&mut hearing.in_turn);
            self.shared.own.store(layout::counter(channel, Counter::Delivered), hearing.delivered);
        }
    }

    /// Shows how far a ring has been read; wakes its publisher if it waits for that.
    fn show(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        let cursor = lane.reader.cursor();
        if cursor == lane.shown {
            return;
        }
        lane.shown = cursor;
        if let Some(want) = show_cursor(&self.shared.own, &lane.peer.map, lane.peer.slot, cursor)
            && want != lane.rung_for
        {
            lane.rung_for = want;
            lane.peer.ring_bell();
        }
    }

    /// Goes on to the next incarnation of a lane whose ring is finished; whether there is one.
    fn end_of(&mut self, index: usize) -> bool {
        match self.lanes[index].next.pop_front() {
            Some(incoming) => {
                let next = std::mem::take(&mut self.lanes[index].next);
                let lane = Lane { next, ..self.lane(incoming) };
                self.shared.show_start(lane.peer.slot, lane.shown);
                self.lanes[index] = lane;
                true
            }
            None => {
                self.lanes.swap_remove(index);
                false
            }
        }
    }

    /// Takes over what Control changed: peers that came, a new directory.
    #[cold]
    fn catch_up(&mut self) {
        self.changes = self.shared.changes();
        let mut table = self.shared.table();
        let incoming = table.take_incoming();
        if !Arc::ptr_eq(&self.directory, &table.directory) {
            self.directory = table.directory.clone();
            self.hearing.iter_mut().for_each(|hearing| hearing.version = 0);
        }
        drop(table);
        for incoming in incoming {
            let lane = self.lanes.iter_mut().find(|lane| lane.peer.slot == incoming.peer.slot);
            match lane {
                Some(lane) => lane.next.push_back(incoming),
                None => {
                    let lane = self.lane(incoming);
                    self.shared.show_start(lane.peer.slot, lane.shown);
                    self.lanes.push(lane);
                }
            }
        }
    }

    fn lane(&self, Incoming { peer, start }: Incoming) -> Lane {
        let limit = record_limit(peer.ring);
        Lane {
            reader: RingReader::new(peer.slot, self.shared.place.slot, peer.ring, limit, start),
            shown: start,
            rung_for: 0,
            unproven: start != peer.base,
            expected: Vec::new(),
            expected_directed: None,
            next: VecDeque::new(),
            peer,
        }
    }
}

/// What a lane has left after its part of a turn.
enum After {
    Idle,
    More,
    Ended,
}

impl Entry {
    /// Inlined, or else the answer goes through memory, where its 128-bit parts wait for narrower stores.
    #[inline]
    fn delivery<'a>(&self, arena: &'a [u64]) -> Option<Delivery<'a>> {
        let header = &self.header;
        let words = &arena[self.start..self.start + (header.length as usize).div_ceil(8)];
        let payload = bytes_of(words, header.length as usize);
        let (session, payload) = if header.flags & FLAG_SESSION == 0 {
            (None, payload)
        } else {
            let (session, payload) = payload.split_first_chunk::<SESSION_BYTES>()?;
            (Some(u128::from_le_bytes(*session)), payload)
        };
        Some(Delivery {
            from: self.from,
            from_incarnation: self.incarnation,
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

/// A sleep that is announced: publishers ring the bell. Dropping it takes the announcement back.
#[derive(Debug)]
pub struct Announced<'a> {
    drain: &'a mut Drain,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let drain = &mut self.drain;
        drain.sleeper.awake(&drain.shared.own);
        drain.dense = drain.since_sleep >= DENSE;
        drain.since_sleep = 0;
    }
}
