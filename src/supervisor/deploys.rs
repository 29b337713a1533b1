//! Deployments carried out: what the rules of `deployment` say, done to instances, and committed before it is done.
//!
//! A deployment lies in its app's record and each instance's role in its own, so a successor of this supervisor finds all
//! of it and goes on with the next step. Which of an app's releases an instance runs is the instance's; which one is in
//! force for the app is the new one from the beginning, and the old one again when it is taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::clock;
use super::control::{Failure, LastWords, ReloadOptions, Response, Selector};
use super::core::Core;
use super::registry::{App, Entry, Process, Role};
use crate::config::spec::AppSpec;
use crate::deployment::{Candidate, Condition, Deployment, Member, Phase, Policy, Release, Step, View};
use crate::lifecycle::{By, Cause, Event as Life, Exit, Instance, State, Then, Time};
use crate::logs::{Kind, StreamKey};

/// What the CLI exits with when a reload was refused before anything was touched, and when it has failed.
pub(super) const REFUSED: u8 = 2;
pub(super) const FAILED: u8 = 3;

/// How long an answer waits for the last words of those who failed to get into their files.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Lines of each output that a failure shows.
const LINES: usize = 20;

/// The process that was the first to fail in a deployment. Its log is shared with those before and beside it, so it is
/// not enough to know which number it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Culprit {
    instance: u32,
    incarnation: u32,
}

/// A request that is answered when its deployments have come to their end.
pub struct Awaited {
    apps: Vec<u32>,
    reply: oneshot::Sender<Response>,
    /// Set when there is nothing to wait for but last words.
    until: Option<Instant>,
}

impl Awaited {
    pub fn into_reply(self) -> oneshot::Sender<Response> {
        self.reply
    }
}

impl Core {
    /// Replaces the instances of the apps that are selected, with new specs where some are given.
    pub(super) async fn reload(
        &mut self,
        select: &Selector,
        specs: Vec<AppSpec>,
        options: ReloadOptions,
        reply: oneshot::Sender<Response>,
    ) {
        match self.begin_reload(select, specs, options).await {
            Ok(apps) => self.await_deployments(apps, reply),
            // Whoever asked may have gone meanwhile.
            Err(failure) => drop(reply.send(Response::Failed(failure.code(REFUSED)))),
        }
    }

    async fn begin_reload(
        &mut self,
        select: &Selector,
        mut specs: Vec<AppSpec>,
        options: ReloadOptions,
    ) -> Result<Vec<u32>, Failure> {
        let mut apps: Vec<u32> = self.find(select)?.iter().map(|id| self.registry.instances[id].app).collect();
        apps.sort_unstable();
        apps.dedup();
        if let Some(stranger) = specs.iter().find(|spec| self.registry.app_named(&spec.name).is_none()) {
            let what = format!("app `{}` is not there to be reloaded", stranger.name);
            return Err(Failure::new(what).hint("`herdwire apply FILE` also adds what is new in a file"));
        }
        // Everything that can be refused is tried first, so that a refusal has changed nothing.
        self.check_order(&specs)?;
        let mut prepared = Vec::with_capacity(apps.len());
        for id in apps {
            let app = &self.registry.apps[&id];
            let given = specs.iter().position(|spec| spec.name == app.spec.name).map(|at| specs.swap_remove(at));
            let spec = given.unwrap_or_else(|| AppSpec {
                // As many as there are: some may have been deleted.
                instances: self.registry.staying(id).count() as u32,
                ..AppSpec::clone(&app.spec)
            });
            let mut policy = Policy::from(&spec.reload);
            policy.parallel = options.parallel.unwrap_or(policy.parallel).max(1);
            policy.rollback = options.rollback.unwrap_or(policy.rollback);
            self.refuse_deploying(id)?;
            self.preflight(&spec, policy.parallel.min(spec.instances)).await?;
            let listeners = self.bind(&spec)?;
            prepared.push((id, spec, listeners, policy));
        }
        let mut begun = Vec::with_capacity(prepared.len());
        for (id, spec, listeners, policy) in prepared {
            self.begin_deployment(id, spec, listeners, policy)?;
            self.watch_triggers(id).await;
            begun.push(id);
        }
        self.reroute().await;
        Ok(begun)
    }

