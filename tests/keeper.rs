//! A real keeper with a supervisor that does as it is told.
//!
//! The keeper is a fork of the test. Its supervisor is this very executable, started to run
//! [`the_supervisor_of_these_tests`] alone, which connects to the test, tells what it inherited, and obeys commands.

mod support {
    pub mod keeper;
}

use std::time::Duration;

use herdwire::keeper;
use nix::sys::signal::Signal;
use support::keeper::{Herd, alive, supervisor};

/// Not a test by itself: the supervisor's process. Does nothing unless a keeper started it.
#[test]
fn the_supervisor_of_these_tests() {
    if std::env::args().any(|argument| argument == supervisor::MARK) {
        supervisor::main();
    }
}

#[test]
fn the_first_supervisor_is_told_whom_it_serves_and_inherits_nothing_else() {
    let herd = Herd::start(|_| {});
    let supervisor = herd.supervisor();
    assert_eq!(supervisor.told("epoch"), "1");
    assert_eq!(supervisor.told("reason"), "First");
    assert_eq!(supervisor.told("foreground"), "false");
    assert_eq!(supervisor.told("keeper"), herd.keeper_pid().to_string());
    assert_eq!(supervisor.told("descriptors"), "0");
    assert_eq!(supervisor.told("home"), herd.home().canonicalize().unwrap().to_string_lossy());
    assert_eq!(supervisor.told("blocked"), "0000000000000000");
    // SIGPIPE is ignored by the language's runtime, in every program.
    assert_eq!(supervisor.told("ignored"), "0000000000001000");
    assert_eq!(supervisor.told("open"), "0 1 2 3");
}

#[test]
fn what_is_stored_survives_the_supervisor_and_what_is_forgotten_does_not() {
    let herd = Herd::start(|_| {});
    let mut first = herd.supervisor();
    first.tell("ready");
    first.tell("store 500");
    first.tell("forget 7");
    herd.kill(first.pid(), Signal::SIGKILL);
    let second = herd.supervisor();
    assert_eq!(second.told("epoch"), "2");
    assert_eq!(second.told("reason"), "Crash");
    assert_eq!(second.told("descriptors"), "499");
    assert_eq!(second.told("mixed_up"), "0");
}

#[test]
fn what_a_supervisor_stores_with_its_last_breath_counts() {
    let herd = Herd::start(|_| {});
    let mut open = Vec::new();
    for round in 1..=20 {
        let mut supervisor = herd.supervisor();
        assert_eq!(supervisor.told("descriptors"), if round == 1 { "0" } else { "50" });
        open.push(herd.open_descriptors());
        supervisor.tell("ready");
        supervisor.say("store-and-die 50");
    }
    assert!(open[1..].iter().all(|count| *count == open[0] + 50), "the keeper loses descriptors: {open:?}");
}

#[test]
fn what_a_supervisor_stored_counts_also_when_its_death_is_seen_first() {
    let herd = Herd::start(|_| {});
    let mut first = herd.supervisor();
    first.tell("ready");
    // More than the keeper takes in one turn, and less than what a socket holds.
    herd.kill(herd.keeper_pid(), Signal::SIGSTOP);
    first.say("store-and-die 260");
    herd.wait_for_zombies(1);
    herd.kill(herd.keeper_pid(), Signal::SIGCONT);
    assert_eq!(herd.supervisor().told("descriptors"), "260");
}

#[test]
fn exits_are_told_with_their_status_until_they_are_acknowledged() {
    let herd = Herd::start(|_| {});
    let mut first = herd.supervisor();
    first.tell("ready");
    let exited = first.ask_pid("spawn exit 3");
    assert_eq!(first.tell("exit"), format!("1 {exited} Code(3)"));
    let killed = first.ask_pid("spawn exec sleep 1000");
    herd.kill(killed, Signal::SIGKILL);
    assert_eq!(first.tell("exit"), format!("2 {killed} Signal(9)"));
    first.tell("acknowledge 1");
    herd.kill(first.pid(), Signal::SIGKILL);

    let mut second = herd.supervisor();
    assert_eq!(second.told("exits"), format!("2 {killed} Signal(9)"));
    second.tell("ready");
    second.tell("acknowledge 2");
    herd.kill(second.pid(), Signal::SIGKILL);
    assert_eq!(herd.supervisor().told("exits"), "");
}

