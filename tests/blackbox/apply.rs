//! `apply`: what runs becomes what a file says, and nothing else is touched.

use crate::herdwire::{Herdwire, until};

const RELOAD: &str = "[app.reload]\nmin_ready = \"100ms\"\n";

fn app(name: &str, script: &str, more: &str) -> String {
    format!("[[app]]\nname = {name:?}\nscript = {script:?}\n{more}\n{RELOAD}")
}

fn pid(herdwire: &Herdwire, name: &str) -> u32 {
    herdwire.instance(name).pid
}

#[test]
fn a_file_is_started_where_nothing_runs() {
    let herdwire = Herdwire::new();
    herdwire.write("herdwire.toml", &app("web", "sleep 1000", ""));
    assert!(herdwire.ok(&["apply", "--dry-run"]).contains("+ add     web"));
    assert!(herdwire.list().is_empty());
    assert!(herdwire.ok(&["apply"]).contains("+ add     web"));
    assert!(herdwire.instance("web").is_online());
}

#[test]
fn only_what_differs_is_touched_each_in_its_own_way() {
    let herdwire = Herdwire::new();
    let same = app("same", "exec sleep 1000", "");
    let config = [
        same.clone(),
        app("env", "exec sleep 1000", "env = { TOKEN = \"hunter2\" }"),
        app("count", "exec sleep 1000", ""),
        app("rules", "exec sleep 1000", ""),
        app("gone", "exec sleep 1000", ""),
    ];
    herdwire.write("herdwire.toml", &config.concat());
    herdwire.ok(&["start"]);
    let before: Vec<u32> = ["same", "env", "count", "rules", "gone"].iter().map(|name| pid(&herdwire, name)).collect();
    let config = [
        same,
        app("env", "exec sleep 1000", "env = { TOKEN = \"swordfish\" }"),
        app("count", "exec sleep 1000", "instances = 3"),
        app("rules", "exec sleep 1000", "kill_timeout = \"7s\""),
        app("new", "exec sleep 1000", ""),
    ];
    herdwire.write("herdwire.toml", &config.concat());
    let plan = herdwire.ok(&["apply", "--plan", "--prune"]);
    for line in [
        "  keep    same",
        "~ reload  env    env.TOKEN",
        "~ scale   count  instances: 1 -> 3",
        "~ update  rules  kill_timeout",
        "+ add     new",
        "- delete  gone",
    ] {
        assert!(plan.lines().any(|one| one == line), "no `{line}` in:\n{plan}");
    }
    assert!(!plan.contains("hunter2") && !plan.contains("swordfish"), "{plan}");
    assert_eq!(pid(&herdwire, "env"), before[1], "a plan does nothing");
    assert!(herdwire.ok(&["apply"]).ends_with("done\n"));
    assert_eq!(pid(&herdwire, "same"), before[0]);
    assert_ne!(pid(&herdwire, "env"), before[1]);
    assert_eq!(herdwire.instances("count")[0].pid, before[2]);
    assert_eq!(herdwire.instances("count").len(), 3);
    assert_eq!(pid(&herdwire, "rules"), before[3]);
    assert_eq!(herdwire.instance("rules").record["pm2_env"]["kill_timeout"], 7000);
    assert_eq!(pid(&herdwire, "gone"), before[4], "nothing is deleted that was not asked for");
    assert!(herdwire.instance("new").is_online());
    herdwire.ok(&["apply", "--prune"]);
    assert!(herdwire.instances("gone").is_empty());
}

#[test]
fn the_same_file_again_touches_nothing_from_whatever_terminal() {
    let herdwire = Herdwire::new();
    herdwire.write("herdwire.toml", &app("web", "exec sleep 1000", "instances = 2"));
    herdwire.ok(&["start"]);
    let before = herdwire.list();
    let mut apply = herdwire.command(&["apply"]);
    apply.env("TERM", "xterm").env("SSH_CONNECTION", "1.2.3.4 5 6.7.8.9 10");
    let ran = crate::herdwire::finish(&mut apply);
    assert!(ran.status.success() && ran.stdout.ends_with("nothing had to be changed\n"), "{ran:#?}");
    assert_eq!(herdwire.list(), before);
}

