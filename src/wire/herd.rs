//! One herd: its directory, its seats, and what happens when somebody comes, listens or goes.
//!
//! Owns the herd's memory and decides who is told what. Sends over links that the actor lends it.
//!
//! Invariants
//! - An outbox is in the store before its owner hears of it, and sealed before anybody else does.
//! - Every change of the directory is one bump of its version, and every running participant is told to look again.
//! - A newcomer is told that it has joined only when all running participants know it, or the wait for them is over.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use herdwire_ipc::directory::{Directory, DirectoryError, SlotState};
use herdwire_ipc::link::{ToInstance, Welcome};
use herdwire_ipc::{
    Accusation, ChannelId, Control, Counters, Outgoing, Participant, Place, PublishError, Publisher, SUPERVISOR, Slot,
    To,
};
use herdwire_ipc::{layout, memory};
use tokio::task::JoinHandle;

use super::barrier::{self, Barrier, Then};
use super::link::{Key, Link};
use super::member::{NOBODY, Outbox, RETIRED, Retired, Seat, Standing};
use super::{Member, Surroundings};
use crate::keeper::name::{Kind, Name};
use crate::relay::{Message, SessionId, ToWire};
use crate::supervisor::snapshot::{ChannelView, HerdView};

/// Bytes of the supervisor's own ring in each herd.
const OWN_RING: u64 = 1 << 20;

/// Bytes of the largest message from outside. What the ring can take in one record is less and decides.
const OWN_MESSAGE: u64 = 16 << 20;

/// Messages from outside that may wait for room in the supervisor's ring.
const WAITING: usize = 1024;

/// The links of all instances, by process.
pub(super) type Links = BTreeMap<Key, Link>;

