//! The small parent of the supervisor that holds its descriptors, reaps, and restarts it.

pub mod client;
pub mod handle;
pub mod name;
pub mod protocol;
