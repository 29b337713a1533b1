//! Those who may read our ring: who they are, whether they sleep, and how to wake them.

use std::sync::Arc;

use super::channels::Listener;
use crate::layout::{self, MAX_SLOTS};
use crate::peer::Peer;
use crate::ring::Waker;
use crate::slots::{Slot, SlotSet};
use crate::sync::Words;

/// The living incarnation of a slot, as its publisher sees it.
pub(super) struct Reader {
    peer: Arc<Peer>,
    waker: Waker,
}

/// Everybody else, by slot.
pub(super) struct Readers(Vec<Option<Reader>>);

impl Readers {
    pub(super) fn new() -> Readers {
        Readers((0..MAX_SLOTS).map(|_| None).collect())
    }

    pub(super) fn is_here(&self, slot: Slot) -> bool {
        self.0.get(usize::from(slot)).is_some_and(Option::is_some)
    }

    /// Takes over who is here; calls `renewed` for each slot where that is somebody else now.
    pub(super) fn renew(&mut self, newest: &[Option<Arc<Peer>>], mut renewed: impl FnMut(Slot)) {
        for (slot, (known, newest)) in self.0.iter_mut().zip(newest).enumerate() {
            let same = match (&known, newest) {
                (Some(known), Some(newest)) => Arc::ptr_eq(&known.peer, newest),
                (None, None) => true,
                _ => false,
            };
            if !same {
                *known = newest.clone().map(|peer| Reader { peer, waker: Waker::default() });
                renewed(slot as Slot);
            }
        }
    }

    /// The park words of those of a set that are here.
    pub(super) fn listeners(&self, set: &SlotSet) -> Box<[Listener]> {
        set.iter().filter_map(|slot| Some(Listener { slot, park: self.at(slot)?.peer.park_word()? })).collect()
    }

    /// How far a slot says to have read the ring of `publisher`; 0 when nobody is there.
    pub(super) fn cursor(&self, slot: Slot, publisher: Slot) -> u64 {
        self.at(slot).map_or(0, |reader| reader.peer.map.load(layout::cursor(publisher)))
    }

    /// Whether somebody lives at a slot.
    pub(super) fn is_alive(&self, slot: Slot) -> bool {
        self.at(slot).is_some_and(|reader| !reader.peer.is_gone())
    }

    /// Rings a reader that sleeps, once per sleep. Called after [`Waker::fence`].
    pub(super) fn wake(&mut self, slot: Slot) {
        if let Some(Some(Reader { peer, waker })) = self.0.get_mut(usize::from(slot))
            && waker.must_ring(peer.map.load(layout::park(slot)))
        {
            peer.ring_bell();
        }
    }

    /// Rings a reader whose park word, loaded after [`Waker::fence`], says that it sleeps; once per sleep.
    #[cold]
    pub(super) fn ring(&mut self, slot: Slot, park: u64) {
        if let Some(Some(Reader { peer, waker })) = self.0.get_mut(usize::from(slot))
            && waker.must_ring(park)
        {
            peer.ring_bell();
        }
    }

    fn at(&self, slot: Slot) -> Option<&Reader> {
        self.0.get(usize::from(slot))?.as_ref()
    }
}
