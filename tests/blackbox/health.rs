//! What makes a running instance unwell, and what comes of it.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, Instance, is_alive, signal, until};
use crate::puppets::{Puppet, Stage};

/// One instance that runs, and does as it is told.
struct Running {
    herdwire: Herdwire,
    stage: Stage,
    puppet: Puppet,
}

impl Running {
    fn with(more: &str) -> Running {
        let herdwire = Herdwire::new();
        let stage = Stage::new(&herdwire);
        herdwire.write("herdwire.toml", &Stage::app(&herdwire, "one", 1, more));
        herdwire.ok(&["start"]);
        let puppet = stage.next();
        Running { herdwire, stage, puppet }
    }

    /// It is replaced by another process, and the log says why.
    #[track_caller]
    fn is_replaced_because(&mut self, why: &str) -> Instance {
        let before = self.puppet.pid;
        let now = self.herdwire.await_instance("one", "was replaced", |now| now.is_online() && now.pid != before);
        self.puppet = self.stage.next();
        assert_eq!(self.puppet.pid, now.pid);
        let log = self.herdwire.own_log();
        assert!(log.contains(why), "no `{why}` in {log}");
        assert!(!is_alive(before));
        now
    }
}

#[test]
fn an_instance_that_falls_silent_is_restarted() {
    let mut one = Running::with("watchdog = \"500ms\"");
    assert_eq!(one.puppet.does("env WATCHDOG_USEC"), "500000");
    assert_eq!(one.puppet.does("env WATCHDOG_PID"), one.puppet.pid.to_string());
    // It was not told to give signs of life yet, so this is its second process or a later one.
    let before = one.is_replaced_because("no `WATCHDOG=1` came within 500ms");
    one.puppet.does("keep-alive 50");
    let since = Instant::now();
    until("it has lived for a while", || since.elapsed() > Duration::from_secs(2));
    assert_eq!(one.herdwire.instance("one").pid, before.pid);
    one.puppet.does("fall-silent");
    one.is_replaced_because("no `WATCHDOG=1` came");
}

#[test]
fn an_instance_that_calls_itself_broken_is_restarted_at_once() {
    let mut one = Running::with("watchdog = \"1h\"");
    one.puppet.does("notify WATCHDOG=trigger");
    one.is_replaced_because("it said that it is broken");
}

#[test]
fn an_instance_can_ask_for_a_watchdog_itself() {
    let mut one = Running::with("");
    assert_eq!(one.puppet.does("env WATCHDOG_USEC"), "");
    one.puppet.does("notify WATCHDOG_USEC=300000");
    one.is_replaced_because("within 300ms");
}

#[test]
fn the_absence_of_the_supervisor_is_nobodys_silence() {
    let mut one = Running::with("watchdog = \"1500ms\"");
    one.puppet.does("keep-alive 100");
    let before = one.herdwire.instance("one");
    let supervisor = one.herdwire.supervisor_pid();
    signal(supervisor, Signal::SIGSTOP);
    let since = Instant::now();
    until("it was stopped for longer than a watchdog waits", || since.elapsed() > Duration::from_millis(2600));
    signal(supervisor, Signal::SIGCONT);
    until("it has judged again", || since.elapsed() > Duration::from_secs(6));
    let now = one.herdwire.instance("one");
    assert_eq!((now.pid, now.restarts), (before.pid, before.restarts), "{}", one.herdwire.own_log());
    one.puppet.does("fall-silent");
    one.is_replaced_because("no `WATCHDOG=1` came");
}

#[test]
fn a_successor_of_the_supervisor_gives_everybody_a_full_interval_and_judges_on() {
    let mut one = Running::with("watchdog = \"1s\"");
    one.puppet.does("keep-alive 100");
    let before = one.herdwire.instance("one");
    one.herdwire.kill_supervisor();
    assert_eq!(one.herdwire.instance("one").pid, before.pid);
    one.puppet.does("fall-silent");
    one.is_replaced_because("no `WATCHDOG=1` came");
}

#[test]
fn a_stopped_instance_is_found_by_its_heartbeat() {
    let mut one = Running::with("heartbeat = \"3s\"\nkill_timeout = \"200ms\"");
    one.puppet.connects();
    let before = one.herdwire.instance("one");
    let since = Instant::now();
    until("it has lived for longer than its heartbeat may take", || since.elapsed() > Duration::from_secs(5));
    assert_eq!(one.herdwire.instance("one").pid, before.pid, "{}", one.herdwire.own_log());
    signal(before.pid, Signal::SIGSTOP);
    one.is_replaced_because("its link gave no sign of life");
}

#[test]
fn an_instance_whose_probe_fails_in_a_row_is_restarted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let more = format!("liveness = {{ target = \"tcp://{address}\", interval = \"50ms\", failures = 2 }}");
    let mut one = Running::with(&more);
    listener.accept().unwrap();
    listener.accept().unwrap();
    assert_eq!(one.herdwire.instance("one").pid, one.puppet.pid);
    drop(listener);
    one.is_replaced_because("its liveness probe failed");
}

#[test]
fn an_instance_that_uses_too_much_with_all_its_processes_is_restarted() {
    let mut one = Running::with("max_memory_restart = \"120M\"");
    one.puppet.does("eat 50");
    let used = |one: &Running| one.herdwire.snapshot()["instances"][0]["health"]["group_memory_bytes"].as_u64();
    until("it was looked at", || used(&one).is_some_and(|bytes| bytes > 45 << 20));
    assert_eq!(one.herdwire.instance("one").pid, one.puppet.pid);
    // Neither of the two alone uses too much.
    one.puppet.does("eat-in-child 90");
    one.is_replaced_because("more than 120 MiB");
}

#[test]
fn apps_that_ask_for_nothing_have_no_thread_that_watches() {
    let one = Running::with("");
    let supervisor = one.herdwire.supervisor_pid();
    let names = fs::read_dir(format!("/proc/{supervisor}/task")).unwrap().flatten();
    let names: Vec<String> =
        names.map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default()).collect();
    assert!(!names.iter().any(|name| name.contains("watch") || name.contains("notify")), "{names:?}");
}
