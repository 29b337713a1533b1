//! The codec against RFC 6455: a table of conversations after the cases of the Autobahn suite, each fed whole, byte by
//! byte and cut at random, and tungstenite as a second opinion on what is right.

use std::io::{self, Cursor, Read, Write};

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};
use tokio_tungstenite::tungstenite::{self, Message};

use super::super::tests::client::frame;
use super::*;

const LIMIT: u64 = 1024;

/// What a decoder makes of a conversation: its events, and how it ended if it did.
type Outcome = (Vec<Event>, Option<Violation>);

/// Feeds pieces to a decoder until it refuses.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::new(LIMIT);
    let mut events = Vec::new();
    for mut piece in pieces {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(violation) => return (events, Some(violation)),
            }
        }
        assert!(piece.is_empty(), "what is not taken would be lost");
    }
    (events, None)
}

/// Cuts `bytes` into pieces of 1 to 9 bytes, differently for each seed.
fn cut(bytes: &[u8], seed: u64) -> Vec<&[u8]> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (piece, after) = rest.split_at(rest.len().min((state >> 33) as usize % 9 + 1));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

fn expect(name: &str, bytes: &[u8], expected: &Outcome) {
    assert_eq!(&decode([bytes]), expected, "{name}, whole");
    assert_eq!(&decode(bytes.chunks(1)), expected, "{name}, byte by byte");
    for seed in 0..20 {
        assert_eq!(&decode(cut(bytes, seed)), expected, "{name}, cut with seed {seed}");
    }
}

fn accepted(name: &str, frames: &[Vec<u8>], events: Vec<Event>) {
    expect(name, &frames.concat(), &(events, None));
}

fn refused(name: &str, frames: &[Vec<u8>], violation: Violation) {
    expect(name, &frames.concat(), &(vec![], Some(violation)));
}

fn text(text: &str) -> Event {
    Event::Text(Bytes::copy_from_slice(text.as_bytes()))
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes(), reason].concat())
}

const LAST: u8 = 0x80;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const MORE: u8 = 0x0;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

#[test]
fn whole_messages_of_every_length_form() {
    for length in [0usize, 1, 7, 125, 126, 127, 128, 1023, 1024] {
        let payload = "*".repeat(length);
        accepted("text", &[frame(LAST | TEXT, payload.as_bytes())], vec![text(&payload)]);
        let payload = vec![0xFE; length];
        accepted("binary", &[frame(LAST | BINARY, &payload)], vec![Event::Binary(payload.into())]);
    }
    let large = vec![7; 70_000];
    let mut decoder = Decoder::new(1 << 20);
    let bytes = frame(LAST | BINARY, &large);
    assert_eq!(decoder.next(&mut &bytes[..]), Ok(Some(Event::Binary(large.into()))));
}

#[test]
fn the_masked_hello_of_the_rfc() {
    let bytes = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    accepted("hello", &[bytes.to_vec()], vec![text("Hello")]);
}

#[test]
fn messages_in_fragments_with_control_frames_between() {
    accepted("two fragments", &[frame(TEXT, b"Hel"), frame(LAST | MORE, b"lo")], vec![text("Hello")]);
    accepted(
        "a ping between fragments",
        &[frame(TEXT, b"Hel"), frame(PING, b"here?"), frame(MORE, b""), frame(LAST | MORE, b"lo")],
        vec![Event::Ping(Bytes::from_static(b"here?")), text("Hello")],
    );
    accepted(
        "fragments of nothing",
        &[frame(BINARY, b""), frame(MORE, b""), frame(LAST | MORE, b"")],
        vec![Event::Binary(Bytes::new())],
    );
    accepted(
        "several messages in one packet",
        &[frame(LAST | TEXT, b"1"), frame(PONG, b"x"), frame(LAST | TEXT, b"2"), frame(PING, b"")],
        vec![text("1"), Event::Pong, text("2"), Event::Ping(Bytes::new())],
    );
    let middle = vec![frame(MORE, &[1]); 49].concat();
    accepted(
        "fifty-one fragments",
        &[frame(BINARY, &[1]), middle, frame(LAST | MORE, &[1])],
        vec![Event::Binary(vec![1; 51].into())],
    );
}

