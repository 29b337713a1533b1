//! The binary, a home of its own, and the certainty that nothing of it is left afterwards.
//!
//! A `Herdwire` owns a folder under the temporary one. When it drops it asks for the end of everything, then looks
//! through all processes for its home: one that is still there is killed, and the test fails for it. When the test
//! itself is killed a janitor process removes the folder, and a keeper whose home is gone ends with all it started.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that should happen soon, on a machine that has a lot else to do.
pub const SOON: Duration = Duration::from_secs(30);
/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(60);

const BINARY: &str = env!("CARGO_BIN_EXE_herdwire");

/// One home, and whatever runs in it.
pub struct Herdwire {
    folder: Option<TempDir>,
    janitor: Child,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// An instance as `jlist` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    pub name: String,
    pub id: u64,
    pub pid: u32,
    pub status: String,
    pub restarts: u64,
    pub started_at: u64,
    pub record: Value,
}

impl Herdwire {
    /// A home in which nothing runs yet.
    pub fn new() -> Herdwire {
        // Short: the path of a socket in it must fit into a socket address.
        let folder = tempfile::Builder::new().prefix("hw-").tempdir_in("/tmp").unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        let janitor = janitor(folder.path()).unwrap();
        Herdwire { folder: Some(folder), janitor }
    }

    fn root(&self) -> &Path {
        self.folder.as_ref().expect("it is taken only when this drops").path()
    }

    pub fn home(&self) -> PathBuf {
        self.root().join("home")
    }

    /// Where commands run and tests put their files.
    pub fn work(&self) -> PathBuf {
        self.root().join("work")
    }

    /// Writes a file into the working folder.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.work().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes an executable shell script into the working folder.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.write(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// The binary with this home, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        self.place(&mut command);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Gives a command this home and a small environment.
    pub fn place(&self, command: &mut Command) {
        command.env_clear().env("HERDWIRE_HOME", self.home()).env("HOME", self.work()).current_dir(self.work());
        for kept in ["PATH", "LANG", "TMPDIR"] {
            std::env::var_os(kept).map(|value| command.env(kept, value));
        }
    }

