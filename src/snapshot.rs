//! What the supervisor shows of itself: one value, asked for by the CLI, the status page and the metrics.
//!
//! Everything here is plain data read off the state; nothing keeps a second copy. No environment values and no
//! secrets are among it, except [`InstanceView::env`], which is filled only for `jlist` over the owner's socket.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The whole picture at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub supervisor: SupervisorView,
    pub instances: Vec<InstanceView>,
    pub herds: Vec<HerdView>,
    /// The last deployment of each app that had one.
    pub deployments: Vec<DeploymentView>,
    pub bridge: Option<BridgeView>,
    pub front: Option<FrontView>,
    pub host: HostView,
}

/// Supervisor and keeper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SupervisorView {
    pub version: String,
    pub node: String,
    pub pid: u32,
    pub keeper_pid: u32,
    /// Since this supervisor process began; a restart by the keeper begins anew.
    pub uptime_ms: u64,
    /// How many supervisor processes this keeper has started.
    pub epoch: u64,
    pub home: PathBuf,
    /// Where the status page is, if it could be bound.
    pub status_address: Option<SocketAddr>,
    /// Descriptors in the store and the most it takes.
    pub store_used: u32,
    pub store_limit: u32,
    /// What an operator should know, as sentences: a default port that was taken, a section that was ignored.
    pub warnings: Vec<String>,
    /// Datagrams on `NOTIFY_SOCKET` that came from no instance, or were too long.
    #[serde(default)]
    pub notifications_ignored: u64,
}

/// pm2's status words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Stopped,
    Launching,
    Online,
    Stopping,
    #[serde(rename = "waiting restart")]
    WaitingRestart,
    Errored,
}

impl Status {
    /// The word as pm2 prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Stopped => "stopped",
            Status::Launching => "launching",
            Status::Online => "online",
            Status::Stopping => "stopping",
            Status::WaitingRestart => "waiting restart",
            Status::Errored => "errored",
        }
    }
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Unique in the supervisor, never used again: pm2's `pm_id`.
    pub id: u32,
    pub app: String,
    pub herd: String,
    /// Counts within the app: NODE_APP_INSTANCE.
    pub index: u32,
    /// Instances that its app asks for.
    pub instances: u32,
    /// `None` when nothing runs.
    pub pid: Option<u32>,
    pub status: Status,
    /// One process of the instance, counted from 1.
    pub incarnation: u32,
    /// Restarts since the instance was started by hand, for whatever reason.
    pub restarts: u32,
    /// Failures that count against `max_restarts` (pm2's name).
    pub unstable_restarts: u32,
    /// Wall-clock time of the last start, in ms since 1970; 0 before the first.
    pub started_at_ms: u64,
    pub uptime_ms: u64,
    /// Wall-clock time when the instance was created, in ms since 1970.
    pub created_at_ms: u64,
    pub last_exit: Option<ExitView>,
    /// Why it is `errored` or waits, in a sentence.
    pub reason: Option<String>,
    /// Why it was last started, restarted, stopped or given up, in a sentence.
    pub cause: Option<String>,
    /// Of one core, so 200.0 is two cores full.
    pub cpu_percent: f32,
    /// Resident set, in bytes.
    pub memory_bytes: u64,
    pub script: PathBuf,
    /// Its own arguments, behind the script.
    pub args: Vec<String>,
    /// The interpreter's, before the script.
    #[serde(default)]
    pub node_args: Vec<String>,
    pub interpreter: String,
    pub cwd: PathBuf,
    pub out_log: PathBuf,
    pub error_log: PathBuf,
    /// What is wrong with its logs, in a sentence.
    pub log_fault: Option<String>,
    pub autorestart: bool,
    pub wait_ready: bool,
    pub kill_timeout_ms: u64,
    pub max_restarts: u32,
    pub listen: Vec<String>,
    /// Its place in the herd's wire; `None` until it says hello.
    pub slot: Option<u16>,
    /// How it reaches the wire: `native` or `pipe`.
    #[serde(default)]
    pub transport: String,
    /// The supervisor's stand-in for it, where there is one.
    #[serde(default)]
    pub stand_in: Option<StandInView>,
    /// What it says and shows of itself.
    #[serde(default)]
    pub health: HealthView,
    /// The app's environment, only where the request asks for it.
    pub env: Option<BTreeMap<String, String>>,
}

