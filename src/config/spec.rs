//! What Herdwire runs: resolved settings, with no option left open.
//!
//! Everything here has passed the checks of `config::resolve`, is absolute where it is a path, and is what travels to
//! the supervisor, lies sealed in the store, and is saved for a restart of the machine. Units are in the types. What a
//! later release adds has a default, so that what an earlier one saved can still be read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One app: what to run, how many, under which rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    /// Unique in the supervisor.
    pub name: String,
    /// The herd whose channels its instances share; the app's own name unless configured.
    pub herd: String,
    /// What is executed, absolute, with its arguments.
    pub command: Command,
    /// The script as the user named it, absolute: what pm2 calls `pm_exec_path`.
    pub script: PathBuf,
    /// The interpreter's name, `none` for a program of its own: what pm2 calls `exec_interpreter`.
    pub interpreter: String,
    /// Where it runs.
    pub cwd: PathBuf,
    /// The whole environment of an instance, but for what the supervisor adds for each.
    pub env: BTreeMap<String, String>,
    /// How many instances.
    pub instances: u32,
    /// Addresses bound once and inherited by every instance.
    #[serde(default)]
    pub listen: Vec<ListenAddress>,
    /// Channels of the herd that cross to other hosts.
    #[serde(default)]
    pub bridge: Vec<String>,
    /// When to restart it, and how to stop it.
    #[serde(default)]
    pub rules: Rules,
    /// Whether `start` starts it (else it is only added).
    #[serde(default = "yes")]
    pub autostart: bool,
    /// What its herd's memory looks like. The first app of a herd decides.
    pub wire: WireSpec,
    /// How its instances reach the wire.
    #[serde(default)]
    pub transport: Transport,
    /// Files of variables that are read when an instance is made, and never stored: over `env`, in their order.
    #[serde(default)]
    pub env_files: Vec<EnvFile>,
    /// As whom and within which bounds its instances run.
    #[serde(default)]
    pub bounds: Bounds,
    /// Where its output goes.
    #[serde(default)]
    pub logs: LogSpec,
    /// How its instances show that they are ready and well.
    #[serde(default)]
    pub health: HealthSpec,
    /// What restarts it besides its own end.
    #[serde(default)]
    pub triggers: Triggers,
    /// Apps that come before it.
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
    /// How a new release takes over.
    #[serde(default)]
    pub reload: ReloadSpec,
}

impl AppSpec {
    /// The arguments of the interpreter, and those of the script: what stands before it and behind it.
    pub fn arguments(&self) -> (&[String], &[String]) {
        let args = self.command.args.as_slice();
        let script = self.script.display().to_string();
        match args.iter().position(|arg| *arg == script).filter(|_| self.interpreter != "none") {
            Some(at) => (&args[..at], &args[at + 1..]),
            None => (&[], args),
        }
    }
}

/// What a saved app that says nothing of it does.
fn yes() -> bool {
    true
}

/// A file of `NAME=VALUE` lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvFile {
    /// Absolute.
    pub path: PathBuf,
    /// Whether it may be missing.
    pub optional: bool,
}

/// A program and its arguments, without a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Absolute path of what is executed.
    pub program: PathBuf,
    /// Its arguments, the program's own name not among them.
    pub args: Vec<String>,
}

/// An address that the supervisor binds for an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenAddress {
    /// `tcp://HOST:PORT`.
    Tcp(SocketAddr),
    /// `unix:///PATH`.
    Unix(PathBuf),
}

/// How the lifecycle treats an app's instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Whether an instance that exits by itself is started again.
    pub autorestart: bool,
    /// Deaths younger than `min_uptime`, within `restart_window`, after which an instance is `errored`.
    pub max_restarts: u32,
    /// How long such a death counts.
    pub restart_window: Duration,
    /// An instance that lived this long has started well.
    pub min_uptime: Duration,
    /// Waited before a restart; zero restarts at once.
    pub restart_delay: Duration,
    /// Waits that grow from restart to restart, in place of `restart_delay`.
    pub backoff: Option<Backoff>,
    /// Exit codes after which it stays stopped.
    pub stop_exit_codes: Vec<i32>,
    /// The signal that asks an instance to stop.
    pub kill_signal: i32,
    /// After this long it is killed.
    pub kill_timeout: Duration,
    /// Whether it is asked to stop by a message (the link's, or Node's `shutdown`) and by no signal.
    pub shutdown_with_message: bool,
    /// Whether an instance is online only when it says so (`ready()`), instead of when it runs.
    pub wait_ready: bool,
    /// How long it may take to say so.
    pub listen_timeout: Duration,
}