pub(super) struct Herd {
    pub id: u32,
    pub name: Arc<str>,
    directory: Directory,
    directory_memory: Arc<OwnedFd>,
    /// The supervisor's own place.
    own: Outbox,
    publisher: Publisher,
    control: Control,
    drain: JoinHandle<()>,
    seats: BTreeMap<Slot, Seat>,
    barriers: Vec<Barrier>,
    /// What came from outside and found no room, oldest first.
    waiting: std::collections::VecDeque<(ToWire, Message)>,
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
        let mut outboxes = remains.outboxes;
        let own = outboxes.iter().map(|(key, _)| *key).filter(|(slot, _)| *slot == SUPERVISOR).max();
        let predecessor = own.and_then(|key| outboxes.remove(&key).map(|(memory, bell)| (key.1, memory, bell)));
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
            own,
            publisher,
            control,
            drain,
            seats: BTreeMap::new(),
            barriers: Vec::new(),
            waiting: std::collections::VecDeque::new(),
            dropped: 0,
            past: BTreeMap::new(),
            rates,
        })
    }

    /// Sits everybody down again whom the directory and the store know.
    fn seat_inherited(&mut self, outboxes: BTreeMap<(Slot, u32), (OwnedFd, OwnedFd)>, around: &Surroundings) {
        for ((slot, incarnation), (memory, bell)) in outboxes {
            let place = self.directory.slot(slot);
            let Some(ring_bytes) = ring_bytes(&memory) else {
                forget(around, self.id, slot, incarnation);
                continue;
            };
            if place.state == SlotState::Free {
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
                standing,
                outbox: outbox.clone(),
                retired: Vec::new(),
                base: 0,
            });
            // Incarnations come in rising order, so the last one is who sits there.
            if seat.outbox.incarnation < incarnation {
                let old = std::mem::replace(&mut seat.outbox, outbox);
                seat.retired.push(Retired { outbox: old, end: before.unwrap_or(0) });
            }
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

    // --- coming ---

    /// A process says hello: gives it its slot, or the one that its predecessor left.
    pub(super) fn welcome(
        &mut self,
        member: &Member,
        request: u64,
        links: &mut Links,
        around: &Surroundings,
    ) -> Result<(), HerdError> {
        let key = Key { instance: member.instance, incarnation: member.incarnation };
        let slot = match self.seat_of(member.instance) {
            Some(seat) if seat.key() == key && seat.standing == Standing::Joining => {
                // Asked again because a supervisor died in between: the same answer.
                self.send_welcome(seat.slot, member, request, links);
                return Ok(());
            }
            Some(seat) if seat.key() == key && seat.standing == Standing::Running => return Ok(()),
            Some(seat) => seat.slot,
            None => self.free_slot().ok_or(HerdError::Full)?,
        };
        let outbox = new_outbox(self.id, slot, member.incarnation, member.spec.ring_bytes)?;
        keep(around, self.id, slot, &outbox);
        let base = self.next_base(slot, member.spec.ring_bytes);
        let end = self.end_of(slot);
        match self.seats.get_mut(&slot) {
            Some(seat) => {
                let old = std::mem::replace(&mut seat.outbox, outbox);
                seat.retired.push(Retired { outbox: old, end });
                seat.standing = Standing::Joining;
                seat.base = base;
                seat.instance = member.instance;
            }
            None => {
                let (instance, retired) = (member.instance, Vec::new());
                let seat = Seat { slot, instance, standing: Standing::Joining, outbox, retired, base };
                self.seats.insert(slot, seat);
            }
        }
        self.retire(slot, around);
        self.directory.set_slot(slot, SlotState::Joining, member.incarnation, Some(member.instance));
        self.directory.bump();
        self.send_welcome(slot, member, request, links);
        Ok(())
    }

    fn send_welcome(&self, slot: Slot, member: &Member, request: u64, links: &mut Links) {
        let seat = &self.seats[&slot];
        let predecessor = seat.retired.last().map(|retired| &retired.outbox);
        let welcome = Welcome {
            layout: layout::LAYOUT_VERSIONS.1,
            herd: u64::from(self.id),
            herd_name: self.name.to_string(),
            app: member.app.to_string(),
            index: member.index,
            instance: member.instance,
            slot,
            incarnation: member.incarnation,
            ring_bytes: member.spec.ring_bytes,
            base: seat.base,
            successor: predecessor.is_some(),
            stall_timeout_ms: member.spec.stall_timeout.as_millis() as u64,
            max_message: member.spec.max_message,
        };
        let mut descriptors = vec![&seat.outbox.memory, &seat.outbox.bell, &self.directory_memory];
        descriptors.extend(predecessor.map(|outbox| &outbox.memory));
        tell(links, seat.key(), request, &ToInstance::Welcome(welcome), &descriptors);
    }

    /// A newcomer has mapped its outbox: seals it and makes it known.
    pub(super) fn mapped(&mut self, key: Key, links: &mut Links) -> io::Result<()> {
        let Some(slot) = self.slot_of(key) else { return Ok(()) };
        let seat = &self.seats[&slot];
        if seat.standing == Standing::Down {
            return Ok(());
        }
        memory::seal(seat.outbox.memory.as_fd())?;
        memory::verify(seat.outbox.memory.as_fd(), seat.outbox.ring_bytes).map_err(io::Error::other)?;
        let outbox = seat.outbox.clone();
        self.map(slot, &outbox, false);
        self.seats.get_mut(&slot).expect("looked up above").standing = Standing::Running;
        self.directory.set_slot(slot, SlotState::Running, key.incarnation, Some(key.instance));
        let version = self.directory.bump();
        let peer = ToInstance::Peer { slot, incarnation: key.incarnation, retired: false };
        for other in self.running().filter(|other| *other != key) {
            tell(links, other, 0, &peer, &[&outbox.memory, &outbox.bell]);
        }
        self.introduce_all_to(key, links);
        self.look_again(version, Then::Joined(key), links);
        Ok(())
    }

    /// Tells one participant of all others, the dead with unread records first.
    fn introduce_all_to(&self, key: Key, links: &mut Links) {
        let own = ToInstance::Peer { slot: SUPERVISOR, incarnation: self.own.incarnation, retired: false };
        tell(links, key, 0, &own, &[&self.own.memory, &self.own.bell]);
        for seat in self.seats.values().filter(|seat| seat.instance != key.instance) {
            for Retired { outbox, .. } in &seat.retired {
                let peer = ToInstance::Peer { slot: seat.slot, incarnation: outbox.incarnation, retired: true };
                tell(links, key, 0, &peer, &[&outbox.memory, &outbox.bell]);
            }
            if seat.standing != Standing::Joining {
                let retired = seat.standing == Standing::Down;
                let peer = ToInstance::Peer { slot: seat.slot, incarnation: seat.outbox.incarnation, retired };
                tell(links, key, 0, &peer, &[&seat.outbox.memory, &seat.outbox.bell]);
            }
        }
    }

    /// After a supervisor's death: tells one participant who serves it now, and all that it may have missed.
    pub(super) fn renew(&mut self, key: Key, links: &mut Links) {
        tell(links, key, 0, &ToInstance::Renewed, &[&self.directory_memory]);
        if self.slot_of(key).is_some() {
            self.introduce_all_to(key, links);
            tell(links, key, 0, &ToInstance::LookAgain { version: self.directory.version() }, &[]);
        }
    }

    // --- listening ---

    /// Gives a channel its number.
    pub(super) fn intern(&mut self, key: Key, request: u64, name: &str, links: &mut Links) {
        let answer = match self.channel(name) {
            Ok(id) => ToInstance::Channel { id: id.0, unaware: Vec::new() },
            Err(reason) => ToInstance::Failed { reason },
        };
        tell(links, key, request, &answer, &[]);
    }

    /// Sets or clears a subscription; answered once every running publisher knows.
    pub(super) fn subscribe(&mut self, key: Key, request: u64, name: &str, on: bool, links: &mut Links) {
        let Some(slot) = self.slot_of(key) else { return };
        match self.channel(name) {
            Ok(id) => {
                self.directory.set_subscribed(id, slot, on);
                let version = self.directory.bump();
                self.look_again(version, Then::Channel { to: key, request, id: id.0 }, links);
            }
            Err(reason) => tell(links, key, request, &ToInstance::Failed { reason }, &[]),
        }
    }

    /// The supervisor itself hears a channel, for bridge or front.
    pub(super) fn hear(&mut self, name: &str, links: &mut Links) {
        match self.channel(name) {
            Ok(id) => {
                self.directory.set_subscribed(id, SUPERVISOR, true);
                let version = self.directory.bump();
                self.tell_all(version, links);
            }
            Err(reason) => tracing::error!(herd = %self.name, "channel `{name}` cannot be heard: {reason}"),
        }
    }

    fn channel(&mut self, name: &str) -> Result<ChannelId, String> {
        if let Some(id) = self.directory.channel(name) {
            return Ok(id);
        }
        if name.is_empty() || name.len() > layout::MAX_NAME {
            return Err(format!("a channel's name has 1 to {} bytes, this one {}", layout::MAX_NAME, name.len()));
        }
        let id = self.directory.intern(name).map_err(|error| error.to_string())?;
        self.directory.bump();
        Ok(id)
    }

    fn look_again(&mut self, version: u64, then: Then, links: &mut Links) {
        let waiting: BTreeSet<Slot> =
            self.seats.values().filter(|seat| seat.is_running()).map(|seat| seat.slot).collect();
        self.barriers.push(Barrier { version, waiting, until: Instant::now() + barrier::LIMIT, then });
        self.tell_all(version, links);
        self.settle(links);
    }

    fn tell_all(&self, version: u64, links: &mut Links) {
        for key in self.running() {
            tell(links, key, 0, &ToInstance::LookAgain { version }, &[]);
        }
    }

    /// A participant has taken the directory over up to `version`.
    pub(super) fn seen(&mut self, key: Key, version: u64, links: &mut Links) {
        let Some(slot) = self.slot_of(key) else { return };
        for barrier in &mut self.barriers {
            barrier.seen(slot, version);
        }
        self.settle(links);
    }

    /// Answers what has waited long enough.
    pub(super) fn settle(&mut self, links: &mut Links) {
        let now = Instant::now();
        let (over, waiting) = std::mem::take(&mut self.barriers).into_iter().partition(|barrier| barrier.is_over(now));
        self.barriers = waiting;
        let over: Vec<Barrier> = over;
        for barrier in over {
            match barrier.then {
                Then::Joined(key) => tell(links, key, 0, &ToInstance::Joined, &[]),
                Then::Channel { to, request, id } => {
                    let unaware = barrier.waiting.into_iter().collect();
                    tell(links, to, request, &ToInstance::Channel { id, unaware }, &[]);
                }
            }
        }
    }

    // --- going ---

    /// A process is gone. Its slot stays for its successor; what it committed is read to the end.
    pub(super) fn down(&mut self, key: Key, links: &mut Links) {
        let Some(slot) = self.slot_of(key) else { return };
        let seat = self.seats.get_mut(&slot).expect("its slot was just found");
        if seat.standing == Standing::Down {
            return;
        }
        seat.standing = Standing::Down;
        self.directory.set_slot(slot, SlotState::Down, key.incarnation, Some(key.instance));
        self.part(slot, key, links);
    }

    /// An instance is deleted. The slot is free; the last outbox is kept, so that positions go on from there.
    pub(super) fn forget(&mut self, instance: u32, links: &mut Links) {
        let Some((slot, key)) = self.seat_of(instance).map(|seat| (seat.slot, seat.key())) else { return };
        let channels: Vec<ChannelId> = self.directory.channels().map(|(id, _)| id).collect();
        for channel in channels {
            self.directory.set_subscribed(channel, slot, false);
        }
        let seat = self.seats.get_mut(&slot).expect("its seat was just found");
        seat.standing = Standing::Down;
        seat.instance = NOBODY;
        self.directory.set_slot(slot, SlotState::Free, key.incarnation, None);
        self.part(slot, key, links);
    }

    fn part(&mut self, slot: Slot, key: Key, links: &mut Links) {
        self.remember_counters(slot);
        let version = self.directory.bump();
        self.control.gone(slot, key.incarnation);
        for barrier in &mut self.barriers {
            barrier.gone(slot);
        }
        for other in self.running() {
            tell(links, other, 0, &ToInstance::Gone { slot, incarnation: key.incarnation }, &[]);
            tell(links, other, 0, &ToInstance::LookAgain { version }, &[]);
        }
        self.settle(links);
    }

    /// Lets go of dead outboxes: those that every participant has read to the end, and the oldest beyond the limit.
    pub(super) fn retire(&mut self, slot: Slot, around: &Surroundings) {
        // Whoever is away has a successor to come, which goes on where its predecessor stopped.
        let is_away = |seat: &Seat| seat.instance != NOBODY && !seat.is_running();
        let somebody_is_away = self.seats.values().any(|seat| seat.slot != slot && is_away(seat));
        let readers = self.seats.values().filter(|seat| seat.slot != slot && seat.is_running()).map(|seat| seat.slot);
        let cursors = readers.chain([SUPERVISOR]).filter_map(|reader| self.control.cursor(reader, slot));
        let slowest = cursors.min().unwrap_or(u64::MAX);
        let Some(seat) = self.seats.get_mut(&slot) else { return };
        // A newcomer that has yet to map its outbox starts from its predecessor's cursors.
        let needed = usize::from(seat.standing == Standing::Joining);
        while seat.retired.len() > needed {
            let is_read = !somebody_is_away && slowest >= seat.retired[0].end;
            if !is_read && seat.retired.len() <= RETIRED {
                return;
            }
            let oldest = seat.retired.remove(0);
            forget(around, self.id, slot, oldest.outbox.incarnation);
        }
    }

    fn end_of(&self, slot: Slot) -> u64 {
        self.control.peer_position(slot).map_or(0, |position| position.head)
    }

    // --- from outside ---

    /// Publishes what came from outside, behind what already waits.
    pub(super) fn publish(&mut self, to: ToWire, message: Message) {
        if self.waiting.len() >= WAITING {
            self.dropped += 1;
            return;
        }
        self.waiting.push_back((to, message));
        self.flush();
    }

    /// Publishes what waits, as far as there is room.
    pub(super) fn flush(&mut self) {
        while let Some((to, message)) = self.waiting.front() {
            let Some(channel) = self.directory.channel(&message.topic.channel) else {
                self.waiting.pop_front();
                continue;
            };
            let to = match to {
                ToWire::Subscribers => To::Subscribers,
                ToWire::OneFor(session) => match self.one_for(channel, *session) {
                    Some(slot) => To::Slot(slot),
                    // Nobody listens: as with any channel, it is not written.
                    None => {
                        self.waiting.pop_front();
                        continue;
                    }
                },
            };
            let session = message.session.map(|session| session.0);
            let outgoing = Outgoing { to, tag: message.tag, session, payload: &message.payload };
            match self.publisher.try_publish(channel, outgoing) {
                Err(PublishError::Full) => return,
                Err(error) => {
                    tracing::warn!(herd = %self.name, channel = %message.topic.channel, "not published: {error}");
                    self.dropped += 1;
                }
                Ok(_) => {}
            }
            self.waiting.pop_front();
        }
    }

    /// The subscriber that a session's messages go to: by rendezvous hashing, so that a newcomer moves few sessions,
    /// among those that run, else among those that will come back.
    fn one_for(&self, channel: ChannelId, session: SessionId) -> Option<Slot> {
        let subscribers = self.directory.subscribers(channel);
        let listening = |running: bool| {
            self.seats
                .values()
                .filter(move |seat| seat.is_running() == running && seat.instance != NOBODY)
                .map(|seat| seat.slot)
                .filter(|slot| subscribers.contains(*slot))
                .max_by_key(|slot| mix(session.0, *slot))
        };
        listening(true).or_else(|| listening(false))
    }

    // --- looking ---

    pub(super) fn view(&mut self) -> HerdView {
        let now = Instant::now();
        let passed = now.duration_since(self.rates.at).as_secs_f64();
        let channels: Vec<(ChannelId, String)> =
            self.directory.channels().map(|(id, name)| (id, name.to_owned())).collect();
        let mut views = Vec::with_capacity(channels.len());
        for (id, name) in channels {
            let counters = self.counters(id);
            let before = self.rates.published.get(&id.0).copied();
            if passed >= 0.5 {
                let rate = before.map_or(0.0, |before| counters.published.saturating_sub(before) as f64 / passed);
                self.rates.per_second.insert(id.0, rate);
                self.rates.published.insert(id.0, counters.published);
            }
            let subscribers = self.directory.subscribers(id);
            views.push(ChannelView {
                name,
                subscribers: subscribers.iter().filter(|slot| *slot != SUPERVISOR).count() as u32,
                published: counters.published,
                delivered: counters.delivered,
                lost: counters.lost,
                rejected: counters.rejected,
                rate: self.rates.per_second.get(&id.0).copied().unwrap_or(0.0),
                bridged: false,
                shown: false,
            });
        }
        if passed >= 0.5 {
            self.rates.at = now;
        }
        let retired = self.seats.values().flat_map(|seat| &seat.retired).map(|retired| &retired.outbox);
        let outboxes = self.seats.values().map(|seat| &seat.outbox).chain(retired).chain([&self.own]);
        let memory: u64 = outboxes.map(|outbox| layout::OUTBOX_HEAD + outbox.ring_bytes).sum();
        HerdView {
            name: self.name.to_string(),
            participants: self.seats.values().filter(|seat| seat.is_running()).count() as u32,
            ring_bytes: self.seats.values().map(|seat| seat.outbox.ring_bytes).max().unwrap_or(OWN_RING),
            memory_bytes: memory + layout::DIRECTORY_BYTES,
            channels: views,
        }
    }

    /// A channel's counters over all participants, the dead included.
    fn counters(&self, channel: ChannelId) -> Counters {
        let slots = self.seats.values().filter(|seat| seat.is_running()).map(|seat| seat.slot);
        let living = slots.chain([SUPERVISOR]).filter_map(|slot| self.control.counters(slot, channel));
        let dead = self.past.get(&channel.0).copied().unwrap_or_default();
        living.fold(dead, add)
    }

    /// Keeps what a participant has counted, before its outbox goes.
    fn remember_counters(&mut self, slot: Slot) {
        let channels: Vec<ChannelId> = self.directory.channels().map(|(id, _)| id).collect();
        for channel in channels {
            if let Some(counters) = self.control.counters(slot, channel) {
                let sum = self.past.entry(channel.0).or_default();
                *sum = add(*sum, counters);
            }
        }
    }

    /// The slot of an instance that is, or will again be, a participant.
    pub(super) fn slot_of_instance(&self, instance: u32) -> Option<Slot> {
        self.seat_of(instance).map(|seat| seat.slot)
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
        let never_used = (1..layout::MAX_SLOTS as Slot).find(|slot| !self.seats.contains_key(slot));
        never_used.or_else(|| self.seats.values().find(|seat| seat.instance == NOBODY).map(|seat| seat.slot))
    }

    /// Where the next ring of a slot begins: positions only ever grow.
    fn next_base(&self, slot: Slot, ring_bytes: u64) -> u64 {
        layout::next_base(self.end_of(slot), ring_bytes)
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

fn add(a: Counters, b: Counters) -> Counters {
    Counters {
        published: a.published + b.published,
        delivered: a.delivered + b.delivered,
        lost: a.lost + b.lost,
        rejected: a.rejected + b.rejected,
    }
}

/// Bytes of an outbox's ring, by the size of its memory.
fn ring_bytes(memory: &OwnedFd) -> Option<u64> {
    let size = nix::sys::stat::fstat(memory).ok()?.st_size as u64;
    size.checked_sub(layout::OUTBOX_HEAD).filter(|bytes| layout::is_ring_size(*bytes))
}

/// A good enough hash of (session, slot): the finaliser of splitmix64.
fn mix(session: u128, slot: Slot) -> u64 {
    let mut z =
        (session as u64 ^ (session >> 64) as u64).wrapping_add(u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
