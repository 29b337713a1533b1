//! What publisher, drain and control of one participant share: the own outbox, the own bell, the table of peers.
//!
//! Each of the three writes its own words of the outbox: the publisher ring, head, intent, want, marks, resume and the
//! counters of what was published and rejected; the drain cursors, park and the counters of what was delivered and
//! lost; control the rest.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Place, Table};
use crate::bell;
use crate::layout::{self, MAX_SLOTS};
use crate::map::OwnMap;
use crate::peer::Peer;
use crate::rule::Rule;
use crate::slots::Slot;
use crate::sync::Ordering::{Acquire, Release};
use crate::sync::{AtomicU64, OwnWords, Words};

/// The most accusations kept for whoever asks; there are no more slots than this.
const MAX_ACCUSATIONS: usize = MAX_SLOTS;

/// What publisher, drain and control of one participant share.
pub(crate) struct Shared {
    pub(crate) place: Place,
    pub(crate) own: OwnMap,
    pub(crate) bell: OwnedFd,
    changes: AtomicU64,
    table: Mutex<Table>,
    accusations: Mutex<Vec<Accusation>>,
}

/// A peer that was dropped because it broke a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accusation {
    /// The liar's slot.
    pub slot: Slot,
    /// Its incarnation.
    pub incarnation: u32,
    /// What it did.
    pub rule: Rule,
}

impl Shared {
    pub(super) fn new(place: Place, own: OwnMap, bell: OwnedFd, table: Table) -> Shared {
        let (table, accusations) = (Mutex::new(table), Mutex::new(Vec::new()));
        Shared { place, own, bell, changes: AtomicU64::new(0), table, accusations }
    }

    /// Counts the changes of the table; whoever holds a private copy compares.
    #[inline]
    pub(crate) fn changes(&self) -> u64 {
        // Acquire: pairs with the Release in `changed`.
        self.changes.load(Acquire)
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows where a peer's ring will be read from. Never less than what was shown before: our predecessor may have
    /// read past a whole ring that we are about to find finished, and our successor goes on from what we show.
    pub(crate) fn show_start(&self, slot: Slot, start: u64) {
        let cursor = layout::cursor(slot);
        self.own.publish(cursor, start.max(self.own.load(cursor)));
    }

    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Release);
        // Whoever sleeps has to look again.
        bell::ring(self.bell.as_fd());
    }

    /// Drops a peer that broke a rule, and keeps its name for the supervisor.
    pub(crate) fn accuse(&self, peer: &Arc<Peer>, rule: Rule) {
        self.table().forget(peer.slot, |newest| Arc::ptr_eq(newest, peer));
        let mut accusations = self.accusations.lock().unwrap_or_else(PoisonError::into_inner);
        if accusations.len() < MAX_ACCUSATIONS {
            accusations.push(Accusation { slot: peer.slot, incarnation: peer.incarnation, rule });
        }
        drop(accusations);
        self.changed();
    }

    /// The peers that were dropped because they broke a rule, since the last call.
    pub(super) fn accusations(&self) -> Vec<Accusation> {
        std::mem::take(&mut *self.accusations.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
