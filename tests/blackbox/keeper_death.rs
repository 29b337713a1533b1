//! The keeper dies of SIGKILL: the supervisor takes its place, nothing that runs notices, exits are known.

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, is_alive, signal, until};
use crate::puppets::Stage;
use crate::survivors::{LINES, identities, lines_go_on};

#[test]
fn instances_messages_and_logs_go_on_without_their_keeper() {
    let herdwire = Herdwire::new();
    let stage = Stage::new(&herdwire);
    herdwire.write("herdwire.toml", &Stage::app(&herdwire, "herd", 2, ""));
    herdwire.ok(&["start", LINES, "-n", "lines"]);
    herdwire.ok(&["start"]);
    let mut puppets = stage.next_of(2);
    puppets.iter_mut().for_each(|puppet| drop(puppet.connects()));
    puppets[1].does("subscribe news");
    let before = identities(&herdwire);
    for round in 0..3 {
        herdwire.kill_keeper();
        assert_eq!(identities(&herdwire), before);
        puppets[0].does(&format!("publish news {round}"));
        assert!(puppets[1].hears().ends_with(&format!(" {round}")));
        lines_go_on(&herdwire, "lines-out.log");
    }
    herdwire.kill_supervisor();
    assert_eq!(identities(&herdwire), before);
    lines_go_on(&herdwire, "lines-out.log");
    // A wire that goes on takes newcomers, too.
    herdwire.ok(&["restart", "herd"]);
    let mut puppets = stage.next_of(2);
    puppets.iter_mut().for_each(|puppet| drop(puppet.connects()));
}

#[test]
fn exits_of_instances_that_lost_their_keeper_are_exact() {
    let herdwire = Herdwire::new();
    let ends = |code: u32| format!("while [ ! -e go ]; do sleep 0.01; done; exit {code}");
    herdwire.ok(&["start", &ends(7), "-n", "seven", "--no-autorestart"]);
    herdwire.ok(&["start", &ends(0), "-n", "well", "--no-autorestart"]);
    herdwire.ok(&["start", "sleep 1000", "-n", "killed", "--no-autorestart"]);
    herdwire.ok(&["start", "sleep 1000", "-n", "again"]);
    herdwire.kill_keeper();
    signal(herdwire.instance("killed").pid, Signal::SIGTERM);
    let again = herdwire.instance("again").pid;
    signal(again, Signal::SIGKILL);
    herdwire.write("go", "");
    let ended = |name: &str| herdwire.await_instance(name, "ended", |now| now.pid == 0);
    assert_eq!(ended("seven").own("last_exit")["Code"], 7);
    assert_eq!(ended("well").own("last_exit")["Code"], 0);
    assert_eq!(ended("killed").own("last_exit")["Signal"], 15);
    let known = herdwire.await_instance("again", "came back", |now| now.is_online() && now.pid != again);
    assert_eq!((known.restarts, &known.own("last_exit")["Signal"]), (1, &9.into()));
    // Its successor is a child of the new keeper.
    signal(known.pid, Signal::SIGKILL);
    herdwire.await_instance("again", "came back", |now| now.is_online() && now.pid != known.pid);
}

#[test]
fn what_ended_while_neither_served_is_known() {
    let herdwire = Herdwire::new();
    let ends = "while [ ! -e go ]; do sleep 0.01; done; exit 5";
    herdwire.ok(&["start", ends, "-n", "ends", "--no-autorestart"]);
    herdwire.ok(&["start", ends, "-n", "orphan", "--no-autorestart"]);
    herdwire.kill_keeper();
    let pids = [herdwire.instance("ends").pid, herdwire.instance("orphan").pid];
    // Nobody looks while they end.
    let supervisor = herdwire.supervisor_pid();
    signal(supervisor, Signal::SIGSTOP);
    herdwire.write("go", "");
    until("both have ended", || pids.iter().all(|pid| !is_alive(*pid)));
    signal(supervisor, Signal::SIGKILL);
    for name in ["ends", "orphan"] {
        let known = herdwire.await_instance(name, "ended", |now| now.pid == 0);
        assert_eq!(known.own("last_exit")["Code"], 5, "{}", herdwire.own_log());
    }
}

#[test]
fn an_orphan_is_stopped_restarted_and_swept_like_any_other() {
    let herdwire = Herdwire::new();
    let polite = "trap 'echo goodbye; exit 0' INT; echo up; while :; do sleep 0.01; done";
    herdwire.ok(&["start", polite, "-n", "polite"]);
    herdwire.await_log("polite-out.log", "up\n");
    let family = "(setsid sleep 1000 &); echo up; exec sleep 1000";
    herdwire.ok(&["start", family, "-n", "family"]);
    herdwire.await_log("family-out.log", "up\n");
    until("the family is complete", || herdwire.processes_of("family").len() == 2);
    herdwire.kill_keeper();
    herdwire.ok(&["stop", "polite"]);
    assert_eq!(herdwire.log("polite-out.log"), "up\ngoodbye\n");
    herdwire.ok(&["restart", "family"]);
    until("the old family is gone", || herdwire.processes_of("family").len() == 2);
    herdwire.ok(&["delete", "family"]);
    until("all of it is gone", || herdwire.processes_of("family").is_empty());
}

#[test]
fn a_second_keeper_is_not_started_beside_the_heir() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let before = identities(&herdwire);
    signal(herdwire.keeper_pid(), Signal::SIGKILL);
    // At once, while the place changes hands: whoever asks waits, and starts nothing of its own.
    herdwire.ok(&["start", "sleep 1000", "-n", "other"]);
    assert_eq!(identities(&herdwire)[..1], before[..]);
    let keepers = herdwire.processes().into_iter().filter(|pid| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains("__keeper")
    });
    assert_eq!(keepers.count(), 1);
}

#[test]
fn a_keeper_that_dies_in_the_middle_of_an_upgrade_has_one_heir() {
    for moment in ["is tried as the next supervisor", "upgrade: standby", "freezing for a successor", "serves"] {
        let herdwire = Herdwire::new();
        herdwire.ok(&["start", LINES, "-n", "lines"]);
        herdwire.ok(&["start", "sleep 1000", "-n", "nap", "-i", "2"]);
        let (before, keeper) = (identities(&herdwire), herdwire.keeper_pid());
        let seen = herdwire.own_log().matches(moment).count();
        let mut upgrade = herdwire.command(&["upgrade"]).spawn().unwrap();
        until("the moment has come", || herdwire.own_log().matches(moment).count() > seen);
        signal(keeper, Signal::SIGKILL);
        // Whether it came off or not: either is fine.
        upgrade.wait().unwrap();
        let keepers = || {
            let mut found = herdwire.processes();
            found.retain(|pid| {
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&command).contains("__keeper")
            });
            found
        };
        until("there is a keeper, and one alone", || keepers().len() == 1);
        until("it is the one that is told of", || {
            let ran = herdwire.run(&["ping", "--json"]);
            ran.status.success() && ran.stdout.contains(&keepers()[0].to_string())
        });
        assert_eq!(identities(&herdwire), before, "{moment}: {}", herdwire.own_log());
        lines_go_on(&herdwire, "lines-out.log");
    }
}

#[test]
fn kill_ends_everything_after_the_keeper_died_too() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap", "-i", "3"]);
    herdwire.kill_keeper();
    herdwire.ok(&["start", "sleep 1000", "-n", "other"]);
    herdwire.ok(&["kill"]);
    until("nothing runs any more", || herdwire.processes().is_empty());
    let left: Vec<_> = std::fs::read_dir(herdwire.home()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("heir-of-")), "{left:?}");
}
