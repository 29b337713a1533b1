//! How a new release takes over from an old one, instance by instance: pure rules.
//!
//! Owns the order of things (one canary, then waves, then the probation), what counts as a failure, and the way back. It
//! looks at what there is and names the next step ([`Deployment::step`]), one at a time, until there is none; so it does
//! not matter whether it goes on after an event or after the death of a supervisor. What an app's two specs differ in,
//! and what that needs, is [`plan`]'s. Does not start, stop or wait for anything (`supervisor` does what a [`Step`] says).
//!
//! Invariants
//! - An instance gives up its place only to one that has been ready for `min_ready`, or because there are more than
//!   wanted at the very end.
//! - Every failure is counted, and the attempts are bounded both on the way there and on the way back: it ends.
//! - The reason that is told is that of the first failure.

pub mod plan;
mod record;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::config::spec::ReloadSpec;
use crate::lifecycle::Time;

/// Crashes of new instances in the probation after which they are taken back.
const CRASHES_ALLOWED: u32 = 1;

/// Attempts to bring an instance of the old release back that may fail.
const SETBACKS_ALLOWED: u32 = 3;

/// The settings that a deployment goes by, fixed when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub min_ready: Duration,
    pub parallel: u32,
    pub max_failures: u32,
    pub rollback: bool,
    pub probation: Duration,
}

impl From<&ReloadSpec> for Policy {
    fn from(spec: &ReloadSpec) -> Policy {
        Policy {
            min_ready: spec.min_ready,
            parallel: spec.parallel.max(1),
            max_failures: spec.max_failures,
            rollback: spec.rollback,
            probation: spec.probation,
        }
    }
}

/// A release of the app: which revision, and how many instances it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    pub revision: u32,
    pub instances: u32,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// One new instance shows whether the release is any good.
    Canary,
    /// The others follow.
    Waves,
    /// It has failed; what was replaced is replaced back.
    TakingBack,
    /// All is replaced; crashes until then still take it back.
    Probation {
        until: Time,
    },
    Done,
    Failed,
}

/// The first thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The number that the instance has or was to have, if it was one instance's fault.
    pub place: Option<u32>,
    /// As a sentence, without the instance's name.
    pub text: String,
}

/// One deployment of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    phase: Phase,
    old: Release,
    new: Release,
    policy: Policy,
    /// New instances that failed, before or after they had taken their place.
    failures: u32,
    /// Attempts on the way back that failed.
    setbacks: u32,
    reason: Option<Reason>,
}

/// One that has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub id: u32,
    /// The number that users know it by.
    pub place: u32,
    pub index: u32,
    pub revision: u32,
}

/// One that was started to take a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: u32,
    pub place: u32,
    pub revision: u32,
    pub condition: Condition,
}

/// How a candidate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Unstarted,
    Launching,
    Ready {
        since: Time,
    },
    /// Discarded, and not gone yet.
    Leaving,
    /// It will not get ready, or did not stay so: why.
    Failed(String),
}

/// What there is of an app.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    pub members: Vec<Member>,
    pub candidates: Vec<Candidate>,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make a candidate for the place of this member, not started yet.
    Beside(u32),
    /// Make a candidate for a new place, not started yet.
    Add,
    /// Start a candidate.
    Start(u32),
    /// The candidate takes its place; whoever had it finishes and goes.
    Promote(u32),
    /// End a candidate.
    Discard(u32),
    /// A member that is one too many finishes and goes.
    Retire(u32),
    /// The app's release is the old one again.
    TakeBack,
}

impl Deployment {
    /// One that has not begun.
    pub fn new(old: Release, new: Release, policy: Policy) -> Deployment {
        Deployment { phase: Phase::Canary, old, new, policy, failures: 0, setbacks: 0, reason: None }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }

    /// The release that it brings, whether it gets there or not.
    pub fn new_revision(&self) -> u32 {
        self.new.revision
    }

    /// The release that it goes back to when it fails.
    pub fn old_revision(&self) -> u32 {
        self.old.revision
    }

