//! What still has to leave for other hosts.
//!
//! Owns the numbering of messages and the choice of what to give up when Redis is away too long. Does not know how a
//! message is written (`envelope`) or sent (`connection`). Pure.
//!
//! Invariants
//! - It never holds more than `limit` bytes, its own overhead included; the oldest message is given up first, and
//!   every one is counted.
//! - What leaves a channel leaves in the order of its numbers. What is given up keeps its number, so that the other
//!   hosts see the gap. Numbers are never used again, whatever happens to connections and subscriptions.
//! - What has been taken to be sent is either settled or put back; nothing else gives it up.
//! - One message that cannot be sent (larger than the server takes, say, which ends the connection each time) does not
//!   hold up the others for ever: batches that fail get smaller, and what fails alone [`STRIKES`] times is given up.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::relay::{Message, Topic};

use super::envelope::{MAX_PAYLOAD, Record};
use super::name;

/// What an entry costs beyond its payload, about.
const OVERHEAD: u64 = 128;
/// Bytes taken to be sent at once: one round trip each, so enough to make the round trip cheap.
const BATCH_BYTES: u64 = 256 * 1024;
/// Messages taken at once while nothing fails.
const BATCH_LENGTH: usize = 16 * 1024;
/// Failures of one message sent alone until it is given up.
const STRIKES: u32 = 3;

/// A channel on its way out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lane {
    pub topic: Topic,
    /// Its name in Redis.
    pub name: String,
}

/// A numbered message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub lane: Arc<Lane>,
    pub sequence: u64,
    pub record: Record,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Spool {
    /// The last number of each channel. Grows with the configuration alone: nothing but channels that cross come here.
    lanes: HashMap<Topic, (Arc<Lane>, u64)>,
    waiting: VecDeque<Entry>,
    /// Of all that is waiting or being sent.
    bytes: u64,
    limit: u64,
    sending: usize,
    dropped: u64,
    /// Messages in a batch, at present. Halved by a failure, doubled by a success.
    window: usize,
    strikes: u32,
}

impl Spool {
    pub(super) fn new(limit: u64) -> Spool {
        Spool {
            lanes: HashMap::new(),
            waiting: VecDeque::new(),
            bytes: 0,
            limit,
            sending: 0,
            dropped: 0,
            window: BATCH_LENGTH,
            strikes: 0,
        }
    }

    /// Numbers a message and queues it, at the cost of the oldest ones if need be.
    pub(super) fn push(&mut self, message: Message) {
        let (lane, sequence) = self.number(&message.topic);
        let record = Record { session: message.session, tag: message.tag, payload: message.payload };
        let entry = Entry { lane, sequence, record };
        let cost = entry.cost();
        while self.bytes + cost > self.limit
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.bytes -= oldest.cost();
            self.dropped += 1;
        }
        if self.bytes + cost > self.limit || entry.record.payload.len() > MAX_PAYLOAD {
            self.dropped += 1;
            return;
        }
        self.bytes += cost;
        self.waiting.push_back(entry);
    }

    /// Takes what is next to be sent, at least one message unless there is none. All of it must come back, through
    /// [`Spool::settle`] or [`Spool::fail`].
    pub(super) fn take(&mut self) -> Vec<Entry> {
        let mut size = 0;
        let fitting = self.waiting.iter().take(self.window).take_while(|entry| {
            let first = size == 0;
            size += entry.cost();
            first || size <= BATCH_BYTES
        });
        let count = fitting.count();
        self.sending += count;
        self.waiting.drain(..count).collect()
    }

    /// Takes back what [`Spool::take`] gave and the server answered to: the first `done` are gone for good, `refused`
    /// of them for nothing; the others go out next.
    pub(super) fn settle(&mut self, taken: Vec<Entry>, done: usize, refused: u64) {
        if done > 0 {
            self.window = (self.window * 2).min(BATCH_LENGTH);
            self.strikes = 0;
        }
        self.dropped += refused;
        self.put_back(taken, done);
    }

    /// Takes back what [`Spool::take`] gave when nobody knows what became of it: it goes out again.
    pub(super) fn fail(&mut self, taken: Vec<Entry>) {
        self.window = (taken.len() / 2).max(1);
        self.strikes += u32::from(taken.len() == 1);
        let hopeless = self.strikes >= STRIKES;
        if hopeless {
            self.strikes = 0;
            self.dropped += 1;
        }
        self.put_back(taken, usize::from(hopeless));
    }

    /// Whether anything waits to be sent.
    pub(super) fn has_work(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether nothing waits and nothing is being sent.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.sending == 0
    }

    /// Bytes held, overhead included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Messages given up so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn put_back(&mut self, mut taken: Vec<Entry>, done: usize) {
        self.sending -= taken.len();
        self.bytes -= taken[..done].iter().map(Entry::cost).sum::<u64>();
        for entry in taken.drain(done..).rev() {
            self.waiting.push_front(entry);
        }
    }

    fn number(&mut self, topic: &Topic) -> (Arc<Lane>, u64) {
        if !self.lanes.contains_key(topic) {
            let lane = Lane { topic: topic.clone(), name: name::channel_of(topic) };
            self.lanes.insert(topic.clone(), (Arc::new(lane), 0));
        }
        let (lane, last) = self.lanes.get_mut(topic).expect("inserted above");
        *last += 1;
        (Arc::clone(lane), *last)
    }
}

