//! What the CLI asks for, carried out: each request changes what is wanted, and is answered once it is so.
//!
//! A start answers when every instance is online, or with the first reason why one is not. Nothing that runs is
//! touched by a request that is refused.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::applying::{self, Applying};
use super::clock;
use super::control::{Failure, Pong, Request, Response, Selector};
use super::core::Core;
use super::deploys::Awaited;
use super::registry::{App, Entry, Process, Release, Role};
use super::scaling::Resized;
use crate::config::spec::{AppSpec, Settings};
use crate::deployment::Deployment;
use crate::keeper::name::{Kind, Name};
use crate::lifecycle::{Cause, Event as Life, Exit, Instance, State, Then, Time};
use crate::process::{listen, sealed};
use crate::snapshot::{InstanceView, Snapshot};

/// Beyond what an app's own limits allow, an answer is owed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request whose answer waits for instances.
pub struct Pending {
    goals: Vec<(u32, Goal)>,
    /// What is deleted, as it was: the answer to a delete.
    deleted: Vec<InstanceView>,
    /// What goes again when the goals are not reached.
    added: Vec<u32>,
    reply: oneshot::Sender<Response>,
    until: Instant,
}

/// What is awaited of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// Online in an incarnation later than this one.
    OnlineAfter(u32),
    /// Online for `min_ready` in its first incarnation, or through with its work.
    Proven,
    Stopped,
    Gone,
}

impl Core {
    pub(super) async fn request(&mut self, request: Request, reply: oneshot::Sender<Response>) {
        let looks = matches!(request, Request::Ping | Request::Snapshot { .. } | Request::Journal { .. });
        let ending = self.globals.ending && !looks && request != Request::Kill;
        let answer = match request {
            _ if self.freezing.is_some() && !looks => {
                Err(Failure::new("the supervisor is being replaced").hint("ask again in a moment"))
            }
            _ if ending => Err(Failure::new("the supervisor is ending").hint("try again in a moment")),
            Request::Ping => Ok(Response::Pong(self.pong())),
            Request::Snapshot { env } => Ok(Response::Snapshot(Box::new(self.snapshot(env).await))),
            Request::Start { apps, settings, origin } => match self.start(apps, settings, &origin).await {
                Ok(goals) => return self.await_goals(goals, reply),
                Err(failure) => Err(failure),
            },
            Request::StartExisting { select } => return self.change(&select, Life::Start, reply).await,
            Request::Restart { select } => return self.change(&select, Life::Restart, reply).await,
            Request::Stop { select } => return self.change(&select, Life::Stop, reply).await,
            Request::Delete { select } => return self.delete(&select, reply).await,
            Request::Reload { select, apps, options } => return self.reload(&select, apps, options, reply).await,
            Request::Save => return self.save(reply).await,
            Request::Resurrect => return self.resurrect(reply).await,
            Request::Scale { app, to } => return self.scale(&app, to, reply).await,
            Request::Apply { apps, settings, origin, prune, dry } => {
                let asked = applying::Asked { apps, settings, origin: &origin, prune, dry };
                return self.apply_specs(asked, reply).await;
            }
            // Comes another way (`Event::Upgrade`): its answer outlives this loop.
            Request::Upgrade { .. } => Err(Failure::new("this is not the way to ask for an upgrade")),
            // The control server answers it by itself.
            Request::Events { .. } => Err(Failure::new("changes are told on a connection of their own")),
            Request::Journal { instance, last } => {
                Ok(Response::Journal(self.journal.reader().last(last as usize, instance)))
            }
            Request::ReopenLogs { select } => self.reopen_logs(&select).await,
            Request::FlushLogs { select } => self.flush_logs(&select).await,
            Request::Kill => {
                self.end_all().await;
                Ok(Response::Killing { keeper_pid: self.keeper_pid })
            }
        };
        // Whoever asked may have gone meanwhile; what was asked is done all the same.
        let _ = reply.send(answer.unwrap_or_else(Response::Failed));
    }