#[test]
fn exits_while_no_supervisor_lives_are_told_to_the_next() {
    let herd = Herd::start(|_| {});
    let mut first = herd.supervisor();
    first.tell("ready");
    let mut pids: Vec<u32> = (0..5).map(|_| first.ask_pid("spawn exec sleep 1000")).collect();
    // The keeper sees nothing of this until it is over.
    herd.kill(herd.keeper_pid(), Signal::SIGSTOP);
    herd.kill(first.pid(), Signal::SIGKILL);
    pids.iter().for_each(|pid| herd.kill(*pid, Signal::SIGTERM));
    herd.kill(herd.keeper_pid(), Signal::SIGCONT);
    let mut second = herd.supervisor();
    let mut heard: Vec<u32> = (0..5)
        .map(|_| {
            let exit = second.tell("exit");
            let (_, rest) = exit.split_once(' ').unwrap();
            rest.strip_suffix(" Signal(15)").unwrap().parse().unwrap()
        })
        .collect();
    heard.sort_unstable();
    pids.sort_unstable();
    assert_eq!(heard, pids);
}

#[test]
fn more_exits_than_the_table_holds_wait_and_none_is_lost() {
    let herd = Herd::start(|_| {});
    let mut first = herd.supervisor();
    first.tell("ready");
    first.tell("litter 4500");
    herd.wait_for_zombies(4500 - 4096);
    herd.kill(first.pid(), Signal::SIGKILL);
    let mut second = herd.supervisor();
    second.tell("ready");
    assert_eq!(second.tell("take-exits 4500"), "1 to 4500");
}

#[test]
fn a_supervisor_that_goes_silent_is_replaced() {
    let herd = Herd::start(|_| {});
    let mut first = herd.supervisor();
    first.tell("ready");
    first.tell("silence");
    assert_eq!(herd.supervisor().told("reason"), "Hang");
    assert!(!alive(first.pid()));
    herd.wait_for_log("hangs");
}

#[test]
fn a_supervisor_that_is_stopped_is_replaced() {
    let herd = Herd::start(|_| {});
    let mut first = herd.supervisor();
    first.tell("ready");
    herd.kill(first.pid(), Signal::SIGSTOP);
    assert_eq!(herd.supervisor().told("reason"), "Hang");
    herd.wait_for_log("was ended by signal 9");
}

#[test]
fn a_signal_ends_the_herd_in_order_and_the_supervisor_says_with_which_code() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let herd = Herd::start(|options| options.foreground = true);
        let mut supervisor = herd.supervisor();
        assert_eq!(supervisor.told("foreground"), "true");
        supervisor.tell("ready");
        herd.kill(herd.keeper_pid(), signal);
        assert_eq!(supervisor.tell("news"), "Stop");
        supervisor.say("goodbye 4");
        assert_eq!(herd.exit_code(), 4);
    }
}

#[test]
fn signals_without_a_meaning_do_nothing() {
    let herd = Herd::start(|_| {});
    let mut supervisor = herd.supervisor();
    supervisor.tell("ready");
    for signal in [Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTSTP, Signal::SIGTTOU]
    {
        herd.kill(herd.keeper_pid(), signal);
    }
    let pid = supervisor.ask_pid("spawn exit 0");
    assert_eq!(supervisor.tell("exit"), format!("1 {pid} Code(0)"));
}

#[test]
fn a_stop_is_told_to_the_successor_of_a_supervisor_that_died_of_it() {
    let herd = Herd::start(|_| {});
    let mut first = herd.supervisor();
    first.tell("ready");
    herd.kill(herd.keeper_pid(), Signal::SIGTERM);
    assert_eq!(first.tell("news"), "Stop");
    herd.kill(first.pid(), Signal::SIGKILL);
    let mut second = herd.supervisor();
    assert_eq!(second.tell("news"), "Stop");
    second.say("goodbye 0");
    assert_eq!(herd.exit_code(), 0);
}

