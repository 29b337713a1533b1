//! `run FILE`: everything in the foreground, as containers want it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, SOON, assert_is_a_clear_error, poll, signal, until};

fn run(herdwire: &Herdwire, config: &str) -> Child {
    herdwire.write("herdwire.toml", config);
    let mut command = herdwire.command(&["run", "herdwire.toml"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn end_of(herdwire: &Herdwire, child: &mut Child) -> Option<i32> {
    let status = poll(SOON, || child.try_wait().unwrap());
    let Some(status) = status else {
        child.kill().unwrap();
        panic!("`run` does not end\n{}", herdwire.own_log());
    };
    until("nothing of it runs", || herdwire.processes().is_empty());
    status.code()
}

#[test]
fn output_goes_to_the_terminal_and_the_exit_code_is_that_of_the_app_that_failed() {
    let herdwire = Herdwire::new();
    let mut run = run(
        &herdwire,
        r#"
[[app]]
name = "good"
script = "echo all is well"
autorestart = false

[[app]]
name = "bad"
script = "echo something is wrong >&2; exit 7"
autorestart = false
"#,
    );
    assert_eq!(end_of(&herdwire, &mut run), Some(7));
    let (mut out, mut err) = (String::new(), String::new());
    run.stdout.unwrap().read_to_string(&mut out).unwrap();
    run.stderr.unwrap().read_to_string(&mut err).unwrap();
    assert!(out.contains("all is well"), "stdout: {out}\nstderr: {err}");
    assert!(err.contains("something is wrong"), "stdout: {out}\nstderr: {err}");
}

#[test]
fn all_of_what_a_brief_app_prints_is_shown() {
    let herdwire = Herdwire::new();
    let mut run = run(&herdwire, "[[app]]\nname = \"brief\"\nscript = \"seq 1 3000\"\nautorestart = false\n");
    let lines: Vec<String> = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert_eq!(end_of(&herdwire, &mut run), Some(0));
    let numbers: Vec<_> = lines.iter().filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).collect();
    assert!(numbers.iter().copied().eq(1..=3000), "{} of 3000 lines, or not in order", numbers.len());
}

#[test]
fn it_ends_well_when_all_apps_end_well() {
    let herdwire = Herdwire::new();
    let mut run = run(&herdwire, "[[app]]\nname = \"good\"\nscript = \"true\"\nautorestart = false\n");
    assert_eq!(end_of(&herdwire, &mut run), Some(0));
}

#[test]
fn sigterm_stops_the_apps_in_good_order() {
    let herdwire = Herdwire::new();
    let polite = "trap 'echo goodbye; exit 0' INT; echo up; while :; do sleep 0.01; done";
    let mut run = run(&herdwire, &format!("[[app]]\nname = \"polite\"\nscript = \"{polite}\"\n"));
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with("up")));
    signal(run.id(), Signal::SIGTERM);
    assert!(lines.any(|line| line.ends_with("goodbye")), "what it said last is not shown");
    assert_eq!(end_of(&herdwire, &mut run), Some(0));
}

#[test]
fn other_commands_reach_a_herd_in_the_foreground() {
    let herdwire = Herdwire::new();
    let mut run = run(&herdwire, "[[app]]\nname = \"nap\"\nscript = \"sleep 1000\"\n");
    until("it is online", || {
        let ran = herdwire.run(&["jlist"]);
        ran.stdout.contains("\"online\"")
    });
    herdwire.ok(&["restart", "nap"]);
    herdwire.ok(&["kill"]);
    assert_eq!(end_of(&herdwire, &mut run), Some(0));
}

#[test]
fn a_file_that_is_wrong_is_refused_before_anything_starts() {
    let herdwire = Herdwire::new();
    herdwire.write("herdwire.toml", "[[app]]\nscript = \"no-such-program\"\n");
    assert!(herdwire.refused(&["run", "herdwire.toml"]).contains("no-such-program"));
    let refused = herdwire.run(&["run", "missing.toml"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_is_a_clear_error(&refused.stderr);
}

#[test]
fn a_second_herd_in_the_same_home_is_refused() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    herdwire.write("herdwire.toml", "[[app]]\nname = \"other\"\nscript = \"sleep 1000\"\n");
    assert!(herdwire.refused(&["run", "herdwire.toml"]).contains("already"));
    assert!(herdwire.instance("nap").is_online());
}
