//! What two specs of an app differ in, and what that needs: a reload, more or fewer instances, or nothing at all.
//!
//! Every setting is classified here: a spec is taken apart without `..`, so a new setting does not compile until somebody
//! has said what a change of it needs.

use std::collections::BTreeSet;

use crate::config::spec::{AppSpec, Bounds, Command, HealthSpec, LogSpec, ReloadSpec, Rules, Triggers, WireSpec};

/// What a change of one setting needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// It is in force at once, for what runs, too.
    Nothing,
    /// Instances are added or removed.
    Count,
    /// Instances know it from their start.
    Reload,
}

/// A setting that differs, by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As in a configuration file; of the environment each variable by its name. Never a value.
    pub key: String,
    pub needs: Needs,
}

/// Variables that belong to a terminal or a login, and say nothing of an app. That they differ is no change: else
/// the same file would be another one from every terminal.
const OF_A_SESSION: [&str; 25] = [
    "_",
    "COLORTERM",
    "COLUMNS",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "GPG_TTY",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LINES",
    "LS_COLORS",
    "MAIL",
    "OLDPWD",
    "PS1",
    "PWD",
    "SHLVL",
    "STY",
    "SYSTEMD_EXEC_PID",
    "TERM",
    "TERM_PROGRAM",
    "TERM_PROGRAM_VERSION",
    "TMUX",
    "TMUX_PANE",
    "VTE_VERSION",
    "WAYLAND_DISPLAY",
    "WINDOWID",
];

/// The same, by how their names begin.
const BEGINNINGS_OF_A_SESSION: [&str; 4] = ["SSH_", "SUDO_", "XDG_SEAT", "XDG_SESSION_"];

/// What is different in `new`, in the order of the reference of settings.
pub fn changes(old: &AppSpec, new: &AppSpec) -> Vec<Change> {
    let mut changes = Changes(Vec::new());
    // The script, as it was named, and its folder decide nothing that is not in the command.
    let AppSpec { name: _, herd, command, script, interpreter, cwd, env: _, instances, listen, bridge, .. } = new;
    let Command { program, args } = command;
    changes.reload("script", *program != old.command.program || *script != old.script);
    changes.reload("args", *args != old.command.args);
    changes.reload("interpreter", *interpreter != old.interpreter);
    changes.note("instances", *instances != old.instances, Needs::Count);
    changes.environment(old, new);
    changes.reload("cwd", *cwd != old.cwd);
    changes.reload("herd", *herd != old.herd);
    changes.reload("listen", *listen != old.listen);
    changes.live("bridge", *bridge != old.bridge);
    // The rest of it; what stands above is named here again, so that nothing can be forgotten.
    let AppSpec {
        name: _,
        herd: _,
        command: _,
        script: _,
        interpreter: _,
        cwd: _,
        env: _,
        instances: _,
        listen: _,
        bridge: _,
        rules,
        autostart,
        wire,
        transport,
        env_files,
        bounds,
        logs,
        health,
        triggers,
        depends_on,
        reload,
    } = new;
    changes.reload("env_file", *env_files != old.env_files);
    changes.live("autostart", *autostart != old.autostart);
    changes.rules(&old.rules, rules);
    changes.live("depends_on", *depends_on != old.depends_on);
    changes.health(&old.health, health);
    changes.triggers(&old.triggers, triggers);
    changes.bounds(&old.bounds, bounds);
    changes.logs(&old.logs, logs);
    changes.deployment(&old.reload, reload);
    changes.wire(&old.wire, wire);
    changes.reload("transport", *transport != old.transport);
    changes.0
}

struct Changes(Vec<Change>);

impl Changes {
    fn note(&mut self, key: impl Into<String>, differs: bool, needs: Needs) {
        if differs {
            self.0.push(Change { key: key.into(), needs });
        }
    }

    fn reload(&mut self, key: &str, differs: bool) {
        self.note(key, differs, Needs::Reload);
    }

    fn live(&mut self, key: &str, differs: bool) {
        self.note(key, differs, Needs::Nothing);
    }

    fn environment(&mut self, old: &AppSpec, new: &AppSpec) {
        let names: BTreeSet<&String> = old.env.keys().chain(new.env.keys()).collect();
        for name in names.into_iter().filter(|name| !is_of_a_session(name)) {
            self.note(format!("env.{name}"), old.env.get(name) != new.env.get(name), Needs::Reload);
        }
    }

    /// The lifecycle reads them at each event.
    fn rules(&mut self, old: &Rules, new: &Rules) {
        let Rules {
            autorestart,
            max_restarts,
            restart_window,
            min_uptime,
            restart_delay,
            backoff,
            stop_exit_codes,
            kill_signal,
            kill_timeout,
            shutdown_with_message,
            wait_ready,
            listen_timeout,
        } = new;
        self.live("autorestart", *autorestart != old.autorestart);
        self.live("max_restarts", *max_restarts != old.max_restarts);
        self.live("restart_window", *restart_window != old.restart_window);
        self.live("min_uptime", *min_uptime != old.min_uptime);
        self.live("restart_delay", *restart_delay != old.restart_delay);
        self.live("exp_backoff_restart_delay", *backoff != old.backoff);
        self.live("stop_exit_codes", *stop_exit_codes != old.stop_exit_codes);
        self.live("kill_signal", *kill_signal != old.kill_signal);
        self.live("kill_timeout", *kill_timeout != old.kill_timeout);
        self.live("shutdown_with_message", *shutdown_with_message != old.shutdown_with_message);
        self.live("wait_ready", *wait_ready != old.wait_ready);
        self.live("listen_timeout", *listen_timeout != old.listen_timeout);
    }

