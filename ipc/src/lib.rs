//! The wire of Herdwire: shared-memory channels between the workers of a herd, and the client that workers link.
//!
//! Each participant of a herd owns one *outbox*, shared memory that it alone can write and all others can read: its
//! broadcast ring, and how far it has read the rings of the others. A publish is one copy into the own ring, whatever
//! the number of subscribers; nobody stands between publisher and reader. The supervisor hands out the memory, keeps
//! the [`directory`] of slots, channels and subscribers, and is itself a participant, at slot 0.
//!
//! From bottom to top: [`layout`] (where each word stands), [`memory`] (descriptors), `map` (the door to foreign
//! bytes), `record` and `ring` (the protocols, pure), [`Publisher`], [`Drain`] and [`Control`] (a participant in three
//! parts, see [`join`]); [`codec`], [`frame`], [`link`], [`seqpacket`] (what client and supervisor say to each other);
//! and the client: [`connect`], [`Herd`], [`Inbox`].

#![deny(unsafe_code)]
#![deny(missing_docs)]

mod bell;
mod client;
pub mod codec;
pub mod directory;
pub mod frame;
mod grace;
pub mod layout;
pub mod link;
mod map;
pub mod memory;
mod participant;
mod peer;
mod publish;
mod receive;
mod record;
mod ring;
mod rule;
pub mod seqpacket;
mod slots;
mod succession;
mod sync;
mod tag;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use client::{
    Channel, ConnectError, Herd, Inbox, Me, Message, Neighbour, ReceiveError, RequestError, SendError, SessionId,
    connect, connect_over,
};
pub use directory::{ChannelEntry, Directory, DirectoryError, DirectoryReader, SlotEntry, SlotState};
pub use participant::{
    Accusation, Control, Counters, JoinError, Participant, PeerPosition, Place, head_of, join, monotonic_ns,
};
pub use peer::PeerError;
pub use publish::{Batch, Outgoing, PublishError, Published, Publisher, To};
pub use receive::{Announced, Delivery, Drain, Loss, LossCause, TURN, Turn};
pub use rule::Rule;
pub use slots::{ChannelId, SUPERVISOR, Slot, SlotSet};
pub use succession::predecessor_at;
pub use tag::Tag;
