//! Crashes, stops, restarts: what becomes of processes.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, is_alive, signal, until};

#[test]
fn an_instance_that_dies_is_started_again_at_once() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let before = herdwire.instance("nap");
    signal(before.pid, Signal::SIGKILL);
    let after = herdwire.await_instance("nap", "came back", |now| now.is_online() && now.pid != before.pid);
    assert_eq!((after.id, after.restarts), (before.id, before.restarts + 1));
    assert_eq!(after.own("last_exit")["Signal"], 9);
}

#[test]
fn an_instance_that_keeps_dying_young_is_given_up_with_the_reason() {
    let herdwire = Herdwire::new();
    herdwire.run(&["start", "echo sorry >&2; exit 3", "-n", "crasher", "--max-restarts", "4"]);
    let given_up = herdwire.await_instance("crasher", "was given up", |now| now.status == "errored");
    assert_eq!(given_up.own("last_exit")["Code"], 3);
    let reason = given_up.own("reason").as_str().unwrap();
    assert!(reason.contains("it failed 4 times within 10 min"), "{reason}");
    assert_eq!(herdwire.log("crasher-error.log"), "sorry\n".repeat(4));
    assert!(herdwire.ok(&["describe", "crasher"]).contains(reason));
}

#[test]
fn an_instance_that_ends_stays_ended_when_it_is_not_to_be_restarted() {
    let herdwire = Herdwire::new();
    herdwire.run(&["start", "exit 0", "-n", "once", "--no-autorestart"]);
    let ended = herdwire.await_instance("once", "ended", |now| now.status == "stopped");
    assert_eq!((ended.pid, ended.restarts), (0, 0));
    assert_eq!(ended.record["pm2_env"]["exit_code"], 0);
}

#[test]
fn apps_that_run_once_and_end_well_have_been_started() {
    let herdwire = Herdwire::new();
    let app = |name: &str| format!("[[app]]\nname = {name:?}\nscript = \"true\"\nautorestart = false\n");
    herdwire.write("herdwire.toml", &["a", "b", "c", "d"].map(app).concat());
    herdwire.ok(&["start"]);
    herdwire.ok(&["restart", "all"]);
}

#[test]
fn a_restart_waits_for_restart_delay() {
    let herdwire = Herdwire::new();
    herdwire.run(&["start", "exit 1", "-n", "slow", "--restart-delay", "1h"]);
    herdwire.await_instance("slow", "waited", |now| now.status == "waiting restart");
    herdwire.ok(&["stop", "slow"]);
    assert_eq!(herdwire.instance("slow").status, "stopped");
}

#[test]
fn a_stop_sends_sigint_and_lets_the_instance_end_by_itself() {
    let herdwire = Herdwire::new();
    let polite = "trap 'echo goodbye; exit 7' INT; echo up; while :; do sleep 0.01; done";
    herdwire.ok(&["start", polite, "-n", "polite"]);
    herdwire.await_log("polite-out.log", "up\n");
    herdwire.ok(&["stop", "polite"]);
    let stopped = herdwire.instance("polite");
    assert_eq!(stopped.status, "stopped");
    assert_eq!(stopped.own("last_exit")["Code"], 7);
    assert_eq!(herdwire.log("polite-out.log"), "up\ngoodbye\n");
}

#[test]
fn the_signal_of_a_stop_can_be_chosen() {
    let herdwire = Herdwire::new();
    let script = "trap 'echo term; exit 0' TERM; trap 'echo int' INT; echo up; while :; do sleep 0.01; done";
    let config = format!("[[app]]\nname = \"term\"\nscript = \"{script}\"\nkill_signal = \"SIGTERM\"\n");
    herdwire.write("herdwire.toml", &config);
    herdwire.ok(&["start"]);
    herdwire.await_log("term-out.log", "up\n");
    herdwire.ok(&["stop", "term"]);
    assert_eq!(herdwire.log("term-out.log"), "up\nterm\n");
}

