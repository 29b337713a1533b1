//! The end: everybody is told, nothing goes on.

use std::time::Duration;

use super::client::{Raw, browser, handshake, soon};
use super::stand::{Plan, stand};

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::Message as Ws;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

#[tokio::test]
async fn every_session_is_told_and_every_task_is_joined() {
    let stand = stand().await;
    let mut sessions = vec![];
    for _ in 0..10 {
        sessions.push(browser(stand.address(), "/chat").await);
    }
    // One that sits between requests, one that sits inside a head.
    let mut idle = Raw::connect(stand.address()).await;
    idle.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut begun = Raw::connect(stand.address()).await;
    begun.send(b"GET / HTTP/1.1\r\n").await;
    let readers: Vec<_> = sessions
        .into_iter()
        .map(|mut session| {
            tokio::spawn(async move {
                let mut last = None;
                while let Some(Ok(message)) = session.next().await {
                    last = Some(message);
                }
                last
            })
        })
        .collect();
    stand.publish("chat", "1");
    stand.stop().await;
    assert_eq!((stand.front.view().sessions, stand.front.gate.tasks.len()), (0, 0));
    for reader in readers {
        let Some(Ws::Close(Some(close))) = soon(reader).await.unwrap() else {
            panic!("the last message must be a close");
        };
        assert_eq!(close.code, CloseCode::Away);
    }
    assert!(tokio::net::TcpStream::connect(stand.address()).await.is_err());
}

#[tokio::test]
async fn whoever_does_not_answer_the_goodbye_is_cut_off() {
    let mut plan = Plan::new();
    plan.limits.close = Duration::from_millis(300);
    plan.limits.shutdown = Duration::from_secs(20);
    let stand = plan.start().await;
    let mut deaf = Raw::open(stand.address(), "/chat").await;
    stand.stop().await;
    assert_eq!(deaf.frame().await.unwrap().0, 0x88);
    assert!(deaf.ended().await);
    assert_eq!(stand.front.gate.tasks.len(), 0);
}

#[tokio::test]
async fn what_does_not_end_within_the_limit_is_cut_off_and_leaves_no_session() {
    let mut plan = Plan::new();
    plan.limits.close = Duration::from_secs(3600);
    plan.limits.shutdown = Duration::from_millis(300);
    let stand = plan.start().await;
    let _deaf = Raw::open(stand.address(), "/chat").await;
    stand.stop().await;
    assert_eq!((stand.front.view().sessions, stand.front.gate.tasks.len()), (0, 0));
}

#[tokio::test]
async fn a_handshake_that_comes_too_late_gets_no_session() {
    let stand = stand().await;
    let mut late = Raw::connect(stand.address()).await;
    // The connection must have been accepted, else there is nobody to answer.
    late.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    late.wait_readable().await;
    stand.shutdown.cancel();
    late.send_quietly(handshake("/chat", "").as_bytes()).await;
    soon(stand.front.stopped()).await;
    assert_eq!(stand.front.view().sessions, 0);
    assert!(!late.answer().await.head.contains("101"));
}

#[tokio::test]
async fn without_a_relay_the_session_is_closed() {
    let mut stand = stand().await;
    stand.arrivals.close();
    let mut raw = Raw::open(stand.address(), "/chat").await;
    raw.send(&super::client::text("anybody?")).await;
    assert_eq!(raw.closed().await, 1001);
}
