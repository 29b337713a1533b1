//! Apps that depend on one another: who starts when, who stops first, and what is said when something does not come.

use std::fs;

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, signal, until};

/// An app that notes its start and its end in `order`, in between runs, and has more lines in its table.
fn app(name: &str, more: &str) -> String {
    let script = format!(
        "trap 'echo {name} ends >> order; exit 0' INT; echo {name} begins >> order; while :; do sleep 0.01; done"
    );
    format!("[[app]]\nname = \"{name}\"\nscript = \"{script}\"\nkill_timeout = \"20s\"\n{more}\n")
}

fn order(herdwire: &Herdwire) -> Vec<String> {
    let text = fs::read_to_string(herdwire.work().join("order")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until so many lines stand there: an instance is online a moment before its script has begun.
fn await_order(herdwire: &Herdwire, lines: usize) -> Vec<String> {
    until("all of them have noted it", || order(herdwire).len() >= lines);
    order(herdwire)
}

#[test]
fn apps_start_after_what_they_depend_on_and_stop_before_it() {
    let herdwire = Herdwire::new();
    // In the file in the wrong order; each is ready once it says so by running for a moment.
    let herd = [
        app("web", "depends_on = [\"api\", \"jobs\"]"),
        app("api", "depends_on = { db = \"started\" }"),
        app("jobs", "depends_on = \"db\""),
        app("db", ""),
    ];
    herdwire.write("herdwire.toml", &herd.concat());
    herdwire.ok(&["start"]);
    assert!(herdwire.list().iter().all(|one| one.is_online()));
    await_order(&herdwire, 4);
    herdwire.ok(&["stop", "all"]);
    let ends: Vec<String> = await_order(&herdwire, 8).split_off(4);
    assert_eq!((ends[0].as_str(), ends[3].as_str()), ("web ends", "db ends"), "{ends:?}");
}

#[test]
fn kill_and_delete_end_what_depends_on_others_first() {
    let herdwire = Herdwire::new();
    herdwire.write("herdwire.toml", &[app("db", ""), app("web", "depends_on = \"db\"")].concat());
    for end in [&["delete", "all"][..], &["kill"]] {
        herdwire.ok(&["start"]);
        await_order(&herdwire, 2);
        herdwire.ok(end);
        assert_eq!(await_order(&herdwire, 4)[2..], ["web ends", "db ends"]);
        fs::remove_file(herdwire.work().join("order")).unwrap();
    }
}

#[test]
fn a_job_that_has_to_complete_does_so_before_its_dependents_start() {
    let herdwire = Herdwire::new();
    let job = "[[app]]\nname = \"migrate\"\nscript = \"while [ ! -e go ]; do sleep 0.01; done; echo done >> order\"\n\
               autorestart = false\n";
    let herd = [app("web", "depends_on = { migrate = \"completed\" }"), job.to_owned()];
    herdwire.write("herdwire.toml", &herd.concat());
    let mut start = herdwire.command(&["start"]).spawn().unwrap();
    until("the job runs", || herdwire.list().iter().any(|one| one.name == "migrate" && one.is_online()));
    let waiting = herdwire.instance("web");
    assert_eq!((waiting.status.as_str(), waiting.pid), ("waiting restart", 0));
    assert_eq!(waiting.own("reason"), "it waits for `migrate` to have completed");
    herdwire.write("go", "");
    assert!(start.wait().unwrap().success());
    assert_eq!(await_order(&herdwire, 2), ["done", "web begins"]);
}

#[test]
fn an_app_whose_dependency_fails_waits_and_the_start_says_why_and_it_starts_once_that_is_there() {
    let herdwire = Herdwire::new();
    let db = "[[app]]\nname = \"db\"\nscript = \"[ -e go ] || exit 3\"\nautorestart = false\n";
    let web = app("web", "depends_on = { db = \"completed\" }");
    herdwire.write("herdwire.toml", &[web, db.to_owned()].concat());
    let refused = herdwire.refused(&["start"]);
    assert!(refused.contains("db"), "{refused}");
    // What it needs is tried once more with it.
    let refused = herdwire.refused(&["start", "web"]);
    assert!(refused.contains("web") && refused.contains("waits for `db`"), "{refused}");
    let waiting = herdwire.instance("web");
    assert_eq!((waiting.status.as_str(), waiting.pid), ("waiting restart", 0));
    let reason = waiting.own("reason").as_str().unwrap();
    assert!(reason.contains("will not by itself") && reason.contains("exit code 3"), "{reason}");
    assert!(herdwire.ok(&["list"]).contains(reason));
    herdwire.write("go", "");
    herdwire.ok(&["start", "db"]);
    herdwire.await_instance("web", "came online", |now| now.is_online());
}

#[test]
fn a_stop_takes_an_app_out_of_the_queue() {
    let herdwire = Herdwire::new();
    let db = "[[app]]\nname = \"db\"\nscript = \"exit 3\"\nautorestart = false\n";
    let web = app("web", "depends_on = { db = \"completed\" }");
    herdwire.write("herdwire.toml", &[web, db.to_owned()].concat());
    herdwire.refused(&["start"]);
    herdwire.ok(&["stop", "web"]);
    assert_eq!(herdwire.instance("web").status, "stopped");
    herdwire.kill_supervisor();
    assert_eq!(herdwire.instance("web").status, "stopped");
}

#[test]
fn what_an_app_needs_is_started_with_it() {
    let herdwire = Herdwire::new();
    herdwire.write("herdwire.toml", &[app("db", ""), app("web", "depends_on = \"db\"")].concat());
    herdwire.ok(&["start"]);
    await_order(&herdwire, 2);
    herdwire.ok(&["stop", "all"]);
    await_order(&herdwire, 4);
    herdwire.ok(&["start", "web"]);
    assert!(herdwire.list().iter().all(|one| one.is_online()));
}

#[test]
fn an_app_that_depends_on_nothing_that_there_is_and_a_circle_are_refused_and_change_nothing() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "db"]);
    let before = herdwire.instance("db").pid;
    herdwire.write("lost.toml", &app("web", "depends_on = \"gone\""));
    // A warning comes first: it might have been running.
    let refused = herdwire.run(&["start", "lost.toml"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("error: app `web` depends on `gone`"), "{refused:?}");
    herdwire.write("web.toml", &app("web", "depends_on = \"db\""));
    herdwire.ok(&["start", "web.toml"]);
    herdwire.write("circle.toml", &app("db", "depends_on = \"web\""));
    let refused = herdwire.run(&["start", "circle.toml"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("wait for one another"), "{refused:?}");
    assert_eq!((herdwire.list().len(), herdwire.instance("db").pid), (2, before));
}

#[test]
fn a_start_that_the_supervisors_death_cuts_short_is_finished_in_order() {
    let herdwire = Herdwire::new();
    let db = "[[app]]\nname = \"db\"\nscript = \"while [ ! -e go ]; do sleep 0.01; done; echo db done >> order\"\n\
              autorestart = false\n";
    let herd = [app("top", "depends_on = \"web\""), app("web", "depends_on = { db = \"completed\" }"), db.to_owned()];
    herdwire.write("herdwire.toml", &herd.concat());
    let mut start = herdwire.command(&["start"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    until("the first runs", || herdwire.list().iter().any(|one| one.name == "db" && one.is_online()));
    let pid = herdwire.instance("db").pid;
    herdwire.kill_supervisor();
    start.wait().unwrap();
    assert_eq!(herdwire.instance("db").pid, pid);
    for name in ["web", "top"] {
        assert_eq!(herdwire.instance(name).status, "waiting restart");
    }
    herdwire.write("go", "");
    assert_eq!(await_order(&herdwire, 3)[0], "db done");
    // Which script comes first to its first line is up to the machine; who was started after whom is not.
    let events = herdwire.ok(&["events", "--no-follow", "--lines", "100"]);
    let at = |what: &str| events.find(what).unwrap_or_else(|| panic!("no {what}: {events}"));
    assert!(at("instance.online web:") < at("instance.launching top:"), "{events}");
}

#[test]
fn a_restart_that_the_supervisors_death_cuts_short_is_finished_with_the_new_command() {
    let herdwire = Herdwire::new();
    let db = |what: &str| {
        format!(
            "[[app]]\nname = \"db\"\nkill_timeout = \"60s\"\nscript = \"[ {what} = new ] || trap '' INT; echo {what}; [ {what} = new ] && exec sleep 1000; \
             while [ ! -e go ]; do sleep 0.01; done\"\n"
        )
    };
    let web = |what: &str| {
        format!("[[app]]\nname = \"web\"\nscript = \"echo {what}; exec sleep 1000\"\ndepends_on = \"db\"\n")
    };
    herdwire.write("herdwire.toml", &[db("old"), web("old")].concat());
    herdwire.ok(&["start"]);
    herdwire.await_log("web-out.log", "old\n");
    herdwire.await_log("db-out.log", "old\n");
    herdwire.write("herdwire.toml", &[db("new"), web("new")].concat());
    let mut start = herdwire.command(&["start"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    herdwire.await_instance("db", "was told to end", |now| now.status == "stopping");
    let web = herdwire.instance("web");
    assert!(web.is_online(), "{web:?}");
    herdwire.kill_supervisor();
    assert_eq!(herdwire.instance("web").pid, web.pid);
    herdwire.write("go", "");
    herdwire.await_log("db-out.log", "new\n");
    herdwire.await_log("web-out.log", "new\n");
    // The command has outlasted its supervisor.
    assert!(start.wait().unwrap().success());
}

#[test]
fn a_dependent_is_not_touched_when_what_it_depends_on_crashes() {
    let herdwire = Herdwire::new();
    herdwire.write("herdwire.toml", &[app("db", ""), app("web", "depends_on = \"db\"")].concat());
    herdwire.ok(&["start"]);
    let (db, web) = (herdwire.instance("db").pid, herdwire.instance("web").pid);
    signal(db, Signal::SIGKILL);
    herdwire.await_instance("db", "came back", |now| now.is_online() && now.pid != db);
    assert_eq!(herdwire.instance("web").pid, web);
}

#[test]
fn in_the_foreground_everything_ends_when_what_the_rest_waits_for_fails() {
    let herdwire = Herdwire::new();
    let db = "[[app]]\nname = \"db\"\nscript = \"exit 3\"\nautorestart = false\n";
    let web = app("web", "depends_on = { db = \"completed\" }");
    herdwire.write("herdwire.toml", &[web, db.to_owned()].concat());
    let ran = herdwire.run(&["run", "herdwire.toml"]);
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
    assert!(order(&herdwire).is_empty(), "it was started all the same");
}