#[test]
fn control_frames_are_short_and_whole() {
    accepted("a ping of 125", &[frame(PING, &[1; 125])], vec![Event::Ping(vec![1; 125].into())]);
    refused("a ping of 126", &[frame(PING, &[1; 126])], Violation::Control);
    refused("a ping in fragments", &[frame(0x09, b"a")], Violation::Control);
    refused("a close in fragments", &[frame(0x08, b"")], Violation::Control);
}

#[test]
fn reserved_bits_and_opcodes_are_refused() {
    for bits in [0x40, 0x20, 0x10, 0x70] {
        refused("reserved bits", &[frame(LAST | TEXT | bits, b"x")], Violation::ReservedBits);
        refused("reserved bits of a ping", &[frame(PING | bits, b"")], Violation::ReservedBits);
    }
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        refused("reserved opcode", &[frame(LAST | opcode, b"x")], Violation::ReservedOpcode(opcode));
    }
}

#[test]
fn frames_without_a_mask_are_refused() {
    refused("text", &[vec![0x81, 0x02, b'h', b'i']], Violation::Unmasked);
    refused("ping", &[vec![0x89, 0x00]], Violation::Unmasked);
}

#[test]
fn lengths_have_one_form_only() {
    refused("125 in two bytes", &[vec![0x82, 0xFE, 0, 125, 0, 0, 0, 0]], Violation::Length);
    refused("65535 in eight", &[vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0]], Violation::Length);
    refused("the top bit", &[vec![0x82, 0xFF, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]], Violation::Length);
}

#[test]
fn fragments_come_in_order() {
    refused("nothing to continue", &[frame(LAST | MORE, b"x")], Violation::NothingToContinue);
    refused("nothing to continue, unfinished", &[frame(MORE, b"x")], Violation::NothingToContinue);
    refused("a message inside another", &[frame(TEXT, b"a"), frame(LAST | TEXT, b"b")], Violation::Interleaved);
    expect(
        "a continuation after the end",
        &[frame(LAST | TEXT, b"a"), frame(LAST | MORE, b"b")].concat(),
        &(vec![text("a")], Some(Violation::NothingToContinue)),
    );
}

#[test]
fn a_message_over_the_limit_is_refused_by_its_header_alone() {
    let announced = frame(LAST | BINARY, &[0; LIMIT as usize + 1]);
    refused("whole", &[announced[..8].to_vec()], Violation::TooLarge(LIMIT));
    let second = frame(LAST | MORE, &[0; 25]);
    refused("in fragments", &[frame(BINARY, &[0; 1000]), second[..6].to_vec()], Violation::TooLarge(LIMIT));
    refused(
        "an exabyte",
        &[vec![0x82, 0xFF, 0x0F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4]],
        Violation::TooLarge(LIMIT),
    );
    accepted(
        "the limit itself",
        &[frame(BINARY, &[0; 1000]), frame(LAST | MORE, &[0; 24])],
        vec![Event::Binary(vec![0; 1024].into())],
    );
}

#[test]
fn memory_grows_with_what_came_not_with_what_was_announced() {
    let mut decoder = Decoder::new(u64::MAX >> 1);
    let header = [0x82, 0xFF, 0x0F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4, 9, 9, 9];
    assert_eq!(decoder.next(&mut &header[..]), Ok(None));
    assert!(decoder.message.capacity() < 64);
}

#[test]
fn texts_are_utf_8_across_fragments_and_characters_cut_in_two() {
    let word = "κόσμε 𝄞 ü";
    let bytes = word.as_bytes();
    for at in 0..=bytes.len() {
        let (head, tail) = bytes.split_at(at);
        accepted(
            "cut",
            &[frame(TEXT, head), frame(PING, b""), frame(LAST | MORE, tail)],
            vec![Event::Ping(Bytes::new()), text(word)],
        );
    }
    for wrong in [&b"\xC0\x80"[..], b"\xED\xA0\x80", b"\xF4\x90\x80\x80", b"\xFF", b"ok \xCE", b"\x80", b"\xF5"] {
        refused("not UTF-8", &[frame(LAST | TEXT, wrong)], Violation::NotUtf8);
    }
    // Judged when it arrives, not when the message ends.
    refused("wrong in an unfinished text", &[frame(TEXT, b"ab\xFFcd")], Violation::NotUtf8);
    accepted(
        "bytes are not judged",
        &[frame(LAST | BINARY, b"\xFF")],
        vec![Event::Binary(Bytes::from_static(b"\xFF"))],
    );
}

