//! Ends by force, and exits: committed, acknowledged, answered by the lifecycle.

use super::core::Core;
use super::registry::Process;
use crate::keeper::client::{Exit as KeeperExit, ExitStatus};
use crate::keeper::name::{Kind, Name};
use crate::lifecycle::{Event as Life, Exit, State};
use crate::process::{Group, Pidfd, Removal, sweep_descendants};
use std::time::Duration;

/// Exits of processes that are not known yet: the news of their making is still on its way.
const STRAYS: usize = 256;
/// How long the end of what descends from an instance may take.
const KILL_LIMIT: Duration = Duration::from_secs(5);

impl Core {
    /// SIGKILLs everything that descends from an instance.
    pub(super) fn kill(&self, id: u32) {
        match self.group(id).filter(Group::exists) {
            Some(group) => self.end_group(id, group),
            None => self.sweep(id),
        }
    }

    /// The control group of an instance's process, if it has one.
    pub(super) fn group(&self, id: u32) -> Option<Group> {
        let incarnation = self.registry.instances[&id].life.incarnation();
        Some(self.cgroups.as_ref()?.group(id, incarnation.0))
    }

    /// SIGKILLs everything in a group, at once, since a successor may want the same port; waits for it on a thread of its
    /// own, and removes it.
    fn end_group(&self, id: u32, group: Group) {
        if let Err(error) = group.kill() {
            tracing::debug!("{} cannot be killed: {error}", group.path().display());
        }
        self.tasks.spawn_blocking(move || {
            if !group.end(KILL_LIMIT) {
                tracing::warn!("processes of instance {id} are left that cannot be killed");
            }
        });
    }

    /// Ends what an instance has left behind, wherever it is. After its end.
    fn end_leftovers(&self, id: u32) {
        match self.group(id).map(|group| (group.remove(), group)) {
            Some((Removal::Removed, _)) => {}
            Some((Removal::Populated, group)) => {
                tracing::info!("instance {id} has left {} processes behind", group.processes().len());
                self.end_group(id, group);
            }
            // It was not born in a group, or there are none.
            Some((Removal::Missing, _)) | None if self.has_orphans() => self.sweep(id),
            Some((Removal::Missing, _)) | None => {}
        }
    }

    /// Ends groups that no process of ours is known in: their supervisor died before it came to that. Where the state has
    /// not told us of every instance (`all_known`), those of unknown ones are left alone.
    pub(super) fn end_forgotten_groups(&self, all_known: bool) {
        let Some(cgroups) = &self.cgroups else { return };
        let is_forgotten = |id: u32, incarnation: u32| match self.registry.instances.get(&id) {
            Some(entry) => entry.life.incarnation().0 != incarnation || matches!(entry.process, Process::None),
            None => all_known,
        };
        let forgotten = cgroups.all().into_iter().filter(|(id, incarnation)| is_forgotten(*id, *incarnation));
        let forgotten: Vec<Group> = forgotten.map(|(id, incarnation)| cgroups.group(id, incarnation)).collect();
        if forgotten.is_empty() {
            return;
        }
        self.tasks.spawn_blocking(move || {
            for group in forgotten.iter().filter(|group| !group.end(KILL_LIMIT)) {
                tracing::warn!("{} holds processes that cannot be killed", group.path().display());
            }
        });
    }

