//! What keeper and supervisor say to each other: one record of the socket pair is one message.
//!
//! A record is a header of 16 bytes `{type: u16, flags: u16, length: u32, sequence: u64}`, little-endian, and a body of
//! `length` bytes. Written by hand and frozen: keeper and supervisor may come from different releases. A later release
//! adds types, or fields at the end of a body; what is not known here is skipped. Neither side waits for the other
//! inside a message, and no message carries text of a user.
//!
//! | from the supervisor | from the keeper |
//! |---|---|
//! | `STORE name` (+1 descriptor), `DROP name`, `ACK sequence`, `ALIVE`, `READY`, `GOODBYE code` | `HELLO`, `FDS names` (+ descriptors), `EXIT`, `END`, `STOP`, `REFUSED name` |

use std::time::Duration;

use herdwire_ipc::seqpacket::MAX_DESCRIPTORS;

use super::name::NAME_BYTES;

/// Version of this protocol, as `HELLO` tells it.
pub const PROTOCOL_VERSION: u16 = 1;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 16;

/// The most bytes that a record of this protocol takes: a full `FDS`.
pub const RECORD_BYTES: usize = HEADER_BYTES + MAX_DESCRIPTORS * NAME_BYTES;

/// A name as it travels. The keeper keeps names that it cannot read: a later supervisor can.
pub type RawName = [u8; NAME_BYTES];

mod kind {
    pub const STORE: u16 = 1;
    pub const DROP: u16 = 2;
    pub const ACK: u16 = 3;
    pub const ALIVE: u16 = 4;
    pub const READY: u16 = 5;
    pub const GOODBYE: u16 = 6;
    pub const HELLO: u16 = 32;
    pub const FDS: u16 = 33;
    pub const EXIT: u16 = 34;
    pub const END: u16 = 35;
    pub const STOP: u16 = 36;
    pub const REFUSED: u16 = 37;
}

/// What a supervisor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToKeeper {
    /// Hold the descriptor that comes with this, under this name; one of the same name is replaced.
    Store(RawName),
    /// Close the descriptor of this name.
    Drop(RawName),
    /// Every exit up to and including this one is committed and need not be told again.
    Acknowledge(u64),
    /// I am not hanging.
    Alive,
    /// I have adopted everything and answer requests.
    Ready,
    /// I have ended everything and end now; the keeper is to exit with this code.
    Goodbye(i32),
}

impl ToKeeper {
    /// The message as a record.
    pub fn to_record(self) -> Record {
        match self {
            ToKeeper::Store(name) => Record::new(kind::STORE, 0).with(&name),
            ToKeeper::Drop(name) => Record::new(kind::DROP, 0).with(&name),
            ToKeeper::Acknowledge(sequence) => Record::new(kind::ACK, sequence),
            ToKeeper::Alive => Record::new(kind::ALIVE, 0),
            ToKeeper::Ready => Record::new(kind::READY, 0),
            ToKeeper::Goodbye(code) => Record::new(kind::GOODBYE, 0).with(&code.to_le_bytes()),
        }
    }

    /// Reads a record; `None` for what is not one of these or is too short.
    pub fn parse(record: &[u8]) -> Option<ToKeeper> {
        let (kind, sequence, mut body) = split(record)?;
        Some(match kind {
            kind::STORE => ToKeeper::Store(body.take()?),
            kind::DROP => ToKeeper::Drop(body.take()?),
            kind::ACK => ToKeeper::Acknowledge(sequence),
            kind::ALIVE => ToKeeper::Alive,
            kind::READY => ToKeeper::Ready,
            kind::GOODBYE => ToKeeper::Goodbye(i32::from_le_bytes(body.take()?)),
            _ => return None,
        })
    }
}

/// What a keeper says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromKeeper<'a> {
    /// The first message: who speaks and why this supervisor was started.
    Hello(Hello),
    /// Names of the descriptors that come with this, in their order.
    Descriptors(&'a [RawName]),
    /// A child of the keeper ended.
    Exit(Exit),
    /// That was all that there was; from now on news.
    End,
    /// End all instances, say goodbye, end.
    Stop,
    /// The store is full: the descriptor of this name is not in it.
    Refused(RawName),
}

