//! The bridge against a real redis-server.

#[path = "support/redis.rs"]
mod redis;

use std::time::{Duration, Instant};

use bytes::Bytes;
use herdwire::bridge::Bridge;
use herdwire::config::spec::RedisSettings;
use herdwire::relay::{Message, NodeId, Origin, SessionId, Topic};
use herdwire::snapshot::BridgeState;
use herdwire_ipc::Tag;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use redis::Redis;

/// How long anything may take that should happen at once.
const SOON: Duration = Duration::from_secs(30);

/// One host: its bridge and what arrived.
struct Host {
    bridge: Bridge,
    arrivals: mpsc::Receiver<(Origin, Message)>,
    shutdown: CancellationToken,
}

impl Host {
    fn start(url: &str, node: u64) -> Host {
        Host::start_with_spool(url, node, 8 << 20)
    }

    fn start_with_spool(url: &str, node: u64, spool_bytes: u64) -> Host {
        let (sender, arrivals) = mpsc::channel(100_000);
        let shutdown = CancellationToken::new();
        let settings = RedisSettings { url: url.to_owned(), spool_bytes };
        let incarnation = getrandom::u64().expect("random");
        let bridge = Bridge::start(settings, NodeId(node), incarnation, sender, shutdown.clone());
        bridge.set_topics([orders()]);
        Host { bridge, arrivals, shutdown }
    }

    async fn connected(url: &str, node: u64) -> Host {
        let host = Host::start(url, node);
        host.until("it is connected", |host| host.is_connected()).await;
        host
    }

    fn is_connected(&self) -> bool {
        self.bridge.view().state == BridgeState::Connected
    }

    fn waits_because(&self) -> String {
        match self.bridge.view().state {
            BridgeState::Connected => String::new(),
            BridgeState::Waiting(sentence) => sentence,
        }
    }

    fn publish(&self, numbers: impl IntoIterator<Item = u32>) {
        numbers.into_iter().for_each(|number| self.bridge.publish(message(&number.to_string())));
    }

    /// The next message.
    async fn next(&mut self) -> Message {
        let (origin, message) = tokio::time::timeout(SOON, self.arrivals.recv())
            .await
            .expect("something arrives")
            .expect("the bridge runs");
        assert_eq!(origin, Origin::Bridge);
        message
    }

    /// All numbers that arrive up to and with `last`.
    async fn numbers_until(&mut self, last: u32) -> Vec<u32> {
        let mut numbers = Vec::new();
        while numbers.last() != Some(&last) {
            numbers.push(number_in(&self.next().await));
        }
        numbers
    }

