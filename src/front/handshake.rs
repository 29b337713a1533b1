//! The WebSocket handshake as a rule: what a request must bring, and what the answer says.
//!
//! Pure: looks at a request's head and the path's settings, answers with what to send back. Owns no connection
//! (`http`).
//!
//! Invariants
//! - The origin is judged before the token: a stranger's page does not learn whether a token is right.
//! - Neither a refusal nor anything else here shows a token or a query.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Version};

use crate::config::spec::Handshake;

use super::{origin, token};

/// How the two sides talk once the connection is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// No subprotocol: [`super::plain`]. `herdwire.v1` gets its place beside it.
    Plain,
}

/// A handshake that is accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: String,
    /// What was agreed on.
    pub protocol: Protocol,
}

/// Why a handshake is refused. `Display` is the sentence that the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("a WebSocket handshake is a GET")]
    Method,
    #[error("a WebSocket handshake needs HTTP/1.1")]
    HttpVersion,
    #[error("this address speaks WebSocket: ask for an upgrade with `Upgrade: websocket`")]
    NoUpgrade,
    #[error("a WebSocket handshake needs `Connection: Upgrade`")]
    NoConnection,
    #[error("only version 13 of WebSocket is spoken here: send `Sec-WebSocket-Version: 13`")]
    WebSocketVersion,
    #[error("`Sec-WebSocket-Key` must be there once and be the base64 of 16 bytes")]
    Key,
    #[error("a WebSocket handshake has no body")]
    Body,
    #[error("pages of this origin may not connect here: list it under `origins` of [front] if they should")]
    Origin,
    #[error("a token is needed: send it as `Authorization: Bearer TOKEN` or as `?token=TOKEN`")]
    NoToken,
    #[error("the token is not the right one")]
    WrongToken,
}

impl Refusal {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::NoUpgrade | Refusal::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Refusal::HttpVersion | Refusal::NoConnection | Refusal::Key | Refusal::Body => StatusCode::BAD_REQUEST,
            Refusal::Origin => StatusCode::FORBIDDEN,
            Refusal::NoToken | Refusal::WrongToken => StatusCode::UNAUTHORIZED,
        }
    }

    /// The header that the status asks for.
    pub fn header(self) -> Option<(HeaderName, &'static str)> {
        match self {
            Refusal::Method => Some((header::ALLOW, "GET")),
            Refusal::NoUpgrade => Some((header::UPGRADE, "websocket")),
            Refusal::WebSocketVersion => Some((header::SEC_WEBSOCKET_VERSION, "13")),
            Refusal::NoToken | Refusal::WrongToken => Some((header::WWW_AUTHENTICATE, "Bearer")),
            Refusal::HttpVersion | Refusal::NoConnection | Refusal::Key | Refusal::Body | Refusal::Origin => None,
        }
    }
}

/// Judges a request for a WebSocket path.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn judge(request: &Parts, origins: &[String], handshake: &Handshake) -> Result<Accepted, Refusal> {
    let headers = &request.headers;
    let key = check_upgrade(request)?;
    check_origin(headers, origins)?;
    check_token(request, handshake)?;
    Ok(Accepted { accept: accept(key), protocol: choose_protocol(headers) })
}

/// The answer's `Sec-WebSocket-Accept` (RFC 6455, 4.2.2).
fn accept(key: &[u8]) -> String {
    let mut digest = sha1_smol::Sha1::new();
    digest.update(key);
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest.digest().bytes())
}

/// Checks the form (RFC 6455, 4.2.1) and gives back the key.
fn check_upgrade(request: &Parts) -> Result<&[u8], Refusal> {
    let headers = &request.headers;
    if request.method != Method::GET {
        return Err(Refusal::Method);
    }
    if !has_token(headers, &header::UPGRADE, "websocket") {
        return Err(Refusal::NoUpgrade);
    }
    if request.version != Version::HTTP_11 {
        return Err(Refusal::HttpVersion);
    }
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err(Refusal::NoConnection);
    }
    if single(headers, &header::SEC_WEBSOCKET_VERSION) != Some(b"13") {
        return Err(Refusal::WebSocketVersion);
    }
    let length = headers.contains_key(header::CONTENT_LENGTH).then(|| single(headers, &header::CONTENT_LENGTH));
    if length.is_some_and(|length| length != Some(b"0")) || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::Body);
    }
    let key = single(headers, &header::SEC_WEBSOCKET_KEY).ok_or(Refusal::Key)?;
    let mut decoded = [0; 18];
    match STANDARD.decode_slice(key, &mut decoded) {
        Ok(16) => Ok(key),
        _ => Err(Refusal::Key),
    }
}

fn check_origin(headers: &HeaderMap, origins: &[String]) -> Result<(), Refusal> {
    let text = |name: &HeaderName| single(headers, name).and_then(|value| std::str::from_utf8(value).ok());
    let origin = text(&header::ORIGIN);
    // Twice, or not even text: no browser does that.
    if origin.is_none() && headers.contains_key(header::ORIGIN) {
        return Err(Refusal::Origin);
    }
    if origin::allowed(origin, text(&header::HOST), origins) { Ok(()) } else { Err(Refusal::Origin) }
}

