//! One stream's turn: what is moved, and what comes of it.

use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};
use tokio::sync::mpsc::error::TrySendError;

use super::pressure::RETRY;
use super::stream::{State, Stream, Watch};
use super::work::Shared;
use super::{Event, lock};
use crate::logs::target::Took;

/// What one stream may move in one turn.
pub const TURN_BYTES: usize = 256 * 1024;
/// How long after a target was slow the same is tried again.
const RETRY_SLOW: Duration = Duration::from_millis(20);
/// The longest wait for a target that is only slow.
const SLOWEST: Duration = Duration::from_millis(160);

/// What came of serving a stream once.
pub enum Served {
    /// This many bytes, and there may be more.
    Some(usize),
    /// Nothing is there now.
    Empty,
    /// It is at its end.
    Over,
    /// Its file takes nothing.
    Stuck,
}

impl Shared {
    /// Moves up to `most` bytes of a stream and acts on what comes of it.
    pub fn serve(&self, stream: &mut Stream, most: usize) -> Served {
        if stream.losing.is_some()
            && let Some(served) = self.lose(stream)
        {
            return served;
        }
        let State::Open { pipe, .. } = &stream.state else { return Served::Over };
        let mut moved = 0;
        let outcome = loop {
            match stream.sink.take(stream.key, pipe, most - moved, self) {
                Ok(Took::Bytes(bytes)) if moved + bytes < most => moved += bytes,
                Ok(Took::Bytes(bytes)) => break Ok(Served::Some(moved + bytes)),
                Ok(Took::Empty | Took::Blocked) if moved > 0 => break Ok(Served::Some(moved)),
                Ok(Took::Empty) => break Ok(Served::Empty),
                Ok(Took::End) => break Ok(Served::Over),
                Ok(Took::Blocked) => break Ok(Served::Stuck),
                Err(error) => break Err(error.raw_os_error().unwrap_or(libc::EIO)),
            }
        };
        stream.unproven = stream.unproven.saturating_sub(match &outcome {
            Ok(Served::Some(all)) => *all,
            _ => moved,
        });
        stream.trouble = outcome.as_ref().err().copied().or_else(|| stream.sink.waits());
        match outcome {
            Ok(Served::Over) => self.over(stream),
            Ok(Served::Stuck) => {
                stream.failing = None;
                stream.slow = (stream.slow * 2).clamp(RETRY_SLOW, SLOWEST);
                self.pause(stream, stream.slow);
            }
            Ok(Served::Some(_) | Served::Empty) => {
                (stream.failing, stream.slow) = (None, Duration::ZERO);
                self.watch(stream);
            }
            Err(_) => {
                let since = *stream.failing.get_or_insert_with(Instant::now);
                self.pause(stream, RETRY.min(self.patience));
                if since.elapsed() >= self.patience || stream.unproven > 0 {
                    stream.start_losing();
                }
            }
        }
        self.tell(stream);
        if stream.look_again().is_some() && lock(&self.restless).insert(stream.token) {
            // Served by `drain`, beside a thread that may be asleep without an end.
            self.ring();
        }
        outcome.unwrap_or(Served::Stuck)
    }

    /// Everything is in the file.
    fn over(&self, stream: &mut Stream) {
        self.unwatch(stream);
        self.table().remember(stream.key, stream.sink.path(), stream.sink.written());
        stream.sink.leave(stream.key, true);
        stream.trouble = None;
        stream.state = State::Ended;
    }

    /// The file takes bytes: wait for more of them.
    pub fn watch(&self, stream: &mut Stream) {
        let State::Open { pipe, watch: watch @ Watch::From(_) } = &mut stream.state else { return };
        match self.epoll.add(&*pipe, EpollEvent::new(EpollFlags::EPOLLIN, stream.token)) {
            Ok(()) => *watch = Watch::Now,
            Err(error) => {
                *watch = Watch::From(Instant::now() + RETRY);
                stream.trouble = Some(error as i32);
            }
        }
    }

    /// The file takes nothing: do not even look at the pipe for a while, not at its end either.
    pub fn pause(&self, stream: &mut Stream, time: Duration) {
        self.unwatch(stream);
        if let State::Open { watch, .. } = &mut stream.state {
            *watch = Watch::From(Instant::now() + time);
        }
    }

    /// Takes it out of the epoll.
    pub fn unwatch(&self, stream: &mut Stream) {
        if let State::Open { pipe, watch: watch @ Watch::Now } = &mut stream.state {
            // Fails only for a descriptor that is not in it.
            let _ = self.epoll.delete(&*pipe);
            *watch = Watch::From(Instant::now());
        }
    }

    /// Tells what is new about a stream, if the receiver has room for it. One without a receiver counts as told.
    pub fn tell(&self, stream: &mut Stream) {
        while let Some(event) = stream.news() {
            let (is_loss, is_end) = (matches!(event, Event::Lost { .. }), matches!(event, Event::Closed(_)));
            if matches!(self.report.try_send(event), Err(TrySendError::Full(_))) {
                return;
            }
            if is_loss {
                stream.lost = None;
                continue;
            }
            stream.told = stream.ails();
            if is_end {
                stream.state = State::Gone;
                self.table().forget(stream.token, stream.key);
            }
        }
    }
}
