//! `reload`: replaces instances one after another, and shows how far it is.
//!
//! The answer comes at the end, however long that takes; meanwhile the supervisor is looked at, and should it die in
//! the middle, its successor is.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::arguments::ReloadArguments;
use super::client::{Client, ClientError};
use super::error::{CliError, LogTail};
use super::output::Output;
use super::{list, select, start};
use crate::config::spec::AppSpec;
use crate::snapshot::{DeploymentPhase, DeploymentView, InstanceView, Snapshot};
use crate::supervisor::control::{Failure, LastWords, ReloadOptions, Request, Response};

/// How long a reload may take. It ends by itself: this is for a supervisor that does not.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked how far it is.
const TICK: Duration = Duration::from_millis(200);
/// How long a successor may take to come back when the supervisor dies.
const SUCCESSOR: Duration = Duration::from_secs(30);
/// What a reload that has failed exits with.
const FAILED: u8 = 3;

/// Reloads what the words name: apps as they are, or a file's apps as it says.
pub fn reload(client: &Client, arguments: &ReloadArguments, out: &mut Output) -> Result<(), CliError> {
    let options = ReloadOptions { parallel: arguments.parallel, rollback: arguments.no_rollback.then_some(false) };
    let (words, apps) = match arguments.targets.as_slice() {
        [file] if file.ends_with(".toml") => from_file(Path::new(file))?,
        words => {
            arguments.env_of_shell.warn();
            (words.to_vec(), Vec::new())
        }
    };
    let before = list::fetch(client, false)?;
    let request = Request::Reload { select: select::selector(&words), apps, options };
    follow(client, &request, before.as_ref(), out)
}

fn from_file(file: &Path) -> Result<(Vec<String>, Vec<AppSpec>), CliError> {
    let loaded = start::load(file, &start::surroundings()?).map_err(CliError::before_anything)?;
    let apps = loaded.resolved.apps;
    if apps.is_empty() {
        return Err(CliError::usage(format!("`{}` has no apps", file.display()), "an app is an [[app]] section"));
    }
    Ok((apps.iter().map(|app| app.name.clone()).collect(), apps))
}

/// Asks for something that deploys, shows how far it is, and says how it ended.
pub fn follow(client: &Client, request: &Request, before: Option<&Snapshot>, out: &mut Output) -> Result<(), CliError> {
    let mut progress = Progress::new(before);
    let answer = thread::scope(|scope| -> Result<_, CliError> {
        let (sender, receiver) = channel();
        scope.spawn(move || {
            // The other end waits until this has been said.
            let _ = sender.send(client.ask(request, LIMIT));
        });
        loop {
            match receiver.recv_timeout(TICK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) => progress.look(client, out)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(Err(ClientError::WentAway)),
            }
        }
    })?;
    let answer = match answer {
        Err(ClientError::WentAway) => progress.outlast(client, out)?,
        answer => answer?,
    };
    match answer {
        Response::Done(snapshot) => {
            progress.show(&snapshot, out)?;
            let concerned = |instance: &&InstanceView| progress.concerns(&instance.app, &snapshot);
            list::table(snapshot.instances.iter().filter(concerned), out)?;
            list::warn_of_logs(snapshot.instances.iter().filter(concerned));
            Ok(())
        }
        Response::Plan(_) => Ok(()),
        Response::Failed(failure) => {
            out.flush()?;
            let after = list::fetch(client, false).ok().flatten();
            Err(failed(failure, after.as_ref()))
        }
        _ => Err(CliError::OddAnswer),
    }
}

/// How far a deployment is, in a line for `list`; nothing of one that is over.
pub fn state(deployment: &DeploymentView) -> Option<String> {
    let app = list::printable(&deployment.app);
    let DeploymentView { replaced, wanted, starting, draining, .. } = deployment;
    let how = match deployment.phase {
        DeploymentPhase::Replacing => "is being reloaded",
        DeploymentPhase::TakingBack => "goes back to its old release",
        DeploymentPhase::Probation | DeploymentPhase::Done | DeploymentPhase::Failed if *draining > 0 => {
            return Some(format!("{app}: {draining} replaced and still finishing"));
        }
        DeploymentPhase::Probation | DeploymentPhase::Done | DeploymentPhase::Failed => return None,
    };
    Some(format!("{app} {how}: {replaced} of {wanted} there, {starting} starting, {draining} still finishing"))
}

