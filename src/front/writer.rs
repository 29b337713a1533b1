//! Gathers what a session is to be sent into as few writes as possible.
//!
//! Owns the frames that were taken out of the outbox and the place inside the one that is half written. Knows no
//! socket: the caller hands in the call that writes.
//!
//! Invariants
//! - Frames leave whole and in order; a control frame goes between two others, never inside one.
//! - At most one ping and one pong wait: a newer pong replaces an older (RFC 6455, 5.5.3), so a flood of pings costs no
//!   memory.
//! - Nothing leaves after a close frame.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use super::frame::{Frame, Opcode};
use super::queue::{Outbox, SharedOutbox};

/// Frames handed to one write call.
const GATHER: usize = 64;
/// Write calls before others get a turn.
const ROUNDS: usize = 8;
/// A batch that was longer gives its memory back.
const KEPT: usize = 8;

/// How far a flush came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Everything is written.
    Nothing,
    /// The socket takes no more for now.
    Blocked,
    /// There is more, and the socket would take it.
    More,
}

/// What a flush did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    pub left: Left,
    /// Whether any byte went.
    pub moved: bool,
    /// Messages (not control frames) that went whole.
    pub messages: u64,
}

/// One connection's outgoing side.
#[derive(Debug, Default)]
pub struct Writer {
    batch: VecDeque<Frame>,
    /// Bytes of the first frame that are gone already.
    written: usize,
    closing: bool,
}

impl Writer {
    /// Whether something is in hand.
    pub fn is_busy(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Sends a ping or pong as soon as the frame under way is whole.
    pub fn urgent(&mut self, frame: Frame) {
        if self.closing {
            return;
        }
        let boundary = self.boundary();
        let same = (boundary..self.batch.len())
            .take_while(|at| self.batch[*at].opcode().is_control())
            .find(|at| self.batch[*at].opcode() == frame.opcode());
        match same {
            Some(at) => self.batch[at] = frame,
            None => self.batch.insert(boundary, frame),
        }
    }

    /// Sends everything that waits and then `close`.
    pub fn close(&mut self, outbox: &mut Outbox, close: Frame) {
        if !self.closing {
            outbox.close();
            outbox.take(&mut self.batch);
            self.batch.push_back(close);
            self.closing = true;
        }
    }

    /// Gives up what waits, but for the rest of the frame under way, and sends `close`.
    pub fn abandon(&mut self, outbox: &mut Outbox, close: Frame) {
        if !self.closing {
            outbox.close();
            outbox.take(&mut self.batch);
            self.batch.truncate(self.boundary());
            self.batch.push_back(close);
            self.closing = true;
        }
    }

    /// Writes until nothing is left, the socket would block, or others should get a turn. `outbox` is asked for more
    /// when the batch is empty, and told what went.
    ///
    /// # Errors
    /// Those of `write`, but for "would block".
    pub fn flush(
        &mut self,
        outbox: &SharedOutbox,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<Flushed> {
        let mut flushed = Flushed { left: Left::More, moved: false, messages: 0 };
        let mut gone = 0;
        for _ in 0..ROUNDS {
            if self.batch.is_empty() {
                let mut outbox = outbox.lock();
                outbox.written(std::mem::take(&mut gone));
                outbox.take(&mut self.batch);
            }
            if self.batch.is_empty() {
                flushed.left = Left::Nothing;
                return Ok(flushed);
            }
            match self.write_some(&mut write) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    flushed.moved = true;
                    gone += self.advance(bytes, &mut flushed.messages);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    flushed.left = Left::Blocked;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if gone > 0 {
            outbox.lock().written(gone);
        }
        Ok(flushed)
    }

    fn write_some(&self, write: &mut impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); GATHER];
        let mut count = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.batch) {
            let skipped = if count == 0 { self.written } else { 0 };
            *slice = IoSlice::new(&frame.bytes()[skipped..]);
            count += 1;
        }
        write(&slices[..count])
    }

    /// Drops what is written; gives back the bytes of whole data frames, which are those that the outbox counts.
    fn advance(&mut self, bytes: usize, messages: &mut u64) -> usize {
        self.written += bytes;
        let mut gone = 0;
        while let Some(frame) = self.batch.pop_front_if(|frame| frame.len() <= self.written) {
            self.written -= frame.len();
            if matches!(frame.opcode(), Opcode::Text | Opcode::Binary) {
                gone += frame.len();
                *messages += 1;
            }
        }
        if self.batch.is_empty() && self.batch.capacity() > KEPT {
            self.batch = VecDeque::new();
        }
        gone
    }

