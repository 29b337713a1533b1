//! The client for tokio programs: the same names as the blocking one, async.
//!
//! ```no_run
//! # async fn worker() -> Result<(), Box<dyn std::error::Error>> {
//! let (herd, mut inbox) = herdwire_ipc::tokio::connect().await?;
//! let chat = herd.subscribe("chat").await?;
//! herd.ready()?;
//! while let Some(message) = inbox.next().await? {
//!     herd.publish(&chat, message.payload()).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A receiver yields after 256 messages, since draining a ring costs no budget that tokio knows of: without it a flood
//! would starve the other tasks of its thread. Waiting works on the bell with edges, which nobody reads.

mod herd;
mod inbox;
mod waiting;
mod watched;

use std::io;
use std::os::fd::OwnedFd;

use ::tokio::task::spawn_blocking;

use crate::client::{ConnectError, environment, establish};

pub use herd::Herd;
pub use inbox::Inbox;
pub use waiting::{publish, wait_for_news};
pub use watched::Watched;

/// As [`crate::connect`], without blocking the runtime.
///
/// # Errors
/// As [`crate::connect`].
pub async fn connect() -> Result<(Herd, Inbox), ConnectError> {
    connect_over(environment::link()?).await
}

/// As [`connect`], over a link that the caller has.
///
/// # Errors
/// As [`connect`].
pub async fn connect_over(link: OwnedFd) -> Result<(Herd, Inbox), ConnectError> {
    let established = spawn_blocking(move || establish(link)).await;
    let (connection, publisher, drain) = established.map_err(|error| ConnectError::Link(io::Error::other(error)))??;
    let herd = Herd::new(connection, publisher, drain).map_err(ConnectError::Link)?;
    let inbox = Inbox::new(herd.clone());
    Ok((herd, inbox))
}
