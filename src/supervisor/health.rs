//! What instances show and what the clock and files say, turned into events of their lifecycles.
//!
//! The rooms `health` and `triggers` watch, each in a task of its own; this tells them what there is to watch, and hands
//! what they find to the lifecycle. No rule stands here.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use tokio::sync::mpsc;

use super::core::{self, Core};
use super::registry::{Entry, Process};
use crate::config::spec::AppSpec;
use crate::health::{self, Finding, NotifySocket, Phase, ProbeSurroundings, Senses, Watched};
use crate::keeper::handle::Store;
use crate::keeper::name::{Kind, Name};
use crate::lifecycle::{Event as Life, Incarnation, Instance, State, Trigger};
use crate::process::kinship;
use crate::relay::NodeId;
use crate::snapshot::HealthView;
use crate::triggers::{self, Triggers};

/// What both rooms bring.
#[derive(Debug)]
pub enum News {
    Health(health::News),
    Trigger(triggers::News),
}

/// Both rooms, and the readiness pipes of processes that are being made.
pub struct Watchers {
    pub senses: Senses,
    pub triggers: Triggers,
    /// By instance and incarnation, until the process exists. One for each that is in the making.
    pipes: BTreeMap<(u32, u32), OwnedFd>,
}

/// Where both rooms' news come out.
pub struct Sources {
    pub health: mpsc::Receiver<health::News>,
    pub triggers: mpsc::Receiver<triggers::News>,
}

impl Sources {
    /// The next of either. Cancel safe.
    pub async fn next(&mut self) -> News {
        tokio::select! {
            Some(news) = self.health.recv() => News::Health(news),
            Some(news) = self.triggers.recv() => News::Trigger(news),
            // Both have ended, which they do only at shutdown.
            else => std::future::pending().await,
        }
    }
}

/// Starts both rooms on what a predecessor left: the socket that instances notify, or a new one.
///
/// # Errors
/// The socket can be neither bound nor watched.
pub fn start(
    descriptors: &mut BTreeMap<Name, OwnedFd>,
    node: NodeId,
    home: &std::path::Path,
    around: health::Around,
) -> std::io::Result<(Watchers, Sources)> {
    let socket = notify_socket(descriptors, node, &around.store)?;
    let (tasks, shutdown) = (around.tasks.clone(), around.shutdown.clone());
    let (senses, health) = Senses::start(socket, around)?;
    let (triggers, found) = Triggers::start(home.to_owned(), shutdown, &tasks);
    Ok((Watchers { senses, triggers, pipes: BTreeMap::new() }, Sources { health, triggers: found }))
}

fn notify_socket(
    descriptors: &mut BTreeMap<Name, OwnedFd>,
    node: NodeId,
    store: &Store,
) -> std::io::Result<NotifySocket> {
    let inherited = core::take_kinds(descriptors, &[Kind::Notify]).into_values().next();
    if let Some(socket) = inherited {
        return NotifySocket::open(socket);
    }
    let socket = NotifySocket::bind(node)?;
    store.keep(Name::new(Kind::Notify, 0, 0), socket.as_fd());
    Ok(socket)
}

/// What is watched in a state; `None` where there is no process.
fn phase(life: &Instance) -> Option<Phase> {
    match life.state() {
        State::Launching { .. } => Some(Phase::Launching),
        State::Online { .. } => Some(Phase::Online),
        State::Stopping { .. } | State::Draining { .. } => Some(Phase::Leaving),
        State::Stopped | State::WaitingRestart { .. } | State::Errored => None,
    }
}

impl Core {
    // --- telling them ---

    /// The variables that an instance needs to be heard.
    pub(super) fn health_variables(&self, spec: &AppSpec) -> Vec<(String, String)> {
        let mut variables = vec![("NOTIFY_SOCKET".to_owned(), self.watchers.senses.variable().to_owned())];
        if let Some(interval) = spec.health.watchdog {
            // The trampoline adds WATCHDOG_PID.
            variables.push(("WATCHDOG_USEC".to_owned(), interval.as_micros().to_string()));
        }
        variables
    }

    /// Makes the readiness pipe of a process, if its app wants one; returns what the process inherits.
    pub(super) fn readiness_pipe(
        &mut self,
        id: u32,
        incarnation: Incarnation,
        spec: &AppSpec,
    ) -> std::io::Result<Vec<(i32, OwnedFd)>> {
        let Some(number) = spec.health.notify_descriptor else { return Ok(Vec::new()) };
        let (read, write) = health::pipe::new()?;
        self.store.keep(Name::new(Kind::Ready, id, incarnation.0), read.as_fd());
        self.watchers.pipes.retain(|(of, _), _| *of != id);
        self.watchers.pipes.insert((id, incarnation.0), read);
        Ok(vec![(i32::try_from(number).unwrap_or(i32::MAX), write)])
    }

    /// A process exists and is about to be let go, or was adopted.
    pub(super) async fn watch_health(&mut self, id: u32) {
        let Some(entry) = self.registry.instances.get(&id) else { return };
        let (Process::Exists { pid, pidfd, executed, main, .. }, Some(phase)) = (&entry.process, phase(&entry.life))
        else {
            return;
        };
        let kinship = self.kinship(entry);
        let spec = self.registry.spec_of(entry);
        let incarnation = entry.life.incarnation();
        let watched = Watched {
            instance: id,
            incarnation,
            pid: *pid,
            inode: pidfd.inode().unwrap_or(0),
            group: kinship.group,
            main: main.as_ref().map(|main| (main.pid, main.pidfd.inode().unwrap_or(0))),
            user: executed.then(|| kinship::user_of(*pid)).flatten(),
            marks: kinship.marks,
            surroundings: health::runs_commands(&spec.health).then(|| self.probe_surroundings(entry, spec)),
            health: spec.health.clone(),
            ready: self.watchers.pipes.remove(&(id, incarnation.0)),
        };
        self.watchers.senses.watch(watched, phase).await;
    }

