//! The lifecycle's specification: each rule by value, then every short sequence of events.

use super::*;

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
    assert_eq!((worker.restarts(), worker.quick_deaths()), (1, 0));
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
    assert_eq!(worker.trouble(), Trouble::QuickDeaths);
}

#[test]
fn an_instance_that_lived_well_starts_its_count_anew() {
    let mut worker = online_at(T0);
    worker.handle(Event::Exited(Incarnation(1), Exit::Code(1)), &rules(), T0);
    worker.handle(Event::Spawned(Incarnation(2)), &rules(), T0);
    assert_eq!(worker.quick_deaths(), 1);
    worker.handle(Event::Exited(Incarnation(2), Exit::Code(1)), &rules(), T0 + ms(5000));
    assert_eq!(worker.quick_deaths(), 0);
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
    assert_eq!((worker.state(), worker.trouble()), (State::Errored, Trouble::NotReady));
}

#[test]
fn a_process_that_was_never_let_go_costs_nothing() {
    let mut worker = online_at(T0);
    let action = worker.handle(Event::Exited(Incarnation(1), Exit::NeverStarted), &rules(), T0);
    assert_eq!(action, Some(Action::Spawn(Incarnation(2))));
    assert_eq!((worker.restarts(), worker.quick_deaths()), (0, 0));
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

/// Walks every sequence of events up to `depth` and checks what must hold in each state on the way.
fn explore(instance: Instance, running: Option<Incarnation>, depth: u32, rules: &Rules, now: Time, seen: &mut u64) {
    *seen += 1;
    assert_eq!(Instance::from_record(&instance.to_record()), Some(instance), "the record must tell the whole life");
    assert_eq!(running.is_some(), instance.has_process(), "{instance:?}");
    assert!(
        matches!(instance.state(), State::Online { .. } | State::Stopped | State::Errored)
            == instance.deadline().is_none()
    );
    if depth == 0 {
        return;
    }
    let of = instance.incarnation();
    let mut events = vec![Event::Start, Event::Stop, Event::Restart, Event::Deadline];
    if running == Some(of) {
        events.extend([Event::Spawned(of), Event::SpawnFailed(of), Event::Ready(of)]);
        events.extend([Exit::Code(0), Exit::Signal(9), Exit::NeverStarted].map(|exit| Event::Exited(of, exit)));
    }
    for event in events {
        // A process that runs cannot turn out never to have been made.
        if matches!((event, instance.state()), (Event::SpawnFailed(_), State::Online { .. })) {
            continue;
        }
        let mut next = instance;
        let later = if event == Event::Deadline { next.deadline().unwrap_or(now) } else { now + ms(1) };
        let action = next.handle(event, rules, later);
        let ended = matches!(event, Event::Exited(..) | Event::SpawnFailed(_));
        let left = running.filter(|_| !ended);
        if let Some(Action::Spawn(new)) = action {
            assert_eq!(left, None, "a second process of one instance: {instance:?} {event:?}");
            assert!(new > of, "an incarnation is never used again");
        }
        if let Some(Action::Signal(old) | Action::Kill(old)) = action {
            assert_eq!(left, Some(old), "a signal to nobody: {instance:?} {event:?}");
        }
        let running = match action {
            Some(Action::Spawn(new)) => Some(new),
            _ => left,
        };
        explore(next, running, depth - 1, rules, later, seen);
    }
}

#[test]
fn every_sequence_of_events_up_to_length_six_keeps_the_invariants() {
    let mut seen = 0;
    for wait_ready in [false, true] {
        for autorestart in [false, true] {
            let rules = Rules { wait_ready, autorestart, max_restarts: 2, ..rules() };
            explore(Instance::new(), None, 6, &rules, T0, &mut seen);
        }
    }
    assert!(seen > 100_000, "explored only {seen} states");
}
