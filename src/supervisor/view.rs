//! The snapshot, read off the registry and the rooms.

use std::time::Duration;

use super::clock;
use super::core::Core;
use super::registry::{App, Entry, Process, Role, listening};
use crate::deployment::Phase;
use crate::lifecycle::{Exit, Instance, State};
use crate::relay::Topic;
use crate::snapshot::{
    BridgeState, DeploymentPhase, DeploymentView, ExitView, HerdView, HostView, InstanceView, Snapshot, Status,
    SupervisorView,
};
use crate::status::Usage;

impl Core {
    /// Everything as it is now. Costs one read of procfs per running instance.
    pub(super) async fn snapshot(&mut self, env: bool) -> Snapshot {
        let usages = self.sample();
        let usage = |id: u32| Some(usages[usages.binary_search_by_key(&id, |(of, _)| *of).ok()?].1);
        let mut herds = self.mark(self.wire.look().await);
        let mut stand_ins = self.wire.stand_ins().await;
        // One row for each number: candidates and those who finish are the deployments'.
        let shown = self.registry.instances.values().filter(|entry| entry.role == Role::Member);
        let mut instances: Vec<InstanceView> = Vec::new();
        for entry in shown {
            let mut instance = self.instance(entry, usage(entry.id), env);
            let mut seats = herds.iter().flat_map(|herd| &herd.seats);
            instance.slot = seats.find(|(_, id)| **id == entry.id).map(|(slot, _)| *slot);
            instance.stand_in = stand_ins.remove(&entry.id);
            instances.push(instance);
        }
        instances.sort_by_key(|instance| instance.id);
        // The wire knows instances by ids that users never see.
        for id in herds.iter_mut().flat_map(|herd| herd.seats.values_mut()) {
            *id = self.registry.instances.get(id).map_or(*id, |entry| entry.number);
        }
        Snapshot {
            supervisor: self.supervisor(),
            instances,
            herds,
            deployments: self.deployments(),
            bridge: self.sections.bridge().map(|bridge| bridge.view()),
            front: self.sections.front().map(|front| front.view()),
            host: self.host.as_mut().map_or_else(unknown_host, |host| host.view()),
        }
    }

    /// What instances use. Whoever came since the last look is sampled from now on: nobody pays for it who is not looked at.
    fn sample(&mut self) -> Vec<(u32, Usage)> {
        for entry in self.registry.instances.values() {
            let Process::Exists { pid, pidfd, .. } = &entry.process else { continue };
            if self.sampler.samples(entry.id) {
                continue;
            }
            match self.sampler.add(entry.id, *pid) {
                Ok(()) if pidfd.pid() == Some(*pid) => {}
                // It has been reaped: the number may be another's by now.
                Ok(()) => self.sampler.remove(entry.id),
                Err(error) => tracing::debug!("instance {} cannot be sampled: {error}", entry.id),
            }
        }
        self.sampler.sample()
    }

