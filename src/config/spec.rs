//! What Herdwire runs: resolved settings, with no option left open.
//!
//! Everything here has passed the checks of `config::resolve`, is absolute where it is a path, and is what travels to
//! the supervisor and lies sealed in the store. Units are in the types.

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
    pub listen: Vec<ListenAddress>,
    /// Channels of the herd that cross to other hosts.
    pub bridge: Vec<String>,
    /// When to restart it, and how to stop it.
    pub rules: Rules,
    /// Whether `start` starts it (else it is only added).
    pub autostart: bool,
    /// What its herd's memory looks like. The first app of a herd decides.
    pub wire: WireSpec,
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
pub struct Rules {
    /// Whether an instance that exits by itself is started again.
    pub autorestart: bool,
    /// Deaths younger than `min_uptime`, in a row, after which an instance is `errored`.
    pub max_restarts: u32,
    /// An instance that lived this long has started well.
    pub min_uptime: Duration,
    /// Waited before a restart; zero restarts at once.
    pub restart_delay: Duration,
    /// The signal that asks an instance to stop.
    pub kill_signal: i32,
    /// After this long it is killed.
    pub kill_timeout: Duration,
    /// Whether an instance is online only when it says so (`ready()`), instead of when it runs.
    pub wait_ready: bool,
    /// How long it may take to say so.
    pub listen_timeout: Duration,
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
