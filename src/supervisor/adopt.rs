//! From what the keeper hands over to a running supervisor: the same path at the first start, after a crash, and in an
//! upgrade.
//!
//! Order matters: everything is adopted before the first exit is acted on, or the last lines of the dead would have
//! no file; and nothing is started before the listening sockets and the wire stand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use herdwire_ipc::codec;
use herdwire_ipc::tokio::Watched;
use interprocess::local_socket::tokio::Listener;
use interprocess::os::unix::uds_local_socket;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control::Request;
use super::control_server::Desk;
use super::core::{self, Core, Sources};
use super::journal::Journal;
use super::log_faults::LogFaults;
use super::ordering::Turns;
use super::place::SETTLED_AFTER;
use super::registry::{App, Entry, Process, Registry, Release, Role};
use super::rescue;
use super::safekeeping::Safekeeping;
use super::saved::{self, Here};
use super::saving::{self, Saving};
use super::settings::Sections;
use super::state::Contents;
use super::traffic::{self, Routes};
use super::{control_server, foreground, health, main_process};
use crate::config::spec::{AppSpec, Rotation, Settings};
use crate::config::{self, Surroundings, home::Home};
use crate::deployment::Deployment;
use crate::keeper::client::{Inheritance, KeeperLink, Reason};
use crate::keeper::handle::Store;
use crate::keeper::name::{Kind, Name};
use crate::lifecycle::{Event as Life, Exit, Incarnation, Instance, State as LifeState};
use crate::logs::{Kind as Stream, Pump, Route, StreamKey};
use crate::process::{Cgroups, OpenFiles, Pidfd, listen, sealed};
use crate::relay::{NodeId, Relay};
use crate::status::{History, Host, Look, Sampler};
use crate::wire::{self, Wire};

/// Requests, spawn results and the like that may wait for the core.
const QUEUE: usize = 256;

