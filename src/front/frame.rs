//! One encoded WebSocket frame of the server, ready for any number of sockets.
//!
//! Owns the encoding of what leaves. It is done once per message, whoever gets it: a frame is shared bytes and its
//! clones are cheap. This is the only place that knows what a waiting frame is made of, so that the bytes can move to
//! an arena that outlives the process.
//!
//! Invariants
//! - A server's frame is whole (never fragmented) and never masked.
//! - A control frame carries at most [`CONTROL_MAX`] bytes.

use bytes::{BufMut, Bytes, BytesMut};

/// The most that a control frame carries (RFC 6455, 5.5).
pub const CONTROL_MAX: usize = 125;

/// What a frame is, by its four bits on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Goes on with a message that an earlier frame began.
    Continuation = 0x0,
    /// UTF-8.
    Text = 0x1,
    /// Bytes.
    Binary = 0x2,
    /// The closing handshake.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping.
    Pong = 0xA,
}

impl Opcode {
    /// The opcode with this number; `None` for the reserved ones.
    pub fn from_number(number: u8) -> Option<Opcode> {
        use Opcode::{Binary, Close, Continuation, Ping, Pong, Text};
        [Continuation, Text, Binary, Close, Ping, Pong].into_iter().find(|opcode| *opcode as u8 == number)
    }

    /// Whether it is about the connection and not part of a message.
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// One frame, header and payload. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    opcode: Opcode,
}

impl Frame {
    /// A whole text message. The caller has checked that `payload` is UTF-8.
    pub fn text(payload: &[u8]) -> Frame {
        Frame::encode(Opcode::Text, payload)
    }

    /// A whole binary message.
    pub fn binary(payload: &[u8]) -> Frame {
        Frame::encode(Opcode::Binary, payload)
    }

    /// A ping without content.
    pub fn ping() -> Frame {
        Frame::encode(Opcode::Ping, &[])
    }

    /// The answer to a ping; `payload` is the ping's, which the decoder has checked for its length.
    pub fn pong(payload: &[u8]) -> Frame {
        Frame::encode(Opcode::Pong, &payload[..payload.len().min(CONTROL_MAX)])
    }

    /// The closing handshake, with a code and a reason (cut where it would not fit), or without either.
    pub fn close(code: Option<u16>, reason: &str) -> Frame {
        let Some(code) = code else {
            return Frame::encode(Opcode::Close, &[]);
        };
        let mut end = reason.len().min(CONTROL_MAX - 2);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut payload = Vec::with_capacity(2 + end);
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(&reason.as_bytes()[..end]);
        Frame::encode(Opcode::Close, &payload)
    }

    /// What goes to the socket.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its length on the wire, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What it is.
    pub fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn encode(opcode: Opcode, payload: &[u8]) -> Frame {
        let mut frame = BytesMut::with_capacity(payload.len() + 10);
        frame.put_u8(0x80 | opcode as u8);
        match payload.len() {
            short @ 0..=125 => frame.put_u8(short as u8),
            medium @ 126..=0xFFFF => {
                frame.put_u8(126);
                frame.put_u16(medium as u16);
            }
            long => {
                frame.put_u8(127);
                frame.put_u64(long as u64);
            }
        }
        frame.extend_from_slice(payload);
        Frame { bytes: frame.freeze(), opcode }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_takes_the_smallest_form_that_holds_it() {
        for (length, header) in [
            (0usize, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (0xFFFF, &[0x82, 126, 0xFF, 0xFF]),
            (0x1_0000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frame = Frame::binary(&vec![7; length]);
            assert_eq!(&frame.bytes()[..header.len()], header);
            assert_eq!(frame.len(), header.len() + length);
        }
    }

    #[test]
    fn the_examples_of_the_rfc_are_encoded_as_printed_there() {
        assert_eq!(Frame::text(b"Hello").bytes(), [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(Frame::pong(b"Hello").bytes(), [0x8a, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(Frame::close(Some(1000), "").bytes(), [0x88, 0x02, 0x03, 0xe8]);
        assert_eq!(Frame::close(None, "not sent").bytes(), [0x88, 0x00]);
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_characters() {
        let frame = Frame::close(Some(1008), &"ü".repeat(100));
        assert!(frame.len() <= 2 + CONTROL_MAX);
        assert!(std::str::from_utf8(&frame.bytes()[4..]).is_ok());
    }
}