    /// Runs the binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        finish(&mut self.command(arguments))
    }

    /// Runs it, and it must succeed. Returns what it printed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert!(ran.status.success(), "herdwire {arguments:?}: {ran:#?}\n{}", self.own_log());
        ran.stdout
    }

    /// Runs `start` where no control groups can be had; false where this machine cannot hide them.
    #[track_caller]
    pub fn start_without_groups(&self, arguments: &[&str]) -> bool {
        let mut command = Command::new("unshare");
        self.place(&mut command);
        // A mount namespace in which there is no unified hierarchy.
        let hide = "umount /sys/fs/cgroup/unified 2>/dev/null || umount /sys/fs/cgroup; exec \"$@\"";
        command.args(["--mount", "sh", "-c", hide, "sh", BINARY, "start"]).args(arguments);
        let ran = finish(&mut command);
        if !ran.status.success() && ran.stderr.contains("unshare") {
            eprintln!("skipped: {}", ran.stderr);
            return false;
        }
        assert!(ran.status.success(), "{ran:#?}");
        assert!(self.own_log().contains("instances run without control groups"), "{}", self.own_log());
        true
    }

    /// Runs it, and it must be refused in the manner of the house: exit code 1 and one sentence. Returns what it said.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.status.code(), Some(1), "herdwire {arguments:?}: {ran:#?}");
        assert_is_a_clear_error(&ran.stderr);
        ran.stderr
    }

    /// Every instance, in the order of `jlist`.
    #[track_caller]
    pub fn list(&self) -> Vec<Instance> {
        let records: Vec<Value> = serde_json::from_str(&self.ok(&["jlist"])).expect("an array");
        records.into_iter().map(Instance::new).collect()
    }

    /// The instances of one app.
    #[track_caller]
    pub fn instances(&self, name: &str) -> Vec<Instance> {
        self.list().into_iter().filter(|instance| instance.name == name).collect()
    }

    /// The only instance of an app.
    #[track_caller]
    pub fn instance(&self, name: &str) -> Instance {
        let mut found = self.instances(name);
        assert_eq!(found.len(), 1, "instances of {name}: {found:#?}");
        found.remove(0)
    }

    /// Waits until the only instance of an app is as wanted.
    #[track_caller]
    pub fn await_instance(&self, name: &str, what: &str, wanted: impl Fn(&Instance) -> bool) -> Instance {
        let mut last = None;
        let found = poll(SOON, || {
            let instance = self.instance(name);
            let found = wanted(&instance);
            last = Some(instance.clone());
            found.then_some(instance)
        });
        found.unwrap_or_else(|| panic!("{name} never {what}; at last: {last:#?}\n{}", self.own_log()))
    }

    /// The whole picture: `list --json`.
    #[track_caller]
    pub fn snapshot(&self) -> Value {
        serde_json::from_str(&self.ok(&["list", "--json"])).expect("JSON")
    }

    /// `ping --json`.
    #[track_caller]
    pub fn ping(&self) -> Value {
        serde_json::from_str(&self.ok(&["ping", "--json"])).expect("JSON")
    }

    #[track_caller]
    pub fn supervisor_pid(&self) -> u32 {
        self.ping()["supervisor"]["pid"].as_u64().unwrap() as u32
    }

    #[track_caller]
    pub fn keeper_pid(&self) -> u32 {
        self.ping()["keeper"]["pid"].as_u64().unwrap() as u32
    }

    /// Kills the supervisor with SIGKILL and waits until its successor answers. Says how long that took.
    #[track_caller]
    pub fn kill_supervisor(&self) -> Duration {
        let before = self.supervisor_pid();
        let since = Instant::now();
        signal(before, Signal::SIGKILL);
        self.await_another(before);
        since.elapsed()
    }

    /// Kills the keeper and waits until another one keeps, which is the supervisor of before.
    #[track_caller]
    pub fn kill_keeper(&self) {
        let (keeper, supervisor) = (self.keeper_pid(), self.supervisor_pid());
        signal(keeper, Signal::SIGKILL);
        self.await_another(supervisor);
        assert_eq!(self.keeper_pid(), supervisor, "the supervisor is the keeper now");
    }

    /// Kills both at once: neither has the time to do anything about the other's death.
    #[track_caller]
    pub fn kill_both(&self) {
        let (supervisor, keeper) = (self.supervisor_pid(), self.keeper_pid());
        signal(supervisor, Signal::SIGSTOP);
        signal(keeper, Signal::SIGKILL);
        signal(supervisor, Signal::SIGKILL);
        until("both are gone", || !is_alive(supervisor) && !is_alive(keeper));
    }

    /// Waits until another supervisor than this one answers.
    #[track_caller]
    fn await_another(&self, before: u32) {
        let answers = || {
            let ran = self.run(&["ping", "--json"]);
            let pong: Option<Value> = serde_json::from_str(&ran.stdout).ok().filter(|_| ran.status.success());
            pong.filter(|pong| pong["supervisor"]["pid"] != before).map(|_| ())
        };
        poll(SOON, answers).unwrap_or_else(|| panic!("no other supervisor came\n{}", self.own_log()));
    }

    /// What an instance wrote so far, empty while there is no such file.
    pub fn log(&self, file: &str) -> String {
        fs::read_to_string(self.home().join("logs").join(file)).unwrap_or_default()
    }

    /// Waits until a log contains something.
    #[track_caller]
    pub fn await_log(&self, file: &str, text: &str) {
        let found = poll(SOON, || self.log(file).contains(text).then_some(()));
        found.unwrap_or_else(|| panic!("no `{text}` in {file}: {}\n{}", self.log(file), self.own_log()));
    }

    /// The log of keeper and supervisor, for messages of failed tests.
    pub fn own_log(&self) -> String {
        fs::read_to_string(self.home().join("herdwire.log")).unwrap_or_default()
    }

    /// Every process of this home, keeper and supervisor included.
    pub fn processes(&self) -> Vec<u32> {
        processes_with(&format!("HERDWIRE_HOME={}", self.home().display()), None)
    }

    /// Every process that belongs to an app, whoever started it.
    pub fn processes_of(&self, app: &str) -> Vec<u32> {
        processes_with(&format!("HERDWIRE_HOME={}", self.home().display()), Some(&format!("HERDWIRE_NAME={app}")))
    }
}

impl Drop for Herdwire {
    fn drop(&mut self) {
        if self.home().join("control.sock").exists() {
            // What it says does not matter: what is left is looked for below.
            let _ = finish_within(&mut self.command(&["kill"]), SOON);
        }
        let left = poll(Duration::from_secs(5), || self.processes().is_empty().then_some(()));
        let leftovers = if left.is_none() { self.processes() } else { Vec::new() };
        let described: Vec<String> = leftovers.iter().map(|pid| describe(*pid)).collect();
        for pid in &leftovers {
            let _ = kill(Pid::from_raw(*pid as i32), Signal::SIGKILL);
        }
        let log = self.own_log();
        drop(self.folder.take());
        // The folder is gone, so there is nothing left to be cleaned up after us.
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
        if !leftovers.is_empty() && !thread::panicking() {
            panic!("`kill` left processes behind: {described:#?}\n{log}");
        }
    }
}

