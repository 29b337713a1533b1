//! Messages in, messages out.

use bytes::Bytes;
use futures_util::SinkExt;
use herdwire_ipc::Tag;
use tokio_tungstenite::tungstenite::Message as Ws;

use crate::relay::{SessionId, Topic};

use super::client::{Raw, browser, heard, soon, text, until};
use super::stand::{NODE, stand};

#[tokio::test]
async fn a_broadcast_reaches_every_session_that_hears_the_channel_and_no_other() {
    let stand = stand().await;
    let (mut one, mut two) = (browser(stand.address(), "/chat").await, browser(stand.address(), "/chat").await);
    let mut news = browser(stand.address(), "/news").await;
    assert_eq!(stand.front.view().sessions, 3);

    stand.publish("chat", r#"{"n":1}"#);
    stand.publish("news", r#"{"n":2}"#);
    stand.publish("unheard", r#"{"n":3}"#);
    for chat in [&mut one, &mut two] {
        assert_eq!(heard(chat).await, Ws::text(r#"{"n":1}"#));
        assert_eq!(heard(chat).await, Ws::text(r#"{"n":2}"#));
    }
    assert_eq!(heard(&mut news).await, Ws::text(r#"{"n":2}"#));
    until(|| stand.front.view().sent == 5).await;
}

#[tokio::test]
async fn what_a_browser_says_goes_to_the_first_channel_of_its_path_as_it_is() {
    let mut stand = stand().await;
    let mut browser = browser(stand.address(), "/chat").await;
    for (sent, tag, payload) in [
        (Ws::text(r#" {"a": 1} "#), Tag::Json, &b" {\"a\": 1} "[..]),
        (Ws::text("no json"), Tag::Text, b"no json"),
        (Ws::binary(vec![0, 255]), Tag::Bytes, &[0, 255]),
        (Ws::text(""), Tag::Text, b""),
    ] {
        soon(browser.send(sent)).await.unwrap();
        let message = stand.arrival().await;
        assert_eq!(message.topic, Topic::new("shop", "chat"));
        assert_eq!((message.tag, &message.payload[..]), (tag, payload));
        assert_eq!(message.session.unwrap().node(), NODE);
    }
    assert_eq!(stand.front.view().received, 4);
}

#[tokio::test]
async fn an_answer_to_one_session_reaches_that_session_alone() {
    let mut stand = stand().await;
    let (mut one, mut two) = (browser(stand.address(), "/chat").await, browser(stand.address(), "/chat").await);
    soon(one.send(Ws::text("1"))).await.unwrap();
    let session = stand.arrival().await.session.unwrap();
    soon(two.send(Ws::text("2"))).await.unwrap();
    assert_ne!(stand.arrival().await.session.unwrap(), session);

    assert!(stand.front.send_to(session, Tag::Bytes, Bytes::from_static(b"only you")));
    stand.publish("chat", "true");
    assert_eq!(heard(&mut one).await, Ws::binary("only you"));
    assert_eq!(heard(&mut two).await, Ws::text("true"));

    soon(one.close(None)).await.unwrap();
    drop(one);
    until(|| stand.front.view().sessions == 1).await;
    assert!(!stand.front.send_to(session, Tag::Json, Bytes::from_static(b"1")));
    assert!(!stand.front.send_to(SessionId::new(NODE, 1), Tag::Json, Bytes::from_static(b"1")));
}

#[tokio::test]
async fn a_json_ping_gets_its_pong_and_goes_no_further() {
    let mut stand = stand().await;
    let mut browser = browser(stand.address(), "/chat").await;
    soon(browser.send(Ws::text(r#"{"type":"ping"}"#))).await.unwrap();
    assert_eq!(heard(&mut browser).await, Ws::text("{\"type\":\"pong\",\"data\":\"🇺🇦\"}"));
    soon(browser.send(Ws::text("after"))).await.unwrap();
    assert_eq!(stand.arrival().await.payload, "after");
}

#[tokio::test]
async fn a_burst_arrives_complete_and_in_order_on_both_ways() {
    let mut stand = stand().await;
    let mut raw = Raw::open(stand.address(), "/chat").await;
    let all: Vec<u8> = (0..2000).flat_map(|number| text(&format!("{number}"))).collect();
    raw.send(&all).await;
    for number in 0..2000 {
        assert_eq!(stand.arrival().await.payload, format!("{number}"));
        stand.publish("chat", &format!("{number}"));
    }
    for number in 0..2000 {
        let (first, payload) = raw.message().await.unwrap();
        assert_eq!((first, payload), (0x81, format!("{number}").into_bytes()));
    }
}
