//! The frames of the pipe: one JSON object a line. Pure.
//!
//! Reads what a client says, writes what it is told. The protocol for those who write clients stands in
//! `docs/pipe-protocol.md`.
//!
//! Invariants
//! - Whatever a line holds, it is a request or one of [`Bad`]; nothing recurses over it, and nothing that it holds is
//!   allocated beyond its own length.
//! - Fields that are not known are ignored; what a field is, is looked at only where it is needed.
//! - No frame that is written contains a line's end, but for the one that ends it.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use herdwire_ipc::{Slot, Tag};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The version of the protocol that is spoken here.
pub const PROTOCOL: u64 = 1;
/// How deep a JSON payload may be.
const DEPTH: usize = 128;
/// Bytes of an id, at most.
const ID_BYTES: usize = 128;

/// What a client wants.
#[derive(Debug, PartialEq)]
pub enum Request<'a> {
    Hello,
    Subscribe(Cow<'a, str>),
    Unsubscribe(Cow<'a, str>),
    Publish(Publish<'a>),
    Ready,
    Beat,
    Peers,
    /// No messages until `Resume`.
    Pause,
    Resume,
    Leave,
}

/// A message that is to be published.
#[derive(Debug, PartialEq)]
pub struct Publish<'a> {
    pub channel: Cow<'a, str>,
    /// To this instance alone.
    pub to: Option<u32>,
    /// To this browser alone.
    pub session: Option<u128>,
    pub tag: Tag,
    pub payload: Cow<'a, [u8]>,
}

/// A message that was taken from a ring and is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept<'a> {
    pub channel: u16,
    pub from: Slot,
    pub from_incarnation: u32,
    pub tag: Tag,
    pub session: Option<u128>,
    pub alone: bool,
    pub payload: &'a [u8],
}

/// A request, with the client's own name for it if it wants an answer: a JSON number or string, as it was written.
#[derive(Debug, PartialEq)]
pub struct Frame<'a> {
    pub id: Option<&'a str>,
    pub request: Request<'a>,
}

/// Why a line is no request.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad<'a> {
    pub id: Option<&'a str>,
    /// One of the protocol's words for errors.
    pub code: &'static str,
    pub message: String,
}

/// What is known of a frame's fields; the rest is skipped.
#[derive(Default, Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    op: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    protocol: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    channel: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    to: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    session: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    tag: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    text: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    base64: Option<&'a RawValue>,
}

/// A field that is there, `null` included.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads one line, without its end.
///
/// # Errors
/// What is wrong with it, in the protocol's words.
pub fn read(line: &[u8]) -> Result<Frame<'_>, Bad<'_>> {
    let bad = |message: String| Bad { id: None, code: "bad_frame", message };
    let text = std::str::from_utf8(line).map_err(|error| bad(format!("the line is not UTF-8: {error}")))?;
    if !text.trim_start().starts_with('{') {
        return Err(bad("a frame is a JSON object".to_owned()));
    }
    let fields: Fields<'_> =
        serde_json::from_str(text).map_err(|error| bad(format!("the line is no frame: {error}")))?;
    let id = fields.id.map(id).transpose().map_err(bad)?.flatten();
    let with_id = |message: String| Bad { id, code: "bad_frame", message };
    let op: Cow<'_, str> = string(fields.op, "op").map_err(with_id)?;
    let request = match &*op {
        "hello" => match fields.protocol.map(|raw| raw.get()) {
            None | Some("1") => Request::Hello,
            Some(other) => {
                let message = format!("this supervisor speaks version {PROTOCOL} of the protocol, not {other:.20}");
                return Err(Bad { id, code: "version", message });
            }
        },
        "subscribe" => Request::Subscribe(string(fields.channel, "channel").map_err(with_id)?),
        "unsubscribe" => Request::Unsubscribe(string(fields.channel, "channel").map_err(with_id)?),
        "publish" => Request::Publish(publish(&fields).map_err(with_id)?),
        "ready" => Request::Ready,
        "beat" => Request::Beat,
        "peers" => Request::Peers,
        "pause" => Request::Pause,
        "resume" => Request::Resume,
        "leave" => Request::Leave,
        // What the wire is about to get; a client that asks for it learns that it has to do without.
        "request" | "reply" | "done" | "join_group" | "leave_group" => {
            let message = format!("the operation `{op}` belongs to a later version");
            return Err(Bad { id, code: "unsupported", message });
        }
        other => {
            let shown: String = other.chars().take(40).collect();
            let message = format!("there is no operation `{}`", shown.escape_debug());
            return Err(Bad { id, code: "unknown_operation", message });
        }
    };
    Ok(Frame { id, request })
}