/// Builds a supervisor from what was inherited, and says that it is ready.
pub async fn adopt(keeper: KeeperLink, inheritance: Inheritance, reopen: OwnedFd) -> anyhow::Result<Core> {
    let Inheritance { epoch, keeper_pid, reason, foreground, mut descriptors, exits, store_limit, .. } = inheritance;
    let (hello, descriptor_limit) = (inheritance.hello, inheritance.descriptor_limit);
    let home = Home::from_environment()?;
    let node = home.node()?;
    let store = Store::holding(keeper.sender(), &descriptors).context("there is no room for copies of the store")?;
    let is_first = !descriptors.contains_key(&Name::new(Kind::State, 0, 0));
    let (state, contents, warning) = rescue::open::open(&mut descriptors, &store)?;
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();

    let journal = open_journal(&mut descriptors, &store)?;
    let (requests_in, requests) = mpsc::channel(QUEUE);
    let (upgrades_in, upgrades) = mpsc::channel(1);
    let listener = control_socket(&mut descriptors, &home, &store)?;
    let control_file = file_identity(&home.control());
    let desk = Desk { requests: requests_in, upgrades: upgrades_in, journal: journal.reader() };
    let (connections, accepting) = (TaskTracker::new(), shutdown.child_token());
    tasks.spawn(control_server::serve(
        listener,
        desk.clone(),
        connections.clone(),
        accepting.clone(),
        shutdown.clone(),
    ));

    let (arrivals_in, arrivals) = mpsc::channel(traffic::ARRIVALS);
    let (notices_in, notices) = mpsc::channel(QUEUE);
    let memories = core::take_kinds(&mut descriptors, &[Kind::Directory, Kind::Outbox, Kind::Bell, Kind::Stash]);
    let surroundings = wire::Surroundings {
        store: store.clone(),
        arrivals: arrivals_in.clone(),
        notices: notices_in,
        shutdown: shutdown.clone(),
    };
    let wire = Wire::start(surroundings, memories, &tasks);
    let around = crate::health::Around {
        store: store.clone(),
        wire: wire.clone(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    };
    let watching = health::start(&mut descriptors, node, home.path(), around);
    let (watchers, health) = watching.context("instances cannot be given a socket to notify")?;
    let routes = Routes { relay: Arc::new(Relay::new(node)), bridge: None, front: None };
    let (routes, current) = watch::channel(routes);
    tasks.spawn(traffic::run(arrivals, current, wire.clone(), shutdown.clone()));

    let (looks_in, looks) = mpsc::channel(QUEUE);
    let pump = Pump::start().context("the log thread cannot be started")?;
    let reopen = Watched::new(reopen)?;
    let logs = pump.events().expect("the pump was just made");
    let (orders, outcomes) = core::start_spawner().context("the spawning thread cannot be started")?;
    let (executions_in, executions) = mpsc::channel(QUEUE);
    let (orphans_in, orphans) = mpsc::channel(QUEUE);
    let random = getrandom::u64().map_err(|error| anyhow::anyhow!("the system gives no random numbers: {error}"))?;
    let (writer, writing) = saved::writer::Writer::new(home.saved(), shutdown.clone());
    tasks.spawn(writing);
    let here = Here { boot: saving::boot_id(), home: home.path().display().to_string(), node: node.to_string() };
    let keeper_socket = Watched::new(keeper.as_fd().try_clone_to_owned()?)?;
    let mut core = Core {
        home,
        node,
        epoch,
        keeper_pid,
        store_limit,
        open_files: open_files(descriptor_limit),
        cgroups: cgroups(node, keeper_pid),
        foreground: foreground.then(foreground::Output::start).transpose()?,
        began: Instant::now(),
        sections: Sections::new(arrivals_in, Look::new(looks_in, History::default()), random),
        saving: Saving::new(writer, here, foreground),
        safekeeping: Safekeeping::of(&store),
        keeper,
        store,
        state,
        journal,
        globals: contents.globals,
        registry: Registry::default(),
        wire,
        watchers,
        pump,
        orders,
        waiting_orders: VecDeque::new(),
        executions: executions_in,
        routes,
        sampler: Sampler::new(),
        host: Host::new().ok(),
        remembered: None,
        warnings: warning.into_iter().collect(),
        log_faults: LogFaults::default(),
        pending: Vec::new(),
        culprits: BTreeMap::new(),
        awaited: Vec::new(),
        applying: Vec::new(),
        turns: Turns::default(),
        strays: VecDeque::new(),
        unsure: Vec::new(),
        run: None,
        run_failed: false,
        stillborn: Vec::new(),
        control_file,
        accepting,
        connections,
        desk,
        upgrade: None,
        standby: None,
        freezing: None,
        is_settled: false,
        settle_at: Instant::now() + SETTLED_AFTER,
        hello,
        orphans: BTreeMap::new(),
        orphan_ends: orphans_in,
        sources: Sources {
            keeper: keeper_socket,
            requests,
            upgrades,
            outcomes,
            executions,
            logs,
            reopen,
            notices,
            health,
            looks,
            orphans,
        },
        tasks,
        shutdown,
    };
    if epoch == 1 {
        core.tell("keeper.started", None, None, format!("process {keeper_pid}"));
    }
    core.tell("supervisor.started", None, None, began_because(reason));
    core.commit_globals();
    core.adopt_apps(&contents, &mut descriptors)?;
    let orphans = core.adopt_instances(&contents, &mut descriptors).await;
    core.adopt_health(&mut descriptors).await;
    core.adopt_passed(&mut descriptors);
    let mut single = |kind| core::take_kinds(&mut descriptors, &[kind]).into_values().next_back();
    let (settings, front, status, run) =
        (single(Kind::Settings), single(Kind::Front), single(Kind::Status), single(Kind::Run));
    core.adopt_settings(settings, front, status).await?;
    core.reroute().await;
    core.forget_the_rest(descriptors);
    core.forget_stray_spools();
    if reason == Reason::Upgrade {
        core.speak_into_the_log();
    }
    if let Err(error) = core.keeper.ready() {
        // Without a keeper there is all the more to be done: the loop begins with that.
        tracing::warn!("the keeper does not hear that we are ready: {error}");
    }
    if let Err(error) = core.store.keep_program() {
        tracing::warn!("a later supervisor may be of another program than this one: {error}");
    }
    tracing::info!("supervisor {} serves {} (start {epoch})", std::process::id(), core.home.path().display());
    let all_known = contents.damaged == 0 && core.registry.instances.len() == contents.instances.len();
    core.catch_up(exits, &orphans).await;
    if is_first {
        core.follow_the_dead().await;
    } else {
        core.end_forgotten_groups(all_known);
        core.read_what_waits();
    }
    core.watchers.senses.serve().await;
    core.first_orders(run).await;
    core.close_passed();
    Ok(core)
}

fn began_because(reason: Reason) -> &'static str {
    match reason {
        Reason::First => "it is the first of its keeper",
        Reason::Crash => "its predecessor died",
        Reason::Hang => "its predecessor hung and was killed",
        Reason::Upgrade => "it takes over from another version",
    }
}

