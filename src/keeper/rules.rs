//! When a dead supervisor is replaced, and when a silent one is taken for dead. Pure: the time is handed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

/// Seconds without a word after which a supervisor is taken to hang.
const SILENCE: u32 = 5;

/// The same while there is a reason for its silence: it adopts many instances on a busy machine, or we do not listen.
const EXCUSED_SILENCE: u32 = 30;

/// Over this long deaths are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// How long a start waits once there have been too many deaths. Starts never end: a herd without a supervisor runs,
/// but nobody minds it.
const PAUSE: Duration = Duration::from_secs(1);

/// Deaths after READY: whatever killed it, its successor takes over at once, up to this many in the window.
const AFTER_READY: usize = 30;

/// Deaths before READY: a supervisor that cannot start would otherwise be started without end.
const BEFORE_READY: usize = 5;

/// Deaths before READY after which the program that worked before is tried instead.
const OF_ONE_PROGRAM: usize = 3;

/// How soon a supervisor is replaced, and by which program.
#[derive(Debug)]
pub(super) struct Restarts {
    /// The times of the last deaths after READY, and before it; no more than one more than are free.
    after_ready: VecDeque<Instant>,
    before_ready: VecDeque<Instant>,
}

impl Restarts {
    pub fn new() -> Restarts {
        let with_room = |free| VecDeque::with_capacity(free + 1);
        Restarts { after_ready: with_room(AFTER_READY), before_ready: with_room(BEFORE_READY) }
    }

    /// A supervisor died; how long its successor has to wait.
    pub fn pause(&mut self, was_ready: bool, now: Instant) -> Duration {
        let (deaths, free) = match was_ready {
            true => (&mut self.after_ready, AFTER_READY),
            false => (&mut self.before_ready, BEFORE_READY),
        };
        deaths.retain(|death| now.duration_since(*death) < WINDOW);
        deaths.truncate(free);
        deaths.push_front(now);
        if deaths.len() > free { PAUSE } else { Duration::ZERO }
    }

    /// Whether its program has failed often enough to try another one.
    pub fn gives_program_up(&self) -> bool {
        self.before_ready.len() >= OF_ONE_PROGRAM
    }

    /// Another program is tried: it has done nothing yet.
    pub fn forgive(&mut self) {
        self.before_ready.clear();
    }
}

/// Whether a supervisor hangs. Counts the seconds that the keeper itself saw pass, not the clock's, so that a machine
/// that was suspended or frozen as a whole does not look like a supervisor that hangs.
#[derive(Debug, Default)]
pub(super) struct Watch {
    silent: u32,
    gave_up: bool,
}

impl Watch {
    /// It said something. Too late once it has been given up.
    pub fn heard(&mut self) {
        self.silent = 0;
    }

    /// A second went by; what to send it, if anything: it is to end and leave a core behind, and has a second for that.
    pub fn second(&mut self, excused: bool) -> Option<Signal> {
        self.silent += 1;
        let limit = if excused { EXCUSED_SILENCE } else { SILENCE };
        let signal = if self.gave_up { Signal::SIGKILL } else { Signal::SIGABRT };
        self.gave_up |= self.silent >= limit;
        self.gave_up.then_some(signal)
    }

    /// Whether it was given up.
    pub fn gave_up(&self) -> bool {
        self.gave_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_supervisor_that_was_ready_is_replaced_at_once_up_to_thirty_times_in_ten_seconds() {
        let start = Instant::now();
        let mut restarts = Restarts::new();
        for death in 0..30 {
            assert_eq!(restarts.pause(true, start + Duration::from_millis(death)), NOW);
        }
        assert_eq!(restarts.pause(true, start + Duration::from_millis(9_999)), PAUSE);
        assert_eq!(restarts.pause(true, start + Duration::from_millis(10_001)), NOW);
    }

    #[test]
    fn one_that_dies_before_ready_is_tried_five_times_and_then_once_a_second_for_ever() {
        let mut now = Instant::now();
        let mut restarts = Restarts::new();
        let pauses: Vec<Duration> = (0..1000)
            .map(|_| {
                let pause = restarts.pause(false, now);
                now += pause;
                pause
            })
            .collect();
        assert_eq!(pauses[..5], [NOW; 5]);
        assert!(pauses[5..].iter().all(|pause| *pause == PAUSE));
        assert_eq!(restarts.pause(true, now), NOW, "deaths after READY have a budget of their own");
    }

    #[test]
    fn the_other_program_is_tried_after_three_deaths_before_ready_within_ten_seconds() {
        let start = Instant::now();
        let mut restarts = Restarts::new();
        let mut at = |millis| {
            restarts.pause(false, start + Duration::from_millis(millis));
            let given_up = restarts.gives_program_up();
            if given_up {
                restarts.forgive();
            }
            given_up
        };
        assert_eq!([at(0), at(9_000), at(10_001)], [false; 3], "the first one is too long ago");
        assert!(at(11_000), "the third since 9 s");
        assert_eq!([at(11_001), at(11_002), at(11_003)], [false, false, true], "the other one has three again");
    }

    #[test]
    fn five_silent_seconds_are_a_hang() {
        let mut watch = Watch::default();
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(watch.second(false), None);
            }
            watch.heard();
        }
        let verdicts: Vec<Option<Signal>> = (0..7).map(|_| watch.second(false)).collect();
        assert_eq!(verdicts[3..], [None, Some(Signal::SIGABRT), Some(Signal::SIGKILL), Some(Signal::SIGKILL)]);
        assert!(watch.gave_up());
    }

    #[test]
    fn a_word_after_the_verdict_does_not_help() {
        let mut watch = Watch::default();
        while watch.second(false) != Some(Signal::SIGABRT) {}
        watch.heard();
        assert_eq!(watch.second(false), Some(Signal::SIGKILL));
    }

    #[test]
    fn one_that_has_a_reason_to_be_silent_has_half_a_minute() {
        let mut watch = Watch::default();
        assert_eq!((0..29).find(|_| watch.second(true).is_some()), None);
        assert_eq!(watch.second(true), Some(Signal::SIGABRT));
    }
}
