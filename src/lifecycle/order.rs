//! In which order apps that need one another come and go: pure.
//!
//! An app with `depends_on` is started once each condition is met, and stopped before what it needs. What the apps do
//! meanwhile is not looked at again: an instance that crashes comes back by the rules of its own app alone.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cause, Exit, Instance, State, Then};
use crate::config::spec::Condition;

/// Who needs whom: apps by name, each with those that it depends on.
pub type Needs<'a> = BTreeMap<&'a str, Vec<&'a str>>;

/// How an app stands, for those that depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    started: bool,
    ready: bool,
    completed: bool,
    /// Something of it is to be started or restarted once its turn comes.
    queued: bool,
    /// Something of it is on its way up.
    rising: bool,
    /// A process of it may yet end well.
    working: bool,
}

/// Whether a condition is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Met,
    NotYet,
    /// It will not be unless somebody does something.
    Never,
}

impl Standing {
    /// Of an app's instances, each with whether its process executes its program. An app without instances has nothing
    /// that could be waited for.
    pub fn of<'a>(instances: impl Iterator<Item = (&'a Instance, bool)>) -> Standing {
        let mut standing =
            Standing { started: true, ready: true, completed: true, queued: false, rising: false, working: false };
        let mut is_empty = true;
        for (life, executes) in instances {
            is_empty = false;
            let (online, launching) =
                (matches!(life.state, State::Online { .. }), matches!(life.state, State::Launching { .. }));
            standing.started &= online || launching && executes;
            standing.ready &= online;
            standing.completed &= has_completed(life);
            standing.queued |= life.queued;
            standing.rising |= is_rising(life.state);
            standing.working |= online;
        }
        match is_empty {
            true => Standing { started: false, ready: false, completed: false, ..standing },
            false => standing,
        }
    }

    /// Whether a dependent may start.
    pub fn verdict(&self, condition: Condition) -> Verdict {
        let (met, coming) = match condition {
            Condition::Started => (self.started, self.rising),
            Condition::Ready => (self.ready, self.rising),
            Condition::Completed => (self.completed, self.rising || self.working),
        };
        match (met, coming) {
            // What is to be restarted counts once it is back.
            _ if self.queued => Verdict::NotYet,
            (true, _) => Verdict::Met,
            (false, true) => Verdict::NotYet,
            (false, false) => Verdict::Never,
        }
    }

    /// Whether something of it is on its way up.
    pub fn is_rising(&self) -> bool {
        self.queued || self.rising
    }
}

fn is_rising(state: State) -> bool {
    match state {
        State::Launching { .. } | State::WaitingRestart { .. } => true,
        State::Stopping { then, .. } => then != Then::Stay,
        State::Stopped | State::Online { .. } | State::Draining { .. } | State::Errored => false,
    }
}

/// Whether it ran and ended with 0, by itself and for good.
fn has_completed(life: &Instance) -> bool {
    let by_itself = !matches!(life.cause, Cause::None | Cause::ByHand | Cause::Retired);
    life.state == State::Stopped && !life.queued && by_itself && life.last_exit == Some(Exit::Code(0))
}

/// Everything that `app` depends on, directly or not; itself too when it is in a circle.
pub fn needed_by<'a>(app: &str, needs: &Needs<'a>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut ahead: Vec<&str> = needs.get(app).into_iter().flatten().copied().collect();
    while let Some(next) = ahead.pop() {
        if found.insert(next) {
            ahead.extend(needs.get(next).into_iter().flatten());
        }
    }
    found
}

