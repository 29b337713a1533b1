//! The lifecycle's specification: each rule by value here, what holds for all rules in `properties`, every short sequence
//! of events in `sequences`.

mod properties;
mod sequences;

use super::*;
use crate::config::spec::Backoff;

const T0: Time = Time(1_000_000);

/// The defaults, as an app gets them.
fn rules() -> Rules {
    crate::config::testing::spec("web").rules
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn online_at(now: Time) -> Instance {
    let mut instance = Instance::new();
    assert_eq!(instance.handle(Event::Start, &rules(), now), Some(Action::Spawn(Incarnation(1))));
    assert_eq!(instance.handle(Event::Spawned(Incarnation(1)), &rules(), now), None);
    assert_eq!(instance.state(), State::Online { since: now });
    instance
}

#[test]
fn a_restart_delay_that_was_chosen_is_the_wait_however_often_it_fails() {
    let rules = Rules { restart_delay: ms(50), ..rules() };
    let (mut worker, mut now) = (online_at(T0), T0);
    for _ in 0..10 {
        worker.handle(Event::Exited(worker.incarnation(), Exit::Code(1)), &rules, now);
        let until = worker.deadline().unwrap();
        assert_eq!(until.since(now), ms(50));
        now = until;
        worker.handle(Event::Deadline, &rules, now);
        worker.handle(Event::Spawned(worker.incarnation()), &rules, now);
    }
}

#[test]
fn one_that_cannot_be_started_is_given_up_at_once_and_a_start_by_hand_tries_again() {
    let mut worker = Instance::new();
    worker.handle(Event::Start, &rules(), T0);
    assert_eq!(worker.handle(Event::Unstartable(Incarnation(1)), &rules(), T0), None);
    assert_eq!((worker.state(), worker.last_exit()), (State::Errored, Some(Exit::NotExecuted)));
    assert_eq!(worker.handle(Event::Start, &rules(), T0), Some(Action::Spawn(Incarnation(2))));
}

#[test]
fn who_asked_for_a_start_is_told_until_somebody_else_asks() {
    let told = |worker: &Instance| worker.account(&rules()).unwrap();
    let mut worker = Instance::new();
    worker.asked_by(By::Scale);
    worker.handle(Event::Start, &rules(), T0);
    assert_eq!(told(&worker), "by `scale`");
    assert_eq!(told(&Instance::from_record(&worker.to_record()).unwrap()), "by `scale`");
    worker.handle(Event::Stop, &rules(), T0);
    assert_eq!(told(&worker), "by hand");
    // Of two who ask for the same start the first counts.
    worker.asked_by(By::Apply);
    worker.handle(Event::Queue, &rules(), T0);
    worker.asked_by(By::Hand);
    worker.handle(Event::Restart, &rules(), T0);
    assert_eq!(told(&worker), "by `apply`");
}

/// The process at hand ends with code 1.
fn die(worker: &mut Instance, now: Time, rules: &Rules) -> Option<Action> {
    worker.handle(Event::Exited(worker.incarnation(), Exit::Code(1)), rules, now)
}

/// Brought online, ended with code 1 at once, again until it waits or is given up; counts the deaths.
fn crash(worker: &mut Instance, mut now: Time, rules: &Rules) -> (u32, Time) {
    let mut deaths = 0;
    loop {
        match worker.state() {
            State::Launching { .. } => drop(worker.handle(Event::Spawned(worker.incarnation()), rules, now)),
            State::Online { .. } => {
                deaths += 1;
                die(worker, now, rules);
            }
            State::WaitingRestart { until } => {
                now = until;
                worker.handle(Event::Deadline, rules, now);
            }
            _ => return (deaths, now),
        }
    }
}

#[test]
fn an_instance_that_ignores_its_signal_is_killed_at_kill_timeout() {
    let mut worker = online_at(T0);
    assert_eq!(worker.handle(Event::Stop, &rules(), T0), Some(Action::Signal(Incarnation(1))));
    assert_eq!(worker.handle(Event::Deadline, &rules(), T0 + ms(1599)), None);
    assert_eq!(worker.handle(Event::Deadline, &rules(), T0 + ms(1600)), Some(Action::Kill(Incarnation(1))));
    assert_eq!(worker.handle(Event::Deadline, &rules(), T0 + ms(3200)), Some(Action::Kill(Incarnation(1))));
    assert_eq!(worker.handle(Event::Exited(Incarnation(1), Exit::Signal(9)), &rules(), T0 + ms(3201)), None);
    assert_eq!(worker.state(), State::Stopped);
}

#[test]
fn a_crash_after_min_uptime_is_answered_at_once() {
    let mut worker = online_at(T0);
    let action = worker.handle(Event::Exited(Incarnation(1), Exit::Signal(11)), &rules(), T0 + ms(1000));
    assert_eq!(action, Some(Action::Spawn(Incarnation(2))));
    assert_eq!((worker.restarts(), worker.failures(&rules(), T0 + ms(1000))), (1, 0));
    assert_eq!(worker.cause(), Cause::Ended);
}

#[test]
fn quick_deaths_in_a_row_wait_longer_and_longer_and_end_errored() {
    let rules = rules();
    let mut worker = online_at(T0);
    let (mut now, mut waits) = (T0, Vec::new());
    while worker.state() != State::Errored {
        let of = worker.incarnation();
        let action = worker.handle(Event::Exited(of, Exit::Code(1)), &rules, now);
        if let Some(until) = worker.deadline().filter(|_| action.is_none()) {
            waits.push(until.since(now).as_millis());
            now = until;
            worker.handle(Event::Deadline, &rules, now);
        } else if action.is_some() {
            waits.push(0);
        }
        worker.handle(Event::Spawned(worker.incarnation()), &rules, now);
    }
    assert_eq!(waits, [0, 0, 0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000, 15000, 15000]);
    assert_eq!(worker.cause(), Cause::QuickDeath);
}

#[test]
fn an_instance_that_lived_well_is_restarted_at_once_again() {
    let rules = rules();
    let mut worker = online_at(T0);
    for _ in 0..6 {
        die(&mut worker, T0, &rules);
        worker.handle(Event::Deadline, &rules, worker.deadline().unwrap_or(T0));
        worker.handle(Event::Spawned(worker.incarnation()), &rules, T0);
    }
    let later = T0 + ms(5000);
    assert_eq!(die(&mut worker, later, &rules), Some(Action::Spawn(Incarnation(8))));
    worker.handle(Event::Spawned(Incarnation(8)), &rules, later);
    assert_eq!(die(&mut worker, later, &rules), Some(Action::Spawn(Incarnation(9))), "its waits begin anew");
}

#[test]
fn an_instance_that_must_say_ready_is_launching_until_it_does() {
    let rules = Rules { wait_ready: true, ..rules() };
    let mut worker = Instance::new();
    worker.handle(Event::Start, &rules, T0);
    worker.handle(Event::Spawned(Incarnation(1)), &rules, T0);
    assert_eq!(worker.state(), State::Launching { ready_by: T0 + ms(3000) });
    worker.handle(Event::Ready(Incarnation(1)), &rules, T0 + ms(10));
    assert_eq!(worker.state(), State::Online { since: T0 + ms(10) });
}

#[test]
fn a_missed_listen_timeout_is_a_failure_and_not_a_silent_success() {
    let rules = Rules { wait_ready: true, max_restarts: 1, ..rules() };
    let mut worker = Instance::new();
    worker.handle(Event::Start, &rules, T0);
    worker.handle(Event::Spawned(Incarnation(1)), &rules, T0);
    assert_eq!(worker.handle(Event::Deadline, &rules, T0 + ms(3000)), Some(Action::Signal(Incarnation(1))));
    worker.handle(Event::Exited(Incarnation(1), Exit::Signal(2)), &rules, T0 + ms(3001));
    assert_eq!((worker.state(), worker.cause()), (State::Errored, Cause::NotReady));
}

#[test]
fn a_process_that_was_never_let_go_costs_nothing() {
    let mut worker = online_at(T0);
    let action = worker.handle(Event::Exited(Incarnation(1), Exit::NeverStarted), &rules(), T0);
    assert_eq!(action, Some(Action::Spawn(Incarnation(2))));
    assert_eq!((worker.restarts(), worker.failures(&rules(), T0)), (0, 0));
}

#[test]
fn without_autorestart_an_exit_is_the_end() {
    let rules = Rules { autorestart: false, ..rules() };
    for (exit, state) in [
        (Exit::Code(0), State::Stopped),
        (Exit::Code(3), State::Stopped),
        (Exit::Signal(9), State::Stopped),
        (Exit::NotExecuted, State::Errored),
    ] {
        let mut worker = online_at(T0);
        assert_eq!(worker.handle(Event::Exited(Incarnation(1), exit), &rules, T0), None);
        assert_eq!(worker.state(), state);
    }
}

#[test]
fn a_restart_asked_for_while_stopping_starts_again_once_it_is_gone() {
    let mut worker = online_at(T0);
    worker.handle(Event::Stop, &rules(), T0);
    worker.handle(Event::Restart, &rules(), T0);
    let action = worker.handle(Event::Exited(Incarnation(1), Exit::Signal(2)), &rules(), T0);
    assert_eq!(action, Some(Action::Spawn(Incarnation(2))));
}

#[test]
fn late_news_of_an_earlier_incarnation_touches_nothing() {
    let mut worker = online_at(T0);
    worker.handle(Event::Exited(Incarnation(1), Exit::Code(0)), &rules(), T0 + ms(2000));
    let before = worker;
    for event in
        [Event::Exited(Incarnation(1), Exit::Code(0)), Event::Ready(Incarnation(1)), Event::Spawned(Incarnation(1))]
    {
        assert_eq!(worker.handle(event, &rules(), T0 + ms(2000)), None);
        assert_eq!(worker, before);
    }
}

#[test]
fn an_instance_that_keeps_dying_young_is_given_up_at_exactly_the_configured_count() {
    for max_restarts in [0, 1, 2, 16, 40] {
        let rules = Rules { max_restarts, ..rules() };
        let mut worker = online_at(T0);
        let (deaths, _) = crash(&mut worker, T0, &rules);
        assert_eq!(worker.state(), State::Errored);
        assert_eq!(deaths, max_restarts.max(1));
    }
}

#[test]
fn deaths_count_within_the_window_only_and_whatever_ran_well_in_between() {
    let rules = Rules { max_restarts: 3, restart_window: Duration::from_secs(80), ..rules() };
    let mut worker = online_at(T0);
    let mut now = T0;
    // One young death in 40 s, for ever: never three within 80.
    for _ in 0..50 {
        die(&mut worker, now, &rules);
        worker.handle(Event::Spawned(worker.incarnation()), &rules, now);
        assert!(matches!(worker.state(), State::Online { .. }), "{worker:?}");
        now = now + ms(40_000);
        die(&mut worker, now, &rules);
        worker.handle(Event::Spawned(worker.incarnation()), &rules, now);
    }
    // Every 20 s, with a good life of 19 s in between each time.
    for _ in 0..2 {
        die(&mut worker, now, &rules);
        worker.handle(Event::Spawned(worker.incarnation()), &rules, now);
        now = now + ms(20_000);
        die(&mut worker, now, &rules);
        worker.handle(Event::Spawned(worker.incarnation()), &rules, now);
    }
    die(&mut worker, now, &rules);
    assert_eq!(worker.state(), State::Errored);
    assert_eq!(worker.failures(&rules, now + ms(1_000_000)), 3, "what it was given up for stays known");
}

#[test]
fn whoever_starts_it_by_hand_forgives_everything() {
    let rules = Rules { max_restarts: 3, ..rules() };
    let mut worker = online_at(T0);
    crash(&mut worker, T0, &rules);
    assert_eq!(worker.handle(Event::Start, &rules, T0), Some(Action::Spawn(Incarnation(4))));
    assert_eq!((worker.failures(&rules, T0), worker.cause()), (0, Cause::ByHand));
    assert_eq!(crash(&mut worker, T0, &rules).0, 3);
}

#[test]
fn a_configured_back_off_grows_with_every_restart_and_begins_anew_after_a_long_life() {
    let backoff = Backoff { first: ms(100), longest: ms(15_000), reset: ms(30_000) };
    let rules = Rules { backoff: Some(backoff), max_restarts: 100, ..rules() };
    let mut worker = Instance::with_seed(7);
    worker.handle(Event::Start, &rules, T0);
    let mut wait_after = |lived: Duration| {
        worker.handle(Event::Spawned(worker.incarnation()), &rules, T0);
        die(&mut worker, T0 + lived, &rules);
        let State::WaitingRestart { until } = worker.state() else { panic!("{worker:?}") };
        worker.handle(Event::Deadline, &rules, until);
        until.since(T0 + lived).as_millis()
    };
    let near = |wait: u128, of: u128| assert!(wait.abs_diff(of) <= of / 10 + 1, "{wait} is not near {of}");
    for (lived, wait) in [(0, 100), (0, 150), (5000, 225), (29_999, 337), (30_000, 100), (0, 150)] {
        near(wait_after(ms(lived)), wait);
    }
}

#[test]
fn a_restart_delay_is_waited_after_every_end_and_a_longer_back_off_wins() {
    let rules = Rules { restart_delay: ms(300), ..rules() };
    let mut worker = online_at(T0);
    die(&mut worker, T0 + ms(9000), &rules);
    assert_eq!(worker.deadline(), Some(T0 + ms(9300)));
}

#[test]
fn an_exit_code_that_is_to_stop_it_stops_it_however_young_it_was() {
    let rules = Rules { stop_exit_codes: vec![0, 42], ..rules() };
    for (code, state) in [(0, State::Stopped), (42, State::Stopped)] {
        let mut worker = online_at(T0);
        assert_eq!(worker.handle(Event::Exited(Incarnation(1), Exit::Code(code)), &rules, T0), None);
        assert_eq!((worker.state(), worker.cause()), (state, Cause::StopCode));
    }
    let mut worker = online_at(T0);
    assert!(worker.handle(Event::Exited(Incarnation(1), Exit::Code(1)), &rules, T0).is_some());
}

#[test]
fn an_instance_that_is_not_well_is_stopped_and_tried_again_and_given_up_in_the_end() {
    for ailment in [Ailment::Watchdog, Ailment::Heartbeat, Ailment::Probe] {
        // Whether it is started again when it ends by itself is another question.
        let rules = Rules { max_restarts: 2, autorestart: false, ..rules() };
        let mut worker = online_at(T0);
        let later = T0 + ms(60_000);
        assert_eq!(
            worker.handle(Event::Unwell(Incarnation(1), ailment), &rules, later),
            Some(Action::Signal(Incarnation(1)))
        );
        assert_eq!(worker.handle(Event::Deadline, &rules, later + ms(1600)), Some(Action::Kill(Incarnation(1))));
        let gone = Event::Exited(Incarnation(1), Exit::Signal(9));
        assert_eq!(worker.handle(gone, &rules, later + ms(1601)), Some(Action::Spawn(Incarnation(2))));
        assert_eq!((worker.cause(), worker.last_exit()), (Cause::Ailing(ailment), Some(Exit::Signal(9))));
        worker.handle(Event::Spawned(Incarnation(2)), &rules, later + ms(1602));
        worker.handle(Event::Unwell(Incarnation(2), ailment), &rules, later + ms(9000));
        worker.handle(Event::Exited(Incarnation(2), Exit::Code(0)), &rules, later + ms(9001));
        assert_eq!((worker.state(), worker.cause()), (State::Errored, Cause::Ailing(ailment)));
    }
}

#[test]
fn an_instance_that_grew_too_large_is_restarted_as_often_as_it_takes_unless_it_does_so_at_once() {
    let rules = Rules { max_restarts: 3, ..rules() };
    let mut worker = online_at(T0);
    for of in 1..20 {
        worker.handle(Event::Unwell(Incarnation(of), Ailment::Memory), &rules, T0 + ms(5000));
        let action = worker.handle(Event::Exited(Incarnation(of), Exit::Signal(2)), &rules, T0 + ms(5000));
        assert_eq!(action, Some(Action::Spawn(Incarnation(of + 1))));
        worker.handle(Event::Spawned(Incarnation(of + 1)), &rules, T0);
    }
    for _ in 0..3 {
        let of = worker.incarnation();
        worker.handle(Event::Unwell(of, Ailment::Memory), &rules, T0);
        worker.handle(Event::Exited(of, Exit::Signal(2)), &rules, T0);
        worker.handle(Event::Spawned(worker.incarnation()), &rules, T0);
    }
    assert_eq!((worker.state(), worker.cause()), (State::Errored, Cause::Ailing(Ailment::Memory)));
}

#[test]
fn an_end_by_the_kernel_for_memory_is_told_apart_from_a_crash() {
    let mut worker = online_at(T0);
    worker.handle(Event::Exited(Incarnation(1), Exit::OutOfMemory), &rules(), T0);
    assert_eq!((worker.cause(), worker.last_exit()), (Cause::OutOfMemory, Some(Exit::OutOfMemory)));
    assert!(worker.account(&rules()).unwrap().contains("memory"));
}

#[test]
fn a_trigger_restarts_what_runs_without_holding_it_against_it() {
    let rules = rules();
    let mut worker = online_at(T0);
    worker.handle(Event::Due(Trigger::File), &rules, T0);
    let action = worker.handle(Event::Exited(Incarnation(1), Exit::Signal(2)), &rules, T0);
    assert_eq!(action, Some(Action::Spawn(Incarnation(2))));
    assert_eq!((worker.failures(&rules, T0), worker.cause()), (0, Cause::Due(Trigger::File)));
    // What it reads while it starts may be older than the change.
    assert_eq!(worker.handle(Event::Due(Trigger::Cron), &rules, T0), None);
    assert_eq!(worker.handle(Event::Due(Trigger::File), &rules, T0), Some(Action::Signal(Incarnation(2))));
}

#[test]
fn a_trigger_starts_what_ended_by_itself_or_was_given_up_and_not_what_somebody_stopped() {
    let once = Rules { autorestart: false, ..rules() };
    let mut job = online_at(T0);
    job.handle(Event::Exited(Incarnation(1), Exit::Code(0)), &once, T0 + ms(5000));
    assert_eq!(job.state(), State::Stopped);
    assert_eq!(job.handle(Event::Due(Trigger::Cron), &once, T0 + ms(9000)), Some(Action::Spawn(Incarnation(2))));
    let mut given_up = online_at(T0);
    crash(&mut given_up, T0, &rules());
    assert!(given_up.handle(Event::Due(Trigger::File), &rules(), T0).is_some());
    let mut stopped = job;
    stopped.handle(Event::Stop, &once, T0 + ms(9000));
    stopped.handle(Event::Exited(Incarnation(2), Exit::Signal(2)), &once, T0 + ms(9001));
    let mut ended_then_stopped = job;
    ended_then_stopped.handle(Event::Exited(Incarnation(2), Exit::Code(0)), &once, T0 + ms(99_000));
    ended_then_stopped.handle(Event::Stop, &once, T0 + ms(99_000));
    for mut one in [Instance::new(), stopped, ended_then_stopped] {
        assert_eq!(one.handle(Event::Due(Trigger::Cron), &once, T0 + ms(100_000)), None, "{one:?}");
    }
}

#[test]
fn an_instance_may_ask_for_more_time_and_never_gets_less() {
    let rules = Rules { wait_ready: true, ..rules() };
    let mut worker = Instance::new();
    worker.handle(Event::Start, &rules, T0);
    let ask = |worker: &mut Instance, more| worker.handle(Event::Extended(Incarnation(1), more), &rules, T0 + ms(1000));
    ask(&mut worker, ms(10_000));
    assert_eq!(worker.deadline(), Some(T0 + ms(11_000)));
    ask(&mut worker, ms(1));
    assert_eq!(worker.deadline(), Some(T0 + ms(11_000)));
    ask(&mut worker, Duration::MAX);
    assert_eq!(worker.deadline(), Some(T0 + ms(1000) + LONGEST_EXTENSION));
    worker.handle(Event::Stop, &rules, T0);
    ask(&mut worker, ms(60_000));
    assert_eq!(worker.deadline(), Some(T0 + ms(61_000)));
    let mut drained = online_at(T0);
    drained.handle(Event::Drain(ms(100)), &rules, T0);
    ask(&mut drained, ms(60_000));
    assert_eq!(drained.deadline(), Some(T0 + ms(61_000)));
}

#[test]
fn one_that_says_that_it_is_ending_has_the_time_of_a_stop_and_then_the_rules_for_ends_apply() {
    let quit = |rules: &Rules, after: Duration| {
        let mut worker = online_at(T0);
        assert_eq!(worker.handle(Event::Quitting(Incarnation(1)), rules, T0 + after), None);
        assert_eq!(worker.deadline(), Some(T0 + after + ms(1600)));
        // What it does not do any more is no news.
        assert_eq!(worker.handle(Event::Unwell(Incarnation(1), Ailment::Watchdog), rules, T0 + after), None);
        let action = worker.handle(Event::Exited(Incarnation(1), Exit::Code(0)), rules, T0 + after + ms(10));
        (worker.state(), worker.cause(), action)
    };
    let again = Some(Action::Spawn(Incarnation(2)));
    let (_, cause, action) = quit(&rules(), ms(5000));
    assert_eq!((cause, action), (Cause::Quit, again));
    let once = Rules { autorestart: false, ..rules() };
    assert_eq!(quit(&once, ms(5000)), (State::Stopped, Cause::Quit, None));
    // Else a loop of polite ends would have no end.
    let strict = Rules { max_restarts: 1, ..rules() };
    assert_eq!(quit(&strict, ms(10)), (State::Errored, Cause::QuickDeath, None));
}

#[test]
fn with_shutdown_with_message_it_is_asked_and_not_signalled_and_killed_all_the_same() {
    let rules = Rules { shutdown_with_message: true, ..rules() };
    let mut worker = online_at(T0);
    assert_eq!(worker.handle(Event::Stop, &rules, T0), Some(Action::Ask(Incarnation(1))));
    assert_eq!(worker.handle(Event::Deadline, &rules, T0 + ms(1600)), Some(Action::Kill(Incarnation(1))));
}

#[test]
fn a_drained_instance_has_its_time_and_is_then_stopped_for_good() {
    let rules = rules();
    let mut old = online_at(T0);
    assert_eq!(old.handle(Event::Drain(ms(5000)), &rules, T0), Some(Action::Drain(Incarnation(1))));
    assert_eq!(old.handle(Event::Deadline, &rules, T0 + ms(4999)), None);
    assert_eq!(old.handle(Event::Deadline, &rules, T0 + ms(5000)), Some(Action::Signal(Incarnation(1))));
    old.handle(Event::Exited(Incarnation(1), Exit::Code(1)), &rules, T0 + ms(5001));
    assert_eq!((old.state(), old.cause()), (State::Stopped, Cause::Retired));
    // Also one that was on its way to a restart.
    let mut failing = online_at(T0);
    failing.handle(Event::Unwell(Incarnation(1), Ailment::Probe), &rules, T0);
    failing.handle(Event::Drain(ms(5000)), &rules, T0);
    assert_eq!(failing.handle(Event::Exited(Incarnation(1), Exit::Code(1)), &rules, T0), None);
    assert_eq!(failing.state(), State::Stopped);
}

#[test]
fn what_is_queued_stays_as_it_is_until_its_turn_or_until_somebody_wants_something_else() {
    let rules = rules();
    let mut worker = online_at(T0);
    assert_eq!(worker.handle(Event::Queue, &rules, T0), None);
    assert_eq!((worker.state(), worker.is_queued()), (State::Online { since: T0 }, true));
    let mut told = worker;
    assert_eq!(told.handle(Event::Restart, &rules, T0), Some(Action::Signal(Incarnation(1))));
    assert!(!told.is_queued());
    let mut stopped = worker;
    stopped.handle(Event::Stop, &rules, T0);
    assert!(!stopped.is_queued());
    // A crash brings what was asked for.
    worker.handle(Event::Exited(Incarnation(1), Exit::Code(1)), &rules, T0 + ms(5000));
    assert_eq!((worker.incarnation(), worker.is_queued()), (Incarnation(2), false));
}

#[test]
fn each_cause_is_a_sentence_and_the_one_for_giving_up_has_the_count() {
    let rules = Rules { max_restarts: 4, ..rules() };
    let mut worker = online_at(T0);
    assert_eq!(worker.account(&rules).unwrap(), "by hand");
    crash(&mut worker, T0, &rules);
    assert_eq!(
        worker.account(&rules).unwrap(),
        "it ended before it had started well: exit code 1; it failed 4 times within 10 min"
    );
    worker.handle(Event::Stop, &rules, T0);
    assert_eq!(worker.account(&rules).unwrap(), "it was stopped by hand");
    assert_eq!(Instance::new().account(&rules), None);
}
