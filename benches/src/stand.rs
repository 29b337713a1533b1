//! A herdwire of one's own: the real program in a home of its own, ended with everything that runs in it.
//!
//! Invariants
//! - What it started is ended when the stand is dropped, by pid and only what is its own.
//! - When this process dies without a word, a guard removes the home, and a keeper without a home ends everything.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::place;

/// How long a command may take, before it is killed.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How long everything may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(15);
const NAP: Duration = Duration::from_millis(5);

/// The processes of a herdwire that are not workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pids {
    pub keeper: u32,
    pub supervisor: u32,
}

/// A home, and what runs in it.
#[derive(Debug)]
pub struct Stand {
    program: PathBuf,
    // Dropped before the folder: it would remove it too.
    guard: Guard,
    folder: TempDir,
    keeper: Option<u32>,
}

impl Stand {
    /// Makes an empty home. Nothing runs yet.
    ///
    /// # Errors
    /// `herdwire` is not built, or there is no room for a folder.
    pub fn new() -> anyhow::Result<Stand> {
        let program = place::built("herdwire")?;
        let folder = tempfile::Builder::new().prefix("soak-").tempdir().context("cannot make a folder")?;
        let guard = Guard::over(folder.path())?;
        fs::create_dir(folder.path().join("home"))?;
        fs::create_dir(folder.path().join("work"))?;
        Ok(Stand { program, guard, folder, keeper: None })
    }

    /// The HERDWIRE_HOME.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// A folder for what belongs to the run.
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Starts the apps of a file with this text.
    ///
    /// # Errors
    /// `herdwire start` fails.
    pub fn start(&mut self, config: &str) -> anyhow::Result<Pids> {
        let file = self.work().join("herdwire.toml");
        fs::write(&file, config)?;
        let started = self.herdwire([OsStr::new("start"), file.as_os_str()]);
        // Also when not all apps could be started there is something to be ended.
        let pids = self.pids();
        started?;
        pids
    }

    /// Runs `herdwire` with these arguments; returns what it prints.
    ///
    /// # Errors
    /// It cannot be run, takes longer than a minute, or fails: then with what it says.
    pub fn herdwire<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> anyhow::Result<String> {
        let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        let (out, err) = (self.folder.path().join("out"), self.folder.path().join("err"));
        let mut command = Command::new(&self.program);
        command.args(&arguments).env("HERDWIRE_HOME", self.home()).env_remove("PM2_HOME").stdin(Stdio::null());
        // Files, not pipes: whatever it leaves running cannot hold them open against us.
        let child = command.stdout(fs::File::create(&out)?).stderr(fs::File::create(&err)?).spawn();
        let succeeded = wait(child.context("cannot run herdwire")?, COMMAND_LIMIT)?;
        match succeeded {
            true => Ok(fs::read_to_string(out)?),
            false => bail!("herdwire {} failed: {}", words(&arguments), fs::read_to_string(err)?.trim()),
        }
    }

    /// Who keeper and supervisor are.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn pids(&mut self) -> anyhow::Result<Pids> {
        let pong: Value = serde_json::from_str(&self.herdwire(["ping", "--json"])?)?;
        let pid = |who: &str| pong[who]["pid"].as_u64().map(|pid| pid as u32);
        let (Some(keeper), Some(supervisor)) = (pid("keeper"), pid("supervisor")) else { bail!("odd answer: {pong}") };
        self.keeper = Some(keeper);
        Ok(Pids { keeper, supervisor })
    }

    /// All instances, as `jlist` shows them.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn instances(&self) -> anyhow::Result<Vec<Value>> {
        Ok(serde_json::from_str(&self.herdwire(["jlist"])?)?)
    }

    /// The log of keeper and supervisor.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.home().join("herdwire.log"))?).into_owned())
    }

    /// Somebody else has ended everything.
    pub fn has_ended(&mut self) {
        self.keeper = None;
    }

    /// Ends everything. With `keep` the folder stays for whoever wants to see what happened, and is named.
    ///
    /// # Errors
    /// `herdwire kill` fails.
    pub fn finish(mut self, keep: bool) -> anyhow::Result<()> {
        if keep {
            self.guard.dismiss();
            self.folder.disable_cleanup(true);
            eprintln!("kept: {}", self.folder.path().display());
        }
        if self.keeper.is_some() {
            self.herdwire(["kill"])?;
            self.keeper = None;
        }
        Ok(())
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let Some(keeper) = self.keeper else { return };
        let children = children(keeper);
        if self.herdwire(["kill"]).is_ok() || ends(keeper, END_LIMIT) {
            return;
        }
        // It does not do what it is told. The workers are children of the keeper, so they are among these.
        for pid in std::iter::once(keeper).chain(children) {
            // Gone meanwhile is as good.
            let _ = send(pid, Signal::SIGKILL);
        }
    }
}

/// Sends a signal to one process.
///
/// # Errors
/// There is none with this pid.
pub fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    kill(Pid::from_raw(pid as i32), signal).with_context(|| format!("cannot signal process {pid}"))
}

/// Whether a process runs. One that nobody has waited for yet does not.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Memory of a process in bytes, what it shares divided among all who share it.
pub fn proportional_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn ends(pid: u32, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    while is_alive(pid) {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(NAP);
    }
    true
}

fn wait(mut child: Child, limit: Duration) -> anyhow::Result<bool> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            bail!("herdwire has not answered within {} s", limit.as_secs());
        }
        std::thread::sleep(NAP);
    }
}

fn words(arguments: &[std::ffi::OsString]) -> String {
    arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Somebody may write into the folder while it is removed, which then fails: the keeper ends all that only once it is gone.
const REMOVE: &str = "trap '' INT TERM HUP; read -r word && exit; \
    for try in 1 2 3 4 5 6 7 8 9; do rm -rf -- \"$1\" && exit; sleep 0.2; done";

/// A shell that removes a folder as soon as this process is gone, however it went.
#[derive(Debug)]
struct Guard {
    shell: Child,
}

impl Guard {
    fn over(folder: &Path) -> anyhow::Result<Guard> {
        let mut command = Command::new("sh");
        command.args(["-c", REMOVE, "guard"]).arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A Ctrl-C is meant for us.
        Ok(Guard { shell: command.process_group(0).spawn().context("cannot run sh")? })
    }

    /// Sends it away without its having done anything.
    fn dismiss(&mut self) {
        use std::io::Write;
        if let Some(mut stdin) = self.shell.stdin.take() {
            // Gone already: then it does nothing either.
            let _ = stdin.write_all(b"done\n");
        }
        // Nobody else waits for it.
        let _ = self.shell.wait();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.dismiss();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_removes_the_folder_when_its_owner_dies_without_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("home");
        fs::create_dir(&inside).unwrap();
        let mut guard = Guard::over(&inside).unwrap();
        // What the kernel does to the pipe of a dead process.
        drop(guard.shell.stdin.take());
        guard.shell.wait().unwrap();
        assert!(!inside.exists());
    }

    #[test]
    fn a_guard_that_is_dismissed_leaves_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        drop(Guard::over(folder.path()).unwrap());
        assert!(folder.path().exists());
    }

    #[test]
    fn a_process_is_alive_until_it_has_ended_and_has_memory_and_descriptors() {
        let me = std::process::id();
        assert!(is_alive(me));
        assert!(proportional_memory(me).unwrap() > 1 << 16);
        assert!(descriptors(me).unwrap() >= 3);
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(!is_alive(pid));
    }
}
