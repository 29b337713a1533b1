//! Who the others are: the living incarnation of each slot, and those that the drain has still to take over.
//!
//! Changed by Control alone, under its lock; says what to do and maps nothing.

use std::sync::Arc;

use crate::directory::DirectoryReader;
use crate::layout::{self, MAX_SLOTS};
use crate::peer::Peer;
use crate::slots::Slot;

/// The most peers that wait to be taken over by a drain that is never turned.
const MAX_INCOMING: usize = 2 * MAX_SLOTS;

pub(crate) struct Table {
    pub(crate) directory: Arc<DirectoryReader>,
    /// The living incarnation of each slot.
    pub(crate) newest: Vec<Option<Arc<Peer>>>,
    /// The highest head seen of each slot's dead incarnations.
    past: Vec<u64>,
    /// Who came last to each slot, living or not: a new supervisor introduces everybody again.
    met: Vec<Met>,
    /// Peers that the drain has not taken over yet, oldest first.
    incoming: Vec<Incoming>,
    inherited: Option<Vec<u64>>,
    joined: bool,
}

/// Who has come to a slot. Incarnations begin again when the slot goes to another instance, positions never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Met {
    incarnation: u32,
    base: u64,
}

/// A peer on its way to the drain.
pub(crate) struct Incoming {
    pub(crate) peer: Arc<Peer>,
    /// Where to start reading.
    pub(crate) start: u64,
}

/// What became of a peer that was introduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Introduced {
    /// It is read from here on; `first` of its slot.
    Added { start: u64, first: bool },
    /// Read, or being read: to begin again would be to read it twice.
    Known,
    /// Known, but perhaps not its death, over which a supervisor may have died.
    KnownDead,
}

impl Table {
    pub(super) fn new(directory: Arc<DirectoryReader>, inherited: Option<Vec<u64>>, joined: bool) -> Table {
        Table {
            directory,
            newest: vec![None; MAX_SLOTS],
            past: vec![0; MAX_SLOTS],
            met: vec![Met::default(); MAX_SLOTS],
            incoming: Vec::new(),
            inherited,
            joined,
        }
    }

    /// Everybody knows us: whoever comes from now on is newer than we are.
    pub(super) fn set_joined(&mut self) {
        self.joined = true;
    }

    /// Whether a newer incarnation of this slot is here already.
    pub(super) fn has_newer(&self, slot: Slot, incarnation: u32) -> bool {
        self.newest[usize::from(slot)].as_ref().is_some_and(|peer| peer.incarnation > incarnation)
    }

    /// Takes in a peer that was mapped; `retired` is one that is dead already.
    pub(super) fn introduce(&mut self, peer: Arc<Peer>, retired: bool) -> Introduced {
        let slot = peer.slot;
        let met = Met { incarnation: peer.incarnation, base: peer.base };
        let last = self.met[usize::from(slot)];
        if met == last && retired {
            return Introduced::KnownDead;
        }
        if met == last || (retired && met.base < last.base) {
            return Introduced::Known;
        }
        let start = self.start_of(&peer);
        self.met[usize::from(slot)] = met;
        self.forget(slot, |_| true);
        if self.incoming.len() >= MAX_INCOMING {
            self.incoming.retain(|incoming| !incoming.peer.is_gone());
        }
        self.incoming.push(Incoming { peer: peer.clone(), start });
        self.newest[usize::from(slot)] = Some(peer);
        if retired {
            self.forget(slot, |_| true);
        }
        Introduced::Added { start, first: last == Met::default() }
    }

    /// The highest head seen of a slot's dead incarnations; `None` for no slot.
    pub(super) fn past(&self, slot: Slot) -> Option<u64> {
        self.past.get(usize::from(slot)).copied()
    }

    pub(crate) fn take_incoming(&mut self) -> Vec<Incoming> {
        std::mem::take(&mut self.incoming)
    }

    /// Where to start reading a peer: where the predecessor stopped; from its first record if it is newer than we
    /// are; else from its next one, since what it published before was not for us.
    fn start_of(&self, peer: &Peer) -> u64 {
        let head = peer.head();
        match self.inherited.as_ref().map(|cursors| cursors[usize::from(peer.slot)]) {
            Some(cursor) if cursor >= peer.base && cursor.is_multiple_of(layout::RECORD_ALIGN) => cursor.min(head),
            Some(_) => peer.base,
            None if self.joined => peer.base,
            None => head,
        }
    }

    pub(super) fn forget(&mut self, slot: Slot, which: impl FnOnce(&Arc<Peer>) -> bool) {
        let newest = &mut self.newest[usize::from(slot)];
        if let Some(peer) = newest.take_if(|peer| which(peer)) {
            peer.set_gone();
            let past = &mut self.past[usize::from(slot)];
            *past = peer.head().max(*past);
        }
    }
}