/// Device and inode of what lies at a path.
pub(super) fn file_identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The limit on open files that instances get: the user's own, not the one that we raised ours to.
fn open_files(soft: u64) -> Option<OpenFiles> {
    OpenFiles::current().ok().map(|ours| OpenFiles { soft, hard: ours.hard })
}

/// Where instances get control groups. Without, what escapes them is searched for.
fn cgroups(node: NodeId, keeper: u32) -> Option<Arc<Cgroups>> {
    match Cgroups::find(&node.to_string(), &[keeper, std::process::id()]) {
        Ok(cgroups) => {
            tracing::info!("instances run in control groups below {}", cgroups.folder().display());
            Some(Arc::new(cgroups))
        }
        Err(why) => {
            tracing::info!("instances run without control groups: {why}");
            None
        }
    }
}

pub(super) fn control_listener(socket: OwnedFd) -> std::io::Result<Listener> {
    // Made from a descriptor, so it knows no name that it could unlink when it is dropped.
    Ok(Listener::from(uds_local_socket::tokio::Listener::try_from(socket)?))
}

fn open_journal(descriptors: &mut BTreeMap<Name, OwnedFd>, store: &Store) -> anyhow::Result<Journal> {
    let name = Name::new(Kind::Journal, 0, 0);
    match descriptors.remove(&name).map(Journal::open) {
        Some(Ok(journal)) => return Ok(journal),
        // It is what one may look at, not what one runs by.
        Some(Err(error)) => tracing::error!("the journal is begun anew: {error}"),
        None => {}
    }
    let journal = Journal::create().context("the journal cannot be created")?;
    store.keep(name, journal.as_fd());
    Ok(journal)
}

fn control_socket(descriptors: &mut BTreeMap<Name, OwnedFd>, home: &Home, store: &Store) -> anyhow::Result<Listener> {
    let name = Name::new(Kind::Control, 0, 0);
    let socket = match descriptors.remove(&name) {
        Some(socket) => socket,
        None => {
            let path = home.control();
            let bound = control_server::bind(&path);
            let socket = OwnedFd::from(bound.with_context(|| format!("cannot bind {}", path.display()))?);
            store.keep(name, socket.as_fd());
            socket
        }
    };
    Ok(control_listener(socket)?)
}

