//! What an async worker receives.

use std::collections::VecDeque;
use std::time::Duration;

use ::tokio::task::yield_now;
use ::tokio::time::timeout;

use super::{Herd, wait_for_news};
use crate::client::{Message, ReceiveError};
use crate::receive::{Delivery, Loss, TURN, Turn};

/// Where a worker's messages arrive. One per process.
#[derive(Debug)]
pub struct Inbox {
    herd: Herd,
    ready: VecDeque<Message>,
    since_yield: usize,
}

impl Inbox {
    pub(super) fn new(herd: Herd) -> Inbox {
        Inbox { herd, ready: VecDeque::new(), since_yield: 0 }
    }

    /// As [`crate::Inbox::next`]. Cancel safe: a message that was not returned is still there.
    ///
    /// # Errors
    /// None at present.
    pub async fn next(&mut self) -> Result<Option<Message>, ReceiveError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                self.since_yield += 1;
                return Ok(Some(message));
            }
            if self.since_yield >= TURN {
                self.since_yield = 0;
                yield_now().await;
            }
            let inner = self.herd.inner();
            let mut receiver = inner.receiver.lock().await;
            receiver.drain.gather();
            let turn = receiver.fill();
            self.ready = receiver.take();
            if !self.ready.is_empty() {
                continue;
            }
            if turn.more {
                yield_now().await;
                continue;
            }
            // After the look at the rings: what was there before the request is still handed over.
            if self.herd.is_shutting_down() && !receiver.drain.has_news() {
                return Ok(None);
            }
            wait_for_news(&mut receiver.drain, &inner.bell).await;
        }
    }

    /// As [`crate::Inbox::next_timeout`]. Cancel safe.
    ///
    /// # Errors
    /// [`ReceiveError::TimedOut`].
    pub async fn next_timeout(&mut self, limit: Duration) -> Result<Option<Message>, ReceiveError> {
        timeout(limit, self.next()).await.unwrap_or(Err(ReceiveError::TimedOut))
    }

    /// As [`crate::Inbox::turn`]. Yields once, so that a loop over it starves nobody.
    pub async fn turn(&mut self, mut hand_over: impl FnMut(Delivery<'_>)) -> Turn {
        yield_now().await;
        let mut receiver = self.herd.inner().receiver.lock().await;
        self.ready.extend(receiver.take());
        let early = self.ready.len();
        for message in self.ready.drain(..) {
            hand_over(message.delivery());
        }
        let turn = receiver.drain.turn(TURN, hand_over);
        Turn { records: turn.records + early, ..turn }
    }

    /// Waits until a turn would find something, at most a second. May come back early. Cancel safe.
    pub async fn wait(&mut self) {
        if self.ready.is_empty() {
            let inner = self.herd.inner();
            wait_for_news(&mut inner.receiver.lock().await.drain, &inner.bell).await;
        }
    }

    /// As [`crate::Inbox::lost`].
    pub async fn lost(&mut self) -> Vec<Loss> {
        self.herd.inner().receiver.lock().await.drain.lost()
    }
}
