//! `describe`: all about some instances.

use std::io::Write;

use comfy_table::Color;

use super::client::{Client, ClientError};
use super::error::CliError;
use super::output::{self, Output};
use super::{events, list, select};
use crate::snapshot::{ExitView, HealthView, InstanceView, Snapshot, StandInView};

/// Changes that are shown of an instance.
const EVENTS: u32 = 8;

/// Prints a table for each instance.
pub fn describe(client: &Client, words: &[String], json: bool, out: &mut Output) -> Result<(), CliError> {
    let not_running = || ClientError::NotRunning { home: client.home().clone() };
    let snapshot = list::fetch(client, false)?.ok_or_else(not_running)?;
    print(&snapshot, words, json, out)?;
    if json {
        return Ok(());
    }
    for instance in select::find(words, &snapshot)? {
        let events = events::journal(client, Some(instance.id), EVENTS)?;
        if !events.is_empty() {
            writeln!(out, "last changes of instance {}:", instance.id)?;
        }
        for event in events {
            writeln!(out, "  {}", events::line(&event))?;
        }
    }
    Ok(())
}

fn print(snapshot: &Snapshot, words: &[String], json: bool, out: &mut Output) -> Result<(), CliError> {
    let instances = select::find(words, snapshot)?;
    if json {
        let value = serde_json::to_value(&instances).map_err(std::io::Error::from)?;
        return Ok(out.json(&value)?);
    }
    for instance in instances {
        writeln!(out, "instance {} of app `{}`", instance.id, list::printable(&instance.app))?;
        let mut table = out.table();
        for (key, value) in rows(instance) {
            table.add_row([out.cell(key, Color::Cyan), comfy_table::Cell::new(list::printable(&value))]);
        }
        writeln!(out, "{table}")?;
    }
    Ok(())
}

fn rows(instance: &InstanceView) -> Vec<(&'static str, String)> {
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let of_running = |text: String| if instance.pid.is_some() { text } else { "-".to_owned() };
    let mut rows = vec![
        ("status", instance.status.as_str().to_owned()),
        ("name", instance.app.clone()),
        ("herd", instance.herd.clone()),
        ("id", instance.id.to_string()),
        ("index", format!("{} of {}", instance.index, instance.instances)),
        ("pid", instance.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())),
        ("uptime", of_running(output::duration(instance.uptime_ms))),
        ("restarts", instance.restarts.to_string()),
        ("unstable restarts", format!("{} of {}", instance.unstable_restarts, instance.max_restarts)),
        ("incarnation", instance.incarnation.to_string()),
        ("cpu", of_running(format!("{:.1}%", instance.cpu_percent))),
        ("memory", of_running(output::bytes(instance.memory_bytes))),
        ("script", instance.script.display().to_string()),
        ("arguments", arguments(&instance.args)),
        ("interpreter", instance.interpreter.clone()),
        ("its arguments", arguments(&instance.node_args)),
        ("cwd", instance.cwd.display().to_string()),
        ("out log", instance.out_log.display().to_string()),
        ("error log", instance.error_log.display().to_string()),
        ("autorestart", yes(instance.autorestart)),
        ("wait for ready", yes(instance.wait_ready)),
        ("kill timeout", format!("{} ms", instance.kill_timeout_ms)),
        ("listens on", or_none(&instance.listen.join(", "))),
        ("slot in the wire", instance.slot.map_or_else(|| "none".to_owned(), |slot| slot.to_string())),
    ];
    rows.retain(|(key, _)| *key != "its arguments" || !instance.node_args.is_empty());
    rows.push(("transport", instance.transport.clone()));
    rows.extend(stand_in(instance.stand_in.as_ref()));
    rows.extend(health(&instance.health));
    if let Some(fault) = &instance.log_fault {
        let after = rows.iter().position(|(key, _)| *key == "error log").map_or(rows.len(), |at| at + 1);
        rows.insert(after, ("logs", fault.clone()));
    }
    if let Some(exit) = instance.last_exit {
        rows.insert(1, ("last exit", exit_text(exit)));
    }
    match &instance.cause {
        Some(cause) if instance.reason.is_none() => rows.insert(1, ("last change", cause.clone())),
        _ => {}
    }
    if let Some(reason) = &instance.reason {
        rows.insert(1, ("reason", reason.clone()));
    }
    rows
}

