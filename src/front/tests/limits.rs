//! What happens to those who ask too much.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herdwire_ipc::Tag;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Ws;

use crate::relay::{SessionId, Topic};

use super::super::connection::Connection;
use super::super::limits::Limits;
use super::super::sessions::Sessions;
use super::client::{Raw, browser, frame, get, handshake, heard, soon, text, until};
use super::stand::{NODE, Plan, path, stand};

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn a_session_that_does_not_keep_up_is_closed_and_counted_and_costs_no_memory() {
    let mut plan = Plan::new();
    plan.limits.slow_close = Duration::from_secs(600);
    let stand = plan.start().await;
    let mut slow = Vec::new();
    for _ in 0..5 {
        slow.push(Raw::connect_narrow(stand.address()).await.opened("/chat").await);
    }
    let mut quick = browser(stand.address(), "/chat").await;
    let before = resident_bytes();
    let message = Bytes::from(vec![b'x'; 64 * 1024]);
    for _ in 0..4000 {
        stand.front.broadcast(&Topic::new("shop", "chat"), Tag::Text, message.clone());
        assert_eq!(heard(&mut quick).await.len(), message.len());
    }
    assert!(resident_bytes() < before + (100 << 20), "250 MiB were sent, none of them may be kept");
    assert_eq!(stand.front.view().slow_closed, 5);

    // One that reads again at last gets what was under way, whole, and the reason.
    assert_eq!(slow[0].closed().await, 4101);
    drop(slow);
    until(|| stand.front.view().sessions == 1).await;
}

#[tokio::test]
async fn a_session_that_takes_nothing_though_its_queue_has_room_is_closed_too() {
    let mut plan = Plan::new();
    plan.limits.patience.stalled = Duration::from_millis(300);
    plan.limits.slow_close = Duration::from_millis(100);
    plan.settings.paths[0].queue_bytes = 100 << 20;
    let stand = plan.start().await;
    let slow = Raw::connect_narrow(stand.address()).await.opened("/chat").await;
    let message = Bytes::from(vec![b'x'; 8 << 20]);
    stand.front.broadcast(&Topic::new("shop", "chat"), Tag::Text, message);
    until(|| stand.front.view().sessions == 0).await;
    assert_eq!(stand.front.view().slow_closed, 1);
    drop(slow);
}

#[tokio::test]
async fn a_flood_of_pings_that_nobody_reads_the_answers_to_is_survived() {
    let mut stand = stand().await;
    let mut raw = Raw::connect_narrow(stand.address()).await.opened("/chat").await;
    let pings = frame(0x89, &[b'p'; 125]).repeat(10_000);
    for _ in 0..15 {
        raw.send(&pings).await;
    }
    raw.send(&text("done")).await;
    assert_eq!(stand.arrival().await.payload, "done");
    assert_eq!(stand.front.view().slow_closed, 0);
}

#[tokio::test]
async fn while_the_relay_has_no_room_the_browser_waits_and_nothing_is_lost() {
    let mut plan = Plan::new();
    plan.room = 4;
    plan.limits.arrival = Duration::from_secs(60);
    let mut stand = plan.start().await;
    let payload = "x".repeat(10_000);
    let all: Vec<u8> = (0..2000).flat_map(|number| text(&format!("{number} {payload}"))).collect();
    let mut raw = Raw::open(stand.address(), "/chat").await;
    let mut sending = raw.send_in_background(all);
    until(|| stand.front.view().received == 4).await;

    // What others say still reaches it meanwhile, and it cannot get rid of 20 MB that nobody reads.
    stand.publish("chat", "true");
    assert_eq!(raw.message().await, Some((0x81, b"true".to_vec())));
    let sent = timeout(Duration::from_secs(1), &mut sending).await;
    assert!(sent.is_err(), "{sent:?} {:?}", stand.front.view());
    assert_eq!(stand.front.view().received, 4);

    for number in 0..2000 {
        let message = stand.arrival().await;
        assert!(message.payload.starts_with(format!("{number} x").as_bytes()), "{number}");
    }
    soon(sending).await.unwrap();
}

