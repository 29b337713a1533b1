//! One incarnation of another participant: its outbox, mapped read-only, and its bell.
//!
//! Everything in its memory is foreign; what is read here is read once, at the mapping, and compared with what the
//! supervisor said. The ring itself is read by [`crate::ring::RingReader`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::bell;
use crate::layout::{
    self, LAYOUT_VERSIONS, OUTBOX_HEAD, OUTBOX_MAGIC, POSITION_LIMIT, RECORD_ALIGN, identity, is_ring_size,
};
use crate::map::{PeerMap, Word};
use crate::memory::{self, MemoryError};
use crate::slots::Slot;
use crate::sync::Ordering::{Acquire, Release};
use crate::sync::{AtomicBool, Words, fence};

/// Why a peer cannot be mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Its memory is not sealed or has no possible size.
    #[error("slot {slot}: its memory is not what it must be")]
    Memory {
        /// The peer's slot.
        slot: Slot,
        /// What is wrong.
        source: MemoryError,
    },
    /// It cannot be mapped.
    #[error("slot {slot}: cannot map its memory")]
    Map {
        /// The peer's slot.
        slot: Slot,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It says that it is somebody else.
    #[error("slot {slot}: its memory contradicts the supervisor in `{field}`")]
    Identity {
        /// The peer's slot.
        slot: Slot,
        /// Which part of the identity is wrong.
        field: &'static str,
    },
    /// No such slot, or our own.
    #[error("slot {slot} cannot be a peer")]
    Slot {
        /// The number.
        slot: Slot,
    },
    /// An incarnation that is older than the one already known.
    #[error("slot {slot}: incarnation {incarnation} is older than the one already known")]
    Stale {
        /// The peer's slot.
        slot: Slot,
        /// The old incarnation.
        incarnation: u32,
    },
}

pub(crate) struct Peer {
    pub(crate) slot: Slot,
    pub(crate) incarnation: u32,
    pub(crate) ring: u64,
    pub(crate) base: u64,
    pub(crate) map: PeerMap,
    bell: OwnedFd,
    gone: AtomicBool,
}

impl Peer {
    /// Maps a peer and checks who it is. The descriptor of the memory is closed.
    pub(crate) fn open(
        herd: u64,
        slot: Slot,
        incarnation: u32,
        outbox: OwnedFd,
        bell: OwnedFd,
    ) -> Result<Peer, PeerError> {
        let memory = |source| PeerError::Memory { slot, source };
        let bytes = memory::size(outbox.as_fd()).map_err(|error| memory(error.into()))?;
        let ring = bytes.saturating_sub(OUTBOX_HEAD);
        if !is_ring_size(ring) {
            return Err(memory(MemoryError::Size { found: bytes, expected: OUTBOX_HEAD + layout::RING_DEFAULT }));
        }
        memory::verify(outbox.as_fd(), ring).map_err(memory)?;
        let map = PeerMap::new(outbox.as_fd(), bytes).map_err(|source| PeerError::Map { slot, source })?;
        let base = check_identity(&map, herd, slot, incarnation, ring)?;
        Ok(Peer { slot, incarnation, ring, base, map, bell, gone: AtomicBool::new(false) })
    }

    /// Its head, clamped to what is possible.
    pub(crate) fn head(&self) -> u64 {
        let head = self.map.load(layout::head(self.slot));
        fence(Acquire);
        head.clamp(self.base, POSITION_LIMIT) / RECORD_ALIGN * RECORD_ALIGN
    }

    /// The word that says whether it sleeps, for whoever looks at it with every message.
    pub(crate) fn park_word(&self) -> Option<Word> {
        self.map.word(layout::park(self.slot))
    }

    pub(crate) fn ring_bell(&self) {
        bell::ring(self.bell.as_fd());
    }

    /// Nothing more comes from it, and nobody waits for it.
    pub(crate) fn set_gone(&self) {
        // Release: pairs with the Acquire in `is_gone`; what the supervisor knew, the drain knows.
        self.gone.store(true, Release);
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Acquire)
    }
}

fn check_identity(map: &PeerMap, herd: u64, slot: Slot, incarnation: u32, ring: u64) -> Result<u64, PeerError> {
    let lie = |field| Err(PeerError::Identity { slot, field });
    if map.load(identity::MAGIC) != OUTBOX_MAGIC {
        return lie("magic");
    }
    // Acquire: the magic is stored last.
    fence(Acquire);
    let place = map.load(identity::PLACE);
    if !(LAYOUT_VERSIONS.0..=LAYOUT_VERSIONS.1).contains(&(place as u16)) {
        return lie("layout");
    }
    if (place >> 16) as u16 != slot {
        return lie("slot");
    }
    if (place >> 32) as u32 != incarnation {
        return lie("incarnation");
    }
    if map.load(identity::RING_BYTES) != ring || map.load(identity::RING_OFFSET) != OUTBOX_HEAD {
        return lie("ring");
    }
    if map.load(identity::HERD) != herd {
        return lie("herd");
    }
    let base = map.load(identity::BASE);
    if !is_base(base) { lie("base") } else { Ok(base) }
}

/// Whether a ring may start at this position. Not 0: a cursor of 0 means "not yet here".
pub(crate) fn is_base(base: u64) -> bool {
    base > 0 && base < POSITION_LIMIT && base.is_multiple_of(RECORD_ALIGN)
}

/// Writes the identity of our own outbox, the magic last.
pub(crate) fn write_identity(
    own: &impl crate::sync::OwnWords,
    herd: u64,
    slot: Slot,
    incarnation: u32,
    ring: u64,
    base: u64,
) {
    own.store(identity::PLACE, u64::from(LAYOUT_VERSIONS.1) | u64::from(slot) << 16 | u64::from(incarnation) << 32);
    own.store(identity::RING_BYTES, ring);
    own.store(identity::RING_OFFSET, OUTBOX_HEAD);
    own.store(identity::BASE, base);
    own.store(identity::HERD, herd);
    own.store(layout::intent(slot), base);
    own.store(layout::head(slot), base);
    own.publish(identity::MAGIC, OUTBOX_MAGIC);
}
