//! What is kept for whom: which records may not be overwritten because somebody has not read them.
//!
//! What [`Held`] knows per reader is brought up to date when it is asked for, not with every record. A *row* is the
//! records of one channel that follow each other without a gap; within it nothing changes for anybody but where the
//! last kept record ends, and that is the head. So a record of the row costs one comparison, however many listen.
//!
//! Invariant
//! - While a row is open, everything up to the head is kept for each of its readers. [`Keeping::settle`] comes before
//!   any look at [`Keeping::of`], before the readers of a channel change, and before another row.

use super::readers::Readers;
use crate::layout::{self, MAX_SLOTS};
use crate::map::OwnMap;
use crate::ring::Held;
use crate::slots::{ChannelId, SUPERVISOR, Slot, SlotSet};
use crate::sync::OwnWords;

/// A record that was written and is not committed yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Where its padding begins.
    pub(super) start: u64,
    pub(super) position: u64,
    pub(super) end: u64,
}

pub(super) struct Keeping {
    me: Slot,
    held: Vec<Held>,
    /// The channel whose row is open.
    row: Option<ChannelId>,
    row_readers: SlotSet,
}

impl Keeping {
    pub(super) fn new(me: Slot) -> Keeping {
        Keeping { me, held: vec![Held::default(); MAX_SLOTS], row: None, row_readers: SlotSet::EMPTY }
    }

    /// Whether a record of this channel without padding continues the row: there is nothing to do for it.
    #[inline]
    pub(super) fn continues(&self, channel: ChannelId) -> bool {
        self.row == Some(channel)
    }

    /// Keeps the first record of a row for all who hear the channel.
    #[cold]
    pub(super) fn begin(
        &mut self,
        channel: ChannelId,
        subscribers: &SlotSet,
        extent: Extent,
        readers: &Readers,
        own: &OwnMap,
    ) {
        self.settle(extent.start);
        self.row = Some(channel);
        self.row_readers = *subscribers;
        // Never waited for: it is a lossy reader.
        self.row_readers.set(SUPERVISOR, false);
        let row = self.row_readers;
        row.for_each(|slot| self.keep(slot, extent, readers, own));
    }

    /// Keeps a record for one reader, unless that is the lossy supervisor.
    pub(super) fn keep_for_one(&mut self, slot: Slot, extent: Extent, readers: &Readers, own: &OwnMap) {
        self.settle(extent.start);
        if slot != SUPERVISOR {
            self.keep(slot, extent, readers, own);
        }
    }

    /// Closes the row at `end`, behind its last record.
    pub(super) fn settle(&mut self, end: u64) {
        if self.row.take().is_some() {
            self.row_readers.for_each(|slot| self.held[usize::from(slot)].extend(end));
        }
    }

    /// Another incarnation reads at a slot.
    pub(super) fn renew(&mut self, slot: Slot) {
        debug_assert!(self.row.is_none(), "settled before");
        self.held[usize::from(slot)].renew();
    }

    /// What is held for a slot. Only while no row is open.
    pub(super) fn of(&mut self, slot: Slot) -> &mut Held {
        debug_assert!(self.row.is_none(), "settled before");
        &mut self.held[usize::from(slot)]
    }

    pub(super) fn stalled(&self) -> SlotSet {
        let mut set = SlotSet::EMPTY;
        for (slot, held) in self.held.iter().enumerate() {
            set.set(slot as Slot, held.is_stalled());
        }
        set
    }

    /// The highest cursor seen of each slot.
    pub(super) fn cursors(&self) -> Vec<u64> {
        self.held.iter().map(Held::cursor).collect()
    }

    fn keep(&mut self, slot: Slot, Extent { start, position, end }: Extent, readers: &Readers, own: &OwnMap) {
        let cursor = || readers.cursor(slot, self.me);
        if let Some(resume) = self.held[usize::from(slot)].keep(start, position, end, cursor) {
            // Before the head: a reader that sees the record sees where to resume.
            own.store(layout::resume(slot), resume);
        }
    }
}
