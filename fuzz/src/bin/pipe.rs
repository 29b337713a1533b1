//! What a client says over a pipe: a frame a line, or an error in the protocol's words.

#![no_main]

use herdwire::wire::standin::frame::{self, Kept, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for line in bytes.split(|byte| *byte == b'\n') {
        match frame::read(line) {
            Ok(said) => {
                if let Request::Publish(publish) = said.request {
                    told(&publish.payload, publish.tag, publish.session);
                }
            }
            Err(bad) => one_line(&frame::error(bad.id, bad.code, &bad.message)),
        }
    }
    told(bytes, herdwire_ipc::Tag::Json, None);
    told(bytes, herdwire_ipc::Tag::Text, None);
});

/// Whatever somebody publishes, another is told a line that is JSON.
fn told(payload: &[u8], tag: herdwire_ipc::Tag, session: Option<u128>) {
    let kept = Kept { channel: 0, from: 1, from_incarnation: 1, tag, session, alone: false, payload };
    let mut line = Vec::new();
    frame::message(7, "channel", Some(1), &kept, &mut line);
    is_json(&line);
}

fn one_line(inside: &[u8]) {
    let mut line = Vec::new();
    frame::number(7, inside, &mut line);
    is_json(&line);
}

fn is_json(line: &[u8]) {
    assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1), "one line");
    // Numbers of others may be larger than any type here.
    let parsed: Result<&serde_json::value::RawValue, _> = serde_json::from_slice(line);
    assert!(parsed.is_ok(), "{}", String::from_utf8_lossy(line));
}