/// What has been seen of deployments so far.
struct Progress {
    /// The last release of each app before, so that a deployment of then is not taken for ours.
    before: Vec<(String, u32)>,
    /// Numbers with the process that was last seen there.
    seen: Vec<(u32, Option<u32>)>,
    phases: Vec<(String, DeploymentPhase)>,
}

impl Progress {
    fn new(before: Option<&Snapshot>) -> Progress {
        let snapshot = || before.into_iter();
        let deployments = snapshot().flat_map(|snapshot| &snapshot.deployments);
        let instances = snapshot().flat_map(|snapshot| &snapshot.instances);
        Progress {
            before: deployments.map(|one| (one.app.clone(), one.revision)).collect(),
            seen: instances.map(|one| (one.id, one.pid)).collect(),
            phases: Vec::new(),
        }
    }

    /// Whether an app is or was deployed since the beginning.
    fn concerns(&self, app: &str, snapshot: &Snapshot) -> bool {
        self.ours(snapshot).any(|deployment| deployment.app == app)
    }

    fn ours<'s>(&'s self, snapshot: &'s Snapshot) -> impl Iterator<Item = &'s DeploymentView> {
        let is_ours = |one: &&DeploymentView| !self.before.contains(&(one.app.clone(), one.revision));
        snapshot.deployments.iter().filter(is_ours)
    }

    /// Looks once; that nobody answers is no matter, for it shows elsewhere.
    fn look(&mut self, client: &Client, out: &mut Output) -> Result<(), CliError> {
        match list::fetch(client, false) {
            Ok(Some(snapshot)) => self.show(&snapshot, out),
            _ => Ok(()),
        }
    }

    /// Prints what is new.
    fn show(&mut self, snapshot: &Snapshot, out: &mut Output) -> Result<(), CliError> {
        let ours: Vec<DeploymentView> = self.ours(snapshot).cloned().collect();
        for deployment in ours {
            self.show_deployment(&deployment, snapshot, out)?;
        }
        Ok(out.flush()?)
    }

    fn show_deployment(
        &mut self,
        deployment: &DeploymentView,
        snapshot: &Snapshot,
        out: &mut Output,
    ) -> Result<(), CliError> {
        let app = list::printable(&deployment.app);
        let DeploymentView { replaced, wanted, phase, .. } = deployment;
        for instance in snapshot.instances.iter().filter(|instance| instance.app == deployment.app) {
            let known = self.seen.iter().position(|(id, _)| *id == instance.id);
            let before = known.map(|at| std::mem::replace(&mut self.seen[at].1, instance.pid));
            if known.is_none() {
                self.seen.push((instance.id, instance.pid));
            }
            if let Some(pid) = instance.pid.filter(|pid| before != Some(Some(*pid))) {
                let old = if before.flatten().is_some() { ", the old one drains" } else { "" };
                writeln!(out, "{app}:{} is ready (pid {pid}){old}; {replaced} of {wanted}", instance.id)?;
            }
        }
        if !self.phases.contains(&(deployment.app.clone(), *phase)) {
            self.phases.push((deployment.app.clone(), *phase));
            if *phase == DeploymentPhase::TakingBack {
                let reason = list::printable(deployment.reason.as_deref().unwrap_or("it has failed"));
                writeln!(out, "{app} goes back to its old release: {reason}")?;
            }
        }
        Ok(())
    }

    /// The supervisor has died over it: what becomes of it under the next one.
    fn outlast(&mut self, client: &Client, out: &mut Output) -> Result<Response, CliError> {
        let mut back_by = Instant::now() + SUCCESSOR;
        let until = Instant::now() + LIMIT;
        while Instant::now() < back_by.min(until) {
            thread::sleep(TICK);
            let Ok(Some(snapshot)) = list::fetch(client, false) else { continue };
            back_by = Instant::now() + SUCCESSOR;
            self.show(&snapshot, out)?;
            let is_busy = |one: &DeploymentView| {
                matches!(one.phase, DeploymentPhase::Replacing | DeploymentPhase::TakingBack) || one.starting > 0
            };
            let ours: Vec<&DeploymentView> = self.ours(&snapshot).collect();
            if ours.is_empty() {
                return Err(ClientError::WentAway.into());
            }
            if ours.iter().any(|one| is_busy(one)) {
                continue;
            }
            return Ok(match ours.iter().find(|one| one.phase == DeploymentPhase::Failed) {
                Some(failed) => Response::Failed(Failure {
                    cause: failed.reason.clone(),
                    ..Failure::new(format!("the reload of app `{}` has failed", failed.app)).code(FAILED)
                }),
                None => Response::Done(Box::new(snapshot)),
            });
        }
        Err(ClientError::WentAway.into())
    }
}

