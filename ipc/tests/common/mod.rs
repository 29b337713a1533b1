//! A herd made by hand: what the supervisor does for its participants, without a supervisor.
#![allow(dead_code)] // Each test binary uses its part.

pub mod supervisor;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use herdwire_ipc::{
    ChannelId, Delivery, Directory, Participant, Place, SUPERVISOR, Slot, SlotState, Turn, join, layout, memory,
};

pub const HERD: u64 = 7;
pub const RING: u64 = layout::RING_MIN;

/// The descriptors of one incarnation, as the supervisor keeps them.
pub struct Kept {
    pub slot: Slot,
    pub incarnation: u32,
    pub outbox: OwnedFd,
    pub bell: OwnedFd,
}

impl Kept {
    pub fn outbox(&self) -> OwnedFd {
        self.outbox.try_clone().unwrap()
    }

    pub fn bell(&self) -> OwnedFd {
        self.bell.try_clone().unwrap()
    }
}

/// Directory and descriptors of a herd.
pub struct Herd {
    pub directory: Directory,
    pub directory_fd: OwnedFd,
    pub ring: u64,
    pub stall_timeout: Duration,
}

impl Herd {
    pub fn new() -> Herd {
        let directory_fd = memory::create_directory("test-directory").unwrap();
        let directory = Directory::create(directory_fd.as_fd(), HERD, "test", layout::LAYOUT_VERSIONS.1).unwrap();
        Herd { directory, directory_fd, ring: RING, stall_timeout: Duration::from_secs(20) }
    }

    pub fn directory_fd(&self) -> OwnedFd {
        self.directory_fd.try_clone().unwrap()
    }

    pub fn place(&self, slot: Slot, incarnation: u32, highest: u64) -> Place {
        Place {
            herd: HERD,
            slot,
            incarnation,
            ring_bytes: self.ring,
            base: layout::next_base(highest, self.ring),
            stall_timeout: self.stall_timeout,
            max_message: 1 << 24,
        }
    }

    /// Makes outbox and bell for an incarnation.
    pub fn make(&self, slot: Slot, incarnation: u32) -> Kept {
        let outbox = memory::create_outbox("test-outbox", self.ring).unwrap();
        Kept { slot, incarnation, outbox, bell: memory::create_bell().unwrap() }
    }

    /// Lets an incarnation take its place; `highest` and `predecessor` are those of a dead one.
    pub fn seat(&self, slot: Slot, incarnation: u32, highest: u64, predecessor: Option<&Kept>) -> (Participant, Kept) {
        let kept = self.make(slot, incarnation);
        let place = self.place(slot, incarnation, highest);
        let participant =
            join(&place, kept.outbox(), kept.bell(), self.directory_fd(), predecessor.map(Kept::outbox)).unwrap();
        memory::seal(kept.outbox.as_fd()).unwrap();
        (participant, kept)
    }

    pub fn run(&mut self, slot: Slot, incarnation: u32) {
        let instance = (slot != SUPERVISOR).then_some(u32::from(slot) + 100);
        self.directory.set_slot(slot, SlotState::Running, incarnation, instance);
        self.directory.bump();
    }

    /// `count` participants from slot `first` on that all know each other and are running.
    pub fn seat_all(&mut self, slots: impl IntoIterator<Item = Slot>) -> Vec<(Participant, Kept)> {
        let seated: Vec<_> = slots.into_iter().map(|slot| self.seat(slot, 1, 0, None)).collect();
        for (one, _) in &seated {
            for (_, other) in &seated {
                if one.control.place().slot != other.slot {
                    introduce(one, other);
                }
            }
            one.control.joined();
            self.run(one.control.place().slot, 1);
        }
        seated
    }

    pub fn subscribe(&mut self, channel: &str, slots: impl IntoIterator<Item = Slot>) -> ChannelId {
        let id = self.directory.intern(channel).unwrap();
        for slot in slots {
            self.directory.set_subscribed(id, slot, true);
        }
        self.directory.bump();
        id
    }
}

pub fn introduce(to: &Participant, peer: &Kept) {
    to.control.add_peer(peer.slot, peer.incarnation, peer.outbox(), peer.bell(), false).unwrap();
}

/// What a delivery says, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub from: Slot,
    pub from_incarnation: u32,
    pub channel: ChannelId,
    pub session: Option<u128>,
    pub to_me_alone: bool,
    pub payload: Vec<u8>,
}

impl Got {
    pub fn of(delivery: Delivery<'_>) -> Got {
        Got {
            from: delivery.from,
            from_incarnation: delivery.from_incarnation,
            channel: delivery.channel,
            session: delivery.session,
            to_me_alone: delivery.to_me_alone,
            payload: delivery.payload.to_vec(),
        }
    }
}

/// Everything that is there now.
pub fn drain_all(participant: &mut Participant) -> Vec<Got> {
    let mut got = Vec::new();
    loop {
        let Turn { more, .. } = participant.drain.turn(256, |delivery| got.push(Got::of(delivery)));
        if !more && !participant.drain.has_news() {
            return got;
        }
    }
}

pub fn payloads(got: &[Got]) -> Vec<String> {
    got.iter().map(|got| String::from_utf8(got.payload.clone()).unwrap()).collect()
}

/// Until when a condition must have come true on this busy machine.
pub fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Waits until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = deadline();
    while !is_so() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::yield_now();
    }
}
