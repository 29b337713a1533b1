//! One herd: its directory, its seats, its own place in it.
//!
//! Owns the herd's memory and decides who is told what, over links that the actor lends it. What happens when somebody
//! comes, listens or goes stands in `coming`, `listening` and `going`, whom the supervisor stands in for in `standing_in`; what comes from outside in `outside`; the
//! figures in `counting`.
//!
//! Invariants
//! - An outbox is in the store before its owner hears of it, and sealed before anybody else does.
//! - Every change of the directory is one bump of its version, and every running participant is told to look again.
//! - A newcomer is told that it has joined only when all running participants know it, or the wait for them is over.

mod coming;
mod counting;
mod going;
mod listening;
mod outside;
mod standing_in;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use herdwire_ipc::directory::{Directory, DirectoryError, SlotState};
use herdwire_ipc::link::ToInstance;
use herdwire_ipc::{Accusation, Control, Counters, Participant, Place, Publisher, SUPERVISOR, Slot};
use herdwire_ipc::{layout, memory};
use tokio::task::JoinHandle;

use super::Surroundings;
use super::barrier::Barrier;
use super::link::{Key, Link};
use super::member::{NOBODY, Outbox, Retired, Seat, Standing};
use crate::keeper::name::{Kind, Name};
use crate::relay::{Message, ToWire};

/// Bytes of the supervisor's own ring in each herd.
const OWN_RING: u64 = 1 << 20;

/// Bytes of the largest message from outside. What the ring can take in one record is less and decides.
const OWN_MESSAGE: u64 = 16 << 20;

/// The links of all instances, by process.
pub(super) type Links = BTreeMap<Key, Link>;

pub(super) struct Herd {
    pub id: u32,
    pub name: Arc<str>,
    directory: Directory,
    directory_memory: Arc<OwnedFd>,
    /// Counts supervisors that wrote a directory of this herd.
    generation: u32,
    /// The supervisor's own place.
    own: Outbox,
    publisher: Publisher,
    control: Control,
    drain: JoinHandle<()>,
    seats: BTreeMap<Slot, Seat>,
    barriers: Vec<Barrier>,
    /// What came from outside and found no room, oldest first.
    waiting: VecDeque<(ToWire, Message)>,
    dropped: u64,
    /// What participants that are dead had counted, by channel.
    past: BTreeMap<u16, Counters>,
    rates: Rates,
}

/// Published counts of the last look, for rates.
#[derive(Debug)]
struct Rates {
    at: Instant,
    published: BTreeMap<u16, u64>,
    per_second: BTreeMap<u16, f64>,
}

