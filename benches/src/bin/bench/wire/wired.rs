//! The wire's ends.

use std::time::{Duration, Instant};

use anyhow::Result;
use herdwire_ipc::{Drain, Outgoing, Participant, TURN};

use super::ends::{LAST, Outcome, Receiving, first_word, latency, processor_time, sending};
use super::herd::{Herd, PING, PONG};
use crate::end::Line;

pub use super::herd::sit;

/// No sleep lasts longer, whoever forgets to ring.
const NAP: Duration = Duration::from_secs(1);
/// Publishes between two looks at the clock; as many fit into a ring.
const BURST: u32 = 4096;

/// Sends a ping, sleeps until its pong is there.
pub fn call(mut me: Participant, line: &Line, spins: bool, limit: Duration) -> Result<Outcome> {
    line.ready()?;
    let mut message = [1; 64];
    let outcome = latency(limit, || {
        me.publisher.publish(PING, Outgoing::bytes(&message))?;
        let mut answered = false;
        while !answered {
            let turn = me.drain.turn(TURN, |_| answered = true);
            rest(&mut me.drain, spins || answered || turn.more);
        }
        Ok(())
    })?;
    message[..8].copy_from_slice(&LAST.to_le_bytes());
    me.publisher.publish(PING, Outgoing::bytes(&message))?;
    Ok(outcome)
}

/// Sends every ping back as a pong.
pub fn echo(mut me: Participant, line: &Line, spins: bool) -> Result<Outcome> {
    line.ready()?;
    let mut message = Vec::new();
    loop {
        message.clear();
        let turn = me.drain.turn(TURN, |delivery| message.extend_from_slice(delivery.payload));
        if first_word(&message) == LAST {
            return Ok(Outcome::Done);
        }
        if !message.is_empty() {
            me.publisher.publish(PONG, Outgoing::bytes(&message))?;
        }
        rest(&mut me.drain, spins || turn.more);
    }
}

/// One publish a message.
pub fn send(mut me: Participant, line: &Line, size: usize, limit: Duration) -> Result<Outcome> {
    line.ready()?;
    sending(size, limit, |message| {
        me.publisher.publish(PING, Outgoing::bytes(message))?;
        Ok(())
    })
}

/// Drains until the last message.
pub fn receive(mut me: Participant, line: &Line) -> Result<Outcome> {
    line.ready()?;
    let mut receiving = Receiving::new()?;
    let mut fault = Ok(());
    loop {
        let turn = me.drain.turn(TURN, |delivery| {
            receiving.begin();
            if fault.is_ok() {
                fault = receiving.take(delivery.payload);
            }
        });
        std::mem::replace(&mut fault, Ok(()))?;
        if let Some(outcome) = receiving.outcome()? {
            return Ok(outcome);
        }
        rest(&mut me.drain, turn.more);
    }
}

fn rest(drain: &mut Drain, stay_awake: bool) {
    if !stay_awake {
        drain.wait(NAP);
    }
}

/// What a publish costs when nobody hears it, or when readers hear it that are awake. Those live in this very process
/// and drain while the clock stands still, so that nobody competes for the cores and nothing is ever full. The clock is
/// the process's own processor time: a stranger that takes the core away in the middle of a burst is no cost of ours.
pub fn publish_cost(line: &Line, awake: u16, limit: Duration) -> Result<Outcome> {
    let mut herd = Herd::make(1 + usize::from(awake))?.seat_here()?;
    let mut readers = herd.split_off(1);
    let me = herd.pop().expect("a herd has at least one seat");
    let mut publisher = me.publisher;
    line.ready()?;
    let (mut spent, mut messages) = (Duration::ZERO, 0);
    let start = Instant::now();
    while start.elapsed() < limit || messages == 0 {
        let before = processor_time()?;
        for _ in 0..BURST {
            publisher.publish(PING, Outgoing::bytes(&[1; 64]))?;
        }
        spent += processor_time()? - before;
        messages += u64::from(BURST);
        for reader in &mut readers {
            while reader.drain.turn(TURN, |_| {}).more {}
        }
    }
    Ok(Outcome::Cost { ns: spent.as_nanos() as f64 / messages as f64 })
}
