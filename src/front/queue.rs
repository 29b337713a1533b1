//! What one session still has to be sent, and when it counts as too slow.
//!
//! Owns the queue between whoever broadcasts and the task that writes. Does not write (`writer`) and does not know
//! where a frame came from.
//!
//! Invariants
//! - What waits, with what the writer has in hand, is at most `limit` bytes, or one frame if that alone is larger: else
//!   a message larger than the limit would throw out every session, quick ones too.
//! - Nothing is left out in the middle: a session gets every frame in order up to the moment it is given up.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::frame::Frame;

/// What became of a frame that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It waits behind others, whose writer is awake already.
    Queued,
    /// It is the first that waits: wake the writer.
    First,
    /// The session did not keep up and has just been given up: wake the writer, count it.
    Overflowed,
    /// Nothing goes to this session any more.
    Closed,
}

/// Frames for one session.
#[derive(Debug)]
pub struct Outbox {
    waiting: VecDeque<Frame>,
    /// Bytes of `waiting` and of what the writer took and has not written yet.
    bytes: usize,
    limit: usize,
    state: State,
}

/// Whether an outbox takes frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does.
    Open,
    /// The session did not keep up.
    Overflowed,
    /// The session is over, or is to end.
    Closed,
}

impl Outbox {
    /// An empty queue of `limit` bytes.
    pub fn new(limit: usize) -> Outbox {
        Outbox { waiting: VecDeque::new(), bytes: 0, limit, state: State::Open }
    }

    /// Puts a frame at the end, or gives the session up when there is no room.
    pub fn offer(&mut self, frame: &Frame) -> Offer {
        if self.state != State::Open {
            return Offer::Closed;
        }
        if self.bytes > 0 && self.bytes + frame.len() > self.limit {
            self.waiting = VecDeque::new();
            self.state = State::Overflowed;
            return Offer::Overflowed;
        }
        self.bytes += frame.len();
        self.waiting.push_back(frame.clone());
        if self.waiting.len() == 1 { Offer::First } else { Offer::Queued }
    }

    /// Hands everything that waits to the writer, behind what is in `batch` already. It goes on counting until
    /// [`Outbox::written`].
    pub fn take(&mut self, batch: &mut VecDeque<Frame>) {
        if batch.is_empty() {
            std::mem::swap(&mut self.waiting, batch);
        } else {
            batch.append(&mut self.waiting);
        }
    }

    /// Makes room for `bytes` of frames that left whole.
    pub fn written(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether frames are still taken, and if not, why.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes nothing more; what waits already can still be taken.
    pub fn close(&mut self) {
        if self.state == State::Open {
            self.state = State::Closed;
        }
    }
}

/// An outbox that both sides reach. Held for moments, never across an await or a write.
#[derive(Debug)]
pub struct SharedOutbox(Mutex<Outbox>);

impl SharedOutbox {
    /// Shares an outbox.
    pub fn new(outbox: Outbox) -> SharedOutbox {
        SharedOutbox(Mutex::new(outbox))
    }

    /// The outbox, for the moment.
    pub fn lock(&self) -> MutexGuard<'_, Outbox> {
        // Nothing panics while it is held; if it did, the queue would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: usize) -> Frame {
        Frame::binary(&vec![0; payload])
    }

    #[test]
    fn the_writer_is_woken_once_for_all_that_waits() {
        let mut outbox = Outbox::new(1000);
        assert_eq!(outbox.offer(&frame(8)), Offer::First);
        assert_eq!(outbox.offer(&frame(8)), Offer::Queued);
        let mut batch = VecDeque::new();
        outbox.take(&mut batch);
        assert_eq!(batch.len(), 2);
        assert_eq!(outbox.offer(&frame(8)), Offer::First);
    }

    #[test]
    fn what_the_writer_has_in_hand_still_counts() {
        let mut outbox = Outbox::new(25);
        let mut batch = VecDeque::new();
        outbox.offer(&frame(8));
        outbox.offer(&frame(8));
        outbox.take(&mut batch);
        assert_eq!(outbox.offer(&frame(8)), Offer::Overflowed);

        let mut outbox = Outbox::new(25);
        outbox.offer(&frame(8));
        outbox.offer(&frame(8));
        batch.clear();
        outbox.take(&mut batch);
        outbox.written(10);
        assert_eq!(outbox.offer(&frame(8)), Offer::First);
    }

    #[test]
    fn a_session_that_does_not_keep_up_is_given_up_once_and_holds_nothing_more() {
        let mut outbox = Outbox::new(25);
        outbox.offer(&frame(8));
        outbox.offer(&frame(8));
        assert_eq!(outbox.offer(&frame(8)), Offer::Overflowed);
        assert_eq!(outbox.state(), State::Overflowed);
        assert!(outbox.waiting.is_empty());
        assert_eq!(outbox.offer(&frame(8)), Offer::Closed);
    }

    #[test]
    fn a_frame_larger_than_the_limit_goes_to_a_session_that_has_nothing_else_waiting() {
        let mut outbox = Outbox::new(25);
        assert_eq!(outbox.offer(&frame(1000)), Offer::First);
        assert_eq!(outbox.offer(&frame(1)), Offer::Overflowed);
    }

    #[test]
    fn a_closed_queue_still_gives_what_it_had() {
        let mut outbox = Outbox::new(100);
        outbox.offer(&frame(8));
        outbox.close();
        assert_eq!(outbox.offer(&frame(8)), Offer::Closed);
        assert_eq!(outbox.state(), State::Closed);
        let mut batch = VecDeque::new();
        outbox.take(&mut batch);
        assert_eq!(batch.len(), 1);
    }
}
