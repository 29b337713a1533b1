//! From what an instance is to be, to a process that waits for the word.
//!
//! Owns what is made for a birth: pipes, the sealed record of the settings, the go socket. The child's part stands in
//! `birth` and `stage`.
//!
//! Invariant: a descriptor's number in the child is decided here and nowhere else: 0 to 2, the listeners from 3, the
//! extra ones where they were asked for, the link at the lowest number that is left.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use herdwire_ipc::codec::{self, CodecError};
use nix::fcntl::{FcntlArg, OFlag};
use serde::{Deserialize, Serialize};

use super::birth::{self, Born, Plan, Stillborn};
use super::env_file::EnvFileError;
use super::{Go, Group, Pidfd, sealed};
use crate::config::spec::Bounds;

/// The most listeners that one instance may inherit.
pub const MAX_LISTENERS: usize = 64;
/// Where inherited descriptors begin.
pub(super) const FIRST_LISTENER: RawFd = 3;
/// Extra descriptors have lower numbers than this.
const MAX_NUMBER: RawFd = 1024;

/// What an instance is to be.
pub struct Launch<'a> {
    /// What is executed, absolute.
    pub program: &'a Path,
    /// Its arguments, without its own name.
    pub args: &'a [String],
    /// Its whole environment. `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`, `HERDWIRE_LINK` and `HERDWIRE_PIPE_FD` are
    /// ours: what stands here under these names is dropped.
    pub env: Vec<(String, String)>,
    /// Where it runs.
    pub cwd: &'a Path,
    /// Its listening sockets: descriptors 3 and up.
    pub listeners: Vec<BorrowedFd<'a>>,
    /// Its end of the link: the first descriptor after the listeners that is not an extra one, its number in
    /// `HERDWIRE_LINK`.
    pub link: Option<OwnedFd>,
    /// Whether the link is a pipe: its number is in `HERDWIRE_PIPE_FD` then.
    pub link_is_pipe: bool,
    /// What else it inherits, under these numbers: none of 0 to 2, none of a listener, none twice.
    pub extra: Vec<(RawFd, OwnedFd)>,
    /// Where its stdout and stderr go.
    pub out: Output,
    pub err: Output,
    /// As whom and within which bounds it runs; `None`: as we do, with umask 022.
    pub bounds: Option<&'a Bounds>,
    /// The control group that it is born in; where it cannot be, the group is removed.
    pub group: Option<&'a Group>,
    /// Its limit on open files, where its bounds name none; `None` leaves what the supervisor has.
    pub open_files: Option<OpenFiles>,
    /// Whose child it is.
    pub parent: Parent,
    /// What `ps` shows of it until it is the app: `api/3`.
    pub label: &'a str,
}

impl<'a> Launch<'a> {
    /// A child of ours with pipes for its output and nothing else; what is not named here can be set by field.
    pub fn new(program: &'a Path, args: &'a [String], cwd: &'a Path, label: &'a str) -> Launch<'a> {
        Launch {
            program,
            args,
            env: Vec::new(),
            cwd,
            listeners: Vec::new(),
            link: None,
            link_is_pipe: false,
            extra: Vec::new(),
            out: Output::Pipe,
            err: Output::Pipe,
            bounds: None,
            group: None,
            open_files: None,
            parent: Parent::Caller,
            label,
        }
    }
}

/// Where an output stream goes.
#[derive(Debug)]
pub enum Output {
    /// Into a new pipe, whose read end comes back.
    Pipe,
    /// Into this, as it is: a log file that was opened for appending, `/dev/null`.
    File(OwnedFd),
}

/// A limit on open files, as the user had it before anybody raised it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFiles {
    pub soft: u64,
    pub hard: u64,
}

impl OpenFiles {
    /// This process's own.
    ///
    /// # Errors
    /// Those of `getrlimit(2)`.
    pub fn current() -> io::Result<OpenFiles> {
        let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
        Ok(OpenFiles { soft, hard })
    }
}

/// Whose child an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// Our own parent's, which outlives us: the keeper.
    Keeper,
    /// Ours.
    Caller,
}

impl Parent {
    pub(super) fn clone_flag(self) -> i32 {
        match self {
            Parent::Keeper => libc::CLONE_PARENT,
            Parent::Caller => 0,
        }
    }
}

