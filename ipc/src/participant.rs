//! A participant of a herd: takes its place, and parts into its three owners.
//!
//! [`Publisher`] writes the own ring, [`Drain`] reads those of the others, [`Control`] says who the others are. Each
//! may live on a thread of its own; what they share is the own outbox, of which each writes its own words, and a table
//! of peers that only Control changes. Publisher and Drain look at one in-process counter per call to learn that it
//! moved.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::bell;
use crate::directory::DirectoryReader;
use crate::drain::Drain;
use crate::layout::{self, Counter, MAX_SLOTS, OUTBOX_HEAD, is_ring_size};
use crate::map::{OwnMap, PeerMap};
use crate::peer::{Peer, PeerError, is_base, write_identity};
use crate::publisher::Publisher;
use crate::rule::Rule;
use crate::slots::{ChannelId, SUPERVISOR, Slot};
use crate::sync::Ordering::{Acquire, Release};
use crate::sync::{AtomicU64, OwnWords, Words, fence};

/// The most accusations kept for whoever asks; there are no more slots than this.
const MAX_ACCUSATIONS: usize = MAX_SLOTS;
/// The most peers that wait to be taken over by a drain that is never turned.
const MAX_INCOMING: usize = 2 * MAX_SLOTS;

/// A participant's place in its herd, as the supervisor gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The herd's number in its supervisor.
    pub herd: u64,
    /// The slot.
    pub slot: Slot,
    /// Which process of this slot, counted from 1.
    pub incarnation: u32,
    /// Bytes of the ring, a power of two.
    pub ring_bytes: u64,
    /// Position of the ring's first byte; see [`layout::next_base`]. Never 0.
    pub base: u64,
    /// How long a publisher waits for a reader that does not move.
    pub stall_timeout: Duration,
    /// The herd's limit for one message in bytes.
    pub max_message: u64,
}

