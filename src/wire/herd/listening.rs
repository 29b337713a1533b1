//! Channels and who hears them: every change is one bump of the directory, answered once all running publishers know.

use std::collections::BTreeSet;
use std::time::Instant;

use herdwire_ipc::link::ToInstance;
use herdwire_ipc::{ChannelId, SUPERVISOR, Slot, layout};

use super::{Herd, Links, tell};
use crate::wire::barrier::{self, Barrier, Then};
use crate::wire::link::Key;

impl Herd {
    /// Gives a channel its number.
    pub(in crate::wire) fn intern(&mut self, key: Key, request: u64, name: &str, links: &mut Links) {
        let answer = match self.channel(name) {
            Ok(id) => ToInstance::Channel { id: id.0, unaware: Vec::new() },
            Err(reason) => ToInstance::Failed { reason },
        };
        tell(links, key, request, &answer, &[]);
    }

    /// Sets or clears a subscription; answered once every running publisher knows.
    pub(in crate::wire) fn subscribe(&mut self, key: Key, request: u64, name: &str, on: bool, links: &mut Links) {
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

    /// The supervisor itself hears a channel, for bridge or front, or does not any more.
    pub(in crate::wire) fn hear(&mut self, name: &str, on: bool, links: &mut Links) {
        match self.channel(name) {
            Ok(id) => {
                self.directory.set_subscribed(id, SUPERVISOR, on);
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

    pub(super) fn look_again(&mut self, version: u64, then: Then, links: &mut Links) {
        let waiting: BTreeSet<Slot> =
            self.seats.values().filter(|seat| seat.is_awaited()).map(|seat| seat.slot).collect();
        self.barriers.push(Barrier { version, waiting, until: Instant::now() + barrier::LIMIT, then });
        self.tell_all(version, links);
        self.settle(links);
    }

    pub(super) fn tell_all(&self, version: u64, links: &mut Links) {
        for key in self.running() {
            tell(links, key, 0, &ToInstance::LookAgain { version }, &[]);
        }
    }

    /// A participant has taken the directory over up to `version`.
    pub(in crate::wire) fn seen(&mut self, key: Key, version: u64, links: &mut Links) {
        let Some(slot) = self.slot_of(key) else { return };
        self.set_late(slot, false);
        for barrier in &mut self.barriers {
            barrier.seen(slot, version);
        }
        self.settle(links);
    }

    /// A participant cannot be told anything any more: its link is broken or closed. Nobody waits for it.
    pub(in crate::wire) fn unreachable(&mut self, key: Key, links: &mut Links) {
        let Some(slot) = self.slot_of(key) else { return };
        self.set_late(slot, true);
        for barrier in &mut self.barriers {
            barrier.gone(slot);
        }
        self.settle(links);
    }

    fn set_late(&mut self, slot: Slot, late: bool) {
        if let Some(seat) = self.seats.get_mut(&slot) {
            seat.late = late;
        }
    }

    /// Answers what has waited long enough.
    pub(in crate::wire) fn settle(&mut self, links: &mut Links) {
        let now = Instant::now();
        let (over, waiting) = std::mem::take(&mut self.barriers).into_iter().partition(|barrier| barrier.is_over(now));
        self.barriers = waiting;
        let over: Vec<Barrier> = over;
        for barrier in over {
            for slot in &barrier.waiting {
                self.set_late(*slot, true);
            }
            match barrier.then {
                Then::Joined(key) => tell(links, key, 0, &ToInstance::Joined, &[]),
                Then::Channel { to, request, id } => {
                    let unaware = barrier.waiting.into_iter().collect();
                    tell(links, to, request, &ToInstance::Channel { id, unaware }, &[]);
                }
            }
        }
    }
}
