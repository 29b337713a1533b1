//! The plain mode: what a message means when the client asked for no subprotocol.
//!
//! Every message of a browser goes to the first channel of its path as it is; every message of the path's channels
//! goes to the browser as it is. `{"type":"ping"}` is answered here, as node-pm2-events does, and goes no further.
//! The place beside it is for `herdwire.v1` (`handshake::Protocol`).

use herdwire_ipc::Tag;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::frame::Frame;

/// The answer to `{"type":"ping"}`, byte for byte that of node-pm2-events.
pub const PONG: &str = "{\"type\":\"pong\",\"data\":\"\u{1F1FA}\u{1F1E6}\"}";

/// What to do with a text of a browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Publish it.
    Message(Tag),
    /// Answer with [`PONG`].
    Ping,
}

/// A JSON object's `type`, and nothing else of it.
#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Judges a text of a browser.
pub fn hear(text: &[u8]) -> Heard {
    // An array would pass for the struct below, field by field.
    let object = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    match serde_json::from_slice::<Typed>(text) {
        Ok(Typed { kind: Some(kind) }) if object && kind == "ping" => Heard::Ping,
        Ok(_) if object => Heard::Message(Tag::Json),
        _ if serde_json::from_slice::<IgnoredAny>(text).is_ok() => Heard::Message(Tag::Json),
        _ => Heard::Message(Tag::Text),
    }
}

/// Frames a message for browsers: text if it says that it is and is, else bytes.
pub fn show(tag: Tag, payload: &[u8]) -> Frame {
    match tag {
        Tag::Json | Tag::Text if std::str::from_utf8(payload).is_ok() => Frame::text(payload),
        Tag::Json | Tag::Text | Tag::Bytes | Tag::Msgpack => Frame::binary(payload),
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Opcode;
    use super::*;

    #[test]
    fn a_json_ping_is_answered_and_everything_else_goes_on() {
        for (text, heard) in [
            (r#"{"type":"ping"}"#, Heard::Ping),
            (r#" {"at": 1, "type": "p\u0069ng", "more": [1]} "#, Heard::Ping),
            (r#"{"type":"say","text":"ping"}"#, Heard::Message(Tag::Json)),
            (r#"{"type":1}"#, Heard::Message(Tag::Json)),
            (r#"{"inner":{"type":"ping"}}"#, Heard::Message(Tag::Json)),
            (r#"["ping"]"#, Heard::Message(Tag::Json)),
            (r#""ping""#, Heard::Message(Tag::Json)),
            ("null", Heard::Message(Tag::Json)),
            ("ping", Heard::Message(Tag::Text)),
            (r#"{"type":"ping""#, Heard::Message(Tag::Text)),
            (r#"{"type":"ping"} x"#, Heard::Message(Tag::Text)),
            ("", Heard::Message(Tag::Text)),
        ] {
            assert_eq!(hear(text.as_bytes()), heard, "{text}");
        }
    }

    #[test]
    fn deep_json_of_a_stranger_costs_no_stack() {
        assert_eq!(hear("[".repeat(1_000_000).as_bytes()), Heard::Message(Tag::Text));
    }

    #[test]
    fn the_answer_to_a_ping_is_that_of_node_pm2_events() {
        assert_eq!(
            PONG.as_bytes(),
            b"\x7b\x22\x74\x79\x70\x65\x22\x3a\x22\x70\x6f\x6e\x67\x22\x2c\x22\x64\x61\x74\x61\x22\x3a\x22\
              \xf0\x9f\x87\xba\xf0\x9f\x87\xa6\x22\x7d"
        );
    }

    #[test]
    fn what_calls_itself_text_and_is_not_goes_out_as_bytes() {
        assert_eq!(show(Tag::Json, b"1").opcode(), Opcode::Text);
        assert_eq!(show(Tag::Text, "ü".as_bytes()).opcode(), Opcode::Text);
        assert_eq!(show(Tag::Json, &[0xFF]).opcode(), Opcode::Binary);
        assert_eq!(show(Tag::Bytes, b"1").opcode(), Opcode::Binary);
        assert_eq!(show(Tag::Msgpack, b"1").opcode(), Opcode::Binary);
    }
}