    /// Whether the keeper has a child that is no instance: what outlives its parents comes to it. A sweep walks all of
    /// procfs, so it is not done for nothing.
    fn has_orphans(&self) -> bool {
        let keeper = self.keeper_pid;
        let Ok(children) = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")) else {
            // A kernel that does not list them leaves only the search.
            return true;
        };
        let instances = || self.registry.instances.values();
        let known = |pid: u32| pid == std::process::id() || instances().any(|entry| entry.process.has(pid));
        let unknown = children.split_whitespace().filter(|pid| !pid.parse().is_ok_and(known)).count();
        // Those in the making have no number here yet.
        unknown > instances().filter(|entry| matches!(entry.process, Process::Making)).count()
    }

    /// SIGKILLs everything that descends from an instance, on a thread of its own.
    pub(super) fn sweep(&self, id: u32) {
        let entry = &self.registry.instances[&id];
        let Process::Exists { pid, pidfd, main, .. } = &entry.process else { return };
        let marks = self.kinship(entry).marks;
        let first = pidfd.try_clone().map(|pidfd| (pidfd, *pid));
        let main = main.as_ref().map(|main| main.pidfd.try_clone().map(|pidfd| (pidfd, main.pid)));
        let leaders: std::io::Result<Vec<(Pidfd, u32)>> = std::iter::once(first).chain(main).collect();
        match leaders {
            Ok(leaders) => drop(self.tasks.spawn_blocking(move || {
                leaders.iter().for_each(|(pidfd, pid)| sweep(pidfd, *pid, &marks));
            })),
            Err(error) => {
                tracing::warn!("instance {id} is killed without its descendants: {error}");
                // What is gone already is as it should be.
                let _ = entry.process.signal(libc::SIGKILL);
            }
        }
    }

    pub(super) async fn exited(&mut self, exit: KeeperExit) {
        if exit.sequence <= self.globals.exit_sequence {
            // Told again because an acknowledgement was lost.
            return self.acknowledge();
        }
        self.globals.exit_sequence = exit.sequence;
        match self.registry.by_process(exit.pid, exit.pidfd_inode) {
            Some(id) if self.outlives(id, exit.pid, exit_of(exit.status)).await => {}
            Some(id) => self.ended(id, exit_of(exit.status)).await,
            None if self.is_standby(&exit) => self.standby_ended(exit.status),
            None => self.stray(exit),
        }
        self.commit_globals();
        self.acknowledge();
    }

    /// A process that nobody knows: a grandchild that came back to the keeper, or one whose making is not known yet.
    pub(super) fn stray(&mut self, exit: KeeperExit) {
        if self.strays.len() == STRAYS {
            self.strays.pop_front();
        }
        self.strays.push_back(exit);
    }

    pub(super) async fn ended(&mut self, id: u32, exit: Exit) {
        let Some(entry) = self.registry.instances.get_mut(&id) else { return };
        let incarnation = entry.life.incarnation();
        let mut exit = exit;
        if let Process::Exists { released, executed, .. } = &entry.process {
            // What it left behind in its group must not hold its ports; there may be nothing.
            let _ = entry.process.signal(libc::SIGKILL);
            exit = match exit {
                // Its own choice of a number that means something else before it is let go.
                Exit::NeverStarted if *released => Exit::Code(NEVER_STARTED),
                Exit::Code(127) if !*executed && entry.failure.is_some() => Exit::NotExecuted,
                exit => exit,
            };
        }
        if exit == Exit::Signal(libc::SIGKILL) && self.ran_out_of_memory(id) {
            exit = Exit::OutOfMemory;
        }
        let label = self.registry.label(&self.registry.instances[&id]);
        tracing::info!("{label} (incarnation {}) ended: {exit}", incarnation.0);
        self.end_leftovers(id);
        let entry = self.registry.instances.get_mut(&id).expect("it was just there");
        let process = std::mem::replace(&mut entry.process, Process::None);
        self.sampler.remove(id);
        self.wire.down(id, incarnation.0).await;
        self.live(id, Life::Exited(incarnation, exit)).await;
        // After the commit: a successor that finds neither the exit in the state nor the process in the store would
        // take the process for one that was never let go.
        self.forget_main(id, incarnation, &process);
        self.store.forget(Name::new(Kind::Pidfd, id, incarnation.0));
        self.store.forget(Name::new(Kind::Link, id, incarnation.0));
    }

    /// Whether it was the kernel that killed it: its control group, which is as old as it is, counts such kills. One that we
    /// were about to end is left out, since that was we.
    fn ran_out_of_memory(&self, id: u32) -> bool {
        let is_asked = matches!(self.registry.instances[&id].life.state(), State::Stopping { .. });
        !is_asked && self.group(id).and_then(|group| group.oom_kills()).is_some_and(|kills| kills > 0)
    }

    pub(super) fn acknowledge(&self) {
        if let Err(error) = self.keeper.acknowledge(self.globals.exit_sequence) {
            tracing::warn!("the keeper does not take an acknowledgement: {error}");
        }
    }
}

fn sweep(pidfd: &Pidfd, pid: u32, marks: &[String]) {
    let swept = sweep_descendants(pidfd, pid, marks, KILL_LIMIT);
    if !swept.clean {
        tracing::warn!("processes that descend from {pid} are left that cannot be killed");
    }
}

/// What the trampoline exits with when its supervisor died before letting it go.
const NEVER_STARTED: i32 = 125;

pub(super) fn exit_of(status: ExitStatus) -> Exit {
    match status {
        ExitStatus::Code(NEVER_STARTED) => Exit::NeverStarted,
        ExitStatus::Code(code) => Exit::Code(code),
        ExitStatus::Signal(signal) => Exit::Signal(signal),
    }
}
