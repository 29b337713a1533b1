//! What a worker links: its place in the herd, with which it publishes, receives and talks to the supervisor.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (herd, mut inbox) = herdwire_ipc::connect()?;
//! let chat = herd.subscribe("chat")?;
//! herd.ready()?;
//! while let Some(message) = inbox.next()? {
//!     herd.publish(&chat, message.payload())?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! This is the blocking client; `herdwire_ipc::tokio` has the same names for async programs. Both share the
//! connection: one small thread owns the link to the supervisor, so that publishing and receiving never touch it and
//! a worker that computes delays nobody's join.

pub(crate) mod environment;
mod error;
mod handshake;
mod herd;
mod inbox;
pub(crate) mod link;
mod message;
pub(crate) mod receiver;

use std::os::fd::OwnedFd;

pub use error::{ConnectError, ReceiveError, RequestError, SendError};
#[cfg(feature = "tokio")]
pub(crate) use handshake::Connection;
pub(crate) use handshake::establish;
pub use herd::{Channel, Herd, Me, Neighbour};
#[cfg(feature = "tokio")]
pub(crate) use herd::{neighbours, slot_of};
pub use inbox::Inbox;
pub use message::{Message, SessionId};

/// Takes this process's place in its herd, over the link that Herdwire handed down in `HERDWIRE_LINK`. Waits until
/// everybody in the herd knows it, at most ten seconds. Once per process.
///
/// # Errors
/// The process was not started by Herdwire, or the supervisor refuses it or does not answer.
pub fn connect() -> Result<(Herd, Inbox), ConnectError> {
    connect_over(environment::link()?)
}

/// As [`connect`], over a link that the caller has.
///
/// # Errors
/// As [`connect`].
pub fn connect_over(link: OwnedFd) -> Result<(Herd, Inbox), ConnectError> {
    let (connection, publisher, drain) = establish(link)?;
    let herd = Herd::new(connection, publisher, drain);
    let inbox = Inbox::new(herd.clone());
    Ok((herd, inbox))
}
