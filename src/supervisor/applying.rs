//! `apply`: what runs is made what a file says, and nothing else is touched.
//!
//! The plan is made first (`deployment::plan` says what a change needs); everything that can be refused is tried before
//! anything is done. Each part is carried out as the command of its own would be, all at once, and the answer comes when
//! the last part has come to its end.

use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::sync::oneshot;

use super::control::{Failure, Plan, PlanAction, PlanStep, Response, Selector};
use super::core::Core;
use super::deploys::REFUSED;
use crate::config::spec::{AppSpec, Settings};
use crate::deployment::Policy;
use crate::deployment::plan::{Needs, changes};
use crate::lifecycle::{By, State};

/// An `apply` whose parts are under way.
pub struct Applying {
    parts: Vec<oneshot::Receiver<Response>>,
    plan: Plan,
    failure: Option<Failure>,
    reply: oneshot::Sender<Response>,
}

impl Applying {
    pub fn into_reply(self) -> oneshot::Sender<Response> {
        self.reply
    }
}

/// One app of a file, with what is to become of it.
struct Part {
    spec: AppSpec,
    what: PlanAction,
    listeners: Vec<OwnedFd>,
}

/// What is asked for.
pub(super) struct Asked<'a> {
    pub apps: Vec<AppSpec>,
    pub settings: Settings,
    pub origin: &'a Path,
    pub prune: bool,
    pub dry: bool,
}

impl Core {
    pub(super) async fn apply_specs(&mut self, asked: Asked<'_>, reply: oneshot::Sender<Response>) {
        let plan = self.plan(&asked.apps, asked.prune);
        let answer = match asked.dry {
            true => Response::Plan(plan),
            false => match self.carry_out(&plan, asked).await {
                Ok(parts) => return self.applying.push(Applying { parts, plan, failure: None, reply }),
                Err(failure) => Response::Failed(failure),
            },
        };
        // Whoever asked may have gone meanwhile.
        let _ = reply.send(answer);
    }

    fn plan(&self, apps: &[AppSpec], prune: bool) -> Plan {
        let mut steps: Vec<PlanStep> = apps.iter().map(|spec| self.step_for(spec)).collect();
        let is_pruned = |name: &&String| prune && !apps.iter().any(|spec| spec.name == **name);
        let names = self.registry.apps.values().map(|app| &app.spec.name);
        for name in names.filter(is_pruned) {
            steps.push(PlanStep { app: name.clone(), what: PlanAction::Delete, changes: Vec::new() });
        }
        Plan { steps }
    }

    fn step_for(&self, spec: &AppSpec) -> PlanStep {
        let step = |what, changes| PlanStep { app: spec.name.clone(), what, changes };
        let Some(app) = self.registry.app_named(&spec.name) else { return step(PlanAction::Add, Vec::new()) };
        let have = self.registry.staying(app.id).count() as u32;
        // One may have been deleted by its number.
        let now = AppSpec { instances: have, ..AppSpec::clone(&app.spec) };
        let changes = changes(&now, spec);
        let is_stopped = self.registry.staying(app.id).all(|entry| entry.life.state() == State::Stopped);
        let what = match changes.iter().map(|change| change.needs).max() {
            None => PlanAction::Keep,
            // What was stopped stays stopped: it is started as what it is then.
            Some(_) if is_stopped => PlanAction::Update,
            Some(Needs::Nothing) => PlanAction::Update,
            Some(Needs::Count) => PlanAction::Scale,
            Some(Needs::Reload) => PlanAction::Reload,
        };
        let words = changes.into_iter().map(|change| match change.needs {
            Needs::Count => format!("{}: {have} -> {}", change.key, spec.instances),
            Needs::Nothing | Needs::Reload => change.key,
        });
        step(what, words.collect())
    }

    /// Begins every part, or refuses the whole without having changed anything.
    async fn carry_out(&mut self, plan: &Plan, asked: Asked<'_>) -> Result<Vec<oneshot::Receiver<Response>>, Failure> {
        self.check_order(&asked.apps).map_err(|failure| failure.code(REFUSED))?;
        self.refuse_needed(plan, &asked.apps)?;
        let mut parts = Vec::with_capacity(asked.apps.len());
        for (spec, step) in asked.apps.into_iter().zip(&plan.steps) {
            parts.push(self.prepare(spec, step.what).await.map_err(|failure| failure.code(REFUSED))?);
        }
        self.apply_settings(asked.settings, asked.origin).await.map_err(|failure| failure.code(REFUSED))?;
        let mut answers = Vec::new();
        for part in parts {
            let (reply, answer) = oneshot::channel();
            answers.push(answer);
            self.begin(part, reply).await;
        }
        for step in plan.steps.iter().filter(|step| step.what == PlanAction::Delete) {
            let (reply, answer) = oneshot::channel();
            answers.push(answer);
            self.delete(&Selector::Name(step.app.clone()), reply).await;
        }
        self.reroute().await;
        Ok(answers)
    }