/// What there is to say of a pipe that is not as it should be.
fn stand_in(view: Option<&StandInView>) -> impl Iterator<Item = (&'static str, String)> {
    let view = view.cloned().unwrap_or_default();
    let counted = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let rows = [
        ("pipe closed", view.closed),
        ("pipe missed", counted(view.missed, "messages")),
        ("pipe refused", counted(view.bad_frames, "frames")),
        ("pipe waits", counted(view.waiting_bytes, "bytes")),
        ("pipe paused", view.paused.then(|| "yes".to_owned())),
    ];
    rows.into_iter().filter_map(|(key, value)| Some((key, value?)))
}

/// What it says and shows of itself, as far as there is something.
fn health(health: &HealthView) -> impl Iterator<Item = (&'static str, String)> {
    let next = health.next_restart_ms.and_then(|at| jiff::Timestamp::from_millisecond(at as i64).ok());
    let next = next.map(|at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%F %T %Z").to_string());
    let rows = [
        ("says", health.status.clone()),
        ("main process", health.main_pid.map(|pid| pid.to_string())),
        ("probe", health.probe.clone()),
        ("memory of all", health.group_memory_bytes.map(output::bytes)),
        ("next restart", next),
        ("last trigger", health.last_trigger.clone()),
    ];
    rows.into_iter().filter_map(|(key, value)| Some((key, value?)))
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none".to_owned() } else { text.to_owned() }
}

/// Arguments so that their borders can be seen.
fn arguments(args: &[String]) -> String {
    let quoted = |arg: &String| {
        let plain = !arg.is_empty() && !arg.contains(|c: char| c.is_whitespace() || c == '"');
        if plain { arg.clone() } else { format!("{arg:?}") }
    };
    or_none(&args.iter().map(quoted).collect::<Vec<_>>().join(" "))
}

/// How a process ended, in words.
pub fn exit_text(exit: ExitView) -> String {
    match exit {
        ExitView::Code(code) => format!("exit code {code}"),
        ExitView::Signal(number) => match nix::sys::signal::Signal::try_from(number) {
            Ok(signal) => format!("ended by {signal}"),
            Err(_) => format!("ended by signal {number}"),
        },
        ExitView::NeverStarted => "could not be executed".to_owned(),
        ExitView::Unknown => "unknown".to_owned(),
        ExitView::OutOfMemory => "killed by the kernel for memory".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{self, snapshot};

    #[test]
    fn an_instance_that_failed_says_why_first() {
        let (mut out, text) = testing::output();
        print(&snapshot(), &["jobs".to_owned()], false, &mut out).unwrap();
        let text = text.take();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "instance 2 of app `jobs`");
        assert!(lines[2].contains("errored") && lines[3].contains("16 quick deaths"), "{text}");
        assert!(lines[4].contains("ended by SIGKILL"), "{text}");
    }

    #[test]
    fn what_an_instance_says_of_itself_is_shown_only_if_it_does() {
        let shown = |snapshot: &Snapshot| {
            let (mut out, text) = testing::output();
            print(snapshot, &["jobs".to_owned()], false, &mut out).unwrap();
            text.take()
        };
        let mut snapshot = snapshot();
        assert!(!shown(&snapshot).contains("next restart"));
        let health = HealthView {
            status: Some("warming up".into()),
            next_restart_ms: Some(1_800_000_000_000),
            ..HealthView::default()
        };
        snapshot.instances.iter_mut().for_each(|instance| instance.health = health.clone());
        let text = shown(&snapshot);
        assert!(text.contains("warming up") && text.contains("2027-01-15"), "{text}");
        assert!(!text.contains("main process"), "{text}");
    }

    #[test]
    fn arguments_show_their_borders() {
        assert_eq!(arguments(&["a".into(), "b c".into(), String::new()]), r#"a "b c" """#);
        assert_eq!(arguments(&[]), "none");
    }
}
