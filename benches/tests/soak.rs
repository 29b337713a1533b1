//! The soak runs themselves, short: the promises hold, and nothing is left behind when a run is ended early.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use measure::stand::{is_alive, send};
use nix::sys::signal::Signal;

fn soak(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soak"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A figure of a run that must have gone well.
fn figures(output: &Output) -> impl Fn(&str) -> f64 + use<> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    move |metric| {
        let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(": "));
        line.and_then(|value| value.split(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no {metric} in {text}"))
    }
}

#[test]
fn a_flood_reaches_everybody_once_in_order_and_unharmed() {
    let figure = figures(&soak(&["flood", "--workers", "3", "--seconds", "2"]).output().unwrap());
    assert_eq!(figure("received"), figure("sent") * 2.0);
}

#[test]
fn a_flood_with_kills_loses_only_what_the_dead_had_in_hand() {
    // Whether a survivor pauses depends on what else this machine has to do.
    let arguments = ["flood", "--workers", "3", "--seconds", "4", "--kill-every", "1", "--pause-limit", "20000"];
    let figure = figures(&soak(&arguments).output().unwrap());
    assert!(figure("kills") > 0.0);
    assert_eq!(figure("lost"), figure("lost_in_hand") + figure("lost_uncommitted"));
}

#[test]
fn nobody_notices_that_the_supervisor_is_killed() {
    let arguments = ["supervisor", "--kills", "4", "--instances", "4", "--seconds-between", "0.5"];
    let figure = figures(&soak(&arguments).output().unwrap());
    assert_eq!(figure("kills"), 4.0);
}

#[test]
fn no_exit_is_missed_however_many_there_are_and_a_budget_ends_at_its_count() {
    let figure = figures(&soak(&["crashes", "--crashes", "400", "--quick"]).output().unwrap());
    assert!(figure("crashes") >= 400.0);
    assert_eq!(figure("starts_with_a_budget_of_5"), 5.0);
}

#[test]
fn many_instances_start_stop_are_reloaded_and_killed_at_once_and_leave_nothing() {
    let figure = figures(&soak(&["scale", "--instances", "40"]).output().unwrap());
    assert_eq!(figure("storm_exits_wrong"), 0.0);
}

#[test]
fn signals_without_a_meaning_do_nothing_and_an_end_that_is_asked_for_often_comes_once() {
    let figure = figures(&soak(&["signals", "--signals", "2000"]).output().unwrap());
    assert_eq!((figure("managers_replaced"), figure("ends_begun")), (0.0, 1.0));
}

#[test]
fn connections_that_say_nothing_keep_nobody_from_being_answered() {
    let figure = figures(&soak(&["clients", "--idle", "1000"]).output().unwrap());
    assert_eq!(figure("pings_failed"), 0.0);
}

#[test]
fn a_system_call_that_fails_costs_no_instance_and_no_line() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        return eprintln!("skipped: there is no strace here");
    }
    let arguments = ["failpoints", "--seconds", "20", "--phases", "start,crash", "--faults", "error,kill"];
    let figure = figures(&soak(&arguments).output().unwrap());
    assert!(figure("points_hit") > 0.0);
}

#[test]
fn a_run_that_is_told_to_end_ends_everything() {
    end_early(Signal::SIGTERM);
}

#[test]
fn a_run_that_is_killed_ends_everything() {
    end_early(Signal::SIGKILL);
}

/// Ends a run while its workers are busy, and waits until none of them is left.
fn end_early(signal: Signal) {
    let folder = tempfile::tempdir().unwrap();
    let mut run = soak(&["flood", "--workers", "2", "--seconds", "600"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut busy = Vec::new();
    eventually("workers are busy", || {
        busy = processes_of(folder.path());
        busy.len() >= 4
    });
    send(run.id(), signal).unwrap();
    assert!(!run.wait().unwrap().success());
    eventually("nobody is left", || !busy.iter().any(|pid| is_alive(*pid)) && processes_of(folder.path()).is_empty());
    eventually("nothing is left", || folder.path().read_dir().unwrap().next().is_none());
}

/// Keeper, supervisor and workers of a home below a folder, by their environment.
fn processes_of(folder: &std::path::Path) -> Vec<u32> {
    let mark = format!("HERDWIRE_HOME={}", folder.display());
    let pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_ours = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(mark.as_bytes())) && is_alive(*pid)
    };
    pids.filter(is_ours).collect()
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
