//! What happens to one instance next: a pure state machine.
//!
//! Owns the states ([`states`]), the restart rules (`budget`, `waits`), what is remembered of it (`record`), why it is as it
//! is ([`cause`]), and in which order apps that need one another come and go ([`order`]). Does not start, signal or wait
//! for anything (`supervisor` does what an [`Action`] says), and reads no clock: the time comes in as an argument.
//!
//! Invariants
//! - Late news of an earlier incarnation never touches its successor.
//! - Every wait has an end: each state that waits carries its deadline, and [`Instance::deadline`] reads it off.
//! - A process that was asked to stop is killed at `kill_timeout`, and again, until its exit is known.
//! - An instance that keeps failing is given up: within `restart_window` it is never started again `max_restarts` times.

mod budget;
pub mod cause;
mod found;
pub mod order;
mod record;
pub mod states;
mod waits;

use std::time::Duration;

use budget::Budget;
pub use cause::Cause;
pub use states::{Action, Ailment, By, Event, Exit, Incarnation, State, Then, Time, Trigger};

use crate::config::spec::Rules;

/// How long the making of a process may take when readiness is not asked for. Only a machine that is about to fail
/// needs it: the exec normally follows within milliseconds.
const SPAWN_LIMIT: Duration = Duration::from_secs(30);

/// The most that an instance gets by asking for more time once. It may ask again.
const LONGEST_EXTENSION: Duration = Duration::from_secs(24 * 60 * 60);

/// One instance's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    state: State,
    incarnation: Incarnation,
    /// Times a process was started in place of an earlier one.
    restarts: u32,
    /// Restarts by itself since it last ran well: what waits grow by.
    row: u32,
    /// Failures that may yet make it be given up.
    budget: Budget,
    last_exit: Option<Exit>,
    cause: Cause,
    /// A start or restart was asked for, and its turn has not come.
    queued: bool,
    /// Makes its waits differ from those of others.
    seed: u32,
    /// Who it is that [`Cause::ByHand`] means of a start.
    by: By,
}

impl Default for Instance {
    fn default() -> Instance {
        Instance::new()
    }
}

impl Instance {
    /// An instance that never ran.
    pub fn new() -> Instance {
        Instance::with_seed(0)
    }

    /// An instance that never ran, with a number that makes its waits differ from those of others.
    pub fn with_seed(seed: u32) -> Instance {
        Instance {
            state: State::Stopped,
            incarnation: Incarnation(0),
            restarts: 0,
            row: 0,
            budget: Budget::default(),
            last_exit: None,
            cause: Cause::None,
            queued: false,
            seed,
            by: By::Hand,
        }
    }

