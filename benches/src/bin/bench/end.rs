//! The ends of a measurement: processes of this same program that get their work and its descriptors through a socket.
//!
//! The parent holds an [`End`] per process. The order is always the same: `Job` down, `Ready` up once everything is
//! set up, `Go` down, one `Outcome` up. An end dies with its parent, and never lives longer than [`LONGEST_LIFE`].

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use herdwire_ipc::seqpacket::{self, MAX_RECORD, Wait};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{alarm, getppid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::placement;
use crate::wire::{Job, Outcome};

/// The role of an end on the command line.
pub const ROLE: &str = "__end";
/// The role of another program that shall die with its parent.
pub const LEASHED: &str = "__leashed";

/// Seconds after which an end is killed whatever it does: a peer that hangs must not hang the bench for ever.
const LONGEST_LIFE: u32 = 60;

#[derive(Debug, Serialize, Deserialize)]
enum Note {
    Ready,
    Go,
}

/// The parent's hold on one end. Dropping it ends the process.
pub struct End {
    process: Child,
    line: Line,
}

impl End {
    /// Starts an end, on a core of its own choice or on `core`, and gives it its job and the descriptors that it
    /// needs. The parent's copies are closed, so that an end that ends is an end of file for the other.
    pub fn start(core: Option<usize>, job: &Job, descriptors: Vec<OwnedFd>) -> Result<End> {
        let (ours, theirs) = seqpacket::pair()?;
        let program = std::env::current_exe()?;
        let process = Command::new(program).arg(ROLE).stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()?;
        let end = End { process, line: Line(ours) };
        end.line.say(&core, &[])?;
        end.line.say(job, &borrowed(&descriptors))?;
        Ok(end)
    }

    /// A record to or from the end beside the usual order.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Waits until it has set everything up.
    pub fn await_ready(&self) -> Result<()> {
        match self.line.hear::<Note>()? {
            (Note::Ready, _) => Ok(()),
            (Note::Go, _) => bail!("an end of the measurement spoke out of turn"),
        }
    }

    /// Lets it begin.
    pub fn go(&self) -> Result<()> {
        self.line.say(&Note::Go, &[])
    }

    /// Waits for its result.
    pub fn outcome(mut self) -> Result<Outcome> {
        let (outcome, _) = self.line.hear()?;
        self.process.wait()?;
        Ok(outcome)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Both fail only where it has ended and been waited for already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A socket for records of JSON with descriptors.
pub struct Line(OwnedFd);

impl Line {
    /// Sends one record.
    pub fn say(&self, what: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let text = serde_json::to_vec(what)?;
        seqpacket::send(self.0.as_fd(), &text, descriptors, Wait::Block).context("the other end is gone")
    }

    /// Waits for one record.
    pub fn hear<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>)> {
        let mut buffer = vec![0; MAX_RECORD];
        let received = seqpacket::receive(self.0.as_fd(), &mut buffer, Wait::Block)?;
        if received.length == 0 {
            bail!("an end of the measurement has gone: what it said stands above");
        }
        Ok((serde_json::from_slice(&buffer[..received.length])?, received.descriptors))
    }

    /// Says that everything is set up, and waits for the start.
    pub fn ready(&self) -> Result<()> {
        self.say(&Note::Ready, &[])?;
        self.hear::<Note>().map(|_| ())
    }
}

fn borrowed(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}

/// This process is an end: takes its job from standard input, does it, and answers.
pub fn serve(work: impl FnOnce(Job, Vec<OwnedFd>, &Line) -> Result<Outcome>) -> Result<()> {
    let parent = getppid();
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        bail!("the bench is gone");
    }
    alarm::set(LONGEST_LIFE);
    let line = Line(io::stdin().as_fd().try_clone_to_owned()?);
    if let (Some(core), _) = line.hear::<Option<usize>>()? {
        placement::pin(core)?;
    }
    let (job, descriptors) = line.hear()?;
    let outcome = work(job, descriptors, &line)?;
    line.say(&outcome, &[])
}

/// This process becomes another program, which then dies with the parent.
pub fn leashed(command: &[OsString]) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    let (program, arguments) = command.split_first().context("nothing to become")?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("cannot run `{}`", program.display()))
}
