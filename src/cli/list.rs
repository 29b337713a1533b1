//! `list`: the table.

use std::collections::BTreeSet;
use std::io::Write;

use comfy_table::{CellAlignment, Color};

use super::client::{Client, ClientError, LOOK_LIMIT};
use super::error::CliError;
use super::output::{self, Output};
use super::reload;
use crate::snapshot::{InstanceView, Snapshot, Status};
use crate::supervisor::control::{Request, Response};

/// Prints what runs.
pub fn list(client: &Client, json: bool, out: &mut Output) -> Result<(), CliError> {
    let snapshot = fetch(client, false)?;
    if json {
        let empty = || serde_json::json!({"supervisor": null, "instances": []});
        let value = snapshot.map_or_else(|| Ok(empty()), serde_json::to_value).map_err(std::io::Error::from)?;
        return Ok(out.json(&value)?);
    }
    if snapshot.is_none() && client.home().saved().exists() {
        writeln!(out, "no supervisor runs; what ran is written down: `herdwire resurrect` starts it again")?;
    }
    let instances = snapshot.as_ref().map_or(&[][..], |snapshot| &snapshot.instances);
    table(instances.iter(), out)?;
    for deployment in snapshot.iter().flat_map(|snapshot| &snapshot.deployments) {
        if let Some(line) = reload::state(deployment) {
            writeln!(out, "{line}")?;
        }
    }
    for (instance, reason) in instances.iter().filter_map(|one| Some((one, one.reason.as_ref()?))) {
        let (app, status) = (printable(&instance.app), instance.status.as_str());
        writeln!(out, "{app}:{} is {status}: {}", instance.id, printable(reason))?;
    }
    for warning in snapshot.iter().flat_map(|snapshot| &snapshot.supervisor.warnings) {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(())
}

/// Says of instances what is wrong with their logs, each fault once: they run all the same.
pub fn warn_of_logs<'s>(instances: impl Iterator<Item = &'s InstanceView>) {
    let faults: BTreeSet<&str> = instances.filter_map(|instance| instance.log_fault.as_deref()).collect();
    for fault in faults {
        // A warning that nobody can read is no reason to stop.
        let _ = writeln!(std::io::stderr(), "warning: {}", printable(fault));
    }
}

/// What the supervisor shows of itself; `None` when none runs.
pub fn fetch(client: &Client, env: bool) -> Result<Option<Snapshot>, CliError> {
    match client.ask(&Request::Snapshot { env }, LOOK_LIMIT) {
        Ok(Response::Snapshot(snapshot)) => Ok(Some(*snapshot)),
        Ok(Response::Failed(failure)) => Err(CliError::Refused(failure)),
        Ok(_) => Err(CliError::OddAnswer),
        Err(ClientError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Prints instances as a table, app by app.
pub fn table<'s>(instances: impl Iterator<Item = &'s InstanceView>, out: &mut Output) -> Result<(), CliError> {
    let table = rows(instances, out);
    Ok(writeln!(out, "{table}")?)
}

/// The table.
pub fn rows<'s>(instances: impl Iterator<Item = &'s InstanceView>, out: &Output) -> comfy_table::Table {
    let mut instances: Vec<_> = instances.collect();
    instances.sort_by(|a, b| (&a.app, a.id).cmp(&(&b.app, b.id)));
    let mut table = out.table();
    let header = ["id", "name", "herd", "pid", "uptime", "↺", "status", "cpu", "mem"];
    table.set_header(header.map(|title| out.cell(title, Color::Cyan)));
    for instance in instances {
        table.add_row(row(instance, out));
    }
    for column in [0, 3, 4, 5, 7, 8] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn row(instance: &InstanceView, out: &Output) -> Vec<comfy_table::Cell> {
    let runs = instance.pid.is_some();
    let plain = |text: String| comfy_table::Cell::new(text);
    vec![
        plain(instance.id.to_string()),
        plain(printable(&instance.app)),
        plain(printable(&instance.herd)),
        plain(instance.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())),
        plain(if runs { output::duration(instance.uptime_ms) } else { "-".to_owned() }),
        plain(instance.restarts.to_string()),
        out.cell(instance.status.as_str(), colour(instance.status)),
        plain(if runs { format!("{:.1}%", instance.cpu_percent) } else { "-".to_owned() }),
        plain(if runs { output::bytes(instance.memory_bytes) } else { "-".to_owned() }),
    ]
}

fn colour(status: Status) -> Color {
    match status {
        Status::Online => Color::Green,
        Status::Launching | Status::Stopping | Status::WaitingRestart => Color::Yellow,
        Status::Stopped | Status::Errored => Color::Red,
    }
}

/// Text of others, without what would move the cursor.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{self, snapshot};

    #[test]
    fn the_table_without_a_terminal_is_fixed() {
        let (mut out, text) = testing::output();
        table(snapshot().instances.iter(), &mut out).unwrap();
        let expected = "\
┌────┬──────┬──────┬──────┬────────┬────┬─────────┬───────┬────────┐
│ id │ name │ herd │  pid │ uptime │  ↺ │ status  │   cpu │    mem │
╞════╪══════╪══════╪══════╪════════╪════╪═════════╪═══════╪════════╡
│  2 │ jobs │ jobs │    - │      - │ 16 │ errored │     - │      - │
│  0 │ web  │ shop │ 4000 │     2m │  0 │ online  │  0.3% │ 54.6mb │
│  1 │ web  │ shop │ 4001 │    59s │  3 │ online  │ 12.5% │  1.0kb │
└────┴──────┴──────┴──────┴────────┴────┴─────────┴───────┴────────┘
";
        testing::assert_text(&text.take(), expected);
    }

    #[test]
    fn an_empty_list_is_a_header() {
        let (mut out, text) = testing::output();
        table([].iter(), &mut out).unwrap();
        let text = text.take();
        assert!(text.lines().count() == 4 && text.contains("│ id │ name │"), "{text}");
    }
}
