//! The front over real sockets of loopback: what browsers, and those who pretend to be, get to see.

pub mod client;
mod files;
mod handshake;
mod limits;
mod protocol;
mod sessions;
mod shutdown;
mod stand;
