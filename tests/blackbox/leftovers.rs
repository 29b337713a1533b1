//! That a test run leaves nothing behind, also when it is killed itself.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, is_alive, until};

const VICTIM: &str = "HERDWIRE_TESTS_VICTIM";

/// Not a test by itself: starts a herd, says what it consists of, and waits to be killed.
#[test]
fn the_victim_of_these_tests() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "trap '' INT TERM; sleep 1000 & wait; sleep 1000", "-n", "victim", "-i", "2"]);
    until("the family is complete", || herdwire.processes_of("victim").len() >= 4);
    let pids: Vec<String> = herdwire.processes().iter().map(u32::to_string).collect();
    println!("VICTIM {} {}", herdwire.home().parent().unwrap().display(), pids.join(" "));
    loop {
        std::thread::park();
    }
}

#[test]
fn a_test_run_that_is_killed_leaves_no_process_and_no_file() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "leftovers::the_victim_of_these_tests", "--nocapture"]).env(VICTIM, "1");
    let mut victim = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let said = lines.find_map(|line| line.unwrap().split_once("VICTIM ").map(|(_, rest)| rest.to_owned()));
    let said = said.expect("it says what it started");
    let mut words = said.split(' ');
    let folder = PathBuf::from(words.next().unwrap());
    let pids: Vec<u32> = words.map(|pid| pid.parse().unwrap()).collect();
    assert!(folder.exists() && pids.len() >= 6 && pids.iter().all(|pid| is_alive(*pid)));

    nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim.id() as i32), Signal::SIGKILL).unwrap();
    victim.wait().unwrap();
    until("its processes are gone", || !pids.iter().any(|pid| is_alive(*pid)));
    until("its folder is gone", || !folder.exists());
}
