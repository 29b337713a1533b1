//! What a browser's bytes mean: the server's half of RFC 6455, without compression.
//!
//! Owns the place inside a half-read frame and the message that is being put together. Pure: bytes in, events or the
//! first violation out, however the bytes were cut into pieces. Does not read sockets (`connection`), does not answer
//! (`writer`) and does not know what a message is for (`plain`).
//!
//! Invariants
//! - A length is checked against the limit before a byte of the payload is kept, and memory grows with what has
//!   arrived, never with what was announced.
//! - A text message is handed on only if the whole of it is UTF-8; a wrong byte is reported when it arrives.
//! - After a close frame or a violation nothing more is understood.

use bytes::Bytes;

use super::frame::{CONTROL_MAX, Opcode};

/// One thing that the peer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole message of UTF-8.
    Text(Bytes),
    /// A whole message of bytes.
    Binary(Bytes),
    /// Wants a pong with the same content.
    Ping(Bytes),
    /// Answers a ping, or just says that it is there.
    Pong,
    /// The peer closes, with its code if it gave one.
    Close(Option<u16>),
}

/// How a peer broke the protocol or a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("reserved bits are set, though no extension was agreed on")]
    ReservedBits,
    #[error("the opcode {0:#x} is reserved")]
    ReservedOpcode(u8),
    #[error("a frame of a client must be masked")]
    Unmasked,
    #[error("a length is not in its shortest form")]
    Length,
    #[error("a control frame is fragmented or longer than 125 bytes")]
    Control,
    #[error("a continuation without a beginning")]
    NothingToContinue,
    #[error("a new message before the last one ended")]
    Interleaved,
    #[error("a close frame with a wrong code or length")]
    CloseFrame,
    #[error("a text is not UTF-8")]
    NotUtf8,
    #[error("a message is larger than {0} bytes")]
    TooLarge(u64),
}

impl Violation {
    /// The close code that tells the peer.
    pub fn close_code(self) -> u16 {
        match self {
            Violation::NotUtf8 => 1007,
            Violation::TooLarge(_) => 1009,
            Violation::ReservedBits
            | Violation::ReservedOpcode(_)
            | Violation::Unmasked
            | Violation::Length
            | Violation::Control
            | Violation::NothingToContinue
            | Violation::Interleaved
            | Violation::CloseFrame => 1002,
        }
    }
}

/// Reads one connection's frames. About 100 bytes while nothing is in flight.
#[derive(Debug)]
pub struct Decoder {
    limit: u64,
    state: State,
    /// The message that is being put together.
    message: Vec<u8>,
    /// What kind it is; `None` between messages.
    kind: Option<Opcode>,
    /// How far `message` is known to be UTF-8.
    checked: usize,
    /// The control frame that is being read; it may lie between the fragments of a message.
    control: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Collecting a header of `have` bytes so far.
    Header { bytes: [u8; HEADER_MAX], have: u8 },
    /// `left` bytes of `frame` are still to come.
    Payload { frame: Header, left: u64 },
    /// Closed or broken.
    Over,
}

/// Two bytes, eight of length, four of mask.
const HEADER_MAX: usize = 14;
const FRESH: State = State::Header { bytes: [0; HEADER_MAX], have: 0 };

#[derive(Debug, Clone, Copy)]
struct Header {
    last: bool,
    opcode: Opcode,
    length: u64,
    mask: [u8; 4],
}

impl Decoder {
    /// A decoder that takes messages of at most `limit` bytes, counted across fragments.
    pub fn new(limit: u64) -> Decoder {
        Decoder { limit, state: FRESH, message: Vec::new(), kind: None, checked: 0, control: Vec::new() }
    }

