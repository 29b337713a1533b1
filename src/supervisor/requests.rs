//! What the CLI asks for, carried out: each request changes what is wanted, and is answered once it is so (`answers`).
//!
//! Nothing that runs is touched by a request that is refused. What becomes of an app's releases is in `releases`; requests
//! that deploy, scale, apply, save or resurrect have files of their own.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::sync::oneshot;

use super::answers::Goal;
use super::applying;
use super::clock;
use super::control::{Failure, Pong, Request, Response, Selector};
use super::core::Core;
use super::registry::{Entry, Process, Role};
use crate::config::address;
use crate::config::spec::{AppSpec, ListenAddress, Settings};
use crate::lifecycle::{By, Event as Life, Instance, State};
use crate::process::listen;
use crate::snapshot::Snapshot;

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
            Request::Reset { select } => self.reset(&select).await,
            Request::Signal { select, signal } => self.send_signal(&select, signal).await,
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
            status_elsewhere: self.sections.status_elsewhere(),
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
            match self.start_app(spec, listeners, By::Hand).await {
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
                None => self.bind_new(spec, address)?,
            };
            sockets.push(socket);
        }
        Ok(sockets)
    }

    fn bind_new(&self, spec: &AppSpec, address: &ListenAddress) -> Result<OwnedFd, Failure> {
        // The kernel would only say that it is in use.
        let others = self.registry.apps.values().filter(|app| app.spec.name != spec.name);
        if let Some(other) = others.filter(|app| app.holds(address)).map(|app| &app.spec.name).next() {
            let address = address::display(address);
            let what = format!("app `{}`: address `{address}` is already taken by app `{other}`", spec.name);
            return Err(Failure::new(what).hint("give one of them another port"));
        }
        listen::bind(address).map_err(|error| {
            let failure = Failure::new(format!("app `{}`: {error}", spec.name));
            let cause = std::error::Error::source(&error);
            let failure = cause.into_iter().fold(failure, |failure, cause| failure.cause(cause));
            error.hint().into_iter().fold(failure, Failure::hint)
        })
    }

    pub(super) async fn start_app(
        &mut self,
        spec: AppSpec,
        listeners: Vec<OwnedFd>,
        by: By,
    ) -> Result<Vec<(u32, Goal)>, Failure> {
        let known = self.registry.app_named(&spec.name).map(|app| app.id);
        if let Some(id) = known.filter(|_| spec.autostart) {
            // Before the new spec is in force: should this supervisor die in between, its successor restarts the rest.
            let ids: Vec<u32> = self.registry.staying(id).map(|entry| entry.id).collect();
            self.queue_starts_by(&ids, by).await;
        }
        let autostart = spec.autostart;
        let id = self.take_app(spec, listeners).await?;
        let ids: Vec<u32> = self.registry.staying(id).map(|entry| entry.id).filter(|_| autostart).collect();
        let goals = ids.iter().map(|instance| (*instance, self.goal_online(*instance))).collect();
        self.queue_starts_by(&ids, by).await;
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
                Life::Start if life.has_process() => {
                    self.attribute(id, By::Hand);
                    self.live(id, event).await;
                }
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
    pub(super) async fn bury(&mut self) -> bool {
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
