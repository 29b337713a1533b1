//! `scale`: more instances, or fewer.

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, is_alive, signal, until};

fn indices(herdwire: &Herdwire, app: &str) -> Vec<u64> {
    herdwire.instances(app).iter().map(|one| one.record["pm2_env"]["NODE_APP_INSTANCE"].as_u64().unwrap()).collect()
}

#[test]
fn instances_are_added_and_the_highest_indices_go_first() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "echo $HERDWIRE_INDEX; exec sleep 1000", "-n", "app", "-i", "2"]);
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
    herdwire.ok(&["start", "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; exec sleep 1000", "-n", "app"]);
    herdwire.await_log("app-out.log", "one\n");
    herdwire.ok(&["scale", "app", "2"]);
    herdwire.kill_supervisor();
    herdwire.write("go", "");
    herdwire.await_log("app-out.log", "one\ntwo\n");
    herdwire.await_log("app-out-1.log", "one\ntwo\n");
    assert!(herdwire.ok(&["logs", "app"]).contains("app-out.log"));
}

#[test]
fn new_instances_that_do_not_get_ready_are_removed_again() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "[ $HERDWIRE_INDEX -lt 2 ] || exit 6; exec sleep 1000", "-n", "app", "-i", "2"]);
    let before = herdwire.instances("app");
    let said = herdwire.refused(&["scale", "app", "3"]);
    assert!(said.contains("app:2 ended: exit code 6"), "{said}");
    until("it is removed", || herdwire.instances("app").len() == 2);
    let after = herdwire.instances("app");
    assert!(after.iter().zip(&before).all(|(after, before)| after.pid == before.pid));
    assert_eq!(after[0].record["pm2_env"]["instances"], 2);
}

#[test]
fn a_number_that_cannot_be_is_refused() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "app"]);
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
    herdwire.ok(&["start", "sleep 1000", "-n", "app"]);
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