    /// Puts a new release in force and leaves it to [`Core::advance_deployments`] to bring it about.
    pub(super) fn begin_deployment(
        &mut self,
        id: u32,
        spec: AppSpec,
        listeners: Vec<std::os::fd::OwnedFd>,
        policy: Policy,
    ) -> Result<(), Failure> {
        let app = &self.registry.apps[&id];
        let old = Release { revision: app.revision, instances: self.registry.staying(id).count() as u32 };
        let new = Release { revision: app.newest + 1, instances: spec.instances };
        tracing::info!("app `{}` is reloaded: revision {} follows {}", spec.name, new.revision, old.revision);
        self.culprits.remove(&id);
        self.renew(id, spec, listeners, Some(Deployment::new(old, new, policy)))
    }

    /// An app has one deployment at a time.
    pub(super) fn refuse_deploying(&self, id: u32) -> Result<(), Failure> {
        let app = &self.registry.apps[&id];
        match app.is_deploying() {
            true => Err(Failure::new(format!("app `{}` is being reloaded", app.spec.name))
                .hint("wait for its end; `restart`, `stop` and `delete` break it off")),
            false => Ok(()),
        }
    }

    /// Breaks off the deployment of an app, if one is under way: something else is wanted of its instances.
    pub(super) async fn abort_deployment(&mut self, id: u32, why: &str) {
        let Some(app) = self.registry.apps.get_mut(&id) else { return };
        let Some(deployment) = app.deployment.as_mut().filter(|deployment| deployment.is_under_way()) else { return };
        deployment.abort(format!("broken off by a {why}"));
        let old = deployment.old_revision();
        app.go_back_to(old);
        self.commit_app(id);
        self.watch_triggers(id).await;
        self.reroute().await;
        self.advance_deployment(id).await;
    }

    // --- step by step ---

    /// Does what is to be done for every deployment, until each of them waits for something.
    pub(super) async fn advance_deployments(&mut self) {
        if self.globals.ending {
            return;
        }
        // Others are at rest, and the most of all there are.
        let watched = self.registry.apps.values().filter(|app| app.deployment.as_ref().is_some_and(is_watched));
        let candidates = self.registry.instances.values().filter(|entry| entry.role == Role::Candidate);
        let apps: BTreeSet<u32> = watched.map(|app| app.id).chain(candidates.map(|entry| entry.app)).collect();
        for app in apps {
            self.advance_deployment(app).await;
        }
        self.forget_unneeded_releases();
    }

    async fn advance_deployment(&mut self, id: u32) {
        // Each step changes something, so they end; a bound all the same, for a mistake must not stop the supervisor.
        for _ in 0..4096 {
            let view = self.deployment_view(id);
            let Some(app) = self.registry.apps.get_mut(&id) else { return };
            let Some(deployment) = app.deployment.as_mut() else { return };
            let before = deployment.clone();
            let step = deployment.step(&view, clock::now());
            let (is_changed, after) = (*deployment != before, deployment.clone());
            if step == Some(Step::TakeBack) {
                app.go_back_to(after.old_revision());
            }
            if is_changed {
                self.note_culprit(id, &before, &after, &view);
                self.commit_app(id);
                self.report(id, before.phase(), &after);
            }
            match step {
                Some(step) => self.take(id, step).await,
                None if is_changed => {}
                None => return,
            }
        }
        tracing::error!("the deployment of app {id} does not come to rest");
    }

    /// Remembers which candidate was the first to fail, when one has.
    fn note_culprit(&mut self, app: u32, before: &Deployment, after: &Deployment, view: &View) {
        let (None, Some(place)) = (before.reason(), after.reason().and_then(|reason| reason.place)) else { return };
        let is_it = |one: &&Candidate| one.place == place && matches!(one.condition, Condition::Failed(_));
        if let Some(failed) = view.candidates.iter().find(is_it)
            && let Some(entry) = self.registry.instances.get(&failed.id)
        {
            let incarnation = entry.life.incarnation().0;
            self.culprits.insert(app, Culprit { instance: failed.id, incarnation });
        }
    }