    /// An instance that takes this one's place: it has not run, and its counters go on from this one's.
    pub fn successor(&self) -> Instance {
        Instance { incarnation: self.incarnation, restarts: self.restarts, ..Instance::with_seed(self.seed) }
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

    pub fn last_exit(&self) -> Option<Exit> {
        self.last_exit
    }

    /// Why it was last started, restarted, stopped or given up.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Whether a start or restart was asked for whose turn has not come.
    pub fn is_queued(&self) -> bool {
        self.queued
    }

    /// Says who asks for the start or restart that comes next. Of several who ask before it comes, the first counts.
    pub fn asked_by(&mut self, by: By) {
        if !self.queued {
            self.by = by;
        }
    }

    /// Sets its counters back, as if it had never failed and never been restarted.
    pub fn reset(&mut self) {
        self.restarts = 0;
        self.forgive();
    }

    /// Whether it rests because it ended by itself, and not because somebody wanted it.
    pub fn ended_by_itself(&self) -> bool {
        self.state == State::Stopped && self.cause.is_its_own()
    }

    /// Whether nothing has ever happened to it.
    pub fn is_untouched(&self) -> bool {
        *self == Instance::with_seed(self.seed)
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
        match event {
            Queue => self.queued = true,
            Start | Restart | Drain(_) => self.queued = false,
            Stop => (self.queued, self.by) = (false, By::Hand),
            _ => {}
        }
        match (self.state, event) {
            (Stopped | Errored | WaitingRestart { .. }, Start | Restart) => self.start(Cause::ByHand, rules, now),
            (Stopped | Errored | WaitingRestart { .. }, Due(trigger)) => self.start_if_its_own(trigger, rules, now),
            (WaitingRestart { .. }, Deadline) => self.respawn(rules, now),
            // Also of one that is stopped: from now on it is so because somebody wanted it.
            (Stopped | WaitingRestart { .. } | Errored, Stop) => self.rest(Cause::ByHand),
            (WaitingRestart { .. }, Drain(_)) => self.rest(Cause::Retired),

            (Launching { .. }, Spawned(_)) if !rules.wait_ready => self.enter(Online { since: now }),
            // It runs; whether it is ready is for it to say.
            (Launching { .. }, Spawned(_)) => None,
            (Launching { .. }, SpawnFailed(_)) => self.failed(Exit::NotExecuted, Cause::NoProcess, rules, now),
            (Launching { .. }, Unstartable(_)) => self.give_up(),
            (Launching { .. }, Ready(_)) => self.enter(Online { since: now }),
            (Launching { .. }, Deadline) => self.signal(Cause::NotReady, Then::Retry, rules, now),
            // A change while it reads its files may have come too late for it; a time that comes then is no reason.
            (Launching { .. }, Due(Trigger::Cron)) => None,

            (Launching { .. } | Online { .. }, Stop) => self.signal(Cause::ByHand, Then::Stay, rules, now),
            (Launching { .. } | Online { .. }, Restart) => self.restart(rules, now),
            (Launching { .. } | Online { .. }, Due(trigger)) => {
                self.signal(Cause::Due(trigger), Then::Respawn, rules, now)
            }
            (Launching { .. } | Online { .. }, Drain(limit)) => self.drain(limit, now),
            (Launching { .. } | Online { .. }, Unwell(_, ailment)) => self.ail(ailment, rules, now),
            (Launching { .. } | Online { .. }, Quitting(_)) => self.quit(rules, now),
            // Not its fault: its supervisor died before it was let go.
            (Launching { .. } | Online { .. }, Exited(_, Exit::NeverStarted)) => self.spawn(rules, now),
            (Launching { .. } | Online { .. }, Exited(_, exit)) => {
                self.ended(exit, Cause::Ended, self.is_young(rules, now), rules, now)
            }

            (Draining { .. }, Stop) => self.signal(Cause::ByHand, Then::Stay, rules, now),
            (Draining { .. }, Deadline) => self.signal(Cause::Retired, Then::Stay, rules, now),
            (Draining { .. }, Start | Restart) => self.restart(rules, now),
            (Draining { .. }, Exited(_, exit)) => self.gone(exit, Then::Stay, rules, now),
            // It could not be made, so there is nothing to wait for.
            (Draining { .. }, SpawnFailed(_) | Unstartable(_)) => self.gone(Exit::NotExecuted, Then::Stay, rules, now),

            (Stopping { kill_at, .. }, Stop) => self.turn(kill_at, Cause::ByHand, Then::Stay),
            (Stopping { kill_at, .. }, Drain(_)) => self.turn(kill_at, Cause::Retired, Then::Stay),
            (Stopping { kill_at, .. }, Start | Restart) => {
                self.forgive();
                self.turn(kill_at, Cause::ByHand, Then::Respawn)
            }
            (Stopping { then, .. }, Deadline) => self.kill(then, rules, now),
            (Stopping { then, .. }, Exited(_, exit)) => self.gone(exit, then, rules, now),
            (Stopping { then, .. }, SpawnFailed(_) | Unstartable(_)) => self.gone(Exit::NotExecuted, then, rules, now),

            (Launching { .. } | Draining { .. } | Stopping { .. }, Extended(_, more)) => self.extend(more, now),

            // Nothing to do. Spelled out, so that a new state or event has to be thought about here.
            (_, Queue)
            | (Stopped | Errored, Drain(_) | Deadline)
            | (Stopped | Errored | WaitingRestart { .. }, Spawned(_) | SpawnFailed(_) | Ready(_) | Exited(..))
            | (Stopped | Errored | WaitingRestart { .. }, Unwell(..) | Extended(..) | Quitting(_) | Unstartable(_))
            | (Launching { .. }, Start)
            | (
                Online { .. },
                Start | Spawned(_) | SpawnFailed(_) | Unstartable(_) | Ready(_) | Deadline | Extended(..),
            )
            | (Stopping { .. } | Draining { .. }, Spawned(_) | Ready(_) | Unwell(..) | Due(_) | Quitting(_))
            | (Draining { .. }, Drain(_)) => None,
        }
    }

    // --- into a state ---

    fn enter(&mut self, state: State) -> Option<Action> {
        self.state = state;
        None
    }

    fn rest(&mut self, cause: Cause) -> Option<Action> {
        self.cause = cause;
        self.enter(State::Stopped)
    }

    fn start(&mut self, cause: Cause, rules: &Rules, now: Time) -> Option<Action> {
        self.forgive();
        self.cause = cause;
        if self.incarnation.0 == 0 { self.spawn(rules, now) } else { self.respawn(rules, now) }
    }

    /// One that ended or failed by itself gets another chance; one that was stopped, or was never started, stays so.
    fn start_if_its_own(&mut self, trigger: Trigger, rules: &Rules, now: Time) -> Option<Action> {
        let its_own = self.state != State::Stopped || self.cause.is_its_own();
        if its_own && !self.queued { self.start(Cause::Due(trigger), rules, now) } else { None }
    }

    fn respawn(&mut self, rules: &Rules, now: Time) -> Option<Action> {
        self.restarts = self.restarts.saturating_add(1);
        self.spawn(rules, now)
    }

    fn spawn(&mut self, rules: &Rules, now: Time) -> Option<Action> {
        self.incarnation = Incarnation(self.incarnation.0.wrapping_add(1));
        // Whatever was asked for, this is it.
        self.queued = false;
        let limit = if rules.wait_ready { rules.listen_timeout } else { SPAWN_LIMIT };
        self.state = State::Launching { ready_by: now + limit };
        Some(Action::Spawn(self.incarnation))
    }

    // --- on the way out ---

    fn restart(&mut self, rules: &Rules, now: Time) -> Option<Action> {
        self.forgive();
        self.signal(Cause::ByHand, Then::Respawn, rules, now)
    }

    fn drain(&mut self, limit: Duration, now: Time) -> Option<Action> {
        self.cause = Cause::Retired;
        self.state = State::Draining { until: now + limit };
        Some(Action::Drain(self.incarnation))
    }

    fn signal(&mut self, cause: Cause, then: Then, rules: &Rules, now: Time) -> Option<Action> {
        self.turn(now + rules.kill_timeout, cause, then);
        Some(match rules.shutdown_with_message {
            true => Action::Ask(self.incarnation),
            false => Action::Signal(self.incarnation),
        })
    }

    /// Says anew what follows the end of a process that is on its way out.
    fn turn(&mut self, kill_at: Time, cause: Cause, then: Then) -> Option<Action> {
        self.cause = cause;
        self.enter(State::Stopping { kill_at, then })
    }

    fn kill(&mut self, then: Then, rules: &Rules, now: Time) -> Option<Action> {
        let again = rules.kill_timeout.max(Duration::from_millis(100));
        self.state = State::Stopping { kill_at: now + again, then };
        Some(Action::Kill(self.incarnation))
    }

    fn extend(&mut self, more: Duration, now: Time) -> Option<Action> {
        let at_least = now + more.min(LONGEST_EXTENSION);
        match &mut self.state {
            State::Launching { ready_by: at }
            | State::Draining { until: at }
            | State::Stopping { kill_at: at, .. }
            | State::WaitingRestart { until: at } => *at = at_least.max(*at),
            State::Stopped | State::Online { .. } | State::Errored => {}
        }
        None
    }

    /// It does not do what a healthy one does: it is stopped, and that counts as a failure, except where it has grown
    /// too large in the course of time, which whoever set the limit expects.
    fn ail(&mut self, ailment: Ailment, rules: &Rules, now: Time) -> Option<Action> {
        self.note_uptime(rules, now);
        let expected = ailment == Ailment::Memory && !self.is_young(rules, now);
        let then = if expected { Then::Respawn } else { Then::Retry };
        self.signal(Cause::Ailing(ailment), then, rules, now)
    }

    /// It is ending by itself: it has the time of a stop for that, and then the rules for ends apply.
    fn quit(&mut self, rules: &Rules, now: Time) -> Option<Action> {
        let then = Then::Ends { young: self.is_young(rules, now) };
        self.note_uptime(rules, now);
        self.turn(now + rules.kill_timeout, Cause::Quit, then)
    }

    // --- gone ---

    /// A process that was on its way out has ended.
    fn gone(&mut self, exit: Exit, then: Then, rules: &Rules, now: Time) -> Option<Action> {
        match then {
            Then::Stay => {
                self.last_exit = Some(exit);
                self.enter(State::Stopped)
            }
            Then::Respawn => {
                self.last_exit = Some(exit);
                self.respawn(rules, now)
            }
            Then::Retry => self.failed(exit, self.cause, rules, now),
            Then::Ends { young } => self.ended(exit, Cause::Quit, young, rules, now),
        }
    }

    /// A process has ended by itself.
    fn ended(&mut self, exit: Exit, cause: Cause, young: bool, rules: &Rules, now: Time) -> Option<Action> {
        self.note_uptime(rules, now);
        self.last_exit = Some(exit);
        if let Exit::Code(code) = exit
            && rules.stop_exit_codes.contains(&code)
        {
            return self.rest(Cause::StopCode);
        }
        let cause = match exit {
            Exit::OutOfMemory => Cause::OutOfMemory,
            _ if young => Cause::QuickDeath,
            _ => cause,
        };
        if young {
            return self.failed(exit, cause, rules, now);
        }
        if !rules.autorestart {
            return self.rest(cause);
        }
        self.cause = cause;
        let wait = match &rules.backoff {
            Some(backoff) => self.next_wait(backoff),
            None => rules.restart_delay,
        };
        self.retry_after(wait, rules, now)
    }

    /// A process has failed: it ended before it had started well, or was ended because it was not well.
    fn failed(&mut self, exit: Exit, cause: Cause, rules: &Rules, now: Time) -> Option<Action> {
        self.last_exit = Some(exit);
        self.cause = cause;
        let ended = matches!(cause, Cause::QuickDeath | Cause::OutOfMemory);
        // What is ended by us for its health is not "ends by itself".
        if !rules.autorestart && !matches!(cause, Cause::Ailing(_)) {
            // As in pm2: it ended, which is no error of ours; that it never ran or got ready is.
            let ran = ended && exit != Exit::NotExecuted;
            return self.enter(if ran { State::Stopped } else { State::Errored });
        }
        self.budget.spend(rules.restart_window, now);
        if self.budget.total() >= rules.max_restarts {
            return self.enter(State::Errored);
        }
        let wait = match &rules.backoff {
            Some(backoff) => self.next_wait(backoff),
            None => {
                self.row = self.row.saturating_add(1);
                // A wait that was chosen is the wait.
                match rules.restart_delay {
                    Duration::ZERO => waits::after_failures(self.row),
                    chosen => chosen,
                }
            }
        };
        self.retry_after(wait, rules, now)
    }

    /// It is not started again by itself, however many tries are left.
    fn give_up(&mut self) -> Option<Action> {
        self.last_exit = Some(Exit::NotExecuted);
        self.cause = Cause::NoProcess;
        self.enter(State::Errored)
    }

    fn retry_after(&mut self, wait: Duration, rules: &Rules, now: Time) -> Option<Action> {
        if wait.is_zero() {
            return self.respawn(rules, now);
        }
        self.enter(State::WaitingRestart { until: now + wait })
    }

    // --- what is remembered ---

    /// Somebody looks after it: it begins anew.
    fn forgive(&mut self) {
        self.budget = Budget::default();
        self.row = 0;
    }

    /// Whether it has not started well yet.
    fn is_young(&self, rules: &Rules, now: Time) -> bool {
        self.uptime(now) < rules.min_uptime || matches!(self.state, State::Launching { .. })
    }

    fn uptime(&self, now: Time) -> Duration {
        match self.state {
            State::Online { since } => now.since(since),
            _ => Duration::ZERO,
        }
    }

    /// One that ran long enough waits as if it had never failed.
    fn note_uptime(&mut self, rules: &Rules, now: Time) {
        let enough = rules.backoff.map_or(rules.min_uptime, |backoff| backoff.reset);
        if matches!(self.state, State::Online { .. }) && self.uptime(now) >= enough {
            self.row = 0;
        }
    }

    fn next_wait(&mut self, backoff: &crate::config::spec::Backoff) -> Duration {
        self.row = self.row.saturating_add(1);
        waits::growing(backoff, self.row, self.seed, self.incarnation)
    }
}

#[cfg(test)]
mod tests;
