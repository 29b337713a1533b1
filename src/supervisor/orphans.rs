//! Instances that are not the keeper's children: after the death of a keeper they belong to init, and nobody tells us
//! of their exits.
//!
//! Each is watched by its pidfd. How it ended is read off the kernel; where the kernel does not remember, the exit is
//! unknown, and shown as such. One that was reaped while there was no supervisor is found out the same way, after the
//! exits that the keeper itself has told.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use herdwire_ipc::tokio::Watched;
use tokio::time::Instant;

use super::core::Core;
use super::deaths::exit_of;
use super::registry::Process;
use crate::keeper::client;
use crate::lifecycle::{Exit, Incarnation};
use crate::process::Pidfd;

/// How long after its end a process may take to be reaped, and its keeper to tell of it, until its exit is unknown.
const REAPED_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks at a process that has ended and was not reaped.
const LOOK: Duration = Duration::from_millis(20);
/// Between two looks at one that cannot be waited for, for want of a descriptor.
const LOOK_SELDOM: Duration = Duration::from_secs(1);

/// The end of a process that was watched.
#[derive(Debug)]
pub struct Ended {
    pub instance: u32,
    pub incarnation: Incarnation,
    /// The main process that it was, if not the one that was started.
    pub main: Option<u32>,
    pub exit: Exit,
}

impl Core {
    /// Watches those of whose exits the keeper will not tell, as far as it has not told of them.
    pub(super) fn watch_orphans(&mut self, orphans: &[(u32, Incarnation)]) {
        for (id, incarnation) in orphans.iter().copied() {
            let Some(entry) = self.registry.instances.get(&id) else { continue };
            let Process::Exists { pidfd, .. } = &entry.process else { continue };
            if entry.life.incarnation() != incarnation {
                continue;
            }
            match pidfd.try_clone() {
                Ok(pidfd) => self.watch_orphan(id, incarnation, pidfd),
                Err(error) => self.warn(format!("instance {id} cannot be watched, its end will go unnoticed: {error}")),
            }
        }
    }

    pub(super) fn watch_orphan(&mut self, instance: u32, incarnation: Incarnation, pidfd: Pidfd) {
        tracing::debug!("instance {instance} is not the keeper's child and is watched");
        self.orphans.insert(instance, incarnation);
        self.watch_end(instance, incarnation, None, pidfd);
    }

    /// Watches a process of an instance until its end: its main one, or the one that was started.
    pub(super) fn watch_end(&self, instance: u32, incarnation: Incarnation, main: Option<u32>, pidfd: Pidfd) {
        let ends = self.orphan_ends.clone();
        self.tasks.spawn(async move {
            let exit = end_of(pidfd).await;
            // The core ends only with everything else.
            let _ = ends.send(Ended { instance, incarnation, main, exit }).await;
        });
    }

    pub(super) async fn orphan_ended(&mut self, Ended { instance, incarnation, main, exit }: Ended) {
        let is_it = |entry: &&super::registry::Entry| {
            entry.life.incarnation() == incarnation
                && entry.life.has_process()
                && !matches!(entry.process, Process::Making)
                // Another is its main process by now, or it was not the main one when it ended.
                && entry.process.main().map(|main| main.pid) == main
        };
        let process = self.registry.instances.get(&instance).filter(is_it).map(|entry| entry.process.pid());
        let outlives = match process {
            Some(Some(pid)) if main.is_none() => self.outlives(instance, pid, exit).await,
            _ => false,
        };
        if process.is_some() && !outlives {
            self.ended(instance, exit).await;
        }
        // The keeper may have told of it first, and a successor be running by now.
        if main.is_none() && self.orphans.get(&instance) == Some(&incarnation) {
            self.orphans.remove(&instance);
        }
    }
}

/// Waits for the end of a process, and for the kernel to say how it ended.
async fn end_of(pidfd: Pidfd) -> Exit {
    wait_dead(&pidfd).await;
    let until = Instant::now() + REAPED_WITHIN;
    loop {
        if let Some(status) = pidfd.ended_with() {
            return as_exit(status);
        }
        if Instant::now() >= until {
            return Exit::Unknown;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn wait_dead(pidfd: &Pidfd) {
    if let Ok(watched) = pidfd.try_clone().and_then(|copy| Watched::new(copy.into_fd())) {
        let ended = || if pidfd.is_dead() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) };
        if watched.read(|_| ended()).await.is_ok() {
            return;
        }
    }
    while !pidfd.is_dead() {
        tokio::time::sleep(LOOK_SELDOM).await;
    }
}

fn as_exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => exit_of(client::ExitStatus::Code(code)),
        (None, Some(signal)) => exit_of(client::ExitStatus::Signal(signal)),
        (None, None) => Exit::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_the_kernel_tells_is_said_as_the_keeper_would() {
        let exit = |raw| as_exit(ExitStatus::from_raw(raw));
        assert_eq!(exit(5 << 8), Exit::Code(5));
        assert_eq!(exit(9), Exit::Signal(9));
        assert_eq!(exit(11 | 0x80), Exit::Signal(11));
        assert_eq!(exit(125 << 8), Exit::NeverStarted);
    }
}
