//! Room in the own ring: who holds us back, and how far.
//!
//! Looked at only when the private limit is reached, once per turn of the ring.

use super::Publisher;
use crate::directory::{DirectoryReader, SlotState};
use crate::layout::MAX_SLOTS;
use crate::ring::Need;
use crate::slots::{SUPERVISOR, Slot, SlotSet};
use crate::sync::Ordering::Acquire;
use crate::sync::fence;

/// The slots that run, as of one version of the directory.
#[derive(Default)]
pub(super) struct Running {
    version: u64,
    slots: SlotSet,
}

impl Running {
    fn refresh(&mut self, directory: &DirectoryReader) {
        let version = directory.version();
        if version == self.version {
            return;
        }
        // Acquire: pairs with the Release in `Directory::bump`.
        fence(Acquire);
        self.version = version;
        for slot in 0..MAX_SLOTS as Slot {
            self.slots.set(slot, directory.slot(slot).state == SlotState::Running);
        }
    }

    /// Another directory: nothing is known of it yet.
    pub(super) fn forget(&mut self) {
        self.version = 0;
    }
}

impl Publisher {
    /// The slots that may hold us back, as of the last look: running, here, not lossy.
    pub(super) fn holders(&self) -> impl Iterator<Item = Slot> + use<> {
        let mut holders = SlotSet::EMPTY;
        for slot in self.running.slots.iter() {
            holders.set(slot, slot != SUPERVISOR && self.readers.is_alive(slot));
        }
        holders.iter()
    }

    /// Looks at the cursors of all readers; whether there is room now.
    #[cold]
    pub(super) fn find_room(&mut self, need: Need) -> bool {
        self.running.refresh(&self.directory);
        let (head, ring, me) = (self.writer.head(), self.shared.place.ring_bytes, self.shared.place.slot);
        self.keeping.settle(head);
        let mut gate = head;
        for slot in self.holders() {
            if let Some(held) = self.keeping.of(slot).gate(self.readers.cursor(slot, me), head, ring) {
                gate = gate.min(held);
            }
        }
        // Acquire: pairs with the Release in `show_cursor`; the readers are done with what we overwrite from here on.
        fence(Acquire);
        self.writer.set_gate(gate);
        self.writer.fits(need)
    }
}
