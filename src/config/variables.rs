//! The variables that each instance gets beside its app's environment: who it is, in Herdwire's words and in pm2's.
//!
//! The trampoline adds what depends on descriptors (`HERDWIRE_LINK` or `HERDWIRE_PIPE_FD`, `LISTEN_*`); `environment` keeps all of them from
//! being inherited.

use std::path::Path;

use super::spec::AppSpec;
use crate::relay::NodeId;

/// Which instance, and where its files are.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The number that users know it by: pm2's `pm_id`.
    pub id: u32,
    /// What the wire knows it by. Differs from `id` for one that took another's place in a reload.
    pub instance: u32,
    /// Counts within the app.
    pub index: u32,
    /// Which process of the instance it is, counted from 1.
    pub incarnation: u32,
    /// How often it was restarted.
    pub restarts: u32,
    pub node: NodeId,
    pub home: &'a Path,
    pub out_log: &'a Path,
    pub error_log: &'a Path,
}

/// The variables of one instance, none of which is in its app's environment with another meaning. They win over
/// [`AppSpec::env`].
pub fn instance_variables(spec: &AppSpec, identity: &Identity<'_>) -> Vec<(String, String)> {
    let home = identity.home.display().to_string();
    let id = identity.id.to_string();
    let index = identity.index.to_string();
    let variables = [
        ("HERDWIRE_HOME", home.clone()),
        ("HERDWIRE_NODE", identity.node.to_string()),
        ("HERDWIRE_NAME", spec.name.clone()),
        ("HERDWIRE_HERD", spec.herd.clone()),
        ("HERDWIRE_ID", id.clone()),
        ("HERDWIRE_INSTANCE", identity.instance.to_string()),
        ("HERDWIRE_INDEX", index.clone()),
        ("HERDWIRE_INCARNATION", identity.incarnation.to_string()),
        ("HERDWIRE_INSTANCES", spec.instances.to_string()),
        ("NODE_APP_INSTANCE", index),
        ("PM2_HOME", home),
        ("pm_id", id),
        ("name", spec.name.clone()),
        ("namespace", "default".to_owned()),
        ("exec_mode", "fork_mode".to_owned()),
        ("status", "launching".to_owned()),
        ("restart_time", identity.restarts.to_string()),
        ("unique_id", unique_id(identity.node, identity.id)),
        ("pm_exec_path", spec.script.display().to_string()),
        ("pm_cwd", spec.cwd.display().to_string()),
        ("pm_out_log_path", identity.out_log.display().to_string()),
        ("pm_err_log_path", identity.error_log.display().to_string()),
        ("pm_pid_path", pid_path(identity.home, &spec.name, identity.id)),
    ];
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// pm2's `unique_id`, in the shape of a UUID: the home's node and the instance's id, so that it is the same wherever it
/// is shown and never that of another instance.
pub fn unique_id(node: NodeId, id: u32) -> String {
    let node = node.0;
    format!(
        "{:08x}-{:04x}-8{:03x}-8{:03x}-{:012x}",
        node >> 32,
        (node >> 16) & 0xffff,
        (node >> 4) & 0xfff,
        node & 0xf,
        id
    )
}

/// Where pm2 would keep the pid. Shown because programs look for the key; the file is not written.
pub fn pid_path(home: &Path, app: &str, id: u32) -> String {
    let app: String =
        app.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    home.join("pids").join(format!("{app}-{id}.pid")).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn an_instance_is_told_who_it_is_in_both_dialects() {
        let spec = testing::spec("web");
        let identity = Identity {
            id: 7,
            instance: 9,
            incarnation: 3,
            index: 1,
            restarts: 3,
            node: NodeId(0x0123_4567_89ab_cdef),
            home: Path::new("/home/u/.herdwire"),
            out_log: Path::new("/l/web-out-7.log"),
            error_log: Path::new("/l/web-error-7.log"),
        };
        let variables = instance_variables(&spec, &identity);
        let value = |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        assert_eq!(value("HERDWIRE_ID"), Some("7"));
        assert_eq!(value("pm_id"), Some("7"));
        assert_eq!(value("HERDWIRE_INSTANCE"), Some("9"));
        assert_eq!(value("NODE_APP_INSTANCE"), Some("1"));
        assert_eq!(value("restart_time"), Some("3"));
        assert_eq!(value("PM2_HOME"), Some("/home/u/.herdwire"));
        assert_eq!(value("unique_id"), Some("01234567-89ab-8cde-800f-000000000007"));
        assert_eq!(value("pm_pid_path"), Some("/home/u/.herdwire/pids/web-7.pid"));
    }
}
