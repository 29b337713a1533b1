//! When changes of files are over. Pure: it is handed the time.
//!
//! An editor's save or a checkout is many changes; one restart follows when nothing has changed for a while. Something
//! that never stops changing cannot put it off for ever.

use std::time::{Duration, Instant};

/// The least quiet time: an editor's rename-and-write is one change.
const SHORTEST: Duration = Duration::from_millis(50);
/// Changes that go on are acted on after so many quiet times, and at least this long.
const PATIENCE: u32 = 10;
const LEAST_PATIENCE: Duration = Duration::from_secs(5);

/// Collects changes until they are over.
#[derive(Debug)]
pub struct Settle<T> {
    quiet: Duration,
    /// The first change that was not acted on, when it came, and when the last one did.
    open: Option<(T, Instant, Instant)>,
}

impl<T> Settle<T> {
    pub fn new(quiet: Duration) -> Settle<T> {
        Settle { quiet: quiet.max(SHORTEST), open: None }
    }

    /// Something has changed. The first one is kept.
    pub fn changed(&mut self, what: T, now: Instant) {
        match &mut self.open {
            Some((_, _, last)) => *last = now,
            None => self.open = Some((what, now, now)),
        }
    }

    /// When to ask [`Settle::over`] again; `None` while nothing has changed.
    pub fn due(&self) -> Option<Instant> {
        let (_, first, last) = self.open.as_ref()?;
        Some((*last + self.quiet).min(*first + (self.quiet * PATIENCE).max(LEAST_PATIENCE)))
    }

    /// What changed first, once the changes are over.
    pub fn over(&mut self, now: Instant) -> Option<T> {
        self.due().filter(|due| *due <= now)?;
        self.open.take().map(|(what, ..)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn changes_are_over_when_it_was_quiet_for_long_enough_and_count_once() {
        let t0 = Instant::now();
        let mut settle = Settle::new(ms(200));
        settle.changed("a", t0);
        settle.changed("b", t0 + ms(150));
        assert_eq!(settle.over(t0 + ms(349)), None);
        assert_eq!(settle.over(t0 + ms(350)), Some("a"));
        assert_eq!(settle.over(t0 + ms(1000)), None);
        assert_eq!(settle.due(), None);
    }

    #[test]
    fn what_never_stops_changing_cannot_put_it_off_for_ever() {
        let t0 = Instant::now();
        let mut settle = Settle::new(ms(1000));
        let mut at = ms(0);
        while settle.over(t0 + at).is_none() {
            settle.changed((), t0 + at);
            at += ms(100);
            assert!(at <= ms(10_000));
        }
        assert_eq!(at, ms(10_000));
    }
}
