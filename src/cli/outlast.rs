//! What becomes of a request whose supervisor dies over it.
//!
//! The supervisor that was asked may be killed before it answers, and its successor knows nothing of who waits. So a
//! command that changes something looks at everything before it asks; when the connection ends without an answer it looks
//! again, at what the successor shows, and says how far it has come, until nothing is on its way any more. Nothing is
//! asked for a second time: what is not so in the end is said, and whoever wants it asks again.
//!
//! What it looks like is told by [`judge`], which is pure; a reload has its own way of looking (`reload`).

use std::thread;
use std::time::{Duration, Instant};

use super::client::{Client, ClientError};
use super::error::CliError;
use super::{describe, list};
use crate::config::spec::AppSpec;
use crate::snapshot::{ExitView, InstanceView, Snapshot, Status};
use crate::supervisor::control::{Failure, Response};

/// How often it is looked how far it is.
const TICK: Duration = Duration::from_millis(100);
/// How long a successor may take to come back when the supervisor dies.
const SUCCESSOR: Duration = Duration::from_secs(30);
/// Instances that a failure names.
const NAMED: usize = 3;

/// What is asked for, as it will show when it is so.
pub enum Wish<'a> {
    /// These numbers are at rest.
    Stopped(Vec<u32>),
    /// These numbers run in a later process than before, or are through with their work.
    Restarted(Vec<u32>),
    /// These numbers run, in whichever process.
    Online(Vec<u32>),
    /// These numbers are gone.
    Gone(Vec<u32>),
    /// These apps are there as they are described, and run unless they are only to be added.
    Started(&'a [Wanted]),
    /// An app has so many instances.
    Scaled { app: &'a str, to: usize },
}

/// An app that is to be started, as far as a snapshot shows it.
pub struct Wanted {
    name: String,
    instances: u32,
    args: Vec<String>,
    script: std::path::PathBuf,
    cwd: std::path::PathBuf,
    autostart: bool,
}

impl From<&AppSpec> for Wanted {
    fn from(spec: &AppSpec) -> Wanted {
        Wanted {
            name: spec.name.clone(),
            instances: spec.instances,
            args: spec.arguments().1.to_vec(),
            script: spec.script.clone(),
            cwd: spec.cwd.clone(),
            autostart: spec.autostart,
        }
    }
}

/// How a wish stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Done,
    /// Something is still on its way.
    Under,
    /// Nothing is on its way, and this is not so.
    Undone(Vec<String>),
}

/// An answer as it was given, or, where the supervisor died over the request, as it would have been: `Done` with what is
/// there now, or `Failed` with what is not so.
///
/// # Errors
/// Whatever went wrong besides a supervisor that went away, and [`ClientError::WentAway`] when no successor comes.
pub fn outlast(
    client: &Client,
    answer: Result<Response, ClientError>,
    wish: &Wish<'_>,
    before: Option<&Snapshot>,
    limit: Duration,
) -> Result<Response, CliError> {
    match answer {
        Err(ClientError::WentAway) => {}
        answer => return Ok(answer?),
    }
    let until = Instant::now() + limit;
    let mut back_by = Instant::now() + SUCCESSOR;
    while Instant::now() < back_by.min(until) {
        let Ok(Some(snapshot)) = list::fetch(client, false) else {
            thread::sleep(TICK);
            continue;
        };
        match judge(wish, before, &snapshot) {
            Verdict::Done => return Ok(Response::Done(Box::new(as_answered(wish, before, snapshot)))),
            Verdict::Undone(left) => return Ok(Response::Failed(failure(&left))),
            Verdict::Under => {}
        }
        back_by = Instant::now() + SUCCESSOR;
        thread::sleep(TICK);
    }
    Err(ClientError::WentAway.into())
}

/// The answer to a delete shows what was deleted, as it was.
fn as_answered(wish: &Wish<'_>, before: Option<&Snapshot>, now: Snapshot) -> Snapshot {
    match (wish, before) {
        (Wish::Gone(numbers), Some(before)) => {
            let instances = before.instances.iter().filter(|one| numbers.contains(&one.id)).cloned().collect();
            Snapshot { instances, ..now }
        }
        _ => now,
    }
}

fn failure(left: &[String]) -> Failure {
    let more = left.len().saturating_sub(NAMED);
    let named = left.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Failure::new("the supervisor died in the middle, and not everything was done")
        .cause(format!("{named}{more}"))
        .hint("nothing more comes of this command: `herdwire list` shows what is there; ask again for what is missing")
}