#[tokio::test]
async fn a_message_that_finds_no_room_for_too_long_closes_the_session_and_says_so() {
    let mut plan = Plan::new();
    plan.room = 1;
    plan.limits.arrival = Duration::from_millis(100);
    let stand = plan.start().await;
    let mut raw = Raw::open(stand.address(), "/chat").await;
    raw.send(&[text("1"), text("2")].concat()).await;
    assert_eq!(raw.closed().await, 4100);
    assert_eq!(stand.front.view().received, 1);
}

#[tokio::test]
async fn a_silent_peer_is_pinged_and_then_closed_but_one_that_answers_stays() {
    let mut plan = Plan::new();
    plan.limits.patience.ping_every = Duration::from_millis(100);
    plan.limits.patience.silent = Duration::from_secs(4);
    let stand = plan.start().await;
    let mut silent = Raw::open(stand.address(), "/chat").await;
    let mut alive = Raw::open(stand.address(), "/chat").await;
    for _ in 0..20 {
        assert_eq!(alive.frame().await, Some((0x89, vec![])));
        alive.send(&frame(0x8A, b"")).await;
    }
    assert_eq!(silent.frame().await, Some((0x89, vec![])));
    assert_eq!(silent.closed().await, 1008);
    assert!(stand.front.view().sessions >= 1);
    assert_eq!(alive.frame().await, Some((0x89, vec![])));
}

#[tokio::test]
async fn connections_over_the_limit_are_told_so_until_one_ends() {
    let mut plan = Plan::new();
    plan.settings.max_connections = 2;
    let stand = plan.start().await;
    let one = Raw::open(stand.address(), "/chat").await;
    let _two = Raw::open(stand.address(), "/news").await;
    let answer = get(stand.address(), "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "all connections are taken: try again later\n"));
    assert_eq!(stand.front.view().refused, 1);
    drop(one);
    until(|| stand.front.view().sessions == 1).await;
    soon(async { while get(stand.address(), "/").await.status == 503 {} }).await;
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_or_not_at_all_or_is_too_large_is_cut_off() {
    let mut plan = Plan::new();
    plan.limits.header = Duration::from_secs(1);
    let stand = plan.start().await;
    let mut slow = Raw::connect(stand.address()).await;
    slow.send(b"GET / HTTP/1.1\r\nHost: ").await;
    assert!(slow.ended().await);
    let mut mute = Raw::connect(stand.address()).await;
    assert!(mute.ended().await);
    let mut idle = Raw::connect(stand.address()).await;
    idle.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 404);

    let mut large = Raw::connect(stand.address()).await;
    large.send_quietly(handshake("/chat", &format!("X: {}\r\n", "x".repeat(20_000))).as_bytes()).await;
    assert_eq!(large.answer().await.status, 431);
    let mut many = Raw::connect(stand.address()).await;
    many.send_quietly(handshake("/chat", &"X: y\r\n".repeat(100)).as_bytes()).await;
    assert_eq!(many.answer().await.status, 431);
}

#[tokio::test]
async fn quick_sessions_are_not_thrown_out_by_a_message_larger_than_their_queue() {
    let stand = stand().await;
    let mut browser = browser(stand.address(), "/chat").await;
    let large = "x".repeat(1 << 20);
    stand.publish("chat", &large);
    assert_eq!(heard(&mut browser).await, Ws::text(large));
    assert_eq!(stand.front.view().slow_closed, 0);
}

#[tokio::test]
async fn the_task_of_an_idle_session_is_small() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let sessions = Arc::new(Sessions::new(&[path("/chat", &["chat"])]));
    let member = sessions.join(&sessions.paths()[0], SessionId::new(NODE, 1));
    let (arrivals, _receiver) = tokio::sync::mpsc::channel(1);
    let mut connection = Connection::new(stream, &[], member, arrivals, Arc::new(Limits::default()));
    let task = size_of::<Connection>() + size_of_val(&connection.run());
    assert!(task <= 1024, "{task} bytes");
}