/// Why a place cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A number of the place is impossible.
    #[error("the place is impossible: `{0}`")]
    Place(&'static str),
    /// The own outbox cannot be mapped.
    #[error("cannot map the own outbox")]
    Outbox(#[source] io::Error),
    /// The directory cannot be used.
    #[error("cannot use the herd's directory")]
    Directory(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The predecessor's outbox cannot be used.
    #[error("cannot use the predecessor's outbox")]
    Predecessor(#[source] io::Error),
}

/// A participant, ready to be taken apart.
#[derive(Debug)]
pub struct Participant {
    /// Writes the own ring.
    pub publisher: Publisher,
    /// Reads the rings of the others.
    pub drain: Drain,
    /// Says who the others are. Cheap to clone.
    pub control: Control,
}

/// Takes a place: maps the own outbox, touches it, writes its identity, and takes over the cursors of a predecessor.
/// The supervisor then seals the outbox ([`crate::memory::seal`]) and shows it to the others.
///
/// # Errors
/// A descriptor is not what it must be.
pub fn join(
    place: &Place,
    own_outbox: OwnedFd,
    own_bell: OwnedFd,
    directory: OwnedFd,
    predecessor: Option<OwnedFd>,
) -> Result<Participant, JoinError> {
    check_place(place)?;
    let directory = open_directory(place.herd, directory)?;
    let inherited = predecessor.map(|fd| cursors_of(place, fd)).transpose()?;
    let own = OwnMap::new(own_outbox.as_fd(), OUTBOX_HEAD + place.ring_bytes).map_err(JoinError::Outbox)?;
    own.touch();
    if let Some(cursors) = &inherited {
        for (slot, cursor) in cursors.iter().enumerate() {
            own.store(layout::cursor(slot as Slot), *cursor);
        }
    }
    write_identity(&own, place.herd, place.slot, place.incarnation, place.ring_bytes, place.base);
    let table = Table {
        directory: Arc::new(directory),
        newest: vec![None; MAX_SLOTS],
        past: vec![0; MAX_SLOTS],
        met: vec![Met::default(); MAX_SLOTS],
        incoming: Vec::new(),
        inherited,
        // The supervisor is there before everybody else.
        joined: place.slot == SUPERVISOR,
    };
    let shared = Arc::new(Shared {
        place: place.clone(),
        own,
        bell: own_bell,
        changes: AtomicU64::new(0),
        table: Mutex::new(table),
        accusations: Mutex::new(Vec::new()),
    });
    Ok(Participant {
        publisher: Publisher::new(shared.clone()),
        drain: Drain::new(shared.clone()),
        control: Control { shared },
    })
}

fn check_place(place: &Place) -> Result<(), JoinError> {
    if usize::from(place.slot) >= MAX_SLOTS {
        return Err(JoinError::Place("slot"));
    }
    if !is_ring_size(place.ring_bytes) {
        return Err(JoinError::Place("ring_bytes"));
    }
    if !is_base(place.base) || place.base < place.ring_bytes {
        return Err(JoinError::Place("base"));
    }
    Ok(())
}

fn open_directory(herd: u64, fd: OwnedFd) -> Result<DirectoryReader, JoinError> {
    let directory = DirectoryReader::open(fd.as_fd()).map_err(|error| JoinError::Directory(error.into()))?;
    if directory.herd() != herd {
        return Err(JoinError::Directory("it is another herd's".into()));
    }
    Ok(directory)
}

/// The cursors that the dead incarnation of our slot has shown.
fn cursors_of(place: &Place, fd: OwnedFd) -> Result<Vec<u64>, JoinError> {
    let map = PeerMap::new(fd.as_fd(), OUTBOX_HEAD).map_err(JoinError::Predecessor)?;
    if (map.load(layout::identity::PLACE) >> 16) as u16 != place.slot {
        return Err(JoinError::Predecessor(io::Error::other("it is another slot's")));
    }
    let cursors = (0..MAX_SLOTS as Slot).map(|slot| map.load(layout::cursor(slot))).collect();
    fence(Acquire);
    Ok(cursors)
}

/// Where an outbox's last record ends, whoever owns it: what [`layout::next_base`] wants when its owner is dead.
///
/// # Errors
/// It cannot be mapped, or is no outbox.
pub fn head_of(outbox: BorrowedFd<'_>) -> io::Result<u64> {
    let map = PeerMap::new(outbox, OUTBOX_HEAD)?;
    let slot = (map.load(layout::identity::PLACE) >> 16) as u16;
    if usize::from(slot) >= MAX_SLOTS {
        return Err(io::Error::other("it is no outbox"));
    }
    let head = map.load(layout::head(slot));
    fence(Acquire);
    Ok(head)
}

/// What publisher, drain and control of one participant share.
pub(crate) struct Shared {
    pub(crate) place: Place,
    pub(crate) own: OwnMap,
    pub(crate) bell: OwnedFd,
    changes: AtomicU64,
    table: Mutex<Table>,
    accusations: Mutex<Vec<Accusation>>,
}

pub(crate) struct Table {
    pub(crate) directory: Arc<DirectoryReader>,
    /// The living incarnation of each slot.
    pub(crate) newest: Vec<Option<Arc<Peer>>>,
    /// The highest head seen of each slot's dead incarnations.
    past: Vec<u64>,
    /// Who came last to each slot, living or not: a new supervisor introduces everybody again.
    met: Vec<Met>,
    /// Peers that the drain has not taken over yet, oldest first.
    incoming: Vec<Incoming>,
    inherited: Option<Vec<u64>>,
    joined: bool,
}

/// Who has come to a slot. Incarnations begin again when the slot goes to another instance, positions never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Met {
    incarnation: u32,
    base: u64,
}

/// A peer on its way to the drain.
pub(crate) struct Incoming {
    pub(crate) peer: Arc<Peer>,
    /// Where to start reading.
    pub(crate) start: u64,
}

/// A peer that was dropped because it broke a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accusation {
    /// The liar's slot.
    pub slot: Slot,
    /// Its incarnation.
    pub incarnation: u32,
    /// What it did.
    pub rule: Rule,
}

impl Shared {
    /// Counts the changes of the table; whoever holds a private copy compares.
    #[inline]
    pub(crate) fn changes(&self) -> u64 {
        // Acquire: pairs with the Release in `changed`.
        self.changes.load(Acquire)
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Release);
        // Whoever sleeps has to look again.
        bell::ring(self.bell.as_fd());
    }

    /// Drops a peer that broke a rule, and keeps its name for the supervisor.
    pub(crate) fn accuse(&self, peer: &Arc<Peer>, rule: Rule) {
        self.table().forget(peer.slot, |newest| Arc::ptr_eq(newest, peer));
        let mut accusations = self.accusations.lock().unwrap_or_else(PoisonError::into_inner);
        if accusations.len() < MAX_ACCUSATIONS {
            accusations.push(Accusation { slot: peer.slot, incarnation: peer.incarnation, rule });
        }
        drop(accusations);
        self.changed();
    }
}