#[test]
fn an_instance_that_ignores_its_signal_is_killed_at_kill_timeout() {
    let herdwire = Herdwire::new();
    let stubborn = "trap '' INT; echo up; while :; do sleep 0.01; done";
    herdwire.ok(&["start", stubborn, "-n", "stubborn", "--kill-timeout", "300ms"]);
    herdwire.await_log("stubborn-out.log", "up\n");
    let since = Instant::now();
    herdwire.ok(&["stop", "stubborn"]);
    assert!(since.elapsed() >= Duration::from_millis(300), "killed after {:?}", since.elapsed());
    assert_eq!(herdwire.instance("stubborn").own("last_exit")["Signal"], 9);
}

#[test]
fn whatever_descends_from_an_instance_ends_with_it() {
    let herdwire = Herdwire::new();
    let family = "trap '' INT; sleep 1000 & (trap '' INT; setsid sleep 1000 &) ; echo up; wait; wait; sleep 1000";
    herdwire.ok(&["start", family, "-n", "family", "--kill-timeout", "200ms"]);
    herdwire.await_log("family-out.log", "up\n");
    until("the family is complete", || herdwire.processes_of("family").len() >= 3);
    let family = herdwire.processes_of("family");
    herdwire.ok(&["stop", "family"]);
    until("nothing of it is left", || herdwire.processes_of("family").is_empty());
    assert!(family.into_iter().all(|pid| !is_alive(pid)));
}

#[test]
fn a_restart_gives_every_instance_a_new_process_and_the_same_id() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "pair", "-i", "2"]);
    let before = herdwire.instances("pair");
    herdwire.ok(&["restart", "pair"]);
    for (old, new) in before.iter().zip(herdwire.instances("pair")) {
        assert_eq!((old.id, old.restarts + 1), (new.id, new.restarts));
        assert_ne!(old.pid, new.pid);
        assert!(new.is_online() && !is_alive(old.pid));
    }
}

#[test]
fn an_app_that_is_started_again_with_another_command_runs_that() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "echo old; exec sleep 1000", "-n", "app"]);
    herdwire.await_log("app-out.log", "old\n");
    let before = herdwire.instance("app");
    herdwire.ok(&["start", "echo new; exec sleep 1000", "-n", "app"]);
    herdwire.await_log("app-out.log", "new\n");
    let after = herdwire.instance("app");
    assert_eq!(before.id, after.id);
    assert!(!is_alive(before.pid));
}

#[test]
fn kill_ends_every_instance_the_supervisor_and_the_keeper() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap", "-i", "3"]);
    herdwire.ok(&["start", "trap '' INT; sleep 1000 & wait; sleep 1000", "-n", "stubborn", "-k", "200ms"]);
    until("all of them run", || herdwire.processes().len() >= 7);
    herdwire.ok(&["kill"]);
    until("nothing runs any more", || herdwire.processes().is_empty());
    assert!(!herdwire.home().join("control.sock").exists(), "the socket is still there");
    assert!(herdwire.list().is_empty());
}

#[test]
fn the_keeper_ends_everything_when_it_is_asked_to_end() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    signal(herdwire.keeper_pid(), Signal::SIGTERM);
    until("nothing runs any more", || herdwire.processes().is_empty());
}

#[test]
fn an_exit_code_of_125_is_an_apps_own_and_runs_it_once() {
    let herdwire = Herdwire::new();
    herdwire.run(&["start", "echo ran; exit 125", "-n", "once", "-i", "20", "--no-autorestart"]);
    until("all have ended", || herdwire.instances("once").iter().all(|now| now.status == "stopped"));
    for ended in herdwire.instances("once") {
        assert_eq!(ended.own("last_exit")["Code"], 125);
        assert_eq!(herdwire.log(&format!("once-out-{}.log", ended.id)), "ran\n");
    }
}

#[test]
fn as_many_instances_as_an_app_may_have_come_up_at_once() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "many", "-i", "256"]);
    assert!(herdwire.instances("many").iter().all(|now| now.is_online()));
    herdwire.ok(&["restart", "many"]);
    assert_eq!(herdwire.instances("many").iter().filter(|now| now.is_online()).count(), 256);
}

