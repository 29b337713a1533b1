//! Whose turn it is to start or to stop: the shell around `lifecycle::order`.
//!
//! Owns the turns that are still to come. What is to be started is marked in its committed life, so that a successor goes
//! on; what is to be stopped is doomed, or everything is to end, which is committed too. How an app stands is read off
//! its instances each time; nothing keeps a second copy.
//!
//! Invariants
//! - An instance is started once what its app depends on is there, and stopped once nothing is left that depends on it
//!   and is to be stopped as well.
//! - Of those that wait for a start at most [`MAKING`] are ordered at a time: only they hold descriptors, and nobody's
//!   `listen_timeout` runs out in a queue.

use std::collections::BTreeSet;

use super::control::Failure;
use super::core::Core;
use super::registry::{App, Entry, Process};
use crate::config::spec::{AppSpec, Condition, Dependency};
use crate::lifecycle::order::{self, Needs, Standing, Verdict};
use crate::lifecycle::{By, Event as Life, State};

/// Orders that the thread which makes processes has before it, for starts that were asked for. It makes one at a time: with
/// these it never waits for us, and more would only hold descriptors earlier.
const MAKING: usize = 32;

/// Turns that are still to come.
#[derive(Debug, Default)]
pub struct Turns {
    /// To be started, or restarted where they run.
    starts: BTreeSet<u32>,
    stops: BTreeSet<u32>,
}

impl Core {
    /// Has instances started, or restarted where they run, each in its turn. Their turns come with [`Core::give_turns`].
    pub(super) async fn queue_starts(&mut self, ids: &[u32]) {
        self.queue_starts_by(ids, By::Hand).await;
    }

    /// The same, asked for by somebody else.
    pub(super) async fn queue_starts_by(&mut self, ids: &[u32], by: By) {
        for id in ids {
            self.attribute(*id, by);
            self.turns.stops.remove(id);
            self.turns.starts.insert(*id);
            self.live(*id, Life::Queue).await;
        }
    }

    /// Says who asks for what happens to an instance next.
    pub(super) fn attribute(&mut self, id: u32, by: By) {
        if let Some(entry) = self.registry.instances.get_mut(&id) {
            entry.life.asked_by(by);
        }
    }

    /// Has instances stopped, each in its turn.
    pub(super) fn queue_stops(&mut self, ids: &[u32]) {
        for id in ids {
            self.turns.starts.remove(id);
            self.turns.stops.insert(*id);
        }
    }

    /// Gives every turn that has come.
    pub(super) async fn give_turns(&mut self) {
        // Each stop may make room for the next: an instance without a process is gone at once.
        while let Some(id) = self.turns.stops.iter().copied().find(|id| self.may_stop(*id)) {
            self.turns.stops.remove(&id);
            self.live(id, Life::Stop).await;
        }
        if self.turns.starts.is_empty() {
            return;
        }
        let is_made = |entry: &&Entry| matches!(entry.process, Process::Making);
        let mut room = MAKING.saturating_sub(self.registry.instances.values().filter(is_made).count());
        let mut at = 0;
        while room > 0
            && let Some(id) = self.turns.starts.range(at..).next().copied()
        {
            at = id + 1;
            let Some(entry) = self.registry.instances.get(&id).filter(|entry| entry.life.is_queued()) else {
                // Stopped, started or deleted meanwhile.
                self.turns.starts.remove(&id);
                continue;
            };
            if self.hindrance(entry).is_none() {
                room -= usize::from(!entry.life.has_process());
                self.turns.starts.remove(&id);
                self.live(id, Life::Restart).await;
            }
        }
    }

    /// What is stopped comes after what depends on it, as far as that is to be stopped as well.
    fn may_stop(&self, id: u32) -> bool {
        let nobody_depends = self.registry.apps.values().all(|app| app.spec.depends_on.is_empty());
        let Some(entry) = self.registry.instances.get(&id).filter(|_| !nobody_depends) else { return true };
        let name = self.registry.app_of(entry).spec.name.as_str();
        let needs = self.needs();
        let depends = |app: &App| order::needed_by(&app.spec.name, &needs).contains(name);
        let leaves = |other: &Entry| {
            let is_leaving = matches!(other.life.state(), State::Stopping { .. } | State::Draining { .. });
            other.life.has_process() && (is_leaving || self.turns.stops.contains(&other.id))
        };
        let mut dependents = self.registry.apps.values().filter(|app| app.spec.name != name && depends(app));
        !dependents.any(|app| self.registry.instances_of(app.id).any(leaves))
    }

