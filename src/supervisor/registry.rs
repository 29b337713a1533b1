//! What the supervisor runs: apps and instances, by number, as plain data.
//!
//! Everything here can be rebuilt from the state record, the store and the sealed specs.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::SockRef;

use super::control::Selector;
use super::main_process::Main;
use super::state::{AppRecord, InstanceRecord};
use crate::config::address;
use crate::config::spec::{AppSpec, ListenAddress};
use crate::deployment::Deployment;
use crate::lifecycle::Instance;
use crate::process::Pidfd;

/// One app and what is bound for it.
pub struct App {
    pub id: u32,
    /// Counts specs of this app, from 1.
    pub revision: u32,
    pub spec: Arc<AppSpec>,
    pub listeners: Vec<OwnedFd>,
    /// Releases that instances still run, or that a deployment may go back to.
    pub others: Vec<Release>,
    /// The last revision that was given out.
    pub newest: u32,
    /// The last deployment, whether it is over or not.
    pub deployment: Option<Deployment>,
}

/// What an app was, or was to be, with what is bound for it.
pub struct Release {
    pub revision: u32,
    pub spec: Arc<AppSpec>,
    pub listeners: Vec<OwnedFd>,
}

/// What an instance is to its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that users mean by it.
    Member,
    /// Started beside the member, to take its place once it is ready.
    Candidate,
    /// Its place was taken; it finishes what it has begun.
    Retired,
}

/// One instance.
pub struct Entry {
    /// Names it in state, store and wire; never used again.
    pub id: u32,
    /// The number that users know it by; differs from `id` for one that took another's place in a reload.
    pub number: u32,
    pub app: u32,
    pub index: u32,
    pub life: Instance,
    pub process: Process,
    pub created_at_ms: u64,
    pub started_at_ms: u64,
    /// What went wrong last, as a sentence.
    pub failure: Option<String>,
    /// It is to be removed once its process is gone.
    pub doomed: bool,
    pub role: Role,
    /// Which of the app's releases it runs.
    pub revision: u32,
    /// Whether it writes into log files without a number, as an app's only instance.
    pub alone: bool,
    /// Whether its process has been told what its life says, if that is to leave.
    pub told: bool,
}

/// What is known of an instance's current process.
#[derive(Debug)]
pub enum Process {
    None,
    /// The spawner is making it.
    Making,
    Exists {
        pid: u32,
        pidfd: Pidfd,
        /// Whether it was let go: from then on its exit is its own.
        released: bool,
        /// Whether it is known to execute its program.
        executed: bool,
        /// The one that its life is instead, because it said so; the one that was started may have ended.
        main: Option<Main>,
    },
}

/// All of it.
#[derive(Default)]
pub struct Registry {
    pub apps: BTreeMap<u32, App>,
    pub instances: BTreeMap<u32, Entry>,
}

impl Registry {
    pub fn app_named(&self, name: &str) -> Option<&App> {
        self.apps.values().find(|app| app.spec.name == name)
    }

    /// The app of an instance. Every instance has one.
    pub fn app_of(&self, entry: &Entry) -> &App {
        &self.apps[&entry.app]
    }

    pub fn instances_of(&self, app: u32) -> impl Iterator<Item = &Entry> {
        self.instances.values().filter(move |entry| entry.app == app)
    }

    /// The spec that an instance runs, which may be another than its app's.
    pub fn spec_of(&self, entry: &Entry) -> &Arc<AppSpec> {
        let app = self.app_of(entry);
        app.release(entry.revision).map_or(&app.spec, |release| &release.spec)
    }

    /// The sockets that an instance inherits.
    pub fn listeners_of(&self, entry: &Entry) -> &[OwnedFd] {
        let app = self.app_of(entry);
        app.release(entry.revision).map_or(&app.listeners, |release| &release.listeners)
    }

    /// The instances that have an app's numbers and are not about to be removed.
    pub fn staying(&self, app: u32) -> impl Iterator<Item = &Entry> {
        self.instances_of(app).filter(|entry| entry.is_staying())
    }

