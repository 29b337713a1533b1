//! What is done to supervisor and keeper, at random moments, and how soon somebody answers again.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use flood::account::{Account, Figure};
use measure::stand::{Pids, Stand, send};
use measure::{figures, interrupt};
use nix::sys::signal::Signal;

use super::releases::{self, Release};
use crate::promise::Promises;
use crate::random::Random;

/// After a kill the next supervisor answers at the latest.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// An instance exits within this time.
const EXIT_LIMIT: Duration = Duration::from_secs(3);
/// How long it takes the supervisor, at most, to answer an exit with a new process.
const ANSWER: Duration = Duration::from_millis(15);
/// A bad release is taken back within this time.
const ROLL_BACK_LIMIT: Duration = Duration::from_secs(3);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Supervisor,
    Keeper,
    Both,
    Upgrade,
}

/// What was done, and what came of it.
#[derive(Debug)]
pub struct Faults {
    fault: Fault,
    random: Random,
    longest_between: Duration,
    pids: Pids,
    releases: Vec<Release>,
    /// From each kill to the first answer.
    absences: Vec<Duration>,
    upgrades: u64,
    /// Bad releases that were refused, and the longest time that this took.
    refused: u64,
    longest_refusal: Duration,
    /// Releases that did not become of what they should.
    wrong: u64,
}

impl Faults {
    /// Nothing has been done yet.
    ///
    /// # Errors
    /// The system gives no random numbers, nobody answers, or the releases cannot be made.
    pub fn new(fault: Fault, longest_between: Duration, stand: &mut Stand) -> anyhow::Result<Faults> {
        let releases = if fault == Fault::Upgrade { releases::make(&stand.work())? } else { Vec::new() };
        Ok(Faults {
            fault,
            random: Random::new()?,
            longest_between,
            pids: stand.pids()?,
            releases,
            absences: Vec::new(),
            upgrades: 0,
            refused: 0,
            longest_refusal: Duration::ZERO,
            wrong: 0,
        })
    }

    /// Waits for a moment, and does it once more.
    ///
    /// # Errors
    /// Nobody answers afterwards, or the wrong one.
    pub fn next(&mut self, accounts: &[Account], stand: &mut Stand) -> anyhow::Result<()> {
        self.wait_for_a_moment(accounts)?;
        let (before, began) = (self.pids, Instant::now());
        match self.fault {
            Fault::Supervisor => send(before.supervisor, Signal::SIGKILL)?,
            Fault::Keeper => send(before.keeper, Signal::SIGKILL)?,
            Fault::Both => {
                send(before.keeper, Signal::SIGKILL)?;
                // It may be on its way to become the keeper: that is no escape.
                send(before.supervisor, Signal::SIGKILL)?;
                stand.herdwire(["resurrect"])?;
            }
            Fault::Upgrade => return self.upgrade(stand),
        }
        let mut successor = None;
        let is_back = || {
            // Nobody answers while there is none.
            successor = stand.pids().ok().filter(|now| now.supervisor != before.supervisor);
            Ok(successor.is_some())
        };
        interrupt::wait_for(READY_LIMIT, is_back)?;
        let successor =
            successor.with_context(|| format!("no supervisor answers after kill {}", self.absences.len()))?;
        let is_same_keeper = successor.keeper == before.keeper;
        ensure!(is_same_keeper == (self.fault == Fault::Supervisor), "{before:?} became {successor:?}");
        self.absences.push(began.elapsed());
        self.pids = successor;
        Ok(())
    }

    fn upgrade(&mut self, stand: &mut Stand) -> anyhow::Result<()> {
        let release = &self.releases[self.random.below(self.releases.len() as u64) as usize];
        let began = Instant::now();
        let result = stand.herdwire([std::ffi::OsStr::new("upgrade"), release.path.as_os_str()]);
        let took = began.elapsed();
        let now = stand.pids().context("nobody answers after an upgrade")?;
        match (&result, release.is_good) {
            (Ok(_), true) if now.supervisor != self.pids.supervisor => self.upgrades += 1,
            (Err(_), false) => {
                self.refused += 1;
                self.longest_refusal = self.longest_refusal.max(took);
            }
            _ => {
                eprintln!("upgrade to {release:?}: {result:?}, {:?} became {now:?}", self.pids);
                self.wrong += 1;
            }
        }
        self.pids = now;
        Ok(())
    }

    fn wait_for_a_moment(&mut self, accounts: &[Account]) -> anyhow::Result<()> {
        match self.random.below(4) {
            // As soon as it answers.
            0 => Ok(()),
            // While it is busy with an exit.
            1 => {
                wait_for_exit(accounts)?;
                std::thread::sleep(ANSWER * self.random.below(1000) as u32 / 1000);
                Ok(())
            }
            _ => interrupt::sleep_until(Instant::now() + self.longest_between * self.random.below(1000) as u32 / 1000),
        }
    }

    /// Prints what was done and how it went.
    pub fn print(&self) {
        if self.fault == Fault::Upgrade {
            figures::print("upgrades", self.upgrades, "supervisors");
            figures::print("upgrades_refused", self.refused, "supervisors");
            figures::print("upgrades_wrong", self.wrong, "supervisors");
            figures::print("longest_roll_back_ms", self.longest_refusal.as_millis(), "ms");
            return;
        }
        let mut sorted = self.absences.clone();
        sorted.sort_unstable();
        let at = |share: usize| {
            sorted.get((sorted.len() * share / 100).min(sorted.len() - 1)).map_or(0, Duration::as_millis)
        };
        figures::print("kills", sorted.len(), "times");
        figures::print("absence_p50_ms", at(50), "ms");
        figures::print("absence_p99_ms", at(99), "ms");
        figures::print("longest_absence_ms", at(100), "ms");
    }

    /// What must be true of it.
    pub fn promises(&self, promises: &mut Promises) {
        if self.fault == Fault::Upgrade {
            promises.is_zero("upgrades_wrong", self.wrong);
            promises.holds(self.longest_refusal <= ROLL_BACK_LIMIT, || "a bad release stayed too long".to_owned());
        }
    }
}

/// Waits until the next instance is about to exit, if one does.
fn wait_for_exit(accounts: &[Account]) -> anyhow::Result<()> {
    let exits = || accounts.iter().map(|account| account.figure(Figure::ExitCount)).sum::<u64>();
    let (before, until) = (exits(), Instant::now() + EXIT_LIMIT);
    while exits() == before && Instant::now() < until {
        interrupt::check()?;
        // Short, since what follows takes milliseconds.
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}
