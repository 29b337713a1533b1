//! The keeper's place: its home folder, the lock on it, its log, and what it cuts itself loose from.
//!
//! Owns the lock for as long as the process lives: whoever holds it is *the* keeper of this home. It is close-on-exec
//! and so held by nobody else.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open, openat};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{FileStat, Mode, fstat, stat};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::{KeeperOptions, SetupError, sys};

/// The most descriptors that a store is made for, whatever the user may open.
const STORE_LIMIT: u64 = 16_384;

/// Descriptors that the keeper needs for itself, and for what is on its way to it.
const OWN_DESCRIPTORS: u64 = 64;

/// The home folder, held open and locked.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    folder: OwnedFd,
    lock: Flock<File>,
}

impl Home {
    /// Opens and locks a home; `None` when another keeper has it.
    pub fn lock(path: &Path) -> Result<Option<Home>, SetupError> {
        let at = |source: io::Error| SetupError::Home { home: path.into(), source };
        let path = path.canonicalize().map_err(at)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(&path, flags, Mode::empty()).map_err(|errno| at(errno.into()))?;
        let lock = create(&folder, "lock", OFlag::empty()).map_err(at)?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Home { path, folder, lock })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(at(errno.into())),
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

/// What the limit of open descriptors was, and how many of them the store may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptors {
    pub users_limit: u64,
    pub store_limit: u32,
}

/// Closes what was inherited by accident, locks the home, detaches unless in the foreground, raises the limit of open
/// descriptors. `None` when another keeper has the home.
pub(super) fn settle(options: &KeeperOptions) -> Result<Option<(Home, Descriptors)>, SetupError> {
    let system = |source: io::Error| SetupError::System { source };
    if !options.foreground {
        // A shell's descriptor that came along with the CLI would be held for as long as the herd runs.
        let mut spared: Vec<RawFd> = options.stored.iter().map(|(_, descriptor)| descriptor.as_raw_fd()).collect();
        sys::close_others(&mut spared);
    }
    let Some(home) = Home::lock(&options.home)? else { return Ok(None) };
    if !options.foreground {
        home.detach().map_err(|source| SetupError::Home { home: options.home.clone(), source })?;
    }
    chdir(home.path()).map_err(|errno| system(errno.into()))?;
    // The pid is for people and nobody decides by it, so that failing to write it is no reason to stop.
    let _ = home.lock.set_len(0).and_then(|()| writeln!(&*home.lock, "{}", std::process::id()));
    Ok(Some((home, raise_descriptor_limit().map_err(system)?)))
}

fn raise_descriptor_limit() -> io::Result<Descriptors> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let capacity = hard.saturating_sub(OWN_DESCRIPTORS).min(STORE_LIMIT);
    // The last tenth stays free: descriptors that are on their way count as well.
    Ok(Descriptors { users_limit: soft, store_limit: (capacity * 9 / 10) as u32 })
}
