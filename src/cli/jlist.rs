//! `jlist` and `prettylist`: pm2's array, key for key, for the programs that read it.
//!
//! What Herdwire has and pm2 has not stands under one new key, `herdwire`.

use std::io::Write;

use serde_json::{Map, Value, json};

use super::client::Client;
use super::error::CliError;
use super::inspect::inspect;
use super::list;
use super::output::Output;
use crate::config::variables;
use crate::relay::NodeId;
use crate::snapshot::{ExitView, InstanceView, SupervisorView};

/// Prints the array; an empty one when no supervisor runs.
pub fn jlist(client: &Client, out: &mut Output) -> Result<(), CliError> {
    Ok(out.json(&Value::Array(records(client)?))?)
}

fn records(client: &Client) -> Result<Vec<Value>, CliError> {
    let with_env = std::env::var_os("HERDWIRE_JLIST_ENV").is_none_or(|value| value != "0");
    let snapshot = list::fetch(client, with_env)?;
    let records = snapshot
        .iter()
        .flat_map(|snapshot| snapshot.instances.iter().map(|instance| record(instance, &snapshot.supervisor)));
    Ok(records.collect())
}

/// Prints the same as Node would, a key a line, with pm2's keys alone: programs look for words in it.
pub fn prettylist(client: &Client, out: &mut Output) -> Result<(), CliError> {
    let records = records(client)?.into_iter().map(|mut record| {
        if let Some(record) = record.as_object_mut() {
            record.remove("herdwire");
        }
        record
    });
    Ok(writeln!(out, "{}", inspect(&Value::Array(records.collect()), rank))?)
}

/// Keys in pm2's order: the environment stands in the middle.
fn rank(key: &str) -> (usize, String) {
    match (FIRST.iter().position(|one| *one == key), LAST.iter().position(|one| *one == key)) {
        (Some(at), _) => (at, String::new()),
        (None, None) => (FIRST.len(), key.to_owned()),
        (None, Some(at)) => (FIRST.len() + 1 + at, String::new()),
    }
}

#[rustfmt::skip] // as pm2 prints them
const FIRST: [&str; 27] = [
    "pid", "name", "pm2_env", "filter_env", "namespace", "args", "env", "merge_logs", "vizion", "autostart",
    "autorestart", "watch", "instance_var", "pmx", "automation", "treekill", "username", "windowsHide",
    "kill_retry_time", "node_args", "pm_exec_path", "pm_cwd", "exec_interpreter", "exec_mode", "instances",
    "pm_out_log_path", "pm_err_log_path",
];
#[rustfmt::skip]
const LAST: [&str; 15] = [
    "unique_id", "status", "pm_uptime", "axm_actions", "axm_monitor", "axm_options", "axm_dynamic", "created_at",
    "pm_id", "restart_time", "unstable_restarts", "version", "node_version", "exit_code", "monit",
];

/// One instance as pm2 would show it.
pub fn record(instance: &InstanceView, supervisor: &SupervisorView) -> Value {
    json!({
        "name": instance.app,
        "pid": instance.pid.unwrap_or(0),
        "pm_id": instance.id,
        "monit": { "memory": instance.memory_bytes, "cpu": one_decimal(instance.cpu_percent) },
        "pm2_env": Value::Object(pm2_env(instance, supervisor)),
        "herdwire": {
            "herd": instance.herd,
            "incarnation": instance.incarnation,
            "slot": instance.slot,
            "listen": instance.listen,
            "last_exit": instance.last_exit,
            "reason": instance.reason,
            "cause": instance.cause,
        },
    })
}

/// `pm2_env`: the environment flattened, and over it what pm2 says of the process, so that a variable called `status`
/// cannot pose as the status.
fn pm2_env(instance: &InstanceView, supervisor: &SupervisorView) -> Map<String, Value> {
    let env = instance.env.iter().flatten().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    let mut record: Map<String, Value> = env.clone().collect();
    record.extend(texts(instance, supervisor).map(|(key, value)| (key.to_owned(), Value::from(value))));
    record.extend(numbers(instance).map(|(key, value)| (key.to_owned(), Value::from(value))));
    record.extend(flags(instance).map(|(key, value)| (key.to_owned(), Value::from(value))));
    for key in ["filter_env", "axm_actions"] {
        record.insert(key.to_owned(), json!([]));
    }
    for key in ["axm_monitor", "axm_options", "axm_dynamic"] {
        record.insert(key.to_owned(), json!({}));
    }
    record.insert("args".to_owned(), json!(instance.args));
    record.insert("node_args".to_owned(), json!(instance.node_args));
    record.insert("env".to_owned(), Value::Object(env.collect()));
    if let Some(ExitView::Code(code)) = instance.last_exit {
        record.insert("exit_code".to_owned(), json!(code));
    }
    record
}