    /// Says in the log what an operator wants to find there.
    fn report(&mut self, id: u32, before: Phase, after: &Deployment) {
        if before == after.phase() {
            return;
        }
        let name = self.registry.apps[&id].spec.name.clone();
        let why = self.why_failed(id, after).unwrap_or_default();
        let (what, cause) = match after.phase() {
            Phase::Canary => ("deployment.started", "the first new instance is tried"),
            Phase::Waves => ("deployment.proven", "the first new instance is good, the others follow"),
            Phase::TakingBack => ("deployment.taken-back", why.as_str()),
            Phase::Probation { .. } => ("deployment.done", "all is replaced, crashes are watched for a while"),
            Phase::Done => ("deployment.kept", "the new release stays"),
            Phase::Failed => ("deployment.failed", why.as_str()),
        };
        self.tell(what, Some(&name), None, cause);
        match after.phase() {
            Phase::Canary => {}
            Phase::Waves => tracing::info!("app `{name}`: the first new instance is good, the others follow"),
            // Nobody waits any more: whoever looks must see it.
            Phase::TakingBack if matches!(before, Phase::Probation { .. }) => {
                self.warn(format!("app `{name}`: its new release crashes and is taken back: {why}"));
            }
            Phase::TakingBack => tracing::warn!("app `{name}`: the reload is taken back: {why}"),
            Phase::Probation { .. } => tracing::info!("app `{name}` is reloaded; crashes are watched for a while"),
            Phase::Done => tracing::info!("app `{name}`: the reload is over"),
            Phase::Failed => tracing::warn!("app `{name}`: the reload has failed: {why}"),
        }
    }

    async fn take(&mut self, app: u32, step: Step) {
        match step {
            Step::Beside(member) => self.make_candidate(app, Some(member)),
            Step::Add => self.make_candidate(app, None),
            Step::Start(id) => {
                let is_back = |app: &App| app.deployment.as_ref().is_some_and(|one| one.phase() == Phase::TakingBack);
                let by = if self.registry.apps.get(&app).is_some_and(is_back) { By::TakenBack } else { By::Reload };
                self.attribute(id, by);
                self.live(id, Life::Start).await;
            }
            Step::Promote(id) => self.promote(id).await,
            Step::Discard(id) => {
                self.doom(id).await;
                self.live(id, Life::Stop).await;
            }
            Step::Retire(id) => self.retire(id).await,
            Step::TakeBack => {
                self.watch_triggers(app).await;
                self.reroute().await;
            }
        }
    }

    fn make_candidate(&mut self, app: u32, beside: Option<u32>) {
        // The number first: it must not be given twice, whatever happens between the two commits.
        let id = self.globals.next_instance;
        self.globals.next_instance += 1;
        self.commit_globals();
        let revision = self.registry.apps[&app].revision;
        let alone = self.registry.apps[&app].spec.instances == 1;
        let member = beside.and_then(|beside| self.registry.instances.get(&beside));
        let entry = Entry {
            id,
            number: member.map_or(id, |member| member.number),
            app,
            index: member.map_or_else(|| self.registry.free_index(app), |member| member.index),
            life: member.map_or_else(|| Instance::with_seed(id), |member| member.life.successor()),
            process: Process::None,
            created_at_ms: member.map_or_else(clock::wall_ms, |member| member.created_at_ms),
            started_at_ms: 0,
            failure: None,
            doomed: false,
            role: Role::Candidate,
            revision,
            alone,
            told: false,
        };
        match self.state.commit_instance(&entry.record()) {
            Ok(()) => drop(self.registry.instances.insert(id, entry)),
            Err(error) => {
                let app = self.registry.apps.get_mut(&app).expect("it is being deployed");
                if let Some(deployment) = &mut app.deployment {
                    deployment.note_obstacle(format!("no more instances can be kept: {error}"));
                }
            }
        }
    }

    async fn promote(&mut self, id: u32) {
        let Some(candidate) = self.registry.instances.get_mut(&id) else { return };
        candidate.role = Role::Member;
        let (app, number) = (candidate.app, candidate.number);
        self.commit(id);
        tracing::info!("{} is ready and takes its place", self.registry.label(&self.registry.instances[&id]));
        let is_old = |entry: &&Entry| entry.number == number && entry.id != id;
        let old: Vec<u32> = self.registry.staying(app).filter(is_old).map(|entry| entry.id).collect();
        for old in old {
            self.hand_over(old).await;
        }
    }

