//! The keeper's place: its home folder, the lock on it, its log, and what it cuts itself loose from.
//!
//! Owns the lock: whoever holds it is *the* keeper of this home. It also lies in the store, so that a supervisor whose
//! keeper has died holds it still; instances never inherit it.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{FileStat, Mode, fstat, stat};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::estate::Estate;
use super::name::{Kind, Name};
use super::protocol::{Hello, PROTOCOL_VERSION, Reason};
use super::{KeeperOptions, SetupError, sys};

/// The most descriptors that a store is made for, whatever the user may open.
const STORE_LIMIT: u64 = 16_384;

/// Descriptors that keeper and supervisor need each for themselves, and for what is on its way.
const OWN_DESCRIPTORS: u64 = 64;

/// The home folder, held open and locked.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    folder: OwnedFd,
    lock: File,
}

impl Home {
    /// Opens and locks a home, unless `left` is its lock already; `None` when another keeper has it.
    fn lock(path: &Path, left: Option<&OwnedFd>) -> io::Result<Option<Home>> {
        let path = path.canonicalize()?;
        let folder = open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        if let Some(left) = left {
            return Ok(Some(Home { path, folder, lock: left.try_clone()?.into() }));
        }
        let lock = create(&folder, "lock", OFlag::empty())?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Home { path, folder, lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder that we opened is no longer to be found under its path.
    pub fn is_gone(&self) -> bool {
        let identity = |stat: FileStat| (stat.st_dev, stat.st_ino);
        match stat(&self.path) {
            Ok(now) => fstat(&self.folder).is_ok_and(|ours| identity(ours) != identity(now)),
            // Any other error (a network file system that is away) says nothing about the folder.
            Err(errno) => matches!(errno, Errno::ENOENT | Errno::ENOTDIR),
        }
    }

    /// Leaves the session, the folder and the stdio of whoever started us, so that nobody waits for us or takes us
    /// along. Output goes to `herdwire.log` in the home from here on.
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
}

fn create(folder: &OwnedFd, name: &str, extra: OFlag) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | extra;
    Ok(File::from(openat(folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
}

/// Takes over what an earlier keeper left, or closes what was inherited by accident, locks the home, detaches and raises
/// the limit of open descriptors. `None` when another keeper has the home.
pub(super) fn settle(options: &mut KeeperOptions) -> Result<Option<(Home, Estate)>, SetupError> {
    let system = |source: io::Error| SetupError::System { source };
    let at_home = |source: io::Error| SetupError::Home { home: options.home.clone(), source };
    let stored = std::mem::take(&mut options.stored);
    let left = options.left.map(Estate::take_over).transpose().map_err(system)?;
    let detached = !options.foreground && !options.attached && left.is_none();
    if detached && stored.is_empty() {
        // A shell's descriptor that came along with the CLI would be held for as long as the herd runs.
        sys::close_all();
    }
    let lock_name = Name::new(Kind::Lock, 0, 0).to_bytes();
    let lock = left.iter().flat_map(|left| &left.stored).find(|(name, _)| *name == lock_name);
    let home = Home::lock(&options.home, lock.map(|(_, lock)| lock)).map_err(at_home)?;
    let Some(home) = home else { return Ok(None) };
    if detached {
        home.detach().map_err(at_home)?;
    }
    sys::set_variable("HERDWIRE_HOME", Some(home.path().as_os_str()));
    chdir(home.path()).map_err(|errno| system(errno.into()))?;
    // The pid is for people and nobody decides by it, so that failing to write it is no reason to stop.
    let _ = home.lock.set_len(0).and_then(|()| writeln!(&home.lock, "{}", std::process::id()));
    // Where that is allowed; the supervisor and the instances get scores of their own.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    let estate = match left {
        Some(left) => left,
        None => {
            let mut estate = Estate::of(raise_descriptor_limit(options.foreground).map_err(system)?);
            estate.stored = stored.into_iter().map(|(name, descriptor)| (name.to_bytes(), descriptor)).collect();
            estate.stored.push((lock_name, home.lock.try_clone().map_err(system)?.into()));
            estate
        }
    };
    Ok(Some((home, estate)))
}

/// Raises the limit as far as it goes; what supervisors are told about it.
fn raise_descriptor_limit(foreground: bool) -> io::Result<Hello> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // A supervisor may open as many, and has two of each: one that it works with, and one to become the keeper with.
    let capacity = (hard.saturating_sub(OWN_DESCRIPTORS) / 2).min(STORE_LIMIT);
    Ok(Hello {
        protocol: PROTOCOL_VERSION,
        reason: Reason::First,
        foreground,
        keeper_pid: std::process::id(),
        epoch: 0,
        descriptor_limit: soft,
        // The last tenth stays free: descriptors that are on their way count as well.
        store_limit: (capacity * 9 / 10) as u32,
    })
}
