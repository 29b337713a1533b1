//! Back from what was written down: by `herdwire resurrect`, or because keeper and supervisor died together.
//!
//! An app comes back as it was: its spec, its instances' numbers where they are free, what was stopped stays stopped.
//! What cannot come back keeps waiting, and is said.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};

use super::answers::Goal;
use super::control::{Failure, Response};
use super::core::Core;
use super::saved::{Aftermath, Document, SavedApp, SavedInstance, files};
use crate::config::spec::Rules;
use crate::lifecycle::{By, Event as Life, Instance};
use crate::process::{self, Ended};

/// How long the processes of a herd whose supervisor has died may take to end.
const ORPHANS_LIMIT: Duration = Duration::from_secs(30);
/// How long all of a control group may take to end.
const GROUP_LIMIT: Duration = Duration::from_secs(5);
/// Between two signs of life to the keeper meanwhile.
const BEAT: Duration = Duration::from_secs(1);
/// The highest number that is given again: far below where the counting ends.
const MAX_NUMBER: u32 = 1 << 30;

impl Core {
    /// What a supervisor that inherits the state takes from disk: what waited is not in the state.
    pub(super) fn read_what_waits(&mut self) {
        let Some(document) = self.find_saved() else { return };
        if self.globals.ending {
            return self.saving.go_on_ending(document);
        }
        self.saving.settings = document.settings;
        self.saving.waiting = document.apps.into_iter().filter(|app| app.waiting).collect();
    }

    /// What a supervisor that inherits nothing does about those before it: ends what is left of them, if they had no
    /// end of their own, and brings back what they ran.
    pub(super) async fn follow_the_dead(&mut self) {
        let document = self.find_saved().unwrap_or_default();
        let aftermath = document.aftermath(&self.saving.here);
        let ended = match aftermath {
            Aftermath::Waits => Ended::default(),
            Aftermath::Clear | Aftermath::Restore => self.end_orphans(&document).await,
        };
        self.end_groups_of_before().await;
        match aftermath {
            Aftermath::Waits | Aftermath::Clear => {
                self.saving.settings = document.settings;
                self.saving.waiting = document.apps.into_iter().map(|app| SavedApp { waiting: true, ..app }).collect();
            }
            Aftermath::Restore => self.restore(document, ended).await,
        }
    }

    /// Ends what is in control groups of an earlier herd, and waits for it: this one's groups have the same names.
    async fn end_groups_of_before(&mut self) {
        let Some(cgroups) = self.cgroups.clone() else { return };
        let ending = tokio::task::spawn_blocking(move || {
            let groups = cgroups.all().into_iter().map(|(id, incarnation)| cgroups.group(id, incarnation));
            for group in groups.filter(|group| !group.end(GROUP_LIMIT)) {
                tracing::warn!("{} holds processes that cannot be killed", group.path().display());
            }
        });
        if let Err(error) = self.without_missing_a_beat(ending).await {
            tracing::error!("the groups of an earlier herd are not ended: {error}");
        }
    }

    fn find_saved(&mut self) -> Option<Document> {
        if self.saving.is_off() {
            return None;
        }
        let found = files::read(&self.home.saved());
        for (path, why) in &found.refused {
            let aside = match files::put_aside(path) {
                Ok(aside) => format!("it is now {}", aside.display()),
                Err(error) => format!("it cannot be put aside: {error}"),
            };
            let refused = format!("{} cannot be used: {why}; {aside}", path.display());
            self.saving.refused.push(refused.clone());
            self.warn(refused);
        }
        if let (Some(used), false) = (&found.used, found.refused.is_empty()) {
            self.warn(format!("what is in {} is used instead", used.display()));
        }
        found.document
    }

