//! A real keeper with a supervisor that does as it is told.
//!
//! The keeper begins as a fork of the test. Its supervisor is this very executable, which in that role connects to the
//! test, tells what it inherited, and obeys commands.

mod support {
    pub mod keeper;
}

use std::time::Duration;

use herdwire::keeper;
use nix::sys::signal::Signal;
use support::keeper::{Herd, Supervised, alive, supervisor};

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
    assert_eq!(supervisor.told("ignored"), "0000000000000000");
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
    herd.wait_for_log("(signal: 9 (SIGKILL))");
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
    assert_eq!(second.exit_code(), keeper::start::ALREADY_KEPT);
    assert!(alive(supervisor.pid()) && alive(herd.keeper_pid()));
}

#[test]
fn a_supervisor_that_cannot_start_is_tried_on_and_the_keeper_still_ends_when_asked() {
    let herd = Herd::start(|options| options.program = "/bin/false".into());
    herd.wait_for_log("ended before it was ready (exit status: 1); the next starts in 1 s");
    herd.kill(herd.keeper_pid(), Signal::SIGTERM);
    assert_eq!(herd.exit_code(), keeper::FORCED);
}

#[test]
fn a_keeper_whose_home_is_gone_and_whose_supervisors_cannot_start_ends_everything() {
    let mut herd = Herd::start(|_| {});
    let mut supervisor = herd.supervisor();
    supervisor.tell("ready");
    supervisor.tell("keep /bin/false");
    let instance = supervisor.ask_pid("spawn exec sleep 1000");
    herd.remove_home();
    assert!(alive(instance), "to see to it is the supervisor's affair");
    herd.kill(supervisor.pid(), Signal::SIGKILL);
    assert_eq!(herd.exit_code(), keeper::FORCED);
    assert!(!alive(instance));
}

#[test]
fn a_full_store_refuses_by_name_and_keeps_what_it_has() {
    let herd = Herd::start_with_descriptors(264);
    let mut supervisor = herd.supervisor();
    assert_eq!(supervisor.told("store_limit"), "90");
    supervisor.tell("ready");
    // Two places are the lock's and the program's.
    supervisor.tell("store 90");
    assert_eq!(supervisor.tell("news"), "StoreRefused Pidfd:88/0#1");
    assert_eq!(supervisor.tell("news"), "StoreRefused Pidfd:89/0#1");
    herd.kill(supervisor.pid(), Signal::SIGKILL);
    assert_eq!(herd.supervisor().told("descriptors"), "88");
}

