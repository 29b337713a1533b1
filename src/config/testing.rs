//! Specs for tests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::spec::{AppSpec, Command, Rules, WireSpec};

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
        rules: Rules {
            autorestart: true,
            max_restarts: 16,
            min_uptime: Duration::from_secs(1),
            restart_delay: Duration::ZERO,
            kill_signal: 2,
            kill_timeout: Duration::from_millis(1600),
            wait_ready: false,
            listen_timeout: Duration::from_secs(3),
        },
        autostart: true,
        wire: WireSpec { ring_bytes: 1 << 20, max_message: 16 << 20, stall_timeout: Duration::from_secs(5) },
    }
}
