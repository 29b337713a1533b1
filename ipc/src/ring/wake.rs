//! Sleeping and waking, room and cursors: the four places where a store must be seen before a load is made.
//!
//! Each end of the two handshakes stores its own word, runs a full fence, and only then looks at the other's; so at
//! least one of the two sees the other. Neither Release nor Acquire orders a store before a later load.

use crate::layout;
use crate::slots::Slot;
use crate::sync::Ordering::SeqCst;
use crate::sync::{OwnWords, Words, fence};

/// A reader's sleep: its park word, odd while it sleeps or is about to.
#[derive(Debug)]
pub(crate) struct Sleeper {
    slot: Slot,
    epoch: u32,
}

impl Sleeper {
    pub(crate) fn new(slot: Slot) -> Sleeper {
        Sleeper { slot, epoch: 0 }
    }

    /// Says that this reader is about to sleep. It must look at *all* heads after this and before it does.
    pub(crate) fn announce(&mut self, own: &impl OwnWords) {
        debug_assert!(self.epoch.is_multiple_of(2));
        self.epoch = self.epoch.wrapping_add(1);
        own.store(layout::park(self.slot), u64::from(self.epoch));
        // Pairs with the full fence in `Waker::fence`: either we see the new head, or the publisher sees us parked.
        fence(SeqCst);
    }

    /// Takes the announcement back. Who still sees the old word rings once for nothing.
    pub(crate) fn awake(&mut self, own: &impl OwnWords) {
        if !self.epoch.is_multiple_of(2) {
            self.epoch = self.epoch.wrapping_add(1);
            own.store(layout::park(self.slot), u64::from(self.epoch));
        }
    }
}

/// What a publisher remembers about one reader's sleep. Belongs to the mapping: a successor's epochs start anew.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waker {
    rung: u64,
}

impl Waker {
    /// Once after the last commit of a batch, before the park words are looked at.
    #[inline]
    pub(crate) fn fence() {
        // Pairs with the full fence in `Sleeper::announce`.
        fence(SeqCst);
    }

    /// Whether a park word says that its reader sleeps, or is about to.
    #[inline]
    pub(crate) fn is_parked(park: u64) -> bool {
        park & 1 != 0
    }

    /// Whether a reader with this park word, loaded after the fence, has to be rung: it is parked, and was not rung for
    /// this sleep yet.
    #[inline]
    pub(crate) fn must_ring(&mut self, park: u64) -> bool {
        if !Waker::is_parked(park) || park == self.rung {
            return false;
        }
        self.rung = park;
        true
    }
}

/// Shows a reader's cursor to the publisher. Says what the publisher wants if this cursor gives it.
#[inline]
pub(crate) fn show_cursor(own: &impl OwnWords, peer: &impl Words, publisher: Slot, cursor: u64) -> Option<u64> {
    // `publish` is a Release store: our reads are done before the publisher overwrites what they read.
    own.publish(layout::cursor(publisher), cursor);
    // Pairs with the full fence in `ask_for_room`: either we see its wish, or it sees our cursor.
    fence(SeqCst);
    let want = peer.load(layout::want(publisher));
    (want != 0 && want <= cursor).then_some(want)
}

/// Says that a full publisher waits for its readers' cursors to reach `want`. It must look at all cursors after this
/// and before it sleeps.
pub(crate) fn ask_for_room(own: &impl OwnWords, publisher: Slot, want: u64) {
    own.store(layout::want(publisher), want);
    // Pairs with the full fence in `show_cursor`.
    fence(SeqCst);
}
