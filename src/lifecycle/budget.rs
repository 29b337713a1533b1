//! How often an instance may fail: a count over a window that moves with the time, in fixed memory.
//!
//! The window is cut into [`SLICES`] slices, and a failure is forgotten together with the slice that it fell into: after
//! at most the whole window and at least seven eighths of it. So nobody is given up for failures that lie further back
//! than `restart_window`, and a loop of quick failures is given up at exactly the configured count.

use std::time::Duration;

use super::states::Time;

pub(super) const SLICES: usize = 8;

/// Failures by the time at which they happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Budget {
    /// When the newest slice began.
    pub begun: Time,
    /// Failures in each slice, the newest first.
    pub slices: [u32; SLICES],
}

impl Budget {
    /// Counts a failure.
    pub fn spend(&mut self, window: Duration, now: Time) {
        self.roll(window, now);
        self.slices[0] = self.slices[0].saturating_add(1);
    }

    /// Failures that still count.
    pub fn spent(&self, window: Duration, now: Time) -> u32 {
        let mut rolled = *self;
        rolled.roll(window, now);
        rolled.total()
    }

    /// Failures that counted when the last one was added.
    pub fn total(&self) -> u32 {
        self.slices.iter().fold(0, |sum, slice| sum.saturating_add(*slice))
    }

    /// Forgets the slices that have left the window.
    fn roll(&mut self, window: Duration, now: Time) {
        let width = (window.as_millis() as u64 / SLICES as u64).max(1);
        let passed = now.0.saturating_sub(self.begun.0) / width;
        if self.total() == 0 || passed >= SLICES as u64 {
            *self = Budget { begun: now, slices: [0; SLICES] };
            return;
        }
        self.slices.rotate_right(passed as usize);
        self.slices[..passed as usize].fill(0);
        self.begun = Time(self.begun.0 + passed * width);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(80);

    #[test]
    fn a_failure_counts_for_the_window_and_not_longer() {
        let mut budget = Budget::default();
        budget.spend(WINDOW, Time(500));
        assert_eq!(budget.spent(WINDOW, Time(500 + 79_999)), 1);
        assert_eq!(budget.spent(WINDOW, Time(500 + 80_000)), 0);
    }

    #[test]
    fn another_window_is_taken_over_without_a_new_count() {
        let mut budget = Budget::default();
        (0..5).for_each(|_| budget.spend(WINDOW, Time(500)));
        assert_eq!(budget.spent(WINDOW * 100, Time(5000)), 5);
        assert_eq!(budget.spent(Duration::ZERO, Time(5000)), 0);
    }

    proptest! {
        #[test]
        fn what_counts_lies_between_seven_eighths_of_the_window_and_all_of_it(
            steps in prop::collection::vec(0_u64..30_000, 1..60),
            last in 0_u64..100_000,
        ) {
            let (mut budget, mut now, mut times) = (Budget::default(), 1_000, Vec::new());
            for step in steps {
                now += step;
                times.push(now);
                budget.spend(WINDOW, Time(now));
            }
            now += last;
            let within = |ms: u64| times.iter().filter(|time| now - **time < ms).count() as u32;
            let spent = budget.spent(WINDOW, Time(now));
            prop_assert!(within(70_000) <= spent && spent <= within(80_000), "{spent} of {times:?} at {now}");
        }
    }
}