    async fn until(&self, what: &str, condition: impl Fn(&Host) -> bool) {
        let deadline = Instant::now() + SOON;
        while !condition(self) {
            assert!(Instant::now() < deadline, "in time: {what}; {:?}", self.bridge.view());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(SOON, self.bridge.stopped()).await.expect("the bridge stops");
    }
}

fn orders() -> Topic {
    Topic::new("shop", "orders")
}

fn message(text: &str) -> Message {
    Message { topic: orders(), session: None, tag: Tag::Text, payload: Bytes::from(text.to_owned()) }
}

fn number_in(message: &Message) -> u32 {
    std::str::from_utf8(&message.payload).expect("text").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_exchange_a_channel_both_ways_and_hear_nothing_of_their_own() {
    let Some(redis) = Redis::start() else { return };
    let mut here = Host::connected(&redis.url(), 1).await;
    let mut there = Host::connected(&redis.url(), 2).await;
    here.publish(0..2_000);
    there.publish(10_000..12_000);
    assert_eq!(there.numbers_until(1_999).await, (0..2_000).collect::<Vec<_>>());
    assert_eq!(here.numbers_until(11_999).await, (10_000..12_000).collect::<Vec<_>>());
    // Had an echo entered anywhere, it would have come before this one.
    here.publish([1]);
    there.publish([2]);
    assert_eq!((there.numbers_until(1).await, here.numbers_until(2).await), (vec![1], vec![2]));
    here.until("all is counted", |host| (host.bridge.view().sent, host.bridge.view().received) == (2_001, 2_001)).await;
    let view = here.bridge.view();
    assert_eq!((view.dropped, view.missed, view.spooled_bytes, view.reconnects), (0, 0, 0, 0));
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn a_message_arrives_as_it_was_published_and_only_on_channels_that_cross() {
    let Some(redis) = Redis::start() else { return };
    let here = Host::connected(&redis.url(), 1).await;
    let mut there = Host::connected(&redis.url(), 2).await;
    let odd = Topic::new("żółw:{1}", "a%b:c\n");
    there.bridge.set_topics([orders(), odd.clone()]);
    here.bridge.set_topics([orders(), odd.clone(), Topic::new("shop", "other")]);
    let whole = Message {
        topic: odd,
        session: Some(SessionId::new(NodeId(2), 77)),
        tag: Tag::Msgpack,
        payload: Bytes::from(vec![0x5a; 3 << 20]),
    };
    // Subscribing takes a moment that this host cannot see: what comes before it is not for it.
    let deadline = Instant::now() + SOON;
    let arrived = loop {
        here.bridge.publish(Message { topic: Topic::new("shop", "other"), ..message("0") });
        here.bridge.publish(whole.clone());
        let wait = tokio::time::timeout(Duration::from_millis(200), there.arrivals.recv()).await;
        match wait {
            Ok(arrived) => break arrived.expect("the bridge runs").1,
            Err(_) => assert!(Instant::now() < deadline, "it arrives in time"),
        }
    };
    assert_eq!(arrived, whole);
    there.bridge.set_topics([]);
    here.stop().await;
    there.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_redis_is_killed_and_started_again_the_bridge_is_back_and_nothing_comes_twice() {
    let Some(mut redis) = Redis::start() else { return };
    let mut here = Host::connected(&redis.url(), 1).await;
    let mut there = Host::connected(&redis.url(), 2).await;
    here.publish(0..100);
    let mut arrived = there.numbers_until(99).await;
    for round in 1..=3 {
        redis.kill();
        here.until("both have noticed", |_| !here.is_connected() && !there.is_connected()).await;
        here.publish(round * 1_000..round * 1_000 + 500);
        assert!(here.bridge.view().spooled_bytes > 0);
        redis.restart();
        let since = Instant::now();
        here.until("both are back", |_| here.is_connected() && there.is_connected()).await;
        let back = since.elapsed();
        assert!(back < Duration::from_secs(5), "back after {back:?}");
        // Who comes back first sends first, perhaps before the other listens; that is missed, and counted.
        here.until("the spool is empty", |host| host.bridge.view().spooled_bytes == 0).await;
        here.publish([round * 1_000 + 999]);
        arrived.extend(there.numbers_until(round * 1_000 + 999).await);
    }
    assert!(arrived.is_sorted_by(|a, b| a < b), "in order and none twice");
    here.until("all is counted", |host| host.bridge.view().sent == 100 + 3 * 501).await;
    let (sent, heard) = (here.bridge.view(), there.bridge.view());
    assert_eq!((sent.sent, sent.dropped, sent.reconnects), (100 + 3 * 501, 0, 3));
    assert_eq!(arrived.len() as u64 + heard.missed, sent.sent, "what did not arrive was counted");
    assert!(here.arrivals.try_recv().is_err(), "no echo");
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn what_is_published_before_redis_is_there_leaves_in_order_once_it_is() {
    let Some(mut redis) = Redis::start() else { return };
    let mut there = Host::connected(&redis.url(), 2).await;
    redis.kill();
    let here = Host::start(&redis.url(), 1);
    here.publish(0..1_000);
    there.until("the other has noticed", |host| !host.is_connected()).await;
    assert!(here.waits_because().contains("127.0.0.1") || here.waits_because() == "not connected yet");
    redis.restart();
    there.until("the other is back", |host| host.is_connected()).await;
    here.publish([1_000]);
    let arrived = there.numbers_until(1_000).await;
    assert!(arrived.is_sorted_by(|a, b| a < b));
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn a_frozen_redis_delays_nobody_who_publishes_and_loses_nothing() {
    let Some(redis) = Redis::start() else { return };
    let here = Host::connected(&redis.url(), 1).await;
    let mut there = Host::connected(&redis.url(), 2).await;
    redis.freeze();
    let (frozen, mut longest, mut number) = (Instant::now(), Duration::ZERO, 0);
    while frozen.elapsed() < Duration::from_secs(3) {
        let since = Instant::now();
        here.publish([number]);
        longest = longest.max(since.elapsed());
        number += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    redis.thaw();
    assert!(longest < Duration::from_millis(500), "a publish took {longest:?}");
    assert_eq!(there.numbers_until(number - 1).await, (0..number).collect::<Vec<_>>());
    assert_eq!((here.bridge.view().reconnects, there.bridge.view().missed), (0, 0));
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn a_redis_that_stays_frozen_is_found_out_and_what_was_under_way_comes_once() {
    let Some(redis) = Redis::start() else { return };
    let here = Host::connected(&redis.url(), 1).await;
    let mut there = Host::connected(&redis.url(), 2).await;
    redis.freeze();
    here.publish(0..100);
    here.until("both have noticed", |_| !here.is_connected() && !there.is_connected()).await;
    assert!(here.waits_because().contains("did not answer"), "{}", here.waits_because());
    redis.thaw();
    here.until("both are back", |_| here.is_connected() && there.is_connected()).await;
    here.until("all is sent", |host| host.bridge.view().spooled_bytes == 0).await;
    here.publish([100]);
    let arrived = there.numbers_until(100).await;
    assert!(arrived.is_sorted_by(|a, b| a < b), "the server ran both the old commands and the new ones");
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn while_redis_is_away_the_spool_is_bounded_and_its_oldest_messages_are_given_up() {
    let Some(mut redis) = Redis::start() else { return };
    let mut there = Host::connected(&redis.url(), 2).await;
    let here = Host::start_with_spool(&redis.url(), 1, 64 * 1024);
    here.until("it is connected", |host| host.is_connected()).await;
    here.publish([0]);
    there.numbers_until(0).await;
    redis.kill();
    here.until("both have noticed", |_| !here.is_connected() && !there.is_connected()).await;
    here.publish(1..=100_000);
    let full = here.bridge.view();
    assert!(full.spooled_bytes <= 64 * 1024 && full.dropped > 90_000, "{full:?}");
    redis.restart();
    here.until("both are back", |_| here.is_connected() && there.is_connected()).await;
    here.until("the spool is empty", |host| host.bridge.view().spooled_bytes == 0).await;
    here.publish([100_001]);
    let arrived = there.numbers_until(100_001).await;
    assert!(arrived.is_sorted_by(|a, b| a < b));
    assert_eq!(there.bridge.view().missed + arrived.len() as u64, 100_001, "the others know how many they missed");
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_one_clear_sentence_without_the_password() {
    let Some(redis) = Redis::start_with_password("right-one") else { return };
    let wrong = Host::start(&redis.url_with_password("wrong-one"), 1);
    wrong.until("it says so", |host| host.waits_because().contains("refused the user or the password")).await;
    assert!(wrong.waits_because().contains("`[redis] url`"));
    let missing = Host::start(&redis.url(), 2);
    missing.until("it says so", |host| host.waits_because().contains("wants a password")).await;
    for host in [&wrong, &missing] {
        let shown = format!("{:?} {:?}", host.bridge.view(), host.bridge);
        assert!(!shown.contains("wrong-one"), "{shown}");
    }
    let right = Host::connected(&redis.url_with_password("right-one"), 3).await;
    assert!(!format!("{:?} {:?}", right.bridge.view(), right.bridge).contains("right-one"));
    for host in [wrong, missing, right] {
        host.stop().await;
    }
}

#[tokio::test]
async fn a_replica_is_never_taken_for_healthy() {
    let Some(primary) = Redis::start() else { return };
    let Some(replica) = Redis::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]) else { return };
    let host = Host::start(&replica.url(), 1);
    host.until("it says so", |host| host.waits_because().contains("not a primary but a replica")).await;
    assert_eq!(replica.command(&[b"REPLICAOF", b"NO", b"ONE"]).expect("answers"), "+OK");
    host.until("it is connected once it was promoted", |host| host.is_connected()).await;
    assert_eq!(replica.command(&[b"REPLICAOF", b"127.0.0.1", b"1"]).expect("answers"), "+OK");
    host.until("it notices a demotion", |host| host.waits_because().contains("replica")).await;
    host.stop().await;
}

#[tokio::test]
async fn poison_in_our_channels_is_dropped_and_counted_and_disturbs_nothing() {
    // With its usual limit the server itself would cut off whoever listens when the huge one comes.
    let Some(redis) = Redis::start_with(&["--client-output-buffer-limit", "pubsub 0 0 0"]) else { return };
    let here = Host::connected(&redis.url(), 1).await;
    let mut there = Host::connected(&redis.url(), 2).await;
    let huge = vec![b'x'; 64 << 20];
    let poison: [&[u8]; 6] =
        [b"", b"garbage", b"{\"channel\":\"chan\"}", b"HW\x01\x01", b"HW\x09\x01 of the future", &huge];
    for payload in poison {
        assert_eq!(redis.command(&[b"PUBLISH", b"hw:{shop}:orders", payload]).expect("answers"), ":2");
    }
    here.publish([1]);
    assert_eq!(there.numbers_until(1).await, [1]);
    assert_eq!(there.bridge.refused(), 6);
    assert_eq!((there.bridge.view().missed, there.bridge.view().reconnects), (0, 0));
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn a_message_that_the_server_cannot_take_does_not_hold_up_the_others() {
    let Some(redis) = Redis::start_with(&["--proto-max-bulk-len", "1mb"]) else { return };
    let here = Host::connected(&redis.url(), 1).await;
    let mut there = Host::connected(&redis.url(), 2).await;
    here.publish(0..100);
    here.bridge.publish(Message { payload: Bytes::from(vec![0; 2 << 20]), ..message("") });
    here.publish(100..200);
    assert_eq!(there.numbers_until(199).await, (0..200).collect::<Vec<_>>());
    assert_eq!((here.bridge.view().dropped, there.bridge.view().missed), (1, 1));
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn when_it_ends_what_was_just_published_still_leaves() {
    let Some(redis) = Redis::start() else { return };
    let here = Host::connected(&redis.url(), 1).await;
    let mut there = Host::connected(&redis.url(), 2).await;
    here.publish(0..5_000);
    here.stop().await;
    assert_eq!(there.numbers_until(4_999).await.len(), 5_000);
    there.stop().await;
}

#[tokio::test]
async fn a_host_that_is_told_nonsense_says_so_and_still_takes_messages() {
    let host = Host::start("nonsense", 1);
    host.until("it says so", |host| host.waits_because().contains("`[redis] url` is not a URL")).await;
    host.publish([1]);
    assert!(host.bridge.view().spooled_bytes > 0);
    host.stop().await;
}
