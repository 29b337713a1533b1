//! The folder in which everything of one supervisor lies, and the names of what lies in it.
//!
//! Invariant: the folder is the caller's own and nobody else can write to it, so what lies in it can be trusted.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Uid, User, access, geteuid};

use super::address::MAX_SOCKET_PATH;
use crate::relay::NodeId;

/// Where everything of one supervisor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    path: PathBuf,
}

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    #[error("cannot tell where the home of user {uid} is")]
    Nowhere { uid: Uid },
    #[error("home `{}`: pm2 is running there", path.display())]
    Pm2 { path: PathBuf },
    #[error("home `{}` cannot be created", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("home `{}` cannot be used", path.display())]
    Use { path: PathBuf, source: io::Error },
    #[error("home `{}` is not a folder", path.display())]
    NotAFolder { path: PathBuf },
    #[error("home `{}` belongs to user {owner}, not to user {uid}", path.display())]
    Foreign { path: PathBuf, owner: Uid, uid: Uid },
    #[error("home `{}` can be written by others (mode {mode:03o})", path.display())]
    Shared { path: PathBuf, mode: u32 },
    #[error("home `{}` is not writable", path.display())]
    ReadOnly { path: PathBuf },
    #[error("home `{}` is too deep: its socket's path has {bytes} bytes, {MAX_SOCKET_PATH} are possible", path.display())]
    TooDeep { path: PathBuf, bytes: usize },
    #[error("`{}` does not hold a node's number", path.display())]
    BadNode { path: PathBuf },
}

impl HomeError {
    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            HomeError::Nowhere { .. } => "set HERDWIRE_HOME to a folder of your own".into(),
            HomeError::Pm2 { .. } => "`pm2 kill` first, or set HERDWIRE_HOME to another folder".into(),
            HomeError::Create { .. } | HomeError::ReadOnly { .. } | HomeError::NotAFolder { .. } => {
                "set HERDWIRE_HOME to a folder that you can write to".into()
            }
            HomeError::Foreign { owner, .. } => {
                format!("run it as user {owner}, or set HERDWIRE_HOME to a folder of your own")
            }
            HomeError::Shared { path, .. } => {
                format!("`chmod go-w {}`, or set HERDWIRE_HOME to a folder of your own", path.display())
            }
            HomeError::TooDeep { .. } => "set HERDWIRE_HOME to a shorter path".into(),
            HomeError::BadNode { path } => format!("remove `{}`: a new number is made up", path.display()),
            HomeError::Use { .. } => return None,
        })
    }
}

