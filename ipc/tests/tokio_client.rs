//! The tokio client against a supervisor made by hand.
#![cfg(feature = "tokio")]

mod common;

use std::time::{Duration, Instant};

use common::supervisor::Supervisor;
use common::{Herd, deadline};
use herdwire_ipc::ReceiveError;
use herdwire_ipc::tokio::connect_over;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_hear_each_other_across_both_kinds_of_client() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, mut inbox) = connect_over(supervisor.link(1)).await.unwrap();
    let link = supervisor.link(2);
    let (two, mut other) = tokio::task::spawn_blocking(|| herdwire_ipc::connect_over(link).unwrap()).await.unwrap();
    let chat = one.subscribe("chat").await.unwrap();
    let same = tokio::task::spawn_blocking({
        let two = two.clone();
        move || two.subscribe("chat").unwrap()
    });
    let same = same.await.unwrap();
    two.publish(&same, "from a thread").unwrap();
    assert_eq!(inbox.next_timeout(LONG).await.unwrap().unwrap().payload(), b"from a thread");
    one.publish(&chat, "from a task").await.unwrap();
    assert_eq!(other.next_timeout(LONG).unwrap().unwrap().payload(), b"from a task");
    assert_eq!(inbox.next_timeout(Duration::from_millis(5)).await, Err(ReceiveError::TimedOut));
    tokio::task::spawn_blocking(move || drop((two, other))).await.unwrap();
}

#[tokio::test]
async fn many_messages_arrive_once_and_in_order_both_ways_on_one_thread() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, inbox_one) = connect_over(supervisor.link(1)).await.unwrap();
    let (two, inbox_two) = connect_over(supervisor.link(2)).await.unwrap();
    let flood = one.subscribe("flood").await.unwrap();
    two.subscribe("flood").await.unwrap();
    const TOTAL: u64 = 20_000;
    let tasks: Vec<_> = [(one, inbox_one), (two, inbox_two)]
        .into_iter()
        .map(|(herd, mut inbox)| {
            let flood = flood.clone();
            tokio::spawn(async move {
                for number in 0..TOTAL {
                    herd.publish(&flood, number.to_le_bytes()).await.unwrap();
                }
                for number in 0..TOTAL {
                    let message = inbox.next_timeout(LONG).await.unwrap().unwrap();
                    assert_eq!(message.payload(), number.to_le_bytes());
                }
                assert_eq!(inbox.lost().await, []);
                (herd, inbox)
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_batch_larger_than_the_ring_arrives_whole() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, _inbox) = connect_over(supervisor.link(1)).await.unwrap();
    let (two, mut other) = connect_over(supervisor.link(2)).await.unwrap();
    let flood = two.subscribe("flood").await.unwrap();
    let writer = tokio::spawn(async move {
        let payloads = (0..5000u32).map(u32::to_le_bytes);
        assert_eq!(one.publish_many(&flood, payloads).await.unwrap(), 5000);
        (one, _inbox)
    });
    for number in 0..5000u32 {
        let message = other.next_timeout(LONG).await.unwrap().unwrap();
        assert_eq!(message.payload(), number.to_le_bytes());
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn a_flood_does_not_starve_the_other_tasks_of_its_thread() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, mut inbox) = connect_over(supervisor.link(1)).await.unwrap();
    one.subscribe("flood").await.unwrap();
    let link = supervisor.link(2);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flooder = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let (herd, _inbox) = herdwire_ipc::connect_over(link).unwrap();
            let flood = herd.channel("flood").unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                herd.publish(&flood, "x").unwrap();
            }
        }
    });
    let ticks = tokio::spawn(async {
        let mut ticks = 0;
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            tokio::task::yield_now().await;
            ticks += 1;
        }
        ticks
    });
    let deadline = deadline();
    let mut received = 0u64;
    while !ticks.is_finished() || received == 0 {
        inbox.next_timeout(LONG).await.unwrap().unwrap();
        received += 1;
        assert!(Instant::now() < deadline);
    }
    assert!(ticks.await.unwrap() > 10);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    // It may wait for room that we have to make.
    while !flooder.is_finished() {
        let _ = inbox.next_timeout(Duration::from_millis(5)).await;
    }
    flooder.join().unwrap();
}

#[tokio::test]
async fn a_receive_that_is_cancelled_loses_nothing() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, _inbox) = connect_over(supervisor.link(1)).await.unwrap();
    let (two, mut other) = connect_over(supervisor.link(2)).await.unwrap();
    let chat = two.subscribe("chat").await.unwrap();
    let mut received = 0u32;
    let deadline = deadline();
    for number in 0..200u32 {
        one.publish(&chat, number.to_le_bytes()).await.unwrap();
        tokio::select! {
            biased;
            () = tokio::task::yield_now() => {}
            message = other.next() => {
                assert_eq!(message.unwrap().unwrap().payload(), received.to_le_bytes());
                received += 1;
            }
        }
    }
    while received < 200 {
        assert_eq!(other.next_timeout(LONG).await.unwrap().unwrap().payload(), received.to_le_bytes());
        received += 1;
        assert!(Instant::now() < deadline);
    }
}
