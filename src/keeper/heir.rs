//! The death of a keeper: its supervisor becomes the keeper.
//!
//! The supervisor has a copy of every descriptor. It executes this program anew in the keeper's role, with all of them open
//! (`keeper::estate`), and that keeper starts a supervisor, which adopts everything as after any other death. Instances
//! now belong to init: their exits come to no keeper any more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use super::estate::Will;
use super::name::Name;
use super::protocol::{Hello, Legacy, PROTOCOL_VERSION, Reason};

/// What a supervisor whose keeper is dead hands to the keeper that it becomes.
#[derive(Debug)]
pub struct Heirloom {
    /// All that the store holds, the home's lock (`Kind::Lock`) included.
    pub descriptors: BTreeMap<Name, OwnedFd>,
    /// The number of the last exit that the keeper told. The new one counts on from there.
    pub last_exit: u64,
    /// This supervisor's own; its successor's is the next.
    pub epoch: u64,
    pub foreground: bool,
    pub store_limit: u32,
    pub descriptor_limit: u64,
}

/// Turns this process into a keeper that starts a supervisor, of the same program as this one. Returns only when that
/// fails, and then with every signal of this thread blocked.
///
/// Everything that the state has to know is committed before; nothing of this process but `heirloom` and stdio outlives
/// the call.
pub fn become_keeper(heirloom: Heirloom) -> io::Error {
    let will = || -> io::Result<Will> {
        // Before the exec: the new program could not do it soon enough.
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None)?;
        let mut will = Will::new()?;
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            reason: Reason::Crash,
            foreground: heirloom.foreground,
            keeper_pid: std::process::id(),
            epoch: heirloom.epoch,
            descriptor_limit: heirloom.descriptor_limit,
            store_limit: heirloom.store_limit,
        };
        will.say(Legacy::Keeper(hello, heirloom.last_exit))?;
        for (name, descriptor) in &heirloom.descriptors {
            let descriptor = will.leave(descriptor)?;
            will.say(Legacy::Stored(name.to_bytes(), descriptor))?;
        }
        Ok(will)
    };
    match will().and_then(|will| Ok((will, File::open("/proc/self/exe")?))) {
        Ok((will, program)) => will.execute(program),
        Err(error) => error,
    }
}
