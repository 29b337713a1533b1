//! What restarts an app besides its own end: the clock and its files.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::herdwire::{Herdwire, until};

/// An app of so many instances, with further lines of its section, in a folder of its own.
fn start(instances: u32, more: &str) -> Herdwire {
    let herdwire = Herdwire::new();
    fs::create_dir_all(herdwire.work().join("src/node_modules/x")).unwrap();
    herdwire.write("src/main.js", "1");
    herdwire.write("herdwire.toml", &section(instances, more));
    herdwire.ok(&["start"]);
    herdwire
}

fn section(instances: u32, more: &str) -> String {
    format!("[[app]]\nname = \"site\"\nscript = \"sleep 1000\"\ninstances = {instances}\n{more}\n")
}

fn restarts(herdwire: &Herdwire) -> Vec<u64> {
    herdwire.instances("site").iter().map(|instance| instance.restarts).collect()
}

fn health(herdwire: &Herdwire, key: &str) -> serde_json::Value {
    herdwire.snapshot()["instances"][0]["health"][key].clone()
}

#[test]
fn a_schedule_restarts_what_runs_and_leaves_alone_what_is_stopped() {
    let herdwire = start(1, "cron_restart = \"* * * * * *\"");
    until("it was restarted twice", || restarts(&herdwire)[0] >= 2);
    herdwire.ok(&["stop", "site"]);
    let stopped = herdwire.instance("site");
    let due = health(&herdwire, "next_restart_ms").as_u64().unwrap();
    until("it was due again", || health(&herdwire, "next_restart_ms").as_u64().unwrap() > due + 1000);
    let now = herdwire.instance("site");
    assert_eq!((now.status.as_str(), now.restarts), ("stopped", stopped.restarts));
}

#[test]
fn the_next_time_is_shown_in_its_zone_and_kept_by_a_successor() {
    let herdwire = start(1, "cron_restart = \"0 0 1 1 *\"\ncron_timezone = \"Asia/Tokyo\"");
    let due = health(&herdwire, "next_restart_ms").as_u64().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(due > now && (due / 1000) % 86_400 == 15 * 3600, "{due}");
    assert!(herdwire.ok(&["describe", "site"]).contains("next restart"));
    herdwire.kill_supervisor();
    assert_eq!(health(&herdwire, "next_restart_ms").as_u64(), Some(due));
    assert_eq!(restarts(&herdwire), [0]);
}

#[test]
fn a_changed_file_restarts_all_instances_and_says_which_it_was() {
    let herdwire = start(2, "watch = \"src\"\nwatch_delay = \"100ms\"");
    // The folders are watched a moment after the start: change until it is seen.
    until("both were restarted", || {
        herdwire.write("src/main.js", "2");
        restarts(&herdwire).iter().all(|restarts| *restarts > 0)
    });
    assert_eq!(health(&herdwire, "last_trigger"), "`main.js` changed");
    assert!(herdwire.own_log().contains("site: `main.js` changed"));
    assert!(herdwire.ok(&["describe", "site"]).contains("`main.js` changed"));
}

#[test]
fn what_is_ignored_restarts_nothing() {
    let herdwire = start(1, "watch = \"src\"\nignore_watch = [\"node_modules\", \"*.tmp\"]\nwatch_delay = \"50ms\"");
    until("it watches", || {
        herdwire.write("src/main.js", "2");
        restarts(&herdwire)[0] > 0
    });
    until("the last change was acted on", || {
        let before = restarts(&herdwire);
        std::thread::sleep(std::time::Duration::from_millis(300));
        restarts(&herdwire) == before
    });
    let before = restarts(&herdwire);
    herdwire.write("src/node_modules/x/index.js", "x");
    herdwire.write("src/a.tmp", "x");
    // Changes are seen in their order: when this one has been, those have.
    herdwire.write("src/seen.js", "x");
    until("the last one was seen", || restarts(&herdwire) > before);
    assert_eq!(health(&herdwire, "last_trigger"), "`seen.js` changed");
}

#[test]
fn a_file_that_makes_a_given_up_app_work_brings_it_back() {
    let herdwire = Herdwire::new();
    let more = "watch = \"src\"\nwatch_delay = \"50ms\"\nmax_restarts = 2";
    fs::create_dir(herdwire.work().join("src")).unwrap();
    herdwire.script("src/run", "#!/bin/sh\nexit 1\n");
    herdwire.write("herdwire.toml", &section(1, more).replace("sleep 1000", "./src/run"));
    herdwire.run(&["start"]);
    herdwire.await_instance("site", "was given up", |now| now.status == "errored");
    herdwire.script("src/run", "#!/bin/sh\nexec sleep 1000\n");
    herdwire.await_instance("site", "came back", |now| now.is_online());
}

#[test]
fn an_app_that_is_stopped_stays_so_whatever_changes() {
    let herdwire = start(1, "watch = \"src\"\nwatch_delay = \"50ms\"");
    herdwire.ok(&["stop", "site"]);
    until("a change was seen", || {
        herdwire.write("src/main.js", "2");
        health(&herdwire, "last_trigger").is_string()
    });
    assert_eq!(herdwire.instance("site").status, "stopped");
}

#[test]
fn files_are_watched_on_by_a_successor() {
    let herdwire = start(1, "watch = \"src\"\nwatch_delay = \"50ms\"");
    herdwire.kill_supervisor();
    until("it was restarted", || {
        herdwire.write("src/main.js", "2");
        restarts(&herdwire)[0] > 0
    });
}

#[test]
fn a_home_folder_is_not_watched_and_the_list_says_so() {
    let herdwire = Herdwire::new();
    herdwire.write("herdwire.toml", &section(1, "watch = true"));
    herdwire.ok(&["start"]);
    // The working folder of these tests is the home folder, too.
    let said = || herdwire.snapshot()["supervisor"]["warnings"].to_string();
    until("a warning says it", || said().contains("is not watched: too much else lies in it"));
    assert!(herdwire.instance("site").is_online());
}
