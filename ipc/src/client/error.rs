//! What can go wrong for a worker, one enum per operation.

use std::io;
use std::time::Duration;

use crate::link::{LINK_VARIABLE, LINK_VERSIONS};
use crate::participant::JoinError;
use crate::publish::PublishError;

/// Why a process did not get its place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no link in the environment.
    #[error("this process was not started by Herdwire: {LINK_VARIABLE} is not set")]
    NotStartedByHerdwire,
    /// What the environment names is no link.
    #[error("{LINK_VARIABLE} is `{number}`, which is not a link to a supervisor")]
    BrokenLink {
        /// The variable's value.
        number: String,
    },
    /// The link was taken before.
    #[error("this process is connected already")]
    AlreadyConnected,
    /// The supervisor gives no place.
    #[error("the supervisor refuses: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// It speaks a version that this client does not.
    #[error("the herd has layout {layout}, which this client does not know (its link versions: {first} to {last})",
        first = LINK_VERSIONS.0, last = LINK_VERSIONS.1)]
    Version {
        /// The herd's layout.
        layout: u16,
    },
    /// It did not answer.
    #[error("the supervisor has not given this process a place within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// The link ended or broke.
    #[error("the link to the supervisor is broken")]
    Link(#[source] io::Error),
    /// What it gave cannot be used.
    #[error("the place cannot be taken")]
    Join(#[from] JoinError),
}

impl ConnectError {
    /// What can be done about it, if we know.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ConnectError::NotStartedByHerdwire => Some("start it with `herdwire start`, or run it without the wire"),
            ConnectError::BrokenLink { .. } => Some("let the variable and the descriptor reach the process untouched"),
            ConnectError::AlreadyConnected => Some("clone the Herd that the first call returned"),
            ConnectError::Version { .. } => Some("rebuild the worker with the Herdwire release that runs it"),
            ConnectError::Refused { .. } | ConnectError::NoAnswer(_) => {
                Some("`herdwire describe` and the logs say more")
            }
            ConnectError::Link(_) | ConnectError::Join(_) => None,
        }
    }
}

/// Why the supervisor did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It says why not.
    #[error("the supervisor refuses: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// It did not answer in time. It may still do it.
    #[error("the supervisor has not answered within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// Nobody is there to answer: supervisor and keeper are gone. Messages among instances go on.
    #[error("there is no supervisor any more")]
    NoSupervisor,
    /// Too many requests wait for an answer.
    #[error("{0} requests to the supervisor wait already")]
    TooMany(usize),
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The wire did not take it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The value is not representable as JSON.
    #[error("the value cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// No instance of the herd has this id.
    #[error("there is no instance {0} in this herd")]
    NoSuchInstance(u32),
}

/// Why no message was received.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiveError {
    /// None came in time.
    #[error("no message came in time")]
    TimedOut,
}
