//! From the lifecycle's word to a process that runs: made, kept, committed, let go.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use herdwire_ipc::seqpacket;
use herdwire_ipc::tokio::Watched;

use super::core::Core;
use super::deaths::exit_of;
use super::registry::{Entry, Process};
use super::spawner::{Order, Outcome};
use crate::config::spec::{AppSpec, Transport};
use crate::config::variables::{self, Identity};
use crate::keeper::client::Exit;
use crate::keeper::name::{Kind, Name};
use crate::lifecycle::{Event as Life, Incarnation, State};
use crate::process::{ExecFailure, Launching, Spawned};
use crate::wire::Member;

impl Core {
    pub(super) async fn spawn(&mut self, id: u32, incarnation: Incarnation, spec: Arc<AppSpec>) {
        if let Some(why) = self.lacks_room() {
            return self.never_made(id, incarnation, why).await;
        }
        let entry = &self.registry.instances[&id];
        let pair = match spec.transport {
            Transport::Native => seqpacket::pair(),
            Transport::Pipe => crate::wire::pipe(),
        };
        let prepared = pair.and_then(|(ours, theirs)| {
            let listeners = self.registry.listeners_of(entry).iter();
            let listeners = listeners.map(OwnedFd::try_clone).collect::<std::io::Result<Vec<_>>>()?;
            Ok((ours, theirs, listeners, self.outputs(entry, &spec)?))
        });
        let (ours, theirs, listeners, [out, err]) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                return self.never_made(id, incarnation, format!("what it needs cannot be opened: {error}")).await;
            }
        };
        let env = self.environment(entry, &spec);
        let extra = match self.readiness_pipe(id, incarnation, &spec) {
            Ok(extra) => extra,
            Err(error) => {
                return self.never_made(id, incarnation, format!("no descriptor is left for it: {error}")).await;
            }
        };
        let entry = &self.registry.instances[&id];
        let own = self.own_variables(entry, &spec).into_iter().map(|(name, _)| name).collect();
        self.store.keep(Name::new(Kind::Link, id, incarnation.0), ours.as_fd());
        self.wire.attach(self.member(entry), ours).await;
        let order = Order {
            instance: id,
            incarnation,
            cwd: spec.cwd.clone(),
            spec,
            env,
            own,
            cgroups: self.cgroups.clone(),
            listeners,
            link: theirs,
            extra,
            out,
            err,
            open_files: self.open_files,
        };
        self.waiting_orders.push_back(order);
        self.place_orders();
    }

    /// Hands waiting orders to the spawning thread as far as it takes them. Never waits: that thread may be waiting for
    /// us to take what it has made.
    pub(super) fn place_orders(&mut self) {
        while let Some(order) = self.waiting_orders.pop_front() {
            if let Err(refused) = self.orders.try_send(order) {
                // Full: the next outcome makes room. It is closed only when everything ends.
                self.waiting_orders.push_front(refused.into_inner());
                return;
            }
        }
    }

    pub(super) async fn spawned(&mut self, outcome: Outcome) {
        let Outcome { instance: id, incarnation, result, warnings } = outcome;
        if let Some(entry) = self.registry.instances.get(&id) {
            let app = self.registry.app_of(entry).spec.name.clone();
            warnings.into_iter().for_each(|warning| self.warn(format!("app `{app}`: {warning}")));
        }
        let spawned = match result {
            Ok(spawned) => spawned,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                let news = match error.is_lasting() {
                    true => Life::Unstartable(incarnation),
                    false => Life::SpawnFailed(incarnation),
                };
                return self.not_made(id, news, format!("{error}{cause}")).await;
            }
        };
        let Spawned { pid, pidfd, out, err, go } = spawned;
        let Some(entry) = self.registry.instances.get_mut(&id) else { return };
        self.store.keep(Name::new(Kind::Pidfd, id, incarnation.0), pidfd.as_fd());
        let out = out.map(|pipe| (Name::new(Kind::Out, id, incarnation.0), pipe));
        let err = err.map(|pipe| (Name::new(Kind::Err, id, incarnation.0), pipe));
        let pipes = [out, err].into_iter().flatten();
        let pipes: Vec<_> = pipes.inspect(|(name, pipe)| self.store.keep(*name, pipe.as_fd())).collect();
        let inode = pidfd.inode().unwrap_or(0);
        entry.process = Process::Exists { pid, pidfd, released: false, executed: false, main: None };
        self.commit(id);
        for (name, pipe) in pipes {
            self.attach_log(name, pipe);
        }
        self.watch_health(id).await;
        if let Some(at) = self.strays.iter().position(|stray| stray.pid == pid && is_same(stray, inode)) {
            let stray = self.strays.remove(at).expect("its place was just found");
            return self.ended(id, exit_of(stray.status)).await;
        }
        let is_wanted = matches!(self.registry.instances[&id].life.state(), State::Launching { .. });
        if !is_wanted {
            // Told to stop while it was made: it ends without having run.
            return drop(go);
        }
        match go.release() {
            Ok(launching) => {
                if let Some(Process::Exists { released, .. }) =
                    self.registry.instances.get_mut(&id).map(|entry| &mut entry.process)
                {
                    *released = true;
                }
                self.watch_execution(id, incarnation, launching);
            }
            // Its exit will tell.
            Err(error) => tracing::warn!("instance {id} cannot be let go: {error}"),
        }
    }

    pub(super) fn watch_execution(&self, instance: u32, incarnation: Incarnation, launching: Launching) {
        let executions = self.executions.clone();
        self.tasks.spawn(async move {
            let result = execution(launching).await;
            // The core ends only with everything else.
            let _ = executions.send((instance, incarnation, result)).await;
        });
    }

    /// An instance as the wire knows it.
    pub(super) fn member(&self, entry: &Entry) -> Member {
        let spec = self.registry.spec_of(entry);
        Member {
            instance: entry.id,
            incarnation: entry.life.incarnation().0,
            app: spec.name.as_str().into(),
            herd: spec.herd.as_str().into(),
            index: entry.index,
            spec: spec.wire,
            transport: spec.transport,
        }
    }

    /// The whole environment of an instance: its app's, and who it is. Without what its files of variables say.
    pub(super) fn environment(&self, entry: &Entry, spec: &AppSpec) -> Vec<(String, String)> {
        let own = self.own_variables(entry, spec);
        let inherited = spec.env.iter().filter(|(name, _)| !own.iter().any(|(known, _)| known == *name));
        inherited.map(|(name, value)| (name.clone(), value.clone())).chain(own.clone()).collect()
    }

    /// Who an instance is, as variables.
    pub(super) fn own_variables(&self, entry: &Entry, spec: &AppSpec) -> Vec<(String, String)> {
        let paths = self.log_paths(entry);
        let identity = Identity {
            id: entry.number,
            instance: entry.id,
            index: entry.index,
            incarnation: entry.life.incarnation().0,
            restarts: entry.life.restarts(),
            node: self.node,
            home: self.home.path(),
            out_log: &paths.out,
            error_log: &paths.error,
        };
        let mut own = variables::instance_variables(spec, &identity);
        own.extend(self.health_variables(spec));
        own
    }

    pub(super) async fn executed(&mut self, id: u32, incarnation: Incarnation, result: Result<(), ExecFailure>) {
        let Some(entry) = self.registry.instances.get_mut(&id) else { return };
        if entry.life.incarnation() != incarnation {
            return;
        }
        match (result, &mut entry.process) {
            (Ok(()), Process::Exists { executed, .. }) => {
                *executed = true;
                entry.failure = None;
                self.note_user(id, incarnation).await;
                self.live(id, Life::Spawned(incarnation)).await;
            }
            // It has ended meanwhile, which says more.
            (Ok(()), Process::None | Process::Making) => {}
            // The process ends by itself now; that exit is what counts.
            (Err(failure), _) => entry.failure = Some(failure.to_string()),
        }
    }

    pub(super) async fn never_made(&mut self, id: u32, incarnation: Incarnation, why: String) {
        self.not_made(id, Life::SpawnFailed(incarnation), why).await;
    }

    /// No process could be made; `news` says whether it may be tried again.
    async fn not_made(&mut self, id: u32, news: Life, why: String) {
        let (Life::SpawnFailed(incarnation) | Life::Unstartable(incarnation)) = news else { return };
        tracing::error!("instance {id} cannot be started: {why}");
        if let Some(entry) = self.registry.instances.get_mut(&id) {
            entry.failure = Some(why);
            entry.process = Process::None;
        }
        self.wire.down(id, incarnation.0).await;
        self.store.forget(Name::new(Kind::Link, id, incarnation.0));
        self.stillborn.push((id, news));
    }
}

/// Whether an exit that nobody knew was that of the process with this inode; a kernel without them leaves the number.
fn is_same(stray: &Exit, inode: u64) -> bool {
    stray.pidfd_inode == 0 || inode == 0 || stray.pidfd_inode == inode
}

/// Waits until a released process has executed its program, or could not.
async fn execution(mut launching: Launching) -> Result<(), ExecFailure> {
    let socket = launching.as_fd().try_clone_to_owned().and_then(Watched::new);
    let Ok(socket) = socket else {
        // No descriptor is left to wait with; whether it runs shows by its exit.
        return Ok(());
    };
    let read = socket.read(|_| launching.result().ok_or_else(|| std::io::ErrorKind::WouldBlock.into()));
    read.await.unwrap_or(Ok(()))
}
