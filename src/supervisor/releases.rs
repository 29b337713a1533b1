//! What an app is and was: its releases, committed to the state and sealed in the store.
//!
//! A release is kept before anything knows of it, and let go once no instance runs it and no deployment may go back to
//! it. Which one is in force is the app's; which one an instance runs is the instance's.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::control::Failure;
use super::core::Core;
use super::registry::{App, Release};
use crate::config::spec::AppSpec;
use crate::deployment::Deployment;
use crate::keeper::name::{Kind, Name};
use crate::process::sealed;

impl Core {
    pub(super) fn add_app(&mut self, spec: AppSpec, listeners: Vec<OwnedFd>) -> Result<u32, Failure> {
        let id = self.globals.next_app;
        self.globals.next_app += 1;
        self.commit_globals();
        let release = Release { revision: 1, spec: Arc::new(spec), listeners };
        self.keep_release(id, &release)?;
        let Release { revision, spec, listeners } = release;
        let app = App { id, revision, spec, listeners, others: Vec::new(), newest: revision, deployment: None };
        if let Err(error) = self.state.commit_app(&app.record()) {
            self.forget_release(id, revision, app.listeners.len());
            return Err(Failure::new("no more apps can be kept").cause(error));
        }
        let name = app.spec.name.clone();
        self.registry.apps.insert(id, app);
        self.tell("app.added", Some(&name), None, format!("revision {revision}"));
        Ok(id)
    }

    /// Puts a new release of an app in force, and with it a deployment if there is to be one. Instances run on as they
    /// are.
    pub(super) fn renew(
        &mut self,
        id: u32,
        spec: AppSpec,
        listeners: Vec<OwnedFd>,
        deployment: Option<Deployment>,
    ) -> Result<(), Failure> {
        let revision = self.registry.apps[&id].newest + 1;
        let release = Release { revision, spec: Arc::new(spec), listeners };
        self.keep_release(id, &release)?;
        let app = self.registry.apps.get_mut(&id).expect("whoever renews it has looked it up");
        app.put_in_force(release);
        app.deployment = deployment;
        let name = app.spec.name.clone();
        self.commit_app(id);
        self.tell("app.changed", Some(&name), None, format!("revision {revision}"));
        Ok(())
    }

    pub(super) fn commit_app(&mut self, id: u32) {
        let Some(app) = self.registry.apps.get(&id) else { return };
        if let Err(error) = self.state.commit_app(&app.record()) {
            tracing::error!("the state of app {id} is not committed: {error}");
        }
    }

    fn keep_release(&self, app: u32, release: &Release) -> Result<(), Failure> {
        let Release { revision, spec, listeners } = release;
        let bytes = herdwire_ipc::codec::encode(&**spec)
            .map_err(|error| Failure::new(format!("app `{}` is too large to be kept", spec.name)).cause(error))?;
        let memory = sealed::create(&format!("herdwire-spec-{app}-{revision}"), &bytes)
            .map_err(|error| Failure::new(format!("app `{}` cannot be kept", spec.name)).cause(error))?;
        self.store.keep(Name::new(Kind::Spec, app, *revision), memory.as_fd());
        for (part, listener) in listeners.iter().enumerate() {
            self.store.keep(Name::part(Kind::Listener, app, part as u16, *revision), listener.as_fd());
        }
        Ok(())
    }

    fn forget_release(&self, app: u32, revision: u32, listeners: usize) {
        self.store.forget(Name::new(Kind::Spec, app, revision));
        for part in 0..listeners {
            self.store.forget(Name::part(Kind::Listener, app, part as u16, revision));
        }
    }

    /// Lets go of releases that no instance runs and no deployment may go back to.
    pub(super) fn forget_unneeded_releases(&mut self) {
        let mut unneeded = Vec::new();
        for app in self.registry.apps.values().filter(|app| !app.others.is_empty()) {
            let is_needed = |revision: u32| {
                let deployed = app.deployment.as_ref().is_some_and(|deployment| deployment.may_need(revision));
                deployed || self.registry.instances_of(app.id).any(|entry| entry.revision == revision)
            };
            let others = app.others.iter().map(|release| release.revision);
            unneeded.extend(others.filter(|revision| !is_needed(*revision)).map(|revision| (app.id, revision)));
        }
        for (id, revision) in unneeded {
            let app = self.registry.apps.get_mut(&id).expect("it was just there");
            let Some(release) = app.remove_release(revision) else { continue };
            app.unlink_unused(&release);
            self.forget_release(id, revision, release.listeners.len());
        }
    }

    pub(super) fn forget_app(&mut self, id: u32) {
        let Some(app) = self.registry.apps.remove(&id) else { return };
        if let Err(error) = self.state.remove_app(id) {
            tracing::error!("app {id} is not removed from the state: {error}");
        }
        self.forget_release(id, app.revision, app.listeners.len());
        for other in &app.others {
            self.forget_release(id, other.revision, other.listeners.len());
        }
        app.unlink_sockets();
        self.tell("app.deleted", Some(&app.spec.name), None, "its last instance is gone");
    }
}