/// The client's own name for a request, as it was written; `null` is none.
fn id(raw: &RawValue) -> Result<Option<&str>, String> {
    let text = raw.get();
    let is_id = text.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
    match text {
        "null" => Ok(None),
        _ if !is_id => Err("`id` is neither a number nor a string".to_owned()),
        _ if text.len() > ID_BYTES => Err(format!("`id` has more than {ID_BYTES} bytes")),
        _ => Ok(Some(text)),
    }
}

fn string<'a>(raw: Option<&'a RawValue>, field: &str) -> Result<Cow<'a, str>, String> {
    let raw = raw.ok_or_else(|| format!("`{field}` is missing"))?;
    text(raw).ok_or_else(|| format!("`{field}` must be a string"))
}

/// A string, borrowed where nothing in it is escaped.
fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    match serde_json::from_str::<&str>(raw.get()) {
        Ok(text) => Some(Cow::Borrowed(text)),
        Err(_) => serde_json::from_str::<String>(raw.get()).ok().map(Cow::Owned),
    }
}

fn publish<'a>(fields: &Fields<'a>) -> Result<Publish<'a>, String> {
    let channel = string(fields.channel, "channel")?;
    let to = fields.to.filter(|raw| raw.get() != "null");
    let to = to.map(|raw| raw.get().parse().map_err(|_| "`to` must be an instance's id".to_owned())).transpose()?;
    let session = fields.session.filter(|raw| raw.get() != "null").map(session).transpose()?;
    if to.is_some() && session.is_some() {
        return Err("a message goes `to` an instance or to a `session`, not to both".to_owned());
    }
    let tag = fields.tag.map(tag).transpose()?;
    let (tag, payload) = match (fields.value, fields.text, fields.base64) {
        (Some(value), None, None) => (tag.unwrap_or(Tag::Json), Cow::Borrowed(json(value)?.as_bytes())),
        (None, Some(raw), None) => {
            let text = text(raw).ok_or("`text` must be a string")?;
            let payload = match text {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            };
            (tag.unwrap_or(Tag::Text), payload)
        }
        (None, None, Some(raw)) => {
            let text = text(raw).ok_or("`base64` must be a string")?;
            let bytes = BASE64.decode(text.as_bytes()).map_err(|error| format!("`base64` is not base64: {error}"))?;
            (tag.unwrap_or(Tag::Bytes), Cow::Owned(bytes))
        }
        (None, None, None) => return Err("one of `value`, `text` and `base64` is missing".to_owned()),
        _ => return Err("there may be only one of `value`, `text` and `base64`".to_owned()),
    };
    Ok(Publish { channel, to, session, tag, payload })
}

fn session(raw: &RawValue) -> Result<u128, String> {
    let wrong = || "`session` must be 32 hexadecimal digits in quotes".to_owned();
    let text = text(raw).filter(|text| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    u128::from_str_radix(&text.ok_or_else(wrong)?, 16).map_err(|_| wrong())
}

fn tag(raw: &RawValue) -> Result<Tag, String> {
    let named = |text: Cow<'_, str>| {
        [Tag::Bytes, Tag::Text, Tag::Json, Tag::Msgpack].into_iter().find(|tag| word(*tag) == text)
    };
    text(raw).and_then(named).ok_or_else(|| "`tag` must be `json`, `text`, `bytes` or `msgpack`".to_owned())
}

fn word(tag: Tag) -> &'static str {
    match tag {
        Tag::Bytes => "bytes",
        Tag::Text => "text",
        Tag::Json => "json",
        Tag::Msgpack => "msgpack",
    }
}

/// A payload as it was written, if others can read it.
fn json(raw: &RawValue) -> Result<&str, String> {
    if depth(raw.get().as_bytes()) > DEPTH {
        return Err(format!("`value` is nested deeper than {DEPTH}"));
    }
    Ok(raw.get())
}

