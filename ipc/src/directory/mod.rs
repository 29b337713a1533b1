//! The directory of a herd: who has which slot, which channels exist, who listens to what.
//!
//! The supervisor writes it ([`Directory`]), everybody reads it ([`DirectoryReader`]). Each entry has two copies and a
//! counter; the copy that the counter's lowest bit names is current. The writer fills the other one, then moves the
//! counter on, so that a death at any instruction leaves a whole entry. `version` moves after every change, so that a
//! publish costs one shared load and uses a private copy.
//!
//! Sealed memory has one writer for life: a new supervisor makes a new directory from the old one
//! ([`Directory::succeed`]), in which every channel keeps its number and version and epoch go on growing.

pub(crate) mod copies;
mod reader;
mod writer;

pub use reader::DirectoryReader;
pub use writer::{Directory, DirectoryError};

use crate::layout::directory::{CHANNEL_WORDS, SLOT_WORDS};
use crate::slots::SlotSet;

/// What a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum SlotState {
    /// Nobody's.
    #[default]
    Free = 0,
    /// Given to an incarnation that is not yet known to all others.
    Joining = 1,
    /// A full member; publishers wait for it.
    Running = 2,
    /// Its incarnation is dead; the slot waits for a successor.
    Down = 3,
}

impl SlotState {
    fn from_number(number: u64) -> SlotState {
        match number {
            1 => SlotState::Joining,
            2 => SlotState::Running,
            3 => SlotState::Down,
            _ => SlotState::Free,
        }
    }
}

/// One slot's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotEntry {
    /// What the slot is.
    pub state: SlotState,
    /// Which process of this slot, counted from 1.
    pub incarnation: u32,
    /// The instance's id in the supervisor; `None` for the supervisor itself and for free slots.
    pub instance: Option<u32>,
}

/// One channel's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChannelEntry {
    /// Who listens.
    pub subscribers: SlotSet,
    /// Reserved: what happens when a ring is full. 0 is `block`.
    pub policy: u64,
    /// Limit for one message; 0 means the herd's.
    pub max_message: u64,
    /// Reserved: the work queue that the channel is.
    pub group: u64,
}

const HAS_INSTANCE: u64 = 1 << 32;

impl SlotEntry {
    fn to_words(self) -> [u64; SLOT_WORDS] {
        let place = self.state as u64 | u64::from(self.incarnation) << 32;
        [place, self.instance.map_or(0, |id| u64::from(id) | HAS_INSTANCE), 0, 0, 0, 0, 0]
    }

    fn from_words(words: [u64; SLOT_WORDS]) -> SlotEntry {
        let [place, instance, ..] = words;
        SlotEntry {
            state: SlotState::from_number(place & 0xff),
            incarnation: (place >> 32) as u32,
            instance: (instance & HAS_INSTANCE != 0).then_some(instance as u32),
        }
    }
}

impl ChannelEntry {
    fn to_words(self) -> [u64; CHANNEL_WORDS] {
        let [a, b, c, d] = self.subscribers.0;
        [self.policy, self.max_message, self.group, a, b, c, d, 0]
    }

    fn from_words(words: [u64; CHANNEL_WORDS]) -> ChannelEntry {
        let [policy, max_message, group, a, b, c, d, _] = words;
        ChannelEntry { policy, max_message, group, subscribers: SlotSet([a, b, c, d]) }
    }
}