#[test]
fn an_app_that_is_started_while_it_is_deleted_stays() {
    let herdwire = Herdwire::new();
    let ignores = "trap '' INT; while :; do sleep 0.1; done";
    let start = ["start", ignores, "-n", "stubborn", "--kill-timeout", "1s"];
    herdwire.ok(&start);
    let before = herdwire.instance("stubborn").id;
    let mut delete = herdwire.command(&["delete", "stubborn"]).spawn().unwrap();
    until("the delete has begun", || herdwire.list().iter().any(|now| now.status == "stopping"));
    herdwire.ok(&start);
    assert!(delete.wait().unwrap().success());
    let stays = herdwire.instance("stubborn");
    assert!(stays.is_online() && stays.id != before, "{} {}", stays.id, stays.status);
}

#[test]
fn a_child_that_outlives_a_crashed_process_in_a_session_of_its_own_ends_with_it() {
    let herdwire = Herdwire::new();
    let script = "setsid sh -c 'sleep 4711 & echo $!' | { read pid; echo $pid; }; exit 3";
    herdwire.run(&["start", script, "-n", "forker", "--no-autorestart"]);
    herdwire.await_instance("forker", "ended", |now| now.status == "stopped");
    let child: u32 = herdwire.log("forker-out.log").trim().parse().unwrap();
    until("the child has ended", || !is_alive(child));
}

#[test]
fn an_exit_code_that_is_to_stop_it_stops_it() {
    let herdwire = Herdwire::new();
    let app = |name: &str, code: u8| {
        format!("[[app]]\nname = \"{name}\"\nscript = \"exit {code}\"\nstop_exit_codes = [0, 42]\n")
    };
    herdwire.write("well.toml", &app("well", 0));
    herdwire.ok(&["start", "well.toml"]);
    assert_eq!((herdwire.instance("well").status.as_str(), herdwire.instance("well").restarts), ("stopped", 0));
    herdwire.write("herdwire.toml", &app("done", 42));
    herdwire.run(&["start"]);
    let done = herdwire.await_instance("done", "stopped", |now| now.status == "stopped");
    assert_eq!((done.restarts, &done.own("last_exit")["Code"]), (0, &42.into()));
    assert!(done.own("cause").as_str().unwrap().contains("stop_exit_codes"));
}

#[test]
fn with_shutdown_with_message_no_signal_is_sent_and_whoever_does_not_listen_is_killed() {
    let herdwire = Herdwire::new();
    let script = "trap 'echo signalled' INT TERM; echo up; while :; do sleep 0.01; done";
    let config = format!(
        "[[app]]\nname = \"deaf\"\nscript = \"{script}\"\nshutdown_with_message = true\nkill_timeout = \"300ms\"\n"
    );
    herdwire.write("herdwire.toml", &config);
    herdwire.ok(&["start"]);
    herdwire.await_log("deaf-out.log", "up\n");
    herdwire.ok(&["stop", "deaf"]);
    assert_eq!(herdwire.instance("deaf").own("last_exit")["Signal"], 9);
    assert_eq!(herdwire.log("deaf-out.log"), "up\n");
}

#[test]
fn waits_that_grow_are_kept_across_a_death_of_the_supervisor() {
    let herdwire = Herdwire::new();
    let config =
        "[[app]]\nname = \"slow\"\nscript = \"exit 1\"\nexp_backoff_restart_delay = \"1h\"\nexp_backoff_max = \"2h\"\n";
    herdwire.write("herdwire.toml", config);
    herdwire.run(&["start"]);
    let waiting = herdwire.await_instance("slow", "waited", |now| now.status == "waiting restart");
    assert!(waiting.own("reason").as_str().unwrap().contains("exit code 1"));
    herdwire.kill_supervisor();
    assert_eq!(herdwire.instance("slow").own("reason"), waiting.own("reason"));
}

#[test]
fn when_the_home_is_removed_everything_ends() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap", "-i", "2"]);
    let (keeper, supervisor) = (herdwire.keeper_pid(), herdwire.supervisor_pid());
    // Whoever writes into it at this moment makes it anew, in part.
    until("it is gone", || std::fs::remove_dir_all(herdwire.home()).is_ok());
    until("nothing runs any more", || herdwire.processes().is_empty() && !is_alive(keeper) && !is_alive(supervisor));
}
