//! From what the user wrote to what is run.
//!
//! Two types and one door: [`file::File`] is what somebody wrote, with every setting optional and its place known;
//! [`spec`] is what is run, with nothing left open; [`resolve()`] leads from one to the other and holds every default
//! and every check. Knows the file system (is there such a script?) and nothing of processes, sockets or the
//! supervisor.

pub mod address;
#[cfg(test)]
mod app_tests;
mod bounds;
pub mod environment;
mod error;
pub mod file;
mod health;
pub mod home;
mod load;
pub mod names;
mod order;
mod output;
mod reload;
mod resolve;
mod restarts;
mod script;
mod secret;
mod section;
pub mod settings;
pub mod signal;
pub mod spec;
pub(crate) mod suggest;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod triggers;
pub mod units;
pub mod variables;
pub mod words;

pub use error::{At, ConfigError, Place, Problem};
pub use load::{Loaded, load};
pub use resolve::{MAX_INSTANCES, Resolved, Surroundings, resolve};
