//! Looks from outside: when to look, and what a row of answers means.
//!
//! The counting is pure ([`Streak`]); the loop around it ([`watch`]) waits, looks (`look`) and tells. Only so many look at once,
//! whatever the number of instances.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::look::{self, Surroundings};
use crate::config::spec::Probe;

/// Looks that run at the same time.
pub const AT_ONCE: usize = 32;
/// So much longer than its limit, and it was we who were stopped: such a look proves nothing.
const AWAY: Duration = Duration::from_secs(1);

/// Failures in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streak {
    enough: u32,
    failed: u32,
}

impl Streak {
    /// None yet; `enough` in a row count as one.
    pub fn new(enough: u32) -> Streak {
        Streak { enough: enough.max(1), failed: 0 }
    }

    /// Takes one answer; true when the row is full, which begins anew then.
    pub fn note(&mut self, succeeded: bool) -> bool {
        self.failed = if succeeded { 0 } else { self.failed + 1 };
        let full = self.failed >= self.enough;
        if full {
            self.failed = 0;
        }
        full
    }
}

/// What one look showed, and for whom.
#[derive(Debug)]
pub struct Looked<K> {
    pub of: K,
    /// Why not, as a sentence.
    pub result: Result<(), String>,
}

/// Looks again and again, until the token says stop or nobody listens any more. Waits for its turn among
/// [`AT_ONCE`], which does not count as the probed one's time.
pub async fn watch<K: Copy>(
    of: K,
    probe: Probe,
    around: Arc<Surroundings>,
    turns: Arc<Semaphore>,
    news: mpsc::Sender<Looked<K>>,
    stop: CancellationToken,
) {
    let mut wait = probe.delay;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => wait = probe.interval,
        }
        let turn = tokio::select! {
            () = stop.cancelled() => return,
            turn = turns.acquire() => turn,
        };
        let since = Instant::now();
        let result = look::once(&probe.target, probe.timeout, &around, &stop).await;
        drop(turn);
        if stop.is_cancelled() {
            return;
        }
        let was_away = since.elapsed() >= probe.timeout + AWAY;
        let result = match result {
            Err(failure) if failure.ours || was_away => {
                tracing::debug!("a look proves nothing: {}", failure.why);
                continue;
            }
            result => result.map_err(|failure| failure.why),
        };
        if news.send(Looked { of, result }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_count() {
        let mut streak = Streak::new(3);
        let answers = [false, false, true, false, false, false, false];
        let full: Vec<bool> = answers.iter().map(|answer| streak.note(*answer)).collect();
        assert_eq!(full, [false, false, false, false, false, true, false]);
    }

    #[test]
    fn one_failure_is_enough_where_none_is_allowed() {
        assert!(Streak::new(0).note(false));
        assert!(Streak::new(1).note(false));
        assert!(!Streak::new(1).note(true));
    }
}
