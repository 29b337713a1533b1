//! `scale`: more instances, or fewer.

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, is_alive, signal, until};

/// Starts an app whose instances have started well soon.
fn start(herdwire: &Herdwire, script: &str, instances: u32) {
    let config = format!(
        "[[app]]\nname = \"app\"\nscript = {script:?}\ninstances = {instances}\n[app.reload]\nmin_ready = \"100ms\"\n"
    );
    herdwire.write("herdwire.toml", &config);
    herdwire.ok(&["start"]);
}

fn indices(herdwire: &Herdwire, app: &str) -> Vec<u64> {
    herdwire.instances(app).iter().map(|one| one.record["pm2_env"]["NODE_APP_INSTANCE"].as_u64().unwrap()).collect()
}

#[test]
fn instances_are_added_and_the_highest_indices_go_first() {
    let herdwire = Herdwire::new();
    start(&herdwire, "echo $HERDWIRE_INDEX; exec sleep 1000", 2);
    let before = herdwire.instances("app");
    herdwire.ok(&["scale", "app", "4"]);
    assert_eq!(indices(&herdwire, "app"), [0, 1, 2, 3]);
    assert!(herdwire.instances("app").iter().all(|now| now.is_online()));
    herdwire.ok(&["scale", "app", "+1"]);
    let five = herdwire.instances("app");
    assert_eq!(five.len(), 5);
    herdwire.ok(&["scale", "app", "-4"]);
    assert_eq!(indices(&herdwire, "app"), [0]);
    assert!(five[1..].iter().all(|gone| !is_alive(gone.pid)));
    assert_eq!(herdwire.instance("app").pid, before[0].pid);
    assert_eq!(herdwire.instance("app").record["pm2_env"]["instances"], 1);
}

#[test]
fn an_only_instance_keeps_its_log_when_others_come() {
    let herdwire = Herdwire::new();
    start(&herdwire, "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; exec sleep 1000", 1);
    herdwire.await_log("app-out.log", "one\n");
    herdwire.ok(&["scale", "app", "2"]);
    herdwire.kill_supervisor();
    herdwire.write("go", "");
    herdwire.await_log("app-out.log", "one\ntwo\n");
    herdwire.await_log("app-out-1.log", "one\ntwo\n");
    assert!(herdwire.ok(&["logs", "--nostream", "app"]).contains("app-out.log"));
}

#[test]
fn new_instances_that_do_not_get_ready_are_removed_again() {
    let herdwire = Herdwire::new();
    start(&herdwire, "[ $HERDWIRE_INDEX -lt 2 ] || exit 6; exec sleep 1000", 2);
    let before = herdwire.instances("app");
    let said = herdwire.refused(&["scale", "app", "3"]);
    assert!(said.contains("instance app:2 ") && said.contains("exit code 6"), "{said}");
    until("it is removed", || herdwire.instances("app").len() == 2);
    let after = herdwire.instances("app");
    assert!(after.iter().zip(&before).all(|(after, before)| after.pid == before.pid));
    assert_eq!(after[0].record["pm2_env"]["instances"], 2);
}

#[test]
fn a_number_that_cannot_be_is_refused() {
    let herdwire = Herdwire::new();
    start(&herdwire, "sleep 1000", 1);
    assert!(herdwire.refused(&["scale", "app", "257"]).contains("more than 256"));
    assert!(herdwire.refused(&["scale", "app", "0"]).contains("herdwire stop app"));
    assert!(herdwire.refused(&["scale", "app", "-1"]).contains("none would be left"));
    assert!(herdwire.refused(&["scale", "web", "2"]).contains("there is no app `web`"));
    assert_eq!(herdwire.run(&["scale", "app", "many"]).status.code(), Some(2));
    assert_eq!(herdwire.instances("app").len(), 1);
}

#[test]
fn instances_added_by_a_scale_are_adopted_and_restarted_like_any_other() {
    let herdwire = Herdwire::new();
    start(&herdwire, "sleep 1000", 1);
    herdwire.ok(&["scale", "app", "3"]);
    let before = herdwire.instances("app");
    herdwire.kill_supervisor();
    assert_eq!(herdwire.instances("app"), before);
    signal(before[2].pid, Signal::SIGKILL);
    until("it came back", || {
        let now = herdwire.instances("app");
        now[2].is_online() && now[2].pid != before[2].pid
    });
}
