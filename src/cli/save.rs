//! `save` and `resurrect`: what runs, written down and brought back.

use std::io::Write;

use super::client::{ACT_LIMIT, Client};
use super::error::CliError;
use super::output::Output;
use super::run::{Foreground, seal};
use super::{list, run};
use crate::process::passed;
use crate::snapshot::{InstanceView, Snapshot};
use crate::supervisor::control::{Request, Response};

/// Writes down what runs now, and says what that was.
pub fn save(client: &Client, force: bool, out: &mut Output) -> Result<(), CliError> {
    let empty = list::fetch(client, false)?.is_none_or(|snapshot| snapshot.instances.is_empty());
    if empty && !force {
        return Err(CliError::Empty);
    }
    let request = Request::Save;
    let answer = if empty { client.ask_or_launch(&request, ACT_LIMIT) } else { client.ask(&request, ACT_LIMIT) };
    let snapshot = done(answer?)?;
    let (apps, instances) = (names(&snapshot).len(), snapshot.instances.len());
    writeln!(out, "saved {apps} apps with {instances} instances in {}", client.home().saved().display())?;
    Ok(())
}

/// Starts what was written down and does not run, and shows all that there is then.
pub fn resurrect(client: &Client, out: &mut Output) -> Result<(), CliError> {
    let before = list::fetch(client, false)?.map(|snapshot| names(&snapshot)).unwrap_or_default();
    let snapshot = done(client.ask_or_launch(&Request::Resurrect, ACT_LIMIT)?)?;
    let is_new = |one: &&InstanceView| !before.contains(&one.app);
    let back: Vec<&InstanceView> = snapshot.instances.iter().filter(is_new).collect();
    if back.is_empty() {
        writeln!(out, "everything that was saved is there already")?;
    }
    list::table(snapshot.instances.iter(), out)?;
    for warning in &snapshot.supervisor.warnings {
        writeln!(out, "warning: {}", list::printable(warning))?;
    }
    Ok(())
}

/// Prepares the keeper that stays in the foreground and brings everything back.
pub fn serve(client: &Client) -> Result<Foreground, CliError> {
    let passed = passed::take();
    client.home().create()?;
    if client.connect()?.is_some() {
        return Err(CliError::AlreadyRunning { home: client.home().path().to_owned() });
    }
    Ok(run::Foreground { home: client.home().clone(), request: seal(&Request::Resurrect)?, passed, serves: true })
}

fn done(answer: Response) -> Result<Snapshot, CliError> {
    match answer {
        Response::Done(snapshot) => Ok(*snapshot),
        Response::Failed(failure) => Err(CliError::Refused(failure)),
        _ => Err(CliError::OddAnswer),
    }
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    let mut names: Vec<String> = snapshot.instances.iter().map(|instance| instance.app.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}
