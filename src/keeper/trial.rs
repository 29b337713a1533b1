//! A standby on trial: a supervisor starts its own successor, and plays the keeper to it until it has proved itself.
//!
//! The standby is a child of the keeper from birth, so how it ends is told like any other exit. It has copies of every
//! descriptor, and its line leads to us. Once it has said that it could take over and we have let go of everything,
//! the keeper is given our end of that line, and speaks to it from then on.
//!
//! Invariants
//! - A trial that is dropped ends its standby, unless the keeper has it. So does our death: its line is closed.
//! - Nothing of it waits: what a standby does not take is an error, and a standby that says nothing is nobody's loss.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use herdwire_ipc::seqpacket::{self, MAX_DESCRIPTORS, Wait};
use nix::sys::socket::{setsockopt, sockopt};

use super::client::{Exit, KeeperSender};
use super::name::Name;
use super::protocol::hello::{EPOCH, REASON};
use super::protocol::{MAX_RECORD_BYTES, Message, RawName, Reason, Words, verb};
use super::run::SUPERVISOR;
use crate::process::{Parent, Pidfd, program};

/// Bytes of records that may be on their way to a standby.
const ROOM: usize = 1 << 20;

/// A standby that was started by this supervisor.
#[derive(Debug)]
pub struct Trial {
    pid: u32,
    process: Pidfd,
    /// Our end, until the keeper has it.
    line: Option<OwnedFd>,
}

impl Trial {
    /// Starts `program` (open for execution) as a standby that speaks to `stderr`, and gives it copies of `descriptors`, which
    /// come in the order of their names. `hello` is what the keeper said to us.
    ///
    /// # Errors
    /// It cannot be executed, or does not get its copies.
    pub fn begin<'a>(
        program: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
        mut hello: Words,
        descriptors: impl IntoIterator<Item = (&'a Name, &'a OwnedFd)>,
    ) -> io::Result<Trial> {
        let (ours, theirs) = seqpacket::pair()?;
        let (pid, process) = program::launch(program, SUPERVISOR, theirs.as_fd(), Some(stderr), Parent::Keeper)?;
        // From here on it is ended by being dropped.
        let trial = Trial { pid, process, line: Some(ours) };
        hello[REASON] = Reason::Upgrade as u64;
        hello[EPOCH] += 1;
        tell(&trial.line, hello, descriptors)?;
        Ok(trial)
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Another descriptor for the line, to wait for what it says ([`hear`]). It has to go before the keeper is given ours,
    /// or the standby would not notice the keeper's death.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn line(&self) -> io::Result<OwnedFd> {
        self.line.as_ref().ok_or(io::ErrorKind::NotConnected)?.try_clone()
    }

    /// Whether this is its end.
    pub fn is_end(&self, exit: &Exit) -> bool {
        exit.pid == self.pid && (exit.pidfd_inode == 0 || self.process.inode().is_ok_and(|own| own == exit.pidfd_inode))
    }

    /// Has it take our place. From here on we act no more: everything is committed.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`]; the standby ends.
    pub fn hand_over(&mut self, keeper: &KeeperSender) -> io::Result<()> {
        let line = self.line.take().ok_or(io::ErrorKind::NotConnected)?;
        keeper.succeed(self.pid, line.as_fd())
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if self.line.is_some() {
            // It may have ended by itself.
            let _ = self.process.signal(nix::libc::SIGKILL);
        }
    }
}

/// Says all that a standby is told, at once: a line has room for as much as a store may hold.
fn tell<'a>(
    line: &Option<OwnedFd>,
    hello: Words,
    descriptors: impl IntoIterator<Item = (&'a Name, &'a OwnedFd)>,
) -> io::Result<()> {
    let line = line.as_ref().ok_or(io::ErrorKind::NotConnected)?;
    // The kernel gives as much as it may.
    setsockopt(line, sockopt::SndBuf, &ROOM)?;
    let say = |message: Message, names: &[RawName], descriptors: &[BorrowedFd<'_>]| {
        seqpacket::send(line.as_fd(), &message.to_record(names), descriptors, Wait::Never)
    };
    say(Message::new(hello), &[], &[])?;
    let (names, descriptors): (Vec<RawName>, Vec<BorrowedFd<'_>>) =
        descriptors.into_iter().map(|(name, descriptor)| (name.to_bytes(), descriptor.as_fd())).unzip();
    for (names, descriptors) in names.chunks(MAX_DESCRIPTORS).zip(descriptors.chunks(MAX_DESCRIPTORS)) {
        say(Message::new([verb::DESCRIPTORS]), names, descriptors)?;
    }
    say(Message::new([verb::END]), &[], &[])
}

/// Whether a standby has said on its line that it could take over, or closed it.
///
/// # Errors
/// `WouldBlock` when there is nothing now.
pub fn hear(line: BorrowedFd<'_>) -> io::Result<bool> {
    let mut buffer = [0; MAX_RECORD_BYTES];
    loop {
        let length = seqpacket::receive(line, &mut buffer, Wait::Never)?.length;
        match Message::parse(&buffer[..length]) {
            Some((message, _)) if message.words[0] == verb::READY => return Ok(true),
            // It is gone.
            None if length == 0 => return Ok(false),
            // Nothing else that it says now has a meaning.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;
    use crate::keeper::name::Kind;
    use crate::keeper::protocol::PROTOCOL_VERSION;

    #[test]
    fn all_that_a_store_may_hold_is_told_before_anybody_listens() {
        // As much as the keeper takes for it, which the kernel's limit of descriptors on their way is raised for.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let limit = (hard / 2).min(16_384) as u32 / 10 * 9;
        let (ours, theirs) = seqpacket::pair().unwrap();
        let null: OwnedFd = File::open("/dev/null").unwrap().into();
        let names: Vec<Name> = (0..limit).map(|owner| Name::new(Kind::Pidfd, owner, 1)).collect();
        let hello = Message::new([verb::HELLO, PROTOCOL_VERSION]).words;
        tell(&Some(ours), hello, names.iter().map(|name| (name, &null))).unwrap();
        drop(theirs);
    }
}
