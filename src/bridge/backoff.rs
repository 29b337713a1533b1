//! How long to wait before Redis is tried again.
//!
//! Full jitter, so that a fleet that failed together does not come back together; quick at first; never so long that
//! the bridge is not back within five seconds of Redis. What only an operator can mend is tried seldom. Pure.

use std::ops::RangeInclusive;

/// The first wait is at most this, in milliseconds; each one after it may be twice as long.
const BASE_MS: u64 = 50;
/// The longest wait, in milliseconds. Well under five seconds: the handshake needs its part.
const CAP_MS: u64 = 3_000;
/// The shortest wait, in milliseconds: jitter may say zero, and a refused connection costs nothing to repeat.
const FLOOR_MS: u64 = 10;
/// Wrong passwords and missing rights, in milliseconds. Half of it is jitter.
const SLOW_MS: RangeInclusive<u64> = 15_000..=30_000;
/// A connection that lived this long, in milliseconds, was a good one: the next trouble is a new one.
const HEALTHY_MS: u64 = 10_000;

/// Who can mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// It mends itself: the server comes back.
    Quick,
    /// An operator must change something.
    Slow,
}

/// Failures since the last good connection.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Milliseconds to wait after a trouble. `alive_ms` says how long the connection had worked before it, 0 if it
    /// never did; `random` is any number.
    pub(super) fn after(&mut self, pace: Pace, alive_ms: u64, random: u64) -> u64 {
        if alive_ms >= HEALTHY_MS {
            self.failures = 0;
        }
        match pace {
            Pace::Slow => within(SLOW_MS, random),
            Pace::Quick => {
                let longest = (BASE_MS << self.failures.min(10)).min(CAP_MS);
                self.failures = self.failures.saturating_add(1);
                within(FLOOR_MS..=longest, random)
            }
        }
    }
}

fn within(range: RangeInclusive<u64>, random: u64) -> u64 {
    range.start() + random % (range.end() - range.start() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest wait that can come next: the jitter is tried out.
    fn longest(backoff: &mut Backoff, alive_ms: u64) -> u64 {
        let failures = backoff.failures;
        (0..4_000)
            .map(|random| {
                backoff.failures = failures;
                backoff.after(Pace::Quick, alive_ms, random)
            })
            .max()
            .expect("not empty")
    }

    #[test]
    fn the_first_tries_are_quick_and_none_waits_longer_than_three_seconds() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..9).map(|_| longest(&mut backoff, 0)).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3000, 3000, 3000]);
        for _ in 0..100 {
            assert!((FLOOR_MS..=CAP_MS).contains(&backoff.after(Pace::Quick, 0, u64::MAX)));
        }
    }

    #[test]
    fn only_a_connection_that_held_makes_it_quick_again() {
        let mut backoff = Backoff { failures: 9 };
        assert_eq!(longest(&mut backoff, 9_999), 3_000);
        assert_eq!(longest(&mut backoff, 10_000), 50);
    }

    #[test]
    fn what_an_operator_must_mend_is_tried_seldom() {
        let mut backoff = Backoff::default();
        for random in [0, 1, 77_777, u64::MAX] {
            assert!((15_000..=30_000).contains(&backoff.after(Pace::Slow, 0, random)));
        }
    }
}