/// Waits between restarts: the first, then half as much again each time up to the longest, each with some jitter. An
/// instance that stayed online for `reset` begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
    pub reset: Duration,
}

/// As whom and within which bounds an app's instances run. What is `None` is as the supervisor has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bounds {
    /// User, by name or number; with it come its group and groups, unless they are given.
    pub user: Option<String>,
    pub group: Option<String>,
    /// Supplementary groups in place of the user's own.
    pub groups: Option<Vec<String>>,
    /// `None`: 022.
    pub umask: Option<u32>,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// Soft and hard limits, by `setrlimit(2)`; `u64::MAX` is unlimited.
    pub limits: BTreeMap<Limit, (u64, u64)>,
    pub no_new_privs: bool,
    /// -1000 to 1000; `None`: 200 more than the supervisor's, so that it goes first.
    pub oom_score: Option<i32>,
    /// Bytes that an instance with all its processes may use, where a cgroup can be had.
    pub memory_max: Option<u64>,
    /// Processes and threads of an instance, where a cgroup can be had.
    pub tasks_max: Option<u64>,
    /// Percent of one CPU, where a cgroup can be had.
    pub cpu_max: Option<u32>,
}

/// A limit of `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

/// Where an app's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    pub mode: LogMode,
    pub out: LogFile,
    pub error: LogFile,
    /// One more file with both, pm2's `log_file`.
    pub combined: Option<PathBuf>,
    /// Whether all instances write into one pair of files.
    pub merge: bool,
    pub format: LogFormat,
    pub rotation: Rotation,
}

/// How output gets into its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogMode {
    /// Through a pipe that the supervisor empties.
    Pipe,
    /// The instance writes to the file itself: nothing is lost of a program that hands over late; raw, and not shared.
    File,
    /// Nowhere.
    Off,
}

/// A log file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFile {
    /// In the home's `logs`, by the app's name.
    Default,
    /// Nowhere.
    Off,
    /// Here, absolute.
    At(PathBuf),
}

/// What a log file's lines look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// Bytes as they were written.
    Raw,
    /// `STAMP: LINE`, the stamp by pm2's (day.js) pattern in local time.
    Stamped(String),
    /// One JSON object a line, pm2's keys; the time by this pattern, or ISO with milliseconds.
    Json(Option<String>),
}

/// When a log file is put aside and how many are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rotation {
    /// At this size in bytes; `None`: at none.
    pub max_bytes: Option<u64>,
    /// At this age; `None`: at none.
    pub max_age: Option<Duration>,
    /// How many are kept besides the current one.
    pub keep: u32,
    /// Whether those are compressed by gzip.
    pub compress: bool,
}

/// How instances show that they are ready and well.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthSpec {
    /// Tried until it succeeds: then the instance is ready. Implies `wait_ready`.
    pub readiness: Option<Probe>,
    /// Tried while it is online; a run of failures restarts it.
    pub liveness: Option<Probe>,
    /// The number of a descriptor on which it writes a newline when it is ready (s6's notification-fd).
    pub notify_descriptor: Option<u32>,
    /// The most time between two `WATCHDOG=1`; passed as `WATCHDOG_USEC`.
    pub watchdog: Option<Duration>,
    /// The most time between two signs of life of its link (clients of the wire only).
    pub heartbeat: Option<Duration>,
    /// Bytes that an instance with all that descends from it may use before it is restarted; others' rings not counted.
    pub max_memory: Option<u64>,
}

/// A look from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub target: ProbeTarget,
    pub interval: Duration,
    pub timeout: Duration,
    /// Failures in a row that count as one.
    pub failures: u32,
    /// Waited before the first.
    pub delay: Duration,
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeTarget {
    /// It accepts a connection.
    Tcp(SocketAddr),
    /// `GET http://ADDRESS/PATH` answers 2xx or 3xx.
    Http { address: SocketAddr, host: String, path: String },
    /// The command ends with 0, run in the app's folder and environment as the app's user.
    Exec(Command),
}

/// What restarts an app besides its own end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Triggers {
    pub cron: Option<Cron>,
    pub watch: Option<Watch>,
}

/// `cron_restart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cron {
    /// pm2's dialect: 5 or 6 fields.
    pub pattern: String,
    /// An IANA name; `None`: the system's zone.
    pub zone: Option<String>,
}

/// `watch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Files and folders, absolute.
    pub paths: Vec<PathBuf>,
    /// Globs of what is not looked at, against the path below the watched folder.
    pub ignore: Vec<String>,
    /// Quiet time after a change before it counts.
    pub settle: Duration,
}

/// An app that comes before this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub app: String,
    pub condition: Condition,
}

