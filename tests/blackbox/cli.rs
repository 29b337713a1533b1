//! Selectors, `ping`, `jlist`, `describe`, `delete`.

use serde_json::Value;

use crate::herdwire::{Herdwire, until};

#[test]
fn selectors_are_names_ids_and_all() {
    let herdwire = Herdwire::new();
    for name in ["a", "b", "c", "d"] {
        herdwire.ok(&["start", "sleep 1000", "-n", name]);
    }
    let stopped = || -> Vec<String> {
        let all = herdwire.list().into_iter();
        all.filter(|instance| instance.status == "stopped").map(|instance| instance.name).collect()
    };
    herdwire.ok(&["stop", "a", "2"]);
    assert_eq!(stopped(), ["a", "c"]);
    herdwire.ok(&["stop", "all"]);
    assert_eq!(stopped(), ["a", "b", "c", "d"]);
    herdwire.ok(&["restart", "b"]);
    assert_eq!(stopped(), ["a", "c", "d"]);
}

#[test]
fn one_instance_of_several_can_be_stopped_by_its_id() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "three", "-i", "3"]);
    herdwire.ok(&["stop", "1"]);
    let states: Vec<_> = herdwire.instances("three").into_iter().map(|instance| instance.status).collect();
    assert_eq!(states, ["online", "stopped", "online"]);
}

#[test]
fn delete_ends_what_is_named_takes_it_off_the_list_and_says_so() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "stays"]);
    herdwire.ok(&["start", "sleep 1000", "-n", "goes", "-i", "2"]);
    let said = herdwire.ok(&["delete", "goes"]);
    assert!(said.contains("goes") && !said.contains("stays"), "{said}");
    assert_eq!(herdwire.list().len(), 1);
    until("its processes are gone", || herdwire.processes_of("goes").is_empty());
    assert!(herdwire.instance("stays").is_online());
}

#[test]
fn ping_says_who_answers() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let pong = herdwire.ping();
    assert_eq!(pong["supervisor"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(pong["supervisor"]["uptime_ms"].is_u64());
    let (keeper, supervisor) = (pong["keeper"]["pid"].as_u64().unwrap(), pong["supervisor"]["pid"].as_u64().unwrap());
    let stat = std::fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
    let parent = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap();
    assert_eq!(parent, keeper.to_string());
    let address: std::net::SocketAddr = pong["status"]["address"].as_str().unwrap().parse().unwrap();
    assert!(address.ip().is_loopback());
}

/// A type, as a question to a value.
type Is = fn(&Value) -> bool;

#[test]
fn jlist_has_the_keys_that_pm2s_readers_use_with_pm2s_types() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap", "--env", "COLOUR=blue"]);
    let record = herdwire.instance("nap").record;
    let number = Value::is_u64;
    let text = Value::is_string;
    let flag = Value::is_boolean;
    let keys: [(&str, Is); 24] = [
        ("/name", text),
        ("/pid", number),
        ("/pm_id", number),
        ("/monit/memory", number),
        ("/monit/cpu", Value::is_number),
        ("/pm2_env/name", text),
        ("/pm2_env/pm_id", number),
        ("/pm2_env/status", text),
        ("/pm2_env/pm_uptime", number),
        ("/pm2_env/created_at", number),
        ("/pm2_env/restart_time", number),
        ("/pm2_env/unstable_restarts", number),
        ("/pm2_env/instances", number),
        ("/pm2_env/exec_mode", text),
        ("/pm2_env/exec_interpreter", text),
        ("/pm2_env/pm_exec_path", text),
        ("/pm2_env/pm_cwd", text),
        ("/pm2_env/pm_out_log_path", text),
        ("/pm2_env/pm_err_log_path", text),
        ("/pm2_env/autorestart", flag),
        ("/pm2_env/watch", flag),
        ("/pm2_env/namespace", text),
        ("/pm2_env/unique_id", text),
        ("/pm2_env/env", Value::is_object),
    ];
    for (key, is) in keys {
        assert!(record.pointer(key).is_some_and(is), "{key}: {:?}", record.pointer(key));
    }
    assert_eq!(record.pointer("/pm2_env/env/COLOUR").unwrap(), "blue");
    let uptime = record.pointer("/pm2_env/pm_uptime").unwrap().as_u64().unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    assert!(now.abs_diff(uptime) < 60_000, "pm_uptime is the wall-clock time of the start");
}

#[test]
fn jlist_and_list_are_empty_where_nothing_runs_and_start_nothing() {
    let herdwire = Herdwire::new();
    assert_eq!(herdwire.ok(&["jlist"]).trim(), "[]");
    herdwire.ok(&["list"]);
    assert!(herdwire.processes().is_empty());
}

#[test]
fn describe_tells_all_about_an_instance() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let said = herdwire.ok(&["describe", "nap"]);
    let instance = herdwire.instance("nap");
    for expected in ["online", "nap", &instance.pid.to_string(), "nap-out.log", "sleep 1000"] {
        assert!(said.contains(expected), "no `{expected}` in {said}");
    }
}

#[test]
fn no_secret_of_an_app_is_shown_but_by_jlist() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap", "--env", "PASSWORD=hunter2"]);
    for arguments in [&["list"][..], &["list", "--json"], &["describe", "nap"], &["describe", "nap", "--json"]] {
        assert!(!herdwire.ok(arguments).contains("hunter2"), "{arguments:?}");
    }
    assert!(!herdwire.own_log().contains("hunter2"));
}
