//! How an instance's life is written into its state record, and read back by the next supervisor.
//!
//! ```text
//! 0 state u8 | 1 then u8 | 2 cause u8 | 3 exit kind u8 | 4 exit value i32 | 8 time u64 (of the state)
//! 16 incarnation u32 | 20 restarts u32 | 24 failures in a row u32 | 28 seed u32
//! 32 budget: begun u64 | 40 slices [u32; 8] | 72 queued u8 | 73 by u8 | 74.. zero
//! ```
//!
//! Frozen: a later release appends, and reads what an older one did not write as zero.

use super::Instance;
use super::budget::{Budget, SLICES};
use super::cause::Cause;
use super::states::{By, Exit, Incarnation, State, Then, Time};

/// Bytes of a life in a state record.
pub const BYTES: usize = 128;

const THENS: [Then; 5] =
    [Then::Stay, Then::Respawn, Then::Retry, Then::Ends { young: false }, Then::Ends { young: true }];

/// Each at its number. Numbers are frozen.
const BYS: [By; 6] = [By::Hand, By::Reload, By::TakenBack, By::Scale, By::Apply, By::Resurrect];

impl Instance {
    /// The record of this life.
    pub fn to_record(&self) -> [u8; BYTES] {
        let (state, time) = match self.state {
            State::Stopped => (0, 0),
            State::Launching { ready_by } => (1, ready_by.0),
            State::Online { since } => (2, since.0),
            State::Stopping { kill_at, .. } => (3, kill_at.0),
            State::WaitingRestart { until } => (4, until.0),
            State::Errored => (5, 0),
            State::Draining { until } => (6, until.0),
        };
        let then = match self.state {
            State::Stopping { then, .. } => THENS.iter().position(|one| *one == then).unwrap_or(0),
            _ => 0,
        };
        let cause = Cause::ALL.iter().find(|(_, cause)| *cause == self.cause).map_or(0, |(number, _)| *number);
        let (kind, value) = match self.last_exit {
            None => (0, 0),
            Some(Exit::Code(code)) => (1, code),
            Some(Exit::Signal(signal)) => (2, signal),
            Some(Exit::NeverStarted) => (3, 0),
            Some(Exit::NotExecuted) => (4, 0),
            Some(Exit::Unknown) => (5, 0),
            Some(Exit::OutOfMemory) => (6, 0),
        };
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&[state, then as u8, cause, kind]);
        bytes[4..8].copy_from_slice(&value.to_le_bytes());
        bytes[8..16].copy_from_slice(&time.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.budget.begun.0.to_le_bytes());
        bytes[72] = u8::from(self.queued);
        bytes[73] = BYS.iter().position(|by| *by == self.by).unwrap_or(0) as u8;
        let words = [self.incarnation.0, self.restarts, self.row, self.seed];
        let places = (16..32).step_by(4).chain((40..72).step_by(4));
        for (at, word) in places.zip(words.into_iter().chain(self.budget.slices)) {
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads a record; `None` when a value in it is none of ours.
    pub fn from_record(bytes: &[u8; BYTES]) -> Option<Instance> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| Time(u64::from(word(at)) | u64::from(word(at + 4)) << 32);
        let time = long(8);
        let value = word(4).cast_signed();
        let then = *THENS.get(usize::from(bytes[1]))?;
        let mut slices = [0; SLICES];
        for (slice, at) in slices.iter_mut().zip((40..).step_by(4)) {
            *slice = word(at);
        }
        Some(Instance {
            state: match bytes[0] {
                0 => State::Stopped,
                1 => State::Launching { ready_by: time },
                2 => State::Online { since: time },
                3 => State::Stopping { kill_at: time, then },
                4 => State::WaitingRestart { until: time },
                5 => State::Errored,
                6 => State::Draining { until: time },
                _ => return None,
            },
            cause: Cause::ALL.into_iter().find(|(number, _)| *number == bytes[2])?.1,
            last_exit: match bytes[3] {
                0 => None,
                1 => Some(Exit::Code(value)),
                2 => Some(Exit::Signal(value)),
                3 => Some(Exit::NeverStarted),
                4 => Some(Exit::NotExecuted),
                5 => Some(Exit::Unknown),
                6 => Some(Exit::OutOfMemory),
                _ => return None,
            },
            incarnation: Incarnation(word(16)),
            restarts: word(20),
            row: word(24),
            seed: word(28),
            budget: Budget { begun: long(32), slices },
            queued: bytes[72] != 0,
            // Of a later release: that somebody asked is all that matters.
            by: BYS.get(usize::from(bytes[73])).copied().unwrap_or_default(),
        })
    }
}
