//! The process that an instance's life is, where it has named one: `MAINPID` of `sd_notify`.
//!
//! Whoever forks into the background ends the process that was started; whoever hands over to another process goes on
//! in that one. From the moment on that an instance has said so, its exit is that process's, signals go there as well,
//! and it is what `list` shows. Its pidfd lies in the store beside the first one's, and its number in the instance's
//! record, so that a successor of this supervisor goes on with it.
//!
//! Invariants
//! - A main process belongs to the instance and runs as the process that named it: nobody makes a stranger one.
//! - One exit ends an instance: the main process's, where there is one.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::core::Core;
use super::registry::{Entry, Process};
use super::state::InstanceRecord;
use crate::health::Claim;
use crate::keeper::name::{Kind, Name};
use crate::lifecycle::{Exit, Incarnation, State};
use crate::process::Pidfd;
use crate::process::kinship::{Kinship, Traits, user_of};

/// The main process of an instance that is another than the one that was started.
#[derive(Debug)]
pub struct Main {
    pub pid: u32,
    pub pidfd: Pidfd,
}

/// Where the pidfd of an instance's main process lies.
pub(super) fn name(id: u32, incarnation: u32) -> Name {
    Name::part(Kind::Pidfd, id, 1, incarnation)
}

impl Process {
    /// The number of the process that its life is.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Process::Exists { pid, main, .. } => Some(main.as_ref().map_or(*pid, |main| main.pid)),
            Process::None | Process::Making => None,
        }
    }

    /// The main process, where that is another than the one that was started.
    pub fn main(&self) -> Option<&Main> {
        match self {
            Process::Exists { main, .. } => main.as_ref(),
            Process::None | Process::Making => None,
        }
    }

    /// Whether this is the number of one of its processes.
    pub fn has(&self, pid: u32) -> bool {
        matches!(self, Process::Exists { pid: first, .. } if *first == pid) || self.pid() == Some(pid)
    }

    /// Signals the group of the process that was started, and the main process with its group where that is another.
    ///
    /// # Errors
    /// Nothing is left of either.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let Process::Exists { pid, pidfd, main, .. } = self else { return Ok(()) };
        let group = pidfd.signal_group(signal);
        let Some(main) = main else { return group };
        let number = i32::try_from(main.pid).unwrap_or(i32::MAX);
        let its_group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(number)));
        match its_group.map(|group| group.as_raw().unsigned_abs()) {
            // It has got it with the others.
            Ok(leader) if leader == *pid && group.is_ok() => Ok(()),
            Ok(leader) if leader == main.pid => main.pidfd.signal_group(signal),
            _ => main.pidfd.signal(signal),
        }
    }
}

impl Core {
    /// An instance says which process is its main one.
    pub(super) async fn name_main(&mut self, id: u32, incarnation: Incarnation, claim: Claim) {
        let Some(entry) = self.registry.instances.get(&id) else { return };
        let Process::Exists { pid: first, pidfd, main, .. } = &entry.process else { return };
        let stands = matches!(entry.life.state(), State::Launching { .. } | State::Online { .. });
        if entry.life.incarnation() != incarnation || !stands || entry.process.pid() == Some(claim.pid) {
            return;
        }
        if claim.pid == *first && main.is_some() && !pidfd.is_dead() {
            return self.put_main(id, incarnation, None).await;
        }
        match self.identify(id, claim) {
            Ok(main) => self.put_main(id, incarnation, Some(main)).await,
            Err(why) => {
                let label = self.registry.label(entry);
                tracing::warn!("{label} names process {} as its main one: {why}; it is ignored", claim.pid);
            }
        }
    }

    /// The process that was named, if it may be the main one.
    fn identify(&self, id: u32, claim: Claim) -> Result<Main, String> {
        // Held before it is looked at: were it another one by the end, this one would be dead.
        let pidfd = Pidfd::open(claim.pid).map_err(|error| format!("it cannot be found: {error}"))?;
        let kin = Traits::of(claim.pid).and_then(|traits| self.kinship(&self.registry.instances[&id]).with(&traits));
        let user = user_of(claim.pid);
        if kin.is_none() {
            return Err("it does not belong to the instance".to_owned());
        }
        if user.is_none() || user != claim.user {
            return Err("it runs as another user than the one that named it".to_owned());
        }
        match pidfd.is_dead() {
            true => Err("it has ended".to_owned()),
            false => Ok(Main { pid: claim.pid, pidfd }),
        }
    }