/// Apps that wait for one another, in the order in which they do; `None` when there are none.
pub fn circle<'a>(needs: &Needs<'a>) -> Option<Vec<&'a str>> {
    let start = *needs.keys().find(|app| needed_by(app, needs).contains(*app))?;
    // The shortest way back, ring by ring: each app with the one that it was reached from.
    let mut reached: BTreeMap<&str, &str> = BTreeMap::new();
    let mut ring = vec![start];
    while !reached.contains_key(start) {
        let mut next = Vec::new();
        for (from, to) in ring.iter().flat_map(|from| needs.get(from).into_iter().flatten().map(move |to| (*from, *to)))
        {
            if !reached.contains_key(to) {
                reached.insert(to, from);
                next.push(to);
            }
        }
        ring = next;
    }
    let mut way = vec![start];
    while way.len() == 1 || way.last() != Some(&start) {
        way.push(reached[way[way.len() - 1]]);
    }
    way.reverse();
    Some(way)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::spec::Rules;
    use crate::lifecycle::{Event, Incarnation, Time};

    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    const ALL: [Condition; 3] = [Condition::Started, Condition::Ready, Condition::Completed];

    fn life(rules: &Rules, events: &[Event]) -> Instance {
        let mut life = Instance::new();
        for event in events {
            life.handle(*event, rules, Time(1));
        }
        life
    }

    fn verdicts(lives: &[Instance], executes: bool) -> [Verdict; 3] {
        let standing = Standing::of(lives.iter().map(|life| (life, executes)));
        ALL.map(|condition| standing.verdict(condition))
    }

    #[test]
    fn each_condition_is_met_by_what_it_says() {
        use Verdict::{Met, Never, NotYet};
        let rules = Rules { wait_ready: true, autorestart: false, ..Rules::default() };
        let (first, up) = (Incarnation(1), [Event::Start, Event::Ready(Incarnation(1))]);
        let stopped = life(&rules, &[]);
        assert_eq!(verdicts(&[stopped], false), [Never, Never, Never]);
        assert_eq!(verdicts(&[life(&rules, &[Event::Queue])], false), [NotYet, NotYet, NotYet]);
        let launching = life(&rules, &[Event::Start]);
        assert_eq!(verdicts(&[launching], false), [NotYet, NotYet, NotYet]);
        assert_eq!(verdicts(&[launching], true), [Met, NotYet, NotYet]);
        let online = life(&rules, &up);
        assert_eq!(verdicts(&[online], true), [Met, Met, NotYet]);
        assert_eq!(verdicts(&[online, launching], true), [Met, NotYet, NotYet]);
        assert_eq!(verdicts(&[online, stopped], true), [Never, Never, NotYet]);
        for (exit, completed) in [(Exit::Code(0), Met), (Exit::Code(1), Never), (Exit::Signal(9), Never)] {
            let ended = life(&rules, &[Event::Start, Event::Ready(first), Event::Exited(first, exit)]);
            assert_eq!(verdicts(&[ended], false), [Never, Never, completed], "{exit}");
        }
        let by_hand = life(&rules, &[Event::Start, Event::Stop, Event::Exited(first, Exit::Code(0))]);
        assert_eq!(verdicts(&[by_hand], false), [Never, Never, Never]);
        assert_eq!(verdicts(&[], false), [Never, Never, Never]);
    }

    #[test]
    fn an_app_that_is_being_restarted_is_ready_once_it_is_back() {
        let rules = Rules::default();
        let up = [Event::Start, Event::Spawned(Incarnation(1))];
        let queued = life(&rules, &[&up[..], &[Event::Queue]].concat());
        assert_eq!(verdicts(&[queued], true)[1], Verdict::NotYet);
        let stopping = life(&rules, &[&up[..], &[Event::Restart]].concat());
        assert_eq!(verdicts(&[stopping], true)[1], Verdict::NotYet);
        let stopped_for_good = life(&rules, &[&up[..], &[Event::Stop]].concat());
        assert_eq!(verdicts(&[stopped_for_good], true)[1], Verdict::Never);
    }

    #[test]
    fn a_circle_is_named_in_its_order() {
        let needs = Needs::from([("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["x", "b"])]);
        assert_eq!(circle(&needs), Some(vec!["b", "c", "b"]));
        assert_eq!(circle(&Needs::from([("a", vec!["a"])])), Some(vec!["a", "a"]));
        assert_eq!(circle(&Needs::from([("a", vec!["b", "gone"]), ("b", vec![])])), None);
    }

    fn needs() -> impl Strategy<Value = Vec<Vec<usize>>> {
        prop::collection::vec(prop::collection::vec(0..NAMES.len(), 0..3), NAMES.len())
    }

    proptest! {
        #[test]
        fn without_a_circle_everybody_gets_a_turn_and_with_one_somebody_never_does(edges in needs()) {
            let needs: Needs<'_> =
                NAMES.into_iter().zip(edges.iter().map(|of| of.iter().map(|to| NAMES[*to]).collect())).collect();
            // Everybody goes whose needs have gone, again and again.
            let mut gone = BTreeSet::new();
            while let Some(next) = NAMES.into_iter().find(|app| {
                !gone.contains(app) && needs[app].iter().all(|need| gone.contains(need))
            }) {
                prop_assert!(needed_by(next, &needs).is_subset(&gone), "{next} went before what it needs");
                gone.insert(next);
            }
            match circle(&needs) {
                None => prop_assert_eq!(gone.len(), NAMES.len()),
                Some(way) => {
                    prop_assert!(gone.len() < NAMES.len());
                    prop_assert_eq!(way.first(), way.last());
                    prop_assert!(way.windows(2).all(|step| needs[step[0]].contains(&step[1])), "{:?}", way);
                }
            }
        }
    }
}
