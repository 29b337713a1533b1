//! The supervisor's loop: takes one event, asks the lifecycle, commits, acts.
//!
//! Owns the registry, the committed state and every child. What blocks happens elsewhere (`spawner`, the log pump);
//! what waits is an event.
//!
//! Invariants
//! - One commit before one act: a spawned process is let go only when store and state know it, an exit is
//!   acknowledged only when the state contains it.
//! - Events of an earlier incarnation are recognised and dropped by the lifecycle, never by luck.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herdwire_ipc::tokio::Watched;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answers::Pending;
use super::applying::Applying;
use super::control::{Failure, Response};
use super::control_server::{Asked, Asker, Desk};
use super::departure::Departure;
use super::deploys::{Awaited, Culprit};
use super::journal::Journal;
use super::log_faults::LogFaults;
use super::ordering::Turns;
use super::orphans::Ended;
use super::registry::{App, Entry, Process, Registry, Role};
use super::safekeeping::Safekeeping;
use super::saving::Saving;
use super::settings::Sections;
use super::spawner::{Order, Outcome};
use super::state::{self, Globals};
use super::traffic::Routes;
use super::upgrade::{self, Freezing, Upgrade};
use super::{clock, foreground, health, logs, spawner};
use crate::config::home::Home;
use crate::config::spec::Rules;
use crate::keeper::client::{Exit as KeeperExit, FromKeeper, KeeperLink};
use crate::keeper::handle::Store;
use crate::keeper::name::{Kind, Name};
use crate::keeper::protocol::Words;
use crate::lifecycle::{Action, Event as Life, Exit, Incarnation, State as LifeState};
use crate::logs::{Event as LogEvent, Pump};
use crate::process::{Cgroups, ExecFailure, OpenFiles};
use crate::relay::NodeId;
use crate::snapshot::Snapshot;
use crate::status::{Host, Sampler};
use crate::wire::{Notice, Wire};

/// The keeper takes us for hung after five of these.
const BEAT: Duration = Duration::from_secs(1);

/// Everything that can wake the supervisor, in one place.
pub enum Event {
    Keeper(FromKeeper),
    Request(Asked),
    Upgrade((PathBuf, Asker)),
    /// A standby has said whether it could take over.
    Standby(bool),
    Spawned(Outcome),
    /// A released process has executed its program, or could not.
    Executed {
        instance: u32,
        incarnation: Incarnation,
        result: Result<(), ExecFailure>,
    },
    Log(LogEvent),
    /// SIGUSR2 has come.
    ReopenLogs,
    Wire(Notice),
    Health(health::News),
    Look(oneshot::Sender<Snapshot>),
    /// The end of a process that is not the keeper's child.
    Orphan(Ended),
    /// The nearest deadline of an instance has come.
    Deadline,
    Beat,
}

/// Where the events come from.
pub struct Sources {
    pub keeper: Watched,
    pub requests: mpsc::Receiver<Asked>,
    pub upgrades: mpsc::Receiver<(PathBuf, Asker)>,
    pub outcomes: mpsc::Receiver<Outcome>,
    pub executions: mpsc::Receiver<(u32, Incarnation, Result<(), ExecFailure>)>,
    pub logs: mpsc::Receiver<LogEvent>,
    pub reopen: Watched,
    pub notices: mpsc::Receiver<Notice>,
    pub health: health::Sources,
    pub looks: mpsc::Receiver<oneshot::Sender<Snapshot>>,
    pub orphans: mpsc::Receiver<Ended>,
}

