//! Requests whose answer waits for instances: what is awaited of each, and when that is so or will not be.
//!
//! A start answers when every instance is online, or with the first reason why one is not. Nothing here keeps a copy of
//! how an instance stands: after every event each goal is read off its life. What is asked for is carried out in
//! `requests`; what a deployment's end answers is in `deploys`.
//!
//! Invariant: every answer comes, at the latest when the time is over that the apps' own limits allow.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::applying::Applying;
use super::clock;
use super::control::{Failure, Response};
use super::core::Core;
use super::deploys::Awaited;
use super::registry::Entry;
use super::scaling::Resized;
use crate::lifecycle::{Cause, Exit, State, Then, Time};
use crate::snapshot::InstanceView;

/// Beyond what an app's own limits allow, an answer is owed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request whose answer waits for instances.
pub struct Pending {
    goals: Vec<(u32, Goal)>,
    /// What is deleted, as it was: the answer to a delete.
    pub(super) deleted: Vec<InstanceView>,
    /// What goes again when the goals are not reached.
    added: Vec<u32>,
    reply: oneshot::Sender<Response>,
    until: Instant,
}

/// What is awaited of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// Online in an incarnation later than this one.
    OnlineAfter(u32),
    /// Online for `min_ready` in its first incarnation, or through with its work.
    Proven,
    Stopped,
    Gone,
}

impl Core {
    pub(super) fn goal_online(&self, id: u32) -> Goal {
        let life = &self.registry.instances[&id].life;
        // One that is being stopped or restarted gets a process after this one.
        Goal::OnlineAfter(life.incarnation().0)
    }

    pub(super) fn await_goals(&mut self, goals: Vec<(u32, Goal)>, reply: oneshot::Sender<Response>) {
        let apps: BTreeSet<u32> =
            goals.iter().filter_map(|(id, _)| self.registry.instances.get(id)).map(|entry| entry.app).collect();
        let specs = || apps.iter().map(|app| &self.registry.apps[app].spec);
        let limits = specs().map(|spec| spec.rules.kill_timeout * 2 + spec.rules.listen_timeout);
        // Those that wait for one another may take their times one after the other.
        let limit = match specs().any(|spec| !spec.depends_on.is_empty()) {
            true => limits.sum(),
            false => limits.max().unwrap_or_default(),
        };
        let until = Instant::now() + limit + PATIENCE;
        self.pending.push(Pending { goals, deleted: Vec::new(), added: Vec::new(), reply, until });
    }

    pub(super) fn await_resized(&mut self, app: u32, resized: Resized, reply: oneshot::Sender<Response>) {
        let added = resized.added.iter().map(|id| (*id, Goal::Proven));
        let goals = added.chain(resized.leaving.iter().map(|id| (*id, Goal::Gone))).collect();
        self.await_goals(goals, reply);
        let reload = self.registry.apps.get(&app).map(|app| app.spec.reload);
        if let Some(pending) = self.pending.last_mut() {
            pending.added = resized.added;
            pending.until += reload.map_or(Duration::ZERO, |reload| reload.drain_timeout + reload.min_ready);
        }
    }

