//! A full ring: waiting for room, and giving up on readers that do not move.
//!
//! The steps are open to the crate, so that an async client can wait its own way.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{Outgoing, PublishError, Published, Publisher, Refusal};
use crate::bell::Ear;
use crate::layout;
use crate::ring::ask_for_room;
use crate::slots::ChannelId;
use crate::sync::OwnWords;

/// Short enough for `relief`, and for a bell that a hostile peer has silenced.
const NAP: Duration = Duration::from_millis(20);

/// A publisher that is full, and what it waits for.
pub(crate) struct WaitForRoom {
    length: u64,
    want: u64,
    /// When those that did not move are given up.
    pub(crate) until: Instant,
    cursors: Vec<u64>,
}

impl Publisher {
    pub(crate) fn start_waiting(&mut self, message: &Outgoing<'_>) -> WaitForRoom {
        // Nobody may sleep on what is written while we wait for them to read it.
        self.flush();
        let until = Instant::now() + self.shared.place.stall_timeout;
        WaitForRoom { length: message.length(), want: self.writer.wanted(), until, cursors: self.keeping.cursors() }
    }

    pub(crate) fn has_room(&mut self, wait: &WaitForRoom) -> bool {
        if self.changes != self.shared.changes() {
            self.catch_up();
        }
        self.find_room(self.writer.need(wait.length))
    }

    /// Asks the readers to ring when half the ring is free, and looks once more.
    pub(crate) fn ask(&mut self, wait: &WaitForRoom) -> bool {
        ask_for_room(&self.own, self.shared.place.slot, wait.want);
        self.has_room(wait)
    }

    pub(crate) fn stop_asking(&mut self) {
        self.own.store(layout::want(self.shared.place.slot), 0);
    }

    /// Time is up: whoever did not move since the wait began delays nobody until it has caught up.
    pub(crate) fn stall(&mut self, wait: &mut WaitForRoom) -> bool {
        let (head, ring, me) = (self.writer.head(), self.shared.place.ring_bytes, self.shared.place.slot);
        let need = self.writer.need(wait.length);
        self.keeping.settle(head);
        for slot in self.holders() {
            let held = self.keeping.of(slot);
            let gate = held.gate(self.readers.cursor(slot, me), head, ring);
            let blocks = gate.is_some_and(|gate| !self.writer.fits_behind(need, gate));
            if blocks && !held.moved_since(wait.cursors[usize::from(slot)]) {
                held.stall();
                self.stalls += 1;
            }
        }
        self.has_room(wait)
    }

    /// Publishes a message that just found no room, once there is some.
    #[cold]
    pub(super) fn publish_waiting(
        &mut self,
        channel: ChannelId,
        message: &Outgoing<'_>,
        relief: impl FnMut(),
    ) -> Result<Published, PublishError> {
        // The gate was refreshed for this very message, and nobody else writes.
        let written = self.wait_for_room(message, relief).and_then(|()| self.attempt(channel, message));
        written.map(Published::from).map_err(|refusal| self.reject(channel, message, refusal))
    }

    /// Waits for room for a message that just found none.
    pub(super) fn wait_for_room(&mut self, message: &Outgoing<'_>, mut relief: impl FnMut()) -> Result<(), Refusal> {
        let mut wait = self.start_waiting(message);
        loop {
            relief();
            let mut grace = std::mem::take(&mut self.grace);
            let room = grace.wait(|| self.has_room(&wait)) || self.ask(&wait);
            self.grace = grace;
            if room {
                break;
            }
            if Instant::now() >= wait.until {
                if self.stall(&mut wait) {
                    break;
                }
                self.stop_asking();
                return Err(Refusal::Full);
            }
            self.sleep(wait.until);
        }
        self.stop_asking();
        Ok(())
    }

    fn sleep(&mut self, until: Instant) {
        let limit = until.saturating_duration_since(Instant::now()).min(NAP);
        if self.ear.is_none() {
            self.ear = Ear::new(self.shared.bell.as_fd()).ok();
        }
        match &self.ear {
            Some(ear) => {
                ear.wait(limit);
            }
            // Out of descriptors: look again every millisecond instead.
            None => std::thread::sleep(limit.min(Duration::from_millis(1))),
        }
    }
}