    /// The number of an instance belongs to another now.
    async fn hand_over(&mut self, id: u32) {
        if let Some(entry) = self.registry.instances.get_mut(&id) {
            entry.role = Role::Retired;
        }
        self.retire(id).await;
    }

    // --- what the rules are shown ---

    pub(super) fn deployment_view(&self, app: u32) -> View {
        let mut view = View::default();
        for entry in self.registry.instances_of(app) {
            let Entry { id, number: place, index, revision, .. } = *entry;
            match entry.role {
                Role::Member if !entry.doomed => view.members.push(Member { id, place, index, revision }),
                Role::Candidate => {
                    view.candidates.push(Candidate { id, place, revision, condition: self.condition(entry) });
                }
                Role::Member | Role::Retired => {}
            }
        }
        view
    }

    fn condition(&self, entry: &Entry) -> Condition {
        match entry.life.state() {
            _ if entry.doomed => Condition::Leaving,
            State::Stopped if entry.life.last_exit().is_none() => Condition::Unstarted,
            // An app that does its work once and ends well.
            State::Stopped if self.is_done(entry) => Condition::Ready { since: Time(0) },
            State::Launching { .. } => Condition::Launching,
            State::Online { since } => Condition::Ready { since },
            State::Stopped
            | State::Draining { .. }
            | State::Stopping { .. }
            | State::WaitingRestart { .. }
            | State::Errored => Condition::Failed(self.words_of_failure(entry)),
        }
    }

    /// Why a candidate is no good, as a sentence that its name stands before.
    fn words_of_failure(&self, entry: &Entry) -> String {
        let timeout = self.registry.spec_of(entry).rules.listen_timeout;
        let words = match (entry.life.state(), entry.life.cause(), entry.life.last_exit()) {
            (State::Stopping { then: Then::Retry, .. }, ..) | (_, Cause::NotReady, _) => {
                format!("did not say that it is ready within {timeout:?}")
            }
            (State::Stopping { .. } | State::Draining { .. }, ..) => "did not stay well".to_owned(),
            (_, _, Some(exit)) => format!("ended: {exit}"),
            (_, _, None) => "did not start".to_owned(),
        };
        entry.failure.iter().fold(words, |words, failure| format!("{words} ({failure})"))
    }

    /// When a deployment is to be looked at although nothing happens.
    pub(super) fn deployments_due(&self) -> impl Iterator<Item = Time> {
        let apps = self.registry.apps.values().filter(|_| !self.globals.ending);
        apps.filter_map(|app| {
            let deployment = app.deployment.as_ref().filter(|deployment| is_watched(deployment))?;
            deployment.due(&self.deployment_view(app.id))
        })
    }

    /// Takes note of a member that ended or had to be ended by itself.
    pub(super) fn heed_crash(&mut self, id: u32, event: Life, before: State) {
        let entry = &self.registry.instances[&id];
        let ran = matches!(before, State::Online { .. } | State::Launching { .. });
        let words = match event {
            Life::Exited(_, Exit::NeverStarted) => return,
            Life::Exited(_, exit) if !self.is_done(entry) => format!("ended: {exit}"),
            Life::Unwell(..) => "did not stay well".to_owned(),
            _ => return,
        };
        if !ran || !entry.is_staying() {
            return;
        }
        let (app, number, revision) = (entry.app, entry.number, entry.revision);
        // Its life may have gone on to the next incarnation already.
        let incarnation = match event {
            Life::Exited(incarnation, _) | Life::Unwell(incarnation, ..) => incarnation.0,
            _ => entry.life.incarnation().0,
        };
        let Some(app) = self.registry.apps.get_mut(&app) else { return };
        let Some(deployment) = &mut app.deployment else { return };
        let was_good = deployment.reason().is_none();
        deployment.note_crash(number, revision, &words);
        if was_good && deployment.reason().is_some() {
            self.culprits.insert(app.id, Culprit { instance: id, incarnation });
        }
        let id = app.id;
        self.commit_app(id);
    }

    // --- answers ---

    pub(super) fn await_deployments(&mut self, apps: Vec<u32>, reply: oneshot::Sender<Response>) {
        self.awaited.push(Awaited { apps, reply, until: None });
    }