#[test]
fn what_was_stopped_stays_stopped_and_is_started_as_the_file_says() {
    let herdwire = Herdwire::new();
    herdwire.write("herdwire.toml", &app("web", "echo old; exec sleep 1000", ""));
    herdwire.ok(&["start"]);
    herdwire.ok(&["stop", "web"]);
    herdwire.write("herdwire.toml", &app("web", "echo new; exec sleep 1000", ""));
    assert!(herdwire.ok(&["apply"]).contains("~ update  web"));
    assert_eq!(herdwire.instance("web").status, "stopped");
    herdwire.ok(&["start", "web"]);
    herdwire.await_log("web-out.log", "old\nnew\n");
}

#[test]
fn a_reload_that_fails_is_told_as_by_reload() {
    let herdwire = Herdwire::new();
    herdwire.write("herdwire.toml", &app("web", "exec sleep 1000", ""));
    herdwire.ok(&["start"]);
    let before = pid(&herdwire, "web");
    herdwire.write("herdwire.toml", &app("web", "echo sorry >&2; exit 9", ""));
    let ran = herdwire.run(&["apply"]);
    assert_eq!(ran.status.code(), Some(3), "{ran:#?}");
    assert!(ran.stderr.contains("exit code 9") && ran.stderr.contains("sorry"), "{}", ran.stderr);
    assert_eq!(pid(&herdwire, "web"), before);
}

#[test]
fn a_file_that_cannot_work_changes_nothing() {
    let herdwire = Herdwire::new();
    let good = app("good", "exec sleep 1000", "");
    herdwire.write("herdwire.toml", &good);
    herdwire.ok(&["start"]);
    let before = pid(&herdwire, "good");
    let changed = app("good", "exec sleep 1001", "");
    for bad in [app("bad", "sleep 1000", "user = \"nobody-of-that-name\""), "[[app]]\nname = \"bad\"\n".to_owned()] {
        herdwire.write("herdwire.toml", &format!("{changed}{bad}"));
        assert_eq!(herdwire.run(&["apply"]).status.code(), Some(2));
        assert_eq!(herdwire.list().len(), 1);
        assert_eq!(pid(&herdwire, "good"), before);
    }
}

#[test]
fn an_order_that_cannot_be_kept_is_refused_by_apply_and_by_reload() {
    let herdwire = Herdwire::new();
    let db = app("db", "exec sleep 1000", "");
    herdwire.write("herdwire.toml", &(db.clone() + &app("web", "exec sleep 1000", "depends_on = \"db\"")));
    herdwire.ok(&["start"]);
    let before = [pid(&herdwire, "db"), pid(&herdwire, "web")];
    let refused = |file: &str, arguments: &[&str], reason: &str| {
        herdwire.write("herdwire.toml", file);
        let ran = herdwire.run(arguments);
        assert_eq!(ran.status.code(), Some(2), "{ran:#?}");
        assert!(ran.stderr.contains(reason), "{}", ran.stderr);
        assert_eq!([pid(&herdwire, "db"), pid(&herdwire, "web")], before);
    };
    // With what runs already.
    let circle = app("db", "exec sleep 1001", "depends_on = \"web\"");
    refused(&circle, &["apply"], "wait for one another");
    refused(&circle, &["reload", "herdwire.toml"], "wait for one another");
    let lost = app("db", "exec sleep 1001", "depends_on = \"gone\"");
    refused(&lost, &["apply"], "depends on `gone`");
    refused(&lost, &["reload", "herdwire.toml"], "depends on `gone`");
    let alone = app("web", "exec sleep 1001", "depends_on = \"db\"");
    refused(&alone, &["apply", "--prune"], "which `--prune` would delete");
    herdwire.write("herdwire.toml", &(alone + &db));
    herdwire.ok(&["apply", "--prune"]);
    assert_eq!((pid(&herdwire, "db"), pid(&herdwire, "web") != before[1]), (before[0], true));
}

#[test]
fn a_release_with_more_instances_and_another_script_is_reloaded_and_grows() {
    let herdwire = Herdwire::new();
    herdwire.write("herdwire.toml", &app("web", "exec sleep 1000", "instances = 2"));
    herdwire.ok(&["start"]);
    let before = herdwire.instances("web");
    herdwire.write("herdwire.toml", &app("web", "exec sleep 1001", "instances = 3"));
    herdwire.ok(&["apply"]);
    let after = herdwire.instances("web");
    assert_eq!(after.len(), 3);
    assert!(after[..2].iter().zip(&before).all(|(new, old)| new.id == old.id && new.pid != old.pid));
    herdwire.write("herdwire.toml", &app("web", "exec sleep 1002", "instances = 1"));
    herdwire.ok(&["apply"]);
    until("the surplus is gone", || herdwire.instances("web").len() == 1);
    assert_eq!(herdwire.instance("web").id, before[0].id);
}