    /// What an instance still waits for before it may be started, and whether that will come by itself. One that runs is
    /// restarted after those that are on their way up, and not held up by those that are down.
    fn hindrance<'s>(&'s self, entry: &'s Entry) -> Option<(&'s Dependency, Verdict)> {
        let needs = &self.registry.app_of(entry).spec.depends_on;
        let verdicts = needs.iter().map(|need| {
            let standing = self.standing(&need.app);
            let verdict = standing.map_or(Verdict::Never, |standing| standing.verdict(need.condition));
            match entry.life.has_process() && !standing.is_some_and(|standing| standing.is_rising()) {
                true => (need, Verdict::Met),
                false => (need, verdict),
            }
        });
        // What will not come by itself says more than what will.
        verdicts.filter(|(_, verdict)| *verdict != Verdict::Met).max_by_key(|(_, verdict)| *verdict == Verdict::Never)
    }

    fn standing(&self, app: &str) -> Option<Standing> {
        let app = self.registry.app_named(app)?;
        let executes = |entry: &Entry| matches!(entry.process, Process::Exists { executed: true, .. });
        Some(Standing::of(self.registry.staying(app.id).map(|entry| (&entry.life, executes(entry)))))
    }

    /// Whether an instance waits for an app that it depends on.
    pub(super) fn is_held_up(&self, entry: &Entry) -> bool {
        self.hindrance(entry).is_some()
    }

    /// Whether a queued instance waits for something that does not come by itself.
    pub(super) fn waits_in_vain(&self, entry: &Entry) -> bool {
        self.hindrance(entry).is_some_and(|(_, verdict)| verdict == Verdict::Never)
    }

    /// What a queued instance waits for, in a sentence.
    pub(super) fn waits_for(&self, entry: &Entry) -> Option<String> {
        let Some((need, verdict)) = self.hindrance(entry) else {
            return Some("its turn to be started has not come".to_owned());
        };
        let condition = match need.condition {
            Condition::Started => "run",
            Condition::Ready => "be ready",
            Condition::Completed => "have completed",
        };
        let waits = format!("it waits for `{}` to {condition}", need.app);
        Some(match verdict {
            Verdict::Never => format!("{waits}, which it will not by itself: {}", self.why_down(&need.app)),
            Verdict::Met | Verdict::NotYet => waits,
        })
    }

    fn why_down(&self, app: &str) -> String {
        let Some(app) = self.registry.app_named(app) else { return "there is no such app".to_owned() };
        let rules = &app.spec.rules;
        let down = self.registry.staying(app.id).find(|entry| !matches!(entry.life.state(), State::Online { .. }));
        down.and_then(|entry| entry.life.account(rules)).unwrap_or_else(|| "it was never started".to_owned())
    }

    /// The instances of apps that these need and that have to be started for them: at rest, and not as they are needed.
    pub(super) fn needed_for(&self, ids: &[u32]) -> Vec<u32> {
        let needs = self.needs();
        let at_rest = |id: &u32| self.registry.instances.get(id).filter(|entry| !entry.life.has_process());
        let apps: BTreeSet<&str> = ids.iter().filter_map(at_rest).map(|entry| self.name_of(entry)).collect();
        let needed: BTreeSet<&str> = apps.iter().flat_map(|app| order::needed_by(app, &needs)).collect();
        let conditions = self.registry.apps.values().flat_map(|app| {
            let is_concerned = apps.contains(app.spec.name.as_str()) || needed.contains(app.spec.name.as_str());
            app.spec.depends_on.iter().filter(move |_| is_concerned)
        });
        let unmet: BTreeSet<&str> = conditions
            .filter(|need| self.standing(&need.app).is_some_and(|of| of.verdict(need.condition) == Verdict::Never))
            .map(|need| need.app.as_str())
            .collect();
        let instances = self.registry.instances.values().filter(|entry| !entry.doomed && !ids.contains(&entry.id));
        let idle = instances.filter(|entry| matches!(entry.life.state(), State::Stopped | State::Errored));
        idle.filter(|entry| unmet.contains(self.name_of(entry))).map(|entry| entry.id).collect()
    }

    fn name_of(&self, entry: &Entry) -> &str {
        &self.registry.app_of(entry).spec.name
    }

    fn needs(&self) -> Needs<'_> {
        self.registry.apps.values().map(|app| needs_of(&app.spec)).collect()
    }

    /// Refuses specs that, with what is there, need an app that does not exist or one another in a circle.
    pub(super) fn check_order(&self, apps: &[AppSpec]) -> Result<(), Failure> {
        let mut needs = self.needs();
        needs.extend(apps.iter().map(needs_of));
        for spec in apps {
            if let Some(missing) = spec.depends_on.iter().find(|need| !needs.contains_key(need.app.as_str())) {
                let what = format!("app `{}` depends on `{}`, which does not exist", spec.name, missing.app);
                return Err(Failure::new(what).hint("start it first, or with it from one file"));
            }
        }
        match order::circle(&needs) {
            None => Ok(()),
            Some(way) => {
                let way = way.iter().map(|app| format!("`{app}`")).collect::<Vec<_>>().join(" → ");
                Err(Failure::new(format!("apps would wait for one another for ever: {way}")))
            }
        }
    }
}

fn needs_of(spec: &AppSpec) -> (&str, Vec<&str>) {
    (&spec.name, spec.depends_on.iter().map(|need| need.app.as_str()).collect())
}
