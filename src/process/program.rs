//! A program that begins at once and is one of us: a supervisor.
//!
//! Unlike an instance it is trusted, waits for no word, and is given our environment, and one socket.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use super::birth::{self, Born, Plan, Stillborn};
use super::{Parent, Pidfd};

/// The number of that socket.
pub const LINE: RawFd = 3;

/// Starts an open program in a session of its own, with these arguments, the zeroth included: with `line` as its
/// descriptor 3, our stdin and stdout, this stderr (or ours) and nothing else of ours; with default signals. Blocks until it
/// has been executed.
///
/// # Errors
/// There is no process for it, or it cannot be executed. With [`Parent::Keeper`] the keeper may then reap a child with
/// status 125 that nobody knows.
pub fn launch(
    program: BorrowedFd<'_>,
    arguments: &[&CStr],
    line: BorrowedFd<'_>,
    stderr: Option<BorrowedFd<'_>>,
    parent: Parent,
) -> io::Result<(u32, Pidfd)> {
    // std sees to it that they are open.
    let (stdin, stdout, own) = (io::stdin(), io::stdout(), io::stderr());
    let stderr = stderr.unwrap_or(own.as_fd());
    let plan = Plan {
        descriptors: vec![(0, stdin.as_fd()), (1, stdout.as_fd()), (2, stderr), (LINE, line)],
        binary: program,
        args: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        environment: Some(environment()?),
        name: c"herdwire".to_owned(),
        parent,
        group: None,
    };
    match birth::give_birth(&plan) {
        Ok(Born { pid, pidfd, .. }) => Ok((pid, Pidfd::from_fd(pidfd))),
        Err(Stillborn::Clone(source)) => Err(source),
        Err(Stillborn::Child { source, pidfd, .. }) => {
            if parent == Parent::Caller {
                // It has ended; nobody else reaps it.
                Pidfd::from_fd(pidfd).bury();
            }
            Err(source)
        }
    }
}

/// Becomes an open program, with these arguments and our environment.
///
/// # Errors
/// It cannot be executed.
pub fn execute(program: BorrowedFd<'_>, arguments: &[&CStr]) -> io::Result<Infallible> {
    Ok(nix::unistd::fexecve(program, arguments, &environment()?)?)
}

fn environment() -> io::Result<Vec<CString>> {
    let entry = |(name, value): (OsString, OsString)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat());
    Ok(std::env::vars_os().map(entry).collect::<Result<_, _>>()?)
}
