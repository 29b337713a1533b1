//! What happens to one instance next: a pure state machine.
//!
//! Owns the states, the restart rules and the counters that belong to them. Does not start, signal or wait for
//! anything (`supervisor` does what an [`Action`] says), and reads no clock: the time comes in as an argument.
//!
//! Invariants
//! - Late news of an earlier incarnation never touches its successor.
//! - Every wait has an end: each state that waits carries its deadline, and [`Instance::deadline`] reads it off.
//! - A process that was asked to stop is killed at `kill_timeout`, and again, until its exit is known.

mod found;
mod record;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::spec::Rules;

/// A moment: milliseconds of the boot clock, which goes on in suspend and never jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl std::ops::Add<Duration> for Time {
    type Output = Time;
    fn add(self, wait: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Time {
    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// One process of an instance, counted from 1; 0 is "none yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u32);

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Stopped,
    /// Its process is being made, or has yet to say that it is ready.
    Launching {
        ready_by: Time,
    },
    Online {
        since: Time,
    },
    /// Told to finish what it has begun and to end; asked to stop at `until`.
    Draining {
        until: Time,
    },
    /// Asked to stop; killed at `kill_at`.
    Stopping {
        kill_at: Time,
        then: Then,
    },
    WaitingRestart {
        until: Time,
    },
    /// Given up on; [`Instance::trouble`] says why.
    Errored,
}

/// What follows once a stopping instance is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Stay,
    /// Asked for: start again at once.
    Respawn,
    /// It never got ready: treat it as a quick death.
    Retry,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// Its supervisor died before it was let go; it never ran.
    NeverStarted,
    /// It could not be executed.
    NotExecuted,
    /// Nobody could tell.
    Unknown,
}

/// News for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Start,
    Stop,
    Restart,
    /// Its process executes the program.
    Spawned(Incarnation),
    /// No process could be made.
    SpawnFailed(Incarnation),
    /// It says that it is ready.
    Ready(Incarnation),
    Exited(Incarnation, Exit),
    /// It does not do what a healthy one does.
    Unwell(Incarnation, Ailment),
    /// Something besides its own end restarts it, if it runs.
    Due(Trigger),
    /// Its successor serves: finish within this long, then stop for good.
    Drain(Duration),
    /// It says that what it does now takes at least this long more.
    Extended(Incarnation, Duration),
    /// It says that it is ending.
    Quitting(Incarnation),
    /// The time of [`Instance::deadline`] has come.
    Deadline,
}

/// What a running instance lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ailment {
    /// No `WATCHDOG=1` in time.
    Watchdog,
    /// No sign of life of its link in time.
    Heartbeat,
    /// Its liveness probe failed too often.
    Probe,
    /// It uses more than `max_memory_restart`.
    Memory,
}

/// What restarts an instance besides its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// `cron_restart`.
    Cron,
    /// A watched file changed.
    File,
}

impl Event {
    fn incarnation(self) -> Option<Incarnation> {
        match self {
            Event::Spawned(of) | Event::SpawnFailed(of) | Event::Ready(of) | Event::Quitting(of) => Some(of),
            Event::Exited(of, _) | Event::Unwell(of, _) | Event::Extended(of, _) => Some(of),
            Event::Start | Event::Stop | Event::Restart | Event::Deadline | Event::Due(_) | Event::Drain(_) => None,
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make the process of this incarnation.
    Spawn(Incarnation),
    /// Tell it to finish what it has begun.
    Drain(Incarnation),
    /// Send `kill_signal` to its group.
    Signal(Incarnation),
    /// SIGKILL everything that descends from it.
    Kill(Incarnation),
}

/// Why an instance was given up or restarted, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Too many deaths in a row came before `min_uptime`.
    QuickDeaths,
    /// It did not say that it is ready within `listen_timeout`.
    NotReady,
    /// No process could be made.
    NoProcess,
}

/// Quick deaths in a row that are answered at once; from then on the wait doubles.
const FREE_RETRIES: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);

/// How long the making of a process may take when readiness is not asked for. Only a machine that is about to fail
/// needs it: the exec normally follows within milliseconds.
const SPAWN_LIMIT: Duration = Duration::from_secs(30);

/// One instance's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    state: State,
    incarnation: Incarnation,
    /// Times a process was started in place of an earlier one.
    restarts: u32,
    /// Deaths before `min_uptime`, in a row.
    quick_deaths: u32,
    last_exit: Option<Exit>,
    trouble: Trouble,
}

impl Default for Instance {
    fn default() -> Instance {
        Instance::new()
    }
}

