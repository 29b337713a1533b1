//! Somebody goes: its slot stays for a successor, its last records for those who have not read them.

use herdwire_ipc::directory::SlotState;
use herdwire_ipc::link::ToInstance;
use herdwire_ipc::{ChannelId, SUPERVISOR, Slot};

use super::{Herd, Links, forget, tell};
use crate::wire::Surroundings;
use crate::wire::link::Key;
use crate::wire::member::{NOBODY, RETIRED, Seat, Standing};

impl Herd {
    /// A process is gone. Its slot stays for its successor; what it committed is read to the end.
    pub(in crate::wire) fn down(&mut self, key: Key, links: &mut Links, around: &Surroundings) {
        let Some(slot) = self.slot_of(key) else { return };
        let seat = self.seats.get_mut(&slot).expect("its slot was just found");
        match seat.standing {
            Standing::Down => {}
            Standing::Joining => self.give_back(slot, links, around),
            Standing::Running => {
                seat.standing = Standing::Down;
                let incarnation = seat.outbox.incarnation;
                self.directory.set_slot(slot, SlotState::Down, incarnation, Some(key.instance));
                self.part(slot, incarnation, links);
            }
        }
    }

    /// Who was welcomed has died before anybody knew it: its outbox is nobody's, and its predecessor's is still where
    /// the next one goes on.
    fn give_back(&mut self, slot: Slot, links: &mut Links, around: &Surroundings) {
        let seat = self.seats.get_mut(&slot).expect("the caller has found it");
        let (instance, incarnation) = (seat.instance, seat.outbox.incarnation);
        match seat.retired.pop() {
            Some(predecessor) => {
                let before = predecessor.outbox.incarnation;
                seat.outbox = predecessor.outbox;
                seat.standing = Standing::Down;
                self.directory.set_slot(slot, SlotState::Down, before, Some(instance));
            }
            None => {
                self.seats.remove(&slot);
                self.directory.set_slot(slot, SlotState::Free, incarnation, None);
            }
        }
        let version = self.directory.bump();
        forget(around, self.id, slot, incarnation);
        self.tell_all(version, links);
    }

    /// An instance is deleted. Its slot is free once everybody has read what it left.
    pub(in crate::wire) fn forget(&mut self, instance: u32, links: &mut Links) {
        let seat = self.seat_of(instance);
        let Some((slot, incarnation)) = seat.map(|seat| (seat.slot, seat.outbox.incarnation)) else { return };
        let channels: Vec<ChannelId> = self.directory.channels().map(|(id, _)| id).collect();
        for channel in channels {
            self.directory.set_subscribed(channel, slot, false);
        }
        let seat = self.seats.get_mut(&slot).expect("its seat was just found");
        seat.standing = Standing::Down;
        seat.instance = NOBODY;
        self.directory.set_slot(slot, SlotState::Free, incarnation, None);
        self.part(slot, incarnation, links);
    }

    fn part(&mut self, slot: Slot, incarnation: u32, links: &mut Links) {
        self.remember_counters(slot);
        let version = self.directory.bump();
        self.control.gone(slot, incarnation);
        for barrier in &mut self.barriers {
            barrier.gone(slot);
        }
        for other in self.running() {
            tell(links, other, 0, &ToInstance::Gone { slot, incarnation }, &[]);
            tell(links, other, 0, &ToInstance::LookAgain { version }, &[]);
        }
        self.settle(links);
    }

    /// Lets go of dead outboxes: those that every participant has read to the end, and the oldest beyond the limit.
    pub(in crate::wire) fn retire(&mut self, slot: Slot, around: &Surroundings) {
        // Whoever is away has a successor to come, which goes on where its predecessor stopped.
        let is_away = |seat: &Seat| seat.instance != NOBODY && !seat.is_running();
        let somebody_is_away = self.seats.values().any(|seat| seat.slot != slot && is_away(seat));
        let readers = self.seats.values().filter(|seat| seat.slot != slot && seat.is_running()).map(|seat| seat.slot);
        let cursors = readers.chain([SUPERVISOR]).filter_map(|reader| self.control.cursor(reader, slot));
        let slowest = cursors.min().unwrap_or(u64::MAX);
        let end = self.control.peer_position(slot).map_or(0, |position| position.head);
        let Some(seat) = self.seats.get_mut(&slot) else { return };
        if seat.instance == NOBODY && !somebody_is_away && slowest >= end {
            return self.vacate(slot, around);
        }
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
}
