//! One output of one process, as the pump sees it.
//!
//! Owns the state, and reads off it what is to be told and when it has to be looked at: nothing here is queued.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::pressure::RETRY;
use super::{Event, StreamKey};
use crate::logs::losing::{Losing, Lost};
use crate::logs::sink::Sink;
use crate::logs::spool;

/// How long after a report that nobody had room for it is tried again.
const REPORT_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Stream {
    pub token: u64,
    pub key: StreamKey,
    pub sink: Sink,
    pub state: State,
    /// Since when the file takes nothing.
    pub failing: Option<Instant>,
    /// What is being dropped, since that took too long.
    pub losing: Option<Losing>,
    /// What was dropped and is not told.
    pub lost: Option<Lost>,
    /// The last wait for a target that is slow.
    pub slow: Duration,
    /// The number of the error that the file gives now.
    pub trouble: Option<i32>,
    /// The one that was told.
    pub told: Option<i32>,
}

#[derive(Debug)]
pub enum State {
    Open {
        pipe: OwnedFd,
        watch: Watch,
    },
    /// At its end, which is not told yet.
    Ended,
    /// Nothing to do any more.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// In the epoll.
    Now,
    /// Not in the epoll, to be looked at at this time: new, or its file took nothing.
    From(Instant),
}

impl Stream {
    /// A stream that has not been looked at.
    pub fn new(token: u64, key: StreamKey, sink: Sink, pipe: OwnedFd) -> Stream {
        Stream {
            token,
            key,
            sink,
            state: State::Open { pipe, watch: Watch::From(Instant::now()) },
            failing: None,
            losing: None,
            lost: None,
            slow: Duration::ZERO,
            trouble: None,
            told: None,
        }
    }

    /// When the thread has to look at it without an event.
    pub fn look_again(&self) -> Option<Instant> {
        match self.state {
            State::Open { watch: Watch::From(time), .. } => Some(time),
            State::Open { .. } if self.sink.waits().is_some() || self.losing.is_some() => Some(Instant::now() + RETRY),
            State::Open { .. } if self.trouble != self.told || self.lost.is_some() => {
                Some(Instant::now() + REPORT_AGAIN)
            }
            State::Ended => Some(Instant::now() + REPORT_AGAIN),
            State::Open { .. } | State::Gone => None,
        }
    }

    /// The next thing to tell of it.
    pub fn news(&self) -> Option<Event> {
        if let Some(lost) = self.lost {
            return Some(Event::Lost { stream: self.key, path: self.sink.path(), lost });
        }
        match self.state {
            State::Ended => Some(Event::Closed(self.key)),
            State::Open { .. } if self.trouble != self.told => Some(match self.trouble {
                None => Event::Recovered(self.key),
                Some(number) => Event::Trouble {
                    stream: self.key,
                    path: self.sink.path(),
                    error: io::Error::from_raw_os_error(number),
                },
            }),
            State::Open { .. } | State::Gone => None,
        }
    }

    /// Where its spool lies, if it has one.
    pub fn spool_path(&self, folder: &Path) -> Option<PathBuf> {
        match &self.state {
            State::Open { pipe, .. } if !matches!(self.sink, Sink::File(_)) => {
                Some(spool::path_of(folder, &spool::id_of(self.key, pipe)))
            }
            _ => None,
        }
    }
}
