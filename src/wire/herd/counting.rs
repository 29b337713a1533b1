//! The herd's figures: what living participants count in their outboxes, and what the dead had counted.

use std::time::Instant;

use herdwire_ipc::{ChannelId, Counters, SUPERVISOR, Slot, layout};

use super::{Herd, OWN_RING};
use crate::snapshot::{ChannelView, HerdView};

impl Herd {
    pub(in crate::wire) fn view(&mut self) -> HerdView {
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
            seats: self
                .seats
                .values()
                .filter(|seat| seat.is_running())
                .map(|seat| (seat.slot, seat.instance))
                .collect(),
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
    pub(super) fn remember_counters(&mut self, slot: Slot) {
        let channels: Vec<ChannelId> = self.directory.channels().map(|(id, _)| id).collect();
        for channel in channels {
            if let Some(counters) = self.control.counters(slot, channel) {
                let sum = self.past.entry(channel.0).or_default();
                *sum = add(*sum, counters);
            }
        }
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
