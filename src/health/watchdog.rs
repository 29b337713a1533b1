//! Whether signs of life come in time. Pure: it is handed the time.
//!
//! Invariants
//! - Our own absence is never an instance's silence: whoever judges asks [`was_away`] first, and starts everybody anew.

use std::time::Duration;

use crate::lifecycle::Time;

/// So late beyond what was planned, and we were stopped, suspended or starved ourselves.
const AWAY: Duration = Duration::from_secs(1);

/// The shortest silence of a link that means something.
const SHORTEST: Duration = Duration::from_secs(3);

/// Whether we woke so late that what we did not hear proves nothing.
pub fn was_away(planned: Time, now: Time) -> bool {
    now.since(planned) >= AWAY
}

/// Waits for signs of life of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vigil {
    interval: Duration,
    last: Time,
}

impl Vigil {
    /// A full interval from now.
    pub fn new(interval: Duration, now: Time) -> Vigil {
        Vigil { interval, last: now }
    }

    /// A sign of life; also said to everybody after we were away.
    pub fn alive(&mut self, now: Time) {
        self.last = self.last.max(now);
    }

    /// When the silence will have lasted too long.
    pub fn due(&self) -> Time {
        self.last + self.interval
    }

    /// Whether it has.
    pub fn is_overdue(&self, now: Time) -> bool {
        self.due() <= now
    }

    /// The most time between two signs.
    pub fn interval(&self) -> Duration {
        self.interval
    }
}

/// Waits for a number to move on: a participant's beat, which stands in memory that it alone writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    interval: Duration,
    /// The number at the last look, and the vigil over it. `None` until it is seen, and when it is no longer there: one
    /// without a link is not judged by it.
    seen: Option<(u64, Vigil)>,
}

impl Pulse {
    /// Nothing is seen yet, so nothing is missed. A participant beats once a second, so less than [`SHORTEST`] is
    /// lengthened to it.
    pub fn new(interval: Duration) -> Pulse {
        Pulse { interval: interval.max(SHORTEST), seen: None }
    }

    /// Takes what was read; any change is a sign of life, since the number comes from a stranger.
    pub fn look(&mut self, beat: Option<u64>, now: Time) {
        match (beat, &mut self.seen) {
            (None, seen) => *seen = None,
            (Some(beat), Some((before, _))) if *before == beat => {}
            (Some(beat), seen) => *seen = Some((beat, Vigil::new(self.interval, now))),
        }
    }

    /// A full interval from now, whatever was missed.
    pub fn forgive(&mut self, now: Time) {
        if let Some((_, vigil)) = &mut self.seen {
            vigil.alive(now);
        }
    }

    /// Whether it has stood still for too long.
    pub fn is_overdue(&self, now: Time) -> bool {
        self.seen.is_some_and(|(_, vigil)| vigil.is_overdue(now))
    }

    /// How often it has to be looked at.
    pub fn period(&self) -> Duration {
        self.interval / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Time = Time(1_000_000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_process_is_overdue_one_interval_after_its_last_sign() {
        let mut vigil = Vigil::new(ms(500), T0);
        assert!(!vigil.is_overdue(T0 + ms(499)));
        assert!(vigil.is_overdue(T0 + ms(500)));
        vigil.alive(T0 + ms(300));
        assert!(!vigil.is_overdue(T0 + ms(799)));
        assert_eq!(vigil.due(), T0 + ms(800));
    }

    #[test]
    fn a_sign_that_is_told_late_does_not_take_back_a_later_one() {
        let mut vigil = Vigil::new(ms(500), T0);
        vigil.alive(T0 + ms(400));
        vigil.alive(T0 + ms(100));
        assert_eq!(vigil.due(), T0 + ms(900));
    }

    #[test]
    fn a_small_delay_is_no_absence_and_a_long_one_is() {
        assert!(!was_away(T0, T0 + ms(999)));
        assert!(was_away(T0, T0 + ms(1000)));
        assert!(!was_away(T0 + ms(50), T0));
    }

    #[test]
    fn a_beat_that_stands_still_is_missed_and_one_that_moves_in_any_direction_is_not() {
        let mut pulse = Pulse::new(ms(3000));
        pulse.look(Some(7), T0);
        pulse.look(Some(7), T0 + ms(2000));
        assert!(!pulse.is_overdue(T0 + ms(2999)));
        assert!(pulse.is_overdue(T0 + ms(3000)));
        pulse.look(Some(3), T0 + ms(3000));
        assert!(!pulse.is_overdue(T0 + ms(5999)));
    }

    #[test]
    fn who_has_no_beat_yet_or_no_longer_is_not_judged_by_it() {
        let mut pulse = Pulse::new(ms(3000));
        assert!(!pulse.is_overdue(T0 + ms(1_000_000)));
        pulse.look(Some(1), T0);
        pulse.look(None, T0 + ms(100));
        assert!(!pulse.is_overdue(T0 + ms(1_000_000)));
    }

    #[test]
    fn after_our_own_absence_everybody_has_a_full_interval() {
        let mut pulse = Pulse::new(ms(3000));
        pulse.look(Some(1), T0);
        pulse.forgive(T0 + ms(10_000));
        assert!(!pulse.is_overdue(T0 + ms(12_999)));
    }
}
