//! From a command to the first keeper of a home: the folder, the lock on it, the log, the service manager, and what the process
//! cuts itself loose from. Then it executes the keeper.
//!
//! Runs in the process that becomes the keeper, before it is one. Owns the lock: whoever holds it is *the* keeper of this
//! home. It lies in the store, so that a supervisor whose keeper has died holds it still; instances never inherit it.

#![allow(unsafe_code)] // Variables can only be changed by an unsafe function.

use std::convert::Infallible;
use std::env;
use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::estate::Estate;
use super::name::{Kind, Name};
use super::protocol::{PROGRAM, Reason, SERVICE, Words, hello, verb};
use crate::process;

/// The most descriptors that a store is made for, whatever the user may open.
const STORE_LIMIT: u64 = 16_384;
/// With fewer not even a herd without instances can be kept.
const LEAST: u64 = 16;

/// Descriptors that keeper and supervisor need each for themselves, and for what is on its way.
const OWN_DESCRIPTORS: u64 = 64;

/// Exit code when another keeper has the home already.
pub const ALREADY_KEPT: i32 = 75;

/// This very program.
const OWN: &str = "/proc/self/exe";

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
    /// What supervisors are started with; by default this very program.
    pub program: PathBuf,
}

impl KeeperOptions {
    /// A detached keeper of `home` whose supervisor is this very program.
    pub fn new(home: PathBuf) -> KeeperOptions {
        KeeperOptions { home, foreground: false, attached: false, stored: Vec::new(), program: OWN.into() }
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

/// Becomes the keeper of a home. Returns only where another one has it, with [`ALREADY_KEPT`].
///
/// For the main thread of a process without other threads. All descriptors but stdio and what is stored are closed; a
/// detached keeper has a session of its own, and the home's log as its output.
///
/// # Errors
/// It could not begin: nothing was started.
pub fn start(options: KeeperOptions) -> Result<i32, SetupError> {
    let at_home = |source: io::Error| SetupError::Home { home: options.home.clone(), source };
    let opened = File::options().read(true).custom_flags(libc::O_PATH).open(&options.program);
    let program = opened.map_err(|source| SetupError::Program { program: options.program.clone(), source })?;
    let Some(home) = Home::lock(&options.home).map_err(at_home)? else { return Ok(ALREADY_KEPT) };
    if !options.foreground && !options.attached {
        home.detach().map_err(at_home)?;
    }
    let Err(source) = home.become_keeper(&options, &program);
    Err(SetupError::System { source })
}

/// The home folder, held open and locked.
#[derive(Debug)]
struct Home {
    path: PathBuf,
    folder: OwnedFd,
    lock: File,
}

impl Home {
    /// Opens and locks a home; `None` when another keeper has it.
    fn lock(path: &Path) -> io::Result<Option<Home>> {
        let path = path.canonicalize()?;
        let folder = open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let lock = create(&folder, "lock", OFlag::empty())?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Home { path, folder, lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Leaves the session and the stdio of whoever started us, so that nobody waits for us or takes us along. Output goes
    /// to `herdwire.log` in the home from here on.
    fn detach(&self) -> io::Result<()> {
        match setsid() {
            // Already the leader of a session or group: whoever started us saw to it.
            Ok(_) | Err(Errno::EPERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let log = create(&self.folder, "herdwire.log", OFlag::O_APPEND)?;
        dup2_stdin(&null)?;
        dup2_stdout(&log)?;
        dup2_stderr(&log)?;
        Ok(())
    }

    fn become_keeper(self, options: &KeeperOptions, program: &File) -> io::Result<Infallible> {
        // A shell's descriptor that came along with the command would be held for as long as the herd runs.
        process::close_on_exec(3, u32::MAX)?;
        set_variable("HERDWIRE_HOME", Some(self.path.as_os_str()));
        chdir(&self.path)?;
        prepare_process(&self.lock)?;
        let manager = Manager::take();
        let mut hello = raise_descriptor_limit()?;
        hello[hello::FOREGROUND] = options.foreground.into();
        hello[hello::WATCHDOG_US] = manager.watchdog_us;
        let mut estate = Estate::new(hello)?;
        for (name, descriptor) in &options.stored {
            estate.leave(name.to_bytes(), descriptor.as_fd())?;
        }
        estate.leave(Name::new(Kind::Lock, 0, 0).to_bytes(), self.lock.as_fd())?;
        estate.leave(PROGRAM, program.as_fd())?;
        if let Some(socket) = &manager.socket {
            estate.leave(SERVICE, socket.as_fd())?;
        }
        estate.execute(File::open(OWN)?.as_fd())
    }
}

fn create(folder: &OwnedFd, name: &str, extra: OFlag) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | extra;
    Ok(File::from(openat(folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
}

/// Makes a keeper's process of this one, which holds the home's lock: no signal of this thread comes through before the keeper
/// has taken them, and it is the last to be killed for want of memory.
pub(super) fn prepare_process(mut lock: &File) -> io::Result<()> {
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None)?;
    // The pid is for people and nobody decides by it, so that failing to write it is no reason to stop.
    let _ = lock
        .set_len(0)
        .and_then(|()| io::Seek::rewind(&mut lock))
        .and_then(|()| writeln!(lock, "{}", std::process::id()));
    // Where that is allowed; the supervisor and the instances get scores of their own.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    Ok(())
}

/// Raises the limit as far as it goes; what supervisors are told about it.
fn raise_descriptor_limit() -> io::Result<Words> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // A supervisor may open as many, and has two of each: one that it works with, and one to become the keeper with.
    let capacity = (hard.saturating_sub(OWN_DESCRIPTORS) / 2).min(STORE_LIMIT);
    if capacity < LEAST {
        return Err(Errno::EMFILE.into());
    }
    let mut hello = Words::default();
    hello[0] = verb::HELLO;
    hello[hello::REASON] = Reason::First as u64;
    hello[hello::DESCRIPTOR_LIMIT] = soft;
    // The last tenth stays free: descriptors that are on their way count as well.
    hello[hello::STORE_LIMIT] = capacity * 9 / 10;
    Ok(hello)
}

/// A service manager above the keeper, by the protocol of `sd_notify`: it is the unit's main process, and it alone speaks.
/// Nobody inherits the address.
struct Manager {
    socket: Option<UnixDatagram>,
    /// How often it is to hear that all is well: twice as often as it wants to, and never if it does not.
    watchdog_us: u64,
}

impl Manager {
    /// Takes what the manager said in the environment.
    fn take() -> Manager {
        let take = |name: &str| {
            let value = env::var_os(name);
            set_variable(name, None);
            value
        };
        let number = |text: &OsStr| text.to_str()?.parse::<u64>().ok();
        let (socket, interval, pid) = (take("NOTIFY_SOCKET"), take("WATCHDOG_USEC"), take("WATCHDOG_PID"));
        let is_ours = pid.is_none_or(|pid| number(&pid) == Some(std::process::id().into()));
        let interval = interval.as_deref().and_then(number).filter(|_| is_ours);
        // One that cannot be reached will say so itself, by the time that it waits in vain.
        let socket = socket.and_then(|address| connect(&address).ok());
        Manager { socket, watchdog_us: interval.unwrap_or_default() / 2 }
    }
}

fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

fn set_variable(name: &str, value: Option<&OsStr>) {
    // SAFETY: this process has no other thread that could look at the environment.
    unsafe { value.map_or_else(|| env::remove_var(name), |value| env::set_var(name, value)) };
}