    /// An instance as users call it: its app and its number.
    pub fn label(&self, entry: &Entry) -> String {
        format!("{}:{}", self.app_of(entry).spec.name, entry.number)
    }

    /// The instance whose process this is: by number and, where the kernel gives one, by the pidfd's inode, since a
    /// number may have been given to another process meanwhile.
    pub fn by_process(&self, pid: u32, inode: u64) -> Option<u32> {
        let is_it = |entry: &&Entry| match &entry.process {
            Process::Exists { pid: known, pidfd, main, .. } => {
                let is_same = |pidfd: &Pidfd| inode == 0 || pidfd.inode().is_ok_and(|known| known == inode);
                (*known == pid && is_same(pidfd))
                    || main.as_ref().is_some_and(|main| main.pid == pid && is_same(&main.pidfd))
            }
            Process::None | Process::Making => false,
        };
        self.instances.values().find(is_it).map(|entry| entry.id)
    }

    /// The ids of the instances that a selector names, in the order of their numbers; `None` when it names nothing.
    pub fn select(&self, selector: &Selector) -> Option<Vec<u32>> {
        let found = self.select_by_number(selector)?;
        Some(found.into_iter().map(|(_, id)| id).collect())
    }

    /// Number and id of what a selector names.
    fn select_by_number(&self, selector: &Selector) -> Option<BTreeSet<(u32, u32)>> {
        let all = || self.instances.values().filter(|entry| entry.is_staying()).map(|entry| (entry.number, entry.id));
        let of_name = |name: &str| {
            let app = self.app_named(name)?;
            Some(self.staying(app.id).map(|entry| (entry.number, entry.id)).collect())
        };
        match selector {
            Selector::All => Some(all().collect()),
            Selector::Name(name) => of_name(name),
            Selector::Id(number) => of_name(&number.to_string())
                .or_else(|| all().find(|(known, _)| known == number).map(|found| BTreeSet::from([found]))),
            Selector::Several(several) => {
                let mut found = BTreeSet::new();
                for one in several {
                    found.extend(self.select_by_number(one)?);
                }
                Some(found)
            }
        }
    }

    /// The lowest index that no instance of the app has.
    pub fn free_index(&self, app: u32) -> u32 {
        let taken: Vec<u32> = self.instances_of(app).map(|entry| entry.index).collect();
        (0..).find(|index| !taken.contains(index)).expect("there are fewer instances than numbers")
    }
}

impl App {
    /// Removes the files of its Unix listeners, which would otherwise stay when nobody listens any more.
    pub fn unlink_sockets(&self) {
        let others = self.others.iter().map(|release| &release.spec);
        unlink(others.chain([&self.spec]).flat_map(|spec| &spec.listen));
    }

    pub fn record(&self) -> AppRecord {
        let deployment = self.deployment.as_ref().map_or([0; _], Deployment::to_record);
        AppRecord { id: self.id, revision: self.revision, newest: self.newest, deployment }
    }

    /// Whether a deployment is under way.
    pub fn is_deploying(&self) -> bool {
        self.deployment.as_ref().is_some_and(Deployment::is_under_way)
    }

    /// The spec that has proven itself: while a deployment is under way, that is the old one.
    pub fn proven_spec(&self) -> &Arc<AppSpec> {
        let under_way = self.deployment.as_ref().filter(|deployment| deployment.is_under_way());
        let old = under_way.and_then(|deployment| self.release(deployment.old_revision()));
        old.map_or(&self.spec, |release| &release.spec)
    }

    /// A release other than the current one.
    pub fn release(&self, revision: u32) -> Option<&Release> {
        self.others.iter().find(|release| release.revision == revision)
    }

    /// The socket that is bound to an address, in whichever release.
    pub fn listener(&self, address: &ListenAddress) -> Option<&OwnedFd> {
        let others = self.others.iter().map(|release| (&release.spec, &release.listeners));
        let mut all = std::iter::once((&self.spec, &self.listeners)).chain(others);
        all.find_map(|(spec, listeners)| {
            let at = spec.listen.iter().position(|bound| bound == address)?;
            listeners.get(at)
        })
    }

