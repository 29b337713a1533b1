//! Says who the others are, and how far everybody has come.
//!
//! Owns no words of its own but those of membership: `mapped`, `seen`, `beat`, `leaving`. What it reads of the others
//! is a hint or is checked by whoever acts on it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::table::Introduced;
use super::{Accusation, JoinError, Place, Shared, open_directory};
use crate::directory::DirectoryReader;
use crate::layout::{self, Counter, MAX_SLOTS};
use crate::peer::{Peer, PeerError};
use crate::slots::{ChannelId, Slot};
use crate::sync::{OwnWords, Words};

/// Counters of one channel, as one participant keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Messages published, heard or not.
    pub published: u64,
    /// Messages handed to the application.
    pub delivered: u64,
    /// Messages missed.
    pub lost: u64,
    /// Messages refused to the publisher.
    pub rejected: u64,
}

/// How far a slot's ring has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerPosition {
    /// The living incarnation; `None` when there is none and `head` is that of its predecessor.
    pub incarnation: Option<u32>,
    /// Its head.
    pub head: u64,
    /// How far the supervisor's own drain, or whoever asks, has shown to have read it.
    pub cursor: u64,
}

/// Says who the others are. Cheap to clone; every method may be called from any thread.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("place", &self.shared.place).finish()
    }
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Control {
        Control { shared }
    }

    /// Maps a peer and starts to read it. One that is already known is no error. A newer incarnation of a slot ends
    /// the older one, which is read to its end first; `retired` is one that is dead already.
    ///
    /// # Errors
    /// The peer is not what the supervisor says it is.
    pub fn add_peer(
        &self,
        slot: Slot,
        incarnation: u32,
        outbox: OwnedFd,
        bell: OwnedFd,
        retired: bool,
    ) -> Result<(), PeerError> {
        let shared = &self.shared;
        if usize::from(slot) >= MAX_SLOTS || slot == shared.place.slot {
            return Err(PeerError::Slot { slot });
        }
        let mut table = shared.table();
        if !retired && table.has_newer(slot, incarnation) {
            return Err(PeerError::Stale { slot, incarnation });
        }
        let peer = Arc::new(Peer::open(shared.place.herd, slot, incarnation, outbox, bell)?);
        match table.introduce(peer, retired) {
            Introduced::Known => return Ok(()),
            Introduced::KnownDead => {
                drop(table);
                self.gone(slot, incarnation);
                return Ok(());
            }
            // The first of its slot: the drain reads nothing else of it. Shown now, since it may not be turned soon.
            Introduced::Added { start, first: true } => shared.show_start(slot, start),
            Introduced::Added { .. } => {}
        }
        if !retired {
            self.show_mapped(slot, true);
        }
        drop(table);
        shared.changed();
        Ok(())
    }

    /// A peer is dead or left: it is read to its end and then unmapped, and nobody waits for it from now on.
    pub fn gone(&self, slot: Slot, incarnation: u32) {
        if usize::from(slot) >= MAX_SLOTS {
            return;
        }
        let mut table = self.shared.table();
        table.forget(slot, |peer| peer.incarnation <= incarnation);
        self.show_mapped(slot, table.newest[usize::from(slot)].is_some());
        drop(table);
        self.shared.changed();
    }

    /// Everybody knows us: whoever comes from now on is newer than we are.
    pub fn joined(&self) {
        self.shared.table().set_joined();
    }

    /// Goes over to the directory of a new supervisor.
    ///
    /// # Errors
    /// It is no directory, or another herd's.
    pub fn renew_directory(&self, fd: OwnedFd) -> Result<(), JoinError> {
        let directory = open_directory(self.shared.place.herd, fd)?;
        self.shared.table().directory = Arc::new(directory);
        self.shared.changed();
        Ok(())
    }

    /// The directory in use.
    pub fn directory(&self) -> Arc<DirectoryReader> {
        self.shared.table().directory.clone()
    }

    /// The version of the directory in use, as it is now.
    pub fn directory_version(&self) -> u64 {
        self.directory().version()
    }

    /// Shows up to which directory version this participant has acted.
    pub fn set_seen(&self, version: u64) {
        self.shared.own.publish(layout::seen(self.shared.place.slot), version);
    }

    /// Up to which directory version a living peer says to have acted. A hint: nothing keeps it from lying.
    pub fn seen(&self, slot: Slot) -> Option<u64> {
        self.peer(slot).map(|peer| peer.map.load(layout::seen(slot)))
    }

    /// Shows a sign of life.
    pub fn beat(&self) {
        self.shared.own.store(layout::beat(self.shared.place.slot), monotonic_ns());
    }

    /// When a living peer last showed a sign of life, in nanoseconds of CLOCK_MONOTONIC. A hint.
    pub fn last_beat(&self, slot: Slot) -> Option<u64> {
        self.peer(slot).map(|peer| peer.map.load(layout::beat(slot)))
    }

    /// Says in the own outbox that nothing more comes.
    pub fn leave(&self) {
        self.shared.own.publish(layout::leaving(self.shared.place.slot), 1);
    }

    /// Wakes the own drain, and a publisher that waits for room.
    pub fn wake(&self) {
        self.shared.changed();
    }

    /// The place that was taken.
    pub fn place(&self) -> &Place {
        &self.shared.place
    }

    /// How far a slot's ring has come; `None` for one that never was here. Its `head` is what
    /// [`layout::next_base`] wants for the slot's next incarnation.
    pub fn peer_position(&self, slot: Slot) -> Option<PeerPosition> {
        let table = self.shared.table();
        let past = table.past(slot)?;
        let peer = table.newest[usize::from(slot)].as_ref();
        let head = peer.map_or(past, |peer| peer.head().max(past));
        let cursor = self.shared.own.load(layout::cursor(slot));
        (head > 0).then_some(PeerPosition { incarnation: peer.map(|peer| peer.incarnation), head, cursor })
    }

    /// How far `reader` has shown to have read the ring of `publisher`. Unchecked; `None` when `reader` is not here.
    pub fn cursor(&self, reader: Slot, publisher: Slot) -> Option<u64> {
        self.read(reader, layout::cursor(publisher.min(MAX_SLOTS as Slot - 1)))
    }

    /// The counters that `slot`, ourselves included, keeps of a channel. Unchecked; `None` when it is not here.
    pub fn counters(&self, slot: Slot, channel: ChannelId) -> Option<Counters> {
        if usize::from(channel.0) >= layout::MAX_CHANNELS {
            return None;
        }
        let one = |which| self.read(slot, layout::counter(channel, which));
        Some(Counters {
            published: one(Counter::Published)?,
            delivered: one(Counter::Delivered)?,
            lost: one(Counter::Lost)?,
            rejected: one(Counter::Rejected)?,
        })
    }

    /// The peers that were dropped because they broke a rule, since the last call.
    pub fn accusations(&self) -> Vec<Accusation> {
        self.shared.accusations()
    }

    /// The own bell, for whoever watches it in a runtime of their own.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }

    fn read(&self, slot: Slot, word: usize) -> Option<u64> {
        if slot == self.shared.place.slot {
            return Some(self.shared.own.load(word));
        }
        self.peer(slot).map(|peer| peer.map.load(word))
    }

    fn peer(&self, slot: Slot) -> Option<Arc<Peer>> {
        self.shared.table().newest.get(usize::from(slot))?.clone()
    }

    /// Called with the table locked: the words have one writer.
    fn show_mapped(&self, peer: Slot, mapped: bool) {
        let word = layout::mapped(self.shared.place.slot, peer);
        let bit = 1 << (peer % 64);
        let before = self.shared.own.load(word);
        self.shared.own.publish(word, if mapped { before | bit } else { before & !bit });
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
