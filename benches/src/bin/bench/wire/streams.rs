//! The ends of what is read and written as bytes: eventfd, pipe, Unix socket pair.
//!
//! All of them as a careful program would use them: one write(2) a message, reads as large as the buffer allows.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};

use super::ends::{LAST, Outcome, Receiving, first_word, latency, sending};
use crate::end::Line;

/// Bytes that the reader asks for at once; more for large messages.
const READ: usize = 64 * 1024;

/// Where to read from and where to write to: always in turn, one pair for each of the others.
fn pairs(descriptors: Vec<OwnedFd>) -> Vec<(File, File)> {
    let mut files = descriptors.into_iter().map(File::from);
    std::iter::from_fn(|| files.next().zip(files.next())).collect()
}

fn only_pair(descriptors: Vec<OwnedFd>) -> Result<(File, File)> {
    pairs(descriptors).pop().context("nobody to talk to")
}

/// Writes a message, reads until its echo is there.
pub fn call(descriptors: Vec<OwnedFd>, line: &Line, unit: usize, limit: Duration) -> Result<Outcome> {
    let (mut from, mut to) = only_pair(descriptors)?;
    line.ready()?;
    let mut message = vec![0; unit];
    message[0] = 1;
    let mut answer = vec![0; unit];
    let outcome = latency(limit, || {
        to.write_all(&message)?;
        Ok(from.read_exact(&mut answer)?)
    })?;
    message[..8].copy_from_slice(&LAST.to_le_bytes());
    to.write_all(&message)?;
    Ok(outcome)
}

/// Writes everything back.
pub fn echo(descriptors: Vec<OwnedFd>, line: &Line, unit: usize) -> Result<Outcome> {
    let (mut from, mut to) = only_pair(descriptors)?;
    line.ready()?;
    let mut message = vec![0; unit];
    loop {
        from.read_exact(&mut message)?;
        if first_word(&message) == LAST {
            return Ok(Outcome::Done);
        }
        to.write_all(&message)?;
    }
}

/// One write a message and reader.
pub fn send(descriptors: Vec<OwnedFd>, line: &Line, size: usize, limit: Duration) -> Result<Outcome> {
    let mut pairs = pairs(descriptors);
    line.ready()?;
    sending(size, limit, |message| {
        for (_, to) in &mut pairs {
            to.write_all(message)?;
        }
        Ok(())
    })
}

/// Reads as much as there is, until the last message.
pub fn receive(descriptors: Vec<OwnedFd>, line: &Line, size: usize) -> Result<Outcome> {
    let (mut from, _to) = only_pair(descriptors)?;
    line.ready()?;
    let mut receiving = Receiving::new()?;
    let mut buffer = vec![0; READ.max(4 * size)];
    let mut filled = 0;
    loop {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => anyhow::bail!("the sender is gone before its last message"),
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        }
        receiving.begin();
        let whole = filled / size * size;
        for message in buffer[..whole].chunks_exact(size) {
            receiving.take(message)?;
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
        if let Some(outcome) = receiving.outcome()? {
            return Ok(outcome);
        }
    }
}
