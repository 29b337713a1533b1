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
//! | `UPGRADE` (+ program, + stderr), `QUIESCED`, `VALID`, `RENEW` (+ program) | `QUIESCE`, `TAKE`, `UPGRADED`, `UPGRADE-FAILED stage how value` |
//!
//! # Upgrade
//!
//! ```text
//! incumbent              keeper                        standby
//! UPGRADE ------------->  starts it ------------------> (reason "upgrade") HELLO, FDS, EXIT, END
//!                                   <------------------ VALID, or exit code 78 with a reason on stderr
//!   <------------ QUIESCE
//! (freezes, commits)
//! QUIESCED ------------->  TAKE, FDS, EXIT, END ------> (drops its first copies, adopts these)
//!                                   <------------------ READY, within 2 s of TAKE
//!   <------------ UPGRADED
//! (answers, exits; killed after 1 s)
//! ```
//!
//! Whatever goes wrong before READY ends the standby and tells the incumbent `UPGRADE-FAILED`. One that was not frozen yet
//! goes on; one that was answers whoever asked and exits, and the keeper starts its program again, as after a crash: the
//! standby may have acted meanwhile.

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
    pub const UPGRADE: u16 = 7;
    pub const QUIESCED: u16 = 8;
    pub const VALID: u16 = 9;
    pub const RENEW: u16 = 10;
    pub const HELLO: u16 = 32;
    pub const FDS: u16 = 33;
    pub const EXIT: u16 = 34;
    pub const END: u16 = 35;
    pub const STOP: u16 = 36;
    pub const REFUSED: u16 = 37;
    pub const QUIESCE: u16 = 38;
    pub const TAKE: u16 = 39;
    pub const UPGRADED: u16 = 40;
    pub const UPGRADE_FAILED: u16 = 41;
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
    /// Try the program that comes with this as my successor. A second descriptor becomes its stderr until it is ready.
    Upgrade,
    /// I have committed everything, touch nothing any more, and wait for the outcome.
    Quiesced,
    /// I can read the state, and am ready to take over.
    Valid,
    /// Replace yourself by the program that comes with this, in place.
    Renew,
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
            ToKeeper::Upgrade => Record::new(kind::UPGRADE, 0),
            ToKeeper::Quiesced => Record::new(kind::QUIESCED, 0),
            ToKeeper::Valid => Record::new(kind::VALID, 0),
            ToKeeper::Renew => Record::new(kind::RENEW, 0),
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
            kind::UPGRADE => ToKeeper::Upgrade,
            kind::QUIESCED => ToKeeper::Quiesced,
            kind::VALID => ToKeeper::Valid,
            kind::RENEW => ToKeeper::Renew,
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
    /// To the incumbent: freeze, commit, say `QUIESCED`.
    Quiesce,
    /// To the standby: forget the descriptors and exits that you have; all of them come again, then `END`. Then you serve.
    Take,
    /// To the incumbent: your successor is ready; end.
    Upgraded,
    /// To the incumbent: it came to nothing.
    UpgradeFailed(UpgradeFailure),
}

/// How far an upgrade came, and how the standby ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradeFailure {
    pub stage: UpgradeStage,
    /// How it ended; `None` when it had to be killed because it did not answer in time.
    pub status: Option<ExitStatus>,
}

/// The stages of an upgrade. A stage of a later keeper reads as the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum UpgradeStage {
    /// The program could not be started.
    Start = 0,
    /// It did not get as far as saying that it can read the state.
    Validation = 1,
    /// The incumbent did not freeze in time.
    Freeze = 2,
    /// It was told to take over and did not get ready.
    Takeover = 3,
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
            FromKeeper::Quiesce => Record::new(kind::QUIESCE, 0),
            FromKeeper::Take => Record::new(kind::TAKE, 0),
            FromKeeper::Upgraded => Record::new(kind::UPGRADED, 0),
            FromKeeper::UpgradeFailed(failure) => failure.to_record(),
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
            kind::QUIESCE => FromKeeper::Quiesce,
            kind::TAKE => FromKeeper::Take,
            kind::UPGRADED => FromKeeper::Upgraded,
            kind::UPGRADE_FAILED => FromKeeper::UpgradeFailed(UpgradeFailure::parse(body)?),
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
    /// It is a standby: it is to look, say whether it could take over, and touch nothing until it is told to take.
    Upgrade,
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
            Reason::Upgrade => 3,
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
                3 => Reason::Upgrade,
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

impl UpgradeFailure {
    fn to_record(self) -> Record {
        let (how, value) = match self.status {
            None => (0_u32, 0),
            Some(ExitStatus::Code(code)) => (1, code),
            Some(ExitStatus::Signal(signal)) => (2, signal),
        };
        Record::new(kind::UPGRADE_FAILED, 0)
            .with(&u32::from(self.stage as u8).to_le_bytes())
            .with(&how.to_le_bytes())
            .with(&value.to_le_bytes())
    }

    fn parse(mut body: Body<'_>) -> Option<UpgradeFailure> {
        let stage = match u32::from_le_bytes(body.take()?) {
            0 => UpgradeStage::Start,
            1 => UpgradeStage::Validation,
            2 => UpgradeStage::Freeze,
            _ => UpgradeStage::Takeover,
        };
        let how = u32::from_le_bytes(body.take()?);
        let value = i32::from_le_bytes(body.take()?);
        let status = match how {
            1 => Some(ExitStatus::Code(value)),
            2 => Some(ExitStatus::Signal(value)),
            _ => None,
        };
        Some(UpgradeFailure { stage, status })
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
            ToKeeper::Upgrade,
            ToKeeper::Quiesced,
            ToKeeper::Valid,
            ToKeeper::Renew,
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
            FromKeeper::Quiesce,
            FromKeeper::Take,
            FromKeeper::Upgraded,
            FromKeeper::UpgradeFailed(UpgradeFailure { stage: UpgradeStage::Validation, status: None }),
            FromKeeper::UpgradeFailed(UpgradeFailure {
                stage: UpgradeStage::Takeover,
                status: Some(ExitStatus::Code(78)),
            }),
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
