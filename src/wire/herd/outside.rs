//! What comes from bridge and front: published in the supervisor's own ring, waiting in bounded memory for room.

use herdwire_ipc::{ChannelId, Outgoing, PublishError, Slot, To};

use super::Herd;
use crate::relay::{Message, SessionId, ToWire};
use crate::wire::member::{NOBODY, Seat};

/// Messages from outside that may wait for room in the supervisor's ring.
const WAITING: usize = 1024;

impl Herd {
    /// Publishes what came from outside, behind what already waits.
    pub(in crate::wire) fn publish(&mut self, to: ToWire, message: Message) {
        if self.waiting.len() >= WAITING {
            self.dropped += 1;
            return;
        }
        self.waiting.push_back((to, message));
        self.flush();
    }

    /// Publishes what waits, as far as there is room.
    pub(in crate::wire) fn flush(&mut self) {
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
    /// among those that run and stay, else among those that finish, else among those that will come back.
    fn one_for(&self, channel: ChannelId, session: SessionId) -> Option<Slot> {
        let subscribers = self.directory.subscribers(channel);
        let listening = |running: bool, leaving: bool| {
            let standing = move |seat: &&Seat| seat.is_running() == running && seat.leaving == leaving;
            self.seats
                .values()
                .filter(move |seat| standing(seat) && seat.instance != NOBODY)
                .map(|seat| seat.slot)
                .filter(|slot| subscribers.contains(*slot))
                .max_by_key(|slot| mix(session.0, *slot))
        };
        let running = listening(true, false).or_else(|| listening(true, true));
        running.or_else(|| listening(false, false)).or_else(|| listening(false, true))
    }
}

/// A good enough hash of (session, slot): the finaliser of splitmix64.
fn mix(session: u128, slot: Slot) -> u64 {
    let mut z =
        (session as u64 ^ (session >> 64) as u64).wrapping_add(u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
