//! `reload`: a new release takes over, or the old one goes on, and nobody outside notices.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::herdwire::{Herdwire, Instance, Ran, finish, is_alive, signal, until, worker};
use crate::load::{self, Load};

/// A file with one app of web servers.
fn write_web(herdwire: &Herdwire, instances: u32, args: &[&str], more: &str) {
    let config = format!(
        "[[app]]\nname = \"web\"\nscript = {:?}\nargs = {args:?}\ninstances = {instances}\n\
         listen = [\"tcp://127.0.0.1:0\"]\n{more}\n[app.reload]\nmin_ready = \"150ms\"\n",
        worker("http").display().to_string()
    );
    herdwire.write("herdwire.toml", &config);
}

/// A file with one app that a shell runs.
fn write_shell(herdwire: &Herdwire, instances: u32, script: &str, more: &str, reload: &str) {
    let config = format!(
        "[[app]]\nname = \"app\"\nscript = {script:?}\ninstances = {instances}\n{more}\n\
         [app.reload]\nmin_ready = \"100ms\"\n{reload}\n"
    );
    herdwire.write("herdwire.toml", &config);
}

fn address(herdwire: &Herdwire) -> SocketAddr {
    let told = herdwire.instances("web")[0].own("listen")[0].as_str().unwrap().to_owned();
    told.trim_start_matches("tcp://").parse().unwrap()
}

fn pids(instances: &[Instance]) -> Vec<u32> {
    instances.iter().map(|instance| instance.pid).collect()
}

fn ids(instances: &[Instance]) -> Vec<u64> {
    instances.iter().map(|instance| instance.id).collect()
}

/// The last deployment of an app.
fn deployment(herdwire: &Herdwire, app: &str) -> Option<Value> {
    let deployments = herdwire.snapshot()["deployments"].as_array()?.clone();
    deployments.into_iter().find(|deployment| deployment["app"] == app)
}

fn phase(herdwire: &Herdwire, app: &str) -> String {
    deployment(herdwire, app).map_or(String::new(), |one| one["phase"].as_str().unwrap().to_owned())
}

/// Runs a reload that must fail in the middle: exit code 3, and the reason.
#[track_caller]
fn fails(herdwire: &Herdwire, arguments: &[&str]) -> String {
    let ran = herdwire.run(arguments);
    assert_eq!(ran.status.code(), Some(3), "{ran:#?}\n{}", herdwire.own_log());
    assert!(ran.stderr.starts_with("error: the reload of app `"), "{}", ran.stderr);
    ran.stderr
}

