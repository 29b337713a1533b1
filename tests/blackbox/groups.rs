//! Whole groups: nothing that an instance has started survives it, wherever it went.
//!
//! Where this machine gives no control groups, what has forgotten its environment as well cannot be found: those tests
//! are skipped there.

use std::net::{SocketAddr, TcpListener};

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, SOON, is_alive, poll, signal, until, worker};
use crate::listeners::ask;

fn has_groups(herdwire: &Herdwire) -> bool {
    herdwire.ok(&["ping"]);
    let has = herdwire.own_log().contains("instances run in control groups");
    if !has {
        eprintln!("skipped: no control groups here");
    }
    has
}

/// A pid that an app has written into its log.
fn told_pid(herdwire: &Herdwire, log: &str) -> u32 {
    herdwire.await_log(log, "\n");
    herdwire.log(log).lines().next().unwrap().parse().unwrap()
}

/// Leaves its session, loses its parents, and forgets its environment.
const ESCAPE: &str = "(setsid env -i sh -c 'echo $$; exec sleep 1000' &); exec sleep 1000";

#[test]
fn what_escapes_an_instance_ends_when_it_is_stopped() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", ESCAPE, "-n", "escape"]);
    if !has_groups(&herdwire) {
        return;
    }
    let runaway = told_pid(&herdwire, "escape-out.log");
    herdwire.ok(&["stop", "escape"]);
    until("it is gone", || !is_alive(runaway));
}

#[test]
fn what_escapes_an_instance_ends_when_it_dies_with_its_supervisor() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", ESCAPE, "-n", "escape", "--no-autorestart"]);
    if !has_groups(&herdwire) {
        return;
    }
    let runaway = told_pid(&herdwire, "escape-out.log");
    let (instance, supervisor) = (herdwire.instance("escape").pid, herdwire.supervisor_pid());
    // It sees nothing of the death before its own.
    signal(supervisor, Signal::SIGSTOP);
    signal(instance, Signal::SIGKILL);
    signal(supervisor, Signal::SIGKILL);
    until("it is gone", || !is_alive(runaway));
}

#[test]
fn a_grandchild_that_holds_port_and_log_goes_with_its_process_and_a_successor_gets_the_port() {
    let herdwire = Herdwire::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = free.local_addr().unwrap();
    drop(free);
    // Again until it can: its predecessor may hold the port for a moment.
    let daemon = format!(
        "(setsid env -i sh -c 'until {} {address}; do sleep 0.02; done' &); exec sleep 1000",
        worker("server").display()
    );
    herdwire.ok(&["start", &daemon, "-n", "daemon"]);
    if !has_groups(&herdwire) {
        return;
    }
    let first = poll(SOON, || ask(address).ok()).expect("it answers");
    signal(herdwire.instance("daemon").pid, Signal::SIGKILL);
    let second = poll(SOON, || ask(address).ok().filter(|second| *second != first)).expect("its successor answers");
    assert!(!is_alive(first));
    herdwire.ok(&["stop", "daemon"]);
    until("it is gone, too", || !is_alive(second) && TcpListener::bind(address).is_ok());
}

#[test]
fn a_bomb_whose_parts_lead_sessions_ends_whole_while_the_supervisor_answers() {
    let herdwire = Herdwire::new();
    let bomb = herdwire.script(
        "bomb.sh",
        "[ $1 -gt 0 ] && { setsid sh $0 $(($1 - 1)) & setsid sh $0 $(($1 - 1)) & }\nexec sleep 1000\n",
    );
    herdwire.ok(&["start", &format!("exec sh {} 8", bomb.display()), "-n", "bomb"]);
    until("it has grown", || herdwire.processes_of("bomb").len() >= 300);
    herdwire.ok(&["ping"]);
    herdwire.ok(&["stop", "bomb"]);
    until("nothing is left", || herdwire.processes_of("bomb").is_empty());
    assert_eq!(herdwire.instance("bomb").status, "stopped");
}

#[test]
fn without_control_groups_what_kept_its_environment_is_found_by_it() {
    let herdwire = Herdwire::new();
    let escape = "(setsid sh -c 'echo $$; exec sleep 1000' &); exec sleep 1000";
    if !herdwire.start_without_groups(&[escape, "-n", "escape"]) {
        return;
    }
    let runaway = told_pid(&herdwire, "escape-out.log");
    herdwire.ok(&["stop", "escape"]);
    until("it is gone", || !is_alive(runaway));
}

#[test]
fn children_that_died_unmourned_are_reaped_after_their_parents_end() {
    let herdwire = Herdwire::new();
    // The shell becomes a program that never waits for the children that it finds; until then they live.
    let child = "(until grep -q sleep /proc/$$/comm; do sleep 0.01; done) &";
    herdwire.ok(&["start", &format!("{child} {child} exec sleep 1000"), "-n", "careless"]);
    let careless = herdwire.instance("careless").pid;
    until("both are zombies", || zombies_of(careless).len() == 2);
    let zombies = zombies_of(careless);
    herdwire.ok(&["stop", "careless"]);
    until("nothing is left of them", || zombies.iter().all(|pid| state_and_parent(*pid).is_none()));
    assert_eq!(zombies_of(herdwire.keeper_pid()), [0; 0]);
}

#[test]
fn an_instance_that_stands_still_hears_its_signal() {
    let herdwire = Herdwire::new();
    let polite = "trap 'echo goodbye; exit 7' TERM; echo up; while :; do sleep 0.01; done";
    herdwire.ok(&["start", polite, "-n", "still", "--kill-signal", "SIGTERM", "--kill-timeout", "20s"]);
    herdwire.await_log("still-out.log", "up\n");
    signal(herdwire.instance("still").pid, Signal::SIGSTOP);
    herdwire.ok(&["stop", "still"]);
    assert_eq!(herdwire.instance("still").own("last_exit")["Code"], 7);
}

#[test]
fn one_that_ignores_its_signal_is_killed_with_all_that_escaped_it() {
    let herdwire = Herdwire::new();
    let stubborn =
        "trap '' INT; (setsid sh -c 'echo $$; while :; do sleep 1000; done' &); while :; do sleep 1000; done";
    herdwire.ok(&["start", stubborn, "-n", "stubborn", "--kill-timeout", "100ms"]);
    let runaway = told_pid(&herdwire, "stubborn-out.log");
    herdwire.ok(&["stop", "stubborn"]);
    assert_eq!(herdwire.instance("stubborn").own("last_exit")["Signal"], 9);
    until("it is gone", || !is_alive(runaway));
}

fn zombies_of(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| state_and_parent(*pid) == Some(('Z', parent))).collect()
}

fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