impl Entry {
    fn cost(&self) -> u64 {
        self.record.payload.len() as u64 + OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use herdwire_ipc::Tag;
    use proptest::prelude::*;

    use super::*;

    fn message(channel: &str, size: usize) -> Message {
        Message {
            topic: Topic::new("shop", channel),
            session: None,
            tag: Tag::Bytes,
            payload: Bytes::from(vec![0; size]),
        }
    }

    fn spool_of(messages: u64, size: u64) -> Spool {
        Spool::new(messages * (size + OVERHEAD))
    }

    fn numbers(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.sequence).collect()
    }

    #[test]
    fn each_channel_is_numbered_from_one() {
        let mut spool = spool_of(10, 8);
        for channel in ["orders", "orders", "chat", "orders"] {
            spool.push(message(channel, 8));
        }
        let taken = spool.take();
        assert_eq!(numbers(&taken), [1, 2, 1, 3]);
        assert_eq!(taken[2].lane.name, "hw:{shop}:chat");
    }

    #[test]
    fn when_it_is_full_the_oldest_goes_and_its_number_with_it() {
        let mut spool = spool_of(3, 8);
        (0..5).for_each(|_| spool.push(message("orders", 8)));
        assert_eq!((spool.dropped(), spool.bytes()), (2, 3 * (8 + OVERHEAD)));
        assert_eq!(numbers(&spool.take()), [3, 4, 5]);
    }

    #[test]
    fn a_message_larger_than_the_spool_is_given_up_itself() {
        let mut spool = spool_of(2, 8);
        spool.push(message("orders", 1000));
        spool.push(message("orders", 8));
        assert_eq!((spool.dropped(), numbers(&spool.take())), (1, vec![2]));
    }

    #[test]
    fn what_is_being_sent_is_not_given_up() {
        let mut spool = spool_of(2, 8);
        (0..2).for_each(|_| spool.push(message("orders", 8)));
        let taken = spool.take();
        spool.push(message("orders", 8));
        assert_eq!((spool.dropped(), spool.has_work(), spool.is_empty()), (1, false, false));
        spool.settle(taken, 0, 0);
        assert_eq!(numbers(&spool.take()), [1, 2]);
    }

    #[test]
    fn what_was_not_sent_goes_out_first_the_next_time() {
        let mut spool = spool_of(10, 8);
        (0..4).for_each(|_| spool.push(message("orders", 8)));
        let taken = spool.take();
        spool.push(message("orders", 8));
        spool.settle(taken, 1, 0);
        assert_eq!(numbers(&spool.take()), [2, 3, 4, 5]);
    }

    #[test]
    fn a_batch_is_bounded_but_takes_a_message_of_any_size() {
        let mut spool = Spool::new(64 << 20);
        spool.push(message("orders", 1 << 20));
        (0..3).for_each(|_| spool.push(message("orders", 100 * 1024)));
        assert_eq!(numbers(&spool.take()), [1]);
        assert_eq!(numbers(&spool.take()), [2, 3]);
        assert_eq!(numbers(&spool.take()), [4]);
        assert!(spool.take().is_empty());
    }

    /// Sends until nothing waits; what holds `poison` fails. Returns what got through and how often it failed.
    fn send_all_but(spool: &mut Spool, poison: u64) -> (Vec<u64>, u32) {
        let (mut sent, mut failures) = (Vec::new(), 0);
        while spool.has_work() {
            let taken = spool.take();
            if numbers(&taken).contains(&poison) {
                spool.fail(taken);
                failures += 1;
            } else {
                sent.extend(numbers(&taken));
                let done = taken.len();
                spool.settle(taken, done, 0);
            }
        }
        (sent, failures)
    }

    #[test]
    fn one_message_that_cannot_be_sent_is_found_and_given_up_and_all_others_leave() {
        for poison in [1, 2, 700, 999, 1000] {
            let mut spool = spool_of(1000, 8);
            (0..1000).for_each(|_| spool.push(message("orders", 8)));
            let (sent, failures) = send_all_but(&mut spool, poison);
            assert_eq!(sent, (1..=1000).filter(|number| *number != poison).collect::<Vec<_>>());
            assert_eq!((spool.dropped(), spool.bytes(), spool.is_empty()), (1, 0, true));
            assert!(failures < 40, "{failures} failures for number {poison}");
        }
    }

    proptest! {
        #[test]
        fn in_order_within_its_bound_and_nothing_uncounted(
            steps in prop::collection::vec((0usize..3, 0usize..400, 0usize..6), 1..80)
        ) {
            let mut spool = Spool::new(2_000);
            let (mut pushed, mut sent, mut last) = (0, 0, 0);
            for (action, size, done) in steps {
                if action > 0 {
                    spool.push(message("orders", size));
                    pushed += 1;
                } else {
                    let taken = spool.take();
                    let done = done.min(taken.len());
                    for entry in &taken[..done] {
                        prop_assert!(entry.sequence > last);
                        last = entry.sequence;
                        sent += 1;
                    }
                    spool.settle(taken, done, 0);
                }
                prop_assert!(spool.bytes() <= 2_000);
                prop_assert_eq!(spool.bytes(), spool.waiting.iter().map(Entry::cost).sum::<u64>());
                prop_assert_eq!(pushed, sent + spool.dropped() + spool.waiting.len() as u64);
            }
        }
    }
}
