//! A participant of a herd: takes its place, and parts into its three owners.
//!
//! [`Publisher`] writes the own ring, [`Drain`] reads those of the others, [`Control`] says who the others are. Each
//! may live on a thread of its own; what they share (`shared`) is the own outbox, of which each writes its own words,
//! and a table of peers (`table`) that only Control changes. Publisher and Drain look at one in-process counter per
//! call to learn that it moved.

mod control;
mod shared;
mod table;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::directory::DirectoryReader;
use crate::layout::{self, MAX_SLOTS, OUTBOX_HEAD, is_ring_size};
use crate::map::{OwnMap, PeerMap};
use crate::peer::{is_base, write_identity};
use crate::publish::Publisher;
use crate::receive::Drain;
use crate::slots::{SUPERVISOR, Slot};
use crate::sync::Ordering::Acquire;
use crate::sync::{OwnWords, Words, fence};

pub use control::{Control, Counters, PeerPosition, monotonic_ns};
pub use shared::Accusation;
pub(crate) use shared::Shared;
pub(crate) use table::{Incoming, Table};

/// A participant's place in its herd, as the supervisor gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The herd's number in its supervisor.
    pub herd: u64,
    /// The slot.
    pub slot: Slot,
    /// Which process of this slot, counted from 1.
    pub incarnation: u32,
    /// Bytes of the ring, a power of two.
    pub ring_bytes: u64,
    /// Position of the ring's first byte; see [`layout::next_base`]. Never 0.
    pub base: u64,
    /// How long a publisher waits for a reader that does not move.
    pub stall_timeout: Duration,
    /// The herd's limit for one message in bytes.
    pub max_message: u64,
}

/// Why a place cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A number of the place is impossible.
    #[error("the place is impossible: `{0}`")]
    Place(&'static str),
    /// The own outbox cannot be mapped.
    #[error("cannot map the own outbox")]
    Outbox(#[source] io::Error),
    /// The directory cannot be used.
    #[error("cannot use the herd's directory")]
    Directory(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The predecessor's outbox cannot be used.
    #[error("cannot use the predecessor's outbox")]
    Predecessor(#[source] io::Error),
}

/// A participant, ready to be taken apart.
#[derive(Debug)]
pub struct Participant {
    /// Writes the own ring.
    pub publisher: Publisher,
    /// Reads the rings of the others.
    pub drain: Drain,
    /// Says who the others are. Cheap to clone.
    pub control: Control,
}

/// Takes a place: maps the own outbox, touches it, writes its identity, and takes over the cursors of a predecessor.
/// The supervisor then seals the outbox ([`crate::memory::seal`]) and shows it to the others.
///
/// # Errors
/// A descriptor is not what it must be.
pub fn join(
    place: &Place,
    own_outbox: OwnedFd,
    own_bell: OwnedFd,
    directory: OwnedFd,
    predecessor: Option<OwnedFd>,
) -> Result<Participant, JoinError> {
    check_place(place)?;
    let directory = open_directory(place.herd, directory)?;
    let inherited = predecessor.map(|fd| cursors_of(place, fd)).transpose()?;
    let own = OwnMap::new(own_outbox.as_fd(), OUTBOX_HEAD + place.ring_bytes).map_err(JoinError::Outbox)?;
    own.touch();
    if let Some(cursors) = &inherited {
        for (slot, cursor) in cursors.iter().enumerate() {
            own.store(layout::cursor(slot as Slot), *cursor);
        }
    }
    write_identity(&own, place.herd, place.slot, place.incarnation, place.ring_bytes, place.base);
    // The supervisor is there before everybody else.
    let table = Table::new(Arc::new(directory), inherited, place.slot == SUPERVISOR);
    let shared = Arc::new(Shared::new(place.clone(), own, own_bell, table));
    Ok(Participant {
        publisher: Publisher::new(shared.clone()),
        drain: Drain::new(shared.clone()),
        control: Control::new(shared),
    })
}

fn check_place(place: &Place) -> Result<(), JoinError> {
    if usize::from(place.slot) >= MAX_SLOTS {
        return Err(JoinError::Place("slot"));
    }
    if !is_ring_size(place.ring_bytes) {
        return Err(JoinError::Place("ring_bytes"));
    }
    if !is_base(place.base) || place.base < place.ring_bytes {
        return Err(JoinError::Place("base"));
    }
    Ok(())
}

fn open_directory(herd: u64, fd: OwnedFd) -> Result<DirectoryReader, JoinError> {
    let directory = DirectoryReader::open(fd.as_fd()).map_err(|error| JoinError::Directory(error.into()))?;
    if directory.herd() != herd {
        return Err(JoinError::Directory("it is another herd's".into()));
    }
    Ok(directory)
}

/// The cursors that the dead incarnation of our slot has shown.
fn cursors_of(place: &Place, fd: OwnedFd) -> Result<Vec<u64>, JoinError> {
    let map = PeerMap::new(fd.as_fd(), OUTBOX_HEAD).map_err(JoinError::Predecessor)?;
    if (map.load(layout::identity::PLACE) >> 16) as u16 != place.slot {
        return Err(JoinError::Predecessor(io::Error::other("it is another slot's")));
    }
    let cursors = (0..MAX_SLOTS as Slot).map(|slot| map.load(layout::cursor(slot))).collect();
    fence(Acquire);
    Ok(cursors)
}

/// Where an outbox's last record ends, whoever owns it: what [`layout::next_base`] wants when its owner is dead.
///
/// # Errors
/// It cannot be mapped, or is no outbox.
pub fn head_of(outbox: BorrowedFd<'_>) -> io::Result<u64> {
    let map = PeerMap::new(outbox, OUTBOX_HEAD)?;
    let slot = (map.load(layout::identity::PLACE) >> 16) as u16;
    if usize::from(slot) >= MAX_SLOTS {
        return Err(io::Error::other("it is no outbox"));
    }
    let head = map.load(layout::head(slot));
    fence(Acquire);
    Ok(head)
}