/// A client that the supervisor stands in for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StandInView {
    /// Lines that were no frame of the protocol.
    pub bad_frames: u64,
    /// Messages that it missed because it did not read.
    pub missed: u64,
    /// Bytes that wait to be written to it.
    pub waiting_bytes: u64,
    /// It has asked for no messages until it says otherwise.
    pub paused: bool,
    /// Why nothing is said to it or heard from it any more.
    pub closed: Option<String>,
}

/// What an instance says and shows of itself. Empty where nothing asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthView {
    /// Its own words, `STATUS=` of `sd_notify`, made fit for a terminal.
    pub status: Option<String>,
    /// The process that it calls its main one (`MAINPID=`), if that is another.
    pub main_pid: Option<u32>,
    /// Why its probe failed last, until it succeeds.
    pub probe: Option<String>,
    /// What it uses with all its processes, looked at where `max_memory_restart` is set.
    pub group_memory_bytes: Option<u64>,
    /// When `cron_restart` is due next, in ms since 1970.
    pub next_restart_ms: Option<u64>,
    /// What a watched file or the clock did last.
    pub last_trigger: Option<String>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitView {
    Code(i32),
    Signal(i32),
    /// It could not be executed.
    NeverStarted,
    /// Nobody could tell.
    Unknown,
    /// The kernel killed it for memory.
    OutOfMemory,
}

/// One herd's wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HerdView {
    pub name: String,
    /// Running participants, the supervisor not among them.
    pub participants: u32,
    /// Instances by their slot.
    pub seats: BTreeMap<u16, u32>,
    pub ring_bytes: u64,
    /// Memory of all rings and the directory, in bytes.
    pub memory_bytes: u64,
    pub channels: Vec<ChannelView>,
}

/// One channel. Counters run since the herd began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelView {
    pub name: String,
    pub subscribers: u32,
    pub published: u64,
    pub delivered: u64,
    pub lost: u64,
    pub rejected: u64,
    /// Published per second, over the last sampling interval.
    pub rate: f64,
    pub bridged: bool,
    pub shown: bool,
}

/// How a new release takes over, or took over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentView {
    pub app: String,
    pub phase: DeploymentPhase,
    /// Counts the releases of the app.
    pub revision: u32,
    /// Instances that are as they will be, and how many there will be.
    pub replaced: u32,
    pub wanted: u32,
    /// New ones beside their predecessors, and predecessors that finish what they have begun.
    pub starting: u32,
    pub draining: u32,
    /// The number of the instance that failed first.
    pub failed: Option<u32>,
    /// What went wrong first, as a sentence.
    pub reason: Option<String>,
}

/// How far a deployment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentPhase {
    Replacing,
    TakingBack,
    /// All is replaced; crashes still take it back.
    Probation,
    Done,
    Failed,
}

/// The bridge to other hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BridgeView {
    /// Without user and password.
    pub address: String,
    pub state: BridgeState,
    pub sent: u64,
    pub received: u64,
    /// Messages that had to be given up because the spool was full.
    pub dropped: u64,
    /// Messages of other hosts that were missed.
    pub missed: u64,
    pub spooled_bytes: u64,
    pub reconnects: u64,
}

/// How the bridge is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BridgeState {
    Connected,
    /// What went wrong last, as a sentence.
    Waiting(String),
}

/// The front.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontView {
    pub address: SocketAddr,
    pub sessions: u32,
    pub received: u64,
    pub sent: u64,
    /// Sessions closed because they did not keep up.
    pub slow_closed: u64,
    /// Handshakes refused.
    pub refused: u64,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostView {
    pub name: String,
    pub cpus: u32,
    pub load_1m: f64,
    pub memory_total_bytes: u64,
    pub memory_used_bytes: u64,
}
