//! The snapshot, read off the registry and the rooms.

use std::time::Duration;

use super::clock;
use super::core::Core;
use super::registry::Entry;
use crate::lifecycle::{Exit, Instance, State};
use crate::relay::Topic;
use crate::snapshot::{BridgeState, ExitView, HerdView, HostView, InstanceView, Snapshot, Status, SupervisorView};
use crate::status::Usage;

impl Core {
    /// Everything as it is now. Costs one read of procfs per running instance.
    pub(super) async fn snapshot(&mut self, env: bool) -> Snapshot {
        let usages = self.sampler.sample();
        let usage = |id: u32| usages.iter().find(|(of, _)| *of == id).map(|(_, usage)| *usage);
        let instances = self.registry.instances.values();
        let mut instances: Vec<InstanceView> =
            instances.map(|entry| self.instance(entry, usage(entry.id), env)).collect();
        let herds = self.mark(self.wire.look().await);
        let seats = || herds.iter().flat_map(|herd| &herd.seats);
        for instance in &mut instances {
            instance.slot = seats().find(|(_, id)| **id == instance.id).map(|(slot, _)| *slot);
        }
        Snapshot {
            supervisor: self.supervisor(),
            instances,
            herds,
            bridge: self.sections.bridge().map(|bridge| bridge.view()),
            front: self.sections.front().map(|front| front.view()),
            host: self.host.as_mut().map_or_else(unknown_host, |host| host.view()),
        }
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
            warnings: self.warnings.iter().cloned().chain(self.bridge_trouble()).collect(),
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

    /// What the store holds on our behalf, counted from what we run: the keeper is not asked.
    fn stored(&self) -> u32 {
        let per_instance = self.registry.instances.values().filter(|entry| entry.life.has_process()).count() * 6;
        let per_app: usize = self.registry.apps.values().map(|app| 1 + app.listeners.len()).sum();
        // State, control, status, settings, notify.
        (per_instance + per_app + 5) as u32
    }

    fn instance(&self, entry: &Entry, usage: Option<Usage>, env: bool) -> InstanceView {
        let spec = &self.registry.app_of(entry).spec;
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
            id: entry.id,
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
            args: spec.command.args.clone(),
            interpreter: spec.interpreter.clone(),
            cwd: spec.cwd.clone(),
            out_log: paths.out,
            error_log: paths.error,
            autorestart: spec.rules.autorestart,
            wait_ready: spec.rules.wait_ready,
            kill_timeout_ms: spec.rules.kill_timeout.as_millis() as u64,
            max_restarts: spec.rules.max_restarts,
            listen: self.registry.app_of(entry).listening(),
            slot: None,
            health: self.health_view(entry),
            env: env.then(|| spec.env.clone()),
        }
    }

    fn account(&self, entry: &Entry) -> Option<String> {
        entry.life.account(&self.registry.app_of(entry).spec.rules)
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
