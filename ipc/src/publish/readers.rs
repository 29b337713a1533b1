//! Those who may read our ring: who they are, whether they sleep, and how to wake them.

use std::sync::Arc;

use super::channels::Listener;
use crate::layout::{self, MAX_SLOTS};
use crate::peer::Peer;
use crate::ring::Waker;
use crate::slots::{Slot, SlotSet};
use crate::sync::Words;

/// Everybody else, by slot.
pub(super) struct Readers {
    peers: Vec<Option<Arc<Peer>>>,
    /// Apart from the peers, since it is looked at for as long as somebody who was rung is not awake yet.
    wakers: Vec<Waker>,
}

impl Readers {
    pub(super) fn new() -> Readers {
        Readers { peers: vec![None; MAX_SLOTS], wakers: vec![Waker::default(); MAX_SLOTS] }
    }

    pub(super) fn is_here(&self, slot: Slot) -> bool {
        self.at(slot).is_some()
    }

    /// Takes over who is here; calls `renewed` for each slot where that is somebody else now.
    pub(super) fn renew(&mut self, newest: &[Option<Arc<Peer>>], mut renewed: impl FnMut(Slot)) {
        for (slot, (known, newest)) in self.peers.iter_mut().zip(newest).enumerate() {
            let same = match (&known, newest) {
                (Some(known), Some(newest)) => Arc::ptr_eq(known, newest),
                (None, None) => true,
                _ => false,
            };
            if !same {
                known.clone_from(newest);
                self.wakers[slot] = Waker::default();
                renewed(slot as Slot);
            }
        }
    }

    /// The park words of those of a set that are here.
    pub(super) fn listeners(&self, set: &SlotSet) -> Box<[Listener]> {
        set.iter().filter_map(|slot| Some(Listener { slot, park: self.at(slot)?.park_word()? })).collect()
    }

    /// How far a slot says to have read the ring of `publisher`; 0 when nobody is there.
    pub(super) fn cursor(&self, slot: Slot, publisher: Slot) -> u64 {
        self.at(slot).map_or(0, |peer| peer.map.load(layout::cursor(publisher)))
    }

    /// Whether somebody lives at a slot.
    pub(super) fn is_alive(&self, slot: Slot) -> bool {
        self.at(slot).is_some_and(|peer| !peer.is_gone())
    }

    /// Rings a reader that sleeps, once per sleep. Called after [`Waker::fence`].
    pub(super) fn wake(&mut self, slot: Slot) {
        let Some(peer) = self.at(slot) else { return };
        self.wake_parked(slot, peer.map.load(layout::park(slot)));
    }

    /// Rings a reader if its park word, loaded after [`Waker::fence`], says that it sleeps; once per sleep.
    #[inline]
    pub(super) fn wake_parked(&mut self, slot: Slot, park: u64) {
        if Waker::is_parked(park)
            && let Some(waker) = self.wakers.get_mut(usize::from(slot))
            && waker.must_ring(park)
        {
            self.ring(slot);
        }
    }

    #[cold]
    fn ring(&self, slot: Slot) {
        if let Some(peer) = self.at(slot) {
            peer.ring_bell();
        }
    }

    fn at(&self, slot: Slot) -> Option<&Peer> {
        self.peers.get(usize::from(slot))?.as_deref()
    }
}
