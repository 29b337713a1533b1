//! The word that lets a new process become its app, and what comes back.
//!
//! Owns the supervisor's end of a SOCK_SEQPACKET pair of which the stage holds the other. Records: `[GO]` to the stage;
//! back `[EXECUTING]` right before it executes the app and `[FAILED, step, errno: i32, name...]` when something went
//! wrong. The stage's end is close-on-exec, so that end of file after `[EXECUTING]` means: the app runs.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use herdwire_ipc::seqpacket::{self, Wait};
use nix::poll::{PollFd, PollFlags, PollTimeout};

const GO: u8 = 1;
const EXECUTING: u8 = 2;
const FAILED: u8 = 3;
/// The longest record, and how much of a name fits into it.
const RECORD: usize = 128;
const NAME: usize = RECORD - 6;

/// Holds a new process back. Dropped, it ends that process with status 125.
#[derive(Debug)]
pub struct Go {
    socket: OwnedFd,
}

impl Go {
    /// The word, and the stage's end of it.
    pub(super) fn new() -> io::Result<(Go, OwnedFd)> {
        let (ours, stage) = seqpacket::pair()?;
        Ok((Go { socket: ours }, stage))
    }

    /// Lets the process become its app. Does not block.
    ///
    /// # Errors
    /// `BrokenPipe` when it has ended already; its exit tells how.
    pub fn release(self) -> io::Result<Launching> {
        seqpacket::send(self.socket.as_fd(), &[GO], &[], Wait::Never)?;
        Ok(Launching { socket: self.socket, executing: false, result: None })
    }
}

/// A process that is on its way to be its app. Readable when there is news: poll it, then ask [`Launching::result`].
#[derive(Debug)]
pub struct Launching {
    socket: OwnedFd,
    executing: bool,
    result: Option<Result<(), ExecFailure>>,
}

impl AsFd for Launching {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::os::fd::AsRawFd for Launching {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

impl Launching {
    /// Whether the app runs, or why not. `None` while that is open; never blocks; keeps its answer.
    pub fn result(&mut self) -> Option<Result<(), ExecFailure>> {
        let mut record = [0; RECORD];
        while self.result.is_none() {
            match seqpacket::receive(self.socket.as_fd(), &mut record, Wait::Never) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // A reset is an end of file, too: the stage died with our word unread.
                Ok(seqpacket::Received { length: 0, .. }) | Err(_) => {
                    self.result = Some(if self.executing { Ok(()) } else { Err(ExecFailure::new(Step::Died, 0)) });
                }
                Ok(received) => self.take(&record[..received.length]),
            }
        }
        self.result.clone()
    }

    /// Like [`Launching::result`], but waits for it, at most for `limit`. Blocks.
    pub fn wait(&mut self, limit: Duration) -> Option<Result<(), ExecFailure>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(result) = self.result() {
                return Some(result);
            }
            if left.is_zero() {
                return None;
            }
            let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            // An interrupted or failed poll only asks again, until the deadline.
            let _ = nix::poll::poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout);
        }
    }

    fn take(&mut self, record: &[u8]) {
        match *record {
            [EXECUTING] => self.executing = true,
            [FAILED, step, a, b, c, d, ref name @ ..] => {
                let step = Step::from_number(step).unwrap_or(Step::Exec);
                let failure = ExecFailure::new(step, i32::from_le_bytes([a, b, c, d]));
                self.result = Some(Err(failure.about(&String::from_utf8_lossy(name))));
            }
            // A stage is always of our own version; anything else says nothing.
            _ => {}
        }
    }
}

/// What a stage does between the word and the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// It ended before it came to execute the app: its exit tells how.
    Died = 0,
    /// Entering the working folder.
    Folder = 1,
    /// Setting a limit.
    Limit = 2,
    /// Closing what the app must not inherit.
    Close = 3,
    /// Executing the app.
    Exec = 4,
    /// Finding the app's user.
    User = 5,
    /// Finding a group.
    Group = 6,
    /// Becoming the user.
    Identity = 7,
    /// Making sure that there is no way back.
    Return = 8,
    /// Setting the priority.
    Nice = 9,
    /// Setting how soon the kernel chooses it when memory is short.
    OomScore = 10,
    /// Giving up new privileges.
    Privileges = 11,
}

impl Step {
    fn from_number(number: u8) -> Option<Step> {
        use Step::*;
        let all = [Died, Folder, Limit, Close, Exec, User, Group, Identity, Return, Nice, OomScore, Privileges];
        all.into_iter().find(|step| *step as u8 == number)
    }
}

