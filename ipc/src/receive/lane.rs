//! The rings of one slot: that of its living incarnation and, before it, those of dead ones.

use std::collections::VecDeque;
use std::sync::Arc;

use super::sequences::Sequences;
use crate::layout::record_limit;
use crate::map::OwnMap;
use crate::participant::Incoming;
use crate::peer::Peer;
use crate::ring::{RingReader, show_cursor};
use crate::rule::Rule;
use crate::slots::Slot;

pub(super) struct Lane {
    pub(super) peer: Arc<Peer>,
    pub(super) reader: RingReader,
    pub(super) sequences: Sequences,
    /// Not one record was confirmed yet: a cursor that we inherited may be wrong, which is not the peer's fault.
    pub(super) unproven: bool,
    shown: u64,
    /// The wish for which the publisher was rung already.
    rung_for: u64,
    next: VecDeque<Incoming>,
}

impl Lane {
    pub(super) fn new(Incoming { peer, start }: Incoming, me: Slot) -> Lane {
        Lane {
            reader: RingReader::new(peer.slot, me, peer.ring, record_limit(peer.ring), start),
            sequences: Sequences::default(),
            unproven: start != peer.base,
            shown: start,
            rung_for: 0,
            next: VecDeque::new(),
            peer,
        }
    }

    /// Where reading began, or has come to and was shown.
    pub(super) fn shown(&self) -> u64 {
        self.shown
    }

    /// Another incarnation of this slot, to be read once this one is finished.
    pub(super) fn queue(&mut self, incoming: Incoming) {
        self.next.push_back(incoming);
    }

    /// The lane of the next incarnation, if there is one.
    pub(super) fn successor(&mut self, me: Slot) -> Option<Lane> {
        let incoming = self.next.pop_front()?;
        let next = std::mem::take(&mut self.next);
        Some(Lane { next, ..Lane::new(incoming, me) })
    }

    /// Takes over the head; false when there is nothing new.
    pub(super) fn look_ahead(&mut self) -> Result<bool, Rule> {
        self.reader.look_ahead(&self.peer.map)
    }

    pub(super) fn has_news(&self) -> bool {
        self.reader.has_news(&self.peer.map)
    }

    /// Shows how far the ring has been read; wakes its publisher if it waits for that.
    pub(super) fn show(&mut self, own: &OwnMap) {
        let cursor = self.reader.cursor();
        if cursor == self.shown {
            return;
        }
        self.shown = cursor;
        if let Some(want) = show_cursor(own, &self.peer.map, self.peer.slot, cursor)
            && want != self.rung_for
        {
            self.rung_for = want;
            self.peer.ring_bell();
        }
    }
}
