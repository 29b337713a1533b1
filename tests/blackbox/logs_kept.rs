//! Formats, shared files, rotation, emptying and reopening, as an operator sees them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, signal, until};

/// Starts one app from a file.
fn start(herdwire: &Herdwire, app: &str) {
    herdwire.write("herdwire.toml", &format!("[[app]]\n{app}\n"));
    herdwire.ok(&["start"]);
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What was put aside of a log and is not compressed, and the log, one after the other.
fn with_asides(log: &Path) -> String {
    let prefix = format!("{}.", log.file_name().unwrap().to_str().unwrap());
    let folder = fs::read_dir(log.parent().unwrap()).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_aside =
        |name: &String| name.strip_prefix(&prefix).is_some_and(|end| end.bytes().all(|b| b.is_ascii_digit()));
    let mut asides: Vec<String> = names.filter(is_aside).collect();
    asides.sort();
    asides.iter().map(|name| text(&log.with_file_name(name))).collect::<String>() + &text(log)
}

#[test]
fn json_and_stamped_logs_have_pm2s_shapes() {
    let herdwire = Herdwire::new();
    start(&herdwire, "name = \"json\"\nscript = \"echo hello; echo bad >&2; exec sleep 1000\"\nlog_type = \"json\"");
    herdwire.await_log("json-out.log", "\n");
    let line: serde_json::Value = serde_json::from_str(&herdwire.log("json-out.log")).unwrap();
    assert_eq!((line["message"].as_str(), line["type"].as_str()), (Some("hello\n"), Some("out")));
    assert_eq!((line["app_name"].as_str(), line["process_id"].as_u64()), (Some("json"), Some(0)));
    herdwire.await_log("json-error.log", "\"type\":\"err\"");
    start(&herdwire, "name = \"timed\"\nscript = \"echo hello; exec sleep 1000\"\ntime = true\nlog_file = \"all.log\"");
    herdwire.await_log("timed-out.log", ": hello\n");
    let stamped = herdwire.log("timed-out.log");
    assert_eq!((stamped.len(), &stamped[10..11]), ("2026-11-24T08:15:00: hello\n".len(), "T"));
    until("the combined one has it", || text(&herdwire.work().join("all.log")) == stamped);
}

#[test]
fn stamped_lines_are_there_once_though_the_supervisor_is_killed() {
    let herdwire = Herdwire::new();
    let counting = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.002; done";
    start(&herdwire, &format!("name = \"count\"\nscript = \"{counting}\"\nlog_date_format = \"SSS\"\n"));
    for _ in 0..5 {
        let seen = herdwire.log("count-out.log").lines().count();
        until("it prints", || herdwire.log("count-out.log").lines().count() > seen + 50);
        herdwire.kill_supervisor();
    }
    let seen = herdwire.log("count-out.log").lines().count();
    until("it still prints", || herdwire.log("count-out.log").lines().count() > seen + 50);
    herdwire.ok(&["stop", "count"]);
    for (at, line) in herdwire.log("count-out.log").lines().enumerate() {
        assert_eq!(line.split_once(": ").unwrap().1, (at + 1).to_string(), "line {at}");
    }
}

#[test]
fn instances_that_merge_their_logs_share_whole_lines() {
    let herdwire = Herdwire::new();
    start(
        &herdwire,
        "name = \"many\"\nscript = \"seq -f $NODE_APP_INSTANCE:%.0f 1 20000; exec sleep 1000\"\ninstances = 3\nmerge_logs = true",
    );
    until("all of it", || herdwire.log("many-out.log").lines().count() == 60_000);
    let log = herdwire.log("many-out.log");
    for instance in 0..3 {
        let prefix = format!("{instance}:");
        let own = log.lines().filter_map(|line| line.strip_prefix(&prefix));
        assert!(own.eq((1..=20_000).map(|number| number.to_string())), "of instance {instance}");
    }
}

#[test]
fn a_log_is_put_aside_at_its_size_and_shown_with_what_was_put_aside() {
    let herdwire = Herdwire::new();
    start(
        &herdwire,
        "name = \"much\"\nscript = \"seq 1 20000; exec sleep 1000\"\n[app.rotate]\nsize = \"20KiB\"\nkeep = 100\ncompress = false",
    );
    let log = herdwire.home().join("logs/much-out.log");
    until("all of it", || with_asides(&log).ends_with("\n20000\n"));
    assert!(herdwire.home().join("logs/much-out.log.000003").exists());
    assert!(with_asides(&log).lines().eq((1..=20_000).map(|number| number.to_string())));
    let shown = herdwire.ok(&["logs", "--nostream", "much", "--out", "--raw", "--lines", "15000"]);
    assert!(shown.lines().eq((5001..=20_000).map(|number| number.to_string())), "{} lines", shown.lines().count());
    let shown = herdwire.ok(&["logs", "--nostream", "much", "--out", "--raw", "--since", "1h"]);
    assert_eq!(shown.lines().count(), 20_000);
    assert_eq!(herdwire.ok(&["logs", "--nostream", "much", "--out", "--raw", "--since", "2999-01-01T00:00:00Z"]), "");
    assert_eq!(herdwire.ok(&["logs", "much", "--out", "--raw", "--until", "2h"]), "");
}

#[test]
fn an_instance_that_writes_to_its_file_itself_or_to_none() {
    let herdwire = Herdwire::new();
    let script = "readlink /proc/$$/fd/1 > where; echo hello; exec sleep 1000";
    start(
        &herdwire,
        &format!("name = \"own\"\nscript = \"{script}\"\nlog_mode = \"file\"\nout_file = \"deep/er/own.log\""),
    );
    let log = herdwire.work().join("deep/er/own.log");
    until("it wrote", || text(&log) == "hello\n");
    assert_eq!(text(&herdwire.work().join("where")).trim(), log.to_str().unwrap());
    start(&herdwire, &format!("name = \"none\"\nscript = \"{script}\"\nlog_mode = \"off\""));
    until("it goes nowhere", || text(&herdwire.work().join("where")).trim() == "/dev/null");
}

#[test]
fn an_app_runs_though_its_log_cannot_be_written_and_that_is_said_for_as_long_as_it_is_so() {
    for format in ["", "time = true\n"] {
        let herdwire = Herdwire::new();
        let in_the_way = herdwire.write("folder", "a file");
        let log = herdwire.work().join("folder/out.log");
        let app = "name = \"app\"\nscript = \"echo hello; exec sleep 1000\"\nout_file = \"folder/out.log\"\n";
        herdwire.write("herdwire.toml", &format!("[[app]]\n{app}{format}"));
        let ran = herdwire.run(&["start"]);
        assert!(ran.status.success(), "{ran:#?}");
        let fault = format!("the log {} cannot be written, its lines wait: ", log.display());
        assert!(ran.stderr.starts_with(&format!("warning: {fault}")), "{}", ran.stderr);
        assert!(herdwire.instance("app").is_online());
        assert!(herdwire.ok(&["list"]).contains(&format!("warning: {fault}")));
        assert!(herdwire.ok(&["describe", "app"]).contains("its lines wait"));
        fs::remove_file(in_the_way).unwrap();
        fs::create_dir(log.parent().unwrap()).unwrap();
        until("the line is there", || text(&log).ends_with("hello\n"));
        until("it is over", || !herdwire.ok(&["list"]).contains("cannot be written"));
        assert!(herdwire.instance("app").own("log_fault").is_null());
    }
}

#[test]
fn a_log_that_can_never_be_one_is_refused_and_an_odd_stamp_is_a_warning() {
    let herdwire = Herdwire::new();
    fs::create_dir(herdwire.work().join("folder")).unwrap();
    let said = herdwire.refused(&["start", "sleep 1000", "-n", "app", "-o", "folder"]);
    assert!(said.contains("is a folder"), "{said}");
    let ran = herdwire.run(&["start", "sleep 1000", "-n", "app", "--log-date-format", "%Y-%m-%d"]);
    assert!(ran.status.success() && ran.stderr.contains("written as for strftime"), "{ran:#?}");
}

#[test]
fn flush_empties_logs_and_reload_logs_leaves_one_that_was_moved() {
    let herdwire = Herdwire::new();
    let script = "echo one; while :; do [ -e go ] && rm go && echo next; sleep 0.01; done";
    herdwire.ok(&["start", script, "-n", "app"]);
    let print = || {
        herdwire.write("go", "");
        until("it printed", || !herdwire.work().join("go").exists());
    };
    herdwire.await_log("app-out.log", "one\n");
    herdwire.ok(&["flush", "app"]);
    assert_eq!(herdwire.log("app-out.log"), "");
    print();
    herdwire.await_log("app-out.log", "next\n");
    assert_eq!(herdwire.log("app-out.log"), "next\n");
    let log = herdwire.home().join("logs/app-out.log");
    for (number, by_signal) in [(1, false), (2, true)] {
        let moved = log.with_file_name(format!("moved{number}"));
        fs::rename(&log, &moved).unwrap();
        match by_signal {
            false => drop(herdwire.ok(&["reloadLogs"])),
            true => signal(herdwire.supervisor_pid(), Signal::SIGUSR2),
        }
        print();
        herdwire.await_log("app-out.log", "next\n");
        assert_eq!(text(&moved).matches("next").count(), 1);
    }
    assert!(herdwire.refused(&["flush", "nobody"]).contains("nobody"));
}

#[test]
fn logs_can_be_had_as_json_with_times_and_by_what_is_in_them() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "echo good; echo bad >&2; exec sleep 1000", "-n", "app"]);
    herdwire.await_log("app-out.log", "good\n");
    herdwire.await_log("app-error.log", "bad\n");
    let lines = herdwire.ok(&["logs", "--nostream", "app", "--json"]);
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines[0]["message"].as_str(), lines[1]["type"].as_str()), (Some("good\n"), Some("err")));
    assert!(lines[0]["timestamp"].as_str().unwrap().starts_with("20"));
    let pairs = herdwire.ok(&["logs", "--nostream", "app", "--format", "--err"]);
    assert!(pairs.starts_with("timestamp=20") && pairs.ends_with(" app=app id=0 type=error message=bad\n"), "{pairs}");
    let stamped = herdwire.ok(&["logs", "--nostream", "app", "--out", "--timestamp", "YYYY"]);
    assert!(stamped.ends_with(" 0|app | good\n"), "{stamped}");
    assert_eq!(herdwire.ok(&["logs", "--nostream", "app", "--raw", "--grep", "oo"]), "good\n");
}

#[test]
fn following_shows_instances_that_appear_later() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "echo first; exec sleep 1000", "-n", "one"]);
    herdwire.await_log("one-out.log", "first\n");
    let mut follow = herdwire.command(&["logs", "-f", "--raw", "--out"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    herdwire.ok(&["start", "echo second; exec sleep 1000", "-n", "two"]);
    assert_eq!(lines.next().unwrap().unwrap(), "second");
    signal(follow.id(), Signal::SIGINT);
    follow.wait().unwrap();
}