/// A process that waits for the word, and what belongs to it.
#[derive(Debug)]
pub struct Spawned {
    /// Its number; also that of the session and group that it leads.
    pub pid: u32,
    /// The process itself.
    pub pidfd: Pidfd,
    /// Read end of its stdout, non-blocking, where it is a pipe.
    pub out: Option<OwnedFd>,
    /// Read end of its stderr, non-blocking, where it is a pipe.
    pub err: Option<OwnedFd>,
    /// The word.
    pub go: Go,
}

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    #[error("{what} of `{label}` contains a NUL byte or cannot be passed on")]
    Unusable { label: String, what: String },
    #[error("`{label}` has {count} listeners, more than {MAX_LISTENERS}")]
    TooManyListeners { label: String, count: usize },
    #[error("descriptor {number} of `{label}` is taken, or no number for a descriptor")]
    NumberTaken { label: String, number: RawFd },
    #[error(transparent)]
    Variables(#[from] EnvFileError),
    #[error("arguments and environment of `{label}` are too large")]
    TooLarge { label: String, source: CodecError },
    #[error("cannot prepare the start of `{label}`")]
    Prepare { label: String, source: io::Error },
    #[error("cannot create a process for `{label}`")]
    Create { label: String, source: io::Error },
    #[error("the new process for `{label}` could not {step}")]
    Child { label: String, step: &'static str, source: io::Error },
}

impl SpawnError {
    /// Whether another try can only fail in the same way, until somebody changes what the app is made of.
    pub fn is_lasting(&self) -> bool {
        match self {
            SpawnError::Variables(error) => error.is_lasting(),
            SpawnError::Unusable { .. } | SpawnError::TooManyListeners { .. } | SpawnError::TooLarge { .. } => true,
            SpawnError::NumberTaken { .. } => true,
            SpawnError::Prepare { .. } | SpawnError::Create { .. } | SpawnError::Child { .. } => false,
        }
    }

    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        if let SpawnError::Variables(error) = self {
            return error.hint();
        }
        let (SpawnError::Prepare { source, .. } | SpawnError::Create { source, .. } | SpawnError::Child { source, .. }) =
            self
        else {
            return None;
        };
        let hint = match source.raw_os_error()? {
            libc::EMFILE | libc::ENFILE => "no descriptor is left: raise the limit on open files (ulimit -n)",
            libc::EAGAIN => "no process is left: raise the limit on processes (ulimit -u, pids.max of the cgroup)",
            libc::ENOMEM => "memory is full",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// What the stage reads. Holds environments, so it has no Debug.
#[derive(Serialize, Deserialize)]
pub(super) struct Settings {
    pub program: Vec<u8>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: Vec<u8>,
    pub listeners: u32,
    /// The link's number.
    pub link: Option<RawFd>,
    /// Which of the two variables has it.
    pub link_is_pipe: bool,
    /// The extra descriptors' numbers.
    pub extra: Vec<RawFd>,
    pub bounds: Bounds,
    pub open_files: Option<OpenFiles>,
}

/// Creates the process; it waits for [`Go::release`]. Blocks until the process has begun (about a millisecond):
/// belongs on a thread of its own.
///
/// # Errors
/// Nothing is left behind, but for one: with [`Parent::Keeper`] and [`SpawnError::Child`], the keeper reaps a child
/// with status 125 that nobody knows.
pub fn spawn(launch: Launch<'_>) -> Result<Spawned, SpawnError> {
    let label = launch.label.to_owned();
    check(&launch)?;
    let link = launch.link.as_ref().map(|_| link_number(&launch));
    let settings = seal(&launch, link)?;
    let prepare = |source| SpawnError::Prepare { label: label.clone(), source };
    let null = File::open("/dev/null").map_err(prepare)?;
    let (out, out_end) = output(launch.out).map_err(prepare)?;
    let (err, err_end) = output(launch.err).map_err(prepare)?;
    let (go, stage_end) = Go::new().map_err(prepare)?;

    // Without its folder it is born elsewhere.
    let group = launch.group.and_then(|group| group.open().ok());

    let mut descriptors = vec![(0, null.as_fd()), (1, out_end.as_fd()), (2, err_end.as_fd())];
    descriptors.extend((FIRST_LISTENER..).zip(launch.listeners.iter().copied()));
    descriptors.extend(launch.extra.iter().map(|(number, descriptor)| (*number, descriptor.as_fd())));
    descriptors.extend(link.zip(launch.link.as_ref().map(AsFd::as_fd)));
    let first = descriptors.iter().map(|(number, _)| number + 1).max().unwrap_or(FIRST_LISTENER);
    descriptors.extend([(first, settings.as_fd()), (first + 1, stage_end.as_fd())]);
    let plan = Plan {
        descriptors,
        binary: own_binary().map_err(prepare)?,
        args: stage_command(first, &label)?,
        environment: None,
        name: c_string(&label, "name", format!("hw:{label}"))?,
        parent: launch.parent,
        group: group.as_ref().map(AsFd::as_fd),
    };
    match birth::give_birth(&plan) {
        Ok(Born { pid, pidfd, grouped }) => {
            if let Some(group) = launch.group.filter(|_| !grouped) {
                group.remove();
            }
            Ok(Spawned { pid, pidfd: Pidfd::from_fd(pidfd), out, err, go })
        }
        Err(Stillborn::Clone(source)) => Err(SpawnError::Create { label, source }),
        Err(Stillborn::Child { step, source, pidfd }) => {
            if launch.parent == Parent::Caller {
                // It has ended; nobody else reaps it.
                Pidfd::from_fd(pidfd).bury();
            }
            Err(SpawnError::Child { label, step, source })
        }
    }
}

fn check(launch: &Launch<'_>) -> Result<(), SpawnError> {
    let unusable = |what: String| Err(SpawnError::Unusable { label: launch.label.to_owned(), what });
    if launch.listeners.len() > MAX_LISTENERS {
        let count = launch.listeners.len();
        return Err(SpawnError::TooManyListeners { label: launch.label.to_owned(), count });
    }
    for (place, (number, _)) in launch.extra.iter().enumerate() {
        let first_free = FIRST_LISTENER + launch.listeners.len() as RawFd;
        let again = launch.extra[..place].iter().any(|(other, _)| other == number);
        if again || !(first_free..MAX_NUMBER).contains(number) {
            return Err(SpawnError::NumberTaken { label: launch.label.to_owned(), number: *number });
        }
    }
    if launch.program.as_os_str().as_bytes().contains(&0) || launch.cwd.as_os_str().as_bytes().contains(&0) {
        return unusable("the path".to_owned());
    }
    if launch.args.iter().any(|arg| arg.contains('\0')) {
        return unusable("an argument".to_owned());
    }
    let bad = |(key, value): &&(String, String)| key.is_empty() || key.contains(['=', '\0']) || value.contains('\0');
    match launch.env.iter().find(bad) {
        Some((key, _)) => unusable(format!("the variable `{}`", key.escape_debug())),
        None => Ok(()),
    }
}

/// The lowest number that neither a listener nor an extra descriptor has.
fn link_number(launch: &Launch<'_>) -> RawFd {
    let taken = |number: &RawFd| launch.extra.iter().any(|(other, _)| other == number);
    (FIRST_LISTENER + launch.listeners.len() as RawFd..)
        .find(|number| !taken(number))
        .expect("there are fewer descriptors than numbers")
}

/// The settings in a memfd that nobody can change any more.
fn seal(launch: &Launch<'_>, link: Option<RawFd>) -> Result<OwnedFd, SpawnError> {
    let settings = Settings {
        program: launch.program.as_os_str().as_bytes().to_vec(),
        args: launch.args.to_vec(),
        env: launch.env.clone(),
        cwd: launch.cwd.as_os_str().as_bytes().to_vec(),
        listeners: launch.listeners.len() as u32,
        link,
        link_is_pipe: launch.link_is_pipe,
        extra: launch.extra.iter().map(|(number, _)| *number).collect(),
        bounds: launch.bounds.cloned().unwrap_or_default(),
        open_files: launch.open_files,
    };
    let bytes =
        codec::encode(&settings).map_err(|source| SpawnError::TooLarge { label: launch.label.to_owned(), source })?;
    let prepared = sealed::create("herdwire-settings", &bytes);
    prepared.map_err(|source| SpawnError::Prepare { label: launch.label.to_owned(), source })
}

/// What we keep and what the child gets.
fn output(output: Output) -> io::Result<(Option<OwnedFd>, OwnedFd)> {
    match output {
        Output::Pipe => pipe().map(|(read, write)| (Some(read), write)),
        Output::File(file) => Ok((None, file)),
    }
}

/// A pipe: read end, non-blocking, and write end, blocking as programs expect it. Both close-on-exec.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

/// The binary that runs now, by descriptor: replacing the file on disk cannot mix versions.
fn own_binary() -> io::Result<BorrowedFd<'static>> {
    static BINARY: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(binary) = BINARY.get() {
        return Ok(binary.as_fd());
    }
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let binary = nix::fcntl::open("/proc/self/exe", flags, nix::sys::stat::Mode::empty())?;
    Ok(BINARY.get_or_init(|| binary).as_fd())
}

fn stage_command(first: RawFd, label: &str) -> Result<Vec<CString>, SpawnError> {
    ["herdwire", super::stage::ROLE, &first.to_string(), &(first + 1).to_string(), label]
        .into_iter()
        .map(|arg| c_string(label, "the name", arg.to_owned()))
        .collect()
}

fn c_string(label: &str, what: &str, text: String) -> Result<CString, SpawnError> {
    CString::new(text)
        .map_err(|_| SpawnError::Unusable { label: label.escape_debug().to_string(), what: what.to_owned() })
}
