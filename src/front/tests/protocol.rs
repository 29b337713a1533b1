//! RFC 6455 as a peer sees it: fragments, control frames, violations, closing.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message as Ws;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::client::{Raw, browser, frame, heard, soon, text, until};
use super::stand::{Plan, stand};

#[tokio::test]
async fn a_message_in_fragments_arrives_whole_and_a_ping_between_is_answered() {
    let mut stand = stand().await;
    let mut raw = Raw::open(stand.address(), "/chat").await;
    raw.send(&frame(0x01, b"Hel")).await;
    raw.send(&frame(0x89, b"still there?")).await;
    assert_eq!(raw.message().await, Some((0x8A, b"still there?".to_vec())));
    raw.send(&frame(0x80, b"lo")).await;
    assert_eq!(stand.arrival().await.payload, "Hello");
}

#[tokio::test]
async fn a_violation_closes_with_its_code_and_disturbs_nobody() {
    let mut plan = Plan::new();
    plan.settings.paths[0].max_message = 1000;
    let mut stand = plan.start().await;
    let mut other = browser(stand.address(), "/chat").await;
    for (bytes, code) in [
        (b"\x81\x02hi".to_vec(), 1002),
        (frame(0x83, b""), 1002),
        (frame(0xC1, b""), 1002),
        (frame(0x80, b"x"), 1002),
        (frame(0x89, &[0; 126]), 1002),
        (frame(0x88, &[0x03]), 1002),
        (frame(0x88, &1005u16.to_be_bytes()), 1002),
        (frame(0x81, b"\xFF"), 1007),
        (frame(0x82, &[0; 1001]), 1009),
        ([frame(0x02, &[0; 600]), frame(0x80, &[0; 600])].concat(), 1009),
    ] {
        let mut raw = Raw::open(stand.address(), "/chat").await;
        raw.send(&text("before")).await;
        raw.send(&bytes).await;
        assert_eq!(stand.arrival().await.payload, "before");
        assert_eq!(raw.closed().await, code, "{bytes:?}");
    }
    until(|| stand.front.view().sessions == 1).await;
    stand.publish("chat", "1");
    assert_eq!(heard(&mut other).await, Ws::text("1"));
}

#[tokio::test]
async fn the_close_after_a_violation_is_not_lost_to_a_reset_however_much_more_was_under_way() {
    let stand = stand().await;
    let mut raw = Raw::open(stand.address(), "/chat").await;
    let sending = raw.send_in_background([frame(0xC1, b""), vec![0; 8 << 20]].concat());
    assert_eq!(raw.message().await.unwrap().1[..2], 1002u16.to_be_bytes());
    soon(sending).await.expect("all of it is taken");
    assert_eq!(raw.frame().await, None);
}

#[tokio::test]
async fn a_close_is_echoed_and_the_server_ends_the_connection() {
    let stand = stand().await;
    let mut raw = Raw::open(stand.address(), "/chat").await;
    raw.send(&frame(0x88, &[&3001u16.to_be_bytes()[..], b"bye"].concat())).await;
    assert_eq!(raw.message().await, Some((0x88, 3001u16.to_be_bytes().to_vec())));
    assert_eq!(raw.frame().await, None);
    drop(raw);

    let mut raw = Raw::open(stand.address(), "/chat").await;
    raw.send(&frame(0x88, b"")).await;
    assert_eq!(raw.message().await, Some((0x88, vec![])));
    assert_eq!(raw.frame().await, None);
    drop(raw);
    until(|| stand.front.view().sessions == 0).await;
}

#[tokio::test]
async fn tungstenite_closes_cleanly() {
    let stand = stand().await;
    let mut browser = browser(stand.address(), "/chat").await;
    soon(browser.send(Ws::Ping(b"x".to_vec().into()))).await.unwrap();
    assert_eq!(heard(&mut browser).await, Ws::Pong(b"x".to_vec().into()));
    let goodbye = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
    soon(browser.close(Some(goodbye))).await.unwrap();
    let last = heard(&mut browser).await;
    assert_eq!(last, Ws::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })));
    assert!(soon(browser.next()).await.is_none());
}

#[tokio::test]
async fn a_message_is_understood_however_its_bytes_trickle_in() {
    let mut stand = stand().await;
    let mut raw = Raw::open(stand.address(), "/chat").await;
    for byte in [frame(0x01, "zö".as_bytes()), frame(0x80, "lf".as_bytes())].concat() {
        raw.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(stand.arrival().await.payload, "zölf");
}

#[tokio::test]
async fn a_large_message_arrives_unharmed_both_ways() {
    let mut plan = Plan::new();
    plan.settings.paths[0].max_message = 1 << 20;
    plan.settings.paths[0].queue_bytes = 4 << 20;
    let mut stand = plan.start().await;
    let mut raw = Raw::open(stand.address(), "/chat").await;
    let payload: String = ('a'..='z').cycle().take(1 << 20).collect();
    raw.send(&text(&payload)).await;
    assert_eq!(stand.arrival().await.payload, payload);
    stand.publish("chat", &payload);
    assert_eq!(raw.message().await, Some((0x81, payload.into_bytes())));
}

#[tokio::test]
async fn a_connection_that_just_breaks_is_forgotten() {
    let stand = stand().await;
    let raw = Raw::open(stand.address(), "/chat").await;
    let rude = Raw::open(stand.address(), "/chat").await;
    assert_eq!(stand.front.view().sessions, 2);
    drop(raw);
    rude.reset();
    until(|| stand.front.view().sessions == 0).await;
}