    /// Ends what is left of a herd whose keeper and supervisor have died.
    async fn end_orphans(&mut self, document: &Document) -> Ended {
        let marks = vec![format!("HERDWIRE_HOME={}", document.home), format!("HERDWIRE_NODE={}", document.node)];
        let rules = |app: &SavedApp| (app.spec.name.clone(), (app.spec.rules.kill_signal, app.spec.rules.kill_timeout));
        let known: Vec<(String, (i32, Duration))> = document.apps.iter().map(rules).collect();
        let ask = move |environment: &[u8]| {
            let default = Rules::default();
            let name = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"HERDWIRE_NAME="));
            let known = known.iter().find(|(app, _)| Some(app.as_bytes()) == name);
            known.map_or((default.kill_signal, default.kill_timeout), |(_, manners)| *manners)
        };
        let search = tokio::task::spawn_blocking(move || process::end_orphans(&marks, ask, ORPHANS_LIMIT));
        let ended = self.without_missing_a_beat(search).await;
        ended.unwrap_or_else(|error| {
            tracing::error!("the search for orphans has failed: {error}");
            Ended::default()
        })
    }

    /// Waits for what blocks, and tells the keeper meanwhile that we are well.
    async fn without_missing_a_beat<T>(&mut self, mut work: JoinHandle<T>) -> Result<T, JoinError> {
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(BEAT) => {
                    if let Err(error) = self.keeper.alive() {
                        tracing::warn!("the keeper does not hear us: {error}");
                    }
                }
            }
        }
    }

    /// Starts everything again that was running.
    async fn restore(&mut self, document: Document, ended: Ended) {
        let (waiting, apps): (Vec<_>, Vec<_>) = document.apps.into_iter().partition(|app| app.waiting);
        self.saving.settings = document.settings;
        self.saving.waiting = waiting;
        if apps.is_empty() && ended.found == 0 {
            return;
        }
        let ran = |app: &&SavedApp| app.instances.iter().any(|instance| instance.running);
        let names: Vec<String> = apps.iter().filter(ran).map(|app| app.spec.name.clone()).collect();
        let (_, refused) = self.bring_back(apps).await;
        let left = match ended {
            Ended { found: 0, .. } => "nothing of them was left".to_owned(),
            Ended { found, killed, clean: true } => format!("{found} processes of them were ended, {killed} by force"),
            Ended { found, .. } => format!("{found} processes of them were found, and some cannot be ended"),
        };
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        self.warn(format!(
            "keeper and supervisor had died while apps ran: {left}; what ran was started again: {names}"
        ));
        for failure in refused {
            self.warn(failure);
        }
    }

    /// `herdwire resurrect`: brings back what waits.
    pub(super) async fn resurrect(&mut self, reply: oneshot::Sender<Response>) {
        let waiting = std::mem::take(&mut self.saving.waiting);
        if waiting.is_empty() && self.registry.apps.is_empty() {
            let failure = Failure::new(format!("nothing is saved in `{}`", self.home.saved().display()))
                .hint("what runs is saved by itself, and by `herdwire save`");
            let failure = match self.saving.refused.is_empty() {
                true => failure,
                false => Failure::new("nothing that was saved can be used")
                    .cause(self.saving.refused.join("; "))
                    .hint("those files are kept: `herdwire start` describes the apps anew"),
            };
            // Whoever asked may have gone meanwhile.
            return drop(reply.send(Response::Failed(failure)));
        }
        let (goals, refused) = self.bring_back(waiting).await;
        if refused.is_empty() {
            return self.await_goals(goals, reply);
        }
        let failure = Failure::new(refused.join("; "))
            .hint("the others are started; `herdwire resurrect` tries again what is not");
        // Whoever asked may have gone meanwhile.
        let _ = reply.send(Response::Failed(failure));
    }

    /// Brings apps back, with the sections that were in force; and says which of them cannot be.
    async fn bring_back(&mut self, apps: Vec<SavedApp>) -> (Vec<(u32, Goal)>, Vec<String>) {
        let settings = std::mem::take(&mut self.saving.settings);
        let mut refused: Vec<String> = Vec::new();
        if let Err(failure) = self.apply_kept(settings.clone()).await {
            self.saving.settings = settings;
            refused.push(sentence(failure));
        }
        self.reserve_numbers(&apps);
        let mut goals = Vec::new();
        for app in apps {
            // Started by somebody meanwhile: that one counts.
            if self.registry.app_named(&app.spec.name).is_some() {
                continue;
            }
            match self.bring_back_one(&app).await {
                Ok(more) => goals.extend(more),
                Err(failure) => {
                    refused.push(format!("app `{}` is not back: {}", app.spec.name, sentence(failure)));
                    self.saving.waiting.push(SavedApp { waiting: true, ..app });
                }
            }
        }
        self.give_turns().await;
        self.reroute().await;
        (goals, refused)
    }

    /// Numbers from here on are for those that had them: none is given to another meanwhile.
    fn reserve_numbers(&mut self, apps: &[SavedApp]) {
        let numbers = apps.iter().flat_map(|app| &app.instances).map(|instance| instance.number);
        let above = numbers.filter(|number| *number < MAX_NUMBER).max().map_or(0, |number| number + 1);
        self.saving.fresh = self.globals.next_instance..above.max(self.globals.next_instance);
        if above > self.globals.next_instance {
            self.globals.next_instance = above;
            self.commit_globals();
        }
    }

    async fn bring_back_one(&mut self, app: &SavedApp) -> Result<Vec<(u32, Goal)>, Failure> {
        let mut instances: Vec<SavedInstance> = app.instances.clone();
        instances.sort_by_key(|instance| instance.index);
        instances.truncate(app.spec.instances as usize);
        let listeners = self.bind(&app.spec)?;
        // They are taken from the end.
        self.saving.claims = instances.iter().rev().map(|instance| instance.number).collect();
        let added = self.take_app(app.spec.clone(), listeners).await;
        self.saving.claims.clear();
        let id = added?;
        let ids: Vec<u32> = self.registry.staying(id).map(|entry| entry.id).collect();
        let mut in_order: Vec<(u32, u32)> = ids.iter().map(|id| (self.registry.instances[id].index, *id)).collect();
        in_order.sort_unstable();
        let mut goals = Vec::new();
        for (at, (_, id)) in in_order.into_iter().enumerate() {
            // One more than were written down: it is as the app says.
            match instances.get(at) {
                Some(SavedInstance { running: false, ended, .. }) => self.leave_at_rest(id, *ended).await,
                None if !app.spec.autostart => {}
                Some(_) | None => {
                    goals.push((id, self.goal_online(id)));
                    self.queue_starts_by(&[id], By::Resurrect).await;
                }
            }
        }
        Ok(goals)
    }

    /// One that did not run: it ended by itself, or somebody had stopped it. Marked, so that nobody takes it for one that
    /// is still to be started.
    async fn leave_at_rest(&mut self, id: u32, ended: Option<i32>) {
        let Some(code) = ended else { return self.live(id, Life::Stop).await };
        let Some(entry) = self.registry.instances.get(&id) else { return };
        let life = Instance::ended_before(id, code, &self.registry.spec_of(entry).rules);
        if let Some(entry) = self.registry.instances.get_mut(&id) {
            entry.life = life;
        }
        self.commit(id);
    }

    /// The id of a new instance and the number that users know it by: the one that it had, where that is free.
    pub(super) fn number_instance(&mut self) -> (u32, u32) {
        let claim = self.saving.claims.pop().filter(|number| *number < MAX_NUMBER);
        let is_free = |number: &u32| {
            !self.registry.instances.contains_key(number)
                && self.registry.instances.values().all(|entry| entry.number != *number)
        };
        let claim = claim.filter(is_free);
        match claim {
            // Reserved, so never given as an id before.
            Some(number) if self.saving.fresh.contains(&number) => (number, number),
            claim => {
                // The number first: it must not be given twice, whatever happens between the two commits.
                let id = self.globals.next_instance;
                self.globals.next_instance += 1;
                self.commit_globals();
                (id, claim.unwrap_or(id))
            }
        }
    }
}

fn sentence(failure: Failure) -> String {
    match failure.cause {
        Some(cause) => format!("{}: {cause}", failure.what),
        None => failure.what,
    }
}
