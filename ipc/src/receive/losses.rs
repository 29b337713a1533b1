//! What was missed, by whom it was published, on which channel and why.

use std::collections::HashMap;

use crate::layout;
use crate::map::OwnMap;
use crate::slots::{ChannelId, Slot};
use crate::sync::OwnWords;

/// Different losses kept apart for whoever asks; beyond it they are added up per peer.
const MAX_LOSSES: usize = 1024;

/// Messages that this participant missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Whose they were.
    pub from: Slot,
    /// The channel; `None` for those sent to us alone, and where it is not known.
    pub channel: Option<ChannelId>,
    /// How many messages, as far as their sequence numbers tell.
    pub records: u64,
    /// Bytes of the publisher's ring that were never read, whoever they were for.
    pub bytes: u64,
    /// Why.
    pub cause: LossCause,
}

/// Why messages were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossCause {
    /// The publisher had to go on before we had read them.
    Lagged,
    /// They carry a content tag that this version does not know.
    UnknownTag,
}

/// The account of losses.
#[derive(Default)]
pub(super) struct Losses {
    of_slot: HashMap<Slot, u64>,
    untold: HashMap<(Slot, Option<ChannelId>, LossCause), (u64, u64)>,
}

impl Losses {
    /// Takes in a loss, and shows the sum of its publisher's.
    pub(super) fn add(&mut self, loss: Loss, own: &OwnMap) {
        let Loss { from, channel, records, bytes, cause } = loss;
        let lost = self.of_slot.entry(from).or_default();
        *lost += records;
        own.store(layout::lost(from), *lost);
        let apart = self.untold.len() < MAX_LOSSES || self.untold.contains_key(&(from, channel, cause));
        let sum = self.untold.entry((from, channel.filter(|_| apart), cause)).or_default();
        sum.0 += records;
        sum.1 += bytes;
    }

    /// What was missed since the last call.
    pub(super) fn take(&mut self) -> Vec<Loss> {
        self.untold
            .drain()
            .map(|((from, channel, cause), (records, bytes))| Loss { from, channel, records, bytes, cause })
            .collect()
    }
}
