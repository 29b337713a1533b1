//! More or fewer instances of an app, and settings that need no new process.
//!
//! New instances have to stay online for `min_ready`, as in a reload. When one does not, all of them are removed again, so
//! that a `scale` that failed has changed nothing. Those that go finish what they have begun first.

use std::os::fd::OwnedFd;

use tokio::sync::oneshot;

use super::control::{Failure, Response, ScaleTo};
use super::core::Core;
use crate::config::MAX_INSTANCES;
use crate::config::spec::AppSpec;
use crate::lifecycle::{By, Event as Life};

impl Core {
    /// Makes an app have so many instances; answers once it has.
    pub(super) async fn scale(&mut self, name: &str, to: ScaleTo, reply: oneshot::Sender<Response>) {
        let begun = match self.may_scale(name, to).await {
            Ok((app, wanted)) => self.resize(app, wanted, None, By::Scale).await.map(|resized| (app, resized)),
            Err(failure) => Err(failure),
        };
        match begun {
            Ok((app, resized)) => self.await_resized(app, resized, reply),
            // Whoever asked may have gone meanwhile.
            Err(failure) => drop(reply.send(Response::Failed(failure))),
        }
    }

    async fn may_scale(&self, name: &str, to: ScaleTo) -> Result<(u32, u32), Failure> {
        let Some(app) = self.registry.app_named(name) else {
            return Err(Failure::new(format!("there is no app `{name}`")).hint("`herdwire list` shows what there is"));
        };
        let have = self.registry.staying(app.id).count() as u32;
        let wanted = match to {
            ScaleTo::Exactly(number) => number,
            ScaleTo::More(more) => have.saturating_add(more),
            ScaleTo::Fewer(fewer) => have.saturating_sub(fewer),
        };
        if wanted == 0 {
            let what = format!("app `{name}` has {have} instances, and none would be left");
            return Err(Failure::new(what).hint(format!("`herdwire stop {name}` or `herdwire delete {name}`")));
        }
        if wanted > MAX_INSTANCES {
            return Err(Failure::new(format!("{wanted} instances of app `{name}` are more than {MAX_INSTANCES}")));
        }
        self.refuse_deploying(app.id)?;
        if wanted > have {
            self.preflight(&app.spec, wanted - have).await?;
        }
        Ok((app.id, wanted))
    }

    /// Adds instances and starts them, or lets the last ones finish. With a spec, that is in force from now on.
    pub(super) async fn resize(
        &mut self,
        app: u32,
        wanted: u32,
        new: Option<(AppSpec, Vec<OwnedFd>)>,
        by: By,
    ) -> Result<Resized, Failure> {
        let (spec, listeners) = match new {
            Some(new) => new,
            None => self.same(app)?,
        };
        self.take_over(app, AppSpec { instances: wanted, ..spec }, listeners)?;
        self.watch_triggers(app).await;
        let mut have: Vec<(u32, u32)> = self.registry.staying(app).map(|entry| (entry.index, entry.id)).collect();
        have.sort_unstable();
        let mut resized = Resized::default();
        for (_, id) in have.iter().skip(wanted as usize).rev() {
            self.retire(*id).await;
            resized.leaving.push(*id);
        }
        self.fit(app, wanted).await?;
        let is_new = |id: &u32| !have.iter().any(|(_, known)| known == id);
        resized.added = self.registry.staying(app).map(|entry| entry.id).filter(is_new).collect();
        for id in &resized.added {
            self.attribute(*id, by);
            self.live(*id, Life::Start).await;
        }
        Ok(resized)
    }

    /// An app's spec and listeners as they are.
    fn same(&self, app: u32) -> Result<(AppSpec, Vec<OwnedFd>), Failure> {
        let spec = AppSpec::clone(&self.registry.apps[&app].spec);
        let listeners = self.bind(&spec)?;
        Ok((spec, listeners))
    }

    /// Puts a spec in force that asks nothing of the processes that run: they count as its own from now on.
    pub(super) fn take_over(&mut self, id: u32, spec: AppSpec, listeners: Vec<OwnedFd>) -> Result<(), Failure> {
        let before = self.registry.apps[&id].revision;
        self.renew(id, spec, listeners, None)?;
        let now = self.registry.apps[&id].revision;
        let current: Vec<u32> =
            self.registry.staying(id).filter(|entry| entry.revision == before).map(|entry| entry.id).collect();
        for instance in current {
            if let Some(entry) = self.registry.instances.get_mut(&instance) {
                entry.revision = now;
            }
            self.commit(instance);
        }
        Ok(())
    }

    /// Removes the instances that a failed `scale` has added.
    pub(super) async fn shrink_back(&mut self, added: &[u32]) {
        let app = added.iter().find_map(|id| Some(self.registry.instances.get(id)?.app));
        for id in added {
            self.doom(*id).await;
            self.live(*id, Life::Stop).await;
        }
        let Some(app) = app else { return };
        let instances = self.registry.staying(app).count() as u32;
        let same = self.same(app);
        let taken = same.and_then(|(spec, listeners)| self.take_over(app, AppSpec { instances, ..spec }, listeners));
        if let Err(failure) = taken {
            tracing::error!("the number of instances of app {app} is not kept: {}", failure.what);
        }
    }
}

/// Instances that came and that go.
#[derive(Default)]
pub(super) struct Resized {
    pub added: Vec<u32>,
    pub leaving: Vec<u32>,
}