    /// Answers those whose deployments have ended.
    pub(super) async fn answer_awaited(&mut self) {
        for mut awaited in std::mem::take(&mut self.awaited) {
            if awaited.reply.is_closed() {
                continue;
            }
            if !awaited.apps.iter().all(|app| self.is_over_for(*app)) {
                self.awaited.push(awaited);
                continue;
            }
            let until = *awaited.until.get_or_insert_with(|| Instant::now() + LAST_WORDS);
            // At the end of a pipe, or at the next beat.
            if self.has_last_words() && Instant::now() < until {
                self.awaited.push(awaited);
                continue;
            }
            let failure = awaited.apps.iter().find_map(|app| self.failure_of(*app));
            let answer = match failure {
                Some(failure) => Response::Failed(failure),
                None => Response::Done(Box::new(self.snapshot(false).await)),
            };
            // Whoever asked may have gone meanwhile.
            let _ = awaited.reply.send(answer);
        }
    }

    fn is_over_for(&self, app: u32) -> bool {
        let deployment = self.registry.apps.get(&app).and_then(|app| app.deployment.as_ref());
        let has_candidates = || self.registry.instances_of(app).any(|entry| entry.role == Role::Candidate);
        deployment.is_none_or(|deployment| !deployment.is_under_way() && !has_candidates())
    }

    /// Whether somebody who is gone has printed what is not in its file yet.
    fn has_last_words(&self) -> bool {
        self.pump.attached().iter().any(|key| !self.registry.instances.contains_key(&key.instance))
    }

    fn failure_of(&self, id: u32) -> Option<Failure> {
        let Some(app) = self.registry.apps.get(&id) else {
            return Some(Failure::new("the app was deleted meanwhile").code(FAILED));
        };
        let deployment = app.deployment.as_ref().filter(|deployment| deployment.phase() == Phase::Failed)?;
        let failure = Failure::new(format!("the reload of app `{}` has failed", app.spec.name)).code(FAILED);
        let failure = self.why_failed(id, deployment).into_iter().fold(failure, Failure::cause);
        let last_words = self.culprits.get(&id).map(|culprit| self.last_words(*culprit)).unwrap_or_default();
        Some(Failure { last_words, ..failure })
    }

    /// What a process has printed last, stderr first. Nothing of one whose lines this supervisor has not seen itself.
    fn last_words(&self, of: Culprit) -> Vec<LastWords> {
        let words = |kind: Kind| {
            let key = StreamKey { instance: of.instance, incarnation: of.incarnation, kind };
            let found = self.pump.last_lines(key, LINES).unwrap_or_else(|error| {
                tracing::debug!("the last words of instance {} cannot be read: {error}", of.instance);
                None
            });
            let (path, lines) = found?;
            let lines = lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
            Some(LastWords { error: kind == Kind::Err, path, lines })
        };
        [Kind::Err, Kind::Out].into_iter().filter_map(words).collect()
    }

    /// What went wrong first, with the name of who did it.
    pub(super) fn why_failed(&self, id: u32, deployment: &Deployment) -> Option<String> {
        let reason = deployment.reason()?;
        let name = &self.registry.apps.get(&id)?.spec.name;
        Some(match reason.place {
            Some(place) => format!("{name}:{place} {}", reason.text),
            None => reason.text.clone(),
        })
    }

    // --- after the death of a supervisor ---

    /// Finishes what a death cut in two: a number has one owner, and the release in force is the deployment's.
    pub(super) async fn mend_deployments(&mut self) {
        // Rising ids, so the newest of each number stays.
        let staying = || self.registry.instances.values().filter(|entry| entry.is_staying());
        let newest: BTreeMap<(u32, u32), u32> = staying().map(|entry| ((entry.app, entry.number), entry.id)).collect();
        let is_outdone = |entry: &&Entry| newest[&(entry.app, entry.number)] != entry.id;
        let outdone: Vec<u32> = staying().filter(is_outdone).map(|entry| entry.id).collect();
        for id in outdone {
            self.hand_over(id).await;
        }
        self.advance_deployments().await;
    }
}

/// Whether anything may still come of a deployment.
fn is_watched(deployment: &Deployment) -> bool {
    deployment.is_under_way() || matches!(deployment.phase(), Phase::Probation { .. })
}