    fn pong(&self) -> Pong {
        Pong {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: self.began.elapsed().as_millis() as u64,
            keeper_pid: self.keeper_pid,
            status_address: self.sections.status_address().map(|address| address.to_string()),
        }
    }

    // --- start ---

    /// Starts apps: new ones are added, known ones get the new spec and are restarted with it.
    async fn start(
        &mut self,
        apps: Vec<AppSpec>,
        settings: Settings,
        origin: &Path,
    ) -> Result<Vec<(u32, Goal)>, Failure> {
        // Everything that can be refused is tried first, so that a refusal has changed nothing.
        self.check_order(&apps)?;
        let mut bound = Vec::with_capacity(apps.len());
        for spec in &apps {
            bound.push(self.bind(spec)?);
        }
        self.apply_settings(settings, origin).await?;
        let mut goals = Vec::new();
        let mut refused = None;
        for (spec, listeners) in apps.into_iter().zip(bound) {
            match self.start_app(spec, listeners).await {
                Ok(more) => goals.extend(more),
                Err(failure) => {
                    refused = Some(failure);
                    break;
                }
            }
        }
        let ids: Vec<u32> = goals.iter().map(|(id, _)| *id).collect();
        let needed = self.needed_for(&ids);
        self.queue_starts(&needed).await;
        self.give_turns().await;
        // Also when a later app was refused: those before it run.
        self.reroute().await;
        refused.map_or(Ok(goals), Err)
    }

    pub(super) fn bind(&self, spec: &AppSpec) -> Result<Vec<OwnedFd>, Failure> {
        let known = self.registry.app_named(&spec.name);
        let mut sockets = Vec::with_capacity(spec.listen.len());
        for address in &spec.listen {
            // An address that the app has already stays bound, with all that waits in its backlog.
            let bound = known.and_then(|app| app.listener(address)).map(OwnedFd::try_clone);
            // Or it comes back from before the death of keeper and supervisor.
            let socket = match bound.or_else(|| self.safekeeping.listener(address)) {
                Some(socket) => socket.map_err(|error| {
                    Failure::new(format!("app `{}`: its listener cannot be kept", spec.name)).cause(error)
                })?,
                None => listen::bind(address).map_err(|error| {
                    let failure = Failure::new(format!("app `{}`: {error}", spec.name));
                    let failure = std::error::Error::source(&error)
                        .into_iter()
                        .fold(failure, |failure, cause| failure.cause(cause));
                    error.hint().into_iter().fold(failure, Failure::hint)
                })?,
            };
            sockets.push(socket);
        }
        Ok(sockets)
    }

    pub(super) async fn start_app(
        &mut self,
        spec: AppSpec,
        listeners: Vec<OwnedFd>,
    ) -> Result<Vec<(u32, Goal)>, Failure> {
        let known = self.registry.app_named(&spec.name).map(|app| app.id);
        if let Some(id) = known.filter(|_| spec.autostart) {
            // Before the new spec is in force: should this supervisor die in between, its successor restarts the rest.
            let ids: Vec<u32> = self.registry.staying(id).map(|entry| entry.id).collect();
            self.queue_starts(&ids).await;
        }
        let autostart = spec.autostart;
        let id = self.take_app(spec, listeners).await?;
        let ids: Vec<u32> = self.registry.staying(id).map(|entry| entry.id).filter(|_| autostart).collect();
        let goals = ids.iter().map(|instance| (*instance, self.goal_online(*instance))).collect();
        self.queue_starts(&ids).await;
        Ok(goals)
    }

    /// Keeps an app, or its new spec, and makes as many instances of it as it wants; none is started.
    pub(super) async fn take_app(&mut self, spec: AppSpec, listeners: Vec<OwnedFd>) -> Result<u32, Failure> {
        let wanted = spec.instances;
        // What was written down under this name is this from now on.
        self.saving.waiting.retain(|waiting| waiting.spec.name != spec.name);
        let id = match self.registry.app_named(&spec.name).map(|app| app.id) {
            Some(id) => {
                self.abort_deployment(id, "start").await;
                self.renew(id, spec, listeners, None)?;
                id
            }
            None => self.add_app(spec, listeners)?,
        };
        self.fit(id, wanted).await?;
        self.watch_triggers(id).await;
        Ok(id)
    }

