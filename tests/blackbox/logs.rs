//! Where output goes, and that none of it is lost.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, signal, until};

#[test]
fn logs_lie_where_pm2s_users_look_for_them() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "echo out; echo err >&2; exec sleep 1000", "-n", "one"]);
    herdwire.ok(&["start", "echo out; echo err >&2; exec sleep 1000", "-n", "two", "-i", "2"]);
    for (stem, suffix) in [("one", ""), ("two", "-1"), ("two", "-2")] {
        herdwire.await_log(&format!("{stem}-out{suffix}.log"), "out\n");
        herdwire.await_log(&format!("{stem}-error{suffix}.log"), "err\n");
    }
    let told = &herdwire.instance("one").record["pm2_env"];
    assert_eq!(told["pm_out_log_path"], herdwire.home().join("logs/one-out.log").to_str().unwrap());
    assert_eq!(told["pm_err_log_path"], herdwire.home().join("logs/one-error.log").to_str().unwrap());
}

#[test]
fn an_app_that_prints_and_exits_at_once_loses_no_line() {
    let herdwire = Herdwire::new();
    for round in 0..5 {
        let name = format!("brief{round}");
        herdwire.run(&["start", "seq 1 20000; seq 1 500 >&2", "-n", &name, "--no-autorestart"]);
        herdwire.await_instance(&name, "ended", |now| now.status == "stopped");
        let lines = |last: u32| (1..=last).map(|line| format!("{line}\n")).collect::<String>();
        until("all of stdout is there", || herdwire.log(&format!("{name}-out.log")) == lines(20_000));
        until("all of stderr is there", || herdwire.log(&format!("{name}-error.log")) == lines(500));
    }
}

#[test]
fn a_log_goes_on_across_restarts_and_deaths_of_the_supervisor() {
    let herdwire = Herdwire::new();
    let counting = "i=0; while :; do i=$((i+1)); echo $$ $i; sleep 0.005; done";
    herdwire.ok(&["start", counting, "-n", "count"]);
    let first = herdwire.instance("count").pid;
    for _ in 0..3 {
        let seen = herdwire.log("count-out.log").lines().count();
        until("it prints", || herdwire.log("count-out.log").lines().count() > seen + 20);
        herdwire.kill_supervisor();
    }
    let seen = herdwire.log("count-out.log").lines().count();
    until("it still prints", || herdwire.log("count-out.log").lines().count() > seen + 20);
    herdwire.ok(&["restart", "count"]);
    let second = herdwire.instance("count").pid;
    until("the next one prints", || herdwire.log("count-out.log").contains(&format!("{second} 3\n")));
    assert_are_numbered_without_gap(&herdwire.log("count-out.log"), &[first, second]);
}

/// Every whole line is `PID NUMBER`, numbered from 1 without a gap for each process.
fn assert_are_numbered_without_gap(log: &str, pids: &[u32]) {
    let whole = &log[..=log.rfind('\n').unwrap()];
    for pid in pids {
        let own = whole.lines().filter_map(|line| line.strip_prefix(&format!("{pid} ")));
        for (at, number) in own.enumerate() {
            assert_eq!(number, (at + 1).to_string(), "of process {pid}");
        }
    }
    let known = |line: &str| pids.iter().any(|pid| line.starts_with(&format!("{pid} ")));
    assert!(whole.lines().all(known), "a line of nobody: {:?}", whole.lines().find(|line| !known(line)));
}

#[test]
fn logs_goes_on_as_pm2s_does_unless_it_is_told_not_to() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; exec sleep 1000", "-n", "app"]);
    herdwire.await_log("app-out.log", "one\n");
    let log = herdwire.home().join("logs/app-out.log");
    let whose = format!("{} last 15 lines:\n0|app | one\n", log.display());
    let shown = herdwire.ok(&["logs", "app", "--out", "--nostream"]);
    assert_eq!(shown, whose);

    let mut follow = herdwire.command(&["logs", "app", "--out"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("[TAILING] Tailing last 15 lines for [app] processes"));
    until("the last line is shown", || lines.next().unwrap().unwrap() == "0|app | one");
    herdwire.write("go", "");
    assert_eq!(lines.next().unwrap().unwrap(), "0|app | two");
    signal(follow.id(), Signal::SIGINT);
    follow.wait().unwrap();
}

#[test]
fn logs_shows_the_last_lines_and_f_goes_on() {
    let herdwire = Herdwire::new();
    let line = "seq 1 100; while [ ! -e go ]; do sleep 0.01; done; echo later; exec sleep 1000";
    herdwire.ok(&["start", line, "-n", "app"]);
    herdwire.await_log("app-out.log", "100\n");
    let shown = herdwire.ok(&["logs", "--nostream", "app", "--lines", "3", "--raw", "--out"]);
    assert!(shown.ends_with("98\n99\n100\n") && !shown.contains("97"), "{shown}");

    let mut follow = herdwire.command(&["logs", "app", "-f", "--lines", "1", "--raw", "--out"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    until("the last line is shown", || lines.next().unwrap().unwrap() == "100");
    herdwire.write("go", "");
    assert_eq!(lines.next().unwrap().unwrap(), "later");
    signal(follow.id(), Signal::SIGINT);
    follow.wait().unwrap();
}

#[test]
fn a_log_that_was_truncated_from_outside_goes_on_without_a_hole() {
    let herdwire = Herdwire::new();
    let line = "seq 1 1000; while [ ! -e go ]; do sleep 0.01; done; echo later; exec sleep 1000";
    herdwire.ok(&["start", line, "-n", "app"]);
    herdwire.await_log("app-out.log", "1000\n");
    let file = std::fs::OpenOptions::new().write(true).open(herdwire.home().join("logs/app-out.log")).unwrap();
    file.set_len(0).unwrap();
    herdwire.write("go", "");
    herdwire.await_log("app-out.log", "later\n");
    assert_eq!(herdwire.log("app-out.log"), "later\n");
}