#[test]
fn what_is_left_after_goodbye_is_killed() {
    let herd = Herd::start(|_| {});
    let mut supervisor = herd.supervisor();
    supervisor.tell("ready");
    let stubborn = supervisor.ask_pid("spawn trap '' TERM HUP INT; sleep 1000 & wait");
    supervisor.say("goodbye 0");
    assert_eq!(herd.exit_code(), 0);
    assert!(!alive(stubborn));
}

#[test]
fn a_second_request_a_second_later_kills_everything() {
    let herd = Herd::start(|_| {});
    let mut supervisor = herd.supervisor();
    supervisor.tell("ready");
    let instance = supervisor.ask_pid("spawn exec sleep 1000");
    herd.kill(herd.keeper_pid(), Signal::SIGTERM);
    assert_eq!(supervisor.tell("news"), "Stop");
    std::thread::sleep(Duration::from_millis(1100)); // The second is what is tested.
    herd.kill(herd.keeper_pid(), Signal::SIGTERM);
    assert_eq!(herd.exit_code(), keeper::FORCED);
    assert!(!alive(supervisor.pid()) && !alive(instance));
}

#[test]
fn a_second_keeper_of_the_same_home_ends_quietly() {
    let herd = Herd::start(|_| {});
    let supervisor = herd.supervisor();
    let second = Herd::start_in(herd.home().to_owned(), |_| {});
    assert_eq!(second.exit_code(), keeper::ALREADY_KEPT);
    assert!(alive(supervisor.pid()) && alive(herd.keeper_pid()));
}

#[test]
fn a_keeper_whose_home_is_gone_ends_everything() {
    let mut herd = Herd::start(|_| {});
    let mut supervisor = herd.supervisor();
    supervisor.tell("ready");
    let instance = supervisor.ask_pid("spawn exec sleep 1000");
    herd.remove_home();
    assert_eq!(supervisor.tell("news"), "Stop");
    // It does not follow, and so the keeper does it.
    assert_eq!(herd.exit_code(), keeper::FORCED);
    assert!(!alive(supervisor.pid()) && !alive(instance));
}

#[test]
fn a_supervisor_that_cannot_start_is_tried_on_and_the_keeper_still_ends_when_asked() {
    let herd = Herd::start(|options| options.supervisor.path = "/bin/false".into());
    herd.wait_for_log("exited with code 1 before it was ready; starting the next in 1 s");
    herd.kill(herd.keeper_pid(), Signal::SIGTERM);
    assert_eq!(herd.exit_code(), keeper::FORCED);
}

#[test]
fn a_full_store_refuses_by_name_and_keeps_what_it_has() {
    let herd = Herd::start_with_descriptors(164);
    let mut supervisor = herd.supervisor();
    assert_eq!(supervisor.told("store_limit"), "90");
    supervisor.tell("ready");
    supervisor.tell("store 92");
    assert_eq!(supervisor.tell("news"), "StoreRefused Pidfd:90/0#1");
    assert_eq!(supervisor.tell("news"), "StoreRefused Pidfd:91/0#1");
    herd.kill(supervisor.pid(), Signal::SIGKILL);
    assert_eq!(herd.supervisor().told("descriptors"), "90");
}

#[test]
fn a_supervisor_that_does_not_hear_its_refusals_cannot_store_on_and_hears_them_all_later() {
    let herd = Herd::start_with_descriptors(164);
    let mut supervisor = herd.supervisor();
    supervisor.tell("ready");
    let stored: u32 = supervisor.tell("store-unheard 5000").parse().unwrap();
    assert!((1024..5000).contains(&stored), "{stored} were taken although nobody heard");
    for number in 90..stored {
        assert_eq!(supervisor.tell("news"), format!("StoreRefused Pidfd:{number}/0#1"));
    }
}

#[test]
fn the_store_begins_with_what_the_keeper_was_given() {
    let herd = Herd::start_with_stored(3);
    let supervisor = herd.supervisor();
    assert_eq!(supervisor.told("descriptors"), "3");
    assert_eq!(supervisor.told("mixed_up"), "0");
}