    fn supervisor(&self) -> SupervisorView {
        SupervisorView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.to_string(),
            pid: std::process::id(),
            keeper_pid: self.keeper_pid,
            uptime_ms: self.began.elapsed().as_millis() as u64,
            epoch: self.epoch,
            home: self.home.path().to_owned(),
            status_address: self.sections.status_address(),
            store_used: self.stored(),
            store_limit: self.store_limit,
            warnings: {
                let standing = self.log_faults.sentences().into_iter().chain(self.bridge_trouble());
                self.warnings.iter().cloned().chain(standing).chain(self.what_waits()).collect()
            },
            notifications_ignored: self.watchers.senses.board().ignored(),
        }
    }

    /// What keeps the bridge from Redis, if anything does.
    fn bridge_trouble(&self) -> Option<String> {
        match self.sections.bridge()?.view().state {
            BridgeState::Connected => None,
            BridgeState::Waiting(reason) => Some(format!("the bridge is not connected: {reason}")),
        }
    }

    /// How many descriptors the store holds, with what it refused.
    pub(super) fn stored(&self) -> u32 {
        self.store.len() as u32
    }

    fn instance(&self, entry: &Entry, usage: Option<Usage>, env: bool) -> InstanceView {
        let spec = self.registry.spec_of(entry);
        let now = clock::now();
        let uptime = match entry.life.state() {
            State::Online { since } => now.since(since),
            _ if entry.process.pid().is_some() => {
                Duration::from_millis(clock::wall_ms().saturating_sub(entry.started_at_ms))
            }
            _ => Duration::ZERO,
        };
        let paths = self.log_paths(entry);
        InstanceView {
            id: entry.number,
            app: spec.name.clone(),
            herd: spec.herd.clone(),
            index: entry.index,
            instances: spec.instances,
            pid: entry.process.pid(),
            status: status(&entry.life),
            incarnation: entry.life.incarnation().0,
            restarts: entry.life.restarts(),
            unstable_restarts: entry.life.failures(&spec.rules, now),
            started_at_ms: entry.started_at_ms,
            uptime_ms: uptime.as_millis() as u64,
            created_at_ms: entry.created_at_ms,
            last_exit: entry.life.last_exit().map(exit),
            reason: self.reason(entry),
            cause: self.account(entry),
            cpu_percent: usage.map_or(0.0, |usage| usage.cpu_percent),
            memory_bytes: usage.map_or(0, |usage| usage.memory_bytes),
            script: spec.script.clone(),
            args: spec.arguments().1.to_vec(),
            node_args: spec.arguments().0.to_vec(),
            interpreter: spec.interpreter.clone(),
            cwd: spec.cwd.clone(),
            out_log: paths.out,
            error_log: paths.error,
            log_fault: self.log_faults.of(entry.id),
            autorestart: spec.rules.autorestart,
            wait_ready: spec.rules.wait_ready,
            kill_timeout_ms: spec.rules.kill_timeout.as_millis() as u64,
            max_restarts: spec.rules.max_restarts,
            listen: listening(spec, self.registry.listeners_of(entry)),
            slot: None,
            transport: spec.transport.as_str().to_owned(),
            stand_in: None,
            health: self.health_view(entry),
            env: env.then(|| spec.env.clone()),
        }
    }

    /// The last deployment of each app that had one.
    fn deployments(&self) -> Vec<DeploymentView> {
        let view = |app: &App| {
            let deployment = app.deployment.as_ref()?;
            let view = self.deployment_view(app.id);
            let (replaced, wanted) = deployment.progress(&view);
            Some(DeploymentView {
                app: app.spec.name.clone(),
                phase: match deployment.phase() {
                    Phase::Canary | Phase::Waves => DeploymentPhase::Replacing,
                    Phase::TakingBack => DeploymentPhase::TakingBack,
                    Phase::Probation { .. } => DeploymentPhase::Probation,
                    Phase::Done => DeploymentPhase::Done,
                    Phase::Failed => DeploymentPhase::Failed,
                },
                revision: deployment.new_revision(),
                replaced,
                wanted,
                starting: view.candidates.len() as u32,
                draining: self.registry.instances_of(app.id).filter(|entry| entry.role == Role::Retired).count() as u32,
                failed: deployment.reason().and_then(|reason| reason.place),
                reason: self.why_failed(app.id, deployment),
            })
        };
        self.registry.apps.values().filter_map(view).collect()
    }

    fn account(&self, entry: &Entry) -> Option<String> {
        entry.life.account(&self.registry.spec_of(entry).rules)
    }

    /// Why it does not run though it should.
    fn reason(&self, entry: &Entry) -> Option<String> {
        let because = match entry.life.state() {
            _ if entry.life.is_queued() => return self.waits_for(entry),
            State::Errored | State::WaitingRestart { .. } => self.account(entry)?,
            _ => return None,
        };
        Some(entry.failure.iter().fold(because, |because, failure| format!("{because}: {failure}")))
    }

    /// Says of each channel whether it leaves the host or is shown to browsers.
    fn mark(&self, mut herds: Vec<HerdView>) -> Vec<HerdView> {
        let routes = self.routes.borrow();
        for herd in &mut herds {
            for channel in &mut herd.channels {
                let topic = Topic::new(&herd.name, &channel.name);
                channel.bridged = routes.relay.is_bridged(&topic);
                channel.shown = routes.relay.is_shown(&topic);
            }
        }
        herds
    }
}

fn status(life: &Instance) -> Status {
    match life.state() {
        // It is to be started and waits for others: of pm2's words the one that says so.
        State::Stopped | State::Errored if life.is_queued() => Status::WaitingRestart,
        State::Stopped => Status::Stopped,
        State::Launching { .. } => Status::Launching,
        State::Online { .. } => Status::Online,
        State::Stopping { .. } | State::Draining { .. } => Status::Stopping,
        State::WaitingRestart { .. } => Status::WaitingRestart,
        State::Errored => Status::Errored,
    }
}

fn exit(exit: Exit) -> ExitView {
    match exit {
        Exit::Code(code) => ExitView::Code(code),
        Exit::Signal(signal) => ExitView::Signal(signal),
        Exit::NeverStarted | Exit::NotExecuted => ExitView::NeverStarted,
        Exit::Unknown => ExitView::Unknown,
        Exit::OutOfMemory => ExitView::OutOfMemory,
    }
}

fn unknown_host() -> HostView {
    HostView { name: String::new(), cpus: 0, load_1m: 0.0, memory_total_bytes: 0, memory_used_bytes: 0 }
}