    fn add_app(&mut self, spec: AppSpec, listeners: Vec<OwnedFd>) -> Result<u32, Failure> {
        let id = self.globals.next_app;
        self.globals.next_app += 1;
        self.commit_globals();
        let release = Release { revision: 1, spec: Arc::new(spec), listeners };
        self.keep_release(id, &release)?;
        let Release { revision, spec, listeners } = release;
        let app = App { id, revision, spec, listeners, others: Vec::new(), newest: revision, deployment: None };
        if let Err(error) = self.state.commit_app(&app.record()) {
            self.forget_release(id, revision, app.listeners.len());
            return Err(Failure::new("no more apps can be kept").cause(error));
        }
        let name = app.spec.name.clone();
        self.registry.apps.insert(id, app);
        self.tell("app.added", Some(&name), None, format!("revision {revision}"));
        Ok(id)
    }

    /// Puts a new release of an app in force, and with it a deployment if there is to be one. Instances run on as they
    /// are.
    pub(super) fn renew(
        &mut self,
        id: u32,
        spec: AppSpec,
        listeners: Vec<OwnedFd>,
        deployment: Option<Deployment>,
    ) -> Result<(), Failure> {
        let revision = self.registry.apps[&id].newest + 1;
        let release = Release { revision, spec: Arc::new(spec), listeners };
        self.keep_release(id, &release)?;
        let app = self.registry.apps.get_mut(&id).expect("whoever renews it has looked it up");
        app.put_in_force(release);
        app.deployment = deployment;
        let name = app.spec.name.clone();
        self.commit_app(id);
        self.tell("app.changed", Some(&name), None, format!("revision {revision}"));
        Ok(())
    }

    pub(super) fn commit_app(&mut self, id: u32) {
        let Some(app) = self.registry.apps.get(&id) else { return };
        if let Err(error) = self.state.commit_app(&app.record()) {
            tracing::error!("the state of app {id} is not committed: {error}");
        }
    }

    fn keep_release(&self, app: u32, release: &Release) -> Result<(), Failure> {
        let Release { revision, spec, listeners } = release;
        let bytes = herdwire_ipc::codec::encode(&**spec)
            .map_err(|error| Failure::new(format!("app `{}` is too large to be kept", spec.name)).cause(error))?;
        let memory = sealed::create(&format!("herdwire-spec-{app}-{revision}"), &bytes)
            .map_err(|error| Failure::new(format!("app `{}` cannot be kept", spec.name)).cause(error))?;
        self.store.keep(Name::new(Kind::Spec, app, *revision), memory.as_fd());
        for (part, listener) in listeners.iter().enumerate() {
            self.store.keep(Name::part(Kind::Listener, app, part as u16, *revision), listener.as_fd());
        }
        Ok(())
    }

    fn forget_release(&self, app: u32, revision: u32, listeners: usize) {
        self.store.forget(Name::new(Kind::Spec, app, revision));
        for part in 0..listeners {
            self.store.forget(Name::part(Kind::Listener, app, part as u16, revision));
        }
    }

    /// Lets go of releases that no instance runs and no deployment may go back to.
    pub(super) fn forget_unneeded_releases(&mut self) {
        let mut unneeded = Vec::new();
        for app in self.registry.apps.values().filter(|app| !app.others.is_empty()) {
            let is_needed = |revision: u32| {
                let deployed = app.deployment.as_ref().is_some_and(|deployment| deployment.may_need(revision));
                deployed || self.registry.instances_of(app.id).any(|entry| entry.revision == revision)
            };
            let others = app.others.iter().map(|release| release.revision);
            unneeded.extend(others.filter(|revision| !is_needed(*revision)).map(|revision| (app.id, revision)));
        }
        for (id, revision) in unneeded {
            let app = self.registry.apps.get_mut(&id).expect("it was just there");
            let Some(release) = app.remove_release(revision) else { continue };
            app.unlink_unused(&release);
            self.forget_release(id, revision, release.listeners.len());
        }
    }

