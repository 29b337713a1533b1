//! How instances show that they are ready and well.
//!
//! One task ([`task`]) owns all that watches: the socket that instances notify ([`socket`], [`notify`]), their readiness pipes
//! ([`pipe`]), their watchdogs and heartbeats ([`watchdog`]), the probes ([`probe`], [`look`]) and the looks at their memory
//! ([`memory`]). It is told which processes there are and where they stand ([`Senses`]), and tells what it finds ([`News`]). What
//! follows from that is for `lifecycle`.
//!
//! Invariants
//! - Nothing here costs anything for an app that asks for none of it: no timer, no task, no descriptor.
//! - The task waits for nobody: what it has to tell is kept, once for each instance and kind, until it is taken.
//! - A readiness is left where it was found until it has been acted on.
//! - Our own absence (a stop, a suspend, a death) is never taken for an instance's silence.

mod look;
mod memory;
mod notify;
pub mod pipe;
mod probe;
mod socket;
mod task;
mod watchdog;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use look::Surroundings as ProbeSurroundings;
pub use socket::NotifySocket;

use crate::config::spec::{HealthSpec, ProbeTarget};
use crate::keeper::handle::Store;
use crate::lifecycle::{Ailment, Incarnation};
use crate::process::Group;
use crate::snapshot::HealthView;
use crate::wire::Wire;

/// Commands that may wait for the task, which waits for nobody; whoever finds it full waits.
const COMMANDS: usize = 1024;

/// A process that is watched from now on.
pub struct Watched {
    pub instance: u32,
    pub incarnation: Incarnation,
    pub pid: u32,
    /// Of its pidfd; 0 where the kernel gives none.
    pub inode: u64,
    /// Its control group, where its memory is to be looked at: nothing is in one that was never made.
    pub group: Option<Group>,
    /// The process that its life is, if that is another: number, and inode as above.
    pub main: Option<(u32, u64)>,
    /// Whom it runs as, if it executes its program already.
    pub user: Option<u32>,
    /// Variables that only its processes have inherited, as `KEY=VALUE`.
    pub marks: Vec<String>,
    /// What its app asks for.
    pub health: HealthSpec,
    /// How its probes' commands are run; needed only if there is one.
    pub surroundings: Option<ProbeSurroundings>,
    /// The end of its readiness pipe that is ours, if it has one.
    pub ready: Option<OwnedFd>,
}

/// Whether an app's probes need to know how to run commands.
pub fn runs_commands(health: &HealthSpec) -> bool {
    let probes = health.readiness.iter().chain(&health.liveness);
    probes.into_iter().any(|probe| matches!(probe.target, ProbeTarget::Exec(_)))
}

/// Where a process stands, as far as that decides what is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Watched for readiness.
    Launching,
    /// Watched for signs of life.
    Online,
    /// It is ending: heard, and not judged.
    Leaving,
}

/// What was found of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    pub instance: u32,
    pub incarnation: Incarnation,
    pub what: Finding,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is ready. To be answered with [`Senses::moved`] or [`Senses::heard`] once that is committed.
    Ready,
    /// It is not well: what is wrong, and a sentence.
    Unwell(Ailment, String),
    /// What it does now takes so much longer.
    Extended(Duration),
    /// It is ending.
    Quitting,
    /// Its life is that of another process from now on.
    Main(Claim),
}

/// Which process an instance says is its main one, and whom the one that said so runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub pid: u32,
    pub user: Option<u32>,
}

/// What instances say and show of themselves, by instance. Written by the task, read by the snapshot.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Notes>>);

#[derive(Debug, Default)]
struct Notes {
    instances: BTreeMap<u32, HealthView>,
    ignored: u64,
}

impl Board {
    /// What is known of an instance.
    pub fn view(&self, instance: u32) -> HealthView {
        self.notes().instances.get(&instance).cloned().unwrap_or_default()
    }

    /// Datagrams on `NOTIFY_SOCKET` that were ignored: from strangers, or too long.
    pub fn ignored(&self) -> u64 {
        self.notes().ignored
    }

