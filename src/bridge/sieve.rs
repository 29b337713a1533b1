//! Keeps what is too large out of our memory, before the Redis client would collect it.
//!
//! Redis lets anybody who may publish send 512 MB in one message, and a client has to hold a reply whole. The sieve
//! watches the bytes that come from the server and puts an empty string in the place of one that is longer than the
//! limit; the rest of the stream goes through unchanged, so the connection lives on. Pure.
//!
//! Invariants
//! - It holds no more than one header line, [`MAX_LINE`] bytes.
//! - A stream without a string beyond the limit passes byte for byte, however it is cut.

use bytes::BytesMut;

/// The longest line: an error or a status. The server's own are far shorter.
const MAX_LINE: usize = 64 * 1024;
/// `\r\n`.
const LINE_END: u64 = 2;

/// The stream is not RESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotRedis {
    #[error("a line of more than {MAX_LINE} bytes")]
    LongLine,
    #[error("a string without a length")]
    Length,
}

/// Where in the stream we are.
#[derive(Debug)]
pub(super) struct Sieve {
    limit: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// In a line, of which this much is here.
    Line(Vec<u8>),
    /// In a string, of which so many bytes are still to come.
    Pass(u64),
    /// The same, and none of them is wanted.
    Skip(u64),
}

impl Sieve {
    /// A sieve for strings of more than `limit` bytes.
    pub(super) fn new(limit: u64) -> Sieve {
        Sieve { limit, state: State::Line(Vec::new()) }
    }

    /// Appends to `out` what is to be seen of `input`.
    pub(super) fn sift(&mut self, mut input: &[u8], out: &mut BytesMut) -> Result<(), NotRedis> {
        while !input.is_empty() {
            match &mut self.state {
                State::Line(line) => {
                    let end = input.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
                    let (part, rest) = input.split_at(end.unwrap_or(input.len()));
                    input = rest;
                    if line.len() + part.len() > MAX_LINE {
                        return Err(NotRedis::LongLine);
                    }
                    line.extend_from_slice(part);
                    if end.is_some() {
                        let line = std::mem::take(line);
                        self.state = self.after(line, out)?;
                    }
                }
                State::Pass(left) => {
                    let (part, rest) = input.split_at(shorter(*left, input));
                    out.extend_from_slice(part);
                    input = rest;
                    *left -= part.len() as u64;
                    self.end_string();
                }
                State::Skip(left) => {
                    let skipped = shorter(*left, input);
                    input = &input[skipped..];
                    *left -= skipped as u64;
                    self.end_string();
                }
            }
        }
        Ok(())
    }

    /// What comes after a line. Only strings hold bytes that are not lines themselves.
    fn after(&mut self, mut line: Vec<u8>, out: &mut BytesMut) -> Result<State, NotRedis> {
        let length = match line.first() {
            Some(b'$' | b'!' | b'=') => length_in(&line).ok_or(NotRedis::Length)?,
            _ => None,
        };
        if let Some(length) = length.filter(|length| *length > self.limit) {
            out.extend_from_slice(b"$0\r\n\r\n");
            return Ok(State::Skip(length.checked_add(LINE_END).ok_or(NotRedis::Length)?));
        }
        out.extend_from_slice(&line);
        Ok(match length {
            Some(length) => State::Pass(length + LINE_END),
            None => {
                line.clear();
                State::Line(line)
            }
        })
    }

    fn end_string(&mut self) {
        if let State::Pass(0) | State::Skip(0) = self.state {
            self.state = State::Line(Vec::new());
        }
    }
}

/// The length that a string's header names: `Some(None)` for the null string, `None` if there is no sense in it.
fn length_in(line: &[u8]) -> Option<Option<u64>> {
    let digits = std::str::from_utf8(&line[1..]).ok()?.trim_end();
    if digits == "-1" {
        return Some(None);
    }
    digits.parse().ok().map(Some)
}

fn shorter(left: u64, input: &[u8]) -> usize {
    usize::try_from(left).map_or(input.len(), |left| left.min(input.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &[u8] =
        b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$10\r\n$5\r\n\r\n\r\n\r\n\r\n:3\r\n$-1\r\n-ERR $99\r\n$0\r\n\r\n+OK\r\n";

    fn sifted(limit: u64, parts: &[&[u8]]) -> Result<Vec<u8>, NotRedis> {
        let (mut sieve, mut out) = (Sieve::new(limit), BytesMut::new());
        for part in parts {
            sieve.sift(part, &mut out)?;
        }
        Ok(out.to_vec())
    }

    #[test]
    fn a_stream_without_a_large_string_passes_however_it_is_cut() {
        for cut in 0..=STREAM.len() {
            let (one, other) = STREAM.split_at(cut);
            assert_eq!(sifted(10, &[one, other]), Ok(STREAM.to_vec()), "cut at {cut}");
        }
        let single: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(sifted(10, &single), Ok(STREAM.to_vec()));
    }

    #[test]
    fn a_large_string_becomes_an_empty_one_and_the_rest_is_unharmed() {
        let expected = String::from_utf8_lossy(STREAM).replace("$10\r\n$5\r\n\r\n\r\n\r\n\r\n", "$0\r\n\r\n");
        for cut in 0..=STREAM.len() {
            let (one, other) = STREAM.split_at(cut);
            assert_eq!(sifted(9, &[one, other]), Ok(expected.clone().into_bytes()), "cut at {cut}");
        }
    }

    #[test]
    fn half_a_gigabyte_takes_no_memory() {
        let (mut sieve, mut out) = (Sieve::new(1 << 20), BytesMut::new());
        sieve.sift(b"$536870912\r\n", &mut out).expect("RESP");
        for _ in 0..512 {
            sieve.sift(&[7; 1 << 20], &mut out).expect("RESP");
        }
        sieve.sift(b"\r\n:1\r\n", &mut out).expect("RESP");
        assert_eq!(out, b"$0\r\n\r\n:1\r\n"[..]);
        assert!(out.capacity() < 1024);
    }

    #[test]
    fn what_is_not_redis_is_an_error() {
        assert_eq!(sifted(9, &[b"$x\r\n"]), Err(NotRedis::Length));
        assert_eq!(sifted(9, &[b"$18446744073709551615\r\n"]), Err(NotRedis::Length));
        assert_eq!(sifted(9, &[b"+", &vec![b'a'; MAX_LINE]]), Err(NotRedis::LongLine));
    }

    proptest! {
        #[test]
        fn any_bytes_pass_or_are_an_error(bytes in prop::collection::vec(prop::sample::select(b"$-=19\r\n+a".to_vec()), 0..60)) {
            let _either = sifted(5, &[&bytes]);
        }
    }
}
