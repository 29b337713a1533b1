//! From one keeper's process to the next, by exec: all that a keeper is goes along.
//!
//! Two cases. A keeper is replaced in place by another program: it keeps its pid, and so its children and its place at
//! the service manager. Or a keeper has died, and the supervisor, which has a copy of every descriptor, becomes the
//! keeper ([`become_keeper`]). Either way the descriptors stay open across the exec, and a memfd says which is which, in
//! records of [`Legacy`]; its number is the argument of the role `__keeper`.

#![allow(unsafe_code)] // What is inherited by number becomes an owner by an unsafe constructor only.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use super::name::Name;
use super::protocol::{self, Exit, Hello, Legacy, PROTOCOL_VERSION, Reason, Stored};
use super::sys;

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
        will.say(Legacy::Keeper(Hello {
            protocol: PROTOCOL_VERSION,
            reason: Reason::Crash,
            foreground: heirloom.foreground,
            keeper_pid: std::process::id(),
            epoch: heirloom.epoch,
            descriptor_limit: heirloom.descriptor_limit,
            store_limit: heirloom.store_limit,
        }))?;
        will.say(Legacy::LastExit(heirloom.last_exit))?;
        for (name, descriptor) in &heirloom.descriptors {
            let stored = Stored { name: name.to_bytes(), descriptor: will.leave(descriptor)? };
            will.say(Legacy::Stored(stored))?;
        }
        Ok(will)
    };
    match will().and_then(|will| Ok((will, File::open("/proc/self/exe")?))) {
        Ok((will, program)) => will.execute(program),
        Err(error) => error,
    }
}

/// What is being left to the next program of this process.
pub(super) struct Will {
    text: File,
}

impl Will {
    pub fn new() -> io::Result<Will> {
        Ok(Will { text: memfd_create(c"herdwire-heirloom", MFdFlags::empty())?.into() })
    }

    pub fn say(&mut self, legacy: Legacy) -> io::Result<()> {
        self.text.write_all(legacy.to_record().as_bytes())
    }

    /// Keeps a descriptor open across the exec; its number.
    pub fn leave(&mut self, descriptor: impl AsFd) -> io::Result<RawFd> {
        fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(descriptor.as_fd().as_raw_fd())
    }

    /// Becomes the keeper that `program` contains; returns only when it cannot be executed.
    pub fn execute(self, program: impl AsFd) -> io::Error {
        let number = CString::new(self.text.as_raw_fd().to_string()).unwrap_or_default();
        let arguments = [c"herdwire".into(), c"__keeper".into(), number];
        let error = sys::execute(program.as_fd(), &arguments, &sys::environment(&[]));
        sys::close_at_exec();
        error
    }
}

/// What a keeper was left.
#[derive(Debug)]
pub(super) struct Estate {
    pub hello: Hello,
    pub last_exit: u64,
    pub exits: Vec<Exit>,
    pub stored: Vec<(protocol::RawName, OwnedFd)>,
    pub programs: Vec<OwnedFd>,
    pub supervisor: Option<(protocol::Child, OwnedFd)>,
}

impl Estate {
    /// That of a keeper which nobody left anything.
    pub fn of(hello: Hello) -> Estate {
        Estate { hello, last_exit: 0, exits: vec![], stored: vec![], programs: vec![], supervisor: None }
    }

    /// Takes over what lies in the memfd of this number, once.
    pub fn take_over(text: RawFd) -> io::Result<Estate> {
        let mut text = File::from(own(text)?);
        let mut bytes = Vec::new();
        text.rewind()?;
        text.read_to_end(&mut bytes)?;
        let (first, mut rest) = protocol::split_off(&bytes).ok_or(io::ErrorKind::InvalidData)?;
        let Some(Legacy::Keeper(hello)) = Legacy::parse(first) else { return Err(io::ErrorKind::InvalidData.into()) };
        let mut estate = Estate::of(Hello { protocol: PROTOCOL_VERSION, keeper_pid: std::process::id(), ..hello });
        while let Some((record, behind)) = protocol::split_off(rest) {
            match Legacy::parse(record) {
                Some(Legacy::LastExit(sequence)) => estate.last_exit = sequence,
                Some(Legacy::Exit(exit)) => estate.exits.push(exit),
                Some(Legacy::Stored(one)) => estate.stored.push((one.name, own(one.descriptor)?)),
                Some(Legacy::Program(descriptor)) => estate.programs.push(own(descriptor)?),
                Some(Legacy::Supervisor(child)) => estate.supervisor = Some((child, own(child.socket)?)),
                // Of a later release.
                Some(Legacy::Keeper(_)) | None => {}
            }
            rest = behind;
        }
        Ok(estate)
    }
}

/// Makes an inherited descriptor ours alone, to be inherited no further.
fn own(descriptor: RawFd) -> io::Result<OwnedFd> {
    if descriptor < 3 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: whoever executed this program left the number to it, once and for this purpose (`Will`), and this process
    // has opened nothing before.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(descriptor)
}