fn begin(herdwire: &Herdwire, arguments: &[&str]) -> Child {
    let mut command = herdwire.command(arguments);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

#[test]
fn requests_during_a_reload_are_all_answered() {
    let herdwire = Herdwire::new();
    write_web(&herdwire, 4, &["one"], "");
    herdwire.ok(&["start"]);
    let (before, address) = (herdwire.instances("web"), address(&herdwire));
    let load = Load::on(address, 4);
    herdwire.ok(&["reload", "web"]);
    write_web(&herdwire, 4, &["two"], "");
    herdwire.ok(&["reload", "herdwire.toml", "--parallel", "2"]);
    until("only the new release answers", || load::ask(address).unwrap().starts_with("two "));
    let tally = load.end();
    assert!(tally.failed.is_empty(), "{} of {}: {:?}", tally.failed.len(), tally.answered, tally.failed);
    assert!(tally.answered > 100, "{}", tally.answered);
    let after = herdwire.instances("web");
    assert_eq!(ids(&after), ids(&before));
    assert!(after.iter().all(|now| now.is_online() && now.restarts == 2), "{after:#?}");
    until("the old ones are gone", || pids(&before).iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn a_release_that_fails_at_its_start_leaves_the_old_one_serving() {
    let herdwire = Herdwire::new();
    write_web(&herdwire, 4, &["one"], "");
    herdwire.ok(&["start"]);
    let (before, address) = (herdwire.instances("web"), address(&herdwire));
    let load = Load::on(address, 2);
    write_web(&herdwire, 4, &["two", "broken"], "");
    let said = fails(&herdwire, &["reload", "herdwire.toml"]);
    let tally = load.end();
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);
    assert_eq!(pids(&herdwire.instances("web")), pids(&before));
    assert!(said.contains("web:0 ended: exit code 3") && said.contains("this release is broken"), "{said}");
    herdwire.ok(&["restart", "web"]);
    assert!(load::ask(address).unwrap().starts_with("one "), "the old release is the app's");
}

#[test]
fn a_release_that_never_gets_ready_leaves_the_old_one_serving() {
    let herdwire = Herdwire::new();
    let ready = "wait_ready = true\nlisten_timeout = \"20s\"";
    write_web(&herdwire, 2, &["one", "wire"], ready);
    herdwire.ok(&["start"]);
    let (before, address) = (herdwire.instances("web"), address(&herdwire));
    let load = Load::on(address, 2);
    write_web(&herdwire, 2, &["two", "late"], "wait_ready = true\nlisten_timeout = \"400ms\"");
    let said = fails(&herdwire, &["reload", "herdwire.toml"]);
    let tally = load.end();
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);
    assert!(said.contains("web:0 did not say that it is ready within 400ms"), "{said}");
    assert_eq!(pids(&herdwire.instances("web")), pids(&before));
}

#[test]
fn a_reload_that_failed_shows_the_last_words_of_its_own_failure_alone() {
    let herdwire = Herdwire::new();
    let old = "while :; do echo old; echo old-bad >&2; sleep 0.01; done";
    write_shell(&herdwire, 1, old, "", "");
    herdwire.ok(&["start"]);
    for attempt in ["first", "second"] {
        write_shell(&herdwire, 1, &format!("echo {attempt} try; echo {attempt} reason >&2; exit 4"), "", "");
        let said = fails(&herdwire, &["reload", "herdwire.toml"]);
        let log = |kind: &str| herdwire.home().join(format!("logs/app-{kind}.log")).display().to_string();
        let words = format!(
            "its last lines on stderr (in {}):\n  {attempt} reason\nits last lines on stdout (in {}):\n  {attempt} try\n",
            log("error"),
            log("out")
        );
        assert!(said.contains(&words), "{said}");
        assert!(!said.contains("  old"), "{said}");
    }
    // One that says nothing is not given others' words.
    write_shell(&herdwire, 1, "exit 4", "", "");
    let said = fails(&herdwire, &["reload", "herdwire.toml"]);
    assert!(said.contains("exit code 4") && !said.contains("last lines"), "{said}");
}

#[test]
fn a_failure_in_the_middle_brings_back_what_was_replaced() {
    let herdwire = Herdwire::new();
    write_shell(&herdwire, 3, "echo old; exec sleep 1000", "", "");
    herdwire.ok(&["start"]);
    let before = herdwire.instances("app");
    write_shell(&herdwire, 3, "[ $HERDWIRE_INDEX = 2 ] && exit 5; echo new; exec sleep 1001", "", "");
    let said = fails(&herdwire, &["reload", "herdwire.toml"]);
    assert!(said.contains("app:2 ended: exit code 5"), "{said}");
    let after = herdwire.instances("app");
    assert_eq!(ids(&after), ids(&before));
    assert_eq!(after[2].pid, before[2].pid);
    assert!(after[0].is_online() && after[0].pid != before[0].pid);
    herdwire.await_log("app-out-0.log", "old\nnew\nold\n");
    until("nobody is left of it", || herdwire.processes_of("app").len() == 3);
}

#[test]
fn what_was_replaced_stays_when_no_roll_back_is_wanted() {
    let herdwire = Herdwire::new();
    write_shell(&herdwire, 2, "exec sleep 1000", "", "");
    herdwire.ok(&["start"]);
    let before = herdwire.instances("app");
    write_shell(&herdwire, 2, "[ $HERDWIRE_INDEX = 1 ] && exit 5; echo new; exec sleep 1001", "", "");
    fails(&herdwire, &["reload", "herdwire.toml", "--no-rollback"]);
    let after = herdwire.instances("app");
    assert!(after[0].pid != before[0].pid && after[1].pid == before[1].pid);
    // Each is started again as what it is.
    signal(after[0].pid, Signal::SIGKILL);
    herdwire.await_log("app-out-0.log", "new\nnew\n");
}

#[test]
fn crashes_right_after_a_reload_take_it_back() {
    let herdwire = Herdwire::new();
    write_web(&herdwire, 2, &["one"], "");
    herdwire.ok(&["start"]);
    write_web(&herdwire, 2, &["two", "brittle"], "");
    herdwire.ok(&["reload", "herdwire.toml"]);
    assert_eq!(phase(&herdwire, "web"), "probation");
    herdwire.write("brittle", "");
    until("it is taken back", || phase(&herdwire, "web") == "failed");
    let reason = deployment(&herdwire, "web").unwrap()["reason"].clone();
    assert!(reason.as_str().unwrap().contains("ended: exit code 4"), "{reason}");
    let address = address(&herdwire);
    until("the old release answers", || load::ask(address).is_ok_and(|answer| answer.starts_with("one ")));
    assert!(herdwire.instances("web").iter().all(Instance::is_online));
    assert!(herdwire.ok(&["list"]).contains("its new release crashes and is taken back"));
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_touched() {
    let herdwire = Herdwire::new();
    write_shell(&herdwire, 2, "exec sleep 1000", "", "");
    herdwire.ok(&["start"]);
    let before = pids(&herdwire.instances("app"));
    let program = herdwire.script("program", "#!/bin/sh\nexec sleep 1000\n");
    let of = |script: &Path, more: &str| {
        let config = format!("[[app]]\nname = \"app\"\nscript = {script:?}\ninterpreter = \"none\"\n{more}\n");
        herdwire.write("herdwire.toml", &config);
    };
    let refused = |arguments: &[&str], reason: &str| {
        let ran = herdwire.run(arguments);
        assert_eq!(ran.status.code(), Some(2), "{ran:#?}");
        assert!(ran.stderr.contains(reason), "{}", ran.stderr);
        assert_eq!(pids(&herdwire.instances("app")), before);
    };
    of(&herdwire.work().join("missing"), "");
    refused(&["reload", "herdwire.toml"], "missing");
    of(&program, "user = \"nobody-of-that-name\"");
    refused(&["reload", "herdwire.toml"], "nobody-of-that-name");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    of(&program, &format!("listen = [\"tcp://{}\"]", taken.local_addr().unwrap()));
    refused(&["reload", "herdwire.toml"], "is in use");
    herdwire.write("herdwire.toml", "[[app]]\nname = \"stranger\"\nscript = \"sleep 1000\"\n");
    refused(&["reload", "herdwire.toml"], "stranger");
    refused(&["reload", "stranger"], "stranger");
}

#[test]
fn an_app_is_reloaded_once_at_a_time() {
    let herdwire = Herdwire::new();
    write_shell(&herdwire, 1, "exec sleep 1000", "", "");
    herdwire.ok(&["start"]);
    write_shell(&herdwire, 1, "exec sleep 1001", "wait_ready = true\nlisten_timeout = \"30s\"", "");
    let reload = begin(&herdwire, &["reload", "herdwire.toml"]);
    until("it has begun", || deployment(&herdwire, "app").is_some_and(|one| one["starting"] == 1));
    let again = herdwire.run(&["reload", "app"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(again.stderr.contains("is being reloaded"), "{}", again.stderr);
    let before = herdwire.instance("app");
    herdwire.ok(&["stop", "app"]);
    let broken_off = end(reload);
    assert_eq!(broken_off.status.code(), Some(3), "{broken_off:#?}");
    assert!(broken_off.stderr.contains("broken off by a stop"), "{}", broken_off.stderr);
    until("nothing runs", || herdwire.processes_of("app").is_empty());
    herdwire.ok(&["start", "app"]);
    let after = herdwire.instance("app");
    assert_eq!(after.id, before.id);
    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", after.pid)).unwrap();
    assert!(arguments.contains("1000"), "the old release is the app's: {arguments}");
}

#[test]
fn an_instance_that_listens_on_its_link_is_told_to_finish_and_gets_no_signal() {
    let herdwire = Herdwire::new();
    write_web(&herdwire, 1, &["one", "wire", "deaf"], "wait_ready = true\nlisten_timeout = \"20s\"");
    herdwire.ok(&["start"]);
    let before = herdwire.instance("web");
    herdwire.ok(&["reload", "web"]);
    herdwire.await_log("web-out.log", &format!("one {} has finished\n", before.pid));
    until("it is gone", || !is_alive(before.pid));
    assert!(herdwire.own_log().contains("web:0 (incarnation 1) ended: exit code 0"));
}

#[test]
fn an_instance_that_does_not_finish_is_killed_after_drain_timeout() {
    let herdwire = Herdwire::new();
    let stubborn = "trap '' INT; while :; do sleep 0.1; done";
    write_shell(&herdwire, 1, stubborn, "kill_timeout = \"100ms\"", "drain_timeout = \"300ms\"");
    herdwire.ok(&["start"]);
    let before = herdwire.instance("app");
    herdwire.ok(&["reload", "app"]);
    assert_ne!(herdwire.instance("app").pid, before.pid);
    until("it is gone", || !is_alive(before.pid));
    until("nothing of it is left", || herdwire.own_log().contains("app:0 (incarnation 1) ended: signal 9"));
}

#[test]
fn one_that_binds_its_port_itself_is_told_what_helps() {
    let herdwire = Herdwire::new();
    write_shell(&herdwire, 1, "exec sleep 1000", "", "");
    herdwire.ok(&["start"]);
    let fails_to_bind = "echo 'Error: listen EADDRINUSE: address already in use :::3000' >&2; exit 1";
    write_shell(&herdwire, 1, fails_to_bind, "", "");
    let said = fails(&herdwire, &["reload", "herdwire.toml"]);
    assert!(said.contains("`listen = ["), "{said}");
}

#[test]
fn what_does_not_run_is_replaced_and_runs_then() {
    let herdwire = Herdwire::new();
    herdwire.run(&["start", "exit 1", "-n", "app", "--max-restarts", "1"]);
    herdwire.await_instance("app", "was given up", |now| now.status == "errored");
    write_shell(&herdwire, 1, "exec sleep 1000", "", "");
    herdwire.ok(&["reload", "herdwire.toml"]);
    assert!(herdwire.instance("app").is_online());
}

#[test]
fn commands_find_the_new_instance_under_the_old_number() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "other"]);
    write_shell(&herdwire, 1, "echo $HERDWIRE_ID $pm_id; exec sleep 1000", "", "");
    herdwire.ok(&["start"]);
    herdwire.ok(&["reload", "all"]);
    herdwire.await_log("app-out.log", "1 1\n1 1\n");
    assert!(herdwire.ok(&["describe", "1"]).contains("instance 1 of app `app`"));
    herdwire.ok(&["restart", "1"]);
    herdwire.ok(&["delete", "1"]);
    assert_eq!(ids(&herdwire.list()), [0]);
    herdwire.ok(&["start", "sleep 1000", "-n", "later"]);
    assert!(herdwire.instance("later").id > 1, "no number is given twice");
}

/// Reloads, kills the supervisor once the deployment is as wanted, and says how the command ended.
fn killed_when(herdwire: &Herdwire, wanted: impl Fn(&Value) -> bool) -> Ran {
    let reload = begin(herdwire, &["reload", "herdwire.toml"]);
    until("it is so far", || deployment(herdwire, "app").is_some_and(|one| wanted(&one)));
    herdwire.kill_supervisor();
    end(reload)
}

#[test]
fn a_reload_outlives_the_death_of_its_supervisor_in_every_phase() {
    let herdwire = Herdwire::new();
    let old = "echo old; exec sleep 1000";
    let new = "echo new; exec sleep 1001";
    let start = || {
        herdwire.run(&["delete", "all"]);
        write_shell(&herdwire, 3, old, "", "");
        herdwire.ok(&["start"]);
        herdwire.instances("app")
    };
    let busy = |one: &Value| one["phase"] == "replacing" && one["starting"] == 1;
    for replaced in [0, 1, 2] {
        let before = start();
        write_shell(&herdwire, 3, new, "", "");
        let ran = killed_when(&herdwire, |one| busy(one) && one["replaced"] == replaced);
        assert!(ran.status.success(), "{replaced}: {ran:#?}\n{}", herdwire.own_log());
        let after = herdwire.instances("app");
        assert_eq!(ids(&after), ids(&before));
        assert!(after.iter().zip(&before).all(|(new, old)| new.is_online() && new.pid != old.pid), "{after:#?}");
        until("the old ones are gone", || herdwire.processes_of("app").len() == 3);
    }
    // On its way back.
    let before = start();
    write_shell(&herdwire, 3, "[ $HERDWIRE_INDEX = 2 ] && exit 5; echo new; exec sleep 1001", "", "");
    let ran = killed_when(&herdwire, |one| one["phase"] == "taking_back");
    assert_eq!(ran.status.code(), Some(3), "{ran:#?}\n{}", herdwire.own_log());
    assert!(ran.stderr.contains("ended: exit code 5"), "{}", ran.stderr);
    let after = herdwire.instances("app");
    assert_eq!((ids(&after), after[2].pid), (ids(&before), before[2].pid));
    for instance in &after {
        let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", instance.pid)).unwrap();
        assert!(arguments.contains("1000"), "{arguments}");
    }
    // In its probation.
    start();
    write_shell(&herdwire, 3, new, "", "");
    herdwire.ok(&["reload", "herdwire.toml"]);
    herdwire.kill_supervisor();
    assert_eq!(phase(&herdwire, "app"), "probation");
    for _ in 0..2 {
        until("it runs", || herdwire.instances("app")[0].is_online());
        let victim = herdwire.instances("app")[0].pid;
        signal(victim, Signal::SIGKILL);
        until("it is noticed", || herdwire.instances("app")[0].pid != victim);
    }
    until("it is taken back", || phase(&herdwire, "app") == "failed");
}

#[test]
fn a_plain_node_server_is_reloaded_without_a_failed_request() {
    let mut node = std::process::Command::new("node");
    if node.arg("--version").output().is_err() {
        eprintln!("skipped: there is no node here");
        return;
    }
    let herdwire = Herdwire::new();
    let server = "const server = require('http').createServer((request, response) => {\n\
                  \x20 if (ending) response.setHeader('Connection', 'close');\n  response.end('node ' + process.pid);\n});\n\
                  let ending = false;\nserver.listen({ fd: 3 });\nserver.keepAliveTimeout = 60000;\n\
                  process.on('SIGINT', () => { ending = true;\n\
                  \x20 require('net').Server.prototype.close.call(server, () => process.exit(0)); });\n";
    herdwire.write("server.js", server);
    let config = "[[app]]\nname = \"web\"\nscript = \"server.js\"\ninstances = 2\nlisten = [\"tcp://127.0.0.1:0\"]\n\
                  [app.reload]\nmin_ready = \"1s\"\n";
    herdwire.write("herdwire.toml", config);
    herdwire.ok(&["start"]);
    let (before, address) = (herdwire.instances("web"), address(&herdwire));
    until("it answers", || load::ask(address).is_ok());
    let load = Load::on(address, 2);
    herdwire.ok(&["reload", "web"]);
    until("the old ones are gone", || pids(&before).iter().all(|pid| !is_alive(*pid)));
    let tally = load.end();
    assert!(tally.failed.is_empty(), "{} of {}: {:?}", tally.failed.len(), tally.answered, tally.failed);
}

#[test]
fn a_reload_of_nothing_says_so() {
    let herdwire = Herdwire::new();
    let ran = finish(&mut herdwire.command(&["reload", "web"]));
    assert_eq!(ran.status.code(), Some(1));
    assert!(ran.stderr.contains("no supervisor is running"), "{}", ran.stderr);
}