impl Table {
    pub(crate) fn take_incoming(&mut self) -> Vec<Incoming> {
        std::mem::take(&mut self.incoming)
    }

    /// Where to start reading a peer: where the predecessor stopped; from its first record if it is newer than we
    /// are; else from its next one, since what it published before was not for us.
    fn start_of(&self, peer: &Peer) -> u64 {
        let head = peer.head();
        match self.inherited.as_ref().map(|cursors| cursors[usize::from(peer.slot)]) {
            Some(cursor) if cursor >= peer.base && cursor.is_multiple_of(layout::RECORD_ALIGN) => cursor.min(head),
            Some(_) => peer.base,
            None if self.joined => peer.base,
            None => head,
        }
    }

    fn forget(&mut self, slot: Slot, which: impl FnOnce(&Arc<Peer>) -> bool) {
        let newest = &mut self.newest[usize::from(slot)];
        if let Some(peer) = newest.take_if(|peer| which(peer)) {
            peer.set_gone();
            let past = &mut self.past[usize::from(slot)];
            *past = peer.head().max(*past);
        }
    }
}

/// Counters of one channel, as one participant keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Messages published, heard or not.
    pub published: u64,
    /// Messages handed to the application.
    pub delivered: u64,
    /// Messages missed.
    pub lost: u64,
    /// Messages refused to the publisher.
    pub rejected: u64,
}

/// How far a slot's ring has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerPosition {
    /// The living incarnation; `None` when there is none and `head` is that of its predecessor.
    pub incarnation: Option<u32>,
    /// Its head.
    pub head: u64,
    /// How far the supervisor's own drain, or whoever asks, has shown to have read it.
    pub cursor: u64,
}

/// Says who the others are. Cheap to clone; every method may be called from any thread.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("place", &self.shared.place).finish()
    }
}

impl Control {
    /// Maps a peer and starts to read it. One that is already known is no error. A newer incarnation of a slot ends
    /// the older one, which is read to its end first; `retired` is one that is dead already.
    ///
    /// # Errors
    /// The peer is not what the supervisor says it is.
    pub fn add_peer(
        &self,
        slot: Slot,
        incarnation: u32,
        outbox: OwnedFd,
        bell: OwnedFd,
        retired: bool,
    ) -> Result<(), PeerError> {
        let shared = &self.shared;
        if usize::from(slot) >= MAX_SLOTS || slot == shared.place.slot {
            return Err(PeerError::Slot { slot });
        }
        let mut table = shared.table();
        let newest = table.newest[usize::from(slot)].as_ref().map(|peer| peer.incarnation);
        if !retired && newest.is_some_and(|known| known > incarnation) {
            return Err(PeerError::Stale { slot, incarnation });
        }
        let peer = Arc::new(Peer::open(shared.place.herd, slot, incarnation, outbox, bell)?);
        let (last, met) = (table.met[usize::from(slot)], Met { incarnation, base: peer.base });
        if met == last && retired {
            // Known, but perhaps not its death, over which a supervisor may have died.
            drop(table);
            self.gone(slot, incarnation);
            return Ok(());
        }
        if met == last || (retired && met.base < last.base) {
            // Read, or being read: to begin again would be to read it twice.
            return Ok(());
        }
        let start = table.start_of(&peer);
        table.met[usize::from(slot)] = met;
        table.forget(slot, |_| true);
        if last == Met::default() {
            // The first of its slot: the drain reads nothing else of it. Shown now, since it may not be turned soon.
            shared.own.publish(layout::cursor(slot), start);
        }
        if table.incoming.len() >= MAX_INCOMING {
            table.incoming.retain(|incoming| !incoming.peer.is_gone());
        }
        table.incoming.push(Incoming { peer: peer.clone(), start });
        table.newest[usize::from(slot)] = Some(peer);
        if retired {
            table.forget(slot, |_| true);
        } else {
            self.show_mapped(slot, true);
        }
        drop(table);
        shared.changed();
        Ok(())
    }

    /// A peer is dead or left: it is read to its end and then unmapped, and nobody waits for it from now on.
    pub fn gone(&self, slot: Slot, incarnation: u32) {
        if usize::from(slot) >= MAX_SLOTS {
            return;
        }
        let mut table = self.shared.table();
        table.forget(slot, |peer| peer.incarnation <= incarnation);
        self.show_mapped(slot, table.newest[usize::from(slot)].is_some());
        drop(table);
        self.shared.changed();
    }

    /// Everybody knows us: whoever comes from now on is newer than we are.
    pub fn joined(&self) {
        self.shared.table().joined = true;
    }

