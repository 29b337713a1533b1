//! Commands whose supervisor is killed while they wait: they say what became of what they asked for, and it is done once.

use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, Ran, assert_is_a_clear_error, poll, signal, until};

/// A command that runs while the test goes on.
fn begin(herdwire: &Herdwire, arguments: &[&str]) -> Child {
    herdwire.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(mut child: Child) -> Ran {
    let ended = poll(crate::herdwire::SOON, || child.try_wait().unwrap());
    if ended.is_none() {
        child.kill().unwrap();
    }
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert!(ended.is_some(), "it does not end: {ran:#?}");
    ran
}

/// Starts an app that takes its time to stop: until there is a file `go`.
fn slow_to_stop(herdwire: &Herdwire, name: &str) {
    let script = "trap 'while [ ! -e go ]; do sleep 0.01; done; exit 0' INT; while :; do sleep 0.01; done";
    herdwire.write("slow.sh", script);
    herdwire.ok(&["start", "slow.sh", "-n", name, "--kill-timeout", "60s"]);
}

fn await_status(herdwire: &Herdwire, name: &str, status: &str) {
    herdwire.await_instance(name, status, |instance| instance.status == status);
}

#[test]
fn a_stop_outlasts_the_supervisor() {
    let herdwire = Herdwire::new();
    slow_to_stop(&herdwire, "slow");
    let stop = begin(&herdwire, &["stop", "slow"]);
    await_status(&herdwire, "slow", "stopping");
    herdwire.kill_supervisor();
    herdwire.write("go", "");
    let ran = end(stop);
    assert!(ran.status.success() && ran.stdout.contains("stopped"), "{ran:#?}");
    assert_eq!(herdwire.instance("slow").status, "stopped");
}

#[test]
fn a_restart_outlasts_the_supervisor_and_is_done_once() {
    let herdwire = Herdwire::new();
    slow_to_stop(&herdwire, "slow");
    let before = herdwire.instance("slow");
    let restart = begin(&herdwire, &["restart", "slow"]);
    await_status(&herdwire, "slow", "stopping");
    herdwire.kill_supervisor();
    herdwire.write("go", "");
    let ran = end(restart);
    assert!(ran.status.success() && ran.stdout.contains("online"), "{ran:#?}");
    let after = herdwire.instance("slow");
    assert!(after.pid != before.pid && after.restarts == before.restarts + 1, "{before:#?}{after:#?}");
}

#[test]
fn a_delete_outlasts_the_supervisor_and_names_what_it_has_deleted() {
    let herdwire = Herdwire::new();
    slow_to_stop(&herdwire, "slow");
    let delete = begin(&herdwire, &["delete", "slow"]);
    await_status(&herdwire, "slow", "stopping");
    herdwire.kill_supervisor();
    herdwire.write("go", "");
    let ran = end(delete);
    assert!(ran.status.success() && ran.stdout.contains("deleted slow (id 0)"), "{ran:#?}");
    assert!(herdwire.list().is_empty());
}

/// Waits until so many of an app's instances have a process that is not ready.
fn await_launching(herdwire: &Herdwire, name: &str, count: usize) {
    until("they are launching", || {
        let all = herdwire.instances(name).into_iter();
        all.filter(|one| one.status == "launching" && one.pid > 0).count() == count
    });
}

/// A configuration of an app that is ready once there is a file `go`.
fn slow_to_start(herdwire: &Herdwire, instances: u32, ready: &str) {
    let config = format!(
        "[[app]]\nname = \"app\"\nscript = \"sleep 1000\"\ninstances = {instances}\nlisten_timeout = \"60s\"\n\
         readiness = \"exec:{ready}\"\n[app.reload]\nmin_ready = \"100ms\"\n"
    );
    herdwire.write("herdwire.toml", &config);
}

#[test]
fn a_start_outlasts_the_supervisor_and_is_done_once() {
    let herdwire = Herdwire::new();
    slow_to_start(&herdwire, 2, "test -e go");
    herdwire.ok(&["start", "sleep 1000", "-n", "other"]);
    let start = begin(&herdwire, &["start"]);
    await_launching(&herdwire, "app", 2);
    herdwire.kill_supervisor();
    herdwire.write("go", "");
    let ran = end(start);
    assert!(ran.status.success() && ran.stdout.matches("online").count() == 2, "{ran:#?}");
    let after = herdwire.instances("app");
    assert!(after.len() == 2 && after.iter().all(|one| one.is_online() && one.restarts == 0), "{after:#?}");
}

#[test]
fn a_start_that_fails_under_the_successor_says_so() {
    let herdwire = Herdwire::new();
    herdwire.write("late.sh", "while [ ! -e go ]; do sleep 0.01; done; exit 6");
    herdwire.ok(&["start", "sleep 1000", "-n", "other"]);
    let start = begin(&herdwire, &["start", "late.sh", "-n", "late", "--wait-ready", "--listen-timeout", "60s"]);
    await_launching(&herdwire, "late", 1);
    herdwire.kill_supervisor();
    herdwire.write("go", "");
    let ran = end(start);
    assert_eq!(ran.status.code(), Some(1), "{ran:#?}");
    assert_is_a_clear_error(&ran.stderr);
    assert!(ran.stderr.contains("late") && ran.stderr.contains("exit code 6"), "{ran:#?}");
}

#[test]
fn a_scale_outlasts_the_supervisor_and_counts_what_there_is() {
    let herdwire = Herdwire::new();
    slow_to_start(&herdwire, 1, "test -e go");
    herdwire.write("go", "");
    herdwire.ok(&["start"]);
    std::fs::remove_file(herdwire.work().join("go")).unwrap();
    let scale = begin(&herdwire, &["scale", "app", "+2"]);
    await_launching(&herdwire, "app", 2);
    herdwire.kill_supervisor();
    herdwire.write("go", "");
    let ran = end(scale);
    assert!(ran.status.success() && ran.stdout.matches("online").count() == 3, "{ran:#?}");
    assert_eq!(herdwire.instances("app").len(), 3);
}

#[test]
fn what_the_supervisor_did_not_come_to_is_said() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "db"]);
    herdwire.write("web.sh", "trap 'sleep 1000' INT; while :; do sleep 0.01; done");
    herdwire.ok(&["start", "web.sh", "-n", "web", "--depends-on", "db", "--kill-timeout", "60s"]);
    let web = herdwire.instance("web").pid;
    // `db` is stopped after what depends on it, and that takes its time.
    let stop = begin(&herdwire, &["stop", "all"]);
    await_status(&herdwire, "web", "stopping");
    herdwire.kill_supervisor();
    signal(web, Signal::SIGKILL);
    let ran = end(stop);
    assert_eq!(ran.status.code(), Some(1), "{ran:#?}");
    assert_is_a_clear_error(&ran.stderr);
    assert!(ran.stderr.contains("the supervisor died") && ran.stderr.contains("db:0 was not stopped"), "{ran:#?}");
    assert!(herdwire.instance("db").is_online());
}