    fn note(&self, instance: u32, change: impl FnOnce(&mut HealthView)) {
        change(self.notes().instances.entry(instance).or_default());
    }

    fn forget(&self, instance: u32) {
        self.notes().instances.remove(&instance);
    }

    /// Counts one; true for the first and then rarely, when it is worth a line in the log.
    fn ignore(&self) -> bool {
        let mut notes = self.notes();
        notes.ignored += 1;
        notes.ignored.is_power_of_two()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle to the task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Senses {
    commands: mpsc::Sender<Command>,
    board: Board,
    variable: Arc<str>,
}

/// What the task is told.
enum Command {
    Watch(Box<Watched>, Phase),
    Moved(u32, Incarnation, Phase),
    Heard(u32, Incarnation),
    Gone(u32, Incarnation),
    /// Whom a process runs as, now that it executes its program.
    RunsAs(u32, Incarnation, u32),
    /// An instance's main process is known: number, and the inode of its pidfd.
    Main(u32, Incarnation, (u32, u64)),
    LastWords(u32, Incarnation, oneshot::Sender<Option<Claim>>),
    /// Everybody who was inherited is known: what waits in the socket can be understood.
    Serve,
}

/// What the task needs from the others.
pub struct Around {
    pub store: Store,
    pub wire: Wire,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
}

impl Senses {
    /// Starts the task on its socket; what it finds comes out of the receiver.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn start(socket: NotifySocket, around: Around) -> std::io::Result<(Senses, mpsc::Receiver<News>)> {
        // Whatever finds no room waits in the task, once for each instance and kind.
        let (news, found) = mpsc::channel(64);
        let (commands, queue) = mpsc::channel(COMMANDS);
        let board = Board::default();
        let variable = socket.variable().into();
        let tasks = around.tasks.clone();
        let task = task::Task::new(socket, board.clone(), news, around)?;
        tasks.spawn(task.run(queue));
        Ok((Senses { commands, board, variable }, found))
    }

    /// What `NOTIFY_SOCKET` says.
    pub fn variable(&self) -> &str {
        &self.variable
    }

    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Watches a process. Said before it is let go, so that nothing of it is taken for a stranger's.
    pub async fn watch(&self, watched: Watched, phase: Phase) {
        self.tell(Command::Watch(Box::new(watched), phase)).await;
    }

    /// A process stands somewhere else now.
    pub async fn moved(&self, instance: u32, incarnation: Incarnation, phase: Phase) {
        self.tell(Command::Moved(instance, incarnation, phase)).await;
    }

    /// Its [`Finding::Ready`] has been acted on, whatever that was.
    pub async fn heard(&self, instance: u32, incarnation: Incarnation) {
        self.tell(Command::Heard(instance, incarnation)).await;
    }

    /// A process is gone.
    pub async fn gone(&self, instance: u32, incarnation: Incarnation) {
        self.tell(Command::Gone(instance, incarnation)).await;
    }

    /// It executes its program, as this user.
    pub async fn runs_as(&self, instance: u32, incarnation: Incarnation, user: u32) {
        self.tell(Command::RunsAs(instance, incarnation, user)).await;
    }

    /// Its life is that of this process from now on: number, and inode of its pidfd.
    pub async fn has_main(&self, instance: u32, incarnation: Incarnation, main: (u32, u64)) {
        self.tell(Command::Main(instance, incarnation, main)).await;
    }

    /// Which process it has last called its main one, also in what was not read yet: asked when the process that was started
    /// has ended.
    pub async fn last_words(&self, instance: u32, incarnation: Incarnation) -> Option<Claim> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::LastWords(instance, incarnation, reply)).await;
        answer.await.ok().flatten()
    }

    /// All processes that were inherited are watched.
    pub async fn serve(&self) {
        self.tell(Command::Serve).await;
    }

    async fn tell(&self, command: Command) {
        // The task ends only at shutdown, and then nobody is interested any more.
        let _ = self.commands.send(command).await;
    }
}

#[cfg(test)]
mod tests;
