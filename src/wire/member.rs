//! Who holds a slot of a herd, and the outboxes of the dead that somebody may still have to read.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use herdwire_ipc::Slot;

use super::link::Key;

/// Where a participant stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was welcomed and has yet to map its outbox.
    Joining,
    Running,
    /// Its process is gone or has left; a successor may come.
    Down,
}

/// The memory of one incarnation.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    pub incarnation: u32,
    pub memory: Arc<OwnedFd>,
    pub bell: Arc<OwnedFd>,
    pub ring_bytes: u64,
}

/// The memory of a dead incarnation that somebody may still have to read.
#[derive(Debug)]
pub(super) struct Retired {
    pub outbox: Outbox,
    /// Position after its last record.
    pub end: u64,
}

/// The instance of a seat whose instance is deleted, until everybody has read what it left.
pub(super) const NOBODY: u32 = u32::MAX;

/// The holder of a slot.
#[derive(Debug)]
pub(super) struct Seat {
    pub slot: Slot,
    pub instance: u32,
    /// Which process of the instance sits here. Its outbox may count on beyond: each supervisor that stands in for it
    /// has one of its own.
    pub process: u32,
    /// Whether the supervisor stands in for it.
    pub stands_in: bool,
    pub standing: Standing,
    pub outbox: Outbox,
    /// Outboxes of dead predecessors, oldest first, until every reader has read them to the end.
    pub retired: Vec<Retired>,
    /// Position of the first byte of the outbox's ring.
    pub base: u64,
    /// It let a change wait until the wait was over, or cannot be told any more. Nobody waits for it until it says that
    /// it has seen something: one stopped worker must not cost each of its siblings a second at every step.
    pub late: bool,
    /// It was told to finish: what goes to one of several goes to another.
    pub leaving: bool,
}

/// Dead incarnations of one slot that are kept for late readers. A worker that dies more often than others can read
/// loses the oldest.
pub(super) const RETIRED: usize = 3;

impl Seat {
    /// The process that sits here.
    pub(super) fn key(&self) -> Key {
        Key { instance: self.instance, incarnation: self.process }
    }

    /// Whether a change waits until it has taken it over. A stand-in lives with us: what it is told, it knows.
    pub(super) fn is_awaited(&self) -> bool {
        self.is_running() && !self.late && !self.stands_in
    }

    pub(super) fn is_running(&self) -> bool {
        self.standing == Standing::Running
    }
}