    /// Goes over to the directory of a new supervisor.
    ///
    /// # Errors
    /// It is no directory, or another herd's.
    pub fn renew_directory(&self, fd: OwnedFd) -> Result<(), JoinError> {
        let directory = open_directory(self.shared.place.herd, fd)?;
        self.shared.table().directory = Arc::new(directory);
        self.shared.changed();
        Ok(())
    }

    /// The directory in use.
    pub fn directory(&self) -> Arc<DirectoryReader> {
        self.shared.table().directory.clone()
    }

    /// The version of the directory in use, as it is now.
    pub fn directory_version(&self) -> u64 {
        self.directory().version()
    }

    /// Shows up to which directory version this participant has acted.
    pub fn set_seen(&self, version: u64) {
        self.shared.own.publish(layout::seen(self.shared.place.slot), version);
    }

    /// Up to which directory version a living peer says to have acted. A hint: nothing keeps it from lying.
    pub fn seen(&self, slot: Slot) -> Option<u64> {
        self.peer(slot).map(|peer| peer.map.load(layout::seen(slot)))
    }

    /// Shows a sign of life.
    pub fn beat(&self) {
        self.shared.own.store(layout::beat(self.shared.place.slot), monotonic_ns());
    }

    /// When a living peer last showed a sign of life, in nanoseconds of CLOCK_MONOTONIC. A hint.
    pub fn last_beat(&self, slot: Slot) -> Option<u64> {
        self.peer(slot).map(|peer| peer.map.load(layout::beat(slot)))
    }

    /// Says in the own outbox that nothing more comes.
    pub fn leave(&self) {
        self.shared.own.publish(layout::leaving(self.shared.place.slot), 1);
    }

    /// Wakes the own drain, and a publisher that waits for room.
    pub fn wake(&self) {
        self.shared.changed();
    }

    /// The place that was taken.
    pub fn place(&self) -> &Place {
        &self.shared.place
    }

    /// How far a slot's ring has come; `None` for one that never was here. Its `head` is what
    /// [`layout::next_base`] wants for the slot's next incarnation.
    pub fn peer_position(&self, slot: Slot) -> Option<PeerPosition> {
        let table = self.shared.table();
        let past = *table.past.get(usize::from(slot))?;
        let peer = table.newest[usize::from(slot)].as_ref();
        let head = peer.map_or(past, |peer| peer.head().max(past));
        let cursor = self.shared.own.load(layout::cursor(slot));
        (head > 0).then_some(PeerPosition { incarnation: peer.map(|peer| peer.incarnation), head, cursor })
    }

    /// How far `reader` has shown to have read the ring of `publisher`. Unchecked; `None` when `reader` is not here.
    pub fn cursor(&self, reader: Slot, publisher: Slot) -> Option<u64> {
        self.read(reader, layout::cursor(publisher.min(MAX_SLOTS as Slot - 1)))
    }

    /// The counters that `slot`, ourselves included, keeps of a channel. Unchecked; `None` when it is not here.
    pub fn counters(&self, slot: Slot, channel: ChannelId) -> Option<Counters> {
        if usize::from(channel.0) >= layout::MAX_CHANNELS {
            return None;
        }
        let one = |which| self.read(slot, layout::counter(channel, which));
        Some(Counters {
            published: one(Counter::Published)?,
            delivered: one(Counter::Delivered)?,
            lost: one(Counter::Lost)?,
            rejected: one(Counter::Rejected)?,
        })
    }

    /// The peers that were dropped because they broke a rule, since the last call.
    pub fn accusations(&self) -> Vec<Accusation> {
        std::mem::take(&mut *self.shared.accusations.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The own bell, for whoever watches it in a runtime of their own.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }

    fn read(&self, slot: Slot, word: usize) -> Option<u64> {
        if slot == self.shared.place.slot {
            return Some(self.shared.own.load(word));
        }
        self.peer(slot).map(|peer| peer.map.load(word))
    }

    fn peer(&self, slot: Slot) -> Option<Arc<Peer>> {
        self.shared.table().newest.get(usize::from(slot))?.clone()
    }

    /// Called with the table locked: the words have one writer.
    fn show_mapped(&self, peer: Slot, mapped: bool) {
        let word = layout::mapped(self.shared.place.slot, peer);
        let bit = 1 << (peer % 64);
        let before = self.shared.own.load(word);
        self.shared.own.publish(word, if mapped { before | bit } else { before & !bit });
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
