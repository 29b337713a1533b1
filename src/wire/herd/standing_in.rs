//! A place for somebody whom the supervisor stands in for: taken, mapped and sealed here, in one step.

use std::os::fd::AsFd;

use herdwire_ipc::directory::SlotState;
use herdwire_ipc::{Participant, Place, Slot, memory};

use super::{Herd, HerdError, Links};
use crate::wire::link::{Key, Link};
use crate::wire::member::{Outbox, Standing};
use crate::wire::standin::Seated;
use crate::wire::{Member, Surroundings};

impl Herd {
    /// Seats a member's stand-in, or seats it again in the place of one that a predecessor of ours was.
    ///
    /// Until its new outbox is known the old one holds publishers up, so that nothing is overwritten in between.
    pub(in crate::wire) fn stand_in(
        &mut self,
        member: &Member,
        links: &mut Links,
        around: &Surroundings,
    ) -> Result<(), HerdError> {
        let slot = match self.seat_of(member.instance) {
            Some(seat) => seat.slot,
            None => self.free_slot().ok_or(HerdError::Full)?,
        };
        let key = Key { instance: member.instance, incarnation: member.incarnation };
        let Some(Link::StandIn(stand_in)) = links.get(&key) else { return Ok(()) };
        let fresh = self.take_slot(slot, member, around)?;
        let outbox = fresh.outbox.clone();
        let (mut published, mut predecessor) = (false, None);
        if stand_in.is_inherited() {
            let (written, head) = stand_in.written();
            published = self
                .outbox_of(slot, written)
                .is_some_and(|outbox| herdwire_ipc::head_of(outbox.memory.as_fd()).is_ok_and(|reached| reached > head));
            predecessor = Some(herdwire_ipc::predecessor_at(slot, stand_in.cursors())?);
        } else if let Some(seat) = self.seats.get(&slot) {
            predecessor = Some(seat.outbox.memory.try_clone()?);
        }
        let place = Place {
            herd: u64::from(self.id),
            slot,
            incarnation: outbox.incarnation,
            ring_bytes: member.spec.ring_bytes,
            base: fresh.base,
            stall_timeout: member.spec.stall_timeout,
            max_message: member.spec.max_message,
        };
        let (own, bell) = (outbox.memory.try_clone()?, outbox.bell.try_clone()?);
        let Participant { publisher, drain, control } =
            herdwire_ipc::join(&place, own, bell, self.directory_memory.try_clone()?, predecessor)?;
        memory::seal(outbox.memory.as_fd())?;
        self.remember_counters(slot);
        self.sit_down(slot, member, fresh, Standing::Running);
        self.map(slot, &outbox, false);
        if let Some(Link::StandIn(stand_in)) = links.get_mut(&key) {
            stand_in.take_place(Seated { publisher, drain, control }, published);
        }
        self.directory.set_slot(slot, SlotState::Running, outbox.incarnation, Some(member.instance));
        self.make_known(slot, key, &outbox, links);
        Ok(())
    }

    /// The outbox of one incarnation of a slot, if it is still here.
    fn outbox_of(&self, slot: Slot, incarnation: u32) -> Option<&Outbox> {
        let seat = self.seats.get(&slot)?;
        let mut all = seat.retired.iter().map(|retired| &retired.outbox).chain([&seat.outbox]);
        all.find(|outbox| outbox.incarnation == incarnation)
    }
}
