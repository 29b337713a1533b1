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
    /// So many bytes have to be moved until the file is trusted again.
    pub unproven: usize,
    /// What was dropped and is not told.
    pub lost: Option<Lost>,
    /// The last wait for a target that is slow.
    pub slow: Duration,
    /// The number of the error that the file gives now.
    pub trouble: Option<i32>,
    /// The one that was told, and whether lines were being dropped for it.
    pub told: Option<(i32, bool)>,
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
            unproven: 0,
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
            State::Open { .. } if self.ails() != self.told || self.lost.is_some() => {
                Some(Instant::now() + REPORT_AGAIN)
            }
            State::Ended => Some(Instant::now() + REPORT_AGAIN),
            State::Open { .. } | State::Gone => None,
        }
    }

    /// What is wrong with its file, and whether lines are dropped for it.
    pub fn ails(&self) -> Option<(i32, bool)> {
        self.trouble.map(|number| (number, self.losing.is_some()))
    }

    /// The next thing to tell of it.
    pub fn news(&self) -> Option<Event> {
        if let Some(lost) = self.lost {
            return Some(Event::Lost { stream: self.key, path: self.sink.path(), lost });
        }
        match self.state {
            State::Ended if self.told.is_some() => Some(Event::Recovered(self.key)),
            State::Ended => Some(Event::Closed(self.key)),
            State::Open { .. } if self.ails() != self.told => Some(match self.ails() {
                None => Event::Recovered(self.key),
                Some((number, drops)) => Event::Trouble {
                    stream: self.key,
                    path: self.sink.path(),
                    error: io::Error::from_raw_os_error(number),
                    drops,
                },
            }),
            State::Open { .. } | State::Gone => None,
        }
    }

    /// Where its spool lies, if it has one.
    pub fn spool_path(&self, folder: &Path) -> Option<PathBuf> {
        match &self.state {
            State::Open { pipe, .. } if !matches!(self.sink, Sink::File { .. }) => {
                Some(spool::path_of(folder, &spool::id_of(self.key, pipe)))
            }
            _ => None,
        }
    }
}