    /// A process executes its program: whom it runs as is what tells its own notifications from forged ones.
    pub(super) async fn note_user(&self, id: u32, incarnation: Incarnation) {
        let process = self.registry.instances.get(&id).map(|entry| &entry.process);
        if let Some(Process::Exists { pid, .. }) = process
            && let Some(user) = kinship::user_of(*pid)
        {
            self.watchers.senses.runs_as(id, incarnation, user).await;
        }
    }

    fn probe_surroundings(&self, entry: &Entry, spec: &AppSpec) -> ProbeSurroundings {
        ProbeSurroundings {
            cwd: spec.cwd.clone(),
            env: self.environment(entry, spec),
            env_files: spec.env_files.clone(),
            own: self.own_variables(entry, spec).into_iter().map(|(name, _)| name).collect(),
            bounds: spec.bounds.clone(),
            open_files: self.open_files,
            label: format!("{}:{} (probe)", spec.name, entry.id),
        }
    }

    /// An instance's life has moved on.
    pub(super) async fn health_moved(&mut self, id: u32, before: &Instance) {
        let Some(entry) = self.registry.instances.get(&id) else { return };
        let (now, incarnation) = (entry.life, entry.life.incarnation());
        if before.incarnation() != incarnation || phase(&now).is_none() {
            if self.watchers.pipes.remove(&(id, before.incarnation().0)).is_some() {
                // It never came to be.
                self.store.forget(Name::new(Kind::Ready, id, before.incarnation().0));
            }
            return self.watchers.senses.gone(id, before.incarnation()).await;
        }
        if let Some(phase) = phase(&now)
            && Some(phase) != self::phase(before)
        {
            self.watchers.senses.moved(id, incarnation, phase).await;
        }
    }

    /// An app has come or changed: what else restarts it.
    pub(super) async fn watch_triggers(&self, app: u32) {
        let Some(app) = self.registry.apps.get(&app) else { return };
        // A time that has passed since the last of them was started has not been acted on.
        let started = self.registry.instances_of(app.id).map(|entry| entry.started_at_ms).max().filter(|at| *at > 0);
        self.watchers.triggers.watch(app.id, &app.spec, started).await;
    }

    pub(super) async fn adopt_health(&mut self, descriptors: &mut BTreeMap<Name, OwnedFd>) {
        for (name, pipe) in core::take_kinds(descriptors, &[Kind::Ready]) {
            let is_awaited = self.registry.instances.get(&name.owner).is_some_and(|entry| {
                entry.life.incarnation().0 == name.generation && phase(&entry.life) == Some(Phase::Launching)
            });
            match is_awaited {
                true => drop(self.watchers.pipes.insert((name.owner, name.generation), pipe)),
                false => self.store.forget(name),
            }
        }
        for id in self.registry.instances.keys().copied().collect::<Vec<_>>() {
            self.watch_health(id).await;
        }
        for app in self.registry.apps.keys().copied().collect::<Vec<_>>() {
            self.watch_triggers(app).await;
        }
    }

    // --- hearing them ---

    pub(super) async fn health_news(&mut self, news: News) {
        match news {
            News::Health(news) => self.found(news).await,
            News::Trigger(triggers::News::Due { app, trigger, cause }) => self.due(app, trigger, &cause).await,
            News::Trigger(triggers::News::Trouble(what)) => self.warn(what),
        }
    }

    async fn found(&mut self, health::News { instance: id, incarnation, what }: health::News) {
        match what {
            Finding::Ready => {
                self.live(id, Life::Ready(incarnation)).await;
                self.watchers.senses.heard(id, incarnation).await;
            }
            Finding::Unwell(ailment, why) => {
                let Some(entry) = self.registry.instances.get_mut(&id) else { return };
                if entry.life.incarnation() == incarnation && matches!(entry.life.state(), State::Online { .. }) {
                    entry.failure = Some(why.clone());
                    let label = self.registry.label(&self.registry.instances[&id]);
                    tracing::warn!("{label} (incarnation {}) is not well: {why}", incarnation.0);
                    self.tell_of(id, "instance.unwell", &why);
                    self.live(id, Life::Unwell(incarnation, ailment)).await;
                }
            }
            Finding::Extended(by) => self.live(id, Life::Extended(incarnation, by)).await,
            Finding::Quitting => self.live(id, Life::Quitting(incarnation)).await,
            Finding::Main(claim) => self.name_main(id, incarnation, claim).await,
        }
    }

    async fn due(&mut self, app: u32, trigger: Trigger, cause: &str) {
        let Some(known) = self.registry.apps.get(&app) else { return };
        if known.is_deploying() {
            // All of it is being replaced anyway, and a restart would be no part of that.
            return tracing::info!("{}: {cause}, while it is reloaded: no restart", known.spec.name);
        }
        tracing::info!("{}: {cause}", known.spec.name);
        self.tell("app.due", Some(&known.spec.name), None, cause);
        let ids: Vec<u32> = self.registry.staying(app).map(|entry| entry.id).collect();
        for id in ids {
            self.live(id, Life::Due(trigger)).await;
        }
    }

    /// What is known of an instance's health.
    pub(super) fn health_view(&self, entry: &Entry) -> HealthView {
        let view = self.watchers.senses.board().view(entry.id);
        let app = self.watchers.triggers.board().view(entry.app);
        let main_pid = entry.process.main().map(|main| main.pid);
        HealthView { main_pid, next_restart_ms: app.next_ms, last_trigger: app.last, ..view }
    }
}
