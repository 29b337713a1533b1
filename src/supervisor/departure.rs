//! How a supervisor leaves its loop, and what is left to do when no task and no thread of it runs any more.
//!
//! A frozen one waits for what becomes of its successor. One whose keeper is dead becomes the keeper. Both own what they
//! need for that and nothing else, so that nothing can be touched: the runtime is gone before they begin.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::control::{Failure, Response};
use super::core::Core;
use super::upgrade::{Upgrade, UpgradeFailure};
use crate::keeper::client::{Exit, FromKeeper, KeeperLink};
use crate::keeper::handle::Store;
use crate::keeper::heir::{self, Heirloom};
use crate::keeper::protocol::Words;

/// How long a frozen supervisor waits for the outcome: the keeper's own limit is two seconds.
const OUTCOME_LIMIT: Duration = Duration::from_secs(10);
/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// Exit code of one that was frozen for nothing: the keeper starts its program again.
const FROZEN: u8 = 75;
/// How long a frozen supervisor leaves the keeper's place to its successor, which may serve already.
const AFTER_YOU: Duration = Duration::from_millis(500);
/// How long a keeper may take to die once it has closed its end. It takes us for hung a little later.
const DEATH_LIMIT: Duration = Duration::from_secs(3);

/// How a supervisor leaves its loop.
pub enum Departure {
    /// Everything has ended.
    Ended(ExitCode),
    /// A successor is about to take over.
    Frozen(Frozen),
    /// The keeper is dead.
    Heir(Heir),
}

/// A supervisor that touches nothing any more.
pub struct Frozen {
    pub keeper: KeeperLink,
    pub upgrade: Option<Upgrade>,
    pub heir: Heir,
}

/// All that is needed to become the keeper.
pub struct Heir {
    pub store: Store,
    pub home: PathBuf,
    /// The keeper that this one inherits from.
    pub keeper_pid: u32,
    pub last_exit: u64,
    /// What it said to us.
    pub hello: Words,
}

impl Core {
    /// Leaves everything as it is: what waits is answered, no byte is moved any more.
    pub(super) fn freeze(mut self) -> Frozen {
        let what = "the supervisor is being replaced and has done nothing of this";
        while let Ok((_, reply)) = self.sources.requests.try_recv() {
            // Whoever asked may have gone meanwhile.
            let _ = reply.send(Response::Failed(Failure::new(what).hint("ask again")));
        }
        let (keeper, upgrade, heir) = self.leave();
        Frozen { keeper, upgrade, heir }
    }

    /// Stops what is no task: threads that move or print. Everything is committed at any time.
    pub(super) fn leave(mut self) -> (KeeperLink, Option<Upgrade>, Heir) {
        /// For what is in the files by now to be printed.
        const LIMIT: Duration = Duration::from_millis(200);
        self.pump.stop();
        if let Some(output) = self.foreground.take() {
            output.finish(LIMIT);
        }
        let heir = Heir {
            store: self.store,
            home: self.home.path().to_owned(),
            keeper_pid: self.keeper_pid,
            last_exit: self.globals.exit_sequence,
            hello: self.hello,
        };
        (self.keeper, self.upgrade, heir)
    }
}

impl Frozen {
    /// Hands the standby over to the keeper, waits for the outcome, and answers whoever asked for it.
    pub fn wait(mut self) -> ExitCode {
        let began = Instant::now();
        if let Some(Err(error)) = self.upgrade.as_mut().map(|upgrade| upgrade.trial.hand_over(&self.keeper.sender())) {
            tracing::warn!("the keeper does not hear that we are frozen: {error}");
        }
        while began.elapsed() < OUTCOME_LIMIT {
            match self.keeper.try_receive() {
                Ok(Some(FromKeeper::Relieved)) => return self.succeeded(),
                Ok(Some(FromKeeper::Exit(exit))) if self.awaits(&exit) => {
                    let failure = UpgradeFailure::in_takeover(exit.status, began.elapsed());
                    self.upgrade.take().into_iter().for_each(|upgrade| upgrade.failed(failure));
                    return ExitCode::from(FROZEN);
                }
                Ok(Some(FromKeeper::Gone)) => return self.inherit(),
                // All else is told to whoever serves, too.
                Ok(Some(_)) => {}
                Ok(None) => self.wait_for_news(),
                Err(error) => {
                    tracing::error!("the keeper cannot be heard: {error}");
                    break;
                }
            }
        }
        self.upgrade.take().into_iter().for_each(|upgrade| upgrade.gave_up("nobody says what became of the upgrade"));
        ExitCode::from(FROZEN)
    }

