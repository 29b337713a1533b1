//! Starts the keeper, which starts the supervisor, when a verb needs one and none runs.
//!
//! Two command lines at once start two keepers; the one that does not get the home's lock ends with
//! [`LOCK_TAKEN`], and both command lines go on with the one that did.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::client::ClientError;
use crate::config::environment;
use crate::config::home::Home;

/// The keeper's role of this binary.
pub const KEEPER_ROLE: &str = "__keeper";
/// How a keeper ends that finds another one in its home (EX_TEMPFAIL).
pub const LOCK_TAKEN: i32 = 75;

/// How long the first answer may take.
const LAUNCH_LIMIT: Duration = Duration::from_secs(10);
/// How long until another try, when the home was taken: its keeper may be on its way out.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Lines of the log that an error shows.
const LOG_LINES: usize = 5;

/// Bytes of the log that are looked at for them.
const MOST_LOG: u64 = 64 * 1024;

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    #[error(transparent)]
    Home(#[from] crate::config::home::HomeError),
    #[error("cannot start the keeper")]
    Spawn(#[source] io::Error),
    #[error("the keeper ended at once ({status})")]
    Ended {
        status: ExitStatus,
        #[source]
        log: Option<LogSays>,
    },
    #[error("the supervisor did not come up within {} s", LAUNCH_LIMIT.as_secs())]
    NoAnswer {
        log: PathBuf,
        #[source]
        says: Option<LogSays>,
    },
}

/// The last lines of Herdwire's own log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LogSays(String);

impl LaunchError {
    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            LaunchError::Home(error) => error.hint(),
            LaunchError::NoAnswer { log, .. } => {
                Some(format!("see `{}`; `herdwire run FILE` shows more", log.display()))
            }
            // It may open as many files as we may.
            LaunchError::Spawn(_) | LaunchError::Ended { .. } => crate::process::open_files_hint(),
        }
    }
}

/// Starts a keeper with `spawn` and returns the first connection that `connect` gets.
///
/// # Errors
/// The home cannot be used, the keeper ends, or nobody answers in time.
pub fn launch<C>(
    home: &Home,
    spawn: impl Fn() -> io::Result<Child>,
    connect: impl Fn() -> Result<Option<C>, ClientError>,
) -> Result<C, ClientError> {
    home.create().map_err(LaunchError::from)?;
    let log = NewLog::of(home);
    let until = Instant::now() + LAUNCH_LIMIT;
    let mut keeper = Some(spawn().map_err(LaunchError::Spawn)?);
    let mut spawned_at = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(connection) = connect()? {
            return Ok(connection);
        }
        match keeper.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) if status.code() == Some(LOCK_TAKEN) => keeper = None,
            Some(Ok(Some(status))) => return Err(LaunchError::Ended { status, log: log.says() }.into()),
            Some(Ok(None) | Err(_)) => {}
            None if spawned_at.elapsed() >= RETRY_AFTER => {
                keeper = Some(spawn().map_err(LaunchError::Spawn)?);
                spawned_at = Instant::now();
            }
            None => {}
        }
        if Instant::now() >= until {
            return Err(LaunchError::NoAnswer { log: home.own_log(), says: log.says() }.into());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// The keeper: this binary in its other role, with nothing of the terminal or the pipes that we hang on.
pub fn spawn_keeper(home: &Home) -> io::Result<Child> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(home.own_log())?;
    let (env, _) = environment::inherited(std::env::vars_os());
    // By link, not by name: the file may have been replaced or removed since we were started.
    Command::new("/proc/self/exe")
        .arg0("herdwire")
        .arg(KEEPER_ROLE)
        .env_clear()
        .envs(env)
        .env("HERDWIRE_HOME", home.path())
        .current_dir(home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
}

/// What is written to Herdwire's own log from now on.
struct NewLog {
    path: PathBuf,
    begin: u64,
}

impl NewLog {
    fn of(home: &Home) -> NewLog {
        let path = home.own_log();
        let begin = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        NewLog { path, begin }
    }

    /// The last lines; `None` when there are none, or they cannot be read.
    fn says(&self) -> Option<LogSays> {
        let mut file = File::open(&self.path).ok()?;
        file.seek(SeekFrom::Start(self.begin)).ok()?;
        let mut bytes = Vec::new();
        file.take(MOST_LOG).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        (!last.is_empty()).then(|| LogSays(last.join(" / ")))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        (folder, home)
    }

    fn ends_with(code: i32) -> io::Result<Child> {
        Command::new("/bin/sh").args(["-c", &format!("exit {code}")]).spawn()
    }

    #[test]
    fn a_command_line_whose_keeper_came_too_late_goes_on_with_the_other() {
        let (_folder, home) = home();
        let (keepers, asked) = (Cell::new(0), Cell::new(0));
        let spawn = || {
            keepers.set(keepers.get() + 1);
            ends_with(LOCK_TAKEN)
        };
        // The keeper that holds the home is on its way out: only our second one could get it.
        let connect = || {
            asked.set(asked.get() + 1);
            Ok((keepers.get() == 2).then_some("connection"))
        };
        assert_eq!(launch(&home, spawn, connect).unwrap(), "connection");
        assert!(asked.get() > 2);
    }

    #[test]
    fn a_keeper_that_fails_is_reported_with_what_its_log_says() {
        let (_folder, home) = home();
        std::fs::write(home.own_log(), "of an earlier one\n").unwrap();
        let spawn = || {
            std::fs::write(home.own_log(), "of an earlier one\nfirst\ncannot fork\n")?;
            ends_with(3)
        };
        let error = launch::<()>(&home, spawn, || Ok(None)).unwrap_err();
        let report = super::super::error::CliError::from(error).report();
        assert_eq!(report, "error: the keeper ended at once (exit status: 3)\ncause: first / cannot fork\n");
    }
}