impl Core {
    fn adopt_apps(&mut self, contents: &Contents, descriptors: &mut BTreeMap<Name, OwnedFd>) -> anyhow::Result<()> {
        for record in &contents.apps {
            let deployment = Deployment::from_record(&record.deployment);
            let mut others: BTreeSet<u32> =
                contents.instances.iter().filter(|one| one.app == record.id).map(|one| one.revision).collect();
            others.extend(deployment.iter().flat_map(|one| [one.old_revision(), one.new_revision()]));
            others.remove(&record.revision);
            let Some(current) = self.adopt_release(record.id, record.revision, descriptors)? else {
                tracing::error!("app {} has lost its spec and is given up", record.id);
                continue;
            };
            let mut app = App {
                id: record.id,
                revision: record.revision,
                spec: current.spec,
                listeners: current.listeners,
                others: Vec::new(),
                newest: record.newest.max(record.revision),
                deployment,
            };
            for revision in others {
                app.others.extend(self.adopt_release(record.id, revision, descriptors)?);
            }
            self.registry.apps.insert(app.id, app);
        }
        Ok(())
    }

    /// One release of an app, if it is in the store.
    fn adopt_release(
        &mut self,
        app: u32,
        revision: u32,
        descriptors: &mut BTreeMap<Name, OwnedFd>,
    ) -> anyhow::Result<Option<Release>> {
        let Some(memory) = descriptors.remove(&Name::new(Kind::Spec, app, revision)) else { return Ok(None) };
        let spec: AppSpec = codec::decode(&sealed::read(memory.as_fd())?)
            .with_context(|| format!("the spec of app {app} cannot be read"))?;
        let mut listeners = Vec::with_capacity(spec.listen.len());
        for (part, address) in spec.listen.iter().enumerate() {
            let name = Name::part(Kind::Listener, app, part as u16, revision);
            let socket = match descriptors.remove(&name) {
                Some(socket) => Ok(socket),
                // The store was full when it was bound.
                None => listen::bind(address),
            };
            match socket {
                Ok(socket) => listeners.push(socket),
                Err(error) => {
                    self.warn(format!("app `{}` runs without its listeners: {error}", spec.name));
                    listeners.clear();
                    break;
                }
            }
        }
        Ok(Some(Release { revision, spec: Arc::new(spec), listeners }))
    }

    /// Answers which of them are not the keeper's children.
    async fn adopt_instances(
        &mut self,
        contents: &Contents,
        descriptors: &mut BTreeMap<Name, OwnedFd>,
    ) -> Vec<(u32, Incarnation)> {
        let (mut reaped, mut orphans) = (Vec::new(), Vec::new());
        for record in &contents.instances {
            if !self.registry.apps.contains_key(&record.app) {
                continue;
            }
            let Some(life) = Instance::from_record(&record.lifecycle) else {
                tracing::error!("instance {} has a life that cannot be read and is given up", record.id);
                continue;
            };
            let pidfd = descriptors.remove(&Name::new(Kind::Pidfd, record.id, record.incarnation)).map(Pidfd::from_fd);
            let was_let_go = matches!(life.state(), LifeState::Online { .. });
            // Its name in the store says whose process it is; the record only helps with the number of a reaped one.
            let recorded = (record.pid != 0).then_some(record.pid);
            let main = main_process::adopt(record, descriptors);
            let family = pidfd.as_ref().and_then(Pidfd::family);
            let pid = family.map(|(pid, _)| pid).or_else(|| {
                let matches = pidfd.as_ref()?.inode().unwrap_or(0) == record.pidfd_inode;
                // Nobody remembers the number of the first one where the state was lost.
                recorded.filter(|_| matches).or_else(|| main.as_ref().map(|main| main.pid))
            });
            if pid.is_some() && family.is_none_or(|(_, parent)| parent != self.keeper_pid) {
                orphans.push((record.id, life.incarnation()));
            }
            let process = match (pidfd, pid) {
                (Some(pidfd), Some(pid)) => {
                    Process::Exists { pid, pidfd, released: was_let_go, executed: was_let_go, main }
                }
                // Reaped, and the keeper's word of it, if it comes, names a number that we do not know.
                (Some(pidfd), None) => {
                    reaped.push((record.id, life.incarnation(), pidfd));
                    Process::None
                }
                (None, _) => Process::None,
            };
            let entry = Entry {
                id: record.id,
                number: record.number,
                app: record.app,
                index: record.index,
                life,
                process,
                created_at_ms: record.created_at_ms,
                started_at_ms: record.started_at_ms,
                failure: None,
                doomed: record.doomed,
                role: Role::from_number(record.role),
                revision: record.revision,
                alone: record.alone,
                told: record.told,
            };
            self.registry.instances.insert(entry.id, entry);
        }
        for (id, incarnation, pidfd) in reaped {
            self.watch_orphan(id, incarnation, pidfd);
        }
        self.spare_nobodys(descriptors);
        self.adopt_logs(descriptors);
        self.adopt_links(descriptors).await;
        self.wire.attached().await;
        orphans
    }

