//! Sleeping when there is nothing: a little patience, the announcement, the bell.

use std::os::fd::AsFd;
use std::time::Duration;

use super::Drain;
use crate::bell::{self, Ear, LONGEST_SLEEP};
use crate::grace::{Grace, pause};
use crate::ring::Sleeper;
use crate::slots::Slot;

/// Records since the last sleep from which on traffic counts as dense.
const DENSE: u64 = 4;
/// A turn that brought fewer records than this, not the first since the last sleep, was in step with its publisher.
const IN_STEP: usize = 64;

/// A drain's sleep.
pub(super) struct Sleep {
    sleeper: Sleeper,
    grace: Grace,
    ear: Option<Ear>,
    since: u64,
    dense: bool,
    /// Turns since the last sleep that brought something, and what the last one brought.
    turns: u32,
    last: usize,
}

impl Sleep {
    pub(super) fn new(slot: Slot) -> Sleep {
        Sleep {
            sleeper: Sleeper::new(slot),
            grace: Grace::default(),
            ear: None,
            since: 0,
            dense: false,
            turns: 0,
            last: 0,
        }
    }

    /// So many records were handed over.
    pub(super) fn note(&mut self, records: usize) {
        self.since += records as u64;
        self.turns = self.turns.saturating_add(u32::from(records > 0));
        self.last = records;
    }

    /// Whether the publisher writes while we read, and little at a time: it must be on another core, and waiting a
    /// little costs neither of them anything.
    fn is_in_step(&self) -> bool {
        self.is_dense() && self.turns > 1 && (1..IN_STEP).contains(&self.last)
    }

    fn is_dense(&self) -> bool {
        self.dense || self.since >= DENSE
    }
}

impl Drain {
    /// Sleeps until there may be something, at most `limit` and at most a second. When traffic is dense it gives the
    /// publishers a few chances before it does.
    pub fn wait(&mut self, limit: Duration) {
        self.gather();
        if self.is_dense() {
            let mut grace = std::mem::take(&mut self.sleep.grace);
            let news = self.has_news() || grace.wait(|| self.has_news());
            self.sleep.grace = grace;
            if news {
                return;
            }
        }
        if self.sleep.ear.is_none() {
            self.sleep.ear = Ear::new(self.shared.bell.as_fd()).ok();
        }
        let Some(announced) = self.announce() else { return };
        let drain = &announced.drain;
        match &drain.sleep.ear {
            Some(ear) if !ear.wait(limit) && limit >= LONGEST_SLEEP => bell::empty(drain.shared.bell.as_fd()),
            Some(_) => {}
            // Out of descriptors: look again every millisecond instead.
            None => std::thread::sleep(limit.min(Duration::from_millis(1))),
        }
    }

    /// Lets messages gather before the next look, where that makes both ends faster.
    pub(crate) fn gather(&mut self) {
        if self.sleep.is_in_step() {
            pause();
        }
    }

    /// Announces a sleep and looks at everything once more; `None` when there is something. Whoever sleeps does it
    /// while it holds the answer, on the bell, for a second at most.
    pub fn announce(&mut self) -> Option<Announced<'_>> {
        self.sleep.sleeper.announce(&self.own);
        let announced = Announced { drain: self };
        (!announced.drain.has_news()).then_some(announced)
    }

    /// Whether traffic has been dense since the last sleep, so that a little patience pays.
    pub fn is_dense(&self) -> bool {
        self.sleep.is_dense()
    }

    /// Whether a turn would find something to do.
    pub fn has_news(&self) -> bool {
        self.changes != self.shared.changes() || self.lanes.iter().any(|lane| lane.has_news() || lane.peer.is_gone())
    }
}

/// A sleep that is announced: publishers ring the bell. Dropping it takes the announcement back.
#[derive(Debug)]
pub struct Announced<'a> {
    drain: &'a mut Drain,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let Drain { sleep, own, .. } = &mut *self.drain;
        sleep.sleeper.awake(own);
        sleep.dense = sleep.since >= DENSE;
        sleep.since = 0;
        sleep.turns = 0;
    }
}