    /// What the file does not name is not deleted under an app that needs it.
    fn refuse_needed(&self, plan: &Plan, apps: &[AppSpec]) -> Result<(), Failure> {
        let goes = |name: &str| plan.steps.iter().any(|step| step.what == PlanAction::Delete && step.app == name);
        let needs = apps.iter().flat_map(|spec| spec.depends_on.iter().map(move |need| (&spec.name, &need.app)));
        match needs.into_iter().find(|(_, needed)| goes(needed)) {
            None => Ok(()),
            Some((app, needed)) => {
                let what = format!("app `{app}` depends on `{needed}`, which `--prune` would delete");
                Err(Failure::new(what).hint("put it into the file as well").code(REFUSED))
            }
        }
    }

    async fn prepare(&self, spec: AppSpec, what: PlanAction) -> Result<Part, Failure> {
        let app = self.registry.app_named(&spec.name);
        if let Some(app) = app.filter(|_| what != PlanAction::Keep) {
            self.refuse_deploying(app.id)?;
        }
        let have = app.map_or(0, |app| self.registry.staying(app.id).count() as u32);
        let surge = match what {
            PlanAction::Add | PlanAction::Scale => spec.instances.saturating_sub(have),
            PlanAction::Reload => spec.reload.parallel.min(spec.instances),
            PlanAction::Update | PlanAction::Keep | PlanAction::Delete => 0,
        };
        if surge > 0 || what == PlanAction::Reload {
            self.preflight(&spec, surge).await?;
        }
        let listeners = if what == PlanAction::Keep { Vec::new() } else { self.bind(&spec)? };
        Ok(Part { spec, what, listeners })
    }

    async fn begin(&mut self, Part { spec, what, listeners }: Part, reply: oneshot::Sender<Response>) {
        let known = self.registry.app_named(&spec.name).map(|app| app.id);
        let refused = match (what, known) {
            (PlanAction::Add, _) => match self.start_app(spec, listeners, By::Apply).await {
                Ok(goals) => return self.await_goals(goals, reply),
                Err(failure) => Some(failure),
            },
            (PlanAction::Reload, Some(id)) => {
                let policy = Policy::from(&spec.reload);
                match self.begin_deployment(id, spec, listeners, policy) {
                    Ok(()) => {
                        self.watch_triggers(id).await;
                        return self.await_deployments(vec![id], reply);
                    }
                    Err(failure) => Some(failure),
                }
            }
            (PlanAction::Scale, Some(id)) => {
                match self.resize(id, spec.instances, Some((spec, listeners)), By::Apply).await {
                    Ok(resized) => return self.await_resized(id, resized, reply),
                    Err(failure) => Some(failure),
                }
            }
            (PlanAction::Update, Some(id)) => {
                let wanted = spec.instances;
                match self.take_over(id, spec, listeners) {
                    Ok(()) => {
                        self.watch_triggers(id).await;
                        self.fit(id, wanted).await.err()
                    }
                    Err(failure) => Some(failure),
                }
            }
            (PlanAction::Keep | PlanAction::Delete, _) | (_, None) => None,
        };
        // It is this supervisor's own: held by the answer that is put together of all.
        let _ = match refused {
            Some(failure) => reply.send(Response::Failed(failure)),
            None => reply.send(Response::Plan(Plan::default())),
        };
    }

    /// Answers each `apply` whose parts have all come to their end.
    pub(super) fn answer_applying(&mut self) {
        for mut applying in std::mem::take(&mut self.applying) {
            let Applying { parts, failure, .. } = &mut applying;
            parts.retain_mut(|part| match part.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => true,
                Ok(Response::Failed(why)) => {
                    // The first one counts.
                    failure.get_or_insert(why);
                    false
                }
                Ok(_) | Err(oneshot::error::TryRecvError::Closed) => false,
            });
            if !applying.parts.is_empty() {
                self.applying.push(applying);
                continue;
            }
            let answer = applying.failure.map_or(Response::Plan(applying.plan), Response::Failed);
            // Whoever asked may have gone meanwhile.
            let _ = applying.reply.send(answer);
        }
    }
}