    fn awaits(&self, exit: &Exit) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.trial.is_end(exit))
    }

    fn succeeded(mut self) -> ExitCode {
        tracing::info!("the next supervisor serves: {} ends", std::process::id());
        self.upgrade.take().into_iter().for_each(Upgrade::succeeded);
        ExitCode::SUCCESS
    }

    /// The keeper has died in the middle of it.
    fn inherit(mut self) -> ExitCode {
        self.upgrade.take().into_iter().for_each(|upgrade| upgrade.gave_up("the keeper died during the upgrade"));
        std::thread::sleep(AFTER_YOU);
        self.heir.succeed()
    }

    fn wait_for_news(&self) {
        // It fails only when the keeper is gone, which the next look tells.
        let _ = self.keeper.alive();
        let timeout = PollTimeout::try_from(BEAT).unwrap_or(PollTimeout::MAX);
        let mut interest = [PollFd::new(self.keeper.as_fd(), PollFlags::POLLIN)];
        // Interrupted or not: the next look tells.
        let _ = poll(&mut interest, timeout);
    }
}

impl Heir {
    /// Becomes the keeper, unless somebody else is. Returns only then, or when it fails.
    pub fn succeed(self) -> ExitCode {
        if is_our_parent(self.keeper_pid) {
            tracing::error!("keeper {} has hung up and lives: it starts another supervisor", self.keeper_pid);
            return ExitCode::FAILURE;
        }
        if !self.is_the_one() {
            tracing::info!("keeper {} is dead, and another supervisor becomes the keeper", self.keeper_pid);
            return ExitCode::SUCCESS;
        }
        tracing::warn!("keeper {} is dead: supervisor {} becomes the keeper", self.keeper_pid, std::process::id());
        let error = heir::become_keeper(Heirloom {
            descriptors: self.store.take(),
            last_exit: self.last_exit,
            hello: self.hello,
        });
        tracing::error!("the keeper is dead and this supervisor cannot take its place: {error}");
        ExitCode::FAILURE
    }

    /// In the middle of an upgrade there are two supervisors: the first to make this file becomes the keeper.
    fn is_the_one(&self) -> bool {
        let mark = heir_mark(&self.home, self.keeper_pid);
        let made = std::fs::OpenOptions::new().write(true).create_new(true).open(mark);
        // In a home that cannot be written to, two keepers are less likely than none.
        !made.is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists)
    }
}

/// Whether a keeper that does not speak to us lives all the same: two of them must never be. One that has died is nobody's
/// parent, a moment after its end of the socket was closed.
fn is_our_parent(keeper: u32) -> bool {
    let until = Instant::now() + DEATH_LIMIT;
    while nix::unistd::getppid().as_raw().cast_unsigned() == keeper {
        if Instant::now() >= until {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

/// What says that somebody takes the place of this keeper.
fn heir_mark(home: &std::path::Path, keeper: u32) -> PathBuf {
    home.join(format!("heir-of-{keeper}"))
}

/// Removes what heirs before this supervisor left in the home.
pub fn clear_marks(home: &std::path::Path) {
    let entries = std::fs::read_dir(home).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"heir-of-")) {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::debug!("{} stays: {error}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_that_lives_is_not_inherited_from() {
        assert!(is_our_parent(nix::unistd::getppid().as_raw().cast_unsigned()));
        assert!(!is_our_parent(std::process::id()), "somebody else is not our parent");
    }
}
