//! The small parent of the supervisor that holds its descriptors, reaps, and restarts it.
//!
//! One thread without a runtime, made to practically never fail: it parses nothing that comes from users, waits for
//! nobody, and keeps everything in tables of fixed size. Everything that must outlive a supervisor lies here; what any
//! of it means is the supervisor's business.
//!
//! | signal | what it does |
//! |---|---|
//! | SIGTERM, SIGINT, SIGQUIT | the supervisor ends all instances, then both end; once more, a second or more later: all is killed |
//! | SIGCHLD | reaps |
//! | SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2, SIGTSTP, SIGTTIN, SIGTTOU | ignored: neither a terminal nor a slip of the hand stops a keeper |
//!
//! The keeper's own death is seen at the supervisor's end of the socket pair ([`client::FromKeeper::Gone`]): the supervisor has a
//! copy of every descriptor and becomes the keeper ([`heir`]).
//!
//! Invariants
//! - What a supervisor sent before it died counts: its socket is emptied before its successor starts.
//! - Every exit is told to some supervisor until one acknowledges it; the supervisor's own is not among them.
//! - No send blocks, no table grows, no wait has no limit.

pub mod client;
mod estate;
pub mod handle;
pub mod heir;
mod home;
mod line;
mod log;
pub mod name;
pub mod protocol;
mod rules;
mod run;
mod service;
mod sys;
mod tables;
mod upgrade;

use std::ffi::CString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use name::Name;

/// Exit code when another keeper has the home already.
pub const ALREADY_KEPT: i32 = 75;

/// Exit code when instances had to be killed because there was no supervisor to end them.
pub const FORCED: i32 = 70;

/// How a keeper is to be.
#[derive(Debug)]
pub struct KeeperOptions {
    /// The home folder, which exists.
    pub home: PathBuf,
    /// Keep session and stdio, have the apps' output there, and end with the apps: for `herdwire run`, and containers.
    pub foreground: bool,
    /// Keep session and stdio, and nothing else of the above: for a service manager.
    pub attached: bool,
    /// What lies in the store from the start.
    pub stored: Vec<(Name, OwnedFd)>,
    /// What is started as the supervisor.
    pub supervisor: Program,
    /// The number of the memfd in which an earlier keeper, or its supervisor, told what it left to this program. The rest is then as it was there.
    pub left: Option<RawFd>,
}

/// A program with its arguments, the zeroth included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<CString>,
}

impl KeeperOptions {
    /// A detached keeper of `home` whose supervisor is this very program.
    pub fn new(home: PathBuf) -> KeeperOptions {
        let supervisor =
            Program { path: "/proc/self/exe".into(), arguments: vec![c"herdwire".into(), c"__supervisor".into()] };
        KeeperOptions { home, foreground: false, attached: false, stored: Vec::new(), supervisor, left: None }
    }
}

/// Why a keeper could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    #[error("cannot use the home folder {}", home.display())]
    Home { home: PathBuf, source: io::Error },
    #[error("cannot open the supervisor's program {}", program.display())]
    Program { program: PathBuf, source: io::Error },
    #[error("the system refuses what a keeper needs")]
    System { source: io::Error },
}

impl SetupError {
    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            SetupError::Home { .. } => {
                Some("it must be a folder that you may write to; HERDWIRE_HOME names another".into())
            }
            SetupError::Program { .. } | SetupError::System { .. } => crate::process::open_files_hint(),
        }
    }
}

/// Keeps the home until the end; answers the code with which this process is to exit.
///
/// For the main thread of a process without other threads. One that is to be detached and has nothing in `stored` closes
/// all descriptors that it was started with. Replaces signal dispositions and mask, and for a detached
/// keeper session and stdio. Returns [`ALREADY_KEPT`] at once when another keeper has the home.
///
/// # Errors
/// It could not begin: nothing was started.
pub fn run(mut options: KeeperOptions) -> Result<i32, SetupError> {
    let Some((home, estate)) = home::settle(&mut options)? else { return Ok(ALREADY_KEPT) };
    Ok(run::Keeper::new(home, estate, options.supervisor)?.keep())
}