impl Home {
    /// The home that the environment asks for: `HERDWIRE_HOME`, else `PM2_HOME`, else `~/.herdwire`. Nothing is created.
    ///
    /// # Errors
    /// No home folder is known; a pm2 answers in `PM2_HOME`; the path is too long for a socket in it.
    pub fn from_environment() -> Result<Home, HomeError> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Home::choose(variable("HERDWIRE_HOME"), variable("PM2_HOME"), variable("HOME"))
    }

    fn choose(own: Option<OsString>, pm2: Option<OsString>, user: Option<OsString>) -> Result<Home, HomeError> {
        if let Some(path) = own {
            return Home::at(Path::new(&path));
        }
        if let Some(path) = pm2 {
            let path = PathBuf::from(path);
            // Two managers in one folder would write over each other's files.
            if UnixStream::connect(path.join("rpc.sock")).is_ok() {
                return Err(HomeError::Pm2 { path });
            }
            return Home::at(&path);
        }
        let uid = geteuid();
        let of_user = || User::from_uid(uid).ok().flatten().map(|user| user.dir);
        let user = user.map(PathBuf::from).or_else(of_user).ok_or(HomeError::Nowhere { uid })?;
        Home::at(&user.join(".herdwire"))
    }

    /// The home at `path`, made absolute.
    ///
    /// # Errors
    /// The current folder is gone; the path is too long for a socket in it.
    pub fn at(path: &Path) -> Result<Home, HomeError> {
        let absolute = std::path::absolute(path);
        let path = absolute.map_err(|source| HomeError::Use { path: path.to_owned(), source })?;
        let home = Home { path };
        let bytes = home.control().as_os_str().len();
        if bytes > MAX_SOCKET_PATH {
            return Err(HomeError::TooDeep { path: home.path, bytes });
        }
        Ok(home)
    }

    /// Creates the folder and the one for logs where they are missing, and checks that they can be trusted and used.
    ///
    /// # Errors
    /// It cannot be created, is not a folder, belongs to somebody else, or cannot be written (or can by others).
    pub fn create(&self) -> Result<(), HomeError> {
        let create = |path: &Path| {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.or_else(|error| if path.exists() { Ok(()) } else { Err(error) })
                .map_err(|source| HomeError::Create { path: self.path.clone(), source })
        };
        create(&self.path)?;
        self.check()?;
        create(&self.logs())
    }

    /// Checks that the folder, if there is one, can be trusted and used.
    ///
    /// # Errors
    /// As of [`Home::create`].
    pub fn check(&self) -> Result<(), HomeError> {
        let path = || self.path.clone();
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(HomeError::Use { path: path(), source }),
        };
        let (owner, uid) = (Uid::from_raw(metadata.uid()), geteuid());
        if !metadata.is_dir() {
            return Err(HomeError::NotAFolder { path: path() });
        }
        if owner != uid {
            return Err(HomeError::Foreign { path: path(), owner, uid });
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(HomeError::Shared { path: path(), mode: metadata.mode() & 0o777 });
        }
        access(&self.path, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|_| HomeError::ReadOnly { path: path() })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket that the command line talks to.
    pub fn control(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// The file whose lock says that a keeper lives here.
    pub fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// The folder of the instances' logs.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The log of keeper and supervisor.
    pub fn own_log(&self) -> PathBuf {
        self.path.join("herdwire.log")
    }

    /// The file with supervisor-wide settings.
    pub fn settings(&self) -> PathBuf {
        self.path.join("herdwire.toml")
    }

    /// What runs and is to be started again after a restart of the machine.
    pub fn saved(&self) -> PathBuf {
        self.path.join("saved")
    }

    /// The home's number, made up at the first call and the same ever after.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds something else.
    pub fn node(&self) -> Result<NodeId, HomeError> {
        let path = self.path.join("node");
        match read_node(&path) {
            Err(HomeError::Use { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        write_node(&path).map_err(|source| HomeError::Use { path: path.clone(), source })?;
        read_node(&path)
    }
}

fn read_node(path: &Path) -> Result<NodeId, HomeError> {
    let text = fs::read_to_string(path).map_err(|source| HomeError::Use { path: path.to_owned(), source })?;
    let digits = text.trim();
    let whole = digits.len() == 16;
    let number = u64::from_str_radix(digits, 16).ok().filter(|_| whole);
    number.map(NodeId).ok_or_else(|| HomeError::BadNode { path: path.to_owned() })
}

/// Creates the file whole: written aside, then linked to its name, which fails when somebody else was first.
fn write_node(path: &Path) -> io::Result<()> {
    let number = getrandom::u64().map_err(|_| io::Error::other("the system gives no random numbers"))?;
    let aside = path.with_extension(format!("{}-{number:016x}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    let written =
        writeln!(file, "{number:016x}").and_then(|()| file.sync_all()).and_then(|()| fs::hard_link(&aside, path));
    fs::remove_file(&aside)?;
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn os(path: &Path) -> Option<OsString> {
        Some(path.as_os_str().to_owned())
    }

    #[test]
    fn herdwire_home_comes_before_pm2_home_before_the_users_folder() {
        let (own, pm2, user) = (Path::new("/a"), Path::new("/b"), Path::new("/c"));
        assert_eq!(Home::choose(os(own), os(pm2), os(user)).unwrap().path(), own);
        assert_eq!(Home::choose(None, os(pm2), os(user)).unwrap().path(), pm2);
        assert_eq!(Home::choose(None, None, os(user)).unwrap().path(), Path::new("/c/.herdwire"));
    }

    #[test]
    fn a_folder_where_pm2_runs_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _pm2 = UnixListener::bind(folder.path().join("rpc.sock")).unwrap();
        let error = Home::choose(None, os(folder.path()), None).unwrap_err();
        assert_eq!(error.to_string(), format!("home `{}`: pm2 is running there", folder.path().display()));
        assert!(Home::choose(os(folder.path()), None, None).is_ok());
    }

    #[test]
    fn a_home_is_created_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(&folder.path().join("a/b")).unwrap();
        home.create().unwrap();
        home.create().unwrap();
        assert_eq!(fs::metadata(home.path()).unwrap().mode() & 0o777, 0o700);
        assert!(home.logs().is_dir());
    }

    #[test]
    fn a_home_that_is_a_file_or_writable_by_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Home::at(&file).unwrap().create().unwrap_err();
        assert_eq!(error.to_string(), format!("home `{}` is not a folder", file.display()));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Home::at(folder.path()).unwrap().create().unwrap_err();
        assert!(matches!(error, HomeError::Shared { mode: 0o777, .. }), "{error}");
    }

    #[test]
    fn a_socket_path_that_does_not_fit_is_an_error() {
        let error = Home::at(Path::new(&format!("/{}", "x".repeat(100)))).unwrap_err();
        assert!(matches!(error, HomeError::TooDeep { bytes: 114, .. }), "{error}");
    }

    #[test]
    fn the_number_is_made_up_once_whoever_asks_first() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        let numbers: Vec<NodeId> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| home.node().unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(folder.path().join("node"), "xyz").unwrap();
        assert!(matches!(home.node(), Err(HomeError::BadNode { .. })));
    }
}