impl<'a> FromKeeper<'a> {
    /// The message as a record.
    pub fn to_record(&self) -> Record {
        match self {
            FromKeeper::Hello(hello) => hello.to_record(),
            FromKeeper::Descriptors(names) => Record::new(kind::FDS, 0).with(names.as_flattened()),
            FromKeeper::Exit(exit) => exit.to_record(),
            FromKeeper::End => Record::new(kind::END, 0),
            FromKeeper::Stop => Record::new(kind::STOP, 0),
            FromKeeper::Refused(name) => Record::new(kind::REFUSED, 0).with(name),
        }
    }

    /// Reads a record; `None` for what is not one of these or is too short.
    pub fn parse(record: &'a [u8]) -> Option<FromKeeper<'a>> {
        let (kind, sequence, mut body) = split(record)?;
        Some(match kind {
            kind::HELLO => FromKeeper::Hello(Hello::parse(body)?),
            kind::FDS => FromKeeper::Descriptors(body.0.as_chunks().0),
            kind::EXIT => FromKeeper::Exit(Exit::parse(sequence, body)?),
            kind::END => FromKeeper::End,
            kind::STOP => FromKeeper::Stop,
            kind::REFUSED => FromKeeper::Refused(body.take()?),
            _ => return None,
        })
    }
}

/// Why a supervisor was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is the first of this keeper.
    First,
    /// The one before it died.
    Crash,
    /// The one before it did not say that it was alive and was killed.
    Hang,
}

/// The keeper's first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    pub protocol: u16,
    pub reason: Reason,
    pub foreground: bool,
    /// Counts the supervisors of this keeper, from 1.
    pub epoch: u64,
    pub keeper_pid: u32,
    /// The most descriptors that the store takes.
    pub store_limit: u32,
    /// The soft limit of open descriptors that the keeper was started with; its own is raised, an instance's must not be.
    pub descriptor_limit: u64,
}

impl Hello {
    fn to_record(self) -> Record {
        let reason = match self.reason {
            Reason::First => 0,
            Reason::Crash => 1,
            Reason::Hang => 2,
        };
        Record::new(kind::HELLO, 0)
            .with(&self.protocol.to_le_bytes())
            .with(&[reason, u8::from(self.foreground)])
            .with(&self.keeper_pid.to_le_bytes())
            .with(&self.epoch.to_le_bytes())
            .with(&self.descriptor_limit.to_le_bytes())
            .with(&self.store_limit.to_le_bytes())
    }

    fn parse(mut body: Body<'_>) -> Option<Hello> {
        let protocol = u16::from_le_bytes(body.take()?);
        let [reason, foreground] = body.take()?;
        Some(Hello {
            protocol,
            // A reason of a later keeper is still some kind of crash to us: there is something to adopt.
            reason: match reason {
                0 => Reason::First,
                2 => Reason::Hang,
                _ => Reason::Crash,
            },
            foreground: foreground != 0,
            keeper_pid: u32::from_le_bytes(body.take()?),
            epoch: u64::from_le_bytes(body.take()?),
            descriptor_limit: u64::from_le_bytes(body.take()?),
            store_limit: u32::from_le_bytes(body.take()?),
        })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// The end of one child of the keeper: an instance, or what an instance left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Counts the exits of this keeper, from 1, without gaps. The same exit has the same number however often it is told.
    pub sequence: u64,
    pub pid: u32,
    /// Inode of the process's pidfd, which no other process of this boot has; 0 where the kernel has none (before 6.9).
    pub pidfd_inode: u64,
    pub status: ExitStatus,
    /// Time that it, and those of its children that it waited for, computed.
    pub user_time: Duration,
    /// Time that the kernel computed for them.
    pub system_time: Duration,
}

impl Exit {
    fn to_record(self) -> Record {
        let (how, value) = match self.status {
            ExitStatus::Code(code) => (0_u32, code),
            ExitStatus::Signal(signal) => (1, signal),
        };
        Record::new(kind::EXIT, self.sequence)
            .with(&self.pid.to_le_bytes())
            .with(&how.to_le_bytes())
            .with(&value.to_le_bytes())
            .with(&self.pidfd_inode.to_le_bytes())
            .with(&microseconds(self.user_time).to_le_bytes())
            .with(&microseconds(self.system_time).to_le_bytes())
    }

