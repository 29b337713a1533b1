//! Waiting until every running participant has taken a change of the directory over. Pure.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use herdwire_ipc::Slot;

use super::link::Key;

/// How long a change waits for those who have not taken it over. They are named in the answer then.
pub(super) const LIMIT: Duration = Duration::from_secs(1);

/// Who waits, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The newcomer is told that it is a full member.
    Joined(Key),
    /// The request is answered with the channel.
    Channel { to: Key, request: u64, id: u16 },
}

/// One change that waits.
#[derive(Debug)]
pub(super) struct Barrier {
    pub version: u64,
    pub waiting: BTreeSet<Slot>,
    pub until: Instant,
    pub then: Then,
}

impl Barrier {
    /// A participant has taken everything up to `version` over.
    pub(super) fn seen(&mut self, slot: Slot, version: u64) {
        if version >= self.version {
            self.waiting.remove(&slot);
        }
    }

    /// A participant is gone: nobody waits for it.
    pub(super) fn gone(&mut self, slot: Slot) {
        self.waiting.remove(&slot);
    }

    /// Whether the wait is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.waiting.is_empty() || now >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn barrier(waiting: &[Slot]) -> Barrier {
        let then = Then::Joined(Key { instance: 1, incarnation: 1 });
        Barrier { version: 5, waiting: waiting.iter().copied().collect(), until: Instant::now() + LIMIT, then }
    }

    #[test]
    fn it_is_over_when_all_have_seen_the_version_or_are_gone() {
        let (mut barrier, now) = (barrier(&[1, 2, 3]), Instant::now());
        barrier.seen(1, 4);
        assert_eq!(barrier.waiting.len(), 3, "an older version does not count");
        barrier.seen(1, 5);
        barrier.seen(2, 9);
        assert!(!barrier.is_over(now));
        barrier.gone(3);
        assert!(barrier.is_over(now));
    }

    #[test]
    fn it_is_over_when_its_time_is_up_and_names_who_is_missing() {
        let barrier = barrier(&[4]);
        assert!(barrier.is_over(barrier.until));
        assert_eq!(barrier.waiting, BTreeSet::from([4]));
    }
}