impl Instance {
    fn new(record: Value) -> Instance {
        let pm2 = &record["pm2_env"];
        Instance {
            name: record["name"].as_str().unwrap().to_owned(),
            id: record["pm_id"].as_u64().unwrap(),
            pid: record["pid"].as_u64().unwrap() as u32,
            status: pm2["status"].as_str().unwrap().to_owned(),
            restarts: pm2["restart_time"].as_u64().unwrap(),
            started_at: pm2["pm_uptime"].as_u64().unwrap(),
            record,
        }
    }

    pub fn is_online(&self) -> bool {
        self.status == "online"
    }

    /// What `jlist` says beyond pm2.
    pub fn own(&self, key: &str) -> &Value {
        &self.record["herdwire"][key]
    }
}

/// A worker program of these tests, built as an example beside the binary.
pub fn worker(name: &str) -> PathBuf {
    let path = PathBuf::from(BINARY).with_file_name("examples").join(name);
    assert!(path.exists(), "{} is missing: `cargo build --examples` makes it", path.display());
    path
}

/// An error as the house says it: what, perhaps why, perhaps what to do; no Rust in it and no stack.
#[track_caller]
pub fn assert_is_a_clear_error(stderr: &str) {
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(lines.first().is_some_and(|line| line.starts_with("error: ")), "no `error:` first: {stderr}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("error: ")).count(), 1, "more than one: {stderr}");
    for foreign in ["panicked", "RUST_BACKTRACE", "Err(", "Some(", "None"] {
        assert!(!stderr.contains(foreign), "`{foreign}` in: {stderr}");
    }
}

/// Runs a command to its end, which must come within the limit.
#[track_caller]
pub fn finish(command: &mut Command) -> Ran {
    finish_within(command, COMMAND).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn finish_within(command: &mut Command, limit: Duration) -> io::Result<Ran> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stdout = collect(child.stdout.take().expect("piped above"));
    let stderr = collect(child.stderr.take().expect("piped above"));
    let Some(status) = poll(limit, || child.try_wait().expect("our own child")) else {
        child.kill()?;
        child.wait()?;
        return Err(io::Error::other("it does not end"));
    };
    // Whoever inherited the pipes and lives on would hold them open: that is an error too.
    let end = |output: mpsc::Receiver<Vec<u8>>| {
        let bytes = output.recv_timeout(SOON).map_err(|_| io::Error::other("it ended, its output did not"))?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Ran { status, stdout: end(stdout)?, stderr: end(stderr)? })
}

fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        // Nobody waits any more when the limit is over.
        let _ = sender.send(bytes);
    });
    receiver
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Asks again and again until there is an answer, at most for `limit`.
pub fn poll<T>(limit: Duration, mut answer: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + limit;
    loop {
        if let Some(answer) = answer() {
            return Some(answer);
        }
        if Instant::now() >= until {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until something holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    poll(SOON, || holds().then_some(())).unwrap_or_else(|| panic!("never: {what}"));
}

/// Signals a process that this test had started.
#[track_caller]
pub fn signal(pid: u32, signal: Signal) {
    assert!(pid > 1, "no process");
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

/// Whether a process is there and has not ended.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Every process that has both lines in its environment, except ourselves and the janitors.
fn processes_with(line: &str, other: Option<&str>) -> Vec<u32> {
    let has = |environ: &[u8], line: &str| environ.split(|byte| *byte == 0).any(|one| one == line.as_bytes());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            has(&environ, line) && other.is_none_or(|other| has(&environ, other)) && is_alive(*pid)
        })
        .collect()
}

fn describe(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid}: {}", String::from_utf8_lossy(&command).replace('\0', " "))
}

/// Removes the folder when this process is gone, however it went. In a session of its own: whoever ends a test
/// signals its whole group.
fn janitor(folder: &Path) -> io::Result<Child> {
    let mut command = Command::new("sh");
    // Again while it does not come off: somebody may still be writing into it.
    command.args(["-c", r#"cat >/dev/null; for _ in $(seq 100); do rm -rf "$1" && exit; sleep 0.1; done"#, "janitor"]);
    command.arg(folder).env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec the closure makes one system call and touches no memory of the parent.
    unsafe { command.pre_exec(|| setsid().map(drop).map_err(io::Error::from)) };
    command.spawn()
}
