//! Specs for tests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::spec::*;

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
        transport: Transport::Native,
        env_files: Vec::new(),
        bounds: Bounds::default(),
        logs: LogSpec::default(),
        health: HealthSpec::default(),
        triggers: Triggers::default(),
        depends_on: Vec::new(),
        reload: ReloadSpec::default(),
    }
}

/// Any app at all, every setting of it.
pub(crate) fn any_spec() -> impl Strategy<Value = AppSpec> {
    let who = (any_text(), any_text(), any_command(), any_path(), any_text(), any_path());
    let what = (btree_map(any_text(), any_text(), 0..4), 0..300_u32, vec(any_listen(), 0..3), vec(any_text(), 0..3));
    let rules = (any_rules(), any::<bool>(), any_wire(), vec((any_path(), any::<bool>()), 0..3));
    let rest = (any_bounds(), any_logs(), any_health(), any_triggers(), vec(any_dependency(), 0..3), any_reload());
    (who, what, rules, rest).prop_map(|(who, what, rules, rest)| AppSpec {
        name: who.0,
        herd: who.1,
        command: who.2,
        script: who.3,
        interpreter: who.4,
        cwd: who.5,
        env: what.0,
        instances: what.1,
        listen: what.2,
        bridge: what.3,
        rules: rules.0,
        autostart: rules.1,
        wire: rules.2,
        transport: Transport::Native,
        env_files: rules.3.into_iter().map(|(path, optional)| EnvFile { path, optional }).collect(),
        bounds: rest.0,
        logs: rest.1,
        health: rest.2,
        triggers: rest.3,
        depends_on: rest.4,
        reload: rest.5,
    })
}

/// Text with whatever is hard to write down: quotes, line breaks, other alphabets.
fn any_text() -> impl Strategy<Value = String> {
    "\\PC{0,8}|[\"\\\\\n\t\u{1}é€]{1,4}"
}

fn any_path() -> impl Strategy<Value = PathBuf> {
    any_text().prop_map(|name| PathBuf::from(format!("/{name}")))
}

fn any_time() -> impl Strategy<Value = Duration> {
    (0..40_000_000_u64, 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Duration::new(secs, nanos))
}

fn any_command() -> impl Strategy<Value = Command> {
    (any_path(), vec(any_text(), 0..3)).prop_map(|(program, args)| Command { program, args })
}

fn any_listen() -> impl Strategy<Value = ListenAddress> {
    prop_oneof![
        any::<std::net::SocketAddr>().prop_map(|address| ListenAddress::Tcp(plain(address))),
        any_path().prop_map(ListenAddress::Unix),
    ]
}

/// Without scope and flow, which an address as text does not have.
fn plain(address: std::net::SocketAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new(address.ip(), address.port())
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let backoff = (any_time(), any_time(), any_time());
    let backoff = option::of(backoff.prop_map(|(first, longest, reset)| Backoff { first, longest, reset }));
    let flags = any::<[bool; 3]>();
    let times = [any_time(), any_time(), any_time(), any_time(), any_time()];
    (flags, times, any::<u32>(), backoff, vec(any::<i32>(), 0..3), any::<i32>()).prop_map(
        |(flags, times, max_restarts, backoff, stop_exit_codes, kill_signal)| Rules {
            autorestart: flags[0],
            max_restarts,
            restart_window: times[0],
            min_uptime: times[1],
            restart_delay: times[2],
            backoff,
            stop_exit_codes,
            kill_signal,
            kill_timeout: times[3],
            shutdown_with_message: flags[1],
            wait_ready: flags[2],
            listen_timeout: times[4],
        },
    )
}

fn any_wire() -> impl Strategy<Value = WireSpec> {
    (any::<u64>(), any::<u64>(), any_time()).prop_map(|(ring_bytes, max_message, stall_timeout)| WireSpec {
        ring_bytes,
        max_message,
        stall_timeout,
    })
}

