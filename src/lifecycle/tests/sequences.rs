//! Every sequence of events up to [`LENGTH`], under several sets of rules, against a small model of what may happen.
//!
//! Different ways to the same life are walked on once only, so that all sequences are covered without each being played.

use std::collections::HashSet;

use super::*;

/// How many events the sequences have that are all walked.
const LENGTH: u32 = 6;

/// What there is to know about an instance from outside: whether a process of it runs, and what was last wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Model {
    running: Option<Incarnation>,
    /// The last word was a start, and nothing has ended it since.
    wanted: bool,
    /// SIGKILL was sent to what runs.
    killed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Walk {
    life: Instance,
    model: Model,
    now: Time,
}

fn events_of(walk: &Walk) -> Vec<Event> {
    use Event::*;
    let mut events = vec![Queue, Start, Stop, Restart, Deadline, Due(Trigger::Cron), Due(Trigger::File), Drain(ms(50))];
    if let Some(of) = walk.model.running {
        events.extend([Spawned(of), Ready(of), Quitting(of), Extended(of, ms(5000))]);
        events.extend([Unwell(of, Ailment::Probe), Unwell(of, Ailment::Memory)]);
        events.extend([Exit::Code(0), Exit::Code(1), Exit::Signal(9), Exit::OutOfMemory].map(|exit| Exited(of, exit)));
        // A process that is known to run cannot turn out never to have been made or let go.
        if !matches!(walk.life.state(), State::Online { .. }) {
            events.extend([SpawnFailed(of), Unstartable(of), Exited(of, Exit::NeverStarted)]);
        }
    }
    events
}

/// One step, with all that must hold in it.
fn step(from: &Walk, event: Event, rules: &Rules) -> Walk {
    let told = |what: &str| format!("{what}: {event:?} after {from:?}");
    let mut life = from.life;
    let is_deadline = event == Event::Deadline;
    let now = if is_deadline { life.deadline().unwrap_or(from.now).max(from.now) } else { from.now + ms(1) };
    if let Some(at) = life.deadline().filter(|at| is_deadline && at.0 > 0) {
        let mut early = life;
        assert_eq!(early.handle(event, rules, Time(at.0 - 1)), None, "{}", told("before its time"));
        assert_eq!(early, life, "{}", told("before its time"));
    }
    let action = life.handle(event, rules, now);

    let ended = matches!(event, Event::Exited(..) | Event::SpawnFailed(_) | Event::Unstartable(_));
    let left = from.model.running.filter(|_| !ended);
    let mut model = Model { running: left, ..from.model };
    match event {
        Event::Start | Event::Restart => model.wanted = true,
        Event::Stop => model.wanted = false,
        // Nothing takes the place of what does not run and is not about to.
        Event::Drain(_) if !matches!(from.life.state(), State::Stopped | State::Errored) => model.wanted = false,
        _ => {}
    }
    match action {
        Some(Action::Spawn(new)) => {
            assert_eq!(left, None, "{}", told("a second process"));
            assert_eq!(new.0, from.life.incarnation().0 + 1, "{}", told("a number that is not the next"));
            assert!(model.wanted, "{}", told("started though it was stopped"));
            assert!(!life.is_queued(), "{}", told("still queued"));
            model = Model { running: Some(new), killed: false, ..model };
        }
        Some(Action::Signal(old) | Action::Ask(old) | Action::Drain(old)) => {
            assert_eq!(left, Some(old), "{}", told("a word to nobody"));
        }
        Some(Action::Kill(old)) => {
            assert_eq!(left, Some(old), "{}", told("a kill of nobody"));
            model.killed = true;
        }
        None => {}
    }
    if is_deadline && matches!(from.life.state(), State::Stopping { .. }) {
        assert!(matches!(action, Some(Action::Kill(_))), "{}", told("not killed again"));
    }
    Walk { life, model, now }
}

/// What must hold of a life wherever it is.
fn check(walk: &Walk, rules: &Rules) {
    let Walk { life, model, now } = walk;
    assert_eq!(Instance::from_record(&life.to_record()), Some(*life), "the record must tell the whole life");
    assert_eq!(model.running.is_some(), life.has_process(), "{walk:?}");
    let rests = matches!(life.state(), State::Online { .. } | State::Stopped | State::Errored);
    assert_eq!(rests, life.deadline().is_none(), "a wait without an end, or an end without a wait: {walk:?}");
    // One that was given up and is then stopped keeps its count until somebody starts it.
    if life.has_process() || life.deadline().is_some() {
        assert!(life.failures(rules, *now) < rules.max_restarts.max(1), "{walk:?}");
    }
    // News of another incarnation, earlier or invented.
    for of in [Incarnation(life.incarnation().0.wrapping_sub(1)), Incarnation(life.incarnation().0 + 1)] {
        for event in [
            Event::Spawned(of),
            Event::SpawnFailed(of),
            Event::Unstartable(of),
            Event::Ready(of),
            Event::Exited(of, Exit::Code(1)),
            Event::Unwell(of, Ailment::Watchdog),
            Event::Extended(of, ms(99_999)),
            Event::Quitting(of),
        ] {
            let mut other = *life;
            assert_eq!(other.handle(event, rules, *now), None);
            assert_eq!(other, *life, "news of {of:?} touched {walk:?}");
        }
    }
}

/// Walks all sequences and says how many lives there were.
fn walk(rules: &Rules) -> usize {
    let begin = Walk { life: Instance::new(), model: Model { running: None, wanted: false, killed: false }, now: T0 };
    let mut ring = vec![begin];
    let mut seen = 0;
    for _ in 0..LENGTH {
        let (mut next, mut known) = (Vec::new(), HashSet::new());
        for from in &ring {
            for event in events_of(from) {
                let to = step(from, event, rules);
                if known.insert((to.life.to_record(), to.model, to.now)) {
                    check(&to, rules);
                    next.push(to);
                }
            }
        }
        seen += next.len();
        ring = next;
    }
    seen
}

#[test]
fn every_sequence_of_events_up_to_length_six_keeps_to_the_model() {
    let base = Rules { max_restarts: 3, ..rules() };
    let backoff = Backoff { first: ms(10), longest: ms(100), reset: ms(1) };
    let sets = [
        base.clone(),
        Rules { wait_ready: true, ..base.clone() },
        Rules { autorestart: false, ..base.clone() },
        Rules { restart_delay: ms(7), min_uptime: Duration::ZERO, ..base.clone() },
        Rules { stop_exit_codes: vec![0], shutdown_with_message: true, ..base.clone() },
        Rules { backoff: Some(backoff), max_restarts: 1, restart_window: ms(4), ..base },
    ];
    let seen: usize = sets.iter().map(walk).sum();
    assert!(seen > 50_000, "only {seen} lives");
}
