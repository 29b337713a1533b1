//! How an instance's life is written into its state record, and read back by the next supervisor.
//!
//! ```text
//! 0 state u8 | 1 then u8 | 2 trouble u8 | 3 exit kind u8 | 4 exit value i32 | 8 time u64 (of the state)
//! 16 incarnation u32 | 20 restarts u32 | 24 quick deaths u32 | 28.. zero
//! ```

use super::{Exit, Incarnation, Instance, State, Then, Time, Trouble};

/// Bytes of a life in a state record.
pub const BYTES: usize = 128;

impl Instance {
    /// The record of this life.
    pub fn to_record(&self) -> [u8; BYTES] {
        let (state, then, time) = match self.state {
            State::Stopped => (0, 0, 0),
            State::Launching { ready_by } => (1, 0, ready_by.0),
            State::Online { since } => (2, 0, since.0),
            State::Stopping { kill_at, then } => (3, then as u8, kill_at.0),
            State::WaitingRestart { until } => (4, 0, until.0),
            State::Errored => (5, 0, 0),
            State::Draining { until } => (6, 0, until.0),
        };
        let (kind, value) = match self.last_exit {
            None => (0, 0),
            Some(Exit::Code(code)) => (1, code),
            Some(Exit::Signal(signal)) => (2, signal),
            Some(Exit::NeverStarted) => (3, 0),
            Some(Exit::NotExecuted) => (4, 0),
            Some(Exit::Unknown) => (5, 0),
        };
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&[state, then, self.trouble as u8, kind]);
        bytes[4..8].copy_from_slice(&value.to_le_bytes());
        bytes[8..16].copy_from_slice(&time.to_le_bytes());
        for (at, word) in [(16, self.incarnation.0), (20, self.restarts), (24, self.quick_deaths)] {
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads a record; `None` when a value in it is none of ours.
    pub fn from_record(bytes: &[u8; BYTES]) -> Option<Instance> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let time = Time(u64::from(word(8)) | u64::from(word(12)) << 32);
        let value = word(4).cast_signed();
        let then = [Then::Stay, Then::Respawn, Then::Retry].into_iter().find(|then| *then as u8 == bytes[1])?;
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
            trouble: [Trouble::None, Trouble::QuickDeaths, Trouble::NotReady, Trouble::NoProcess]
                .into_iter()
                .find(|trouble| *trouble as u8 == bytes[2])?,
            last_exit: match bytes[3] {
                0 => None,
                1 => Some(Exit::Code(value)),
                2 => Some(Exit::Signal(value)),
                3 => Some(Exit::NeverStarted),
                4 => Some(Exit::NotExecuted),
                5 => Some(Exit::Unknown),
                _ => return None,
            },
            incarnation: Incarnation(word(16)),
            restarts: word(20),
            quick_deaths: word(24),
        })
    }
}