#[test]
fn close_codes_that_may_be_sent_are_understood() {
    accepted("without a code", &[frame(0x88, b"")], vec![Event::Close(None)]);
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        accepted("a code", &[close(code, "gone für immer".as_bytes())], vec![Event::Close(Some(code))]);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        refused("a wrong code", &[close(code, b"")], Violation::CloseFrame);
    }
    refused("half a code", &[frame(0x88, &[3])], Violation::CloseFrame);
    refused("a reason that is not UTF-8", &[close(1000, b"\xFF")], Violation::NotUtf8);
}

#[test]
fn nothing_is_understood_after_a_close_or_a_violation() {
    accepted("after a close", &[close(1000, b""), frame(LAST | TEXT, b"late")], vec![Event::Close(Some(1000))]);
    let mut decoder = Decoder::new(LIMIT);
    assert!(decoder.next(&mut &[0xFF, 0xFF][..]).is_err());
    let bytes = frame(LAST | TEXT, b"late");
    let mut input = &bytes[..];
    assert_eq!(decoder.next(&mut input), Ok(None));
    assert!(input.is_empty());
}

#[test]
fn an_idle_decoder_is_small() {
    assert!(size_of::<Decoder>() <= 136, "{} bytes", size_of::<Decoder>());
}

/// A message as a client would send it, cut into fragments of these lengths.
#[derive(Debug, Clone)]
struct Sent {
    text: bool,
    payload: Vec<u8>,
    cuts: Vec<usize>,
    ping: Option<Vec<u8>>,
}

impl Sent {
    fn frames(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = &self.payload[..];
        let mut opcode = if self.text { TEXT } else { BINARY };
        for cut in &self.cuts {
            let (part, after) = rest.split_at(rest.len().min(*cut));
            bytes.extend(frame(opcode, part));
            bytes.extend(self.ping.iter().flat_map(|ping| frame(PING, ping)));
            (rest, opcode) = (after, MORE);
        }
        bytes.extend(frame(LAST | opcode, rest));
        bytes
    }
}

prop_compose! {
    fn sent()(
        payload in prop_oneof![
            ".{0,40}".prop_map(|text| (true, text.into_bytes())),
            prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| (false, bytes)),
            prop::collection::vec(any::<u8>(), 0..6).prop_map(|bytes| (true, bytes)),
        ],
        cuts in prop::collection::vec(0usize..50, 0..4),
        ping in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
    ) -> Sent {
        Sent { text: payload.0, payload: payload.1, cuts, ping }
    }
}

/// Reads from memory, writes nowhere.
struct Tape(Cursor<Vec<u8>>);

impl Read for Tape {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Tape {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite makes of the same bytes, and whether it found them wrong.
fn second_opinion(bytes: &[u8]) -> (Vec<Event>, bool) {
    let mut socket = WebSocket::from_raw_socket(Tape(Cursor::new(bytes.to_vec())), Role::Server, None);
    let mut events = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => events.push(Event::Text(Bytes::copy_from_slice(text.as_bytes()))),
            Ok(Message::Binary(bytes)) => events.push(Event::Binary(bytes)),
            Ok(Message::Ping(payload)) => events.push(Event::Ping(payload)),
            Ok(Message::Pong(_)) => events.push(Event::Pong),
            Ok(Message::Close(_) | Message::Frame(_)) => return (events, false),
            Err(tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
                return (events, false);
            }
            Err(_) => return (events, true),
        }
    }
}

proptest! {
    #[test]
    fn tungstenite_understands_the_same(conversation in prop::collection::vec(sent(), 1..6), seed in any::<u64>()) {
        let bytes: Vec<u8> = conversation.iter().flat_map(Sent::frames).collect();
        let (events, violation) = decode(cut(&bytes, seed));
        prop_assert_eq!((events, violation.is_some()), second_opinion(&bytes));
    }

    #[test]
    fn the_way_bytes_are_cut_changes_nothing(
        conversation in prop::collection::vec(sent(), 1..4),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        seed in any::<u64>(),
    ) {
        let mut bytes: Vec<u8> = conversation.iter().flat_map(Sent::frames).collect();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        let whole = decode([&bytes[..]]);
        prop_assert_eq!(&decode(bytes.chunks(1)), &whole);
        prop_assert_eq!(&decode(cut(&bytes, seed)), &whole);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let whole = decode([&bytes[..]]);
        prop_assert_eq!(decode(bytes.chunks(1)), whole);
    }
}
