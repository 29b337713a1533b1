//! How an instance comes to be, is signalled, and ends; and the sockets it inherits.
//!
//! Owns the birth of a process ([`spawn`]), the trampoline that turns it into the app ([`stage`]), its identity
//! ([`Pidfd`]), as whom and within which bounds it runs, the end of all that descends from it ([`Group`], and where there
//! is none [`sweep_descendants`]), the start of a supervisor ([`program`]), files of variables ([`env_file`]) and listening sockets ([`listen`]). Knows no policy: when to start, stop or give up is for `lifecycle`, who keeps the descriptors is for `keeper`.
//!
//! The way of one process: [`spawn`] makes pipes and a sealed record of the settings and creates a child that
//! executes our own binary as `__stage`. The child waits. Once pidfd, pipes and link are stored and the state is
//! committed, [`Go::release`] lets it become the app; [`Launching::result`] says whether it did. A [`Go`] that is
//! dropped ends the child with status 125: an instance that nobody has recorded never runs.

mod birth;
mod bounds;
mod cgroup;
pub mod env_file;
mod go;
mod hierarchy;
mod identity;
pub mod kinship;
pub mod listen;
mod orphans;
pub mod passed;
mod pidfd;
pub mod program;
pub mod sealed;
mod spawn;
pub mod stage;
mod sweep;
mod sys;

pub use bounds::open_files_hint;
pub use cgroup::{Cgroups, Group, Removal};
pub use go::{ExecFailure, Go, Launching, Step};
pub use orphans::{Ended, end_orphans};
pub use pidfd::Pidfd;
pub use spawn::{Launch, OpenFiles, Output, Parent, SpawnError, Spawned, spawn};
pub use sweep::{Swept, sweep_descendants};
pub(crate) use sys::{TO_GROUP, close_on_exec, inherit, pidfd_send_signal};

#[cfg(test)]
mod hosted;
#[cfg(test)]
mod tests;