    fn parse(sequence: u64, mut body: Body<'_>) -> Option<Exit> {
        let pid = u32::from_le_bytes(body.take()?);
        let how = u32::from_le_bytes(body.take()?);
        let value = i32::from_le_bytes(body.take()?);
        Some(Exit {
            sequence,
            pid,
            status: if how == 0 { ExitStatus::Code(value) } else { ExitStatus::Signal(value) },
            pidfd_inode: u64::from_le_bytes(body.take()?),
            user_time: Duration::from_micros(u64::from_le_bytes(body.take()?)),
            system_time: Duration::from_micros(u64::from_le_bytes(body.take()?)),
        })
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// One message as bytes, in a buffer of fixed size.
pub struct Record {
    bytes: [u8; RECORD_BYTES],
    length: usize,
}

impl Record {
    fn new(kind: u16, sequence: u64) -> Record {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0..2].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        Record { bytes, length: HEADER_BYTES }
    }

    /// Appends to the body. No body of this protocol is larger than [`MAX_DESCRIPTORS`] names.
    fn with(mut self, body: &[u8]) -> Record {
        let end = self.length + body.len();
        self.bytes[self.length..end].copy_from_slice(body);
        self.length = end;
        self.bytes[4..8].copy_from_slice(&((end - HEADER_BYTES) as u32).to_le_bytes());
        self
    }

    /// Header and body.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What is left to read of a body.
#[derive(Clone, Copy)]
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
}

/// Type, sequence and body of a record whose length says what it is.
fn split(record: &[u8]) -> Option<(u16, u64, Body<'_>)> {
    let mut header = Body(record);
    let kind = u16::from_le_bytes(header.take()?);
    let _flags: [u8; 2] = header.take()?;
    let length = u32::from_le_bytes(header.take()?) as usize;
    let sequence = u64::from_le_bytes(header.take()?);
    Some((kind, sequence, Body(header.0.get(..length)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit() -> Exit {
        Exit {
            sequence: 70_000_000_000,
            pid: 4_000_000,
            pidfd_inode: u64::MAX - 1,
            status: ExitStatus::Signal(9),
            user_time: Duration::from_micros(17),
            system_time: Duration::from_secs(3),
        }
    }

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            reason: Reason::Hang,
            foreground: true,
            epoch: 1 << 40,
            keeper_pid: 77,
            store_limit: 14_745,
            descriptor_limit: 1024,
        }
    }

    #[test]
    fn every_message_of_a_supervisor_comes_back() {
        let messages = [
            ToKeeper::Store([1; 16]),
            ToKeeper::Drop([2; 16]),
            ToKeeper::Acknowledge(u64::MAX),
            ToKeeper::Alive,
            ToKeeper::Ready,
            ToKeeper::Goodbye(-3),
        ];
        for message in messages {
            assert_eq!(ToKeeper::parse(message.to_record().as_bytes()), Some(message));
        }
    }

    #[test]
    fn every_message_of_a_keeper_comes_back() {
        let names = [[7; 16]; MAX_DESCRIPTORS];
        let messages = [
            FromKeeper::Hello(hello()),
            FromKeeper::Descriptors(&names),
            FromKeeper::Descriptors(&[]),
            FromKeeper::Exit(exit()),
            FromKeeper::Exit(Exit { status: ExitStatus::Code(-1), ..exit() }),
            FromKeeper::End,
            FromKeeper::Stop,
            FromKeeper::Refused([3; 16]),
        ];
        for message in messages {
            assert_eq!(FromKeeper::parse(message.to_record().as_bytes()), Some(message));
        }
    }

    #[test]
    fn a_record_that_is_cut_short_is_no_message() {
        for whole in [FromKeeper::Hello(hello()).to_record(), FromKeeper::Exit(exit()).to_record()] {
            for length in 0..whole.as_bytes().len() {
                assert_eq!(FromKeeper::parse(&whole.as_bytes()[..length]), None);
            }
        }
    }

    #[test]
    fn an_unknown_type_is_skipped_and_longer_bodies_are_read() {
        assert_eq!(ToKeeper::parse(Record::new(999, 1).with(b"later").as_bytes()), None);
        let longer = exit().to_record().with(b"a field of a later release");
        assert_eq!(FromKeeper::parse(longer.as_bytes()), Some(FromKeeper::Exit(exit())));
    }
}
