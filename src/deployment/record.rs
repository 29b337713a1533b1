//! How a deployment is written into its app's record, and read back by the next supervisor.
//!
//! ```text
//! 0 phase u8 (0: none) | 1 rollback u8 | 2 length of the reason's text u8 | 3 has a place u8 | 4 place u32
//! 8 until u64 | 16 old: revision, instances u32 | 24 new: the same | 32 min_ready ms u64 | 40 probation ms u64
//! 48 parallel, max_failures, failures, setbacks u32 | 64.. the reason's text, UTF-8, cut off
//! ```

use std::time::Duration;

use super::{Deployment, Phase, Policy, Reason, Release};
use crate::lifecycle::Time;

/// Bytes of a deployment in an app's record.
pub const BYTES: usize = 192;

/// Where the reason's text begins.
const TEXT: usize = 64;

impl Deployment {
    /// The record of this deployment.
    pub fn to_record(&self) -> [u8; BYTES] {
        let (phase, until) = match self.phase {
            Phase::Canary => (1, 0),
            Phase::Waves => (2, 0),
            Phase::TakingBack => (3, 0),
            Phase::Probation { until } => (4, until.0),
            Phase::Done => (5, 0),
            Phase::Failed => (6, 0),
        };
        let text = self.reason.as_ref().map_or("", |reason| beginning(&reason.text));
        let place = self.reason.as_ref().and_then(|reason| reason.place);
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&[
            phase,
            u8::from(self.policy.rollback),
            text.len() as u8,
            u8::from(place.is_some()),
        ]);
        let words = [
            (4, place.unwrap_or(0)),
            (16, self.old.revision),
            (20, self.old.instances),
            (24, self.new.revision),
            (28, self.new.instances),
            (48, self.policy.parallel),
            (52, self.policy.max_failures),
            (56, self.failures),
            (60, self.setbacks),
        ];
        for (at, word) in words {
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        for (at, long) in [(8, until), (32, ms(self.policy.min_ready)), (40, ms(self.policy.probation))] {
            bytes[at..at + 8].copy_from_slice(&long.to_le_bytes());
        }
        bytes[TEXT..TEXT + text.len()].copy_from_slice(text.as_bytes());
        bytes
    }

    /// Reads a record; `None` when there is no deployment in it, or a value that is none of ours.
    pub fn from_record(bytes: &[u8; BYTES]) -> Option<Deployment> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let text = std::str::from_utf8(bytes.get(TEXT..TEXT + usize::from(bytes[2]))?).ok()?;
        Some(Deployment {
            phase: match bytes[0] {
                1 => Phase::Canary,
                2 => Phase::Waves,
                3 => Phase::TakingBack,
                4 => Phase::Probation { until: Time(long(8)) },
                5 => Phase::Done,
                6 => Phase::Failed,
                _ => return None,
            },
            old: Release { revision: word(16), instances: word(20) },
            new: Release { revision: word(24), instances: word(28) },
            policy: Policy {
                min_ready: Duration::from_millis(long(32)),
                parallel: word(48),
                max_failures: word(52),
                rollback: bytes[1] != 0,
                probation: Duration::from_millis(long(40)),
            },
            failures: word(56),
            setbacks: word(60),
            reason: (!text.is_empty())
                .then(|| Reason { place: (bytes[3] != 0).then(|| word(4)), text: text.to_owned() }),
        })
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// As much of a text as the record has room for.
fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(BYTES - TEXT)]
}