    /// Where a frame may be put in without cutting another in two.
    fn boundary(&self) -> usize {
        usize::from(self.written > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket that takes `room` bytes and then blocks.
    struct Socket {
        room: usize,
        taken: Vec<u8>,
        calls: usize,
    }

    impl Socket {
        fn new(room: usize) -> Socket {
            Socket { room, taken: Vec::new(), calls: 0 }
        }

        fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            self.calls += 1;
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let taken = all.len().min(self.room);
            if taken == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= taken;
            self.taken.extend_from_slice(&all[..taken]);
            Ok(taken)
        }
    }

    fn flush(writer: &mut Writer, outbox: &SharedOutbox, socket: &mut Socket) -> Flushed {
        writer.flush(outbox, |slices| socket.write(slices)).unwrap()
    }

    fn filled(messages: u8) -> SharedOutbox {
        let mut outbox = Outbox::new(1 << 20);
        for message in 0..messages {
            outbox.offer(&Frame::binary(&[message; 8]));
        }
        SharedOutbox::new(outbox)
    }

    #[test]
    fn everything_that_waits_goes_in_one_call() {
        let (mut writer, outbox, mut socket) = (Writer::default(), filled(50), Socket::new(10_000));
        let flushed = flush(&mut writer, &outbox, &mut socket);
        assert_eq!(flushed, Flushed { left: Left::Nothing, moved: true, messages: 50 });
        assert_eq!((socket.calls, socket.taken.len()), (1, 500));
    }

    #[test]
    fn frames_leave_whole_and_in_order_however_little_the_socket_takes() {
        let (mut writer, outbox, mut socket) = (Writer::default(), filled(200), Socket::new(0));
        let mut messages = 0;
        for room in (1..).map(|step| step * 7 % 23 + 1) {
            socket.room = room;
            let flushed = flush(&mut writer, &outbox, &mut socket);
            messages += flushed.messages;
            if flushed.left == Left::Nothing {
                break;
            }
        }
        let expected: Vec<u8> = (0..200).flat_map(|message| Frame::binary(&[message; 8]).bytes().to_vec()).collect();
        assert_eq!(socket.taken, expected);
        assert_eq!(messages, 200);
    }

    #[test]
    fn room_is_made_for_what_went_and_for_nothing_else() {
        let outbox = SharedOutbox::new(Outbox::new(20));
        outbox.lock().offer(&Frame::binary(&[0; 8]));
        outbox.lock().offer(&Frame::binary(&[0; 8]));
        let (mut writer, mut socket) = (Writer::default(), Socket::new(15));
        flush(&mut writer, &outbox, &mut socket);
        assert_eq!(outbox.lock().offer(&Frame::binary(&[0; 8])), super::super::queue::Offer::First);
        assert_eq!(outbox.lock().offer(&Frame::binary(&[0; 8])), super::super::queue::Offer::Overflowed);
    }

    #[test]
    fn a_pong_goes_before_what_waits_but_not_into_a_frame() {
        let (mut writer, outbox, mut socket) = (Writer::default(), filled(3), Socket::new(13));
        flush(&mut writer, &outbox, &mut socket);
        writer.urgent(Frame::pong(b"a"));
        socket.room = 100;
        flush(&mut writer, &outbox, &mut socket);
        let expected = [Frame::binary(&[0; 8]), Frame::binary(&[1; 8]), Frame::pong(b"a"), Frame::binary(&[2; 8])];
        assert_eq!(socket.taken, expected.iter().flat_map(|frame| frame.bytes().to_vec()).collect::<Vec<u8>>());
    }

    #[test]
    fn a_flood_of_pings_leaves_one_pong_the_last() {
        let mut writer = Writer::default();
        writer.urgent(Frame::ping());
        for ping in 0..100u8 {
            writer.urgent(Frame::pong(&[ping]));
        }
        assert_eq!(writer.batch, [Frame::pong(&[99]), Frame::ping()]);
    }

    #[test]
    fn what_waits_goes_before_a_close_and_nothing_after() {
        let (mut writer, outbox, mut socket) = (Writer::default(), filled(1), Socket::new(100));
        writer.close(&mut outbox.lock(), Frame::close(Some(1001), ""));
        writer.urgent(Frame::pong(b"late"));
        outbox.lock().offer(&Frame::binary(b"late"));
        flush(&mut writer, &outbox, &mut socket);
        assert_eq!(socket.taken, [Frame::binary(&[0; 8]).bytes(), Frame::close(Some(1001), "").bytes()].concat());
    }

    #[test]
    fn giving_up_keeps_only_the_frame_under_way() {
        let (mut writer, outbox, mut socket) = (Writer::default(), filled(5), Socket::new(12));
        flush(&mut writer, &outbox, &mut socket);
        writer.abandon(&mut outbox.lock(), Frame::close(Some(4101), "slow"));
        socket.room = 100;
        flush(&mut writer, &outbox, &mut socket);
        let expected = [Frame::binary(&[0; 8]), Frame::binary(&[1; 8]), Frame::close(Some(4101), "slow")]
            .map(|f| f.bytes().to_vec());
        assert_eq!(socket.taken, expected.concat());
    }
}
