//! What the CLI may ask and what it is answered, and how both travel on the control socket.
//!
//! One request a connection, one answer. A frame is [`herdwire_ipc::frame::Header`] and a body by the codec; a peer
//! that sends anything else is answered once, in a sentence, and closed.

use std::path::PathBuf;

use herdwire_ipc::{codec, frame};
use serde::{Deserialize, Serialize};

use crate::config::spec::{AppSpec, Settings};
use crate::snapshot::Snapshot;

/// Version of requests and answers. CLI and supervisor of different versions say so instead of misreading.
pub const CONTROL_VERSION: u16 = 1;

/// The most that one request may take.
pub const MAX_FRAME: usize = codec::LIMIT + frame::HEADER_BYTES;

/// What the CLI asks.
// One request lives for the length of one exchange: a box would save nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    Ping,
    /// Everything; `env` also asks for the apps' environments.
    Snapshot {
        env: bool,
    },
    /// Adds apps and starts them; one that exists already is restarted with the new spec.
    Start {
        apps: Vec<AppSpec>,
        settings: Settings,
        origin: PathBuf,
    },
    /// Starts again what is stopped.
    StartExisting {
        select: Selector,
    },
    Stop {
        select: Selector,
    },
    Restart {
        select: Selector,
    },
    Delete {
        select: Selector,
    },
    /// Ends all instances, the supervisor and the keeper.
    Kill,
    /// Replaces the supervisor by this binary (the running one's path where none is given), touching no instance.
    Upgrade {
        binary: PathBuf,
    },
    /// Replaces instances one after another by new ones, of new specs where some are given.
    Reload {
        select: Selector,
        /// New specs, by name; those of other apps stay as they are.
        apps: Vec<AppSpec>,
        options: ReloadOptions,
    },
    /// Changes how many instances an app has.
    Scale {
        app: String,
        to: ScaleTo,
    },
    /// Makes what runs be what these specs say; `prune` also deletes apps that are not among them.
    Apply {
        apps: Vec<AppSpec>,
        settings: Settings,
        origin: PathBuf,
        prune: bool,
        /// Only answer the plan.
        dry: bool,
    },
    /// Opens log files anew, after something else has moved them.
    ReopenLogs {
        select: Selector,
    },
    /// Empties log files.
    FlushLogs {
        select: Selector,
    },
    /// Writes down what runs, for `resurrect`.
    Save,
    /// Starts what was written down and does not run.
    Resurrect,
    /// Everything that changes, from this number on: answered by [`Response::Event`] after `Response::Event`, until the
    /// peer closes.
    Events {
        /// `None`: from now on.
        after: Option<u64>,
    },
    /// The last changes, of one instance where one is named, answered at once.
    Journal {
        instance: Option<u32>,
        last: u32,
    },
    /// Sets the counters of instances back.
    Reset {
        select: Selector,
    },
    /// Sends a signal to processes, and does nothing else.
    Signal {
        select: Selector,
        signal: i32,
    },
}

/// What deviates from the apps' `[app.reload]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReloadOptions {
    pub parallel: Option<u32>,
    pub rollback: Option<bool>,
}

/// How many instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScaleTo {
    Exactly(u32),
    More(u32),
    Fewer(u32),
}

/// Which instances a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selector {
    All,
    /// A number: tried as a name first, then as an id.
    Id(u32),
    Name(String),
    /// Several, in the order given.
    Several(Vec<Selector>),
}

impl Selector {
    /// Whether it names this app as a whole.
    pub fn names(&self, app: &str) -> bool {
        match self {
            Selector::All => true,
            Selector::Name(name) => name == app,
            Selector::Id(id) => id.to_string() == app,
            Selector::Several(several) => several.iter().any(|one| one.names(app)),
        }
    }
}