/// How a wish stands, by what there was and what there is.
fn judge(wish: &Wish<'_>, before: Option<&Snapshot>, now: &Snapshot) -> Verdict {
    let mut look = Look { before, now, under: false, left: Vec::new() };
    match wish {
        Wish::Stopped(numbers) => numbers.iter().for_each(|number| look.stopped(*number)),
        Wish::Restarted(numbers) => numbers.iter().for_each(|number| look.runs(*number, true)),
        Wish::Online(numbers) => numbers.iter().for_each(|number| look.runs(*number, false)),
        Wish::Gone(numbers) => numbers.iter().for_each(|number| look.gone(*number)),
        Wish::Started(apps) => apps.iter().for_each(|app| look.started(app)),
        Wish::Scaled { app, to } => look.scaled(app, *to),
    }
    match (look.under, look.left) {
        // What is on its way may yet change what else there is to say.
        (true, _) => Verdict::Under,
        (false, left) if left.is_empty() => Verdict::Done,
        (false, left) => Verdict::Undone(left),
    }
}

struct Look<'s> {
    before: Option<&'s Snapshot>,
    now: &'s Snapshot,
    under: bool,
    left: Vec<String>,
}

impl<'s> Look<'s> {
    fn find(snapshot: &'s Snapshot, number: u32) -> Option<&'s InstanceView> {
        snapshot.instances.iter().find(|instance| instance.id == number)
    }

    fn of_app(&self, app: &str) -> Vec<&'s InstanceView> {
        self.now.instances.iter().filter(|instance| instance.app == app).collect()
    }

    fn not(&mut self, instance: &InstanceView, says: &str) {
        self.left.push(format!("{}:{} {says}", list::printable(&instance.app), instance.id));
    }

    fn stopped(&mut self, number: u32) {
        let Some(instance) = Self::find(self.now, number) else { return };
        match instance.status {
            Status::Stopped | Status::Errored => {}
            Status::Stopping => self.under = true,
            Status::Launching | Status::Online | Status::WaitingRestart => {
                self.not(instance, &format!("was not stopped, it is {}", instance.status.as_str()));
            }
        }
    }

    fn gone(&mut self, number: u32) {
        match Self::find(self.now, number) {
            None => {}
            Some(instance) if instance.status == Status::Stopping => self.under = true,
            Some(instance) => self.not(instance, "was not deleted"),
        }
    }

    /// `anew`: in a later process than before.
    fn runs(&mut self, number: u32, anew: bool) {
        let Some(instance) = Self::find(self.now, number) else {
            return self.left.push(format!("instance {number} was deleted meanwhile"));
        };
        let known = self.before.and_then(|before| Self::find(before, number));
        let is_new = known.is_none_or(|known| instance.incarnation > known.incarnation);
        // What is not well in a process of before was not touched, or its turn has not come.
        let why = || why_down(instance);
        match instance.status {
            Status::Online if is_new => {}
            // Its turn to be restarted has not come.
            Status::Online if instance.reason.is_some() => self.under = true,
            Status::Online if anew => self.not(instance, "was not restarted, it runs on"),
            Status::Online => {}
            Status::Launching | Status::Stopping => self.under = true,
            Status::Stopped if is_new && is_done(instance) => {}
            Status::Stopped if is_new => self.not(instance, &format!("did not come online{}", why())),
            // Waits for others, and for nothing else.
            Status::WaitingRestart if !is_new => self.under = true,
            Status::WaitingRestart | Status::Errored if is_new => {
                self.not(instance, &format!("did not come online{}", why()));
            }
            Status::Stopped | Status::WaitingRestart | Status::Errored => {
                self.not(instance, &format!("was not started, it is {}", instance.status.as_str()));
            }
        }
    }

    fn started(&mut self, wanted: &Wanted) {
        let name = list::printable(&wanted.name);
        let instances = self.of_app(&wanted.name);
        if instances.is_empty() {
            return self.left.push(format!("app `{name}` was not started"));
        }
        if instances.len() < wanted.instances as usize {
            self.left.push(format!("app `{name}` has {} of {} instances", instances.len(), wanted.instances));
        }
        if !wanted.autostart {
            return;
        }
        let known = self.left.len();
        instances.iter().for_each(|instance| self.runs(instance.id, true));
        let is_it = |instance: &&InstanceView| {
            instance.script == wanted.script && instance.args == wanted.args && instance.cwd == wanted.cwd
        };
        // Each was restarted, but before its new description was taken on.
        if self.left.len() == known && !instances.iter().all(is_it) {
            self.left.push(format!("app `{name}` was restarted as what it was before"));
        }
    }

    fn scaled(&mut self, app: &str, to: usize) {
        let instances = self.of_app(app);
        if instances.iter().any(|instance| instance.status == Status::Stopping) {
            self.under = true;
            return;
        }
        if instances.len() != to {
            self.left.push(format!("app `{}` has {} instances, not {to}", list::printable(app), instances.len()));
        }
        let is_new = |one: &&&InstanceView| self.before.is_none_or(|before| Self::find(before, one.id).is_none());
        let added: Vec<u32> = instances.iter().filter(is_new).map(|instance| instance.id).collect();
        added.into_iter().for_each(|number| self.runs(number, true));
    }
}

fn is_done(instance: &InstanceView) -> bool {
    matches!(instance.last_exit, None | Some(ExitView::Code(0))) && instance.reason.is_none()
}

