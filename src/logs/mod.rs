//! What instances print: from their pipes into files, and from the files to whoever looks.
//!
//! Owns the capture ([`Pump`]), the place of the files ([`paths`]) and the ways of reading them ([`tail`],
//! [`Follower`]). The pipes' read ends belong to the store.
//!
//! A raw log (`target`) holds the bytes as they were written; they are spliced there, and a small index beside it
//! (`index`) says when they came. Stamped and JSON lines, and files with both outputs, are rendered (`rendered`, `line`,
//! `stamp`) from raw spools (`spool`) by a committed position (`position`). Logs are put aside by size and age (`rotate`)
//! and compressed (`compress`).

mod compress;
mod direct;
mod file;
mod follow;
mod history;
mod index;
mod line;
mod losing;
mod open;
mod peek;
mod place;
mod position;
mod pump;
mod rendered;
mod rotate;
mod sink;
mod spool;
mod stamp;
mod tail;
mod target;
mod written;

pub use direct::open_for_instance;
pub use follow::{Follower, From, Line};
pub use line::{Style, escape};
pub use losing::Lost;
pub use place::{NOWHERE, Paths, is_nowhere, paths, placed};
pub use pump::{Drained, Event, Kind, Pump, StreamKey};
pub use sink::Route;
pub use stamp::{PLAIN, Stamper, oddity};
pub use tail::{LINE_LIMIT, tail};

#[cfg(test)]
mod tests;
