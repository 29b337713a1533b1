//! What becomes of a stream whose file takes nothing.
//!
//! Its instance waits for as long as the pump has patience; then what fills its pipe is dropped and counted, and a line
//! says so where the log goes on. A file that takes nothing again before it has taken a good deal gets no new patience:
//! a disk that stays full has room for a few lines now and then.

use std::io;
use std::time::Duration;

use super::lock;
use super::stream::{State, Stream};
use super::turn::{Served, TURN_BYTES};
use super::work::Shared;
use crate::logs::losing::Losing;

/// How long after a failure the same is tried again.
pub const RETRY: Duration = Duration::from_secs(1);
/// What a file that took nothing for too long has to take before it is trusted again.
const PROOF: usize = 1024 * 1024;

impl Shared {
    /// Drops what is in the pipe, or goes on with the file when it takes bytes again: `None` then.
    pub fn lose(&self, stream: &mut Stream) -> Option<Served> {
        let State::Open { pipe, .. } = &stream.state else { return None };
        let losing = stream.losing.as_mut()?;
        let error = io::Error::from_raw_os_error(stream.trouble.unwrap_or(libc::EIO));
        if losing.is_time(RETRY.min(self.patience)) && losing.is_between_lines(pipe) {
            match stream.sink.say(&losing.lost().in_words(&error), stream.key, pipe, self) {
                Ok(()) => {
                    stream.lost = Some(stream.lost.unwrap_or_default().and(losing.lost()));
                    (stream.losing, stream.failing) = (None, None);
                    stream.unproven = PROOF;
                    return None;
                }
                Err(error) => stream.trouble = error.raw_os_error().or(stream.trouble),
            }
        }
        let dropped = losing.drop_some(pipe, TURN_BYTES);
        match dropped {
            // Looked at again when more comes.
            Ok(Some(_)) => self.watch(stream),
            // At its end: nobody waits, so what was lost is told in the log whenever that can be.
            Ok(None) | Err(_) => self.pause(stream, RETRY.min(self.patience)),
        }
        self.tell(stream);
        if stream.look_again().is_some() && lock(&self.restless).insert(stream.token) {
            self.ring();
        }
        Some(Served::Stuck)
    }
}

impl Stream {
    /// Begins to drop what is in its pipe, if somebody waits for that.
    pub fn start_losing(&mut self) {
        let State::Open { pipe, .. } = &self.state else { return };
        if Losing::is_called_for(pipe) {
            // A file that cannot even be cut keeps the piece; a newline will follow it.
            let given_up = self.sink.give_up(self.key).unwrap_or_default();
            self.losing = Some(Losing::after(given_up));
        }
    }
}
