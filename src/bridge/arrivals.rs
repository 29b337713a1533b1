//! What came from other hosts: opened, checked against repetition and loss, and handed on.
//!
//! One task for the life of the bridge; connections come and go beneath it. Where a message goes is the relay's
//! affair.
//!
//! Invariants
//! - What another host sent is delivered at most once and in the order of its numbers.
//! - What carries our own node is never delivered, whichever run of ours sent it.
//! - Waiting for the relay's queue stops nobody but this task: `inbox` drops what does not fit meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::relay::{Message, Origin, Topic};

use super::envelope::{self, Envelope, Malformed};
use super::gaps::Gaps;
use super::inbox::{Inbox, Pushed};
use super::{Shared, Topics};

/// Opens what arrives until `shutdown`, or until nobody wants it any more.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut inbox: Inbox,
    arrivals: mpsc::Sender<(Origin, Message)>,
    shutdown: CancellationToken,
) {
    let mut opener = Opener::new(&shared);
    let work = async {
        while let Some(pushed) = inbox.next().await {
            opener.complain_of_overflow(inbox.overflowed());
            let Some((topic, envelope, repeated)) = opener.open(pushed) else { continue };
            for record in envelope.records.into_iter().skip(repeated) {
                let message =
                    Message { topic: topic.clone(), session: record.session, tag: record.tag, payload: record.payload };
                if arrivals.send((Origin::Bridge, message)).await.is_err() {
                    return;
                }
                shared.counters.received.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    tokio::select! {
        () = work => (),
        () = shutdown.cancelled() => (),
    }
}

/// Knows what came before.
struct Opener<'a> {
    shared: &'a Shared,
    topics: watch::Receiver<Arc<Topics>>,
    listened: Arc<Topics>,
    gaps: Gaps,
    complaints: Seldom,
}

impl<'a> Opener<'a> {
    fn new(shared: &'a Shared) -> Opener<'a> {
        let mut topics = shared.topics.subscribe();
        let listened = Arc::clone(&topics.borrow_and_update());
        Opener { shared, topics, listened, gaps: Gaps::default(), complaints: Seldom::default() }
    }

    /// The channel, the messages, and how many of them came before; `None` if there is nothing to deliver.
    fn open(&mut self, pushed: Pushed) -> Option<(Topic, Envelope, usize)> {
        self.follow_topics();
        // What was under way when we stopped listening is nobody's.
        let topic = std::str::from_utf8(&pushed.channel).ok().and_then(|name| self.listened.get(name))?.clone();
        let envelope = match envelope::decode(pushed.payload) {
            Ok(envelope) => envelope,
            Err(malformed) => {
                self.refuse(&topic, malformed);
                return None;
            }
        };
        if envelope.sender.node == self.shared.sender.node {
            self.complain_of_twin(&topic, &envelope);
            return None;
        }
        let count = envelope.records.len();
        let heard = self.gaps.hear(&topic, envelope.sender, envelope.first, count as u64);
        self.count_missed(&topic, &envelope, heard.missed);
        // At most `count`.
        let repeated = usize::try_from(heard.repeated).unwrap_or(count);
        (repeated < count).then_some((topic, envelope, repeated))
    }

    fn follow_topics(&mut self) {
        // The sender lives in `shared`, so an error cannot be.
        if self.topics.has_changed().unwrap_or(false) {
            self.listened = Arc::clone(&self.topics.borrow_and_update());
            let listened: std::collections::BTreeSet<&Topic> = self.listened.values().collect();
            self.gaps.keep_only(|topic| listened.contains(topic));
        }
    }

    fn refuse(&mut self, topic: &Topic, malformed: Malformed) {
        self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(more) = self.complaints.allow() {
            tracing::warn!(herd = %topic.herd, channel = %topic.channel, more, "dropped what is no envelope: {malformed}");
        }
    }

    fn count_missed(&mut self, topic: &Topic, envelope: &Envelope, missed: u64) {
        if missed == 0 {
            return;
        }
        // The number comes from outside and may be anything: a counter that wraps would say nothing.
        let add = |total: u64| Some(total.saturating_add(missed));
        let counter = &self.shared.counters.missed;
        // Always `Ok`: `add` never gives `None`.
        let _total = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        if let Some(more) = self.complaints.allow() {
            let node = envelope.sender.node;
            tracing::warn!(herd = %topic.herd, channel = %topic.channel, %node, missed, more, "messages of another host were lost on the way");
        }
    }

    fn complain_of_twin(&mut self, topic: &Topic, envelope: &Envelope) {
        if envelope.sender.incarnation != self.shared.sender.incarnation
            && let Some(more) = self.complaints.allow()
        {
            let node = envelope.sender.node;
            tracing::warn!(herd = %topic.herd, channel = %topic.channel, %node, more, "dropped messages that carry this host's own node id: was its home copied to another host?");
        }
    }

    fn complain_of_overflow(&mut self, overflowed: u64) {
        if overflowed > 0
            && let Some(more) = self.complaints.allow()
        {
            tracing::warn!(
                overflowed,
                more,
                "messages of other hosts come faster than they are taken; some were dropped"
            );
        }
    }
}

/// Lets one complaint a second through.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    last: Option<Instant>,
    held_back: u64,
}

impl Seldom {
    /// Whether to speak now, and if so how many were held back since the last time.
    pub(super) fn allow(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < Duration::from_secs(1)) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use herdwire_ipc::Tag;

    use super::super::envelope::{Record, Sender, Writer};
    use super::super::inbox::inbox;
    use super::*;
    use crate::config::spec::RedisSettings;
    use crate::relay::NodeId;

    const OWN: Sender = Sender { node: NodeId(1), incarnation: 1 };
    const OTHER: Sender = Sender { node: NodeId(2), incarnation: 1 };
    const ORDERS: &str = "hw:{shop}:orders";

    /// One envelope of messages that hold their own number.
    fn pushed(channel: &str, sender: Sender, numbers: std::ops::Range<u64>) -> Pushed {
        let mut writer = Writer::new(sender, numbers.start);
        for number in numbers {
            let payload = Bytes::from(number.to_string());
            writer.push(&Record { session: None, tag: Tag::Text, payload });
        }
        Pushed { channel: channel.as_bytes().to_vec(), payload: writer.finish().into() }
    }

    /// What reaches the relay of all this, and how much was missed and refused.
    async fn delivered(all: Vec<Pushed>) -> (Vec<String>, u64, u64) {
        let settings = RedisSettings { url: "redis://h/".to_owned(), spool_bytes: 0 };
        let shared = Arc::new(Shared::new(&settings, OWN));
        shared.set_topics([Topic::new("shop", "orders")]);
        let (entrance, inbox) = inbox(OWN);
        all.into_iter().for_each(|pushed| entrance.offer(pushed));
        drop(entrance);
        let (sender, mut arrivals) = mpsc::channel(1000);
        run(Arc::clone(&shared), inbox, sender, CancellationToken::new()).await;
        let mut delivered = Vec::new();
        while let Some((origin, message)) = arrivals.recv().await {
            assert_eq!((origin, message.topic), (Origin::Bridge, Topic::new("shop", "orders")));
            delivered.push(String::from_utf8(message.payload.to_vec()).expect("text"));
        }
        assert_eq!(shared.counters.received.load(Ordering::Relaxed), delivered.len() as u64);
        (delivered, shared.counters.missed.load(Ordering::Relaxed), shared.counters.refused.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn what_was_sent_again_is_delivered_once_and_what_was_lost_is_counted() {
        let all = vec![
            pushed(ORDERS, OTHER, 1..4),
            pushed(ORDERS, OTHER, 1..4),
            pushed(ORDERS, OTHER, 2..6),
            pushed(ORDERS, OTHER, 9..10),
        ];
        assert_eq!(delivered(all).await, (["1", "2", "3", "4", "5", "9"].map(str::to_owned).to_vec(), 3, 0));
    }

    #[tokio::test]
    async fn nothing_of_our_own_node_is_delivered_whoever_sent_it() {
        let earlier_run = Sender { incarnation: 7, ..OWN };
        let all = vec![pushed(ORDERS, OWN, 1..3), pushed(ORDERS, earlier_run, 5..7), pushed(ORDERS, OTHER, 1..2)];
        assert_eq!(delivered(all).await, (vec!["1".to_owned()], 0, 0));
    }

    #[tokio::test]
    async fn what_comes_on_a_channel_that_does_not_cross_is_nobodys() {
        let all = vec![pushed("hw:{shop}:other", OTHER, 1..3), pushed("hw:{shop}", OTHER, 1..3)];
        assert_eq!(delivered(all).await, (vec![], 0, 0));
    }
}
