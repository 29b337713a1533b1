//! What instances print: from their pipes into files, and from the files to whoever looks.
//!
//! Owns the capture ([`Pump`]), the place of the files ([`paths`]) and the ways of reading them ([`tail`],
//! [`Follower`]). Files hold the bytes as they were written, nothing added; the pipes' read ends belong to the store.

mod follow;
mod place;
mod pump;
mod tail;
mod target;

pub use follow::{Follower, From, Line};
pub use place::{Paths, paths};
pub use pump::{Drained, Event, Kind, Pump, StreamKey};
pub use tail::{LINE_LIMIT, tail};

#[cfg(test)]
mod tests;
