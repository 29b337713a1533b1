//! Lives of instances of which nothing is known but whether a process of them exists.

use super::{Cause, Exit, Incarnation, Instance, State, Time};
use crate::config::spec::Rules;

impl Instance {
    /// A life that stands where its process does: it runs, in this incarnation, since then. How it got there is lost.
    pub fn found(incarnation: Incarnation, since: Time) -> Instance {
        let restarts = incarnation.0.saturating_sub(1);
        Instance { state: State::Online { since }, incarnation, restarts, ..Instance::new() }
    }

    /// A life that ended by itself, with this code, before this one was made: it rests, as it did then.
    pub fn ended_before(seed: u32, code: i32, rules: &Rules) -> Instance {
        let cause = if rules.stop_exit_codes.contains(&code) { Cause::StopCode } else { Cause::Ended };
        let (incarnation, last_exit) = (Incarnation(1), Some(Exit::Code(code)));
        Instance { incarnation, cause, last_exit, ..Instance::with_seed(seed) }
    }

    /// A life without a process that ran before, so that nobody takes it for one that is still to be started.
    pub fn stopped_before() -> Instance {
        Instance { incarnation: Incarnation(1), ..Instance::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::{Action, Event, Trigger};

    #[test]
    fn a_job_that_was_done_rests_and_a_schedule_may_start_it_again() {
        let rules = Rules { autorestart: false, ..Rules::default() };
        let mut job = Instance::ended_before(3, 0, &rules);
        assert_eq!((job.state(), job.last_exit()), (State::Stopped, Some(Exit::Code(0))));
        assert!(!job.is_untouched() && job.ended_by_itself());
        let due = Event::Due(Trigger::Cron);
        assert_eq!(job.handle(due, &rules, Time(1)), Some(Action::Spawn(Incarnation(2))));
    }

    #[test]
    fn what_is_found_running_is_online_in_its_incarnation() {
        let life = Instance::found(Incarnation(4), Time(7));
        assert_eq!(life.state(), State::Online { since: Time(7) });
        assert_eq!((life.incarnation(), life.restarts(), life.last_exit()), (Incarnation(4), 3, None));
    }
}