/// What the supervisor answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    Pong(Pong),
    Snapshot(Box<Snapshot>),
    /// Done; everything as it is now. After a delete the instances are those that were deleted, as they were.
    Done(Box<Snapshot>),
    /// `Kill` was taken on; the connection ends when the last instance has.
    Killing {
        keeper_pid: u32,
    },
    Failed(Failure),
    /// What `Apply` does, or would do.
    Plan(Plan),
    /// A change, in answer to `Events`.
    Event(EventView),
    /// Another supervisor serves now: `Ping` tells which.
    Upgraded {
        /// Version of the one that answers this, and is gone.
        from: String,
        took_ms: u64,
    },
    /// Changes, oldest first, in answer to `Journal`.
    Journal(Vec<EventView>),
}

/// What an `Apply` does, app by app.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    pub steps: Vec<PlanStep>,
}

/// What it does to one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStep {
    pub app: String,
    pub what: PlanAction,
    /// Settings that differ, by key, without values of secrets.
    pub changes: Vec<String>,
}

/// A step of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlanAction {
    Add,
    /// Replaced by a rolling reload.
    Reload,
    /// Only the number of instances changes.
    Scale,
    /// Taken over without touching an instance.
    Update,
    Delete,
    Keep,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// Counts changes of this home, from 1, also across supervisors. A gap means that some are no longer kept.
    pub sequence: u64,
    /// Wall-clock time, in ms since 1970.
    pub at_ms: u64,
    /// Such as `instance.online`, `app.deleted`, `deployment.failed`, `supervisor.started`.
    pub what: String,
    pub app: Option<String>,
    pub instance: Option<u32>,
    /// Why, in a sentence.
    pub cause: String,
}

/// Answer to `Ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    pub pid: u32,
    pub version: String,
    pub uptime_ms: u64,
    pub keeper_pid: u32,
    pub status_address: Option<String>,
    /// Why the status page is not at its default address, as a sentence.
    #[serde(default)]
    pub status_elsewhere: Option<String>,
}

/// Why a request was not done: what, the cause, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub what: String,
    pub cause: Option<String>,
    pub hint: Option<String>,
    /// What the CLI exits with.
    pub code: u8,
    /// What the process that failed has printed last.
    pub last_words: Vec<LastWords>,
}

/// The last lines of one output of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWords {
    pub error: bool,
    /// The log that they are in.
    pub path: PathBuf,
    pub lines: Vec<String>,
}

impl Failure {
    /// A failure that needs no more than a sentence.
    pub fn new(what: impl Into<String>) -> Failure {
        Failure { what: what.into(), cause: None, hint: None, code: 1, last_words: Vec::new() }
    }

    /// Makes the CLI exit with this code instead of 1.
    pub fn code(mut self, code: u8) -> Failure {
        self.code = code;
        self
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    pub fn cause(mut self, cause: impl ToString) -> Failure {
        self.cause = Some(cause.to_string());
        self
    }
}

/// Puts a request into a frame.
///
/// # Errors
/// It is larger than [`codec::LIMIT`].
pub fn to_frame(request: &Request) -> Result<Vec<u8>, codec::CodecError> {
    Ok(frame::compose(CONTROL_VERSION, 0, &codec::encode(request)?))
}

/// How long the body is that a peer announces.
///
/// # Errors
/// It is none of a request of this version, or too large.
pub fn body_length(header: frame::Header) -> Result<u32, Failure> {
    if header.kind != CONTROL_VERSION {
        let what = format!("this is no request of control version {CONTROL_VERSION}");
        return Err(
            Failure::new(what).hint("use the `herdwire` binary of the supervisor's version, or `herdwire kill` first")
        );
    }
    if header.length as usize > MAX_FRAME - frame::HEADER_BYTES {
        return Err(Failure::new(format!("a request of {} bytes is too large", header.length)));
    }
    Ok(header.length)
}

/// Reads the body of a request.
///
/// # Errors
/// It is not one.
pub fn from_body(body: &[u8]) -> Result<Request, Failure> {
    codec::decode(body).map_err(|error| Failure::new("the request cannot be understood").cause(error))
}

/// Puts an answer into a frame. It may be large: thousands of instances with their environments.
///
/// # Errors
/// It is larger than [`codec::LARGE_LIMIT`].
pub fn to_answer(response: &Response) -> Result<Vec<u8>, codec::CodecError> {
    Ok(frame::compose(CONTROL_VERSION, 0, &codec::encode_large(response)?))
}