    /// What tells an instance's processes from all others.
    pub(super) fn kinship(&self, entry: &Entry) -> Kinship {
        let incarnation = entry.life.incarnation().0;
        let leaders = match &entry.process {
            Process::Exists { pid, pidfd, main, .. } => {
                let first = (*pid, pidfd.inode().unwrap_or(0));
                let main = main.as_ref().map(|main| (main.pid, main.pidfd.inode().unwrap_or(0)));
                [Some(first), main].into_iter().flatten().collect()
            }
            Process::None | Process::Making => Vec::new(),
        };
        // What every descendant of this incarnation has inherited, wherever it went, and no successor has.
        let marks = vec![
            format!("HERDWIRE_HOME={}", self.home.path().display()),
            format!("HERDWIRE_NODE={}", self.node),
            format!("HERDWIRE_INSTANCE={}", entry.id),
            format!("HERDWIRE_INCARNATION={incarnation}"),
        ];
        Kinship { group: self.group(entry.id), leaders, marks }
    }

    async fn put_main(&mut self, id: u32, incarnation: Incarnation, new: Option<Main>) {
        match &new {
            Some(main) => self.store.keep(name(id, incarnation.0), main.pidfd.as_fd()),
            None => self.store.forget(name(id, incarnation.0)),
        }
        let Some(entry) = self.registry.instances.get_mut(&id) else { return };
        let Process::Exists { pid: first, pidfd, main, .. } = &mut entry.process else { return };
        *main = new;
        let of = main.as_ref().map_or((*first, &*pidfd), |main| (main.pid, &main.pidfd));
        let (pid, inode) = (of.0, of.1.inode().unwrap_or(0));
        self.commit(id);
        self.watch_main(id);
        self.watchers.senses.has_main(id, incarnation, (pid, inode)).await;
        if let Err(error) = self.sampler.add(id, pid) {
            tracing::debug!("instance {id} cannot be sampled: {error}");
        }
        tracing::info!("{}: its main process is {pid}", self.registry.label(&self.registry.instances[&id]));
        self.tell_of(id, "instance.main", format!("process {pid}, as it has said"));
    }

    /// Watches a main process for its end: whose child it is may change at any time.
    pub(super) fn watch_main(&mut self, id: u32) {
        let Some(entry) = self.registry.instances.get(&id) else { return };
        let Some(main) = entry.process.main() else { return };
        let (incarnation, pid) = (entry.life.incarnation(), main.pid);
        match main.pidfd.try_clone() {
            Ok(pidfd) => self.watch_end(id, incarnation, Some(pid), pidfd),
            Err(error) => self.warn(format!("process {pid} cannot be watched, its end may go unnoticed: {error}")),
        }
    }

    /// Whether an instance goes on although this process of it has ended: the main one is another. One that ends well
    /// without having named one may have done so in words that nobody has read yet.
    pub(super) async fn outlives(&mut self, id: u32, pid: u32, exit: Exit) -> bool {
        let has_another = |core: &Core| core.registry.instances[&id].process.main().is_some_and(|main| main.pid != pid);
        let entry = &self.registry.instances[&id];
        let stands = matches!(entry.life.state(), State::Launching { .. } | State::Online { .. });
        if !has_another(self) && entry.process.main().is_none() && stands && exit == Exit::Code(0) {
            let incarnation = entry.life.incarnation();
            if let Some(claim) = self.watchers.senses.last_words(id, incarnation).await {
                self.name_main(id, incarnation, claim).await;
            }
        }
        let outlives = has_another(self);
        if outlives {
            let label = self.registry.label(&self.registry.instances[&id]);
            tracing::info!("{label}: process {pid} has ended, its main process goes on");
        }
        outlives
    }

    /// Its process is gone, and with it whatever was kept of it.
    pub(super) fn forget_main(&self, id: u32, incarnation: Incarnation, process: &Process) {
        if process.main().is_some() {
            self.store.forget(name(id, incarnation.0));
        }
    }
}

/// The main process that a record names, if the store has it; or if the kernel still does.
pub(super) fn adopt(record: &InstanceRecord, descriptors: &mut BTreeMap<Name, OwnedFd>) -> Option<Main> {
    let kept = descriptors.remove(&name(record.id, record.incarnation)).map(Pidfd::from_fd);
    let pid = (record.main_pid != 0).then_some(record.main_pid)?;
    let is_it = |pidfd: &Pidfd| record.main_inode != 0 && pidfd.inode().is_ok_and(|inode| inode == record.main_inode);
    let pidfd = kept.filter(|pidfd| record.main_inode == 0 || is_it(pidfd));
    // The store was full when it was named.
    let pidfd = pidfd.or_else(|| Pidfd::open(pid).ok().filter(is_it))?;
    Some(Main { pid, pidfd })
}
