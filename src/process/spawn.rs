//! From what an instance is to be, to a process that waits for the word.
//!
//! Owns what is made for a birth: pipes, the sealed record of the settings, the go socket. The child's part stands in
//! `birth` and `stage`.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use herdwire_ipc::codec::{self, CodecError};
use nix::fcntl::{FcntlArg, OFlag};
use serde::{Deserialize, Serialize};

use super::birth::{self, Born, Plan, Stillborn};
use super::{Go, Pidfd, sealed};

/// The most listeners that one instance may inherit.
pub const MAX_LISTENERS: usize = 64;

/// What an instance is to be.
pub struct Launch<'a> {
    /// What is executed, absolute.
    pub program: &'a Path,
    /// Its arguments, without its own name.
    pub args: &'a [String],
    /// Its whole environment. `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES` and `HERDWIRE_LINK` are ours: what stands
    /// here under these names is dropped.
    pub env: Vec<(String, String)>,
    /// Where it runs.
    pub cwd: &'a Path,
    /// Its listening sockets: descriptors 3 and up.
    pub listeners: Vec<BorrowedFd<'a>>,
    /// Its end of the link: the descriptor after the listeners, its number in `HERDWIRE_LINK`.
    pub link: Option<OwnedFd>,
    /// Its limit on open files; `None` leaves what the supervisor has.
    pub open_files: Option<OpenFiles>,
    /// Whose child it is.
    pub parent: Parent,
    /// What `ps` shows of it until it is the app: `api/3`.
    pub label: &'a str,
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
    /// Read end of its stdout, non-blocking.
    pub out: OwnedFd,
    /// Read end of its stderr, non-blocking.
    pub err: OwnedFd,
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
    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
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
    pub link: bool,
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
    let settings = seal(&launch)?;
    let prepare = |source| SpawnError::Prepare { label: label.clone(), source };
    let null = File::open("/dev/null").map_err(prepare)?;
    let (out, out_end) = pipe().map_err(prepare)?;
    let (err, err_end) = pipe().map_err(prepare)?;
    let (go, stage_end) = Go::new().map_err(prepare)?;

    let mut descriptors = vec![null.as_fd(), out_end.as_fd(), err_end.as_fd()];
    descriptors.extend(&launch.listeners);
    descriptors.extend(launch.link.as_ref().map(AsFd::as_fd));
    let first = descriptors.len();
    descriptors.extend([settings.as_fd(), stage_end.as_fd()]);
    let plan = Plan {
        descriptors,
        binary: own_binary().map_err(prepare)?,
        args: stage_command(first, &label)?,
        name: c_string(&label, "name", format!("hw:{label}"))?,
        parent: launch.parent,
    };
    match birth::give_birth(&plan) {
        Ok(Born { pid, pidfd }) => Ok(Spawned { pid, pidfd: Pidfd::from_fd(pidfd), out, err, go }),
        Err(Stillborn::Clone(source)) => Err(SpawnError::Create { label, source }),
        Err(Stillborn::Child { step, source, pidfd }) => {
            if launch.parent == Parent::Caller {
                // It has ended; nobody else reaps it.
                let pidfd = Pidfd::from_fd(pidfd);
                pidfd.wait_dead(std::time::Duration::from_secs(1));
                let _ = pidfd.reap();
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

/// The settings in a memfd that nobody can change any more.
fn seal(launch: &Launch<'_>) -> Result<OwnedFd, SpawnError> {
    let settings = Settings {
        program: launch.program.as_os_str().as_bytes().to_vec(),
        args: launch.args.to_vec(),
        env: launch.env.clone(),
        cwd: launch.cwd.as_os_str().as_bytes().to_vec(),
        listeners: launch.listeners.len() as u32,
        link: launch.link.is_some(),
        open_files: launch.open_files,
    };
    let bytes =
        codec::encode(&settings).map_err(|source| SpawnError::TooLarge { label: launch.label.to_owned(), source })?;
    let prepared = sealed::create("herdwire-settings", &bytes);
    prepared.map_err(|source| SpawnError::Prepare { label: launch.label.to_owned(), source })
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

fn stage_command(first: usize, label: &str) -> Result<Vec<CString>, SpawnError> {
    ["herdwire", super::stage::ROLE, &first.to_string(), &(first + 1).to_string(), label]
        .into_iter()
        .map(|arg| c_string(label, "the name", arg.to_owned()))
        .collect()
}

fn c_string(label: &str, what: &str, text: String) -> Result<CString, SpawnError> {
    CString::new(text)
        .map_err(|_| SpawnError::Unusable { label: label.escape_debug().to_string(), what: what.to_owned() })
}
