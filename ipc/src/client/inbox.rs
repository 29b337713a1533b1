//! What a worker receives.

use std::collections::VecDeque;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::ReceiveError;
use super::herd::Herd;
use super::message::Message;
use super::receiver::Receiver;
use crate::receive::{Delivery, Loss, TURN, Turn};

/// Sleeps are cut into pieces of this, so that a shutdown is never slept through.
const NAP: Duration = Duration::from_secs(1);

/// Where a worker's messages arrive. One per process.
#[derive(Debug)]
pub struct Inbox {
    herd: Herd,
    ready: VecDeque<Message>,
}

impl Inbox {
    pub(super) fn new(herd: Herd) -> Inbox {
        Inbox { herd, ready: VecDeque::new() }
    }

    /// The next message; waits for it. `None` once the supervisor has asked this instance to finish and nothing is
    /// left to read.
    ///
    /// # Errors
    /// None at present.
    #[allow(clippy::should_implement_trait)] // It can fail and it waits, which no iterator may; async has the same name.
    pub fn next(&mut self) -> Result<Option<Message>, ReceiveError> {
        self.next_until(None)
    }

    /// The next message; waits for it at most `limit`. `None` as in [`Inbox::next`].
    ///
    /// # Errors
    /// [`ReceiveError::TimedOut`].
    pub fn next_timeout(&mut self, limit: Duration) -> Result<Option<Message>, ReceiveError> {
        self.next_until(Some(Instant::now() + limit))
    }

    /// Hands over what is there without a copy of its own, at most about 256 messages. Never waits. A publish from
    /// within `hand_over` may have to wait for a worker that waits for us: publish after the turn where that matters.
    pub fn turn(&mut self, mut hand_over: impl FnMut(Delivery<'_>)) -> Turn {
        let mut receiver = lock(&self.herd);
        self.ready.extend(receiver.take());
        let early = self.ready.len();
        for message in self.ready.drain(..) {
            hand_over(message.delivery());
        }
        let turn = receiver.drain.turn(TURN, hand_over);
        Turn { records: turn.records + early, ..turn }
    }

    /// Waits until a turn would find something, at most `limit` and at most a second. May come back early.
    pub fn wait(&mut self, limit: Duration) {
        if self.ready.is_empty() {
            lock(&self.herd).drain.wait(limit);
        }
    }

    /// What this process missed since the last call, because it did not keep up.
    pub fn lost(&mut self) -> Vec<Loss> {
        lock(&self.herd).drain.lost()
    }

    fn next_until(&mut self, until: Option<Instant>) -> Result<Option<Message>, ReceiveError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            let mut receiver = lock(&self.herd);
            receiver.drain.gather();
            let turn = receiver.fill();
            self.ready = receiver.take();
            if !self.ready.is_empty() || turn.more {
                continue;
            }
            // After the look at the rings: what was there before the request is still handed over.
            if self.herd.is_shutting_down() && !receiver.drain.has_news() {
                return Ok(None);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(ReceiveError::TimedOut);
            }
            receiver.drain.wait(left.unwrap_or(NAP).min(NAP));
        }
    }
}

fn lock(herd: &Herd) -> MutexGuard<'_, Receiver> {
    herd.inner().receiver.lock().unwrap_or_else(PoisonError::into_inner)
}
