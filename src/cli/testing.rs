//! A snapshot made by hand and an output into memory, for tests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::rc::Rc;

use super::output::Output;
use crate::snapshot::{ExitView, HostView, InstanceView, Snapshot, Status, SupervisorView};

/// Text that was written.
#[derive(Clone, Default)]
pub struct Written(Rc<RefCell<Vec<u8>>>);

impl Written {
    pub fn take(&self) -> String {
        String::from_utf8(self.0.take()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An output without a terminal, and what it wrote.
pub fn output() -> (Output, Written) {
    let written = Written::default();
    (Output::plain(Box::new(written.clone())), written)
}

/// Compares two texts so that a difference can be read.
pub fn assert_text(text: &str, expected: &str) {
    assert!(text == expected, "\n--- is\n{text}\n--- should be\n{expected}");
}

/// Two instances of `web` that run and one of `jobs` that was given up.
pub fn snapshot() -> Snapshot {
    let (mut first, mut second, mut third) = (instance(0, "web"), instance(1, "web"), instance(2, "jobs"));
    first.index = 0;
    first.pid = Some(4000);
    first.uptime_ms = 150_000;
    first.memory_bytes = 57_252_249;
    first.cpu_percent = 0.3;
    second.index = 1;
    second.pid = Some(4001);
    second.uptime_ms = 59_999;
    second.restarts = 3;
    second.unstable_restarts = 1;
    second.memory_bytes = 1024;
    second.cpu_percent = 12.46;
    second.last_exit = Some(ExitView::Code(7));
    let env = [("PORT", "80"), ("status", "spoofed"), ("USER", "ann")];
    second.env =
        Some(env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>());
    third.herd = "jobs".to_owned();
    third.instances = 1;
    third.status = Status::Errored;
    third.restarts = 16;
    third.last_exit = Some(ExitView::Signal(9));
    third.reason = Some("16 quick deaths in a row".to_owned());
    Snapshot {
        supervisor: SupervisorView {
            version: "0.1.0".to_owned(),
            node: "0123456789abcdef".to_owned(),
            pid: 100,
            keeper_pid: 99,
            uptime_ms: 1000,
            epoch: 1,
            home: PathBuf::from("/h"),
            status_address: None,
            store_used: 0,
            store_limit: 0,
            warnings: Vec::new(),
            notifications_ignored: 0,
        },
        instances: vec![first, second, third],
        herds: Vec::new(),
        deployments: Vec::new(),
        bridge: None,
        front: None,
        host: HostView { name: "host".to_owned(), cpus: 2, load_1m: 0.0, memory_total_bytes: 0, memory_used_bytes: 0 },
    }
}

fn instance(id: u32, app: &str) -> InstanceView {
    InstanceView {
        id,
        app: app.to_owned(),
        herd: "shop".to_owned(),
        index: 0,
        instances: 2,
        pid: None,
        status: Status::Online,
        incarnation: 1,
        restarts: 0,
        unstable_restarts: 0,
        started_at_ms: 1_700_000_000_000,
        uptime_ms: 0,
        created_at_ms: 1_600_000_000_000,
        last_exit: None,
        reason: None,
        cause: None,
        cpu_percent: 0.0,
        memory_bytes: 0,
        script: PathBuf::from("/srv/web/server.js"),
        args: vec!["--port".to_owned(), "80".to_owned()],
        node_args: Vec::new(),
        interpreter: "node".to_owned(),
        cwd: PathBuf::from("/srv/web"),
        out_log: PathBuf::from(format!("/h/logs/{app}-out-{id}.log")),
        error_log: PathBuf::from(format!("/h/logs/{app}-error-{id}.log")),
        log_fault: None,
        autorestart: true,
        wait_ready: false,
        kill_timeout_ms: 1600,
        max_restarts: 16,
        listen: Vec::new(),
        slot: None,
        transport: "native".into(),
        stand_in: None,
        health: Default::default(),
        env: None,
    }
}