impl Instance {
    /// An instance that never ran.
    pub fn new() -> Instance {
        Instance {
            state: State::Stopped,
            incarnation: Incarnation(0),
            restarts: 0,
            quick_deaths: 0,
            last_exit: None,
            trouble: Trouble::None,
        }
    }

    /// An instance that takes this one's place: it has not run, and its counters go on from this one's.
    pub fn successor(&self) -> Instance {
        Instance { incarnation: self.incarnation, restarts: self.restarts, ..Instance::new() }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    pub fn quick_deaths(&self) -> u32 {
        self.quick_deaths
    }

    pub fn last_exit(&self) -> Option<Exit> {
        self.last_exit
    }

    pub fn trouble(&self) -> Trouble {
        self.trouble
    }

    /// Whether a process of the current incarnation may exist.
    pub fn has_process(&self) -> bool {
        !matches!(self.state, State::Stopped | State::WaitingRestart { .. } | State::Errored)
    }

    /// When [`Event::Deadline`] is due.
    pub fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Launching { ready_by } => Some(ready_by),
            State::Stopping { kill_at, .. } => Some(kill_at),
            State::WaitingRestart { until } | State::Draining { until } => Some(until),
            State::Stopped | State::Online { .. } | State::Errored => None,
        }
    }

    /// Moves on by one event and says what to do about it, if anything.
    pub fn handle(&mut self, event: Event, rules: &Rules, now: Time) -> Option<Action> {
        use Event::*;
        use State::*;
        // Late news of an earlier incarnation must not touch its successor.
        if event.incarnation().is_some_and(|of| of != self.incarnation) {
            return None;
        }
        if event == Deadline && self.deadline().is_none_or(|at| now < at) {
            return None;
        }
        match (self.state, event) {
            (Stopped | Errored, Start | Restart) => self.start_by_hand(rules, now),
            (WaitingRestart { .. }, Start | Restart) => self.start_by_hand(rules, now),
            (WaitingRestart { .. }, Deadline) => self.respawn(rules, now),
            (WaitingRestart { .. } | Errored, Stop) => self.enter(Stopped),
            (Launching { .. }, Spawned(_)) if !rules.wait_ready => self.enter(Online { since: now }),
            // It runs; whether it is ready is for it to say.
            (Launching { .. }, Spawned(_)) => None,
            (Launching { .. }, SpawnFailed(_)) => self.died(Exit::NotExecuted, Trouble::NoProcess, rules, now),
            (Launching { .. }, Ready(_)) => self.enter(Online { since: now }),
            (Launching { .. }, Deadline) => self.signal(Then::Retry, rules, now),
            (Launching { .. } | Online { .. }, Stop) => self.signal(Then::Stay, rules, now),
            (Launching { .. } | Online { .. }, Restart) => self.signal(Then::Respawn, rules, now),
            // Not its fault: its supervisor died before it was let go.
            (Launching { .. } | Online { .. }, Exited(_, Exit::NeverStarted)) => self.spawn(rules, now),
            (Launching { .. }, Exited(_, exit)) => self.died(exit, Trouble::QuickDeaths, rules, now),
            (Online { since }, Exited(_, exit)) => self.ended(exit, since, rules, now),
            (Stopping { kill_at, .. }, Stop) => self.enter(Stopping { kill_at, then: Then::Stay }),
            (Stopping { kill_at, .. }, Start | Restart) => self.enter(Stopping { kill_at, then: Then::Respawn }),
            (Stopping { then, .. }, Deadline) => self.kill(then, rules, now),
            (Stopping { then, .. }, Exited(_, exit)) => self.gone(exit, then, rules, now),
            // It could not be made, so there is nothing to wait for.
            (Stopping { then, .. }, SpawnFailed(_)) => self.gone(Exit::NotExecuted, then, rules, now),
            (Online { .. }, Unwell(..) | Due(_)) => self.signal(Then::Respawn, rules, now),
            (Launching { .. } | Online { .. }, Drain(limit)) => self.drain(limit, now),
            (Draining { .. }, Stop | Deadline) => self.signal(Then::Stay, rules, now),
            (Draining { .. }, Start | Restart) => self.signal(Then::Respawn, rules, now),
            (Draining { .. }, Exited(_, exit)) => self.gone(exit, Then::Stay, rules, now),
            (Draining { .. }, SpawnFailed(_)) => self.gone(Exit::NotExecuted, Then::Stay, rules, now),
            // Nothing to do. Spelled out, so that a new state or event has to be thought about here.
            (Stopped, Stop)
            | (Stopped | Errored | WaitingRestart { .. }, Spawned(_) | SpawnFailed(_) | Ready(_) | Exited(..))
            | (Stopped | Errored, Deadline)
            | (Launching { .. }, Start)
            | (Online { .. }, Start | Spawned(_) | SpawnFailed(_) | Ready(_) | Deadline)
            | (Stopping { .. } | Draining { .. }, Spawned(_) | Ready(_))
            | (Stopped | Errored | WaitingRestart { .. } | Launching { .. }, Unwell(..) | Due(_))
            | (Draining { .. } | Stopping { .. }, Unwell(..) | Due(_) | Drain(_))
            | (Stopped | Errored | WaitingRestart { .. }, Drain(_))
            | (_, Extended(..) | Quitting(_)) => None,
        }
    }

    fn enter(&mut self, state: State) -> Option<Action> {
        self.state = state;
        None
    }

    fn start_by_hand(&mut self, rules: &Rules, now: Time) -> Option<Action> {
        self.quick_deaths = 0;
        self.trouble = Trouble::None;
        if self.incarnation.0 > 0 {
            self.restarts += 1;
        }
        self.spawn(rules, now)
    }

    fn respawn(&mut self, rules: &Rules, now: Time) -> Option<Action> {
        self.restarts += 1;
        self.spawn(rules, now)
    }

    fn spawn(&mut self, rules: &Rules, now: Time) -> Option<Action> {
        self.incarnation = Incarnation(self.incarnation.0 + 1);
        let limit = if rules.wait_ready { rules.listen_timeout } else { SPAWN_LIMIT };
        self.state = State::Launching { ready_by: now + limit };
        Some(Action::Spawn(self.incarnation))
    }

    fn drain(&mut self, limit: Duration, now: Time) -> Option<Action> {
        self.state = State::Draining { until: now + limit };
        Some(Action::Drain(self.incarnation))
    }

    fn signal(&mut self, then: Then, rules: &Rules, now: Time) -> Option<Action> {
        self.state = State::Stopping { kill_at: now + rules.kill_timeout, then };
        Some(Action::Signal(self.incarnation))
    }

    fn kill(&mut self, then: Then, rules: &Rules, now: Time) -> Option<Action> {
        let again = rules.kill_timeout.max(Duration::from_millis(100));
        self.state = State::Stopping { kill_at: now + again, then };
        Some(Action::Kill(self.incarnation))
    }

    /// A process that was told to stop has ended.
    fn gone(&mut self, exit: Exit, then: Then, rules: &Rules, now: Time) -> Option<Action> {
        match then {
            Then::Stay => {
                self.last_exit = Some(exit);
                self.enter(State::Stopped)
            }
            Then::Respawn => {
                self.last_exit = Some(exit);
                self.start_by_hand(rules, now)
            }
            Then::Retry => self.died(exit, Trouble::NotReady, rules, now),
        }
    }

    /// A process that was online has ended by itself.
    fn ended(&mut self, exit: Exit, since: Time, rules: &Rules, now: Time) -> Option<Action> {
        if now.since(since) < rules.min_uptime {
            return self.died(exit, Trouble::QuickDeaths, rules, now);
        }
        self.quick_deaths = 0;
        self.trouble = Trouble::None;
        self.last_exit = Some(exit);
        if !rules.autorestart {
            return self.enter(State::Stopped);
        }
        self.retry_after(rules.restart_delay, rules, now)
    }

    /// A process has ended before it had started well.
    fn died(&mut self, exit: Exit, trouble: Trouble, rules: &Rules, now: Time) -> Option<Action> {
        self.last_exit = Some(exit);
        self.trouble = trouble;
        if !rules.autorestart {
            // As in pm2: it ended, which is no error of ours; that it never ran or got ready is.
            let ran = trouble == Trouble::QuickDeaths && exit != Exit::NotExecuted;
            return self.enter(if ran { State::Stopped } else { State::Errored });
        }
        self.quick_deaths += 1;
        if self.quick_deaths >= rules.max_restarts {
            return self.enter(State::Errored);
        }
        self.retry_after(rules.restart_delay.max(backoff(self.quick_deaths)), rules, now)
    }

    fn retry_after(&mut self, wait: Duration, rules: &Rules, now: Time) -> Option<Action> {
        if wait.is_zero() {
            return self.respawn(rules, now);
        }
        self.enter(State::WaitingRestart { until: now + wait })
    }
}

/// How long to wait after so many quick deaths in a row: nothing at first, then doubling up to [`LONGEST_BACKOFF`].
fn backoff(quick_deaths: u32) -> Duration {
    match quick_deaths.checked_sub(FREE_RETRIES + 1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_BACKOFF.saturating_mul(1 << doublings.min(16)).min(LONGEST_BACKOFF),
    }
}

#[cfg(test)]
mod tests;