#[test]
fn a_supervisor_that_does_not_hear_its_refusals_cannot_store_on_and_hears_them_all_later() {
    let herd = Herd::start_with_descriptors(264);
    let mut supervisor = herd.supervisor();
    supervisor.tell("ready");
    let stored: u32 = supervisor.tell("store-unheard 5000").parse().unwrap();
    assert!((1024..5000).contains(&stored), "{stored} were taken although nobody heard");
    for number in 88..stored {
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

#[test]
fn a_standby_that_gets_ready_takes_over_with_everything() {
    let (herd, mut incumbent) = serving();
    incumbent.tell("store 300");
    incumbent.tell("try /proc/self/exe");
    let mut standby = herd.supervisor();
    assert_eq!(standby.told("reason"), "Upgrade");
    assert_eq!(standby.told("epoch"), "2");
    assert_eq!(standby.told("parent"), herd.keeper_pid().to_string());
    assert_eq!((standby.told("descriptors"), standby.told("mixed_up")), ("300", "0"));
    assert_eq!((standby.told("open"), standby.told("blocked")), ("0 1 2 3", "0000000000000000"));
    assert_eq!(standby.told("ignored"), incumbent.told("ignored"));
    // What happens before the incumbent has frozen is its business.
    incumbent.tell("forget 7");
    let exited = incumbent.ask_pid("spawn exit 3");
    assert_eq!(incumbent.tell("exit"), format!("1 {exited} Code(3)"));
    standby.tell("prove");
    assert_eq!(incumbent.tell("proved"), "true");
    incumbent.tell("hand-over");
    let taken = standby.tell("take");
    assert!(taken.contains("epoch=2;") && taken.contains(";descriptors=299;"), "{taken}");
    assert!(taken.contains(&format!(";exits=1 {exited} Code(3);")), "{taken}");
    standby.tell("ready");
    assert_eq!(incumbent.tell("news"), "Relieved");
    // It does not go by itself.
    herd.wait_for_end(incumbent.pid());
    standby.tell("acknowledge 1");
    assert_eq!(standby.tell("exit"), format!("1 {exited} Code(3)"), "as it was told when it took over");
    assert_eq!(standby.tell("exit"), format!("2 {} Signal(9)", incumbent.pid()));
    standby.tell("acknowledge 2");
    herd.kill(standby.pid(), Signal::SIGKILL);
    let next = herd.supervisor();
    assert_eq!((next.told("reason"), next.told("epoch"), next.told("exits")), ("Crash", "3", ""));
    assert_eq!(next.told("descriptors"), "299");
}

#[test]
fn a_standby_and_one_that_has_frozen_change_nothing() {
    let (herd, mut incumbent) = serving();
    incumbent.tell("try /proc/self/exe");
    let mut standby = herd.supervisor();
    standby.tell("store 5");
    standby.tell("prove");
    assert_eq!(incumbent.tell("proved"), "true");
    incumbent.tell("hand-over");
    incumbent.tell("store 9");
    let taken = standby.tell("take");
    assert!(taken.contains(";descriptors=0;"), "{taken}");
    standby.tell("store 2");
    standby.tell("ready");
    herd.kill(standby.pid(), Signal::SIGKILL);
    assert_eq!(herd.supervisor().told("descriptors"), "2");
}

#[test]
fn a_program_that_cannot_be_executed_says_why_and_the_incumbent_goes_on() {
    let (herd, mut incumbent) = serving();
    let text = herd.home().join("text");
    std::fs::write(&text, "not a program").unwrap();
    let attempt = format!("try {}", text.display());
    assert_eq!(incumbent.tell(&attempt), "Permission denied (os error 13)");
    std::fs::set_permissions(&text, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(incumbent.tell(&attempt), "Exec format error (os error 8)");
    incumbent.tell("store 1");
}

#[test]
fn a_standby_that_exits_before_it_has_proved_itself_is_told_like_any_other_exit() {
    let (herd, mut incumbent) = serving();
    for (number, (program, code)) in [("/bin/true", 0), ("/bin/false", 1)].into_iter().enumerate() {
        let pid = incumbent.ask_pid(&format!("try {program}"));
        assert_eq!(incumbent.tell("proved"), "false");
        assert_eq!(incumbent.tell("exit"), format!("{} {pid} Code({code})", number + 1));
    }
    let pid = incumbent.ask_pid("try /proc/self/exe");
    herd.supervisor().say("exit-with 78");
    assert_eq!(incumbent.tell("exit"), format!("3 {pid} Code(78)"));
    incumbent.tell("store 3");
    herd.kill(incumbent.pid(), Signal::SIGKILL);
    let next = herd.supervisor();
    assert_eq!((next.told("descriptors"), next.told("reason"), next.told("epoch")), ("3", "Crash", "2"));
}

#[test]
fn a_trial_that_is_given_up_ends_the_standby() {
    let (herd, mut incumbent) = serving();
    let pid = incumbent.ask_pid("try /proc/self/exe");
    let _standby = herd.supervisor();
    incumbent.tell("give-up");
    assert_eq!(incumbent.tell("exit"), format!("1 {pid} Signal(9)"));
}

/// An incumbent that has let go, and a standby that knows everything.
fn handed_over(herd: &Herd, incumbent: &mut Supervised) -> Supervised {
    incumbent.tell("try /proc/self/exe");
    let mut standby = herd.supervisor();
    standby.tell("prove");
    assert_eq!(incumbent.tell("proved"), "true");
    incumbent.tell("hand-over");
    standby.tell("take");
    standby
}

#[test]
fn an_incumbent_that_froze_in_vain_is_followed_by_one_of_its_program() {
    for (fate, status) in [("exit-with 1", "Code(1)"), ("silence", "Signal(9)")] {
        let (herd, mut incumbent) = serving();
        let mut standby = handed_over(&herd, &mut incumbent);
        standby.tell("store 4");
        standby.say(fate);
        assert_eq!(incumbent.tell("exit"), format!("1 {} {status}", standby.pid()));
        assert!(!alive(standby.pid()));
        incumbent.say("exit-with 1");
        let next = herd.supervisor();
        assert_eq!((next.told("reason"), next.told("epoch"), next.told("descriptors")), ("Crash", "3", "4"));
        herd.wait_for_log("ended (exit status: 1); the next starts in 0 s");
    }
}

#[test]
fn an_incumbent_that_froze_in_vain_and_stays_is_ended() {
    let (herd, mut incumbent) = serving();
    let mut standby = handed_over(&herd, &mut incumbent);
    standby.say("exit-with 1");
    herd.kill(incumbent.pid(), Signal::SIGSTOP);
    let next = herd.supervisor();
    assert_eq!((next.told("reason"), next.told("epoch")), ("Crash", "3"));
    assert!(!alive(incumbent.pid()));
}

#[test]
fn an_incumbent_that_dies_in_an_upgrade_takes_a_standby_along_that_has_not_taken_over() {
    let (herd, mut incumbent) = serving();
    incumbent.tell("try /proc/self/exe");
    let mut standby = herd.supervisor();
    standby.tell("prove");
    assert_eq!(incumbent.tell("proved"), "true");
    herd.kill(incumbent.pid(), Signal::SIGKILL);
    let mut next = herd.supervisor();
    assert_eq!(next.told("reason"), "Crash");
    herd.wait_for_end(standby.pid());
    assert_eq!(next.tell("exit"), format!("1 {} Code(78)", standby.pid()));
    // Another upgrade is possible.
    next.tell("ready");
    let standby = handed_over(&herd, &mut next);
    assert_eq!(standby.told("epoch"), "3");
}

#[test]
fn an_incumbent_that_dies_after_it_froze_is_not_needed_any_more() {
    let (herd, mut incumbent) = serving();
    let mut standby = handed_over(&herd, &mut incumbent);
    herd.kill(incumbent.pid(), Signal::SIGKILL);
    herd.wait_for_end(incumbent.pid());
    standby.tell("ready");
    standby.tell("store 2");
    herd.kill(standby.pid(), Signal::SIGKILL);
    let next = herd.supervisor();
    assert_eq!((next.told("epoch"), next.told("descriptors")), ("3", "2"));
}

#[test]
fn a_successor_that_is_dead_when_it_is_named_changes_nothing() {
    let (herd, mut incumbent) = serving();
    let pid = incumbent.ask_pid("try /proc/self/exe");
    let mut standby = herd.supervisor();
    standby.tell("prove");
    assert_eq!(incumbent.tell("proved"), "true");
    standby.say("exit-with 0");
    assert_eq!(incumbent.tell("exit"), format!("1 {pid} Code(0)"));
    incumbent.tell("hand-over");
    // It may go on, if it can.
    incumbent.tell("store 6");
    herd.kill(incumbent.pid(), Signal::SIGKILL);
    let next = herd.supervisor();
    assert_eq!((next.told("epoch"), next.told("descriptors")), ("2", "6"));
}

#[test]
fn a_standby_whose_last_word_is_ready_has_served() {
    let (herd, mut incumbent) = serving();
    let mut standby = handed_over(&herd, &mut incumbent);
    // The keeper sees the death and the words at once.
    herd.kill(herd.keeper_pid(), Signal::SIGSTOP);
    standby.tell("ready");
    standby.tell("store 3");
    herd.kill(standby.pid(), Signal::SIGKILL);
    herd.wait_for_zombies(1);
    herd.kill(herd.keeper_pid(), Signal::SIGCONT);
    assert_eq!(incumbent.tell("news"), "Relieved");
    let next = herd.supervisor();
    assert_eq!((next.told("reason"), next.told("epoch"), next.told("descriptors")), ("Crash", "3", "3"));
}

#[test]
fn a_predecessor_that_stays_does_not_hold_the_next_upgrade_up() {
    let (herd, mut first) = serving();
    let mut second = handed_over(&herd, &mut first);
    herd.kill(first.pid(), Signal::SIGSTOP);
    second.tell("ready");
    let mut third = handed_over(&herd, &mut second);
    herd.wait_for_end(first.pid());
    third.tell("ready");
    while second.tell("news") != "Relieved" {}
    third.tell("store 1");
}

#[test]
fn a_stop_during_an_upgrade_is_told_to_whoever_serves_after_it() {
    let (herd, mut incumbent) = serving();
    incumbent.tell("try /proc/self/exe");
    let mut standby = herd.supervisor();
    standby.tell("prove");
    assert_eq!(incumbent.tell("proved"), "true");
    herd.kill(herd.keeper_pid(), Signal::SIGTERM);
    assert_eq!(incumbent.tell("news"), "Stop");
    incumbent.tell("hand-over");
    standby.tell("take");
    standby.tell("ready");
    assert_eq!(standby.tell("news"), "Stop");
    standby.say("goodbye 0");
    assert_eq!(herd.exit_code(), 0);
}

#[test]
fn the_program_before_is_tried_when_the_new_one_does_not_get_ready_three_times() {
    let (herd, mut incumbent) = serving();
    // A copy is another program to the keeper, and the same to this test.
    let copy = herd.home().join("copy");
    std::fs::copy("/proc/self/exe", &copy).unwrap();
    incumbent.tell(&format!("try {}", copy.display()));
    let mut standby = herd.supervisor();
    assert_eq!(standby.told("program"), copy.canonicalize().unwrap().to_string_lossy());
    standby.tell("prove");
    assert_eq!(incumbent.tell("proved"), "true");
    incumbent.tell("hand-over");
    standby.tell("take");
    standby.tell("ready");
    herd.kill(standby.pid(), Signal::SIGKILL);
    for _ in 0..3 {
        let failing = herd.supervisor();
        assert_eq!(failing.told("program"), standby.told("program"));
        herd.kill(failing.pid(), Signal::SIGKILL);
    }
    let mut before = herd.supervisor();
    assert_eq!(before.told("program"), incumbent.told("program"));
    herd.wait_for_log("trying the one before it");
    before.tell("ready");
    herd.kill(before.pid(), Signal::SIGKILL);
    assert_eq!(herd.supervisor().told("program"), incumbent.told("program"), "it is the current one now");
}

#[test]
fn a_keeper_is_renewed_in_place_and_its_supervisor_goes_on() {
    let (herd, mut supervisor) = serving();
    supervisor.tell("store 50");
    let pid = supervisor.ask_pid("spawn exit 3");
    assert_eq!(supervisor.tell("exit"), format!("1 {pid} Code(3)"));
    let copy = herd.home().join("copy");
    std::fs::copy("/proc/self/exe", &copy).unwrap();
    for _ in 0..3 {
        supervisor.tell(&format!("renew {}", copy.display()));
        herd.wait_for_program(&copy);
        supervisor.tell("forget 7");
        // Told again, since nobody has acknowledged it.
        assert_eq!(supervisor.tell("exit"), format!("1 {pid} Code(3)"));
    }
    let pid = supervisor.ask_pid("spawn exit 4");
    assert_eq!(supervisor.tell("exit"), format!("2 {pid} Code(4)"));
    let open = herd.open_descriptors();
    herd.kill(supervisor.pid(), Signal::SIGKILL);
    let mut next = herd.supervisor();
    assert_eq!((next.told("epoch"), next.told("reason"), next.told("descriptors")), ("2", "Crash", "49"));
    assert_eq!((next.told("mixed_up"), next.told("open")), ("0", "0 1 2 3"));
    assert_eq!(next.told("program"), supervisor.told("program"), "the program of supervisors stays");
    assert_eq!(herd.open_descriptors(), open);
    let second = Herd::start_in(herd.home().to_owned(), |_| {});
    assert_eq!(second.exit_code(), keeper::start::ALREADY_KEPT);
    next.tell("ready");
    herd.kill(herd.keeper_pid(), Signal::SIGTERM);
    assert_eq!(next.tell("news"), "Stop");
    next.say("goodbye 5");
    assert_eq!(herd.exit_code(), 5);
}

#[test]
fn a_keeper_that_cannot_be_renewed_stays_as_it_is() {
    let (herd, mut supervisor) = serving();
    supervisor.tell("store 5");
    supervisor.tell("renew /etc/passwd");
    herd.wait_for_log("the keeper cannot be renewed: Permission denied");
    herd.kill(supervisor.pid(), Signal::SIGKILL);
    let next = herd.supervisor();
    assert_eq!((next.told("descriptors"), next.told("open")), ("5", "0 1 2 3"));
}

#[test]
fn a_renewal_that_a_supervisor_asks_for_with_its_last_breath_costs_nothing() {
    let (herd, mut supervisor) = serving();
    supervisor.tell("store 5");
    // The keeper sees the death and the words at once.
    herd.kill(herd.keeper_pid(), Signal::SIGSTOP);
    supervisor.tell("renew /proc/self/exe");
    herd.kill(supervisor.pid(), Signal::SIGKILL);
    herd.wait_for_zombies(1);
    herd.kill(herd.keeper_pid(), Signal::SIGCONT);
    let next = herd.supervisor();
    assert_eq!((next.told("reason"), next.told("epoch"), next.told("descriptors")), ("Crash", "2", "5"));
}

#[test]
fn a_supervisor_whose_keeper_dies_becomes_the_keeper() {
    let herd = Herd::start_with_stored(3);
    let mut supervisor = herd.supervisor();
    supervisor.tell("ready");
    let instance = supervisor.ask_pid("spawn exec sleep 1000");
    herd.kill(herd.keeper_pid(), Signal::SIGKILL);
    supervisor.say("become-keeper");
    let mut next = herd.supervisor();
    assert_eq!((next.told("keeper"), next.told("parent")), (supervisor.told("pid"), supervisor.told("pid")));
    assert_eq!((next.told("epoch"), next.told("reason"), next.told("descriptors")), ("2", "Crash", "3"));
    assert_eq!((next.told("mixed_up"), next.told("open")), ("0", "0 1 2 3"));
    assert_eq!(next.told("store_limit"), supervisor.told("store_limit"));
    let second = Herd::start_in(herd.home().to_owned(), |_| {});
    assert_eq!(second.exit_code(), keeper::start::ALREADY_KEPT, "the home stays locked");
    next.tell("ready");
    let pid = next.ask_pid("spawn exit 3");
    assert_eq!(next.tell("exit"), format!("{} {pid} Code(3)", supervisor::LAST_EXIT + 1));
    assert!(alive(instance));
    herd.kill(instance, Signal::SIGKILL);
    // Nothing that was meant for a supervisor ends a keeper.
    herd.kill(supervisor.pid(), Signal::SIGHUP);
    herd.kill(supervisor.pid(), Signal::SIGTERM);
    assert_eq!(next.tell("news"), "Stop");
    next.say("goodbye 0");
    herd.wait_for_end(supervisor.pid());
}

#[test]
fn a_service_manager_hears_of_ready_well_and_stopping_and_nobody_else_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let heard = || {
        let mut text = [0; 64];
        let length = manager.recv(&mut text).expect("the keeper says nothing");
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let herd = Herd::start(|options| {
        options.attached = true;
        for (name, value) in [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "100000")] {
            // SAFETY: this process is a fork and has one thread.
            unsafe { std::env::set_var(name, value) };
        }
    });
    let mut supervisor = herd.supervisor();
    assert_eq!((supervisor.told("notify"), supervisor.told("foreground")), ("false", "false"));
    assert_eq!((heard(), heard()), ("WATCHDOG=1".into(), "WATCHDOG=1".into()));
    supervisor.tell("ready");
    let until = |what: &str| {
        let mut all = Vec::new();
        while all.last().is_none_or(|last| last != what) {
            all.push(heard());
        }
        // Also each later supervisor is told of, which changes nothing.
        let is_known = |text: &String| text == "WATCHDOG=1" || text.starts_with("READY=1\n");
        assert!(all[..all.len() - 1].iter().all(is_known), "{all:?}");
    };
    until(&format!("READY=1\nMAINPID={}", herd.keeper_pid()));
    herd.kill(supervisor.pid(), Signal::SIGKILL);
    let mut next = herd.supervisor();
    next.tell("ready");
    herd.kill(herd.keeper_pid(), Signal::SIGTERM);
    assert_eq!(next.tell("news"), "Stop");
    until("STOPPING=1");
    next.say("goodbye 0");
    assert_eq!(herd.exit_code(), 0);
}

#[test]
fn whoever_takes_a_dead_keepers_place_speaks_for_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let herd = Herd::start(|options| {
        options.attached = true;
        // SAFETY: this process is a fork and has one thread.
        unsafe { std::env::set_var("NOTIFY_SOCKET", &path) };
    });
    let heard = || {
        let mut text = [0; 64];
        let length = manager.recv(&mut text).expect("nobody says anything");
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let mut supervisor = herd.supervisor();
    supervisor.tell("ready");
    assert_eq!(heard(), format!("READY=1\nMAINPID={}", herd.keeper_pid()));
    herd.kill(herd.keeper_pid(), Signal::SIGKILL);
    supervisor.say("become-keeper");
    let mut next = herd.supervisor();
    assert_eq!(next.told("notify"), "false");
    next.tell("ready");
    assert_eq!(heard(), format!("READY=1\nMAINPID={}", supervisor.pid()));
    herd.kill(supervisor.pid(), Signal::SIGTERM);
    next.say("goodbye 0");
    herd.wait_for_end(supervisor.pid());
}

/// A keeper with a supervisor that serves.
fn serving() -> (Herd, Supervised) {
    let herd = Herd::start(|_| {});
    let mut supervisor = herd.supervisor();
    supervisor.tell("ready");
    (herd, supervisor)
}