    /// Whether it holds this address, or one that is in its way, in whichever release.
    pub fn holds(&self, address: &ListenAddress) -> bool {
        let mut specs = self.others.iter().map(|release| &release.spec).chain([&self.spec]);
        specs.any(|spec| spec.listen.iter().any(|held| address::collide(held, address)))
    }

    /// Makes a release the current one; the one before stays among the others.
    pub fn put_in_force(&mut self, release: Release) {
        let Release { revision, spec, listeners } = release;
        let before = Release {
            revision: std::mem::replace(&mut self.revision, revision),
            spec: std::mem::replace(&mut self.spec, spec),
            listeners: std::mem::replace(&mut self.listeners, listeners),
        };
        self.newest = self.newest.max(revision);
        self.others.push(before);
    }

    /// Takes a release off the others.
    pub fn remove_release(&mut self, revision: u32) -> Option<Release> {
        let at = self.others.iter().position(|release| release.revision == revision)?;
        Some(self.others.swap_remove(at))
    }

    /// Removes the files of a release's Unix listeners that no other release has.
    pub fn unlink_unused(&self, release: &Release) {
        let in_use = |address: &ListenAddress| {
            let others = self.others.iter().map(|other| &other.spec);
            others.chain([&self.spec]).any(|spec| spec.listen.contains(address))
        };
        unlink(release.spec.listen.iter().filter(|address| !in_use(address)));
    }

    /// Goes back to an earlier release, if it is there.
    pub fn go_back_to(&mut self, revision: u32) {
        if let Some(release) = self.remove_release(revision) {
            self.put_in_force(release);
        }
    }
}

fn unlink<'a>(addresses: impl Iterator<Item = &'a ListenAddress>) {
    for address in addresses {
        if let ListenAddress::Unix(path) = address
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("the socket {} cannot be removed: {error}", path.display());
        }
    }
}

/// Addresses of listeners as they are bound: a port that was asked for as 0 is the real one.
pub fn listening(spec: &AppSpec, listeners: &[OwnedFd]) -> Vec<String> {
    let bound = |asked: &ListenAddress, socket: &OwnedFd| match asked {
        ListenAddress::Tcp(_) => SockRef::from(socket).local_addr().ok().and_then(|bound| bound.as_socket()),
        ListenAddress::Unix(_) => None,
    };
    let listeners = spec.listen.iter().zip(listeners);
    let addresses = listeners.map(|(asked, socket)| match bound(asked, socket) {
        Some(bound) => address::display(&ListenAddress::Tcp(bound)),
        None => address::display(asked),
    });
    addresses.collect()
}

impl Role {
    /// The role of a record.
    pub fn from_number(number: u8) -> Role {
        match number {
            1 => Role::Candidate,
            2 => Role::Retired,
            _ => Role::Member,
        }
    }
}

impl Entry {
    /// Whether it has its number, and goes on having it.
    pub fn is_staying(&self) -> bool {
        self.role == Role::Member && !self.doomed
    }

    pub fn record(&self) -> InstanceRecord {
        let (pid, pidfd_inode) = match &self.process {
            // Without an inode the pidfd's own word is all there is.
            Process::Exists { pid, pidfd, .. } => (*pid, pidfd.inode().unwrap_or(0)),
            Process::None | Process::Making => (0, 0),
        };
        InstanceRecord {
            id: self.id,
            app: self.app,
            index: self.index,
            incarnation: self.life.incarnation().0,
            lifecycle: self.life.to_record(),
            pid,
            pidfd_inode,
            started_at_ms: self.started_at_ms,
            created_at_ms: self.created_at_ms,
            revision: self.revision,
            doomed: self.doomed,
            number: self.number,
            role: self.role as u8,
            alone: self.alone,
            told: self.told,
            main_pid: self.process.main().map_or(0, |main| main.pid),
            main_inode: self.process.main().and_then(|main| main.pidfd.inode().ok()).unwrap_or(0),
        }
    }
}
