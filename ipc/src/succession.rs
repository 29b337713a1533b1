//! Succession by hand: a predecessor's cursors, written down by whoever kept account of them elsewhere.
//!
//! A participant that is dead hands its cursors on in its outbox, where they stand before what they cover is handed
//! over. Whoever stands in for others knows better what was really passed on, and lets the successor begin there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::layout::{self, MAX_SLOTS, OUTBOX_HEAD, RING_MIN, identity};
use crate::map::OwnMap;
use crate::memory;
use crate::slots::Slot;
use crate::sync::OwnWords;

/// Memory that [`crate::join`] takes for a dead predecessor at `slot` whose cursors in the rings of others were these.
///
/// # Errors
/// Those of `memfd_create(2)` and `mmap(2)`.
///
/// ```
/// let predecessor = herdwire_ipc::predecessor_at(3, [(1, 4096)])?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn predecessor_at(slot: Slot, cursors: impl IntoIterator<Item = (Slot, u64)>) -> io::Result<OwnedFd> {
    let memory = memory::create_outbox("herdwire-cursors", RING_MIN)?;
    let own = OwnMap::new(memory.as_fd(), OUTBOX_HEAD)?;
    own.store(identity::PLACE, u64::from(slot) << 16);
    for (publisher, cursor) in cursors {
        if usize::from(publisher) < MAX_SLOTS {
            own.store(layout::cursor(publisher), cursor);
        }
    }
    Ok(memory)
}
