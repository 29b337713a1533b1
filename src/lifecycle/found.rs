//! Lives of instances of which nothing is known but whether a process of them exists.

use super::{Incarnation, Instance, State, Time};

impl Instance {
    /// A life that stands where its process does: it runs, in this incarnation, since then. How it got there is lost.
    pub fn found(incarnation: Incarnation, since: Time) -> Instance {
        let restarts = incarnation.0.saturating_sub(1);
        Instance { state: State::Online { since }, incarnation, restarts, ..Instance::new() }
    }

    /// A life without a process that ran before, so that nobody takes it for one that is still to be started.
    pub fn stopped_before() -> Instance {
        Instance { incarnation: Incarnation(1), ..Instance::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_running_is_online_in_its_incarnation() {
        let life = Instance::found(Incarnation(4), Time(7));
        assert_eq!(life.state(), State::Online { since: Time(7) });
        assert_eq!((life.incarnation(), life.restarts(), life.last_exit()), (Incarnation(4), 3, None));
    }
}