/// How deep valid JSON is nested.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

// --- what a client is told ---

/// Puts a number in front of the inside of a frame, and the end behind it.
pub fn number(number: u64, inside: &[u8], line: &mut Vec<u8>) {
    line.extend_from_slice(format!("{{\"n\":{number},").as_bytes());
    line.extend_from_slice(inside);
    line.extend_from_slice(b"}\n");
}

/// The inside of a frame that says something: `"op":"..."`, the id if there is one, and fields.
pub fn inside(op: &str, id: Option<&str>, fields: &[(&str, serde_json::Value)]) -> Vec<u8> {
    let mut text = format!("\"op\":\"{op}\"");
    if let Some(id) = id {
        text.push_str(",\"id\":");
        text.push_str(id);
    }
    for (name, value) in fields {
        text.push_str(&format!(",\"{name}\":{value}"));
    }
    text.into_bytes()
}

/// The inside of an error frame.
pub fn error(id: Option<&str>, code: &str, message: &str) -> Vec<u8> {
    // What was refused may be quoted in it; nobody needs all of it.
    let message: String = message.chars().take(300).collect();
    inside("error", id, &[("error", code.into()), ("message", message.into())])
}

/// The frame of a message. `from` is the instance that published it, if it was one.
pub fn message(number: u64, channel: &str, from: Option<u32>, kept: &Kept<'_>, line: &mut Vec<u8>) {
    line.extend_from_slice(format!("{{\"n\":{number},\"op\":\"message\",\"channel\":").as_bytes());
    quote(channel, line);
    if let Some(from) = from {
        line.extend_from_slice(format!(",\"from\":{from}").as_bytes());
    }
    if let Some(session) = kept.session {
        line.extend_from_slice(format!(",\"session\":\"{session:032x}\"").as_bytes());
    }
    if kept.alone {
        line.extend_from_slice(b",\"alone\":true");
    }
    payload(kept, line);
    line.extend_from_slice(b"}\n");
}