/// A failure, with what the process that failed has printed last.
fn failed(failure: Failure, after: Option<&Snapshot>) -> CliError {
    let deployments = after.into_iter().flat_map(|snapshot| &snapshot.deployments);
    let is_it = |one: &&DeploymentView| {
        let named = failure.what.contains(&format!("`{}`", one.app));
        named && one.phase == DeploymentPhase::Failed && one.failed.is_some()
    };
    let number = deployments.filter(is_it).find_map(|one| one.failed);
    let instances = after.into_iter().flat_map(|snapshot| &snapshot.instances);
    let instance = instances.into_iter().find(|instance| Some(instance.id) == number);
    let (FAILED, Some(instance)) = (failure.code, instance) else { return CliError::Refused(failure) };
    let logs: Vec<LogTail> = failure.last_words.into_iter().map(last_lines).collect();
    let hint = failure.hint.unwrap_or_else(|| hint(instance, &logs));
    CliError::NotOnline { what: failure.what, cause: failure.cause, logs, hint, code: failure.code }
}

fn last_lines(LastWords { error, path, lines }: LastWords) -> LogTail {
    let lines = lines.iter().map(|line| list::printable(line)).collect();
    LogTail { path, output: Some(if error { "stderr" } else { "stdout" }), lines }
}

fn hint(instance: &InstanceView, logs: &[LogTail]) -> String {
    let lines = logs.iter().flat_map(|log| &log.lines).map(|line| line.to_ascii_lowercase());
    let mut taken = lines.filter(|line| line.contains("eaddrinuse") || line.contains("address already in use"));
    if taken.next().is_some() && instance.listen.is_empty() {
        return "the old instance holds the address until it goes: let Herdwire hold it, by `listen = [\"tcp://...\"]` \
                and the descriptor that the app then inherits"
            .to_owned();
    }
    format!("the old instances serve on; `herdwire logs {}` shows more", instance.app)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing;

    fn deployment(phase: DeploymentPhase) -> DeploymentView {
        DeploymentView {
            app: "web".to_owned(),
            phase,
            revision: 2,
            replaced: 1,
            wanted: 2,
            starting: 1,
            draining: 1,
            failed: None,
            reason: None,
        }
    }

    #[test]
    fn the_list_says_what_a_reload_hides() {
        let line = state(&deployment(DeploymentPhase::Replacing)).unwrap();
        assert_eq!(line, "web is being reloaded: 1 of 2 there, 1 starting, 1 still finishing");
        assert_eq!(state(&deployment(DeploymentPhase::Done)).unwrap(), "web: 1 replaced and still finishing");
        let over = DeploymentView { draining: 0, ..deployment(DeploymentPhase::Probation) };
        assert_eq!(state(&over), None);
    }

    #[test]
    fn progress_names_each_instance_once_and_the_way_back_with_its_reason() {
        let before = testing::snapshot();
        let mut progress = Progress::new(Some(&before));
        let mut now = before.clone();
        now.instances[0].pid = Some(5000);
        now.deployments = vec![deployment(DeploymentPhase::Replacing)];
        let (mut out, text) = testing::output();
        progress.show(&now, &mut out).unwrap();
        progress.show(&now, &mut out).unwrap();
        let back = DeploymentView { reason: Some("web:1 ended".into()), ..deployment(DeploymentPhase::TakingBack) };
        now.deployments = vec![back];
        progress.show(&now, &mut out).unwrap();
        let expected = "\
web:0 is ready (pid 5000), the old one drains; 1 of 2
web goes back to its old release: web:1 ended
";
        testing::assert_text(&text.take(), expected);
    }

    #[test]
    fn a_deployment_of_before_is_not_taken_for_ours() {
        let mut before = testing::snapshot();
        before.deployments = vec![deployment(DeploymentPhase::Failed)];
        let progress = Progress::new(Some(&before));
        assert!(!progress.concerns("web", &before));
        let mut after = before.clone();
        after.deployments[0].revision = 3;
        assert!(progress.concerns("web", &after));
    }

    #[test]
    fn who_binds_its_port_itself_is_told_of_listen() {
        let instance = &testing::snapshot().instances[0];
        let log = |line: &str| vec![LogTail { path: "/l".into(), output: None, lines: vec![line.to_owned()] }];
        assert!(hint(instance, &log("Error: listen EADDRINUSE: address already in use :::80")).contains("`listen = ["));
        assert!(hint(instance, &log("no such table")).contains("herdwire logs web"));
    }
}