/// Why a released process did not become its app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecFailure {
    /// What failed.
    pub step: Step,
    /// The error's number; 0 where the kernel had no part in it.
    pub errno: i32,
    /// The user, group or limit that it is about, if any.
    pub name: String,
}

impl ExecFailure {
    pub(super) fn new(step: Step, errno: i32) -> ExecFailure {
        ExecFailure { step, errno, name: String::new() }
    }

    /// The same about this.
    pub(super) fn about(self, name: &str) -> ExecFailure {
        ExecFailure { name: name.to_owned(), ..self }
    }

    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<&'static str> {
        match (self.step, self.errno) {
            (Step::Exec, libc::ENOENT) => Some("does the file exist, and the interpreter that its first line names?"),
            (Step::Exec, libc::EACCES) => Some("make the file executable (chmod +x) or set `interpreter`"),
            (Step::Exec, libc::ENOEXEC) => Some("give the file a first line like #!/bin/sh or set `interpreter`"),
            (Step::Exec, libc::E2BIG) => Some("arguments and environment are too large"),
            (Step::Exec, libc::EAGAIN) => Some("its user has too many processes: raise the limit `nproc`"),
            (Step::Folder, libc::ENOENT) => Some("create the folder or correct `cwd`"),
            (Step::Folder, libc::EACCES) => Some("the app's user may not enter it: change its mode or `cwd`"),
            (Step::Limit, libc::EPERM) => Some("only root may raise a hard limit"),
            (Step::Limit, libc::EINVAL) => Some("the soft limit must not be above the hard one"),
            (Step::User, 0) => Some("create the user or correct `user`"),
            (Step::Group, 0) => {
                Some("create the group or correct `group` and `groups`; a user by number needs `group`")
            }
            (Step::Identity, libc::EPERM) => Some("only a supervisor that runs as root can run apps as another user"),
            (Step::Nice, libc::EACCES | libc::EPERM) => Some("only root may set it below the supervisor's own"),
            (Step::OomScore, libc::EACCES) => Some("only root may set it below the supervisor's own"),
            _ => None,
        }
    }

    /// The record of it. A name that is too long is cut.
    pub(super) fn to_record(&self) -> Vec<u8> {
        let name = &self.name.as_bytes()[..self.name.len().min(NAME)];
        [&[FAILED, self.step as u8], &self.errno.to_le_bytes()[..], name].concat()
    }
}

impl fmt::Display for ExecFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.step, self.errno) {
            (Step::Died, _) => "the process ended before it could execute the program",
            (Step::Folder, _) => "cannot enter the working folder",
            (Step::Limit, _) => "cannot set the limit",
            (Step::Close, _) => "cannot close inherited descriptors",
            (Step::Exec, _) => "cannot execute the program",
            (Step::User, 0) => "there is no user",
            (Step::User, _) => "cannot find the user",
            (Step::Group, 0) => "there is no group",
            (Step::Group, _) => "cannot find the group",
            (Step::Identity, _) => "cannot become the user",
            (Step::Return, _) => "the rights that were given up could be had back",
            (Step::Nice, _) => "cannot set the priority",
            (Step::OomScore, _) => "cannot set the score for the out-of-memory killer",
            (Step::Privileges, _) => "cannot give up new privileges",
        };
        f.write_str(what)?;
        if !self.name.is_empty() {
            write!(f, " `{}`", self.name.escape_debug())?;
        }
        if self.errno != 0 {
            write!(f, ": {}", io::Error::from_raw_os_error(self.errno))?;
        }
        Ok(())
    }
}

impl std::error::Error for ExecFailure {}

/// The stage's side: waits for the word. `false` when it will never come.
pub(super) fn wait_for_word(socket: BorrowedFd<'_>) -> bool {
    let mut record = [0; 16];
    matches!(seqpacket::receive(socket, &mut record, Wait::Block), Ok(received) if record[..received.length] == [GO])
}

/// The stage's side: the app is executed next. Nobody may be left to hear it.
pub(super) fn say_executing(socket: BorrowedFd<'_>) {
    let _ = seqpacket::send(socket, &[EXECUTING], &[], Wait::Never);
}

/// The stage's side: it went wrong. Nobody may be left to hear it; the exit status says it, too.
pub(super) fn say_failed(socket: BorrowedFd<'_>, failure: &ExecFailure) {
    let _ = seqpacket::send(socket, &failure.to_record(), &[], Wait::Never);
}
