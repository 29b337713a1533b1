//! The death of a keeper: its supervisor becomes the keeper.
//!
//! The supervisor has a copy of every descriptor. It executes this program anew in the keeper's role, with all of them open
//! ([`super::estate`]), and that keeper starts a supervisor, which adopts everything as after any other death. Instances
//! now belong to init: their exits come to no keeper any more.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::estate::Estate;
use super::name::{Kind, Name};
use super::protocol::hello::{LAST_EXIT, REASON};
use super::protocol::{Reason, Words};
use super::start;

/// What a supervisor whose keeper is dead hands to the keeper that it becomes.
#[derive(Debug)]
pub struct Heirloom {
    /// All that the store holds, the home's lock (`Kind::Lock`) included.
    pub descriptors: BTreeMap<Name, OwnedFd>,
    /// The number of the last exit that the keeper told. The new one counts on from there.
    pub last_exit: u64,
    /// What the keeper said to this supervisor.
    pub hello: Words,
}

/// Turns this process into a keeper that starts a supervisor, of the program that the store has for it. Returns only when
/// that fails, and then with every signal of this thread blocked.
///
/// Everything that the state has to know is committed before; nothing of this process but `heirloom` and stdio outlives
/// the call.
pub fn become_keeper(heirloom: Heirloom) -> io::Error {
    let Err(error) = execute(heirloom);
    error
}

fn execute(Heirloom { descriptors, last_exit, mut hello }: Heirloom) -> io::Result<Infallible> {
    let lock = descriptors.get(&Name::new(Kind::Lock, 0, 0)).ok_or(io::ErrorKind::NotFound)?;
    start::prepare_process(&File::from(lock.try_clone()?))?;
    hello[REASON] = Reason::Crash as u64;
    hello[LAST_EXIT] = last_exit;
    let mut estate = Estate::new(hello)?;
    // First what the keeper itself needs: should not all find room, it is these that do.
    let is_keepers = |name: &Name| matches!(name.kind, Kind::Lock | Kind::Supervisor | Kind::Service);
    let (keepers, others): (Vec<_>, Vec<_>) = descriptors.iter().partition(|(name, _)| is_keepers(name));
    for (name, descriptor) in keepers.into_iter().chain(others) {
        estate.leave(name.to_bytes(), descriptor.as_fd())?;
    }
    estate.execute(File::open("/proc/self/exe")?.as_fd())
}
