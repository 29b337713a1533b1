//! What restarts an app besides its own end: the clock ([`cron`]) and its files ([`watch`]).
//!
//! One task keeps the apps that ask for either, and tells what is due ([`News`]); what follows is for `lifecycle`. It is
//! asleep, and has no thread, while no app asks.
//!
//! Invariants
//! - The wall clock is looked at again at least once a minute: it may be set.
//! - The task waits for nobody: what is due is kept, once for each app and trigger, until it is taken. So triggers do not
//!   pile up behind one another.

mod cron;
mod ignore;
mod settle;
mod task;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use cron::{Schedule, ScheduleError};

use crate::config::spec::{self, AppSpec, LogFile};
use crate::lifecycle::Trigger;

/// Commands that may wait for the task, which waits for nobody; whoever finds it full waits.
const COMMANDS: usize = 256;

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// An app is to be restarted, and why, as a sentence.
    Due { app: u32, trigger: Trigger, cause: String },
    /// Something cannot be watched, as a sentence.
    Trouble(String),
}

/// What is known of an app's triggers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppTriggers {
    /// When `cron_restart` is due next, in ms since 1970.
    pub next_ms: Option<u64>,
    /// What was due last, as a sentence.
    pub last: Option<String>,
}

/// What is known of all of them. Written by the task, read by the snapshot.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<BTreeMap<u32, AppTriggers>>>);

impl Board {
    /// What is known of an app.
    pub fn view(&self, app: u32) -> AppTriggers {
        self.notes().get(&app).cloned().unwrap_or_default()
    }

    fn notes(&self) -> MutexGuard<'_, BTreeMap<u32, AppTriggers>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle to the task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Triggers {
    commands: mpsc::Sender<Command>,
    board: Board,
}

/// What the task is told.
enum Command {
    Watch(Box<App>),
    Forget(u32),
}

/// An app that asks for something.
struct App {
    id: u32,
    name: String,
    triggers: spec::Triggers,
    /// Its log files, which it does not watch.
    logs: Vec<PathBuf>,
    /// When the last of its instances was started.
    started_ms: Option<u64>,
}

impl Triggers {
    /// Starts the task; what is due comes out of the receiver.
    pub fn start(home: PathBuf, shutdown: CancellationToken, tasks: &TaskTracker) -> (Triggers, mpsc::Receiver<News>) {
        // Whatever finds no room waits in the task, once for each app and kind.
        let (news, due) = mpsc::channel(16);
        let (commands, queue) = mpsc::channel(COMMANDS);
        let board = Board::default();
        tasks.spawn(task::Task::new(home, board.clone(), news, shutdown).run(queue));
        (Triggers { commands, board }, due)
    }

    pub fn board(&self) -> &Board {
        &self.board
    }

    /// An app has come, or its settings may have changed. `started_ms` is when the last of its instances was started,
    /// if one ever was: a time that has passed since then has not been acted on.
    pub async fn watch(&self, id: u32, spec: &AppSpec, started_ms: Option<u64>) {
        let is_known = self.board.notes().contains_key(&id);
        if spec.triggers == spec::Triggers::default() && !is_known {
            return;
        }
        let files = [&spec.logs.out, &spec.logs.error].into_iter().filter_map(|file| match file {
            LogFile::At(path) => Some(path.clone()),
            LogFile::Default | LogFile::Off => None,
        });
        let logs = files.chain(spec.logs.combined.clone()).collect();
        let app = App { id, name: spec.name.clone(), triggers: spec.triggers.clone(), logs, started_ms };
        self.board.notes().entry(id).or_default();
        self.tell(Command::Watch(Box::new(app))).await;
    }

    /// An app is gone.
    pub async fn forget(&self, id: u32) {
        let was_known = self.board.notes().remove(&id).is_some();
        if was_known {
            self.tell(Command::Forget(id)).await;
        }
    }

    async fn tell(&self, command: Command) {
        // The task ends only at shutdown, and then nobody is interested any more.
        let _ = self.commands.send(command).await;
    }
}