    /// Processes that live and belong to no instance that we know: what they print goes on into a file, and nothing of
    /// them is closed. They end with everything else.
    fn spare_nobodys(&mut self, descriptors: &mut BTreeMap<Name, OwnedFd>) {
        for (name, pidfd) in core::take_kinds(descriptors, &[Kind::Pidfd]) {
            let pidfd = Pidfd::from_fd(pidfd);
            if pidfd.is_dead() {
                self.store.forget(name);
                continue;
            }
            let pid = pidfd.pid().unwrap_or(0);
            self.warn(format!("process {pid} was instance {}, of which nothing else is known: it runs on", name.owner));
            for (kind, stream) in [(Kind::Out, Stream::Out), (Kind::Err, Stream::Err)] {
                let Some(pipe) = descriptors.remove(&Name::new(kind, name.owner, name.generation)) else { continue };
                let key = StreamKey { instance: name.owner, incarnation: name.generation, kind: stream };
                let path = self.home.logs().join(format!("rescued-{}-{}.log", name.owner, name.generation));
                let trouble = self.pump.attach(key, pipe, Route::Raw { path, rotation: Rotation::default() });
                self.note_log(key, trouble);
            }
            drop(descriptors.remove(&Name::new(Kind::Link, name.owner, name.generation)));
        }
    }

    /// Goes on with every pipe, also those of the dead: what is in them belongs into their files.
    fn adopt_logs(&mut self, descriptors: &mut BTreeMap<Name, OwnedFd>) {
        for (name, pipe) in core::take_kinds(descriptors, &[Kind::Out, Kind::Err]) {
            match self.registry.instances.contains_key(&name.owner) {
                true => self.adopt_log(name, pipe),
                false => self.store.forget(name),
            }
        }
    }

    async fn adopt_links(&mut self, descriptors: &mut BTreeMap<Name, OwnedFd>) {
        for (name, link) in core::take_kinds(descriptors, &[Kind::Link]) {
            let member = self
                .registry
                .instances
                .get(&name.owner)
                .filter(|entry| entry.life.incarnation().0 == name.generation && entry.process.pid().is_some());
            match member.map(|entry| self.member(entry)) {
                Some(member) => self.wire.attach(member, link).await,
                None => self.store.forget(name),
            }
        }
    }

    /// Names that nobody asked for: left by a death between two steps.
    fn forget_the_rest(&mut self, descriptors: BTreeMap<Name, OwnedFd>) {
        // These are the keeper's own affair, as long as there is a keeper.
        let is_keepers = |name: &Name| matches!(name.kind, Kind::Lock | Kind::Supervisor | Kind::Service);
        for name in descriptors.into_keys().filter(|name| !is_keepers(name)) {
            tracing::debug!("{name} is not needed any more");
            self.store.forget(name);
        }
    }

