//! What a line looks like in a file: pure.
//!
//! Owns the formats. Takes whole lines with the times they came at, and appends what stands in the file to a buffer.
//!
//! Invariants
//! - Every line of output ends with a newline and comes from one line (or one piece of a very long one) of input.
//! - JSON is valid whatever the bytes are: what is no UTF-8 becomes U+FFFD.

use super::pump::Kind;
use super::stamp::Stamper;
use crate::config::spec::LogFormat;

/// What is put at the end of a piece whose line goes on.
const GOES_ON: &[u8] = b" [goes on]";

/// Whose lines they are and what they shall look like.
#[derive(Debug, Clone)]
pub struct Style {
    look: Look,
    /// JSON before and after message and time: they are the same for every line.
    tail: String,
}

#[derive(Debug, Clone)]
enum Look {
    Raw,
    Stamped(Stamper),
    Json(Stamper),
}

impl Style {
    /// The lines of one output of an instance, known to users by `number`.
    pub fn new(format: &LogFormat, app: &str, number: u32, kind: Kind) -> Style {
        let look = match format {
            LogFormat::Raw => Look::Raw,
            LogFormat::Stamped(pattern) => Look::Stamped(Stamper::new(pattern)),
            LogFormat::Json(pattern) => Look::Json(pattern.as_deref().map_or_else(Stamper::iso, Stamper::new)),
        };
        let kind = match kind {
            Kind::Out => "out",
            Kind::Err => "err",
        };
        let app = serde_json::Value::from(app);
        Style { look, tail: format!("\"type\":\"{kind}\",\"process_id\":{number},\"app_name\":{app}}}\n") }
    }

    /// Appends one line, without its newline, that came at `ms`; one that is only a piece is not `whole`.
    pub fn line(&mut self, line: &[u8], ms: u64, whole: bool, into: &mut Vec<u8>) {
        match &mut self.look {
            Look::Raw => {
                into.extend_from_slice(line);
                end(into, whole);
            }
            Look::Stamped(stamper) => {
                into.extend_from_slice(stamper.stamp(ms).as_bytes());
                into.extend_from_slice(b": ");
                into.extend_from_slice(line);
                end(into, whole);
            }
            Look::Json(stamper) => {
                into.extend_from_slice(b"{\"message\":\"");
                escape(line, into);
                into.extend_from_slice(if whole { b"\\n\",\"timestamp\":\"" } else { b"\",\"timestamp\":\"" });
                escape(stamper.stamp(ms).as_bytes(), into);
                into.extend_from_slice(b"\",");
                into.extend_from_slice(self.tail.as_bytes());
            }
        }
    }
}

fn end(into: &mut Vec<u8>, whole: bool) {
    if !whole {
        into.extend_from_slice(GOES_ON);
    }
    into.push(b'\n');
}

/// Appends bytes as the inside of a JSON string.
pub fn escape(bytes: &[u8], into: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        escape_text(chunk.valid(), into);
        if !chunk.invalid().is_empty() {
            into.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn escape_text(text: &str, into: &mut Vec<u8>) {
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        into.extend_from_slice(&text.as_bytes()[from..at]);
        from = at + 1;
        match byte {
            b'"' | b'\\' => into.extend_from_slice(&[b'\\', byte]),
            b'\n' => into.extend_from_slice(b"\\n"),
            b'\r' => into.extend_from_slice(b"\\r"),
            b'\t' => into.extend_from_slice(b"\\t"),
            _ => into.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
    }
    into.extend_from_slice(&text.as_bytes()[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(format: &LogFormat, line: &[u8], whole: bool) -> String {
        let mut into = Vec::new();
        Style::new(format, "a\"pp", 3, Kind::Err).line(line, 1_772_699_829_042, whole, &mut into);
        String::from_utf8(into).unwrap()
    }

    #[test]
    fn a_stamped_line_is_the_stamp_a_colon_and_the_line() {
        assert_eq!(shown(&LogFormat::Stamped("[at] SSS".into()), b"hello", true), "at 042: hello\n");
        assert_eq!(shown(&LogFormat::Raw, b"hello", true), "hello\n");
        assert_eq!(shown(&LogFormat::Raw, b"hel", false), "hel [goes on]\n");
    }

    #[test]
    fn a_json_line_has_pm2s_keys_and_is_valid_whatever_the_bytes() {
        let text = shown(&LogFormat::Json(None), b"say \"\\\x00\x1b\xff\tx", true);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["message"], "say \"\\\0\u{1b}\u{fffd}\tx\n");
        assert_eq!(value["timestamp"], "2026-03-05T08:37:09.042Z");
        assert_eq!((value["type"].as_str(), value["process_id"].as_u64()), (Some("err"), Some(3)));
        assert_eq!(value["app_name"], "a\"pp");
        assert_eq!(text.matches('\n').count(), 1);
    }
}