fn texts(instance: &InstanceView, supervisor: &SupervisorView) -> impl Iterator<Item = (&'static str, String)> {
    let node = NodeId(u64::from_str_radix(&supervisor.node, 16).unwrap_or_default());
    let variable = |name: &str| instance.env.as_ref().and_then(|env| env.get(name).cloned());
    let user = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
    [
        ("name", instance.app.clone()),
        ("namespace", "default".to_owned()),
        ("version", "N/A".to_owned()),
        ("status", instance.status.as_str().to_owned()),
        ("exec_mode", "fork_mode".to_owned()),
        ("exec_interpreter", instance.interpreter.clone()),
        ("pm_exec_path", instance.script.display().to_string()),
        ("pm_cwd", instance.cwd.display().to_string()),
        ("pm_out_log_path", instance.out_log.display().to_string()),
        ("pm_err_log_path", instance.error_log.display().to_string()),
        ("pm_pid_path", variables::pid_path(&supervisor.home, &instance.app, instance.id)),
        ("instance_var", "NODE_APP_INSTANCE".to_owned()),
        ("username", variable("USER").or_else(user).unwrap_or_default()),
        ("node_version", "N/A".to_owned()),
        ("_pm2_version", supervisor.version.clone()),
        ("unique_id", variables::unique_id(node, instance.id)),
    ]
    .into_iter()
}

fn numbers(instance: &InstanceView) -> impl Iterator<Item = (&'static str, u64)> {
    [
        ("pm_id", u64::from(instance.id)),
        ("restart_time", u64::from(instance.restarts)),
        ("unstable_restarts", u64::from(instance.unstable_restarts)),
        ("pm_uptime", instance.started_at_ms),
        ("created_at", instance.created_at_ms),
        ("instances", u64::from(instance.instances)),
        ("NODE_APP_INSTANCE", u64::from(instance.index)),
        ("kill_timeout", instance.kill_timeout_ms),
        ("kill_retry_time", 100),
        ("max_restarts", u64::from(instance.max_restarts)),
    ]
    .into_iter()
}

fn flags(instance: &InstanceView) -> impl Iterator<Item = (&'static str, bool)> {
    [
        ("autorestart", instance.autorestart),
        ("autostart", true),
        ("automation", true),
        ("km_link", false),
        ("merge_logs", instance.instances == 1),
        ("pmx", true),
        ("treekill", true),
        ("vizion", true),
        ("vizion_running", false),
        ("wait_ready", instance.wait_ready),
        ("watch", false),
        ("windowsHide", true),
    ]
    .into_iter()
}

fn one_decimal(percent: f32) -> f64 {
    (f64::from(percent) * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::snapshot;

    #[test]
    fn a_record_has_pm2s_keys_with_pm2s_types() {
        let snapshot = snapshot();
        let record = record(&snapshot.instances[1], &snapshot.supervisor);
        assert_eq!(record["name"], "web");
        assert_eq!(record["pid"], 4001);
        assert_eq!(record["pm_id"], 1);
        assert_eq!(record["monit"], json!({"memory": 1024, "cpu": 12.5}));
        let expected = [
            ("status", json!("online")),
            ("exec_mode", json!("fork_mode")),
            ("exec_interpreter", json!("node")),
            ("pm_exec_path", json!("/srv/web/server.js")),
            ("pm_cwd", json!("/srv/web")),
            ("pm_out_log_path", json!("/h/logs/web-out-1.log")),
            ("pm_err_log_path", json!("/h/logs/web-error-1.log")),
            ("pm_pid_path", json!("/h/pids/web-1.pid")),
            ("restart_time", json!(3)),
            ("unstable_restarts", json!(1)),
            ("pm_uptime", json!(1_700_000_000_000_u64)),
            ("created_at", json!(1_600_000_000_000_u64)),
            ("instances", json!(2)),
            ("NODE_APP_INSTANCE", json!(1)),
            ("exit_code", json!(7)),
            ("args", json!(["--port", "80"])),
            ("env", json!({"PORT": "80", "status": "spoofed", "USER": "ann"})),
            ("PORT", json!("80")),
            ("username", json!("ann")),
            ("unique_id", json!("01234567-89ab-8cde-800f-000000000001")),
            ("watch", json!(false)),
            ("axm_actions", json!([])),
            ("axm_monitor", json!({})),
        ];
        for (key, value) in expected {
            assert_eq!(record["pm2_env"][key], value, "{key}");
        }
    }

    #[test]
    fn what_does_not_run_has_pid_0_and_no_invented_exit_code() {
        let snapshot = snapshot();
        let record = record(&snapshot.instances[2], &snapshot.supervisor);
        assert_eq!(record["pid"], 0);
        assert_eq!(record["pm2_env"]["status"], "errored");
        assert_eq!(record["pm2_env"].get("exit_code"), None);
        assert_eq!(record["pm2_env"]["env"], json!({}));
        assert_eq!(record["herdwire"]["last_exit"], json!({"Signal": 9}));
    }
}
