//! The bounded queue between the socket's reader and whoever makes sense of what was read.
//!
//! The reader must never wait: a client that does not read is cut off by Redis without a word. So what does not fit
//! is dropped here, and the sequence of the next message that does fit tells how much it was (`gaps`). Our own
//! echoes, which Redis sends back to us as subscribers, do not even enter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::envelope::{self, Sender};

/// Envelopes at most.
const LENGTH: usize = 4096;
/// Bytes at most. Room for two of the largest envelopes.
const BYTES: usize = 34 << 20;

/// What Redis pushed to us.
#[derive(Debug)]
pub(super) struct Pushed {
    /// The Redis channel.
    pub channel: Vec<u8>,
    pub payload: Bytes,
}

/// The reader's end.
#[derive(Debug, Clone)]
pub(super) struct Entrance {
    queue: mpsc::Sender<Pushed>,
    gauge: Arc<Gauge>,
    own: Sender,
}

/// The other end.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: mpsc::Receiver<Pushed>,
    gauge: Arc<Gauge>,
}

#[derive(Debug, Default)]
struct Gauge {
    bytes: AtomicUsize,
    overflowed: AtomicU64,
}

/// An empty queue; what carries `own` as its sender does not enter.
pub(super) fn inbox(own: Sender) -> (Entrance, Inbox) {
    let (sender, receiver) = mpsc::channel(LENGTH);
    let gauge = Arc::new(Gauge::default());
    (Entrance { queue: sender, gauge: Arc::clone(&gauge), own }, Inbox { queue: receiver, gauge })
}

impl Entrance {
    /// Queues what was read, or drops it. Never blocks.
    pub(super) fn offer(&self, pushed: Pushed) {
        if envelope::sender_of(&pushed.payload) == Some(self.own) {
            return;
        }
        let size = pushed.payload.len();
        // One reader offers at a time per connection, and there is one: the check and the addition need no lock.
        // Relaxed: a gauge, it orders nothing.
        let fits = self.gauge.bytes.load(Ordering::Relaxed) + size <= BYTES;
        if !fits {
            self.gauge.overflowed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.gauge.bytes.fetch_add(size, Ordering::Relaxed);
        if self.queue.try_send(pushed).is_err() {
            self.gauge.bytes.fetch_sub(size, Ordering::Relaxed);
            self.gauge.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Inbox {
    /// What was read next; `None` once every entrance is gone. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Pushed> {
        let pushed = self.queue.recv().await?;
        self.gauge.bytes.fetch_sub(pushed.payload.len(), Ordering::Relaxed);
        Some(pushed)
    }

    /// How many envelopes did not fit since the last time this was asked.
    pub(super) fn overflowed(&self) -> u64 {
        self.gauge.overflowed.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::envelope::Writer;
    use super::*;
    use crate::relay::NodeId;

    const OWN: Sender = Sender { node: NodeId(1), incarnation: 1 };

    fn pushed(payload: Vec<u8>) -> Pushed {
        Pushed { channel: b"c".to_vec(), payload: payload.into() }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted_and_there_is_room_again_after_reading() {
        let (entrance, mut inbox) = inbox(OWN);
        for _ in 0..LENGTH + 3 {
            entrance.offer(pushed(vec![0; 10]));
        }
        assert_eq!(inbox.overflowed(), 3);
        inbox.next().await.expect("queued");
        entrance.offer(pushed(vec![0; 10]));
        assert_eq!(inbox.overflowed(), 0);
    }

    #[tokio::test]
    async fn bytes_are_bounded_as_well() {
        let (entrance, mut inbox) = inbox(OWN);
        for _ in 0..5 {
            entrance.offer(pushed(vec![0; 10 << 20]));
        }
        assert_eq!(inbox.overflowed(), 2);
        for _ in 0..3 {
            inbox.next().await.expect("queued");
        }
        assert_eq!(inbox.gauge.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn our_own_echo_does_not_enter() {
        let (entrance, mut inbox) = inbox(OWN);
        entrance.offer(pushed(Writer::new(OWN, 1).finish()));
        entrance.offer(pushed(Writer::new(Sender { incarnation: 2, ..OWN }, 1).finish()));
        drop(entrance);
        assert!(inbox.next().await.is_some());
        assert!(inbox.next().await.is_none());
    }
}