/// What has to be true of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Its processes run.
    Started,
    /// All its instances are online.
    Ready,
    /// All its instances have run and ended with 0.
    Completed,
}

/// How a new release takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadSpec {
    /// How long a new instance must be online before its predecessor goes.
    pub min_ready: Duration,
    /// How long an old one may take to finish what it has begun.
    pub drain_timeout: Duration,
    /// The most that are replaced at once, after the first.
    pub parallel: u32,
    /// Failed instances after which all is taken back.
    pub max_failures: u32,
    /// Whether what was replaced goes back to the old release then.
    pub rollback: bool,
    /// How long after its end crashes of new instances still take it back; zero: not at all.
    pub probation: Duration,
}

impl Default for LogSpec {
    fn default() -> LogSpec {
        LogSpec {
            mode: LogMode::Pipe,
            out: LogFile::Default,
            error: LogFile::Default,
            combined: None,
            merge: false,
            format: LogFormat::Raw,
            rotation: Rotation::default(),
        }
    }
}

impl Default for Rotation {
    fn default() -> Rotation {
        Rotation { max_bytes: Some(64 << 20), max_age: None, keep: 10, compress: true }
    }
}

impl Default for ReloadSpec {
    fn default() -> ReloadSpec {
        ReloadSpec {
            min_ready: Duration::from_secs(3),
            drain_timeout: Duration::from_secs(30),
            parallel: 1,
            max_failures: 0,
            rollback: true,
            probation: Duration::from_secs(60),
        }
    }
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            autorestart: true,
            max_restarts: 16,
            restart_window: Duration::from_secs(600),
            min_uptime: Duration::from_secs(1),
            restart_delay: Duration::ZERO,
            backoff: None,
            stop_exit_codes: Vec::new(),
            kill_signal: nix::libc::SIGINT,
            kill_timeout: Duration::from_millis(1600),
            shutdown_with_message: false,
            wait_ready: false,
            listen_timeout: Duration::from_secs(3),
        }
    }
}

/// How an instance reaches the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// It maps the herd's memory itself, told how over its link.
    #[default]
    Native,
    /// It speaks JSON, a frame a line, over a socket; the supervisor stands in for it.
    Pipe,
}

impl Transport {
    /// The word that names it in files and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Native => "native",
            Transport::Pipe => "pipe",
        }
    }
}

/// The shape of a herd's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireSpec {
    /// Bytes of each instance's ring: a power of two, 64 KiB to 64 MiB.
    pub ring_bytes: u64,
    /// The largest message, in bytes.
    pub max_message: u64,
    /// How long a publisher waits for a reader that does not move.
    pub stall_timeout: Duration,
}

/// Settings of the supervisor as a whole. The first file that has a section owns it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Settings {
    /// `[redis]`; without it nothing leaves the host.
    pub redis: Option<RedisSettings>,
    /// `[front]`; without it browsers have no way in.
    pub front: Option<FrontSettings>,
    /// `[status]`; without it the page is at its default address.
    pub status: Option<StatusSettings>,
}

/// `[redis]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisSettings {
    /// `redis://[USER:PASSWORD@]HOST:PORT/` or `redis+unix:///PATH`. May hold a password: never print it, use
    /// [`RedisSettings::redacted`].
    pub url: String,
    /// Bytes of outgoing messages kept while Redis is away.
    pub spool_bytes: u64,
}

/// `[front]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// A folder whose files are served to browsers, if any.
    pub files: Option<PathBuf>,
    /// Connections at most.
    pub max_connections: u32,
    /// Origins (`https://example.org`) that browsers may come from; empty: the front's own.
    pub origins: Vec<String>,
    /// WebSocket paths.
    pub paths: Vec<PathSettings>,
}

/// `[[front.path]]`: a WebSocket path that belongs to a herd.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathSettings {
    /// Its URL path, beginning with `/`.
    pub path: String,
    /// The herd.
    pub herd: String,
    /// Channels that its sessions hear and speak on. The first is the one that plain messages go to.
    pub channels: Vec<String>,
    /// Who is let in.
    pub handshake: Handshake,
    /// The largest message from a browser, in bytes.
    pub max_message: u64,
    /// Bytes that may wait for one slow session before it is closed.
    pub queue_bytes: u64,
}

/// Who is let in at a path.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handshake {
    /// Anybody.
    Open,
    /// Whoever brings this token (`?token=` or `Authorization: Bearer`).
    Token(String),
}

/// `[status]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusSettings {
    /// Where it listens. A configured address that is taken is an error.
    pub listen: SocketAddr,
    /// Asked of every request beyond `/healthz` when set; must be set to listen beyond loopback.
    pub token: Option<String>,
}