    /// Adds or removes instances until there are as many as wanted; the highest indices go first.
    pub(super) async fn fit(&mut self, app: u32, wanted: u32) -> Result<(), Failure> {
        let mut ids: Vec<(u32, u32)> = self.registry.staying(app).map(|entry| (entry.index, entry.id)).collect();
        ids.sort_unstable();
        let ids: Vec<u32> = ids.into_iter().map(|(_, id)| id).collect();
        for id in ids.iter().skip(wanted as usize) {
            self.live(*id, Life::Stop).await;
            self.doom(*id).await;
        }
        for _ in ids.len()..wanted as usize {
            let (id, number) = self.number_instance();
            let of = &self.registry.apps[&app];
            let (revision, alone) = (of.revision, of.spec.instances == 1);
            let entry = Entry {
                id,
                number,
                app,
                index: self.registry.free_index(app),
                life: Instance::with_seed(id),
                process: Process::None,
                created_at_ms: clock::wall_ms(),
                started_at_ms: 0,
                failure: None,
                doomed: false,
                role: Role::Member,
                revision,
                alone,
                told: false,
            };
            self.state
                .commit_instance(&entry.record())
                .map_err(|error| Failure::new("no more instances can be kept").cause(error))?;
            self.registry.instances.insert(entry.id, entry);
        }
        Ok(())
    }

    // --- stop, restart, delete ---

    async fn change(&mut self, select: &Selector, event: Life, reply: oneshot::Sender<Response>) {
        let ids = match self.find(select) {
            Ok(ids) => ids,
            // Whoever asked may have gone meanwhile.
            Err(failure) => return drop(reply.send(Response::Failed(failure))),
        };
        if event != Life::Start {
            self.abort_deployments_of(&ids, if event == Life::Stop { "stop" } else { "restart" }).await;
        }
        let mut goals = Vec::new();
        if event == Life::Stop {
            goals.extend(self.stop_predecessors(&ids).await);
        }
        for id in ids.iter().copied() {
            let goal = match event {
                Life::Stop => Goal::Stopped,
                _ => self.goal_online(id),
            };
            let life = &self.registry.instances[&id].life;
            let is_online = matches!(life.state(), State::Online { .. });
            if event == Life::Start && is_online {
                continue;
            }
            match event {
                Life::Stop => self.queue_stops(&[id]),
                // It is on its way already, or comes back once it is gone.
                Life::Start if life.has_process() => self.live(id, event).await,
                _ => self.queue_starts(&[id]).await,
            }
            goals.push((id, goal));
        }
        if event != Life::Stop {
            let needed = self.needed_for(&ids);
            self.queue_starts(&needed).await;
        }
        self.give_turns().await;
        self.await_goals(goals, reply);
    }

    pub(super) async fn delete(&mut self, select: &Selector, reply: oneshot::Sender<Response>) {
        let before = self.saving.waiting.len();
        self.saving.waiting.retain(|waiting| !select.names(&waiting.spec.name));
        let forgotten = self.saving.waiting.len() < before;
        let ids = match self.find(select) {
            Ok(ids) => ids,
            // It may be written down and wait for `resurrect`.
            Err(_) if forgotten => {
                let snapshot = self.snapshot(false).await;
                return drop(reply.send(Response::Done(Box::new(Snapshot { instances: Vec::new(), ..snapshot }))));
            }
            Err(failure) => return drop(reply.send(Response::Failed(failure))),
        };
        self.abort_deployments_of(&ids, "delete").await;
        let mut goals = self.stop_predecessors(&ids).await;
        goals.extend(ids.iter().map(|id| (*id, Goal::Gone)));
        let numbers: Vec<u32> = ids.iter().map(|id| self.registry.instances[id].number).collect();
        let mut deleted = self.snapshot(false).await.instances;
        deleted.retain(|instance| numbers.contains(&instance.id));
        self.queue_stops(&ids);
        for id in ids {
            self.doom(id).await;
        }
        self.give_turns().await;
        self.await_goals(goals, reply);
        if let Some(pending) = self.pending.last_mut() {
            pending.deleted = deleted;
        }
    }