/// The parts that the core drives.
pub struct Core {
    pub home: Home,
    pub node: NodeId,
    pub epoch: u64,
    pub keeper_pid: u32,
    pub store_limit: u32,
    pub open_files: Option<OpenFiles>,
    /// Where each process gets a control group of its own, if anywhere.
    pub cgroups: Option<Arc<Cgroups>>,
    /// Where output goes besides the log files, in `herdwire run`.
    pub foreground: Option<foreground::Output>,
    pub began: Instant,
    pub keeper: KeeperLink,
    pub store: Store,
    pub state: state::State,
    /// What changed last, for those who watch.
    pub journal: Journal,
    pub globals: Globals,
    pub registry: Registry,
    pub wire: Wire,
    pub watchers: health::Watchers,
    pub pump: Pump,
    pub orders: mpsc::Sender<Order>,
    /// Orders that the spawning thread has no room for yet: one for each instance at most.
    pub waiting_orders: VecDeque<Order>,
    pub executions: mpsc::Sender<(u32, Incarnation, Result<(), ExecFailure>)>,
    pub routes: watch::Sender<Routes>,
    pub sections: Sections,
    /// The copy on disk.
    pub saving: Saving,
    pub safekeeping: Safekeeping,
    pub sampler: Sampler,
    pub host: Option<Host>,
    /// When figures were last kept for the status page's curves.
    pub remembered: Option<Instant>,
    pub warnings: Vec<String>,
    pub log_faults: LogFaults,
    pub pending: Vec<Pending>,
    /// Of each app the process that was the first to fail in its deployment, if it is known.
    pub culprits: BTreeMap<u32, Culprit>,
    /// Requests that wait for deployments.
    pub awaited: Vec<Awaited>,
    pub applying: Vec<Applying>,
    /// Starts and stops whose turn has not come.
    pub turns: Turns,
    pub strays: VecDeque<KeeperExit>,
    /// Adopted while launching: whether they were let go is not known yet.
    pub unsure: Vec<(u32, Incarnation)>,
    /// What became of the request of `herdwire run`.
    pub run: Option<oneshot::Receiver<Response>>,
    pub run_failed: bool,
    /// Processes that could not be made: told to the lifecycle once the event at hand is done with.
    pub stillborn: Vec<(u32, Life)>,
    /// What lies at the control socket's path, if it is ours.
    pub control_file: Option<(u64, u64)>,
    /// Takes control connections as long as it is not cancelled; each is a task of `connections`.
    pub accepting: CancellationToken,
    pub connections: TaskTracker,
    /// Where those connections bring what is asked.
    pub desk: Desk,
    /// What was asked to take our place, its line until it has said whether it could, and whether that is about to happen.
    pub upgrade: Option<Upgrade>,
    pub standby: Option<Watched>,
    pub freezing: Option<Freezing>,
    /// Whether this one has served long enough to be the only one, and when it looks at that (again).
    pub is_settled: bool,
    pub settle_at: Instant,
    /// What the keeper said to us, for a standby and for whoever keeps next.
    pub hello: Words,
    /// Instances that are watched because they are not the keeper's children, and where their ends are told.
    pub orphans: BTreeMap<u32, Incarnation>,
    pub orphan_ends: mpsc::Sender<Ended>,
    pub sources: Sources,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
}

