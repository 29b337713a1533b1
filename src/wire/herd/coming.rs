//! Somebody comes: a slot, an outbox, and the introduction to everybody else.

use std::io;
use std::os::fd::AsFd;

use herdwire_ipc::directory::SlotState;
use herdwire_ipc::link::{ToInstance, Welcome};
use herdwire_ipc::{SUPERVISOR, Slot, layout, memory};

use super::{Herd, HerdError, Links, forget, keep, new_outbox, tell};
use crate::config::spec::Transport;
use crate::wire::barrier::Then;
use crate::wire::link::Key;
use crate::wire::member::{NOBODY, Outbox, Retired, Seat, Standing};
use crate::wire::{Member, Surroundings};

/// What the newcomer to a slot gets, and where what its predecessor wrote ends.
pub(super) struct Fresh {
    pub(super) outbox: Outbox,
    pub(super) base: u64,
    end: u64,
}

impl Herd {
    /// A process says hello: gives it its slot, or the one that its predecessor left.
    pub(in crate::wire) fn welcome(
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
        let fresh = self.take_slot(slot, member, around)?;
        let incarnation = fresh.outbox.incarnation;
        self.sit_down(slot, member, fresh, Standing::Joining);
        self.retire(slot, around);
        self.directory.set_slot(slot, SlotState::Joining, incarnation, Some(member.instance));
        self.directory.bump();
        self.send_welcome(slot, member, request, links);
        Ok(())
    }

    /// Makes what a newcomer to a slot is to have, and stores it before anybody hears of it.
    pub(super) fn take_slot(&mut self, slot: Slot, member: &Member, around: &Surroundings) -> Result<Fresh, HerdError> {
        let base = self.next_base(slot, member.spec.ring_bytes);
        let end = self.end_of(slot);
        self.vacate(slot, around);
        let incarnation = self.next_incarnation(slot, member);
        let outbox = new_outbox(self.id, slot, incarnation, member.spec.ring_bytes)?;
        keep(around, self.id, slot, &outbox);
        Ok(Fresh { outbox, base, end })
    }

    /// Seats a member in its slot; what its predecessor had there is retired.
    pub(super) fn sit_down(&mut self, slot: Slot, member: &Member, fresh: Fresh, standing: Standing) {
        let Fresh { outbox, base, end } = fresh;
        let mut retired = Vec::new();
        if let Some(before) = self.seats.remove(&slot) {
            retired = before.retired;
            retired.push(Retired { outbox: before.outbox, end });
        }
        let seat = Seat {
            slot,
            instance: member.instance,
            process: member.incarnation,
            stands_in: member.transport == Transport::Pipe,
            standing,
            outbox,
            retired,
            base,
            late: false,
            leaving: false,
        };
        self.seats.insert(slot, seat);
    }

    /// Lets go of what a deleted instance left in its slot: it is no predecessor of whoever comes there next.
    pub(super) fn vacate(&mut self, slot: Slot, around: &Surroundings) {
        if let Some(seat) = self.seats.remove(&slot) {
            if seat.instance != NOBODY {
                self.seats.insert(slot, seat);
                return;
            }
            for outbox in seat.retired.iter().map(|retired| &retired.outbox).chain([&seat.outbox]) {
                forget(around, self.id, slot, outbox.incarnation);
            }
        }
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
            incarnation: seat.outbox.incarnation,
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
    pub(in crate::wire) fn mapped(&mut self, key: Key, links: &mut Links) -> io::Result<()> {
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
        self.directory.set_slot(slot, SlotState::Running, outbox.incarnation, Some(key.instance));
        self.make_known(slot, key, &outbox, links);
        Ok(())
    }

    /// Introduces a participant that runs now to all others, and them to it.
    pub(super) fn make_known(&mut self, slot: Slot, key: Key, outbox: &Outbox, links: &mut Links) {
        let version = self.directory.bump();
        let peer = ToInstance::Peer { slot, incarnation: outbox.incarnation, retired: false };
        for other in self.running().filter(|other| *other != key) {
            tell(links, other, 0, &peer, &[&outbox.memory, &outbox.bell]);
        }
        self.introduce_all_to(key, links);
        self.look_again(version, Then::Joined(key), links);
    }

    /// The number of the next outbox of a slot: that of its process, but for one that was stood in for more than once.
    pub(super) fn next_incarnation(&self, slot: Slot, member: &Member) -> u32 {
        let seat = self.seats.get(&slot).filter(|seat| seat.instance == member.instance);
        seat.map_or(0, |seat| seat.outbox.incarnation + 1).max(member.incarnation)
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
    pub(in crate::wire) fn renew(&mut self, key: Key, links: &mut Links) {
        tell(links, key, 0, &ToInstance::Renewed, &[&self.directory_memory]);
        if self.slot_of(key).is_some() {
            self.introduce_all_to(key, links);
            tell(links, key, 0, &ToInstance::LookAgain { version: self.directory.version() }, &[]);
        }
    }
}
