//! The status server: one page, the same as JSON, metrics and probes; and the sampler whose figures it shows.
//!
//! Only looks: every request asks the supervisor for a [`Snapshot`](crate::snapshot::Snapshot) through
//! [`Look`] and shows it. Nothing here changes anything, and no request has a side effect.
//!
//! - [`bind`] finds the address, [`serve`] answers on it until told to stop.
//! - [`Sampler`] reads what instances use, [`History`] keeps the last two minutes of it for the page.
//! - `access` decides who is answered, `routes` what is asked, `api`, `metrics` and `assets` make the answers.
//!
//! Invariants
//! - No environment values leave by here, even if a snapshot should carry some.
//! - Connections, heads, waits and answers are bounded; the body of a request is never read.

mod access;
mod api;
mod assets;
mod bind;
mod history;
mod look;
mod metrics;
mod routes;
mod sampler;
mod server;

pub use bind::{BindError, DEFAULT_ADDRESS, bind};
pub use history::{CAPACITY, Extract, History};
pub use look::Look;
pub use sampler::{Host, HostError, Sampler, Usage};
pub use server::serve;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
