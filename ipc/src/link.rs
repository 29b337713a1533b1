//! What instance and supervisor say to each other on the link.
//!
//! The link is an inherited SOCK_SEQPACKET socket, its number in `HERDWIRE_LINK`. It *is* the instance's identity;
//! nothing is sent before the hello ([`crate::frame::Hello`]), and its end is never a sign of death. It carries
//! control only: who is there, which channels exist, who listens. Messages never travel here.
//!
//! A frame is one record: [`crate::frame::Header`], then the body by [`crate::codec`]. Descriptors go with the frame
//! that names them, in the order its documentation gives. Requests carry an id, are idempotent, and are sent again
//! when a new supervisor says [`ToInstance::Renewed`].

use serde::{Deserialize, Serialize};

use crate::{codec, frame};

/// Versions of the link protocol that this crate speaks, lowest and highest.
pub const LINK_VERSIONS: (u16, u16) = (1, 1);

/// The environment variable that carries the number of the link's descriptor.
pub const LINK_VARIABLE: &str = "HERDWIRE_LINK";

/// From the instance to the supervisor. The hello itself is not among them: it is hand-written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// The outbox of [`ToInstance::Welcome`] is mapped, touched and its identity written: seal it and announce me.
    Mapped,
    /// Peers, directory and channels are taken over up to this directory version.
    Seen {
        /// The directory version acted on.
        version: u64,
    },
    /// Give this channel a number; answered with [`ToInstance::Channel`].
    Intern {
        /// The channel's name.
        name: String,
    },
    /// Deliver this channel to me; answered with [`ToInstance::Channel`] once every running publisher knows.
    Subscribe {
        /// The channel's name.
        name: String,
    },
    /// Do not deliver this channel to me any more; answered with [`ToInstance::Channel`].
    Unsubscribe {
        /// The channel's name.
        name: String,
    },
    /// The application is ready to serve.
    Ready,
    /// I leave the wire for good: what I committed may be read to the end, nothing more comes.
    Leave,
    /// I drop this peer because it broke a rule of the layout.
    Accuse {
        /// The liar's slot.
        slot: u16,
        /// Its incarnation.
        incarnation: u32,
        /// The rule.
        reason: String,
    },
}

/// From the supervisor to the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToInstance {
    /// Your place. Descriptors: own outbox, own bell (eventfd), directory; then, for a successor, its dead
    /// predecessor's outbox, from whose cursors it goes on.
    Welcome(Welcome),
    /// You run without wire. The reason is for people.
    Refused {
        /// What is wrong and what to do about it.
        reason: String,
    },
    /// A participant to map. Descriptors: outbox, bell. `retired` is the outbox of a dead incarnation that still has
    /// records for you; it comes before its successor's.
    Peer {
        /// Its slot.
        slot: u16,
        /// Its incarnation.
        incarnation: u32,
        /// Whether this incarnation is dead: read it to the end, then forget it.
        retired: bool,
    },
    /// A participant is gone for good or replaced: read it to its end, then forget it.
    Gone {
        /// Its slot.
        slot: u16,
        /// The dead incarnation.
        incarnation: u32,
    },
    /// The directory moved: take it over, then answer with [`ToSupervisor::Seen`].
    LookAgain {
        /// The version to reach.
        version: u64,
    },
    /// You are a full member: all running peers know you.
    Joined,
    /// Answer to `Intern`, `Subscribe` and `Unsubscribe`.
    Channel {
        /// Its number in the directory.
        id: u16,
        /// Slots of publishers that had not taken the change over when the wait ran out.
        unaware: Vec<u16>,
    },
    /// A request could not be done; the frame's id says which.
    Failed {
        /// What is wrong and what to do about it.
        reason: String,
    },
    /// A new supervisor serves this link. Descriptors: its directory. What was asked and not answered is asked again.
    Renewed,
    /// Finish what is in hand; a signal will follow.
    Shutdown,
}

/// What a newcomer needs to take its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Version of the memory layout in this herd.
    pub layout: u16,
    /// The herd's number in this supervisor.
    pub herd: u64,
    /// The herd's name.
    pub herd_name: String,
    /// The name of the instance's app.
    pub app: String,
    /// The instance's number within its app.
    pub index: u32,
    /// The instance's id in the supervisor.
    pub instance: u32,
    /// Slot in the herd.
    pub slot: u16,
    /// Which process of this slot it is, counted from 1.
    pub incarnation: u32,
    /// Bytes of its ring, a power of two.
    pub ring_bytes: u64,
    /// Position of the first byte of its ring.
    pub base: u64,
    /// Whether a predecessor's outbox came along.
    pub successor: bool,
    /// How long a publisher waits for a reader that does not move, in milliseconds.
    pub stall_timeout_ms: u64,
    /// The herd's limit for one message, in bytes.
    pub max_message: u64,
}

/// Kind of every encoded link frame. A later version adds kinds; unknown ones are skipped.
const KIND_TO_SUPERVISOR: u16 = 1;
const KIND_TO_INSTANCE: u16 = 2;

/// Why a link frame cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Shorter than a header, or its length is wrong.
    #[error("frame is cut or its length is wrong")]
    Frame,
    /// The body is no message of this version.
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
}

impl ToSupervisor {
    /// The whole frame. `id` is the request's id, 0 where no answer is expected.
    pub fn to_frame(&self, id: u64) -> Vec<u8> {
        to_frame(KIND_TO_SUPERVISOR, id, self)
    }

    /// Reads a frame; `Ok(None)` for a kind of a later version, which is to be skipped.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn from_frame(frame: &[u8]) -> Result<Option<(u64, ToSupervisor)>, LinkError> {
        from_frame(KIND_TO_SUPERVISOR, frame)
    }
}

impl ToInstance {
    /// The whole frame. `id` is that of the request answered, 0 where it answers none.
    pub fn to_frame(&self, id: u64) -> Vec<u8> {
        to_frame(KIND_TO_INSTANCE, id, self)
    }

    /// Reads a frame; `Ok(None)` for a kind of a later version, which is to be skipped.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn from_frame(frame: &[u8]) -> Result<Option<(u64, ToInstance)>, LinkError> {
        from_frame(KIND_TO_INSTANCE, frame)
    }
}

fn to_frame<T: Serialize>(kind: u16, id: u64, message: &T) -> Vec<u8> {
    let body = codec::encode(message).expect("link messages hold names and numbers, far below the limit");
    frame::compose(kind, id, &body)
}

fn from_frame<T: serde::de::DeserializeOwned>(kind: u16, bytes: &[u8]) -> Result<Option<(u64, T)>, LinkError> {
    let (header, body) = frame::split(bytes).ok_or(LinkError::Frame)?;
    if header.kind != kind {
        return Ok(None);
    }
    Ok(Some((header.id, codec::decode(body)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_a_later_kind_is_skipped_and_a_broken_one_is_an_error() {
        let frame = ToSupervisor::Subscribe { name: "orders".into() }.to_frame(9);
        assert!(matches!(ToSupervisor::from_frame(&frame), Ok(Some((9, ToSupervisor::Subscribe { .. })))));
        assert!(matches!(ToInstance::from_frame(&frame), Ok(None)));
        assert!(ToSupervisor::from_frame(&frame[..frame.len() - 1]).is_err());
    }
}
