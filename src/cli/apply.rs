//! `apply`: shows what has to change for what runs to be what a file says, and changes that.

use std::io::{BufRead, IsTerminal, Write};

use comfy_table::Color;

use super::arguments::ApplyArguments;
use super::client::{ACT_LIMIT, Client, LOOK_LIMIT};
use super::error::CliError;
use super::output::Output;
use super::{list, reload, start};
use crate::config::Resolved;
use crate::supervisor::control::{Failure, Plan, PlanAction, PlanStep, Request, Response};

/// Plans, says so, asks where something would be deleted, and does it.
pub fn apply(client: &Client, arguments: &ApplyArguments, out: &mut Output) -> Result<(), CliError> {
    let loaded = start::load(&arguments.file, &start::surroundings()?).map_err(CliError::before_anything)?;
    let Resolved { apps, settings, .. } = loaded.resolved;
    let names: Vec<String> = apps.iter().map(|app| app.name.clone()).collect();
    let request = |dry| Request::Apply {
        apps: apps.clone(),
        settings: settings.clone(),
        origin: loaded.origin.clone(),
        prune: arguments.prune,
        dry,
    };
    let before = list::fetch(client, false)?;
    let planned = match &before {
        Some(_) => plan(client, &request(true))?,
        // Nothing runs: everything is new.
        None => {
            let add = |app: &String| PlanStep { app: app.clone(), what: PlanAction::Add, changes: Vec::new() };
            Plan { steps: names.iter().map(add).collect() }
        }
    };
    show(&planned, out)?;
    if arguments.dry_run {
        return Ok(());
    }
    let deletes = planned.steps.iter().filter(|step| step.what == PlanAction::Delete).count();
    if deletes > 0 && !arguments.yes && !is_wanted(deletes, out)? {
        return Ok(writeln!(out, "nothing was changed")?);
    }
    let changes = planned.steps.iter().any(|step| step.what != PlanAction::Keep);
    match &before {
        Some(_) => {
            reload::follow(client, &request(false), before.as_ref(), out)?;
            complete(&plan(client, &request(true))?)?;
        }
        None => match client.ask_or_launch(&request(false), ACT_LIMIT)? {
            Response::Plan(_) => {}
            Response::Failed(failure) => return Err(CliError::Refused(failure)),
            _ => return Err(CliError::OddAnswer),
        },
    }
    Ok(writeln!(out, "{}", if changes { "done" } else { "nothing had to be changed" })?)
}

/// Parts other than reloads end with a supervisor that dies over them.
fn complete(rest: &Plan) -> Result<(), CliError> {
    match rest.steps.iter().find(|step| step.what != PlanAction::Keep) {
        None => Ok(()),
        Some(step) => Err(CliError::Refused(
            Failure::new(format!("app `{}` is not as the file says yet", step.app))
                .hint("the supervisor ended in the middle: the same command again does the rest"),
        )),
    }
}

fn plan(client: &Client, request: &Request) -> Result<Plan, CliError> {
    match client.ask(request, LOOK_LIMIT)? {
        Response::Plan(plan) => Ok(plan),
        Response::Failed(failure) => Err(CliError::Refused(failure)),
        _ => Err(CliError::OddAnswer),
    }
}

fn show(plan: &Plan, out: &mut Output) -> Result<(), CliError> {
    let width = plan.steps.iter().map(|step| step.app.chars().count()).max().unwrap_or(0);
    for PlanStep { app, what, changes } in &plan.steps {
        let (sign, word, colour) = match what {
            PlanAction::Add => ("+", "add", Some(Color::Green)),
            PlanAction::Reload => ("~", "reload", Some(Color::Yellow)),
            PlanAction::Scale => ("~", "scale", Some(Color::Yellow)),
            PlanAction::Update => ("~", "update", None),
            PlanAction::Delete => ("-", "delete", Some(Color::Red)),
            PlanAction::Keep => (" ", "keep", None),
        };
        let (begin, end) = match colour.filter(|_| out.colour) {
            Some(Color::Green) => ("\x1b[32m", "\x1b[0m"),
            Some(Color::Yellow) => ("\x1b[33m", "\x1b[0m"),
            Some(Color::Red) => ("\x1b[31m", "\x1b[0m"),
            _ => ("", ""),
        };
        let app = list::printable(app);
        let changes = list::printable(&changes.join(", "));
        let line = format!("{sign} {word:<7} {app:<width$}  {changes}");
        writeln!(out, "{begin}{}{end}", line.trim_end())?;
    }
    Ok(())
}

/// Asks whoever sits at the terminal; a script has said what it wants by `--prune`.
fn is_wanted(deletes: usize, out: &mut Output) -> Result<bool, CliError> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(true);
    }
    let what = if deletes == 1 { "1 app is".to_owned() } else { format!("{deletes} apps are") };
    write!(out, "{what} deleted. Go on? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing;

    #[test]
    fn a_plan_says_what_becomes_of_each_app_and_why() {
        let step = |app: &str, what, changes: &[&str]| PlanStep {
            app: app.to_owned(),
            what,
            changes: changes.iter().map(|change| (*change).to_owned()).collect(),
        };
        let steps = vec![
            step("api", PlanAction::Reload, &["args", "env.PORT"]),
            step("worker", PlanAction::Scale, &["instances: 2 -> 4"]),
            step("db", PlanAction::Keep, &[]),
            step("old", PlanAction::Delete, &[]),
        ];
        let (mut out, text) = testing::output();
        show(&Plan { steps }, &mut out).unwrap();
        let expected = "\
~ reload  api     args, env.PORT
~ scale   worker  instances: 2 -> 4
  keep    db
- delete  old
";
        testing::assert_text(&text.take(), expected);
    }
}