    /// Takes bytes off the front of `input` until it has one event. `None`: all of `input` is taken and more is
    /// needed.
    ///
    /// # Errors
    /// The first violation. From then on, and after [`Event::Close`], everything is swallowed.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Violation> {
        let step = self.advance(input);
        if matches!(step, Err(_) | Ok(Some(Event::Close(_)))) {
            *self = Decoder { state: State::Over, ..Decoder::new(self.limit) };
        }
        step
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Violation> {
        loop {
            match self.state {
                State::Over => {
                    *input = &[];
                    return Ok(None);
                }
                State::Header { mut bytes, mut have } => {
                    let Some(header) = read_header(&mut bytes, &mut have, input)? else {
                        self.state = State::Header { bytes, have };
                        return Ok(None);
                    };
                    self.begin(header)?;
                    self.state = State::Payload { frame: header, left: header.length };
                }
                State::Payload { frame, left } => {
                    let taken = self.take_payload(frame, left, input)?;
                    if taken < left {
                        self.state = State::Payload { frame, left: left - taken };
                        return Ok(None);
                    }
                    self.state = FRESH;
                    if let Some(event) = self.end(frame)? {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    /// Checks a frame's place in the conversation and its size, before any of its payload is kept.
    fn begin(&mut self, header: Header) -> Result<(), Violation> {
        if header.opcode.is_control() {
            return Ok(());
        }
        match (header.opcode, self.kind) {
            (Opcode::Continuation, None) => return Err(Violation::NothingToContinue),
            (Opcode::Continuation, Some(_)) => {}
            (_, Some(_)) => return Err(Violation::Interleaved),
            (kind, None) => self.kind = Some(kind),
        }
        // Neither can wrap: what is there is at most the limit, and `length` has its top bit clear.
        if self.message.len() as u64 + header.length > self.limit {
            return Err(Violation::TooLarge(self.limit));
        }
        Ok(())
    }

    fn take_payload(&mut self, frame: Header, left: u64, input: &mut &[u8]) -> Result<u64, Violation> {
        let taken = left.min(input.len() as u64);
        let (part, rest) = input.split_at(taken as usize);
        *input = rest;
        let target = if frame.opcode.is_control() { &mut self.control } else { &mut self.message };
        if taken == left && target.is_empty() {
            target.reserve_exact(part.len());
        }
        let start = target.len();
        target.extend_from_slice(part);
        unmask(&mut target[start..], frame.mask, frame.length - left);
        if !frame.opcode.is_control() {
            self.check_text(false)?;
        }
        Ok(taken)
    }

    /// Looks at what has come since the last look. A character may still be cut in two unless the text is at its end.
    fn check_text(&mut self, at_end: bool) -> Result<(), Violation> {
        if self.kind != Some(Opcode::Text) {
            return Ok(());
        }
        match std::str::from_utf8(&self.message[self.checked..]) {
            Ok(_) => self.checked = self.message.len(),
            Err(error) if error.error_len().is_none() && !at_end => self.checked += error.valid_up_to(),
            Err(_) => return Err(Violation::NotUtf8),
        }
        Ok(())
    }

    fn end(&mut self, frame: Header) -> Result<Option<Event>, Violation> {
        match frame.opcode {
            Opcode::Ping => Ok(Some(Event::Ping(std::mem::take(&mut self.control).into()))),
            Opcode::Pong => {
                self.control = Vec::new();
                Ok(Some(Event::Pong))
            }
            Opcode::Close => close_event(&std::mem::take(&mut self.control)).map(Some),
            Opcode::Continuation | Opcode::Text | Opcode::Binary if frame.last => self.end_message().map(Some),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => Ok(None),
        }
    }

    fn end_message(&mut self) -> Result<Event, Violation> {
        self.check_text(true)?;
        self.checked = 0;
        let payload = Bytes::from(std::mem::take(&mut self.message));
        match self.kind.take() {
            Some(Opcode::Text) => Ok(Event::Text(payload)),
            _ => Ok(Event::Binary(payload)),
        }
    }
}

/// Goes on collecting a header; `None` while it is not whole. Each byte is judged as soon as it is there.
fn read_header(bytes: &mut [u8; HEADER_MAX], have: &mut u8, input: &mut &[u8]) -> Result<Option<Header>, Violation> {
    loop {
        let filled = usize::from(*have);
        if filled >= 2 {
            let length_bytes = check_start(bytes[0], bytes[1])?;
            if filled == 2 + length_bytes + 4 {
                return finish_header(bytes, length_bytes).map(Some);
            }
        }
        let Some((first, rest)) = input.split_first() else {
            return Ok(None);
        };
        bytes[filled] = *first;
        *have += 1;
        *input = rest;
    }
}

/// Judges the first two bytes and says how many bytes of length follow them.
fn check_start(first: u8, second: u8) -> Result<usize, Violation> {
    if first & 0x70 != 0 {
        return Err(Violation::ReservedBits);
    }
    let opcode = Opcode::from_number(first & 0x0F).ok_or(Violation::ReservedOpcode(first & 0x0F))?;
    if second & 0x80 == 0 {
        return Err(Violation::Unmasked);
    }
    let short = second & 0x7F;
    if opcode.is_control() && (first & 0x80 == 0 || usize::from(short) > CONTROL_MAX) {
        return Err(Violation::Control);
    }
    Ok(match short {
        126 => 2,
        127 => 8,
        _ => 0,
    })
}

fn finish_header(bytes: &[u8; HEADER_MAX], length_bytes: usize) -> Result<Header, Violation> {
    let extended = bytes[2..2 + length_bytes].iter().fold(0u64, |length, byte| length << 8 | u64::from(*byte));
    let length = match length_bytes {
        0 => u64::from(bytes[1] & 0x7F),
        2 if extended > 125 => extended,
        8 if extended > 0xFFFF && extended >> 63 == 0 => extended,
        _ => return Err(Violation::Length),
    };
    let mask = &bytes[2 + length_bytes..2 + length_bytes + 4];
    let opcode = Opcode::from_number(bytes[0] & 0x0F).ok_or(Violation::ReservedOpcode(bytes[0] & 0x0F))?;
    Ok(Header { last: bytes[0] & 0x80 != 0, opcode, length, mask: [mask[0], mask[1], mask[2], mask[3]] })
}

/// Takes the mask off, `offset` bytes into the frame's payload.
fn unmask(payload: &mut [u8], mask: [u8; 4], offset: u64) {
    let turned: [u8; 4] = std::array::from_fn(|at| mask[(at + (offset % 4) as usize) % 4]);
    let word =
        u64::from_ne_bytes([turned[0], turned[1], turned[2], turned[3], turned[0], turned[1], turned[2], turned[3]]);
    let mut words = payload.chunks_exact_mut(8);
    for chunk in &mut words {
        let clear = u64::from_ne_bytes(<[u8; 8]>::try_from(&*chunk).expect("the chunks are eight bytes long")) ^ word;
        chunk.copy_from_slice(&clear.to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(turned.iter().cycle()) {
        *byte ^= key;
    }
}

fn close_event(payload: &[u8]) -> Result<Event, Violation> {
    match payload {
        [] => Ok(Event::Close(None)),
        [_] => Err(Violation::CloseFrame),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            // Those that may be sent (RFC 6455, 7.4, and the registry): not 1004 to 1006, not 1015, nothing unassigned.
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Violation::CloseFrame);
            }
            std::str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
            Ok(Event::Close(Some(code)))
        }
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
