//! What holds for all rules and however things turn out.

use proptest::prelude::*;

use super::*;

fn some_rules() -> impl Strategy<Value = Rules> {
    let times = (1_u64..5_000, 0_u64..5_000, 1_u64..100_000, 0_u64..3_000);
    let flags = (any::<bool>(), any::<bool>(), prop::option::of((1_u64..1_000, 1_u64..20_000, 1_u64..60_000)));
    (times, flags, 0_u32..40).prop_map(|((kill, young, window, delay), (ready, auto, backoff), max_restarts)| Rules {
        kill_timeout: ms(kill),
        min_uptime: ms(young),
        restart_window: ms(window),
        restart_delay: ms(delay),
        wait_ready: ready,
        autorestart: auto,
        backoff: backoff.map(|(first, longest, reset)| Backoff {
            first: ms(first),
            longest: ms(longest),
            reset: ms(reset),
        }),
        max_restarts,
        ..rules()
    })
}

/// An event for an instance as it is, by two numbers.
fn event(worker: &Instance, kind: u8, detail: u8) -> Event {
    let of = worker.incarnation();
    let exit =
        [Exit::Code(0), Exit::Code(1), Exit::Signal(9), Exit::OutOfMemory, Exit::Unknown][usize::from(detail % 5)];
    let ailment = [Ailment::Watchdog, Ailment::Heartbeat, Ailment::Probe, Ailment::Memory][usize::from(detail % 4)];
    match kind % 16 {
        0 => Event::Start,
        1 => Event::Stop,
        2 => Event::Restart,
        3 => Event::Queue,
        4 => Event::Ready(of),
        5 => Event::Unwell(of, ailment),
        6 => Event::Due(if detail.is_multiple_of(2) { Trigger::Cron } else { Trigger::File }),
        7 => Event::Extended(of, ms(u64::from(detail) * 100)),
        8 => Event::Quitting(of),
        9 => Event::Drain(ms(u64::from(detail) * 10)),
        10 | 11 => Event::Deadline,
        12 | 13 => Event::Spawned(of),
        _ => Event::Exited(of, exit),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The bounds of `budget`, as an operator sees them: given up for no less than was configured, and for no more than
    /// fits into seven eighths of the window.
    #[test]
    fn an_instance_is_given_up_for_as_many_young_deaths_as_configured(
        rules in some_rules(),
        lives in prop::collection::vec(0_u64..6_000, 1..120),
    ) {
        let rules = Rules { autorestart: true, wait_ready: false, max_restarts: rules.max_restarts.max(1), ..rules };
        let mut worker = Instance::new();
        let (mut now, mut deaths) = (T0, Vec::new());
        worker.handle(Event::Start, &rules, now);
        for lived in lives {
            worker.handle(Event::Spawned(worker.incarnation()), &rules, now);
            now = now + ms(lived);
            if ms(lived) < rules.min_uptime {
                deaths.push(now);
            }
            die(&mut worker, now, &rules);
            let within = |span: Duration| deaths.iter().filter(|at| now.since(**at) < span).count();
            // The window in whole slices; a window too small to be cut is eight milliseconds.
            let slice = ms((rules.restart_window.as_millis() as u64 / 8).max(1));
            if worker.state() == State::Errored {
                prop_assert!(within(slice * 8) >= rules.max_restarts as usize, "too early: {deaths:?} at {now:?}");
                break;
            }
            prop_assert!(within(slice * 7) < rules.max_restarts as usize, "too late: {deaths:?} at {now:?}");
            if let State::WaitingRestart { until } = worker.state() {
                now = until;
                worker.handle(Event::Deadline, &rules, now);
            }
        }
    }

    #[test]
    fn a_process_that_was_asked_to_stop_is_killed_again_and_again_until_it_is_gone(
        rules in some_rules(),
        news in prop::collection::vec((0_u8..16, any::<u8>()), 0..30),
    ) {
        let mut worker = Instance::new();
        worker.handle(Event::Start, &rules, T0);
        worker.handle(Event::Ready(Incarnation(1)), &rules, T0);
        worker.handle(Event::Stop, &rules, T0);
        for (kind, detail) in news {
            let event = event(&worker, kind, detail);
            // Time that it asks for is given; all else keeps the deadline.
            if !matches!(event, Event::Exited(..) | Event::Extended(..)) {
                worker.handle(event, &rules, T0);
            }
            let is_stopping = matches!(worker.state(), State::Stopping { .. });
            prop_assert!(is_stopping, "{worker:?}");
        }
        prop_assert_eq!(worker.deadline(), Some(T0 + rules.kill_timeout));
        for _ in 0..5 {
            let at = worker.deadline().unwrap();
            prop_assert_eq!(worker.handle(Event::Deadline, &rules, at), Some(Action::Kill(Incarnation(1))));
            prop_assert!(worker.deadline().unwrap() > at);
        }
    }

    #[test]
    fn whatever_happens_the_record_tells_it_and_a_successor_goes_on_the_same_way(
        rules in some_rules(),
        news in prop::collection::vec((0_u8..16, any::<u8>(), 0_u64..3_000), 0..200),
        seed: u32,
    ) {
        let mut worker = Instance::with_seed(seed);
        let mut now = T0;
        for (kind, detail, passed) in news {
            now = now + ms(passed);
            let event = event(&worker, kind, detail);
            if !worker.has_process() && matches!(event, Event::Exited(..)) {
                continue;
            }
            let mut successor = Instance::from_record(&worker.to_record()).unwrap();
            prop_assert_eq!(worker.handle(event, &rules, now), successor.handle(event, &rules, now));
            prop_assert_eq!(worker, successor);
        }
    }

    #[test]
    fn any_bytes_are_a_life_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 128)) {
        let bytes: [u8; record::BYTES] = bytes.try_into().unwrap();
        if let Some(mut life) = Instance::from_record(&bytes) {
            // Whatever it says, it can be gone on with.
            for event in [Event::Start, Event::Deadline, Event::Stop, Event::Due(Trigger::Cron)] {
                life.handle(event, &rules(), T0);
            }
            let _ = life.account(&rules());
        }
    }
}
