//! The change to another program: of the supervisor, by a standby that proves itself before the one that serves lets
//! go; and of the keeper itself, in place.
//!
//! Invariants
//! - At no moment do two supervisors act: the incumbent has frozen before the standby is told to take over, and a standby
//!   that failed is dead before anyone goes on in its place.
//! - Whatever happens to either, some supervisor serves in the end.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::estate::Will;
use super::protocol::{ExitStatus, FromKeeper, Legacy, Reason, ToKeeper, UpgradeFailure, UpgradeStage as Stage};
use super::run::{Keeper, Phase, RELIEVED, SERVING, STANDBY};
use super::{log, rules, sys};

/// How long one that was relieved, or has frozen in vain, may take to answer whoever asked for the upgrade and exit.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// An upgrade under way.
pub(super) struct Upgrade {
    stage: Stage,
    by: Instant,
    program: OwnedFd,
    /// Why the standby was killed. Nobody is told before it is dead.
    failure: Option<UpgradeFailure>,
}

impl Upgrade {
    pub fn is_taking_over(&self) -> bool {
        self.stage == Stage::Takeover
    }

    fn enter(&mut self, stage: Stage) {
        (self.stage, self.by) = (stage, Instant::now() + rules::limit(stage));
    }
}

impl Keeper {
    /// Starts a standby, if there is a program and no other upgrade.
    pub fn begin_upgrade(&mut self, program: Option<OwnedFd>, stderr: Option<OwnedFd>) {
        let is_free = matches!((self.phase, &self.seats), (Phase::Keeping, [_, None, None]));
        let program = program.filter(|_| is_free).ok_or(io::Error::from(io::ErrorKind::ResourceBusy));
        let start = |program: OwnedFd| {
            let program = sys::out_of_the_way(program)?;
            Ok((self.start(&program, stderr.as_ref(), Reason::Upgrade)?, program))
        };
        match program.and_then(start) {
            Ok((standby, program)) => {
                log::line(format_args!("upgrade: standby {} started", standby.pid));
                self.hello.epoch += 1;
                self.seats[STANDBY] = Some(standby);
                let by = Instant::now() + rules::limit(Stage::Validation);
                self.upgrade = Some(Upgrade { stage: Stage::Validation, by, program, failure: None });
            }
            Err(error) => {
                log::line(format_args!("cannot start a standby: {error}"));
                self.upgrade_failed(UpgradeFailure { stage: Stage::Start, status: None });
            }
        }
    }

    /// Moves an upgrade on by what one of the two says; false when it concerns none.
    pub fn heard_for_upgrade(&mut self, seat: usize, message: ToKeeper) -> bool {
        let [serving, standby, _] = &mut self.seats;
        let (Some(upgrade), Some(standby)) = (&mut self.upgrade, standby) else { return false };
        match (upgrade.stage, seat, message) {
            _ if upgrade.failure.is_some() => return false,
            (Stage::Validation, STANDBY, ToKeeper::Valid) => {
                upgrade.enter(Stage::Freeze);
                serving.iter_mut().for_each(|serving| serving.line.say(FromKeeper::Quiesce));
            }
            (Stage::Freeze, SERVING, ToKeeper::Quiesced) => {
                upgrade.enter(Stage::Takeover);
                serving.iter_mut().for_each(|serving| serving.frozen = true);
                standby.line.take();
                if matches!(self.phase, Phase::Ending { .. }) {
                    standby.line.say(FromKeeper::Stop);
                }
            }
            (Stage::Takeover, STANDBY, ToKeeper::Ready) => self.relieve(),
            _ => return false,
        }
        true
    }

    /// The standby serves from now on.
    fn relieve(&mut self) {
        let (Some(upgrade), Some(mut standby)) = (self.upgrade.take(), self.seats[STANDBY].take()) else { return };
        log::line(format_args!("upgrade: supervisor {} serves", standby.pid));
        standby.ready = true;
        self.programs.insert(0, upgrade.program);
        self.programs.truncate(2);
        self.seats[RELIEVED] = self.seats[SERVING].replace(standby);
        if let Some(incumbent) = &mut self.seats[RELIEVED] {
            incumbent.line.say(FromKeeper::Upgraded);
            incumbent.kill_at = Some(Instant::now() + LAST_WORDS);
        }
    }

    pub fn standby_died(&mut self, status: ExitStatus) {
        // An upgrade that was abandoned is nobody's any more.
        let Some(upgrade) = self.upgrade.take() else { return };
        let stage = match (upgrade.stage, status) {
            (Stage::Validation, ExitStatus::Code(sys::NOT_EXECUTED)) => Stage::Start,
            (stage, _) => stage,
        };
        self.upgrade_failed(upgrade.failure.unwrap_or(UpgradeFailure { stage, status: Some(status) }));
    }

    /// Says that all stays as it was. An incumbent that has frozen knows no longer how things are: it is started again.
    fn upgrade_failed(&mut self, failure: UpgradeFailure) {
        log::line(format_args!("upgrade failed: {failure:?}"));
        if let Some(serving) = &mut self.seats[SERVING] {
            serving.line.say(FromKeeper::UpgradeFailed(failure));
            if serving.frozen {
                serving.kill_at = Some(Instant::now() + LAST_WORDS);
            }
        }
    }

    /// The incumbent died. A standby that takes over already goes on; an earlier one goes.
    pub fn abandon_upgrade(&mut self) {
        if self.upgrade.take_if(|upgrade| !upgrade.is_taking_over()).is_some() {
            self.kill_standby();
        }
    }

    fn kill_standby(&self) {
        self.seats[STANDBY].iter().for_each(|standby| sys::signal(standby.pid, Signal::SIGKILL));
    }

    /// Ends an upgrade whose time is over; answers when that will be.
    pub fn pass_upgrade(&mut self, now: Instant) -> Option<Instant> {
        let upgrade = self.upgrade.as_mut().filter(|upgrade| upgrade.failure.is_none())?;
        if now < upgrade.by {
            return Some(upgrade.by);
        }
        upgrade.failure = Some(UpgradeFailure { stage: upgrade.stage, status: None });
        self.kill_standby();
        None
    }

    /// Becomes the program that was asked for, once nothing is on its way that it would have to know of. Returns if not.
    pub fn renew_if_quiet(&mut self) {
        let [Some(serving), None, None] = &self.seats else { return };
        if !matches!(self.phase, Phase::Keeping) || !serving.line.has_told_all() {
            return;
        }
        let Some(program) = self.renewal.take() else { return };
        let error = match self.will() {
            Ok(will) => will.execute(program),
            Err(error) => error,
        };
        // All is as it was: the supervisor does not notice this either.
        log::line(format_args!("the keeper cannot be renewed: {error}"));
    }

    fn will(&self) -> io::Result<Will> {
        let mut will = Will::new()?;
        will.say(Legacy::Keeper(self.hello, self.exits.last()))?;
        let mut told = 0;
        while let Some(exit) = self.exits.after(told) {
            will.say(Legacy::Exit(*exit))?;
            told = exit.sequence;
        }
        for (name, descriptor) in self.store.after(None) {
            let descriptor = will.leave(descriptor)?;
            will.say(Legacy::Stored(name, descriptor))?;
        }
        for program in &self.programs {
            let program = will.leave(program)?;
            will.say(Legacy::Program(program))?;
        }
        if let Some(serving) = &self.seats[SERVING]
            && let Some(socket) = serving.line.socket()
        {
            let socket = will.leave(socket)?;
            will.say(Legacy::Supervisor(serving.pid, socket, serving.ready))?;
        }
        Ok(will)
    }
}