    /// Whether instances are still being replaced.
    pub fn is_under_way(&self) -> bool {
        matches!(self.phase, Phase::Canary | Phase::Waves | Phase::TakingBack)
    }

    /// Whether it may still need this revision, which no instance may run.
    pub fn may_need(&self, revision: u32) -> bool {
        let on_trial = matches!(self.phase, Phase::Probation { .. });
        (self.is_under_way() || on_trial) && [self.old.revision, self.new.revision].contains(&revision)
    }

    /// Instances that are as they will be, and how many there will be.
    pub fn progress(&self, view: &View) -> (u32, u32) {
        let goal = self.goal();
        let there = view.members.iter().filter(|member| member.revision == goal.revision).count();
        ((there as u32).min(goal.instances), goal.instances)
    }

    /// When to look again although nothing has happened.
    pub fn due(&self, view: &View) -> Option<Time> {
        if let Phase::Probation { until } = self.phase {
            return Some(until);
        }
        let ready = view.candidates.iter().filter_map(|candidate| self.proven_at(candidate));
        ready.min().filter(|_| self.is_under_way())
    }

    /// Ends it where it is: what was replaced stays, what was begun is dropped, the app's release is the old one.
    pub fn abort(&mut self, text: String) {
        self.reason.get_or_insert(Reason { place: None, text });
        self.phase = Phase::Failed;
    }

    /// A step could not be taken.
    pub fn note_obstacle(&mut self, text: String) {
        match self.phase {
            Phase::TakingBack => self.setbacks += 1,
            _ => self.fail(None, text),
        }
    }

    /// A member has crashed by itself.
    pub fn note_crash(&mut self, place: u32, revision: u32, text: &str) {
        let counts = matches!(self.phase, Phase::Canary | Phase::Waves | Phase::Probation { .. });
        if counts && revision == self.new.revision {
            self.fail(Some(place), text.to_owned());
        }
    }

    /// What to do next; `None` when there is nothing to do before something happens or [`Deployment::due`].
    ///
    /// The caller does it, looks at what there is then, and asks again.
    pub fn step(&mut self, view: &View, now: Time) -> Option<Step> {
        match self.phase {
            Phase::Canary | Phase::Waves => self.advance(view, now),
            Phase::TakingBack => self.retreat(view, now),
            Phase::Probation { until } => self.watch(until, view, now),
            Phase::Done | Phase::Failed => clear(view),
        }
    }

    fn goal(&self) -> Release {
        match self.phase {
            Phase::TakingBack | Phase::Failed => self.old,
            Phase::Canary | Phase::Waves | Phase::Probation { .. } | Phase::Done => self.new,
        }
    }

    fn fail(&mut self, place: Option<u32>, text: String) {
        self.failures += 1;
        self.reason.get_or_insert(Reason { place, text });
    }

    fn advance(&mut self, view: &View, now: Time) -> Option<Step> {
        if self.failures > self.policy.max_failures {
            return self.give_up(view);
        }
        if let Some((candidate, why)) = failed(view) {
            self.fail(Some(candidate.place), why.to_owned());
            return Some(Step::Discard(candidate.id));
        }
        if let Some(proven) = self.proven(view, now) {
            self.phase = Phase::Waves;
            return Some(Step::Promote(proven));
        }
        let at_once = if self.phase == Phase::Canary { 1 } else { self.policy.parallel };
        self.shift(view, at_once).or_else(|| {
            if self.is_shifted(view) {
                // From here on only the crashes of the probation count.
                self.failures = 0;
                self.reason = None;
                self.phase = match self.policy.probation {
                    Duration::ZERO => Phase::Done,
                    probation => Phase::Probation { until: now + probation },
                };
            }
            None
        })
    }