    /// Removes an instance as soon as its process is gone.
    pub(super) async fn doom(&mut self, id: u32) {
        let Some(entry) = self.registry.instances.get_mut(&id) else { return };
        entry.doomed = true;
        self.commit(id);
    }

    /// Removes what is doomed and at rest, and apps that have lost their last instance. Whether there was any.
    async fn bury(&mut self) -> bool {
        let at_rest = |entry: &&Entry| entry.doomed && matches!(entry.life.state(), State::Stopped | State::Errored);
        let ids: Vec<(u32, u32)> =
            self.registry.instances.values().filter(at_rest).map(|entry| (entry.id, entry.app)).collect();
        for (id, app) in &ids {
            self.registry.instances.remove(id);
            if let Err(error) = self.state.remove_instance(*id) {
                tracing::error!("instance {id} is not removed from the state: {error}");
            }
            self.wire.forget(*id).await;
            if self.registry.instances_of(*app).next().is_none() {
                self.forget_app(*app);
                self.watchers.triggers.forget(*app).await;
            }
        }
        if !ids.is_empty() {
            self.reroute().await;
        }
        !ids.is_empty()
    }

    fn forget_app(&mut self, id: u32) {
        let Some(app) = self.registry.apps.remove(&id) else { return };
        if let Err(error) = self.state.remove_app(id) {
            tracing::error!("app {id} is not removed from the state: {error}");
        }
        self.forget_release(id, app.revision, app.listeners.len());
        for other in &app.others {
            self.forget_release(id, other.revision, other.listeners.len());
        }
        app.unlink_sockets();
        self.tell("app.deleted", Some(&app.spec.name), None, "its last instance is gone");
    }

    /// Stops those who had the numbers of these instances and have not finished yet.
    async fn stop_predecessors(&mut self, ids: &[u32]) -> Vec<(u32, Goal)> {
        let numbers: Vec<u32> = ids.iter().map(|id| self.registry.instances[id].number).collect();
        let is_one = |entry: &&Entry| entry.role != Role::Member && numbers.contains(&entry.number);
        let leaving: Vec<u32> = self.registry.instances.values().filter(is_one).map(|entry| entry.id).collect();
        for id in &leaving {
            self.live(*id, Life::Stop).await;
        }
        leaving.into_iter().map(|id| (id, Goal::Gone)).collect()
    }

    async fn abort_deployments_of(&mut self, instances: &[u32], why: &str) {
        let apps: BTreeSet<u32> =
            instances.iter().filter_map(|id| Some(self.registry.instances.get(id)?.app)).collect();
        for app in apps {
            self.abort_deployment(app, why).await;
        }
    }

    pub(super) fn find(&self, select: &Selector) -> Result<Vec<u32>, Failure> {
        match self.registry.select(select) {
            Some(ids) if !ids.is_empty() => Ok(ids),
            _ => {
                let mut names: Vec<&str> = self.registry.apps.values().map(|app| app.spec.name.as_str()).collect();
                names.sort_unstable();
                let hint = match names.is_empty() {
                    true => "nothing is running: `herdwire start FILE` starts something".to_owned(),
                    false => format!("there are {}; `herdwire list` shows their ids", names.join(", ")),
                };
                Err(Failure::new(format!("{} matches no app and no instance", words(select))).hint(hint))
            }
        }
    }

    // --- answers ---

    pub(super) fn goal_online(&self, id: u32) -> Goal {
        let life = &self.registry.instances[&id].life;
        // One that is being stopped or restarted gets a process after this one.
        Goal::OnlineAfter(life.incarnation().0)
    }