    /// Acts on what happened while there was no supervisor.
    async fn catch_up(&mut self, exits: Vec<crate::keeper::client::Exit>, orphans: &[(u32, Incarnation)]) {
        for exit in exits {
            self.exited(exit).await;
        }
        self.watch_orphans(orphans);
        let ids: Vec<u32> = self.registry.instances.keys().copied().collect();
        ids.iter().for_each(|id| self.watch_main(*id));
        for id in ids {
            let entry = &self.registry.instances[&id];
            let incarnation = entry.life.incarnation();
            match (&entry.process, entry.life.state()) {
                // Its supervisor died before it was made, or before anybody knew: it was never let go.
                (Process::None, _) if entry.life.has_process() && !self.orphans.contains_key(&id) => {
                    self.live(id, Life::Exited(incarnation, Exit::NeverStarted)).await;
                }
                // Whether it was let go shows by its being there a moment later: one that was not ends at once.
                (Process::Exists { .. }, LifeState::Launching { .. }) => self.unsure.push((id, incarnation)),
                (Process::Exists { .. }, _) => self.tell_to_leave_again(id).await,
                _ => {}
            }
        }
        if self.globals.ending {
            self.end_all().await;
        } else {
            self.resume_starts().await;
            self.mend_deployments().await;
        }
        self.settle().await;
    }

    /// Instances that were to be started, restarted or deleted when the supervisor died, and whose turn had not come.
    async fn resume_starts(&mut self) {
        let left = |entry: &&Entry| {
            let autostart = self.registry.apps[&entry.app].spec.autostart;
            entry.is_staying() && (entry.life.is_queued() || autostart && entry.life.is_untouched())
        };
        let ids: Vec<u32> = self.registry.instances.values().filter(left).map(|entry| entry.id).collect();
        self.queue_starts(&ids).await;
        let runs_on = |entry: &&Entry| {
            let state = entry.life.state();
            let is_leaving = matches!(state, LifeState::Stopping { .. } | LifeState::Draining { .. });
            entry.doomed
                && (entry.life.has_process() && !is_leaving || matches!(state, LifeState::WaitingRestart { .. }))
        };
        let ids: Vec<u32> = self.registry.instances.values().filter(runs_on).map(|entry| entry.id).collect();
        self.queue_stops(&ids);
        self.give_turns().await;
    }

    /// What a first supervisor does by itself: the home's own settings, and what `herdwire run` asked for.
    async fn first_orders(&mut self, run: Option<OwnedFd>) {
        if self.epoch == 1 && self.globals.settings_revision == 0 {
            self.home_settings().await;
        }
        let Some(memory) = run else { return };
        self.store.forget(Name::new(Kind::Run, 0, 0));
        let (reply, answer) = tokio::sync::oneshot::channel();
        match sealed::read(memory.as_fd())
            .map_err(anyhow::Error::from)
            .and_then(|bytes| Ok(codec::decode::<Request>(&bytes)?))
        {
            Ok(request) => {
                self.run = Some(answer);
                self.request(request, reply).await;
            }
            Err(error) => {
                tracing::error!("what is to be run cannot be read: {error:#}");
                self.run_failed = true;
            }
        }
    }

    async fn home_settings(&mut self) {
        let path = self.home.settings();
        if !path.exists() {
            return;
        }
        let here = Surroundings::here().map_err(|error| error.to_string());
        let loaded = here.and_then(|here| config::load(&path, &here).map_err(|error| error.to_string()));
        let applied = match loaded {
            Ok(loaded) => self.apply(loaded.resolved.settings, &path).await,
            Err(error) => Err(error),
        };
        if let Err(error) = applied {
            self.warn(format!("{error}: its settings are not in force"));
        }
    }

    async fn apply(&mut self, settings: Settings, path: &Path) -> Result<(), String> {
        self.apply_settings(settings, path).await.map_err(|failure| failure.what)?;
        self.reroute().await;
        Ok(())
    }

    /// Instances that were launching when the supervisor died, once they have had the time to end.
    pub(super) async fn resolve_unsure(&mut self) {
        /// A trampoline whose supervisor has died ends within milliseconds.
        const ENOUGH: Duration = Duration::from_millis(500);
        if self.unsure.is_empty() || self.began.elapsed() < ENOUGH {
            return;
        }
        for (id, incarnation) in std::mem::take(&mut self.unsure) {
            self.executed(id, incarnation, Ok(())).await;
        }
    }
}