fn payload(kept: &Kept<'_>, line: &mut Vec<u8>) {
    match (kept.tag, std::str::from_utf8(kept.payload)) {
        (Tag::Json, Ok(text)) if is_inline(text) => {
            line.extend_from_slice(b",\"value\":");
            // Between its tokens only: in a string it would have been escaped.
            line.extend(text.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        }
        (Tag::Text, Ok(text)) => {
            line.extend_from_slice(b",\"text\":");
            quote(text, line);
        }
        (tag, _) => {
            line.extend_from_slice(format!(",\"tag\":\"{}\",\"base64\":\"", word(tag)).as_bytes());
            line.extend_from_slice(BASE64.encode(kept.payload).as_bytes());
            line.push(b'"');
        }
    }
}

/// Whether somebody's JSON can stand within ours.
fn is_inline(text: &str) -> bool {
    depth(text.as_bytes()) <= DEPTH && serde_json::from_str::<&RawValue>(text).is_ok()
}

fn quote(text: &str, line: &mut Vec<u8>) {
    line.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(line: &str) -> &'static str {
        read(line.as_bytes()).unwrap_err().code
    }

    #[test]
    fn what_a_client_may_say() {
        let said = |line: &'static str| read(line.as_bytes()).unwrap();
        assert_eq!(said(r#"{"op":"hello","protocol":1}"#), Frame { id: None, request: Request::Hello });
        assert_eq!(said(r#" {"op":"subscribe","channel":"a","id":7}"#).id, Some("7"));
        let Request::Publish(publish) =
            said(r#"{"op":"publish","channel":"o\u0072","value":{"a": 1e400},"to":3}"#).request
        else {
            panic!("it is one")
        };
        assert_eq!((&*publish.channel, publish.to, publish.tag), ("or", Some(3), Tag::Json));
        assert_eq!(&*publish.payload, br#"{"a": 1e400}"#, "as it was written");
        let Request::Publish(publish) =
            said(r#"{"op":"publish","channel":"c","base64":"AAE=","tag":"msgpack"}"#).request
        else {
            panic!("it is one")
        };
        assert_eq!((publish.tag, &*publish.payload), (Tag::Msgpack, &[0, 1][..]));
        let null = said(r#"{"op":"publish","channel":"c","value":null,"future":[1,2]}"#);
        assert!(matches!(null.request, Request::Publish(Publish { payload, .. }) if &*payload == b"null"));
    }

    #[test]
    fn what_is_wrong_has_a_word_for_it() {
        for line in
            ["", "[]", "7", "{", r#"{"op":7}"#, r#"{"channel":"x"}"#, r#"{"op":"subscribe"}"#, "{\"op\":\"beat\"} x"]
        {
            assert_eq!(code(line), "bad_frame", "{line}");
        }
        assert_eq!(read(b"{\"op\":\"\xff\"}").unwrap_err().code, "bad_frame");
        assert_eq!(code(r#"{"op":"fly"}"#), "unknown_operation");
        assert_eq!(code(r#"{"op":"request","channel":"x"}"#), "unsupported");
        assert_eq!(code(r#"{"op":"hello","protocol":2}"#), "version");
        assert_eq!(code(r#"{"op":"publish","channel":"x","value":1,"text":"y"}"#), "bad_frame");
        let deep = format!(r#"{{"op":"publish","channel":"x","value":{}1{}}}"#, "[".repeat(129), "]".repeat(129));
        assert_eq!(code(&deep), "bad_frame");
        let deeper = format!(r#"{{"op":"publish","channel":"x","value":{}"#, "[".repeat(1_000_000));
        assert_eq!(code(&deeper), "bad_frame");
        let with_id = read(br#"{"op":"subscribe","id":"mine"}"#).unwrap_err();
        assert_eq!(with_id.id, Some("\"mine\""));
    }

    #[test]
    fn json_of_others_stands_within_a_frame_only_if_it_is_json() {
        let told = |tag: Tag, payload: &[u8]| {
            let kept = Kept { channel: 0, from: 1, from_incarnation: 1, tag, session: Some(255), alone: true, payload };
            let mut line = Vec::new();
            message(3, "a\"b", Some(4), &kept, &mut line);
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            serde_json::from_slice::<serde_json::Value>(&line).unwrap()
        };
        let pretty = told(Tag::Json, b"{\n  \"a\": [1,\r\n2]}");
        assert_eq!((&pretty["value"]["a"][1], &pretty["channel"]), (&2.into(), &"a\"b".into()));
        assert_eq!(pretty["session"], "000000000000000000000000000000ff");
        assert_eq!(told(Tag::Json, b"{\"a\":")["base64"], "eyJhIjo=");
        assert_eq!(told(Tag::Json, b"1}, {")["tag"], "json");
        assert_eq!(told(Tag::Text, "ä\n".as_bytes())["text"], "ä\n");
        assert_eq!(told(Tag::Text, b"\xff")["tag"], "text");
        assert_eq!(told(Tag::Bytes, b"ab")["base64"], "YWI=");
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&line);
        }

        #[test]
        fn nothing_that_looks_like_a_frame_makes_it_panic(
            line in r#"\{("(op|id|to|tag|value|text|base64|channel|session)": ?("publish"|"[a-z=A]{0,4}"|[0-9e.-]{1,5}|null|\{\}|\[1\]|"\\\\u00e"),?){0,5}\}?"#
        ) {
            let _ = read(line.as_bytes());
        }

        #[test]
        fn what_one_client_publishes_another_is_told(
            text in any::<String>(), bytes in prop::collection::vec(any::<u8>(), 0..50), number in 0u64..1 << 53
        ) {
            let frames = [
                (serde_json::json!({"op": "publish", "channel": "c", "text": text}), "text"),
                (serde_json::json!({"op": "publish", "channel": "c", "value": [text, number]}), "value"),
                (serde_json::json!({"op": "publish", "channel": "c", "base64": BASE64.encode(&bytes)}), "base64"),
            ];
            for (frame, field) in frames {
                let line = frame.to_string();
                let Request::Publish(publish) = read(line.as_bytes()).unwrap().request else { panic!("it is one") };
                let kept = Kept {
                    channel: 0, from: 1, from_incarnation: 1, tag: publish.tag, session: None, alone: false,
                    payload: &publish.payload,
                };
                let mut told = Vec::new();
                message(number, "c", None, &kept, &mut told);
                let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
                prop_assert_eq!(&told[field], &frame[field]);
                prop_assert_eq!(&told["n"], number);
            }
        }
    }
}