    pub(super) fn await_goals(&mut self, goals: Vec<(u32, Goal)>, reply: oneshot::Sender<Response>) {
        let apps: BTreeSet<u32> =
            goals.iter().filter_map(|(id, _)| self.registry.instances.get(id)).map(|entry| entry.app).collect();
        let specs = || apps.iter().map(|app| &self.registry.apps[app].spec);
        let limits = specs().map(|spec| spec.rules.kill_timeout * 2 + spec.rules.listen_timeout);
        // Those that wait for one another may take their times one after the other.
        let limit = match specs().any(|spec| !spec.depends_on.is_empty()) {
            true => limits.sum(),
            false => limits.max().unwrap_or_default(),
        };
        let until = Instant::now() + limit + PATIENCE;
        self.pending.push(Pending { goals, deleted: Vec::new(), added: Vec::new(), reply, until });
    }

    pub(super) fn await_resized(&mut self, app: u32, resized: Resized, reply: oneshot::Sender<Response>) {
        let added = resized.added.iter().map(|id| (*id, Goal::Proven));
        let goals = added.chain(resized.leaving.iter().map(|id| (*id, Goal::Gone))).collect();
        self.await_goals(goals, reply);
        let reload = self.registry.apps.get(&app).map(|app| app.spec.reload);
        if let Some(pending) = self.pending.last_mut() {
            pending.added = resized.added;
            pending.until += reload.map_or(Duration::ZERO, |reload| reload.drain_timeout + reload.min_ready);
        }
    }