/// Why a herd could not be set up or entered.
#[derive(Debug, thiserror::Error)]
pub(super) enum HerdError {
    #[error("cannot create the herd's shared memory: {0}")]
    Memory(#[from] io::Error),
    #[error("the supervisor cannot join its own herd: {0}")]
    Join(#[from] herdwire_ipc::JoinError),
    #[error("the herd's directory cannot be used: {0}")]
    Directory(#[from] DirectoryError),
    #[error("the herd is full: it has {} participants already", layout::MAX_SLOTS - 1)]
    Full,
}

/// What a predecessor left of a herd.
pub(super) struct Remains {
    pub id: u32,
    pub generation: u32,
    pub directory: OwnedFd,
    /// (slot, incarnation) to outbox and bell.
    pub outboxes: BTreeMap<(Slot, u32), (OwnedFd, OwnedFd)>,
}

impl Herd {
    /// Makes a herd that nobody is in yet.
    pub(super) fn create(id: u32, name: Arc<str>, around: &Surroundings) -> Result<Herd, HerdError> {
        let memory = memory::create_directory(&format!("herdwire-directory-{id}"))?;
        let directory = Directory::create(memory.as_fd(), u64::from(id), &name, layout::LAYOUT_VERSIONS.1)?;
        Herd::enter(id, name, directory, memory, 1, None, around)
    }

    /// Takes a herd over from a predecessor: a directory and an outbox of our own, the same numbers, slots and
    /// subscriptions. Instances hear of it when their links are attached.
    pub(super) fn adopt(remains: Remains, around: &Surroundings) -> Result<Herd, HerdError> {
        let memory = memory::create_directory(&format!("herdwire-directory-{}", remains.id))?;
        let directory = Directory::succeed(memory.as_fd(), remains.directory.as_fd())?;
        let name: Arc<str> = directory.herd_name().into();
        let (mut own, outboxes): (BTreeMap<_, _>, BTreeMap<_, _>) =
            remains.outboxes.into_iter().partition(|((slot, _), _)| *slot == SUPERVISOR);
        own.retain(|(slot, incarnation), (memory, _)| {
            // Its supervisor died before it had taken it: nobody has read or written anything there.
            let taken = is_taken(memory);
            if !taken {
                forget(around, remains.id, *slot, *incarnation);
            }
            taken
        });
        let predecessor = own.pop_last().map(|((_, incarnation), (memory, bell))| (incarnation, memory, bell));
        for (slot, incarnation) in own.into_keys() {
            forget(around, remains.id, slot, incarnation);
        }
        let generation = remains.generation + 1;
        let mut herd = Herd::enter(remains.id, name, directory, memory, generation, predecessor, around)?;
        herd.seat_inherited(outboxes, around);
        around.store.forget(Name::new(Kind::Directory, remains.id, remains.generation));
        Ok(herd)
    }

    fn enter(
        id: u32,
        name: Arc<str>,
        mut directory: Directory,
        memory: OwnedFd,
        generation: u32,
        predecessor: Option<(u32, OwnedFd, OwnedFd)>,
        around: &Surroundings,
    ) -> Result<Herd, HerdError> {
        let incarnation = predecessor.as_ref().map_or(0, |(incarnation, ..)| *incarnation) + 1;
        let base = match &predecessor {
            Some((_, outbox, _)) => layout::next_base(herdwire_ipc::head_of(outbox.as_fd())?, OWN_RING),
            None => OWN_RING,
        };
        let own = new_outbox(id, SUPERVISOR, incarnation, OWN_RING)?;
        memory::seal(memory.as_fd())?;
        let memory = Arc::new(memory);
        around.store.keep(Name::new(Kind::Directory, id, generation), memory.as_fd());
        keep(around, id, SUPERVISOR, &own);
        directory.set_slot(SUPERVISOR, SlotState::Running, incarnation, None);
        directory.bump();
        let place = Place {
            herd: u64::from(id),
            slot: SUPERVISOR,
            incarnation,
            ring_bytes: OWN_RING,
            base,
            stall_timeout: std::time::Duration::ZERO,
            max_message: OWN_MESSAGE,
        };
        let old = match &predecessor {
            Some((_, outbox, _)) => Some(outbox.try_clone()?),
            None => None,
        };
        let Participant { publisher, drain, control } =
            herdwire_ipc::join(&place, own.memory.try_clone()?, own.bell.try_clone()?, memory.try_clone()?, old)?;
        memory::seal(own.memory.as_fd())?;
        if let Some((incarnation, ..)) = predecessor {
            forget(around, id, SUPERVISOR, incarnation);
        }
        let drain = super::actor::spawn_drain(Arc::clone(&name), drain, control.clone(), around)?;
        let rates = Rates { at: Instant::now(), published: BTreeMap::new(), per_second: BTreeMap::new() };
        Ok(Herd {
            id,
            name,
            directory,
            directory_memory: memory,
            generation,
            own,
            publisher,
            control,
            drain,
            seats: BTreeMap::new(),
            barriers: Vec::new(),
            waiting: VecDeque::new(),
            dropped: 0,
            past: BTreeMap::new(),
            rates,
        })
    }

    /// Instance, incarnation and beat of everybody who runs.
    pub(super) fn beats(&self) -> impl Iterator<Item = (u32, u32, u64)> {
        let running = self.seats.values().filter(|seat| seat.is_running());
        running.filter_map(|seat| Some((seat.instance, seat.process, self.control.last_beat(seat.slot)?)))
    }

    /// Sits everybody down again whom the directory and the store know.
    fn seat_inherited(&mut self, outboxes: BTreeMap<(Slot, u32), (OwnedFd, OwnedFd)>, around: &Surroundings) {
        for ((slot, incarnation), (memory, bell)) in outboxes {
            let place = self.directory.slot(slot);
            let Some(ring_bytes) = ring_bytes(&memory) else {
                forget(around, self.id, slot, incarnation);
                continue;
            };
            // One that is not sealed has never been anybody's, but perhaps a newcomer's that is just taking it.
            let is_awaited = place.state == SlotState::Joining && place.incarnation == incarnation;
            if place.state == SlotState::Free || !(is_awaited || is_taken(&memory)) {
                forget(around, self.id, slot, incarnation);
                continue;
            }
            let outbox = Outbox { incarnation, memory: Arc::new(memory), bell: Arc::new(bell), ring_bytes };
            let standing = match place.state {
                SlotState::Joining => Standing::Joining,
                SlotState::Running => Standing::Running,
                SlotState::Free | SlotState::Down => Standing::Down,
            };
            let retired = incarnation < place.incarnation;
            let before = self.control.peer_position(slot).map(|position| position.head);
            if retired || standing != Standing::Joining {
                self.map(slot, &outbox, retired || standing == Standing::Down);
            }
            let seat = self.seats.entry(slot).or_insert_with(|| Seat {
                slot,
                instance: place.instance.unwrap_or(NOBODY),
                process: incarnation,
                stands_in: false,
                standing,
                outbox: outbox.clone(),
                retired: Vec::new(),
                base: 0,
                late: false,
                leaving: false,
            });
            // Incarnations come in rising order, so the last one is who sits there.
            if seat.outbox.incarnation < incarnation {
                let old = std::mem::replace(&mut seat.outbox, outbox);
                seat.process = incarnation;
                seat.retired.push(Retired { outbox: old, end: before.unwrap_or(0) });
            }
        }
        // Said to whoever has not heard it: the same as before, since nobody has published in this slot meanwhile.
        let joining = |seat: &&Seat| seat.standing == Standing::Joining;
        let bases = self.seats.values().filter(joining).map(|seat| (seat.slot, seat.outbox.ring_bytes));
        for (slot, ring_bytes) in bases.collect::<Vec<_>>() {
            let base = self.next_base(slot, ring_bytes);
            self.seats.get_mut(&slot).expect("it was just listed").base = base;
        }
    }

    /// Everybody who lives has a link again: whoever sits here and has none died together with a supervisor that did
    /// not come to say so.
    pub(super) fn part_with_the_dead(&mut self, lives: impl Fn(Key) -> bool, links: &mut Links, around: &Surroundings) {
        let seated = self.seats.values().filter(|seat| seat.standing != Standing::Down).map(Seat::key);
        for key in seated.filter(|key| !lives(*key)).collect::<Vec<_>>() {
            self.down(key, links, around);
        }
    }

    /// Lets the supervisor itself read a participant.
    fn map(&self, slot: Slot, outbox: &Outbox, retired: bool) {
        let memory = outbox.memory.try_clone();
        let bell = outbox.bell.try_clone();
        let mapped = memory.and_then(|memory| bell.map(|bell| (memory, bell)));
        let result = mapped.map_err(|error| error.to_string()).and_then(|(memory, bell)| {
            self.control.add_peer(slot, outbox.incarnation, memory, bell, retired).map_err(|error| error.to_string())
        });
        if let Err(error) = result {
            tracing::warn!(herd = %self.name, slot, "cannot map a participant: {error}");
        }
    }

    /// Whether this very process has a seat.
    pub(super) fn is_seated(&self, key: Key) -> bool {
        self.slot_of(key).is_some()
    }

    /// This process was told to finish.
    pub(super) fn leaves(&mut self, key: Key) {
        if let Some(seat) = self.seats.values_mut().find(|seat| seat.key() == key) {
            seat.leaving = true;
        }
    }

    /// Beats, lets go of what nobody needs, retries what waits. Once a second or so.
    pub(super) fn tick(&mut self, links: &mut Links, around: &Surroundings) {
        self.control.beat();
        for slot in self.seats.keys().copied().collect::<Vec<_>>() {
            self.retire(slot, around);
        }
        for Accusation { slot, incarnation, rule } in self.control.accusations() {
            tracing::warn!(herd = %self.name, slot, incarnation, "a participant broke the layout and is not read any more: {rule}");
        }
        self.settle(links);
        self.flush();
    }

    /// Whether nobody is here, and nothing of anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Lets go of the herd's own memory: nobody is left to use it.
    pub(super) fn leave_nothing(&self, around: &Surroundings) {
        around.store.forget(Name::new(Kind::Directory, self.id, self.generation));
        forget(around, self.id, SUPERVISOR, self.own.incarnation);
    }

    /// Whether something waits that time alone moves on.
    pub(super) fn is_pressing(&self) -> bool {
        !self.barriers.is_empty() || !self.waiting.is_empty()
    }

    fn seat_of(&self, instance: u32) -> Option<&Seat> {
        self.seats.values().find(|seat| seat.instance == instance)
    }

    fn slot_of(&self, key: Key) -> Option<Slot> {
        self.seats.values().find(|seat| seat.key() == key).map(|seat| seat.slot)
    }

    fn running(&self) -> impl Iterator<Item = Key> {
        self.seats.values().filter(|seat| seat.is_running()).map(Seat::key)
    }

    fn free_slot(&self) -> Option<Slot> {
        let free = (1..layout::MAX_SLOTS as Slot).find(|slot| !self.seats.contains_key(slot));
        free.or_else(|| self.seats.values().find(|seat| seat.instance == NOBODY).map(|seat| seat.slot))
    }

    /// Where the next ring of a slot begins: positions only ever grow.
    fn next_base(&self, slot: Slot, ring_bytes: u64) -> u64 {
        layout::next_base(self.end_of(slot), ring_bytes)
    }

    /// The highest position that a slot's rings have reached.
    fn end_of(&self, slot: Slot) -> u64 {
        if let Some(position) = self.control.peer_position(slot) {
            return position.head;
        }
        // Its rings are gone, and so is the supervisor that knew them. What readers say is all there is, and a liar
        // among them must not use up what positions there are.
        const BELIEVED: u64 = layout::POSITION_LIMIT / 4;
        let readers = self.seats.values().filter(|seat| seat.is_running()).map(|seat| seat.slot);
        let read = readers.filter_map(|reader| self.control.cursor(reader, slot));
        read.filter(|cursor| *cursor < BELIEVED).max().unwrap_or(0)
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        self.drain.abort();
    }
}

fn new_outbox(herd: u32, slot: Slot, incarnation: u32, ring_bytes: u64) -> io::Result<Outbox> {
    let memory = memory::create_outbox(&format!("herdwire-outbox-{herd}-{slot}-{incarnation}"), ring_bytes)?;
    let bell = memory::create_bell()?;
    Ok(Outbox { incarnation, memory: Arc::new(memory), bell: Arc::new(bell), ring_bytes })
}

fn keep(around: &Surroundings, herd: u32, slot: Slot, outbox: &Outbox) {
    around.store.keep(Name::part(Kind::Outbox, herd, slot, outbox.incarnation), outbox.memory.as_fd());
    around.store.keep(Name::part(Kind::Bell, herd, slot, outbox.incarnation), outbox.bell.as_fd());
}

fn forget(around: &Surroundings, herd: u32, slot: Slot, incarnation: u32) {
    around.store.forget(Name::part(Kind::Outbox, herd, slot, incarnation));
    around.store.forget(Name::part(Kind::Bell, herd, slot, incarnation));
}

fn tell(links: &mut Links, key: Key, id: u64, message: &ToInstance, descriptors: &[&Arc<OwnedFd>]) {
    if let Some(link) = links.get_mut(&key) {
        link.tell(id, message, descriptors);
    }
}

/// Whether an outbox has ever had an owner: it is sealed as soon as its owner has mapped it.
fn is_taken(memory: &OwnedFd) -> bool {
    ring_bytes(memory).is_some_and(|bytes| memory::verify(memory.as_fd(), bytes).is_ok())
}

/// Bytes of an outbox's ring, by the size of its memory.
fn ring_bytes(memory: &OwnedFd) -> Option<u64> {
    let size = nix::sys::stat::fstat(memory).ok()?.st_size as u64;
    size.checked_sub(layout::OUTBOX_HEAD).filter(|bytes| layout::is_ring_size(*bytes))
}
