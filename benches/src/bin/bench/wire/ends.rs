//! What one end does: its jobs, and how a round trip and a rate are taken.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{redis, streams, wired};
use crate::end::Line;

/// First word of the last message.
pub const LAST: u64 = 1 << 40;
/// Messages between two looks at the clock.
const BETWEEN_LOOKS: u64 = 32;
/// Round trips before those that count.
const WARM_UP: usize = 200;

/// What an end has to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Job {
    /// Send a message, wait for its echo, for so long.
    Call { carrier: Carrier, limit: Duration },
    /// Send everything back.
    Echo { carrier: Carrier },
    /// Send as fast as it goes, for so long.
    Send { carrier: Carrier, size: usize, limit: Duration },
    /// Take everything.
    Receive { carrier: Carrier, size: usize },
    /// Publish to readers of the same process, which are never asleep.
    PublishCost { awake: u16, limit: Duration },
    /// Compute without end.
    Burn,
}

/// How an end reaches the others. What it needs in descriptors comes with the job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Carrier {
    Wire {
        spins: bool,
    },
    /// Descriptors for read(2) and write(2); a round trip moves `unit` bytes.
    Stream {
        unit: usize,
    },
    Redis {
        socket: PathBuf,
    },
}

/// What an end found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Outcome {
    Latency {
        p50_ns: f64,
        p99_ns: f64,
    },
    /// With the processor time that it took.
    Sent {
        messages: u64,
        spent: Duration,
    },
    /// From the arrival of the first message to that of the last; and the processor time of all of it.
    Received {
        messages: u64,
        time: Duration,
        spent: Duration,
    },
    Cost {
        ns: f64,
    },
    Done,
}

/// Does a job.
pub fn work(job: Job, descriptors: Vec<OwnedFd>, line: &Line) -> Result<Outcome> {
    use Carrier::{Redis, Stream, Wire};
    match job {
        Job::Call { carrier: Wire { spins }, limit } => wired::call(wired::sit(descriptors, line)?, line, spins, limit),
        Job::Echo { carrier: Wire { spins } } => wired::echo(wired::sit(descriptors, line)?, line, spins),
        Job::Send { carrier: Wire { .. }, size, limit } => {
            wired::send(wired::sit(descriptors, line)?, line, size, limit)
        }
        Job::Receive { carrier: Wire { .. }, .. } => wired::receive(wired::sit(descriptors, line)?, line),
        Job::Call { carrier: Stream { unit }, limit } => streams::call(descriptors, line, unit, limit),
        Job::Echo { carrier: Stream { unit } } => streams::echo(descriptors, line, unit),
        Job::Send { carrier: Stream { .. }, size, limit } => streams::send(descriptors, line, size, limit),
        Job::Receive { carrier: Stream { .. }, size } => streams::receive(descriptors, line, size),
        Job::Call { carrier: Redis { socket }, limit } => redis::call(&socket, line, limit),
        Job::Echo { carrier: Redis { socket } } => redis::echo(&socket, line),
        Job::Send { carrier: Redis { socket }, size, limit } => redis::send(&socket, line, size, limit),
        Job::Receive { carrier: Redis { socket }, size } => redis::receive(&socket, line, size),
        Job::PublishCost { awake, limit } => wired::publish_cost(line, awake, limit),
        Job::Burn => {
            line.ready()?;
            loop {
                std::hint::spin_loop();
            }
        }
    }
}

/// Takes round trips for `limit`, after some that do not count.
pub fn latency(limit: Duration, mut round_trip: impl FnMut() -> Result<()>) -> Result<Outcome> {
    for _ in 0..WARM_UP {
        round_trip()?;
    }
    let mut samples: Vec<u64> = Vec::with_capacity(1 << 16);
    let start = Instant::now();
    let mut before = start;
    while before - start < limit {
        round_trip()?;
        let after = Instant::now();
        samples.push((after - before).as_nanos() as u64);
        before = after;
    }
    samples.sort_unstable();
    let at = |share: f64| samples.get((samples.len() as f64 * share) as usize).map(|ns| *ns as f64);
    let none = "not one round trip in the time given";
    Ok(Outcome::Latency { p50_ns: at(0.50).context(none)?, p99_ns: at(0.99).context(none)? })
}

/// Sends numbered messages for `limit`, and then the last one: its first word is [`LAST`]. The numbers start with 1.
pub fn sending(size: usize, limit: Duration, mut send: impl FnMut(&[u8]) -> Result<()>) -> Result<Outcome> {
    let mut message = vec![0x5a; size];
    let mut messages = 0;
    let before = processor_time()?;
    let start = Instant::now();
    while start.elapsed() < limit {
        for _ in 0..BETWEEN_LOOKS {
            messages += 1;
            message[..8].copy_from_slice(&u64::to_le_bytes(messages));
            send(&message)?;
        }
    }
    message[..8].copy_from_slice(&LAST.to_le_bytes());
    send(&message)?;
    Ok(Outcome::Sent { messages: messages + 1, spent: processor_time()? - before })
}

/// Counts what arrives, and sees to it that nothing is missing.
pub struct Receiving {
    before: Duration,
    messages: u64,
    first: Option<Instant>,
    last: bool,
}

impl Receiving {
    /// Begins to count processor time.
    pub fn new() -> Result<Receiving> {
        Ok(Receiving { before: processor_time()?, messages: 0, first: None, last: false })
    }

    /// Something arrives: the clock runs from the first time on.
    pub fn begin(&mut self) {
        self.first.get_or_insert_with(Instant::now);
    }

    /// Takes a message.
    pub fn take(&mut self, message: &[u8]) -> Result<()> {
        self.messages += 1;
        match first_word(message) {
            LAST => self.last = true,
            number => ensure!(number == self.messages, "message {} was missed, {number} came", self.messages),
        }
        Ok(())
    }

    /// The result, once the last message was taken.
    pub fn outcome(&self) -> Result<Option<Outcome>> {
        let Some(first) = self.first.filter(|_| self.last) else { return Ok(None) };
        let spent = processor_time()? - self.before;
        Ok(Some(Outcome::Received { messages: self.messages, time: first.elapsed(), spent }))
    }
}

/// Processor time of this process so far.
pub fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// The number at the beginning of a message.
pub fn first_word(message: &[u8]) -> u64 {
    message.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_missing_spoils_the_measurement() {
        let mut receiving = Receiving::new().unwrap();
        receiving.begin();
        receiving.take(&1u64.to_le_bytes()).unwrap();
        assert!(receiving.take(&3u64.to_le_bytes()).is_err());
    }

    #[test]
    fn what_is_sent_adds_up_to_what_is_received() {
        let mut receiving = Receiving::new().unwrap();
        let sent = sending(64, Duration::ZERO, |message| {
            receiving.begin();
            receiving.take(message)
        });
        let Outcome::Sent { messages: sent, .. } = sent.unwrap() else { panic!() };
        let Some(Outcome::Received { messages, .. }) = receiving.outcome().unwrap() else { panic!() };
        assert_eq!((sent, messages), (1, 1));
    }
}