    /// Answers every request whose instances have got where they should be, or will not.
    pub(super) async fn settle(&mut self) {
        loop {
            self.advance_deployments().await;
            // A candidate that is gone makes room for the next.
            if !self.bury().await {
                break;
            }
        }
        self.answer_awaited().await;
        self.heed_run();
        let mut waiting = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            if pending.reply.is_closed() && pending.added.is_empty() {
                continue;
            }
            match self.verdict(&pending) {
                None => waiting.push(pending),
                Some(Err(failure)) => {
                    self.shrink_back(&pending.added).await;
                    // Whoever asked may have gone meanwhile.
                    let _ = pending.reply.send(Response::Failed(failure));
                }
                Some(Ok(())) => {
                    let mut snapshot = self.snapshot(false).await;
                    if !pending.deleted.is_empty() {
                        snapshot.instances = pending.deleted;
                    }
                    // Whoever asked may have gone meanwhile.
                    let _ = pending.reply.send(Response::Done(Box::new(snapshot)));
                }
            }
        }
        self.pending.extend(waiting);
        self.answer_applying();
    }

    /// Ends `herdwire run` when what it asked for cannot be started.
    fn heed_run(&mut self) {
        let Some(Ok(answer)) = self.run.as_mut().map(oneshot::Receiver::try_recv) else { return };
        self.run = None;
        if let Response::Failed(failure) = answer {
            tracing::error!("{}", failure.what);
            failure.cause.iter().for_each(|cause| tracing::error!("cause: {cause}"));
            failure.hint.iter().for_each(|hint| tracing::error!("hint:  {hint}"));
            // A supervisor that a unit starts stays, whatever could not be brought back.
            self.run_failed = self.foreground.is_some();
        }
    }

    fn verdict(&self, pending: &Pending) -> Option<Result<(), Failure>> {
        let mut all_reached = true;
        for (id, goal) in &pending.goals {
            let Some(entry) = self.registry.instances.get(id) else {
                if let Goal::OnlineAfter(_) | Goal::Proven = goal {
                    return Some(Err(Failure::new(format!("instance {id} was deleted meanwhile"))));
                }
                continue;
            };
            let reached = match goal {
                Goal::OnlineAfter(before) => {
                    if let Some(failure) = self.failed(entry, *before) {
                        return Some(Err(failure));
                    }
                    let is_online = matches!(entry.life.state(), State::Online { .. });
                    (is_online || self.is_done(entry)) && entry.life.incarnation().0 > *before
                }
                Goal::Proven => {
                    if let Some(failure) = self.failed(entry, 0).or_else(|| self.crashed(entry)) {
                        return Some(Err(failure));
                    }
                    self.is_done(entry) || self.proven_at(entry).is_some_and(|at| clock::now() >= at)
                }
                Goal::Stopped => matches!(entry.life.state(), State::Stopped | State::Errored),
                Goal::Gone => false,
            };
            all_reached &= reached;
        }
        if all_reached {
            return Some(Ok(()));
        }
        (Instant::now() >= pending.until).then(|| {
            Err(Failure::new("it takes longer than it should").hint("`herdwire list` shows how far it is; it goes on"))
        })
    }

    /// Why an instance that should come online has not, once that is known.
    fn failed(&self, entry: &Entry, before: u32) -> Option<Failure> {
        if entry.life.is_queued() {
            let because = self.waits_for(entry).filter(|_| self.waits_in_vain(entry))?;
            let name = self.registry.label(entry);
            return Some(Failure::new(format!("instance {name} is not started: {because}")));
        }
        if entry.life.incarnation().0 <= before {
            // Nothing has begun and nothing will: somebody else has asked for the opposite.
            let name = self.registry.label(entry);
            let stopped = matches!(entry.life.state(), State::Stopped | State::Stopping { then: Then::Stay, .. });
            return stopped.then(|| Failure::new(format!("instance {name} was stopped meanwhile")));
        }
        let given_up = match entry.life.state() {
            State::Errored | State::WaitingRestart { .. } => true,
            // Started again after its first death: the first reason counts.
            State::Launching { .. } => entry.life.incarnation().0 > before + 1 && entry.failure.is_some(),
            State::Stopped => !self.is_done(entry),
            State::Online { .. } | State::Draining { .. } | State::Stopping { .. } => false,
        };
        given_up.then(|| self.words_of(entry))
    }

    /// The same of one that is not to crash even once.
    fn crashed(&self, entry: &Entry) -> Option<Failure> {
        (entry.life.incarnation().0 > 1 && entry.life.last_exit().is_some()).then(|| self.words_of(entry))
    }

    /// When a new instance has been online for long enough, if it stays so.
    fn proven_at(&self, entry: &Entry) -> Option<Time> {
        match entry.life.state() {
            State::Online { since } => Some(since + self.registry.spec_of(entry).reload.min_ready),
            _ => None,
        }
    }

    /// When a request is to be looked at although nothing happens.
    pub(super) fn requests_due(&self) -> impl Iterator<Item = Time> {
        let added = self.pending.iter().flat_map(|pending| &pending.added);
        let proven = added.filter_map(|id| self.proven_at(self.registry.instances.get(id)?));
        // What is over has been looked at.
        let now = clock::now();
        proven.filter(move |at| *at >= now)
    }

    fn words_of(&self, entry: &Entry) -> Failure {
        let name = self.registry.label(entry);
        let rules = &self.registry.spec_of(entry).rules;
        let why = entry.life.account(rules).unwrap_or_else(|| "it did not start".to_owned());
        let paths = self.log_paths(entry);
        let failure = Failure::new(format!("instance {name} did not come online: {why}"));
        let failure = entry.failure.iter().fold(failure, |failure, cause| failure.cause(cause));
        failure.hint(format!("its last words are in {} and {}", paths.error.display(), paths.out.display()))
    }

    /// Whether it was to end by itself, has, and ended well: it may have been online for a moment only.
    pub(super) fn is_done(&self, entry: &Entry) -> bool {
        let once = !self.registry.spec_of(entry).rules.autorestart || entry.life.cause() == Cause::StopCode;
        let well = entry.life.last_exit() == Some(Exit::Code(0));
        once && well && entry.life.state() == State::Stopped
    }

    pub(super) fn answer_all(&mut self, response: &Response) {
        let replies = self.pending.drain(..).map(|pending| pending.reply);
        let replies = replies.chain(self.awaited.drain(..).map(Awaited::into_reply));
        for reply in replies.chain(self.applying.drain(..).map(Applying::into_reply)) {
            // Whoever asked may have gone meanwhile.
            let _ = reply.send(response.clone());
        }
    }
}