    fn retreat(&mut self, view: &View, now: Time) -> Option<Step> {
        if self.setbacks > SETBACKS_ALLOWED {
            self.phase = Phase::Failed;
            return clear(view);
        }
        if let Some((candidate, why)) = failed(view) {
            // One of the new release goes in any case; it says nothing of the old one.
            if candidate.revision == self.old.revision {
                self.setbacks += 1;
                if let Some(reason) = self.reason.as_mut().filter(|_| self.setbacks == 1) {
                    reason.text += &format!("; on the way back: {why}");
                }
            }
            return Some(Step::Discard(candidate.id));
        }
        if let Some(proven) = self.proven(view, now) {
            return Some(Step::Promote(proven));
        }
        self.shift(view, self.policy.parallel).or_else(|| {
            if self.is_shifted(view) {
                self.phase = Phase::Failed;
            }
            None
        })
    }

    fn watch(&mut self, until: Time, view: &View, now: Time) -> Option<Step> {
        if self.failures > CRASHES_ALLOWED && self.policy.rollback {
            self.phase = Phase::TakingBack;
            return Some(Step::TakeBack);
        }
        if now >= until {
            self.reason = None;
            self.phase = Phase::Done;
        }
        clear(view)
    }

    /// Too much has failed: back, or no further.
    fn give_up(&mut self, view: &View) -> Option<Step> {
        let replaced = view.members.iter().any(|member| member.revision == self.new.revision);
        if self.policy.rollback || !replaced {
            self.phase = Phase::TakingBack;
            return Some(Step::TakeBack);
        }
        self.phase = Phase::Failed;
        clear(view)
    }

    /// The next step towards the goal, with at most so many candidates at once.
    fn shift(&self, view: &View, at_once: u32) -> Option<Step> {
        let goal = self.goal();
        if let Some(stray) = view.candidates.iter().find(|one| one.revision != goal.revision && !one.is_leaving()) {
            return Some(Step::Discard(stray.id));
        }
        if let Some(unstarted) = view.candidates.iter().find(|one| one.condition == Condition::Unstarted) {
            return Some(Step::Start(unstarted.id));
        }
        if view.candidates.len() < at_once as usize {
            let is_free = |member: &&Member| !view.candidates.iter().any(|one| one.place == member.place);
            let behind = view.members.iter().filter(|member| member.revision != goal.revision);
            if let Some(next) = behind.filter(is_free).min_by_key(|member| member.index) {
                return Some(Step::Beside(next.id));
            }
            let is_new = |one: &&Candidate| !view.members.iter().any(|member| member.place == one.place);
            let places = view.members.len() + view.candidates.iter().filter(is_new).count();
            if places < goal.instances as usize {
                return Some(Step::Add);
            }
        }
        let is_current = view.members.iter().all(|member| member.revision == goal.revision);
        let too_many = view.members.len() > goal.instances as usize;
        let last = view.members.iter().max_by_key(|member| member.index);
        last.filter(|_| too_many && is_current && view.candidates.is_empty()).map(|last| Step::Retire(last.id))
    }

    fn is_shifted(&self, view: &View) -> bool {
        let goal = self.goal();
        view.candidates.is_empty()
            && view.members.len() == goal.instances as usize
            && view.members.iter().all(|member| member.revision == goal.revision)
    }

    fn proven_at(&self, candidate: &Candidate) -> Option<Time> {
        match candidate.condition {
            Condition::Ready { since } if candidate.revision == self.goal().revision => {
                Some(since + self.policy.min_ready)
            }
            _ => None,
        }
    }

    fn proven(&self, view: &View, now: Time) -> Option<u32> {
        let is_proven = |one: &&Candidate| self.proven_at(one).is_some_and(|at| now >= at);
        view.candidates.iter().find(is_proven).map(|one| one.id)
    }
}

impl Candidate {
    fn is_leaving(&self) -> bool {
        self.condition == Condition::Leaving
    }
}

/// Ends what nobody needs any more.
fn clear(view: &View) -> Option<Step> {
    view.candidates.iter().find(|one| !one.is_leaving()).map(|one| Step::Discard(one.id))
}

/// The first candidate that has failed, and why.
fn failed(view: &View) -> Option<(&Candidate, &str)> {
    view.candidates.iter().find_map(|candidate| match &candidate.condition {
        Condition::Failed(why) => Some((candidate, why.as_str())),
        _ => None,
    })
}