fn check_token(request: &Parts, handshake: &Handshake) -> Result<(), Refusal> {
    let Handshake::Token(right) = handshake else {
        return Ok(());
    };
    let shown = token::shown(single(&request.headers, &header::AUTHORIZATION), request.uri.query());
    match shown {
        None => Err(Refusal::NoToken),
        Some(shown) if token::same(&shown, right.as_bytes()) => Ok(()),
        Some(_) => Err(Refusal::WrongToken),
    }
}

/// Which of the offered subprotocols is spoken. None is known yet, so there is none in the answer, which tells a client
/// that wanted one.
fn choose_protocol(_headers: &HeaderMap) -> Protocol {
    Protocol::Plain
}

/// The value of a header that is there exactly once.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value.as_bytes())
}

/// Whether a comma-separated header has this word among its values, in whatever case.
fn has_token(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[(&str, &str)] = &[
        ("host", "example.org"),
        ("upgrade", "websocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = hyper::Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    /// The good request with one header replaced, added or (with an empty value) taken away.
    fn with(name: &'static str, value: &'static str) -> Parts {
        let mut headers: Vec<_> = GOOD.iter().copied().filter(|(known, _)| *known != name).collect();
        if !value.is_empty() {
            headers.push((name, value));
        }
        request("/ws", &headers)
    }

    fn open(request: &Parts) -> Result<Accepted, Refusal> {
        judge(request, &[], &Handshake::Open)
    }

    #[test]
    fn the_example_of_the_rfc_gets_the_answer_printed_there() {
        let accepted = open(&request("/ws", GOOD)).unwrap();
        assert_eq!(accepted.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(accepted.protocol, Protocol::Plain);
    }

    #[test]
    fn each_thing_that_is_missing_or_odd_is_named() {
        for (name, value, refusal) in [
            ("upgrade", "", Refusal::NoUpgrade),
            ("upgrade", "h2c", Refusal::NoUpgrade),
            ("connection", "", Refusal::NoConnection),
            ("connection", "keep-alive", Refusal::NoConnection),
            ("sec-websocket-version", "", Refusal::WebSocketVersion),
            ("sec-websocket-version", "8", Refusal::WebSocketVersion),
            ("sec-websocket-key", "", Refusal::Key),
            ("sec-websocket-key", "short", Refusal::Key),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZTEy", Refusal::Key),
            ("content-length", "5", Refusal::Body),
            ("transfer-encoding", "chunked", Refusal::Body),
            ("origin", "http://evil.example", Refusal::Origin),
            ("origin", "null", Refusal::Origin),
        ] {
            assert_eq!(open(&with(name, value)), Err(refusal), "{name}: {value}");
        }
    }

    #[test]
    fn odd_but_right_forms_are_accepted() {
        for (name, value) in [
            ("upgrade", "h2c, WebSocket"),
            ("connection", "UPGRADE"),
            ("content-length", "0"),
            ("origin", "http://example.org"),
            ("sec-websocket-protocol", "somebody.v7"),
        ] {
            assert!(open(&with(name, value)).is_ok(), "{name}: {value}");
        }
    }

    #[test]
    fn a_header_that_must_be_single_is_refused_when_it_is_there_twice() {
        for (name, value, refusal) in [
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==", Refusal::Key),
            ("sec-websocket-version", "13", Refusal::WebSocketVersion),
        ] {
            let headers: Vec<_> = GOOD.iter().copied().chain([(name, value)]).collect();
            assert_eq!(open(&request("/ws", &headers)), Err(refusal));
        }
        let twice = [("origin", "http://example.org"), ("origin", "http://evil.example")];
        let headers: Vec<_> = GOOD.iter().copied().chain(twice).collect();
        assert_eq!(open(&request("/ws", &headers)), Err(Refusal::Origin));
    }

    #[test]
    fn only_get_over_http_1_1_upgrades() {
        let mut post = request("/ws", GOOD);
        post.method = Method::POST;
        assert_eq!(open(&post), Err(Refusal::Method));
        let mut old = request("/ws", GOOD);
        old.version = Version::HTTP_10;
        assert_eq!(open(&old), Err(Refusal::HttpVersion));
    }

    #[test]
    fn a_path_with_a_token_lets_in_only_who_brings_it() {
        let handshake = Handshake::Token("s3cret&more".to_owned());
        let judged = |request: &Parts| judge(request, &[], &handshake).map(|_| ());
        assert_eq!(judged(&request("/ws?token=s3cret%26more", GOOD)), Ok(()));
        assert_eq!(judged(&with("authorization", "Bearer s3cret&more")), Ok(()));
        assert_eq!(judged(&request("/ws", GOOD)), Err(Refusal::NoToken));
        assert_eq!(judged(&request("/ws?token=s3cret", GOOD)), Err(Refusal::WrongToken));
        assert_eq!(judged(&with("authorization", "Bearer s3creT&more")), Err(Refusal::WrongToken));
        assert_eq!(judged(&with("authorization", "Basic s3cret&more")), Err(Refusal::NoToken));
    }

    #[test]
    fn a_page_of_a_strange_origin_does_not_learn_whether_its_token_is_right() {
        for query in ["/ws?token=right", "/ws?token=wrong"] {
            let headers: Vec<_> = GOOD.iter().copied().chain([("origin", "http://evil.example")]).collect();
            let judged = judge(&request(query, &headers), &[], &Handshake::Token("right".to_owned()));
            assert_eq!(judged, Err(Refusal::Origin));
        }
    }
}
