//! What the CLI may ask and what it is answered, and how both travel on the control socket.
//!
//! One request a connection, one answer. A frame is [`herdwire_ipc::frame::Header`] and a body by the codec; a peer
//! that sends anything else is answered once, in a sentence, and closed.

use std::path::PathBuf;

use herdwire_ipc::{codec, frame};
use serde::{Deserialize, Serialize};

use crate::config::spec::{AppSpec, Settings};
use crate::snapshot::Snapshot;

/// Version of requests and answers. CLI and supervisor of different versions say so instead of misreading.
pub const CONTROL_VERSION: u16 = 1;

/// The most that one request may take.
pub const MAX_FRAME: usize = codec::LIMIT + frame::HEADER_BYTES;

/// What the CLI asks.
// One request lives for the length of one exchange: a box would save nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    Ping,
    /// Everything; `env` also asks for the apps' environments.
    Snapshot {
        env: bool,
    },
    /// Adds apps and starts them; one that exists already is restarted with the new spec.
    Start {
        apps: Vec<AppSpec>,
        settings: Settings,
        origin: PathBuf,
    },
    /// Starts again what is stopped.
    StartExisting {
        select: Selector,
    },
    Stop {
        select: Selector,
    },
    Restart {
        select: Selector,
    },
    Delete {
        select: Selector,
    },
    /// Ends all instances, the supervisor and the keeper.
    Kill,
}

/// Which instances a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selector {
    All,
    /// A number: tried as a name first, then as an id.
    Id(u32),
    Name(String),
    /// Several, in the order given.
    Several(Vec<Selector>),
}

/// What the supervisor answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    Pong(Pong),
    Snapshot(Box<Snapshot>),
    /// Done; everything as it is now. After a delete the instances are those that were deleted, as they were.
    Done(Box<Snapshot>),
    /// `Kill` was taken on; the connection ends when the last instance has.
    Killing {
        keeper_pid: u32,
    },
    Failed(Failure),
}

/// Answer to `Ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    pub pid: u32,
    pub version: String,
    pub uptime_ms: u64,
    pub keeper_pid: u32,
    pub status_address: Option<String>,
}

/// Why a request was not done: what, the cause, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub what: String,
    pub cause: Option<String>,
    pub hint: Option<String>,
}

impl Failure {
    /// A failure that needs no more than a sentence.
    pub fn new(what: impl Into<String>) -> Failure {
        Failure { what: what.into(), cause: None, hint: None }
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    pub fn cause(mut self, cause: impl ToString) -> Failure {
        self.cause = Some(cause.to_string());
        self
    }
}

/// Puts a request into a frame.
///
/// # Errors
/// It is larger than [`codec::LIMIT`].
pub fn to_frame(request: &Request) -> Result<Vec<u8>, codec::CodecError> {
    Ok(frame::compose(CONTROL_VERSION, 0, &codec::encode(request)?))
}

/// Puts an answer into a frame. It may be large: thousands of instances with their environments.
///
/// # Errors
/// It is larger than [`codec::LARGE_LIMIT`].
pub fn to_answer(response: &Response) -> Result<Vec<u8>, codec::CodecError> {
    Ok(frame::compose(CONTROL_VERSION, 0, &codec::encode_large(response)?))
}