impl Core {
    /// Runs until every instance has been ended on request, a successor is about to take over, or the keeper is gone.
    pub async fn run(mut self) -> anyhow::Result<Departure> {
        // Not at once: whoever has waited for us to take over is answered first.
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + BEAT, BEAT);
        loop {
            if let Some(code) = self.is_over() {
                return Ok(Departure::Ended(self.end(code).await?));
            }
            if self.may_freeze() {
                return Ok(Departure::Frozen(self.freeze()));
            }
            let event = self.next(&mut beat).await?;
            if let Event::Keeper(FromKeeper::Gone) = event {
                return Ok(Departure::Heir(self.leave().2));
            }
            self.handle(event).await;
        }
    }

    async fn next(&mut self, beat: &mut tokio::time::Interval) -> anyhow::Result<Event> {
        let deadlines = self.registry.instances.values().filter_map(|entry| entry.life.deadline());
        let deadline = deadlines.chain(self.deployments_due()).chain(self.requests_due()).min();
        let wait = deadline.map(|at| at.since(clock::now()));
        let sources = &mut self.sources;
        Ok(tokio::select! {
            // In this order: the keeper must not take a busy supervisor for a hung one, and whoever has ended in time must
            // not be killed because the news has not been read. None of these three comes without end.
            biased;
            _ = beat.tick() => Event::Beat,
            news = receive(&sources.keeper, &mut self.keeper) => Event::Keeper(news?),
            () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => Event::Deadline,
            () = tokio::time::sleep(upgrade::FREEZE_LOOK), if self.freezing.is_some() => Event::Deadline,
            Some(outcome) = sources.outcomes.recv() => Event::Spawned(outcome),
            Some((instance, incarnation, result)) = sources.executions.recv() => {
                Event::Executed { instance, incarnation, result }
            }
            Some(event) = sources.logs.recv() => Event::Log(event),
            signal = logs::heard(&sources.reopen) => signal.map(|()| Event::ReopenLogs)?,
            Some(notice) = sources.notices.recv() => Event::Wire(notice),
            news = sources.health.next() => Event::Health(news),
            Some(ended) = sources.orphans.recv() => Event::Orphan(ended),
            Some(asked) = sources.upgrades.recv() => Event::Upgrade(asked),
            proved = upgrade::hear(&self.standby) => Event::Standby(proved),
            // Last, so that nobody who asks again and again holds up the rest.
            Some(request) = sources.requests.recv() => Event::Request(request),
            Some(look) = sources.looks.recv() => Event::Look(look),
        })
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Keeper(FromKeeper::Exit(exit)) => self.exited(exit).await,
            Event::Keeper(FromKeeper::Stop) => self.end_all().await,
            Event::Keeper(FromKeeper::StoreRefused(name)) => {
                self.warn(format!(
                    "the keeper's store is full: {name} is not kept and will not survive a crash of the supervisor"
                ));
            }
            // Told to one that is frozen, and taken before this.
            Event::Keeper(FromKeeper::Relieved | FromKeeper::Gone) => {}
            Event::Standby(proved) => self.standby_spoke(proved),
            Event::Upgrade((program, asker)) => self.begin_upgrade(program, asker),
            Event::Request((request, reply)) => {
                self.request(request, reply).await;
                self.note_changes();
                self.look_after_safekeeping();
            }
            Event::Spawned(outcome) => {
                self.spawned(outcome).await;
                self.place_orders();
            }
            Event::Executed { instance, incarnation, result } => self.executed(instance, incarnation, result).await,
            Event::Log(event) => self.log(event),
            Event::ReopenLogs => self.reopen_all_logs(),
            Event::Wire(Notice::Ready { instance, incarnation }) => {
                self.live(instance, Life::Ready(Incarnation(incarnation))).await;
            }
            Event::Health(news) => self.health_news(news).await,
            Event::Look(reply) => {
                let snapshot = self.snapshot(false).await;
                self.remember(&snapshot);
                // Whoever asked may have gone meanwhile.
                let _ = reply.send(snapshot);
            }
            Event::Orphan(ended) => self.orphan_ended(ended).await,
            Event::Deadline => self.deadlines().await,
            Event::Beat => self.beat().await,
        }
        self.give_turns().await;
        // Each of these waits longer than the one before, so they cannot go round for ever.
        while let Some((id, news)) = self.stillborn.pop() {
            self.live(id, news).await;
        }
        self.settle().await;
    }

    // --- the lifecycle ---

    /// Gives an instance one event: asks the rules, commits what they decided, does it.
    pub async fn live(&mut self, id: u32, event: Life) {
        let Some(entry) = self.registry.instances.get_mut(&id) else { return };
        let runs = matches!(entry.life.state(), LifeState::Online { .. } | LifeState::Launching { .. });
        let revision = entry.revision;
        if event == Life::Restart || (event == Life::Start && !runs) {
            // By hand: with what its app is now.
            entry.revision = self.registry.apps[&entry.app].revision;
        }
        let is_candidate = entry.role == Role::Candidate;
        let spec = Arc::clone(self.registry.spec_of(&self.registry.instances[&id]));
        let entry = self.registry.instances.get_mut(&id).expect("it was just there");
        let before = entry.life;
        let action = match is_candidate {
            // It has one try: what follows is its deployment's to decide.
            true => entry.life.handle(event, &Rules { autorestart: false, ..spec.rules.clone() }, clock::now()),
            false => entry.life.handle(event, &spec.rules, clock::now()),
        };
        if entry.life == before && entry.revision == revision {
            return;
        }
        if let Some(Action::Spawn(_)) = action {
            entry.process = Process::Making;
            entry.started_at_ms = clock::wall_ms();
            entry.alone = spec.instances == 1;
        }
        // Whatever it was told before, it has not been told this.
        entry.told &= action.is_none();
        self.commit(id);
        self.health_moved(id, &before).await;
        self.tell_life(id, &before, event);
        self.heed_crash(id, event, before.state());
        match action {
            Some(Action::Spawn(incarnation)) => self.spawn(id, incarnation, spec).await,
            Some(word @ (Action::Drain(_) | Action::Ask(_) | Action::Signal(_))) => self.tell_to_leave(id, word).await,
            Some(Action::Kill(_)) => self.kill(id),
            None => {}
        }
    }

    pub fn commit(&mut self, id: u32) {
        let Some(entry) = self.registry.instances.get(&id) else { return };
        if let Err(error) = self.state.commit_instance(&entry.record()) {
            tracing::error!("the state of instance {id} is not committed: {error}");
        }
    }

    pub fn commit_globals(&mut self) {
        if let Err(error) = self.state.commit_globals(&self.globals) {
            tracing::error!("the supervisor's own state is not committed: {error}");
        }
    }

    async fn deadlines(&mut self) {
        let now = clock::now();
        let due = |entry: &&Entry| entry.life.deadline().is_some_and(|at| at <= now);
        let ids: Vec<u32> = self.registry.instances.values().filter(due).map(|entry| entry.id).collect();
        for id in ids {
            self.live(id, Life::Deadline).await;
        }
    }

    // --- the rest ---

    /// Keeps figures for the page's curves, about once a second while somebody looks.
    fn remember(&mut self, snapshot: &Snapshot) {
        const APART: Duration = Duration::from_millis(900);
        if self.remembered.is_none_or(|last| last.elapsed() >= APART) {
            self.remembered = Some(Instant::now());
            self.sections.look.history().record(clock::wall_ms(), snapshot);
        }
    }

    pub fn warn(&mut self, warning: String) {
        tracing::warn!("{warning}");
        self.tell("supervisor.warning", None, None, &warning);
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
        // The newest are what an operator needs; the log has them all.
        const KEPT: usize = 20;
        if self.warnings.len() > KEPT {
            self.warnings.remove(0);
        }
    }

    async fn beat(&mut self) {
        self.resolve_unsure().await;
        self.look_after_saving();
        self.look_after_safekeeping();
        self.heed_upgrade();
        self.look_after_home().await;
        self.look_after_control();
        self.settle_in();
        if let Err(error) = self.keeper.alive() {
            tracing::warn!("the keeper does not hear us: {error}");
        }
    }

    /// Tells every instance to stop, for good.
    pub async fn end_all(&mut self) {
        if !self.globals.ending {
            self.note_the_end();
            self.globals.ending = true;
            self.commit_globals();
            tracing::info!("everything ends");
        }
        let ids: Vec<u32> = self.registry.instances.keys().copied().collect();
        self.queue_stops(&ids);
        self.give_turns().await;
    }

    /// The exit code, once there is nothing left to wait for.
    fn is_over(&self) -> Option<u8> {
        let all_at_rest =
            self.registry.instances.values().all(|entry| entry.life.deadline().is_none() && !entry.life.has_process());
        if !all_at_rest {
            return None;
        }
        let has_run = self.foreground.is_some() && !self.registry.instances.is_empty();
        match (self.run_failed, self.foreground.is_some()) {
            // An app that failed says more than that something did.
            (true, _) => Some(self.worst_exit().max(1)),
            (false, true) if has_run || self.globals.ending => Some(self.worst_exit()),
            (false, _) => self.globals.ending.then_some(0),
        }
    }

    /// What `herdwire run` ends with: the first exit code that is not 0, 128 + signal, or 0.
    fn worst_exit(&self) -> u8 {
        let code = |entry: &Entry| match entry.life.last_exit() {
            None | Some(Exit::Code(0)) => 0,
            Some(Exit::Code(code)) => code as u8,
            // Stopped as asked.
            Some(Exit::Signal(_)) if self.globals.ending => 0,
            Some(Exit::Signal(signal)) => 128 + signal as u8,
            Some(Exit::NotExecuted) => 127,
            Some(Exit::OutOfMemory) => 128 + libc::SIGKILL as u8,
            Some(Exit::NeverStarted | Exit::Unknown) => 1,
        };
        self.registry.instances.values().map(code).find(|code| *code != 0).unwrap_or(0)
    }

    async fn end(mut self, code: u8) -> anyhow::Result<ExitCode> {
        /// For tasks to end by themselves.
        const LIMIT: Duration = Duration::from_secs(3);
        for key in self.pump.attached() {
            self.pump.drain(key, LIMIT);
        }
        if let Some(output) = self.foreground.take() {
            output.finish(LIMIT);
        }
        // The name goes first, so that nobody finds a socket that does not answer.
        // In a home that was removed and made anew lies another one's.
        if super::adopt::file_identity(&self.home.control()) == self.control_file {
            let _ = std::fs::remove_file(self.home.control());
        }
        super::departure::clear_marks(self.home.path());
        self.registry.apps.values().for_each(App::unlink_sockets);
        self.answer_all(&Response::Failed(Failure::new("the supervisor has ended")));
        self.note_ended().await;
        self.shutdown.cancel();
        self.tasks.close();
        self.connections.close();
        let (front, bridge) = (self.sections.front().cloned(), self.sections.bridge().cloned());
        let ends = async {
            if let Some(front) = front {
                front.stopped().await;
            }
            if let Some(bridge) = bridge {
                bridge.stopped().await;
            }
        };
        if tokio::time::timeout(LIMIT, ends).await.is_err() {
            tracing::warn!("front and bridge have not ended in time");
        }
        let all = async {
            self.tasks.wait().await;
            self.connections.wait().await;
        };
        if tokio::time::timeout(LIMIT, all).await.is_err() {
            tracing::warn!("{} tasks have not ended in time", self.tasks.len());
        }
        let nothing_runs = self.registry.instances.values().all(|entry| entry.process.pid().is_none());
        if let Some(cgroups) = self.cgroups.as_ref().filter(|_| nothing_runs) {
            cgroups.close(LIMIT);
        }
        self.keeper.goodbye(i32::from(code))?;
        Ok(ExitCode::from(code))
    }
}

/// Descriptors of the store by kind, for [`super::adopt`].
pub fn take_kinds(all: &mut BTreeMap<Name, OwnedFd>, kinds: &[Kind]) -> BTreeMap<Name, OwnedFd> {
    let names: Vec<Name> = all.keys().copied().filter(|name| kinds.contains(&name.kind)).collect();
    names.into_iter().filter_map(|name| all.remove(&name).map(|descriptor| (name, descriptor))).collect()
}

async fn receive(watched: &Watched, keeper: &mut KeeperLink) -> std::io::Result<FromKeeper> {
    watched
        .read(|_| match keeper.try_receive()? {
            Some(news) => Ok(news),
            None => Err(std::io::ErrorKind::WouldBlock.into()),
        })
        .await
}

/// Starts the spawning thread and returns both its ends.
pub fn start_spawner() -> std::io::Result<(mpsc::Sender<Order>, mpsc::Receiver<Outcome>)> {
    let (outcomes, received) = mpsc::channel(64);
    Ok((spawner::start(outcomes)?, received))
}