    /// Begun with each process: what an instance is told of it, it is told at its start.
    fn health(&mut self, old: &HealthSpec, new: &HealthSpec) {
        let HealthSpec { readiness, liveness, notify_descriptor, watchdog, heartbeat, max_memory } = new;
        self.reload("readiness", *readiness != old.readiness);
        self.reload("liveness", *liveness != old.liveness);
        self.reload("notify_descriptor", *notify_descriptor != old.notify_descriptor);
        self.reload("watchdog", *watchdog != old.watchdog);
        self.reload("heartbeat", *heartbeat != old.heartbeat);
        self.reload("max_memory_restart", *max_memory != old.max_memory);
    }

    fn triggers(&mut self, old: &Triggers, new: &Triggers) {
        let Triggers { cron, watch } = new;
        self.live("cron_restart", *cron != old.cron);
        self.live("watch", *watch != old.watch);
    }

    fn bounds(&mut self, old: &Bounds, new: &Bounds) {
        let Bounds {
            user,
            group,
            groups,
            umask,
            nice,
            limits,
            no_new_privs,
            oom_score,
            memory_max,
            tasks_max,
            cpu_max,
        } = new;
        self.reload("user", *user != old.user);
        self.reload("group", *group != old.group);
        self.reload("groups", *groups != old.groups);
        self.reload("umask", *umask != old.umask);
        self.reload("nice", *nice != old.nice);
        self.reload("limits", *limits != old.limits);
        self.reload("no_new_privs", *no_new_privs != old.no_new_privs);
        self.reload("oom_score_adj", *oom_score != old.oom_score);
        self.reload("memory_max", *memory_max != old.memory_max);
        self.reload("tasks_max", *tasks_max != old.tasks_max);
        self.reload("cpu_max", *cpu_max != old.cpu_max);
    }

    /// A process's output is bound to its files for as long as it runs.
    fn logs(&mut self, old: &LogSpec, new: &LogSpec) {
        let LogSpec { mode, out, error, combined, merge, format, rotation } = new;
        self.reload("log_mode", *mode != old.mode);
        self.reload("out_file", *out != old.out);
        self.reload("error_file", *error != old.error);
        self.reload("log_file", *combined != old.combined);
        self.reload("merge_logs", *merge != old.merge);
        self.reload("log_type", *format != old.format);
        self.reload("rotate", *rotation != old.rotation);
    }

    fn deployment(&mut self, old: &ReloadSpec, new: &ReloadSpec) {
        let ReloadSpec { min_ready, drain_timeout, parallel, max_failures, rollback, probation } = new;
        self.live("reload.min_ready", *min_ready != old.min_ready);
        self.live("reload.drain_timeout", *drain_timeout != old.drain_timeout);
        self.live("reload.parallel", *parallel != old.parallel);
        self.live("reload.max_failures", *max_failures != old.max_failures);
        self.live("reload.rollback", *rollback != old.rollback);
        self.live("reload.probation", *probation != old.probation);
    }

    fn wire(&mut self, old: &WireSpec, new: &WireSpec) {
        let WireSpec { ring_bytes, max_message, stall_timeout } = new;
        self.reload("ring_size", *ring_bytes != old.ring_bytes);
        self.reload("max_message", *max_message != old.max_message);
        self.reload("stall_timeout", *stall_timeout != old.stall_timeout);
    }
}

fn is_of_a_session(name: &str) -> bool {
    OF_A_SESSION.contains(&name) || BEGINNINGS_OF_A_SESSION.iter().any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::spec::LogMode;
    use crate::config::testing;

    fn changed(change: impl FnOnce(&mut AppSpec)) -> Vec<(String, Needs)> {
        let old = testing::spec("web");
        let mut new = old.clone();
        change(&mut new);
        changes(&old, &new).into_iter().map(|change| (change.key, change.needs)).collect()
    }

    #[test]
    fn the_same_spec_needs_nothing() {
        assert_eq!(changed(|_| {}), []);
    }

    #[test]
    fn what_an_instance_knows_from_its_start_needs_a_reload() {
        let one = |key: &str| vec![(key.to_owned(), Needs::Reload)];
        assert_eq!(changed(|spec| spec.command.args.push("x".into())), one("args"));
        assert_eq!(changed(|spec| spec.cwd = "/tmp".into()), one("cwd"));
        assert_eq!(changed(|spec| spec.bounds.nice = Some(3)), one("nice"));
        assert_eq!(changed(|spec| spec.logs.mode = LogMode::Off), one("log_mode"));
        assert_eq!(changed(|spec| spec.wire.ring_bytes *= 2), one("ring_size"));
    }

    #[test]
    fn rules_are_taken_over_as_they_are() {
        let changes = changed(|spec| {
            spec.rules.kill_timeout = Duration::from_secs(9);
            spec.reload.parallel = 7;
            spec.bridge = vec!["news".into()];
        });
        let keys: Vec<&str> = changes.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["bridge", "kill_timeout", "reload.parallel"]);
        assert!(changes.iter().all(|(_, needs)| *needs == Needs::Nothing));
    }

    #[test]
    fn a_variable_is_named_and_its_value_is_not() {
        let changes = changed(|spec| drop(spec.env.insert("TOKEN".into(), "hunter2".into())));
        assert_eq!(changes, [("env.TOKEN".to_owned(), Needs::Reload)]);
    }

    #[test]
    fn another_terminal_is_no_change() {
        let session = ["SSH_CONNECTION", "TERM", "SHLVL", "XDG_SESSION_ID"];
        let changes = changed(|spec| session.iter().for_each(|name| drop(spec.env.insert((*name).into(), "x".into()))));
        assert_eq!(changes, []);
    }

    #[test]
    fn a_number_of_instances_is_a_matter_of_its_own() {
        assert_eq!(changed(|spec| spec.instances = 9), [("instances".to_owned(), Needs::Count)]);
    }
}