    /// Answers every request whose instances have got where they should be, or will not.
    pub(super) async fn settle(&mut self) {
        loop {
            self.advance_deployments().await;
            // A candidate that is gone makes room for the next.
            if !self.bury().await {
                break;
            }
        }
        self.answer_awaited().await;
        self.heed_run();
        let mut waiting = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            if pending.reply.is_closed() && pending.added.is_empty() {
                continue;
            }
            match self.verdict(&pending) {
                None => waiting.push(pending),
                Some(Err(failure)) => {
                    self.shrink_back(&pending.added).await;
                    // Whoever asked may have gone meanwhile.
                    let _ = pending.reply.send(Response::Failed(failure));
                }
                Some(Ok(())) => {
                    let mut snapshot = self.snapshot(false).await;
                    if !pending.deleted.is_empty() {
                        snapshot.instances = pending.deleted;
                    }
                    // Whoever asked may have gone meanwhile.
                    let _ = pending.reply.send(Response::Done(Box::new(snapshot)));
                }
            }
        }
        self.pending.extend(waiting);
        self.answer_applying();
    }

    /// Ends `herdwire run` when what it asked for cannot be started.
    fn heed_run(&mut self) {
        let Some(Ok(answer)) = self.run.as_mut().map(oneshot::Receiver::try_recv) else { return };
        self.run = None;
        if let Response::Failed(failure) = answer {
            tracing::error!("{}", failure.what);
            failure.cause.iter().for_each(|cause| tracing::error!("cause: {cause}"));
            failure.hint.iter().for_each(|hint| tracing::error!("hint:  {hint}"));
            // A supervisor that a unit starts stays, whatever could not be brought back.
            self.run_failed = self.foreground.is_some();
        }
    }

    fn verdict(&self, pending: &Pending) -> Option<Result<(), Failure>> {
        let mut all_reached = true;
        for (id, goal) in &pending.goals {
            let Some(entry) = self.registry.instances.get(id) else {
                if let Goal::OnlineAfter(_) | Goal::Proven = goal {
                    return Some(Err(Failure::new(format!("instance {id} was deleted meanwhile"))));
                }
                continue;
            };
            let reached = match goal {
                Goal::OnlineAfter(before) => {
                    if let Some(failure) = self.failed(entry, *before) {
                        return Some(Err(failure));
                    }
                    let is_online = matches!(entry.life.state(), State::Online { .. });
                    (is_online || self.is_done(entry)) && entry.life.incarnation().0 > *before
                }
                Goal::Proven => {
                    if let Some(failure) = self.failed(entry, 0).or_else(|| self.crashed(entry)) {
                        return Some(Err(failure));
                    }
                    self.is_done(entry) || self.proven_at(entry).is_some_and(|at| clock::now() >= at)
                }
                Goal::Stopped => matches!(entry.life.state(), State::Stopped | State::Errored),
                Goal::Gone => false,
            };
            all_reached &= reached;
        }
        if all_reached {
            return Some(Ok(()));
        }
        (Instant::now() >= pending.until).then(|| {
            Err(Failure::new("it takes longer than it should").hint("`herdwire list` shows how far it is; it goes on"))
        })
    }

    /// Why an instance that should come online has not, once that is known.
    fn failed(&self, entry: &Entry, before: u32) -> Option<Failure> {
        if entry.life.is_queued() {
            let because = self.waits_for(entry).filter(|_| self.waits_in_vain(entry))?;
            let name = self.registry.label(entry);
            return Some(Failure::new(format!("instance {name} is not started: {because}")));
        }
        if entry.life.incarnation().0 <= before {
            // Nothing has begun and nothing will: somebody else has asked for the opposite.
            let name = self.registry.label(entry);
            let stopped = matches!(entry.life.state(), State::Stopped | State::Stopping { then: Then::Stay, .. });
            return stopped.then(|| Failure::new(format!("instance {name} was stopped meanwhile")));
        }
        let given_up = match entry.life.state() {
            State::Errored | State::WaitingRestart { .. } => true,
            // Started again after its first death: the first reason counts.
            State::Launching { .. } => entry.life.incarnation().0 > before + 1 && entry.failure.is_some(),
            State::Stopped => !self.is_done(entry),
            State::Online { .. } | State::Draining { .. } | State::Stopping { .. } => false,
        };
        given_up.then(|| self.words_of(entry))
    }

    /// The same of one that is not to crash even once.
    fn crashed(&self, entry: &Entry) -> Option<Failure> {
        (entry.life.incarnation().0 > 1 && entry.life.last_exit().is_some()).then(|| self.words_of(entry))
    }

    /// When a new instance has been online for long enough, if it stays so.
    fn proven_at(&self, entry: &Entry) -> Option<Time> {
        match entry.life.state() {
            State::Online { since } => Some(since + self.registry.spec_of(entry).reload.min_ready),
            _ => None,
        }
    }

    /// When a request is to be looked at although nothing happens.
    pub(super) fn requests_due(&self) -> impl Iterator<Item = Time> {
        let added = self.pending.iter().flat_map(|pending| &pending.added);
        let proven = added.filter_map(|id| self.proven_at(self.registry.instances.get(id)?));
        // What is over has been looked at.
        let now = clock::now();
        proven.filter(move |at| *at >= now)
    }

    fn words_of(&self, entry: &Entry) -> Failure {
        let name = self.registry.label(entry);
        let rules = &self.registry.spec_of(entry).rules;
        let why = entry.life.account(rules).unwrap_or_else(|| "it did not start".to_owned());
        let paths = self.log_paths(entry);
        let failure = Failure::new(format!("instance {name} did not come online: {why}"));
        let failure = entry.failure.iter().fold(failure, |failure, cause| failure.cause(cause));
        failure.hint(format!("its last words are in {} and {}", paths.error.display(), paths.out.display()))
    }

    /// Whether it was to end by itself, has, and ended well: it may have been online for a moment only.
    pub(super) fn is_done(&self, entry: &Entry) -> bool {
        let once = !self.registry.spec_of(entry).rules.autorestart || entry.life.cause() == Cause::StopCode;
        let well = entry.life.last_exit() == Some(Exit::Code(0));
        once && well && entry.life.state() == State::Stopped
    }

    pub(super) fn answer_all(&mut self, response: &Response) {
        let replies = self.pending.drain(..).map(|pending| pending.reply);
        let replies = replies.chain(self.awaited.drain(..).map(Awaited::into_reply));
        for reply in replies.chain(self.applying.drain(..).map(Applying::into_reply)) {
            // Whoever asked may have gone meanwhile.
            let _ = reply.send(response.clone());
        }
    }
}

/// A selector as the user wrote it.
fn words(select: &Selector) -> String {
    match select {
        Selector::All => "`all`".to_owned(),
        Selector::Id(id) => format!("`{id}`"),
        Selector::Name(name) => format!("`{name}`"),
        Selector::Several(several) => several.iter().map(words).collect::<Vec<_>>().join(", "),
    }
}