fn any_bounds() -> impl Strategy<Value = Bounds> {
    use Limit::*;
    const LIMITS: [Limit; 15] =
        [As, Core, Cpu, Data, Fsize, Memlock, Msgqueue, Nice, Nofile, Nproc, Rss, Rtprio, Rttime, Sigpending, Stack];
    let who = (option::of(any_text()), option::of(any_text()), option::of(vec(any_text(), 0..3)));
    let limits = btree_map((0..LIMITS.len()).prop_map(|at| LIMITS[at]), any::<(u64, u64)>(), 0..15);
    let numbers = any::<(Option<u32>, Option<i32>, Option<i32>, Option<u64>, Option<u64>, Option<u32>)>();
    (who, limits, numbers, any::<bool>()).prop_map(|(who, limits, numbers, no_new_privs)| Bounds {
        user: who.0,
        group: who.1,
        groups: who.2,
        umask: numbers.0,
        nice: numbers.1,
        limits,
        no_new_privs,
        oom_score: numbers.2,
        memory_max: numbers.3,
        tasks_max: numbers.4,
        cpu_max: numbers.5,
    })
}

fn any_logs() -> impl Strategy<Value = LogSpec> {
    let file = || prop_oneof![Just(LogFile::Default), Just(LogFile::Off), any_path().prop_map(LogFile::At)];
    let mode = prop_oneof![Just(LogMode::Pipe), Just(LogMode::File), Just(LogMode::Off)];
    let format = prop_oneof![
        Just(LogFormat::Raw),
        any_text().prop_map(LogFormat::Stamped),
        option::of(any_text()).prop_map(LogFormat::Json),
    ];
    let rotation = (any::<Option<u64>>(), option::of(any_time()), any::<u32>(), any::<bool>());
    (mode, file(), file(), option::of(any_path()), any::<bool>(), format, rotation).prop_map(
        |(mode, out, error, combined, merge, format, (max_bytes, max_age, keep, compress))| LogSpec {
            mode,
            out,
            error,
            combined,
            merge,
            format,
            rotation: Rotation { max_bytes, max_age, keep, compress },
        },
    )
}

fn any_probe() -> impl Strategy<Value = Probe> {
    let target =
        prop_oneof![
            any::<std::net::SocketAddr>().prop_map(|address| ProbeTarget::Tcp(plain(address))),
            (any::<std::net::SocketAddr>(), any_text(), any_text())
                .prop_map(|(address, host, path)| ProbeTarget::Http { address: plain(address), host, path }),
            any_command().prop_map(ProbeTarget::Exec),
        ];
    (target, any_time(), any_time(), any::<u32>(), any_time())
        .prop_map(|(target, interval, timeout, failures, delay)| Probe { target, interval, timeout, failures, delay })
}

fn any_health() -> impl Strategy<Value = HealthSpec> {
    let probes = (option::of(any_probe()), option::of(any_probe()));
    let times = (option::of(any_time()), option::of(any_time()));
    (probes, any::<Option<u32>>(), times, any::<Option<u64>>()).prop_map(
        |((readiness, liveness), notify_descriptor, (watchdog, heartbeat), max_memory)| HealthSpec {
            readiness,
            liveness,
            notify_descriptor,
            watchdog,
            heartbeat,
            max_memory,
        },
    )
}

fn any_triggers() -> impl Strategy<Value = Triggers> {
    let cron = (any_text(), option::of(any_text())).prop_map(|(pattern, zone)| Cron { pattern, zone });
    let watch = (vec(any_path(), 0..3), vec(any_text(), 0..3), any_time());
    let watch = watch.prop_map(|(paths, ignore, settle)| Watch { paths, ignore, settle });
    (option::of(cron), option::of(watch)).prop_map(|(cron, watch)| Triggers { cron, watch })
}

fn any_dependency() -> impl Strategy<Value = Dependency> {
    let condition = prop_oneof![Just(Condition::Started), Just(Condition::Ready), Just(Condition::Completed)];
    (any_text(), condition).prop_map(|(app, condition)| Dependency { app, condition })
}

fn any_reload() -> impl Strategy<Value = ReloadSpec> {
    ([any_time(), any_time(), any_time()], any::<u32>(), any::<u32>(), any::<bool>()).prop_map(
        |(times, parallel, max_failures, rollback)| ReloadSpec {
            min_ready: times[0],
            drain_timeout: times[1],
            parallel,
            max_failures,
            rollback,
            probation: times[2],
        },
    )
}
