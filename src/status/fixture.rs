//! Snapshots for tests, and for looking at the page.

use crate::snapshot::{
    BridgeState, BridgeView, ChannelView, ExitView, FrontView, HerdView, HostView, InstanceView, Snapshot, Status,
    SupervisorView,
};

const HOUR_MS: u64 = 3_600_000;

/// A supervisor that has just started.
pub fn empty() -> Snapshot {
    Snapshot {
        supervisor: SupervisorView {
            version: "0.1.0".into(),
            node: "9f3c2a7b51d0e846".into(),
            pid: 41_207,
            keeper_pid: 41_204,
            uptime_ms: 12_000,
            epoch: 1,
            home: "/home/ada/.herdwire".into(),
            status_address: Some("127.0.0.1:9615".parse().unwrap()),
            store_used: 5,
            store_limit: 4096,
            warnings: Vec::new(),
            notifications_ignored: 0,
        },
        instances: Vec::new(),
        herds: Vec::new(),
        deployments: Vec::new(),
        bridge: None,
        front: None,
        host: HostView {
            name: "meadow".into(),
            cpus: 8,
            load_1m: 1.37,
            memory_total_bytes: 32 << 30,
            memory_used_bytes: 11 << 30,
        },
    }
}

/// Three herds with something of everything.
pub fn busy() -> Snapshot {
    let mut all = empty();
    all.supervisor.uptime_ms = 53 * HOUR_MS;
    all.supervisor.epoch = 3;
    all.supervisor.store_used = 61;
    all.supervisor.warnings =
        vec!["the status page is at http://127.0.0.1:40121/ because 127.0.0.1:9615 is taken".into()];
    all.instances = (0..4).map(|index| instance(index, "chat", "chat", index, 4)).collect();
    all.instances.extend((0..2).map(|index| instance(4 + index, "prices", "market", index, 2)));
    all.instances.push(instance(6, "orders", "market", 0, 1));
    all.instances.push(instance(7, "thumbnailer", "thumbnailer", 0, 1));
    all.instances.push(instance(8, "nightly-report", "nightly-report", 0, 1));
    fail(&mut all.instances[7]);
    all.instances[5].status = Status::WaitingRestart;
    all.instances[5].pid = None;
    all.instances[5].restarts = 4;
    all.instances[5].last_exit = Some(ExitView::Signal(11));
    all.instances[6].status = Status::Launching;
    all.instances[6].uptime_ms = 800;
    all.instances[8].status = Status::Stopped;
    all.instances[8].pid = None;
    all.herds = vec![
        herd("chat", 5, vec![channel("lines", 5, 182_331, 0, true), channel("typing", 4, 962_004, 0, false)]),
        herd("market", 4, vec![channel("ticks", 3, 48_201_553, 1_204, true), channel("orders", 1, 20_114, 0, false)]),
        herd("thumbnailer", 1, Vec::new()),
        herd("nightly-report", 0, Vec::new()),
    ];
    all.bridge = Some(BridgeView {
        address: "redis://10.0.0.7:6379/0".into(),
        state: BridgeState::Connected,
        sent: 48_231_102,
        received: 1_204_221,
        dropped: 0,
        missed: 3,
        spooled_bytes: 0,
        reconnects: 1,
    });
    all.front = Some(FrontView {
        address: "0.0.0.0:8080".parse().unwrap(),
        sessions: 312,
        received: 88_102,
        sent: 14_221_007,
        slow_closed: 2,
        refused: 17,
    });
    all
}

/// Names that try to be markup, labels and lines of their own.
pub fn hostile() -> Snapshot {
    let mut all = busy();
    all.supervisor.warnings = vec![HOSTILE.into()];
    all.host.name = HOSTILE.into();
    all.instances[0].app = HOSTILE.into();
    all.instances[0].herd = HOSTILE.into();
    all.herds[0].name = HOSTILE.into();
    all.herds[0].channels[0].name = HOSTILE.into();
    all.instances[7].reason = Some(HOSTILE.into());
    all.bridge.as_mut().unwrap().state = BridgeState::Waiting(HOSTILE.into());
    all
}

/// What a name may be at its worst.
pub const HOSTILE: &str = "<img src=x onerror=\"document.title='owned'\">\"} 1\nherdwire_owned{a=\"\\";

fn instance(id: u32, app: &str, herd: &str, index: u32, instances: u32) -> InstanceView {
    InstanceView {
        id,
        app: app.into(),
        herd: herd.into(),
        index,
        instances,
        pid: Some(41_300 + 7 * id),
        status: Status::Online,
        incarnation: 2,
        restarts: 1,
        unstable_restarts: 0,
        started_at_ms: 1_790_000_000_000,
        uptime_ms: HOUR_MS * u64::from(7 + 5 * id),
        created_at_ms: 1_789_000_000_000,
        last_exit: None,
        reason: None,
        cause: None,
        cpu_percent: 6.5 * (id + 1) as f32,
        memory_bytes: u64::from(48 + 13 * id) << 20,
        script: format!("/srv/{app}/server.js").into(),
        args: Vec::new(),
        node_args: Vec::new(),
        interpreter: "node".into(),
        cwd: format!("/srv/{app}").into(),
        out_log: format!("/home/ada/.herdwire/logs/{app}-out-{index}.log").into(),
        error_log: format!("/home/ada/.herdwire/logs/{app}-error-{index}.log").into(),
        log_fault: None,
        autorestart: true,
        wait_ready: false,
        kill_timeout_ms: 1600,
        max_restarts: 16,
        listen: Vec::new(),
        slot: Some(index as u16 + 1),
        transport: "native".into(),
        stand_in: None,
        health: Default::default(),
        env: None,
    }
}

fn fail(instance: &mut InstanceView) {
    instance.status = Status::Errored;
    instance.pid = None;
    instance.restarts = 16;
    instance.unstable_restarts = 16;
    instance.last_exit = Some(ExitView::Code(1));
    instance.reason = Some("it exited 16 times in a row before it had run for a second, last with code 1".into());
}

fn herd(name: &str, participants: u32, channels: Vec<ChannelView>) -> HerdView {
    let seats = std::collections::BTreeMap::new();
    HerdView { name: name.into(), participants, seats, ring_bytes: 1 << 20, memory_bytes: 6 << 20, channels }
}

fn channel(name: &str, subscribers: u32, published: u64, lost: u64, out: bool) -> ChannelView {
    ChannelView {
        name: name.into(),
        subscribers,
        published,
        delivered: published * u64::from(subscribers) - lost,
        lost,
        rejected: 0,
        rate: published as f64 / 4000.0,
        bridged: out,
        shown: out,
    }
}
