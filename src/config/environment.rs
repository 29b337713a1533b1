//! What an app gets of the environment of whoever starts it.
//!
//! All of it, but for what belongs to one process alone: a command line run inside a managed app must not hand that
//! app's identity, link or listeners to others.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Variables that Herdwire sets for each instance, or that speak of descriptors of one process. Never inherited, and
/// refused in an app's `env`.
const OF_ONE_PROCESS: [&str; 18] = [
    "HERDWIRE_HERD",
    "HERDWIRE_HOME",
    "HERDWIRE_ID",
    "HERDWIRE_INCARNATION",
    "HERDWIRE_INDEX",
    "HERDWIRE_INSTANCE",
    "HERDWIRE_INSTANCES",
    "HERDWIRE_LINK",
    "HERDWIRE_NAME",
    "HERDWIRE_NODE",
    "HERDWIRE_PIPE_FD",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "NOTIFY_SOCKET",
];

/// What pm2 sets for each process, besides those above. Some are everyday words, so they are left alone unless
/// `pm_id` shows that we run inside a managed app.
const OF_PM2: [&str; 45] = [
    "NODE_APP_INSTANCE",
    "PM2_HOME",
    "PM2_JSON_PROCESSING",
    "PM2_PROGRAMMATIC",
    "PM2_USAGE",
    "autorestart",
    "autostart",
    "automation",
    "axm_actions",
    "axm_dynamic",
    "axm_monitor",
    "axm_options",
    "args",
    "created_at",
    "env",
    "exec_interpreter",
    "exec_mode",
    "exit_code",
    "filter_env",
    "instance_var",
    "instances",
    "kill_retry_time",
    "km_link",
    "merge_logs",
    "name",
    "namespace",
    "node_args",
    "node_version",
    "pm_cwd",
    "pm_err_log_path",
    "pm_exec_path",
    "pm_id",
    "pm_out_log_path",
    "pm_pid_path",
    "pm_uptime",
    "pmx",
    "restart_time",
    "status",
    "treekill",
    "unique_id",
    "unstable_restarts",
    "username",
    "vizion",
    "vizion_running",
    "watch",
];

/// Whether an app's `env` may not set `name`.
pub fn is_reserved(name: &str) -> bool {
    OF_ONE_PROCESS.contains(&name) || matches!(name, "NODE_APP_INSTANCE" | "pm_id" | "WATCHDOG_PID" | "WATCHDOG_USEC")
}

/// What apps inherit of `variables`; and the names of those that are no UTF-8, which they do not.
pub fn inherited(variables: impl IntoIterator<Item = (OsString, OsString)>) -> (BTreeMap<String, String>, Vec<String>) {
    let mut environment = BTreeMap::new();
    let mut left_out = Vec::new();
    for (name, value) in variables {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => drop(environment.insert(name, value)),
            (Ok(name), Err(_)) => left_out.push(name),
            (Err(name), _) => left_out.push(name.to_string_lossy().into_owned()),
        }
    }
    let managed = environment.contains_key("pm_id");
    environment.retain(|name, _| {
        let of_one_process = name.starts_with("HERDWIRE_") || name.starts_with("WATCHDOG_") || is_reserved(name);
        let of_pm2 = managed && OF_PM2.contains(&name.as_str());
        !of_one_process && !of_pm2
    });
    (environment, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(variables: &[&str]) -> Vec<String> {
        let pairs = variables.iter().map(|name| (OsString::from(name), OsString::from("x")));
        inherited(pairs).0.into_keys().collect()
    }

    #[test]
    fn an_app_does_not_inherit_the_identity_of_another() {
        let inside =
            ["HERDWIRE_LINK", "HERDWIRE_X", "LISTEN_FDS", "NODE_CHANNEL_FD", "PATH", "name", "pm_id", "status"];
        assert_eq!(names(&inside), ["PATH"]);
    }

    #[test]
    fn everyday_words_are_left_alone_outside_of_a_managed_app() {
        assert_eq!(names(&["PATH", "name", "status", "NOTIFY_SOCKET"]), ["PATH", "name", "status"]);
    }

    #[test]
    fn a_variable_that_is_no_text_is_left_out_and_named() {
        use std::os::unix::ffi::OsStringExt;
        let variables = [(OsString::from("ODD"), OsString::from_vec(vec![0xff]))];
        assert_eq!(inherited(variables), (BTreeMap::new(), vec!["ODD".to_owned()]));
    }
}
