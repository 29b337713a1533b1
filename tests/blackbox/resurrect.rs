//! What runs is written down by itself, and comes back: by `resurrect`, or because keeper and supervisor died together.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::herdwire::{Herdwire, SOON, assert_is_a_clear_error, finish, is_alive, poll, signal, until};

/// An app that writes a line for each start.
const COUNTED: &str = "#!/bin/sh\necho x >> \"$HERDWIRE_NAME.starts\"\nexec sleep 1000\n";

fn starts(herdwire: &Herdwire, app: &str) -> usize {
    fs::read_to_string(herdwire.work().join(format!("{app}.starts"))).unwrap_or_default().lines().count()
}

/// Waits for so many starts: an instance is online before its program has written its line.
#[track_caller]
fn await_starts(herdwire: &Herdwire, app: &str, count: usize) {
    until("it has started so often", || starts(herdwire, app) >= count);
    assert_eq!(starts(herdwire, app), count);
}

/// The document on disk.
fn saved(herdwire: &Herdwire) -> Value {
    let text = fs::read_to_string(herdwire.home().join("saved")).unwrap_or_default();
    let body = text.split_once('\n').map_or("null", |(_, body)| body);
    serde_json::from_str(body).unwrap_or(Value::Null)
}

fn saved_names(herdwire: &Herdwire) -> Vec<String> {
    let document = saved(herdwire);
    let apps = document["apps"].as_array().into_iter().flatten();
    apps.map(|app| app["spec"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Name, id and status of every instance.
fn picture(herdwire: &Herdwire) -> Vec<(String, u64, String)> {
    let mut all: Vec<_> = herdwire.list().into_iter().map(|one| (one.name, one.id, one.status)).collect();
    all.sort();
    all
}

#[test]
fn what_ran_comes_back_after_an_end_and_what_was_stopped_stays_stopped() {
    let herdwire = Herdwire::new();
    herdwire.script("run", COUNTED);
    herdwire.ok(&["start", "./run", "-n", "gone"]);
    herdwire.ok(&["start", "./run", "-n", "two", "-i", "2"]);
    herdwire.ok(&["start", "./run", "-n", "still"]);
    await_starts(&herdwire, "still", 1);
    herdwire.ok(&["stop", "still"]);
    herdwire.ok(&["delete", "gone"]);
    let before = picture(&herdwire);
    assert_eq!(before.len(), 3);
    await_starts(&herdwire, "two", 2);
    herdwire.ok(&["kill"]);
    assert_eq!(saved(&herdwire)["end"], "done");

    herdwire.ok(&["resurrect"]);
    assert_eq!(picture(&herdwire), before);
    await_starts(&herdwire, "two", 4);
    assert_eq!(starts(&herdwire, "still"), 1);
    assert!(herdwire.ok(&["resurrect"]).contains("everything that was saved is there already"));
    assert_eq!(starts(&herdwire, "two"), 4);
}

#[test]
fn a_job_that_was_done_stays_done_and_what_needs_it_comes_back() {
    let herdwire = Herdwire::new();
    let job = "#!/bin/sh\necho x >> \"$HERDWIRE_NAME.starts\"\n";
    herdwire.script("job", job);
    herdwire.script("stops", &format!("{job}exit 3\n"));
    herdwire.script("run", COUNTED);
    herdwire.write(
        "herdwire.toml",
        "[[app]]\nname = \"migrate\"\nscript = \"./job\"\nautorestart = false\n\
         [[app]]\nname = \"coded\"\nscript = \"./stops\"\nstop_exit_codes = [3]\n\
         [[app]]\nname = \"web\"\nscript = \"./run\"\ndepends_on = { migrate = \"completed\" }\n",
    );
    herdwire.run(&["start"]);
    until("all is as it will be", || {
        ["migrate", "coded"].iter().all(|app| herdwire.instance(app).status == "stopped")
            && herdwire.instance("web").is_online()
    });
    await_starts(&herdwire, "web", 1);
    let before = picture(&herdwire);
    herdwire.ok(&["kill"]);
    herdwire.ok(&["resurrect"]);
    assert_eq!(picture(&herdwire), before);
    await_starts(&herdwire, "web", 2);
    // Nor does a successor take them for something that is still to be started.
    herdwire.kill_supervisor();
    assert_eq!(picture(&herdwire), before);
    assert_eq!((starts(&herdwire, "migrate"), starts(&herdwire, "coded")), (1, 1));
    assert!(herdwire.ok(&["describe", "migrate"]).contains("exit code 0"));
    assert!(herdwire.ok(&["describe", "coded"]).contains("exit code 3"));
}

#[test]
fn what_was_stopped_and_came_back_so_is_not_started_by_a_successor() {
    let herdwire = Herdwire::new();
    herdwire.script("run", COUNTED);
    herdwire.ok(&["start", "./run", "-n", "a"]);
    await_starts(&herdwire, "a", 1);
    herdwire.ok(&["stop", "a"]);
    herdwire.ok(&["kill"]);
    herdwire.ok(&["resurrect"]);
    herdwire.kill_supervisor();
    assert_eq!((herdwire.instance("a").status.as_str(), starts(&herdwire, "a")), ("stopped", 1));
}

#[test]
fn an_end_by_a_signal_keeps_the_list() {
    let herdwire = Herdwire::new();
    herdwire.script("run", COUNTED);
    herdwire.ok(&["start", "./run", "-n", "a"]);
    let keeper = herdwire.keeper_pid();
    signal(keeper, Signal::SIGTERM);
    until("the keeper ends", || !is_alive(keeper));
    assert_eq!((saved_names(&herdwire), &saved(&herdwire)["end"]), (vec!["a".to_owned()], &Value::from("done")));
    herdwire.ok(&["resurrect"]);
    assert!(herdwire.instance("a").is_online());
}

#[test]
fn what_waits_is_shown_and_not_lost_when_something_else_is_started() {
    let herdwire = Herdwire::new();
    herdwire.script("run", COUNTED);
    herdwire.ok(&["start", "./run", "-n", "a"]);
    await_starts(&herdwire, "a", 1);
    herdwire.ok(&["kill"]);
    herdwire.ok(&["start", "./run", "-n", "b"]);
    assert!(herdwire.ok(&["list"]).contains("saved and not started: a;"));
    assert_eq!(starts(&herdwire, "a"), 1);
    herdwire.kill_supervisor();
    assert!(herdwire.ok(&["list"]).contains("saved and not started: a;"), "a successor knows it, too");
    herdwire.ok(&["resurrect"]);
    assert!(herdwire.instance("a").is_online() && herdwire.instance("b").is_online());
    assert!(!herdwire.ok(&["list"]).contains("saved and not started"));
}

#[test]
fn saving_by_hand_forgets_what_waits() {
    let herdwire = Herdwire::new();
    herdwire.script("run", COUNTED);
    herdwire.ok(&["start", "./run", "-n", "a"]);
    herdwire.ok(&["kill"]);
    herdwire.ok(&["start", "./run", "-n", "b"]);
    assert!(herdwire.ok(&["save"]).starts_with("saved 1 apps with 1 instances in "));
    assert_eq!(saved_names(&herdwire), ["b"]);
    herdwire.ok(&["delete", "b"]);
    let refusal = herdwire.refused(&["save"]);
    assert!(refusal.starts_with("error: nothing runs, so there is nothing to save\nhint:  `--force`"), "{refusal}");
    herdwire.ok(&["save", "--force"]);
    assert!(saved_names(&herdwire).is_empty());
    assert!(herdwire.refused(&["resurrect"]).starts_with("error: nothing is saved in "));
}

#[test]
fn after_both_have_died_the_next_start_brings_everything_back_once() {
    let herdwire = Herdwire::new();
    herdwire.script("run", COUNTED);
    // Deaf to the signal that asks it to stop, with a child in a session of its own.
    herdwire.script(
        "deaf",
        "#!/bin/sh\necho x >> deaf.starts\ntrap '' INT\nsetsid sleep 1000 &\nwhile :; do sleep 0.05; done\n",
    );
    let text = "[[app]]\nname = \"two\"\nscript = \"./run\"\ninstances = 2\n\
                [[app]]\nname = \"deaf\"\nscript = \"./deaf\"\nkill_timeout = 100\nlisten = [\"unix://WORK/deaf.sock\"]\n\
                [[app]]\nname = \"still\"\nscript = \"./run\"\n\
                [front]\nlisten = \"127.0.0.1:0\"\n";
    herdwire.write("herdwire.toml", &text.replace("WORK", &herdwire.work().display().to_string()));
    herdwire.ok(&["start", "herdwire.toml"]);
    for (app, count) in [("two", 2), ("deaf", 1), ("still", 1)] {
        await_starts(&herdwire, app, count);
    }
    herdwire.ok(&["stop", "still"]);
    let rests = || {
        let document = saved(&herdwire);
        let still =
            document["apps"].as_array().into_iter().flatten().find(|app| app["spec"]["name"] == "still").cloned();
        still.is_some_and(|still| still["instances"][0]["running"] == false)
    };
    until("it is saved", rests);
    let before = picture(&herdwire);
    let old: Vec<u32> = herdwire.processes_of("two").into_iter().chain(herdwire.processes_of("deaf")).collect();
    assert!(old.len() >= 4, "{old:?}");
    herdwire.kill_both();
    assert!(old.iter().filter(|pid| is_alive(**pid)).count() >= 4, "orphans run on");

    herdwire.ok(&["start", "./run", "-n", "new"]);
    assert!(!old.iter().any(|pid| is_alive(*pid)), "nothing of before is left");
    let mut now = picture(&herdwire);
    now.retain(|(name, ..)| name != "new");
    assert_eq!(now, before);
    for (app, count) in [("two", 4), ("deaf", 2), ("still", 1)] {
        await_starts(&herdwire, app, count);
    }
    assert_eq!(herdwire.processes_of("two").len(), 2);
    assert!(!herdwire.snapshot()["front"].is_null(), "its settings are back");
    let list = herdwire.ok(&["list"]);
    assert!(list.contains("keeper and supervisor had died while apps ran"), "{list}");
    assert!(list.contains("what ran was started again: two, deaf"), "{list}");
}

#[test]
fn a_newest_document_that_is_damaged_costs_a_warning_and_one_change() {
    let herdwire = Herdwire::new();
    herdwire.script("run", COUNTED);
    herdwire.ok(&["start", "./run", "-n", "a"]);
    herdwire.ok(&["save"]);
    herdwire.ok(&["kill"]);
    let newest = herdwire.home().join("saved");
    let text = fs::read(&newest).unwrap();
    fs::write(&newest, &text[..text.len() / 2]).unwrap();
    let said = herdwire.ok(&["resurrect"]);
    assert!(herdwire.instance("a").is_online());
    for text in [said, herdwire.ok(&["list"])] {
        assert!(text.contains("cannot be used: it is not whole"), "{text}");
        assert!(text.contains("saved.1 is used instead"), "{text}");
    }
    assert_eq!(fs::read(herdwire.home().join("saved.broken")).unwrap(), text[..text.len() / 2]);
}

#[test]
fn with_nothing_but_damaged_documents_resurrect_says_so() {
    let herdwire = Herdwire::new();
    herdwire.script("run", COUNTED);
    herdwire.ok(&["start", "./run", "-n", "a"]);
    herdwire.ok(&["kill"]);
    for name in ["saved", "saved.1", "saved.2"] {
        fs::write(herdwire.home().join(name), if name == "saved" { name } else { "" }).unwrap();
    }
    let said = herdwire.refused(&["resurrect"]);
    assert!(said.starts_with("error: nothing that was saved can be used\ncause: "), "{said}");
    assert!(said.contains("saved.1 cannot be used: it is empty"), "{said}");
    assert_eq!(fs::read_to_string(herdwire.home().join("saved.broken")).unwrap(), "saved");
    assert!(herdwire.home().join("saved.1.broken").exists() && herdwire.home().join("saved.2.broken").exists());
    assert!(herdwire.own_log().contains("saved.2 cannot be used: it is empty"));
}

#[test]
fn a_disk_that_takes_nothing_is_said_and_written_to_again() {
    let herdwire = Herdwire::new();
    herdwire.script("run", COUNTED);
    herdwire.ok(&["start", "./run", "-n", "a"]);
    until("it is saved", || saved_names(&herdwire) == ["a"]);
    let in_the_way = herdwire.home().join("saved.new");
    fs::create_dir_all(in_the_way.join("x")).unwrap();
    let refusal = herdwire.refused(&["save"]);
    assert!(refusal.contains("saved` cannot be written\ncause: "), "{refusal}");
    herdwire.ok(&["start", "./run", "-n", "b"]);
    until("it is said", || herdwire.ok(&["list"]).contains("what runs cannot be saved: "));
    assert_eq!(saved_names(&herdwire), ["a"], "the old one is as it was");
    fs::remove_dir_all(in_the_way).unwrap();
    until("it is saved", || saved_names(&herdwire) == ["a", "b"]);
    until("it is no longer said", || !herdwire.ok(&["list"]).contains("what runs cannot be saved"));
}

#[test]
fn a_keeper_in_the_foreground_brings_everything_back_and_stays_without_apps() {
    let herdwire = Herdwire::new();
    herdwire.script("run", COUNTED);
    let mut keeper = herdwire.command(&["resurrect", "--no-daemon"]).spawn().unwrap();
    let answers = || herdwire.run(&["ping"]).status.success().then_some(());
    poll(SOON, answers).expect("it serves though nothing was ever saved");
    assert_eq!(herdwire.keeper_pid(), keeper.id());
    herdwire.ok(&["start", "./run", "-n", "a"]);
    herdwire.ok(&["delete", "a"]);
    herdwire.kill_supervisor();
    herdwire.ok(&["start", "./run", "-n", "b"]);
    let second = finish(&mut herdwire.command(&["resurrect", "--no-daemon"]));
    assert_eq!(second.status.code(), Some(1));
    assert_is_a_clear_error(&second.stderr);

    signal(keeper.id(), Signal::SIGTERM);
    let status = poll(SOON, || keeper.try_wait().unwrap()).expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert!(herdwire.processes().is_empty());

    let mut keeper = herdwire.command(&["resurrect", "--no-daemon"]).spawn().unwrap();
    let back = || herdwire.run(&["jlist"]).stdout.contains("\"b\"").then_some(());
    poll(SOON, back).expect("b is back");
    herdwire.await_instance("b", "is online", |b| b.is_online());
    herdwire.ok(&["kill"]);
    assert_eq!(poll(SOON, || keeper.try_wait().unwrap()).expect("it ends").code(), Some(0));
}
