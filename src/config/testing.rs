//! Specs for tests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::spec::{AppSpec, Bounds, Command, HealthSpec, LogSpec, ReloadSpec, Rules, Triggers, WireSpec};

/// A small app that is not run.
pub(crate) fn spec(name: &str) -> AppSpec {
    AppSpec {
        name: name.to_owned(),
        herd: name.to_owned(),
        command: Command { program: PathBuf::from("/bin/true"), args: Vec::new() },
        script: PathBuf::from("/bin/true"),
        interpreter: "none".to_owned(),
        cwd: PathBuf::from("/"),
        env: BTreeMap::new(),
        instances: 2,
        listen: Vec::new(),
        bridge: Vec::new(),
        rules: Rules::default(),
        autostart: true,
        wire: WireSpec { ring_bytes: 1 << 20, max_message: 16 << 20, stall_timeout: Duration::from_secs(5) },
        env_files: Vec::new(),
        bounds: Bounds::default(),
        logs: LogSpec::default(),
        health: HealthSpec::default(),
        triggers: Triggers::default(),
        depends_on: Vec::new(),
        reload: ReloadSpec::default(),
    }
}
