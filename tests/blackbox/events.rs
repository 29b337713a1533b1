//! What changes is numbered, told with its cause, and can be gone on with from any number.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::herdwire::{Herdwire, signal, until};

/// What stands in the journal after a number.
fn events(herdwire: &Herdwire, after: u64) -> Vec<Value> {
    let text = herdwire.ok(&["events", "--json", "--no-follow", "--after", &after.to_string()]);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn words(events: &[Value], app: &str) -> Vec<String> {
    let of_it = events.iter().filter(|event| event["app"] == app);
    of_it.map(|event| event["what"].as_str().unwrap().to_owned()).collect()
}

fn last(herdwire: &Herdwire) -> u64 {
    events(herdwire, 0).last().map_or(0, |event| event["sequence"].as_u64().unwrap())
}

/// A process that is ended with its test.
struct Follower(Child);

impl Follower {
    fn new(herdwire: &Herdwire, arguments: &[&str]) -> (Follower, impl Iterator<Item = Value> + use<>) {
        let mut child = herdwire.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (Follower(child), lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn who_started_an_instance_is_told() {
    let herdwire = Herdwire::new();
    let config = |script: &str, instances: u32| {
        let reload = "[app.reload]\nmin_ready = \"100ms\"";
        let app = format!("[[app]]\nname = \"app\"\nscript = {script:?}\ninstances = {instances}\n{reload}\n");
        herdwire.write("herdwire.toml", &app);
    };
    config("sleep 1000", 1);
    let launches = |after: u64| -> Vec<String> {
        let launched = events(&herdwire, after).into_iter().filter(|event| event["what"] == "instance.launching");
        launched.map(|event| event["cause"].as_str().unwrap().to_owned()).collect()
    };
    let mut before = 0;
    let mut done = |arguments: &[&str]| {
        herdwire.ok(arguments);
        let launches = launches(before);
        before = last(&herdwire);
        launches
    };
    assert_eq!(done(&["apply"]), ["by `apply`"]);
    assert_eq!(done(&["scale", "app", "2"]), ["by `scale`"]);
    assert_eq!(done(&["reload", "app"]), ["by a reload", "by a reload"]);
    assert_eq!(done(&["restart", "1"]), ["by hand"]);
    config("sleep 1000", 3);
    assert_eq!(done(&["apply"]), ["by `apply`"]);
    let third = herdwire.instances("app")[2].id.to_string();
    assert!(herdwire.ok(&["describe", &third]).contains("by `apply`"));
}

#[test]
fn the_life_of_an_instance_is_told_with_numbers_and_causes() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let first = herdwire.instance("nap");
    signal(first.pid, Signal::SIGKILL);
    herdwire.await_instance("nap", "came back", |now| now.is_online() && now.pid != first.pid);
    herdwire.ok(&["stop", "nap"]);
    herdwire.ok(&["delete", "nap"]);
    let events = events(&herdwire, 0);
    let numbers: Vec<u64> = events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(events[0]["what"], "keeper.started");
    assert_eq!(events[1]["what"], "supervisor.started");
    let told = words(&events, "nap");
    let expected = [
        "app.added",
        "instance.launching",
        "instance.online",
        "instance.exited",
        "instance.launching",
        "instance.online",
        "instance.stopping",
        "instance.exited",
        "instance.stopped",
        "app.deleted",
    ];
    assert_eq!(told, expected);
    let exited = events.iter().find(|event| event["what"] == "instance.exited").unwrap();
    assert_eq!((&exited["cause"], exited["instance"].as_u64()), (&Value::from("signal 9"), Some(first.id)));
    let again = events.iter().filter(|event| event["what"] == "instance.launching").nth(1).unwrap();
    assert!(again["cause"].as_str().unwrap().contains("signal 9"), "{again}");
}

#[test]
fn one_that_was_given_up_says_so_in_an_event_with_the_last_exit() {
    let herdwire = Herdwire::new();
    herdwire.run(&["start", "exit 3", "-n", "crasher", "--max-restarts", "3"]);
    herdwire.await_instance("crasher", "was given up", |now| now.status == "errored");
    let events = events(&herdwire, 0);
    let errored = events.iter().find(|event| event["what"] == "instance.errored").unwrap();
    let cause = errored["cause"].as_str().unwrap();
    assert!(cause.contains("exit code 3") && cause.contains("3 times"), "{cause}");
    let told = herdwire.ok(&["describe", "crasher"]);
    assert!(told.contains("last changes of instance 0:") && told.contains("instance.errored crasher:0"), "{told}");
    assert!(herdwire.ok(&["list"]).contains("crasher:0 is errored: it ended before it had started well"));
}

#[test]
fn numbers_go_on_after_a_death_of_the_supervisor_and_what_was_told_is_kept() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let before = events(&herdwire, 0);
    herdwire.kill_supervisor();
    herdwire.ok(&["restart", "nap"]);
    let after = events(&herdwire, 0);
    assert_eq!(after[..before.len()], before[..]);
    let next = &after[before.len()];
    assert_eq!((&next["what"], &next["cause"]), (&"supervisor.started".into(), &"its predecessor died".into()));
    assert_eq!(next["sequence"].as_u64(), Some(before.len() as u64 + 1));
}

#[test]
fn a_follower_misses_nothing_when_the_supervisor_dies() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let seen = last(&herdwire);
    let after = seen.to_string();
    let (follower, mut told) = Follower::new(&herdwire, &["events", "--json", "--after", &after]);
    herdwire.ok(&["restart", "nap"]);
    assert_eq!(told.next().unwrap()["sequence"].as_u64(), Some(seen + 1));
    herdwire.kill_supervisor();
    herdwire.ok(&["stop", "nap"]);
    let mut number = seen + 1;
    for event in told {
        number += 1;
        assert_eq!(event["sequence"].as_u64(), Some(number));
        if event["what"] == "instance.stopped" {
            break;
        }
    }
    drop(follower);
}

#[test]
fn a_follower_that_reads_nothing_holds_nobody_up_and_sees_by_the_numbers_what_it_missed() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap", "-i", "64"]);
    let (follower, mut told) = Follower::new(&herdwire, &["events", "--json", "--lines", "0"]);
    until("it is connected", || herdwire.supervisor_pid() > 0);
    herdwire.ok(&["restart", "0"]);
    let first = told.next().unwrap()["sequence"].as_u64().unwrap();
    // Far more than the journal keeps, and than pipe and socket take.
    for _ in 0..12 {
        herdwire.ok(&["restart", "nap"]);
    }
    let last = last(&herdwire);
    assert!(last > first + 3000);
    assert_eq!(events(&herdwire, 0).len(), 1024);
    // It goes on: what it gets from now on is in order, up to the last one, and lacks some.
    let (mut before, mut missed) = (first, 0);
    while before < last {
        let number = told.next().unwrap()["sequence"].as_u64().unwrap();
        assert!(number > before);
        missed += number - before - 1;
        before = number;
    }
    assert!(missed > 0);
    drop(follower);
}

#[test]
fn the_last_changes_are_shown_and_a_follower_ends_with_everything() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let shown = herdwire.ok(&["events", "--no-follow", "--lines", "2"]);
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(shown.lines().last().unwrap().contains(" instance.online nap:0"), "{shown}");
    let (mut follower, told) = Follower::new(&herdwire, &["events", "--json"]);
    let reader = std::thread::spawn(move || told.filter(|event| event["what"] == "instance.stopped").count());
    until("it follows", || herdwire.processes().len() >= 4);
    herdwire.ok(&["kill"]);
    assert_eq!(reader.join().unwrap(), 1, "the end of an instance is told before the end of everything");
    // It ends with an error: nobody is left to tell anything.
    assert_eq!(follower.0.wait().unwrap().code(), Some(1));
    assert!(herdwire.refused(&["events"]).contains("no supervisor"));
}
