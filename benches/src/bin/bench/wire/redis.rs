//! Redis pub/sub as a peer: a server of our own on a Unix socket, and the leanest client that its protocol allows.
//!
//! The client knows beforehand how long every message is and parses nothing else, and the sender pipelines, so that
//! what is measured is the server's pace and not a client library's.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::ends::{LAST, Outcome, Receiving, first_word, latency, sending};
use crate::end::{LEASHED, Line};

/// Publishes that are written at once.
const PIPELINE: usize = 64;
/// Answers that may be outstanding before the sender waits for them.
const WINDOW: usize = 16 * PIPELINE;
const START_LIMIT: Duration = Duration::from_secs(10);
const READ: usize = 64 * 1024;

/// A redis-server of our own, ended when dropped.
pub struct Server {
    process: Child,
    folder: PathBuf,
    socket: PathBuf,
}

impl Server {
    /// Starts one; `None` when none is installed.
    pub fn start() -> Result<Option<Server>> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            return Ok(None);
        }
        let folder = std::env::temp_dir().join(format!("herdwire-bench-redis-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        let socket = folder.join("redis.sock");
        let process = Command::new(std::env::current_exe()?)
            .args([LEASHED, "redis-server", "--port", "0", "--unixsocket"])
            .arg(&socket)
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"])
            .arg(&folder)
            // A subscriber that is behind must not be thrown out: every message counts here.
            .args(["--client-output-buffer-limit", "pubsub 0 0 0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let server = Server { process, folder, socket };
        let until = Instant::now() + START_LIMIT;
        while UnixStream::connect(&server.socket).is_err() {
            if Instant::now() >= until {
                bail!("redis-server did not come up within {} s", START_LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(server))
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; the folder is a temporary one in any case.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn publish(channel: &str, message: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(format!("*3\r\n$7\r\nPUBLISH\r\n$4\r\n{channel}\r\n${}\r\n", message.len()).as_bytes());
    into.extend_from_slice(message);
    into.extend_from_slice(b"\r\n");
}

/// Bytes in front of a message's payload, as a subscriber gets it.
fn head_of(size: usize) -> usize {
    format!("*3\r\n$7\r\nmessage\r\n$4\r\nping\r\n${size}\r\n").len()
}

/// A connection that publishes, and drops the answers.
struct Publishing {
    connection: UnixStream,
    outgoing: Vec<u8>,
    queued: usize,
    outstanding: usize,
}

impl Publishing {
    fn connect(socket: &Path) -> Result<Publishing> {
        Ok(Publishing { connection: UnixStream::connect(socket)?, outgoing: Vec::new(), queued: 0, outstanding: 0 })
    }

    fn queue(&mut self, channel: &str, message: &[u8]) {
        publish(channel, message, &mut self.outgoing);
        self.queued += 1;
    }

    fn write(&mut self) -> Result<()> {
        self.connection.write_all(&self.outgoing)?;
        self.outgoing.clear();
        self.outstanding += std::mem::take(&mut self.queued);
        Ok(())
    }

    /// Reads answers until at most `left` are outstanding. Each is one line.
    fn settle(&mut self, left: usize) -> Result<()> {
        let mut buffer = [0; 8192];
        while self.outstanding > left {
            let read = self.connection.read(&mut buffer)?;
            if read == 0 || buffer.contains(&b'-') {
                bail!("Redis refused a message");
            }
            self.outstanding -= buffer[..read].iter().filter(|byte| **byte == b'\n').count().min(self.outstanding);
        }
        Ok(())
    }
}

/// A connection that is subscribed to one channel, whose messages all have the same size.
struct Subscription {
    connection: UnixStream,
    head: usize,
    size: usize,
    buffer: Vec<u8>,
    filled: usize,
}

impl Subscription {
    fn connect(socket: &Path, channel: &str, size: usize) -> Result<Subscription> {
        let mut connection = UnixStream::connect(socket)?;
        connection.write_all(format!("*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\n{channel}\r\n").as_bytes())?;
        let mut confirmed = format!("*3\r\n$9\r\nsubscribe\r\n$4\r\n{channel}\r\n:1\r\n").into_bytes();
        connection.read_exact(&mut confirmed)?;
        let buffer = vec![0; READ.max(4 * size)];
        Ok(Subscription { connection, head: head_of(size), size, buffer, filled: 0 })
    }

    /// Reads what there is, and hands over every whole message.
    fn read(&mut self, mut hand_over: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self.connection.read(&mut self.buffer[self.filled..]) {
            Ok(0) => bail!("Redis closed the connection"),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let whole = self.head + self.size + 2;
        let complete = self.filled / whole * whole;
        for message in self.buffer[..complete].chunks_exact(whole) {
            hand_over(&message[self.head..][..self.size])?;
        }
        self.buffer.copy_within(complete..self.filled, 0);
        self.filled -= complete;
        Ok(())
    }
}

/// Publishes a ping, waits for its pong.
pub fn call(socket: &Path, line: &Line, limit: Duration) -> Result<Outcome> {
    let mut publishing = Publishing::connect(socket)?;
    let mut pongs = Subscription::connect(socket, "pong", 64)?;
    line.ready()?;
    let mut message = [1; 64];
    let outcome = latency(limit, || {
        publishing.queue("ping", &message);
        publishing.write()?;
        let mut answered = false;
        while !answered {
            pongs.read(|_| {
                answered = true;
                Ok(())
            })?;
        }
        // Answers are read when many are there: the pong does not wait for them.
        publishing.settle(PIPELINE)
    })?;
    message[..8].copy_from_slice(&LAST.to_le_bytes());
    publishing.queue("ping", &message);
    publishing.write()?;
    publishing.settle(0)?;
    Ok(outcome)
}

/// Publishes a pong for every ping.
pub fn echo(socket: &Path, line: &Line) -> Result<Outcome> {
    let mut publishing = Publishing::connect(socket)?;
    let mut pings = Subscription::connect(socket, "ping", 64)?;
    line.ready()?;
    let mut last = false;
    while !last {
        pings.read(|message| {
            last = first_word(message) == LAST;
            publishing.queue("pong", message);
            Ok(())
        })?;
        publishing.write()?;
        publishing.settle(PIPELINE)?;
    }
    Ok(Outcome::Done)
}

/// Publishes as fast as it goes.
pub fn send(socket: &Path, line: &Line, size: usize, limit: Duration) -> Result<Outcome> {
    let mut publishing = Publishing::connect(socket)?;
    line.ready()?;
    let outcome = sending(size, limit, |message| {
        publishing.queue("ping", message);
        if publishing.queued >= PIPELINE {
            publishing.write()?;
            publishing.settle(WINDOW)?;
        }
        Ok(())
    })?;
    publishing.write()?;
    publishing.settle(0)?;
    Ok(outcome)
}

/// Takes everything until the last message.
pub fn receive(socket: &Path, line: &Line, size: usize) -> Result<Outcome> {
    let mut pings = Subscription::connect(socket, "ping", size)?;
    line.ready()?;
    let mut receiving = Receiving::new()?;
    loop {
        pings.read(|message| {
            receiving.begin();
            receiving.take(message)
        })?;
        if let Some(outcome) = receiving.outcome()? {
            return Ok(outcome);
        }
    }
}