fn why_down(instance: &InstanceView) -> String {
    let exit = instance.last_exit.map(describe::exit_text);
    instance.reason.clone().or(exit).map(|why| format!(": {}", list::printable(&why))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing;

    /// `web` with the numbers 0 and 1, online in their first process.
    fn two() -> Snapshot {
        let mut snapshot = testing::snapshot();
        snapshot.instances.truncate(2);
        snapshot
    }

    fn with(change: impl FnOnce(&mut InstanceView)) -> Snapshot {
        let mut snapshot = two();
        change(&mut snapshot.instances[1]);
        snapshot
    }

    fn left(wish: &Wish<'_>, now: &Snapshot) -> Vec<String> {
        match judge(wish, Some(&two()), now) {
            Verdict::Undone(left) => left,
            other => panic!("{other:?}"),
        }
    }

    fn is(wish: &Wish<'_>, now: &Snapshot) -> Verdict {
        judge(wish, Some(&two()), now)
    }

    #[test]
    fn a_stop_is_done_when_all_are_at_rest_and_waits_for_those_that_are_leaving() {
        let wish = Wish::Stopped(vec![1]);
        assert_eq!(is(&wish, &with(|one| one.status = Status::Stopping)), Verdict::Under);
        assert_eq!(is(&wish, &with(|one| one.status = Status::Stopped)), Verdict::Done);
        assert_eq!(left(&wish, &two()), ["web:1 was not stopped, it is online"]);
        let both = Wish::Stopped(vec![0, 1]);
        assert_eq!(left(&both, &with(|one| one.status = Status::Stopped)), ["web:0 was not stopped, it is online"]);
    }

    #[test]
    fn a_restart_is_done_in_a_later_process_only() {
        let wish = Wish::Restarted(vec![1]);
        assert_eq!(left(&wish, &two()), ["web:1 was not restarted, it runs on"]);
        assert_eq!(is(&wish, &with(|one| one.reason = Some("its turn".into()))), Verdict::Under);
        assert_eq!(is(&wish, &with(|one| one.status = Status::Stopping)), Verdict::Under);
        assert_eq!(is(&wish, &with(|one| one.incarnation = 2)), Verdict::Done);
        let failed = with(|one| {
            (one.incarnation, one.status) = (2, Status::WaitingRestart);
            one.reason = Some("it ended".into());
        });
        assert_eq!(left(&wish, &failed), ["web:1 did not come online: it ended"]);
        assert_eq!(left(&Wish::Restarted(vec![9]), &two()), ["instance 9 was deleted meanwhile"]);
    }

    #[test]
    fn a_start_of_what_runs_is_done() {
        assert_eq!(is(&Wish::Online(vec![0, 1]), &two()), Verdict::Done);
        let stopped = with(|one| one.status = Status::Stopped);
        assert_eq!(left(&Wish::Online(vec![0, 1]), &stopped), ["web:1 was not started, it is stopped"]);
    }

    #[test]
    fn what_is_deleted_is_gone_and_shown_as_it_was() {
        let wish = Wish::Gone(vec![1]);
        assert_eq!(left(&wish, &two()), ["web:1 was not deleted"]);
        let mut now = two();
        now.instances.truncate(1);
        assert_eq!(is(&wish, &now), Verdict::Done);
        assert_eq!(as_answered(&wish, Some(&two()), now).instances[0].id, 1);
    }

    #[test]
    fn an_app_is_started_when_it_is_there_whole_and_as_described() {
        let now = two();
        let one = &now.instances[0];
        let wanted = |instances| Wanted {
            name: one.app.clone(),
            instances,
            args: one.args.clone(),
            script: one.script.clone(),
            cwd: one.cwd.clone(),
            autostart: true,
        };
        let judge = |wanted: Wanted| judge(&Wish::Started(&[wanted]), None, &now);
        assert_eq!(judge(wanted(2)), Verdict::Done);
        let undone = |says: &str| Verdict::Undone(vec![says.to_owned()]);
        assert_eq!(judge(wanted(4)), undone("app `web` has 2 of 4 instances"));
        let before = Wanted { cwd: "/srv/other".into(), ..wanted(2) };
        assert_eq!(judge(before), undone("app `web` was restarted as what it was before"));
        let other = Wanted { name: "api".into(), ..wanted(2) };
        assert_eq!(judge(other), undone("app `api` was not started"));
    }

    #[test]
    fn a_scale_counts_and_looks_at_those_that_were_added() {
        let more = |to| Wish::Scaled { app: "web", to };
        assert_eq!(is(&more(2), &two()), Verdict::Done);
        assert_eq!(left(&more(3), &two()), ["app `web` has 2 instances, not 3"]);
        let mut now = two();
        let third = InstanceView { id: 5, status: Status::Launching, ..now.instances[1].clone() };
        now.instances.push(third);
        assert_eq!(is(&more(3), &now), Verdict::Under);
        now.instances[2].status = Status::Errored;
        now.instances[2].reason = Some("it ended".into());
        assert_eq!(left(&more(3), &now), ["web:5 did not come online: it ended"]);
    }
}
