//! What a thread does between "nothing there" and "asleep" when traffic is dense: a few yields, under guard.
//!
//! A yield lets the peer run that is about to bring news, at a fraction of a sleep's price. But beside a stranger that
//! computes, one yield costs a whole time slice; a yield that took that long forbids more of them for a while, and
//! meanwhile the thread spins for two microseconds instead.

use std::hint::spin_loop;
use std::thread::yield_now;
use std::time::{Duration, Instant};

const YIELDS: usize = 4;
const TOO_LONG: Duration = Duration::from_millis(1);
const FORBIDDEN: Duration = Duration::from_millis(50);
const SPIN: Duration = Duration::from_micros(2);

#[derive(Debug, Default)]
pub(crate) struct Grace {
    forbidden_until: Option<Instant>,
}

impl Grace {
    /// Waits a little for `news`; whether there is any.
    pub(crate) fn wait(&mut self, mut news: impl FnMut() -> bool) -> bool {
        if self.forbidden_until.is_some_and(|until| Instant::now() < until) {
            return spin(news);
        }
        self.forbidden_until = None;
        for _ in 0..YIELDS {
            let before = Instant::now();
            yield_now();
            let after = Instant::now();
            if after - before > TOO_LONG {
                self.forbidden_until = Some(after + FORBIDDEN);
                return news();
            }
            if news() {
                return true;
            }
        }
        false
    }
}

/// Lets a publisher on another core go on undisturbed for two microseconds. A reader that looks at the head after every
/// message takes its line away from the publisher with every look, and both wait for it most of the time.
pub(crate) fn pause() {
    let start = Instant::now();
    while start.elapsed() < SPIN {
        for _ in 0..64 {
            spin_loop();
        }
    }
}

/// With growing pauses: each look takes the line from the publisher, whose next store then misses.
fn spin(mut news: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    let mut pauses = 8;
    while start.elapsed() < SPIN {
        for _ in 0..pauses {
            spin_loop();
        }
        if news() {
            return true;
        }
        pauses = (pauses * 2).min(64);
    }
    false
}
