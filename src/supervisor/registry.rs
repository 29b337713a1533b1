//! What the supervisor runs: apps and instances, by number, as plain data.
//!
//! Everything here can be rebuilt from the state record, the store and the sealed specs.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::SockRef;

use super::control::Selector;
use super::state::{AppRecord, InstanceRecord};
use crate::config::address;
use crate::config::spec::{AppSpec, ListenAddress};
use crate::lifecycle::Instance;
use crate::process::Pidfd;

/// One app and what is bound for it.
pub struct App {
    pub id: u32,
    /// Counts specs of this app, from 1.
    pub revision: u32,
    pub spec: Arc<AppSpec>,
    pub listeners: Vec<OwnedFd>,
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
    },
}

impl Process {
    pub fn pid(&self) -> Option<u32> {
        match self {
            Process::Exists { pid, .. } => Some(*pid),
            Process::None | Process::Making => None,
        }
    }
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

    /// The instances of an app that are not about to be removed.
    pub fn staying(&self, app: u32) -> impl Iterator<Item = &Entry> {
        self.instances_of(app).filter(|entry| !entry.doomed)
    }

    /// The instance whose process this is: by number and, where the kernel gives one, by the pidfd's inode, since a
    /// number may have been given to another process meanwhile.
    pub fn by_process(&self, pid: u32, inode: u64) -> Option<u32> {
        let is_it = |entry: &&Entry| match &entry.process {
            Process::Exists { pid: known, pidfd, .. } => {
                *known == pid && (inode == 0 || pidfd.inode().is_ok_and(|known| known == inode))
            }
            Process::None | Process::Making => false,
        };
        self.instances.values().find(is_it).map(|entry| entry.id)
    }

    /// The instances that a selector names, in the order of their ids; `None` when it names nothing.
    pub fn select(&self, selector: &Selector) -> Option<Vec<u32>> {
        let of_name = |name: &str| {
            let app = self.app_named(name)?;
            Some(self.staying(app.id).map(|entry| entry.id).collect::<Vec<_>>())
        };
        match selector {
            Selector::All => {
                Some(self.instances.values().filter(|entry| !entry.doomed).map(|entry| entry.id).collect())
            }
            Selector::Name(name) => of_name(name),
            Selector::Id(id) => of_name(&id.to_string())
                .or_else(|| self.instances.get(id).filter(|entry| !entry.doomed).map(|entry| vec![entry.id])),
            Selector::Several(several) => {
                let mut all = Vec::new();
                for one in several {
                    all.extend(self.select(one)?);
                }
                all.sort_unstable();
                all.dedup();
                Some(all)
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
        for address in &self.spec.listen {
            if let ListenAddress::Unix(path) = address
                && let Err(error) = std::fs::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!("the socket {} cannot be removed: {error}", path.display());
            }
        }
    }

    pub fn record(&self) -> AppRecord {
        AppRecord { id: self.id, revision: self.revision }
    }

    /// Its listeners' addresses as they are bound: a port that was asked for as 0 is the real one.
    pub fn listening(&self) -> Vec<String> {
        let bound = |asked: &ListenAddress, socket: &OwnedFd| match asked {
            ListenAddress::Tcp(_) => SockRef::from(socket).local_addr().ok().and_then(|bound| bound.as_socket()),
            ListenAddress::Unix(_) => None,
        };
        let listeners = self.spec.listen.iter().zip(&self.listeners);
        let addresses = listeners.map(|(asked, socket)| match bound(asked, socket) {
            Some(bound) => address::display(&ListenAddress::Tcp(bound)),
            None => address::display(asked),
        });
        addresses.collect()
    }
}

impl Entry {
    pub fn record(&self, revision: u32) -> InstanceRecord {
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
            revision,
            doomed: self.doomed,
            number: self.number,
        }
    }
}
