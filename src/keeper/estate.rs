//! What goes from one keeper's process to the next, by exec: all that a keeper is.
//!
//! Two cases. A keeper is replaced in place by another program: it keeps its pid, and so its children and its place at
//! the service manager. Or a keeper has died, and its supervisor becomes the keeper (`keeper::heir`). Either way the
//! descriptors stay open across the exec, and a memfd says which is which, in records of [`Legacy`]; its number is the
//! argument of the role `__keeper`.

#![allow(unsafe_code)] // What is inherited by number becomes an owner by an unsafe constructor only.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::protocol::{self, Exit, Hello, Legacy, PROTOCOL_VERSION, RawName};
use super::sys;

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
        let error = sys::execute(program.as_fd(), &arguments, &sys::environment());
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
    pub stored: Vec<(RawName, OwnedFd)>,
    pub programs: Vec<OwnedFd>,
    /// Its pid, our end of its socket pair, and whether it is ready.
    pub supervisor: Option<(u32, OwnedFd, bool)>,
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
        let Some(Legacy::Keeper(old, last_exit)) = Legacy::parse(first) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let hello = Hello { protocol: PROTOCOL_VERSION, keeper_pid: std::process::id(), ..old };
        let mut estate = Estate { last_exit, ..Estate::of(hello) };
        while let Some((record, behind)) = protocol::split_off(rest) {
            match Legacy::parse(record) {
                Some(Legacy::Exit(exit)) => estate.exits.push(exit),
                Some(Legacy::Stored(name, descriptor)) => estate.stored.push((name, own(descriptor)?)),
                Some(Legacy::Program(descriptor)) => estate.programs.push(own(descriptor)?),
                Some(Legacy::Supervisor(pid, socket, ready)) => estate.supervisor = Some((pid, own(socket)?, ready)),
                // Of a later release.
                Some(Legacy::Keeper(..)) | None => {}
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
