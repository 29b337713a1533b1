//! The home while a herd runs in it: moved away, replaced by another, or no longer to be written to.

use std::fs;
use std::process::Command;

use crate::herdwire::{Herdwire, SOON, is_alive, poll, until};

#[test]
fn a_home_that_is_replaced_by_another_ends_what_ran_in_it_and_the_new_one_is_free() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "exec sleep 1000", "-n", "nap"]);
    let (keeper, nap) = (herdwire.keeper_pid(), herdwire.instance("nap").pid);
    let aside = herdwire.work().join("old-home");
    fs::rename(herdwire.home(), &aside).unwrap();
    fs::create_dir(herdwire.home()).unwrap();
    until("all of it has ended", || !is_alive(keeper) && !is_alive(nap));
    let log = fs::read_to_string(aside.join("herdwire.log")).unwrap();
    assert!(log.contains("home"), "{log}");
    herdwire.ok(&["start", "exec sleep 1000", "-n", "next"]);
    assert_eq!(herdwire.list().len(), 1);
}

#[test]
fn logs_and_sockets_that_are_removed_come_back_and_nothing_is_restarted() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done", "-n", "count"]);
    herdwire.await_log("count-out.log", "10\n");
    let before = herdwire.instance("count");
    for name in fs::read_dir(herdwire.home()).unwrap().map(|entry| entry.unwrap().path()) {
        // The folder of logs stays where it is, without what was in it.
        match name.is_dir() {
            true => fs::read_dir(&name).unwrap().flatten().filter(|one| one.path().is_file()).for_each(|one| {
                fs::remove_file(one.path()).unwrap();
            }),
            false => fs::remove_file(&name).unwrap(),
        }
    }
    until("somebody answers", || herdwire.run(&["ping"]).status.success());
    until("the log goes on", || !herdwire.log("count-out.log").is_empty());
    herdwire.kill_supervisor();
    let now = herdwire.instance("count");
    assert_eq!((now.pid, now.restarts), (before.pid, before.restarts));
    // What is saved is written anew with the next change.
    herdwire.ok(&["start", "exec sleep 1000", "-n", "nap"]);
    until("it is saved", || herdwire.home().join("saved").exists());
}

/// Runs a command in the mounts of a process; false where that is not allowed.
fn within(pid: u32, command: &[&str]) -> bool {
    let mut enter = Command::new("nsenter");
    enter.args(["-t", &pid.to_string(), "-m"]).args(command).current_dir("/");
    enter.status().is_ok_and(|status| status.success())
}

/// Starts an app in a world of mounts of its own; false where that is not allowed.
fn start_among_mounts(herdwire: &Herdwire, script: &str) -> bool {
    let mut command = Command::new("unshare");
    herdwire.place(&mut command);
    command.args(["-m", env!("CARGO_BIN_EXE_herdwire"), "start", script, "-n", "count"]);
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn a_home_that_cannot_be_written_to_any_more_stops_nothing_and_everything_goes_on_afterwards() {
    let herdwire = Herdwire::new();
    if !start_among_mounts(&herdwire, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done") {
        return eprintln!("skipped: no mounts of our own here");
    }
    herdwire.await_log("count-out.log", "10\n");
    let (before, keeper) = (herdwire.instance("count"), herdwire.keeper_pid());
    let home = herdwire.home().display().to_string();
    // Over the folder itself: what is open for writing already would keep it from being made read-only.
    assert!(within(keeper, &["mount", "--bind", &home, &home]));
    assert!(within(keeper, &["mount", "-o", "remount,bind,ro", &home]));
    herdwire.kill_supervisor();
    let started = herdwire.run(&["start", "exec sleep 1000", "-n", "nap"]);
    let warned = poll(SOON, || {
        let warnings = herdwire.snapshot()["supervisor"]["warnings"].to_string();
        (warnings.contains("cannot be") || warnings.contains("ead-only")).then_some(())
    });
    assert!(warned.is_some() || !started.status.success(), "nobody says so: {started:?}");
    assert_eq!(herdwire.instance("count").pid, before.pid);
    assert!(within(keeper, &["umount", "-l", &home]));
    let seen = herdwire.log("count-out.log").lines().count();
    until("the log goes on", || herdwire.log("count-out.log").lines().count() > seen + 20);
    let lines = herdwire.log("count-out.log");
    let whole = lines.rsplit_once('\n').unwrap().0;
    assert!(whole.lines().eq((1..=whole.lines().count()).map(|number| number.to_string())));
    assert_eq!((herdwire.instance("count").pid, herdwire.instance("count").restarts), (before.pid, 0));
    herdwire.ok(&["start", "exec sleep 1000", "-n", "later"]);
    until("it is saved", || {
        fs::read(herdwire.home().join("saved")).is_ok_and(|text| text.windows(5).any(|five| five == b"later"))
    });
}
