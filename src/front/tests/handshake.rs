//! Who gets a session and who gets a sentence instead.

use tokio_tungstenite::tungstenite::Message as Ws;

use crate::config::spec::Handshake;

use super::super::{Front, FrontError, bind};
use super::client::{Raw, browser, get, handshake, heard, request, text};
use super::stand::{NODE, Plan, path, stand};

#[tokio::test]
async fn a_bad_handshake_gets_its_status_and_a_sentence() {
    let stand = stand().await;
    let good = handshake("/chat", "Connection: close\r\n");
    for (from, to, status, sentence) in [
        ("Upgrade: websocket\r\n", "", 426, "speaks WebSocket"),
        ("Connection: Upgrade\r\n", "", 400, "Connection: Upgrade"),
        ("Version: 13", "Version: 8", 426, "version 13"),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400, "Sec-WebSocket-Key"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 400, "16 bytes"),
        ("Host: example.org", "Host: example.org\r\nOrigin: http://evil.example", 403, "origins"),
        ("GET ", "POST ", 405, "GET"),
    ] {
        let answer = request(stand.address(), &good.replacen(from, to, 1)).await;
        assert_eq!(answer.status, status, "{}", answer.head);
        assert!(answer.text().contains(sentence), "{}", answer.text());
    }
    let answer = request(stand.address(), &good.replace("Version: 13", "Version: 8")).await;
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
    assert_eq!(stand.front.view().refused, 8);
    assert_eq!(stand.front.view().sessions, 0);
}

#[tokio::test]
async fn what_is_no_http_gets_an_error_and_disturbs_nobody() {
    let stand = stand().await;
    let mut other = browser(stand.address(), "/chat").await;
    for nonsense in ["nonsense\r\n\r\n", "GET /chat HTTP/9.9\r\n\r\n", "\u{0}\u{1}\u{2}\r\n\r\n"] {
        let mut raw = Raw::connect(stand.address()).await;
        raw.send(nonsense.as_bytes()).await;
        assert_eq!(raw.answer().await.status, 400, "{nonsense:?}");
    }
    stand.publish("chat", "1");
    assert_eq!(heard(&mut other).await, Ws::text("1"));
}

#[tokio::test]
async fn a_token_opens_the_path_that_asks_for_it() {
    let mut plan = Plan::new();
    plan.settings.paths[0].handshake = Handshake::Token("s3cret".into());
    let stand = plan.start().await;
    for (path, more, status) in [
        ("/chat", "", 401),
        ("/chat?token=wrong", "", 401),
        ("/chat?token=s3cret", "", 101),
        ("/chat", "Authorization: Bearer s3cret\r\n", 101),
        ("/chat", "Authorization: Bearer s3cret2\r\n", 401),
        ("/news", "", 101),
    ] {
        let mut raw = Raw::connect(stand.address()).await;
        raw.send(handshake(path, more).as_bytes()).await;
        if status == 101 {
            raw.send(&[0x88, 0x80, 0, 0, 0, 0]).await;
        } else {
            raw.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        }
        let answer = raw.answer().await;
        assert_eq!(answer.status, status, "{path} {more}");
        assert!(!answer.text().contains("s3cret"));
    }
}

#[tokio::test]
async fn a_listed_origin_may_connect_and_the_own_one_without_a_list() {
    let mut plan = Plan::new();
    plan.settings.origins = vec!["https://app.example".into()];
    let listed = plan.start().await;
    let own = stand().await;
    for (stand, origin, status) in [
        (&listed, "https://app.example", 101),
        (&listed, "http://example.org", 403),
        (&own, "http://example.org", 101),
        (&own, "https://app.example", 403),
    ] {
        let mut raw = Raw::connect(stand.address()).await;
        raw.send(handshake("/chat", &format!("Origin: {origin}\r\n")).as_bytes()).await;
        let end = if status == 101 { &[0x88, 0x80, 0, 0, 0, 0][..] } else { b"GET /\r\n\r\n" };
        raw.send(end).await;
        assert_eq!(raw.answer().await.status, status, "{origin}");
    }
}

#[tokio::test]
async fn frames_behind_the_handshake_in_one_packet_are_heard() {
    let mut stand = stand().await;
    let mut raw = Raw::connect(stand.address()).await;
    let packet = [handshake("/chat", "").as_bytes(), &text("early"), &text("bird")].concat();
    raw.send(&packet).await;
    assert_eq!(stand.arrival().await.payload, "early");
    assert_eq!(stand.arrival().await.payload, "bird");
}

#[tokio::test]
async fn a_path_that_nobody_configured_is_not_found() {
    let stand = stand().await;
    let answer = get(stand.address(), "/nowhere").await;
    assert_eq!((answer.status, answer.text().as_str()), (404, "there is nothing at this address\n"));
    assert_eq!(get(stand.address(), "/chat").await.status, 426);
}

#[tokio::test]
async fn settings_that_cannot_be_served_are_refused_with_a_hint() {
    let refused = async |change: fn(&mut Plan)| {
        let mut plan = Plan::new();
        change(&mut plan);
        let (sender, _arrivals) = tokio::sync::mpsc::channel(1);
        let listener = bind(plan.settings.listen).unwrap();
        let error = Front::start(plan.settings, listener, NODE, sender, Default::default()).await.err().unwrap();
        assert!(error.hint().is_some(), "{error}");
        error
    };
    assert!(matches!(refused(|plan| plan.settings.paths[1].channels.clear()).await, FrontError::NoChannel { .. }));
    assert!(matches!(refused(|plan| plan.settings.paths[1].path = "chat".into()).await, FrontError::Path { .. }));
    assert!(matches!(refused(|plan| plan.settings.paths[1].path = "/chat".into()).await, FrontError::Path { .. }));
    assert!(matches!(
        refused(|plan| plan.settings.paths[0].handshake = Handshake::Token(String::new())).await,
        FrontError::EmptyToken { .. }
    ));
    assert!(matches!(
        refused(|plan| plan.settings.files = Some("/nowhere/at/all".into())).await,
        FrontError::Files { .. }
    ));
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind(address).unwrap_err();
    assert_eq!(error.to_string(), format!("front: cannot listen on {address}"));
    assert!(error.hint().unwrap().contains(&address.port().to_string()));
}

#[tokio::test]
async fn a_path_may_have_a_part_that_varies() {
    let mut plan = Plan::new();
    plan.settings.paths.push(path("/room/{name}", &["chat"]));
    let stand = plan.start().await;
    let mut room = browser(stand.address(), "/room/7").await;
    stand.publish("chat", "1");
    assert_eq!(heard(&mut room).await, Ws::text("1"));
}
