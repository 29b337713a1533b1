//! How long to wait before a restart.

use std::time::Duration;

use super::states::Incarnation;
use crate::config::spec::Backoff;

/// Failures in a row that are answered at once; from then on the wait doubles.
const FREE_RETRIES: u32 = 3;
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(15);

/// The most that a configured wait is longer or shorter than it would be, in thousandths: what failed together is not
/// to come back together.
const JITTER: i64 = 100;

/// After so many failures in a row, where nothing else is configured: nothing at first, then doubling up to
/// [`LONGEST`].
pub(super) fn after_failures(row: u32) -> Duration {
    match row.checked_sub(FREE_RETRIES + 1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST),
    }
}

/// Before restart number `row` in a row: the first wait, then half as much again each time up to the longest, each up to
/// a tenth longer or shorter. The same for the same instance and incarnation.
pub(super) fn growing(backoff: &Backoff, row: u32, seed: u32, incarnation: Incarnation) -> Duration {
    let longest = backoff.longest.max(backoff.first).as_millis() as u64;
    let mut wait = backoff.first.as_millis() as u64;
    // No wait that grows at all takes more steps than this to any longest one.
    for _ in 1..row.min(128) {
        wait = wait.saturating_add(wait / 2).min(longest);
    }
    Duration::from_millis(wait.saturating_add_signed(wait.cast_signed() / 1000 * jitter(seed, incarnation)))
        .max(Duration::from_millis(wait.min(1)))
}

/// From -[`JITTER`] to [`JITTER`] thousandths.
fn jitter(seed: u32, incarnation: Incarnation) -> i64 {
    // splitmix64's finisher: neighbours come out far apart.
    let mut word = (u64::from(seed) << 32 | u64::from(incarnation.0)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((word ^ (word >> 31)) % (2 * JITTER as u64 + 1)).cast_signed() - JITTER
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(first: u64, longest: u64) -> Backoff {
        let ms = Duration::from_millis;
        Backoff { first: ms(first), longest: ms(longest), reset: ms(30_000) }
    }

    #[test]
    fn a_configured_wait_grows_by_half_up_to_the_longest() {
        let backoff = backoff(100, 1000);
        for (row, base) in [(1, 100), (2, 150), (3, 225), (4, 337), (5, 505), (6, 757), (7, 1000), (4_000_000, 1000)] {
            for incarnation in 1..50 {
                let wait = growing(&backoff, row, 7, Incarnation(incarnation)).as_millis() as i64;
                assert!((wait - base).abs() <= base / 10 + 1, "{wait} for {base}");
            }
        }
    }

    #[test]
    fn instances_that_failed_together_come_back_apart_and_each_the_same_way_again() {
        let backoff = backoff(10_000, 60_000);
        let wait = |seed| growing(&backoff, 1, seed, Incarnation(3));
        let waits: std::collections::BTreeSet<_> = (0..100).map(wait).collect();
        assert!(waits.len() > 50, "{} different waits", waits.len());
        assert_eq!(wait(4), wait(4));
    }

    #[test]
    fn a_longest_wait_below_the_first_changes_nothing_and_none_stays_none() {
        assert!(growing(&backoff(500, 0), 9, 1, Incarnation(1)) >= Duration::from_millis(450));
        assert_eq!(growing(&backoff(0, 1000), 9, 1, Incarnation(1)), Duration::ZERO);
    }
}
